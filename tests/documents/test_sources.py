"""Paths become documents in order, within limits: folders, patterns, archives, mails, images and office documents."""

from __future__ import annotations

import io
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from tessera.documents import office, sources
from tessera.documents.kinds import MAX_DIRECTORY_BYTES, kind_of
from tessera.documents.limits import PageLimits
from tessera.documents.page import Page, PageError
from tessera.documents.pages import read_pages
from tessera.documents.sources import Source, find_sources
from tessera.errors import DocumentError, UsageError
from tests.documents.files import image_bytes, mail_bytes, pdf_bytes, scan, text_at, written, zip_bytes

ONE = pdf_bytes(text_at(50, 700, "one"))
TWO = pdf_bytes(text_at(50, 700, "two"), text_at(50, 700, "three"))


def rows(*paths: Path | str, **options: object) -> list[tuple[str, object]]:
    """What was read: names from the last folder on, with the pages' words or the errors' codes."""
    found: Iterator[Page | PageError] = read_pages(paths, **options)  # type: ignore[arg-type]
    return [(row.document, row.code if isinstance(row, PageError) else row.text) for row in found]


def test_folders_are_sorted_and_searched_below_and_links_are_entered_once(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    written(tmp_path / "b" / "z.pdf", ONE)
    written(tmp_path / "a.pdf", TWO)
    written(tmp_path / "c.txt", b"just words")
    written(tmp_path / ".hidden", b"")
    written(tmp_path / "Thumbs.db", b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "d.pdf").symlink_to(tmp_path / "missing.pdf")
    at = str(tmp_path)
    assert rows(tmp_path) == [
        (f"{at}/a.pdf", "two"), (f"{at}/a.pdf", "three"), (f"{at}/b/z.pdf", "one"), (f"{at}/c.txt", "unsupported"),
        (f"{at}/d.pdf", "not_found"),
    ]  # fmt: skip
    assert rows(f"{at}/**/*.pdf", pages="-1")[:2] == [(f"{at}/a.pdf", "three"), (f"{at}/b/z.pdf", "one")]
    assert rows(tmp_path, limits=PageLimits(max_files=2)) == [(at, "too_large")]


def test_what_is_missing_or_closed_is_a_row_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, closed = written(tmp_path / "good.pdf", ONE), written(tmp_path / "closed.pdf", ONE)
    os.mkfifo(tmp_path / "pipe")
    real = os.open

    def refuse(path: object, *rest: object, **more: object) -> int:
        if path == closed:
            raise PermissionError
        return real(path, *rest, **more)  # type: ignore[arg-type, call-overload, no-any-return]

    monkeypatch.setattr(sources.os, "open", refuse)
    given = [tmp_path / "no.pdf", closed, tmp_path / "*.doc", tmp_path / "pipe", "\0", "x" * 5000, good]
    assert [code for _, code in rows(*given)] == [
        "not_found", "no_permission", "not_found", "unsupported", "not_found", "not_found", "one",
    ]  # fmt: skip


def test_one_path_is_no_sequence_of_letters_and_brackets_are_names_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a[1].pdf", ONE)
    (page,) = read_pages(str(path))
    assert isinstance(page, Page)
    assert rows(path) == [(str(path), "one")]


def test_sizes_are_bounded_and_errors_name_value_limit_and_way_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pdf", TWO)
    for limits, code, limit in (
        (PageLimits(max_bytes=100), "too_large", "max_bytes"),
        (PageLimits(max_pages=1), "too_many_pages", "max_pages"),
    ):
        (error,) = read_pages([path], limits=limits)
        assert isinstance(error, PageError)
        assert error.code == code
        assert limit in error.message
    assert rows(path, pages="7-9") == [(str(path), "no_such_page")]
    with pytest.raises(UsageError, match="max_pages"):
        PageLimits(max_pages=0)
    with pytest.raises(UsageError):
        read_pages([path], pages="first")


# Archives -----------------------------------------------------------------------------------------------------------


def test_members_are_read_by_name_and_nothing_is_written_to_their_names(tmp_path: Path) -> None:
    inner = zip_bytes({"deep.pdf": TWO, "deeper.zip": zip_bytes({"x.zip": zip_bytes({"y.pdf": ONE})})})
    members = {"b.pdf": ONE, "../../slip.pdf": ONE, "/etc/passwd.pdf": ONE, "a/inner.zip": inner, "__MACOSX/._b": b"x",
               "folder/": b"", "bad.pdf": b"%PDF-1.7"}  # fmt: skip
    path = written(tmp_path / "a.zip", zip_bytes(members))
    pages = list(read_pages([path]))
    assert [(row.document.removeprefix(f"{path}/"), getattr(row, "code", None)) for row in pages] == [
        ("slip.pdf", None), ("etc/passwd.pdf", None), ("a/inner.zip/deep.pdf", None), ("a/inner.zip/deep.pdf", None),
        ("a/inner.zip/deeper.zip", "too_large"), ("b.pdf", None), ("bad.pdf", "damaged"),
    ]  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]
    third = pages[3]
    assert isinstance(third, Page)
    assert (third.text, third.image(200).size) == ("three", (141, 200))  # unpacked again


def test_members_of_one_name_are_documents_of_their_own(tmp_path: Path) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of the zip's own writer, about the name that comes twice
        for name in ("a.pdf", "a.pdf", "../a.pdf", "b.d/readme", "b.d/readme"):
            archive.writestr(name, ONE)
    path = written(tmp_path / "a.zip", file.getvalue())
    found = list(dict.fromkeys(name.removeprefix(f"{path}/") for name, _ in rows(path)))
    assert found == ["a.pdf", "a (2).pdf", "a (3).pdf", "b.d/readme", "b.d/readme (2)"]


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = zip_bytes({"a.pdf": b"%PDF-1.7" + bytes(30_000_000), "b.pdf": ONE})
    path = written(tmp_path / "a.zip", bomb)
    assert [code for _, code in rows(path)] == ["too_large", "one"]
    assert [code for _, code in rows(path, limits=PageLimits(max_members=1))] == ["too_large"]
    assert [code for _, code in rows(path, limits=PageLimits(max_unpacked_bytes=10**7))] == ["too_large"] * 2
    small = zip_bytes({"a.pdf": ONE})
    lying = bytearray(small)
    place = small.rindex(b"PK\1\2") + 24  # the size in the list of members
    lying[place : place + 4] = (10).to_bytes(4, "little")
    assert [code for _, code in rows(written(tmp_path / "b.zip", bytes(lying)))] == ["damaged"]
    huge = bytearray(small)
    huge[-10:-6] = (MAX_DIRECTORY_BYTES + 1).to_bytes(4, "little")
    assert [code for _, code in rows(written(tmp_path / "c.zip", bytes(huge)))] == ["too_large"]
    assert [code for _, code in rows(written(tmp_path / "d.zip", small[:-30]))] == ["damaged"]
    assert [code for _, code in rows(written(tmp_path / "e.zip", zip_bytes({})))] == ["empty"]


def zip_crypto(name: str, data: bytes, password: bytes) -> bytes:
    """A zip locked by the format's first cipher (APPNOTE.TXT 6.1), which the standard library only reads."""
    import zlib

    table = [0] * 256
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table[number] = value
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = keys[0] >> 8 ^ table[(keys[0] ^ byte) & 0xFF]
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = keys[2] >> 8 ^ table[(keys[2] ^ keys[1] >> 24) & 0xFF]

    for byte in password:
        update(byte)
    crc = zlib.crc32(data)
    locked = bytearray()
    for byte in bytes(11) + bytes([crc >> 24]) + data:
        middle = keys[2] | 2
        locked.append(byte ^ (middle * (middle ^ 1) >> 8 & 0xFF))
        update(byte)
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, bytes(locked))
    raw = bytearray(plain.getvalue())
    for signature, flags, sum_at in ((b"PK\3\4", 6, 14), (b"PK\1\2", 8, 16)):
        at = raw.index(signature)
        raw[at + flags] |= 1
        raw[at + sum_at : at + sum_at + 4] = crc.to_bytes(4, "little")
        raw[at + sum_at + 8 : at + sum_at + 12] = len(data).to_bytes(4, "little")
    return bytes(raw)


def test_passwords_open_archives_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", zip_crypto("a.pdf", ONE, b"secret"))
    assert [code for _, code in rows(path)] == ["password_required"]
    assert [code for _, code in rows(path, passwords=["no", "nor this"])] == ["password_required"]
    assert [code for _, code in rows(path, passwords=["no", "secret"])] == ["one"]


# Mails --------------------------------------------------------------------------------------------------------------


def test_a_mails_attachments_are_its_documents_and_a_logo_is_none(tmp_path: Path) -> None:
    def attach(message: EmailMessage) -> None:
        message.add_attachment(TWO, maintype="application", subtype="pdf", filename="in/voice.pdf")
        message.add_attachment(ONE, maintype="application", subtype="octet-stream")
        logo = image_bytes(scan(), "PNG")
        message.add_attachment(logo, maintype="image", subtype="png", filename="l.png", cid="<1>", disposition="inline")

    path = written(tmp_path / "a.eml", mail_bytes("See the invoice.", attach=attach))
    assert rows(path) == [(f"{path}/in/voice.pdf", "two"), (f"{path}/in/voice.pdf", "three"),
                          (f"{path}/attachment-2", "one")]  # fmt: skip


def test_a_mail_without_attachments_is_its_text(tmp_path: Path) -> None:
    text = "Total: 12.50\n\n" + "word " * 60 + "\n" + "\n".join(f"line {number}" for number in range(60))
    first, second = read_pages([written(tmp_path / "a.eml", mail_bytes(text))])
    assert isinstance(first, Page)
    assert isinstance(second, Page)
    assert first.text.startswith(
        "From: shop@example.com\nTo: me@example.com\nSubject: Your invoice\nTotal: 12.50\nword"
    )
    assert second.text.endswith("line 59")
    assert (first.count, second.number) == (2, 2)
    with pytest.raises(DocumentError, match=r"11306 x 16000 pixels.*max_pixels"):
        first.image(16_000)
    dark = np.asarray(first.image(1600).convert("L")) < 128
    height, width = dark.shape
    for word in first.words[:12]:
        sides = (word.box.left * width, word.box.top * height, word.box.right * width, word.box.bottom * height)
        box = [round(side) for side in sides]
        assert dark[box[1] : box[3], box[0] : box[2]].any()
    html = mail_bytes(
        "", html="<html><head><title>t</title></head><body><p>Paid <b>12.50</b><br>Thanks</p></body></html>"
    )
    message = html.replace(b"text/plain", b"text/x-none")
    (page,) = read_pages([written(tmp_path / "b.eml", message)])
    assert isinstance(page, Page)
    assert page.text.splitlines()[-2:] == ["Paid 12.50", "Thanks"]


def test_damaged_mails_are_shown_as_they_are_or_refused(tmp_path: Path) -> None:
    text = "From: shop@\nTo: <me@\nSubject: =?x?q?=\n\nTotal 12.50\n"
    (page,) = read_pages([written(tmp_path / "a.eml", text.encode())])
    assert isinstance(page, Page)
    assert page.text.endswith("Total 12.50")
    nested = "From: a@b.c\nSubject: x\n" + "".join(
        f"Content-Type: multipart/mixed; boundary={n}\n\n--{n}\n" for n in range(3000)
    )
    path = written(tmp_path / "b.eml", nested.encode())
    assert rows(path) == [(str(path), "damaged")]


# Images -------------------------------------------------------------------------------------------------------------


def test_every_image_of_a_tiff_is_a_page(tmp_path: Path) -> None:
    images = [PILImage.new("L", (100 + number, 80), 255) for number in range(40)]
    for number, image in enumerate(images):
        image.paste(0, (10, 10, 12 + number, 40))
    for kind in ("tiff_deflate", "group4"):
        whole = [image.convert("1") if kind == "group4" else image for image in images]
        data = image_bytes(whole[0], "TIFF", save_all=True, append_images=whole[1:], compression=kind)
        pages = list(read_pages([written(tmp_path / "a.tif", data)]))
        assert len(pages) == 40
        for number, page in enumerate(pages):
            assert isinstance(page, Page), page
            assert (page.number, page.count, page.size) == (number + 1, 40, (100 + number, 80))
            assert (np.asarray(page.image(500).convert("L")) < 128).sum() == 30 * (2 + number)
        assert [row.number for row in read_pages([tmp_path / "a.tif"], pages="39-")] == [39, 40]
        cut = list(read_pages([written(tmp_path / "b.tif", data[: len(data) // 2])]))
        assert cut
        assert {getattr(row, "code", "damaged") for row in cut} == {"damaged"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF"])
def test_images_are_pages_and_are_not_enlarged(tmp_path: Path, kind: str) -> None:
    (page,) = read_pages([written(tmp_path / "a", image_bytes(scan(size=(600, 300), lines=4), kind))])
    assert isinstance(page, Page)
    assert (page.size, page.count, page.words, page.blank) == ((600, 300), 1, (), False)
    assert (page.image(300).size, page.image(1024).size) == ((300, 150), (600, 300))
    assert page.image(300, rotation=270).size == (150, 300)


def test_photos_are_turned_as_their_camera_was_and_animations_give_their_first_image(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[0x112] = 6
    (photo,) = read_pages([written(tmp_path / "a.jpg", image_bytes(scan(size=(600, 300)), "JPEG", exif=exif))])
    assert isinstance(photo, Page)
    assert photo.size == (300, 600)
    frames = [PILImage.new("RGB", (40, 30), color) for color in ("red", "blue")]
    data = image_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (first,) = read_pages([written(tmp_path / "a.gif", data)])
    assert isinstance(first, Page)
    assert first.image().getpixel((5, 5)) == (255, 0, 0)


def test_images_that_cannot_be_read_have_codes(tmp_path: Path) -> None:
    good = image_bytes(scan(), "PNG")
    for data, limits, code in (
        (good[:2000], PageLimits(), "damaged"),
        (good, PageLimits(max_pixels=1000), "too_large"),
        (b"GIF89a", PageLimits(), "damaged"),
    ):
        (row,) = read_pages([written(tmp_path / "a.png", data)], limits=limits)
        assert isinstance(row, PageError)
        assert (row.code, row.number) == (code, 1)


# Office documents ---------------------------------------------------------------------------------------------------


OFFICE = {
    ".docx": zip_bytes({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}),
    ".xlsx": zip_bytes({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}),
    ".pptx": zip_bytes({"[Content_Types].xml": b"<x/>", "ppt/presentation.xml": b"<x/>"}),
    ".odt": zip_bytes({"mimetype": b"application/vnd.oasis.opendocument.text", "content.xml": b"<x/>"}),
    ".ods": zip_bytes({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "content.xml": b"<x/>"}),
    ".odp": zip_bytes({"mimetype": b"application/vnd.oasis.opendocument.presentation", "content.xml": b"<x/>"}),
    ".rtf": b"{\\rtf1 words}",
}
FAKE = """#!{python} -S
import os, pathlib, sys, time
given = sys.argv[1:]
out, document = pathlib.Path(given[given.index("--outdir") + 1]), pathlib.Path(given[-1])
assert "--headless" in given and given[given.index("--convert-to") + 1] == "pdf"
(profile,) = [each.partition("=")[2] for each in given if each.startswith("-env:UserInstallation=file://")]
assert "DisableMacrosExecution" in pathlib.Path(profile[7:], "user", "registrymodifications.xcu").read_text()
assert os.environ["https_proxy"] and os.environ["HOME"] != {home!r}
pathlib.Path({log!r}).open("a").write(document.suffix + " " + str(os.getpid()) + "\\n")
if {hang}:
    time.sleep(100)
if document.read_bytes().find(b"BROKEN") < 0:
    out.mkdir(parents=True)
    (out / (document.stem + ".pdf")).write_bytes(pathlib.Path({pdf!r}).read_bytes())
"""


def fake_soffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hang: bool = False) -> Path:
    """Put a program on the path that behaves like LibreOffice, and return what it notes of its runs."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    pdf = written(tmp_path / "printed", TWO)
    text = FAKE.format(python=sys.executable, home=os.environ.get("HOME"), log=str(log), hang=hang, pdf=str(pdf))
    program = folder / "soffice"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(office, "_PRINTED", office._Printed())
    return log


@pytest.mark.parametrize("ending", list(OFFICE))
def test_office_documents_are_printed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    log = fake_soffice(tmp_path, monkeypatch)
    path = written(tmp_path / "wrong.name", OFFICE[ending])
    pages = list(read_pages([path]))
    assert [(row.document, getattr(row, "text", None)) for row in pages] == [(str(path), "two"), (str(path), "three")]
    assert [line.split()[0] for line in log.read_text().splitlines()] == [ending]
    assert isinstance(pages[0], Page)
    assert pages[0].image(300).size == (212, 300)


def test_printed_documents_are_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_soffice(tmp_path, monkeypatch)
    paths = [written(tmp_path / f"{number}.rtf", b"{\\rtf1 %d}" % number) for number in range(3)]
    for _ in range(2):
        assert len(list(read_pages(paths))) == 6
    assert len(log.read_text().splitlines()) == 3
    monkeypatch.setattr(office, "MAX_KEPT_BYTES", 1)
    assert len(list(read_pages(paths[::-1]))) == 6
    assert len(log.read_text().splitlines()) == 5  # the last one was there, and each pushes out the one before
    assert len(office._PRINTED._kept) == 1


def test_without_libreoffice_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office.shutil, "which", lambda name: None)
    (row,) = read_pages([written(tmp_path / "a.docx", OFFICE[".docx"] + b" ")])
    assert isinstance(row, PageError)
    assert row.code == "needs_libreoffice"
    assert "install" in row.message


def test_a_conversion_that_hangs_or_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_soffice(tmp_path, monkeypatch, hang=True)
    path = written(tmp_path / "a.rtf", b"{\\rtf1 slow}")
    assert [code for _, code in rows(path, limits=PageLimits(convert_seconds=1.5))] == ["timeout"]
    pid = int(log.read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    program = tmp_path / "bin" / "soffice"
    program.write_text(program.read_text().replace("if True", "if False"))
    assert [code for _, code in rows(written(tmp_path / "b.rtf", b"{\\rtf1 BROKEN}"))] == ["damaged"]


def test_locked_and_foreign_office_files_say_what_to_do(tmp_path: Path) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    for name, code in (("EncryptedPackage", "password_required"), ("__substg1.0_0037001F", "unsupported")):
        path = written(tmp_path / "a.doc", ole + name.encode("utf-16-le"))
        assert [found for _, found in rows(path)] == [code]
    assert kind_of(io.BytesIO(ole)) == "office"


def test_what_holds_a_pdf_uncompressed_near_its_beginning_is_no_pdf(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:  # stored, as archivers do with PDFs
        archive.writestr("one.pdf", ONE)
        archive.writestr("two.pdf", TWO)
    assert {Path(str(name)).name for name, _ in rows(tmp_path / "a.zip")} == {"one.pdf", "two.pdf"}
    mail = written(tmp_path / "a.eml", b"From: a@example.org\r\nSubject: b\r\n\r\nIt begins with %PDF-1.4, always.\r\n")
    assert [str(text).splitlines()[-1] for _, text in rows(mail)] == ["It begins with %PDF-1.4, always."]
    assert kind_of(io.BytesIO(mail.read_bytes())) == "mail"


def test_a_runs_own_files_are_no_documents_of_their_folder(tmp_path: Path) -> None:
    for name in ("a.pdf", "out.csv", "inner/out.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for given in (tmp_path, f"{tmp_path}/**"):
        found = find_sources([given], PageLimits(), skip=[tmp_path / "inner/../out.csv"])
        names = [Path(each.name).relative_to(tmp_path).as_posix() for each in found if isinstance(each, Source)]
        assert sorted(names) == ["a.pdf", "inner/out.csv"]


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / ".DS_Store").write_bytes(b"x")
    (error,) = find_sources([tmp_path], PageLimits())
    assert isinstance(error, PageError)
    assert (error.code, error.number) == ("empty", None)
