"""The GPU's script on a CPU with tiny shapes: every check and every row runs, and a row that fails stays alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tessera.bench import gpu_check, gpu_table
from tessera.bench.gpu_table import TINY, encode_flops, prefill_flops, step_bytes
from tessera.bench.peer import random_model
from tessera.model.attention import DensePlan

ARGUMENTS = ["--device", "cpu", "--tiny", "--no-tests"]


def test_every_check_and_row_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(ARGUMENTS) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    for name in ("logits, bfloat16", "int4 product, 200 rows", "paged attention, int8 cache", "replies with graphs"):
        assert f"ok     {name}" in printed
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 2 + len(TINY.prefills) + 2 + 1 + 4  # with the heading
    assert all(row[2].strip().endswith("ms") for row in rows[2:])
    assert sum("x" in row[5] for row in rows[2:]) == 9  # all but prefill at 8 and 4 bits stand beside the peer


def test_what_fails_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*arguments: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. | Tried to allocate")

    monkeypatch.setattr(gpu_table, "encode_flops", lambda *arguments: 1.0)
    monkeypatch.setattr(gpu_table.Pixtral, "encode_images", failing)
    monkeypatch.setattr(gpu_check, "check_all", lambda *arguments: False)
    monkeypatch.setattr(gpu_check, "kernel_lines", lambda *arguments: iter(()))
    assert gpu_check.main([*ARGUMENTS, "--no-peer"]) == 1
    printed = capsys.readouterr().out
    assert "ours FAILED: OutOfMemoryError: CUDA out of memory. / Tried to allocate" in printed
    assert "| decode, one sequence, int4 |" in printed.splitlines()[-2]


def test_operations_and_bytes_are_those_that_torch_counts() -> None:
    config = TINY.config
    model = random_model(config).float()
    tokens, side = 48, 32
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(model.embed(torch.full((tokens,), 1500), []), DensePlan([tokens]))
    # torch counts all of causal attention, of which half is needed.
    attention = 2 * tokens * tokens * config.n_heads * config.head_dim * config.n_layers
    assert prefill_flops(config, tokens) == counter.get_total_flops() - attention
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.encode_images([torch.zeros(3, side, side)])
    vision = config.vision_encoder
    convolution = 2 * (side // vision.patch_size) ** 2 * 3 * vision.patch_size**2 * vision.hidden_size
    assert encode_flops(config, side, 1) == counter.get_total_flops() - convolution
    parameters = [*model.layers.parameters(), *model.output.parameters()]
    assert step_bytes(model, 0) == sum(parameter.nbytes for parameter in parameters)
    assert step_bytes(model, 3) - step_bytes(model, 0) == 3 * 2 * 2 * 2 * 16 * 4
