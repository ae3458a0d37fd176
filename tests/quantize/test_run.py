"""`quantize`: whole folders that load as what they were within the error of their bits, or a clear refusal."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from tessera.errors import CheckpointError, UsageError
from tessera.kernels.quantized_weight import values_of
from tessera.linears.quantized import QuantizedLinear
from tessera.quantize import run
from tessera.quantize.plan import Options
from tessera.quantize.run import Step, quantize
from tessera.summary import describe
from tessera.weights.convert import convert
from tests import forks
from tests.loading import load_model
from tests.weights.checkpoints import CONFIGS, LLAVA, edit_tensors, write_mistral_folder

WISHES = [
    Options(),
    Options("8", vision="8"),
    Options("fp8", "fp8", "fp8"),
    Options("8", "16"),
    Options("4", "4"),
    Options("3"),
]
# Of normally distributed weights in groups of 32: the root mean square of what rounding changes.
LARGEST_ERRORS = {"int3": 0.17, "int4": 0.09, "int8": 0.01, "fp8": 0.03}


def quantize_until_killed(source: Path, destination: Path, examples: Path) -> None:
    """To be called in a process of its own, which is killed in the midst of writing a file."""
    write_tensors = run.write_tensors

    def write_half(file: Path, *rest: Any, **more: Any) -> None:
        if "layers-01" in file.name:
            file.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write_tensors(file, *rest, **more)

    run.write_tensors = write_half
    run.quantize(source, destination, Options(), calibrate=examples)


@pytest.mark.parametrize("options", WISHES, ids=lambda options: "-".join(dataclasses.astuple(options)))
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_loads_as_what_it_was(kind: str, options: Options, tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a", CONFIGS[kind])
    original.setdefault("output.weight", original["tok_embeddings.weight"])  # not stored where it is tied
    steps: list[Step] = []
    manifest = quantize(tmp_path / "a", tmp_path / "q", options, watch=steps.append)
    assert [step.unit for step in steps] == ["vision", "layers.0", "layers.1", "outer"]
    model = load_model(tmp_path / "q", dtype="bfloat16", device="cpu").model
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            values = values_of(module.quantized)
            record, matrix = manifest.linears[name], original[f"{name}.weight"].float()
            error = float((values - matrix).norm() / matrix.norm())
            assert record.weight_error == pytest.approx(error, rel=1e-3)
            assert error < LARGEST_ERRORS[record.scheme]
            seen.add(name)
    assert seen == manifest.linears.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, original[name])
    assert seen | {name.removesuffix(".weight") for name, _ in model.named_parameters()} >= {
        name.removesuffix(".weight") for name in original
    }
    summary, before = describe(tmp_path / "q"), describe(tmp_path / "a")
    assert summary.parameters == before.parameters
    assert sum(summary.quantized.values()) == len(seen)
    files = sum(file.stat().st_size for file in (tmp_path / "q").glob("*.safetensors"))
    assert summary.stored_bytes <= files < summary.stored_bytes + 4 * 8192
    if options == Options():
        # 4.5 bits for each weight of the layers, 8.5 for the head's.
        layers = sum(t.numel() for n, t in original.items() if n.startswith("layers.") and t.ndim == 2)
        head = math.prod(original["output.weight"].shape)
        if CONFIGS[kind].tied_embeddings:  # the embeddings keep their 16 bits
            assert before.stored_bytes - summary.stored_bytes == layers * (16 - 4.5) / 8 - head * 8.5 / 8
            return
        saved = layers * (16 - 4.5) / 8 + head * (16 - 8.5) / 8
        assert before.stored_bytes - summary.stored_bytes == saved


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """What was written before the kill is not written again, and the half file is replaced."""
    write_mistral_folder(tmp_path / "a")
    examples = draw_examples(tmp_path / "images")
    quantize(tmp_path / "a", tmp_path / "whole", Options(), calibrate=examples)
    killed = forks.start(quantize_until_killed, tmp_path / "a", tmp_path / "q", examples)
    assert forks.ended(killed) == -signal.SIGKILL
    with pytest.raises(
        CheckpointError, match=r"its quantization was interrupted; run the same `tessera quantize` again"
    ):
        describe(tmp_path / "q")
    with pytest.raises(UsageError, match=r"unfinished quantization of a with other options.*bits 4.*finish that one"):
        quantize(tmp_path / "a", tmp_path / "q", Options("8"), calibrate=examples)
    first = (tmp_path / "q" / "layers-00.safetensors").stat()
    quantize(tmp_path / "a", tmp_path / "q", Options(), calibrate=examples)
    assert (tmp_path / "q" / "layers-00.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    assert contents(tmp_path / "q") == contents(tmp_path / "whole")


def draw_examples(folder: Path) -> Path:
    """Two images of noise."""
    folder.mkdir()
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        PILImage.fromarray(noise).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("bits", ["3", "4"])
def test_calibration_makes_the_outputs_of_every_linear_better(bits: str, tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a")
    examples = draw_examples(tmp_path / "images")
    told: list[str] = []
    calibrated = quantize(tmp_path / "a", tmp_path / "c", Options(bits, bits), calibrate=examples, started=told.append)
    assert told[0] == "the samples pass vision as rounded"
    assert told[1:3] == ["the samples pass layers.0", "rounding layers.0.attention.wq"]
    assert told[-1] == "rounding output"
    plain = quantize(tmp_path / "a", tmp_path / "p", Options(bits, bits))
    for name, record in calibrated.linears.items():
        assert record.output_error is not None
        # Nearest codes are best for the weights, and so they change less of them, and more of the outputs.
        assert record.output_error < plain.linears[name].weight_error < record.weight_error


def test_an_unfinished_run_is_not_gone_on_with_from_other_weights(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a")

    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path / "a", tmp_path / "q", Options(), watch=stop)
    norm = torch.full((LLAVA.dim,), 0.5, dtype=torch.bfloat16)
    edit_tensors(tmp_path / "a" / "consolidated.safetensors", **{"norm.weight": norm})
    with pytest.raises(UsageError, match=r"unfinished quantization of a with other options or weights"):
        quantize(tmp_path / "a", tmp_path / "q", Options())


def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mistral_folder(tmp_path / "a")
    quantize(tmp_path / "a", tmp_path / "q", Options())
    with pytest.raises(UsageError, match=r"q is quantized already; quantize the original"):
        quantize(tmp_path / "q", tmp_path / "r", Options())
    with pytest.raises(UsageError, match=r"q is quantized, and .*convert the original"):
        convert(tmp_path / "q", tmp_path / "r", "hf")
    with pytest.raises(UsageError, match=r"q exists and is not an empty folder; nothing is overwritten"):
        quantize(tmp_path / "a", tmp_path / "q", Options())
    with pytest.raises(UsageError, match=r"is the source itself"):
        quantize(tmp_path / "a", tmp_path / "q" / ".." / "a", Options())
    with pytest.raises(UsageError, match=r"bits is '2'; use 3, 4, 8 or fp8"):
        Options("2")
    monkeypatch.setattr(run, "free_disk_bytes", lambda folder: 1000)
    with pytest.raises(UsageError, match=r"takes 0\.00 GB and 0\.00 GB is free at .*r; free some"):
        quantize(tmp_path / "a", tmp_path / "r", Options())
    monkeypatch.undo()
    matrix = torch.zeros(LLAVA.hidden_dim, LLAVA.dim, dtype=torch.bfloat16)
    matrix[3, 5] = torch.nan
    edit_tensors(tmp_path / "a" / "consolidated.safetensors", **{"layers.1.feed_forward.w1.weight": matrix})
    with pytest.raises(CheckpointError, match=r"'layers\.1\.feed_forward\.w1\.weight' holds numbers that are infinite"):
        quantize(tmp_path / "a", tmp_path / "s", Options())


def test_both_layouts_give_the_same_folder(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", "hf")
    quantize(tmp_path / "a", tmp_path / "qa", Options("4", "4", "8"))
    quantize(tmp_path / "b", tmp_path / "qb", Options("4", "4", "8"))
    one, other = contents(tmp_path / "qa"), contents(tmp_path / "qb")
    assert one.keys() == other.keys()
    assert all(one[name] == other[name] for name in one if name.endswith(".safetensors"))
