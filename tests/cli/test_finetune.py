"""The command: what the dry run says, what is refused, and a run that ends in an adapter."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tessera.cli import finetune as command
from tessera.cli.session import in_flags
from tessera.errors import UsageError
from tessera.finetune.log import RunLog
from tessera.finetune.run import Run
from tessera.finetune.settings import Settings
from tests.finetune.small import prepare, read_samples


def run(folder: Path, out: Path | None = None, *, data: str = "data0.jsonl", **options: Any) -> None:
    replay = options.pop("replay", None)
    given = {"dry_run": False, "allow_urls": False, "dtype": "auto", "device": "cpu", "as_json": True, "quiet": True}
    settings = Settings(**{name: value for name, value in options.items() if name not in given})
    given |= {name: value for name, value in options.items() if name in given}
    command.run_finetune(folder / "data" / data, out, str(folder / "model"), None, settings, replay=replay, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("finetune"))


def test_the_dry_run_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, dry_run=True, epochs=2, step_samples=4)
    values = json.loads(capsys.readouterr().out)
    samples = read_samples(folder / "data" / "data0.jsonl")
    assert (values["rows"], values["samples"], values["with_images"], values["text_only"]) == (9, 9, 6, 3)
    assert values["tokens"] == sum(len(each.ids) for each in samples)
    assert values["trained_tokens"] == sum(sum(each.labels) for each in samples)
    assert values["longest"] == max(len(each.ids) for each in samples)
    assert values["steps"] == 6
    assert values["memory_bytes"] > 0
    assert values["hours"] > 0
    assert sorted(each.name for each in folder.iterdir()) == ["data", "model"], "it writes nothing"


def test_the_dry_run_marks_what_is_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, dry_run=True, as_json=False)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("<s>")]
    rows = [json.loads(line) for line in (folder / "data" / "data0.jsonl").read_text().splitlines()]
    assert len(shown) == 3
    for line, row in zip(shown, rows, strict=False):
        assert line.endswith(f"{row['question']}[/INST]⟦{row['answer']}</s>⟧")
        assert line.startswith(f"<s>[INST][image {row['image']}" if "image" in row else f"<s>[INST]{row['question']}")


def test_bad_rows_stop_it_or_are_left_out_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (folder / "data" / "data0.jsonl").read_text()
    (folder / "data" / "mixed.jsonl").write_text("{\n" + good)
    with pytest.raises(UsageError, match=r"1 of 10 rows .*--drop-bad"):
        run(folder, dry_run=True, data="mixed.jsonl")
    assert "mixed.jsonl, line 1: " in capsys.readouterr().err
    run(folder, dry_run=True, data="mixed.jsonl", drop_bad=True)
    values = json.loads(capsys.readouterr().out)
    assert (values["rows"], values["samples"], values["bad"]) == (10, 9, 1)


def test_a_run_ends_in_an_adapter(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path / "out", step_samples=4, rate=0.01)
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["steps"], outcome["out"]) == (3, str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 16, 32)


def test_replayed_samples_are_mixed_into_every_step(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = {"replay": folder / "data" / "data100.jsonl", "replay_share": 0.25, "step_samples": 4}
    run(folder, dry_run=True, **replay)
    values = json.loads(capsys.readouterr().out)
    assert (values["samples"], values["steps"], values["replayed"]) == (9, 3, 3)
    run(folder, tmp_path / "out", **replay)
    steps = [json.loads(line) for line in (tmp_path / "out" / "run" / "log.jsonl").read_text().splitlines()]
    assert [any("data100/" in name for name in step["sources"]) for step in steps if "loss" in step] == [True] * 3
    with pytest.raises(UsageError, match=r"another .*replay_share"):
        run(folder, tmp_path / "out", step_samples=4)
    assert command.share_of_replay(replay["replay"], None) == 0.1
    with pytest.raises(UsageError, match="without --replay"):
        command.share_of_replay(None, 0.2)


def test_a_folder_is_needed(folder: Path) -> None:
    with pytest.raises(UsageError, match="--out is missing"):
        run(folder)


def test_errors_name_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        run(folder, dry_run=True, max_tokens=60)
    said = capsys.readouterr().err
    assert "the limit is 60 (--max-tokens); raise it" in said
    assert "--too-long=drop" in said
    wrong = {
        "pass_tokens": (0, "--pass-tokens is 0"),
        "qlora": (3, "--qlora is 3"),
        "rate": (2.0, "--learning-rate is 2"),
    }
    for name, (value, flag) in wrong.items():
        given: dict[str, Any] = {name: value}
        with pytest.raises(UsageError) as refused:
            Settings(**given)
        assert in_flags(str(refused.value)).startswith(flag)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_says_what_is_kept_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    own, wanted = Run._keep, [1, 2]

    def interrupted(self: Run, log: RunLog) -> None:
        own(self, log)
        if self.step == wanted[0]:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "_keep", interrupted)
    options: dict[str, Any] = {"step_samples": 4, "rank": 2, "alpha": 4, "save_steps": 2, "quiet": False}
    told = (
        "nothing was kept of 3 steps yet; the same command begins anew",
        "the state after step 2 of 3 is kept; the same command goes on from there",
    )
    for words in told:
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out", **options)
        assert words in capsys.readouterr().err
        wanted.pop(0)
    monkeypatch.undo()
    run(folder, tmp_path / "out", **options)
    assert "resuming after step 2 of 3" in capsys.readouterr().err
