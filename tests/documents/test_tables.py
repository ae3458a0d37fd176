"""Tables keep types, show doubt, and never carry a formula; independent readers read them back."""

from __future__ import annotations

import builtins
import csv
import dataclasses
import json
import resource
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tessera.chat import Usage
from tessera.documents.page import Box
from tessera.documents.record import Field, Record
from tessera.documents.schemas import make_schema
from tessera.documents.stored import record_object, record_of
from tessera.documents.tables import Layout, pages_text, write_table
from tessera.errors import DiskFullError, MissingExtraError, UsageError

SCHEMA = make_schema(
    "s",
    {
        "properties": {
            "vendor": {"type": "string"},
            "day": {"type": "string", "format": "date"},
            "total": {"format": "amount"},
            "paid": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "items": {"items": {"properties": {"name": {"type": "string"}, "amount": {"type": "number"}}}},
        }
    },
)
LAYOUT = Layout(schema=SCHEMA, about={"model": "nano"})
HOSTILE = '=HYPERLINK("http://evil","x")'


def record(**value: Any) -> Record:
    whole = {"vendor": None, "day": None, "total": None, "paid": None, "tags": [], "items": []} | value
    box = Box(2, 0.1, 0.2, 0.3, 0.4)
    fields = {
        "vendor": Field("vendor", whole["vendor"], str(whole["vendor"]), "found", 0.5, 0.97, box, "text"),
        "total": Field("total", whole["total"], "12,50 €", "found", 0.4, checks=("sums differ",), review=True),
    }  # fmt: skip
    return Record("a.pdf", (1, 2, 3, 5), whole, fields, review=True, checks=("sums differ",))


ITEMS = [{"name": "Tea", "amount": 2.5}, {"name": "+1", "amount": None}]
GOOD = record(vendor=HOSTILE, day="2026-03-05", total=12.5, paid=True, tags=["a", "b"], items=ITEMS)
FAILED = Record("b.pdf", (), None, error="damaged", message="b.pdf cannot be read.", review=True)


def written(tmp_path: Path, name: str, layout: Layout = LAYOUT) -> Path:
    path = tmp_path / name
    write_table(path, [GOOD, FAILED], layout)
    return path


def test_a_record_survives_json() -> None:
    assert record_of(json.loads(json.dumps(record_object(GOOD)))) == GOOD


def test_jsonl_has_a_record_a_line(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path, "t.jsonl").read_text().splitlines()]
    assert [line["document"] for line in lines] == ["a.pdf", "b.pdf"]
    assert lines[0]["value"]["total"] == 12.5
    assert lines[0]["fields"]["vendor"]["box"] == [2, 0.1, 0.2, 0.3, 0.4]


def test_csv_guards_formulas_and_keeps_numbers(tmp_path: Path) -> None:
    with written(tmp_path, "t.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["vendor"] == f"'{HOSTILE}"
    assert (rows[0]["total"], rows[0]["day"], rows[0]["paid"]) == ("12.5", "2026-03-05", "true")
    assert json.loads(rows[0]["items"]) == ITEMS
    assert (rows[0]["pages"], rows[1]["error"]) == ("1-3, 5", "damaged")


@pytest.mark.parametrize(
    ("text", "guarded"),
    [("-12.50", False), ("-12,50", False), ("+49 30 1234", True), ("@x", True), ("\tx", True), (" =1", True),
     ("\n=1", True), ("＝1", True), ("a=1", False)],
)  # fmt: skip
def test_csv_leaves_numbers_alone(text: str, guarded: bool, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [record(vendor=text)], LAYOUT)
    write_table(tmp_path / "raw.csv", [record(vendor=text)], Layout(schema=SCHEMA, about={}, csv_raw=True))
    for name, sign in (("t.csv", "'" if guarded else ""), ("raw.csv", "")):
        with (tmp_path / name).open(encoding="utf-8-sig", newline="") as file:
            assert next(csv.DictReader(file))["vendor"] == sign + text


def test_a_workbook_has_typed_cells_comments_and_amber(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(written(tmp_path, "t.xlsx"))
    assert book.sheetnames == ["Rows", "Items", "Errors", "About"]
    rows = book["Rows"]
    cells = {title.value: cell for title, cell in zip(rows[1], rows[2], strict=True)}
    assert (cells["vendor"].value, cells["vendor"].data_type) == (HOSTILE, "s")
    assert (cells["total"].value, cells["day"].value) == (12.5, datetime(2026, 3, 5))
    assert (cells["paid"].value, cells["tags"].value) == (True, "a; b")
    assert cells["vendor"].comment.text == "97 % sure, page 2"
    assert "score 0.40" in cells["total"].comment.text
    assert "printed: 12,50 €" in cells["total"].comment.text
    assert cells["total"].fill.fgColor.rgb == "FFFFD27F"
    assert cells["vendor"].fill.fill_type is None
    items = [[cell.value for cell in row] for row in book["Items"].iter_rows(min_row=2)]
    assert items == [["a.pdf", "items", 1, "Tea", 2.5], ["a.pdf", "items", 2, "+1", None]]
    assert [cell.value for cell in book["Errors"][2]] == ["b.pdf", None, "damaged", "b.pdf cannot be read."]
    about = {row[0].value: row[1].value for row in book["About"].iter_rows(min_row=2)}
    assert about == {"records": 2, "for review": 1, "failed": 1, "model": "nano"}


def test_a_text_longer_than_a_cell_is_cut_with_a_mark_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    write_table(path, [record(vendor="x" * 40_000), record(vendor="y" * 32_767), record(vendor="🙂" * 20_000)], LAYOUT)
    book = openpyxl.load_workbook(path)
    cells = [book["Rows"].cell(row, 3) for row in (2, 3, 4)]
    assert cells[0].value.endswith("x … [cut: the text has 40,000 characters]")
    assert [len(cell.value.encode("utf-16-le")) // 2 for cell in cells] == [32_767, 32_767, 32_766]
    assert "cut: Excel's cells hold 32,767 of its 40,000 characters; .csv and .jsonl have all" in cells[0].comment.text
    assert "cut" not in cells[1].comment.text
    assert cells[1].value == "y" * 32_767
    assert ("texts cut at a cell's limit; .csv and .jsonl have all of them", 2) in book["About"].values


def test_rows_inside_of_rows_stand_in_their_own_rows(tmp_path: Path) -> None:
    inner = {"items": {"properties": {"y": {"type": "number"}}}}
    schema = make_schema("s", {"properties": {"a": {"items": {"properties": {"n": {"type": "string"}, "b": inner}}}}})
    value = {"a": [{"n": "x", "b": [{"y": 1.0}, {"y": 2.0}]}]}
    write_table(tmp_path / "t.xlsx", [Record("d", (1,), value)], Layout(schema=schema, about={}))
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx")["Items"]
    found = [[cell.value for cell in row][1:] for row in sheet.iter_rows(min_row=2)]
    assert found == [["a", 1, "x", None], ["a[0].b", 1, None, 1], ["a[0].b", 2, None, 2]]


def test_parquet_has_the_schemas_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    table = parquet.read_table(written(tmp_path, "t.parquet"))
    first, second = table.to_pylist()
    assert (first["day"], first["total"], first["items"]) == (date(2026, 3, 5), 12.5, ITEMS)
    assert (second["total"], second["error"]) == (None, "damaged")
    assert str(table.schema.field("total").type) == "double"


@pytest.mark.parametrize("suffix", ["csv", "xlsx", "parquet"])
def test_a_value_named_like_one_of_our_columns_has_a_column_of_its_own(suffix: str, tmp_path: Path) -> None:
    names = ["document", "document_", "error", "pages", "review", "=1+1"]
    schema = make_schema("s", {"properties": {name: {"type": "string"} for name in names}})
    given = Record("a.pdf", (1,), {name: f"<{name}>" for name in names})
    path = tmp_path / f"t.{suffix}"
    write_table(path, [given], Layout(schema=schema, about={}))
    if suffix == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            (row,) = csv.DictReader(file)
    elif suffix == "xlsx":
        header, cells = openpyxl.load_workbook(path)["Rows"].iter_rows(values_only=True)
        row = dict(zip(header, cells, strict=True))
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
        (row,) = parquet.read_table(path).to_pylist()
    assert (row["document"], row["document__"], row["document_"]) == ("a.pdf", "<document>", "<document_>")
    assert (row["error_"], row["error"] or None, row["pages_"]) == ("<error>", None, "<pages>")
    assert row["'=1+1" if suffix == "csv" else "=1+1"] == "<=1+1>"


def test_a_workbook_keeps_numbers_of_more_digits_than_excels_as_text(tmp_path: Path) -> None:
    schema = make_schema("s", {"properties": {"account": {"type": "integer"}}})
    records = [Record("a", (1,), {"account": 12345678901234567}), Record("b", (1,), {"account": 123456789012345})]
    write_table(tmp_path / "t.xlsx", records, Layout(schema=schema, about={}))
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx")["Rows"]
    assert [sheet.cell(row, 3).value for row in (2, 3)] == ["12345678901234567", 123456789012345]


def test_parquet_without_pyarrow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'tessera\[parquet\]'"):
        write_table(tmp_path / "t.parquet", [], LAYOUT)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl, \.csv, \.xlsx, \.parquet"):
        write_table(tmp_path / "t.ods", [], LAYOUT)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.xlsx"])
def test_no_byte_depends_on_how_long_it_took(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_files = []
    for number, seconds in enumerate((0.5, 7.0)):
        monkeypatch.setattr("time.time", lambda now=1e9 * (number + 1): now)
        later = dataclasses.replace(GOOD, seconds=seconds, usage=Usage(cached_tokens=number))
        write_table(tmp_path / f"{number}{name}", [later], LAYOUT)
        written_files.append((tmp_path / f"{number}{name}").read_bytes())
    assert written_files[0] == written_files[1]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.xlsx"])
def test_a_table_appears_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    def broken() -> Iterator[Record]:
        yield GOOD
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_table(tmp_path / name, broken(), LAYOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("pages", "text"), [((), ""), ((4,), "4"), ((1, 2, 3, 5, 7, 8), "1-3, 5, 7-8")])
def test_pages_are_written_as_ranges(pages: tuple[int, ...], text: str) -> None:
    assert pages_text(pages) == text


def test_a_limit_on_files_is_said_and_leaves_no_part(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("t.csv", "t.jsonl", "t.xlsx"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(DiskFullError, match="ulimit -f"):
                write_table(tmp_path / name, [GOOD], LAYOUT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
