"""`ask`: a question from arguments, files and pipes, and its answer on the right stream."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tessera.cli import app as cli
from tests.cli.commands import Echo, run, seen


def test_ask_streams_the_answer_to_stdout(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "ask", "What?", "-i", "a.png", "--system", "Be brief", "--temperature", "0.5") == 0
    assert capsys.readouterr().out == "you said: What?\n"
    messages, params = echo.asked[0]
    assert messages[0] == {"role": "system", "content": "Be brief"}
    assert seen(messages[1]) == [3, "What?"]
    assert params.temperature == 0.5


def test_ask_json_is_one_object(echo: Echo, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, "ask", "Hi", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"text", "usage", "timings", "finish_reason", "model"}
    assert (answer["text"], answer["usage"]["prompt_tokens"]) == ("you said: Hi", 5)


def test_question_and_image_may_come_from_stdin(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "ask", "-", stdin=b"from a pipe\n") == 0
    assert run(monkeypatch, "ask", "Q", "-i", "-", stdin=Path("a.png").read_bytes()) == 0
    assert echo.asked[0][0][0]["content"] == ["from a pipe"]
    assert seen(echo.asked[1][0][0]) == [3, "Q"]
    for arguments in (["-", "-i", "-"], ["Q", "-i", "-", "-i", "-"]):
        assert run(monkeypatch, "ask", *arguments) == 2
        assert "only one can be standard input" in capsys.readouterr().err
    assert run(monkeypatch, "ask", "-", stdin=b"caf\xe9") == 2
    assert "not UTF-8 (byte 3)" in capsys.readouterr().err


def test_images_and_question_stand_in_any_order(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for arguments in (["Q", "-i", "a.png", "b.png"], ["-i", "a.png", "b.png", "Q"], ["Q", "a.png", "b.png"]):
        assert run(monkeypatch, "ask", *arguments) == 0
        assert seen(echo.asked[-1][0][0]) == [3, 4, "Q"]
    assert run(monkeypatch, "ask", "-i", "a.png", stdin=b" piped \n") == 0
    assert seen(echo.asked[-1][0][0]) == [3, "piped"]
    assert run(monkeypatch, "ask", "   ") == 2
    assert run(monkeypatch, "ask", "Q", "-i", "") == 1
    assert "the image's name is empty" in capsys.readouterr().err


def test_grammars_and_sampling_reach_the_model(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Path("s.json").write_text('{"type": "object"}')
    for arguments, kind, source in (
        (["--schema", "s.json"], "json_schema", '{"type": "object"}'),
        (["--schema", '{"type": "array"}'], "json_schema", '{"type": "array"}'),
        (["--choice", "yes", "--choice", "no"], "choice", '["yes", "no"]'),
        (["--regex", "[0-9]+"], "regex", "[0-9]+"),
    ):
        assert run(monkeypatch, "ask", "Q", *arguments, "--top-k", "5", "--min-p", "0.1") == 0
        params = echo.asked[-1][1]
        assert (params.grammar.kind, params.grammar.source, params.top_k, params.min_p) == (kind, source, 5, 0.1)
    Path("bad.json").write_text('{"type": }')
    capsys.readouterr()
    for arguments, says in (
        (["--schema", "none.json"], "--schema none.json cannot be read (No such file or directory)"),
        (["--schema", "bad.json"], "--schema bad.json is not valid JSON (line 1, column 10)"),
        (["--regex", "a", "--choice", "b"], "--choice and --regex both say"),
    ):
        assert run(monkeypatch, "ask", "Q", *arguments) == 2
        assert says in capsys.readouterr().err


def test_a_conversation_goes_on_where_it_ended(
    echo: Echo, images: Path, data_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "ask", "Q", "--continue") == 1
    assert "there is no conversation in" in capsys.readouterr().err
    assert run(monkeypatch, "ask", "first", "-i", "a.png", "--system", "Be brief") == 0
    assert run(monkeypatch, "ask", "aside", "--no-log") == 0
    assert run(monkeypatch, "ask", "second", "-c") == 0
    roles = [message["role"] for message in echo.asked[-1][0]]
    assert roles == ["system", "user", "assistant", "user"]
    url = {"url": str(Path("a.png").absolute())}
    assert echo.asked[-1][0][1]["content"] == [
        {"type": "image_url", "image_url": url},
        {"type": "text", "text": "first"},
    ]
    assert echo.asked[-1][0][2]["content"] == "you said: first"
    kept = data_home / "tessera" / "conversations.jsonl"
    assert [json.loads(line)["messages"][-2]["content"][-1]["text"] for line in kept.read_text().splitlines()] == [
        "first", "second",
    ]  # fmt: skip
    assert kept.stat().st_mode & 0o077 == 0
    assert run(monkeypatch, "ask", "Q", "--log", "/dev/null/x") == 1
    assert run(monkeypatch, "ask", "Q", "-c", "--no-log") == 2


def test_a_image_in_an_unread_pipe_is_noted(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for data, noted in ((Path("a.png").read_bytes(), True), (b"a list of names\n", False)):
        read_end, write_end = os.pipe()
        os.write(write_end, data)
        os.close(write_end)
        monkeypatch.setattr(sys, "argv", ["tessera", "ask", "Q"])
        with open(read_end, "rb") as pipe:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
            with pytest.raises(SystemExit):
                cli.main()
            assert os.read(read_end, len(data)) == data  # nothing was taken from whoever reads it next
        assert ("standard input holds an image" in capsys.readouterr().err) == noted


def test_a_question_bounds_its_images_and_rounds_the_vision_side(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    chart = str(Path(cli.__file__).parents[1] / "nano" / "demo" / "chart.png")
    asked = "ask", "What is the value of Rome?", "-i", chart, "--json", "-q", "--max-tokens", "1"
    tokens = {}
    for options in ((), ("--max-image-side", "256"), ("--vision-bits", "8")):
        assert run(monkeypatch, *asked, *options) == 0
        tokens[options] = json.loads(capsys.readouterr().out)["usage"]["image_tokens"]
    # Patches of 12: 420x310 pixels are 26 rows of 35 and a break; scaled to 256x189, 16 rows of 22 and a break.
    assert list(tokens.values()) == [26 * 36, 16 * 23, 26 * 36]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-image-side", "255"], "--max-image-side is 255; it must lie between 256 and 16,384"),
        (["--vision-bits", "9"], "--vision-bits"),
        (["--max-image-side", "512", "--endpoint", "http://x"], "--max-image-side and --endpoint exclude each other"),
        (["--vision-bits", "8", "--endpoint", "http://x"], "--vision-bits and --endpoint exclude each other"),
    ],
    ids=["side", "bits", "side there", "bits there"],
)
def test_what_is_no_side_or_precision_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, options: list[str], says: str
) -> None:
    assert run(monkeypatch, "ask", "Q", "-q", *options) == 2
    assert says in capsys.readouterr().err
