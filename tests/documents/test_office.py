"""LibreOffice itself, where it is installed: what it prints, and what documents may not make it do."""

from __future__ import annotations

import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import xlsxwriter
from PIL import Image as PILImage

from tessera.documents import office, read_pages
from tessera.documents.limits import PageLimits
from tessera.documents.page import Page, PageError
from tests.documents.files import written, zip_bytes

needs_office = pytest.mark.skipif(
    not any(map(shutil.which, office.PROGRAMS)), reason="LibreOffice is not installed; see documents/office.py"
)
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    f'xmlns:r="{RELATIONS}" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"'
)
ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{space}:1.0"'
    for name, space in (
        ("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"), ("svg", "svg-compatible"),
        ("script", "script"), ("presentation", "presentation"),
    )
) + ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:of="urn:oasis:names:tc:opendocument:xmlns:of:1.2"'  # fmt: skip


def docx(body: str, image: str = "") -> bytes:
    """A text document; `image` is the address of a picture that it shows without having it."""
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    types = (
        f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>'
    )
    start = f'<Relationship Id="r1" Type="{RELATIONS}/officeDocument" Target="word/document.xml"/>'
    link = f'<Relationship Id="i1" Type="{RELATIONS}/image" Target="{image}" TargetMode="External"/>' if image else ""
    drawn = (
        '<w:p><w:r><w:drawing><wp:inline><wp:extent cx="2000000" cy="2000000"/><wp:docPr id="1" name="x"/><a:graphic>'
        '<a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:pic><pic:nvPicPr>'
        '<pic:cNvPr id="0" name="x"/><pic:cNvPicPr/></pic:nvPicPr><pic:blipFill><a:blip r:link="i1"/><a:stretch>'
        '<a:fillRect/></a:stretch></pic:blipFill><pic:spPr><a:xfrm><a:off x="0" y="0"/><a:ext cx="2000000" '
        'cy="2000000"/></a:xfrm><a:prstGeom prst="rect"><a:avLst/></a:prstGeom></pic:spPr></pic:pic></a:graphicData>'
        "</a:graphic></wp:inline></w:drawing></w:r></w:p>"
    )
    relations = f'<Relationships xmlns="{PACKAGE}/relationships">{{}}</Relationships>'
    members = {
        "[Content_Types].xml": types,
        "_rels/.rels": relations.format(start),
        "word/_rels/document.xml.rels": relations.format(link),
        "word/document.xml": f"<w:document {WORD}><w:body>{body}{drawn if image else ''}</w:body></w:document>",
    }
    return zip_bytes({name: text.encode() for name, text in members.items()})


def line(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def opendocument(kind: str, body: str, scripts: str = "", **parts: str) -> bytes:
    """An OpenDocument file; further `parts` lie in its folder Basic."""
    kind = f"application/vnd.oasis.opendocument.{kind}"
    files = {f"Basic/{name.replace('__', '/')}.xml": text for name, text in parts.items()}
    entries = "".join(
        f'<manifest:file-entry manifest:full-path="{name}" manifest:media-type="{media}"/>'
        for name, media in (("/", kind), *((name, "text/xml") for name in ("content.xml", *files)))
    )
    manifest = (
        '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" '
        f'manifest:version="1.2">{entries}</manifest:manifest>'
    )
    content = (
        f'<office:document-content {ODF} office:version="1.2">{scripts}<office:body>{body}</office:body>'
        "</office:document-content>"
    )
    members = {"mimetype": kind, "META-INF/manifest.xml": manifest, "content.xml": content, **files}
    return zip_bytes({name: text.encode() for name, text in members.items()}, zipfile.ZIP_STORED)


def odt(body: str, scripts: str = "", **parts: str) -> bytes:
    return opendocument("text", f"<office:text>{body}</office:text>", scripts, **parts)


def ods(*cells: str) -> bytes:
    rows = "".join(f"<table:table-row>{cell}</table:table-row>" for cell in cells)
    table = f'<table:table table:name="S">{rows}</table:table>'
    return opendocument("spreadsheet", f"<office:spreadsheet>{table}</office:spreadsheet>")


def formula(text: str) -> str:
    return (
        f'<table:table-cell table:formula="of:={text}" office:value-type="string"><text:p>old</text:p>'
        "</table:table-cell>"
    )


@pytest.fixture
def watched() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the paths that anybody has asked it for."""
    asked: list[str] = []

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_OPTIONS = do_PROPFIND = do_GET

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@needs_office
def test_every_kind_is_printed_with_its_text(tmp_path: Path) -> None:
    written(tmp_path / "a.docx", docx(line("Invoice 4711") + line("Total 119.00")))
    written(tmp_path / "b.odt", odt("<text:p>Offer 22</text:p>"))
    written(tmp_path / "c.rtf", rb"{\rtf1 Reminder 9}")
    slide = '<draw:frame svg:width="10cm" svg:height="3cm" svg:x="2cm" svg:y="2cm"><draw:text-box><text:p>Slide one'
    body = f'<office:presentation><draw:page draw:name="p">{slide}</text:p></draw:text-box></draw:frame></draw:page>'
    written(tmp_path / "d.odp", opendocument("presentation", f"{body}</office:presentation>"))
    with xlsxwriter.Workbook(str(tmp_path / "e.xlsx")) as book:
        book.add_worksheet().write_row(0, 0, ["Paper", 60.5])
    pages = list(read_pages(tmp_path))
    assert [page.text.split("\n")[-1] for page in pages if isinstance(page, Page)] == [
        "Total 119.00", "Offer 22", "Reminder 9", "Slide one", "Paper 60.5",
    ]  # fmt: skip
    assert all(page.words for page in pages if isinstance(page, Page))


@pytest.mark.slow
@needs_office
def test_a_document_reaches_neither_the_network_nor_other_files_nor_runs_its_macros(
    tmp_path: Path, watched: tuple[str, list[str]]
) -> None:
    url, asked = watched
    outside, inside = tmp_path / "outside", tmp_path / "documents"
    outside.mkdir()
    inside.mkdir()
    red = outside / "red.png"
    PILImage.new("RGB", (200, 200), (255, 0, 0)).save(red)
    secret = written(outside / "secret.txt", b"TOPSECRET")
    book = written(outside / "secret.ods", ods('<table:table-cell office:value-type="string"><text:p>TOPSECRET'
                                               "</text:p></table:table-cell>"))  # fmt: skip
    for name, image in (("remote", f"{url}/a.png"), ("local", red.as_uri())):
        written(inside / f"{name}.docx", docx(line("plain"), image))
        frame = f'<draw:image xlink:href="{image}" xlink:type="simple" xlink:show="embed" xlink:actuate="onLoad"/>'
        frame = f'<draw:frame svg:width="5cm" svg:height="5cm" text:anchor-type="as-char">{frame}</draw:frame>'
        written(inside / f"{name}.odt", odt(f"<text:p>plain{frame}</text:p>"))
    source = f'<text:section-source xlink:href="{secret.as_uri()}" xlink:type="simple" text:filter-name="Text"/>'
    section = f'<text:section text:name="s">{source}<text:p>plain</text:p></text:section>'
    written(inside / "section.odt", odt(section))
    cell = formula(f"[&apos;{book.as_uri()}&apos;#$S.A1]")
    web = formula(f"WEBSERVICE(&quot;{url}/web&quot;)") + formula(f"WEBSERVICE(&quot;{secret.as_uri()}&quot;)")
    written(inside / "cells.ods", ods(cell, web))
    field = f'{{\\field{{\\*\\fldinst INCLUDETEXT "{secret.as_uri()}"}}{{\\fldrslt plain}}}}'
    written(inside / "field.rtf", f"{{\\rtf1 {field} {{\\*\\template {url}/t.dot}}}}".encode())
    ran = outside / "ran"
    library = "http://openoffice.org/2000/library"
    macro = f'Sub Hit\nOpen "{ran}" For Output As #1\nPrint #1, "x"\nClose #1\nEnd Sub'
    event = (
        '<office:scripts><office:event-listeners><script:event-listener script:language="ooo:script" '
        'script:event-name="dom:load" xlink:type="simple" '
        'xlink:href="vnd.sun.star.script:Standard.M.Hit?language=Basic&amp;location=document"/>'
        "</office:event-listeners></office:scripts>"
    )
    parts = {
        "Standard__M": f'<script:module xmlns:script="http://openoffice.org/2000/script" script:name="M" '
        f'script:language="StarBasic">{macro}</script:module>',
        "Standard__script-lb": f'<library:library xmlns:library="{library}" library:name="Standard" '
        'library:readonly="false" library:passwordprotected="false"><library:element library:name="M"/>'
        "</library:library>",
        "script-lc": f'<library:libraries xmlns:library="{library}"><library:library library:name="Standard" '
        'library:link="false"/></library:libraries>',
    }
    written(inside / "macro.odt", odt("<text:p>plain</text:p>", event, **parts))
    pages = list(read_pages(inside))
    assert all(isinstance(page, Page) for page in pages)
    for page in pages:
        assert isinstance(page, Page)
        assert "TOPSECRET" not in page.text, page.document
        colours = page.image(400).convert("RGB").getcolors(2**20) or []
        assert not [count for count, (red_, green, blue) in colours if red_ > 200 and green < 60 and blue < 60]
    assert asked == []
    assert not ran.exists()


def test_what_unpacks_to_too_much_is_refused_before_libreoffice_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "_run", lambda *given: pytest.fail("LibreOffice was started"))
    monkeypatch.setattr(office.shutil, "which", lambda name: "soffice")
    bomb = written(tmp_path / "bomb.docx", docx(line("x" * 20_000_000)))
    (row,) = read_pages(bomb)
    assert isinstance(row, PageError)
    assert (row.code, "max_ratio" in row.message) == ("too_large", True)
    (row,) = read_pages(bomb, limits=PageLimits(max_ratio=10**6, max_unpacked_bytes=10_000_000))
    assert isinstance(row, PageError)
    assert (row.code, "max_unpacked_bytes" in row.message) == ("too_large", True)


@pytest.mark.slow
@needs_office
def test_documents_that_take_too_long_or_are_none_are_rows(tmp_path: Path) -> None:
    """Tables in tables, 3,000 deep; a million rows of a thousand cells; entities that name themselves tenfold."""
    deep = "<w:tbl><w:tr><w:tc>" * 3000 + line("deep") + "<w:p/></w:tc></w:tr></w:tbl>" * 3000
    written(tmp_path / "a.docx", docx(f"{deep}<w:p/>"))
    cells = (
        '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="1000">'
        "<text:p>1</text:p></table:table-cell>"
    )
    rows = f'<table:table-row table:number-rows-repeated="1000000">{cells}</table:table-row>'
    body = f'<office:spreadsheet><table:table table:name="S">{rows}</table:table></office:spreadsheet>'
    written(tmp_path / "b.ods", opendocument("spreadsheet", body))
    found = list(read_pages(tmp_path, limits=PageLimits(convert_seconds=12)))
    assert [row.code for row in found if isinstance(row, PageError)] == ["timeout", "timeout"]
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    told = f'<!DOCTYPE l [<!ENTITY a0 "lol">{entities}]><w:document {WORD}><w:body>{line("&a9;")}</w:body></w:document>'
    with zipfile.ZipFile(
        written(tmp_path / "c.docx", docx("").replace(b"word/document.xml", b"word/documen_.xml")), "a"
    ) as archive:
        archive.writestr("word/document.xml", told)
    (row,) = read_pages(tmp_path / "c.docx")
    assert isinstance(row, PageError)
    assert row.code in ("damaged", "timeout")
