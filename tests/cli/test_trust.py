"""Labels of calibrations, and the commands that stand beside `extract`."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tessera.cli import calibrate
from tessera.cli.calibrate import Labelled, run_calibrate
from tessera.documents.api import extract
from tessera.documents.presets import open_preset
from tessera.documents.review.report import write_report
from tessera.errors import UsageError
from tessera.labels import read_labels
from tests.documents.fakes import Scripted, draw
from tests.server.pages import launched, needs_chromium, watched_pages


def test_json_lines_and_csv_give_the_same_labels(tmp_path: Path) -> None:
    lines = tmp_path / "labels.jsonl"
    lines.write_text(
        json.dumps({"document": "a.pdf", "value": {"total": 9.5, "items": [{"name": "Tea"}], "tax": None}})
        + "\n\n" + json.dumps({"document": "b.pdf", "fields": {"total": "1"}}) + "\n"
    )  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffdocument,total,items[0].name,tax\na.pdf,9.5,Tea,\n", encoding="utf-8")
    assert read_labels(lines, print) == {
        tmp_path / "a.pdf": {"total": 9.5, "items[0].name": "Tea", "tax": None},
        tmp_path / "b.pdf": {"total": "1"},
    }
    assert read_labels(table, print) == {tmp_path / "a.pdf": {"total": "9.5", "items[0].name": "Tea", "tax": None}}


def test_lines_of_one_document_are_joined_and_bad_ones_are_passed_over_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"document": "a", "value": {"x": 1}}\nnope\n{"value": {}}\n[1]\n{"document": "a", "value": {"y": 2}}'
    )
    assert read_labels(path, print) == {tmp_path / "a": {"x": 1, "y": 2}}
    said = capsys.readouterr().out
    assert f"3 lines of {path} are passed over: line 2 is not JSON; line 3 lacks" in said


def test_rows_of_extract_are_labels_by_their_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "a", "value": {"x": 1}, "fields": {"x": {"path": "x", "value": 1}}}))
    assert read_labels(path, print) == {tmp_path / "a": {"x": 1}}


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("nope\n")
    with pytest.raises(UsageError, match="has no labels"):
        read_labels(path, print)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_labels(path, print)


def test_labels_that_lead_nowhere_are_named_before_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Scripted(lambda images, params: {"vendor": "Acme"})
    monkeypatch.setattr(calibrate, "_open", lambda job: nullcontext(model))
    (tmp_path / "folder").mkdir()
    draw(tmp_path / "folder" / "a.png", "x")
    path = tmp_path / "labels.csv"
    path.write_text("document,seller\nfolder,Acme\ngone.png,Acme\n")
    with pytest.raises(UsageError, match="cover 0 fields"):
        run_calibrate(Labelled(path, "preset:receipt", tmp_path / "c.json", verify=False, model=None, endpoint=None))
    said = capsys.readouterr().err
    assert f"1 name in {path} is no field of the schema receipt: seller" in said
    assert "a.png: the labels name what it lies in" in said
    assert "gone.png: not_found" in said


@needs_chromium
def test_what_a_review_exports_calibrates_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [{"description": "Tea", "amount": "2.00"}, {"description": "Milk", "amount": "1.50"}]
    read = {"vendor": "Acme", "date": "2026-03-05", "total": "3.50", "cash": None, "items": items}
    model = Scripted(lambda images, params: read)
    monkeypatch.setattr(calibrate, "_open", lambda job: nullcontext(model))
    preset = open_preset("preset:receipt")
    documents = [draw(Path(f"receipt {number}.png"), f"page {number}") for number in range(4)]
    records = list(extract(documents, preset, model))
    title, schema = preset.name, preset.schema.given
    write_report(Path("report.html"), records, lambda document, number: None, title=title, schema=schema)
    with launched() as browser, watched_pages(browser, (tmp_path / "report.html").as_uri()) as open_page:
        page = open_page()
        for document in documents[:3]:
            page.locator(".document", has_text=str(document)).click()
            page.get_by_role("button", name=f"All values of {document} are right").click()
        page.locator(".document").last.click()
        for value in ("Acne Ltd", "2026-03-06"):
            page.keyboard.press("j")
            page.keyboard.press("Enter")
            page.locator(".edit input").fill(value)
            page.keyboard.press("Enter")
        with page.expect_download() as download:
            page.get_by_role("button", name="Labels").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    run_calibrate(Labelled(tmp_path / "receipt-labels.jsonl", "preset:receipt", tmp_path / "c.json", verify=False, model=None, endpoint=None))  # fmt: skip # noqa: E501
    report = json.loads((tmp_path / "c.json").read_text())["report"]
    assert (report["documents"], report["fields"], report["right"]) == (4, 3 * 8 + 2, 3 * 8)
    assert report["kinds"]["vendor"] == [4, 3]


def test_the_csv_of_a_review_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "invoice-corrections.csv"
    path.write_text("\ufeffdocument,page,field,action,read,value\na.pdf,1,total,corrected,7,9\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"corrections; export its labels \(JSONL\)"):
        read_labels(path, print)


def test_a_label_nested_without_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"document": "a", "value": ' + '{"a":' * 900 + "1" + "}" * 901)
    with pytest.raises(UsageError, match="has no labels"):
        read_labels(path, print)


def test_extract_calibrate_is_a_command_of_its_own() -> None:
    shown = subprocess.run([sys.executable, "-m", "tessera", "extract", "calibrate", "--help"], capture_output=True, text=True)  # fmt: skip # noqa: E501
    assert "LABELS" in shown.stdout
    assert "calibration to write" in shown.stdout
