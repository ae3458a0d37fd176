"""/v1/completions: continue plain text without the chat format; with `echo`, score texts.

Source of the shapes: OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tessera.chat import Completion, Delta, TokenLogprob, Usage
from tessera.prompt import Prompt, Tokenizer
from tessera.sampling import SamplingParams
from tessera.server.errors import BadRequestError
from tessera.server.events import ChunkEvents
from tessera.server.handlers import Handlers, notes_on, unless_left
from tessera.server.schemas import CompletionRequest
from tessera.server.translate import sampling_of
from tessera.server.wire import created_now, finish_reason_of, finite, new_id, usage_object

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, on this route


def add(app: FastAPI, handlers: Handlers) -> None:
    tokenizer = handlers.backend.tokenizer

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        handlers.check(body)
        params, given = completion_sampling(body), prompts_of(body)
        prompts, params = await unless_left(request, handlers.backend.plain(given, params))
        echo = partial(EchoReader, tokenizer=tokenizer, prompt_only=body.max_tokens == 0) if body.echo else None
        replies = handlers.start(prompts, params, body, request, echo)
        reply_id, model, told = (
            new_id("cmpl"),
            handlers.names.stated(body.model),
            None if body.logprobs is None else tokenizer,
        )
        if body.stream:
            num_tokens = sum(len(prompt.ids) for prompt in prompts)
            return handlers.stream(replies, TextEvents(reply_id, model, told), num_tokens, body, request)
        collected = await handlers.collect(replies, request)
        return JSONResponse(text_completion(reply_id, model, collected, told, len(prompts)), headers=notes_on(body))


# Requests ------------------------------------------------------------------------------------


def completion_sampling(request: CompletionRequest) -> SamplingParams:
    max_tokens = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens == 0 and not request.echo:
        raise BadRequestError("max_tokens must be at least 1, or 0 with echo.", param="max_tokens")
    params = sampling_of(request.model_copy(update={"max_tokens": None if max_tokens == -1 else max(max_tokens, 1)}))
    scored = request.logprobs if request.echo else None
    return replace(params, logprobs=request.logprobs, prompt_logprobs=scored)


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """Read the prompts, each as text or as token ids."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(entry, int) for entry in prompt):
        return [list(prompt)]  # type: ignore[arg-type]
    return list(prompt)  # type: ignore[arg-type]


# Replies -------------------------------------------------------------------------------------


def text_completion(
    completion_id: str, model: str, completions: Sequence[Completion], tokenizer: Tokenizer | None, prompts: int
) -> dict[str, Any]:
    """Build the reply to `prompts` prompts with equally many completions each."""
    per_prompt = len(completions) // prompts
    return {
        "id": completion_id,
        "object": "text_completion",
        "created": created_now(),
        "model": model,
        "system_fingerprint": None,
        "choices": [
            {
                "index": index,
                "text": completion.text,
                "logprobs": text_logprobs(completion.logprobs, tokenizer) if tokenizer else None,
                "finish_reason": finish_reason_of(completion.finish_reason),
            }
            for index, completion in enumerate(completions)
        ],
        "usage": usage_object([completion.usage for completion in completions], per_prompt),
    }


def text_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> dict[str, Any]:
    """Log-probabilities in the older form: parallel lists, with offsets in characters of the text."""
    detokenizer, offsets, length = tokenizer.detokenizer(), [], 0
    for entry in entries:
        offsets.append(length)
        length += len(detokenizer.add(entry.token_id))
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [finite(entry.logprob) for entry in entries],
        "top_logprobs": [
            None if entry.logprob is None else {token: finite(logprob) for _, token, logprob in entry.top}
            for entry in entries
        ],
        "text_offset": offsets,
    }


class TextEvents(ChunkEvents):
    kind = "text_completion"

    def opening(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        logprobs = text_logprobs(delta.logprobs, self._tokenizer) if self._tokenizer and delta.logprobs else None
        reason = finish_reason_of(delta.finish_reason) if delta.finish_reason else None
        choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": reason}
        return self._event([choice], usage)


class EchoReader:
    """Puts the prompt's text and log-probabilities before a reply; with `prompt_only` nothing follows them.

    The engine always generates a token, which is then left out.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, *, prompt_only: bool) -> None:
        self._text = tokenizer.decode(prompt.ids)
        self._prompt_only = prompt_only

    def read(self, delta: Delta) -> Delta:
        text, self._text = self._text, ""
        if not self._prompt_only:
            return replace(delta, text=text + delta.text, logprobs=delta.prompt_logprobs + delta.logprobs)
        usage = replace(delta.usage or Usage(), completion_tokens=0)
        reason = "length" if delta.finish_reason == "stop" else delta.finish_reason
        return replace(
            delta, text=text, logprobs=delta.prompt_logprobs, token_ids=(), finish_reason=reason, usage=usage
        )
