"""The documents page in headless Chromium against the real server with nano: files in, corrected tables out."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pikepdf
import pytest

from tessera.labels import read_labels
from tests.documents.files import pdf_bytes, text_at
from tests.server.conftest import Running
from tests.server.pages import expect, launched, needs_chromium, watched_pages
from tests.server.test_extractions import Api, printed, receipt

pytestmark = needs_chromium

PATIENCE_S = 60  # a busy machine is slow, not wrong
PATIENCE_MS = 1000 * PATIENCE_S
SCHEMA = {"type": "object", "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
DROP = """([files]) => {
  const given = new DataTransfer();
  for (const [name, data] of files) {
    given.items.add(new File([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], name));
  }
  dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
}"""


FILES = (("scan.png", receipt()), ("printed.pdf", printed()), ("broken.pdf", b"%PDF-1.4 nothing"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    with watched_pages(browser, running.url, patience_s=PATIENCE_S) as open_page:

        def opened(**options: Any) -> Any:
            page = open_page(**options)
            page.goto(f"{running.url}/documents")
            page.get_by_role("heading", name="Documents into rows").wait_for()
            return page

        yield opened


def drop(page: Any, *files: tuple[str, bytes]) -> None:
    page.evaluate(DROP, [[[name, base64.b64encode(data).decode()] for name, data in files]])


def read(page: Any, *files: tuple[str, bytes], schema: Any = SCHEMA) -> None:
    drop(page, *files)
    expect(page.locator("#chosen-facts")).to_contain_text(f"{len(files)} file")
    page.get_by_label("What to read").select_option("own schema")
    page.get_by_label("JSON schema").fill(schema if isinstance(schema, str) else json.dumps(schema))
    page.get_by_role("button", name="Read the documents").click()


def shown(page: Any, name: str) -> Any:
    return page.locator(".record", has=page.locator(".document > bdi", has_text=re.compile(f"^{re.escape(name)}$")))


def table(page: Any, kind: str) -> bytes:
    page.get_by_label("Format of the table").select_option(kind)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").click()
    assert download.value.suggested_filename == f"documents.{kind}"
    return Path(download.value.path()).read_bytes()


def test_dropped_files_become_rows_that_are_corrected_and_downloaded(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page()
    read(page, *FILES)
    expect(page.locator("#job-state")).to_have_text("All is read: 3 of 3 documents", timeout=PATIENCE_MS)
    expect(page.locator(".record")).to_have_count(3)
    expect(shown(page, "broken.pdf").locator(".badge.bad")).to_have_text("damaged")
    shown(page, "printed.pdf").locator(".document").click()
    shown(page, "printed.pdf").locator('[data-path="total"] .name').click()
    expect(page.locator(".viewer h2")).to_have_text("total on page 1")
    sides = "(image) => { const shown = image.getBBox(); return [Math.round(shown.width), Math.round(shown.height)]; }"
    assert page.locator("svg.page image").evaluate(sides) == [1400, 1077]
    page.get_by_role("button", name="Correct total").click()
    page.get_by_label("Value of total").fill("77.25")
    page.keyboard.press("Enter")
    expect(shown(page, "printed.pdf").locator('[data-path="total"] .badge')).to_have_text("corrected")
    book = openpyxl.load_workbook(io.BytesIO(table(page, "xlsx")))
    names = [cell.value for cell in book["Rows"][1]]
    rows = {row[0].value: dict(zip(names, row, strict=True)) for row in book["Rows"].iter_rows(min_row=2)}
    assert rows["printed.pdf"]["total"].value == 77.25
    assert {"printed.pdf", "scan.png"} <= set(rows)
    assert [row[0].value for row in book["Errors"].iter_rows(min_row=2)] == ["broken.pdf"]
    told = [json.loads(line) for line in table(page, "jsonl").splitlines()]
    assert [row["document"] for row in told] == ["broken.pdf", "printed.pdf", "scan.png"]
    assert b"77.25" in table(page, "csv")
    with page.expect_download() as download:
        page.get_by_role("button", name="Labels (JSONL)").click()
    label = json.loads(Path(download.value.path()).read_text())
    assert label == {"document": "printed.pdf", "value": {"total": 77.25}}
    beside = tmp_path / "labels.jsonl"
    download.value.save_as(beside)
    assert read_labels(beside, print) == {tmp_path / "printed.pdf": {"total": 77.25}}


def test_a_place_that_the_file_tells_is_marked_on_the_page(open_page: Callable[..., Any], running: Running) -> None:
    # Whatever nano reads, the text layer has the words of this value: the schema leaves it no choice.
    schema = {"type": "object", "properties": {"shop": {"enum": ["Corner Bakery"]}}}
    api = Api(running)
    api.ended(api.create(FILES[1], schema=schema, options={"strict_nulls": True}))
    page = open_page()
    page.get_by_role("button", name=re.compile("^Open own schema, 1 file")).first.click()
    shown(page, "printed.pdf").locator(".document").click()
    shown(page, "printed.pdf").locator('[data-path="shop"] .name').click()
    expect(page.locator(".viewer-stage > .note")).to_have_text("Place from the text layer.")
    mark = page.locator("svg.page .mark").evaluate("(mark) => [mark.x, mark.y].map(({baseVal}) => baseVal.value)")
    # The text begins at 20 of 260 points, and its line lies in the upper fifth.
    assert mark[0] == pytest.approx(1400 * 20 / 260, abs=15)
    assert mark[1] < 1077 / 5


def test_a_page_whose_file_was_deleted_says_so(open_page: Callable[..., Any], running: Running) -> None:
    api = Api(running)
    job = api.create(FILES[1], schema=SCHEMA)
    api.ended(job)
    assert api.http.delete(f"/v1/files/{job['input_files'][0]['id']}").status_code == 200
    page = open_page()
    page.get_by_role("button", name=re.compile("^Open own schema, 1 file")).first.click()
    shown(page, "printed.pdf").locator(".document").click()
    shown(page, "printed.pdf").locator('[data-path="total"] .name').click()
    expect(page.locator(".viewer-stage .missing")).to_contain_text("'printed.pdf' was deleted")
    assert b"printed.pdf" in table(page, "csv")


def test_a_reload_goes_on_with_the_work_and_its_corrections(open_page: Callable[..., Any]) -> None:
    page = open_page()
    read(page, FILES[0])
    shown(page, "scan.png").locator(".document").click()
    page.get_by_role("button", name="All values of scan.png are right").click()
    page.reload()
    expect(shown(page, "scan.png").locator(".badge.good")).to_have_text("checked")
    page.get_by_role("button", name="New documents").click()
    page.get_by_role("button", name=re.compile("^Open own schema, 1 file")).first.click()
    expect(shown(page, "scan.png").locator(".badge.good")).to_have_text("checked")
    page.get_by_role("button", name="Delete from the server").click()
    page.get_by_role("heading", name="Documents into rows").wait_for()


def test_mistakes_are_said_where_they_are_made(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_role("button", name="Read the documents").click()
    expect(page.locator("#start-error")).to_contain_text("No files are chosen")
    read(page, FILES[0], schema="{")
    expect(page.locator("#start-error")).to_contain_text("The schema is not JSON")
    page.get_by_label("JSON schema").fill('{"type": "array"}')
    page.get_by_role("button", name="Read the documents").click()
    expect(page.locator("#start-error")).to_contain_text("must describe an object")
    expect(page.locator("#chosen li")).to_have_count(1)
    page.get_by_role("button", name="Take scan.png away").click()
    expect(page.locator("#chosen-facts")).to_have_text("No files are chosen.")


def test_nothing_is_wider_than_a_phone(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 390, "height": 800})
    wide = "() => document.documentElement.scrollWidth"
    assert page.evaluate(wide) == 390
    read(page, *FILES)
    expect(page.locator("#job-state")).to_have_text("All is read: 3 of 3 documents", timeout=PATIENCE_MS)
    shown(page, "scan.png").locator(".document").click()
    assert page.evaluate(wide) == 390


def test_a_locked_file_is_read_with_the_password_that_is_given_for_it(open_page: Callable[..., Any]) -> None:
    locked = pdf_bytes(text_at(20, 100, "Total 12.40", 20), media=(0, 0, 260, 200),
                       save={"encryption": pikepdf.Encryption(user="open sesame", owner="boss", R=6)})  # fmt: skip
    page = open_page()
    drop(page, ("locked.pdf", locked), ("shut.pdf", locked + b"\n"))
    page.get_by_role("button", name="Give the password of locked.pdf").click()
    page.get_by_label("Password of locked.pdf").fill("open sesame")
    page.get_by_label("What to read").select_option("own schema")
    page.get_by_label("JSON schema").fill(json.dumps(SCHEMA))
    page.get_by_role("button", name="Read the documents").click()
    expect(shown(page, "shut.pdf")).to_contain_text("password_required", timeout=PATIENCE_MS)
    expect(shown(page, "locked.pdf")).to_be_visible(timeout=PATIENCE_MS)
    expect(shown(page, "locked.pdf")).not_to_contain_text("password_required")
    assert "sesame" not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
