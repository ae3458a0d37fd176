"""The decoding kernels alone, at true shapes: microseconds, and the share of the device's bandwidth they reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.rates import Rates, seconds_of
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.weights import random_fp8
from tessera.bench.peer import random_packed
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.fp8_linear import fp8_linear
from tessera.kernels.packed_linear import packed_linear
from tessera.kernels.paged_attention import decode_attention


@torch.inference_mode()
def kernel_lines(device: torch.device, sizes: Sizes, rates: Rates) -> Iterator[str]:
    """Yield the decoding kernels' microseconds and share of bandwidth; weights rotate, so that none is cached."""
    config = sizes.config
    shapes = (
        (config.hidden_dim, config.dim),
        (config.dim, config.hidden_dim),
        (config.n_kv_heads * config.head_dim, config.dim),
    )
    for rows, columns in shapes:
        for tokens in sizes.kernel_rows:
            inputs = torch.randn(tokens, columns, device=device).bfloat16()
            for name, make, product in (
                ("bf16", lambda n=rows, k=columns: torch.randn(n, k, device=device).bfloat16(), F.linear),
                ("fp8", lambda n=rows, k=columns: random_fp8(n, k, device), fp8_linear),
                ("int8", lambda n=rows, k=columns: random_packed(n, k, 8, device), packed_linear),
                ("int4", lambda n=rows, k=columns: random_packed(n, k, 4, device), packed_linear),
            ):  # fmt: skip
                yield _kernel_line(
                    f"{name} {rows}x{columns}, {tokens} rows", make, product, inputs, device, sizes, rates
                )
    for requests, context in ((1, sizes.prefills[-1]), (sizes.sequences, sizes.prefills[0])):
        for dtype in (torch.bfloat16, torch.int8):
            try:
                yield _attention_line(requests, context, dtype, device, sizes, rates)
            except Exception as error:
                yield f"attention of {requests} x {context}: FAILED {type(error).__name__}: {error}"


def _kernel_line(
    name: str, make: Any, product: Any, inputs: Tensor, device: torch.device, sizes: Sizes, rates: Rates
) -> str:
    try:
        first = make()
        number = max(2, min(32, sizes.copy_bytes // 8 // first.nbytes))
        weights = [first, *[make() for _ in range(number - 1)]]
        run = _graphed(lambda: [product(inputs, weight) for weight in weights], device)
        each_s = seconds_of(run, device, 5) / number
    except Exception as error:  # continue with the other kernels
        return f"{name}: FAILED {type(error).__name__}: {error}".split("\n", 1)[0]
    return f"{name}: {each_s * 1e6:.1f} us, {first.nbytes / each_s / rates.copy_bytes_per_s:.0%} of bandwidth"


def _attention_line(
    requests: int, context: int, dtype: torch.dtype, device: torch.device, sizes: Sizes, rates: Rates
) -> str:
    config = sizes.config
    blocks = -(-context // 16)
    cache = CacheLayer.zeros(requests * blocks, 16, config.n_kv_heads, config.head_dim, dtype, device)
    tables = torch.randperm(requests * blocks, device=device).view(requests, blocks).int()
    lengths = torch.full((requests,), context, dtype=torch.int32, device=device)
    queries = torch.randn(requests, config.n_heads, config.head_dim, device=device).bfloat16()
    run = _graphed(lambda: decode_attention(queries, cache, tables, lengths), device)
    each_s = seconds_of(run, device, 5)
    read = requests * context * kv_bytes_per_token(config, dtype) / config.n_layers
    name = f"attention of {requests} x {context}, {str(dtype).removeprefix('torch.')}"
    return f"{name}: {each_s * 1e6:.1f} us, {read / each_s / rates.copy_bytes_per_s:.0%} of bandwidth"


def _graphed(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the work as a CUDA graph, so that launches are not timed; on a CPU unchanged."""
    if device.type != "cuda":
        return work
    from tessera.engine.decode_graphs import CudaCapture

    return CudaCapture()(lambda: (work(), None)[1])
