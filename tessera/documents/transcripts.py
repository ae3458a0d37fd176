"""Transcripts: each page as Markdown, from its text layer where that is good, else as the model reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tessera.documents.assemble import PROBLEMS
from tessera.documents.extraction import Extraction, Options, item_id
from tessera.documents.journal import Journal
from tessera.documents.markdown import has_good_text, text_to_markdown
from tessera.documents.marks import inert
from tessera.documents.page import Page, PageError
from tessera.documents.presets import Preset
from tessera.errors import UsageError, printable
from tessera.machine import disk_room, written_whole

SUFFIXES = (".md", ".txt", ".json")


@dataclass(frozen=True)
class Transcript:
    """One page as text, where it comes from, or why there is none. `problem` says what is wrong with the text."""

    document: str
    number: int | None
    text: str
    source: Literal["text layer", "model", "blank", "error"]
    size: tuple[float, float] | None = None
    problem: str | None = None

    @property
    def place(self) -> str:
        return self.document if self.number is None else f"{self.document}, page {self.number}"


class Transcription(Extraction):
    """A run of the preset `transcribe`, or one like it, over the pages that need a model."""

    def __init__(
        self, paths: Sequence[str | Path], preset: Preset, options: Options, *, from_image: bool = False
    ) -> None:
        if not preset.schema.plain:
            raise UsageError(f"the preset {preset.name} gives records; transcribe needs one without a schema.")
        super().__init__(paths, preset, options)
        self.from_image = from_image

    def needs_model(self, page: Page) -> bool:
        return self.from_image or not has_good_text(page)

    def transcripts(self, journal: Journal) -> Iterator[Transcript]:
        """Yield all pages in order, from the documents and the journal's results."""
        wanted = {
            unit.keys[position]: item_id(unit, number, 0)
            for unit in self.units
            for number, window in enumerate(unit.windows)
            for position in window
        }
        unplanned = {(each.document, each.number): each.message for unit in self.units for each in unit.errors}
        known = set(wanted.values())
        results = (each for each in journal.results() if each.id in known)  # not of files as they were before
        early: dict[str, str] = {}
        told: set[tuple[str, int | None]] = set()
        with closing(self.reader.every()) as pages:
            for page in pages:
                if (page.document, page.number) in told:
                    continue  # a document that was named twice
                told.add((page.document, page.number))
                if isinstance(page, PageError):
                    yield Transcript(page.document, page.number, "", "error", None, page.message)
                elif page.blank:
                    yield Transcript(page.document, page.number, "", "blank", page.size)
                elif not self.needs_model(page):
                    yield Transcript(page.document, page.number, text_to_markdown(page), "text layer", page.size)
                elif (key := wanted.get((page.document, page.number))) is None:
                    why = unplanned.get((page.document, page.number), "not read")
                    yield Transcript(page.document, page.number, "", "error", page.size, why)
                else:
                    while key not in early and (result := next(results, None)) is not None:
                        early[result.id] = result.result
                    yield _read(page, early.pop(key, None))


def _read(page: Page, result: str | None) -> Transcript:
    told: dict[str, Any] = {"error": {"message": "not read"}} if result is None else json.loads(result)
    if "error" in told:
        return Transcript(page.document, page.number, "", "error", page.size, told["error"]["message"])
    problem = PROBLEMS.get(told["problem"])
    return Transcript(page.document, page.number, told["value"]["text"], "model", page.size, problem)


def check_out(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} ends in {path.suffix or 'nothing'}; name it {', '.join(SUFFIXES)}.")


def write_transcripts(path: Path, transcripts: Iterator[Transcript], model: str) -> tuple[int, int]:
    """Write Markdown, or Mistral's OCR response for .json; returns the numbers of pages, and of those with a problem.

    The file appears whole or not at all.
    """
    check_out(path)
    counted = _Counted(transcripts)
    with (
        disk_room(path.parent),
        written_whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="replace", newline="\n") as file,  # halves of characters
    ):
        if path.suffix.lower() != ".json":
            file.writelines(_markdown(counted))
        else:
            file.write('{"pages": [')
            for index, each in enumerate(counted):
                file.write(("," if index else "") + json.dumps(_ocr_page(index, each), ensure_ascii=False))
            usage = {"pages_processed": counted.pages, "doc_size_bytes": None}
            file.write(f'], "model": {json.dumps(model)}, "usage_info": {json.dumps(usage)}, ')
            file.write('"document_annotation": null}\n')
    return counted.pages, counted.problems


class _Counted:
    def __init__(self, transcripts: Iterator[Transcript]) -> None:
        self._transcripts = transcripts
        self.pages = self.problems = 0

    def __iter__(self) -> Iterator[Transcript]:
        for each in self._transcripts:
            self.pages += 1
            self.problems += each.problem is not None
            yield each


def _markdown(transcripts: _Counted) -> Iterator[str]:
    """The pages with a comment before each that names it; the comment does not show when Markdown is rendered."""
    for index, each in enumerate(transcripts):
        about = f"{each.place}: {each.problem}" if each.problem else f"{each.place}, {each.source}"
        yield ("\n" if index else "") + f"<!-- {_in_comment(about)} -->\n"
        if each.text:
            yield f"\n{_shown(each)}\n"


def _shown(transcript: Transcript) -> str:
    return inert(transcript.text) if transcript.source == "model" else transcript.text


def _in_comment(text: str) -> str:
    """A line that ends no comment: HTML lets two dashes do that, also with an exclamation mark between."""
    return re.sub("-(?=-)", "- ", printable(text))


def _ocr_page(index: int, transcript: Transcript) -> dict[str, Any]:
    """A page in the shape of Mistral's /v1/ocr; sizes are in points, at 72 to the inch, or pixels of an image."""
    size = transcript.size
    dimensions = None if size is None else {"dpi": 72, "height": round(size[1]), "width": round(size[0])}
    told = {"index": index, "markdown": _shown(transcript), "images": [], "dimensions": dimensions}
    # The clients allow further keys; a page without text must say why.
    return told if transcript.problem is None else {**told, "error": {"message": transcript.problem}}
