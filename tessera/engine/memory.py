"""How many bytes this machine can still give, and what a step needs beside weights and caches.

The estimates err on the large side: memory promised to the key/value cache and then needed by the
vision encoder is what makes other servers fail at their first large picture.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tessera.model.config import ModelConfig, VisionConfig

# Patches encoded in one call, unless a single picture has more: two full Pixtral pictures.
MAX_PATCHES_PER_CALL = 8192


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken: the GPU's free memory, or the system's within its cgroup."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [limit for limit in (_meminfo_bytes(), _cgroup_bytes()) if limit is not None]
    # Where neither file exists (macOS), half of the physical memory is a careful guess.
    return min(found) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def max_patches(vision: VisionConfig) -> int:
    """Patches of the largest picture."""
    return (vision.image_size // vision.patch_size) ** 2


def max_image_tokens(vision: VisionConfig) -> int:
    """Prompt tokens of the largest picture, break and end tokens included; Pixtral 12B: 4160."""
    side = vision.image_size // vision.token_size
    return side * (side + 1)


def workspace_bytes(model: ModelConfig, step_tokens: int, context: int, num_seqs: int, dtype: torch.dtype) -> int:
    """Bytes that one step may need for what lives only during it, from the shapes of the layers."""
    vision = model.vision_encoder
    patches = max(max_patches(vision), MAX_PATCHES_PER_CALL)
    encoder = patches * (12 * vision.hidden_size + 3 * vision.intermediate_size)
    heads = (model.n_heads + 2 * model.n_kv_heads) * model.head_dim
    decoder = step_tokens * (4 * model.dim + 4 * heads + 3 * model.hidden_dim)
    attention = 2 * context * (model.n_heads + model.n_kv_heads) * model.head_dim + 2 * step_tokens * context
    sampling = num_seqs * model.vocab_size * 6 * torch.float32.itemsize
    return max(encoder, decoder + attention) * dtype.itemsize + sampling


def _meminfo_bytes() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup_bytes() -> int | None:
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not limit.exists() or (text := limit.read_text().strip()) == "max":
        return None
    return max(int(text) - int(used.read_text()), 0)
