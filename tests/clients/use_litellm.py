"""LiteLLM, by each of the three providers that people point at such a server."""

from __future__ import annotations

from typing import Any

import litellm
from probe import (
    ANSWER,
    BROKEN_IMAGE,
    KEY,
    MAX_TOKENS,
    MODEL,
    NO_MODEL,
    RESULT,
    TOOL,
    TOOLS,
    URL,
    asking,
    check_call,
    feature,
    holds,
    refused,
    run,
    same,
)
from pydantic import BaseModel

litellm.suppress_debug_info = True
PROVIDERS = ("openai", "hosted_vllm", "mistral")


class Receipt(BaseModel):
    vendor: str
    total: float


def complete(provider: str, messages: list[Any], model: str = MODEL, key: str = KEY, **options: Any) -> Any:
    return litellm.completion(
        model=f"{provider}/{model}",
        messages=messages,
        api_base=f"{URL}/v1",
        api_key=key,
        max_retries=0,
        num_retries=0,
        max_tokens=MAX_TOKENS,
        **options,
    )


@feature
def check_chat() -> str:
    for provider in PROVIDERS:
        same(complete(provider, asking()).choices[0].message.content, ANSWER)
    return ANSWER


@feature
def check_stream() -> str:
    tokens = []
    for provider in PROVIDERS:
        usage = {"stream_options": {"include_usage": True}} if provider != "mistral" else {}
        chunks = list(complete(provider, asking(), stream=True, **usage))
        same("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), ANSWER)
        tokens += [chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)]
    return f"tokens {tokens}"


@feature
def check_schema() -> str:
    question = asking("Give vendor and total as JSON.")
    for provider in PROVIDERS:
        reply = complete(provider, question, response_format=Receipt)
        parsed = Receipt.model_validate_json(reply.choices[0].message.content)
    return repr(parsed)


@feature
def check_tools() -> str:
    named = {"type": "function", "function": {"name": TOOL}}
    for provider in PROVIDERS:
        complete(provider, asking(), tools=TOOLS, tool_choice="required")
        # As the Mistral provider drops a choice that names a tool, it gets one tool and must call it.
        only: dict[str, Any] = {"tools": TOOLS, "tool_choice": named}
        if provider == "mistral":
            only = {"tools": TOOLS[:1], "tool_choice": "required"}
        message = complete(provider, asking(), **only).choices[0].message
        for call in message.tool_calls:
            # Only the openai provider sends a tool's `additionalProperties`; the others take it out of the schema.
            check_call(call.function.name, call.function.arguments, call.id, may_add=provider != "openai")
        same({call.function.name for call in message.tool_calls}, {TOOL})
        chunks = list(complete(provider, asking(), **only, stream=True))
        streamed = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
        same([c.function.arguments for c in streamed], [c.function.arguments for c in message.tool_calls])
        results = [
            {"role": "tool", "tool_call_id": call.id, "name": TOOL, "content": RESULT} for call in message.tool_calls
        ]
        conversation = [*asking(), message, *results]
        final = complete(provider, conversation, tools=TOOLS, tool_choice="none").choices[0].message
        holds(final.content, "no answer after the tool's result")
    return f"{TOOL}({message.tool_calls[0].function.arguments}) -> {final.content}"


@feature
def check_errors() -> str:
    for provider in PROVIDERS:
        refused(lambda: complete(provider, asking(), NO_MODEL), litellm.NotFoundError, NO_MODEL)  # noqa: B023
        broken = asking(image=BROKEN_IMAGE)
        refused(lambda: complete(provider, broken), litellm.BadRequestError, "image")  # noqa: B023
        seen = refused(lambda: complete(provider, asking(), key="wrong"), litellm.AuthenticationError, "API key")  # noqa: B023
    return seen


run()
