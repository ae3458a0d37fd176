"""/v1/chat/completions, as OpenAI, Mistral and vLLM define it.

Source of the shapes: OpenAI's and Mistral's API references, and their clients' behaviour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tessera.chat import Completion, Delta, Tools
from tessera.messages import Message, parse_messages
from tessera.prompt import Tokenizer
from tessera.sampling import SamplingParams
from tessera.server.document_parts import with_documents
from tessera.server.errors import BadRequestError
from tessera.server.events import ChunkEvents
from tessera.server.handlers import Handlers, field_named, notes_on
from tessera.server.presets import instructed, preset_of
from tessera.server.schemas import ChatRequest
from tessera.server.translate import sampling_of, tools_among
from tessera.server.wire import call_object, created_now, finish_reason_of, logprobs_object, new_id, usage_object


def add(app: FastAPI, handlers: Handlers) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        handlers.check(body)
        messages, params, tools = conversation_of(body), chat_sampling(body), tools_of(body)
        messages = await handlers.with_pages(messages, request)
        with field_named("messages"):
            num_tokens, replies = await handlers.start_chat(messages, params, tools, body, request, thoughts=True)
        reply_id, model = new_id("chatcmpl"), handlers.names.stated(body.model)
        tokenizer = handlers.backend.tokenizer if body.logprobs else None
        if body.stream:
            return handlers.stream(replies, ChatEvents(reply_id, model, tokenizer), num_tokens, body, request)
        completions = await handlers.collect(replies, request)
        return JSONResponse(chat_completion(reply_id, model, completions, tokenizer), headers=notes_on(body))


# Requests ------------------------------------------------------------------------------------


def conversation_of(request: ChatRequest) -> list[Message]:
    """Read the messages; a last assistant message is always continued, and a request to the contrary is refused.

    Documents are in them by reference (`document_parts`). A preset adds its instructions.
    """
    messages = parse_messages(with_documents(request.messages, "messages"), lenient=True)
    if request.continue_final_message is not None:
        continues = messages[-1].role == "assistant"
        if request.continue_final_message != continues:
            raise BadRequestError(
                "continue_final_message must be true where the last message is the assistant's, and only there.",
                param="continue_final_message",
            )
    return instructed(messages, preset_of(request.preset), request.max_image_side)


def chat_sampling(request: ChatRequest) -> SamplingParams:
    if request.top_logprobs and not request.logprobs:
        raise BadRequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if request.max_completion_tokens is not None:
        request = request.model_copy(update={"max_tokens": request.max_completion_tokens})
    if request.seed is None and request.random_seed is not None:
        request = request.model_copy(update={"seed": request.random_seed})
    params = sampling_of(request)
    return replace(params, logprobs=request.top_logprobs or 0) if request.logprobs else params


def tools_of(request: ChatRequest) -> Tools:
    """Read the tools that the request offers."""
    return tools_among(request.tools or (), request.tool_choice or "auto", request.parallel_tool_calls)


# Replies -------------------------------------------------------------------------------------


def chat_completion(
    completion_id: str, model: str, completions: Sequence[Completion], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Build the whole reply, one choice per completion; with `tokenizer`, log-probabilities too."""
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created_now(),
        "model": model,
        "system_fingerprint": None,
        "choices": [
            {
                "index": index,
                "message": _reply_message(completion),
                "logprobs": logprobs_object(completion.logprobs, tokenizer) if tokenizer else None,
                "finish_reason": finish_reason_of(completion.finish_reason, has_called=bool(completion.tool_calls)),
            }
            for index, completion in enumerate(completions)
        ],
        "usage": usage_object([completion.usage for completion in completions]),
    }


def _reply_message(completion: Completion) -> dict[str, Any]:
    """The assistant's message. With calls, empty text stays "", as in Mistral's API: a client fails on null there."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    message |= reasoning_fields(completion.reasoning)
    if completion.tool_calls:
        message["tool_calls"] = [call_object(call) for call in completion.tool_calls]
    return message


def reasoning_fields(reasoning: str) -> dict[str, str]:
    """What a model thought, under vLLM's name and its newer one; nothing of a model that did not think."""
    return {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}


class ChatEvents(ChunkEvents):
    kind = "chat.completion.chunk"

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer | None) -> None:
        super().__init__(reply_id, model, tokenizer)
        self._num_calls: Counter[int] = Counter()  # by choice

    def opening(self, index: int) -> bytes:
        return self._event([_chat_choice(index, {"role": "assistant", "content": ""})], None)

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        events = b""
        if delta.text or delta.reasoning or delta.logprobs:
            text = {} if delta.reasoning and not delta.text else {"content": delta.text}
            choice = _chat_choice(index, {**reasoning_fields(delta.reasoning), **text})
            if self._tokenizer and delta.logprobs:
                choice["logprobs"] = logprobs_object(delta.logprobs, self._tokenizer)
            events += self._event([choice], None if delta.finish_reason else usage)
        for call in delta.tool_calls:  # each whole, in its own event: Mistral's clients do not join fragments
            described = {"index": self._num_calls[index]} | call_object(call)
            self._num_calls[index] += 1
            events += self._event([_chat_choice(index, {"tool_calls": [described]})], None)
        if delta.finish_reason:
            reason = finish_reason_of(delta.finish_reason, has_called=self._num_calls[index] > 0)
            choice = _chat_choice(index, {}) | {"finish_reason": reason}
            events += self._event([choice], usage)
        return events


def _chat_choice(index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    """A choice in an event; Mistral's clients require the finish reason in each, null before the end."""
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None}
