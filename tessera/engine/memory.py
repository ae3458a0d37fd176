"""Memory that a step needs in addition to weights and caches.

On a CPU it is estimated from the layers' shapes, erring on the large side. On a GPU the largest
steps are run and measured: the most full-size images encoded in one call, a full step that prefills
the end of the longest context, and the largest decoding step, whose memory the graphs keep. Other
servers fail at their first large image because the vision encoder needs memory that was promised to
the key/value cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tessera.engine.plans import Decodes, DevicePlan, Prefills
from tessera.errors import UsageError
from tessera.kernels import paged_attention
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.flash_attention import Segments
from tessera.model.config import ModelConfig, VisionConfig
from tessera.model.pixtral import Pixtral

# Driver memory for a dozen graphs of a thousand nodes, in addition to torch's; not measured yet.
GRAPHS_BYTES = 256 * 2**20
# Patches encoded in one call, unless a single image has more: two full Pixtral images.
MAX_PATCHES_PER_CALL = 8192


def max_patches(vision: VisionConfig) -> int:
    """Return the number of patches of the largest image."""
    return (vision.image_size // vision.patch_size) ** 2


def max_image_tokens(vision: VisionConfig) -> int:
    """Return the prompt tokens of the largest image, break and end tokens included; Pixtral 12B: 4160."""
    side = vision.image_size // vision.token_size
    return side * (side + 1)


@dataclass(frozen=True)
class StepSize:
    """The largest possible step, and how its keys and values are stored."""

    step_tokens: int
    context: int  # of one request
    num_seqs: int
    drafted: int  # guessed tokens that each sequence may have
    block_tokens: int
    cache_dtype: torch.dtype


def workspace_bytes(
    model: ModelConfig, step_tokens: int, context: int, num_seqs: int, dtype: torch.dtype, *, drafted: int = 0
) -> int:
    """Estimate the bytes of one step's temporary tensors, from the layers' shapes.

    `drafted` is the number of guessed tokens that each sequence may have, whose logits are kept until needed.
    """
    vision = model.vision_encoder
    patches = max(max_patches(vision), MAX_PATCHES_PER_CALL)
    encoder = patches * (12 * vision.hidden_size + 3 * vision.intermediate_size)
    heads = (model.n_heads + 2 * model.n_kv_heads) * model.head_dim
    decoder = step_tokens * (4 * model.dim + 4 * heads + 3 * model.hidden_dim)
    shape = (model.n_heads, model.n_kv_heads, model.head_dim)
    few_tokens = min(num_seqs * max(1 + drafted, paged_attention.MOST_FEW_TOKENS), step_tokens)
    attention = paged_attention.workspace_bytes(step_tokens, context, few_tokens, *shape, dtype)
    sampling = _sampling_bytes(model, num_seqs, drafted)
    return max(encoder * dtype.itemsize, decoder * dtype.itemsize + attention) + sampling


def _sampling_bytes(model: ModelConfig, num_seqs: int, drafted: int) -> int:
    """Return the bytes of all sequences' logits and their adjusted, sorted and cumulated copies."""
    return num_seqs * model.vocab_size * (6 + 2 * drafted) * torch.float32.itemsize


def measure_workspace(model: Pixtral, size: StepSize) -> int:
    """Measure the largest steps' bytes on this GPU, beyond weights and caches; raises UsageError if out of memory."""
    device = model.device
    try:
        cache = _one_layer(model, size)
        peaks = []
        for run in (run_largest_images, run_largest_prefill, run_largest_decode):
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run(model, cache, size)
            torch.cuda.synchronize(device)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"a step of max_num_batched_tokens={size.step_tokens} tokens does not fit into the GPU's memory beside "
            "the model; lower it, or max_model_len."
        ) from error
    finally:
        torch.cuda.empty_cache()
    images, prefill, decode = peaks
    graphs = decode + size.num_seqs * model.config.vocab_size * torch.float32.itemsize + GRAPHS_BYTES
    return max(images, prefill) + graphs + _sampling_bytes(model.config, size.num_seqs, size.drafted)


@torch.inference_mode()
def run_largest_images(model: Pixtral, cache: list[CacheLayer], size: StepSize) -> None:
    """Encode as many of the largest images as one call takes."""
    vision = model.config.vision_encoder
    count = max(MAX_PATCHES_PER_CALL // max_patches(vision), 1)
    shape = (vision.num_channels, vision.image_size, vision.image_size)
    model.encode_images([torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in range(count)])


@torch.inference_mode()
def run_largest_prefill(model: Pixtral, cache: list[CacheLayer], size: StepSize) -> None:
    """Prefill the last tokens of the longest context in a full step."""
    device, tokens = model.device, min(size.step_tokens, size.context)
    slots_C = torch.arange(size.context, device=device)
    prefills = Prefills(Segments.of([tokens], [size.context], device), slots_C)
    plan = DevicePlan(cache, slots_C[-tokens:], slots_C[-tokens:], None, prefills)
    hidden_TD = model(model.embed(torch.zeros(tokens, dtype=torch.int64, device=device), [], 0), plan)
    model.logits(hidden_TD[-1:])


@torch.inference_mode()
def run_largest_decode(model: Pixtral, cache: list[CacheLayer], size: StepSize) -> None:
    """Decode one token for each of the most requests that run at once."""
    zeros = torch.zeros(size.num_seqs, dtype=torch.int64, device=model.device)
    decodes = Decodes(zeros[:, None].int(), zeros.int() + 1)
    model.logits(model(model.embed(zeros, [], 0), DevicePlan(cache, zeros, zeros, decodes, None)))


def _one_layer(model: Pixtral, size: StepSize) -> list[CacheLayer]:
    """Return a cache for one longest context, shared by all layers: its content does not matter here."""
    config = model.config
    blocks = -(-size.context // size.block_tokens)
    layer = CacheLayer.zeros(
        blocks, size.block_tokens, config.n_kv_heads, config.head_dim, size.cache_dtype, model.device
    )
    return [layer] * config.n_layers
