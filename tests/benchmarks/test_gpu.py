"""The GPU's script on a CPU with tiny shapes: every check and every row runs, and a row that fails stays alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import check, table
from benchmarks.gpu.sizes import TINY

ARGUMENTS = ["--device", "cpu", "--tiny", "--no-tests"]


def test_every_check_and_row_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(ARGUMENTS) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    for name in ("logits, bfloat16", "int4 product, 200 rows", "paged attention, int8 cache", "replies with graphs"):
        assert f"ok     {name}" in printed
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 2 + len(TINY.prefills) + 2 + 1 + 4 + 1  # with the heading
    assert rows[-1][1].startswith(" QLoRA step")
    assert "tokens/s; peak not measured, estimated " in rows[-1][6]
    assert all(row[2].strip().endswith("ms") for row in rows[2:])
    assert sum("x" in row[5] for row in rows[2:]) == 9  # not prefill at 8 and 4 bits, nor training


def test_what_fails_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*arguments: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. | Tried to allocate")

    monkeypatch.setattr(table, "encode_flops", lambda *arguments: 1.0)
    monkeypatch.setattr(table.Pixtral, "encode_images", failing)
    monkeypatch.setattr(check, "check_all", lambda *arguments: False)
    monkeypatch.setattr(check, "kernel_lines", lambda *arguments: iter(()))
    assert check.main([*ARGUMENTS, "--no-peer"]) == 1
    printed = capsys.readouterr().out
    assert "ours FAILED: OutOfMemoryError: CUDA out of memory. / Tried to allocate" in printed
    assert "| decode, one sequence, int4 |" in printed.splitlines()[-3]
