"""What commands print: replies, JSON and progress, to terminals, pipes and full disks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest

from tessera.cli.session import print_json, reading_line, write_reply


def test_the_line_about_reading() -> None:
    assert reading_line(1, 4169, 2501, 12.4) == "reading 1 image, 4,169 tokens, 59 %, 12 s"
    assert reading_line(0, 10, 10, 0) == "reading the question, 10 tokens, 100 %, 0 s"


@pytest.mark.parametrize("stream", ["/dev/full", "closed"])
def test_output_that_cannot_be_written_is_no_bug(stream: str) -> None:
    target = ">&-" if stream == "closed" else f"> {stream}"
    command = f"{sys.executable} -m tessera presets {target}"  # imports little
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Please report" not in done.stderr
    assert ("closed" if stream == "closed" else "no space is left") in done.stderr


@pytest.mark.parametrize(
    ("is_terminal", "shown"),
    [(True, "a\n\tb\\x1b[2J\\u202e"), (False, "a\n\tb\x1b[2J\u202e")],
    ids=["terminal", "pipe"],
)
def test_a_reply_drives_no_terminal_and_reaches_a_pipe_as_it_is(
    is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    write_reply("a\n\tb\x1b[2J\u202e")
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_that_the_output_cannot_encode_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    told = ["half \ud800 of one", "\u65e5\u672c"]
    print_json(told)
    assert json.loads(written.getvalue().decode(encoding)) == told


@pytest.mark.parametrize("is_terminal", [True, False])
def test_json_drives_no_terminal_and_is_the_same_value(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    driving = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x2028, 0x202E, 0x2066, 0xFEFF, 0xE0001)))
    told = {f"né 日本{driving}": ['\U0001f600 "quoted" \\', driving]}
    print_json(told)
    out = capsys.readouterr().out
    assert json.loads(out) == told
    assert out.removesuffix("\n").isprintable() is is_terminal
    assert "né 日本" in out
    if not is_terminal:
        assert out == json.dumps(told, ensure_ascii=False) + "\n"
