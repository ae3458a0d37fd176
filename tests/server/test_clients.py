"""The clients that people use, unmodified: OpenAI's and Mistral's, with images, streams and errors."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from pydantic import BaseModel

from tests.server.conftest import RECEIPT, RECEIPT_TOKENS, Running, asking


class Receipt(BaseModel):
    vendor: str
    date: str
    total: str


class Conversion(BaseModel):
    """The arguments of a tool."""

    to: Literal["EUR", "USD", "GBP"]
    rounded: bool


AS_JSON = asking("Give vendor, date and total as JSON.")
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "description": "A tool.", "parameters": model.model_json_schema()},
    }
    for name, model in (("convert", Conversion), ("file_away", Receipt))
]
WHOLE = {"ignore_eos": True}  # as many tokens as are asked for
CONVERT: Any = {"type": "function", "function": {"name": "convert"}}
RESULT = '{"amount": 16.2}'


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def mistral(running: Running) -> Mistral:
    return Mistral(api_key="any", server_url=running.url)


def expected(running: Running, text: str = "What is the total?") -> str:
    return running.llm.chat(asking(text)["messages"]).text


def test_openai_chat_is_what_the_engine_says(client: openai.OpenAI, running: Running) -> None:
    reply = client.chat.completions.create(model="nano", **asking())
    assert reply.choices[0].message.content == expected(running)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.image_tokens == RECEIPT_TOKENS


def test_openai_stream_joins_to_the_whole(client: openai.OpenAI, running: Running) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="nano", **asking(), stream=True, stream_options=options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected(running)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_openai_stream_helper(client: openai.OpenAI, running: Running) -> None:
    with client.chat.completions.stream(model="nano", **asking()) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == expected(running)


def test_openai_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", **asking(), logprobs=True, top_logprobs=3)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    written = b"".join(bytes(entry.bytes or []) for entry in content)
    assert written.decode() == reply.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.logprob
        assert entry.logprob <= 0


def test_openai_parses_into_its_model(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="nano", **AS_JSON, response_format=Receipt).choices[0].message.parsed
    assert isinstance(parsed, Receipt)
    with client.chat.completions.stream(model="nano", **AS_JSON, response_format=Receipt) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="nano", **AS_JSON, response_format=Receipt, max_tokens=5)


def test_openai_tools_there_and_back(client: openai.OpenAI) -> None:
    body = asking(tools=TOOLS, tool_choice=CONVERT, logprobs=True)
    reply = client.chat.completions.create(model="nano", **body).choices[0]
    calls = [call for call in reply.message.tool_calls or [] if call.type == "function"]
    assert reply.finish_reason == "tool_calls"
    assert {call.function.name for call in calls} == {"convert"}
    Conversion.model_validate_json(calls[0].function.arguments)
    with client.chat.completions.stream(model="nano", **body) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]
    # Ids of another server's making are taken too.
    for call_id in (calls[0].id, "call_0123456789abcdefghijklmn"):
        asked = {"role": "assistant", "tool_calls": [{**calls[0].model_dump(), "id": call_id}]}
        result = {"role": "tool", "tool_call_id": call_id, "content": RESULT}
        messages: Any = [*body["messages"], asked, result]
        answer = client.chat.completions.create(model="nano", messages=messages, tools=TOOLS, tool_choice="none")
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.image_tokens == RECEIPT_TOKENS  # type: ignore[attr-defined]


def test_openai_several_choices_with_a_seed(client: openai.OpenAI) -> None:
    body = asking("Read the text.", temperature=5.0, seed=5, n=3, max_tokens=12)
    first, second = (client.chat.completions.create(model="nano", **body) for _ in range(2))
    texts = [[choice.message.content for choice in reply.choices] for reply in (first, second)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    chunks = client.chat.completions.create(model="nano", **body, stream=True)
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts[0]


def test_openai_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", **asking())
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unread:
        client.chat.completions.create(model="nano", **asking("Hi", "data:image/png;base64,AAAA"))
    assert unread.value.code == "invalid_image"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="nano", messages=[{"role": "user", "content": "word " * 2000}])
    assert long.value.code == "context_length_exceeded"


def test_openai_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="nano", prompt=["Total", "Date"], max_tokens=3, logprobs=2, extra_body=WHOLE
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].logprobs is not None
    assert len(reply.choices[0].logprobs.tokens or []) == 3
    chunks = client.completions.create(model="nano", prompt="Total", max_tokens=3, stream=True, extra_body=WHOLE)
    assert "".join(chunk.choices[0].text for chunk in chunks) == reply.choices[0].text


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_mistral_chat_and_stream(mistral: Mistral, running: Running) -> None:
    body = asking()
    reply = mistral.chat.complete(model="nano", **body)
    assert reply.choices[0].message is not None
    assert reply.choices[0].message.content == expected(running)
    events = list(mistral.chat.stream(model="nano", **body))
    assert "".join(str(event.data.choices[0].delta.content or "") for event in events) == expected(running)
    assert events[-1].data.usage is not None
    assert events[-1].data.choices[0].finish_reason == "stop"


def test_mistral_takes_a_image_as_a_plain_string(mistral: Mistral, running: Running) -> None:
    parts = [{"type": "text", "text": "What is the total?"}, {"type": "image_url", "image_url": RECEIPT}]
    reply = mistral.chat.complete(model="nano", messages=[{"role": "user", "content": parts}], random_seed=3)
    assert reply.choices[0].message is not None
    assert reply.choices[0].message.content


def test_mistral_parses_into_its_model(mistral: Mistral) -> None:
    reply = mistral.chat.parse(model="nano", **AS_JSON, response_format=Receipt)
    assert reply.choices is not None
    assert reply.choices[0].message is not None
    assert isinstance(reply.choices[0].message.parsed, Receipt)
    loose = mistral.chat.complete(model="nano", **AS_JSON, response_format={"type": "json_object"}, max_tokens=200)
    assert loose.choices[0].message is not None
    assert isinstance(json.loads(str(loose.choices[0].message.content)), dict)


def test_mistral_tools_there_and_back(mistral: Mistral) -> None:
    body = asking(tools=TOOLS[:1], tool_choice="any")
    message = mistral.chat.complete(model="nano", **body).choices[0].message
    assert message is not None
    calls = message.tool_calls or []
    for call in calls:
        Conversion.model_validate_json(str(call.function.arguments))
    events = list(mistral.chat.stream(model="nano", **body))
    streamed = [call for event in events for call in event.data.choices[0].delta.tool_calls or []]
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]
    assert events[-1].data.choices[0].finish_reason == "tool_calls"
    results = [{"role": "tool", "tool_call_id": call.id, "name": "convert", "content": RESULT} for call in calls]
    messages: Any = [*body["messages"], message, *results]
    answer = mistral.chat.complete(model="nano", messages=messages, tools=TOOLS, tool_choice="none").choices[0]
    assert answer.finish_reason == "stop"


def test_mistral_models_and_errors(mistral: Mistral) -> None:
    listed = mistral.models.list().data or []
    assert listed[0].id == "nano"
    assert listed[0].capabilities.vision
    with pytest.raises(SDKError) as refused:
        mistral.chat.complete(model="other", **asking())
    assert refused.value.status_code == 404
