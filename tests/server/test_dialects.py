"""Requests in other servers' words: honoured where they mean the same, refused by name where not, never ignored."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tessera.errors import PromptTooLongError
from tessera.messages import Message
from tessera.prompt import Prompt
from tessera.server.schemas import NEUTRAL
from tessera.server.truncation import longest_that_fits
from tests.server.conftest import Running, asking
from tests.server.test_hostile import ROUTES, Route, routes
from tests.server.test_http import assert_refused
from tests.server.test_structured import TOOLS, told

SCHEMA = {
    "type": "object",
    "properties": {"z": {"type": "boolean"}},
    "required": ["z"],
    "additionalProperties": False,
}
NAMED = {"name": "x", "schema": SCHEMA, "strict": True}
HOT = {"temperature": 3.0, "seed": 1}
BY_SCHEMA: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", **NAMED}},
    {"response_format": {"type": "json_object", "json_schema": NAMED}},
    {"response_format": {"type": "json", "value": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": NAMED | {"description": None}, "value": None}},
    {"json_schema": SCHEMA}, {"json_schema": NAMED}, {"json_schema": json.dumps(SCHEMA)},
    {"format": SCHEMA}, {"grammar": {"type": "json", "value": SCHEMA}}, {"guided_decoding": {"json": SCHEMA}},
    {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": None, "disable_fallback": None}},
    {"extra_body": {"guided_json": SCHEMA}}, {"extra_body": {"json_schema": SCHEMA}},
]  # fmt: skip
GBNF = 'root ::= "<" digit digit ">"\ndigit ::= [0-9]'
BY_PATTERN: list[tuple[dict[str, Any], str]] = [
    ({"regex": "[ab]{3}"}, "[ab]{3}"), ({"ebnf": GBNF}, "<[0-9]{2}>"), ({"grammar": GBNF}, "<[0-9]{2}>"),
    ({"grammar": 'start: "x" /[0-9]/'}, "x[0-9]"), ({"guided_decoding": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"guided_decoding": {"regex": "[ab]{3}", "backend": None}}, "[ab]{3}"),
    ({"response_format": {"type": "regex", "pattern": "[ab]{3}"}}, "[ab]{3}"),
    ({"response_format": {"type": "regex", "value": "[ab]{3}"}}, "[ab]{3}"),
    ({"response_format": {"type": "grammar", "grammar": GBNF}}, "<[0-9]{2}>"),
    ({"grammar": {"type": "regex", "value": "[ab]{3}"}}, "[ab]{3}"),
    ({"extra_body": {"regex": "[ab]{3}"}}, "[ab]{3}"),
]  # fmt: skip


@pytest.mark.parametrize("fields", BY_SCHEMA, ids=lambda fields: json.dumps(fields)[:50])
def test_a_schema_is_kept_in_every_dialect(running: Running, fields: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(told(running, asking(**fields, **HOT, max_tokens=200))), SCHEMA)


@pytest.mark.parametrize(("fields", "pattern"), BY_PATTERN, ids=lambda value: str(value)[:50])
def test_a_pattern_is_kept_in_every_dialect(running: Running, fields: dict[str, Any], pattern: str) -> None:
    assert re.fullmatch(pattern, told(running, asking(**fields, **HOT, max_tokens=200)))


@pytest.mark.parametrize("field", [{"format": "json"}, {"guided_decoding": {"json_object": True}},
                                   {"response_format": {"type": "json"}}], ids=str)  # fmt: skip
def test_any_object_is_kept_in_every_dialect(running: Running, field: dict[str, Any]) -> None:
    body = asking("Give vendor, date and total as JSON.", **field, max_tokens=400)
    assert isinstance(json.loads(told(running, body)), dict)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"json_schema": SCHEMA, "regex": "a"}, "json_schema"),
        ({"grammar": GBNF, "format": "json"}, "grammar"),
        ({"guided_decoding": {"regex": "a", "choice": ["b"]}}, "guided_decoding.choice"),
        ({"guided_decoding": {"backend": "xgrammar", "regex": "a"}}, "guided_decoding.backend"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA, "json_schema": NAMED}}, None),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "pattern": "a"}}, "response_format.pattern"),
        ({"response_format": {"type": "json_object", "strictness": 1}}, "response_format.strictness"),
        ({"response_format": {"type": "json_schema", "json_schema": SCHEMA}}, None),
        ({"response_format": {"type": "regex"}}, "response_format.pattern"),
        ({"format": "xml"}, "format"), ({"format": 5}, "format"), ({"regex": 5}, "regex"), ({"ebnf": ["x"]}, "ebnf"),
        ({"grammar": 5}, "grammar"), ({"json_schema": 5}, "json_schema"), ({"extra_body": 5}, "extra_body"),
        ({"extra_body": {"mirostat": 2}}, "mirostat"), ({"extra_body": {"temperature": 2}, "temperature": 1}, None),
        ({"max_new_tokens": 5, "max_tokens": 6}, "max_new_tokens"), ({"max_new_tokens": "x"}, "max_tokens"),
        ({"stream_options": {"robot": 1}}, "stream_options.robot"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "today"}, "robot": 1}}, None),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"), ({"top_n_sigma": 2.0}, "top_n_sigma"),
        ({"suppress_tokens": [5]}, "suppress_tokens"), ({"guided_json_object": True}, "guided_json_object"),
        ({"think": True}, "think"), ({"stop_regex": "a+"}, "stop_regex"), ({"guidance_scale": 2}, "guidance_scale"),
        ({"typical_p": 0.5}, "typical_p"), ({"mirostat": 1}, "mirostat"), ({"echo": True}, "echo"),
        ({"thinking": {"type": "enabled"}}, "thinking"), ({"options": {"num_predict": 3}}, "options"),
        ({"sampling_params": {"regex": "a"}}, "sampling_params"), ({"output_format": {"type": "json"}}, None),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
    ],
)  # fmt: skip
def test_what_means_something_else_is_refused_by_name(
    running: Running, field: dict[str, Any], param: str | None
) -> None:
    response = running.post("/v1/chat/completions", asking() | field)
    assert_refused(response, 400)
    if param is not None:
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("route", [pytest.param(ROUTES[name], id=name) for name in ("completions", "responses")])
def test_the_other_routes_ignore_nothing_either(running: Running, route: Route) -> None:
    for field in (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"mirostat": 2},
        {"thinking": {"type": "enabled"}},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"system": "Be brief."},
    ):
        assert_refused(running.post(route.path, route.body(**field)), 400, next(iter(field)))
    for field, pattern in BY_PATTERN[:4]:
        reply = running.post(route.path, route.body(**field) | {"max_tokens": None, "max_output_tokens": 50}).json()
        text = reply["output"][0]["content"][0]["text"] if route.newer else reply["choices"][0]["text"]
        assert re.fullmatch(pattern, text)


@routes(samples=True)
def test_neutral_values_are_taken_everywhere(running: Running, route: Route) -> None:
    own = {"prompt", "messages", "input", "text", "instructions", "tools", "tool_choice", "response_format", "echo"}
    neutral = {name: (None, *values) for name, values in NEUTRAL.items() if name not in own}
    for number in range(max(map(len, neutral.values()))):  # every value once, and with the others
        fields = {name: values[min(number, len(values) - 1)] for name, values in neutral.items()}
        response = running.post(route.path, route.body(**fields))
        assert response.status_code == 200, response.text


# Lengths --------------------------------------------------------------------------------------

LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict", "num_predict")


@pytest.mark.parametrize("name", LENGTHS)
def test_the_length_of_a_reply_has_many_names(running: Running, name: str) -> None:
    asked = {"ignore_eos": True, name: 3}
    for route in (ROUTES["chat"], ROUTES["completions"], ROUTES["responses"]):
        usage = running.post(route.path, route.wrap("Hi") | asked).json()["usage"]
        assert usage.get("completion_tokens", usage.get("output_tokens")) == 3, route.path


@pytest.mark.parametrize(
    ("route", "first", "second"),
    [
        ("chat", {"max_tokens": 5}, {"max_completion_tokens": 6}), ("chat", {"seed": 1}, {"random_seed": 2}),
        ("responses", {"max_tokens": 5}, {"max_output_tokens": 6}),
        ("messages", {"stop": ["a"]}, {"stop_sequences": ["b"]}),
        ("messages", {"regex": "a"}, {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
    ],
)  # fmt: skip
def test_two_names_for_one_thing_must_agree(
    running: Running, route: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    path = "/v1/messages" if route == "messages" else ROUTES[route].path
    talk = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    body = talk if route == "messages" else ROUTES[route].wrap("Hi")
    refused = running.post(path, body | first | second)
    assert refused.status_code == 400
    assert all(name in refused.json()["error"]["message"] for name in (*first, *second))
    for one in (first, second, first | dict.fromkeys(second)):
        assert running.post(path, body | one).status_code == 200


@pytest.mark.parametrize("name", LENGTHS[:3])
def test_minus_one_is_as_many_as_fit(running: Running, name: str) -> None:
    """Far more than the 16 of a completion without a length; the end token ends it, as it would without a length."""
    asked = asking("Give vendor, date and total as JSON.")["messages"][0]["content"]
    for route, counted in ((ROUTES["chat"], "completion_tokens"), (ROUTES["responses"], "output_tokens")):
        free = running.post(route.path, route.wrap(asked)).json()["usage"][counted]
        assert free > 16
        assert running.post(route.path, route.wrap(asked) | {name: -1}).json()["usage"][counted] == free
    body = ROUTES["completions"].wrap("Hi") | {"regex": "(ab){40}"}
    assert running.post("/v1/completions", body).json()["choices"][0]["finish_reason"] == "length"
    assert running.post("/v1/completions", body | {name: -1}).json()["choices"][0]["text"] == "ab" * 40
    assert_refused(running.post("/v1/completions", body | {name: -2}), 400, "max_tokens")


# OpenAI's newer words -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_only_allowed_tools_are_called(running: Running, mode: str) -> None:
    entry = {"type": "function", "function": {"name": "today"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [entry]}}
    flat_tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    flat = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "today"}]}
    for seed in range(3):
        hot = {"temperature": 3.0, "seed": seed}
        body = asking(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=300, **hot)
        calls = running.post("/v1/chat/completions", body).json()["choices"][0]["message"].get("tool_calls", [])
        assert [call["function"]["name"] for call in calls] in ([["today"]] if mode == "required" else [[], ["today"]])
        body = {"input": "x", "tools": flat_tools, "tool_choice": flat, "max_output_tokens": 300, **hot}
        items = running.post("/v1/responses", body | {"parallel_tool_calls": False}).json()["output"]
        names = [item["name"] for item in items if item["type"] == "function_call"]
        assert names in ([["today"]] if mode == "required" else [[], ["today"]])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"mode": "auto", "tools": [{"type": "function", "function": {"name": "none"}}]}, "'none'"),
        ({"mode": "auto", "tools": []}, "names no tool"),
        ({"mode": "sometimes", "tools": []}, "mode"),
        ({"mode": "auto"}, "names no tool"),
        (5, "mode"),
        ({"mode": "auto", "tools": 5}, "names no tool"),
        ({"mode": "auto", "tools": [5]}, "names no tool"),
        ({"mode": "auto", "tools": [], "robot": 1}, "robot"),
    ],
)
def test_allowed_tools_that_are_none(running: Running, wanted: Any, says: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": wanted}
    answer = running.post("/v1/chat/completions", asking(tools=TOOLS, tool_choice=choice))
    assert_refused(answer, 400, says)


def test_the_original_detail_is_the_whole_image(running: Running) -> None:
    counts = {}
    for detail in ("original", "high", "auto", None, "low"):
        body = asking()
        body["messages"][0]["content"][0]["image_url"]["detail"] = detail
        counts[detail] = running.post("/tokenize", body).json()["count"]
    assert counts["original"] == counts["high"] == counts["auto"] == counts[None]
    body["messages"][0]["content"][0]["image_url"]["detail"] = "best"
    assert_refused(running.post("/tokenize", body), 400, "auto, low, high and original")


def turns(count: int) -> list[Message]:
    spoken = [Message("user" if n % 2 == 0 else "assistant", (f"{n} " * 50,)) for n in range(2 * count - 1)]
    return [Message("system", ("be brief",)), *spoken]


@pytest.mark.parametrize("room", [1, 60, 120, 300, 10_000])
def test_truncation_leaves_out_as_few_old_turns_as_it_takes(room: int) -> None:
    given = turns(7)

    def prepare(messages: Any) -> Prompt:
        return Prompt(tuple(range(sum(len(str(message.content[0]).split()) for message in messages))))

    found = len(longest_that_fits(given, prepare, room).ids)
    sizes = [len(prepare([given[0], *given[start:]]).ids) for start in range(1, len(given), 2)]
    assert found == next((size for size in sizes if size <= room), sizes[-1])


def test_a_conversation_that_is_too_long_is_cut_if_that_is_asked_for(running: Running) -> None:
    spoken = [{"role": ("user", "assistant")[n % 2], "content": f"word{n} " * 150} for n in range(19)]
    end = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "What is left?"}]
    given = [{"role": "system", "content": "Read."}, *spoken, *end]
    body = {"input": given, "max_output_tokens": 4, "ignore_eos": True}
    assert_refused(running.post("/v1/responses", body), 400, "tokens")
    reply = running.post("/v1/responses", body | {"truncation": "auto"}).json()
    assert reply["truncation"] == "auto"
    assert 1000 < reply["usage"]["input_tokens"] <= running.llm.config.max_model_len - 4
    long = {"input": "word " * 9000, "truncation": "auto"}
    response = running.post("/v1/responses", long)
    assert response.json()["error"]["code"] == PromptTooLongError.code  # the last turn alone is too long
