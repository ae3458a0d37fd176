"""How a document becomes requests: which pages go together, what is said before and after them, how long a reply is.

What is the same for every page comes first, in the system message, so that its tokens are computed once: Mistral's
format moves a lone image before its turn's text. One short line follows the pages. A document of up to 8 pages is one
request; a longer one is read in windows of 4 pages that share one, and fewer where the context is small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.documents.markdown import table_headings
from tessera.documents.page import Box, Page, PageError
from tessera.documents.presets import Preset
from tessera.documents.tiles import legible_side, needs_tiles, printed_box, share_of, small_type, tile_boxes
from tessera.errors import DocumentError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams

WHOLE, WINDOW, OVERLAP = 8, 4, 1  # pages
REPLY_TOKENS, REPLY_TOKENS_PER_PAGE = 512, 1536
TEMPERATURES = (0.1, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)  # of retries, as olmOCR raises them
CHARS_PER_TOKEN = 3  # of instructions, for estimates
CARRIED = "If a table goes on here from the pages before, without headings, its columns are: {columns}.\n"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a model can take: tokens in all, and how it cuts images. The defaults are Pixtral 12B's, in 32k tokens."""

    context_tokens: int = 32_768
    image_side: int = 1024  # pixels along the longer edge
    token_side: int = 16  # pixels of one token
    type_size: float | None = None  # pixels an em that small type gets, if the side allows; None: pages get all of it
    instructions: bool = True  # a small model that was trained on questions alone reads worse after a system message
    rotation: bool = True  # it can tell which way a page is up; a small model was not taught it

    def limited(self, side: int | None) -> Budget:
        """Return the budget with images of at most `side` pixels, if that is less."""
        return self if side is None else replace(self, image_side=min(self.image_side, side))

    def facts(self) -> dict[str, Any]:
        """What is told of it beside a model's results."""
        told = "before the pages" if self.instructions else "left out: the model is small"
        return {"image_side": self.image_side, "context_tokens": self.context_tokens, "instructions": told}

    def image_tokens(self, width: float, height: float, stored: int | None = None) -> int:
        """Estimate the tokens of an image of this shape; `stored` pixels along its longer edge are not enlarged."""
        scale = min(self.image_side, stored or self.image_side) / max(width, height, 1)
        columns, rows = (max(1, math.ceil(edge * scale / self.token_side)) for edge in (width, height))
        return rows * (columns + 1)


@dataclass(frozen=True)
class Unit:
    """The pages that make one record: where they are, and in which windows they are asked about."""

    id: str
    document: str
    keys: tuple[tuple[str, int], ...]  # (document, number)
    windows: tuple[tuple[int, ...], ...]  # positions in `keys`
    headings: tuple[tuple[str, ...], ...] = ()  # of each window: the columns of the table before it, if they are known
    tokens: int = 0
    blank: tuple[tuple[str, int], ...] = ()
    errors: tuple[PageError, ...] = ()

    @property
    def pages(self) -> tuple[int, ...]:
        return tuple(number for _, number in self.keys)


def units(
    pages: Iterable[Page | PageError], preset: Preset, budget: Budget, tiles: str | None = None
) -> Iterator[Unit]:
    """Group pages into units: a document each, or as many images as the preset compares."""
    group: list[_Seen | PageError] = []
    for page in pages:
        is_full = len(group) == preset.images if preset.images > 1 else group and group[-1].document != page.document
        if is_full:
            yield _unit(group, preset, budget, tiles)
            group = []
        group.append(page if isinstance(page, PageError) else _looked_at(page, preset, budget, tiles))
    if group:
        yield _unit(group, preset, budget, tiles)


class _Seen:
    """What planning keeps of a page: not its words or image."""

    def __init__(self, page: Page, preset: Preset, budget: Budget, tiles: str | None) -> None:
        self.document, self.number, self.digest, self.blank = page.document, page.number, page.digest, page.blank
        self.tokens = 0 if page.blank else page_tokens(page, tiles or preset.tiles, budget)
        self.headings = table_headings(page) if preset.schema.lists and budget.instructions else ()


def _looked_at(page: Page, preset: Preset, budget: Budget, tiles: str | None) -> _Seen | PageError:
    try:
        return _Seen(page, preset, budget, tiles)
    except DocumentError as error:  # to see how large its type is, it had to be rendered
        return PageError(page.document, page.number, str(error.code), str(error), page.digest)


def _unit(group: Sequence[Any], preset: Preset, budget: Budget, tiles: str | None) -> Unit:
    errors = tuple(each for each in group if isinstance(each, PageError))
    seen = [each for each in group if isinstance(each, _Seen)]
    shown = [each for each in seen if not each.blank]
    names = list(dict.fromkeys(each.document for each in group))
    digests = list(dict.fromkeys(each.digest or "" for each in group))
    document = " + ".join(names)
    divided = windows([each.tokens for each in shown], preset, budget)
    identity = "+".join(
        f"{digest[:16]}:{name}" for digest, name in zip(digests + [""] * len(names), names, strict=False)
    )
    if preset.images > 1:
        identity += "@" + ",".join(str(each.number) for each in group)  # a document's pages may be several pairs
        divided = (tuple(range(len(shown))),) if len(shown) == preset.images else ()  # never one without the other
        errors = (*errors, *_missing(group, preset, document))
    return Unit(
        id=identity,
        document=document,
        keys=tuple((each.document, each.number) for each in shown),
        windows=divided,
        headings=tuple(_headings_before(shown, window[0]) for window in divided),
        tokens=sum(each.tokens for each in shown),
        blank=tuple((each.document, each.number) for each in seen if each.blank),
        errors=errors,
    )


def _missing(group: Sequence[Any], preset: Preset, document: str) -> Iterator[PageError]:
    """Why images cannot be compared, where they opened."""
    words = f"the preset {preset.name} compares {preset.images} images"
    if (missing := preset.images - len(group)) > 0:
        yield PageError(
            document, None, "image_missing", f"{words}, and {missing} is missing after {group[-1].document}."
        )
    for each in group:
        if isinstance(each, _Seen) and each.blank:
            yield PageError(document, None, "blank", f"{words}, and page {each.number} of {each.document} is blank.")


def _headings_before(shown: Sequence[_Seen], first: int) -> tuple[str, ...]:
    """The columns of the last table that has headings before a window."""
    return next((page.headings for page in reversed(shown[:first]) if page.headings), ())


def windows(tokens: Sequence[int], preset: Preset, budget: Budget) -> tuple[tuple[int, ...], ...]:
    """Divide pages of so many tokens into windows that fit the context, each as positions."""
    if not tokens:
        return ()
    room = budget.context_tokens - len(instructions(preset)) // CHARS_PER_TOKEN - REPLY_TOKENS
    fits = max(1, room // (max(tokens) + REPLY_TOKENS_PER_PAGE // 2))
    count = len(tokens)
    if preset.windows is None and count <= min(WHOLE, fits):
        return (tuple(range(count)),)
    size = min(preset.windows or WINDOW, fits)
    step = size - OVERLAP if size > 2 and preset.windows is None else size
    starts = range(0, max(1, count - (size - step)), step)
    return tuple(tuple(range(start, min(start + size, count))) for start in starts)


def page_tokens(page: Page, tiles: str, budget: Budget) -> int:
    """Estimate a page's tokens, those of its tiles included."""
    return sum(_view_tokens(page, box, side, budget) for box, side in views(page, tiles, budget))


def _view_tokens(page: Page, box: Box | None, side: int, budget: Budget) -> int:
    width, height = page.size
    across, down = (box.right - box.left, box.bottom - box.top) if box else (1.0, 1.0)
    stored = side if page.pixels is None else min(side, round(page.pixels * share_of(page, box)))
    return budget.image_tokens(width * across, height * down, stored)


def page_side(page: Page, budget: Budget) -> int:
    """Return the pixels that the longer edge of a page has in what the model is shown of it."""
    part, side = views(page, "off", budget)[0]
    return round(side / share_of(page, part))


def views(page: Page, tiles: str, budget: Budget, turn: int = 0) -> list[tuple[Box | None, int]]:
    """Return the parts of a page that are shown, and the side of each: the whole page (None), then its tiles.

    With a wanted size of type, the whole page is no more than what is printed on it. All fits the context.
    """
    most, size = budget.image_side, budget.type_size
    parts: list[Box | None] = [None if size is None else printed_box(page, most)]
    if tiles == "2x2" or (tiles == "auto" and needs_tiles(page, most)):
        parts += tile_boxes(page)
    if size is None:
        return _fitted(page, [(part, most) for part in parts], budget)
    height = small_type(page, most, turn)
    return _fitted(page, [(part, legible_side(height, most, size, share_of(page, part))) for part in parts], budget)


def _fitted(page: Page, shown: list[tuple[Box | None, int]], budget: Budget) -> list[tuple[Box | None, int]]:
    """Give the whole page what it needs of the context, and its tiles the rest; none if they would be no finer."""
    room = max(budget.context_tokens - REPLY_TOKENS - REPLY_TOKENS_PER_PAGE, budget.context_tokens // 2)
    whole, *tiles = [_view_tokens(page, box, side, budget) for box, side in shown]
    if whole + sum(tiles) <= room:
        return shown

    def smaller(box: Box | None, side: int, tokens: int, most: float) -> tuple[Box | None, int]:
        while tokens > most and side > budget.token_side:
            side = max(int(side * min(math.sqrt(most / tokens), 0.99)), 1)
            tokens = _view_tokens(page, box, side, budget)
        return box, side

    first = smaller(*shown[0], whole, room)
    left = max(room - whole, 1) / max(sum(tiles), 1)
    parts = [smaller(*view, tokens, left * tokens) for view, tokens in zip(shown[1:], tiles, strict=True)]
    is_finer = all(side / share_of(page, box) > first[1] / share_of(page, first[0]) for box, side in parts)
    return [first, *parts] if is_finer else [first]


def instructions(preset: Preset) -> str:
    """The system message: what to do, and the schema with its descriptions."""
    if preset.schema.plain:
        return preset.system.strip()
    given = json.dumps(preset.schema.given, ensure_ascii=False, separators=(",", ":"))
    return f"{preset.system.strip()}\nThe reply follows this JSON schema:\n{given}"


@dataclass(frozen=True)
class Asked:
    """A window as it is asked about: its pages, the messages, and the places on the pages that the images show.

    `turns` are the degrees clockwise by which each image was turned.
    """

    pages: tuple[Page, ...]
    messages: tuple[Message, ...]
    regions: tuple[Box, ...]
    turns: tuple[int, ...]

    @property
    def turned(self) -> dict[int, int]:
        """The turns by the pages' numbers."""
        return {region.page: turn for region, turn in zip(self.regions, self.turns, strict=True)}


def asked(
    pages: Sequence[Page], preset: Preset, budget: Budget, *, tiles: str | None = None, turns: Sequence[int] = (),
    headings: Sequence[str] = (),
) -> Asked:  # fmt: skip
    """Show a window: instructions, each page and then its tiles, and the closing line.

    `turns` are degrees clockwise by which the pages are turned further. `headings` are the columns of a table that
    may go on from the pages before. They come after the images, so that all windows of a run share the beginning.
    """
    images: list[Image] = []
    shown: list[tuple[Box, int]] = []
    for page, turn in zip(pages, turns or [0] * len(pages), strict=True):
        for part, side in views(page, tiles or preset.tiles, budget, turn):
            images.append(Image(page.image(side, crop=part, rotation=turn)))
            shown.append((part or Box(page.number, 0.0, 0.0, 1.0, 1.0), turn))
    told = CARRIED.format(columns=" | ".join(headings)) if headings else ""
    question = Message("user", (*images, told + preset.question))
    messages = [Message("system", (instructions(preset),)), question] if budget.instructions else [question]
    return Asked(tuple(pages), tuple(messages), tuple(part for part, _ in shown), tuple(turn for _, turn in shown))


def sampling(preset: Preset, num_pages: int, *, reading: int = 0, attempt: int = 0) -> SamplingParams:
    """How a window's reply is drawn: the first reading as the preset says, retries at rising temperatures."""
    grammar = None if preset.schema.plain else Grammar("json_schema", json.dumps(preset.schema.wire), compact=True)
    temperature = preset.temperature if reading or preset.readings == 1 else 0.0
    if attempt:
        temperature = max(temperature, TEMPERATURES[min(attempt, len(TEMPERATURES)) - 1])
    return SamplingParams(
        temperature=temperature,
        max_tokens=REPLY_TOKENS + REPLY_TOKENS_PER_PAGE * num_pages,
        logprobs=0,
        grammar=grammar,
        seed=None if temperature == 0 else 1000 * reading + attempt,
    )
