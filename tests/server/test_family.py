"""A small random Ministral 3, from its folder to an answer: described, served and asked, in both layouts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tessera.chat import Completion, Delta, Timings, Usage
from tessera.cli.app import app
from tessera.client import Client
from tessera.model.config import ModelConfig
from tessera.sampling import Grammar
from tessera.server.lines import Line, Rows
from tessera.server.names import Names
from tessera.server.routes import chat, messages, responses
from tessera.server.thoughts import ThoughtReader, without_thoughts
from tessera.summary import describe
from tessera.weights.convert import convert
from tests.server.conftest import Running, asking, run_server
from tests.tokenizers import NANO, ours, tekken
from tests.weights.checkpoints import LLAVA, MERGED, TIED, write_mistral_folder

# Each model's kind of config, small, and its version of the chat format. Pixtral Large has Pixtral's layout and wider
# groups of heads; its own tokenizer, SentencePiece, is in test_tokens.
KINDS: dict[str, tuple[ModelConfig, str]] = {
    "pixtral 12b": (LLAVA, "v3"),
    "pixtral large": (dataclasses.replace(LLAVA, n_heads=6, n_kv_heads=1, head_dim=16), "v7"),
    "small 3.1": (MERGED, "v7"),
    "small 3.2": (MERGED, "v11"),
    "ministral 3": (TIED, "v13"),
}


def write_model(folder: Path, kind: str = "ministral 3") -> Path:
    """A random model of a kind in the official layout, with a tokenizer of its version of the format."""
    config, version = KINDS[kind]
    vocab = json.loads(NANO.read_text())["config"]["default_vocab_size"]
    write_mistral_folder(folder, dataclasses.replace(config, vocab_size=vocab))
    shutil.copyfile(tekken(version), folder / "tekken.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_knows_every_kind(kind: str, tmp_path: Path) -> None:
    """`info`, `convert` into the other layout, `quantize` of that, and `serve` of all three."""

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    folders = {"own": write_model(tmp_path / "own", kind), "hf": tmp_path / "hf", "bits": tmp_path / "bits"}
    run("convert", folders["own"], folders["hf"], "--to", "hf")
    run("quantize", folders["hf"], folders["bits"], "--bits", "8")
    told = {name: json.loads(run("info", folder, "--json")) for name, folder in folders.items()}
    parameters = {name: each["parameters"] for name, each in told.items()}
    assert parameters["own"] == parameters["hf"]
    replies = {}
    for name, folder in folders.items():
        running = run_server(model=str(folder), device="cpu")
        try:
            asked = asking(max_tokens=4, ignore_eos=True, temperature=0, logprobs=True)
            response = running.post("/v1/chat/completions", asked)
        finally:
            running.stop()
        assert response.status_code == 200, response.text
        replies[name] = [each["logprob"] for each in response.json()["choices"][0]["logprobs"]["content"]]
    assert replies["hf"] == replies["own"]  # the same numbers in another order
    assert len(replies["bits"]) == len(replies["own"]) > 0
    assert replies["bits"][0] == pytest.approx(replies["own"][0], abs=0.5)


@pytest.mark.parametrize("layout", ["mistral", "hf"])
def test_ministral_is_described_served_and_asked(layout: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "own")
    if layout != "mistral":
        convert(folder, tmp_path / "other", layout)
        folder = tmp_path / "other"
    summary = describe(folder)
    assert summary.layout == layout
    running = run_server(model=str(folder), device="cpu")
    try:
        response = running.post("/v1/chat/completions", asking(max_tokens=3, ignore_eos=True, temperature=0))
    finally:
        running.stop()
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 3


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = run_server(model=str(write_model(tmp_path_factory.mktemp("ministral") / "own")), device="cpu")
    yield running
    running.stop()


def thought(
    running: Running, monkeypatch: pytest.MonkeyPatch, reply: str, route: Any = chat, sampling: str = "chat_sampling"
) -> None:
    """Make every reply of a route this one: marks by name, and text in quotes, as tokens of a grammar."""
    lark = reply
    for mark in ("[THINK]", "[/THINK]"):
        lark = lark.replace(mark, f"<[{running.llm.tokenizer.special_id(mark)}]>")
    forced = Grammar("tool_calls", f"start: {lark}")  # the one kind that may name tokens
    sampled = getattr(route, sampling)
    monkeypatch.setattr(route, sampling, lambda body: dataclasses.replace(sampled(body), grammar=forced))


def streamed(running: Running, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = running.post("/v1/chat/completions", {**body, "stream": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return [event["choices"][0]["delta"] for event in events if event["choices"]]


ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "temperature": 0}


def test_thoughts_are_apart_from_the_answer(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    thought(thinking, monkeypatch, '[THINK] "Two and two. É" [/THINK] "It is 4."')
    whole = thinking.post("/v1/chat/completions", {**ASKED, "logprobs": True}).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("It is 4.", "stop")
    assert whole["message"]["reasoning_content"] == whole["message"]["reasoning"] == "Two and two. É"
    assert b"".join(bytes(each["bytes"]) for each in whole["logprobs"]["content"]).decode() == "Two and two. ÉIt is 4."
    deltas = streamed(thinking, {**ASKED, "stop": ["K]X"]})  # for which the end of a mark is held back
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Two and two. É"
    assert "".join(delta.get("content", "") for delta in deltas) == "It is 4."
    first_text = next(place for place, delta in enumerate(deltas) if delta.get("content"))
    assert not any("reasoning" in delta for delta in deltas[first_text:])
    with Client(thinking.url) as client:
        reply = client.chat(ASKED["messages"])
    assert (reply.text, reply.reasoning) == ("It is 4.", "Two and two. É")


def events_of(running: Running, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = running.post(path, {**body, "stream": True}).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_messages_have_thoughts_as_blocks_of_their_own(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    thought(thinking, monkeypatch, '[THINK] "Two and two. É" [/THINK] "It is 4."', messages, "messages_sampling")
    body = {**ASKED, "max_tokens": 200}
    told = thinking.post("/v1/messages", body).json()
    assert told["content"] == [
        {"type": "thinking", "thinking": "Two and two. É", "signature": ""},
        {"type": "text", "text": "It is 4.", "citations": None},
    ]
    anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")
    assert [block.type for block in anthropic.types.Message.model_validate(told).content] == ["thinking", "text"]


def test_the_libraries_join_streamed_thoughts(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")
    openai = pytest.importorskip("openai", reason="openai is not installed")
    reply = '[THINK] "Two and two. É" [/THINK] "It is 4."'
    thought(thinking, monkeypatch, reply, messages, "messages_sampling")
    thought(thinking, monkeypatch, reply, responses, "response_sampling")
    asked = ASKED["messages"]
    with (
        anthropic.Anthropic(base_url=thinking.url, api_key="none") as client,
        client.messages.stream(model="own", max_tokens=200, messages=asked) as stream,
    ):
        blocks = stream.get_final_message().content
    assert [(block.type, getattr(block, block.type)) for block in blocks] == [
        ("thinking", "Two and two. É"), ("text", "It is 4."),
    ]  # fmt: skip
    with (
        openai.OpenAI(base_url=f"{thinking.url}/v1", api_key="none") as client,
        client.responses.stream(model="own", input="What is 2 + 2?") as stream,
    ):
        events = [event.type for event in stream]
        told = stream.get_final_response()
    assert [item.type for item in told.output] == ["reasoning", "message"]
    assert (told.output[0].content[0].text, told.output_text) == ("Two and two. É", "It is 4.")
    assert "response.reasoning_text.delta" in events


def test_messages_stream_thoughts_before_the_answer(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    thought(thinking, monkeypatch, '[THINK] "Two and two. É" [/THINK] "It is 4."', messages, "messages_sampling")
    events = events_of(thinking, "/v1/messages", {**ASKED, "max_tokens": 200, "stop_sequences": ["K]X"]})
    blocks: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks[event["index"]] = dict(event["content_block"])
        elif event["type"] == "content_block_delta":
            kind = event["delta"]["type"].removesuffix("_delta")
            blocks[event["index"]][kind] += event["delta"][kind]
    assert [(block["type"], block[block["type"]]) for block in blocks.values()] == [
        ("thinking", "Two and two. É"), ("text", "It is 4."),
    ]  # fmt: skip
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == [0, 1]


@pytest.mark.parametrize("stop", [[], ["K]X"]], ids=["free", "held"])
def test_responses_have_thoughts_as_items_of_their_own(
    stop: list[str], thinking: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    thought(thinking, monkeypatch, '[THINK] "Two and two. É" [/THINK] "It is 4."', responses, "response_sampling")
    body = {"input": "What is 2 + 2?", "temperature": 0, "include": ["message.output_text.logprobs"], "stop": stop}
    told = thinking.post("/v1/responses", body).json()
    reasoning, message = told["output"]
    assert (reasoning["type"], reasoning["summary"]) == ("reasoning", [])
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Two and two. É"}]
    part = message["content"][0]
    assert part["text"] == "It is 4."
    assert b"".join(bytes(each["bytes"]) for each in part["logprobs"]) == b"It is 4."  # of the answer alone
    usage = told["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == usage["output_tokens"] - len(part["logprobs"]) > 3
    events = events_of(thinking, "/v1/responses", body)
    last = events[-1]["response"]
    assert last["usage"]["output_tokens_details"] == usage["output_tokens_details"]
    for one, other in zip(last["output"], told["output"], strict=True):
        assert {**one, "id": ""} == {**other, "id": ""}
    said = {kind: "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")
            for kind in ("reasoning_text", "output_text")}  # fmt: skip
    assert said == {"reasoning_text": "Two and two. É", "output_text": "It is 4."}
    done = [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"]
    assert done == ["reasoning", "message"]
    types = pytest.importorskip("openai.types.responses", reason="openai is not installed")
    assert [item.type for item in types.Response.model_validate(told).output] == ["reasoning", "message"]
    # What came back may be sent again; a model does not see its earlier thoughts.
    again = [{"role": "user", "content": "What is 2 + 2?"}, reasoning, message, {"role": "user", "content": "Sure?"}]
    assert thinking.post("/v1/responses", {**body, "input": again}).status_code == 200


def test_a_thought_that_is_cut_is_no_answer(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    thought(thinking, monkeypatch, '[THINK] "One, two, three, four, five" [/THINK] "6"')
    whole = thinking.post("/v1/chat/completions", {**ASKED, "max_tokens": 5}).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("", "length")
    assert "One, two, three, four, five".startswith(whole["message"]["reasoning_content"])


def test_marks_as_ordinary_text_are_part_of_the_answer(thinking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "It writes [THINK] and then [/THINK]."
    forced = Grammar("tool_calls", f"start: {json.dumps(said)}")
    sampled = chat.chat_sampling
    monkeypatch.setattr(chat, "chat_sampling", lambda body: dataclasses.replace(sampled(body), grammar=forced))
    message = thinking.post("/v1/chat/completions", ASKED).json()["choices"][0]["message"]
    assert (message["content"], "reasoning" in message) == (said, False)
    assert "".join(delta.get("content", "") for delta in streamed(thinking, ASKED)) == said


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_however_the_text_is_cut_the_thoughts_are_the_same(size: int) -> None:
    """Tokens may come before their text, as with stop strings; two thoughts, and an end without a beginning."""
    tokenizer = ours("v13")
    opening, closing = (tokenizer.special_id(mark) or 0 for mark in ("[THINK]", "[/THINK]"))
    text = "a[/THINK]b[THINK]c [THIN d[/THINK]e[THINK]f"
    ids = (closing, opening, closing, opening)
    reader = ThoughtReader(tokenizer)
    parts = [text[place : place + size] for place in range(0, len(text), size)]
    deltas = [reader.read(Delta(part, ids if not place else ())) for place, part in enumerate(parts)]
    deltas.append(reader.read(Delta("", finish_reason="stop")))
    assert "".join(delta.text for delta in deltas) == "abe"
    assert "".join(delta.reasoning for delta in deltas) == "c [THIN df"


def test_a_batch_has_the_thoughts_apart_too() -> None:
    tokenizer = ours("v13")
    opening, closing = (tokenizer.special_id(mark) or 0 for mark in ("[THINK]", "[/THINK]"))
    said = Completion("[THINK]hm[/THINK]4", "stop", Usage(), Timings(), "m", (opening, 1000, closing, 1001))
    rows = Rows("job", 0, Names(("m",)), tokenizer)
    told = json.loads(rows.answered(Line(1, "a", {}), [said], logprobs=False))
    message = told["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("4", "hm")
    assert without_thoughts(without_thoughts(said, tokenizer), tokenizer).text == "4"


def test_marks_of_reasoning_are_shown() -> None:
    """What a model thinks must not run into its answer."""
    tokenizer = ours("v13")
    start, end = (tokenizer.special_id(mark) for mark in ("[THINK]", "[/THINK]"))
    assert start is not None
    assert end is not None
    assert {start, end}.isdisjoint(tokenizer.prompt_only_ids)
    stream = tokenizer.detokenizer()
    a, b = tokenizer.encode_text("a")[-1], tokenizer.encode_text("b")[-1]
    assert "".join(map(stream.add, (start, a, end, b))) == "[THINK]a[/THINK]b"
    assert not ours("v3").thought_marks
