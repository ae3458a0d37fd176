"""A format is one row of a table: what is opened, loaded or downloaded asks the table, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessera.errors import CheckpointError
from tessera.weights import detect, hf_names
from tessera.weights.checkpoint import Checkpoint, open_checkpoint
from tessera.weights.detect import FORMATS, Format
from tests.weights.checkpoints import LLAVA, write_mistral_folder


def test_another_format_is_one_more_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the adapters' will be: a folder that names the model it belongs to."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write_mistral_folder(base)
    adapter.mkdir()

    def opened(folder: Path) -> Checkpoint:
        return replace(open_checkpoint(Path((folder / "adapter.json").read_text())), files=(folder,))

    monkeypatch.setitem(sys.modules, "adapters", SimpleNamespace(open=opened))
    monkeypatch.setitem(FORMATS, "adapter", Format("adapters", ("adapter.json", "adapter*.safetensors"), "adapter"))
    (adapter / "adapter.json").write_text(str(base))
    with pytest.raises(CheckpointError, match=r"half a model: adapter\.json is there, adapter is missing"):
        open_checkpoint(adapter)
    (adapter / "adapter.safetensors").touch()
    checkpoint = open_checkpoint(adapter)
    assert detect.detect(adapter) == "adapter"
    assert (checkpoint.path, checkpoint.folder, checkpoint.config) == (adapter, base, LLAVA)


def test_a_checkpoint_without_a_tokenizer_is_described_all_the_same(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "model")
    (tmp_path / "model" / "tekken.json").unlink()
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.own_tokenizer is None
    assert {hf_names.to_hf_name(name) for name in checkpoint.sources}
    with pytest.raises(CheckpointError, match=r"has no tekken\.json"):
        checkpoint.load_tokenizer()
