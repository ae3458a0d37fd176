"""`python -m benchmarks.context`: the cost of a token as its context grows, and the memory of a long request.

One request of random tokens runs in timed chunks; then its prefixes are requested again,
found in the cache, and a few tokens are decoded after each. Random weights change no cost. Peak memory is the
process's own; the key/value cache is known to the byte, and the rest is compared with the engine's estimate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tessera.bench.peer import WIDTHS, random_model
from tessera.bench.plot import check_plot, new_figure
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import workspace_bytes
from tessera.load import BUNDLED_FOLDER
from tessera.machine import peak_bytes, reset_peak
from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig
from tessera.prompt import Prompt, Tokenizer
from tessera.sampling import SamplingParams
from tessera.weights.checkpoint import open_checkpoint

NANO = open_checkpoint(BUNDLED_FOLDER).config
# Nano's small vocabulary for both, since embeddings and head cost the same at every context.
SHAPES = {
    "nano": replace(NANO, max_seq_len=MAX_CONTEXT_TOKENS),
    "12b": replace(WIDTHS, n_layers=1, vocab_size=NANO.vocab_size),
}
CHUNK_TOKENS, DECODED_TOKENS = 512, 9
SHORTEST = 1024
MIB = 2**20


@dataclass(frozen=True)
class Point:
    """Costs at one context length: seconds per token in a chunk and decoded, and peak memory so far."""

    context: int
    prefill_s: float
    decode_s: float
    peak_bytes: int  # of the process, beyond its memory before the request
    cache_bytes: int  # of that, keys and values


@dataclass(frozen=True)
class Run:
    """A request of some shape, and the memory promised to its steps beyond weights and cache."""

    shape: str
    kv_cache_dtype: str
    layers: int
    promised_bytes: int
    points: list[Point]


def measure(shape: str, tokens: int, kv_cache_dtype: str = "auto") -> Run:
    """Run one request of `tokens` tokens, with a point at each power of two up to it."""
    config = SHAPES[shape]
    engine = _engine(config, tokens, kv_cache_dtype)
    ids = torch.randint(1000, config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    marks = [SHORTEST << n for n in range((tokens // SHORTEST).bit_length())]
    _step_through(engine, ids[:SHORTEST])  # one-time allocations of libraries do not count
    before, token_bytes = reset_peak(), kv_bytes_per_token(config, engine.config.cache_dtype)
    # Different from the warm-up's prefix, or it would be found in the cache.
    ids = ids[::-1]
    chunks, peaks = _step_through(engine, ids[: tokens - 1], marks)
    points = []
    for mark in marks:
        steps, _ = _step_through(engine, ids[: mark - DECODED_TOKENS], new_tokens=DECODED_TOKENS)
        prefill_s = statistics.median(chunks[max(mark // CHUNK_TOKENS - 3, 0) : mark // CHUNK_TOKENS]) / CHUNK_TOKENS
        points.append(Point(mark, prefill_s, min(steps[1:]), peaks[mark] - before, mark * token_bytes))
    promised = workspace_bytes(config, CHUNK_TOKENS, tokens, 1, torch.bfloat16)
    return Run(shape, engine.config.kv_cache_dtype, config.n_layers, promised, points)


def _engine(config: ModelConfig, tokens: int, kv_cache_dtype: str) -> Engine:
    options = {
        "max_model_len": tokens,
        "max_num_seqs": 1,
        "max_num_batched_tokens": CHUNK_TOKENS,
        "kv_cache_dtype": kv_cache_dtype,
        # The request, and the warm-up's prefix.
        "kv_cache_bytes": (tokens + 2 * SHORTEST) * kv_bytes_per_token(config, torch.bfloat16),
        "num_speculative_tokens": 0,
    }
    model = random_model(config)
    tokenizer = Tokenizer.from_file(BUNDLED_FOLDER / "tekken.json", config.vision_encoder)
    return Engine(model, tokenizer, resolve_config(options, config, dtype=model.dtype, device=model.device))


def _step_through(
    engine: Engine, ids: Sequence[int], marks: Sequence[int] = (), *, new_tokens: int = 1
) -> tuple[list[float], dict[int, int]]:
    """Return the seconds of each step of a request, and the peak memory at each mark of computed tokens."""
    request = engine.add(Prompt(tuple(ids)), SamplingParams(max_tokens=new_tokens, ignore_eos=True))
    seconds: list[float] = []
    peaks: dict[int, int] = {}
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
        # The last chunk is one token short of a whole one, and computed when the request has ended.
        peaks |= {mark: peak_bytes() for mark in marks if mark not in peaks and request.num_computed >= mark}
    return seconds, peaks | {mark: peak_bytes() for mark in marks if mark not in peaks}


def table(run: Run) -> str:
    """Format the points as a Markdown table."""
    lines = ["| context | prefill, ms a token | decode, ms a token | peak MiB | of it cache |", "|" + " --- |" * 5]
    for p in run.points:
        lines.append(
            f"| {p.context:,} | {p.prefill_s * 1000:.2f} | {p.decode_s * 1000:.2f} | {p.peak_bytes / MIB:.0f} "
            f"| {p.cache_bytes / MIB:.0f} |"
        )
    return "\n".join(lines)


def plot(runs: Sequence[Run], file: Path) -> None:
    """Plot the cost of a token over its context length, both on logarithmic scales."""
    figure = new_figure(11, 4.5)
    axes = figure.subplots(1, 2, sharex=True)
    for run in runs:
        contexts = [point.context for point in run.points]
        name = f"{run.shape}, {run.layers} layers, {run.kv_cache_dtype} cache"
        axes[0].plot(contexts, [point.prefill_s * 1000 for point in run.points], marker="o", label=name)
        axes[1].plot(contexts, [point.decode_s * 1000 for point in run.points], marker="o", label=name)
    for axis, title in zip(axes, (f"prefill, in chunks of {CHUNK_TOKENS}", "decode of one sequence"), strict=True):
        axis.set(title=title, xlabel="tokens of context", ylabel="ms a token", xscale="log", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="nano", help="nano, or one layer at Pixtral 12B's widths")
    parser.add_argument("--tokens", type=int, default=MAX_CONTEXT_TOKENS, help="length of the longest request")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "int8"), action="append", help="may be given twice")
    parser.add_argument("--plot", type=Path, help="draw into this PNG")
    arguments = parser.parse_args()
    if not SHORTEST <= arguments.tokens <= MAX_CONTEXT_TOKENS:
        parser.error(f"--tokens is {arguments.tokens}; use {SHORTEST} to {MAX_CONTEXT_TOKENS}")
    if arguments.plot:
        check_plot(arguments.plot)
    runs = []
    for dtype in arguments.kv_cache_dtype or ["auto"]:
        runs.append(measure(arguments.shape, arguments.tokens, dtype))
        print(f"{arguments.shape}, {runs[-1].layers} layers, {runs[-1].kv_cache_dtype} cache; a step was promised "
              f"{runs[-1].promised_bytes / MIB:.0f} MiB\n{table(runs[-1])}")  # fmt: skip
    if arguments.plot:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
