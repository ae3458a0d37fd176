"""`python -m benchmarks.kernels`: products with packed weights, compared with this machine's limits.

The seven matrices of one layer of Pixtral 12B, which no cache holds, are multiplied with 1 to 512 tokens. A
step of few tokens is bound by reading the weights: the reference is a plain sum over memory. Prefill is bound
by multiplications: the reference is VNNI on registers alone. Both are measured again for each row, since a
shared machine drifts. TESSERA_KERNELS selects another path than the best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.bench.limits import best_seconds
from tessera.bench.peer import random_packed
from tessera.kernels.library import WHOLE, choice, kernel
from tessera.kernels.packed_linear import linear_twin, packed_linear
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight

LAYER = ((4096, 5120), (1024, 5120), (1024, 5120), (5120, 4096), (14336, 5120), (14336, 5120), (5120, 14336))
TOKENS = (1, 4, 8, 16, 512)
SUM_NUMBERS = 2**25  # 128 MiB in float32
PEAK_ROUNDS, PEAK_PRODUCTS = 200_000, 16 * 64  # products in a round of native/peak_avx512.cpp
DISPATCHES = 1000


def int8_peak() -> float | None:
    """Operations per second of the processor's 8-bit products on all threads; None without VNNI."""
    function, threads = kernel("int8_peak", WHOLE, WHOLE), torch.get_num_threads()
    if function is None:
        return None
    seconds = best_seconds(lambda: function(PEAK_ROUNDS, threads))
    return 2 * PEAK_PRODUCTS * PEAK_ROUNDS * threads / seconds


def dispatch_s() -> float:
    """Overhead of a call, measured with a negligibly small product."""
    inputs, weight = torch.ones(1, GROUP_COLUMNS), random_packed(TILE_ROWS, GROUP_COLUMNS, 4)

    def calls() -> None:
        for _ in range(DISPATCHES):
            packed_linear(inputs, weight)

    return best_seconds(calls) / DISPATCHES


def row(layer: list[PackedWeight], tokens: int, numbers: Tensor) -> str:
    """Format one line of the table: speed, share of both limits, and comparison with the twin."""
    inputs = {columns: torch.randn(tokens, columns).bfloat16() for _, columns in LAYER}

    def run() -> None:
        for weight in layer:
            packed_linear(inputs[weight.shape[1]], weight)

    def run_twin() -> None:
        for weight in layer:
            linear_twin(inputs[weight.shape[1]], weight)

    peak, read = int8_peak(), numbers.nbytes / best_seconds(lambda: numbers.sum().item())
    seconds, twin = best_seconds(run), best_seconds(run_twin, rounds=1)
    bytes_per_s = sum(weight.nbytes for weight in layer) / seconds
    operations_per_s = sum(2 * tokens * rows * columns for rows, columns in LAYER) / seconds
    of_peak = "-" if peak is None else f"{operations_per_s / peak:.0%}"
    return (
        f"| {layer[0].bits} | {tokens} | {seconds * 1e3:.2f} | {bytes_per_s / 1e9:.1f} | {bytes_per_s / read:.0%} "
        f"| {operations_per_s / 1e12:.3f} | {of_peak} | {twin / seconds:.1f}x |"
    )


def main() -> None:
    taken = choice()
    print(f"path {taken.path} ({taken.reason}), {torch.get_num_threads()} threads, {dispatch_s() * 1e6:.1f} us a call")
    print("| bits | tokens | ms a layer | GB/s | of a sum's | TOP/s | of VNNI peak | the twin takes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    numbers = torch.ones(SUM_NUMBERS)
    with torch.inference_mode():
        for bits in (3, 4, 8):
            layer = [random_packed(*shape, bits) for shape in LAYER]
            for tokens in TOKENS:
                print(row(layer, tokens, numbers), flush=True)


if __name__ == "__main__":
    main()
