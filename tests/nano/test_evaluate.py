"""Measuring: scores, intervals and tables are right, and the pictures of other programs say what is asked of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont

from tessera.cli.nano import run_draw, run_eval
from tessera.errors import UsageError
from tessera.evals.metrics import edit_distance, wilson_interval
from tessera.nano import evaluate as evaluation
from tessera.nano.evaluate import Result, evaluate, result_of, tables
from tessera.nano.measure import real_pages, tesseract
from tessera.nano.measure.asked import json_of, labels_of, short_values
from tessera.nano.measure.plots import plot_trials
from tessera.nano.measure.pygal_charts import pygal_trials
from tessera.nano.measure.scoring import is_right
from tessera.nano.measure.trial import FROM_AXIS, REAL_PAGES, RENDERERS, SEEDS, Trial, trials_of
from tessera.nano.measure.web_papers import PROGRAMS, web_trials
from tessera.nano.pictures.page import Glyph, Page, Question, unprinted
from tessera.nano.report import report

PICTURE = Image.new("RGB", (200, 40), "white")


def trial(answer: str, skill: str = "receipt", tolerance: float = 0.0, group: str = SEEDS, size: float = 12.0) -> Trial:
    return Trial(group, "test", skill, (PICTURE,), "What is it?", answer, tolerance, size)


# Scoring ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "wanted", "skill", "tolerance", "right"),
    [
        ("15.00", "15.00", "receipt", 0.0, True),
        (" 15.00\n", "15.00", "receipt", 0.0, True),
        ("15.0", "15.00", "receipt", 0.0, False),
        ("Yes", "yes", "scene", 0.0, False),
        ('{"a":1, "b": "x"}', '{"a": 1, "b": "x"}', "receipt", 0.0, True),
        ('{"a": "1", "b": "x"}', '{"a": 1, "b": "x"}', "receipt", 0.0, False),
        ('{"a": 1', '{"a": 1}', "receipt", 0.0, False),
        ('[{"a": 1}]', '[{"a":1}]', "receipt", 0.0, True),
        ("two  words\nhere", "two words here", "transcribe", 0.0, True),
        ("two wordshere", "two words here", "transcribe", 0.0, False),
        ("about 103", "100", "chart", 0.04, True),
        ("105", "100", "chart", 0.04, False),
        ("$1,030", "$1,000", "chart", 0.04, True),
        ("from 100 to 103", "100", "chart", 0.04, False),
        ("-3", "3", "chart", 0.04, False),
    ],
)
def test_an_answer_is_right_when_it_says_the_same(
    reply: str, wanted: str, skill: str, tolerance: float, right: bool
) -> None:
    assert is_right(reply, trial(wanted, skill, tolerance)) is right


def test_intervals_are_those_of_the_literature() -> None:
    # SciPy: binomtest(8, 10).proportion_ci(method="wilson"), and of 0 in 10.
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-5)
    # Newcombe 1998, table I: 81 of 263 by the score method.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_edits_are_counted_in_characters_and_single_spaces() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("a  b\nc", "a b c") == 0
    assert edit_distance("", "abc") == 3


def test_numbers_stand_bare_in_json_only_where_they_are_printed_so() -> None:
    values = {"a": "1.50", "b": "0849", "c": "45%", "d": None, "e": "7"}
    assert json_of(values) == '{"a": 1.50, "b": "0849", "c": "45%", "d": null, "e": 7}'


# Trials -------------------------------------------------------------------------------------------


def test_every_skill_of_a_page_is_asked_before_any_twice() -> None:
    asked = [
        Question(unprinted(str(n)), unprinted("x"), skill, tolerance=0.1 * (skill == "chart"))
        for n, skill in enumerate(("table", "table", "table", "chart"))
    ]
    page = Page((PICTURE,), (Glyph("x", 1, 1, 10), Glyph("\0", 5, 5, 80), Glyph("y", 2, 2, 12)), tuple(asked))
    trials = trials_of(page, SEEDS, "table", 2)
    assert [t.skill for t in trials] == ["table", "chart" + FROM_AXIS]
    assert trials[0].type_size == 11  # marks are no type


@pytest.mark.parametrize("drawn", [plot_trials, pygal_trials], ids=["matplotlib", "pygal"])
def test_charts_of_other_programs_are_asked_rightly(drawn: Any) -> None:
    trials = list(drawn(12))
    assert {t.group for t in trials} == {RENDERERS}
    pictures = {id(t.pictures[0]): t.pictures[0] for t in trials}
    assert len(pictures) == 12
    assert all(np.asarray(picture).std() > 10 and max(picture.size) <= 1024 for picture in pictures.values())
    checked = 0
    for listed in (t for t in trials if t.question.startswith("List all")):
        values = {
            key: float(str(value).replace(",", "").strip("%")) for key, value in json.loads(listed.answer).items()
        }
        for t in trials:
            if t.pictures is not listed.pictures and t.pictures != listed.pictures:
                continue
            if re.search("highest|largest", t.question):
                assert t.answer == max(values, key=values.__getitem__)
                checked += 1
            elif re.search("lowest|smallest", t.question):
                assert t.answer == min(values, key=values.__getitem__)
                checked += 1
            elif t.question.startswith("How many"):
                assert t.answer == str(len(values))
                checked += 1
    assert checked > 5


def test_values_of_a_chart_can_be_told_apart() -> None:
    for seed in range(200):
        random = Random(seed)
        values = short_values(random, len(labels_of(random)))
        numbers = sorted(float(value.replace(",", "").strip("%")) for value in values)
        assert all(high - low >= 0.03 * numbers[-1] for low, high in pairwise(numbers))


@pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="no Chromium on the PATH")
def test_papers_of_the_web_are_printed_and_asked() -> None:
    trials = list(web_trials(2))
    assert {t.skill for t in trials} >= {"receipt", "invoice", "table", "form"}
    pictures = {id(t.pictures[0]): t.pictures[0] for t in trials}
    assert len(pictures) == 8
    for picture in pictures.values():
        assert np.asarray(picture).min() < 90
        assert max(picture.size) <= 1024
    assert all(t.answer == "not shown" for t in trials if t.skill == "absent")
    assert all(isinstance(json.loads(t.answer), dict | list) for t in trials if t.question.endswith("JSON."))


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
4 0 obj<</Length 110>>stream
BT /F 10 Tf 40 150 Td (First line of text) Tj 0 -14 Td (and a second one) Tj 0 -60 Td (Far below) Tj ET
endstream endobj
trailer<</Root 1 0 R>>
"""


def test_real_pages_are_cut_around_their_lines() -> None:
    page = pypdfium2.PdfDocument(PDF)[0]
    lines = real_pages.lines_of(page)
    assert [line.text for line in lines] == ["First line of text", "and a second one", "Far below"]
    assert [line.size for line in lines] == pytest.approx([10, 10, 10])
    assert real_pages._is_whole(lines[:2], lines)
    assert not real_pages._is_whole(lines[1:], lines)  # the third is too far below
    picture = real_pages._cut(page, lines[:2], 2.0)
    right = max(line.box[2] for line in lines[:2])
    assert picture.width == pytest.approx(2 * (right - lines[0].box[0] + 2 * real_pages.MARGIN), abs=3)
    ink = np.asarray(picture.convert("L")) < 128
    rows = ink.any(axis=1)
    assert int((np.diff(rows.astype(int)) == 1).sum()) + int(rows[0]) == 2  # two lines of ink, not three
    assert not ink[:, :4].any()


@pytest.mark.skipif(shutil.which(tesseract.NAME) is None, reason="tesseract is not installed")
def test_tesseract_reads_a_plain_line() -> None:
    picture = Image.new("RGB", (330, 50), "white")
    ImageDraw.Draw(picture).text((10, 10), "Hello plain world 123", "black", ImageFont.load_default(24))
    assert tesseract.read(picture) == "Hello plain world 123"


# Tables and the report ----------------------------------------------------------------------------


@dataclass
class Reply:
    text: str


class Parrot:
    """Answers rightly, but never what was to be transcribed."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def batch(self, conversations: Sequence[Any], params: Sequence[Any]) -> list[Reply]:
        assert len(conversations) == len(params) <= evaluation.BATCH
        return [Reply(self.answers[conversation[0].content[-1]]) for conversation in conversations]


def test_evaluating_asks_everything_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [
        Trial(group, "test", skill, (PICTURE,) * (skill != "greeting"), f"{group} {n}", f"answer {n}")
        for group in (SEEDS, REAL_PAGES)
        for n, skill in enumerate(["chart"] * 60 + ["transcribe"] * 20 + ["greeting"] * 5)
    ]
    monkeypatch.setattr(evaluation, "trials_in", lambda group, samples: [t for t in trials if t.group == group])
    answers = {t.question: "answex 1" if t.skill == "transcribe" else t.answer for t in trials}
    lines: list[str] = []
    results = evaluate(Parrot(answers), 1, (SEEDS, REAL_PAGES), lines.append)  # type: ignore[arg-type]
    assert [r.trial for r in results] == trials
    assert lines[-1] == f"{REAL_PAGES}: 65 of 85 right"
    by_skill = next(table for table in tables(results) if "by skill" in table.title)
    assert by_skill.head == ("", SEEDS, REAL_PAGES)
    cells = {row[0]: row[1] for row in by_skill.rows}
    assert cells == {"chart": "100% (94-100, n=60)", "greeting": "100% (57-100, n=5)", "transcribe": "0% (0-16, n=20)"}
    assert by_skill.markdown().splitlines()[2].startswith("|  | held-out seeds | real PDF pages |")


def test_error_rates_are_over_all_characters_by_size_of_type() -> None:
    small = result_of(trial("abcd", "transcribe", size=9), "abxd")
    large = result_of(trial("abcdef", "transcribe", size=30), "abcdef")
    other = Result(small.trial, "abcd", True, 0)
    made = {table.title: table for table in tables([small, large], [other])}
    rates = made["Character error rate of transcriptions"]
    assert rates.head == ("", "up to 9", "21 and above")
    assert rates.rows == ((SEEDS, "25.0% (n=1)", "0.0% (n=1)"),)
    assert made["Character error rate of tesseract"].rows == ((SEEDS, "0.0% (n=1)"),)
    assert made["Transcriptions right in every letter"].rows[0][1].startswith("50%")


def test_the_report_is_one_file_with_what_is_wrong() -> None:
    results = [result_of(trial("15.00"), "1 < 2 <script>"), result_of(trial("7"), "7")]
    page = report(results, tables(results), "nano")
    assert page.count("<figure>") == 1
    assert "<script" not in page
    assert "1 of 2 wrong" in page
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"https?://", page)


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no group 'photos'; the groups are held-out seeds"):
        run_eval("nano", 1, ["photos"], None, "auto", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_result_as_json_holds_all_but_the_images() -> None:
    told = json.loads(json.dumps(result_of(trial("abcd", "transcribe", size=9), "abxd").as_json()))
    assert told["answer"] == "abcd"
    assert (told["reply"], told["right"], told["skill"], told["type_size"]) == ("abxd", False, "transcribe", 9)
    assert "pictures" not in told


def test_a_page_without_questions_is_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank pages have none; the next seed's page takes its place."""
    asked = SimpleNamespace(
        skill="table", question=SimpleNamespace(text="How many?"), answer=SimpleNamespace(text="three")
    )
    pages = ([], [asked], [], [asked])
    made = iter(SimpleNamespace(pictures=[PICTURE], questions=each) for each in pages)
    monkeypatch.setattr("tessera.nano.pictures.mix.draw_page", lambda kinds, random: next(made))
    run_draw(tmp_path, 2, 5)
    lines = (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["00000005.png", "00000006.png"]
