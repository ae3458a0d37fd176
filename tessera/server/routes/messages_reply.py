"""Replies of /v1/messages: blocks of what was thought, of text and of calls, whole or as they are written.

Source of the shapes: Anthropic's API reference for messages, for streaming and for extended thinking. A thought has an
empty signature: nothing here checks a thought that comes back, since earlier ones are left out of a conversation.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tessera.chat import Completion, Delta, FinishReason, ToolCall, Usage
from tessera.server.errors import anthropic_error
from tessera.server.events import Events
from tessera.server.wire import finish_reason_of, json_text


def new_message_id() -> str:
    return f"msg_{secrets.token_hex(12)}"


def message_object(message_id: str, model: str, completion: Completion) -> dict[str, Any]:
    """Build the whole reply."""
    written = (("thinking", completion.reasoning), ("text", completion.text))
    blocks = [_block(kind, text) for kind, text in written if text]
    blocks += [_call_block(call, call.arguments) for call in completion.tool_calls]
    end = _end(completion.finish_reason, completion.stop_string, has_called=bool(completion.tool_calls))
    return _head(message_id, model) | {"content": blocks, "usage": _usage(completion.usage)} | end


def _head(message_id: str, model: str) -> dict[str, Any]:
    return {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": []} | {
        "stop_reason": None,
        "stop_sequence": None,
    }


def _block(kind: str, text: str) -> dict[str, Any]:
    """A block of "text", or of "thinking"."""
    return {"type": kind, kind: text} | ({"signature": ""} if kind == "thinking" else {"citations": None})


def _call_block(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(arguments)}


def _end(reason: FinishReason, stop_string: str | None, *, has_called: bool) -> dict[str, Any]:
    """The stop reason; raises EngineDeadError if the reply was cut off."""
    words = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    stop_reason = words[finish_reason_of(reason, has_called=has_called)]
    if stop_string is not None and stop_reason == "end_turn":
        stop_reason = "stop_sequence"
    return {"stop_reason": stop_reason, "stop_sequence": stop_string if stop_reason == "stop_sequence" else None}


def _usage(usage: Usage) -> dict[str, Any]:
    """Token counts; Anthropic counts cached and newly read tokens separately."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "service_tier": "standard",
    }


class MessageEvents(Events):
    """The typed events of one reply: blocks that open, grow and close in turn."""

    def __init__(self, message_id: str, model: str, prompt_tokens: int, request_id: str) -> None:
        self._head = _head(message_id, model) | {"usage": _usage(Usage(prompt_tokens=prompt_tokens))}
        self._request_id = request_id
        self._number = 0  # of the open or next block
        self._kind: str | None = None  # of the open block
        self._has_called = False
        self._last: Delta | None = None

    def opening(self, index: int) -> bytes:
        return _typed("message_start", message=self._head) + _typed("ping")

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        events = b""
        for kind, text in (("thinking", delta.reasoning), ("text", delta.text)):
            if text:
                begun = b"" if kind == self._kind else self._close() + self._open(_block(kind, ""))
                events += begun + self._grow({"type": f"{kind}_delta", kind: text})
        for call in delta.tool_calls:
            self._has_called = True
            events += self._close() + self._open(_call_block(call, "{}"))
            events += self._grow({"type": "input_json_delta", "partial_json": call.arguments}) + self._close()
        if delta.finish_reason:
            finish_reason_of(delta.finish_reason)
            events += self._close()
            self._last = delta
        return events

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        last = self._last
        if last is None or last.finish_reason is None or last.usage is None:
            raise ValueError("a reply without an end cannot be closed")
        end = _end(last.finish_reason, last.stop_string, has_called=self._has_called)
        return _typed("message_delta", delta=end, usage=_usage(last.usage)) + _typed("message_stop")

    def failure(self, error: Mapping[str, Any]) -> bytes:
        told = anthropic_error(500, error["error"]["message"], self._request_id)
        return b"event: error\ndata: " + json_text(told) + b"\n\n"

    def _open(self, block: Mapping[str, Any]) -> bytes:
        self._kind = block["type"]
        return _typed("content_block_start", index=self._number, content_block=block)

    def _grow(self, delta: Mapping[str, Any]) -> bytes:
        return _typed("content_block_delta", index=self._number, delta=delta)

    def _close(self) -> bytes:
        if self._kind is None:
            return b""
        event = _typed("content_block_stop", index=self._number)
        self._kind = None
        self._number += 1
        return event


def _typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json_text({"type": kind, **fields}) + b"\n\n"
