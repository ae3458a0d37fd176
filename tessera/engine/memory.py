"""What a step needs beside weights and caches.

The estimates err on the large side: memory promised to the key/value cache and then needed by the
vision encoder is what makes other servers fail at their first large picture.
"""

from __future__ import annotations

import torch

from tessera.kernels import paged_attention
from tessera.model.config import ModelConfig, VisionConfig

# Patches encoded in one call, unless a single picture has more: two full Pixtral pictures.
MAX_PATCHES_PER_CALL = 8192


def max_patches(vision: VisionConfig) -> int:
    """Patches of the largest picture."""
    return (vision.image_size // vision.patch_size) ** 2


def max_image_tokens(vision: VisionConfig) -> int:
    """Prompt tokens of the largest picture, break and end tokens included; Pixtral 12B: 4160."""
    side = vision.image_size // vision.token_size
    return side * (side + 1)


def workspace_bytes(
    model: ModelConfig, step_tokens: int, context: int, num_seqs: int, dtype: torch.dtype, *, drafted: int = 0
) -> int:
    """Bytes that one step may need for what lives only during it, from the shapes of the layers.

    `drafted` is how many guessed tokens each sequence may have, whose logits wait until they are needed.
    """
    vision = model.vision_encoder
    patches = max(max_patches(vision), MAX_PATCHES_PER_CALL)
    encoder = patches * (12 * vision.hidden_size + 3 * vision.intermediate_size)
    heads = (model.n_heads + 2 * model.n_kv_heads) * model.head_dim
    decoder = step_tokens * (4 * model.dim + 4 * heads + 3 * model.hidden_dim)
    shape = (model.n_heads, model.n_kv_heads, model.head_dim)
    attention = paged_attention.workspace_bytes(step_tokens, context, num_seqs, *shape, dtype)
    sampling = num_seqs * model.vocab_size * (6 + 2 * drafted) * torch.float32.itemsize
    return max(encoder * dtype.itemsize, decoder * dtype.itemsize + attention) + sampling
