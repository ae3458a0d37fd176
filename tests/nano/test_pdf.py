"""Characters of PDFs written by hand, whose places are known from the numbers in them."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.errors import UsageError
from tessera.nano.pictures.page import Glyph

pytest.importorskip("pypdfium2", reason="the PDF adapter needs pypdfium2")
from tessera.nano.pictures.pdf import locate, locate_all, read_pdf

WIDTH, HEIGHT = 300, 200


def pdf_of(content: str) -> bytes:
    """One page of 300 x 200 points with Courier as /F1: each of its characters is 0.6 of the type size wide."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Contents 4 0 R "
        "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Courier >> >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
    ]
    body = "%PDF-1.4\n"
    for number, text in enumerate(objects, 1):
        body += f"{number} 0 obj\n{text}\nendobj\n"
    return (body + "trailer << /Root 1 0 R >>\n%%EOF").encode()


def test_centres_follow_baseline_and_advance() -> None:
    image, glyphs = read_pdf(pdf_of("BT /F1 20 Tf 40 120 Td (Ho, x) Tj ET"), 2.0)
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    assert "".join(glyph.char for glyph in glyphs) == "Ho,x"
    for glyph, cell in zip(glyphs, (0, 1, 2, 4), strict=True):
        assert glyph.size == pytest.approx(40)
        assert glyph.y == pytest.approx(2 * (HEIGHT - 120 - 0.3 * 20), abs=0.1)
        assert glyph.x == pytest.approx(
            2 * (40 + 12 * (cell + 0.5)), abs=3
        )  # the ink is not quite in its cell's middle


def test_size_includes_the_text_matrix() -> None:
    _, glyphs = read_pdf(pdf_of("BT /F1 1 Tf 15 0 0 15 40 120 Tm (H) Tj ET"), 1.0)
    assert glyphs[0].size == pytest.approx(15)
    assert glyphs[0].y == pytest.approx(HEIGHT - 120 - 0.3 * 15, abs=0.1)


def test_text_that_runs_upwards() -> None:
    _, glyphs = read_pdf(pdf_of("BT /F1 20 Tf 0 1 -1 0 100 40 Tm (Hop) Tj ET"), 1.0)
    for number, glyph in enumerate(glyphs):
        assert glyph.x == pytest.approx(100 - 0.3 * 20, abs=0.1)
        assert glyph.y == pytest.approx(HEIGHT - 40 - 12 * (number + 0.5), abs=2)


def test_ink_lies_under_the_centres() -> None:
    image, glyphs = read_pdf(pdf_of("BT /F1 24 Tf 30 60 Td (HEM) Tj ET"), 2.0)
    dark = np.asarray(image.convert("L")) < 128
    for glyph in glyphs:
        x, y, reach = int(glyph.x), int(glyph.y), int(glyph.size * 0.25)
        assert dark[y - reach : y + reach, x - reach : x + reach].any()
    assert dark.sum() > 0
    dark[:, int(glyphs[0].x - 24) : int(glyphs[-1].x + 24)] = False
    assert not dark.any()


def test_what_lies_outside_the_page_is_not_printed() -> None:
    _, glyphs = read_pdf(pdf_of("BT /F1 20 Tf 290 100 Td (abc) Tj ET"), 1.0)
    assert [glyph.char for glyph in glyphs] == ["a"]


def row(text: str, x: float = 0.0, y: float = 0.0) -> list[Glyph]:
    return [Glyph(char, x + 6 * place, y, 10) for place, char in enumerate(text) if char != " "]


def test_locate_prefers_a_text_that_stands_alone() -> None:
    glyphs = row("120") + row("12", x=100)
    found = locate(glyphs, "12")
    assert found is not None
    assert found.glyphs == (3, 4)


def test_locate_takes_part_of_a_line_and_keeps_blanks() -> None:
    glyphs = row("Net total due")
    found = locate(glyphs, "total due")
    assert found is not None
    assert found.text == "total due"
    assert found.glyphs == (3, 4, 5, 6, 7, None, 8, 9, 10)


def test_locate_goes_on_after_what_was_found() -> None:
    glyphs = row("7") + row("7", y=50)
    first, second = locate(glyphs, "7"), locate(glyphs, "7", after=1)
    assert first is not None
    assert second is not None
    assert (first.glyphs, second.glyphs) == ((0,), (1,))
    assert locate(glyphs, "7", after=2) is None
    assert locate(glyphs, "8") is None
    assert locate(glyphs, " ") is None


def test_locate_all_demands_every_character() -> None:
    glyphs = row("a b") + row("cd", y=20)
    assert [text.glyphs for text in locate_all(glyphs, ["a b", "cd"])] == [(0, None, 1), (2, 3)]
    with pytest.raises(UsageError, match="the page prints"):
        locate_all(glyphs, ["a", "cd"])
