"""The machine's limits: bytes read and operations per second, as measured now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tessera.kernels.wide_linear import linear

MATRIX = 2048  # large enough to be bound by arithmetic, small enough to be quick
ENOUGH_SECONDS = 2.0  # of timing one kind of work
READ_NUMBERS = 2**26  # 256 MiB in float32: far beyond any cache


@dataclass(frozen=True)
class Limits:
    """Limits of one device, in units per second; int8 is None if torch or the processor has no such product."""

    read_bytes_per_s: float
    bfloat16_flops: float
    int8_ops: float | None = None

    def seconds(self, flops: float, read_bytes: float) -> float:
        """Return the least time for this much work, with both kinds overlapping (the roofline model)."""
        return max(flops / self.bfloat16_flops, read_bytes / self.read_bytes_per_s)

    def __str__(self) -> str:
        int8 = "" if self.int8_ops is None else f", int8 {self.int8_ops / 1e12:.2f} TOP/s"
        return f"reads {self.read_bytes_per_s / 1e9:.1f} GB/s, bfloat16 {self.bfloat16_flops / 1e12:.2f} TFLOP/s{int8}"


def measure_limits(device: str = "cpu") -> Limits:
    """Measure the best of several sums over memory and of several square products of random numbers."""
    numbers = torch.ones(READ_NUMBERS, device=device)
    read_s = best_seconds(lambda: numbers.sum().item())
    left, right = (torch.randn(MATRIX, MATRIX, device=device).bfloat16() for _ in range(2))
    product_s = best_seconds(lambda: linear(left, right)[0, 0].item())
    operations = 2 * MATRIX**3
    return Limits(numbers.nbytes / read_s, operations / product_s, _int8_ops(device, operations))


def _int8_ops(device: str, operations: int) -> float | None:
    if device == "cpu" and not torch.cpu._is_vnni_supported():
        return None  # torch would multiply number by number, a thousand times more slowly
    left, right = (torch.randint(-127, 128, (MATRIX, MATRIX), dtype=torch.int8, device=device) for _ in range(2))
    try:
        return operations / best_seconds(lambda: torch._int_mm(left, right)[0, 0].item())
    except RuntimeError:  # this build of torch multiplies no int8 on this device
        return None


def best_seconds(work: Callable[[], object], rounds: int = 7) -> float:
    """Return the shortest of several runs after a warm-up; `work` must wait for its result.

    A slow machine makes fewer runs: none begins after ENOUGH_SECONDS.
    """
    work()
    seconds: list[float] = []
    while len(seconds) < rounds and sum(seconds) < ENOUGH_SECONDS:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
