"""`python -m benchmarks.finetune`: a step of LoRA beside peft with transformers, at Pixtral 12B's widths.

Both train the same adapter on the same samples from the same random weights, in turns, each in a process of its own
(`benchmarks.finetune_sides`). Their losses must agree, or nothing is compared. It needs peft.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.finetune_sides import samples_of, shape_of
from benchmarks.wide_attention import PEAK_PRODUCTS as FLOAT32_PRODUCTS
from tessera.bench.limits import best_seconds
from tessera.bench.peer import WIDTHS
from tessera.bench.process import Side, python
from tessera.errors import MeasurementError
from tessera.finetune.settings import Settings
from tessera.kernels.library import WHOLE, kernel
from tessera.model.config import ModelConfig
from tessera.weights.fill import linear_shapes

LENGTHS = (512, 256, 256)
WARM_UP = (64,)
LABELLED = 0.25
MIB = 2**20
PEAK_ROUNDS = 200_000
PEAK_PRODUCTS = {"bfloat16": 16 * 32, "float32": FLOAT32_PRODUCTS}  # in a round of native/peak_avx512_bf16.cpp
LOSS_BOUND = 0.05  # relative, of bfloat16; a wrong computation of random weights is as far off
ROUNDED_BOUND = 0.1  # with a rounded base


@dataclass
class Measured:
    """One side's steps: seconds, losses, and the process's bytes when loaded and at its peak."""

    name: str
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    loaded: int = 0
    peak: int = 0
    last_s: float = 0.0

    def step(self, side: Side, lengths: Sequence[int], share: float, *, counts: bool) -> None:
        answer = side.ask("step", lengths=list(lengths), share=share)
        self.losses.append(answer["loss"])
        self.loaded, self.peak = answer["loaded"], answer["peak"]
        self.last_s = answer["seconds"]
        if counts:
            self.seconds.append(self.last_s)


def measure(sides: Sequence[Side], rounds: int, lengths: Sequence[int], share: float, bound: float) -> list[Measured]:
    """Train a short step on each side to warm up, then `rounds` in turns; raises MeasurementError if losses differ."""
    found = [Measured(side.name) for side in sides]
    for number in range(rounds + 1):
        pairs = list(zip(sides, found, strict=True))
        for side, result in pairs if number % 2 else reversed(pairs):
            result.step(side, lengths if number else WARM_UP, share, counts=number > 0)
        losses = [result.losses[-1] for result in found]
        told = ", ".join(f"{each.name} {each.losses[-1]:.4f} in {each.last_s:.1f} s" for each in found)
        peaks = " and ".join(f"{each.peak / MIB:.0f}" for each in found)
        print(f"step {number}: loss of {told}; peaks of {peaks} MiB", file=sys.stderr, flush=True)
        if max(losses) - min(losses) > bound * min(losses):
            raise MeasurementError(f"the losses of step {number} differ: {told}; nothing is compared.")
    return found


def table(found: Sequence[Measured], tokens: int) -> str:
    """Format the results as a Markdown table, each side beside the last, which is the peer."""
    peer = found[-1]
    lines = [
        "| side | tokens/s | ratio (spread) | memory, MiB | of the peer's | beyond the weights |",
        "|" + " --- |" * 6,
    ]
    for side in found:
        ratios = [b / a for a, b in zip(side.seconds, peer.seconds, strict=True)]
        lines.append(
            f"| {side.name} | {tokens / median(side.seconds):.1f} "
            f"| {median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {side.peak / MIB:.0f} | {side.peak / peer.peak:.2f} | {(side.peak - side.loaded) / MIB:.0f} |"
        )
    return "\n".join(lines)


def operations(config: ModelConfig, tokens: int, labelled: int) -> float:
    """Return the operations of a step's products with frozen matrices: forward, and for the inputs' gradients.

    The inputs of the first layer's attention have none, and only labelled rows need logits. Attention and the adapter,
    a few percent, are not counted.
    """
    sizes = {name: rows * columns for name, (rows, columns) in linear_shapes(config).items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("layers.0."))
    first = sum(sizes[f"layers.0.attention.w{which}"] for which in "qkv")
    return 2.0 * tokens * (2 * layer * config.n_layers - first) + 4.0 * labelled * config.dim * config.vocab_size


def peak_of(threads: int) -> tuple[str, float] | None:
    """Operations a second on registers alone, in bfloat16 or else in AVX2's float32; None without a kernel."""
    for name, products in PEAK_PRODUCTS.items():
        function = kernel(f"{name}_peak", WHOLE, WHOLE)
        if function is not None:
            return name, 2 * products * PEAK_ROUNDS * threads / best_seconds(partial(function, PEAK_ROUNDS, threads))
    return None


def rates(found: Sequence[Measured], needed: float, peak: tuple[str, float] | None) -> str:
    """Say how fast each side computed what the step needs, beside the processor's peak."""
    said = []
    for side in found:
        rate = needed / median(side.seconds)
        said.append(f"{side.name} {rate / 1e9:.0f} GFLOP/s" + ("" if peak is None else f" ({rate / peak[1]:.0%})"))
    limit = "" if peak is None else f"; {peak[0]} on registers alone does {peak[1] / 1e9:.0f}"
    return f"Products with frozen matrices, {needed / 1e12:.2f} TFLOP a step: {', '.join(said)}{limit}."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument(
        "--vocab-size", type=int, default=WIDTHS.vocab_size,
        help="few, such as 2048: nearly all time is then the layers', as in the whole model of 40",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=0, help="ours as QLoRA; peft's base stays plain")
    parser.add_argument("--recompute", action="store_true", help="ours computes each layer again for the gradient")
    parser.add_argument("--peer-recompute", action="store_true", help="the peer does (gradient checkpointing)")
    parser.add_argument(
        "--peer-float32", action="store_true",
        help="the peer's weights in float32: its fastest where the processor has no products in 16 bits",
    )  # fmt: skip
    parser.add_argument("--share", type=float, default=LABELLED, help="labelled, of each sample's tokens")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of each sample")
    arguments = parser.parse_args()
    shared = ("--layers", str(arguments.layers), "--vocab-size", str(arguments.vocab_size),
              "--pass-tokens", str(Settings().pass_tokens))  # fmt: skip
    ours = ("--bits", str(arguments.bits), *(["--recompute"] if arguments.recompute else []))
    theirs = ["--recompute"] * arguments.peer_recompute + ["--float32"] * arguments.peer_float32
    with ExitStack() as stack:
        sides = [
            stack.enter_context(
                Side(name, python("benchmarks.finetune_sides", name, *shared, *more), arguments.threads)
            )
            for name, more in (("tessera", ours), ("peft", theirs))
        ]
        bound = ROUNDED_BOUND if arguments.bits else LOSS_BOUND
        found = measure(sides, arguments.rounds, arguments.lengths, arguments.share, bound)
    tokens = sum(arguments.lengths)
    print(
        f"{arguments.layers} layers, {arguments.vocab_size:,} tokens known, {tokens} tokens a step, "
        f"{arguments.share:.0%} labelled; losses by step:"
    )
    for side in found:
        print(f"  {side.name}: {' '.join(f'{loss:.4f}' for loss in side.losses)}")
    print(table(found, tokens))
    labelled = sum(sample.labelled for sample in samples_of(arguments.lengths, arguments.share, arguments.vocab_size))
    needed = operations(shape_of(arguments.layers, arguments.vocab_size), tokens, labelled)
    print(rates(found, needed, peak_of(arguments.threads)))


if __name__ == "__main__":
    main()
