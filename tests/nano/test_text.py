"""Pages of text: every character is found again, and every question has the answer that is printed."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest

from tessera.nano.pictures import text, text_questions
from tessera.nano.pictures.canvas import Brush, Style
from tessera.nano.pictures.fonts import Face, built_in
from tessera.nano.pictures.page import Glyph, Page, Question
from tessera.nano.pictures.text_sheet import Sheet, fitted, wrapped

SEEDS = range(160)


def brush(seed: int, unseen: bool = False, side: int | None = None) -> Brush:
    random = Random(seed)
    width, height = (side, side) if side else (random.randint(200, 450), random.randint(200, 450))
    return Brush(random, [built_in()], Style(unseen_layouts=unseen), width, height)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return [text.draw_text(brush(seed, unseen)) for seed in SEEDS for unseen in (False, True)]


@pytest.fixture(scope="module")
def dense() -> list[Page]:
    return [text.draw_dense(brush(seed)) for seed in range(30)]


def transcription(page: Page) -> Question:
    return page.questions[0]


def asked_with(templates: tuple[str, ...], question: Question) -> dict[str, str] | None:
    """What a template's holes were filled with, where this question may be one of its kind."""
    for template in sorted(templates, key=len, reverse=True):  # "{name}?" fits everything, and comes last
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template.rstrip(".?")))
        if not template.startswith("{"):
            pattern = f"[{template[0]}{template[0].lower()}]{pattern[1:]}"
        found = re.fullmatch(rf"(?:(?:Please tell me:|Tell me,|So,|Hey,) )?{pattern}[.?]?", question.question.text)
        if found:
            return found.groupdict()
    return None


def test_all_that_is_printed_is_transcribed_and_nothing_else(pages: list[Page]) -> None:
    for page in pages:
        read = [glyph for glyph in transcription(page).answer.glyphs if glyph is not None]
        assert sorted(read) == list(range(len(page.glyphs)))
        assert transcription(page).answer.text.strip()


def test_every_character_names_the_glyph_that_shows_it(pages: list[Page], dense: list[Page]) -> None:
    for page in (*pages, *dense):
        for question in page.questions:
            for written in (question.question, question.answer, question.clue):
                if written is None:
                    continue
                assert len(written.text) == len(written.glyphs)
                for char, glyph in zip(written.text, written.glyphs, strict=True):
                    assert glyph is None or char in (page.glyphs[glyph].char, page.glyphs[glyph].char.lower())


def test_glyphs_lie_on_their_ink(pages: list[Page], dense: list[Page]) -> None:
    for page in (*pages[:80], *dense):
        pixels = np.asarray(page.pictures[0].convert("L"), dtype=int)
        for glyph in page.glyphs:
            if not glyph.char.isalnum():
                continue
            reach = glyph.size * 0.3
            around = pixels[
                max(0, round(glyph.y - 1.2 * reach)) : round(glyph.y + 1.2 * reach) + 1,
                max(0, round(glyph.x - reach)) : round(glyph.x + reach) + 1,
            ]
            assert np.ptp(around) > 60, glyph


def test_lines_are_read_from_left_to_right_and_down(pages: list[Page]) -> None:
    for page in pages:
        places = [None if glyph is None else page.glyphs[glyph] for glyph in transcription(page).answer.glyphs]
        row: list[Glyph] = []
        for char, place in zip(transcription(page).answer.text, places, strict=True):
            row = [] if char == "\n" else [*row, place] if place is not None else row
            assert len(row) < 2 or row[-1].x > row[-2].x
            assert len(row) < 2 or abs(row[-1].y - row[-2].y) <= row[-1].size


def test_pictures_keep_to_the_room_there_is() -> None:
    for side in (64, 100, 300, 1024):
        for seed in range(12):
            for page in (text.draw_text(brush(seed, side=side)), text.draw_dense(brush(seed, side=side))):
                assert max(page.pictures[0].size) <= side
                assert page.glyphs
                assert all(9 <= glyph.size <= 40 for glyph in page.glyphs)
                width, height = page.pictures[0].size
                assert all(0 <= glyph.x < width and 0 <= glyph.y < height for glyph in page.glyphs)


def test_a_seed_gives_the_same_page() -> None:
    for draw in (text.draw_text, text.draw_dense):
        one, other = draw(brush(7)), draw(brush(7))
        assert one.glyphs == other.glyphs
        assert one.questions == other.questions
        assert one.pictures[0].tobytes() == other.pictures[0].tobytes()


def test_a_numbered_line_is_that_line_of_the_transcription(pages: list[Page]) -> None:
    checked = 0
    for page in pages:
        rows = transcription(page).answer.text.split("\n")
        for question in page.questions[1:]:
            found = asked_with(text_questions.LINE, question)
            if not found or "number" not in found:
                continue
            number = int(found["number"])
            assert question.answer.text == (rows[number - 1] if number <= len(rows) else "not shown")
            checked += 1
    assert checked > 20


def test_yes_and_no_tell_whether_the_word_is_there(pages: list[Page]) -> None:
    answers = {"yes": 0, "no": 0}
    for page in pages:
        words = re.split(r"[\s,.;:!?()\[\]\"'<>*]+", transcription(page).answer.text)
        for question in page.questions[1:]:
            found = asked_with(text_questions.CONTAINS, question)
            if not found or question.answer.text not in answers:
                continue
            assert (found["word"] in words) == (question.answer.text == "yes"), question
            assert question.skill == ("absent" if question.answer.text == "no" else "transcribe")
            answers[question.answer.text] += 1
    assert min(answers.values()) > 30


def test_a_neighbour_stands_beside_its_word(pages: list[Page]) -> None:
    checked = 0
    for page in pages:
        for question in page.questions[1:]:
            for templates, form in ((text_questions.AFTER, "{0}{2}{1}"), (text_questions.BEFORE, "{1}{2}{0}")):
                found = asked_with(templates, question)
                if not found:
                    continue
                word, answer = re.escape(found["word"]), re.escape(question.answer.text)
                pattern = form.format(word, answer, r"[^\w\n]* +[^\w\n]*")
                assert re.search(pattern, transcription(page).answer.text), question
                checked += 1
    assert checked > 50


def test_a_fact_is_absent_only_where_nothing_looks_like_it(pages: list[Page]) -> None:
    shapes = {"email": r"\S@\S", "phone": r"\d{3}[ -]\d{3,4}", "web": r"www|https?:", "time": r"\d:\d\d"}
    seen = {"present": 0, "absent": 0}
    for page in pages:
        for question in page.questions[1:]:
            found = asked_with(text_questions.FACT, question)
            for kind, shape in shapes.items():
                if not found or found["name"] not in text_questions.FACT_NAMES[kind]:
                    continue
                if question.answer.text == "not shown":
                    assert question.skill == "absent"
                    assert not re.search(shape, transcription(page).answer.text), question
                    seen["absent"] += 1
                else:
                    assert question.answer.text in transcription(page).answer.text
                    seen["present"] += 1
    assert min(seen.values()) > 15


def test_questions_are_several_and_each_is_asked_once(pages: list[Page]) -> None:
    counts = [len(page.questions) for page in pages]
    assert max(counts) == 8
    assert sum(counts) / len(counts) > 4
    for page in pages:
        assert len({question.question.text for question in page.questions}) == len(page.questions)
        assert {question.skill for question in page.questions} <= {"transcribe", "absent"}


def test_every_kind_of_question_has_twenty_wordings_and_comes_up(pages: list[Page]) -> None:
    kinds = [value for name, value in vars(text_questions).items() if name.isupper() and _is_wordings(value)]
    assert len(kinds) == 14
    for templates in kinds:
        assert len(set(templates)) == len(templates) >= 20
        assert any(asked_with(templates, question) is not None for page in pages for question in page.questions)


def _is_wordings(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, str) for part in value) and any("?" in p for p in value)


def test_held_out_layouts_are_not_among_the_trained() -> None:
    assert len(text.UNSEEN_LAYOUTS) >= 2
    assert not {layout for layout, _ in text.LAYOUTS} & set(text.UNSEEN_LAYOUTS)
    chats = [text.draw_text(brush(seed, unseen=True)) for seed in range(20)]
    assert any("Yours sincerely," in transcription(page).answer.text for page in chats)


@pytest.mark.parametrize("layout", [layout for layout, _ in text.LAYOUTS] + list(text.UNSEEN_LAYOUTS))
def test_every_layout_prints_within_its_budget(layout: text.Layout) -> None:
    for seed in range(15):
        sheet = Sheet(brush(seed), 300, 300, 200)
        layout(sheet)
        canvas, reading = sheet.finish()
        assert canvas.glyphs
        assert len(reading.text) <= 200 + 1
        assert max(canvas.image.size) <= 450


def test_dense_pages_are_dense_and_of_many_sizes(dense: list[Page]) -> None:
    assert sum(len(page.glyphs) for page in dense) / len(dense) > 150
    sizes = [glyph.size for page in dense for glyph in page.glyphs]
    assert min(sizes) <= 11
    assert max(sizes) >= 30
    assert any(page.questions for page in dense)
    assert any(not page.questions for page in dense)


def test_wrapping_keeps_all_words_and_the_width() -> None:
    font = Face("Pillow", None, "text").font(16)
    prose = "The quick brown fox jumps over the lazy dog and runs away from it all"
    lines = wrapped(prose, font, 120)
    assert " ".join(lines) == prose
    assert len(lines) > 2
    assert all(font.getlength(line) <= 120 for line in lines)
    assert fitted("one two three", font, font.getlength("one two")) == "one two"
    assert fitted("Unbreakable", font, 40) == "Unbreakable"[: len(fitted("Unbreakable", font, 40))] != ""
