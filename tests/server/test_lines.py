"""Lines of a batch beside the same bodies sent to a running server: the same answers, and the same refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tessera.chat import ChatModel
from tessera.client import Client
from tessera.documents.journal import Journal
from tessera.documents.runner import run
from tessera.errors import UsageError
from tessera.pool import Pool
from tessera.server.jobs import LineJob, digest_of, errors_path, fill, write_outputs
from tessera.server.lines import LineError, Rows, read_line
from tessera.server.names import Names
from tests.server.conftest import RECEIPT, Running, asking

BOOK = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["n"],
        },
    },
}
TOTAL = {"type": "object", "properties": {"total": {"type": "string", "maxLength": 8}}, "required": ["total"]}
ANSWERED: dict[str, dict[str, Any]] = {
    "plain": asking(max_tokens=8),
    "text": {"messages": [{"role": "user", "content": "What is 2 plus 2?"}], "max_tokens": 6},
    "choices": asking(n=3, temperature=1.0, seed=7, max_tokens=8),
    "logprobs": asking(logprobs=True, top_logprobs=2, max_tokens=4),
    "schema": asking(response_format={"type": "json_schema", "json_schema": {"schema": TOTAL}}, max_tokens=40),
    "tool": asking(tools=[BOOK], tool_choice="required", max_tokens=60),
    "mistral": asking(random_seed=3, temperature=0.7, max_tokens=5, safe_prompt=False),
    "stop": asking(stop=["1"], max_tokens=10),
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "model": asking(model="gpt-9"),
    "field": asking(best_of=4),
    "many": asking(n=9),
    "temperature": asking(temperature=99),
    "role": {"messages": [{"role": "wizard", "content": "hi"}]},
    "empty": {"messages": []},
    "schema": asking(response_format={"type": "json_schema"}),
    "logprobs": asking(top_logprobs=2),
    "tools": asking(tools=[{"type": "banana"}]),
    "file": asking("?", "/etc/passwd"),
    "picture": asking("?", "data:image/png;base64,AAAA"),
    "long": {"messages": [{"role": "user", "content": "a " * 9000}]},
    "images": asking("?", *[RECEIPT] * 9),
}
VARYING = ("id", "created", "usage", "tool_calls")


def line(custom_id: str, body: Any, **more: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **more})


def answers(folder: Path, model: ChatModel, lines: list[str], tokenizer: Any = None) -> dict[str, Any]:
    """Run a batch; its rows by custom_id, or by line number."""
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("\n".join(lines) + "\n")
    with Journal.open(folder / "j", {"input": digest_of(source)}) as journal:
        fill(journal, source)
        job = LineJob(source, Rows("job", 1_700_000_000, Names((model.model_name,)), tokenizer))
        run(journal, model, job.ask, job.accept)
        job.close()
        write_outputs(journal, out)
    rows = [json.loads(text) for path in (out, errors_path(out)) if path.exists() for text in path.open()]
    return {row["custom_id"] or row["error"]["line"]: row for row in rows}


def told_by(body: Any) -> Any:
    """A reply without what differs between two requests."""
    return without(body, exact=True)


def without(body: Any, *, exact: bool = False) -> Any:
    if isinstance(body, list):
        return [without(each, exact=exact) for each in body]
    if isinstance(body, float) and not exact:
        return pytest.approx(body, abs=1e-3)  # a log-probability depends a little on what shares a step with it
    if not isinstance(body, dict):
        return body
    kept = {name: without(value, exact=exact) for name, value in body.items() if name not in VARYING}
    calls = [call["function"] for call in body.get("tool_calls") or ()]
    return kept | ({"calls": calls} if calls else {})


@pytest.fixture(params=["here", "at a server"])
def model(running: Running, request: pytest.FixtureRequest) -> Iterator[tuple[ChatModel, Any]]:
    if request.param == "here":
        yield running.llm, running.llm.tokenizer
        return
    with Pool([Client(running.url, max_retries=0)]) as pool:
        yield pool, None


def test_a_line_is_answered_as_its_body_would_be(
    tmp_path: Path, running: Running, model: tuple[ChatModel, Any]
) -> None:
    rows = answers(tmp_path, model[0], [line(name, body) for name, body in ANSWERED.items()], model[1])
    for name, body in ANSWERED.items():
        posted: httpx2.Response = running.post("/v1/chat/completions", body)
        row = rows[name]
        assert row["error"] is None
        assert row["response"]["status_code"] == posted.status_code == 200
        told, wanted = row["response"]["body"], posted.json()
        assert told_by(told) == without(wanted), name
        used, wanted_used = told["usage"], wanted["usage"]
        assert used["completion_tokens"] == wanted_used["completion_tokens"]
        assert set(used["prompt_tokens_details"]) == {"image_tokens"}


def test_a_line_is_refused_as_its_body_would_be(tmp_path: Path, running: Running) -> None:
    rows = answers(tmp_path, running.llm, [line(name, body) for name, body in REFUSED.items()], running.llm.tokenizer)
    for name, body in REFUSED.items():
        posted = running.post("/v1/chat/completions", body)
        assert posted.status_code >= 400, name
        if name == "file":  # the library reads files, and the command line opens the model as the server does
            continue
        assert rows[name]["response"]["status_code"] == posted.status_code, name
        assert rows[name]["response"]["body"] == posted.json(), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"nonsense", "line 7 is not valid JSON"),
        (b'{"custom_id": "a", "body": {}', "line 7 is not valid JSON"),
        (b'"text"', "line 7 is 'text'"),
        (b'{"custom_id": 5, "body": {}}', "custom_id is 5"),
        (b'{"custom_id": "", "body": {}}', "custom_id is ''"),
        (b'{"custom_id": "a"}', "body is None"),
        (b'{"custom_id": "a", "body": []}', "body is"),
        (b'{"custom_id": "a", "method": "GET", "body": {}}', "method is 'GET'"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "/v1/chat/completions"),
        (b'{"custom_id": "a", "ulr": "/v1/embeddings", "body": {}}', "ulr"),
        (b'{"custom_id": "a", "body": {"temperature": 1e999}}', "too large"),
        (b'{"custom_id": "\\ud800", "body": {}}', "line 7"),
        (b"\xff\xfe", "line 7 is not valid JSON"),
        (b"[" * 5000, "line 7 is not valid JSON"),
        (b"[" + b"1," * 400_000, "commas"),
    ],
)
def test_what_is_no_request_is_said_with_its_line(text: bytes, words: str) -> None:
    with pytest.raises(LineError) as caught:
        read_line(text, 7)
    assert words in str(caught.value)
    assert "line 7" in str(caught.value)


def test_every_line_has_a_row_whatever_it_holds(tmp_path: Path, running: Running) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    lines = [
        "\ufeff" + line("first", good), "nonsense", "", json.dumps({"body": good}), line("url", good, url="/v1/x"),
        "   ", line("é\u2028", good), "{}",
    ]  # fmt: skip
    rows = answers(tmp_path, running.llm, lines, running.llm.tokenizer)
    assert set(rows) == {"first", 2, "4", "url", "é\u2028", "8"}
    assert [rows[name]["error"]["code"] for name in (2, "url", "8")] == ["invalid_line", "invalid_url", "invalid_line"]
    assert rows["url"]["error"]["line"] == 5
    assert rows["4"]["response"]["status_code"] == 200


def test_ids_that_occur_twice_are_refused_with_their_lines(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join([line("a", {}), line("b", {}), "", line("a", {"n": 1})]))
    with (
        Journal.open(tmp_path / "j", {}) as journal,
        pytest.raises(UsageError, match="lines 1 and 4 have the same custom_id 'a'"),
    ):
        fill(journal, source)
    source.write_text("\n \n")
    with Journal.open(tmp_path / "j", {}) as journal, pytest.raises(UsageError, match="no requests"):
        fill(journal, source)


def test_a_line_beyond_the_limit_is_a_row_and_the_next_line_is_read(
    tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tessera.server.lines", "tessera.server.jobs"):
        monkeypatch.setattr(f"{module}.MAX_LINE_BYTES", 300)
    monkeypatch.setattr("tessera.server.jobs.PIECE", 64)
    good = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    rows = answers(tmp_path, running.llm, [line("long", good | {"user": "x" * 5000}), line("next", good)])
    assert rows[1]["error"]["message"].startswith("line 1 has more than 300 bytes")
    assert rows["next"]["response"]["status_code"] == 200


def test_an_input_that_changes_under_the_run_ends_it(tmp_path: Path, running: Running) -> None:
    source = tmp_path / "in.jsonl"
    good = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    source.write_text(line("a", good) + "\n" + line("b", good) + "\n")
    with Journal.open(tmp_path / "j", {}) as journal:
        fill(journal, source)
        source.write_text(source.read_text().replace("hi", "ho"))
        job = LineJob(source, Rows("job", 1, Names(("nano",)), running.llm.tokenizer))
        with pytest.raises(UsageError, match="changed"):
            run(journal, running.llm, job.ask, job.accept)
        job.close()
        assert journal.counts().failed == 0


def test_two_runs_that_begin_at_once_add_the_lines_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(line("a", {}) + "\n" + line("b", {}) + "\n")
    with Journal.open(tmp_path / "j", {}) as one, Journal.open(tmp_path / "j", {}) as two:
        add = one.add

        def add_late(items: Any) -> int:
            fill(two, source)
            return add(items)

        monkeypatch.setattr(one, "add", add_late)
        fill(one, source)
        assert one.counts().total == 2


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    assert digest_of(tmp_path / "f") == hashlib.sha256(b"abc" * 1000).hexdigest()
