"""Response parts shared by several routes: ids, usage, finish reasons, log-probabilities, calls.

Source of the shapes: OpenAI's and Mistral's API references, and the observed needs of their clients.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.chat import FinishReason, TokenLogprob, ToolCall, Usage
from tessera.errors import EngineDeadError
from tessera.prompt import Tokenizer

LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON lacks


def json_text(data: Mapping[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8 form; a model cannot write one, but a request may quote one.
    return text.encode(errors="replace")


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def created_now() -> int:
    return int(time.time())


def usage_object(usages: Sequence[Usage], per_prompt: int | None = None) -> dict[str, Any]:
    """Tokens of all choices; a prompt counts once for its `per_prompt` choices (None: there is one prompt)."""
    prompts = usages[:: per_prompt or len(usages)]
    read, written = sum(u.prompt_tokens for u in prompts), sum(u.completion_tokens for u in usages)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {
            "cached_tokens": sum(u.cached_tokens for u in prompts),
            "image_tokens": sum(u.image_tokens for u in prompts),
        },
    }


def finish_reason_of(reason: FinishReason, *, has_called: bool = False) -> str:
    """Return OpenAI's finish reason; raises for "abort" and "error", which must not pass for an answer."""
    if reason == "stop" and has_called:
        return "tool_calls"
    if reason in ("stop", "length"):
        return reason
    raise EngineDeadError("the reply was ended by the server before it was complete; send the request again.")


def logprobs_object(entries: Sequence[TokenLogprob], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """List each token of the text with its alternatives; its `bytes` may be half a character.

    Without `tokenizer` the tokens are another server's: their bytes are those of their texts, null where it cut one.
    """

    def bytes_of(token_id: int, token: str) -> list[int] | None:
        if tokenizer is not None:
            return list(tokenizer.token_bytes(token_id))
        return None if "\ufffd" in token else list(token.encode())

    def described(token_id: int, token: str, logprob: float | None) -> dict[str, Any]:
        return {
            "token": token,
            "logprob": finite(logprob),
            "bytes": bytes_of(token_id, token),
        }

    content = [
        described(entry.token_id, entry.token, entry.logprob)
        | {"top_logprobs": [described(*alternative) for alternative in entry.top]}
        for entry in entries
        if tokenizer is None or entry.token_id not in tokenizer.special_ids  # the end token is not part of the text
    ]
    return {"content": content, "refusal": None}


def finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


def call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
