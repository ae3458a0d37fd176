"""`tessera.migration.compare`: models that are open, what is written, and going on from journals."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tessera.errors import UsageError
from tessera.migration import compare
from tests.documents.fakes import Scripted, draw

SCHEMA = {"properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
RIGHT = {"vendor": "Acme", "total": 12.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / f"{number}.png", f"Acme {number}")
    return tmp_path


def said(value: Any) -> Scripted:
    return Scripted(lambda images, params: value)


def test_two_models_are_compared_and_what_is_written_is_no_document(folder: Path) -> None:
    truth = folder / "truth.csv"
    truth.write_text("document,vendor,total\n" + "".join(f"{n}.png,Acme,12.5\n" for n in range(3)))
    old, new = said(RIGHT), said(RIGHT | {"total": 1})
    journals = (folder / "old.journal", folder / "new.journal")
    for _ in range(2):  # the second call finds all that the first one wrote, and asks nothing
        summary = compare(
            folder, SCHEMA, old, new, labels=truth, report=folder / "m.html", out=folder / "m.jsonl",
            exports=["inspect"], journals=journals, min_agreement=0.9, pages="1",
        )  # fmt: skip
        assert (summary.agreement.count, summary.new_errors, summary.fixed) == (6, 3, 0)
        assert summary.old_right is not None
        assert summary.old_right.value == 1
        assert summary.sides[1].failed == {"unsupported": 1}  # the labels are a text file, which nobody reads
    assert [len(model.asked) for model in (old, new)] == [3, 3]
    values = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    assert [each["right"] for each in values if each["path"] == "total"] == ["old"] * 3
    assert "Save clicks" in (folder / "m.html").read_text()
    assert len(list((folder / "m.inspect").glob("*_tessera-compare_*.json"))) == 2


def test_a_name_is_opened_and_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Named(Scripted):
        def __init__(self, name: str, model: str | None = None) -> None:
            super().__init__(lambda images, params: RIGHT)
            opened.append((name, model))

        def close(self) -> None:
            opened.append("closed")

    monkeypatch.setattr("tessera.llm.LLM", Named)
    monkeypatch.setattr("tessera.migration.api.Client", Named)
    summary = compare(folder / "0.png", SCHEMA, "nano", "http://gpu-1:8000#small")
    assert opened == [("nano", None), "closed", ("http://gpu-1:8000", "small"), "closed"]
    assert [side.name for side in summary.sides] == ["nano", "http://gpu-1:8000#small"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"out": "c.csv"}, "does not end in .jsonl"),
        ({"exports": ["deepeval"], "report": "m.html"}, "known are promptfoo, inspect"),
        ({"exports": ["inspect"]}, "no report is named"),
        ({"min_agreement": 95}, "a share, between 0 and 1"),
        ({"report": "gone/m.html"}, "a folder that does not exist"),
        ({"retries": 99}, "retries is 99"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_mistakes_are_named_before_anything_is_read(more: dict[str, Any], part: str, folder: Path) -> None:
    model = said(RIGHT)
    with pytest.raises(UsageError, match=part):
        compare(folder, SCHEMA, model, model, **more)
    assert not model.asked


def test_ctrl_c_keeps_what_is_done(folder: Path) -> None:
    """The interruption comes while the second of three documents is asked about, with one at a time."""
    new, journals = said(RIGHT), (folder / "old.journal", folder / "new.journal")

    def interrupting(images: list[Any], params: Any) -> Any:
        if len(old.asked) == 2:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return RIGHT

    old = Scripted(interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(sorted(folder.glob("*.png")), SCHEMA, old, new, journals=journals)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not new.asked
    summary = compare(sorted(folder.glob("*.png")), SCHEMA, old, new, journals=journals)
    assert (summary.documents, summary.agreement.value, len(new.asked)) == (3, 1.0, 3)
    assert len(old.asked) < 2 * 3
