"""`python -m benchmarks.decode_step`: where the time of a decoding step goes, in microseconds of one thread a layer.

Two decoder layers of Pixtral 12B's widths with random 4-bit weights, one sequence, on one thread. Times are that
thread's processor time, medians over rounds in turns, so other programs disturb them less; they still share caches and
bandwidth. "Everything but kernels" is the composed step with kernels that do nothing: Python, and PyTorch's small
operations.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tessera.bench.peer import WIDTHS, random_model, random_packed
from tessera.engine.kv_cache import KVCache
from tessera.engine.plans import PagedPlan
from tessera.kernels import elementwise, packed_linear, paged_attention, skinny_linear
from tessera.kernels.elementwise import rms_norm, rotate, silu_gate
from tessera.kernels.paged_attention import PagedChunk
from tessera.linears.quantized import place
from tessera.model.decoder import DecoderBlock
from tessera.model.pixtral import Pixtral
from tessera.model.rope import decoder_rotations

LINEARS = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
FEED_FORWARD = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
WITH_KERNELS = (elementwise, packed_linear, paged_attention, skinny_linear)
BLOCK_TOKENS = 16
Work = Callable[[], object]


def model_of(layers: int, bits: int) -> Pixtral:
    """Return a model of true decoder widths whose vocabulary and encoder are small; 16 bits: not quantized."""
    vision = dataclasses.replace(WIDTHS.vision_encoder, num_hidden_layers=1)
    config = dataclasses.replace(WIDTHS, n_layers=layers, vocab_size=1024, vision_encoder=vision)
    model = random_model(config)
    for layer in range(layers if bits < 16 else 0):
        for name in (*LINEARS, *FEED_FORWARD):
            rows, columns = model.get_submodule(f"layers.{layer}.{name}").weight.shape  # type: ignore[misc]
            place(model, f"layers.{layer}.{name}", random_packed(rows, columns, bits))
    return model


def plan_of(model: Pixtral, cache: KVCache, rows: int, context: int) -> PagedPlan:
    """Return the plan of `rows` sequences, each with one new token after `context` - 1 others."""
    each = -(-context // BLOCK_TOKENS)
    tables = [list(range(row * each, (row + 1) * each)) for row in range(rows)]
    chunks = [PagedChunk(row, 1, context, cache.table(table, context)) for row, table in enumerate(tables)]
    slots = [slot for table in tables for slot in cache.slots(table, context - 1, context)]
    return PagedPlan(cache.layers, torch.full((rows,), context - 1), torch.tensor(slots), chunks)


def medians(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Return the median microseconds of this thread's processor time for each, measured in turns."""
    times: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.thread_time_ns()
            work()
            times[name].append(time.thread_time_ns() - start)
    return {name: statistics.median(found) / 1000 for name, found in times.items()}


@contextmanager
def idle_kernels() -> Iterator[None]:
    """Replace each kernel by a function that does nothing."""
    saved = [(module, module.kernel) for module in WITH_KERNELS]
    for module in WITH_KERNELS:
        module.kernel = lambda *arguments: lambda *call: 0  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, kernel in saved:
            module.kernel = kernel  # type: ignore[attr-defined]


def parts(model: Pixtral, plan: PagedPlan, hidden_TD: Tensor) -> dict[str, Work]:
    """Return the composed layer's parts, on the values that they meet there."""
    block = model.layers[0]
    assert isinstance(block, DecoderBlock)
    attention, forward = block.attention, block.feed_forward
    rotations = decoder_rotations(plan.positions_T, model.config)
    normed_TD = rms_norm(hidden_TD, block.attention_norm.weight, block.attention_norm.eps)
    queries, keys, values = attention.project(normed_TD, rotations)
    attended = plan.attend(0, queries, keys, values).flatten(-2)
    gate, up = forward.w1(normed_TD), forward.w3(normed_TD)

    def idle() -> None:
        with idle_kernels():
            block(hidden_TD, plan, rotations)

    return {
        "the layer": lambda: block(hidden_TD, plan, rotations),
        "products": lambda: (
            attention.wq(normed_TD), attention.wk(normed_TD), attention.wv(normed_TD), attention.wo(attended),
            forward.w1(normed_TD), forward.w3(normed_TD), forward.w2(gate),
        ),
        "attention, with the cache's write": lambda: plan.attend(0, queries, keys, values),
        "norms": lambda: [rms_norm(hidden_TD, norm.weight, norm.eps) for norm in (block.attention_norm, block.ffn_norm)],
        "rotations": lambda: (rotate(queries, *rotations.queries), rotate(keys, *rotations.keys)),
        "gate": lambda: silu_gate(gate, up),
        "sums": lambda: (hidden_TD + normed_TD, hidden_TD + normed_TD),
        "everything but kernels": idle,
        "the step's rotation angles": lambda: decoder_rotations(plan.positions_T, model.config),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8, 16))
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = model_of(2, options.bits)
    blocks = options.rows * -(-options.context // BLOCK_TOKENS)
    cache = KVCache(model.config, blocks, BLOCK_TOKENS, torch.bfloat16, model.device)
    plan = plan_of(model, cache, options.rows, options.context)
    hidden_TD = torch.randn(options.rows, model.config.dim).bfloat16()
    with torch.inference_mode():
        for name, microseconds in medians(parts(model, plan, hidden_TD), options.rounds).items():
            print(f"{name:36} {microseconds:9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
