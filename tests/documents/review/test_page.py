"""The report in headless Chromium, opened from the disk as a person opens it: looked through, corrected, exported.

Every test also holds that nothing was logged as an error, that the content policy was never violated, and that no
request left the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tessera.documents.record import Record
from tessera.documents.review.packed import WEB
from tessera.documents.review.report import ReportLimits, write_report
from tessera.documents.stored import record_object
from tests.documents.review import samples
from tests.server.pages import expect, launched, needs_chromium, watched_pages

pytestmark = needs_chromium
Open = Callable[..., Any]

CONTRASTS = """() => {
  const parts = (text) => (text.match(/[\\d.]+(?:e-?\\d+)?/g) ?? []).map(Number);
  const colour = (text) => {
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    const [r, g, b, a = 1] = parts(text.replace("color(srgb", ""));
    return [scale * r, scale * g, scale * b, a];
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found[3] === 1) return found;
      if (found[3] !== 0) throw new Error(`half transparent: ${each.className}`);
    }
    return [255, 255, 255, 1];
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, svg, :disabled, .visually-hidden")) continue;
    const one = light(colour(getComputedStyle(element).color)), other = light(behind(element));
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), walker.currentNode.data.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a report of records, and open it; options are the browser context's."""
    path = tmp_path / "report.html"
    with watched_pages(browser, path.as_uri()) as open_page:

        def open_report(*records: Record, metrics: Any = None, **options: Any) -> Any:
            limits = ReportLimits(images=10)
            given = {"schema": samples.SCHEMA, "metrics": metrics, "limits": limits}
            write_report(path, records, samples.pages, title="Invoices of March", **given)
            return open_page(**options)

        yield open_report


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def chosen(page: Any) -> Any:
    return page.locator(".name[aria-current=true]")


def row(page: Any, path: str) -> Any:
    return page.locator(f'[data-path="{path}"]')


def documents(page: Any) -> list[str]:
    names: list[str] = page.locator(".document > bdi").all_text_contents()
    return names


def exported(page: Any, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_bytes().decode("utf-8-sig" if button == "Corrections" else "utf-8")


def test_doubtful_documents_come_first_and_filters_choose(opened: Open) -> None:
    page = opened(samples.clean(), samples.failed(), samples.invoice())
    assert documents(page) == ["invoices/brightwater.pdf", "scans/locked.pdf", "invoices/clean.png"]
    expect(page.locator(".facts")).to_have_text(
        "3 documents · 1 to review with 2 doubtful values · 1 failed · 0 confirmed or corrected"
    )
    expect(page.locator(".head")).to_contain_text("Failures: password_required 1")
    page.get_by_text("Failed 1", exact=True).click()
    assert documents(page) == ["scans/locked.pdf"]
    page.get_by_role("button", name="scans/locked.pdf").click()
    expect(page.locator(".record .error")).to_have_text("is encrypted; give its password.")
    page.get_by_text("To review 1", exact=True).click()
    assert documents(page) == ["invoices/brightwater.pdf"]
    page.get_by_text("All 3", exact=True).click()
    page.get_by_label("Find a document or value").fill("corner")
    assert documents(page) == ["invoices/clean.png"]


def test_the_list_shows_the_first_values_of_each_document_and_its_notes(opened: Open) -> None:
    page = opened(samples.invoice(), replace(samples.clean(), notes=("the reply had a fence",)), samples.failed())
    first = page.locator(".record").first
    expect(first.locator(".preview")).to_contain_text("Brightwater Press · 2026-03-")
    assert page.locator(".preview").count() == 2, "a document that failed has none"
    first.locator(".document").click()
    expect(first.locator(".preview")).to_have_count(0)
    page.get_by_role("button", name="invoices/clean.png").click()
    expect(page.get_by_text("the reply had a fence")).to_be_visible()


def test_keys_go_through_the_values_and_the_doubtful_ones(opened: Open) -> None:
    page = opened(samples.invoice("a"), samples.clean("b"), samples.invoice("c"))
    press(page, "n")
    expect(chosen(page)).to_contain_text("currency")
    press(page, "n")
    expect(chosen(page)).to_contain_text("total")
    press(page, "n", "n", "n")  # through "c" and round
    expect(page.locator(".document[aria-expanded=true] > bdi")).to_have_text("a")
    expect(chosen(page)).to_contain_text("currency")
    press(page, "j")
    expect(chosen(page)).to_have_text("paid")
    press(page, "k", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp")  # ends at the first
    expect(chosen(page)).to_have_text("vendor")
    expect(chosen(page)).to_be_focused()
    press(page, "p")
    expect(page.locator(".document[aria-expanded=true] > bdi")).to_have_text("c")
    expect(chosen(page)).to_contain_text("total")


def test_a_value_is_shown_on_its_page_with_its_place(opened: Open) -> None:
    page = opened(samples.invoice())
    press(page, "n", "n")
    expect(page.locator(".viewer h2")).to_have_text("total on page 1")
    expect(page.locator(".viewer-stage > .note")).to_have_text("Place where the model looked.")
    # The frame lies around the ink of the value, which the image itself tells.
    inside = page.locator("svg.page").evaluate("""async (svg) => {
        const image = new Image();
        image.src = svg.querySelector("image").getAttribute("href");
        await image.decode();
        const canvas = new OffscreenCanvas(image.width, image.height);
        const pen = canvas.getContext("2d", { willReadFrequently: true });
        pen.drawImage(image, 0, 0);
        const mark = svg.querySelector(".mark");
        const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => +mark.getAttribute(name));
        const isDark = (value, index) => index % 4 === 0 && value < 128;
        const dark = (...area) => pen.getImageData(...area).data.filter(isDark).length;
        const right = image.width / 2 - 20;  // the column of values
        return [dark(x, y, width, height), dark(right, y, image.width - right, height)];
    }""")
    assert inside[0] == inside[1] > 50
    page.get_by_role("button", name="Next page").click()
    expect(page.locator(".viewer h2")).to_have_text("total on page 2")
    expect(page.locator(".viewer .mark")).to_have_count(0)
    press(page, "k")  # an amount without a place
    expect(page.locator(".viewer-stage > .note")).to_have_text("No place known.")


def test_values_are_confirmed_corrected_and_kept(opened: Open) -> None:
    page = opened(samples.invoice())
    press(page, "n", "Enter")
    page.get_by_label("Value of currency").select_option("EUR")
    page.get_by_role("button", name="Save").click()
    expect(row(page, "currency").locator(".value")).to_have_text("Value: EURread: USD")
    press(page, "n", "c")
    expect(page.locator(".facts")).to_contain_text("0 to review with 0 doubtful values")
    expect(page.locator(".status")).to_have_text("No doubtful value is left here.")
    press(page, "k", "Enter")
    field = page.get_by_label("Value of items[1].amount")
    field.fill("38,40")
    press(page, "Enter")
    expect(page.locator(".edit [role=alert]")).to_have_text(re.compile("Write a number with a point"))
    field.fill("38.40")
    press(page, "Enter")
    expect(row(page, "items[1].amount").locator(".value")).to_contain_text("38.4")
    page.reload()
    expect(page.locator(".facts")).to_contain_text("3 confirmed or corrected")
    press(page, "j")
    expect(row(page, "currency").locator(".value")).to_contain_text("EUR")
    row(page, "currency").get_by_role("button", name="Take back currency").click()
    expect(row(page, "currency").locator(".value")).to_contain_text("USD")
    press(page, "u")
    expect(row(page, "currency").locator(".value")).to_contain_text("EUR")
    press(page, "x")
    expect(row(page, "currency").locator(".value")).to_contain_text("nothing")
    press(page, "Enter", "Escape")
    expect(row(page, "currency").locator(".value")).to_contain_text("nothing")


def test_labels_hold_what_was_looked_at_and_nothing_else(opened: Open) -> None:
    page = opened(samples.invoice("a"), samples.invoice("b"), samples.clean("c"))
    page.get_by_role("button", name="Labels").click()
    expect(page.locator(".status")).to_contain_text("nothing to export")
    press(page, "n", "c")  # the currency of "a"; then its total
    press(page, "Enter")
    page.get_by_label("Value of total").fill("110")
    press(page, "Enter")
    press(page, "k", "c")  # one amount; the item before it keeps its place without a value
    lines = [json.loads(line) for line in exported(page, "Labels").splitlines()]
    value = {"currency": "USD", "total": 110, "items": [{}, {"amount": 30}]}
    assert lines == [{"document": "a", "value": value}]
    page.locator(".document").first.click()
    page.get_by_role("button", name="All values of").click()
    (line,) = [json.loads(line) for line in exported(page, "Labels").splitlines()]
    assert line["value"]["items"] == [{"name": "Paper A4", "amount": 80}, {"name": "Binding", "amount": 30}]
    assert line["value"]["total"] == 110


def test_labels_tell_that_rows_at_the_end_are_there(opened: Open) -> None:
    page = opened(samples.invoice("a"))
    press(page, "n", "j", "j", "c")
    (line,) = [json.loads(line) for line in exported(page, "Labels").splitlines()]
    assert line["value"] == {"items": [{"name": "Paper A4"}, {}]}


def test_a_record_is_corrected_as_json_where_rows_are_missing(opened: Open) -> None:
    page = opened(samples.invoice("a"))
    press(page, "n", "x")
    page.get_by_role("button", name="Correct a as JSON").click()
    field = page.get_by_label("a as JSON", exact=True)
    value = json.loads(field.input_value())
    assert value["currency"] is None
    field.fill("[1]")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".edit [role=alert]")).to_contain_text("A record is an object")
    field.fill("{")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".edit [role=alert]")).to_contain_text("This is no JSON")
    value["items"].append({"name": "Glue", "amount": 8.4})
    value["currency"] = "EUR"
    field.fill(json.dumps(value))
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".facts")).to_contain_text("0 to review")
    expect(row(page, "currency").locator(".value")).to_contain_text("EUR")
    assert json.loads(exported(page, "Labels")) == {"document": "a", "value": value}
    page.get_by_role("button", name="Undo").click()
    expect(row(page, "currency").locator(".value")).to_contain_text("nothing")
    expect(page.locator(".facts")).to_contain_text("1 confirmed or corrected")


def test_corrections_as_csv_hold_no_formula(opened: Open) -> None:
    page = opened(samples.invoice("=cmd|' /C calc'!A0"))
    press(page, "n", "j", "j", "Enter")
    page.get_by_label("Value of items[0].name").fill('@SUM(1) "quoted", and more')
    press(page, "Enter", "j", "x", "n", "c")
    rows = list(csv.reader(io.StringIO(exported(page, "Corrections"), newline="")))
    assert rows[0] == ["document", "page", "field", "action", "read", "value"]
    name = "'=cmd|' /C calc'!A0"
    assert rows[1] == [name, "1", "items[0].name", "corrected", "Paper A4", '\'@SUM(1) "quoted", and more']
    assert rows[2] == [name, "", "items[0].amount", "corrected", "80", ""]
    assert rows[3][2:] == ["total", "confirmed", "118.4", "118.4"]


def test_hostile_texts_are_shown_and_do_nothing(opened: Open) -> None:
    page = opened(samples.hostile())
    press(page, "n")
    expect(page.locator(".document > bdi")).to_have_text(f"{samples.HOSTILE}.pdf")
    expect(chosen(page).locator("bdi")).to_have_text(samples.HOSTILE)
    expect(page.locator(".checks .check").first).to_have_text(samples.HOSTILE)
    press(page, "c")
    assert page.locator("#review img").count() == 0
    assert page.title() == "Invoices of March"
    (label,) = exported(page, "Labels").splitlines()
    assert json.loads(label)["value"] == {samples.HOSTILE: samples.HOSTILE}


def test_a_number_without_a_calibration_is_a_score_and_never_per_cent(opened: Open) -> None:
    page = opened(samples.invoice(confident=None))
    press(page, "n")
    expect(row(page, "currency").locator(".sure")).to_contain_text("score 0.41")
    assert "%" not in page.locator("#review").inner_text()
    expect(page.locator(".trust")).to_contain_text("no calibration was used")


def test_a_confidence_is_per_cent_and_never_certain(opened: Open) -> None:
    page = opened(samples.invoice(), samples.clean(), metrics=samples.METRICS)
    press(page, "n")
    expect(row(page, "currency").locator(".sure")).to_contain_text("38 %")
    page.get_by_role("button", name="invoices/clean.png").click()
    expect(row(page, "vendor").locator(".sure")).to_contain_text("over 99 %")


def test_the_diagram_has_its_points_where_the_numbers_say(opened: Open) -> None:
    page = opened(samples.clean(), metrics=samples.METRICS)
    points = page.locator(".diagram circle").evaluate_all(
        "all => all.map((one) => [+one.getAttribute('cx'), +one.getAttribute('cy')])"
    )
    ends = page.locator(".diagram .ideal").evaluate(
        "one => ['x1', 'y1', 'x2', 'y2'].map((name) => +one.getAttribute(name))"
    )
    shares = [((x - ends[0]) / (ends[2] - ends[0]), (y - ends[1]) / (ends[3] - ends[1])) for x, y in points]
    expected = [(confidence, right) for _, confidence, right in samples.METRICS["diagram"]]
    assert [pytest.approx(pair) for pair in shares] == expected
    cells = page.locator(".trust tr").all_inner_texts()
    for line in (
        "calibration error (ECE)\t3.1 %\t2.2 % to 5.5 %", "AUROC\t0.917\t0.880 to 0.940", "Brier score\tnone\t",
        "coverage at 1% error\t61.0 %\t55.0 % to 66.0 %", "total\t77.5 %\t40",
    ):  # fmt: skip
        assert line in cells
    # Wilson's interval of 33 in 60, worked out by hand.
    assert "48.0 %\t55.0 %\t42.5 % to 66.9 %\t60" in cells


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(opened: Open, scheme: str) -> None:
    records = [samples.invoice(), samples.failed(), samples.clean()]
    page = opened(*records, metrics=samples.METRICS, color_scheme=scheme, reduced_motion="reduce")
    press(page, "?", "n", "c", "Enter")
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 60
    assert [pair for pair in ratios if pair[0] < 4.5] == []


def test_it_fits_a_phone_and_the_page_can_be_put_away(opened: Open) -> None:
    page = opened(
        samples.invoice("long/" * 30),
        samples.hostile(),
        metrics=samples.METRICS,
        viewport={"width": 390, "height": 844},
    )
    page.locator(".document").first.click()
    row(page, "total").get_by_role("button", name="Correct total").click()
    expect(page.get_by_label("Value of total")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator(".viewer .crop")).to_be_in_viewport()
    page.get_by_role("button", name="Hide the page").click()
    expect(page.locator(".viewer")).to_be_hidden()


def test_keys_can_be_turned_off_and_all_works_by_tab_and_enter(opened: Open) -> None:
    page = opened(samples.invoice())
    press(page, "?")
    page.get_by_label("Keys are on").uncheck()
    press(page, "n")
    expect(chosen(page)).to_have_count(0)
    page.reload()
    press(page, "n")
    expect(chosen(page)).to_have_count(0)
    page.get_by_role("button", name="invoices/brightwater.pdf").focus()
    press(page, "Enter", "Tab", "Enter")
    expect(chosen(page)).to_have_text("vendor")
    press(page, "Tab", "Enter")  # the button after the name
    expect(row(page, "vendor").locator(".badge")).to_have_text("confirmed")


def test_paper_shows_every_value(opened: Open) -> None:
    page = opened(samples.invoice("a"), samples.clean("b"))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    expect(row(page, "vendor")).to_have_count(2)
    expect(page.locator(".actions").first).to_be_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(row(page, "vendor")).to_have_count(0)


def test_thousands_of_documents_are_drawn_in_parts(opened: Open) -> None:
    page = opened(*[samples.clean(f"{number}") for number in range(1000)], samples.invoice("the doubtful one"))
    assert documents(page)[0] == "the doubtful one"
    expect(page.locator(".record")).to_have_count(100)
    page.get_by_role("button", name="Show 100 more of 901").click()
    expect(page.locator(".record")).to_have_count(200)
    expect(page.locator(".head")).to_contain_text("992 page images left out")


class Served(SimpleHTTPRequestHandler):
    """The modules as a server gives them, and a page that shows records as they come, under a policy like its own."""

    PAGE = b"""<!doctype html><html lang="en"><title>Live</title><link rel="icon" href="data:,">
        <link rel="stylesheet" href="/colours.css"><link rel="stylesheet" href="/review.css">
        <main id="live"></main>"""

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(self.PAGE)
        return None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_servers_page_uses_the_same_modules_while_records_come(browser: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(WEB)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    first, second = record_object(samples.clean("a")), record_object(samples.invoice("b"))
    script = """async ([schema, ...records]) => {
        const { startReview } = await import("/review.js");
        const imageOf = async (document, page) => ({ src: `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>`, width: 10, height: 14 });
        window.review = startReview(document.getElementById("live"), { title: "Live", digest: "job-1", schema, metrics: null, imageOf, shelf: localStorage });
        for (const record of records) window.review.add([record]);
    }"""  # noqa: E501
    try:
        with watched_pages(browser, f"http://127.0.0.1:{server.server_port}/") as open_page:
            page = open_page()
            page.evaluate(script, [samples.SCHEMA, first | {"key": "one"}, second | {"key": "two"}])
            assert documents(page) == ["b", "a"]
            press(page, "n", "c")
            page.evaluate("record => review.add([record])", first | {"key": "one", "error": "gone", "message": "m"})
            expect(page.locator(".facts")).to_have_text(
                "2 documents · 1 to review with 1 doubtful value · 1 failed · 1 confirmed or corrected"
            )
            expect(chosen(page)).to_contain_text("total")
            expect(chosen(page)).to_be_focused()
            expect(page.locator(".viewer .mark")).to_have_count(2)
            press(page, "Enter")
            page.get_by_label("Value of total").fill("110")
            page.evaluate("record => review.add([record])", first | {"key": "three", "document": "c"})
            expect(page.locator(".facts")).to_contain_text("3 documents")
            press(page, "Enter")  # what was being written is still there
            expect(row(page, "total").locator(".value")).to_contain_text("110")
            assert documents(page) == ["a", "b", "c"]  # nothing is doubtful, so what failed is first
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
