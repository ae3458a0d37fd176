"""`tessera bench` from the command line, on nano's widths: sides are real processes, limits are given."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera.bench import run_python, suite
from tessera.bench.limits import Limits
from tessera.bench.random_weights import widths, with_layers, write_random
from tests.cli.commands import run

NANO, TOKENIZER = widths("nano")
SMALL = ("bench", "--widths", "nano", "--layers", "1", "--vision-layers", "1", "--rounds", "1", "--threads", "1", "-q")


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "measure_limits", lambda: Limits(1e10, 1e12))


def test_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *SMALL, "--json", "b.json", "--plot", "b.png", "--folder", "kept") == 0
    out = capsys.readouterr().out
    assert "vision side" not in out
    assert "reads 10.0 GB/s, bfloat16 1.00 TFLOP/s" in out
    assert "| what | Tessera | of the limit |\n" in out
    assert "GiB of memory in all" in out
    (contest,) = json.loads(Path("b.json").read_text())["contests"]
    names = [result["row"]["name"] for result in contest["results"]]
    assert names == [
        "image encode, 1032x1032",
        "prefill of 512 tokens",
        "decode of one sequence",
        "decode of 8 sequences at once",
        "decode of repeated text, by look-up",
    ]
    assert all(result["seconds"]["Tessera"][0] > 0 for result in contest["results"])
    assert PILImage.open("b.png").width > 1000
    assert [folder.name for folder in Path("kept").iterdir()] == ["nano-1-1-tessera-4"]


def test_the_vision_side_in_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random(tmp_path / "random", with_layers(NANO, 1, 1), TOKENIZER, "mistral", 16)
    rounded: list[str] = []
    monkeypatch.setattr(run_python, "round_vision", lambda model, bits: rounded.append(bits))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for more in ((), ("--vision-bits", "8")):
        monkeypatch.setattr("sys.argv", ["bench", "tessera", str(tmp_path / "random"), "--threads", "1", *more])
        run_python.main()
    assert rounded == ["8"]


def test_other_vision_bits_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, *SMALL, "--vision-bits", "4") == 2
    assert "--vision-bits is '4'; use 16 or 8" in capsys.readouterr().err


@pytest.mark.slow
def test_beside_transformers(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, *SMALL, "--peer", "transformers") == 0
    assert capsys.readouterr().out.count("x (") == 6  # ratios


def test_an_absent_peer_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *SMALL, "--peer", "llama.cpp") == 1
    assert "build it there with `python -m tessera.bench.llama_cpp`" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(monkeypatch, *SMALL, "--peer", "transformers") == 1
    assert "pip install 'tessera[dev]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_peer_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Also of the second peer, before the first is measured."""
    monkeypatch.setattr(suite, "_check_installed", lambda peer: None)
    monkeypatch.setattr(suite, "_contest", lambda *arguments: pytest.fail("measured"))
    assert run(monkeypatch, "bench", "-m", "nano", "--peer", "transformers", "--peer", "llama.cpp") == 2
    assert "llama.cpp reads nothing else" in capsys.readouterr().err
    write_random(tmp_path / "packed", with_layers(NANO, 1, 1), TOKENIZER, "tessera", 4)
    assert run(monkeypatch, "bench", "-m", str(tmp_path / "packed"), "--peer", "transformers") == 2
    assert "packed is not a folder of unquantized weights" in capsys.readouterr().err


def test_make_random_writes_what_info_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder = str(tmp_path / "random")
    wanted = ("--widths", "nano", "--layers", "1", "--format", "tessera", "--bits", "4")
    assert run(monkeypatch, "bench", "make-random", folder, *wanted) == 0
    assert run(monkeypatch, "info", folder, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["quantized"] == {"int4": 7, "int8": 1}
    assert run(monkeypatch, "bench", "make-random", folder, *wanted) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
