"""What the doctor says of a machine and of the models on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.bench.limits import Limits
from tessera.cli import doctor
from tessera.cli.doctor import FAMILY, TESTED_TORCH, cell, conclusion, report, run_doctor, slowdowns, table
from tessera.fit import Device, beside_bytes, quantizing, weights_of
from tessera.kernels.library import PATHS
from tessera.model.family import PIXTRAL_12B
from tests.weights.test_configs import FAMILY as PUBLISHED

GIB = 2**30
RATES = {"int3": 1e7, "int4": 1e7, "int8": 5e7, "fp8": 1e8}


def test_the_family_is_as_its_own_files_say() -> None:
    assert list(FAMILY.values())[:3] == [PUBLISHED["12B"], PUBLISHED["Small 3.1"], PUBLISHED["Large"]]


def test_a_cell_says_what_is_needed_or_lacking() -> None:
    weights = weights_of(PIXTRAL_12B, "4")
    cache_bytes = 4096 * 160 * 1024  # 160 KiB a token in bfloat16
    needed = weights.total_bytes + cache_bytes + beside_bytes(PIXTRAL_12B, 4096, "cpu")
    speed = (weights.step_bytes + cache_bytes) * 3.0
    fits = cell(PIXTRAL_12B, weights, 4096, torch.bfloat16, Device("", "cpu", needed, speed))
    lacks = cell(PIXTRAL_12B, weights, 4096, torch.bfloat16, Device("", "cpu", needed - 2_300_000_000, speed))
    assert (fits, lacks) == (f"{needed / 1e9:.1f} GB 3.0/s", "lacks 2.3 GB")
    # Embeddings are not read to decode; the head and the layers are: 4.5 bits each of 10.9 billion, 8.5 of 0.67.
    assert weights.step_bytes == pytest.approx(10.905e9 * 4.5 / 8 + 0.671e9 * 8.5 / 8, rel=1e-3)


@pytest.mark.parametrize("free", [GIB, 24 * GIB, 10_000 * GIB])
def test_tables_fit_a_terminal_and_columns_stay_apart(free: int) -> None:
    for name, config in FAMILY.items():
        lines = table(name, config, Device("", "cuda", free, 4.8e12))
        assert len(lines) == 9
        for line in lines:
            assert len(line) == 79
            assert line[31] == line[47] == line[63] == " "


def test_the_kernels_in_use_are_named_with_the_reason(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("TESSERA_KERNELS", "torch")
    monkeypatch.setattr(doctor, "measure_limits", lambda: Limits(1e10, 1e12))
    monkeypatch.setattr(doctor, "packed_flops", lambda: 1e10)  # tests/test_fit.py measures
    monkeypatch.setattr(doctor, "rounding_rates", lambda device: RATES)
    monkeypatch.setattr(doctor, "openmp_runtime", lambda: None)
    run_doctor()
    said = " ".join(capsys.readouterr().out.split())
    others = ", ".join(path for path in PATHS if path != "torch")
    assert f"torch (TESSERA_KERNELS=torch asks for it); set TESSERA_KERNELS to force another: {others} " in said
    assert "without C++ kernels each product dequantizes them" in said
    assert "OpenMP runtime none of libgomp, libiomp5, libomp" in said


def test_what_makes_it_slower_is_said_in_a_line_each() -> None:
    assert slowdowns("amx", "2.13.0+cpu", {}) == slowdowns("avx512_bf16", "3.0.1", {}) == []
    avx2, old, gpu = slowdowns("avx2", "2.11.0", {"cuda:0": "Triton is not installed"})
    assert "slower: avx2 has no attention kernel of its own" in avx2
    assert "torch is older than 2.13" in old
    assert gpu == "cuda:0 computes without kernels: Triton is not installed"


def test_the_tested_torch_is_the_pinned_one() -> None:
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text().strip()
    assert pinned.startswith(f"torch=={TESTED_TORCH[0]}.{TESTED_TORCH[1]}.")


def test_the_conclusion_names_the_most_exact_that_fits() -> None:
    def last_lines(free: int, kind: str = "cpu") -> str:
        return "\n".join(conclusion([Device("the device", kind, free, 1e10, 1e12)], RATES))

    nothing = last_lines(4_000_000_000)
    assert nothing.startswith("Best here: nano")
    assert "4.0 GB is free" in nothing
    laptop = last_lines(11_000_000_000)
    assert "in 4 bits" in laptop
    # 10.9 billion weights of the layers, and 0.67 of the head in 8 bits.
    assert "(estimated: 20.2 min and 1.4 GB of memory)" in laptop
    for step in ("1. tessera download pixtral  ", "2. tessera quantize pixtral --bits 4  ", "-m pixtral-4bit"):
        assert step in laptop
    assert "25.4 GB of disk" in laptop  # twice its 12,682,739,712 parameters
    whole = last_lines(80_000_000_000)
    assert "as published, in bfloat16" in whole
    assert "up to 128k tokens" in whole
    assert "quantize" not in whole
    assert all(len(line) < 80 for text in (nothing, laptop, whole) for line in text.splitlines())


def test_no_speed_is_shown_for_fp8_on_a_cpu() -> None:
    cpu = Device("c", "cpu", 200 * GIB, 1e10)
    assert not any("fp8" in line for line in table("x", PIXTRAL_12B, cpu))


def test_the_report_for_programs_agrees_with_the_tables() -> None:
    made = report([Device("the CPU", "cpu", 24 * GIB, 1e10, 1e12)], RATES)
    rows = made["devices"][0]["models"]["Pixtral 12B"]["rows"]
    assert len(rows) == 4 * 2 * 3
    eight = next(row for row in rows if (row["precision"], row["kv_cache"], row["tokens"]) == ("8 bits", "bf16", 4096))
    expected = weights_of(PIXTRAL_12B, "8").total_bytes + 4096 * 160 * 1024 + beside_bytes(PIXTRAL_12B, 4096, "cpu")
    assert eight["bytes"] == expected
    assert eight["fits"]
    assert made["best"]["precision"] == "8 bits"
    cost = quantizing(PIXTRAL_12B, "4", RATES)
    assert made["quantize_estimate"]["bits"]["4"] == {"seconds": cost.seconds, "memory_bytes": cost.memory_bytes}
    assert set(made["quantize_estimate"]["bits"]) == {"3", "4", "8", "fp8"}
    json.dumps(made)
