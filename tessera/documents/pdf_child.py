"""The program that owns PDFium, run by `pdf` in a child process: opens a document, reads its pages, renders them.

PDFium crashes and hangs on some files and is not safe among threads, so it lives here alone, within limits of memory
and time. Imports neither torch nor Pillow, so that it starts quickly. Answers are numbers, words and pixels, or a
stable code; PDFium's own messages stay here.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from tessera.children import MemoryBound, allow_seconds, be_expendable, memory_file, receive, send
from tessera.documents.words import Char, Piece, in_reading_order, is_real, with_filled, words_of

BASE_BYTES = 1 << 30  # of address space, beyond what a fresh child has, the file and the result
BYTES_PER_PIXEL = 12
MAX_CHARS = 200_000  # of a page's text layer; a page of a newspaper has some 20,000
CODES = {4: "password_required", 5: "unsupported"}  # PDFium's errors; all others mean that the file is damaged
MILLION = 1_000_000
FILLED = (
    pdfium.FPDF_FORMFIELD_TEXTFIELD,
    pdfium.FPDF_FORMFIELD_COMBOBOX,
)  # their values are no part of the page's text
MAX_FIELDS, MAX_VALUE = 5000, 8192  # of a page's form, and UTF-16 units of a value
MAX_FIGURES, MAX_OBJECTS, WHOLE_PAGE = 200, 20_000, 0.9  # of a page; the share of it from which a scan begins


class CannotRead(Exception):
    """Carries a stable code to the parent."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def serve(descriptor: int) -> None:
    """Answer questions until the channel closes."""
    channel = socket.socket(fileno=descriptor)
    be_expendable()
    bound = MemoryBound()
    worker = _Worker(channel, bound)
    send(channel, {})
    with suppress(ConnectionError):
        while True:
            question, file = receive(channel)
            # Ends this process if its parent, which would have killed it earlier, is gone.
            signal.alarm(math.ceil(2 * question["seconds"]))
            allow_seconds(question["seconds"])
            try:
                worker.answer(question, file)
            except CannotRead as error:
                send(channel, {"code": error.code})
            except MemoryError:
                send(channel, {"code": "too_large"})
                return
            except pypdfium2.PdfiumError:
                send(channel, {"code": "damaged"})
            signal.alarm(0)


class _Worker:
    def __init__(self, channel: socket.socket, bound: MemoryBound) -> None:
        self._channel = channel
        self._bound = bound
        self._document: pypdfium2.PdfDocument | None = None
        self._size = 0

    def answer(self, question: dict[str, Any], file: int) -> None:
        if question["ask"] == "open":
            try:
                self._open(file, question["passwords"])
            finally:
                os.close(file)
            return
        assert self._document is not None
        with closing(self._document[question["page"]]) as page:
            if question["ask"] == "read":
                self._read(page)
            else:
                self._render(page, question["left"], question["top"], question["scale"], question["size"])

    def _open(self, file: int, passwords: list[str]) -> None:
        if self._document is not None:
            self._document.close()
            self._document = None
        self._size = os.fstat(file).st_size
        self._bound.allow(BASE_BYTES + 2 * self._size)
        data = mmap.mmap(file, self._size, access=mmap.ACCESS_COPY)
        buffer = (ctypes.c_char * self._size).from_buffer(data)
        raw, error = None, 0
        for password in ("", *passwords):
            raw = pdfium.FPDF_LoadMemDocument64(buffer, self._size, password.encode() + b"\0")
            error = 0 if raw else pdfium.FPDF_GetLastError()
            if error != pdfium.FPDF_ERR_PASSWORD:
                break
        if not raw:
            raise CannotRead(CODES.get(error, "damaged"))
        document = pypdfium2.PdfDocument(raw)
        document._data_holder.append(buffer)
        with suppress(pypdfium2.PdfiumError):
            document.init_forms()  # what is filled into a form is drawn only then
        if len(document) == 0:
            document.close()
            raise CannotRead("empty")
        self._document = document
        send(self._channel, {"count": len(document)})

    def _read(self, page: pypdfium2.PdfPage) -> None:
        with closing(page.get_textpage()) as text:
            words = words_of(_chars(page, text))
        words = in_reading_order(words) if is_real(words) else []
        words = with_filled(words, _filled(page))
        rows = [(w.text, *(round(side, 6) for side in (w.left, w.top, w.right, w.bottom))) for w in words]
        told = {"size": page.get_size(), "rotation": page.get_rotation(), "words": rows, "figures": _figures(page)}
        send(self._channel, told)

    def _render(self, page: pypdfium2.PdfPage, left: float, top: float, scale: float, size: tuple[int, int]) -> None:
        """Draw a part of the page in RGB: `left` and `top` are in points, `size` in pixels."""
        width, height = size
        self._bound.allow(BASE_BYTES + 2 * self._size + BYTES_PER_PIXEL * width * height)
        file = memory_file(width * height * 3)
        try:
            buffer = (ctypes.c_ubyte * (width * height * 3)).from_buffer(mmap.mmap(file, width * height * 3))
            bitmap = pdfium.FPDFBitmap_CreateEx(width, height, pdfium.FPDFBitmap_BGR, buffer, width * 3)
            if not bitmap:
                raise CannotRead("too_large")
            pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
            whole = (max(round(side * scale), 1) for side in page.get_size())
            place = (-round(left * scale), -round(top * scale), *whole, 0)
            flags = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER | pdfium.FPDF_RENDER_LIMITEDIMAGECACHE
            pdfium.FPDF_RenderPageBitmap(bitmap, page, *place, flags)
            if page.formenv is not None:
                pdfium.FPDF_FFLDraw(page.formenv, bitmap, page, *place, flags)
            pdfium.FPDFBitmap_Destroy(bitmap)
            send(self._channel, {}, file)
        finally:
            os.close(file)


def _chars(page: pypdfium2.PdfPage, text: pypdfium2.PdfTextPage) -> Iterator[Char]:
    """Yield every character with its place on the displayed page: within the crop box, rotated as it is shown."""
    (xx, xy), (yx, yy), x0, y0 = _frame(page)
    code_of, loose_of = pdfium.FPDFText_GetUnicode, pdfium.FPDFText_GetLooseCharBox
    rect = pdfium.FS_RECTF()
    where = ctypes.byref(rect)
    for index in range(min(text.count_chars(), MAX_CHARS)):
        code = code_of(text, index)
        if code in (9, 10, 13, 32):
            yield code, 0.0, 0.0, 0.0, 0.0
            continue
        if not loose_of(text, index, where) or rect.right <= rect.left or rect.top <= rect.bottom:
            rect.left, rect.bottom, rect.right, rect.top = text.get_charbox(index)
        # The displayed axes are the page's own or crossed, so that corners stay corners.
        left, right = x0 + xx * rect.left + xy * rect.bottom, x0 + xx * rect.right + xy * rect.top
        top, bottom = y0 + yx * rect.left + yy * rect.bottom, y0 + yx * rect.right + yy * rect.top
        yield (
            code,
            left if left < right else right,
            top if top < bottom else bottom,
            right if left < right else left,
            bottom if top < bottom else top,
        )


def _filled(page: pypdfium2.PdfPage) -> Iterator[Piece]:
    """Yield what is filled into the page's form, word by word; a word's place is its whole field."""
    if page.formenv is None:
        return
    (xx, xy), (yx, yy), x0, y0 = _frame(page)
    rect = pdfium.FS_RECTF()
    for index in range(min(pdfium.FPDFPage_GetAnnotCount(page), MAX_FIELDS)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            kind = pdfium.FPDFAnnot_GetFormFieldType(page.formenv, annotation)
            if kind not in FILLED or not pdfium.FPDFAnnot_GetRect(annotation, rect):
                continue
            value = (ctypes.c_ushort * MAX_VALUE)()
            pdfium.FPDFAnnot_GetFormFieldValue(page.formenv, annotation, value, ctypes.sizeof(value))
            text = bytes(value).decode("utf-16-le", "replace").partition("\0")[0]
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
        across = sorted((x0 + xx * rect.left + xy * rect.bottom, x0 + xx * rect.right + xy * rect.top))
        down = sorted((y0 + yx * rect.left + yy * rect.bottom, y0 + yx * rect.right + yy * rect.top))
        for word in text.split():
            yield Piece(word, across[0], down[0], across[1], down[1])


def _figures(page: pypdfium2.PdfPage) -> list[list[float]]:
    """Return the places of the page's pictures, clipped to what is displayed; a scan of the whole page is none."""
    across, down, x0, y0 = _frame(page)
    found: list[list[float]] = []
    objects = page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3)
    for picture in islice(objects, MAX_OBJECTS):
        left, bottom, right, top = picture.get_bounds()
        xs = sorted(x0 + across[0] * x + across[1] * y for x, y in ((left, bottom), (right, top)))
        ys = sorted(y0 + down[0] * x + down[1] * y for x, y in ((left, bottom), (right, top)))
        box = [round(min(max(side, 0.0), 1.0), 6) for side in (xs[0], ys[0], xs[1], ys[1])]
        if 0 < (box[2] - box[0]) * (box[3] - box[1]) < WHOLE_PAGE and box not in found:
            found.append(box)
        if len(found) == MAX_FIGURES:
            break
    return found


def _frame(page: pypdfium2.PdfPage) -> tuple[tuple[float, float], tuple[float, float], float, float]:
    """Return the map from the page's coordinates to fractions of what is displayed, as PDFium itself has it."""

    def shown(x: float, y: float) -> tuple[float, float]:
        column, row = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDF_PageToDevice(page, 0, 0, MILLION, MILLION, 0, x, y, column, row)
        return column.value / MILLION, row.value / MILLION

    long = max(page.get_size())
    (x0, y0), (x1, y1), (x2, y2) = shown(0, 0), shown(long, 0), shown(0, long)
    return ((x1 - x0) / long, (x2 - x0) / long), ((y1 - y0) / long, (y2 - y0) / long), x0, y0
