"""The comparison of training: equal losses or none, ratios over the peer; and the papers that nano is taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.boarding_passes import LABELS, write
from benchmarks.finetune import Measured, measure, operations, rates, table
from benchmarks.finetune_sides import samples_of, shape_of
from tessera.errors import MeasurementError


class Stub:
    """A side that answers from lists."""

    def __init__(self, name: str, losses: list[float], seconds: float, peak: int) -> None:
        self.name, self.losses, self.seconds, self.peak = name, losses, seconds, peak

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        return {"loss": self.losses.pop(0), "seconds": self.seconds, "peak": self.peak, "loaded": 2**20}


def test_sides_are_compared_step_by_step() -> None:
    sides = [Stub("ours", [2.0, 1.9, 1.8], 2.0, 2 * 2**20), Stub("peft", [2.01, 1.91, 1.8], 3.0, 4 * 2**20)]
    found = measure(sides, 2, [60, 40], 0.25, 0.05)  # type: ignore[arg-type]
    assert [len(each.seconds) for each in found] == [2, 2], "the first step warms up"
    assert table(found, 100).splitlines()[2:] == [
        "| ours | 50.0 | 1.50x (1.50 to 1.50) | 2 | 0.50 | 1 |",
        "| peft | 33.3 | 1.00x (1.00 to 1.00) | 4 | 1.00 | 3 |",
    ]


def test_other_losses_are_not_compared() -> None:
    sides = [Stub("ours", [2.0, 1.9], 1.0, 1), Stub("peft", [2.0, 2.4], 1.0, 1)]
    with pytest.raises(MeasurementError, match=r"step 1 differ: ours 1\.9000 in 1\.0 s, peft 2\.4000"):
        measure(sides, 2, [60], 0.25, 0.05)  # type: ignore[arg-type]


def test_what_a_step_multiplies() -> None:
    attention, feed_forward = 2 * 5120 * (4096 + 1024), 3 * 5120 * 14336
    first = 5120 * (4096 + 2 * 1024)
    wanted = 2 * 100 * (2 * 3 * (attention + feed_forward) - first) + 4 * 7 * 5120 * 2048
    assert operations(shape_of(3, 2048), 100, 7) == wanted
    side = Measured("ours", seconds=[4.0, 2.0, 1.0])
    assert rates([side], 4e11, ("float32", 2.5e11)).endswith(
        "0.40 TFLOP a step: ours 200 GFLOP/s (80%); float32 on registers alone does 250."
    )


def test_a_quarter_of_each_sample_is_labelled() -> None:
    assert [(len(each), each.labelled) for each in samples_of((64, 20), 0.25, 1256)] == [(64, 16), (20, 5)]


def test_boarding_passes_say_what_is_drawn_and_are_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [json.loads(line) for line in write(tmp_path, "train", 6).read_text().splitlines()]
    again = [json.loads(line) for line in write(tmp_path / "again", "train", 6).read_text().splitlines()]
    others = [json.loads(line) for line in write(tmp_path, "held-out", 6).read_text().splitlines()]
    assert rows == again
    assert not {row["answer"] for row in rows} & {row["answer"] for row in others}
    for row in rows:
        assert json.loads(row["answer"]).keys() == LABELS.keys()
        with Image.open(tmp_path / row["image"]) as image:
            assert max(image.size) <= 320
