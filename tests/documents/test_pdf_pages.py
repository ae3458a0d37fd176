"""Pages of PDFs: right places of words, whatever the box and the rotation, and a row with a code for hostile ones."""

from __future__ import annotations

import mmap
import os
import signal
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pikepdf
import pytest
from fontTools.ttLib import TTFont
from PIL import Image as PILImage

from tessera.documents import pdf as pdf_module
from tessera.documents.limits import PageLimits
from tessera.documents.page import Box, Page, PageError
from tessera.documents.pages import read_pages
from tessera.errors import DocumentError, UsageError
from tests.documents.files import (
    A4,
    add_page,
    image_bytes,
    long_pdf,
    mail_bytes,
    pdf_bytes,
    saved,
    scan,
    text_at,
    written,
    zip_bytes,
)

# Advance widths of Helvetica in thousandths of the type size, from Adobe's metrics of the standard fonts.
HELVETICA = {
    "T": 611,
    "o": 556,
    "t": 278,
    "a": 556,
    "l": 222,
    " ": 278,
    "1": 556,
    "2": 556,
    ".": 278,
    "5": 556,
    "0": 556,
}

CODES = {"damaged", "empty", "unsupported", "password_required", "too_large", "too_many_pages", "crashed", "timeout"}


def width(text: str, size: float) -> float:
    return sum(HELVETICA[sign] for sign in text) * size / 1000


def read(path: Path, **options: object) -> list[Page | PageError]:
    return list(read_pages([path], **options))  # type: ignore[arg-type]


def only(path: Path, **options: object) -> Page:
    (page,) = read(path, **options)
    assert isinstance(page, Page), page
    return page


def failed(path: Path, **options: object) -> PageError:
    (error,) = read(path, **options)
    assert isinstance(error, PageError), error
    return error


def ink_box(page: Page, side: int = 2000) -> tuple[float, float, float, float]:
    """Where the rendered page is dark, in fractions."""
    dark = np.asarray(page.image(side).convert("L")) < 128
    rows, columns = np.nonzero(dark.any(1))[0], np.nonzero(dark.any(0))[0]
    height, across = dark.shape
    return columns[0] / across, rows[0] / height, (columns[-1] + 1) / across, (rows[-1] + 1) / height


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (50, 100, 500, 800)])
def test_words_lie_where_they_were_set_and_where_they_are_seen(
    tmp_path: Path, rotation: int, crop: tuple[float, ...] | None
) -> None:
    more = {"Rotate": rotation} | ({"CropBox": pikepdf.Array(crop)} if crop else {})
    page = only(written(tmp_path / "a.pdf", pdf_bytes(text_at(100, 700, "Total 12.50", 20), **more)))
    assert [word.text for word in page.words] == ["Total", "12.50"]
    assert page.rotation == rotation
    left, bottom, right, top = crop or A4
    across, down = right - left, top - bottom
    assert page.size == ((across, down) if rotation % 180 == 0 else (down, across))
    # By hand: where the two words begin and end along the baseline, upright, from the top left of what is shown.
    ends = [100.0, 100 + width("Total", 20), 100 + width("Total ", 20), 100 + width("Total 12.50", 20)]
    expected = [(end - left) / across for end in ends]
    baseline = (top - 700) / down
    sides = {
        0: lambda box: (box.left, box.right, box.top, box.bottom),
        90: lambda box: (box.top, box.bottom, 1 - box.right, 1 - box.left),
        180: lambda box: (1 - box.right, 1 - box.left, 1 - box.bottom, 1 - box.top),
        270: lambda box: (1 - box.bottom, 1 - box.top, box.left, box.right),
    }[rotation]
    upright = [sides(word.box) for word in page.words]
    assert [end for box in upright for end in box[:2]] == pytest.approx(expected, abs=2e-4)
    for _, _, upper, lower in upright:
        assert upper < baseline - 0.7 * 20 / down < baseline < lower < baseline + 0.3 * 20 / down
    # The pixels agree: all ink is within the words' boxes.
    ink = ink_box(page)
    assert ink[0] >= min(w.box.left for w in page.words) - 0.002
    assert ink[1] >= min(w.box.top for w in page.words) - 0.002
    assert ink[2] <= max(w.box.right for w in page.words) + 0.002
    assert ink[3] <= max(w.box.bottom for w in page.words) + 0.002


def test_boxes_agree_with_an_embedded_fonts_own_metrics(tmp_path: Path) -> None:
    """typst sets the words and matplotlib's DejaVu Sans says how wide they are."""
    import matplotlib
    import typst

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    source = tmp_path / "a.typ"
    source.write_text(
        '#set page(width: 300pt, height: 200pt, margin: 40pt)\n#set text(font: "DejaVu Sans", size: 10pt, '
        "ligatures: false, kerning: false)\nOffice vault 1,250.00"
    )
    page = only(written(tmp_path / "a.pdf", typst.compile(str(source), font_paths=[str(folder)])))
    font = TTFont(folder / "DejaVuSans.ttf")
    advances, names, em = font["hmtx"], font.getBestCmap(), font["head"].unitsPerEm
    assert [word.text for word in page.words] == ["Office", "vault", "1,250.00"]
    left = 40.0
    for word in page.words:
        wide = sum(advances[names[ord(sign)]][0] for sign in word.text) * 10 / em
        assert (word.box.left * 300, word.box.right * 300) == pytest.approx((left, left + wide), abs=0.15)
        left += wide + advances[names[ord(" ")]][0] * 10 / em


def test_a_part_and_a_turn_show_that_part_turned(tmp_path: Path) -> None:
    content = "1 0 0 rg 0 421 297.5 421 re f 0 0 1 rg 297.5 0 297.5 421 re f"  # red top left, blue bottom right
    page = only(written(tmp_path / "a.pdf", pdf_bytes(content)))
    whole = page.image(421)
    assert whole.size == (298, 421)
    assert (whole.getpixel((20, 20)), whole.getpixel((280, 400))) == ((255, 0, 0), (0, 0, 255))
    turned = page.image(421, rotation=90)
    assert turned.size == (421, 298)
    assert turned.getpixel((400, 20)) == (255, 0, 0)
    part = page.image(600, crop=Box(1, 0.5, 0.5, 1.0, 1.0))
    assert max(part.size) == 600
    assert np.asarray(part)[5:-5, 5:-5].reshape(-1, 3).tolist() == [[0, 0, 255]] * (
        (part.width - 10) * (part.height - 10)
    )
    for wrong in ({"side": 0}, {"rotation": 45}, {"crop": Box(1, 0.5, 0.5, 0.5, 1.0)}):
        with pytest.raises(UsageError):
            page.image(**wrong)  # type: ignore[arg-type]


def test_pages_can_be_rendered_after_the_reader_moved_on(tmp_path: Path) -> None:
    first = written(tmp_path / "a.pdf", pdf_bytes(text_at(50, 800, "one"), text_at(50, 400, "two")))
    written(tmp_path / "b.pdf", pdf_bytes(text_at(50, 100, "three")))
    pages = [page for page in read_pages([tmp_path]) if isinstance(page, Page)]
    assert [(page.number, page.count, page.text) for page in pages] == [(1, 2, "one"), (2, 2, "two"), (1, 1, "three")]
    assert [round(ink_box(page)[1], 1) for page in pages] == [0.0, 0.5, 0.9]
    first.write_bytes(pdf_bytes(text_at(50, 100, "other words")))
    with pytest.raises(DocumentError, match="changed") as error:
        pages[0].image(777)
    assert error.value.code == "changed"


def test_what_is_filled_into_a_form_is_drawn(tmp_path: Path) -> None:
    with pikepdf.new() as pdf:
        page = add_page(pdf, text_at(50, 405, "Name:") + text_at(50, 380, "Date:"))
        form = pdf.make_stream(b"/Tx BMC q BT /F 14 Tf 2 4 Td (FILLED) Tj ET Q EMC")
        form.update(
            {"/Type": pikepdf.Name.XObject, "/Subtype": pikepdf.Name.Form, "/BBox": pikepdf.Array([0, 0, 200, 20]),
             "/Resources": page.obj.Resources}
        )  # fmt: skip
        widget = pdf.make_indirect(
            pikepdf.Dictionary(
                Type=pikepdf.Name.Annot, Subtype=pikepdf.Name.Widget, FT=pikepdf.Name.Tx, T="name", V="FILLED", F=4,
                Rect=pikepdf.Array([100, 400, 300, 420]), AP=pikepdf.Dictionary(N=form), DA="/F 14 Tf 0 g",
            )
        )  # fmt: skip
        page.obj.Annots = pikepdf.Array([widget])
        pdf.Root.AcroForm = pikepdf.Dictionary(Fields=pikepdf.Array([widget]), DR=page.obj.Resources, DA="/F 14 Tf 0 g")
        path = written(tmp_path / "form.pdf", saved(pdf))
    page_read = only(path)
    assert page_read.text.split() == ["Name:", "FILLED", "Date:"]
    box = page_read.words[1].box
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx(
        (100 / 595, 422 / 842, 300 / 595, 442 / 842), abs=1e-4
    )
    dark = np.asarray(page_read.image(842).convert("L")) < 100
    assert dark[422:442, 100:300].sum() > 50


# What they are refused for -------------------------------------------------------------------------------------------


def test_passwords_are_tried_in_order_and_an_owners_alone_locks_nothing(tmp_path: Path) -> None:
    locked = pikepdf.Encryption(user="käse", owner="boss", R=6)
    path = written(tmp_path / "locked.pdf", pdf_bytes(text_at(50, 700, "secret"), save={"encryption": locked}))
    told = {(): "no password was given", ("no",): "the given password does not", ("no", "nor"): "none of the 2 given"}
    for passwords, words in told.items():
        error = failed(path, passwords=passwords)
        assert (error.code, error.number) == ("password_required", None)
        assert words in error.message
        assert "--password-file" in error.message
    assert only(path, passwords=("wrong", "käse")).text == "secret"
    assert failed(path).code == "password_required", "a document that somebody opened is not open for all"
    assert only(path, passwords=("boss",)).text == "secret"
    owned = pikepdf.Encryption(user="", owner="boss", R=6, allow=pikepdf.Permissions(extract=False))
    assert (
        only(written(tmp_path / "o.pdf", pdf_bytes(text_at(50, 700, "open"), save={"encryption": owned}))).text
        == "open"
    )


def test_damaged_files_are_repaired_or_refused(tmp_path: Path) -> None:
    data = pdf_bytes(
        *(text_at(50, 700, f"page {number}") for number in (1, 2, 3)),
        save={"object_stream_mode": pikepdf.ObjectStreamMode.disable},
    )
    start = data.rindex(b"startxref")
    wrong = data[:start] + b"startxref\n7\n%%EOF\n"
    assert [page.text for page in read(written(tmp_path / "x.pdf", wrong)) if isinstance(page, Page)] == [
        "page 1", "page 2", "page 3",
    ]  # fmt: skip
    for cut in (b"%PDF-1.7\n", data[:200], b"%PDF-1.4\n<html>not really</html>"):
        error = failed(written(tmp_path / "cut.pdf", cut))
        assert error.code == "damaged"
        assert "PDFium" not in error.message


def test_no_bytes_no_pages_and_too_many_pages(tmp_path: Path) -> None:
    assert failed(written(tmp_path / "empty.pdf", b"")).code == "empty"
    assert failed(written(tmp_path / "none.pdf", pdf_bytes())).code == "empty"
    many = written(tmp_path / "many.pdf", long_pdf(10_000))
    error = failed(many)
    assert error.code == "too_many_pages"
    assert "10,000" in error.message
    assert "5,000" in error.message
    assert [page.number for page in read(many, pages="9999-,3") if isinstance(page, Page)] == [3, 9999, 10_000]


def test_an_enormous_page_costs_no_more_than_its_rendering(tmp_path: Path) -> None:
    data = pdf_bytes(text_at(2000, 7000, "wide", 400), media=(0, 0, 14_400, 14_400))
    page = only(written(tmp_path / "a.pdf", data))
    assert page.size == (14_400, 14_400)
    assert page.image(512).size == (512, 512)
    with pytest.raises(DocumentError, match="max_pixels") as error:
        page.image(16_000)
    assert error.value.code == "too_large"


def bomb(width: int, height: int, kind: str) -> bytes:
    """A page with an image of few bytes that claims to be enormous."""
    with pikepdf.new() as pdf:
        page = add_page(pdf, text_at(50, 700, "before") + "q 500 0 0 500 50 50 cm /I Do Q")
        data = {"JBIG2Decode": b"\0\0\0\0\x30\0\x01\0\0\0\x13" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
                + bytes(11), "FlateDecode": zlib.compress(bytes(5_000_000))}[kind]  # fmt: skip
        image = pdf.make_stream(data)
        image.update(
            {"/Type": pikepdf.Name.XObject, "/Subtype": pikepdf.Name.Image, "/Width": width, "/Height": height,
             "/ColorSpace": pikepdf.Name.DeviceGray, "/BitsPerComponent": 1 if kind == "JBIG2Decode" else 8,
             "/Filter": pikepdf.Name(f"/{kind}")}
        )  # fmt: skip
        page.obj.Resources.XObject = pikepdf.Dictionary(I=image)
        add_page(pdf, text_at(50, 700, "after"))
        return saved(pdf)


@pytest.mark.parametrize("kind", ["JBIG2Decode", "FlateDecode"])
@pytest.mark.parametrize("side", [60_000, 2_000_000_000])
def test_an_image_that_claims_to_be_enormous_takes_neither_the_memory_nor_the_next_page(
    tmp_path: Path, kind: str, side: int
) -> None:
    rows = read(written(tmp_path / "a.pdf", bomb(side, side, kind)))
    assert [row.number for row in rows] == [1, 2]
    for row in rows:
        assert isinstance(row, Page)
    assert rows[0].image(300).size[1] == 300  # type: ignore[union-attr]
    assert rows[1].image(300).size[1] == 300  # type: ignore[union-attr]


def test_a_crash_and_a_hang_cost_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is stopped or killed while it reads is replaced, and the next page is read."""
    path = written(tmp_path / "a.pdf", pdf_bytes(*(text_at(50, 700, str(number)) for number in range(1, 5))))
    ask = pdf_module._Reader.ask

    def hurt(
        reader: pdf_module._Reader, question: dict[str, object], seconds: float, file: int | None = None
    ) -> object:
        if question.get("page") in (1, 2):
            reader.process.send_signal(signal.SIGKILL if question["page"] == 1 else signal.SIGSTOP)
        return ask(reader, question, seconds, file)

    monkeypatch.setattr(pdf_module._Reader, "ask", hurt)
    rows = read(path, limits=PageLimits(page_seconds=2.0))
    assert [getattr(row, "code", None) or getattr(row, "text", None) for row in rows] == [
        "1",
        "crashed",
        "timeout",
        "4",
    ]
    monkeypatch.setattr(pdf_module._Reader, "ask", ask)
    assert [page.text for page in read(path) if isinstance(page, Page)] == ["1", "2", "3", "4"]


def test_a_document_whose_pages_all_crash_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.pdf", pdf_bytes(*([""] * 20)))
    ask = pdf_module._Reader.ask

    def hurt(
        reader: pdf_module._Reader, question: dict[str, object], seconds: float, file: int | None = None
    ) -> object:
        if question["ask"] == "read":
            reader.process.kill()
        return ask(reader, question, seconds, file)

    monkeypatch.setattr(pdf_module._Reader, "ask", hurt)
    rows = read(path)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, None]
    assert all(isinstance(row, PageError) and row.code == "crashed" for row in rows)


def test_children_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "MAX_PAGES_OF_CHILD", 3)
    path = written(tmp_path / "a.pdf", pdf_bytes(*(text_at(50, 700, str(number)) for number in range(8))))
    seen = []
    for page in read_pages([path]):
        assert isinstance(page, Page)
        seen.append((page.text, pdf_module._READERS._idle[-1].process.pid))
    assert [text for text, _ in seen] == [str(number) for number in range(8)]
    assert sum(one != two for (_, one), (_, two) in pairwise(seen)) >= 2
    for pid in {pid for _, pid in seen[:4]}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# Other files ---------------------------------------------------------------------------------------------------------


def test_colours_of_print_mixed_sizes_and_images_alone(tmp_path: Path) -> None:
    with pikepdf.new() as pdf:
        add_page(pdf, "0 1 1 0 k 0 0 595 842 re f")
        page = add_page(pdf, "q 400 0 0 300 0 0 cm /I Do Q", media=(0, 0, 400, 300))
        ink = scan(size=(800, 600), lines=8).convert("CMYK")
        image = pdf.make_stream(image_bytes(ink, "JPEG"))
        image.update(
            {"/Type": pikepdf.Name.XObject, "/Subtype": pikepdf.Name.Image, "/Width": 800, "/Height": 600,
             "/ColorSpace": pikepdf.Name.DeviceCMYK, "/BitsPerComponent": 8, "/Filter": pikepdf.Name.DCTDecode,
             "/Decode": pikepdf.Array([1, 0] * 4)}
        )  # fmt: skip
        page.obj.Resources.XObject = pikepdf.Dictionary(I=image)
        path = written(tmp_path / "a.pdf", saved(pdf))
    red, scanned = read(path)
    assert isinstance(red, Page)
    assert isinstance(scanned, Page)
    r, g, b = red.image(100).getpixel((50, 50))  # type: ignore[misc]
    assert r > 200 > 90 > max(g, b)
    assert (scanned.size, scanned.words, scanned.blank) == ((400, 300), (), False)
    assert scanned.image(1000).size == (1000, 750)
    assert np.asarray(scanned.image(800)).mean() > 200


def test_a_text_layer_of_junk_is_none(tmp_path: Path) -> None:
    """A font without a mapping to characters: its codes say nothing."""
    for junk in ("(cid:12)(cid:7)(cid:99)(cid:4)", "\u2022 \x01\x03\x04\x05\x06 \x07\x0e\x0f\x10\x11"):
        content = (
            b"BT /F 12 Tf 50 700 Td (" + junk.replace("(", r"\(").replace(")", r"\)").encode("cp1252") + b") Tj ET"
        )
        with pikepdf.new() as pdf:
            add_page(pdf, content)
            page = only(written(tmp_path / "a.pdf", saved(pdf)))
        assert page.words == ()


def test_names_say_nothing(tmp_path: Path) -> None:
    page = only(written(tmp_path / "a.pdf", image_bytes(scan(), "PNG")))
    assert (page.size, page.count) == ((1240, 1754), 1)
    assert only(written(tmp_path / "b.png", pdf_bytes(text_at(50, 700, "words")))).text == "words"
    assert failed(written(tmp_path / "c.pdf", b"\0\1\2 nothing")).code == "unsupported"
    assert isinstance(page.image(100), PILImage.Image)


def test_threads_render_pages_of_several_documents_at_once(tmp_path: Path) -> None:
    for number in range(3):
        lines = (text_at(50, 780 - 60 * number - 200 * page, "line", 40) for page in range(3))
        written(tmp_path / f"{number}.pdf", pdf_bytes(*lines))
    pages = [page for page in read_pages([tmp_path]) if isinstance(page, Page)]
    assert len(pages) == 9
    alone = [ink_box(page, 400) for page in pages]
    assert len(set(alone)) == 9
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert list(pool.map(lambda page: ink_box(page, 400), pages)) == alone


def test_whatever_is_changed_in_a_file_its_rows_have_codes(tmp_path: Path) -> None:
    """Bytes of every kind of document are overwritten, cut and doubled: each file is read or refused, never a stop."""
    random = np.random.default_rng(11)
    scanned = image_bytes(scan(size=(200, 280), em=12), "TIFF", save_all=True, append_images=[scan(size=(90, 60))])
    good = [
        pdf_bytes(text_at(50, 700, "one"), text_at(50, 700, "two")),
        pdf_bytes(text_at(50, 700, "x"), save={"object_stream_mode": pikepdf.ObjectStreamMode.generate}),
        zip_bytes({"a.pdf": pdf_bytes(text_at(50, 700, "one")), "b.tif": scanned}),
        mail_bytes("words", attach=lambda m: m.add_attachment(scanned, maintype="image", subtype="tiff", filename="a")),
        scanned,
    ]
    for number in range(60):
        data = bytearray(good[number % len(good)])
        for place in random.integers(0, len(data), int(random.integers(1, 40))):
            data[place] = int(random.integers(0, 256))
        data = data[: int(random.integers(len(data) // 2, len(data)))] if number % 3 == 0 else data
        for row in read(written(tmp_path / "a", bytes(data))):
            if isinstance(row, PageError):
                assert row.code in CODES
            else:
                row.image(64)


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_pages(tmp_path: Path) -> None:
    """Ours and the children's; the first 200 pages are left out, since they fill caches."""
    lines = "".join(text_at(50, 800 - 20 * row, "Item 17  12.50  4  50.00") for row in range(25))
    path = written(tmp_path / "a.pdf", pdf_bytes(*(lines + text_at(50, 30, f"page {n}") for n in range(2000))))
    most = {"first": 0, "rest": 0}
    for page in read_pages([path]):
        assert isinstance(page, Page)
        page.image()
        pids = [os.getpid(), *(reader.process.pid for reader in pdf_module._READERS._idle)]
        used = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE for pid in pids)
        part = "first" if page.number <= 400 else "rest"
        most[part] = max(most[part], used)
    assert most["rest"] < most["first"] + 40 * 2**20
