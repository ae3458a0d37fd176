"""Loading a quantized folder takes the memory of its plain tensors only: the rest is the page cache's, and shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tessera.weights.fill import linear_shapes
from tests.weights.test_memory import write_large_folder

# Prints how many bytes a process took beside what other programs can share, before and after its work.
MEASURE = """
import sys
from pathlib import Path
import torch
from tests.loading import load_model
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize

def kilobytes(file, name):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))

torch.set_num_threads(1)
what, tiny, folder, *rest = sys.argv[1:]
if what == "quantize":
    quantize(Path(tiny), Path(rest[0] + "-tiny"), Options())
    base = kilobytes("/proc/self/status", "VmHWM")
    quantize(Path(folder), Path(rest[0]), Options())
    print((kilobytes("/proc/self/status", "VmHWM") - base) * 1024)
else:
    load_model(Path(tiny), device="cpu")
    base = kilobytes("/proc/self/smaps_rollup", "Private_Dirty")
    model = load_model(Path(folder), device="cpu", dtype="bfloat16").model
    for module in model.modules():
        if hasattr(module, "quantized"):
            module.quantized.codes.sum()  # every page is read
    print((kilobytes("/proc/self/smaps_rollup", "Private_Dirty") - base) * 1024)
    print(sum(parameter.nbytes for parameter in model.parameters()))
    print(sum(module.quantized.nbytes for module in model.modules() if hasattr(module, "quantized")))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells whose memory is whose"),
]


def measured(*arguments: object) -> list[int]:
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines()]


def test_quantizing_and_loading_300_megabytes(tmp_path: Path) -> None:
    write_large_folder(tmp_path / "tiny", 500_000, 64)
    config = write_large_folder(tmp_path / "model", 300_000_000, 1024)
    layer_bytes = 2 * sum(
        rows * columns for name, (rows, columns) in linear_shapes(config).items() if name.startswith("layers.0.")
    )
    [grown] = measured("quantize", tmp_path / "tiny", tmp_path / "model", tmp_path / "q")
    # What is kept of a layer, a panel of rows with what its search needs, and what the allocator keeps.
    assert grown < layer_bytes + 200_000_000
    quantized = tmp_path / "q-tiny"
    private, plain, packed = measured("load", quantized, tmp_path / "q")
    assert packed > 80_000_000
    assert private < plain + 50_000_000
