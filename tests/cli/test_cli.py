"""The command line as a person meets it: output on the right stream, one-line errors, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera.chat import Completion, Delta, Timings, Usage
from tessera.cli import app as cli
from tessera.cli.chat import completions
from tessera.cli.session import Session, print_json, reading_line, write_reply
from tessera.errors import PromptTooLongError
from tessera.messages import Image
from tessera.sampling import SamplingParams


class Echo:
    """A model that answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def stream(self, messages: Any, params: SamplingParams | None = None, *, tools: Any = ()) -> Iterator[Delta]:
        self.asked.append((messages, params))
        yield Delta("you said: ")
        text = messages[-1]["content"][-1]
        yield Delta(text, finish_reason="stop", usage=Usage(5, 2), timings=Timings())

    def chat(self, messages: Any, params: SamplingParams | None = None, *, tools: Any = ()) -> Completion:
        return Completion.from_deltas(list(self.stream(messages, params)), "echo")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    model = Echo()
    monkeypatch.setattr(Session, "open", lambda session: model)
    return model


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.png and b.png, told apart by their width, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, width in (("a.png", 3), ("b.png", 4)):
        PILImage.new("RGB", (width, 2), "white").save(name)
    return tmp_path


def seen(message: dict[str, Any]) -> list[Any]:
    """A turn's content, each image as its width."""
    return [part.source.width if isinstance(part, Image) else part for part in message["content"]]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr(sys, "argv", ["tessera", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return 0 if code is None else int(code)


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


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "Q", "--temperature", "99"], 2, "--temperature is 99.0; it must lie between 0.0 and 10.0"),
        (["ask", "Q", "--max-tokens", "0"], 2, "--max-tokens is 0"),
        (["ask"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["ask", "Q", "--nonsense"], 2, "No such option"),
        (["info", "no/such/model"], 1, "neither"),
        (["tokens", "missing.png"], 1, "missing.png"),
        (["tokens", "a.png", "--plot", "a.zzz"], 2, "'.zzz', which is not an image format"),
        (["tokens", "a.png", "--mmproj", "a.gguf"], 2, "vision part of a model, and none is named"),
        (["bench", "--mmproj", "a.gguf"], 2, "vision part of a model, and none is named"),
        (["bench", "-m", "nano", "--layers", "2", "--vision-layers", "4"], 2, "--layers, --vision-layers and --model"),
        (["bench", "--bits", "4", "make-random", "/dev/null/x"], 2, "--bits before make-random has no effect"),
        (["bench", "--plot", "a.zzz"], 2, "'.zzz', which is not an image format"),
        (["bench", "--json", "/dev/null/x/a.json"], 2, "a folder that does not exist"),
        (["chat", "-i", "-"], 2, "where the questions come from"),
        (["nano", "draw", "/dev/null/x"], 1, "/dev/null is a file, and a folder is wanted"),
        (["nano", "train", "--out", "/proc/no/x"], 1, "No such file or directory; check the path"),
        (["nano", "report", "--out", "."], 2, "--out . is a folder; name a file in it"),
        (["tokens", "a.png", "--plot", "/"], 2, "--plot / is a folder; name a file in it, such as /NAME."),
        (["tokens", "a.png", "--plot", "/dev/null/a.png"], 2, "a folder that does not exist"),
        (["tokens", "."], 1, ". is a folder, not a regular file; name an image in it."),
        (["bench", "--json", "."], 2, "--json . is a folder"),
        (["ask", "Q", "-i", "."], 1, ". is a folder, not a regular file; name an image in it."),
        (["ask", "Q", "/dev"], 2, "/dev is a folder; name images in it, such as /dev/*.png."),
        (["ask", "Q", "--schema", "."], 2, "--schema . is a folder; name a file in it with a JSON schema."),
        (["ask", "Q", "--log", "."], 2, "--log . is a folder"),
        (["convert", "nano", "/dev/null/x", "--to", "hf"], 1, "/dev/null is a file, and a folder is wanted"),
        (["quantize", "nano", "/dev/null/x"], 1, "/dev/null is a file, and a folder is wanted"),
        (["quantize", "nano", "/dev/null"], 2, "/dev/null exists and is not an empty folder"),
        (["config", "show", "--config", "."], 2, "the settings file . is a folder; name the file in it."),
        (["config", "show", "--config", "no.yaml"], 2, "the settings file no.yaml does not exist"),
        (["serve", "--port", "0", "--api-key-file", "."], 2, "the key file . is a folder; name the file in it."),
        (
            ["serve", "--port", "0", "--allowed-local-media-path", "/dev/null"],
            2,
            "/dev/null is a file; name the folder",
        ),
        (
            ["serve", "--port", "0", "--allowed-local-media-path", "/no"],
            2,
            "allowed_local_media_path /no does not exist",
        ),
    ],
)
def test_mistakes_end_in_one_sentence_and_the_right_code(
    arguments: list[str], code: int, says: str, echo: Echo, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, *arguments) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_wrong_image_is_reported_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def opened(session: Session) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Session, "open", opened)
    for arguments in (["ask", "Q", "-i", "missing.png"], ["chat", "-i", "missing.png"]):
        assert run(monkeypatch, *arguments) == 1
        assert "missing.png does not exist" in capsys.readouterr().err


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


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(session: Session) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "open", interrupted)
    assert run(monkeypatch, "ask", "Q") == 130


def test_tokens_counts_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    image = tmp_path / "page.png"
    PILImage.new("RGB", (1920, 1080), "white").save(image)
    plot = tmp_path / "grid.png"
    assert run(monkeypatch, "tokens", str(image), "--plot", str(plot)) == 0
    assert "1920 x 1080, 36 rows of 64, 2,340 tokens" in capsys.readouterr().out
    assert PILImage.open(plot).size == (1024, 576 + 22)


def test_a_gguf_pair_is_made_described_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    nano = Path(cli.__file__).parents[1] / "nano"
    made = tmp_path / "made"
    assert run(monkeypatch, "convert", str(nano / "weights"), str(made), "--to", "gguf", "--type", "q8_0") == 0
    (made / "mmproj-made.gguf").rename(tmp_path / "eyes.gguf")
    text, eyes = str(made / "made.Q8_0.gguf"), str(tmp_path / "eyes.gguf")
    assert run(monkeypatch, "info", text, "--json") == 1
    assert "give the file of its vision part with --mmproj" in capsys.readouterr().err
    assert run(monkeypatch, "info", text, "--mmproj", eyes, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["name"], summary["layout"], summary["quantized"]) == ("made.Q8_0", "gguf", {"int8": 36})
    chart = str(nano / "demo" / "chart.png")
    assert run(monkeypatch, "tokens", chart, "-m", text) == 1
    assert run(monkeypatch, "tokens", chart, "-m", text, "--mmproj", eyes, "--json") == 0
    of_gguf = capsys.readouterr().out
    assert run(monkeypatch, "tokens", chart, "-m", "nano", "--json") == 0
    assert capsys.readouterr().out == of_gguf
    assert run(monkeypatch, "ask", "What is the value of Rome?", "-i", chart, "-m", text, "--mmproj", eyes, "-q") == 0
    assert capsys.readouterr().out == "81\n"


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


def test_doctor_names_what_fits(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, "doctor") == 0
    out = capsys.readouterr().out
    assert "Pixtral 12B  " in out
    assert "GB/s" in out
    assert max(map(len, out.splitlines())) < 80


def test_help_is_light() -> None:
    script = (
        "import sys\nsys.argv = ['tessera', '--help']\nfrom tessera.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'mistral_common', 'PIL', 'httpx2'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert "HEAVY []" in done.stdout


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


def talk(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tessera", "chat", "-q", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit):
        cli.main()


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


def test_the_line_about_reading() -> None:
    assert reading_line(1, 4169, 2501, 12.4) == "reading 1 image, 4,169 tokens, 59 %, 12 s"
    assert reading_line(0, 10, 10, 0) == "reading the question, 10 tokens, 100 %, 0 s"


@pytest.mark.parametrize("stream", ["/dev/full", "closed"])
def test_output_that_cannot_be_written_is_no_bug(stream: str) -> None:
    target = ">&-" if stream == "closed" else f"> {stream}"
    command = (
        f"{sys.executable} -m tessera tokens {Path(cli.__file__).parents[1] / 'nano' / 'demo' / 'chart.png'} {target}"
    )
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
