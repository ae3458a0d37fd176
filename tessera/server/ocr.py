"""The work of /v1/ocr: a document's pages as Markdown, each from its text layer or as the model reads it.

Knows neither HTTP nor where a document came from. A page that cannot be read is a page with an error; only a document
of which nothing can be read is refused. Places are told where the file tells them, and are null elsewhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from tessera.chat import ChatModel, Completion
from tessera.documents import plan
from tessera.documents.answers import unfenced
from tessera.documents.limits import PageLimits
from tessera.documents.markdown import TextBlock, has_good_text, text_blocks, text_to_markdown
from tessera.documents.page import Box, Page, PageError
from tessera.documents.pages import read_pages
from tessera.documents.plan import Budget
from tessera.documents.presets import Preset, named
from tessera.documents.repeats import problem_of
from tessera.errors import DocumentError, TesseraError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams
from tessera.server.ocr_annotation import annotated
from tessera.server.ocr_confidence import Granularity, confidence_scores
from tessera.server.ocr_fields import check, no_such_page, page_text, schema_of
from tessera.server.ocr_schemas import OcrRequest
from tessera.server.ocr_tables import as_html, tables_in

RETRIES = 2  # of a page whose reply loops or is cut
MARGIN = 64  # tokens of a page's prompt beside its images
FIGURE_SIDE = 1024  # pixels of a picture that is cut out
FIGURE_TOKENS = 1024
JPEG = 90


@dataclass
class PageReading:
    """A page and what is read from it; `reply` is there if the model read it."""

    page: Page
    markdown: str = ""
    blocks: list[TextBlock] | None = None
    reply: Completion | None = None
    error: TesseraError | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Given:
    """A document on the disk; `name` is only shown."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class OcrReader:
    """Reads documents with one model."""

    model: ChatModel
    budget: Budget
    limits: PageLimits
    max_images: int

    def answer(self, body: OcrRequest, given: Given, name: str) -> dict[str, Any]:
        """The whole response; raises TesseraError if nothing of the document can be read."""
        check(body)
        readings, errors = self._pages(body, given)
        self._read(readings, from_image=body.confidence_scores_granularity is not None)
        failed = [each.error for each in readings if each.error is not None]
        if failed and len(failed) == len(readings):
            raise failed[0]
        pages = [self._page(each, body) for each in readings]
        self._annotate_figures(pages, readings, body)
        told: dict[str, Any] = {
            "pages": sorted([*pages, *errors], key=lambda page: int(page["index"])),
            "model": name,
            "usage_info": {"pages_processed": len(readings), "doc_size_bytes": given.size},
            "document_annotation": None,
        }
        if body.document_annotation_format is not None or body.preset is not None:
            told |= annotated(self, body, given, [each.page for each in readings])
        return told

    # Pages -----------------------------------------------------------------------------------

    def _pages(self, body: OcrRequest, given: Given) -> tuple[list[PageReading], list[dict[str, Any]]]:
        """The pages that are wanted, and those that cannot be opened as the response tells them."""
        readings: list[PageReading] = []
        errors: list[dict[str, Any]] = []
        for page in read_pages([given.path], pages=page_text(body.pages), limits=self.limits):
            if isinstance(page, Page):
                readings.append(PageReading(page))
                continue
            error = DocumentError(page.message.replace(str(given.path), given.name), code=page.code)
            if page.number is None:
                raise no_such_page(body.pages, given.name) if page.code == "no_such_page" else error
            errors.append(_failed_page(page, error))
        if not readings:
            first = errors[0]["error"] if errors else {"message": f"{given.name} has no pages.", "code": "empty"}
            raise DocumentError(first["message"], code=first["code"])
        return readings, errors

    def _read(self, readings: Sequence[PageReading], *, from_image: bool) -> None:
        """Fill in the text of each page; confidence can only be told of what the model reads."""
        left: list[PageReading] = []
        for each in readings:
            if each.page.blank:
                each.blocks = []
            elif has_good_text(each.page) and not from_image:
                each.markdown, each.blocks = text_to_markdown(each.page), text_blocks(each.page)
            else:
                left.append(each)
        for attempt in range(RETRIES + 1):
            left = self._ask(left, attempt)

    def _ask(self, readings: Sequence[PageReading], attempt: int) -> list[PageReading]:
        """Have the model read pages; returns those whose reply should be asked for again."""
        preset, sent, again = named("transcribe"), list[PageReading](), list[PageReading]()
        all_asked = False

        def questions() -> Iterator[tuple[Message, ...]]:
            nonlocal all_asked
            for each in readings:
                try:
                    asked = plan.asked([each.page], preset, self.budget, tiles=self._tiles(each.page)).messages
                except TesseraError as error:
                    each.error = error
                    continue
                sent.append(each)
                yield asked
            all_asked = True

        def params() -> Iterator[SamplingParams]:
            while not all_asked:
                yield self.fitted(plan.sampling(preset, 1, attempt=attempt), [sent[-1].page], preset)

        for number, reply in enumerate(self.model.each(questions(), params())):
            each = sent[number]
            if isinstance(reply, TesseraError):
                each.error = reply
                continue
            problem = problem_of(reply, plain=True)
            if each.reply is None or problem is None:
                each.reply, each.markdown, each.problem = reply, unfenced(reply.text), problem
            if problem is not None:
                again.append(each)
        return again

    def _tiles(self, page: Page) -> str:
        return "auto" if self.max_images >= 5 else "off"

    def fitted(self, params: SamplingParams, pages: Sequence[Page], preset: Preset) -> SamplingParams:
        """Leave room in the context for the pages that are asked about."""
        used = sum(plan.page_tokens(page, self._tiles(page), self.budget) for page in pages) + MARGIN
        used += len(plan.instructions(preset)) // plan.CHARS_PER_TOKEN if self.budget.instructions else 0
        room = max(self.budget.context_tokens - used, 1)
        return replace(params, max_tokens=min(params.max_tokens or room, room))

    # The response ----------------------------------------------------------------------------

    def dimensions(self, page: Page) -> tuple[int, int, int]:
        """Width and height in pixels of the page as the model sees it, and its dots per inch."""
        side = plan.page_side(page, self.budget)
        scale = min(side, page.pixels or side) / max(page.size)
        return max(round(page.size[0] * scale), 1), max(round(page.size[1] * scale), 1), max(round(72 * scale), 1)

    def _page(self, reading: PageReading, body: OcrRequest) -> dict[str, Any]:
        page, index, markdown = reading.page, reading.page.number - 1, reading.markdown
        width, height, dpi = self.dimensions(page)
        figures = list(self._figures(page, body, (width, height)))
        for figure in figures:
            markdown += ("\n\n" if markdown else "") + f"![{figure['id']}]({figure['id']})"
        told: dict[str, Any] = {
            "index": index,
            "markdown": markdown,
            "images": figures,
            "dimensions": {"dpi": dpi, "height": height, "width": width},
            "tables": self._tables(reading, body, index),
            "hyperlinks": [],
            "header": None,
            "footer": None,
        }
        if body.confidence_scores_granularity is not None:
            told["confidence_scores"] = self._confidence(reading, body.confidence_scores_granularity)
        if body.include_blocks is not False:
            told["blocks"] = self._blocks(reading, figures, (width, height))
        if reading.error is not None:
            told["error"] = {"code": reading.error.code, "message": str(reading.error)}
        elif reading.problem is not None:
            told["problem"] = reading.problem
        return told

    def _confidence(self, reading: PageReading, granularity: Granularity) -> dict[str, Any] | None:
        return None if reading.reply is None else confidence_scores(reading.reply, reading.markdown, granularity)

    def _tables(self, reading: PageReading, body: OcrRequest, index: int) -> list[dict[str, Any]]:
        """The tables apart, if wanted; they stay in the text, too, so that nothing reads a page without them."""
        if body.table_format is None:
            return []
        kind, found = body.table_format, []
        for number, (start, text) in enumerate(tables_in(reading.markdown)):
            table: dict[str, Any] = {
                "id": f"tbl-{index}-{number}.{'html' if kind == 'html' else 'md'}",
                "content": as_html(text) if kind == "html" else text,
                "format": kind,
            }
            if body.confidence_scores_granularity == "word" and reading.reply is not None:
                scores = confidence_scores(reading.reply, reading.markdown, "word", (start, start + len(text)))
                table["word_confidence_scores"] = None if scores is None else scores["word_confidence_scores"]
            found.append(table)
        return found

    def _blocks(
        self, reading: PageReading, figures: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> list[dict[str, Any]] | None:
        """Paragraphs with their places; null where only the model read the page and the places are not known."""
        if reading.blocks is None:
            return None
        blocks = [{"type": each.kind, **_corners(each.box, size), "content": each.text} for each in reading.blocks]
        for figure in figures:
            corners = {name: figure[name] for name in CORNERS}
            blocks.append({"type": "image", **corners, "content": "", "image_id": figure["id"]})
        return blocks

    def _figures(self, page: Page, body: OcrRequest, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
        number = 0
        for box in page.figures:
            corners = _corners(box, size)
            width = corners["bottom_right_x"] - corners["top_left_x"]
            height = corners["bottom_right_y"] - corners["top_left_y"]
            if body.image_limit is not None and number >= body.image_limit:
                return
            if min(width, height) < max(body.image_min_size or 0, 1):
                continue
            data = data_url(page.image(FIGURE_SIDE, crop=box)) if body.include_image_base64 else None
            yield {"id": f"img-{page.number - 1}-{number}.jpeg", **corners, "image_base64": data,
                   "image_annotation": None}  # fmt: skip
            number += 1

    def _annotate_figures(
        self, pages: Sequence[dict[str, Any]], readings: Sequence[PageReading], body: OcrRequest
    ) -> None:
        """Ask about each picture alone, under the caller's schema."""
        if body.bbox_annotation_format is None:
            return
        schema = schema_of(body.bbox_annotation_format, "bbox_annotation_format")
        wanted = [
            (figure, reading.page) for page, reading in zip(pages, readings, strict=True) for figure in page["images"]
        ]
        asked = Grammar("json_schema", json.dumps(schema), compact=True)
        params = SamplingParams(max_tokens=self._figure_tokens(), grammar=asked)

        def questions() -> Iterator[list[Message]]:
            for figure, page in wanted:
                width, height, _ = self.dimensions(page)
                left, top, right, bottom = (figure[name] for name in CORNERS)
                box = Box(page.number, left / width, top / height, right / width, bottom / height)
                image = Image(page.image(self.budget.image_side, crop=box))
                yield [Message("user", (image, "Describe this image as JSON."))]

        for (figure, _), reply in zip(wanted, self.model.each(questions(), params), strict=True):
            if isinstance(reply, TesseraError):
                raise reply
            figure["image_annotation"] = reply.text if reply.finish_reason == "stop" else None

    def _figure_tokens(self) -> int:
        used = self.budget.image_tokens(1, 1) + MARGIN
        return max(min(FIGURE_TOKENS, self.budget.context_tokens - used), 1)


CORNERS = ("top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y")


def _corners(box: Box, size: tuple[int, int]) -> dict[str, int]:
    width, height = size
    edges = (box.left * width, box.top * height, box.right * width, box.bottom * height)
    return dict(zip(CORNERS, (round(edge) for edge in edges), strict=True))


def _failed_page(page: PageError, error: TesseraError) -> dict[str, Any]:
    return {
        "index": (page.number or 1) - 1, "markdown": "", "images": [], "dimensions": None,
        "error": {"code": error.code, "message": str(error)},
    }  # fmt: skip


def data_url(image: PILImage.Image) -> str:
    image.save(out := io.BytesIO(), "JPEG", quality=JPEG)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
