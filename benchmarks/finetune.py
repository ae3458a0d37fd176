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
from statistics import median

from tessera.bench.peer import WIDTHS
from tessera.bench.process import Side, python
from tessera.errors import MeasurementError
from tessera.finetune.settings import Settings

LENGTHS = (512, 256, 256)
LABELLED = 0.25
MIB = 2**20
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
    """Train a step on each side to warm up, then `rounds` in turns; raises MeasurementError if losses differ."""
    found = [Measured(side.name) for side in sides]
    for number in range(rounds + 1):
        pairs = list(zip(sides, found, strict=True))
        for side, result in pairs if number % 2 else reversed(pairs):
            result.step(side, lengths, share, counts=number > 0)
        losses = [result.losses[-1] for result in found]
        told = ", ".join(f"{each.name} {each.losses[-1]:.4f} in {each.last_s:.1f} s" for each in found)
        print(f"step {number}: loss of {told}", file=sys.stderr, flush=True)
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
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of each sample")
    arguments = parser.parse_args()
    shared = ("--layers", str(arguments.layers), "--vocab-size", str(arguments.vocab_size),
              "--pass-tokens", str(Settings().pass_tokens))  # fmt: skip
    ours = ("--bits", str(arguments.bits), *(["--recompute"] if arguments.recompute else []))
    theirs = ["--recompute"] if arguments.peer_recompute else []
    with ExitStack() as stack:
        sides = [
            stack.enter_context(
                Side(name, python("benchmarks.finetune_sides", name, *shared, *more), arguments.threads)
            )
            for name, more in (("tessera", ours), ("peft", theirs))
        ]
        bound = ROUNDED_BOUND if arguments.bits else LOSS_BOUND
        found = measure(sides, arguments.rounds, arguments.lengths, LABELLED, bound)
    tokens = sum(arguments.lengths)
    print(f"{arguments.layers} layers, {arguments.vocab_size:,} tokens known, {tokens} tokens a step, losses by step:")
    for side in found:
        print(f"  {side.name}: {' '.join(f'{loss:.4f}' for loss in side.losses)}")
    print(table(found, tokens))


if __name__ == "__main__":
    main()
