"""`python -m benchmarks.vision_attention`: attention in 8 bits beside bfloat16, where the linears are in 8 bits.

Attention alone and encoder layers at the 12B's widths with random weights, in turns, in processor time; `--errors`
compares six layers' outputs with float32 instead, by the twin where the kernel does not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tessera.kernels import int8_attention as int8
from tessera.kernels.library import ADDRESS, choice, kernel
from tessera.kernels.prefill_attention import prefill_attention
from tessera.linears.quantized import place
from tessera.model.family import PIXTRAL_12B
from tessera.model.vision import VisionEncoder
from tessera.quantize.rounding import round_to

SIDES = (16, 32, 64)  # of square images, in patches
HEADS, WIDTH = 16, 64


def encoder_of(layers: int, sharpness: float) -> VisionEncoder:
    """Make an encoder in float32; queries and keys are `sharpness` times those of the other weights."""
    config = dataclasses.replace(PIXTRAL_12B.vision_encoder, num_hidden_layers=layers)
    torch.manual_seed(0)
    encoder = VisionEncoder(config).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5 * (sharpness if ".wq" in name or ".wk" in name else 1))
    return encoder


def round_linears(encoder: VisionEncoder) -> None:
    for name, linear in list(encoder.named_modules()):
        if isinstance(linear, nn.Linear):
            place(encoder, name, round_to("int8", linear.weight))


def patches_of(encoder: VisionEncoder, side: int) -> Tensor:
    columns = encoder.patch_conv.weight[0].numel()
    return torch.randn(side * side, columns, generator=torch.Generator().manual_seed(1))


def measure(works: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return the processor seconds of each work in rounds in which each has a turn; the first round warms up."""
    turns = [[_seconds(work) for work in works] for _ in range(rounds + 1)][1:]
    return [list(each) for each in zip(*turns, strict=True)]


def compare(before: list[float], after: list[float]) -> str:
    """Format medians in milliseconds and the ratio with its spread."""
    ratios = sorted(one / other for one, other in zip(before, after, strict=True))
    first, second = (statistics.median(each) * 1e3 for each in (before, after))
    return f"{first:,.1f}, {second:,.1f} | {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def in_turns(before: Callable[[], object], after: Callable[[], object], rounds: int) -> str:
    return compare(*measure((before, after), rounds))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def print_speed(rounds: int) -> None:
    encoder = encoder_of(2, 1.0).bfloat16()
    round_linears(encoder)
    print("| patches | attention alone, ms | ratio (spread) | two encoder layers, ms | ratio (spread) |")
    print("| --- | --- | --- | --- | --- |")
    with patch.object(int8, "SHORTEST_TOKENS", 0):  # each size is measured, also where the rule says no
        for side in SIDES:
            print(speed_row(encoder, side, rounds), flush=True)


def speed_row(encoder: VisionEncoder, side: int, rounds: int) -> str:
    images = torch.randn(3, side * side, HEADS, WIDTH).bfloat16()
    alone = in_turns(lambda: prefill_attention(*images, causal=False), lambda: int8.int8_attention(*images), rounds)
    patches, plain, low = patches_of(encoder, side).bfloat16(), *(encoder.plan([(side, side)]) for _ in range(2))
    plain.in_8_bits = False
    layers = in_turns(lambda: encoder(patches, plain), lambda: encoder(patches, low), rounds)
    return f"| {side * side:,} | {alone} | {layers} |"


def print_errors(side: int) -> None:
    print("| queries and keys | linears | attention | error |\n| --- | --- | --- | --- |")
    compute = int8.int8_attention if has_kernel() else int8.int8_attention_twin
    everywhere = patch("tessera.model.attention.prefers_int8_attention", lambda *_: True)
    with everywhere, patch("tessera.model.attention.int8_attention", compute):
        for sharpness in (1.0, 2.0):
            encoder = encoder_of(6, sharpness)
            patches = patches_of(encoder, side)
            exact = encoder(patches, encoder.plan([(side, side)]))
            encoder = encoder.bfloat16()
            rows = [error_row(encoder, patches, exact, in_8_bits=False)]
            round_linears(encoder)
            rows += [error_row(encoder, patches, exact, in_8_bits=low) for low in (False, True)]
            for linears, row in zip(("bfloat16", "8 bits", "8 bits"), rows, strict=True):
                print(f"| x {sharpness:g} | {linears} | {row} |", flush=True)


def error_row(encoder: VisionEncoder, patches: Tensor, exact: Tensor, *, in_8_bits: bool) -> str:
    side = round(len(patches) ** 0.5)
    plan = encoder.plan([(side, side)])
    plan.in_8_bits = in_8_bits
    error = (encoder(patches.bfloat16(), plan).float() - exact).norm() / exact.norm()
    return f"{'8 bits' if in_8_bits else 'bfloat16'} | {error:.2%}"


def has_kernel() -> bool:
    return kernel("int8_attention", ADDRESS) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--errors", type=int, metavar="SIDE", help="errors at this side in patches, not speed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"path {choice().path} ({choice().reason})", flush=True)
    with torch.inference_mode():
        if given.errors:
            print_errors(given.errors)
        elif has_kernel():
            print_speed(given.rounds)
        else:
            parser.error("this processor has no AVX512-VNNI, so attention in 8 bits has no kernel; --errors 32 runs")


if __name__ == "__main__":
    main()
