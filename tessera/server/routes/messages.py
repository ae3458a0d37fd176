"""/v1/messages: conversations in Anthropic's format, read into messages; `messages_reply` writes the replies.

Source of the shapes: Anthropic's API reference for messages and for counting tokens. Nothing is kept between requests;
`cache_control` is ignored, since every prefix is cached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tessera.chat import ToolChoice, Tools
from tessera.messages import Image, Message, scaled
from tessera.sampling import SamplingParams
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers, field_named, notes_on, unless_left
from tessera.server.routes.messages_reply import MessageEvents, message_object, new_message_id
from tessera.server.schemas import CountTokensRequest, MessagesRequest
from tessera.server.translate import sampling_of, tools_among

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_KNOWN_BLOCKS = "text, image, tool_use and tool_result"
_SILENT_BLOCKS = {"thinking", "redacted_thinking"}  # of earlier turns, which a model does not see again


def add(app: FastAPI, handlers: Handlers) -> None:
    @app.post("/v1/messages")
    async def messages(body: MessagesRequest, request: Request) -> Response:
        handlers.check(body)
        asked = messages_from(body), messages_sampling(body), messages_tools(body)
        with field_named("messages"):
            num_tokens, replies = await handlers.start_chat(*asked, body, request, thoughts=True)
        message_id, model = new_message_id(), handlers.names.stated(body.model)
        if body.stream:
            events = MessageEvents(message_id, model, num_tokens, request.state.request_id)
            return handlers.stream(replies, events, num_tokens, body, request)
        (completion,) = await handlers.collect(replies, request)
        return JSONResponse(message_object(message_id, model, completion), headers=notes_on(body))

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountTokensRequest, request: Request) -> dict[str, int]:
        body.check_extra_fields()
        handlers.check_model(body.model)
        tools, tenant = messages_tools(body), handlers.tenant_of(request)
        preparing = handlers.backend.prompt(messages_from(body), tools.definitions, tenant)
        with field_named("messages"):
            prompt = await unless_left(request, preparing)
        return {"input_tokens": len(prompt.ids)}


# Requests ------------------------------------------------------------------------------------


def messages_from(request: MessagesRequest | CountTokensRequest) -> list[Message]:
    """Read the conversation; raises BadRequestError that names the message or block."""
    system = _texts("system", request.system)
    messages = [Message("system", system, place="system")] if system else []
    for index, message in enumerate(request.messages):
        where, role = f"messages.{index}", message.get("role")
        if role == "assistant":
            messages.append(_assistant(where, message))
        elif role == "user":
            messages += _user(where, message)
        elif role == "system":
            messages.append(Message("system", _texts(f"{where}.content", message.get("content")), place=where))
        else:
            raise BadRequestError(f"{where}.role must be user or assistant.", param=f"{where}.role")
    return scaled(messages, request.max_image_side)


def _texts(where: str, content: Any) -> tuple[str, ...]:
    """Read text: a string, or text blocks."""
    parts = [_part(*each) for each in _blocks(where, content)]
    texts = tuple(part for part in parts if isinstance(part, str))
    if len(texts) < len(parts):
        raise BadRequestError(f"{where} must be text; put images into a user's message.", param=where)
    return texts


def _assistant(where: str, message: Mapping[str, Any]) -> Message:
    parts: list[str | Image] = []
    calls: list[dict[str, Any]] = []
    for place, block in _blocks(f"{where}.content", message.get("content")):
        if block["type"] == "tool_use":
            calls.append(_call(place, block))
        elif block["type"] not in _SILENT_BLOCKS:
            parts.append(_part(place, block))
    return Message("assistant", tuple(parts), tuple(calls), place=where)


def _call(where: str, block: Mapping[str, Any]) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(block.get("id"), str) or not isinstance(block.get("name"), str) or not isinstance(given, Mapping):
        raise BadRequestError(f"{where} must have an id, a name, and an object as input.", param=where)
    arguments = json.dumps(given, ensure_ascii=False)
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _user(where: str, message: Mapping[str, Any]) -> list[Message]:
    """Read a user message: results first, each as its own message, then the user's content."""
    results: list[Message] = []
    parts: list[str | Image] = []
    for place, block in _blocks(f"{where}.content", message.get("content")):
        if block["type"] != "tool_result":
            parts.append(_part(place, block))
            continue
        if not isinstance(block.get("tool_use_id"), str):
            raise BadRequestError(f"{place}.tool_use_id must be a string.", param=f"{place}.tool_use_id")
        told = tuple(_part(*each) for each in _blocks(f"{place}.content", block.get("content")))
        if block.get("is_error"):
            told = ("Error: ", *told)
        results.append(Message("tool", told, (), block["tool_use_id"], place=place))
    return [*results, Message("user", tuple(parts), place=where)] if parts or not results else results


def _blocks(where: str, content: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """List each block with its place; a string is one text block."""
    if content is None:
        return []
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise BadRequestError(f"{where} must be a string or a list of blocks.", param=where)
    found = [(f"{where}.{index}", block) for index, block in enumerate(content)]
    for place, block in found:
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise BadRequestError(f"{place} must be an object with a type.", param=place)
    return found


def _part(where: str, block: Mapping[str, Any]) -> str | Image:
    if block["type"] == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    if block["type"] == "image":
        return Image(_address(f"{where}.source", block.get("source")))
    shown = block["type"][:40]
    raise BadRequestError(f"{where} is a block of type {shown!r}; this server reads {_KNOWN_BLOCKS}.", param=where)


def _address(where: str, source: Any) -> str:
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "base64" and all(isinstance(source.get(key), str) for key in ("media_type", "data")):
        return f"data:{source['media_type']};base64,{source['data']}"
    if kind == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    raise BadRequestError(
        f"{where} must be of type base64, with media_type and data, or of type url; this server stores no files.",
        param=where,
    )


def messages_sampling(request: MessagesRequest) -> SamplingParams:
    if (request.thinking or {}).get("type") == "enabled":
        raise BadRequestError(
            "this server neither asks a model to think nor limits it; leave thinking out.", param="thinking"
        )
    return sampling_of(request.model_copy(update={"stop": request.stop_sequences or request.stop}))


def messages_tools(request: MessagesRequest | CountTokensRequest) -> Tools:
    """The tools in OpenAI's chat format; only client tools, since this server runs none."""
    tools = []
    for index, tool in enumerate(request.tools or ()):
        where = f"tools.{index}"
        if tool.get("type") not in (None, "custom"):
            shown = str(tool["type"])[:40]
            raise BadRequestError(f"{where} is of type {shown!r}; this server runs no tools itself.", param=where)
        function = {"name": tool.get("name"), "description": tool.get("description")}
        function |= {"parameters": tool.get("input_schema"), "strict": tool.get("strict")}
        tools.append({"type": "function", "function": {k: value for k, value in function.items() if value is not None}})
    given = request.tool_choice or {"type": "auto"}
    parallel = None if given.get("disable_parallel_tool_use") is None else not given["disable_parallel_tool_use"]
    return tools_among(tools, _choice(given), parallel)


def _choice(given: Mapping[str, Any]) -> ToolChoice:
    kind = given.get("type")
    if kind == "tool":
        if not isinstance(given.get("name"), str):
            raise BadRequestError("tool_choice.name must name one of the tools.", param="tool_choice")
        return {"type": "function", "function": {"name": given["name"]}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise BadRequestError("tool_choice.type must be one of auto, any, tool and none.", param="tool_choice")
    choice: ToolChoice = _CHOICES[kind]
    return choice
