"""Memory of a run, estimated from shapes before anything is loaded: weights, trained state, and one pass.

What autograd keeps of a layer was matched to Pixtral 12B's 272 KiB per token in bfloat16; a lean layer's numbers
(`finetune.lean`) are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch

from tessera.errors import CheckpointError
from tessera.finetune.loss import CHUNK_ROWS
from tessera.finetune.settings import Settings
from tessera.finetune.trained import VISION, chosen_linears
from tessera.kernels.quantized_weight import STORAGE
from tessera.machine import available_bytes
from tessera.model.config import ModelConfig
from tessera.quantize.plan import Options, schemes_of
from tessera.weights.fill import empty_model, linear_shapes

RUNTIME_BYTES = {"cuda": 800_000_000, "cpu": 300_000_000}
MASTER_BYTES = 4 + 4 + 8  # float32: the weight, its gradient, AdamW's two moments
GB = 1e9


@dataclass(frozen=True)
class Estimate:
    """Bytes by purpose; `loading` is what the plain weights take before they are rounded."""

    weights: int
    trained: int
    kept: int  # what enters each layer, of one pass
    layer: int  # kept by a layer for its gradient, or computed again, one layer at a time
    logits: int
    runtime: int
    loading: int = 0
    layers: int = 1  # that are trained through
    work: int = 0  # what a layer's gradient takes beside that

    @property
    def of_all_layers(self) -> Estimate:
        """Return the estimate if every layer keeps what its gradient needs, so that nothing is computed again."""
        return replace(self, layer=self.layer * self.layers)

    @property
    def pass_bytes(self) -> int:
        return self.kept + self.layer + self.work + self.logits

    @property
    def total(self) -> int:
        running = self.weights + self.trained + self.pass_bytes + self.runtime
        return max(running, self.loading + self.runtime)

    def cut(self, ranks: int, whole: int) -> Estimate:
        """Return what a rank needs if all ranks share weights and state, of which `whole` bytes are gathered at once.

        Each loads all weights before it lets go of what others keep.
        """
        if ranks == 1:
            return self
        return replace(
            self, weights=self.weights // ranks + whole, trained=self.trained // ranks, loading=self.weights
        )  # fmt: skip

    def __str__(self) -> str:
        named = {"weights": self.weights, "trained": self.trained, "one pass": self.pass_bytes}
        parts = ", ".join(f"{name} {size / GB:.2f}" for name, size in named.items())
        return f"{self.total / GB:.2f} GB ({parts})"


def estimate(
    config: ModelConfig,
    settings: Settings,
    dtype: torch.dtype,
    device: torch.device,
    longest: int,
    patches: int,
    *,
    quantized_bytes: int | None = None,
) -> Estimate:
    """Estimate a run whose largest pass has `longest` tokens, and images of `patches` patches.

    `quantized_bytes` are the weights of a model that is stored quantized already, and is not loaded plain first.
    """
    size, shapes, vision = dtype.itemsize, linear_shapes(config), config.vision_encoder
    named = dict(empty_model(config).named_parameters())
    plain = sum(parameter.numel() for parameter in named.values()) * size
    weights = plain if quantized_bytes is None else quantized_bytes
    if rounded := settings.qlora is not None and quantized_bytes is None:
        for name, scheme in schemes_of(config, Options(bits=str(settings.qlora), head="16")).items():
            fields = STORAGE[scheme].fields(shapes[name]).values()
            weights += sum(math.prod(shape) * kind.itemsize for kind, shape in fields) - math.prod(shapes[name]) * size
    if settings.full:
        count = sum(p.numel() for n, p in named.items() if settings.train_vision or not n.startswith(VISION))
        trained = count * (MASTER_BYTES + size)  # the gradient; the weights themselves are counted
    else:
        count = sum(settings.rank * sum(shapes[name]) for name in chosen_linears(config, settings))
        trained = count * (MASTER_BYTES + 2 * size)
    tokens = max(longest, 1)
    layer, work = (each * tokens for each in _decoder_values(config, lean=not settings.full))
    kept = (config.n_layers + 1) * config.dim * tokens
    seen = _layer_values(vision.hidden_size, 3 * vision.hidden_size, vision.intermediate_size) * patches
    if settings.train_vision:
        kept += (vision.num_hidden_layers + 1) * vision.hidden_size * patches
    logits = min(CHUNK_ROWS, tokens) * config.vocab_size * (size + 8)
    return Estimate(
        weights, trained, kept * size, max(layer, seen) * size, logits, RUNTIME_BYTES[device.type],
        plain if rounded else 0, config.n_layers + (vision.num_hidden_layers if settings.train_vision else 0),
        work * size,
    )  # fmt: skip


def gathered_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of weights that are whole on a rank during a pass of cut ones: two blocks, and all outside."""
    sizes: Counter[str] = Counter()
    for name, parameter in empty_model(config).named_parameters():
        sizes["block" if name.startswith("layers.0.") else "" if "layers." in name else "outside"] += parameter.numel()
    return (2 * sizes["block"] + sizes["outside"]) * dtype.itemsize


def _decoder_values(config: ModelConfig, *, lean: bool) -> tuple[int, int]:
    """Return a decoder layer's numbers per token: kept for its gradient, and those that computing it takes besides."""
    attended = config.n_heads * config.head_dim
    projected = attended + 2 * config.n_kv_heads * config.head_dim
    if not lean:
        return _layer_values(config.dim, projected, config.hidden_dim), 0
    # Queries, keys, values, what was attended (twice, if samples are packed), the second residual, gate and up.
    kept = projected + 2 * attended + config.dim + 2 * config.hidden_dim
    return kept, 4 * config.dim + 3 * config.hidden_dim


def _layer_values(width: int, projected: int, hidden: int) -> int:
    return round(8 * width + 3 * projected + 5.5 * hidden)


def recomputes(found: Estimate, free: int, choice: str) -> bool:
    """Return True if layers should be computed again: by choice, or to leave half of what is free beside the run."""
    more, left = found.of_all_layers.total - found.total, free - found.total
    return choice == "always" or (choice == "auto" and more > left / 2)


def free_bytes(device: torch.device, on_machine: int = 1) -> int:
    """Return a rank's share of the free memory; `on_machine` ranks share a CPU's, and each has a GPU of its own."""
    return available_bytes(device) // (on_machine if device.type == "cpu" else 1)


def check_fits(found: Estimate, device: torch.device, settings: Settings, on_machine: int = 1) -> None:
    """Raise CheckpointError with the way out if a run would not fit a rank's share of the device's free memory."""
    free = free_bytes(device, on_machine)
    if found.total <= free:
        return
    ways = []
    if found.pass_bytes - found.logits > found.total / 4:
        ways.append("fewer pass_tokens, or a smaller max_tokens with too_long=shrink")
    if settings.full:
        ways.append("an adapter instead of full training, or more devices (torchrun)")
    elif settings.qlora is None:
        ways.append("qlora 4, of a model quantized before (tessera quantize)")
    raise CheckpointError(
        f"training needs about {found} and {free / GB:.2f} GB of {device.type} memory is free; "
        f"choose {', or '.join([*ways, 'a larger machine'])}."
    )
