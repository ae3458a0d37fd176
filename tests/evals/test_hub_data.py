"""Data sets from the hub: without a connection the error names the set and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from tessera.errors import FetchError
from tessera.hub import download_data


def test_an_absent_data_set_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match=r"lmms-lab/ChartQA is not in the hub's cache.*name a folder"):
        download_data("lmms-lab/ChartQA", ["*test-*"])
