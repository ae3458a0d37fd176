"""/v1/responses, by OpenAI's own client, whose types check every event and item."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.conftest import RECEIPT, Running, asking

QUESTION = "What is the total?"
TOOL: Any = {
    "type": "function",
    "name": "today",
    "description": "The date.",
    "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    "strict": True,
}


class Receipt(BaseModel):
    vendor: str
    total: str


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0)


def about(text: str = QUESTION) -> Any:
    image = {"type": "input_image", "image_url": RECEIPT, "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def test_a_reply_is_that_of_chat(client: openai.OpenAI, running: Running) -> None:
    reply = client.responses.create(model="nano", input=about())
    assert reply.output_text == running.llm.chat(asking()["messages"]).text
    assert (reply.status, reply.store) == ("completed", False)
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    plain = client.responses.create(model="nano", input="Hello", instructions="Be kind.", max_output_tokens=3)
    assert (plain.status, plain.incomplete_details and plain.incomplete_details.reason) in (
        ("completed", None),
        ("incomplete", "max_output_tokens"),
    )


def test_a_stream_says_the_same_in_typed_events(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="nano", input=about(), include=["message.output_text.logprobs"])
    with client.responses.stream(model="nano", input=about(), include=["message.output_text.logprobs"]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    for reply in (whole, final):
        tokens = reply.output[0].content[0].logprobs  # type: ignore[union-attr]
        assert "".join(token.token for token in tokens or []).strip() == reply.output_text
    assert final.usage == whole.usage or final.usage is not None


def test_a_schema_is_parsed(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="nano", input=about(), text_format=Receipt, temperature=2.0)
    assert isinstance(parsed.output_parsed, Receipt)
    wanted: Any = {"type": "json_schema", "name": "receipt", "schema": Receipt.model_json_schema()}
    cut = client.responses.create(model="nano", input=about(), max_output_tokens=3, text={"format": wanted})
    assert cut.status == "incomplete"


def test_a_call_goes_out_and_its_result_comes_back(client: openai.OpenAI) -> None:
    reply = client.responses.create(
        model="nano", input=about(), tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = reply.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("today", {})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "2024-05-01"}
    history = [*about(), call.model_dump(exclude_none=True), result]
    answer = client.responses.create(model="nano", input=history, tools=[TOOL], tool_choice="none", max_output_tokens=4)
    assert answer.usage is not None
    assert reply.usage is not None
    assert answer.usage.input_tokens > reply.usage.input_tokens
    named: Any = {"type": "function", "name": "today"}
    stream = client.responses.create(model="nano", input=about(), tools=[TOOL], tool_choice=named, stream=True)
    assert "response.function_call_arguments.done" in [event.type for event in stream]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "input_audio"),
        ({"input": []}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"n": 2}, "n"),
        ({"background": True}, "background"),
    ],
)
def test_what_is_not_there_is_refused_by_name(running: Running, change: dict[str, Any], word: str) -> None:
    answer = running.post("/v1/responses", {"input": "Hello"} | change)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def item(kind: str, call_id: str, name: str = "f") -> dict[str, Any]:
    more = {"name": name, "arguments": "{}"} if kind == "function_call" else {"output": "x"}
    return {"type": kind, "call_id": call_id, **more}


USER, SAYS = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
CALL, RESULT = item("function_call", "c1"), item("function_call_output", "c1")
OTHER, OTHER_RESULT = item("function_call", "c2", "g"), item("function_call_output", "c2")
SILENT = {"type": "reasoning", "summary": []}


@pytest.mark.parametrize("truncation", ["disabled", "auto"])
@pytest.mark.parametrize(
    ("items", "place", "words"),
    [
        ([USER, SILENT, CALL], "input.2", "input.2 (assistant) calls 'f' (id 'c1'), and the conversation ends before"),
        ([USER, CALL, USER], "input.1", "input.2 (user) follows before"),
        ([USER, CALL, OTHER, RESULT], "input.2", "input.2 (assistant) calls 'g'"),
        ([USER, CALL, OTHER, OTHER_RESULT], "input.1", "input.1 (assistant) calls 'f'"),
        ([USER, SAYS, CALL, item("function_call", "c2", "a.b")], "input.3", "input.3 (assistant) calls 'a.b'"),
        ([USER, CALL, RESULT, OTHER_RESULT], "input.3", "input.3 (tool) is one result too many: input.1 makes 1"),
        ([USER, SILENT, RESULT], "input.2", "input.2 (tool) answers no call"),
        ([USER, CALL, SAYS | {"role": "system"}], "input.1", "the conversation ends before"),
        ([SAYS | {"content": [{"type": "input_image", "image_url": RECEIPT}]}], "input.0", "holds an image"),
        ([SILENT], "input", "the conversation has no message"),
        ([USER, SAYS | {"role": "robot"}], "input.1.role", "input.1.role must be"),
        ([USER, SAYS | {"content": [{"type": "audio"}]}], "input.1.content.0", "input.1.content.0 is a part"),
    ],
)
def test_what_is_refused_is_named_as_it_was_sent(
    running: Running, items: list[dict[str, Any]], place: str, words: str, truncation: str
) -> None:
    for more in ({}, {"instructions": "Be kind."}):
        if more and items == [SILENT]:
            continue  # which is a conversation then
        answer = running.post("/v1/responses", {"input": items, "truncation": truncation, **more})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == place
        assert words in error["message"]
        assert "message 1" not in error["message"]
        assert "messages." not in error["message"]


def test_items_of_one_turn_are_one_turn(running: Running) -> None:
    image = about()
    history = [*image, SAYS, CALL, OTHER, RESULT, OTHER_RESULT]
    answer = running.post("/v1/responses", {"input": history, "max_output_tokens": 2})
    calls = [{"id": name, "function": {"name": which, "arguments": "{}"}} for name, which in (("c1", "f"), ("c2", "g"))]
    turns = [
        *asking()["messages"],
        SAYS | {"tool_calls": calls},
        *({"role": "tool", "tool_call_id": name, "content": "x"} for name in ("c1", "c2")),
    ]
    same = running.post("/v1/chat/completions", {"messages": turns, "max_tokens": 2})
    assert answer.json()["usage"]["input_tokens"] == same.json()["usage"]["prompt_tokens"]
    assert answer.json()["output"][0]["content"][0]["text"] == same.json()["choices"][0]["message"]["content"]
