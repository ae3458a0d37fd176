"""The report's file: one piece, bounded, and closed to whatever its texts hold."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import resource
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tessera.documents.page import Page
from tessera.documents.record import Record
from tessera.documents.review.packed import MODULES, STYLES, WEB, script
from tessera.documents.review.report import ReportCounts, ReportLimits, write_report
from tessera.errors import DiskFullError, DocumentError, UsageError
from tests.documents.review import samples


class Parsed(HTMLParser):
    """The elements of a file, with their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.is_inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self.is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            self.texts[-1] += data

    def of(self, tag: str, **attributes: str) -> list[str]:
        pairs = zip(self.elements, self.texts, strict=True)
        return [text for (name, given), text in pairs if name == tag and attributes.items() <= given.items()]

    def json_of(self, name: str) -> Any:
        (text,) = self.of("script", id=name)
        return json.loads(text)

    def records(self) -> list[Any]:
        (text,) = self.of("script", id="records")
        return [json.loads(line) for line in text.split("\n") if line]


def written(path: Path, *records: Record, **more: Any) -> tuple[ReportCounts, Parsed]:
    given: dict[str, Any] = {"title": "March", "schema": samples.SCHEMA, **more}
    counts = write_report(path, iter(records), given.pop("pages", samples.pages), **given)
    return counts, Parsed(path.read_text(encoding="utf-8"))


def test_its_policy_lets_only_its_own_script_and_style_act(tmp_path: Path) -> None:
    _, parsed = written(tmp_path / "report.html", samples.invoice())
    (policy,) = [each["content"] for tag, each in parsed.elements if tag == "meta" and "http-equiv" in each]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    (acting,) = parsed.of("script", type="module")
    (style,) = parsed.of("style")

    def named(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'", "script-src": named(acting), "style-src": named(style), "img-src": "data:",
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_nothing_in_it_is_remote(tmp_path: Path) -> None:
    _, parsed = written(tmp_path / "report.html", samples.invoice(), samples.clean())
    assert not [each for _, attributes in parsed.elements for each in attributes if each in ("src", "href", "style")]
    urls = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"'`]*", (tmp_path / "report.html").read_text()))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, never fetched


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    record = samples.hostile()
    counts, parsed = written(tmp_path / "report.html", record, title=samples.HOSTILE, metrics={"note": samples.HOSTILE})
    assert counts.review == 1
    tags = {tag for tag, _ in parsed.elements}
    assert tags == {"html", "head", "meta", "title", "style", "body", "main", "h1", "noscript", "p", "script"}
    assert parsed.of("title") == [samples.HOSTILE]
    (back,) = parsed.records()
    assert back["value"] == {samples.HOSTILE: samples.HOSTILE}
    assert back["document"] == record.document
    assert parsed.json_of("facts")["metrics"] == {"note": samples.HOSTILE}
    assert not re.search(r"</script|<!--", script(), re.IGNORECASE)


def test_halves_of_surrogates_and_numbers_that_browsers_round_are_kept_as_text(tmp_path: Path) -> None:
    value = {"number": 2**60 + 1, "rate": float("inf"), "small": 2**53 - 1, "flag": True}
    record = replace(samples.clean("\udc80.pdf"), value=value)
    _, parsed = written(tmp_path / "report.html", record, title="\udc80")
    (back,) = parsed.records()
    assert back["value"] == {"number": "1152921504606846977", "rate": "inf", "small": 2**53 - 1, "flag": True}
    assert back["document"] == "\udc80.pdf"


def test_doubtful_and_failed_records_come_first_and_stay_when_there_is_no_room(tmp_path: Path) -> None:
    records = [samples.clean("a"), samples.invoice("b"), samples.failed("c"), samples.clean("d"), samples.clean("e")]
    counts, parsed = written(tmp_path / "report.html", *records, limits=ReportLimits(records=3))
    assert [record["document"] for record in parsed.records()] == ["b", "c", "a"]
    assert (counts.records, counts.review, counts.failed, counts.records_left_out) == (5, 1, 1, 2)
    assert parsed.json_of("facts")["counts"]["records_left_out"] == 2
    assert counts.codes == {"password_required": 1}


def test_only_needed_pages_are_drawn_doubtful_ones_first_at_the_stated_side(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    drawn: list[samples.DrawnPage] = []

    def pages(document: str, number: int) -> Page | None:
        asked.append((document, number))
        drawn.append(samples.DrawnPage(document, number))
        return drawn[-1]

    limits = ReportLimits(images=2, image_side=320)
    records = [samples.clean("a"), samples.invoice("b"), samples.clean("c"), samples.failed("d")]
    counts, parsed = written(tmp_path / "report.html", *records, pages=pages, limits=limits)
    # The second page of "b" holds nothing doubtful, but its amounts have no place: it comes after all others.
    assert asked == [("b", 1), ("b", 2)]
    assert [page.sides for page in drawn] == [[320], [320]]
    assert (counts.images, counts.images_left_out) == (2, 2)
    (first,) = parsed.of("script", id="image-0")
    image = Image.open(io.BytesIO(base64.b64decode(first)))
    assert (image.format, image.size) == ("JPEG", (320 * 595 // 842, 320))
    assert parsed.json_of("facts")["images"][0] == {"document": "b", "page": 1, "width": 226, "height": 320}


def test_images_end_when_their_bytes_are_used_up(tmp_path: Path) -> None:
    records = [samples.clean(f"{number}") for number in range(20)]
    counts, parsed = written(tmp_path / "report.html", *records, limits=ReportLimits(image_bytes=20_000))
    held = sum(len(parsed.of("script", id=f"image-{index}")[0]) for index in range(counts.images))
    one = len(parsed.of("script", id="image-0")[0])
    assert 20_000 <= held < 20_000 + one
    assert counts.images + counts.images_left_out == 20
    assert counts.images_left_out > 0


def test_a_page_that_cannot_be_drawn_is_counted(tmp_path: Path) -> None:
    class Broken(samples.DrawnPage):
        def image(self, *_: Any, **__: Any) -> Image.Image:
            raise DocumentError("the page is damaged", code="damaged")

    def pages(document: str, number: int) -> Page | None:
        return {"a": Broken("a"), "b": samples.DrawnPage("b")}.get(document)

    records = [samples.clean("a"), samples.clean("b"), samples.clean("gone")]
    counts, _ = written(tmp_path / "report.html", *records, pages=pages)
    assert (counts.images, counts.images_failed) == (1, 2)


def test_it_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        yield samples.clean()
        raise RuntimeError("the journal is gone")

    path = tmp_path / "report.html"
    path.write_text("the one before")
    with pytest.raises(RuntimeError):
        write_report(path, records(), samples.pages, title="t", schema=samples.SCHEMA)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "the one before"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskFullError, match="ulimit -f"):
            write_report(path, [samples.clean()], samples.pages, title="t", schema=samples.SCHEMA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "the one before"
    with pytest.raises(UsageError, match="no folder"):
        write_report(tmp_path / "no" / "report.html", [], samples.pages, title="t", schema=samples.SCHEMA)
    with pytest.raises(UsageError, match="records of a report cannot be 0"):
        ReportLimits(records=0)


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    size, count = 20_000, 1500

    def records() -> Iterator[Record]:
        for number in range(count):
            yield replace(samples.clean(f"{number}"), value={"vendor": f"{number}" + "x" * size})

    tracemalloc.start()
    limits = ReportLimits(images=0, record_bytes=2**20)
    counts = write_report(tmp_path / "r.html", records(), samples.pages, title="t", schema={}, limits=limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 40 < count - counts.records_left_out < 60  # what a MiB holds
    assert peak < size * count / 4


def test_equal_records_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    digests = [
        written(tmp_path / "r.html", record)[1].json_of("facts")["digest"]
        for record in (samples.clean("a"), samples.clean("a"), samples.clean("b"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_every_file_of_the_page_is_packed() -> None:
    assert {path.name for path in WEB.iterdir()} == {*MODULES, *STYLES}
    assert not re.search(r"^import ", script(), re.MULTILINE)
