"""The arithmetic of memory and speed, against the published sizes and against what quantizing really writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tessera.bench.random_weights import widths, write_random
from tessera.fit import Device, best, image_seconds, packed_flops, precisions, rounding_rates, weights_of
from tessera.model.family import FAMILY, PIXTRAL_12B
from tessera.shelf import SCHEMES

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Pixtral 12B", 12_682_739_712),
        ("Mistral Small 3.1 or 3.2", 24_011_361_280),
        ("Pixtral Large", 124_134_845_824),
        # Their reports have 3.4 + 0.4, 8.4 + 0.4 and 13.5 + 0.4 billion, the head of the smallest counted once.
        ("Ministral 3 3B", 3_849_090_048),
        ("Ministral 3 8B", 8_918_026_240),
        ("Ministral 3 14B", 13_945_031_680),
    ],
)
def test_the_family_has_its_published_sizes(name: str, parameters: int) -> None:
    assert weights_of(FAMILY[name], None).total_bytes == 2 * parameters


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_weights_are_as_large_as_the_files_that_quantizing_writes(tmp_path: Path, bits: int) -> None:
    config, tokenizer = widths("nano")
    write_random(tmp_path / "model", config, tokenizer, "tessera", bits)
    headers = 0
    for file in (tmp_path / "model").glob("*.safetensors"):
        with file.open("rb") as opened:
            headers += 8 + int.from_bytes(opened.read(8), "little")
    stored = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors")) - headers
    assert weights_of(config, str(bits)).total_bytes == stored


def test_a_gpu_that_holds_it_is_preferred_and_a_cpu_has_no_fp8() -> None:
    cpu, gpu = Device("c", "cpu", 200 * GIB, 1e10), Device("g", "cuda", 17 * GIB, 1e12)
    small = Device("g", "cuda", GIB, 1e12)
    found = best(PIXTRAL_12B, [cpu, gpu])
    assert found is not None
    assert (found.device, found.precision) == (gpu, "fp8")
    fallen = best(PIXTRAL_12B, [cpu, small])
    assert fallen is not None
    assert fallen.device is cpu
    assert "fp8" not in precisions(cpu)
    assert "3 bits" not in precisions(gpu)


def test_a_image_takes_the_work_of_reading_it() -> None:
    # Twice the 10.9 billion weights of the layers for each of 4160 tokens, 2.7e12 for pairs of them in 40 layers of
    # 32 heads of 128, and 24 layers of the encoder over 4096 patches.
    decoder = 2 * 10.905e9 * 4160 + 4 * 40 * 32 * 128 * 4160**2 / 2
    encoder = 24 * (2 * 4096 * 16 * 1024**2 + 4 * 4096**2 * 1024)
    seconds = image_seconds(PIXTRAL_12B, Device("", "cpu", GIB, 1e10, 1e12))
    assert seconds == pytest.approx((decoder + encoder) / 1e12, rel=0.01)
    assert image_seconds(PIXTRAL_12B, Device("", "cpu", GIB, 1e10)) is None
    both = Device("", "cpu", GIB, 1e10, 1e12, 2e12)  # packed weights twice as fast: pairs and encoder stay
    assert image_seconds(PIXTRAL_12B, both) == seconds
    saved = 2 * 10.905e9 * 4160 / 2e12
    assert image_seconds(PIXTRAL_12B, both, packed=True) == pytest.approx((decoder + encoder) / 1e12 - saved, rel=0.01)
    assert image_seconds(PIXTRAL_12B, Device("", "cuda", GIB, 1e10, 1e12), packed=True) == seconds


def test_products_with_packed_weights_are_timed() -> None:
    assert packed_flops() > 1e8


def test_rounding_is_measured_in_every_scheme() -> None:
    rates = rounding_rates(torch.device("cpu"))
    assert set(rates) == set(SCHEMES.values())
    assert all(rate > 1e4 for rate in rates.values())
