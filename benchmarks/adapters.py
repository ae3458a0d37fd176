"""`python -m benchmarks.adapters`: decoding with LoRA adapters beside decoding without, in turns.

Pixtral 12B's widths with random weights, few decoder layers and a small vocabulary, so that the head hides nothing;
adapters of rank 16 on every linear of the decoder. `--bits` measures a quantized base. Other programs disturb wall
times, so with one thread the times are those that this thread ran.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tessera.bench.peer import WIDTHS, random_model, random_packed
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.text import Detokenizer
from tessera.linears.quantized import QuantizedLinear, place
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.peft import write_peft
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams
from tessera.weights.fill import linear_shapes

RANK, VOCABULARY, PROMPT_TOKENS = 16, 1024, 16
NAMES = ("a", "b", "c")
# Sequences, and the adapter of each; None: the base.
ROWS: dict[str, list[str | None]] = {
    "1 sequence, with an adapter": ["a"],
    "8 sequences, all with one adapter": ["a"] * 8,
    "8 sequences, three adapters and the base": ["a", "b", "c", None] * 2,
}


class Letters:
    """A tokenizer whose texts are empty: only ids are measured."""

    eos_id, bos_id, vocab_size = 2, 1, VOCABULARY
    opens_with_space = False
    special_ids = prompt_only_ids = frozenset((0, 1))

    def token_bytes(self, token_id: int) -> bytes:
        return b"x"

    def token_text(self, token_id: int) -> str:
        return "x"

    def detokenizer(self) -> Detokenizer:
        return Silent()


class Silent:
    def add(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def twin_of(model: Pixtral) -> Pixtral:
    """Another model of the same tensors, which gets no slots."""
    with torch.device("meta"):
        twin = Pixtral(model.config)
    for name in linear_shapes(model.config):
        linear = model.get_submodule(name)
        if isinstance(linear, QuantizedLinear):
            place(twin, name, linear.quantized)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.requires_grad_(False).eval()


def adapter_of(config: ModelConfig, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    modules = {
        name: LowRank(
            torch.randn(RANK, columns, generator=generator).bfloat16() * 0.02,
            torch.randn(rows, RANK, generator=generator).bfloat16() * 0.02,
            2.0,
        )
        for name, (rows, columns) in linear_shapes(config).items()
        if name.startswith("layers.")
    }
    return LoraAdapter.of(modules, config, "random")


def engine_over(model: Pixtral, max_loras: int) -> Engine:
    options = {"max_loras": max_loras, "num_speculative_tokens": 0, "kv_cache_bytes": 2**26, "max_model_len": 512,
               "enable_prefix_caching": False}  # fmt: skip
    return Engine(model, Letters(), resolve_config(options, model.config, dtype=model.dtype, device=model.device))


def step_s(engine: Engine, names: list[str | None], steps: int) -> float:
    """Return the median seconds of a step in which every sequence gets a token."""
    prompt = Prompt(tuple(range(100, 100 + PROMPT_TOKENS)))
    for name in names:
        engine.add(prompt, SamplingParams(max_tokens=steps + 2, ignore_eos=True, adapter=name))
    engine.step()  # the prompts
    engine.step()
    times, clock = [], time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(steps):
        start = clock()
        engine.step()
        times.append(clock() - start)
    while engine.has_work:
        engine.step()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--bits", choices=("16", "8", "4"), default="16")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    config = dataclasses.replace(WIDTHS, n_layers=given.layers, vocab_size=VOCABULARY)
    model = random_model(config)
    if given.bits != "16":
        for name, (rows, columns) in linear_shapes(config).items():
            if name.startswith("layers."):
                place(model, name, random_packed(rows, columns, int(given.bits)))
    plain = engine_over(twin_of(model), 0)
    slotted = engine_over(model, len(NAMES))
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(NAMES):
            write_peft(adapter_of(config, seed), Path(folder) / name, config)
            slotted.adapters.load(name, Path(folder) / name)
    print(
        f"{given.layers} layers, {given.bits} bits, {torch.get_num_threads()} threads; seconds a step, ratio in turns"
    )
    for title, names in ROWS.items():
        base: list[str | None] = [None] * len(names)
        told = []
        for _ in range(given.turns):
            without, idle, with_adapters = (
                step_s(engine, each, given.steps) for engine, each in ((plain, base), (slotted, base), (slotted, names))
            )
            told.append((without, idle, with_adapters))
        without, idle, with_adapters = (statistics.median(column) for column in zip(*told, strict=True))
        ratios = sorted(each[0] / each[2] for each in told)
        idle_ratio = statistics.median(each[0] / each[1] for each in told)
        print(
            f"{title}: without {without:.4f} s, loaded but not asked for {idle:.4f} s ({idle_ratio:.3f}), with "
            f"{with_adapters:.4f} s, ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
