"""Replies in a wanted form, and tool calls, as clients ask for them. Nano knows no tools: forms are tested."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tests.server.conftest import RECEIPT_TOKENS, Running, asking

FIELDS = ("vendor", "date", "total")
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string", "maxLength": 40} for name in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}
HOT = {"temperature": 3.0, "seed": 1}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "receipt", "strict": True, "schema": SCHEMA}}


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


TOOLS = [
    function("convert", amount={"type": "number", "maximum": 99}, currency={"enum": ["EUR", "USD"]}),
    function("today"),
]
NAMED = {"type": "function", "function": {"name": "today"}}


def told(running: Running, body: dict[str, Any]) -> str:
    answer = running.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


@pytest.mark.parametrize(
    "field",
    [
        {"response_format": JSON_SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}},
        {"guided_json": SCHEMA},
    ],
)
def test_a_schema_is_kept_however_it_is_sent(running: Running, field: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(told(running, asking(**field, **HOT))), SCHEMA)


def test_any_object_is_json(running: Running) -> None:
    for field in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        body = asking("Give vendor, date and total as JSON.", **field, max_tokens=400)
        assert isinstance(json.loads(told(running, body)), dict)


@pytest.mark.parametrize(
    ("field", "pattern"),
    [
        ({"structured_outputs": {"regex": "[0-9]{2}\\.[0-9]{2}"}}, r"[0-9]{2}\.[0-9]{2}"),
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
        ({"structured_outputs": {"choice": ["yes", "no (or so)"]}}, r"yes|no \(or so\)"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"grammar": 'start: "x" /[0-9]{1,3}/ "!"'}}, "x[0-9]{1,3}!"),
        ({"guided_grammar": 'root ::= "<" digit digit ">"\ndigit ::= [0-9]'}, "<[0-9]{2}>"),
    ],
)
def test_other_forms(running: Running, field: dict[str, Any], pattern: str) -> None:
    assert re.fullmatch(pattern, told(running, asking(**field)))


def test_an_old_field_is_honoured_and_said_to_be_deprecated(running: Running) -> None:
    for stream in (False, True):
        old = running.post("/v1/chat/completions", asking(guided_choice=["a"], stream=stream))
        assert "deprecation" in old.headers
        new = running.post("/v1/chat/completions", asking(structured_outputs={"choice": ["a"]}, stream=stream))
        assert "deprecation" not in new.headers


def test_text_completions_take_a_grammar(running: Running) -> None:
    reply = running.post("/v1/completions", {"prompt": "Total", "structured_outputs": {"choice": ["4", "7"]}})
    assert reply.json()["choices"][0]["text"] in ("4", "7")


def test_only_max_tokens_cuts_a_form_short(running: Running) -> None:
    reply = running.post("/v1/chat/completions", asking(response_format=JSON_SCHEMA, max_tokens=5)).json()
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ({"response_format": JSON_SCHEMA, "guided_regex": "a"}, "keep one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "keep one"),
        ({"response_format": {"type": "json_schema"}}, "schema is required"),
        ({"response_format": {"type": "xml"}}, "must be one of"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "not supported"),
        ({"guided_regex": "("}, "refused"),
        ({"guided_json": "{"}, "not valid JSON"),
        ({"guided_choice": []}, "at least one"),
        ({"guided_grammar": "root ::= x"}, "GBNF"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "not known"),
        ({"logit_bias": {"999999999": 1}}, "vocabulary"),
        ({"logit_bias": {"5": 101}}, "at most 100"),
        ({"logit_bias": {"a": 1}}, "whole number"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "not one of the tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tool 0"),
        ({"tools": [function("bad", x={"$ref": "http://example.com/x"})]}, "bad"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(running: Running, field: dict[str, Any], word: str) -> None:
    answer = running.post("/v1/chat/completions", asking(**field))
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
    assert len(answer.text) < 700


def test_a_bias_decides(running: Running) -> None:
    ids = running.post("/tokenize", {"prompt": "x", "add_special_tokens": False}).json()["tokens"]
    assert told(running, asking(logit_bias={str(ids[0]): 100}, max_tokens=4, stop=["xxx"])) == ""


@pytest.mark.parametrize(("choice", "names"), [("required", {"convert", "today"}), ("any", None), (NAMED, {"today"})])
def test_a_call_follows_its_schema(running: Running, choice: Any, names: set[str] | None) -> None:
    body = asking(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=300, **HOT)
    reply = running.post("/v1/chat/completions", body).json()["choices"][0]
    assert reply["finish_reason"] == "tool_calls"
    assert reply["message"]["content"] == ""
    (call,) = reply["message"]["tool_calls"]
    assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
    assert call["function"]["name"] in (names or {"convert", "today"})
    schema = next(t for t in TOOLS if t["function"]["name"] == call["function"]["name"])["function"]["parameters"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema)


def test_a_streamed_call_is_one_delta(running: Running) -> None:
    body = asking(tools=TOOLS, tool_choice=NAMED, parallel_tool_calls=False, stream=True, max_tokens=100)
    lines = running.post("/v1/chat/completions", body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "today")]
    assert json.loads(calls[0]["function"]["arguments"]) == {}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(event["choices"][0]["delta"].get("content") for event in events)


def test_a_choice_of_none_leaves_text(running: Running) -> None:
    reply = running.post("/v1/chat/completions", asking(tools=TOOLS, tool_choice="none", max_tokens=8)).json()
    assert "tool_calls" not in reply["choices"][0]["message"]


def test_a_result_goes_back_under_a_foreign_id(running: Running) -> None:
    """The image is still in the context, and the id of another server is taken."""
    call = {"id": "call_" + "a" * 24, "type": "function", "function": {"name": "today", "arguments": "{}"}}
    first = asking()["messages"]
    more = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "2024-05-01"},
    ]
    answer = running.post("/v1/chat/completions", {"messages": first + more, "tools": TOOLS, "max_tokens": 5})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] == RECEIPT_TOKENS


def test_the_last_message_is_continued(running: Running) -> None:
    begun = {"role": "assistant", "content": "The total", "prefix": True}
    messages = [*asking()["messages"], begun]
    answer = running.post("/v1/chat/completions", {"messages": messages, "continue_final_message": True})
    assert answer.status_code == 200
    for wrong in ({"messages": messages, "continue_final_message": False}, asking(continue_final_message=True)):
        assert "continue_final_message" in running.post("/v1/chat/completions", wrong).json()["error"]["message"]
    messages.insert(0, begun)
    assert "messages.0.prefix" in running.post("/v1/chat/completions", {"messages": messages}).text


# As clients write them: zod 4's toJSONSchema, pydantic 2, transformers' get_json_schema, and servers of the MCP.
REAL_TOOLS: dict[str, dict[str, Any]] = {
    "zod_record": {"parameters": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["m"],
        "properties": {"m": {"type": "object", "propertyNames": {"type": "string"},
                             "additionalProperties": {"type": "string"}}},
        "additionalProperties": False}},
    "zod_email": {"parameters": {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["email", "face"],
        "properties": {
            "email": {"type": "string", "format": "email", "pattern": "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)"
                      "[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"},
            "face": {"type": "string", "format": "emoji",
                     "pattern": "^(\\p{Extended_Pictographic}|\\p{Emoji_Component})+$"},
            "id": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}}}},
    "pydantic_decimal": {"parameters": {
        "type": "object", "title": "Args", "required": ["price", "kind"],
        "properties": {
            "price": {"anyOf": [{"type": "number"}, {"type": "string", "pattern":
                      "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"}], "title": "Price"},
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "default": []},
            "secret": {"type": "string", "format": "password", "writeOnly": True},
            "where": {"anyOf": [{"type": "string", "format": "path"}, {"type": "null"}], "default": None},
            "raw": {"type": "string", "format": "binary"},
            "kind": {"$ref": "#/$defs/Kind"}},
        "$defs": {"Kind": {"type": "string", "enum": ["a", "b"]}}}},
    "transformers_return": {"description": "d", "return": {"type": "string", "description": "r"}, "parameters": {
        "type": "object", "required": ["x"], "properties": {"x": {"type": "integer", "description": "x"}}}},
    "mcp_odd": {"description": None, "strict": None, "annotations": {"readOnlyHint": True}, "output_schema": None,
        "parameters": {
            "type": "object", "$schema": "http://json-schema.org/schema#", "required": None,
            "properties": {
                "a": {"type": None, "description": None},
                "b": {"oneOf": [{"type": "object", "required": ["x"]}, {"type": "object", "required": ["y"]}]},
                "c": {"type": "string", "format": "uri-reference"},
                "d": {"not": {"type": "null"}},
                "e": {"type": "array", "contains": {"type": "integer"}},
                "g": {"type": "object", "properties": None, "dependentRequired": {"p": ["q"]}}}}},
    "no_parameters": {"parameters": None},
}  # fmt: skip


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_one_unusual_tool_of_many_refuses_no_request(running: Running, choice: str) -> None:
    tools = [
        {"type": "function", "function": {"name": name, **fields}, "cache_control": None}
        for name, fields in REAL_TOOLS.items()
    ]
    body = asking(tools=[*TOOLS, *tools], tool_choice=choice, max_tokens=3)
    answer = running.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    flat = [{"type": "function", "name": name, **fields} for name, fields in REAL_TOOLS.items()]
    body = {"input": "x", "tools": flat, "tool_choice": choice, "max_output_tokens": 3}
    answer = running.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["zod_record", "pydantic_decimal", "transformers_return"])
def test_what_of_such_a_tool_can_be_followed_is(running: Running, name: str) -> None:
    tool = {"type": "function", "function": {"name": name, **REAL_TOOLS[name]}}
    body = asking(
        tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=600, temperature=1.0, seed=3
    )
    reply = running.post("/v1/chat/completions", body).json()["choices"][0]
    if reply["finish_reason"] == "length":
        pytest.skip("nano, which knows no tools, wrote on to the limit")
    schema = json.loads(json.dumps(REAL_TOOLS[name]["parameters"]))
    schema["properties"].get("tags", {}).pop("uniqueItems", None)
    (call,) = reply["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema)


def test_a_strict_tool_is_kept_or_refused_by_name(running: Running) -> None:
    fields = {"strict": True, **REAL_TOOLS["pydantic_decimal"]}
    tool = {"type": "function", "function": {"name": "priced", **fields}}
    answer = running.post("/v1/chat/completions", asking(tools=[tool]))
    assert answer.status_code == 400
    assert "schema of tool 'priced'" in answer.json()["error"]["message"]


def test_integers_beyond_2_to_53_are_exact_or_refused(running: Running) -> None:
    for schema in ({"const": 9007199254740993}, {"type": "integer", "minimum": 9007199254740993}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = running.post("/v1/chat/completions", asking(response_format=form))
        assert answer.status_code == 400
        assert "9007199254740993" in answer.json()["error"]["message"]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": 9007199254740994}}}
    assert told(running, asking(response_format=form)) == "9007199254740994"


def call_of(call_id: str, name: str = "today") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_histories_of_agents_are_taken(running: Running) -> None:
    first = asking()["messages"]
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "ok"}]}
    image = first[0]["content"][0]
    for more in (
        [{"role": "assistant", "content": ""}, {"role": "user", "content": "B"}],
        [{"role": "assistant"}, {"role": "user", "content": "B"}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "user", "content": "B"}],
        [{"role": "assistant", "content": "I look.", "tool_calls": [call_of("c1")]}, result],
        [
            {"role": "assistant", "content": "B"},
            {"role": "developer", "content": "C"},
            {"role": "user", "content": "D"},
        ],
        [{"role": "assistant", "tool_calls": [call_of("c1")]}, result | {"content": [image]}],
    ):
        answer = running.post("/v1/chat/completions", {"messages": first + more, "max_tokens": 2})
        assert answer.status_code == 200, answer.text
        images = 1 + (more[-1]["content"] == [image])
        assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] == RECEIPT_TOKENS * images


def test_a_message_that_cannot_be_is_named_with_its_field(running: Running) -> None:
    for more, index, words in (
        ([{"role": "assistant", "tool_calls": [call_of("c1")]}], 1, "the conversation ends before"),
        ([{"role": "assistant", "tool_calls": [call_of("c1", "a.b")]}], 1, "messages.1 (assistant) calls 'a.b'"),
        ([{"role": "assistant", "content": "x"}, {"role": "tool", "tool_call_id": "c1", "content": "y"}], 2, "no call"),
    ):
        answer = running.post("/v1/chat/completions", {"messages": asking()["messages"] + more})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], words in error["message"]) == (f"messages.{index}", True)
    old = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    answer = running.post("/v1/chat/completions", {"messages": [*asking()["messages"], old]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1.function_call")


def test_responses_take_their_own_empty_answer_and_items_of_one_turn(running: Running) -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
    asked = {"role": "user", "content": "A"}
    call = {"type": "function_call", "call_id": "c1", "name": "today", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    developer = {"role": "developer", "content": "C"}
    for items in ([asked, said, asked], [asked, spoken, call, result], [asked, spoken, developer, asked]):
        answer = running.post("/v1/responses", {"input": items, "max_output_tokens": 2})
        assert answer.status_code == 200, answer.text
