"""Presets by name in chats: their instructions, schema and temperature, unless the request says otherwise."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from PIL import Image as PILImage

from tessera.documents.presets import named
from tessera.messages import Image
from tessera.server.errors import BadRequestError
from tessera.server.routes.chat import chat_sampling, conversation_of
from tessera.server.routes.responses import input_messages, response_sampling
from tessera.server.schemas import ChatRequest, ResponsesRequest
from tests.server.conftest import RECEIPT, Running, asking
from tests.server.test_http import assert_refused
from tests.test_images import encoded

IMAGE = {"type": "image_url", "image_url": {"url": RECEIPT}}
TURN = [{"role": "user", "content": [IMAGE]}]


def chat(**more: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": TURN, "preset": "invoice"} | more)


def test_a_preset_gives_instructions_question_schema_and_temperature() -> None:
    system, user = conversation_of(chat())
    assert system.role == "system"
    assert str(system.content[0]).startswith("You read documents")
    assert '"iban"' in str(system.content[0])
    assert isinstance(user.content[0], Image)
    assert user.content[1] == named("invoice").question
    params = chat_sampling(chat())
    assert params.grammar is not None
    assert set(json.loads(params.grammar.source)["properties"]) == set(named("invoice").schema.keys)
    assert params.temperature == 0.0
    assert chat_sampling(chat(preset="describe")).temperature == named("describe").temperature > 0
    assert chat_sampling(chat(preset="describe")).grammar is None


def test_what_the_request_says_itself_wins() -> None:
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [IMAGE, "Read it."]}]
    messages = conversation_of(chat(messages=said))
    assert [message.content[-1] for message in messages] == ["Be brief.", "Read it."]
    assert chat_sampling(chat(preset="describe", temperature=0.0)).temperature == 0.0
    assert chat_sampling(chat(temperature=0.4)).temperature == 0.4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"response_format": {"type": "json_object"}}, "preset and response_format each say"),
        ({"response_format": {"type": "text"}}, "preset and response_format each say"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex and preset each say"),
        ({"preset": "nothing"}, "no preset 'nothing'; there are"),
        ({"preset": "../invoice"}, "no preset '../invoice'"),
    ],
    ids=["json", "text", "regex", "unknown", "path"],
)
def test_what_contradicts_is_refused_by_name(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        chat_sampling(chat(**more))


def test_one_image_alone_is_not_compared() -> None:
    with pytest.raises(BadRequestError, match="compares 2 images, and the request holds 1"):
        conversation_of(chat(preset="compare"))
    pair = [{"role": "user", "content": [IMAGE, IMAGE]}]
    document = [{"role": "user", "content": [{"type": "file", "file_id": "a"}]}]  # which may have two pages
    assert all(len(conversation_of(chat(preset="compare", messages=each))) == 2 for each in (pair, document))


def test_responses_take_presets_too() -> None:
    body = ResponsesRequest.model_validate(
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": RECEIPT}]}], "preset": "receipt"}
    )
    system, user = input_messages(body)
    assert (system.role, user.content[-1]) == ("system", named("receipt").question)
    params = response_sampling(body)
    assert params.grammar is not None
    own = body.model_copy(update={"instructions": "Be brief."})
    assert [message.content[-1] for message in input_messages(own)] == ["Be brief.", named("receipt").question]


def test_the_reply_has_the_presets_form(running: Running) -> None:
    body = {"messages": TURN, "preset": "receipt", "max_tokens": 600}
    reply = running.post("/v1/chat/completions", body)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    if choice["finish_reason"] == "stop":
        assert set(json.loads(choice["message"]["content"])) == set(named("receipt").schema.keys)
    assert choice["message"]["content"].startswith("{")
    refused = running.post("/v1/chat/completions", asking(preset="x" * 2000))
    assert_refused(refused, 400, "preset")
    listed = running.get("/v1/presets").json()["data"]
    assert {each["name"]: each["temperature"] for each in listed}["describe"] == named("describe").temperature


def test_images_are_bound_by_the_request_or_else_by_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(named("invoice"), max_image_side=640)
    monkeypatch.setattr("tessera.server.routes.chat.preset_of", lambda name: small)
    assert [image.side for message in conversation_of(chat()) for image in message.images] == [640]
    assert [image.side for message in conversation_of(chat(max_image_side=300)) for image in message.images] == [300]
    low = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": RECEIPT, "detail": "low"}}]}]
    assert conversation_of(chat(messages=low))[-1].images[0].side == 512


WIDE = "data:image/png;base64," + base64.b64encode(encoded(PILImage.new("RGB", (400, 100), "red"), "PNG")).decode()
INPUT = [{"role": "user", "content": [{"type": "input_image", "image_url": WIDE}]}]
SOURCE = {"type": "base64", "media_type": "image/png", "data": WIDE.partition(",")[2]}
BLOCKS = [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": asking("What is it?", WIDE, max_tokens=1),
    "/v1/responses": {"input": INPUT, "max_output_tokens": 1},
    "/v1/messages": {"messages": BLOCKS, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": BLOCKS},
    "/tokenize": asking("What is it?", WIDE),
}


def counted(reply: dict[str, Any]) -> int:
    """The tokens of the prompt, by any route."""
    usage = reply.get("usage", reply)
    names = ("prompt_tokens", "input_tokens", "count")
    return next(usage[name] for name in names if name in usage)


@pytest.mark.parametrize("path", BODIES)
def test_a_smaller_side_takes_fewer_tokens_on_every_route(path: str, running: Running) -> None:
    with httpx2.Client(base_url=running.url) as client:
        sizes = []
        for more in ({}, {"max_image_side": 256}):
            reply = client.post(path, json=BODIES[path] | more)
            assert reply.status_code == 200, reply.text
            sizes.append(counted(reply.json()))
        assert sizes[1] < sizes[0]
        for wrong in (255, 16_385, "wide"):
            refused = client.post(path, json=BODIES[path] | {"max_image_side": wrong})
            assert refused.status_code == 400
            assert "max_image_side" in refused.text


def test_a_text_has_no_image_to_bind(running: Running) -> None:
    with httpx2.Client(base_url=running.url) as client:
        refused = client.post("/v1/completions", json={"prompt": "a", "max_image_side": 512})
    assert refused.status_code == 400
    assert "max_image_side" in refused.text
