"""`python -m benchmarks.wide_attention`: attention of pictures in float32 on AVX2 beside PyTorch's, and the encoder.

Attention alone, then encoder layers at the 12B's widths with random weights in bfloat16, each with the kernel and
without, in turns, in processor time. In the same turns run a product of matrices in float32 and products on registers
alone, the limit.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch

from benchmarks.vision_attention import HEADS, WIDTH, compare, encoder_of, in_turns, measure, patches_of
from tessera.kernels.library import ADDRESS, WHOLE, choice, kernel
from tessera.model.attention import attend

SIDES = (16, 24, 32, 64)  # of square images, in patches
MATRIX = 2048
PEAK_ROUNDS, PEAK_PRODUCTS = 10_000_000, 12 * 8  # products in a round of native/peak_avx2.cpp


def in_torch(work: Callable[[], object]) -> Callable[[], None]:
    """Return the same work without the kernel."""

    def run() -> None:
        with patch("tessera.model.attention.prefers_wide_attention", lambda *_: False):
            work()

    return run


def rates(operations: float, *seconds: list[float]) -> list[str]:
    return [f"{operations / statistics.median(each) / 1e9:.1f}" for each in seconds]


def attention_row(side: int, rounds: int) -> str:
    images, matrix = torch.randn(3, side * side, HEADS, WIDTH).bfloat16(), torch.randn(MATRIX, MATRIX)
    peak, threads = kernel("float32_peak", WHOLE, WHOLE), torch.get_num_threads()
    assert peak is not None
    repeats = max(1, (SIDES[-1] // side) ** 3 // 4)  # small ones take long enough to be timed

    def work() -> None:
        for _ in range(repeats):
            attend(*images, causal=False)

    works = (lambda: peak(PEAK_ROUNDS // threads, threads), lambda: matrix @ matrix, in_torch(work), work)
    limit, product, plain, ours = measure(works, rounds)
    shares = [
        *rates(2 * PEAK_PRODUCTS * PEAK_ROUNDS, limit),
        *rates(2 * MATRIX**3, product),
        *rates(4.0 * repeats * side**4 * HEADS * WIDTH, plain, ours),
    ]
    plain, ours = ([each / repeats for each in found] for found in (plain, ours))
    return f"| {side * side:,} | {' | '.join(shares)} | {compare(plain, ours)} |"


def encoder_row(side: int, rounds: int, without: Callable[[Callable[[], object]], Callable[[], None]]) -> str:
    """Format two encoder layers `without` a kernel and with it."""
    encoder = encoder_of(2, 1.0).bfloat16()
    patches, plan = patches_of(encoder, side).bfloat16(), encoder.plan([(side, side)])

    def work() -> None:
        encoder(patches, plan)

    return f"| {side * side:,} | {in_turns(without(work), work, rounds)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if choice().path != "avx2" or kernel("wide_attention", ADDRESS) is None:
        parser.error(f"attention in float32 is for processors with AVX2 alone; the path here is {choice().path}")
    torch.set_num_threads(given.threads)
    print(f"path {choice().path} ({choice().reason}), {given.threads} threads", flush=True)
    # Each size is measured, also where the rule says no.
    with torch.inference_mode(), patch("tessera.kernels.wide_attention.SHORTEST_TOKENS", 0):
        print("| patches | registers, GFLOP/s | product | PyTorch's attention | ours | both, ms | ratio (spread) |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for side in SIDES:
            print(attention_row(side, given.rounds), flush=True)
        print("\n| patches | two encoder layers without and with it, ms | ratio (spread) |\n| --- | --- | --- |")
        for side in SIDES[-2:]:
            print(encoder_row(side, given.rounds, in_torch), flush=True)


if __name__ == "__main__":
    main()
