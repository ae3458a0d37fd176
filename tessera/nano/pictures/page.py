"""What a drawing is: pictures, their printed characters, and questions about them.

It knows no renderer and no task. Every character of a question or an answer may name the printed
character it was read from, which is what the guided attention heads are taught with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from string import Formatter

from PIL import Image

MARK = "\0"  # the character of a place that shows none, such as a shape: a clue may name it, no text can


@dataclass(frozen=True)
class Glyph:
    """A printed character: its centre and the type size, in pixels of its picture; or a MARK."""

    char: str
    x: float
    y: float
    size: float
    picture: int = 0


@dataclass(frozen=True)
class Written:
    """A piece of text: per character the index of its glyph, None where nothing is printed."""

    text: str
    glyphs: tuple[int | None, ...]

    def __getitem__(self, part: slice) -> Written:
        return Written(self.text[part], self.glyphs[part])


def unprinted(text: str) -> Written:
    """Text that stands nowhere in the picture, such as JSON punctuation."""
    return Written(text, (None,) * len(text))


def filled(template: str, **pieces: Written | str) -> Written:
    """A text that quotes the picture: "Value of {label}?" with the label's own glyphs."""
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(unprinted(literal))
        if name is not None:
            piece = pieces[name]
            parts.append(unprinted(piece) if isinstance(piece, str) else piece)
    return joined(parts)


def joined(parts: Sequence[Written], separator: str = "") -> Written:
    """The parts in one row, `separator` between them."""
    texts: list[str] = []
    glyphs: list[int | None] = []
    for number, part in enumerate(parts):
        if number and separator:
            texts.append(separator)
            glyphs += [None] * len(separator)
        texts.append(part.text)
        glyphs += part.glyphs
    return Written("".join(texts), tuple(glyphs))


@dataclass(frozen=True)
class Question:
    """A question with its answer; `clue` is where to look before answering.

    The clue of "which is highest?" is the highest value's glyphs: the answer, its label, is found
    from there. `tolerance` is the relative error that still counts as right, for values that must
    be read from an axis.
    """

    question: Written
    answer: Written
    skill: str
    clue: Written | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Page:
    """One or two pictures with all their printed characters and several questions about them.

    Questions of one page are independent: each is asked as if it were the only one, under the same
    system prompt, if there is one.
    """

    pictures: tuple[Image.Image, ...]
    glyphs: tuple[Glyph, ...]
    questions: tuple[Question, ...]
    system: str = ""


def side_by_side(pages: Sequence[Page], questions: Sequence[Question]) -> Page:
    """Several pages' pictures as one page; `questions` index the glyphs of all, in their order."""
    glyphs = [replace(glyph, picture=number) for number, page in enumerate(pages) for glyph in page.glyphs]
    return Page(tuple(page.pictures[0] for page in pages), tuple(glyphs), tuple(questions))


def shifted(written: Written, by: int) -> Written:
    """The same text, with glyph indices for a list in which `by` others stand before."""
    return replace(written, glyphs=tuple(None if glyph is None else glyph + by for glyph in written.glyphs))


def chosen(random: Random, kinds: Mapping[Callable[[], Question | None], int], count: int) -> list[Question]:
    """Ask up to `count` different questions, each kind as often as its weight says."""
    found: dict[str, Question] = {}
    for kind in random.choices(list(kinds), list(kinds.values()), k=count * 3):
        question = kind()
        if question is not None and len(found) < count:
            found.setdefault(question.question.text.lower(), question)
    return list(found.values())
