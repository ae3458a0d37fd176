"""Rows of one's own questions: a damaged one is a failed question that says why, and the others are asked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tessera.evals.run import answers_of
from tessera.evals.tasks.own import own_task
from tests.evals.stub import Stub
from tests.evals.test_run import run, score_of

ASKED = {"question": "What?", "answer": "1"}
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "tokens": (ASKED | {"max_tokens": "many"}, "max_tokens is 'many'"),
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
