"""`tessera eval` from the command line: a run, its report, and the words for what is missing."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest

from tessera.chat import ChatModel
from tessera.cli import app as command_line
from tessera.cli.session import Session
from tests.evals.stub import Stub


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: Session, concurrency: int | None = None) -> ChatModel:
        return Stub(lambda conversation, params: "2")

    monkeypatch.setattr(Session, "open", opened)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tessera", "eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "my.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "answer": n}) + "\n" for n in range(4)))
    return file


def test_a_run_prints_its_score_and_the_report_follows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, questions, "-m", "nano", "--out", tmp_path / "run", "--scorer", "number") == 0
    assert "score  25.0  (95 % interval" in capsys.readouterr().out
    assert run(monkeypatch, "report", tmp_path / "run") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count("<figure") == 3
    assert run(monkeypatch, "compare", tmp_path / "run", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0


def test_it_says_why_a_question_failed_and_keeps_quiet_of_other_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions.write_text(f'{questions.read_text()}{{"answer": 4}}\n')
    assert run(monkeypatch, questions, "-m", "nano", "--out", tmp_path / "run", "--scorer", "number") == 0
    told = capsys.readouterr().err
    assert "1 of 5 questions got no reply or no score and counted as wrong; --retry-failed asks them again" in told
    assert "The first, row 5: " in told
    assert "my.jsonl, line 5" in told
    questions.write_text('{"question": "other", "answer": 4}\n')
    assert run(monkeypatch, questions, "-m", "nano", "--out", tmp_path / "run", "--scorer", "number") == 2
    assert "goes on from there" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "words"), [(1000, "journal could not be written: no space"), (70_000, "could not be written whole")]
)
def test_a_report_without_room_says_so_and_leaves_the_one_before(
    limit: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    questions: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, questions, "-m", "nano", "--out", tmp_path / "run", "--scorer", "number") == 0
    (tmp_path / "run" / "report.html").write_text("the one before")
    monkeypatch.setattr("tessera.evals.report.STYLE", "x" * 100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        assert run(monkeypatch, "report", tmp_path / "run") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert words in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").read_text() == "the one before"
    assert not list(tmp_path.glob("run/report.html?*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chartqa"], "Missing --data"),
        (["nothing", "--data", "."], "the task 'nothing' is unknown; use one of mmmu"),
        (["chartqa", "--data", ".", "--scorer", "json"], "--scorer is for a file of your own"),
        (["humaneval", "--data", "."], "give --run-code sandbox"),
        (["mmmu", "--data", ".", "--run-code", "unsafe"], "--run-code is for humaneval"),
        (["mm-mt-bench", "--data", "."], "give --judge-endpoint"),
        (["mmmu", "--data", ".", "--judge-endpoint", "http://x"], "leave --judge-endpoint out"),
        (["gone.jsonl"], "gone.jsonl does not exist"),
    ],
)
def test_what_is_missing_or_in_vain_is_said(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert run(monkeypatch, *arguments, "-m", "nano", "--out", tmp_path / "run") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", tmp_path) == 2
    assert "is no run of `tessera eval`" in capsys.readouterr().err
