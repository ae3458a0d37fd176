"""The drawn samples: repeatable, and labelled with what is really printed and where.

Most tests draw in Pillow's own typeface and so run anywhere; those of the recipe's typefaces are
skipped, with the reason, where the files are not installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest

from tessera.errors import UsageError
from tessera.nano.canvas import Canvas
from tessera.nano.fonts import TRAINED_FILES, UNSEEN_FILES, Fonts, built_in, installed
from tessera.nano.synthesize import TRAINED, UNSEEN_FONTS, UNSEEN_LAYOUTS, Sample, Style, draw

SKILLS = ("transcribe", "chart", "receipt")
STYLES = {"trained": TRAINED, "unseen fonts": UNSEEN_FONTS, "unseen layouts": UNSEEN_LAYOUTS}
DIFFICULTIES = (0.0, 0.3, 0.6, 1.0)
# Skewed text is turned after it was laid out, which adds up to 20 px to the nominal largest size.
LARGEST = {"transcribe": (372, 180), "chart": (288, 224), "receipt": (244, 340)}
PRINTABLE = {chr(code) for code in range(33, 127)} | {"£", "€"}


def fonts_of(style: Style) -> Fonts:
    try:
        return installed(style.font_files)
    except UsageError as error:
        pytest.skip(str(error))


def samples(style: Style, skill: str, fonts: Fonts, count: int = 25) -> list[Sample]:
    return [draw(seed, difficulty, style, skill, fonts) for difficulty in DIFFICULTIES for seed in range(count)]


def check(sample: Sample) -> None:
    width, height = sample.image.size
    most = LARGEST[sample.skill]
    assert sample.image.mode == "RGB"
    assert width <= most[0]
    assert height <= most[1]
    for glyph in sample.glyphs:
        assert glyph.char in PRINTABLE
        assert 0 <= glyph.x < width
        assert 0 <= glyph.y < height
    assert sample.question
    assert sample.answer.strip() == sample.answer != ""
    linked = list(zip(sample.answer, sample.answer_glyphs, strict=True))
    assert all(index is None or sample.glyphs[index].char == char for char, index in linked)
    if "JSON" in sample.question:
        # Python writes the same text: same spaces, numbers bare, percentages as strings.
        assert json.dumps(json.loads(sample.answer), ensure_ascii=False) == sample.answer
    else:
        assert all(index is not None for char, index in linked if not char.isspace())


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("style", [TRAINED, UNSEEN_LAYOUTS], ids=["trained", "unseen layouts"])
def test_samples_are_labelled_with_what_is_printed(style: Style, skill: str) -> None:
    for sample in samples(style, skill, built_in()):
        assert sample.skill == skill
        check(sample)


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_samples_in_the_recipes_typefaces(style: Style, skill: str) -> None:
    for sample in samples(style, skill, fonts_of(style), count=15):
        check(sample)


@pytest.mark.parametrize("skill", [None, *SKILLS])
def test_the_same_seed_draws_the_same_sample(skill: str | None) -> None:
    for seed in range(12):
        first, second = (draw(seed, 1.0, TRAINED, skill, built_in()) for _ in range(2))
        assert first.image.tobytes() == second.image.tobytes()
        assert (first.question, first.answer, first.glyphs) == (second.question, second.answer, second.glyphs)
        assert first.answer_glyphs == second.answer_glyphs


def test_other_seeds_draw_other_samples() -> None:
    drawn = {draw(seed, 1.0, TRAINED, None, built_in()).image.tobytes() for seed in range(60)}
    assert len(drawn) == 60


def test_every_skill_is_in_the_mix_and_the_easy_end_is_text() -> None:
    def shares(difficulty: float) -> list[float]:
        drawn = [draw(seed, difficulty, TRAINED, None, built_in()).skill for seed in range(400)]
        return [drawn.count(skill) / len(drawn) for skill in SKILLS]

    assert shares(1.0) == pytest.approx([0.5, 0.32, 0.18], abs=0.08)
    assert shares(0.0)[0] >= 0.9


def test_easy_text_is_one_short_line() -> None:
    for seed in range(60):
        sample = draw(seed, 0.0, TRAINED, "transcribe", built_in())
        lines = sample.answer.split("\n")
        assert len(lines) <= 2
        assert max(map(len, lines)) <= 10


def test_values_of_a_chart_differ_and_stay_in_range() -> None:
    charts = [draw(seed, 1.0, TRAINED, "chart", built_in()) for seed in range(400)]
    listed = [json.loads(chart.answer) for chart in charts if "JSON" in chart.question]
    assert len(listed) > 20
    for printed in listed:
        numbers = [float(str(value).rstrip("%")) for value in printed.values()]
        assert len(set(numbers)) == len(numbers), "a tie has no highest"
        assert min(numbers) > 0
        assert max(numbers) <= 999


@pytest.mark.parametrize(
    ("words", "extreme"), [(("highest", "largest", "biggest"), max), (("lowest", "smallest", "least"), min)]
)
def test_which_questions_name_the_extreme_label(
    words: tuple[str, ...], extreme: Callable[[Iterable[float]], float]
) -> None:
    """Read back from the glyphs: the value printed beside the answered label is the extreme one."""
    checked = 0
    for seed in range(400):
        sample = draw(seed, 1.0, UNSEEN_LAYOUTS, "chart", built_in())
        rows = _rows(sample)
        # Only horizontal bars print nothing but rows of a label directly followed by its value.
        numbers = {label: value for label, value in rows if value is not None}
        if any(word in sample.question for word in words) and len(numbers) == len(rows) and sample.answer in numbers:
            checked += 1
            assert numbers[sample.answer] == extreme(numbers.values())
    assert checked > 15


def _rows(sample: Sample) -> list[tuple[str, float | None]]:
    """Each printed line as its first word and the number it ends in, from the glyphs' places alone."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for glyph in sample.glyphs:
        lines.setdefault(glyph.y, []).append((glyph.x, glyph.char))
    rows: list[tuple[str, float | None]] = []
    for _, line in sorted(lines.items()):
        line.sort()
        gaps = [right[0] - left[0] for left, right in pairwise(line)]
        split = 1 + gaps.index(max(gaps)) if gaps else len(line)
        label, value = ("".join(char for _, char in part) for part in (line[:split], line[split:]))
        rows.append((label, float(value.rstrip("%")) if value.rstrip("%").replace(".", "", 1).isdigit() else None))
    return rows


def test_receipts_ask_for_three_fields() -> None:
    drawn = [draw(seed, 1.0, TRAINED, "receipt", built_in()) for seed in range(60)]
    fields = [json.loads(sample.answer) for sample in drawn if "JSON" in sample.question]
    assert fields
    assert all(list(field) == ["vendor", "date", "total"] for field in fields)
    assert all(isinstance(value, str) and value for field in fields for value in field.values())


@pytest.mark.parametrize("degrees", [0.0, 2.5, -2.5])
@pytest.mark.parametrize("char", ["o", "x", "A", "7"])
def test_recorded_centres_are_where_the_ink_is(char: str, degrees: float) -> None:
    """One letter far from the centre of rotation: its ink's middle is the glyph's place."""
    canvas = Canvas(300, 80, (255, 255, 255))
    font = built_in().font(0, 20)
    canvas.write(240, 30, char, font, (0, 0, 0))
    canvas.skew(degrees)
    (glyph,) = canvas.glyphs
    rows, columns = np.nonzero(np.asarray(canvas.image.convert("L")) < 128)
    assert glyph.x == pytest.approx((columns.min() + columns.max() + 1) / 2, abs=1.5)
    # Lines share one height, the middle of the small letters; capitals and digits rise above it.
    assert glyph.y == pytest.approx((rows.min() + rows.max() + 1) / 2, abs=1.5 if char in "ox" else 3.0)


def test_each_letter_of_a_word_has_its_own_place() -> None:
    """What ink a text gains with its next letter lies around that letter's centre."""
    font, text = built_in().font(0, 24), "ao ex7W"

    def printed(part: str) -> tuple[Canvas, np.ndarray]:
        canvas = Canvas(200, 60, (255, 255, 255))
        canvas.write(10, 40, part, font, (0, 0, 0))
        return canvas, np.asarray(canvas.image.convert("L")).astype(int)

    for end in range(1, len(text) + 1):
        if text[end - 1] == " ":
            continue
        canvas, ink = printed(text[:end])
        columns = np.nonzero((ink != printed(text[: end - 1])[1]).any(axis=0))[0]
        assert canvas.glyphs[-1].char == text[end - 1]
        assert canvas.glyphs[-1].x == pytest.approx((columns.min() + columns.max() + 1) / 2, abs=1.5)


def test_styles_share_no_typeface() -> None:
    families = [
        {path.stem.split("-")[0] for path in fonts_of(style).paths if path is not None}
        for style in (TRAINED, UNSEEN_FONTS)
    ]
    assert not families[0] & families[1]
    assert not set(TRAINED_FILES) & set(UNSEEN_FILES)
    assert UNSEEN_LAYOUTS.font_files == TRAINED_FILES


def test_every_typeface_has_every_character() -> None:
    """A typeface without, say, the euro would print a box and teach the reader a lie."""
    for style in (TRAINED, UNSEEN_FONTS):
        fonts = fonts_of(style)
        for number, path in enumerate(fonts.paths):
            font = fonts.font(number, 24)
            absent = bytes(font.getmask("\U0010fffd"))
            missing = [char for char in sorted(PRINTABLE) if bytes(font.getmask(char)) in (absent, b"")]
            assert not missing, f"{path} lacks {missing}"


def test_a_missing_typeface_is_named_with_its_cure() -> None:
    with pytest.raises(UsageError, match=r"NoSuchFace\.ttf is not installed.*apt-get install fonts-"):
        draw(0, style=Style(font_files=("NoSuchFace.ttf",)))
