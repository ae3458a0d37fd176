"""Transcripts take a good text layer, ask the model for the rest, and say which page came from where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tessera.documents.extraction import Options
from tessera.documents.journal import Journal
from tessera.documents.limits import PageLimits
from tessera.documents.markdown import has_good_text, text_to_markdown
from tessera.documents.page import Box, Word
from tessera.documents.plan import Budget
from tessera.documents.presets import open_preset
from tessera.documents.transcripts import Transcript, Transcription, write_transcripts
from tests.documents.fakes import Scripted, completion, draw
from tests.documents.files import pdf_bytes, text_at
from tests.documents.papers import TypedPage

PROSE = ["The first line of a page", "and the second one of it."]


def tall(page: TypedPage, row: int, scale: float) -> None:
    """Set one line of a page in larger type."""
    page.words = tuple(
        Word(word.text, Box(1, word.box.left, word.box.top, word.box.right, word.box.top + 0.016 * scale))
        if abs(word.box.top - row * 0.02) < 0.001
        else word
        for word in page.words
    )


def transcribe(path: Path, out: Path, model: Scripted, *more: Path, **given: Any) -> tuple[int, int]:
    job = Transcription([path, *more], open_preset("preset:transcribe"), Options(), **given)
    with Journal.open(out.with_suffix(".journal"), job.identity("m")) as journal:
        journal.add(job.plan())
        job.run(journal, model)
        return write_transcripts(out, job.transcripts(journal), "m")


def lines(page: Sequence[str]) -> str:
    return text_to_markdown(TypedPage(page))


def test_lines_are_paragraphs_and_empty_lines_divide_them() -> None:
    assert lines([*PROSE, "", "", "Another paragraph here."]) == (
        "The first line of a page\nand the second one of it.\n\nAnother paragraph here."
    )


def test_larger_type_is_a_heading() -> None:
    page = TypedPage(["Annual Report", "", *PROSE * 4])
    tall(page, 0, 2.0)
    assert text_to_markdown(page).startswith("# Annual Report\n\nThe first line")


def test_lines_with_the_same_cells_are_a_table() -> None:
    text = lines([*PROSE, "", "Name           Amount", "Tea            2.50", "Milk | oat     1.10"])
    assert text.endswith("| Name | Amount |\n| --- | --- |\n| Tea | 2.50 |\n| Milk \\| oat | 1.10 |")


def test_a_text_layer_of_private_characters_is_not_used() -> None:
    assert has_good_text(TypedPage(PROSE))
    assert not has_good_text(TypedPage(["\ue001\ue002\ue003 \ue004\ue005 \ue001 \ue002 \ue003 \ue004"]))
    assert not has_good_text(TypedPage(["- . - . / - . :"]))
    assert not has_good_text(TypedPage(["Scan 1"]))


def test_pages_without_text_are_read_by_the_model_in_order(tmp_path: Path) -> None:
    said = iter(["first", "```markdown\n# third\n```"])
    model = Scripted(lambda images, params: completion(next(said)))
    path = draw(tmp_path / "a.tif", "one", "", "three")
    job = Transcription([path], open_preset("preset:transcribe"), Options(detect_rotation=False))
    out = tmp_path / "a.md"
    with Journal.open(tmp_path / "journal", job.identity("m")) as journal:
        journal.add(job.plan())
        job.run(journal, model)
        assert write_transcripts(out, job.transcripts(journal), "m") == (3, 0)
    assert out.read_text() == (
        f"<!-- {path}, page 1, model -->\n\nfirst\n\n<!-- {path}, page 2, blank -->\n\n"
        f"<!-- {path}, page 3, model -->\n\n# third\n"
    )


def test_json_has_the_shape_that_mistrals_client_reads(tmp_path: Path) -> None:
    from mistralai.client.models import OCRResponse

    model = Scripted(lambda images, params: completion("0" if params.grammar else "text"))
    out = tmp_path / "a.json"
    assert transcribe(draw(tmp_path / "a.tif", "one", "two"), out, model) == (2, 0)
    response = OCRResponse.model_validate(json.loads(out.read_text()))
    assert [(page.index, page.markdown) for page in response.pages] == [(0, "text"), (1, "text")]
    assert response.usage_info.pages_processed == 2


def test_a_page_with_a_problem_says_so_at_its_place(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: completion("0" if params.grammar else "Man " * 90))
    out = tmp_path / "a.md"
    assert transcribe(draw(tmp_path / "a.png", "one"), out, model) == (1, 1)
    assert "the reply repeated itself without end" in out.read_text()


def test_a_page_that_could_not_be_planned_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_bytes(text_at(50, 700, "A4 has 741,376 pixels at a side of 1,024")))
    options = Options(budget=Budget(type_size=14.0), limits=PageLimits(max_pixels=741_375))
    job = Transcription([tmp_path / "a.pdf"], open_preset("preset:transcribe"), options, from_image=True)
    with Journal.open(tmp_path / "journal", job.identity("m")) as journal:
        journal.add(job.plan())
        (told,) = job.transcripts(journal)
    assert (told.number, told.source) == (1, "error")
    assert "max_pixels" in str(told.problem)


def test_a_file_that_changed_is_not_told_by_its_old_text(tmp_path: Path) -> None:
    for text in ("old", "new"):
        model = Scripted(lambda images, params, text=text: completion("0" if params.grammar else text))  # type: ignore[misc]
        assert transcribe(draw(tmp_path / "a.png", text), tmp_path / "a.md", model) == (1, 0)
        assert (tmp_path / "a.md").read_text().endswith(f"\n{text}\n")


def test_a_document_that_is_named_twice_is_told_once(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", "one")
    model = Scripted(lambda images, params: completion("0" if params.grammar else "text"))
    assert transcribe(path, tmp_path / "a.md", model, path) == (1, 0)
    assert (tmp_path / "a.md").read_text().count("text") == 1


def test_html_on_a_page_is_text_in_markdown_and_in_json(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: completion("0" if params.grammar else "# Tags\n\n--> <script>x</script>"))
    path = draw(tmp_path / "a.png", "one")
    for out in (tmp_path / "a.md", tmp_path / "a.json"):
        assert transcribe(path, out, model) == (1, 0)
    assert (tmp_path / "a.md").read_text().endswith("# Tags\n\n--> &lt;script>x&lt;/script>\n")
    (page,) = json.loads((tmp_path / "a.json").read_text())["pages"]
    assert page["markdown"] == "# Tags\n\n--> &lt;script>x&lt;/script>"


@pytest.mark.parametrize("suffix", [".md", ".json"])
def test_half_a_character_does_not_end_the_file(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    assert write_transcripts(out, iter([Transcript("a.png", 1, "one \ud800 two", "model")]), "m") == (1, 0)
    assert "one ? two" in out.read_text(encoding="utf-8")


def test_dates_on_a_page_are_not_counted_as_items_of_a_list() -> None:
    page = TypedPage(["10. Oktober 2024", "", "15. November 2024"])
    assert text_to_markdown(page).split("\n\n") == ["10. Oktober 2024", "15\\. November 2024"]


def test_a_page_with_a_problem_says_so_in_json_too(tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 damaged")
    model = Scripted(lambda images, params: completion("text"))
    assert transcribe(tmp_path / "bad.pdf", tmp_path / "a.json", model) == (1, 1)
    (page,) = json.loads((tmp_path / "a.json").read_text())["pages"]
    assert "damaged" in page["error"]["message"]


@pytest.mark.parametrize(
    "name", ["a--->b", "a-->b", "a--!>b", "a---", "a-----!>b", "a\n-->\n\x1bb", "a\u202e--\u2066>"], ids=ascii
)
def test_no_name_of_a_file_ends_the_comment_before_a_page(name: str, tmp_path: Path) -> None:
    """Python's HTML parser is the judge of what a comment is."""
    out = tmp_path / "a.md"
    pages = [Transcript(f"{name}.png", None, "<b>text</b>", "model"), Transcript("b", 2, "", "error", None, name)]
    write_transcripts(out, iter(pages), "m")
    told: list[tuple[str, str]] = []

    class Judge(HTMLParser):
        def handle_comment(self, data: str) -> None:
            told.append(("comment", data))

        def handle_data(self, data: str) -> None:
            told.append(("text", data.strip()))

    judge = Judge()
    judge.feed(out.read_text())
    judge.close()
    assert [kind for kind, text in told if text] == ["comment", "text", "comment"]
    assert ("text", "<b>text</b>") in told  # what the page says is text too
    assert not any("--" in text for kind, text in told if kind == "comment")  # older parsers do not know of --!>
    assert not set("\x1b\u202e\u2066") & set(out.read_text())
    assert len(out.read_text().splitlines()) == 5
