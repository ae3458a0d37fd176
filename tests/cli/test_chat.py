"""`chat`: what is typed, the images that stay in context, and interrupts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera.chat import Delta
from tessera.cli import app as cli
from tessera.cli.chat import completions
from tessera.errors import PromptTooLongError
from tests.cli.commands import Echo, run, seen


def talk(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tessera", "chat", "-q", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit):
        cli.main()


def test_chat_keeps_the_image_in_context(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    typed = "first\n/image missing.png\n/image b.png\nsecond\n/reset\nthird\n/quit\n"
    monkeypatch.setattr(sys, "argv", ["tessera", "chat", "-i", "a.png"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit):
        cli.main()
    captured = capsys.readouterr()
    assert captured.out == "you said: first\nyou said: second\nyou said: third\n"
    assert "missing.png does not exist" in captured.err
    turns = [messages for messages, _ in echo.asked]
    assert [seen(message) for message in turns[0]] == [[3, "first"]]
    assert seen(turns[1][2]) == [4, "second"]
    assert turns[1][1] == {"role": "assistant", "content": "you said: first"}
    assert [seen(message) for message in turns[2]] == [[3, "third"]]


def test_interrupt_at_the_prompt_drops_the_line_and_the_second_one_ends(
    echo: Echo, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    typed = iter((KeyboardInterrupt, "hello", KeyboardInterrupt, KeyboardInterrupt))

    def type_next() -> str:
        event = next(typed)
        if isinstance(event, str):
            return event
        raise event

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "argv", ["tessera", "chat"])
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", type_next)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    captured = capsys.readouterr()
    assert captured.out == "you said: hello\n"
    assert captured.err.count("press Ctrl-C again to quit") == 2


def test_chat_commands_answer_even_when_quiet(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Path("a.png").rename("my chart.png")
    typed = (
        "/image 'my chart.png'\n/image my\\ chart.png\n/image my chart.png b.png\n/image my chart.png\n/image b.png\n"
    )
    talk(
        monkeypatch,
        typed + "/drop 1\n/drop\n/drop 7\n/foo\n/system Be kind\nQ\n/save t.json\n/save t.json\n/help\nexit\n",
    )
    said = capsys.readouterr().err
    for sentence in (
        "my chart.png; 1 image waiting", "my chart.png; 2 images waiting", "my chart.png; 3 images waiting",
        "b.png; 4 images waiting", "my chart.png taken back; 3 images waiting", "b.png taken back; 2 images",
        "/drop 7 names no waiting image", "unknown command /foo", "1 exchange saved in t.json",
        "t.json exists and is not overwritten", "/clear   starts over, without images",
    ):  # fmt: skip
        assert sentence in said
    assert len(echo.asked) == 1
    assert echo.asked[0][0][0] == {"role": "system", "content": "Be kind"}
    assert seen(echo.asked[0][0][1]) == [3, 3, "Q"]
    saved = json.loads(Path("t.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]


def test_reset_keeps_the_first_images_and_clear_does_not(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    talk(monkeypatch, "1\n/reset\n2\n/clear\n3\n/exit\nnever\n", "-i", "a.png", "--top-p", "0.5", "--seed", "4")
    assert [seen(messages[0]) for messages, _ in echo.asked] == [[3, "1"], [3, "2"], ["3"]]
    assert (echo.asked[0][1].top_p, echo.asked[0][1].seed) == (0.5, 4)


def test_a_full_context_says_what_to_do_and_drops_nothing(
    echo: Echo, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    answer = echo.stream

    def full(messages: Any, params: Any = None, *, tools: Any = ()) -> Iterator[Delta]:
        if len(seen(messages[-1])) > 2:
            raise PromptTooLongError("too long; shorten the text, use fewer or smaller images, or raise max_model_len.")
        return answer(messages, params)

    monkeypatch.setattr(echo, "stream", full)
    talk(monkeypatch, "/image b.png\nQ\n/drop\nQ\n/quit\n", "-i", "a.png")
    said = capsys.readouterr().err
    assert "too long; shorten the text, or use fewer or smaller images." in said
    assert "/drop removes a waiting image, /reset starts over" in said
    assert [seen(messages[-1]) for messages, _ in echo.asked] == [[3, "Q"]]


def test_tab_completes_commands_and_paths(images: Path) -> None:
    (images / "my folder").mkdir()
    (images / "my folder" / "x y.png").touch()
    assert completions("/re", "/re") == ["/reset "]
    assert completions("/image a", "a") == ["a.png "]
    assert completions("/image my", "my") == ["my\\ folder/"]
    assert completions("what is a", "a") == []


@pytest.mark.parametrize("sign", [chr(0xD83D), chr(0xDC80), "\u2028", "\x85", "\u00e9"], ids=ascii)
def test_what_no_file_could_hold_is_kept_all_the_same(
    sign: str, echo: Echo, images: Path, data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = f"half {sign} a sign"
    assert run(monkeypatch, "ask", asked) == 0
    assert run(monkeypatch, "ask", "on", "-c") == 0
    assert [message["content"] for message in echo.asked[-1][0]][1] == f"you said: {asked}"
    talk(monkeypatch, f"{asked}\n/save t.json\n/exit\n")
    saved = json.loads(Path("t.json").read_bytes().decode())
    assert saved["messages"][0]["content"][-1]["text"] == asked
