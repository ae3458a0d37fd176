"""Models by name: what is listed, deleted, and reached by short names; and a server asked how it is."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tessera.cli import app as cli
from tessera.cli.completion import model_names
from tessera.errors import ModelNotFoundError
from tessera.load import BUNDLED_FOLDER, find_model
from tessera.shelf import quantized_name


@pytest.fixture
def homes(data_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty places for models; returns that of quantized ones."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return data_home / "tessera" / "models"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tessera", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_nano_is_listed_with_its_size(homes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, "list", "--json") == 0
    (only,) = json.loads(capsys.readouterr().out)
    size = sum(file.stat().st_size for file in BUNDLED_FOLDER.glob("*.safetensors"))
    assert (only["name"], only["path"], only["problem"]) == ("nano", str(BUNDLED_FOLDER), "")
    assert 0.99 * size < only["stored_bytes"] <= size


def test_a_quantized_model_has_a_short_name_until_it_is_deleted(
    homes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "quantize", "nano", "--bits", "8", "-q") == 0
    assert capsys.readouterr().out.strip() == str(homes / "nano-8bit")
    assert find_model("nano-8bit") == homes / "nano-8bit"
    assert "nano-8bit" in model_names("nano")
    assert run(monkeypatch, "list") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("nano-8bit"))
    assert row.split()[1] == "8"
    assert run(monkeypatch, "rm", "nano-8bit") == 2  # nobody there to be asked
    assert run(monkeypatch, "rm", "nano-8bit", "--yes") == 0
    assert not (homes / "nano-8bit").exists()
    with pytest.raises(ModelNotFoundError, match="'nano-8bit' is neither"):
        find_model("nano-8bit")


def test_only_what_was_put_there_is_deleted(homes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    homes.mkdir(parents=True)
    for name, code in (("nano", 2), (str(mine), 2), ("..", 2), ("nosuch", 1), ("../models", 1)):
        assert run(monkeypatch, "rm", name, "--yes") == code
    assert mine.is_dir()
    assert homes.is_dir()


def test_short_names_say_how_to_get_them(homes: Path) -> None:
    assert quantized_name("mistralai/Pixtral-12B-2409", "4") == quantized_name("pixtral", "4") == "pixtral-4bit"
    assert quantized_name("/models/mine", "fp8") == "mine-fp8"
    with pytest.raises(ModelNotFoundError, match="`tessera download mistralai/Pixtral-12B-2409`"):
        find_model("pixtral")
    with pytest.raises(ModelNotFoundError, match="`tessera quantize pixtral --bits 8`"):
        find_model("pixtral-8bit")
    with pytest.raises(ModelNotFoundError, match="`tessera download mistralai/Ministral-3-3B-Instruct-2512`"):
        find_model("ministral-3b")
    with pytest.raises(ModelNotFoundError, match=r"`tessera quantize small-3\.2 --bits fp8`"):
        find_model("small-3.2-fp8")
    with pytest.raises(ModelNotFoundError, match="'ministral-8b-fp8' is neither"):  # its files are FP8 already
        find_model("ministral-8b-fp8")
    with pytest.raises(ModelNotFoundError, match=r"the file no/such\.gguf does not exist"):
        find_model("no/such.gguf")
    with pytest.raises(ModelNotFoundError, match=r"the file such\.gguf does not exist"):
        find_model("such.gguf")


def test_a_folder_with_one_gguf_model_is_that_model(tmp_path: Path) -> None:
    for name in ("a.Q8_0.gguf", "mmproj-a.gguf"):
        (tmp_path / name).touch()
    assert find_model(str(tmp_path)) == tmp_path / "a.Q8_0.gguf"
    shutil.copy(tmp_path / "a.Q8_0.gguf", tmp_path / "a.Q4_0.gguf")
    assert find_model(str(tmp_path)) == tmp_path


def test_a_running_server_is_described(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    url = httpserver.url_for("").rstrip("/")
    httpserver.expect_request("/health").respond_with_data("")
    key = {"Authorization": "Bearer k"}
    httpserver.expect_request("/v1/models", headers=key).respond_with_json({"data": [{"id": "nano"}]})
    httpserver.expect_request("/v1/models").respond_with_data("", status=401)
    text = 'tessera:num_requests_running{model_name="nano"} 2.0\ntessera:num_requests_waiting{model_name="nano"} 1.0\n'
    text += 'tessera:kv_cache_usage_perc{model_name="nano"} 0.25\n'
    httpserver.expect_request("/metrics").respond_with_data(text)
    assert run(monkeypatch, "ps", "--url", url, "--api-key", "k") == 0
    out = capsys.readouterr().out
    assert f"{url}, healthy" in out
    assert "2 running, 1 waiting" in out
    assert "25 % in use" in out
    assert run(monkeypatch, "ps", "--url", url) == 1
    assert "requires an API key" in capsys.readouterr().err
    assert run(monkeypatch, "ps", "--url", "http://127.0.0.1:9") == 1
    assert "no server answers at http://127.0.0.1:9; start one with `tessera serve`" in capsys.readouterr().err
