"""LlamaIndex, by the integration that the argument names: openai-like or mistralai."""

import sys
from typing import Any, Literal

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.tools import FunctionTool
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
    SUITE,
    TOOL,
    URL,
    check_call,
    feature,
    holds,
    refused,
    run,
    same,
)
from pydantic import BaseModel

LIKE_OPENAI = sys.argv[1] == "openai-like"
# The Mistral integration takes only names that it knows: a server that it shall use must be served under one.
NAME, OTHER_NAME = (MODEL, NO_MODEL) if LIKE_OPENAI else (SUITE["known_name"], "mistral-large-latest")
Currency = Literal["EUR", "USD", "GBP"]


class Receipt(BaseModel):
    """What a receipt says."""

    vendor: str
    total: float


def convert(to: Currency, rounded: bool) -> str:
    """Converts the total of a receipt into another currency."""
    return RESULT


def connect(model: str = NAME, key: str = KEY) -> Any:
    common = {"model": model, "api_key": key, "temperature": 0, "max_tokens": MAX_TOKENS}
    if not LIKE_OPENAI:
        from llama_index.llms.mistralai import MistralAI

        return MistralAI(**common, endpoint=URL, max_retries=0)
    from llama_index.llms.openai_like import OpenAILike

    known = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 1024}
    return OpenAILike(**common, **known, api_base=f"{URL}/v1", max_retries=0)


def asking(text: str = QUESTION, image: str = IMAGE) -> ChatMessage:
    return ChatMessage(role="user", blocks=[ImageBlock(url=image), TextBlock(text=text)])


chat = connect()


@feature
def check_chat() -> str:
    same(chat.chat([asking()]).message.content, ANSWER)
    return ANSWER


@feature
def check_stream() -> str:
    chunks = list(chat.stream_chat([asking()]))
    same("".join(chunk.delta or "" for chunk in chunks), ANSWER)
    return f"{len(chunks)} chunks"


@feature
def check_schema() -> str:
    question = asking("Give vendor and total as JSON.")
    if LIKE_OPENAI:
        found = chat.as_structured_llm(Receipt).chat([question]).raw
    else:
        # Otherwise this integration leaves it to the model whether it calls the tool that stands for the schema.
        prompt = ChatPromptTemplate(message_templates=[question])
        found = FunctionCallingProgram.from_defaults(Receipt, prompt=prompt, llm=chat, tool_choice="any")()
    holds(isinstance(found, Receipt), f"found {found!r}")
    return repr(found)


@feature
def check_tools() -> str:
    tools = [FunctionTool.from_defaults(convert)]
    asked = chat.chat_with_tools(tools, user_msg=asking(), tool_required=True)
    calls = chat.get_tool_calls_from_response(asked)
    for call in calls:
        check_call(call.tool_name, call.tool_kwargs, call.tool_id)
    results = [
        ChatMessage(role="tool", content=RESULT, additional_kwargs={"tool_call_id": call.tool_id, "name": TOOL})
        for call in calls
    ]
    final = chat.chat([asking(), asked.message, *results])
    holds(final.message.content, "no answer after the tool's result")
    return f"{TOOL}({calls[0].tool_kwargs}) -> {final.message.content}"


@feature
def check_errors() -> str:
    from mistralai.client.errors import SDKError

    other, broken, stranger = (
        (openai.NotFoundError, openai.BadRequestError, openai.AuthenticationError) if LIKE_OPENAI else (SDKError,) * 3
    )
    refused(lambda: connect(OTHER_NAME).chat([asking()]), other, "model_not_found", OTHER_NAME)
    refused(lambda: chat.chat([asking(image=BROKEN_IMAGE)]), broken, "invalid_image")
    return refused(lambda: connect(key="wrong").chat([asking()]), stranger, "API key")


run()
