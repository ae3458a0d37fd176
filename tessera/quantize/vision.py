"""The vision side of a loaded model in 8 bits: the same weights as `tessera quantize --vision-bits 8` writes.

Its linears then compute with whole numbers where the processor's kernels do. The patch convolution, norms and biases
stay as they are.
"""

from __future__ import annotations

import torch
from torch import nn

from tessera.errors import UsageError
from tessera.linears.quantized import place
from tessera.linears.replace import Wrapper
from tessera.model.pixtral import Pixtral
from tessera.quantize.plan import AS_IT_IS, Options, schemes_of
from tessera.quantize.rounding import ErrorSum, round_to
from tessera.weights.fill import Progress

ROUNDING = "rounding "
VISION_BITS = (AS_IT_IS, "8")


def check_vision_bits(bits: str, ranks: int = 1) -> None:
    """Raise UsageError for bits that the vision side cannot be rounded to at load."""
    if bits not in VISION_BITS:
        raise UsageError(
            f"vision_bits is {bits!r}; use {' or '.join(VISION_BITS)}, or quantize the model with --vision-bits.",
            param="vision_bits",
        )
    if bits != AS_IT_IS and ranks > 1:
        raise UsageError(
            f"vision_bits is {bits!r} and {ranks} processes share the model (tensor_parallel_size); leave one out, or "
            "quantize the model with --vision-bits 8 first.",
            param="vision_bits",
        )


@torch.inference_mode()
def round_vision(model: Pixtral, bits: str, progress: Progress | None = None) -> tuple[str, ...]:
    """Round the linears of encoder and adapter; return what the user should know, the errors of the weights.

    `progress` hears of each linear by ROUNDING and its name. What is quantized already stays. Raises
    UsageError for a LoRA adapter on the vision side.
    """
    schemes = schemes_of(model.config, Options(vision=bits))
    errors: dict[str, list[float]] = {}
    names = [name for name in schemes if name.startswith("vision")]
    for done, name in enumerate(names):
        scheme, linear = schemes[name], model.get_submodule(name)
        if progress is not None:
            progress(f"{ROUNDING}{name}", done, len(names))
        if isinstance(linear, Wrapper):
            raise UsageError(
                f"vision_bits is {bits!r} and the adapter changes {name}; merge the adapter (tessera merge), then "
                "quantize the result.",
                param="vision_bits",
            )
        if isinstance(linear, nn.Linear):
            error = ErrorSum()
            weight = round_to(scheme, linear.weight)
            error.add(linear.weight, weight)
            place(model, name, weight)
            errors.setdefault(_layer_of(name), []).append(error.relative)
    if not errors:
        return ()
    means = {layer: sum(each) / len(each) for layer, each in errors.items()}
    worst = max(means, key=lambda layer: means[layer])
    mean = sum(means.values()) / len(means)
    return (
        f"the vision side computes in {bits} bits: weights off by {mean:.2%} (at most {means[worst]:.2%}, {worst})",
    )


def _layer_of(name: str) -> str:
    """Example: "layers.3" of "vision_encoder.transformer.layers.3.attention.wq"."""
    parts = name.split(".")
    return ".".join(parts[2:4]) if "layers" in parts else parts[0]
