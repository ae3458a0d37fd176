"""The report in headless Chromium: values that differ first, clicks that become labels, at 390 pixels in the dark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera.labels import read_labels
from tessera.migration import report as report_file
from tessera.migration.agreement import Rules
from tessera.migration.cells import compare_records
from tessera.migration.report import PAGE, Limits, Report
from tessera.migration.summary import Tally
from tests.documents.review.samples import HOSTILE, pages
from tests.migration.samples import SCHEMA, VALUE, preset, record
from tests.server.pages import expect, launched, needs_chromium, watched_pages

Open = Callable[..., Any]


def write(path: Path, limits: Limits | None = None, vendor: str = "Wrong Press") -> None:
    """Three documents: one alike, one with a wrong sum, one with a wrong name that nothing decides."""
    tally, report = Tally(("old", "new")), Report(path, limits)
    for name, change in (("same.pdf", {}), ("name.pdf", {"vendor": vendor}), ("sum.pdf", {"net": 10.0})):
        old, new = (record(value, document=name, source="text") for value in (VALUE, {**VALUE, **change}))
        compared = compare_records(old, new, preset(), Rules())
        tally.add(compared)
        report.add(compared)
    report.write(tally.summary(0.95), pages, title="old and new", schema=SCHEMA)
    report.close()


def json_of(path: Path, name: str) -> list[str]:
    (part,) = [each for each in path.read_text().split("<script") if f'id="{name}"' in each[:60]]
    return part.partition(">")[2].partition("</script>")[0].strip().splitlines()


def test_values_that_differ_come_first_and_limits_are_told(tmp_path: Path) -> None:
    write(tmp_path / "r.html")
    cells = [json.loads(line) for line in json_of(tmp_path / "r.html", "cells")]
    assert [(each["document"], each["path"]) for each in cells[:2]] == [("sum.pdf", "net"), ("name.pdf", "vendor")]
    assert all(each["agrees"] for each in cells[2:])
    write(tmp_path / "r.html", Limits(differ=1, agree=2, images=1))
    facts = json.loads(json_of(tmp_path / "r.html", "facts")[0])
    assert (facts["left_out"], len(facts["images"])) == (24, 1)


def test_hostile_values_stay_text(tmp_path: Path) -> None:
    write(tmp_path / "r.html", vendor=HOSTILE)
    assert "<img src=x" not in (tmp_path / "r.html").read_text()
    assert any("img src=x" in json.loads(line)["new"]["value"] for line in json_of(tmp_path / "r.html", "cells")[:2]
               if json.loads(line)["path"] == "vendor")  # fmt: skip


def test_every_file_of_the_page_is_packed() -> None:
    assert {path for path in report_file.WEB.iterdir()} <= {*PAGE.styles, *PAGE.modules}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@needs_chromium
def test_buttons_stay_within_their_rows_at_any_width(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    write(path)
    wider = """() => [...document.querySelectorAll(".pair .actions button")].filter((button) =>
      button.getBoundingClientRect().right > button.closest(".pair").getBoundingClientRect().right).length"""
    with watched_pages(browser, path.as_uri()) as open_page:
        page = open_page()
        for width in (390, 860, 920, 1100, 1200, 1230, 1600):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.locator(".pair .actions button").count() == 6
            assert page.evaluate(wider) == 0, width


@needs_chromium
def test_clicks_are_kept_and_exported_as_labels(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    write(path)
    with watched_pages(browser, path.as_uri()) as open_page:
        page = open_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        rows = page.locator(".pair")
        expect(rows).to_have_count(2)
        page.evaluate("document.querySelectorAll('.tools select')[1].append(new Option('name '.repeat(40)))")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        expect(rows.nth(0)).to_contain_text("the old one is right (checks)")
        expect(rows.nth(0).locator(".crops svg")).to_have_count(1)
        rows.nth(0).get_by_role("button", name="Old is right").click()
        rows.nth(1).get_by_role("button", name="Other…").click()
        page.keyboard.type("Brightwater Press Ltd")
        page.keyboard.press("Enter")
        expect(page.locator(".status")).to_contain_text("Clicked: 2, old right 1, new right 0, neither 1")
        page.reload()
        expect(page.locator(".pair.done")).to_have_count(2)
        page.locator(".pair .name").first.click()
        expect(page.locator(".viewer svg.page")).to_be_visible()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save clicks as labels").click()
        saved.value.save_as(tmp_path / "labels.jsonl")
    labels = read_labels(tmp_path / "labels.jsonl", print)
    assert {path.name: values for path, values in labels.items()} == {
        "sum.pdf": {"net": 100},
        "name.pdf": {"vendor": "Brightwater Press Ltd"},
    }
