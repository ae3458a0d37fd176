"""Every field of every request has a bound, and stops at its first mistake; the tests walk the schemas to see it."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from tessera.engine.admission import MAX_PARTS
from tessera.errors import PromptTooLongError
from tessera.messages import Message
from tessera.server import batch_schemas, extraction_schemas, lora_schemas, ocr_schemas, schemas
from tessera.server.body import MAX_JSON_VALUES
from tests.server.conftest import Running
from tests.server.test_hostile import ROUTES, Route, routes
from tests.server.test_http import assert_refused

REQUESTS = sorted(
    {
        each
        for module in (schemas, batch_schemas, extraction_schemas, lora_schemas, ocr_schemas)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, schemas.Request)
    },
    key=lambda each: each.__name__,
)


def parts(model: type[BaseModel], where: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Every type within a request's fields, with its place and what its annotation adds."""
    for name, field in model.model_fields.items():
        yield from inside(f"{where}{model.__name__}.{name}", field.annotation, tuple(field.metadata))


def inside(where: str, kind: Any, metadata: tuple[Any, ...]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        flat = [each for one in more for each in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from inside(where, inner, (*metadata, *flat))
    elif get_origin(kind) in (typing.Union, types.UnionType):
        for each in get_args(kind):
            yield from inside(where, each, metadata)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield where, kind, metadata
        yield from parts(kind, where + " > ")
    else:
        yield where, kind, metadata
        if get_origin(kind) is not typing.Literal:
            for each in get_args(kind):
                yield from inside(where + "[]", each, ())


def bound(metadata: tuple[Any, ...], name: str) -> Any:
    return next((found for each in metadata if (found := getattr(each, name, None)) is not None), None)


def faults(model: type[BaseModel]) -> list[str]:
    """The lists, mappings, strings and objects of a request that lack a bound or go on after a mistake."""
    found = []
    for where, kind, metadata in parts(model):
        plain = get_origin(kind) or kind
        if plain in (list, dict, str) and bound(metadata, "max_length") is None:
            found.append(f"{where}: {kind} has no max_length")
        if plain in (set, tuple, frozenset):
            found.append(f"{where}: {kind} is of a kind that nobody bounds")
        if plain is list and not bound(metadata, "fail_fast"):
            found.append(f"{where}: {kind} collects all mistakes")
        if plain is dict and not any(isinstance(each, BeforeValidator) for each in metadata):
            found.append(f"{where}: {kind} is counted after it was read")
        if isinstance(plain, type) and issubclass(plain, BaseModel) and not issubclass(plain, schemas.Part):
            found.append(f"{where}: {kind} is no Part, which bounds its keys")
    return found


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.__name__)
def test_every_list_mapping_and_string_has_a_bound(model: type[BaseModel]) -> None:
    assert faults(model) == []


def test_the_walk_finds_what_lacks_one() -> None:
    class Inner(BaseModel):
        a: str

    class Bad(schemas.Request):
        one: list[schemas.Name] | None = None
        two: Annotated[list[str], schemas.Field(max_length=3, fail_fast=True)] | None = None
        three: dict[str, Any] | None = None
        four: Inner | None = None
        five: schemas.Name | None = None

    told = "\n".join(faults(Bad))
    assert all(f"Bad.{name}" in told for name in ("one", "two[]", "three", "four"))
    assert "Bad.five" not in told
    assert len(REQUESTS) >= 5


# Many wrong values ----------------------------------------------------------------------------

MANY = {
    "prompt of texts and numbers": {"prompt": ["x", 5] * 100_000}, "prompt of lists": {"prompt": [["x"]] * 60_000},
    "prompt of numbers": {"prompt": [0.5] * 200_000}, "choice": {"structured_outputs": {"choice": [5] * 200_000}},
    "guided_choice": {"guided_choice": [None] * 200_000}, "include": {"include": [5] * 200_000},
    "form": {"structured_outputs": {f"k{n}": 1 for n in range(100_000)}},
    "format": {"response_format": {"type": "text"} | {f"k{n}": 1 for n in range(100_000)}},
    "options": {"stream_options": {f"k{n}": 1 for n in range(100_000)}},
    "logit_bias": {"logit_bias": {f"k{n}": "x" for n in range(100_000)}}, "tools": {"tools": [5] * 200_000},
    "messages": {"messages": [5] * 200_000}, "input": {"input": [5] * 200_000}, "tokens": {"tokens": ["x"] * 200_000},
    "stop": {"stop": [5] * 200_000}, "ids": {"stop_token_ids": ["x"] * 200_000},
    "fields": {f"k{n}": 1 for n in range(100_000)}, "extra": {"extra_body": {f"k{n}": 1 for n in range(100_000)}},
}  # fmt: skip
MODELS = {
    "/v1/chat/completions": schemas.ChatRequest, "/v1/responses": schemas.ResponsesRequest,
    "/v1/completions": schemas.CompletionRequest, "/tokenize": schemas.TokenizeRequest,
    "/detokenize": schemas.DetokenizeRequest,
}  # fmt: skip


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("name", MANY)
def test_few_mistakes_are_noted_however_many_there_are(path: str, name: str) -> None:
    good = {"messages": [{"role": "user", "content": "x"}], "input": "x", "prompt": "x", "tokens": [1]}
    body = {key: good[key] for key in good if key in MODELS[path].model_fields} | MANY[name]
    noted = 0
    try:
        MODELS[path].model_validate(body)
    except ValidationError as error:
        noted = len(error.errors())
    except schemas.BadRequestError:
        noted = 1
    assert noted <= 8


# Numbers that JSON does not have --------------------------------------------------------------

PLACES: dict[str, Any] = {
    "metadata": {"metadata": {"a": "NUMBER"}}, "deep": {"metadata": {"a": [{"b": ["NUMBER"]}]}},
    "unknown": {"nobody_knows": "NUMBER"}, "extra": {"extra_body": {"x": "NUMBER"}}, "user": {"user": "NUMBER"},
    "tool": {"tools": [{"type": "function", "name": "f", "strict": False, "parameters": {"type": "object",
             "properties": {"a": {"minimum": "NUMBER"}}},
             "function": {"name": "f", "strict": False, "parameters": {"type": "object", "x": "NUMBER"}}}]},
    "schema": {"guided_json": {"maximum": "NUMBER"}}, "bias": {"logit_bias": {"1": "NUMBER"}},
}  # fmt: skip


@routes()
@pytest.mark.parametrize("place", PLACES)
def test_no_number_is_infinite_wherever_it_stands(running: Running, route: Route, place: str) -> None:
    for number in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 400 + ".0"):
        text = json.dumps(route.body() | PLACES[place]).replace('"NUMBER"', number)
        response = running.post(route.path, None, content=text, headers={"content-type": "application/json"})
        assert_refused(response, 400)


def test_large_numbers_are_echoed_as_they_came(running: Running) -> None:
    told = {"a": 1e308, "b": -2.5, "c": 12345678901234567890}
    body = {"input": "Hi", "max_output_tokens": 1, "metadata": told}
    assert running.post("/v1/responses", body).json()["metadata"] == told


# Values and text ------------------------------------------------------------------------------


@routes()
def test_values_are_counted_while_they_come(running: Running, route: Route) -> None:
    for value in ([[]] * MAX_JSON_VALUES, [{}] * MAX_JSON_VALUES, [1] * (MAX_JSON_VALUES + 2)):
        response = running.post(route.path, route.body() | {"nobody_knows": value})
        assert_refused(response, 400, f"{MAX_JSON_VALUES:,}")
        assert response.json()["error"]["code"] == "request_too_large"
    assert running.post(route.path, route.body() | {"nobody_knows": [1] * 1000}).status_code == 200


TEXT = "lorem ipsum dolor " * 400_000  # 7.2 MB, of which no context holds a tenth


def everywhere(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    """A long text in each place of a conversation whose text is written into the prompt."""
    user = {"role": "user", "content": "Hi"}
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": TEXT})}}
    flat = {"type": "function_call", "call_id": "abcdefghi", "name": "f", "arguments": call["function"]["arguments"]}
    result = {"type": "function_call_output", "call_id": "abcdefghi", "output": "x"}
    answer = {"role": "tool", "tool_call_id": "abcdefghi", "content": "x"}
    asks = {"role": "assistant", "content": None, "tool_calls": [call]}
    yield "content", route.body(TEXT)
    yield "part", route.body([{"type": "text", "text": TEXT}])
    yield "system", route.conversation([{"role": "system", "content": TEXT}, user])
    yield "arguments", route.conversation([user, flat, result] if route.newer else [user, asks, answer])
    yield (
        "result",
        route.conversation(
            [user, flat | {"arguments": "{}"}, result | {"output": TEXT}]
            if route.newer
            else [user, asks | {"tool_calls": [call | {"function": {"name": "f", "arguments": "{}"}}]},
                  answer | {"content": TEXT}]
        ),
    )  # fmt: skip
    for key, value in (
        ("description", TEXT),
        ("parameters", {"type": "object", "properties": {"a": {"type": "string", "description": TEXT}}}),
        ("parameters", {"type": "object", "properties": {TEXT: {"type": "string"}}}),
    ):
        function = {"name": "f", "strict": False, "parameters": {"type": "object"}, key: value}
        yield f"tool's {key}", route.tools([{"type": "function", "function": function}], "auto")


@routes(chat=True)
def test_text_in_any_field_is_measured_before_it_is_tokenized(
    running: Running, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("it was tokenized")

    monkeypatch.setattr("tessera.prompt.Tokenizer.encode_chat", never)
    for place, body in everywhere(route):
        response = running.post(route.path, body)
        assert response.status_code == 400, f"{place}: {response.text[:300]}"
        assert response.json()["error"]["code"] == "context_length_exceeded", f"{place}: {response.text[:300]}"


def test_a_conversation_has_so_many_parts_at_most(running: Running) -> None:
    for text in ("x", ""):
        with pytest.raises(PromptTooLongError, match=f"{MAX_PARTS:,}; join"):
            running.llm.prepare([Message("user", (text,) * (MAX_PARTS + 1))])
    body = ROUTES["tokenize"].body([{"type": "text", "text": ""}] * (MAX_PARTS + 1))
    assert_refused(running.post("/tokenize", body), 400, f"{MAX_PARTS:,}")


# Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field", "value", "says"),
    [
        ("/v1/chat/completions", "stop", ["x"] * 17, "stop has more than the allowed 16 entries"),
        ("/v1/chat/completions", "stop", 5, "stop must be a string or a list"),
        ("/v1/chat/completions", "stop", ["x", 5], "stop.1 must be a string"),
        ("/v1/chat/completions", "stop", "x" * 2000, "stop is longer than the allowed 1024 characters"),
        ("/v1/completions", "prompt", None, "prompt must be a string or a list"),
        ("/v1/completions", "prompt", [], "prompt must not be empty"),
        ("/v1/completions", "prompt", ["a", 5], "prompt.1 must be a string"),
        ("/v1/completions", "prompt", [1, "x"], "prompt.1 must be a whole number"),
        ("/v1/completions", "prompt", [[1], [2, "x"]], "prompt.1.1 must be a whole number"),
        ("/v1/completions", "prompt", [[]], "prompt.0 must not be empty"),
        ("/v1/responses", "input", [], "input must not be empty"),
        ("/v1/responses", "input", 5, "input must be a string or a list"),
        ("/v1/responses", "input", [5], "input.0 must be an object"),
        ("/v1/chat/completions", "tool_choice", 5, "or an object"),
        ("/v1/chat/completions", "guided_json", 5, "guided_json must be an object or a string"),
        ("/v1/chat/completions", "max_tokens", 0, "max_tokens must be at least 1, not 0."),
        ("/v1/chat/completions", "max_tokens", 10**30, "max_tokens must be at most 1048576, not 1000000"),
        ("/v1/chat/completions", "max_tokens", 10**3000, "max_tokens must be at most 1048576."),
        ("/v1/chat/completions", "temperature", "hot", "temperature must be a number, not 'hot'."),
        ("/v1/chat/completions", "stream", "perhaps", "stream must be true or false, not 'perhaps'."),
        ("/v1/chat/completions", "model", True, "model must be a string, not true."),
        ("/v1/chat/completions", "stop", 5, "stop must be a string or a list, not 5."),
        ("/v1/chat/completions", "tool_choice", "foo", "or an object, not 'foo'."),
        ("/v1/chat/completions", "logit_bias", {"10": 101}, "logit_bias.10 must be at most 100.0, not 101."),
        ("/v1/chat/completions", "logit_bias", {"-1": 1}, "logit_bias.-1 must be at least 0, not '-1'."),
        ("/v1/chat/completions", "model", "", "model must not be empty"),
        ("/v1/chat/completions", "logit_bias", {str(n): 1 for n in range(301)}, "more than the allowed 300 entries"),
        ("/v1/chat/completions", "stream_options", {"int": 5}, "is not known here"),
        ("/v1/chat/completions", "structured_outputs", {"choice": "x"}, "structured_outputs.choice must be a list"),
    ],
)
def test_a_mistake_is_told_by_the_branch_that_was_meant(
    running: Running, path: str, field: str, value: Any, says: str
) -> None:
    good = next(route for route in ROUTES.values() if route.path == path).body()
    error = running.post(path, good | {field: value}).json()["error"]
    assert says in error["message"]
    assert error["param"].split(".")[0] == field


@pytest.mark.parametrize(
    ("body", "place"),
    [('{"prompt": "Hi",}', "at line 1, column 17"), ('{"prompt":\n "Hi"', "at line 2, column 5")],
)
def test_what_is_no_json_is_told_by_its_place(running: Running, body: str, place: str) -> None:
    headers = {"content-type": "application/json"}
    error = running.post("/v1/completions", None, content=body.encode(), headers=headers).json()["error"]
    assert error["message"] == f"the body is not valid JSON {place}."


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"input": [{"type": None, "role": "user", "content": "Hi"}]}, None),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id must be a string"),
        ({"tools": [{"type": "web_search"}]}, "tools.0 is of type 'web_search'"),
        ({"tools": [{"type": "function", "name": "a.b"}]}, "tool 0 is named 'a.b'"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "str"}}}}, "valid: Invalid type"),
    ],
)
def test_what_is_wrong_in_a_response_is_named(running: Running, field: dict[str, Any], says: str | None) -> None:
    answer = running.post("/v1/responses", {"input": "Hi", "max_output_tokens": 1} | field)
    assert answer.status_code == (200 if says is None else 400), answer.text
    assert says is None or says in answer.json()["error"]["message"]


def test_json_must_say_that_it_is_json(running: Running) -> None:
    content = json.dumps(ROUTES["chat"].body())
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        headers = {"content-type": kind} if kind else {}
        response = running.post("/v1/chat/completions", None, content=content, headers=headers)
        assert_refused(response, 400, "send the header Content-Type: application/json")
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"):
        response = running.post("/v1/chat/completions", None, content=content, headers={"content-type": kind})
        assert response.status_code == 200
