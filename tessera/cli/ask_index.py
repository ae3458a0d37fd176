"""`tessera ask --index`: an answer from the pages of an archive, which it cites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.cli.ask import question_and_images
from tessera.cli.session import Session, print_json, say, stopping_is_said, write_reply
from tessera.documents.api import budget_of
from tessera.errors import UsageError
from tessera.search.answer import REPLY_TOKENS, Answer, answer, find_pages
from tessera.search.searcher import Searcher
from tessera.search.store import index_of


@dataclass(frozen=True)
class Asking:
    """The options of one question to an archive."""

    index: Path
    top: int
    max_tokens: int | None
    as_json: bool = False


def run_ask_index(session: Session, words: Sequence[str], given: Asking, others: Mapping[str, object]) -> None:
    """Answer, and print the answer and its pages; `others` are options that --index excludes."""
    for name, value in others.items():
        if value:
            raise UsageError(f"--index and {name} exclude each other: the index says what is shown. Keep one.")
    question, _ = question_and_images(words, [])
    with Searcher(index_of(given.index)) as searcher:
        hits = find_pages(searcher, question, 20)
        if not hits:
            raise UsageError("no page of the index has a word of the question; ask with the words that the pages use.")
        with session.open() as model, stopping_is_said():
            tokens = given.max_tokens or REPLY_TOKENS
            reply = answer(model, searcher, question, hits, budget_of(model), most=given.top, max_tokens=tokens)
    if given.as_json:
        print_json(answer_object(reply, question))
        return
    write_reply(f"{reply.text}\n")
    for page in reply.pages:
        say(f"{'cited' if page.cited else 'shown'}: {page.label}")
    for note in reply.notes:
        say(note)
    if reply.dropped:
        say(f"citations of pages that were not shown were taken out: {', '.join(reply.dropped)}")
    if reply.finish_reason == "length":
        say("the answer was cut at the token limit (--max-tokens)")


def answer_object(reply: Answer, question: str) -> dict[str, object]:
    """An answer as JSON has it."""
    return {
        "question": question,
        "text": reply.text,
        "pages": [
            {"label": each.label, "file": each.hit.file, "page": each.hit.number, "cited": each.cited}
            for each in reply.pages
        ],
        "dropped": list(reply.dropped),
        "notes": list(reply.notes),
        "finish_reason": reply.finish_reason,
        "usage": asdict(reply.usage),
    }
