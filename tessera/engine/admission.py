"""Rejects requests before they are queued: those that can never run, and those beyond the limits.

These functions read only their arguments, so any thread may call them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.engine.adapters import LoadedAdapter
from tessera.engine.config import MIB, EngineConfig
from tessera.engine.grammar import Matcher
from tessera.errors import EngineBusyError, PromptTooLongError, TooManyImagesError, UsageError
from tessera.messages import Message
from tessera.model.config import ModelConfig, VisionConfig
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams

# Fields of a call and of a tool that appear in the prompt.
CALL_KEYS, TOOL_KEYS = ("name", "arguments"), ("name", "description", "parameters")
MAX_PARTS = 16_384  # texts and images in one conversation; each costs time regardless of its length


@dataclass(frozen=True)
class Submission:
    """An admitted request, from which the engine makes a Request."""

    request_id: str
    prompt: Prompt
    params: SamplingParams
    cache_salt: str
    matcher: Matcher | None
    adapter: LoadedAdapter | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str | None,
        cache_salt: str,
        matcher: Matcher | None,
        adapter: LoadedAdapter | None = None,
    ) -> Submission:
        return cls(uuid.uuid4().hex if request_id is None else request_id, prompt, params, cache_salt, matcher, adapter)


def check_request(prompt: Prompt, params: SamplingParams, config: EngineConfig, model: ModelConfig) -> None:
    """Raise PromptTooLongError or UsageError if the request can never run."""
    least = max(params.min_tokens, 1)
    if len(prompt.ids) + least > config.max_model_len:
        raise PromptTooLongError(
            f"the prompt has {len(prompt.ids)} tokens and the reply at least {least}, which exceeds the limit of "
            f"{config.max_model_len} tokens; shorten the text, use fewer or smaller images, or raise max_model_len."
        )
    if not prompt.ids:
        raise UsageError("the prompt is empty; give at least one token.")
    biased_ids = dict(params.logit_bias)
    for token_id in (*params.stop_token_ids, *biased_ids, min(prompt.ids), max(prompt.ids)):
        if not 0 <= token_id < model.vocab_size:
            raise UsageError(f"token id {token_id} is not in the model's vocabulary of {model.vocab_size} ids.")
    if params.min_tokens > (params.max_tokens or params.min_tokens):
        raise UsageError(f"min_tokens={params.min_tokens} exceeds max_tokens={params.max_tokens}; lower it.")
    check_image_count(len(prompt.images), config)
    _check_images(prompt, model.vision_encoder)


def check_room(submission: Submission, config: EngineConfig, *, waiting: int, held_bytes: Mapping[str, int]) -> None:
    """Raise UsageError if the id is in use, EngineBusyError if too much is waiting or held in memory.

    `waiting` requests have not started; `held_bytes` are the image bytes of each unfinished one, by id.
    """
    if submission.request_id in held_bytes:
        raise UsageError(f"request id {submission.request_id!r} is already in use; choose another or leave it out.")
    if waiting >= config.max_queued_requests:
        raise EngineBusyError(
            f"{waiting} requests are waiting and the limit is max_queued_requests={config.max_queued_requests}; "
            "send the request again later."
        )
    held, more = sum(held_bytes.values()), pixel_bytes(submission.prompt)
    # A request that exceeds the limit by itself is accepted when it is the only one.
    if held and held + more > config.max_pixel_bytes:
        raise EngineBusyError(
            f"the images of unfinished requests hold {held // MIB} MiB, {more // MIB} MiB more "
            f"would exceed max_pixel_bytes={config.max_pixel_bytes}; send the request again later."
        )


def check_image_count(count: int, config: EngineConfig) -> None:
    """Raise TooManyImagesError for more images than one prompt may have."""
    if count > config.max_images_per_prompt:
        raise TooManyImagesError(
            f"the conversation has {count} images and the limit is max_images_per_prompt="
            f"{config.max_images_per_prompt}; use fewer, or raise it."
        )


def pixel_bytes(prompt: Prompt) -> int:
    """Return the bytes of the request's decoded images, kept until it ends since it may be recomputed."""
    return sum(span.image.pixels_CHW.nbytes for span in prompt.images)


def _check_images(prompt: Prompt, vision: VisionConfig) -> None:
    """Raise ValueError if spans, grids, pixels and image tokens disagree: a bug, not a user error."""
    expected = 0
    for span in prompt.images:
        rows, columns = span.image.grid
        expected += rows * columns
        if span.length != rows * (columns + 1):
            raise ValueError(f"an image of {rows} x {columns} tokens has a span of {span.length} tokens")
        pixels = (rows * vision.token_size, columns * vision.token_size)
        if tuple(span.image.pixels_CHW.shape[1:]) != pixels:
            raise ValueError(f"an image of {rows} x {columns} tokens has pixels {span.image.pixels_CHW.shape}")
    if (found := prompt.ids.count(vision.image_token_id)) != expected:
        raise ValueError(f"the prompt has {found} image tokens, its images have {expected}")


def check_parts(messages: Sequence[Message]) -> None:
    """Raise PromptTooLongError for more parts than any conversation has."""
    count = sum(len(message.content) for message in messages)
    if count > MAX_PARTS:
        raise PromptTooLongError(
            f"the conversation has {count:,} parts and the limit is {MAX_PARTS:,}; join its texts."
        )


def num_written(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> int:
    """Count the characters of every field that the prompt will contain; each is written at least once."""
    texts = sum(len(part) for message in messages for part in message.content if isinstance(part, str))
    calls = [call.get("function") for message in messages for call in message.tool_calls if isinstance(call, Mapping)]
    functions = [tool.get("function") for tool in tools if isinstance(tool, Mapping)]
    return texts + _num_characters(calls, CALL_KEYS) + _num_characters(functions, TOOL_KEYS)


def _num_characters(described: Sequence[Any], keys: Sequence[str]) -> int:
    """Count the characters of all strings and keys in these entries of each object."""
    count, rest = 0, [entry.get(key) for entry in described if isinstance(entry, Mapping) for key in keys]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            rest += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            rest += value
    return count
