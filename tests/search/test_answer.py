"""Answers cite pages that were shown and no others; reranking orders by the model's own p(yes)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tessera.chat import Completion, Timings, TokenLogprob, Usage
from tessera.documents.plan import Budget
from tessera.engine.grammar import GrammarCompiler
from tessera.errors import DocumentError, EndpointError, UsageError
from tessera.sampling import Grammar
from tessera.search.answer import answer, checked, citing, find_pages
from tessera.search.pages import open_page, show_page
from tessera.search.rerank import p_yes, rerank
from tessera.search.searcher import Searcher
from tests.documents.fakes import Scripted
from tests.engine.tiny import CONFIG, EOS, ByteTokenizer, text_ids
from tests.search.archive import ACME, BAKERY, LETTER, pdf, put, scanned

LABELS = ["letter.pdf p. 1", "acme (1).pdf p. 1"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    put(tmp_path, letter=pdf(LETTER), bakery=pdf(BAKERY), **{"acme [1]": pdf(ACME)})
    scanned(tmp_path)
    return tmp_path


def test_an_answer_cites_what_it_was_shown(archive: Path) -> None:
    model = Scripted(lambda images, params: "Acme Tools raises prices [letter.pdf p. 1].")
    with Searcher(archive) as searcher:
        hits = find_pages(searcher, "Which supplier, Acme or another, raised prices?", 10)
        reply = answer(model, searcher, "Which supplier raised prices?", hits, Budget())
    assert reply.text == "Acme Tools raises prices [letter.pdf p. 1]."
    assert {page.label: page.cited for page in reply.pages} == {LABELS[0]: True, LABELS[1]: False}
    ((messages, params),) = model.asked
    assert params.grammar == citing([page.label for page in reply.pages])
    shown = [part for part in messages[0].content if isinstance(part, str)]
    assert [f"[{page.label}]" for page in reply.pages] == shown[:-1]


def test_citations_of_other_pages_are_taken_out_and_said(archive: Path) -> None:
    answers = iter([EndpointError("no grammars here"), "Yes [letter.pdf p. 1], and [secret.pdf p. 9] too [see 3]."])
    with Searcher(archive) as searcher:
        hits = find_pages(searcher, "prices", 10)
        reply = answer(Scripted(lambda i, p: next(answers)), searcher, "Did prices rise?", hits, Budget())
    assert reply.text == "Yes [letter.pdf p. 1], and too."
    assert reply.dropped == ("secret.pdf p. 9", "see 3")
    assert reply.notes == ("the server takes no grammar, so the citations were checked afterwards",)


def test_an_answer_that_cites_nothing_is_said_to(archive: Path) -> None:
    with Searcher(archive) as searcher:
        hits = find_pages(searcher, "prices", 10)
        reply = answer(Scripted(lambda i, p: "Prices ro"), searcher, "Did prices rise?", hits, Budget())  # cut
    assert reply.notes == ("the answer cites no page, so nothing vouches for it",)


def test_pages_beyond_the_context_are_left_out(archive: Path) -> None:
    model = Scripted(lambda images, params: "[letter.pdf p. 1]")
    with Searcher(archive) as searcher:
        hits = find_pages(searcher, "acme prices march", 10)
        reply = answer(model, searcher, "Prices?", hits, Budget(context_tokens=4500))
        assert len(reply.pages) == 1
        assert reply.notes[0] == "1 page fits the model's context; others were left out"
        with pytest.raises(UsageError, match="no page of the index has a word"):
            answer(model, searcher, "Prices?", [], Budget())
        with pytest.raises(UsageError, match="has no word to search for"):
            find_pages(searcher, "???", 10)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Prices rise [letter.pdf p. 1].", True),
        ("[letter.pdf p. 1][acme (1).pdf p. 1]", True),
        ("Prices rise.", False),
        ("Prices rise [other.pdf p. 1].", False),
        ("Prices rise [letter.pdf p. 12].", False),
        ("Prices [letterXpdf p. 1]", False),
        ("Prices rise [letter.pdf p. 1", False),
    ],
)
def test_the_grammar_allows_no_other_citation(text: str, fits: bool) -> None:
    """The engine's own compiler, byte by byte."""
    compiler = GrammarCompiler(ByteTokenizer(), CONFIG.vocab_size)
    ids = [*text_ids(text), EOS]
    assert (compiler.matcher(citing(LABELS)).count_allowed(ids) == len(ids)) == fits
    compiler.close()


def test_checked_leaves_no_citation_that_was_not_given() -> None:
    assert checked("a [x p. 1] b [ letter.pdf  p. 1 ]", LABELS) == ("a b [ letter.pdf  p. 1 ]", {LABELS[0]}, ["x p. 1"])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("so [secret.pdf[1] p. 9]", "so (secret.pdf p. 9)"),
        ("so [[x p. 1]]", "so ()"),
        ("so [x [letter.pdf p. 1] p. 9]", "so (x [letter.pdf p. 1] p. 9)"),
        ("so 【x p. 1】", "so (x p. 1)"),
    ],
    ids=["formed", "double", "around", "wide"],
)
def test_no_citation_is_formed_by_what_is_taken_out(text: str, kept: str) -> None:
    assert checked(text, LABELS)[0] == kept


def test_pages_of_names_that_read_alike_are_cited_apart(tmp_path: Path) -> None:
    put(tmp_path, **{"a[1]": pdf(ACME), "a(1)": pdf(LETTER)})
    scanned(tmp_path)
    model = Scripted(lambda images, params: "[a(1).pdf p. 1]")
    with Searcher(tmp_path) as searcher:
        reply = answer(model, searcher, "Who?", find_pages(searcher, "acme tools", 9), Budget())
    assert len({page.label for page in reply.pages}) == len({page.hit.file for page in reply.pages}) == 2


def judged(text: str, yes: float, no: float) -> Completion:
    """A reply whose first token has these probabilities of yes and no."""
    first = TokenLogprob(
        1, text, math.log(yes if text == "yes" else no), ((1, "yes", math.log(yes)), (2, "no", math.log(no)))
    )
    return Completion(text, "stop", Usage(), Timings(), "scripted", logprobs=(first,))


def test_p_yes_is_the_share_of_yes_among_both() -> None:
    assert p_yes(judged("yes", 0.6, 0.2)) == pytest.approx(0.75)
    both = TokenLogprob(5, "y", math.log(0.3), ((5, "y", math.log(0.3)), (6, "n", math.log(0.1)), (7, "maybe", -0.1)))
    assert p_yes(Completion("yes", "stop", Usage(), Timings(), "m", logprobs=(both,))) == pytest.approx(0.75)
    assert p_yes(Completion("No", "stop", Usage(), Timings(), "m")) == 0.0


def test_reranking_puts_the_likeliest_page_first(archive: Path) -> None:
    replies = iter([judged("no", 0.1, 0.8), judged("yes", 0.9, 0.05)])
    model = Scripted(lambda images, params: next(replies))
    with Searcher(archive) as searcher:
        hits = searcher.search("acme march").hits
        assert len(hits) == 2
        ranked = rerank(model, searcher, "who raises prices", hits, Budget())
    assert [hit.page for hit in ranked] == [hits[1].page, hits[0].page]
    assert [round(hit.relevance or 0, 2) for hit in ranked] == [0.95, 0.11]
    grammar = model.asked[0][1].grammar
    assert grammar == Grammar("choice", json.dumps(["yes", "no"]))


def test_a_page_is_shown_with_the_places_of_what_is_hit(archive: Path) -> None:
    with Searcher(archive) as searcher:
        (hit,) = searcher.search('"corner bakery"').hits
        shown = show_page(searcher, hit.page, '"corner bakery"')
        assert shown is not None
        (box,) = shown.boxes
        # Set at 60, 756 in 12 points on 595 x 842.
        assert (box.left, box.bottom) == pytest.approx((60 / 595, 1 - 756 / 842), abs=0.01)
        assert 0.2 < box.right < 0.3
        assert show_page(searcher, 10**9) is None
        page = open_page(searcher, hit.page)
        assert page is not None
        assert page.text.startswith("Receipt")


def test_a_changed_file_is_not_shown_as_the_page(archive: Path) -> None:
    with Searcher(archive) as searcher:
        (hit,) = searcher.search("croissants").hits
        put(archive, bakery=pdf(("Something else entirely", "and not what was found")))
        with pytest.raises(DocumentError, match="has changed or is gone since it was indexed"):
            open_page(searcher, hit.page)
