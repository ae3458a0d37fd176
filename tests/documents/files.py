"""Documents for the tests, written by pikepdf, Pillow and the standard library: never by what reads them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

A4 = (0.0, 0.0, 595.0, 842.0)
Box4 = tuple[float, float, float, float]


def text_at(x: float, y: float, text: str, size: float = 12.0) -> str:
    """Drawing instructions for one line of text with its baseline's beginning at x, y."""
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /F {size} Tf {x} {y} Td ({escaped}) Tj ET\n"


def add_page(pdf: pikepdf.Pdf, content: str | bytes, media: Sequence[float] = A4, **more: Any) -> pikepdf.Page:
    """Add a page; `more` are entries of its dictionary."""
    font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
    resources = Dictionary(Font=Dictionary(F=font))
    stream = pdf.make_stream(content if isinstance(content, bytes) else content.encode("cp1252"))
    page = Dictionary(Type=Name.Page, MediaBox=Array(media), Resources=resources, Contents=stream, **more)
    pdf.pages.append(pikepdf.Page(pdf.make_indirect(page)))
    return pdf.pages[-1]


def pdf_bytes(*contents: str, save: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A PDF with a page for each content."""
    with pikepdf.new() as pdf:
        for content in contents:
            add_page(pdf, content, **more)
        return saved(pdf, **(save or {}))


def long_pdf(count: int) -> bytes:
    """A PDF of many empty pages, written by hand: quickly."""
    kids = " ".join(f"{number} 0 R" for number in range(3, count + 3))
    bodies = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {count}/Kids[{kids}]>>",
        *["<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>"] * count,
    ]
    data, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        places.append(len(data))
        data += f"{number} 0 obj{body}endobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}trailer<</Size {len(bodies) + 1}/Root 1 0 R>>\n"
    return bytes(data) + f"{end}startxref\n{len(data)}\n%%EOF\n".encode()


def saved(pdf: pikepdf.Pdf, **options: Any) -> bytes:
    file = io.BytesIO()
    pdf.save(file, **options)
    return file.getvalue()


def scan(
    text: str = "Invoice 17", size: tuple[int, int] = (1240, 1754), em: int = 33, lines: int = 30
) -> PILImage.Image:
    """A drawn page as an image."""
    image = PILImage.new("RGB", size, (250, 248, 245))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(em)
    for line in range(lines):
        draw.text((100, 100 + line * 1.5 * em), text, fill=(30, 30, 40), font=font)
    return image


def image_bytes(image: PILImage.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def mail_bytes(text: str = "", html: str = "", attach: Callable[[EmailMessage], None] | None = None) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.com", "me@example.com", "Your invoice"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    if attach is not None:
        attach(message)
    return message.as_bytes()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
