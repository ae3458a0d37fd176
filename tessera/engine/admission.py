"""What is refused before it is queued: requests that can never run, and those that come too many.

All of it reads only what is given, so any thread may ask.
"""

from __future__ import annotations

from tessera.chat import SamplingParams
from tessera.engine.config import MIB, EngineConfig
from tessera.errors import EngineBusyError, PromptTooLongError, UsageError
from tessera.model.config import ModelConfig, VisionConfig
from tessera.prompt import Prompt


def check_request(prompt: Prompt, params: SamplingParams, config: EngineConfig, model: ModelConfig) -> None:
    """Raise PromptTooLongError or UsageError for what can never run."""
    least = max(params.min_tokens, 1)
    if len(prompt.ids) + least > config.max_model_len:
        raise PromptTooLongError(
            f"the prompt has {len(prompt.ids)} tokens and the reply at least {least}, which exceeds the limit of "
            f"{config.max_model_len} tokens; shorten the text, use fewer or smaller pictures, or raise max_model_len."
        )
    if not prompt.ids:
        raise UsageError("the prompt is empty; give at least one token.")
    biased_ids = dict(params.logit_bias)
    for token_id in (*params.stop_token_ids, *biased_ids, min(prompt.ids), max(prompt.ids)):
        if not 0 <= token_id < model.vocab_size:
            raise UsageError(f"token id {token_id} is not in the model's vocabulary of {model.vocab_size} ids.")
    if params.min_tokens > (params.max_tokens or params.min_tokens):
        raise UsageError(f"min_tokens={params.min_tokens} exceeds max_tokens={params.max_tokens}; lower it.")
    if len(prompt.images) > config.max_images_per_prompt:
        raise UsageError(
            f"the prompt has {len(prompt.images)} pictures and the limit is max_images_per_prompt="
            f"{config.max_images_per_prompt}; use fewer, or raise it."
        )
    _check_images(prompt, model.vision_encoder)


def check_room(prompt: Prompt, config: EngineConfig, *, waiting: int, held_bytes: int) -> None:
    """Raise EngineBusyError where `waiting` requests, or the pictures of all unfinished ones, are enough."""
    if waiting >= config.max_queued_requests:
        raise EngineBusyError(
            f"{waiting} requests are waiting and the limit is max_queued_requests={config.max_queued_requests}; "
            "send the request again later."
        )
    # A request that exceeds the limit by itself is taken when it is the only one.
    if held_bytes and held_bytes + pixel_bytes(prompt) > config.max_pixel_bytes:
        raise EngineBusyError(
            f"the pictures of unfinished requests hold {held_bytes // MIB} MiB, {pixel_bytes(prompt) // MIB} MiB more "
            f"would exceed max_pixel_bytes={config.max_pixel_bytes}; send the request again later."
        )


def pixel_bytes(prompt: Prompt) -> int:
    """Memory of the request's decoded pictures, kept until it ends: it may have to be computed again."""
    return sum(span.image.pixels_CHW.nbytes for span in prompt.images)


def _check_images(prompt: Prompt, vision: VisionConfig) -> None:
    """Raise ValueError where spans, grids, pixels and image tokens disagree: that is a bug, not a user's error."""
    expected = 0
    for span in prompt.images:
        rows, columns = span.image.grid
        expected += rows * columns
        if span.length != rows * (columns + 1):
            raise ValueError(f"a picture of {rows} x {columns} tokens has a span of {span.length} tokens")
        pixels = (rows * vision.token_size, columns * vision.token_size)
        if tuple(span.image.pixels_CHW.shape[1:]) != pixels:
            raise ValueError(f"a picture of {rows} x {columns} tokens has pixels {span.image.pixels_CHW.shape}")
    if (found := prompt.ids.count(vision.image_token_id)) != expected:
        raise ValueError(f"the prompt has {found} image tokens, its pictures have {expected}")
