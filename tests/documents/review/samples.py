"""Records and pages made by hand: an invoice with doubts, one without, hostile texts, and failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tessera.documents.page import Box, Page
from tessera.documents.record import Field, Record

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "vendor": {"type": ["string", "null"], "description": "As printed at the top."},
        "date": {"type": ["string", "null"], "format": "date"},
        "currency": {"enum": ["EUR", "USD", None]},
        "paid": {"type": ["boolean", "null"]},
        "total": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "$defs": {"item": {"type": "object", "properties": {"name": {"type": "string"}, "amount": {"type": "number"}}}},
}
LINES = [
    ("vendor", "Brightwater Press", 60), ("date", "2026-03-05", 150), ("currency", "EUR", 200),
    ("items[0].name", "Paper A4", 300), ("items[1].name", "Binding", 350), ("total", "118.40", 460),
]  # fmt: skip
METRICS: Mapping[str, Any] = {
    "documents": 40, "fields": 412, "right": 330,
    "numbers": {
        "calibration error (ECE)": [0.031, 0.022, 0.055], "AUROC": [0.917, 0.88, 0.94],
        "coverage at 1% error": [0.61, 0.55, 0.66], "Brier score": [None, None, None],
    },
    "diagram": [[41, 0.12, 0.09], [60, 0.48, 0.55], [100, 0.81, 0.78], [211, 0.97, 0.98]],
    "kinds": {"total": [40, 31], "items[].amount": [120, 100]},
}  # fmt: skip
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><!-- \u2028 \u202e=HYPERLINK(1)"


class DrawnPage(Page):
    """A page of fixed lines; remembers the sides it was asked for."""

    def __init__(self, document: str, number: int = 1, count: int = 1) -> None:
        self.document, self.number, self.count = document, number, count
        self.digest, self.size, self.rotation, self.words, self.blank = "0" * 64, (595.0, 842.0), 0, (), False
        self.sides: list[int] = []

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> Image.Image:
        self.sides.append(side)
        image = Image.new("RGB", (595, 842), "white")
        pen = ImageDraw.Draw(image)
        for name, text, top in LINES:
            pen.text((60, top), name.rpartition(".")[2], "gray", font=ImageFont.load_default(18))
            pen.text((300, top), text, "black", font=ImageFont.load_default(18))
        return image.resize((side * 595 // 842, side))


def box(path: str, page: int = 1) -> Box:
    """The place of a line that `DrawnPage` writes."""
    text, top = next((text, top) for name, text, top in LINES if name == path)
    return Box(page, 300 / 595, top / 842, (300 + 10 * len(text)) / 595, (top + 22) / 842)


def found(path: str, value: Any, score: float, **more: Any) -> Field:
    return Field(**{"path": path, "value": value, "raw": str(value), "state": "found", "score": score, **more})


def invoice(name: str = "invoices/brightwater.pdf", confident: float | None = 0.98) -> Record:
    """Two values to review: the currency by its confidence, the total by a failed check."""
    value = {
        "vendor": "Brightwater Press", "date": "2026-03-05", "currency": "USD", "paid": None, "total": 118.4,
        "items": [{"name": "Paper A4", "amount": 80.0}, {"name": "Binding", "amount": 30.0}],
    }  # fmt: skip
    sure = {"confidence": confident}
    fields = [
        found("vendor", value["vendor"], 0.99, **sure, box=box("vendor"), box_source="text"),
        found("date", value["date"], 0.97, **sure, box=box("date"), box_source="text_fuzzy", raw="5 March 2026"),
        found("currency", "USD", 0.41, confidence=confident and 0.38, box=box("currency"), box_source="attention",
              review=True),
        Field("paid", None, "null", "missing", 0.9, confident),
        found("items[0].name", "Paper A4", 0.99, **sure, box=box("items[0].name"), box_source="text"),
        found("items[0].amount", 80.0, 0.99, **sure),
        found("items[1].name", "Binding", 0.99, **sure, box=box("items[1].name"), box_source="text"),
        found("items[1].amount", 30.0, 0.99, **sure),
        found("total", 118.4, 0.95, confidence=confident and 0.93, box=box("total"), box_source="attention",
              review=True, checks=("the items add up to 110.00, not 118.40",), raw="118,40"),
    ]  # fmt: skip
    return Record(name, (1, 2), value, {each.path: each for each in fields}, review=True)


def clean(name: str = "invoices/clean.png") -> Record:
    fields = [found("vendor", "Corner & Sons", 0.999, confidence=0.999, box=box("vendor"), box_source="text")]
    return Record(name, (1,), {"vendor": "Corner & Sons"}, {each.path: each for each in fields})


def hostile() -> Record:
    """Every text of it tries to become markup, a script's end or a formula."""
    field = found(HOSTILE, HOSTILE, 0.5, review=True, checks=(HOSTILE,), raw=HOSTILE)
    return Record(f"{HOSTILE}.pdf", (1,), {HOSTILE: HOSTILE}, {HOSTILE: field}, checks=(HOSTILE,), review=True)


def failed(name: str = "scans/locked.pdf", code: str = "password_required") -> Record:
    return Record(name, (), None, error=code, message="is encrypted; give its password.")


def pages(document: str, number: int) -> Page | None:
    return DrawnPage(document, number, 2) if number <= 2 else None
