"""Training batches from pages: tokens, patches, and the characters printed in each patch.

All questions of a page follow its pictures in one sequence, so the pictures are computed once. Each
question sees the pictures and itself, and its positions continue from the pictures': to the model every
question is the only one. Pages are drawn by worker processes from their seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessera.images import prepare
from tessera.messages import Image, Message
from tessera.model.config import ModelConfig
from tessera.model.vision import pixels_to_patches
from tessera.nano.pictures.mix import Course, draw_page
from tessera.nano.pictures.page import MARK, Glyph, Page, Question, Written
from tessera.prompt import Tokenizer

CHARACTERS_PER_PATCH = 6  # in 9 px type up to three narrow letters stand side by side, in one line or two
PRINTABLE = "".join(chr(code) for code in range(33, 127)) + "£€"
NOTHING = len(PRINTABLE)  # the class that ends the list of a patch's characters
CHARACTER_CLASSES = NOTHING + 1
IGNORED = -100
SHARED = 0  # the segment of a page's pictures, seen by all questions
RUN_TOKENS = 512  # of questions attended at once: more would mostly compute masked products


@dataclass(frozen=True)
class Example:
    """One page as tensors; token t of `ids` is predicted from the token before it in its segment."""

    patches_PX: Tensor  # bfloat16, of all pictures
    grids: list[tuple[int, int]]
    ids: Tensor  # (T,) int64: the pictures, then each question with its answer and end token
    positions: Tensor  # (T,) int64
    segments: Tensor  # (T,) int64: SHARED, or the number of the question, from 1
    weights: Tensor  # (T,) float32: of the loss of this token's successor; 0 where none is taught
    characters: Tensor  # (P, CHARACTERS_PER_PATCH) int64 classes, IGNORED after the first NOTHING
    sources: Tensor  # (T,) int64: the image token that shows token t, at a question's end its clue; -1 for none

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def asked(self) -> bool:
        return bool((self.weights > 0).any())


def example_of(page: Page, tokenizer: Tokenizer, config: ModelConfig) -> Example:
    """Tokenize a page exactly as the engine would, and attach its dense targets."""
    pictures = [prepare(picture, config.vision_encoder) for picture in page.pictures]
    asked = page.questions or (Question(Written("", ()), Written("", ()), "dense"),)
    contents = [Image(picture) for picture in page.pictures]
    system = [Message("system", (page.system,))] if page.system else []
    turn = Message("user", (*contents, asked[0].question.text or "?"))
    prompt = tokenizer.encode_chat([*system, turn], pictures)
    first = tokenizer.encode_text(asked[0].question.text or "?", bos=False)
    closing = 1  # the end of the instruction, which follows the question
    shared = len(prompt.ids) - closing - len(first)
    ids, segments, positions = list(prompt.ids[:shared]), [SHARED] * shared, list(range(shared))
    weights, sources = [0.0] * shared, [-1] * shared
    places = _Places(page, [picture.grid for picture in pictures], [span.start for span in prompt.images])
    for number, question in enumerate(page.questions, 1):
        asks, answers = (tokenizer.encode_text(w.text, bos=False) for w in (question.question, question.answer))
        tokens = [*asks, prompt.ids[-1], *answers, tokenizer.eos_id]
        ids += tokens
        segments += [number] * len(tokens)
        positions += range(shared, shared + len(tokens))
        taught = len(answers) + 1
        # Halfway between equal tokens and equal answers: otherwise long texts would drown the short ones.
        weights += [0.0] * len(asks) + [taught**-0.5] * taught + [0.0]
        clue = next((g for g in question.clue.glyphs if g is not None), None) if question.clue else None
        sources += [
            *places.of_bytes(question.question),
            places.token_of(clue) if clue is not None else -1,
            *places.of_bytes(question.answer),
            -1,
        ]
    size = config.vision_encoder.patch_size
    patches = [pixels_to_patches(picture.pixels_CHW, size) for picture in pictures]
    return Example(
        patches_PX=torch.cat([torch.zeros(0, 3 * size * size), *patches]).to(torch.bfloat16),
        grids=[picture.grid for picture in pictures],
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        segments=torch.tensor(segments),
        weights=torch.tensor(weights),
        characters=places.characters(),
        sources=torch.tensor(sources),
    )


class _Places:
    """The patch of each printed character on a page, and that patch's token."""

    def __init__(self, page: Page, grids: Sequence[tuple[int, int]], starts: Sequence[int]) -> None:
        self.glyphs = page.glyphs
        self.patches = sum(rows * columns for rows, columns in grids)
        self.patch_of_glyph: list[int] = []
        self.token_of_glyph: list[int] = []
        firsts = [sum(rows * columns for rows, columns in grids[:number]) for number in range(len(grids))]
        for glyph in page.glyphs:
            (rows, columns), (width, height) = grids[glyph.picture], page.pictures[glyph.picture].size
            row = min(max(int(glyph.y / height * rows), 0), rows - 1)
            column = min(max(int(glyph.x / width * columns), 0), columns - 1)
            self.patch_of_glyph.append(firsts[glyph.picture] + row * columns + column)
            # A break token ends each row of a picture's tokens.
            self.token_of_glyph.append(starts[glyph.picture] + row * (columns + 1) + column)

    def token_of(self, glyph: int) -> int:
        return self.token_of_glyph[glyph]

    def of_bytes(self, written: Written) -> list[int]:
        """Return the image token of each byte's character, on its first byte; -1 for characters not printed."""
        tokens: list[int] = []
        for character, glyph in zip(written.text, written.glyphs, strict=True):
            tokens.append(-1 if glyph is None else self.token_of_glyph[glyph])
            tokens += [-1] * (len(character.encode()) - 1)
        return tokens

    def characters(self) -> Tensor:
        """Return each patch's characters in reading order, ended by NOTHING if there is room."""
        lists: list[list[int]] = [[] for _ in range(self.patches)]
        for index, patch in enumerate(self.patch_of_glyph):
            if self.glyphs[index].char != MARK:
                lists[patch].append(index)
        targets = [
            [*(PRINTABLE.index(self.glyphs[i].char) for i in _in_reading_order(indices, self.glyphs)), NOTHING]
            for indices in lists
        ]
        padded = [(row + [IGNORED] * CHARACTERS_PER_PATCH)[:CHARACTERS_PER_PATCH] for row in targets]
        return torch.tensor(padded, dtype=torch.int64).view(-1, CHARACTERS_PER_PATCH)


def _in_reading_order(indices: list[int], glyphs: Sequence[Glyph]) -> list[int]:
    """Sort line by line (half a type size down begins a new one), and from left to right in each."""
    if len(indices) < 2:
        return indices
    lines: list[list[int]] = []
    for index in sorted(indices, key=lambda i: glyphs[i].y):
        if lines and glyphs[index].y - glyphs[lines[-1][0]].y < glyphs[index].size / 2:
            lines[-1].append(index)
        else:
            lines.append([index])
    return [index for line in lines for index in sorted(line, key=lambda i: glyphs[i].x)]


@dataclass(frozen=True)
class Run:
    """Consecutive questions of one page, as places in the batch's row of tokens."""

    shared: slice  # the page's shared tokens
    own: slice  # the questions' tokens


@dataclass(frozen=True)
class Batch:
    """Pages laid end to end without padding: P patches of all pictures, and T tokens, page after page."""

    grids: list[tuple[int, int]]
    patches_PX: Tensor
    characters: Tensor  # (P, CHARACTERS_PER_PATCH)
    ids: Tensor  # (T,)
    positions: Tensor  # (T,)
    weights: Tensor  # (T,)
    sources: Tensor  # (T,): place among its page's shared tokens
    answers: Tensor  # (T,) int64: the number of the question in the batch, -1 in the shared tokens
    shared: list[slice]  # each page's
    runs: list[Run]

    @property
    def pages(self) -> int:
        return len(self.shared)

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def join(examples: Sequence[Example]) -> Batch:
    """Several pages as one batch; none sees another."""
    together: dict[str, Any] = {
        name: torch.cat([getattr(example, name) for example in examples])
        for name in ("patches_PX", "characters", "ids", "positions", "weights", "sources")
    }
    shared, runs, answers, start, asked = [], [], [], 0, 0
    for example in examples:
        lengths = example.segments.bincount().tolist()
        shared.append(slice(start, start + lengths[SHARED]))
        runs += [Run(shared[-1], own) for own in _runs(lengths[1:], shared[-1].stop)]
        answers.append(torch.where(example.segments == SHARED, -1, example.segments - 1 + asked))
        start, asked = start + len(example), asked + len(lengths) - 1
    grids = [grid for example in examples for grid in example.grids]
    return Batch(grids=grids, answers=torch.cat(answers), shared=shared, runs=runs, **together)


def _runs(lengths: Sequence[int], start: int) -> Iterator[slice]:
    """Group questions of these lengths in runs of up to RUN_TOKENS, or of a single longer one."""
    end = start
    for length in lengths:
        if end > start and end + length - start > RUN_TOKENS:
            yield slice(start, end)
            start = end
        end += length
    if end > start:
        yield slice(start, end)


def batches_of(examples: Sequence[Example], tokens: int) -> list[Batch]:
    """Make batches of at most about `tokens` tokens; pages without questions, which need no decoder, get their own."""
    batches: list[list[Example]] = []
    for asked in (True, False):
        room = 0
        for example in examples:
            if example.asked is not asked:
                continue
            if room >= len(example):
                batches[-1].append(example)
            else:
                batches.append([example])
                room = tokens
            room -= len(example)
    return [join(batch) for batch in batches]


class Lessons(Dataset[Any]):
    """Examples by (course, seed); the same pair gives the same example in any process."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def __getitem__(self, lesson: tuple[Course, int]) -> Example:
        course, seed = lesson
        return example_of(page_of(course, seed), self.tokenizer, self.config)


def page_of(course: Course, seed: int) -> Page:
    """Draw the page of a seed; one that its renderer fails at is named and replaced, so that a long run goes on."""
    for source in (seed, f"{seed} again", f"{seed} and again"):
        try:
            return draw_page(course, Random(source))
        except Exception as error:
            print(f"page {source!r} could not be drawn: {type(error).__name__}: {str(error)[:200]}", flush=True)
            failure = error
    raise failure


class LessonOrder:
    """The lessons of each step from `start` on; makes a resumed run identical to an uninterrupted one."""

    def __init__(self, course: Course, steps: range, pages: int, first_seed: int, rank: int = 0, ranks: int = 1):
        self.course, self.steps, self.pages, self.first_seed = course, steps, pages, first_seed
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[list[tuple[Course, int]]]:
        for step in self.steps:
            first = self.first_seed + step * self.pages
            yield [(self.course, first + index) for index in range(self.rank, self.pages, self.ranks)]

    def __len__(self) -> int:
        return len(self.steps)


def lesson_batches(
    order: LessonOrder, tokenizer: Tokenizer, config: ModelConfig, tokens_per_pass: int, workers: int
) -> Iterable[list[Batch]]:
    """This rank's share of each step's batches, drawn ahead by worker processes."""
    return DataLoader(
        Lessons(tokenizer, config),
        batch_sampler=order,
        collate_fn=partial(batches_of, tokens=tokens_per_pass),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
