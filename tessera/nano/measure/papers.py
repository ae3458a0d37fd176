"""Receipts and invoices with known values and places, printed by Chromium: what calibrations are made on.

No training draws with Chromium. Each value is a link in the web page, and the PDF's link rectangles are its true
place. The same page is given with its text layer, or as a scan without one: smaller, blurred, and compressed.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image as PILImage
from PIL import ImageChops, ImageFilter

from tessera.documents.page import Box, Page, Word
from tessera.nano.measure.paper_pages import Drawn, draw
from tessera.nano.measure.web_papers import print_web_page

SIZE = (560, 760)  # CSS pixels
POINTS = 72 / 96
SCALES = (0.9, 1.4)  # pixels that a CSS pixel becomes
MARGIN = 12  # pixels around what is printed
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
    drawn = draw(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        target = print_drawn(Path(folder), [each for _, each in drawn])
        asked = [_asked(random, each.values) for random, each in drawn]
        yield from _read(target, asked, [random for random, _ in drawn], scans=scans)


def _asked(random: Random, values: dict[str, str]) -> dict[str, str | None]:
    """Some of the values, and at times one that is not there."""
    chosen: dict[str, str | None] = {key: values[key] for key in sorted(random.sample(sorted(values), min(4, len(values))))}  # fmt: skip # noqa: E501
    if random.random() < 0.5:
        chosen[random.choice(NEVER)] = None
    return chosen


def print_drawn(folder: Path, papers: Sequence[Drawn]) -> Path:
    """Print papers to one PDF in a folder, a page each."""
    source, target = folder / "papers.html", folder / "papers.pdf"
    width, height = SIZE
    style = f"@page {{ size: {width}px {height}px; margin: 0 }} * {{ box-sizing: border-box }} body {{ margin: 0 }} a {{ color: inherit; text-decoration: none }}"  # fmt: skip # noqa: E501
    sheets = "".join(f'<div style="break-after: page; padding: 24px">{each.html}</div>' for each in papers)
    source.write_text(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{sheets}', encoding="utf-8")
    print_web_page(source, target)
    return target


def _read(path: Path, values: list[dict[str, str | None]], dice: list[Random], *, scans: bool) -> Iterator[Paper]:
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    try:
        for number, (random, asked) in enumerate(zip(dice, values, strict=True)):
            sheet = document[number]
            scale = random.uniform(*SCALES)
            whole = sheet.render(scale=scale / POINTS).to_pil().convert("RGB")
            frame = Frame.around_ink(whole, sheet.get_size())
            characters = _characters(sheet.get_textpage(), frame)
            places = links_of(document, sheet, frame)
            picture = whole.crop(frame.pixels)
            words = () if scans else tuple(_words(characters))
            page = PaperPage(f"{path.stem}-{number}", worn(random, picture) if scans else picture, words)
            inside = {key: _within(characters, box) for key, box in places.items()}
            yield Paper(page, "receipt" if number % 2 == 0 else "invoice", asked, places, inside)
    finally:
        document.close()


Character = tuple[str, Box]


@dataclass(frozen=True)
class Frame:
    """The part of a sheet that is shown, in pixels of the whole sheet and in points."""

    pixels: tuple[int, int, int, int]
    left: float
    top: float  # from the bottom, as PDF counts
    width: float
    height: float

    @classmethod
    def around_ink(cls, whole: PILImage.Image, size: tuple[float, float]) -> Frame:
        ink = ImageChops.invert(whole.convert("L")).point(lambda value: 255 * (value > 8)).getbbox() or (0, 0, 1, 1)
        left, top = max(0, ink[0] - MARGIN), max(0, ink[1] - MARGIN)
        right, bottom = min(whole.width, ink[2] + MARGIN), min(whole.height, ink[3] + MARGIN)
        x, y = size[0] / whole.width, size[1] / whole.height
        return cls((left, top, right, bottom), left * x, size[1] - top * y, (right - left) * x, (bottom - top) * y)

    @classmethod
    def whole(cls, size: tuple[float, float]) -> Frame:
        return cls((0, 0, 0, 0), 0.0, size[1], *size)

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        """A rectangle of the PDF as a box of the shown part."""
        x, y = (left - self.left) / self.width, (right - self.left) / self.width
        return Box(1, x, (self.top - top) / self.height, y, (self.top - bottom) / self.height)


def _characters(text: Any, frame: Frame) -> list[Character]:
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


def links_of(document: Any, sheet: Any, frame: Frame) -> dict[str, Box]:
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


def worn(random: Random, picture: PILImage.Image) -> PILImage.Image:
    """A scan: half of them are hard to read."""
    if random.random() < 0.5:
        scale = random.uniform(0.6, 0.95)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), 3)
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.0, 0.9)))
    saved = io.BytesIO()
    picture.save(saved, "JPEG", quality=random.randint(35, 90))
    return PILImage.open(saved).convert("RGB")
