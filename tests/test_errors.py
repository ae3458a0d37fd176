"""What an error says stays short, whatever a file or a client made it quote."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tessera import errors
from tessera.errors import MAX_WORDS, TesseraError, counted, printable
from tessera.load import BUNDLED_FOLDER
from tests.cli.commands import run

SCRIPTS = "\u3000\u202f\xa0 \u0646\u200c\u0645 \U0001f469\u200d\U0001f33e"  # wide and narrow spaces, Persian, emoji
KINDS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TesseraError)]


def test_one_of_a_thing_is_not_told_as_several() -> None:
    told = [counted(number, "page") for number in (0, 1, 2, 2000)]
    assert told == ["0 pages", "1 page", "2 pages", "2,000 pages"]
    assert [counted(number, "reply is", "replies are") for number in (1, 2)] == ["1 reply is", "2 replies are"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_long_text_keeps_its_beginning_and_its_way_out(kind: type[TesseraError]) -> None:
    assert str(kind("short; do this.")) == "short; do this."
    text = str(kind(f"the file says {'x' * 100_000}; download it again."))
    assert len(text) <= MAX_WORDS
    assert text.startswith("the file says xxx")
    assert text.endswith("download it again.")


@pytest.mark.parametrize(
    "change",
    [{"dtype": "F" * 5000}, {"shape": [1] * 3000}, {"shape": ["9" * 5000]}, {"data_offsets": [0, int("9" * 3000)]},
     {"dtype": ["x" * 5000]}],
    ids=["dtype", "many dimensions", "a text as shape", "offsets", "a list as dtype"],
)  # fmt: skip
def test_info_quotes_little_of_a_hostile_header(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("params.json", "tekken.json"):
        (tmp_path / name).write_bytes((BUNDLED_FOLDER / name).read_bytes())
    data = (BUNDLED_FOLDER / "consolidated.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    header[first] |= change
    written = json.dumps(header).encode()
    (tmp_path / "consolidated.safetensors").write_bytes(struct.pack("<Q", len(written)) + written + data[8 + size :])
    assert run(monkeypatch, "info", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert 0 < len(said) < MAX_WORDS + 200
    assert "Please report" not in said  # as what nobody foresaw does


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\t", r"a\nb\r\t"),
        ("\x1b]0;x\x07\x9b2J\x7f", r"\x1b]0;x\x07\x9b2J\x7f"),
        ("\u202egpj.exe\u2066\u200f", r"\u202egpj.exe\u2066\u200f"),
        ("\u2028\ufeff\udcff", r"\u2028\ufeff\udcff"),
        ("C:\\new caf\u00e9", "C:\\new caf\u00e9"),
        (SCRIPTS, SCRIPTS),
    ],
    ids=["lines", "commands", "direction", "other", "plain", "scripts"],
)  # fmt: skip
def test_what_drives_a_terminal_is_escaped_and_what_is_written_stays(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text, keep=text) == text
