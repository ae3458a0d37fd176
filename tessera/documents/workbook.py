"""Records as an Excel workbook: Rows, Items, Errors and About.

A cell's comment says how sure its value is and from which page it came; amber asks for a person's look. Rows go to
disk as they come (XlsxWriter's constant memory), and no text becomes a formula or a link.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.documents.record import Field, Record
from tessera.documents.schemas import paths_in
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.documents.tables import Layout

AMBER, RED = "#FFD27F", "#F4B6B6"
MAX_ROWS, MAX_CELL, MAX_EXACT = 1_048_576, 32_767, 10**15  # Excel's own: it keeps 15 digits
MAX_COMMENTS = 50_000  # they are kept in memory, and Excel slows down with more
WIDTHS = {"document": 32, "pages": 8, "checks": 40, "message": 40}


def write_xlsx(path: Path, records: Iterable[Record], layout: Layout) -> None:
    import xlsxwriter

    # Sheets are put together in a hidden folder, which is no document of the folder that they are written to.
    with tempfile.TemporaryDirectory(prefix=".tessera-", dir=path.parent) as folder:
        options = {
            "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False,
            "strings_to_numbers": False, "nan_inf_to_errors": True, "tmpdir": folder,
        }  # fmt: skip
        try:
            with xlsxwriter.Workbook(str(path), options) as workbook:
                workbook.set_properties({"created": datetime(1980, 1, 1)})  # zip's first day: the same bytes each time
                _Workbook(workbook, layout).write(records)
        except xlsxwriter.exceptions.FileCreateError as error:
            raise error.args[0] from error  # the system's own


class _Sheet:
    """A worksheet that is written row by row; its first row is the header."""

    def __init__(self, book: _Workbook, name: str, header: list[str]) -> None:
        self.book, self.name, self.row = book, name, 1
        self.sheet = book.workbook.add_worksheet(name)
        self.sheet.freeze_panes(1, 0)
        self.sheet.write_row(0, 0, header, book.form(bold=True))
        for column, title in enumerate(header):
            self.sheet.set_column(column, column, WIDTHS.get(title, 16))

    def add(self, cells: Iterable[tuple[Any, Field | None]], amber: bool = False) -> None:
        if self.row >= MAX_ROWS:
            raise UsageError(
                f"the sheet {self.name} would have more than {MAX_ROWS:,} rows, which Excel cannot open; "
                "write .csv or .parquet."
            )
        for column, (value, field) in enumerate(cells):
            self._write(column, value, field, amber or (field is not None and field.review))
        self.row += 1

    def _write(self, column: int, value: Any, field: Field | None, amber: bool) -> None:
        look: dict[str, Any] = {"bg_color": AMBER} if amber else {}
        note = ""
        if isinstance(value, datetime | date):
            self.sheet.write_datetime(
                self.row,
                column,
                datetime(value.year, value.month, value.day),
                self.book.form(num_format="yyyy-mm-dd", **look),
            )
        elif isinstance(value, bool):
            self.sheet.write_boolean(self.row, column, value, self.book.form(**look))
        elif (isinstance(value, int) and abs(value) < MAX_EXACT) or (isinstance(value, float) and math.isfinite(value)):
            self.sheet.write_number(self.row, column, value, self.book.form(**look))
        elif value is None or value == "":
            if look:
                self.sheet.write_blank(self.row, column, None, self.book.form(**look))
        else:
            text, note = _fitted(str(value))
            self.sheet.write_string(self.row, column, text, self.book.form(**look))
        self.book.cut += bool(note)
        said = "\n".join(filter(None, (note, "" if field is None else comment(field))))
        if said and (note or self.book.comments < MAX_COMMENTS):
            self.book.comments += 1
            self.sheet.write_comment(self.row, column, said, {"x_scale": 1.5})


class _Workbook:
    def __init__(self, workbook: Any, layout: Layout) -> None:
        self.workbook, self.layout, self.comments = workbook, layout, 0
        self.cut = 0  # texts that were too long for a cell
        self._forms: dict[tuple[Any, ...], Any] = {}

    def form(self, **look: Any) -> Any:
        """A cell format; equal ones are one."""
        key = tuple(sorted(look.items()))
        if key not in self._forms:
            self._forms[key] = self.workbook.add_format(look)
        return self._forms[key]

    def write(self, records: Iterable[Record]) -> None:
        from tessera.documents.tables import ABOUT, about_cells, columns_of, header_of, pages_text

        columns = columns_of(self.layout.schema)
        rows = _Sheet(self, "Rows", header_of(["document", "pages"], columns, ABOUT))
        names = [leaf.path for leaf in self.layout.schema.leaves if "[]." in leaf.path]
        items = _Sheet(self, "Items", ["document", "list", "row", *names]) if names else None
        errors = _Sheet(self, "Errors", ["document", "page", "error", "message"])
        counts = {"records": 0, "for review": 0, "failed": 0}
        for record in records:
            counts["records"] += 1
            counts["for review"] += record.review and record.error is None
            counts["failed"] += record.error is not None
            values = [self._cell(record, path) for path in columns]
            about: list[tuple[Any, None]] = [(cell, None) for cell in about_cells(record)]
            rows.add([(record.document, None), (pages_text(record.pages), None), *values, *about])
            if items is not None:
                for cells in self._item_rows(record, names):
                    items.add(cells)
            if record.error is not None:
                errors.add([(record.document, None), (None, None), (record.error, None), (record.message, None)])
        rows.sheet.autofilter(0, 0, max(1, rows.row - 1), 1 + len(columns) + len(ABOUT))
        about_sheet = _Sheet(self, "About", ["what", "value"])
        about_sheet.sheet.set_column(0, 1, 40)
        if self.cut:
            counts["texts cut at a cell's limit; .csv and .jsonl have all of them"] = self.cut
        for name, value in {**counts, **self.layout.about}.items():
            about_sheet.add([(name, None), (value, None)])

    def _cell(self, record: Record, path: str) -> tuple[Any, Field | None]:
        from tessera.documents.tables import value_at

        value, field = value_at(record.value, path), record.fields.get(path)
        if isinstance(value, list):
            inner = [each for key, each in record.fields.items() if key.startswith(f"{path}[")]
            doubtful = next((each for each in inner if each.review), inner[0] if inner else None)
            return "; ".join(map(str, value)), doubtful
        return self._typed(path, value), field

    def _typed(self, path: str, value: Any) -> Any:
        leaf = self.layout.schema.leaf(path)
        if leaf is not None and leaf.kind == "date" and isinstance(value, str):
            day = date.fromisoformat(value)
            return day if day.year >= 1900 else value  # Excel's calendar begins there
        return value

    def _item_rows(self, record: Record, names: list[str]) -> Iterator[list[tuple[Any, Field | None]]]:
        """The rows of all lists of objects, the innermost each: what lies further out stands in its own row."""
        rows: dict[str, dict[str, tuple[Any, Field | None]]] = {}
        for path, value in paths_in(record.value or {}):
            head = path.rpartition("].")[0]
            if head:
                name = "[]".join(
                    part.partition("]")[2] if index else part for index, part in enumerate(path.split("["))
                )
                rows.setdefault(f"{head}]", {})[name] = self._typed(path, value), record.fields.get(path)
        for place, cells in rows.items():
            name, _, number = place.removesuffix("]").rpartition("[")
            first = [(record.document, None), (name, None), (int(number) + 1, None)]
            yield [*first, *(cells.get(each, (None, None)) for each in names)]


def _fitted(text: str) -> tuple[str, str]:
    """A text as a cell holds it, and what is said of one that is too long."""
    length = len(text.encode("utf-16-le", "surrogatepass")) // 2  # as Excel counts
    if length <= MAX_CELL:
        return text, ""
    whole = f"{length:,} characters"
    room = MAX_CELL - len(mark := f" … [cut: the text has {whole}]")
    kept = text.encode("utf-16-le", "surrogatepass")[: 2 * room].decode("utf-16-le", "ignore")
    return kept + mark, f"cut: Excel's cells hold {MAX_CELL:,} of its {whole}; .csv and .jsonl have all"


def comment(field: Field) -> str:
    """What a cell's comment says: "98 % sure, page 2", or the uncalibrated score by that name."""
    parts = []
    if field.confidence is not None:
        parts.append(f"{100 * field.confidence:.0f} % sure")
    elif field.state == "found":
        parts.append(f"score {field.score:.2f}")
    if field.box is not None:
        parts.append(f"page {field.box.page}")
    if field.state != "found":
        parts.append(field.state)
    if field.raw.strip() and str(field.value) != field.raw.strip():
        parts.append(f"printed: {field.raw[:200]}")
    return "\n".join([", ".join(parts), *field.checks]).strip()
