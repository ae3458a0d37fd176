"""A run's folder: one process at a time, one run for ever, and nothing saved that means nothing."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tessera.errors import CheckpointError, DiskFullError, TesseraError, UsageError
from tessera.finetune.claim import RUN, SETTINGS, alone, claim, digest
from tessera.finetune.settings import Settings
from tessera.finetune.state import STATE, has_state
from tests.finetune.small import make_run, prepare, read_samples, write_data


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = make_run(prepare(tmp_path), tmp_path / "out", Settings())
    with alone(tmp_path / "out"), pytest.raises(UsageError, match="another process trains in"):
        run.go()
    with alone(tmp_path / "out"):
        pass


@pytest.mark.parametrize("changed", ["weights", "dtype"])
def test_a_run_of_other_weights_or_another_dtype_is_another(changed: str, tmp_path: Path) -> None:
    facts = {"weights": "a", "dtype": "torch.float32"}
    claim(tmp_path / "out", facts)
    claim(tmp_path / "out", facts)
    with pytest.raises(UsageError, match=f"another {changed}; name another folder"):
        claim(tmp_path / "out", facts | {changed: "b"})


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / SETTINGS).touch()
    with pytest.raises(UsageError, match=r"settings\.json is damaged"):
        claim(tmp_path, {"model": "nano"})


def test_the_data_is_known_by_its_images_wherever_they_lie(tmp_path: Path) -> None:
    first, second = (digest(read_samples(write_data(tmp_path / name, 3))) for name in ("a", "b"))
    assert first == second
    path = tmp_path / "b" / "0.png"
    Image.new("RGB", Image.open(path).size).save(path)
    assert digest(read_samples(tmp_path / "b" / "data0.jsonl")) != first


def test_a_step_without_a_finite_loss_ends_the_run_unsaved(tmp_path: Path) -> None:
    run = make_run(prepare(tmp_path), tmp_path / "out", Settings(save_steps=1))
    mark = run._mark
    run._mark = lambda pack: replace(mark(pack), total=float("nan"))  # type: ignore[method-assign]
    with pytest.raises(TesseraError, match="step 1 gave a loss of nan"):
        run.go()
    run = make_run(tmp_path, tmp_path / "out", Settings(save_steps=1))
    for parameter in run.trained.parameters.values():
        parameter.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(TesseraError, match="a gradient of nan"):
        run.go()
    assert not has_state(tmp_path / "out" / RUN, full=False)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_state_without_room_is_told_and_the_run_goes_on_afterwards(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(full=method == "full", save_steps=1)
    run = make_run(prepare(tmp_path), tmp_path / "out", settings)
    monkeypatch.setattr(run, "_write", lambda folder: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(CheckpointError if settings.full else DiskFullError, match="could not be written whole"):
            run.go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not has_state(tmp_path / "out" / RUN, full=settings.full)
    again = make_run(tmp_path, tmp_path / "out", settings)
    assert again.go().steps == again.steps


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    make_run(prepare(tmp_path), tmp_path / "out", Settings(save_steps=1)).go()
    state = tmp_path / "out" / RUN / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is not a training checkpoint; remove it to start the run anew"):
        make_run(tmp_path, tmp_path / "out", Settings(save_steps=1)).go()
