"""Printed papers and what is measured on them; models are stand-ins that read, or look, as they are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from tessera.chat import ChatModel, Completion, Delta, Glance, Head, Timings, TokenLogprob, Usage
from tessera.documents.boxes import TextPlaces, overlap
from tessera.nano.calibrate import Tally, all_heads, best_heads, measure, rank_heads
from tessera.nano.measure.papers import Paper, drawn_papers
from tessera.nano.measure.web_papers import PROGRAMS

pytestmark = pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="Chromium prints the papers")
GRID = (50, 40)


@pytest.fixture(scope="module")
def papers() -> list[Paper]:
    return list(drawn_papers(4, scans=False))


def reply_of(values: dict[str, Any], logprob: float) -> Completion:
    text = json.dumps(values, ensure_ascii=False)
    return Completion(text, "stop", Usage(), Timings(), "m", logprobs=tuple(TokenLogprob(-1, c, logprob) for c in text))


class Reader(ChatModel):
    """Reads every second paper wrongly, and is less sure then; its first head looks at the true places."""

    model_name = "reader"

    def __init__(self, papers: Sequence[Paper]) -> None:
        self.papers = papers

    def stream(self, messages: Any, params: Any = None, *, tools: Any = ()) -> Iterator[Delta]:
        raise NotImplementedError

    def each(self, conversations: Iterable[Any], params: Any = None, *, tools: Any = ()) -> Iterator[Completion]:
        for number, (paper, _) in enumerate(zip(self.papers, conversations, strict=True)):
            wrong = number % 2
            values = {key: "wrong" if wrong else value for key, value in paper.values.items()}
            yield reply_of(values, -0.5 if wrong else -0.001)

    def locate(self, messages: Any, reply: Any, spans: Sequence[tuple[int, int]], heads: Sequence[Head] = ()) -> Any:
        paper = next(each for each in self.papers if each.page.picture is messages[0].images[0].source)
        text = reply if isinstance(reply, str) else reply.text
        places = {}
        for key, characters in paper.characters.items():
            at = text.find(f'"{key}": "') + len(f'"{key}": "')
            printed = iter(characters)
            for offset, char in enumerate(paper.values.get(key) or ""):
                if char.strip():
                    places[at + offset] = next(printed)[1:]
        return [[self._look(places[n], heads) for n in range(*span) if n in places] for span in spans]

    def _look(self, centre: tuple[float, float], heads: Sequence[Head]) -> tuple[Glance, ...]:
        row, column = int(centre[1] * GRID[0]), int(centre[0] * GRID[1])
        true, astray = Glance(0, GRID, row, column, 0.9, (column, column)), Glance(0, GRID, 0, 0, 0.1, (0, 0))
        return tuple(true if head == Head(0, 0, 1) else astray for head in heads or [Head(0, 0, 1)])

    def close(self) -> None:
        pass


def test_values_stand_where_their_links_are(papers: list[Paper]) -> None:
    for paper in papers:
        asked = {key: value for key, value in paper.values.items() if value is not None}
        assert len(asked) == 4
        found = TextPlaces([paper.page]).find(asked)
        for key, value in asked.items():
            assert "".join(char for char, _, _ in paper.characters[key]) == value.replace(" ", "")
            assert overlap(found[key].box, paper.places[key]) > 0.5


def test_the_same_seed_prints_the_same_paper_and_a_scan_has_no_text(papers: list[Paper]) -> None:
    (again,) = drawn_papers(1, scans=False)
    assert (again.values, again.places) == (papers[0].values, papers[0].places)
    (scan,) = drawn_papers(1)
    assert (scan.values, scan.page.words) == (papers[0].values, ())


def test_what_is_read_right_and_where_is_counted(papers: list[Paper]) -> None:
    scans = [Paper(p.page, p.kind, p.values, p.places, p.characters) for p in papers]
    for paper in scans:
        paper.page.words = ()
    samples, tally = measure(Reader(scans), scans, reread=False, log=lambda line: None)
    assert [sample.right for sample in samples] == [
        not number % 2 for number, paper in enumerate(scans) for _ in paper.values
    ]
    read = sum(value is not None for number, paper in enumerate(scans) for value in paper.values.values() if not number % 2)  # fmt: skip # noqa: E501
    count, _, centres = tally.counts["attention"]
    assert (count, centres) == (read, read)
    assert "| attention |" in tally.markdown()


def test_heads_are_ranked_by_where_they_look(papers: list[Paper]) -> None:
    shares = rank_heads(Reader(papers), papers, list(all_heads(2, 2)))
    assert shares is not None
    assert next(iter(shares.items())) == (Head(0, 0, 1), 1.0)
    assert best_heads(shares) == {Head(0, 0, 1): 1.0}
    assert best_heads({Head(0, 0): 0.2}) == {}


def test_a_box_that_misses_is_counted_as_missing() -> None:
    from tessera.documents.page import Box

    tally, true = Tally(), Box(1, 0.1, 0.1, 0.3, 0.2)
    for box in (None, Box(1, 0.1, 0.1, 0.3, 0.2), Box(1, 0.0, 0.0, 1.0, 1.0), Box(1, 0.5, 0.5, 0.6, 0.6)):
        tally.add("x", box, true)
    assert tally.counts == {"x": [4, 1, 2]}
