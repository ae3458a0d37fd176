"""`python -m benchmarks.wide_product`: products in 16 bits in float32 on AVX2, beside panels in PyTorch.

Products at the 12B's widths, then two encoder layers with random weights in bfloat16, each with the kernel and without,
in turns, in processor time. In the same turns run products on registers alone, the limit.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch

from benchmarks.vision_attention import compare, measure
from benchmarks.wide_attention import PEAK_PRODUCTS, PEAK_ROUNDS, encoder_row, rates
from tessera.kernels import wide_linear
from tessera.kernels.library import WHOLE, choice, kernel

# (tokens, depth, columns): the encoder's linears, then the decoder's.
SHAPES = (
    (16, 1024, 4096), (64, 1024, 4096), (256, 1024, 4096), (1024, 1024, 4096), (4096, 1024, 4096), (4096, 4096, 1024),
    (256, 5120, 14336), (1024, 14336, 5120),
)  # fmt: skip
OPERATIONS = 3e9  # at least, in a turn
SIDES = (32, 64)  # of square images, in patches


def in_panels(work: Callable[[], object]) -> Callable[[], None]:
    """Return the same work without the kernel."""

    def run() -> None:
        with patch.object(wide_linear, "_kernel", lambda: None):
            work()

    return run


def product_row(tokens: int, depth: int, columns: int, rounds: int) -> str:
    inputs, weight = torch.randn(tokens, depth).bfloat16(), torch.randn(columns, depth).bfloat16()
    operations, threads = 2.0 * tokens * depth * columns, torch.get_num_threads()
    repeats = max(1, round(OPERATIONS / operations))
    peak = kernel("float32_peak", WHOLE, WHOLE)
    assert peak is not None

    def work() -> None:
        for _ in range(repeats):
            wide_linear.linear(inputs, weight)

    works = (lambda: peak(PEAK_ROUNDS // threads, threads), in_panels(work), work)
    limit, plain, ours = measure(works, rounds)
    most, needed = 2.0 * PEAK_PRODUCTS * PEAK_ROUNDS, operations * repeats
    shares = [*rates(most, limit), *rates(needed, plain, ours)]
    share = needed / statistics.median(ours) / (most / statistics.median(limit))
    plain, ours = ([each / repeats for each in found] for found in (plain, ours))
    ratio = compare(plain, ours)
    return f"| {tokens:,} x {depth:,} x {columns:,} | {' | '.join(shares)} | {share:.0%} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if not wide_linear.is_wide(torch.zeros(1, dtype=torch.bfloat16)):
        parser.error("this processor multiplies in bfloat16; products in float32 are for those that do not")
    if wide_linear._kernel() is None:
        parser.error(f"there is no kernel: {choice().reason}")
    torch.set_num_threads(given.threads)
    print(f"path {choice().path} ({choice().reason}), {given.threads} threads", flush=True)
    with torch.inference_mode():
        print("| rows, depth, columns | registers, GFLOP/s | panels | ours | of registers | ms | ratio (spread) |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for shape in SHAPES:
            print(product_row(*shape, given.rounds), flush=True)
        print("\n| patches | two encoder layers without and with it, ms | ratio (spread) |\n| --- | --- | --- |")
        for side in SIDES:
            print(encoder_row(side, given.rounds, in_panels), flush=True)


if __name__ == "__main__":
    main()
