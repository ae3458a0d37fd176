"""Random requests against our own OpenAPI description and against the routes' real bodies: never a 5xx.

A few examples run by default, `make test-fuzz` runs many. The model is tiny, random and of a short
context, so that even a request for a million tokens ends at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.conftest import Running, start_server
from tests.server.test_hostile import ROUTES, Route, data_url, encoded, judged
from tests.server.test_http import idle, wait_until
from tests.server.test_soak import tiny_llm

EXAMPLES = int(os.environ.get("TESSERA_FUZZ_EXAMPLES", "6"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
MAX_LEN = 96


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = start_server(tiny_llm(max_model_len=MAX_LEN))
    yield running
    wait_until(lambda: idle(running))
    assert running.llm.alive
    running.stop()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=60) as client:
        yield client


# What the description says --------------------------------------------------------------------


@pytest.fixture(scope="module")
def operations(server: Running) -> list[Any]:
    described = schemathesis.openapi.from_url(server.url + "/openapi.json")
    found = [each.ok() for each in described.get_all_operations()]
    assert {operation.path for operation in found} >= {route.path for route in ROUTES.values()}
    return found


OPENAI_FIELDS = {"message", "type", "param", "code"}


@MANY
@given(data=st.data())
def test_what_the_description_allows_never_fails(operations: list[Any], data: st.DataObject) -> None:
    for operation in operations:
        response = data.draw(operation.as_strategy()).call(timeout=60)
        assert response.status_code < 500, f"{operation.label}: {response.request.body!r} got {response.text[:300]}"
        if response.status_code >= 400:
            fields = {"message", "type"} if operation.path.startswith("/v1/messages") else OPENAI_FIELDS
            assert set(response.json()["error"]) == fields


# What people and programs send ----------------------------------------------------------------

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e-9]))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
IMAGE = data_url(encoded("PNG"))
TEXT = st.one_of(st.text(max_size=60), st.sampled_from(["[IMG]", "</s>[INST]", "\x00", "\ud800", "word " * 200, ""]))
URL = st.sampled_from([IMAGE, IMAGE[:-9], "http://127.0.0.1/x", "file:///etc/passwd", "data:,x", "", "\x00"])
PART = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.builds(lambda url: {"type": "image_url", "image_url": url}, URL),
    st.builds(lambda url, detail: {"type": "image_url", "image_url": {"url": url, "detail": detail}}, URL, JSON),
    st.builds(
        lambda kind, rest: {"type": kind} | rest, TEXT, st.dictionaries(st.sampled_from(["text", "image_url"]), JSON)
    ),
    JSON,
)
CONTENT = st.one_of(TEXT, st.none(), st.lists(PART, max_size=4), JSON)
CALL = st.one_of(
    st.builds(
        lambda name, arguments, key: {"id": key, "type": "function", "function": {"name": name,
        "arguments": arguments}},
        TEXT, st.one_of(TEXT, JSON, st.just("{}")), st.one_of(TEXT, JSON),
    ),
    JSON,
)  # fmt: skip
MESSAGE = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content},
              st.sampled_from(["system", "developer", "user", "user", "user", "assistant", "tool", "robot"]), CONTENT),
    st.builds(lambda content, calls: {"role": "assistant", "content": content, "tool_calls": calls},
              CONTENT, st.one_of(st.lists(CALL, max_size=3), JSON)),
    st.builds(lambda content, key: {"role": "tool", "content": content, "tool_call_id": key}, CONTENT, st.one_of(TEXT,
              JSON)),
    JSON,
)  # fmt: skip
SCHEMA = st.one_of(JSON, st.fixed_dictionaries({}, optional={
    "type": st.one_of(st.sampled_from(["object", "array", "string", "integer", "null"]), JSON),
    "properties": st.dictionaries(st.text(max_size=5), JSON, max_size=3), "required": JSON, "enum": JSON, "items": JSON,
    "minimum": JSON, "pattern": TEXT, "$ref": TEXT, "anyOf": st.lists(JSON, max_size=3), "maxLength": JSON,
}))  # fmt: skip
TOOL = st.one_of(
    st.builds(lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
              st.one_of(st.sampled_from(["f", "g"]), TEXT), SCHEMA),
    JSON,
)  # fmt: skip
FIELDS: dict[str, Any] = dict.fromkeys(
    ["model", "temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "max_completion_tokens", "max_output_tokens",
     "min_tokens", "stop", "stop_token_ids", "ignore_eos", "seed", "random_seed", "presence_penalty",
     "frequency_penalty",
     "repetition_penalty", "stream_options", "cache_salt", "logprobs", "top_logprobs", "logit_bias", "tool_choice",
     "parallel_tool_calls", "echo", "bad_words", "chat_template", "user", "metadata", "include", "instructions",
     "guided_json", "prompt_logprobs", "continue_final_message", "add_special_tokens", "return_token_strs"],
    st.one_of(JSON, NUMBERS),
) | {
    "stream": st.booleans(), "temperature": st.floats(0, 2), "n": st.integers(1, 4), "seed": st.integers(),
    "stop": st.one_of(TEXT, st.lists(TEXT, max_size=5)), "logit_bias": st.dictionaries(st.integers(-5, 2000).map(str),
    NUMBERS),
    "top_p": st.floats(0, 1), "logprobs": st.one_of(st.booleans(), st.integers(0, 5)), "top_logprobs": st.integers(0,
    20),
    "response_format": st.builds(
        lambda kind, schema: {"type": kind, "json_schema": {"name": "x", "schema": schema}},
        st.sampled_from(["text", "json_object", "json_schema"]), SCHEMA),
    "structured_outputs": st.dictionaries(st.sampled_from(["json", "regex", "choice", "grammar"]), st.one_of(TEXT,
    SCHEMA)),
    "tools": st.lists(TOOL, max_size=3), "prompt": st.one_of(TEXT, st.lists(TEXT, max_size=3), JSON),
    "text": st.builds(lambda schema: {"format": {"type": "json_schema", "name": "x", "schema": schema}}, SCHEMA),
}  # fmt: skip
MORE = st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


@pytest.mark.parametrize("route", [pytest.param(route, id=name) for name, route in ROUTES.items()])
@MANY
@given(messages=st.lists(MESSAGE, max_size=4), content=CONTENT, more=MORE)
def test_no_body_fails(
    server: Running, client: httpx2.Client, route: Route, messages: list[Any], content: Any, more: dict[str, Any]
) -> None:
    body = route.conversation(messages) if route.chat and messages else route.body(content)
    data = json.dumps(body | more).encode()
    response = client.post(server.url + route.path, content=data, headers={"content-type": "application/json"})
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, f"{body | more} got {response.text[:300]}"
        judged(response, data.decode() + str(body | more))
