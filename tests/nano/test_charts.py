"""Charts: what is asked can be read from the picture, and the answers are right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from tessera.errors import UsageError
from tessera.nano.pictures import charts, charts_data, charts_questions
from tessera.nano.pictures.canvas import Brush, Color, Style
from tessera.nano.pictures.charts_canvas import DoesNotFit, Type, paint_on_axes
from tessera.nano.pictures.charts_data import Axis, Chart, Drawn, NumberStyle
from tessera.nano.pictures.charts_look import LOOKS, PALETTES, Look, color_name
from tessera.nano.pictures.charts_round import paint_round
from tessera.nano.pictures.fonts import built_in
from tessera.nano.pictures.page import Page, Question, unprinted

SEEDS = range(100)
BLUE: Color = (31, 119, 180)
# Sales by quarter: Q3 leads by 19, Q1 is last.
QUARTERS = Chart(
    "bar", ("Q1", "Q2", "Q3", "Q4"), ("",), ((10.0, 31.0, 50.0, 12.0),), NumberStyle(), True,
    Axis(0, 60, 20, NumberStyle()), title="Sales 2024", category_title="Quarter", value_title="Units (kg)", unit="kg",
)  # fmt: skip


def brush(seed: int, unseen: bool = False, width: int | None = None, height: int | None = None) -> Brush:
    random = Random(seed)
    sides = (random.choice((256, 320, 384, 450)), random.choice((256, 320, 384, 450)))
    return Brush(random, [built_in()], Style(unseen_layouts=unseen), width or sides[0], height or sides[1])


def room(seed: int) -> Brush:
    return brush(seed, width=700, height=700)


@pytest.fixture(scope="module")
def pages() -> list[tuple[Brush, Page]]:
    drawn = []
    for seed in SEEDS:
        for unseen in (False, True):
            used = brush(seed, unseen)
            drawn.append((used, charts.draw_chart(used)))
    return drawn


def painted(chart: Chart, seed: int, look: Look | None = None) -> Drawn:
    """The chart on a large canvas, by the first seed from `seed` on whose random choices leave it room."""
    type_ = Type(built_in().font(12), built_in().font(15))
    paint = paint_round if chart.round else paint_on_axes
    for attempt in range(20):
        try:
            return paint(room(seed + attempt), chart, look or LOOKS[0], type_)
        except DoesNotFit:
            continue
    raise AssertionError("twenty seeds leave no room on 700 x 700 pixels")


def questions_about(chart: Chart, count: int = 400) -> list[Question]:
    drawn = painted(chart, 1)
    return [question for seed in range(count) for question in charts_questions.ask(Random(seed), chart, drawn)]


def answers_to(questions: list[Question], pattern: str) -> set[str]:
    """All answers to questions that match, which must be there."""
    found = {asked.answer.text for asked in questions if re.fullmatch(pattern, asked.question.text)}
    assert found, pattern
    return found


def test_every_character_names_a_glyph_that_shows_it(pages: list[tuple[Brush, Page]]) -> None:
    for _, page in pages:
        for question in page.questions:
            for written in (question.question, question.answer, *([question.clue] if question.clue else [])):
                assert len(written.text) == len(written.glyphs)
                for char, at in zip(written.text, written.glyphs, strict=True):
                    assert at is None or page.glyphs[at].char.lower() == char.lower()


def test_there_is_ink_where_glyphs_are_said_to_be(pages: list[tuple[Brush, Page]]) -> None:
    bare = 0
    glyphs = [(page, glyph) for _, page in pages for glyph in page.glyphs if glyph.char.isalnum()]
    for page, glyph in glyphs:
        reach = glyph.size * 0.45
        box = (glyph.x - reach, glyph.y - reach, glyph.x + reach, glyph.y + reach)
        shades = np.asarray(page.pictures[0].convert("L").crop(box))
        bare += int(shades.max()) - int(shades.min()) < 60
    assert bare <= len(glyphs) * 0.01  # pale letters of a few looks


def test_type_and_picture_keep_to_their_limits(pages: list[tuple[Brush, Page]]) -> None:
    for used, page in pages:
        width, height = page.pictures[0].size
        assert width <= used.max_width + 1
        assert height <= used.max_height + 1
        for glyph in page.glyphs:
            assert 9 <= glyph.size <= 40
            assert 0 < glyph.x < width
            assert 0 < glyph.y < height


def test_no_two_characters_lie_on_each_other(pages: list[tuple[Brush, Page]]) -> None:
    for _, page in pages:
        places = np.array([(glyph.x, glyph.y) for glyph in page.glyphs])
        apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
        apart += np.eye(len(places)) * 100
        assert apart.min() > 0.15 * min(glyph.size for glyph in page.glyphs)  # two narrow letters side by side


def test_the_same_seed_draws_the_same_page() -> None:
    one, other = (charts.draw_chart(brush(7)) for _ in range(2))
    assert one.questions == other.questions
    assert one.glyphs == other.glyphs
    assert one.pictures[0].tobytes() == other.pictures[0].tobytes()


def test_each_page_asks_three_to_eight_different_questions(pages: list[tuple[Brush, Page]]) -> None:
    for _, page in pages:
        texts = {question.question.text for question in page.questions}
        assert 3 <= len(page.questions) <= 8
        assert len(texts) == len(page.questions)
        for question in page.questions:
            assert question.answer.text
            assert (question.skill == "absent") == (question.answer.text == "not shown")


def test_json_answers_are_written_as_json_dumps_writes_them(pages: list[tuple[Brush, Page]]) -> None:
    tables = [q.answer.text for _, page in pages for q in page.questions if q.answer.text.startswith("{")]
    assert len(tables) > len(pages) // 4
    for table in tables:
        numbers_as_printed = json.loads(table, parse_float=Printed, parse_int=Printed)
        assert dumped(numbers_as_printed) == table


class Printed(str):
    """A number of a JSON text, as its digits stand there."""


def dumped(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumped(part)}" for key, part in value.items()) + "}"
    return value if isinstance(value, Printed) else json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        (r"[Ww]hich quarter was best, and by how much\??", "Q3, 19"),
        (r"[Ww]hich quarter is highest\??", "Q3"),
        (r"[Ww]hich quarter has the lowest value\??", "Q1"),
        (r"[Ww]hich quarter is second highest\??", "Q2"),
        (r"[Ww]hat is the highest value\??", "50"),
        (r"[Ww]hat is the value of [Qq]2\??", "31"),
        (r"[Ww]hich (quarter|bar|category|item|label|one) is 12\??", "Q4"),
        (r"[Ww]hat is the difference between (Q1 and Q2|Q2 and Q1)\??", "21"),
        (r"[Ww]hat is the difference between (Q2 and Q1)\??", "21"),
        (r"[Ww]hich is larger, (Q4 or Q1|Q1 or Q4)\??", "Q4"),
        (r"[Ww]hich is smaller, (Q3 or Q1|Q1 or Q3)\??", "Q1"),
        (r"[Ii]s Q3 larger than Q4\??", "yes"),
        (r"[Ii]s Q1 larger than Q2\??", "no"),
        (r"[Ww]hat is the sum of all values\??", "103"),
        (r"[Hh]ow many (bars|quarters) are there\??", "4"),
        (r"[Hh]ow many values are above 20\??", "2"),
        (r"[Hh]ow many values are below 20\??", "2"),
        (r"[Ww]hat is the title\??", "Sales 2024"),
        (r"[Ww]hat is the x axis title\??", "Quarter"),
        (r"[Ww]hat is the y axis title\??", "Units (kg)"),
        (r"[Ww]hat is the unit\??", "kg"),
        (r"[Ll]ist the quarters\.?", "Q1, Q2, Q3, Q4"),
        (r"[Gg]ive all values as JSON\.?", '{"Q1": 10, "Q2": 31, "Q3": 50, "Q4": 12}'),
        (r"[Gg]ive Q3 and Q1 as JSON\.?", '{"Q3": 50, "Q1": 10}'),
        (r"[Ww]hat kind of chart is this\??", "bar chart"),
    ],
)
def test_answers_about_one_series(quarters: list[Question], pattern: str, answer: str) -> None:
    assert answers_to(quarters, pattern) == {answer}


@pytest.fixture(scope="module")
def quarters() -> list[Question]:
    return questions_about(QUARTERS, 2500)


def test_the_clue_of_the_highest_is_its_printed_value(quarters: list[Question]) -> None:
    asked = [question for question in quarters if question.question.text == "Which quarter is highest?"]
    assert {question.clue.text for question in asked if question.clue} == {"50"}


def test_answers_about_several_series() -> None:
    chart = Chart(
        "grouped", ("Oslo", "Rome"), ("Plan", "Actual"), ((4.5, 7.0), (6.0, 2.5)), NumberStyle("$", "k", 1), True,
        Axis(0, 8, 2, NumberStyle("$", "k")),
    )  # fmt: skip
    asked = questions_about(chart, 1500)
    assert answers_to(asked, r"[Ww]hat is Actual in Rome\??") == {"$2.5k"}
    assert answers_to(asked, r"[Gg]ive all values as JSON\.?") == {
        '{"Plan": {"Oslo": "$4.5k", "Rome": "$7.0k"}, "Actual": {"Oslo": "$6.0k", "Rome": "$2.5k"}}'
    }
    assert answers_to(asked, r"[Gg]ive the values of Rome as JSON\.?") == {'{"Plan": "$7.0k", "Actual": "$2.5k"}'}
    assert answers_to(asked, r"[Hh]ow many series are there\??") == {"2"}
    assert answers_to(asked, r"[Hh]ow many bars are there\??") == {"4"}
    assert answers_to(asked, r"[Ww]hat is the title\??") == {"not shown"}
    assert answers_to(asked, r"[Hh]ow much more is Actual in Oslo than Plan in Oslo\??") == {"$1.5k"}


def test_a_gap_is_not_shown_and_null() -> None:
    chart = replace(QUARTERS, values=((10.0, None, 50.0, 12.0),))
    asked = questions_about(chart, 1500)
    assert answers_to(asked, r"[Ww]hat is the value of Q2\??") == {"not shown"}
    assert answers_to(asked, r"[Gg]ive all values as JSON\.?") == {'{"Q1": 10, "Q2": null, "Q3": 50, "Q4": 12}'}


def test_values_read_from_the_axis_are_asked_within_a_twentieth_of_it() -> None:
    chart = charts_data.read_from_axis(replace(QUARTERS, values=((10.4, 31.0, 49.1, 12.0),)))
    assert chart.values == ((10.0, 32.0, 50.0, 12.0),)  # tenths of the tick step
    asked = [
        question for question in questions_about(chart, 1500) if question.question.text == "What is the value of Q3?"
    ]
    assert {(question.answer.text, question.tolerance) for question in asked} == {("50", 0.06)}  # 3 of 60


def test_bars_stand_as_high_as_the_axis_says() -> None:
    """The rows of blue pixels against the printed tick numbers, by a straight line through their places."""
    look = Look("test", (BLUE,), frame="", thickness=(0.6, 0.6))
    for seed in range(8):
        drawn = painted(replace(QUARTERS, printed=False), seed, look)
        values = [tick for tick, _ in drawn.ticks]
        rows = [drawn.glyphs[text.glyphs[0] or 0].y for _, text in drawn.ticks]
        slope, start = np.polyfit(values, rows, 1)
        blue = (np.asarray(drawn.image) == BLUE).all(axis=2)
        for label, value in zip(drawn.labels, QUARTERS.values[0], strict=True):
            xs = [drawn.glyphs[at].x for at in label.glyphs if at is not None]
            column = blue[:, round(sum(xs) / len(xs))]
            assert abs(int(column.argmax()) - (start + slope * (value or 0.0))) < 3


def test_parts_of_a_pie_cover_their_share_of_the_disc() -> None:
    look = Look("test", PALETTES["tab10"], legends=("right",))
    chart = Chart("pie", ("A", "B", "C"), ("",), ((50.0, 30.0, 20.0),), NumberStyle(suffix="%"), False, None)
    pixels = np.asarray(painted(chart, 3, look).image).reshape(-1, 3)
    areas = [(pixels == color).all(axis=1).sum() for color in PALETTES["tab10"][:3]]
    assert np.allclose(np.array(areas) / sum(areas), (0.5, 0.3, 0.2), atol=0.03)


def test_held_out_layouts_are_never_drawn_for_training() -> None:
    def kinds(unseen: bool) -> set[str]:
        return {charts_data.invent(Random(seed), unseen, 40).kind for seed in range(200)}

    held_out = kinds(True)
    assert held_out == {"lollipop", "donut_total", "hgrouped"}
    assert not kinds(False) & held_out
    seen = {charts.choose(brush(seed))[2].name for seed in range(200)}
    unseen = {charts.choose(brush(seed, unseen=True)) for seed in range(200)}
    assert "panel" not in seen
    assert all(look.name == "panel" or chart.kind in held_out for _, chart, look in unseen)


@pytest.mark.parametrize(
    ("style", "value", "text"),
    [
        (NumberStyle(), 7.0, "7"),
        (NumberStyle(commas=True), 1200.0, "1,200"),
        (NumberStyle(decimals=1), 12.5, "12.5"),
        (NumberStyle(suffix=" %"), 45.0, "45 %"),
        (NumberStyle("$", "k"), 3.0, "$3k"),
        (NumberStyle("$"), -4.0, "-$4"),
        (NumberStyle(), -0.0, "0"),
    ],
)
def test_numbers_are_printed_as_people_print_them(style: NumberStyle, value: float, text: str) -> None:
    assert style.show(value) == text


@pytest.mark.parametrize(
    ("span", "count", "step"), [(97, 5, 20), (1, 4, 0.25), (1300, 6, 250), (0.07, 7, 0.01), (8, 2, 5)]
)
def test_ticks_are_round_numbers(span: float, count: int, step: float) -> None:
    assert math.isclose(charts_data.nice_step(span, count), step)


@pytest.mark.parametrize("decimals", [0, 1])
def test_percentages_sum_to_a_hundred(decimals: int) -> None:
    for seed in range(50):
        parts = [Random(seed).uniform(0.3, 2) * (at + 1) for at in range(seed % 5 + 2)]
        values = charts_data.parts_of_hundred(parts, decimals)
        assert round(sum(values), 6) == 100
        assert all(
            abs(value - part / sum(parts) * 100) <= 10**-decimals for value, part in zip(values, parts, strict=True)
        )


@pytest.mark.parametrize(
    ("color", "name"),
    [((255, 0, 0), "red"), ((0, 0, 255), "blue"), ((44, 160, 44), "green"), ((255, 165, 0), "orange"),
     ((128, 0, 128), "purple"), ((127, 127, 127), "gray"), ((0, 0, 0), "black"), ((0, 128, 128), "")],
)  # fmt: skip
def test_colors_have_everyday_names(color: Color, name: str) -> None:
    assert color_name(color) == name


def test_a_picture_too_small_for_any_chart_is_refused() -> None:
    with pytest.raises(UsageError, match="30x30"):
        charts.draw_chart(brush(1, width=30, height=30))


# Vega-Lite -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vega_pages() -> list[tuple[Brush, Page]]:
    pytest.importorskip("vl_convert", reason="vl-convert-python draws these charts")
    from tessera.nano.pictures.charts_vega import draw_vega_chart

    drawn = []
    for seed in range(8):
        used = brush(seed, unseen=seed % 3 == 0)
        drawn.append((used, draw_vega_chart(used)))
    return drawn


@pytest.mark.parametrize(
    "check",
    [
        test_every_character_names_a_glyph_that_shows_it, test_there_is_ink_where_glyphs_are_said_to_be,
        test_no_two_characters_lie_on_each_other, test_each_page_asks_three_to_eight_different_questions,
    ],
)  # fmt: skip
def test_charts_by_vega_are_as_good(
    vega_pages: list[tuple[Brush, Page]], check: Callable[[list[tuple[Brush, Page]]], None]
) -> None:
    check(vega_pages)


def test_vega_prints_the_values_where_the_page_says() -> None:
    """A chart whose numbers stand both on the axis and over the bars: the value is the one above its label."""
    pytest.importorskip("vl_convert", reason="vl-convert-python draws these charts")
    from tessera.nano.pictures import charts_vega

    job = charts_vega._Job(brush(3, width=600, height=600))
    job.chart = replace(QUARTERS, values=((20.0, 40.0, 60.0, 20.0),), axis=Axis(0, 60, 20, NumberStyle()))
    job.size, job.turned, job.thickness, job.height_share = 12.0, 0, 0.3, 0.8
    drawn = job.draw()
    for label, value in zip(drawn.labels, drawn.values[0], strict=True):
        assert value is not None
        across = [np.mean([drawn.glyphs[at].x for at in text.glyphs if at is not None]) for text in (label, value)]
        assert abs(across[0] - across[1]) < 4
    assert [text.text for _, text in drawn.ticks] == ["0", "20", "40", "60"]
    assert isinstance(drawn.image, Image.Image)


@pytest.mark.parametrize("kind", ["line", "grouped"])
def test_vega_takes_names_that_are_words_of_its_expressions(kind: str) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python draws these charts")
    from tessera.nano.pictures import charts_vega

    job = charts_vega._Job(brush(3, width=900, height=600))
    names = ("try", "if", "datum")
    rows = ((20.0, 40.0, 60.0, 20.0), (10.0, 20.0, 30.0, 10.0), (5.0, 10.0, 15.0, 5.0))
    job.chart = replace(QUARTERS, kind=kind, series=names, values=rows, axis=Axis(0, 60, 20, NumberStyle()))
    job.size, job.turned, job.thickness, job.height_share, job.width_share = 12.0, 0, 0.3, 0.8, 0.8
    text = "".join(glyph.char for glyph in job.draw().glyphs)
    assert all(name in text for name in names)


def test_touching_texts_are_noticed() -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python draws these charts")
    from tessera.nano.pictures.charts_vega import touching
    from tessera.nano.pictures.page import Glyph, Written

    glyphs = [Glyph("a", 10, 10, 12), Glyph("b", 17, 10, 12), Glyph("c", 40, 10, 12)]
    texts = [Written(glyph.char, (at,)) for at, glyph in enumerate(glyphs)]
    assert touching(glyphs, texts)
    assert not touching(glyphs, [texts[0], texts[2]])
    assert not touching(glyphs, [Written("ab", (0, 1)), texts[2], unprinted("x")])
