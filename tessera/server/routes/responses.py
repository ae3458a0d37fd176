"""/v1/responses: conversations in OpenAI's newer format, read into messages and written as items.

Nothing is kept between requests, so a client sends the whole conversation each time. Source of the
shapes: OpenAI's API reference for responses and for its streaming events.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tessera.chat import Completion, Delta, FinishReason, TokenLogprob, ToolCall, ToolChoice, Tools, Usage
from tessera.messages import Message, parse_content, parse_message
from tessera.prompt import Tokenizer
from tessera.sampling import SamplingParams
from tessera.server.document_parts import with_documents
from tessera.server.errors import BadRequestError
from tessera.server.events import Events
from tessera.server.handlers import Handlers, field_named, notes_on
from tessera.server.presets import instructed, preset_of, temperature_of
from tessera.server.schemas import ResponsesRequest
from tessera.server.translate import sampling_of, tools_among
from tessera.server.wire import created_now, finish_reason_of, json_text, logprobs_object

LOGPROBS = "message.output_text.logprobs"  # a value of `include`


def add(app: FastAPI, handlers: Handlers) -> None:
    @app.post("/v1/responses")
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        handlers.check(body)
        messages, params, tools = input_messages(body), response_sampling(body), response_tools(body)
        messages = await handlers.with_pages(messages, request)
        with field_named("input"):
            num_tokens, replies = await handlers.start_chat(
                messages, params, tools, body, request, truncate=body.truncation == "auto"
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


# Replies -------------------------------------------------------------------------------------


def new_item_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def response_object(
    response_id: str, model: str, request: ResponsesRequest, completion: Completion, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Build the whole reply."""
    output: list[dict[str, Any]] = []
    if completion.text or not completion.tool_calls:
        logprobs = _token_logprobs(completion.logprobs, tokenizer)
        output.append(_message_item(new_item_id("msg"), completion.text, logprobs))
    output += [_call_item(new_item_id("fc"), call) for call in completion.tool_calls]
    head = _head(response_id, model, request)
    return _ended(head, output, completion.finish_reason, completion.usage)


def _head(response_id: str, model: str, request: ResponsesRequest) -> dict[str, Any]:
    """A reply that has just begun, echoing the request."""
    text = {"format": {"type": "text"}}
    if request.text is not None and request.text.format is not None:
        text = {"format": request.text.format.model_dump(by_alias=True, exclude_none=True)}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_now(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": temperature_of(preset_of(request.preset), request.temperature),
        "text": text,
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
    }


def _ended(
    head: Mapping[str, Any], output: Sequence[Mapping[str, Any]], reason: FinishReason, usage: Usage
) -> dict[str, Any]:
    """Finish a reply; raises EngineDeadError if it was cut off."""
    is_whole = finish_reason_of(reason) == "stop"
    return {
        **head,
        "status": "completed" if is_whole else "incomplete",
        "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
        "output": list(output),
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def _message_item(item_id: str, text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    part = _text_part(text, logprobs)
    return {"type": "message", "id": item_id, "status": "completed", "role": "assistant", "content": [part]}


def _text_part(text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _call_item(item_id: str, call: ToolCall) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def _token_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = logprobs_object(entries, tokenizer)["content"]
    return content


class ResponseEvents(Events):
    """The typed events of one reply; its message opens with the first text and closes before a call or the end."""

    def __init__(self, response_id: str, model: str, request: ResponsesRequest, tokenizer: Tokenizer) -> None:
        self._head = _head(response_id, model, request)
        self._tokenizer = tokenizer
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open_id: str | None = None  # of the message being written
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self._last: Delta | None = None

    def opening(self, index: int) -> bytes:
        return self._typed("response.created", response=self._head) + self._typed(
            "response.in_progress", response=self._head
        )

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        events = b""
        if delta.text or delta.logprobs:
            events += self._open() + self._add_text(delta)
        for call in delta.tool_calls:
            events += self._close() + self._call(call)
        if delta.finish_reason:
            finish_reason_of(delta.finish_reason)
            if not self._output:
                events += self._open()
            events += self._close()
            self._last = delta
        return events

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        if self._last is None or self._last.finish_reason is None or self._last.usage is None:
            raise ValueError("a reply without an end cannot be closed")
        whole = _ended(self._head, self._output, self._last.finish_reason, self._last.usage)
        return self._typed(f"response.{whole['status']}", response=whole)

    def failure(self, error: Mapping[str, Any]) -> bytes:
        told = error["error"]
        failed = {**self._head, "status": "failed", "output": self._output}
        failed["error"] = {"code": "server_error", "message": told["message"]}
        return self._typed("response.failed", response=failed)

    def _open(self) -> bytes:
        if self._open_id is not None:
            return b""
        self._open_id = new_item_id("msg")
        item = {**_message_item(self._open_id, "", ()), "status": "in_progress", "content": []}
        return self._typed("response.output_item.added", output_index=len(self._output), item=item) + self._typed(
            "response.content_part.added", **self._place(), part=_text_part("", ())
        )

    def _add_text(self, delta: Delta) -> bytes:
        logprobs = _token_logprobs(delta.logprobs, self._tokenizer)
        self._text += delta.text
        self._logprobs += logprobs
        return self._typed("response.output_text.delta", **self._place(), delta=delta.text, logprobs=logprobs)

    def _close(self) -> bytes:
        if self._open_id is None:
            return b""
        place, part = self._place(), _text_part(self._text, self._logprobs)
        item = _message_item(self._open_id, self._text, self._logprobs)
        events = (
            self._typed("response.output_text.done", **place, text=self._text, logprobs=self._logprobs)
            + self._typed("response.content_part.done", **place, part=part)
            + self._typed("response.output_item.done", output_index=place["output_index"], item=item)
        )
        self._output.append(item)
        self._open_id, self._text, self._logprobs = None, "", []
        return events

    def _call(self, call: ToolCall) -> bytes:
        item, place = _call_item(new_item_id("fc"), call), len(self._output)
        begun = {**item, "arguments": "", "status": "in_progress"}
        where = {"item_id": item["id"], "output_index": place}
        self._output.append(item)
        return (
            self._typed("response.output_item.added", output_index=place, item=begun)
            + self._typed("response.function_call_arguments.delta", **where, delta=call.arguments)
            + self._typed("response.function_call_arguments.done", **where, name=call.name, arguments=call.arguments)
            + self._typed("response.output_item.done", output_index=place, item=item)
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._open_id, "output_index": len(self._output), "content_index": 0}

    def _typed(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: ".encode() + json_text(data) + b"\n\n"
