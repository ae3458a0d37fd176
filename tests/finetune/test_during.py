"""What a run does beside its steps: answers to held-out samples, the curve as an image, kept features."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tessera.finetune import answers
from tessera.finetune.answers import answer, chosen, last_turn
from tessera.finetune.claim import RUN
from tessera.finetune.curve import curve_svg
from tessera.finetune.features import Features
from tessera.finetune.log import read_log
from tessera.finetune.run import CURVE, FEATURES, LOG
from tessera.finetune.samples import Picture, Sample
from tessera.finetune.settings import Settings
from tessera.finetune.tower import Tower
from tessera.model.attention import DensePlan
from tessera.prompt import Tokenizer
from tessera.sources import ImageLimits
from tessera.training.ranks import Ranks
from tests.engine.tiny import tiny_model
from tests.finetune.small import CONFIG, make_run, prepare, read_samples
from tests.tokenizers import NANO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("during"))


def test_an_answer_is_the_likeliest_continuation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the whole sequence computed again for each token, without kept keys and values."""
    monkeypatch.setattr(answers, "MAX_TOKENS", 12)
    model, tokenizer = tiny_model(CONFIG), Tokenizer.from_file(NANO, CONFIG.vision_encoder)
    tower = Tower(model, ImageLimits(), trained=False)
    for sample in read_samples(folder / "data" / "data0.jsonl")[:3]:
        found = answer(model, tower, tokenizer, sample, Ranks())
        begin, end = last_turn(sample)
        ids = list(sample.ids[:begin])
        with torch.no_grad():
            images = tower.embed(sample.images)
            while len(ids) < begin + 12:
                hidden = model(model.embed(torch.tensor(ids), images), DensePlan([len(ids)]))
                token = int(model.logits(hidden)[-1].argmax())
                if token == tokenizer.eos_id or token in tokenizer.prompt_only_ids:
                    break
                ids.append(token)
        assert found.answer == tokenizer.decode(ids[begin:])
        assert found.expected == tokenizer.decode(list(sample.ids[begin : end - 1]))
        assert found.place == sample.place


def test_the_last_turn_is_answered_of_samples_spread_over_all(folder: Path) -> None:
    some = read_samples(folder / "data" / "data0.jsonl")
    many: Sample = replace(some[0], labels=b"\0\0\1\1\0\0\1\1\1")
    assert last_turn(many) == (6, 9)
    assert last_turn(replace(many, labels=b"\1\1\0")) == (0, 2)
    assert chosen(some, 3) == [some[0], some[3], some[6]]
    assert chosen(some, 100) == some
    assert chosen(some, 0) == chosen([], 2) == []


def test_a_run_logs_answers_and_draws_its_curve(folder: Path, tmp_path: Path) -> None:
    made = make_run(folder, tmp_path / "out", Settings(step_samples=4, eval_steps=2, sample=2, rate=0.01))
    said: list[str] = []
    made.say = said.append
    outcome = made.go()
    log = list(read_log(tmp_path / "out" / RUN / LOG))
    given = [(line["step"], line["place"]) for line in log if "answer" in line]
    places = [sample.place for sample in chosen(made.held_out, 2)]
    assert given == [(step, place) for step in (2, 3) for place in places]
    assert [line for line in said if line.startswith(f"  {places[0]}: ")]
    assert outcome.peak_bytes > 10**7
    root = ElementTree.fromstring((tmp_path / "out" / RUN / CURVE).read_text(encoding="utf-8"))
    polylines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(each.attrib["points"].split()) for each in polylines] == [3, 3, 2]


def test_a_curve_is_within_its_frame_and_bounded() -> None:
    steps = [{"step": n + 1, "loss": 3 / (1 + n)} for n in range(5000)]
    held = [{"step": 2500, "held_out": 2.0, "best": True}, {"step": 5000, "held_out": 2.5, "best": False}]
    for lines in ([], steps[:1], [*steps, *held], [{"step": 1, "loss": float("nan")}]):
        root = ElementTree.fromstring(curve_svg(lines, "a <b> & c"))
        for each in root.iter("{http://www.w3.org/2000/svg}polyline"):
            points = [tuple(map(float, pair.split(","))) for pair in each.attrib["points"].split()]
            assert len(points) <= 2000
            assert all(0 <= x <= 760 and 0 <= y <= 420 for x, y in points)
        radii = [each.attrib["r"] for each in root.iter("{http://www.w3.org/2000/svg}circle")]
        assert radii == (["6", "3"] if len(lines) > 1 else [])


def kept(folder: Path, name: str, memory: int, disk: int) -> tuple[Features, list[Picture]]:
    return Features(folder / name, memory_bytes=memory, disk_bytes=disk), [
        Picture(folder / f"{number}.png", 64, (1, 1)) for number in range(4)
    ]


def test_features_leave_the_memory_for_the_disk_within_both_bounds(tmp_path: Path) -> None:
    made, pictures = kept(tmp_path, "some", 100, 600)
    values = [torch.full((4, 4), float(number)) for number in range(4)]  # 64 bytes each
    for picture, value in zip(pictures, values, strict=True):
        made.keep(picture, value)
    again, _ = kept(tmp_path, "some", 100, 600)
    assert [again.get(picture) is not None for picture in pictures] == [True, True, True, False]
    assert all(torch.equal(made.get(picture), value) for picture, value in zip(pictures, values, strict=True))  # type: ignore[arg-type]
    files = sorted((tmp_path / "some").iterdir())
    assert all(file.suffix == ".safetensors" for file in files)
    files[0].write_bytes(files[0].read_bytes()[:-5])
    save_file({"other": values[0]}, files[1])
    again, _ = kept(tmp_path, "some", 100, 600)
    assert sum(again.get(picture) is not None for picture in pictures) == len(files) - 2
    little, _ = kept(tmp_path, "little", 0, 100)
    for picture, value in zip(pictures, values, strict=True):
        little.keep(picture, value)
    assert len(list((tmp_path / "little").iterdir())) == 1


def test_an_image_that_changed_is_another(tmp_path: Path) -> None:
    made, (picture, *_) = kept(tmp_path, "some", 1000, 0)
    Path(picture.source).write_bytes(b"1")
    made.keep(picture, torch.zeros(1))
    assert made.get(picture) is not None
    assert made.get(replace(picture, side=32)) is None
    os.utime(picture.source, ns=(1, 1))
    assert made.get(picture) is None


def test_a_run_with_features_on_disk_is_the_same_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Settings(step_samples=4, epochs=2, rate=0.01, sample=0)
    losses = []
    for name, memory in (("kept", 1 << 30), ("stored", 1)):
        monkeypatch.setattr(Features.__init__, "__kwdefaults__", {"memory_bytes": memory, "disk_bytes": 1 << 30})
        make_run(folder, tmp_path / name, options).go()
        losses.append([line["loss"] for line in read_log(tmp_path / name / RUN / LOG) if "loss" in line])
    assert losses[0] == losses[1]
    assert not (tmp_path / "kept" / RUN / FEATURES).exists()
    assert list((tmp_path / "stored" / RUN / FEATURES).glob("*.safetensors"))
