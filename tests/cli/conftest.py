"""What the tests of commands share: a model that is not loaded, and images in the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PILImage

from tessera.cli.session import Session
from tests.cli.commands import Echo


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
