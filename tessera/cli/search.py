"""`tessera search`: a query's pages on standard output, with snippets, or one JSON object."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tessera.chat import ChatModel
from tessera.cli.session import NANO_NOTE, print_json, say
from tessera.documents.api import budget_of
from tessera.errors import UsageError, counted, printable
from tessera.search.assisted import search_assisted
from tessera.search.found import Found, Hit
from tessera.search.query import parse
from tessera.search.rerank import MAX_RERANKED
from tessera.search.searcher import Searcher
from tessera.search.shape import found_object
from tessera.search.store import NAME, index_of
from tessera.shelf import BUNDLED, data_folder

NOTHING = 1  # exit code
BOLD, FAINT, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def chosen_index(given: Path | None) -> Path:
    """Return the given index, that of this folder or of one around it, or the last that was made."""
    if given is not None:
        return index_of(given)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / NAME).is_file():
            return folder / NAME
    with suppress(OSError, UnicodeDecodeError):
        last = Path(_note().read_text(encoding="utf-8").strip())
        if last.is_file():
            say(f"searching {last}, the last index that was made; --index names another")
            return last
    raise UsageError("there is no index here; make one with `tessera index FOLDER`, or name one with --index.")


def note_index(file: Path) -> None:
    """Keep an index's path, for searches that name none; a failing disk loses only this."""
    with suppress(OSError):
        _note().parent.mkdir(parents=True, exist_ok=True)
        _note().write_text(f"{file.absolute()}\n", encoding="utf-8")


def _note() -> Path:
    return data_folder() / "last-index"


@dataclass(frozen=True)
class Searching:
    """The options of one search."""

    limit: int
    offset: int = 0
    rerank: bool = False
    vectors: bool = False
    model: str | None = None
    endpoint: str | None = None
    explain: bool = False
    as_json: bool = False


@contextmanager
def opened_model(model: str | None, endpoint: str | None) -> Iterator[ChatModel]:
    """Open the named model, the bundled one, or a server."""
    if endpoint is not None:
        from tessera.client import Client

        with Client(endpoint, model=model, api_key=os.environ.get("TESSERA_API_KEY")) as client:
            yield client
        return
    from tessera.llm import LLM

    if model is None:
        say(NANO_NOTE)
    with LLM(model or BUNDLED) as llm:
        yield llm


def run_search(text: str, index: Path | None, given: Searching) -> int:
    """Search, print, and return the exit code."""
    with Searcher(chosen_index(index)) as searcher:
        found = _with_model(searcher, text, given) if given.rerank or given.vectors else None
        found = found or searcher.search(text, limit=given.limit, offset=given.offset)
    if given.as_json:
        print_json(found_object(found, text))
        return 0 if found.hits else NOTHING
    for number, hit in enumerate(found.hits, given.offset + 1):
        print(_shown(hit, number, explain=given.explain))
    for note in found.notes:
        say(note)
    if not found.hits:
        say("no page matches; try fewer words, or look for a part of one")
    elif found.has_more:
        more = found.total - given.offset - len(found.hits)
        say(f"{counted(more, 'more page matches', 'more pages match')}; --limit and --offset show them")
    return 0 if found.hits else NOTHING


def _with_model(searcher: Searcher, text: str, given: Searching) -> Found:
    """Search with what a model adds."""
    parse(text)  # mistakes show before a model is loaded
    with opened_model(given.model, given.endpoint) as model:
        return search_assisted(
            searcher, text, model, budget_of(model), limit=given.limit, offset=given.offset, vectors=given.vectors,
            judged=MAX_RERANKED if given.rerank else 0,
        )  # fmt: skip


def _shown(hit: Hit, number: int, *, explain: bool) -> str:
    bold, faint, plain = (BOLD, FAINT, PLAIN) if sys.stdout.isatty() else ("", "", "")
    place = printable(f"{hit.file} p. {hit.number}" if hit.number else hit.file)
    lines = [f"{number:>3}  {bold}{place}{plain}"]
    if hit.code:
        lines.append(f"     {hit.code}: {printable(hit.message or '')}")
    if hit.snippet:
        pieces = [(printable(text), is_hit) for text, is_hit in hit.snippet]
        marked = " ".join(f"{bold or '['}{text}{plain or ']'}" if is_hit else text for text, is_hit in pieces)
        lines.append(f"     {marked}")
    if explain:
        lists = "; ".join(
            f"{part.list} {part.rank} ({part.score:.2f}{f', {part.about}' if part.about else ''})" for part in hit.parts
        )
        judged = "" if hit.relevance is None else f"the model: {hit.relevance:.3f}; "
        lines.append(f"     {faint}{judged}{hit.score:.4f} = {lists}{plain}")
    if hit.copies:
        lines.append(f"     {faint}also {printable(', '.join(hit.copies))}{plain}")
    return "\n".join(lines)
