"""Long requests: every point is measured, and memory stays within the cache and what a step was promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.context import CHUNK_TOKENS, SHAPES, Run, measure, plot, table
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.model.config import MAX_CONTEXT_TOKENS

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as on Linux")
ALLOCATOR_BYTES = 48 * 2**20  # what malloc keeps of freed memory, and Python of a request's lists


def check(run: Run, tokens: int, token_bytes: float) -> None:
    assert [point.context for point in run.points] == [1024 << n for n in range((tokens // 1024).bit_length())]
    for point in run.points:
        assert point.prefill_s > 0
        assert point.decode_s > 0
        assert point.cache_bytes == point.context * token_bytes
        assert point.peak_bytes < point.cache_bytes + run.promised_bytes + ALLOCATOR_BYTES


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_a_short_run_measures_what_a_long_one_does(dtype: str, tmp_path: Path) -> None:
    run = measure("nano", 2048, dtype)
    stored = torch.bfloat16 if dtype == "auto" else torch.int8
    check(run, 2048, kv_bytes_per_token(SHAPES["nano"], stored))
    assert table(run).count("\n") == 3
    plot([run], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "dtype"), [("nano", "auto"), ("nano", "int8"), ("12b", "int8")])
def test_a_request_of_131072_tokens_runs_in_bounded_memory(shape: str, dtype: str) -> None:
    run = measure(shape, MAX_CONTEXT_TOKENS, dtype)
    config = SHAPES[shape]
    check(run, MAX_CONTEXT_TOKENS, kv_bytes_per_token(config, torch.bfloat16 if dtype == "auto" else torch.int8))
    # Neither the scores of a chunk against the context nor a copy of the cache would have fitted.
    scores_bytes = CHUNK_TOKENS * MAX_CONTEXT_TOKENS * config.n_heads * 2
    assert run.points[-1].peak_bytes - run.points[-1].cache_bytes < scores_bytes / 2
