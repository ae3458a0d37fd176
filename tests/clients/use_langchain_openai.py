"""LangChain's OpenAI integration."""

from __future__ import annotations

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
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
    asking,
    check_call,
    feature,
    holds,
    refused,
    run,
    same,
)
from pydantic import BaseModel


class Receipt(BaseModel):
    """What a receipt says."""

    vendor: str
    total: float


def connect(model: str = MODEL, key: str = KEY, **options: object) -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=f"{URL}/v1", api_key=key, temperature=0, max_retries=0, max_tokens=MAX_TOKENS, **options
    )


chat = connect()


@feature
def check_chat() -> str:
    same(chat.invoke(asking()).content, ANSWER)
    data = IMAGE.partition(",")[2]  # LangChain's own form of an image
    blocks = [{"type": "image", "base64": data, "mime_type": "image/png"}, {"type": "text", "text": QUESTION}]
    reply = chat.invoke([HumanMessage(content_blocks=blocks)])
    same(reply.content, ANSWER)
    return f"{reply.content}, {reply.usage_metadata['total_tokens']} tokens"


@feature
def check_stream() -> str:
    chunks = list(connect(stream_usage=True).stream(asking()))
    same("".join(chunk.text for chunk in chunks), ANSWER)
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    same(whole.usage_metadata["output_tokens"], chat.invoke(asking()).usage_metadata["output_tokens"])
    return f"{len(chunks)} chunks, {whole.usage_metadata['total_tokens']} tokens"


@feature
def check_schema() -> str:
    question = asking("Give vendor and total as JSON.")
    found = [
        chat.with_structured_output(Receipt, method=method).invoke(question)
        for method in ("json_schema", "function_calling")
    ]
    holds(all(isinstance(one, Receipt) for one in found), f"found {found}")
    loose = chat.with_structured_output(None, method="json_mode").invoke(question)
    holds(isinstance(loose, dict), f"json_mode gave {loose!r}")
    return repr(found[0])


@feature
def check_tools() -> str:
    forced = chat.bind_tools(TOOLS, tool_choice="any").invoke(asking())
    asked = chat.bind_tools(TOOLS, tool_choice=TOOL).invoke(asking())
    for call in [*forced.tool_calls, *asked.tool_calls]:
        check_call(call["name"], call["args"], call["id"])
    same({call["name"] for call in asked.tool_calls}, {TOOL})
    streamed = None
    for chunk in chat.bind_tools(TOOLS, tool_choice=TOOL).stream(asking()):
        streamed = chunk if streamed is None else streamed + chunk
    same([call["args"] for call in streamed.tool_calls], [call["args"] for call in asked.tool_calls])
    results = [ToolMessage(RESULT, tool_call_id=call["id"]) for call in asked.tool_calls]
    final = chat.bind_tools(TOOLS, tool_choice="none").invoke([*asking(), asked, *results])
    holds(final.content, "no answer after the tool's result")
    return f"{TOOL}({asked.tool_calls[0]['args']}) -> {final.content}"


@feature
def check_errors() -> str:
    refused(lambda: connect(NO_MODEL).invoke(asking()), openai.NotFoundError, "model_not_found", NO_MODEL)
    refused(lambda: chat.invoke(asking(image=BROKEN_IMAGE)), openai.BadRequestError, "invalid_image")
    return refused(lambda: connect(key="wrong").invoke(asking()), openai.AuthenticationError, "API key")


@feature
def check_responses() -> str:
    chat = connect(use_responses_api=True, store=False)
    reply = chat.invoke(asking())
    same(reply.text, ANSWER)
    same("".join(chunk.text for chunk in chat.stream(asking())), ANSWER)
    found = chat.with_structured_output(Receipt, method="json_schema").invoke(asking("Give vendor and total as JSON."))
    holds(isinstance(found, Receipt), f"found {found!r}")
    asked = chat.bind_tools(TOOLS, tool_choice=TOOL).invoke(asking())
    for call in asked.tool_calls:
        check_call(call["name"], call["args"], call["id"])
    results = [ToolMessage(RESULT, tool_call_id=call["id"]) for call in asked.tool_calls]
    holds(chat.bind_tools(TOOLS, tool_choice="none").invoke([*asking(), asked, *results]).text, "no final answer")
    return f"{reply.usage_metadata['total_tokens']} tokens, {found!r}"


run()
