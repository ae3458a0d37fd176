"""What the parser makes of words, and what it says of those it cannot take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tessera.cli import app as cli
from tessera.cli.parser import names_image, spread


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["Q", "-i", "a.png", "b.jpg"], ["Q", "-i", "a.png", "-i", "b.jpg"]),
        (["-i", "a.png", "b.png", "Which is larger?"], ["-i", "a.png", "-i", "b.png", "Which is larger?"]),
        (["--image=a.png", "b.png", "-q"], ["--image=a.png", "-i", "b.png", "-q"]),
        (
            ["-i", "-", "https://x.org/a", "--system", "b.png"],
            ["-i", "-", "-i", "https://x.org/a", "--system", "b.png"],
        ),
        (["Q", "b.png"], ["Q", "b.png"]),
    ],
)
def test_images_may_follow_one_flag(given: list[str], meant: list[str]) -> None:
    assert list(spread(given)) == meant


def test_a_image_is_a_file_a_url_or_a_name_that_ends_like_one(tmp_path: Path) -> None:
    (tmp_path / "scan").write_bytes(b"x")
    assert all(map(names_image, (str(tmp_path / "scan"), "A.JPEG", "https://x.org/p?q=1", "data:image/png;base64,A")))
    assert not any(map(names_image, ("What is in a.png", "https://x.org shows what?", "Q", "x" * 5000, "a\0b", "")))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask", "Q", "--temperature", "hot"], "--temperature is 'hot'; it must be a number."),
        (["ask", "Q", "--max-tokens=1.5"], "--max-tokens is '1.5'; it must be a whole number."),
        (["convert", "a", "b", "--to", "ollama"], "--to is 'ollama'; it must be one of mistral, hf, gguf."),
        (["nano", "draw", "x", "--count", "0"], "--count is '0'; it must be a whole number of at least 1."),
        (["ask", "Q", "--min-p", "2"], "--min-p is 2.0; it must lie between 0.0 and 1.0."),
        (["ask", "Q", "--jsn"], "No such option --jsn; did you mean --json?"),
        (["ask", "Q", "--json=1"], "--json is a flag and takes no value; write --json alone."),
        (["info", "a", "b.png"], "'b.png' is one argument too many for `tessera info`; images go after -i"),
        (["convert", "a"], "Missing argument FOLDER; it is the folder to write"),
        (["run", "pixtral"], "No such command 'run'; `tessera ask QUESTION -i IMAGE` answers once"),
        (["serve", "--prt", "3"], "No such option --prt; did you mean --port?"),
        (["ask", "Q", "--top-p", "2"], "--top-p is 2.0; it must lie between"),
        (["ask", "--", "one", "two"], "2 words are neither images nor one question ('one' and 'two')"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_value(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["tessera", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"tessera: error: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["ask", "chat", "tokens", "quantize", "bench"])
def test_help_shows_whole_flags_and_plain_values_at_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["tessera", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert "--help" in out
    assert not any(sign in out for sign in ("…", "<bool>", "<str>", "list[", "<int>", "<path>"))
