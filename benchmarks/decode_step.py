"""`python -m benchmarks.decode_step`: where the time of a decoding step goes, in microseconds of one thread a layer.

Two decoder layers of Pixtral 12B's widths with random weights, on one thread by default. Times are then that thread's
processor time, medians over rounds in turns, so other programs disturb them less; they share caches and bandwidth all
the same. "Everything but kernels" is the composed layer with kernels that do nothing: Python, and PyTorch's small
operations. Widths so small that products take no time show what a layer costs whatever its size, by its modules and in
the library's step.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor

from tessera.bench.peer import WIDTHS, random_model, random_packed
from tessera.engine.kv_cache import KVCache
from tessera.engine.native_step import NativeSteps
from tessera.engine.plans import PagedPlan
from tessera.engine.request import Request
from tessera.engine.sampler import Sampler
from tessera.kernels import elementwise, packed_linear, paged_attention, skinny_linear
from tessera.kernels.elementwise import rms_norm, rotate, silu_gate
from tessera.kernels.paged_attention import PagedChunk
from tessera.linears.quantized import place
from tessera.model.config import ModelConfig
from tessera.model.decoder import DecoderBlock
from tessera.model.linear import Linear
from tessera.model.pixtral import Pixtral
from tessera.model.rope import decoder_rotations
from tessera.sampling import SamplingParams

LINEARS = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
FEED_FORWARD = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
LAYERS, VOCABULARY = 2, 131_072
WITH_KERNELS = (elementwise, packed_linear, paged_attention, skinny_linear)
SMALL = dataclasses.replace(WIDTHS, dim=256, n_heads=2, n_kv_heads=1, hidden_dim=256)
BLOCK_TOKENS = 16
Work = Callable[[], object]


def model_of(config: ModelConfig, layers: int, bits: int) -> Pixtral:
    """Return a model of these decoder widths with the 12B's head and few embeddings; 16 bits: not quantized."""
    vision = dataclasses.replace(config.vision_encoder, num_hidden_layers=1)
    config = dataclasses.replace(config, n_layers=layers, vocab_size=1024, vision_encoder=vision)
    model = random_model(config)
    for layer in range(layers if bits < 16 else 0):
        for name in (*LINEARS, *FEED_FORWARD):
            rows, columns = model.get_submodule(f"layers.{layer}.{name}").weight.shape  # type: ignore[misc]
            place(model, f"layers.{layer}.{name}", random_packed(rows, columns, bits))
    model.output = Linear(config.dim, VOCABULARY if bits == 16 else 1, bias=False, dtype=torch.bfloat16)
    if bits < 16:
        place(model, "output", random_packed(VOCABULARY, config.dim, 8))
    return model.requires_grad_(requires_grad=False)


def plan_of(model: Pixtral, cache: KVCache, rows: int, context: int) -> PagedPlan:
    """Return the plan of `rows` sequences, each with one new token after `context` - 1 others."""
    each = -(-context // BLOCK_TOKENS)
    tables = [list(range(row * each, (row + 1) * each)) for row in range(rows)]
    chunks = [PagedChunk(row, 1, context, cache.table(table, context)) for row, table in enumerate(tables)]
    slots = [slot for table in tables for slot in cache.slots(table, context - 1, context)]
    return PagedPlan(cache.layers, torch.full((rows,), context - 1), torch.tensor(slots), chunks)


def times_of(works: dict[str, Work], rounds: int) -> dict[str, list[int]]:
    """Return nanoseconds for each, measured in turns: a lone thread's processor time, or of several on the clock."""
    now = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
    times: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = now()
            work()
            times[name].append(now() - start)
    return times


def print_step(model: Pixtral, rows: int, context: int, rounds: int, *, parts_too: bool) -> None:
    blocks = rows * -(-context // BLOCK_TOKENS)
    cache = KVCache(model.config, blocks, BLOCK_TOKENS, torch.bfloat16, model.device)
    plan = plan_of(model, cache, rows, context)
    hidden_TD = torch.randn(rows, model.config.dim).bfloat16()
    kinds = ((steps, "modules over library"), (head_steps, "sampler over library"))
    for works, what in kinds if is_served(model, plan, hidden_TD) else kinds[:1]:
        times = times_of(works(model, plan, hidden_TD), rounds)
        quotients = statistics.quantiles([a / b for a, b in zip(*times.values(), strict=True)], n=4)
        print_times(times)
        print("  {}: {:.3f} (quartiles {:.3f} to {:.3f})".format(what, *(quotients[n] for n in (1, 0, 2))), flush=True)
    if parts_too:
        print_times(times_of(parts(model, plan, hidden_TD), rounds))


def is_served(model: Pixtral, plan: PagedPlan, hidden_TD: Tensor) -> bool:
    reason = NativeSteps(model).reason_for(plan, hidden_TD)
    if reason:
        print(f"no step in the library: {reason}")
    return reason is None


def print_times(times: dict[str, list[int]]) -> None:
    for name, found in times.items():
        print(f"  {name:36} {statistics.median(found) / 1000:9.0f}")


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


def steps(model: Pixtral, plan: PagedPlan, hidden_TD: Tensor) -> dict[str, Work]:
    """Return a whole step, without embeddings and head, by the modules and in the library."""
    native = NativeSteps(model)
    return {
        f"a step of {LAYERS} layers, by its modules": lambda: model(hidden_TD, plan),
        f"a step of {LAYERS} layers, in the library": lambda: native(hidden_TD, plan),
    }


def head_steps(model: Pixtral, plan: PagedPlan, hidden_TD: Tensor) -> dict[str, Work]:
    """Return a step with the head and the choice of greedy tokens: chosen by the sampler, and in the library."""
    native = NativeSteps(model)
    sampler = Sampler(VOCABULARY, range(1000), 2, model.device)
    request = cast(Request, SimpleNamespace(id="", params=SamplingParams(), matcher=None, num_output=1))
    requests = [request] * len(hidden_TD)
    penalties_V = sampler.penalties_for(requests)
    return {
        "with head and choice, by the sampler": lambda: sampler.sample(
            model.logits(native(hidden_TD, plan)[0]), requests
        ),
        "with head and choice, in the library": lambda: native(hidden_TD, plan, penalties_V),
    }


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
        "norms": lambda: (block.attention_norm(hidden_TD), block.ffn_norm(hidden_TD)),
        "rotations": lambda: (rotate(queries, *rotations.queries), rotate(keys, *rotations.keys)),
        "gate": lambda: silu_gate(gate, up),
        "sums": lambda: (hidden_TD + normed_TD, hidden_TD + normed_TD),
        "everything but kernels": idle,
        "the step's rotation angles": lambda: decoder_rotations(plan.positions_T, model.config),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4, choices=(3, 4, 8, 16))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], choices=range(1, 17))
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="more than 1: times on the clock of a quiet machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for widths in ("12b", "small"):
            model = model_of(WIDTHS if widths == "12b" else SMALL, LAYERS, options.bits)
            for rows in options.rows:
                print(f"{widths} widths, {options.bits} bits, {rows} sequences of {options.context} tokens")
                parts_too = widths == "12b" and rows == options.rows[0]
                print_step(model, rows, options.context, options.rounds, parts_too=parts_too)
    return 0


if __name__ == "__main__":
    sys.exit(main())
