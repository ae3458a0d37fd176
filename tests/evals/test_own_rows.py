"""Rows of one's own questions: each scorer; a damaged row is a failed question that says why, and the others go on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tessera import matching
from tessera.evals.run import answers_of
from tessera.evals.tasks.own import own_task
from tests.evals.stub import Stub
from tests.evals.test_run import png, run, score_of

OWN = [
    ({"answer": "Total 12.50"}, "total  12.50.", 1.0),
    ({"answer": "12.50", "scorer": "contains"}, "It says Total 12.50 here", 1.0),
    ({"answer": 100, "scorer": "number", "tolerance": 0.05}, "about $104", 1.0),
    ({"answer": 100, "scorer": "number"}, "104", 0.0),
    ({"answer": ["Paris", "Rome"], "scorer": "anls"}, "pari", 0.8),
    ({"answer": {"vendor": "Acme", "total": 12.5, "items": [{"n": 1}]}, "scorer": "json"},
     'Here: {"vendor": "ACME", "total": 12.5, "items": [{"n": 2}]}', 2 / 3),
    ({"answer": '{"a": "3.70", "b": 3.7, "c": "3.70", "d": 1, "e": "x"}', "scorer": "json"},
     '{"a": 3.70, "b": "3.70", "c": "3.71", "d": true, "e": 0}', 2 / 5),  # as numbers and texts of them
    ({"answer": r"\d{2}\.\d{2}", "scorer": "regex"}, "12.50", 1.0),
    ({"answer": {"a": 1}, "scorer": "json"}, "no object", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reply", "points"), OWN)
def test_rows_of_ones_own(tmp_path: Path, row: dict[str, Any], reply: str, points: float) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "my.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", **row}) + "\n")
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, 64, "Be short.")
    model = Stub(lambda conversation, params: reply)
    summary = run(task, tmp_path / "my.jsonl", tmp_path / "run", model)
    assert score_of(summary, "score") == pytest.approx(100 * points)
    conversation, params = model.asked[0]
    assert (len(conversation), params.max_tokens) == (2, 64)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("question,answer\nOne?,1\nTwo?,2\n")
    task = own_task(tmp_path / "my.csv", "exact", 0.0, 64, None)
    summary = run(task, tmp_path / "my.csv", tmp_path / "run", Stub(lambda conversation, params: "2"))
    assert score_of(summary, "score") == 50.0


def test_a_bad_row_is_a_failed_question_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text('{"question": "One?", "answer": "1"}\n{"question": 5, "answer": "1"}\n')
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, 64, None)
    summary = run(task, tmp_path / "my.jsonl", tmp_path / "run", Stub(lambda conversation, params: "1"))
    assert (summary.count, summary.flags["failed"]) == (2, 1)
    bad = list(answers_of(tmp_path / "run"))[1]
    assert "my.jsonl, line 2: question must be a text" in bad.note


ASKED = {"question": "What?", "answer": "1"}
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "tokens": (ASKED | {"max_tokens": "many"}, "max_tokens is 'many'"),
    "part of a token": (ASKED | {"max_tokens": 4.5}, "max_tokens is 4.5"),
    "tolerance": (ASKED | {"tolerance": "nan"}, "tolerance is 'nan'"),
    "empty text": (ASKED | {"answer": "", "scorer": "contains"}, "a text that is not empty"),
    "empty pattern": (ASKED | {"answer": "", "scorer": "regex"}, "a text that is not empty"),
    "huge repeat": (ASKED | {"answer": "a{99999999999}", "scorer": "regex"}, "no regular expression"),
    "no number": (ASKED | {"answer": "none", "scorer": "number"}, "one number"),
    "no object": (ASKED | {"answer": "none", "scorer": "json"}, "a JSON object"),
    "unseen image": ({"messages": [{"role": "user", "content": "What?"}], "image": "a.png", "answer": "1"}, "beside"),
    "messages": ({"messages": 5, "answer": "1"}, "messages must be a list"),
    "half a pair": ('{"question": "\\ud800", "answer": "1"}', "half of a surrogate pair"),
    "nested": (json.dumps(ASKED)[:-1] + ', "more": ' + "[" * 300 + "]" * 300 + "}", "256 levels deep"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_row_is_one_failed_question(tmp_path: Path, case: str) -> None:
    row, told = BAD[case]
    line = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "my.jsonl").write_text(line + "\n" + json.dumps(ASKED) + "\n")
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, 64, None)
    summary = run(task, tmp_path / "my.jsonl", tmp_path / "run", Stub(lambda conversation, params: "1"))
    assert (score_of(summary, "score"), summary.flags["failed"]) == (50.0, 1)
    assert told in next(iter(answers_of(tmp_path / "run"))).note


def test_a_reply_that_is_nested_without_end_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text('{"question": "What?", "answer": {"a": 1}, "scorer": "json"}\n')
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, None, None)
    deep = Stub(lambda conversation, params: '{"a":' * 900 + "1" + "}" * 900)
    summary = run(task, tmp_path / "my.jsonl", tmp_path / "run", deep)
    assert (score_of(summary, "score"), summary.flags["unparsed"]) == (0.0, 1)


def test_images_in_messages_are_beside_the_file_and_the_system_prompt_counts(tmp_path: Path) -> None:
    content = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": content}], "answer": "1"}
    (tmp_path / "my.jsonl").write_text(json.dumps(row) + "\n")
    model = Stub(lambda conversation, params: "1")
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, None, "Be short.")
    run(task, tmp_path / "my.jsonl", tmp_path / "run", model)
    system, asked = model.asked[0][0]
    assert system.content == ("Be short.",)
    assert asked.images[0].source == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("my.csv", b"question,answer\nWhat, exactly, is it?,1\nTwo?,2\n"),
        ("my.jsonl.gz", gzip.compress(b'{"question"\n{"question": "Two?", "answer": "2"}\n')),
    ],
    ids=["csv", "gz"],
)
def test_a_damaged_row_of_a_table_leaves_the_others(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    task = own_task(tmp_path / name, "exact", 0.0, 64, None)
    summary = run(task, tmp_path / name, tmp_path / "run", Stub(lambda conversation, params: "2"))
    assert (score_of(summary, "score"), summary.flags["failed"]) == (50.0, 1)
    assert f"{name}, row 1" in next(iter(answers_of(tmp_path / "run"))).note


def test_a_pattern_that_takes_too_long_on_a_reply_is_one_failed_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MAX_SECONDS", 0)  # until the system has counted one whole second
    rows = [ASKED | {"answer": answer, "scorer": "regex"} for answer in ("(a+)+b", "a+b?")]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = own_task(tmp_path / "my.jsonl", "exact", 0.0, 64, None)
    reply = "a" * 40
    summary = run(task, tmp_path / "my.jsonl", tmp_path / "run", Stub(lambda conversation, params: reply))
    assert (score_of(summary, "score"), summary.flags["failed"]) == (50.0, 1)
    slow, right = answers_of(tmp_path / "run")
    assert "'(a+)+b' needs over 0 s of processor time on a text of 40 characters" in slow.note
    assert (slow.reply, right.parsed) == (reply, reply)
