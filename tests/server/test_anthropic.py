"""/v1/messages, by Anthropic's own client, whose types check every block and event.

The client takes three seconds to import, so the tests import it that need it, and not whoever collects them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from tests.server.conftest import RECEIPT, Running, asking

if TYPE_CHECKING:
    import anthropic

QUESTION = "What is the total?"
IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": RECEIPT.partition("base64,")[2]},
}
CONVERT: Any = {
    "name": "convert",
    "description": "Convert an amount.",
    "input_schema": {
        "type": "object",
        "properties": {"to": {"enum": ["EUR", "USD"]}},
        "required": ["to"],
        "additionalProperties": False,
    },
    "cache_control": {"type": "ephemeral"},
}
NOW: Any = {"name": "now", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}


@pytest.fixture
def client(running: Running) -> anthropic.Anthropic:
    import anthropic

    return anthropic.Anthropic(base_url=running.url, api_key="any", max_retries=0)


def about(text: str = QUESTION) -> Any:
    return [{"role": "user", "content": [IMAGE, {"type": "text", "text": text}]}]


def test_a_reply_is_that_of_chat(client: anthropic.Anthropic, running: Running) -> None:
    reply = client.messages.create(model="nano", max_tokens=50, messages=about())
    chat = running.llm.chat(asking()["messages"])
    assert [block.text for block in reply.content if block.type == "text"] == [chat.text]
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", "nano")
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    cached = reply.usage.cache_read_input_tokens or 0
    assert reply.usage.input_tokens + cached == chat.usage.prompt_tokens
    assert reply.usage.output_tokens == chat.usage.completion_tokens
    assert reply._request_id


def test_a_stream_says_the_same_in_typed_events(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="nano", max_tokens=50, messages=about())
    with client.messages.stream(model="nano", max_tokens=50, messages=about()) as stream:
        kinds = [event.type for event in stream if event.type not in ("text", "ping")]
        final = stream.get_final_message()
    assert final.content[0].type == whole.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_why_a_reply_ended(client: anthropic.Anthropic, stream: bool) -> None:
    def create(**options: Any) -> anthropic.types.Message:
        options = {"model": "nano", "max_tokens": 50, "messages": about()} | options
        if not stream:
            return client.messages.create(**options)
        with client.messages.stream(**options) as events:
            return events.get_final_message()

    text = create().content[0].text  # type: ignore[union-attr]
    assert create(max_tokens=1).stop_reason == "max_tokens"
    stopped = create(stop_sequences=["nowhere", text[2:4]])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", text[2:4])
    assert stopped.content[0].text == text[: text.index(text[2:4])]  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_read(client: anthropic.Anthropic, stream: bool) -> None:
    options: Any = {"model": "nano", "max_tokens": 150, "tools": [CONVERT, NOW]}
    options["tool_choice"] = {"type": "tool", "name": "convert"}
    if stream:
        with client.messages.stream(messages=about(), **options) as events:
            reply = events.get_final_message()
    else:
        reply = client.messages.create(messages=about(), **options)
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert (reply.stop_reason, call.name) == ("tool_use", "convert")
    assert call.input in ({"to": "EUR"}, {"to": "USD"})
    answered = [
        *about(),
        {"role": "assistant", "content": [block.model_dump() for block in reply.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "16.20"}]},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    after = client.messages.create(model="nano", max_tokens=5, messages=answered, tools=[CONVERT, NOW])
    assert after.stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_choices_of_tools_are_kept(client: anthropic.Anthropic) -> None:
    options: Any = {"model": "nano", "max_tokens": 150, "messages": about(), "tools": [NOW, CONVERT]}
    called = client.messages.create(**options, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert [block.type for block in called.content].count("tool_use") == 1
    silent = client.messages.create(**options, tool_choice={"type": "none"})
    assert all(block.type == "text" for block in silent.content)


def test_tokens_are_counted_as_a_message_reports_them(client: anthropic.Anthropic) -> None:
    options: Any = {"model": "nano", "messages": about(), "system": [{"type": "text", "text": "Be brief."}]}
    for tools in ([], [CONVERT]):
        reply = client.messages.create(max_tokens=1, tools=tools, **options)
        counted = client.messages.count_tokens(tools=tools, **options)
        assert counted.input_tokens == reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)


def test_what_the_client_may_say_beside_is_taken(client: anthropic.Anthropic) -> None:
    beside: Any = {"cache_control": {"type": "ephemeral"}, "output_config": {"effort": "low"}}
    reply = client.messages.create(model="nano", max_tokens=1, messages=about(), **beside)
    counted = client.messages.count_tokens(model="nano", messages=about(), **beside)
    assert counted.input_tokens == reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)


def test_a_failed_call_without_words_is_told_as_failed(client: anthropic.Anthropic) -> None:
    def counted(**result: Any) -> int:
        call: Any = {"type": "tool_use", "id": "a", "name": "now", "input": {}}
        told: Any = [{"type": "tool_result", "tool_use_id": "a", **result}]
        messages: Any = [*about(), {"role": "assistant", "content": [call]}, {"role": "user", "content": told}]
        return client.messages.count_tokens(model="nano", messages=messages).input_tokens

    assert counted(is_error=True) > counted()


def test_the_system_prompt_is_the_chats(client: anthropic.Anthropic, running: Running) -> None:
    reply = client.messages.create(model="nano", max_tokens=8, system="Be brief.", messages=about())
    messages = [{"role": "system", "content": "Be brief."}, *asking()["messages"]]
    assert (
        reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)
        == running.llm.chat(messages).usage.prompt_tokens
    )


def test_a_schema_binds_the_reply(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    output = {"format": {"type": "json_schema", "schema": schema}}
    reply = client.messages.create(model="nano", max_tokens=40, messages=about(), extra_body={"output_config": output})
    assert isinstance(json.loads(reply.content[0].text)["ok"], bool)  # type: ignore[union-attr]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no length": ({"max_tokens": None}, "max_tokens"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    "a file": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
        "messages.0.content.0.source",
    ),
    "a document": (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        "messages.0.content.0",
    ),
    "a block without a type": ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0"),
    "a tool of the vendor's": ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
    "a choice": ({"tools": [NOW], "tool_choice": {"type": "sometimes"}}, "tool_choice.type"),
    "a choice of a list": ({"tools": [NOW], "tool_choice": {"type": ["auto"]}}, "tool_choice.type"),
    "a choice of no name": ({"tools": [NOW], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    "a schema of text": (
        {"output_config": {"format": {"type": "json_schema", "schema": "x"}}},
        "output_config.format",
    ),
    "a schema of a list": ({"output_format": {"type": "json_schema", "schema": [1]}}, "output_format"),
    "servers of tools": ({"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]}, "mcp_servers"),
    "thinking": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    "too hot": ({"temperature": 99}, "temperature"),
    "a result of nothing": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
        "tool_use_id",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named_in_the_clients_shape(running: Running, name: str) -> None:
    given, words = WRONG[name]
    body = {"model": "nano", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]} | given
    answer = httpx.post(f"{running.url}/v1/messages", json=body)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (400, "error")
    assert told["error"]["type"] == "invalid_request_error"
    assert words in told["error"]["message"]
    assert told["request_id"] == answer.headers["request-id"]


ODD: tuple[Any, ...] = (None, True, 1, -1.5, "x", "", [], {}, [None], {"type": []}, {"type": "x"})


@pytest.mark.parametrize("route", ["messages", "messages/count_tokens"])
def test_no_odd_value_anywhere_is_a_fault_of_the_server(running: Running, route: str) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    call = {"type": "tool_use", "id": "a", "name": "now", "input": {}}
    told = {"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": [{"type": "text", "text": "x"}]}
    said += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [told]}]
    body = {"model": "nano", "max_tokens": 1, "messages": said, "system": [{"type": "text", "text": "x"}]}
    body |= {"tools": [NOW], "tool_choice": {"type": "tool", "name": "now", "disable_parallel_tool_use": True}}
    body |= {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}}
    body |= {"thinking": {"type": "disabled"}, "stop_sequences": ["x"], "metadata": {"user_id": "x"}}
    with httpx.Client(timeout=60) as client:
        for place in places(body):
            for value in ODD:
                answer = client.post(f"{running.url}/v1/{route}", json=changed(body, place, value))
                assert answer.status_code < 500, (place, value, answer.text)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside of a body."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    key, *rest = place
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[key] = changed(copy[key], tuple(rest), value) if rest else value
    return copy


def test_errors_are_the_clients_own_exceptions(client: anthropic.Anthropic) -> None:
    import anthropic

    with pytest.raises(anthropic.NotFoundError, match="not served here"):
        client.messages.create(model="claude", max_tokens=5, messages=about())
    broken = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="nano", max_tokens=5, messages=[{"role": "user", "content": [broken]}])
