"""Replies of /v1/responses: items of what was thought, of the message and of calls, whole or as they are written.

Source of the shapes: OpenAI's API reference for responses and for its streaming events. Thoughts are shown as those of
open models are: an item of type "reasoning" whose content is `reasoning_text`, without a summary.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.chat import Completion, Delta, FinishReason, TokenLogprob, ToolCall, Usage
from tessera.prompt import Tokenizer
from tessera.server.events import Events
from tessera.server.presets import preset_of, temperature_of
from tessera.server.schemas import ResponsesRequest
from tessera.server.thoughts import ThoughtTokens
from tessera.server.wire import created_now, finish_reason_of, json_text, logprobs_object


def new_item_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def response_object(
    response_id: str, model: str, request: ResponsesRequest, completion: Completion, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Build the whole reply."""
    thoughts = ThoughtTokens(tokenizer)
    logprobs = _token_logprobs(thoughts.take(completion), tokenizer)
    output: list[dict[str, Any]] = []
    if completion.reasoning:
        output.append(_reasoning_item(new_item_id("rs"), completion.reasoning))
    if completion.text or not (completion.tool_calls or completion.reasoning):
        output.append(_message_item(new_item_id("msg"), completion.text, logprobs))
    output += [_call_item(new_item_id("fc"), call) for call in completion.tool_calls]
    head = _head(response_id, model, request)
    return _ended(head, output, completion.finish_reason, completion.usage, thoughts.count)


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
    head: Mapping[str, Any], output: Sequence[Mapping[str, Any]], reason: FinishReason, usage: Usage, num_thought: int
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
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": 0,  # OpenAI's library requires it; no cache here is paid for
                "image_tokens": usage.image_tokens,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": num_thought},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def _message_item(item_id: str, text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    part = _text_part(text, logprobs)
    return {"type": "message", "id": item_id, "status": "completed", "role": "assistant", "content": [part]}


def _text_part(text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _reasoning_item(item_id: str, text: str) -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": text}
    return {"type": "reasoning", "id": item_id, "status": "completed", "summary": [], "content": [part]}


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
    """The typed events of one reply; an item opens with its first text and closes before another one or the end."""

    def __init__(self, response_id: str, model: str, request: ResponsesRequest, tokenizer: Tokenizer) -> None:
        self._head = _head(response_id, model, request)
        self._tokenizer = tokenizer
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._thoughts = ThoughtTokens(tokenizer)
        self._open_id: str | None = None  # of the item being written
        self._is_thought = False  # that item
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self._held: list[dict[str, Any]] = []  # log-probabilities that wait for their text
        self._last: Delta | None = None

    def opening(self, index: int) -> bytes:
        return self._typed("response.created", response=self._head) + self._typed(
            "response.in_progress", response=self._head
        )

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        events = b""
        self._held += _token_logprobs(self._thoughts.take(delta), self._tokenizer)
        if delta.reasoning:
            events += self._open(is_thought=True) + self._add_thought(delta.reasoning)
        # An answer's tokens may come before the last text of a thought, which they must not interrupt.
        if delta.text or (self._held and not (self._is_thought and delta.finish_reason is None)):
            events += self._open() + self._add_text(delta.text)
        for call in delta.tool_calls:
            events += self._close() + self._call(call)
        if delta.finish_reason:
            finish_reason_of(delta.finish_reason)
            if not self._output and self._open_id is None:
                events += self._open()
            events += self._close()
            self._last = delta
        return events

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        if self._last is None or self._last.finish_reason is None or self._last.usage is None:
            raise ValueError("a reply without an end cannot be closed")
        whole = _ended(self._head, self._output, self._last.finish_reason, self._last.usage, self._thoughts.count)
        return self._typed(f"response.{whole['status']}", response=whole)

    def failure(self, error: Mapping[str, Any]) -> bytes:
        told = error["error"]
        failed = {**self._head, "status": "failed", "output": self._output}
        failed["error"] = {"code": "server_error", "message": told["message"]}
        return self._typed("response.failed", response=failed)

    def _open(self, *, is_thought: bool = False) -> bytes:
        """Open an item, unless one of its kind is open."""
        if self._open_id is not None and is_thought == self._is_thought:
            return b""
        events = self._close()
        self._open_id, self._is_thought = new_item_id("rs" if is_thought else "msg"), is_thought
        item, part = self._item()
        item |= {"status": "in_progress", "content": []}
        return (
            events
            + self._typed("response.output_item.added", output_index=len(self._output), item=item)
            + self._typed("response.content_part.added", **self._place(), part=part)
        )

    def _item(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The open item as it is now, and its one part."""
        id_ = self._open_id or ""
        item = _reasoning_item(id_, self._text) if self._is_thought else _message_item(id_, self._text, self._logprobs)
        return item, item["content"][0]

    def _add_thought(self, text: str) -> bytes:
        self._text += text
        return self._typed("response.reasoning_text.delta", **self._place(), delta=text)

    def _add_text(self, text: str) -> bytes:
        logprobs, self._held = self._held, []
        self._text += text
        self._logprobs += logprobs
        return self._typed("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)

    def _close(self) -> bytes:
        if self._open_id is None:
            return b""
        place, (item, part) = self._place(), self._item()
        if self._is_thought:
            events = self._typed("response.reasoning_text.done", **place, text=self._text)
        else:
            events = self._typed("response.output_text.done", **place, text=self._text, logprobs=self._logprobs)
        events += self._typed("response.content_part.done", **place, part=part)
        events += self._typed("response.output_item.done", output_index=place["output_index"], item=item)
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
