"""A run falls, stays within what it may change, and resumes after a kill as if it had never stopped."""

from __future__ import annotations

import errno
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tessera.errors import DiskFullError, TesseraError, UsageError
from tessera.finetune import run as running
from tessera.finetune.claim import RUN
from tessera.finetune.features import Features
from tessera.finetune.log import read_log
from tessera.finetune.packing import packs
from tessera.finetune.run import LOG, Run
from tessera.finetune.settings import Settings
from tessera.finetune.state import STATE, newest_pieces
from tessera.linears.quantized import QuantizedLinear
from tessera.linears.replace import innermost
from tessera.load import ModelSource, load_model
from tessera.lora.attach import attach
from tessera.lora.files import read_adapter
from tests import forks
from tests.finetune.killed import run_until_killed
from tests.finetune.small import CONFIG, make_run, prepare

FAST: dict[str, Any] = {
    "rate": 0.02, "epochs": 3, "step_samples": 4, "pass_tokens": 150, "eval_steps": 2, "save_steps": 3,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "all parts, LoRA+": {"train_vision": True, "plus_factor": 2.0},
    "qlora": {"qlora": 4},
    "full": {"full": True, "rate": 0.005},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("finetune"))


def settings(**options: Any) -> Settings:
    return Settings(**(FAST | options))


def lines(out: Path) -> list[dict[str, Any]]:
    """The log, without the time that a step took."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_log(out / RUN / LOG)]


def state(out: Path) -> dict[str, Tensor]:
    pieces = newest_pieces(out / RUN)
    if pieces is None:
        return load_file(out / RUN / STATE)
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # slow to import

    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(pieces, f"{folder}/whole")
        whole: dict[str, Tensor] = torch.load(f"{folder}/whole")
    return whole


def files(out: Path) -> Iterator[Path]:
    return (each.relative_to(out) for each in sorted(out.rglob("*.safetensors")) if RUN not in each.parts)


@pytest.fixture(scope="module")
def whole_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a method's run that nobody disturbed; it is done once."""

    @functools.cache
    def done(method: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / "whole"
        make_run(folder, out, Settings(**FAST | METHODS[method])).go()
        return out

    return done


MOMENTS = [
    ("lora", "1"), ("lora", "8"), ("lora", "state"), ("all parts, LoRA+", "4"), ("qlora", "4"), ("full", "4"),
    ("full", "pieces"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "when"), MOMENTS)
def test_a_killed_run_resumes_bit_for_bit(
    method: str, when: str, folder: Path, tmp_path: Path, whole_run: Callable[[str], Path]
) -> None:
    options, undisturbed, out = FAST | METHODS[method], whole_run(method), tmp_path / "parts"
    killed = forks.start(run_until_killed, folder, out, when, options)
    assert forks.ended(killed) == -9
    assert len(lines(out)) < len(lines(undisturbed))
    make_run(folder, out, Settings(**options)).go()
    assert lines(out) == lines(undisturbed)
    whole, parts = state(undisturbed), state(out)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    names = list(files(undisturbed))
    assert len(names) == 2
    assert names == list(files(out))
    assert all((undisturbed / name).read_bytes() == (out / name).read_bytes() for name in names)


def test_what_is_kept_for_the_gradient_changes_no_bit(folder: Path, tmp_path: Path) -> None:
    """So a run may be resumed with more or less memory."""
    options = settings(train_vision=True, epochs=1)
    for name, recompute in (("again", True), ("kept", False)):
        make_run(folder, tmp_path / name, options, recompute=recompute).go()
    again, kept = state(tmp_path / "again"), state(tmp_path / "kept")
    assert all(torch.equal(again[name], kept[name]) for name in again)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_and_only_what_is_trained_changes(method: str, folder: Path, tmp_path: Path) -> None:
    made = make_run(folder, tmp_path / "out", settings(**METHODS[method]))
    before = {name: each.clone() for name, each in made.model.state_dict().items()}
    trained = set(made.trained.parameters)
    outcome = made.go()
    assert outcome.steps == 9
    assert outcome.last_loss < 0.8 * outcome.first_loss
    after = made.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Without gradient are only the embeddings of tokens that no sample has, which are one tensor with the others.
    assert changed == trained
    is_vision = {name for name in changed if name.startswith("vision_encoder.")}
    assert bool(is_vision) == METHODS[method].get("train_vision", False)
    assert all(".lora_" in name for name in changed) == (not METHODS[method].get("full", False))
    packed = [each for each in made.model.modules() if isinstance(innermost(each), QuantizedLinear)]
    assert bool(packed) == ("qlora" in METHODS[method])


def test_the_best_and_the_last_are_kept_and_give_their_losses(folder: Path, tmp_path: Path) -> None:
    made = make_run(folder, tmp_path / "out", settings())
    outcome = made.go()
    held_out = {line["step"]: line["held_out"] for line in lines(tmp_path / "out") if "held_out" in line}
    assert list(held_out) == [2, 4, 6, 8, 9]
    assert outcome.best.loss == min(held_out.values()) == held_out[outcome.best.step]
    for adapter, loss in (("out", outcome.best.loss), ("out/last", held_out[9])):
        fresh = load_model(ModelSource(name=str(folder / "model"), device="cpu")).model
        attach(fresh, read_adapter(tmp_path / adapter, CONFIG))
        made.model = made.tower.model = fresh
        made.tower.features = Features()
        assert abs(made._evaluate()[0] - loss) < 1e-5


def test_a_trained_model_loads_like_any_other(folder: Path, tmp_path: Path) -> None:
    made = make_run(folder, tmp_path / "out", settings(full=True, rate=0.005))
    made.go()
    again = load_model(ModelSource(name=str(tmp_path / "out" / "last"), device="cpu"))
    assert all(torch.equal(each, again.model.state_dict()[n]) for n, each in made.model.state_dict().items())


def test_a_full_disk_leaves_the_model_of_before_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    trained = make_run(folder, out, settings(full=True, rate=0.005)).trained
    trained.write(out)
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.name != RUN}
    assert sorted(before) == ["consolidated.safetensors", "params.json", "tekken.json"]

    def copy_half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with torch.no_grad():
        trained.model.output.weight.add_(1)
    monkeypatch.setattr(shutil, "copyfile", copy_half)
    with pytest.raises(DiskFullError, match="could not be written whole"):
        trained.write(out)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    trained.write(out)
    kept = load_file(out / "consolidated.safetensors")["output.weight"]
    assert torch.equal(kept, trained.model.output.weight.to(kept.dtype))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("method", "others"), [("lora", 1), ("full", 2)])
def test_a_folder_gets_its_mark_last(
    method: str, others: int, backwards: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two renames of the first writing leaves nothing that is known as a model or an adapter."""
    trained, out = make_run(folder, tmp_path / "out", settings(**METHODS[method])).trained, tmp_path / "fresh"
    replace, iterdir, renamed = Path.replace, Path.iterdir, list[str]()

    def replace_or_stop(self: Path, target: Path) -> Path:
        if target.parent == out and len(renamed) == others:
            raise KeyboardInterrupt
        renamed.extend([target.name] if target.parent == out else [])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_stop)
    # A disk names files in any order.
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=backwards)))
    with pytest.raises(KeyboardInterrupt):
        trained.write(out)
    assert len(renamed) == others
    assert not {"params.json", "adapter_config.json"} & set(renamed)


def test_a_folder_belongs_to_one_run(folder: Path, tmp_path: Path) -> None:
    make_run(folder, tmp_path / "out", settings(epochs=1)).go()
    with pytest.raises(UsageError, match="another epochs, rank"):
        make_run(folder, tmp_path / "out", settings(rank=4))
    make_run(folder, tmp_path / "out", settings(epochs=1, pass_tokens=300)).go()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        make_run(folder, tmp_path / "other", settings())


def test_a_linear_without_gradient_is_named(folder: Path, tmp_path: Path) -> None:
    made = make_run(folder, tmp_path / "out", settings())
    name = "layers.1.feed_forward.w2"
    made.model.get_parameter(f"{name}.lora_B.weight").requires_grad_(False)
    with pytest.raises(TesseraError, match=f"1 of {2 * 7 + 2} adapted linears got no gradient.*{name}"):
        made.go()


def test_it_ends_early_when_the_loss_grows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, losses = make_run(folder, tmp_path / "out", settings(eval_steps=1, patience=2)), iter((5.0, 4.0, 4.5, 4.2))
    monkeypatch.setattr(made, "_evaluate", lambda: (next(losses), 0.5))
    outcome = made.go()
    assert (outcome.steps, outcome.best.step, outcome.best.loss) == (4, 2, 4.0)
    assert make_run(folder, tmp_path / "out", settings(eval_steps=1, patience=2)).go().steps == 4


def test_memory_that_runs_out_names_the_option(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(running, "mark", fail)
    for recompute, named in ((True, "again with pass_tokens below 150"), (False, "recompute always, or pass_tokens")):
        with pytest.raises(TesseraError, match=named):
            make_run(folder, tmp_path / "out", settings(), recompute=recompute).go()


def test_targets_are_ends_of_names_ours_or_theirs(folder: Path, tmp_path: Path) -> None:
    for number, (targets, count) in enumerate(
        ((("wq", "v_proj"), 4), (("layers.1.attention.wq",), 1), (("adapter",), 2))
    ):
        made: Run = make_run(folder, tmp_path / str(number), settings(targets=targets))
        assert sum(".lora_B." in name for name in made.trained.parameters) == count
    with pytest.raises(UsageError, match="ends with 'wz'"):
        make_run(folder, tmp_path / "no", settings(targets=("wz",)))


def test_packing_is_exact_over_a_quantized_base(folder: Path, tmp_path: Path) -> None:
    """Text alone computes as beside images: without gradients before it, the first layer would round otherwise."""
    made = make_run(folder, tmp_path / "out", settings(qlora=4))
    text = [sample for sample in made.samples if not sample.images]
    assert 0 < len(text) < len(made.samples)
    (alone,) = packs(text, 10_000)
    (together,) = packs(made.samples, 10_000)
    (found,), expected = made._mark(alone).by_source.values(), made._mark(together).by_source["data0/text"]
    assert found[1] == expected[1]
    assert found[0] == pytest.approx(expected[0], rel=1e-6)


def test_factors_multiply_the_rate(folder: Path, tmp_path: Path) -> None:
    factors = {"vision_factor": 0.5, "adapter_factor": 3.0, "plus_factor": 2.0, "warmup": 0.0}
    made = make_run(folder, tmp_path / "out", settings(train_vision=True, rate=0.01, **factors))
    rates = made.trained.rates_at(0, 9, made.groups)
    expected = {
        "decoder": 0.01, "decoder.B": 0.02, "adapter": 0.03, "adapter.B": 0.06, "vision": 0.005, "vision.B": 0.01,
    }  # fmt: skip
    assert rates == pytest.approx(expected)


def test_settings_are_bounded() -> None:
    for name, value in (("rank", 0), ("epochs", 0), ("rate", 2.0), ("sample", -1), ("qlora", 3), ("too_long", "cut")):
        with pytest.raises(UsageError, match=name):
            settings(**{name: value})
    assert json.dumps(settings().as_json())
