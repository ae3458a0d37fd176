"""/v1/responses: conversations in OpenAI's newer format, read into messages; `responses_reply` writes the replies.

Nothing is kept between requests, so a client sends the whole conversation each time. Source of the
shapes: OpenAI's API reference for responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tessera.chat import ToolChoice, Tools
from tessera.messages import Message, parse_content, parse_message
from tessera.sampling import SamplingParams
from tessera.server.document_parts import with_documents
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers, field_named, notes_on
from tessera.server.presets import instructed, preset_of
from tessera.server.routes.responses_reply import ResponseEvents, new_item_id, response_object
from tessera.server.schemas import ResponsesRequest
from tessera.server.translate import sampling_of, tools_among

LOGPROBS = "message.output_text.logprobs"  # a value of `include`


def add(app: FastAPI, handlers: Handlers) -> None:
    @app.post("/v1/responses")
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        handlers.check(body)
        messages, params, tools = input_messages(body), response_sampling(body), response_tools(body)
        messages = await handlers.with_pages(messages, request)
        with field_named("input"):
            num_tokens, replies = await handlers.start_chat(
                messages, params, tools, body, request, truncate=body.truncation == "auto", thoughts=True
            )
        reply_id, model, tokenizer = new_item_id("resp"), handlers.names.stated(body.model), handlers.backend.tokenizer
        if body.stream:
            events = ResponseEvents(reply_id, model, body, tokenizer)
            return handlers.stream(replies, events, num_tokens, body, request)
        (completion,) = await handlers.collect(replies, request)
        return JSONResponse(response_object(reply_id, model, body, completion, tokenizer), headers=notes_on(body))


# Requests ------------------------------------------------------------------------------------


def input_messages(request: ResponsesRequest) -> list[Message]:
    """Read the conversation; raises BadRequestError that names the item."""
    messages: list[Message] = []
    if request.instructions:
        messages.append(Message("system", (request.instructions,), place="instructions"))
    if isinstance(request.input, str):
        messages.append(Message("user", (request.input,), place="input"))
    else:
        for index, item in enumerate(with_documents(request.input, "input")):
            _add_item(messages, f"input.{index}", item)
    return instructed(messages, preset_of(request.preset), request.max_image_side)


def _add_item(messages: list[Message], where: str, item: Mapping[str, Any]) -> None:
    kind = "message" if item.get("type") is None else item["type"]
    if kind == "message":
        messages.append(parse_message(item, where, lenient=True))
    elif kind == "function_call":
        if not isinstance(item.get("call_id"), str):
            raise BadRequestError(f"{where}.call_id must be a string.", param=f"{where}.call_id")
        call = {"id": item.get("call_id"), "function": {key: item.get(key) for key in ("name", "arguments")}}
        messages.append(Message("assistant", (), (call,), place=where))
    elif kind == "function_call_output":
        if not isinstance(item.get("call_id"), str):
            raise BadRequestError(f"{where}.call_id must be a string.", param=f"{where}.call_id")
        parts = parse_content(item.get("output"), f"{where}.output")
        messages.append(Message("tool", parts, (), item["call_id"], place=where))
    elif kind != "reasoning":
        shown = repr(kind[:40]) if isinstance(kind, str) else "unknown"
        raise BadRequestError(
            f"{where} is an item of type {shown}; this server reads message, function_call and function_call_output.",
            param=where,
        )


def response_sampling(request: ResponsesRequest) -> SamplingParams:
    if request.max_output_tokens is not None:
        request = request.model_copy(update={"max_tokens": request.max_output_tokens})
    params = sampling_of(request)
    return replace(params, logprobs=request.top_logprobs or 0) if _tells_logprobs(request) else params


def _tells_logprobs(request: ResponsesRequest) -> bool:
    return bool(request.top_logprobs) or LOGPROBS in (request.include or ())


def response_tools(request: ResponsesRequest) -> Tools:
    """Read the tools, whose fields are flat in this API."""
    tools = []
    for index, tool in enumerate(request.tools or ()):
        if tool.get("type") != "function":
            shown = str(tool.get("type"))[:40]
            raise BadRequestError(
                f"tools.{index} is of type {shown!r}; this server runs no tools itself, send those of type function.",
                param=f"tools.{index}.type",
            )
        tools.append({"type": "function", "function": {key: tool[key] for key in tool if key != "type"}})
    return tools_among(tools, _choice(request.tool_choice or "auto"), request.parallel_tool_calls)


def _choice(given: ToolChoice) -> ToolChoice:
    """Convert a tool choice to the chat format, which nests what is flat here."""
    if not isinstance(given, Mapping):
        return given
    inner = {key: value for key, value in given.items() if key != "type"}
    if given.get("type") != "allowed_tools":
        return {"type": given.get("type"), "function": inner}
    tools = [_choice(tool) if isinstance(tool, Mapping) else tool for tool in _listed(inner.get("tools"))]
    return {"type": "allowed_tools", "allowed_tools": inner | {"tools": tools}}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
