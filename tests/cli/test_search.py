"""`tessera index`, `search` and `ask --index` as commands: output, exit codes, and the index that is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run
from tests.search.archive import ACME, BAKERY, pdf, put


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    put(folder, acme=pdf(ACME), bakery=pdf(BAKERY))
    assert run(monkeypatch, "index", str(folder), "--quiet") == 0
    return folder


def test_search_prints_pages_with_what_is_hit(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(monkeypatch, "search", "croissants", "zurich", "--index", str(archive), "--explain") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["1", "bakery.pdf", "p.", "1"]
    assert "[Zürich]" in out[1]
    assert "[croissants]" in out[1]
    assert "text 1" in out[2]


def test_search_as_json_and_with_nothing_found(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(monkeypatch, "search", "drill", "--index", str(archive), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(hit["file"], hit["number"]) for hit in told["data"]] == [("acme.pdf", 1)]
    assert run(monkeypatch, "search", "zzzz", "--index", str(archive)) == 1
    assert "no page matches" in capsys.readouterr().err


def test_no_name_reaches_the_terminal_as_a_command(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(archive, **{"a\x1b[2J\nb": pdf(("a wombat",))})
    put(archive, **{"c\x1b[2J": b"%PDF-1.4 nothing"})
    assert run(monkeypatch, "index", str(archive)) == 1
    assert run(monkeypatch, "search", "wombat OR code:*", "--index", str(archive)) == 2
    assert run(monkeypatch, "search", "wombat", "--index", str(archive)) == 0
    assert run(monkeypatch, "search", "code:*", "--index", str(archive)) == 0
    told = capsys.readouterr()
    assert "a\\x1b[2J\\nb.pdf p. 1" in told.out
    assert "\x1b" not in told.out + told.err


def test_without_index_the_nearest_or_the_last_made_is_searched(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "inner").mkdir()
    monkeypatch.chdir(archive / "inner")
    assert run(monkeypatch, "search", "drill") == 0
    assert "the last index" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "search", "drill") == 0
    assert f"searching {archive / '.tessera-index.db'}, the last index that was made" in capsys.readouterr().err


def test_mistakes_are_usage_errors(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "search", 'one "two', "--index", str(archive)) == 2
    assert run(monkeypatch, "search", "x", "--index", str(tmp_path)) == 2
    assert run(monkeypatch, "index", str(tmp_path / "none")) == 2
    assert run(monkeypatch, "ask", "--index", str(archive), "What?", "--regex", "x") == 2
    assert run(monkeypatch, "search", "x", "--index", str(archive), "--vectors") == 2
    err = capsys.readouterr().err
    for words in (
        "is not closed",
        "has no index; make one",
        "is no folder",
        "--index and --regex exclude",
        "no vectors",
    ):
        assert words in err


def test_index_reports_what_cannot_be_read(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    capsys.readouterr()
    assert run(monkeypatch, "index", str(archive), "--json") == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["event"], told["added"], told["unchanged"], told["failed"]) == ("indexed", 1, 2, 1)
    assert [error["code"] for error in told["errors"]] == ["damaged"]
    assert run(monkeypatch, "index", str(archive), "--quiet") == 0
    assert run(monkeypatch, "index", str(archive), "--quiet", "--retry-failed") == 1


def test_ask_answers_from_the_archive_with_a_citation(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ("ask", "--index", str(archive), "How much are the croissants?", "--max-tokens", "60", "--json")
    assert run(monkeypatch, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pages"][0]["label"] == "bakery.pdf p. 1"
    assert told["dropped"] == []
    assert told["finish_reason"] in ("stop", "length")
