"""A page of an index as it is in its file: opened again by its content, so that another file is never shown for it."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tessera.documents.limits import PageLimits
from tessera.documents.page import Box, Page
from tessera.documents.pages import digest_of, read_pages
from tessera.documents.sources import shown_path
from tessera.errors import DocumentError
from tessera.search.packing import boxes_of, text_of
from tessera.search.searcher import Searcher, wanted_of
from tessera.search.snippets import find_hits, hit_boxes
from tessera.search.store import in_words

MAX_BOXES = 500


@dataclass(frozen=True)
class Shown:
    """A page of the index and what is marked on it: boxes from the text layer ("text"), or estimates ("line")."""

    page: int
    file: str
    number: int
    count: int
    source: str
    size: tuple[float, float] | None
    text: str
    description: str
    boxes: tuple[Box, ...]
    box_source: str


def show_page(searcher: Searcher, page: int, query: str = "") -> Shown | None:
    """Return a page with the places that a query hits; None if the index has no such page. Raises UsageError."""
    with searcher.deadline():
        row = searcher.connection.execute(
            "SELECT content, member, number, count, source, width, height, text, boxes, description FROM pages "
            "WHERE id = ?", (page,),
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        content, member, number, count, source, width, height, packed, places, description = row
        text = text_of(packed)
        hits = find_hits(text, wanted_of(searcher.connection, query)) if query.strip() else []
        boxes, box_source = hit_boxes(text, hits, boxes_of(places, number), number)
        files = searcher.files_of(content, member)
    return Shown(
        page, files[0] if files else "", number, count, source, None if width is None else (width, height), text,
        description, tuple(boxes[:MAX_BOXES]), box_source,
    )  # fmt: skip


def open_page(searcher: Searcher, page: int, limits: PageLimits | None = None) -> Page | None:
    """Open a page of the index in its file; None if the index has no such page. Raises DocumentError."""
    with in_words(searcher.file):
        row = searcher.connection.execute(
            "SELECT p.content, member, number, digest FROM pages p JOIN contents c ON c.id = p.content WHERE p.id = ?",
            (page,),
        ).fetchone()
        if row is None:
            return None
        content, member, number, digest = row
        names = searcher.files_of(content, "")
    for name in names:
        path = path_of(searcher.root, name)
        if path.is_file() and _digest(path) == digest:
            return page_of(path, member, number, limits)
    shown = names[0] if names else "the file"
    raise DocumentError(f"{shown} has changed or is gone since it was indexed; index again.", code="changed")


def path_of(root: Path, name: str) -> Path:
    """Return the file that an index has under a name; one that is no UTF-8 is looked for by how it reads."""
    path = root
    for part in name.split("/"):
        inner = path / part
        if "\ufffd" in part and not os.path.lexists(inner):
            with suppress(OSError):
                inner = next((path / each for each in os.listdir(path) if shown_path(each) == part), inner)
        path = inner
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file)


def page_of(path: Path, member: str, number: int, limits: PageLimits | None = None) -> Page:
    """Read one page of a file. Raises DocumentError."""
    wanted = shown_path(path) + (f"/{member}" if member else "")
    with closing(read_pages([path], pages=str(number), limits=limits)) as pages:  # type: ignore[type-var]
        for page in pages:
            if page.document != wanted:
                continue
            if not isinstance(page, Page):
                raise DocumentError(page.message, code=page.code)
            return page
    raise DocumentError(f"{shown_path(path.name)} has no such page; index again.", code="changed")
