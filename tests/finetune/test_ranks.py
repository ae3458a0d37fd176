"""Two ranks learn what one learns, go on from each other's state, and end together with one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tessera.finetune.packing import shares
from tessera.finetune.settings import Settings
from tests.finetune.ranks import ROOT, launch
from tests.finetune.small import make_run, prepare, read_samples
from tests.finetune.test_run import lines, state

FAST: dict[str, Any] = {
    "rate": 0.01, "epochs": 2, "step_samples": 4, "pass_tokens": 150, "eval_steps": 2, "save_steps": 2, "sample": 1,
}  # fmt: skip
VISION: dict[str, Any] = FAST | {"train_vision": True}
FULL: dict[str, Any] = FAST | {"full": True, "rate": 0.002}
# Of losses around 5, and of weights around 0.1: sums in another order, in float32, through AdamW's first steps.
LOSS, WEIGHT = 1e-4, 2e-4
# Over a quantized base: packed products without gradients, as in evaluations, round by the number of rows.
PACKED, PACKED_HELD_OUT = 1e-3, 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("ranks"))


def on_one(folder: Path, name: str, options: dict[str, Any]) -> Path:
    make_run(folder, folder / name, Settings(**options)).go()
    return folder / name


def check_equal(two: Path, one: Path, loss: float = LOSS, held_out: float = LOSS) -> None:
    """The logs hold the same steps, samples and answers, and losses and weights within the bounds."""
    found, expected = lines(two), lines(one)
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        assert left.keys() == right.keys()
        for name, value in right.items():
            if name == "held_out":
                assert left[name] == pytest.approx(value, abs=held_out, rel=0)
            elif isinstance(value, float):
                assert left[name] == pytest.approx(value, abs=loss, rel=1e-3 if name == "norm" else 0), (name, left)
            elif name == "sources":
                assert left[name] == pytest.approx(value, abs=loss)
            else:
                assert left[name] == value, (name, left, right)
    for path in (two / "last").glob("*.safetensors"):
        left_weights, right_weights = load_file(path), load_file(one / "last" / path.name)
        assert left_weights.keys() == right_weights.keys()
        for name, weight in right_weights.items():
            torch.testing.assert_close(left_weights[name].float(), weight.float(), rtol=2e-2, atol=WEIGHT, msg=name)


def check_launch(results: list[tuple[int, str]]) -> None:
    assert [code for code, _ in results] == [0] * len(results), results


def test_two_ranks_learn_what_one_learns_and_end_together_with_one_message(folder: Path) -> None:
    runs = {"adapter-2": VISION, "full-2": FULL | {"train_vision": True}}
    results = launch(2, folder, runs | {"failed": FAST}, "fail 1")
    assert [code for code, _ in results] == [1, 1]
    assert "rank 1: kitten.png is no image; leave it out." in results[1][1]
    assert "rank 0" not in results[0][1]
    for name, options in runs.items():
        check_equal(folder / name, on_one(folder, name.replace("-2", "-1"), options))


@pytest.mark.slow
def test_more_ways_and_three_ranks(folder: Path) -> None:
    runs = {"qlora-3": FAST | {"qlora": 4}, "frozen-3": FULL, "plus-3": FAST | {"plus_factor": 2.0, "patience": 1}}
    check_launch(launch(3, folder, runs))
    for name, options in runs.items():
        bounds = (PACKED, PACKED_HELD_OUT) if "qlora" in options else (LOSS, LOSS)
        check_equal(folder / name, on_one(folder, name.replace("-3", "-1"), options), *bounds)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adapter", "full"])
def test_a_killed_rank_ends_all_and_the_run_resumes(method: str, folder: Path) -> None:
    options = VISION if method == "adapter" else FULL
    check_launch(launch(2, folder, {f"{method}-whole": options}))
    killed = f"{method}-killed"
    (code, said), (other, _) = launch(2, folder, {killed: options}, "kill 5")
    assert (code, other) == (1, -9)
    assert "rank 0: another rank has ended; the same command goes on from the last state" in said
    assert max(line["step"] for line in lines(folder / killed)) <= 5
    check_launch(launch(2, folder, {killed: options}))
    assert lines(folder / killed) == lines(folder / f"{method}-whole")
    whole, parts = state(folder / f"{method}-whole"), state(folder / killed)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_from_the_same_state(folder: Path) -> None:
    moved = folder / "moved"
    launch(2, folder, {"moved": FULL}, "kill 4")
    before = state(moved)
    run = make_run(folder, moved, Settings(**FULL))
    run._resume()
    after = run.optimizer.state_tensors()
    assert run.step == 4
    assert len(after) > 50
    assert all(torch.equal(after[name], before[name]) for name in after)
    run = make_run(folder, moved, Settings(**FULL))
    run.go()
    check_equal(moved, on_one(folder, "stayed", FULL))
    # And from one rank to two.
    grown = on_one(folder, "grown", FULL | {"save_steps": 4, "epochs": 1})
    kept = state(grown)
    check_launch(launch(2, folder, {"grown": FULL | {"save_steps": 4, "epochs": 1}}))
    assert all(torch.equal(kept[name], each) for name, each in state(grown).items())


@pytest.mark.slow
def test_torchrun_starts_the_command(folder: Path) -> None:
    def torchrun(*options: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "tessera",
        ]
        command += ["finetune", str(folder / "data" / "data0.jsonl"), "-m", str(folder / "model"), "--device", "cpu"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *options], check=False, timeout=240, capture_output=True, text=True, env=environment, cwd=ROOT
        )

    done = torchrun("--full", "--out", str(folder / "started"), "--step-samples", "4", "--json")
    assert done.returncode == 0, done.stderr
    (outcome,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert outcome["steps"] == 3
    assert "9 samples, about" in done.stderr
    assert done.stderr.count("on each of 2 ranks") == done.stderr.count("peak memory") == 1
    assert (folder / "started" / "last" / "consolidated.safetensors").exists()
    failed = torchrun("--out", str(folder / "refused"), "--max-tokens", "60")
    assert failed.returncode != 0
    assert failed.stderr.count("error: rank 0: ") == 1
    assert "error: rank 1: " not in failed.stderr


def test_passes_of_ranks_are_equally_many_and_hold_each_sample_once(folder: Path) -> None:
    samples = read_samples(folder / "data" / "data0.jsonl")
    for ranks in (1, 2, 3, 20):
        for tokens in (1, 150, 10_000):
            parts = shares(samples, tokens, ranks)
            assert len({len(part) for part in parts}) == 1
            held = [sample.place for part in parts for pack in part for sample in pack.samples]
            assert sorted(held) == sorted(sample.place for sample in samples)
            for together in zip(*parts, strict=True):
                assert {pack.beside_images for pack in together} == {any(pack.images for pack in together)}
            passes = [pack for part in parts for pack in part]
            assert {pack.passes for pack in passes} == {len(passes)}
            assert all(pack.tokens <= tokens or len(pack.samples) == 1 for pack in passes)
