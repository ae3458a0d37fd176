"""What a model adds to an index: text where there is none, fields that filter, descriptions; and going on."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tessera.documents import journal
from tessera.documents.extraction import Options
from tessera.documents.presets import open_preset
from tessera.errors import EndpointError, UnreachableError, UsageError
from tessera.search.enrich import Enrichment, Reader
from tessera.search.scan import Counts
from tessera.search.searcher import Searcher
from tessera.search.store import NAME, writing
from tessera.search.writer import Writer
from tests import forks
from tests.documents.fakes import Scripted, draw
from tests.search.archive import ACME, BAKERY, found, pdf, places, put, scanned


def enriched(folder: Path, model: Scripted, work: str, **more: Any) -> Counts:
    counts = Counts()
    with writing(folder / NAME, folder) as connection:
        reader = Reader(model, "scripted", Options(retries=0, detect_rotation=False))
        job = Enrichment(folder, Writer(connection), folder / f"{NAME}.journal", reader, counts)
        presets = [open_preset(f"preset:{more.pop('preset')}")] if "preset" in more else []
        getattr(job, work)(*presets, **more)
    return counts


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    put(tmp_path, acme=pdf(ACME), bakery=pdf(BAKERY))
    draw(tmp_path / "scan.png", "a photo of a note")
    draw(tmp_path / "blank.png", "")
    scanned(tmp_path)
    return tmp_path


def test_pages_without_a_text_layer_are_read_once(archive: Path) -> None:
    model = Scripted(lambda images, params: "Handwritten note about a hydrant")
    assert places(archive, "hydrant") == []
    counts = enriched(archive, model, "transcribe", preset="transcribe", always=False)
    assert (counts.model_pages, len(model.asked)) == (1, 1)
    (hit,) = found(archive, "hydrant")
    assert (hit.file, hit.source) == ("scan.png", "model")
    assert places(archive, "source:model") == [("scan.png", 1)]
    enriched(archive, model, "transcribe", preset="transcribe", always=False)
    assert len(model.asked) == 1
    assert not list(archive.glob(".*.journal*"))


def test_with_always_the_text_layers_are_read_too(archive: Path) -> None:
    model = Scripted(lambda images, params: "all is read anew")
    enriched(archive, model, "transcribe", preset="transcribe", always=True)
    assert len(model.asked) == 3  # but for the blank page
    assert places(archive, "croissants") == []
    assert len(places(archive, "read anew")) == 3


def test_fields_filter_pages(archive: Path) -> None:
    values = iter([
        {"vendor": "Acme Tools Ltd", "gross": "120.50", "date": "2026-03-12"},
        {"vendor": "Corner Bakery", "gross": "15.00", "date": "2026-04-03"},
        {"vendor": None},
    ])  # fmt: skip
    keys = open_preset("preset:invoice").schema.wire["properties"]
    model = Scripted(lambda images, params: dict.fromkeys(keys) | {"items": []} | next(values))
    counts = enriched(archive, model, "extract", preset="invoice")
    assert counts.records == 4
    assert places(archive, "total:>100") == [("acme.pdf", 1)]
    assert places(archive, "total:10..20") == [("bakery.pdf", 1)]
    assert places(archive, "total:120.5") == [("acme.pdf", 1)]
    assert places(archive, "date:2026-03") == [("acme.pdf", 1)]
    assert places(archive, "date:>2026-03 vendor:bakery") == [("bakery.pdf", 1)]
    assert places(archive, "vendor:acme OR vendor:corner page:1") == [("acme.pdf", 1), ("bakery.pdf", 1)]
    assert places(archive, "invoice from March, total:>100") == [("acme.pdf", 1)]
    assert places(archive, "croissants total:>100") == []
    with Searcher(archive) as searcher:
        assert {"vendor", "gross", "date"} <= set(searcher.names())
        with pytest.raises(UsageError, match="asks for a field colour"):
            searcher.search("colour:red")
    asked = len(model.asked)
    enriched(archive, model, "extract", preset="invoice")
    assert len(model.asked) == asked


def test_descriptions_are_searched(archive: Path) -> None:
    model = Scripted(lambda images, params: "A receipt with a coffee stain")
    enriched(archive, model, "describe")
    assert len(places(archive, "stain")) == 3
    assert places(archive, "croissants") == [("bakery.pdf", 1)]


def test_a_run_that_loses_its_model_goes_on(archive: Path) -> None:
    draw(archive / "second.png", "another photo")
    scanned(archive)
    answers: list[Any] = ["the first hydrant", UnreachableError("gone")]
    with pytest.raises(UnreachableError):
        enriched(archive, Scripted(lambda i, p: answers.pop(0)), "transcribe", preset="transcribe", always=False)
    assert places(archive, "hydrant") == []
    model = Scripted(lambda images, params: "the second hydrant")
    enriched(archive, model, "transcribe", preset="transcribe", always=False)
    assert len(model.asked) == 1  # the other page's reply was kept
    assert sorted(places(archive, "hydrant")) == [("scan.png", 1), ("second.png", 1)]


def test_presets_without_fields_are_refused(archive: Path) -> None:
    with pytest.raises(UsageError, match="gives no fields"):
        enriched(archive, Scripted(lambda i, p: ""), "extract", preset="transcribe")


@pytest.mark.parametrize("work", ["transcribe", pytest.param("extract", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_in_the_models_work_goes_on(archive: Path, work: str) -> None:
    """Kill -9 at the model's third answer: nothing is asked twice or lost, also if a file came meanwhile."""
    for name in ("second", "third", "fourth"):
        draw(archive / f"{name}.png", f"a note {name}")
    scanned(archive)
    assert killed(archive, work, 3) == -signal.SIGKILL
    draw(archive / "fifth.png", "a note fifth")
    scanned(archive)
    model = Scripted(lambda images, params: ANSWERS[work])
    counts = enriched(archive, model, work, **MORE[work])
    total = {"transcribe": 5, "extract": 7}[work]
    assert (counts.model_pages or counts.records - 1, len(model.asked)) == (total, total - 2)  # one page is blank
    assert len(places(archive, {"transcribe": "hydrant", "extract": "vendor:acme"}[work])) == total
    assert not list(archive.glob(".*.journal*"))
    with writing(archive / NAME, archive) as written:
        written.execute("INSERT INTO words (words) VALUES ('integrity-check')")


ANSWERS: dict[str, Any] = {
    "transcribe": "Note about a hydrant",
    "extract": dict.fromkeys(open_preset("preset:invoice").schema.wire["properties"]) | {"items": [], "vendor": "Acme"},
}
MORE: dict[str, Any] = {"transcribe": {"preset": "transcribe", "always": False}, "extract": {"preset": "invoice"}}


def killed(folder: Path, work: str, at: int) -> int:
    """Let a model work in a process that ends at its answer of this number."""
    return forks.ended(forks.start(enrich_until_killed, folder, work, at))


def enrich_until_killed(folder: Path, work: str, at: int) -> None:
    """To be called in a process of its own."""
    journal.GROUP_S = 0.0
    asked = itertools.count(1)

    def said(images: Any, params: Any) -> Any:
        if next(asked) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return ANSWERS[work]

    enriched(folder, Scripted(said), work, **MORE[work])


def test_what_a_model_cannot_read_has_a_code_and_is_tried_again(archive: Path) -> None:
    model = Scripted(lambda images, params: EndpointError("too long"))
    counts = enriched(archive, model, "transcribe", preset="transcribe", always=False)
    counts_of_fields = enriched(archive, model, "extract", preset="invoice")
    assert (counts.failed, counts_of_fields.failed) == (1, 3)
    (hit,) = found(archive, "code:*")
    assert (hit.file, hit.code, hit.message) == ("scan.png", "not_read", "too long")
    model = Scripted(lambda images, params: "Note about a hydrant")
    enriched(archive, model, "transcribe", preset="transcribe", always=False)
    assert not model.asked
    with writing(archive / NAME, archive) as connection:
        Writer(connection).forget_errors()
    enriched(archive, model, "transcribe", preset="transcribe", always=False)
    assert (places(archive, "hydrant"), places(archive, "code:*")) == ([("scan.png", 1)], [])
    keys = open_preset("preset:invoice").schema.wire["properties"]
    model = Scripted(lambda images, params: dict.fromkeys(keys) | {"items": []})
    assert enriched(archive, model, "extract", preset="invoice").failed == 0
    assert len(model.asked) == 3
