"""Anthropic's Python client."""

from __future__ import annotations

from typing import Any

import anthropic
from probe import (
    ANSWER,
    BROKEN_IMAGE,
    IMAGE,
    KEY,
    MAX_TOKENS,
    MODEL,
    NO_MODEL,
    QUESTION,
    RESULT,
    TOOL,
    TOOLS,
    URL,
    check_call,
    feature,
    holds,
    refused,
    run,
    same,
)

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
FLAT: Any = [
    {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"], "description": "A tool."}
    for tool in TOOLS
]
CHOICE: Any = {"type": "tool", "name": TOOL}


def asking(text: str = QUESTION, image: str = IMAGE) -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": image.partition("base64,")[2]}
    return [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": text}]}]


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@feature
def check_chat() -> str:
    reply = client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=asking())
    same(text_of(reply), ANSWER)
    counted = client.messages.count_tokens(model=MODEL, messages=asking()).input_tokens
    same(reply.usage.input_tokens + reply.usage.cache_read_input_tokens, counted)
    return f"{ANSWER}, {counted} tokens"


@feature
def check_stream() -> str:
    with client.messages.stream(model=MODEL, max_tokens=MAX_TOKENS, messages=asking()) as stream:
        same("".join(stream.text_stream), ANSWER)
        final = stream.get_final_message()
    same(final.stop_reason, "end_turn")
    return f"{final.usage.output_tokens} tokens"


@feature
def check_tools() -> str:
    options: Any = {"model": MODEL, "max_tokens": MAX_TOKENS, "tools": FLAT}
    reply = client.messages.create(messages=asking(), tool_choice=CHOICE, **options)
    calls = [block for block in reply.content if block.type == "tool_use"]
    for call in calls:
        check_call(call.name, call.input, call.id)
    same({call.name for call in calls}, {TOOL})
    with client.messages.stream(messages=asking(), tool_choice=CHOICE, **options) as stream:
        streamed = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    same([call.input for call in streamed], [call.input for call in calls])
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT} for call in calls]
    told: Any = [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    after = client.messages.create(messages=asking() + told, tool_choice={"type": "none"}, **options)
    holds(text_of(after), "no answer after the tool's result")
    return f"{TOOL}({calls[0].input}) -> {text_of(after)}"


@feature
def check_errors() -> str:
    options: Any = {"max_tokens": 5, "messages": asking()}
    refused(lambda: client.messages.create(model=NO_MODEL, **options), anthropic.NotFoundError, NO_MODEL)
    broken: Any = {"max_tokens": 5, "messages": asking(image=BROKEN_IMAGE)}
    refused(lambda: client.messages.create(model=MODEL, **broken), anthropic.BadRequestError)
    refused(lambda: client.messages.create(model=MODEL, stream=True, **broken), anthropic.BadRequestError)
    stranger = client.with_options(api_key="wrong").messages
    return refused(lambda: stranger.create(model=MODEL, **options), anthropic.AuthenticationError, "API key")


run()
