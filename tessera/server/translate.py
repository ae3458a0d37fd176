"""Requests to messages and sampling parameters, and replies to the objects clients expect.

Pure conversions, apart from ids and the clock. Source of the shapes: OpenAI's and Mistral's API
references, and what their clients were seen to send and require.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tessera.chat import Completion, FinishReason, TokenLogprob, ToolCall, ToolChoice, ToolDefinitions, Tools, Usage
from tessera.errors import EngineDeadError
from tessera.messages import Message, parse_messages
from tessera.prompt import Tokenizer
from tessera.sampling import SamplingParams
from tessera.server.errors import BadRequestError
from tessera.server.schemas import ChatRequest, CompletionRequest, Sampling
from tessera.server.structured import grammar_of

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, on this route
LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON does not have


def conversation_of(request: ChatRequest) -> list[Message]:
    """The messages; a last one of the assistant is always continued, and a request that says otherwise refused."""
    messages = parse_messages(request.messages, lenient=True)
    if request.continue_final_message is not None:
        continues = messages[-1].role == "assistant"
        if request.continue_final_message != continues:
            raise BadRequestError(
                "continue_final_message must be true where the last message is the assistant's, and only there.",
                param="continue_final_message",
            )
    return messages


def sampling_of(request: Sampling) -> SamplingParams:
    """The parameters of one reply; where the request says nothing the reply is greedy, as everywhere in Tessera."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return SamplingParams(
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens or 0,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-6),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        seed=request.seed,
        stop=tuple(text for text in stop if text),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        logit_bias=request.logit_bias or {},
        grammar=grammar_of(request),
    )


def tools_of(request: ChatRequest) -> Tools:
    """The tools that the request offers."""
    return tools_among(request.tools or (), request.tool_choice or "auto", request.parallel_tool_calls)


def tools_among(tools: ToolDefinitions, choice: ToolChoice, parallel: bool | None) -> Tools:
    """All tools, and of OpenAI's choice `allowed_tools` those that may be called; raises BadRequestError."""
    if not isinstance(choice, Mapping):
        return Tools(tuple(tools), choice, parallel is not False)
    if choice.get("type") != "allowed_tools":
        _only(choice, "tool_choice", ("type", "function"))
        return Tools(tuple(tools), choice, parallel is not False)
    _only(choice, "tool_choice", ("type", "allowed_tools"))
    wanted = choice.get("allowed_tools")
    if not isinstance(wanted, Mapping) or wanted.get("mode") not in ("auto", "required"):
        raise BadRequestError("tool_choice.allowed_tools must have a mode, auto or required.", param="tool_choice")
    _only(wanted, "tool_choice.allowed_tools", ("mode", "tools"))
    given = wanted.get("tools")
    names = [_tool_name(entry) for entry in given] if isinstance(given, list) else []
    known = {_tool_name(tool): tool for tool in tools}
    for name in names or [None]:
        if name is None or name not in known:
            shown = repr(name[:64]) if isinstance(name, str) else "no tool"
            raise BadRequestError(
                f"tool_choice.allowed_tools.tools names {shown}; name some of the tools in this request.",
                param="tool_choice",
            )
    allowed = tuple(tool for name, tool in known.items() if name in names)
    return Tools(tuple(tools), wanted["mode"], parallel is not False, allowed)


def _tool_name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _only(given: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    for key, value in given.items():
        if value is not None and key not in known:
            raise BadRequestError(
                f"{where}.{key[:64]} is not known here; known are {', '.join(known)}.", param="tool_choice"
            )


def choices_of(params: SamplingParams, n: int) -> list[SamplingParams]:
    """`n` replies' parameters: a given seed is counted up, or all would be alike."""
    return [params if params.seed is None else replace(params, seed=params.seed + index) for index in range(n)]


def chat_sampling(request: ChatRequest) -> SamplingParams:
    if request.top_logprobs and not request.logprobs:
        raise BadRequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if request.max_completion_tokens is not None:
        request = request.model_copy(update={"max_tokens": request.max_completion_tokens})
    if request.seed is None and request.random_seed is not None:
        request = request.model_copy(update={"seed": request.random_seed})
    params = sampling_of(request)
    return replace(params, logprobs=request.top_logprobs or 0) if request.logprobs else params


def completion_sampling(request: CompletionRequest) -> SamplingParams:
    max_tokens = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens == 0 and not request.echo:
        raise BadRequestError("max_tokens must be at least 1, or 0 with echo.", param="max_tokens")
    params = sampling_of(request.model_copy(update={"max_tokens": None if max_tokens == -1 else max(max_tokens, 1)}))
    scored = request.logprobs if request.echo else None
    return replace(params, logprobs=request.logprobs, prompt_logprobs=scored)


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts, each as text or as token ids."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(entry, int) for entry in prompt):
        return [list(prompt)]  # type: ignore[arg-type]
    return list(prompt)  # type: ignore[arg-type]


# Replies -------------------------------------------------------------------------------------


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def created_now() -> int:
    return int(time.time())


def usage_object(usages: Sequence[Usage], per_prompt: int | None = None) -> dict[str, Any]:
    """Tokens of all choices; a prompt counts once for all its `per_prompt` choices (None: there is one prompt)."""
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
    """OpenAI's word; "abort" and "error" are no ends that a client may take for an answer."""
    if reason == "stop" and has_called:
        return "tool_calls"
    if reason in ("stop", "length"):
        return reason
    raise EngineDeadError("the reply was ended by the server before it was complete; send the request again.")


def logprobs_object(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> dict[str, Any]:
    """Each token of the text with its alternatives; `bytes` are its own, which may be half a character."""

    def described(token_id: int, token: str, logprob: float | None) -> dict[str, Any]:
        return {
            "token": token,
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        described(entry.token_id, entry.token, entry.logprob)
        | {"top_logprobs": [described(*alternative) for alternative in entry.top]}
        for entry in entries
        if entry.token_id not in tokenizer.special_ids  # the end is none of the text
    ]
    return {"content": content, "refusal": None}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


def chat_completion(
    completion_id: str, model: str, completions: Sequence[Completion], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """The whole reply, a choice for each completion; with `tokenizer` its log-probabilities too."""
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
    """The assistant's message. Beside calls empty text stays "", as Mistral has it: a client fails on null there."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    if completion.tool_calls:
        message["tool_calls"] = [call_object(call) for call in completion.tool_calls]
    return message


def call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def text_completion(
    completion_id: str, model: str, completions: Sequence[Completion], tokenizer: Tokenizer | None, prompts: int
) -> dict[str, Any]:
    """The reply of the older completions route, to `prompts` prompts with equally many completions each."""
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
    """The older form: parallel lists, with offsets in characters of the text."""
    detokenizer, offsets, length = tokenizer.detokenizer(), [], 0
    for entry in entries:
        offsets.append(length)
        length += len(detokenizer.add(entry.token_id))
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [_finite(entry.logprob) for entry in entries],
        "top_logprobs": [
            None if entry.logprob is None else {token: _finite(logprob) for _, token, logprob in entry.top}
            for entry in entries
        ],
        "text_offset": offsets,
    }
