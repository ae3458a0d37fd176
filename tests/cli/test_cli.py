"""The command line as a person meets it: one-line errors, exit codes, and commands that need no model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera.cli import app as cli
from tessera.cli.session import Session
from tests.cli.commands import Echo, run


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


def test_doctor_names_what_fits(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, number in (("MATRIX", 128), ("READ_NUMBERS", 2**20)):  # the words are the same, however long it measures
        monkeypatch.setattr(f"tessera.bench.limits.{name}", number)
    for name, shape in (("PRODUCT", (16, 64, 256)), ("SAMPLE", (16, 256))):
        monkeypatch.setattr(f"tessera.fit.{name}", shape)
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
