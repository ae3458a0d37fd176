"""Receipts and invoices with known values and places, printed by Chromium: what calibrations are made on.

No training draws with Chromium. Each value is a link in the web page, and the PDF's link rectangles are its true
place. The same page is given with its text layer, or as a scan without one: smaller, blurred, and compressed.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image as PILImage
from PIL import ImageChops, ImageFilter

from tessera.documents.page import Box, Page, Word
from tessera.nano.measure.web_papers import FONTS, GOODS, PEOPLE, SHOPS, STREETS, print_web_page

SIZE = (560, 760)  # CSS pixels
POINTS = 72 / 96
SCALES = (0.9, 1.4)  # pixels that a CSS pixel becomes
MARGIN = 12  # pixels around what is printed
LABELS = {
    "invoice_number": ("Invoice no.", "Invoice number", "Invoice #", "No."), "date": ("Date", "Date of issue", "Dated"),
    "due_date": ("Due date", "Payable by", "Due"), "subtotal": ("Subtotal", "Net", "Net amount"),
    "tax": ("Tax", "VAT", "Sales tax"), "total": ("Total", "Amount due", "Total due", "TOTAL"),
}  # fmt: skip
NEVER = ("phone", "discount", "cashier", "order_number")  # asked for now and then, and not there


@dataclass(frozen=True)
class Paper:
    """A printed page, the values asked of it (None: not there), and the place of each and of each of its characters."""

    page: PaperPage
    kind: str
    values: Mapping[str, str | None]
    places: Mapping[str, Box]
    characters: Mapping[str, tuple[tuple[str, float, float], ...]]  # a character and its centre, as shares of the page

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {key: {"type": ["string", "null"]} for key in self.values},
            "required": list(self.values),
            "additionalProperties": False,
        }


class PaperPage(Page):
    """A page in memory."""

    def __init__(self, name: str, picture: PILImage.Image, words: tuple[Word, ...]) -> None:
        self.document, self.digest, self.number, self.count = name, "", 1, 1
        self.size, self.rotation, self.blank = (float(picture.width), float(picture.height)), 0, False
        self.words, self.picture = words, picture

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        width, height = self.picture.size
        edges = (0.0, 0.0, 1.0, 1.0) if crop is None else (crop.left, crop.top, crop.right, crop.bottom)
        part = self.picture.crop(
            (round(edges[0] * width), round(edges[1] * height), round(edges[2] * width), round(edges[3] * height))
        )
        scale = side / max(part.size)
        part = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))), 3)
        return part.rotate(-rotation, expand=True) if rotation else part


def drawn_papers(count: int, *, seed: str = "calibration", scans: bool = True) -> Iterator[Paper]:
    """So many papers, receipts and invoices in turn, without text layers if they are scans."""
    dice = [Random(f"{seed} {number}") for number in range(count)]
    papers = [(_receipt if number % 2 == 0 else _invoice)(random) for number, random in enumerate(dice)]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "papers.html", Path(folder) / "papers.pdf"
        width, height = SIZE
        style = f"@page {{ size: {width}px {height}px; margin: 0 }} * {{ box-sizing: border-box }} body {{ margin: 0 }} a {{ color: inherit; text-decoration: none }}"  # fmt: skip # noqa: E501
        sheets = "".join(f'<div style="break-after: page; padding: 24px">{html}</div>' for html, _ in papers)
        source.write_text(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{sheets}', encoding="utf-8")
        print_web_page(source, target)
        yield from _read(target, [values for _, values in papers], dice, scans=scans)


def _read(path: Path, values: list[dict[str, str | None]], dice: list[Random], *, scans: bool) -> Iterator[Paper]:
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    try:
        for number, (random, asked) in enumerate(zip(dice, values, strict=True)):
            sheet = document[number]
            scale = random.uniform(*SCALES)
            whole = sheet.render(scale=scale / POINTS).to_pil().convert("RGB")
            frame = _Frame.around_ink(whole, sheet.get_size())
            characters = _characters(sheet.get_textpage(), frame)
            places = _links(document, sheet, frame)
            picture = whole.crop(frame.pixels)
            words = () if scans else tuple(_words(characters))
            page = PaperPage(f"{path.stem}-{number}", _worn(random, picture) if scans else picture, words)
            inside = {key: _within(characters, box) for key, box in places.items()}
            yield Paper(page, "receipt" if number % 2 == 0 else "invoice", asked, places, inside)
    finally:
        document.close()


Character = tuple[str, Box]


@dataclass(frozen=True)
class _Frame:
    """The part of a sheet that is shown, in pixels of the whole sheet and in points."""

    pixels: tuple[int, int, int, int]
    left: float
    top: float  # from the bottom, as PDF counts
    width: float
    height: float

    @classmethod
    def around_ink(cls, whole: PILImage.Image, size: tuple[float, float]) -> _Frame:
        ink = ImageChops.invert(whole.convert("L")).point(lambda value: 255 * (value > 8)).getbbox() or (0, 0, 1, 1)
        left, top = max(0, ink[0] - MARGIN), max(0, ink[1] - MARGIN)
        right, bottom = min(whole.width, ink[2] + MARGIN), min(whole.height, ink[3] + MARGIN)
        x, y = size[0] / whole.width, size[1] / whole.height
        return cls((left, top, right, bottom), left * x, size[1] - top * y, (right - left) * x, (bottom - top) * y)

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        """A rectangle of the PDF as a box of the shown part."""
        x, y = (left - self.left) / self.width, (right - self.left) / self.width
        return Box(1, x, (self.top - top) / self.height, y, (self.top - bottom) / self.height)


def _characters(text: Any, frame: _Frame) -> list[Character]:
    return [(text.get_text_range(index, 1), frame.box(*text.get_charbox(index))) for index in range(text.count_chars())]


def _words(characters: list[Character]) -> Iterator[Word]:
    held: list[Character] = []
    for char, box in [*characters, (" ", Box(1, 0, 0, 0, 0))]:
        if char.strip():
            held.append((char, box))
        elif held:
            boxes = [each for _, each in held]
            around = Box(
                1, min(b.left for b in boxes), min(b.top for b in boxes), max(b.right for b in boxes),
                max(b.bottom for b in boxes),
            )  # fmt: skip
            yield Word("".join(each for each, _ in held), around)
            held = []


def _within(characters: list[Character], box: Box) -> tuple[tuple[str, float, float], ...]:
    centres = [(char, (each.left + each.right) / 2, (each.top + each.bottom) / 2) for char, each in characters]
    return tuple(
        (char, x, y) for char, x, y in centres
        if char.strip() and box.left <= x <= box.right and box.top <= y <= box.bottom
    )  # fmt: skip


def _links(document: Any, sheet: Any, frame: _Frame) -> dict[str, Box]:
    """The rectangles of a page's links, by the last part of their address."""
    import ctypes

    import pypdfium2.raw as pdfium

    found = {}
    for index in range(pdfium.FPDFPage_GetAnnotCount(sheet)):
        annotation = pdfium.FPDFPage_GetAnnot(sheet, index)
        link = pdfium.FPDFAnnot_GetLink(annotation)
        action = pdfium.FPDFLink_GetAction(link) if link else None
        if action:
            size = pdfium.FPDFAction_GetURIPath(document, action, None, 0)
            buffer = ctypes.create_string_buffer(size)
            pdfium.FPDFAction_GetURIPath(document, action, buffer, size)
            rectangle = pdfium.FS_RECTF()
            pdfium.FPDFAnnot_GetRect(annotation, rectangle)
            key = buffer.value.decode().rstrip("/").rpartition("/")[2]
            low, high = sorted((rectangle.bottom, rectangle.top))
            found[key] = frame.box(rectangle.left, low, rectangle.right, high)
        pdfium.FPDFPage_CloseAnnot(annotation)
    return found


def _worn(random: Random, picture: PILImage.Image) -> PILImage.Image:
    """A scan: half of them are hard to read."""
    if random.random() < 0.5:
        scale = random.uniform(0.6, 0.95)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), 3)
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.0, 0.9)))
    saved = io.BytesIO()
    picture.save(saved, "JPEG", quality=random.randint(35, 90))
    return PILImage.open(saved).convert("RGB")


# Web pages ----------------------------------------------------------------------------------------


def _field(key: str, value: str) -> str:
    return f'<a href="https://field.example/{key}">{escape(value)}</a>'


def _line(label: str, html: str, style: str = "") -> str:
    return f'<div style="display: flex; justify-content: space-between; {style}"><span>{escape(label)}</span><span>{html}</span></div>'  # fmt: skip # noqa: E501


def _look(random: Random) -> str:
    font, size = random.choice(FONTS), random.uniform(11, 16)
    return (
        f"font: {size:.1f}px/{random.uniform(1.3, 1.7):.2f} {font!r}; color: {random.choice(('#000', '#222', '#113'))}"
    )


def _money(random: Random, cents: int, sign: str) -> str:
    return f"{sign}{cents / 100:,.2f}"


def _asked(random: Random, values: dict[str, str]) -> dict[str, str | None]:
    """Some of the values, and at times one that is not there."""
    chosen: dict[str, str | None] = {key: values[key] for key in sorted(random.sample(sorted(values), min(4, len(values))))}  # fmt: skip # noqa: E501
    if random.random() < 0.5:
        chosen[random.choice(NEVER)] = None
    return chosen


def _receipt(random: Random) -> tuple[str, dict[str, str | None]]:
    sign = random.choice(("", "", "$", "€", "£"))
    day = date(2019, 1, 1) + timedelta(days=random.randrange(2400))
    goods = {name: random.randrange(90, 2500) for name in random.sample(GOODS, random.randint(2, 6))}
    subtotal = sum(goods.values())
    tax = round(subtotal * random.choice((0.07, 0.08, 0.19)))
    values = {
        "vendor": random.choice(SHOPS), "date": day.strftime(random.choice(("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y"))),
        "subtotal": _money(random, subtotal, sign), "tax": _money(random, tax, sign),
        "total": _money(random, subtotal + tax, sign),
    }  # fmt: skip
    rows = "".join(_line(name, escape(_money(random, cents, sign))) for name, cents in goods.items())
    sums = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("subtotal", "tax", "total"))
    html = (
        f'<div style="{_look(random)}; width: {random.randint(16, 24)}em"><p style="text-align: center"><b>'
        f"{_field('vendor', values['vendor'])}</b><br>{random.choice(STREETS)}</p>"
        f"<p>{random.choice(('Date: ', '', 'Date '))}{_field('date', values['date'])}</p>{rows}<hr>{sums}</div>"
    )
    return html, _asked(random, values)


def _invoice(random: Random) -> tuple[str, dict[str, str | None]]:
    sign, day = random.choice(("", "$", "€")), date(2019, 1, 1) + timedelta(days=random.randrange(2400))
    style = random.choice(("%Y-%m-%d", "%d.%m.%Y", "%d %b %Y"))
    goods = [(name, random.randint(1, 9), random.randrange(200, 9000)) for name in random.sample(GOODS, random.randint(2, 5))]  # fmt: skip # noqa: E501
    net = sum(count * price for _, count, price in goods)
    tax = round(net * 0.2)
    values = {
        "vendor": random.choice(SHOPS), "customer": random.choice(PEOPLE),
        "invoice_number": random.choice((f"INV-{random.randrange(1000, 9999)}", str(random.randrange(10**5, 10**6)))),
        "date": day.strftime(style), "due_date": (day + timedelta(days=30)).strftime(style),
        "subtotal": _money(random, net, sign), "tax": _money(random, tax, sign),
        "total": _money(random, net + tax, sign),
    }  # fmt: skip
    cell = random.choice(
        ("border: 1px solid #999; padding: 3px 6px", "border-bottom: 1px solid #ccc; padding: 4px 8px")
    )
    rows = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{escape(each)}</td>' for each in (
            name, str(count), _money(random, price, sign), _money(random, count * price, sign))) + "</tr>"
        for name, count, price in goods
    )  # fmt: skip
    heads = "".join(f'<th style="{cell}; text-align: left">{head}</th>' for head in ("Item", "Qty", "Price", "Amount"))
    facts = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("invoice_number", "date", "due_date"))  # fmt: skip # noqa: E501
    sums = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("subtotal", "tax", "total"))
    html = (
        f'<div style="{_look(random)}; width: 440px"><h2 style="margin: 0">Invoice</h2><p><b>'
        f"{_field('vendor', values['vendor'])}</b><br>{random.choice(STREETS)}</p>{facts}"
        f"<p>Bill to: {_field('customer', values['customer'])}</p>"
        f'<table style="border-collapse: collapse; width: 100%; font: inherit"><tr>{heads}</tr>{rows}</table>'
        f'<div style="margin-left: 50%; padding-top: 8px">{sums}</div></div>'
    )
    return html, _asked(random, values)
