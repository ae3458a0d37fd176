"""A paper before it is printed: blocks of pieces of text, which any renderer can set.

A piece is one text at one place. The data of a receipt, form or table holds the same pieces as its
blocks do, so whoever has printed the blocks can tell where each datum stands; a datum whose piece
was never printed is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures.canvas import BLACK, WHITE, Brush, Color
from tessera.nano.pictures.fonts import Face


@dataclass(frozen=True, eq=False)
class Piece:
    """One text; equal texts at two places are two pieces."""

    text: str
    scale: float = 1.0  # of the page's type size
    strong: bool = False
    muted: bool = False
    glued: bool = False  # to the piece before, without a blank
    leads: bool = False  # the next piece is glued to this one

    @property
    def label(self) -> str:
        """The text as a label is spoken of: without its colon."""
        return self.text.rstrip(" :")


Line = tuple[Piece, ...]


def blank_between(one: Piece, other: Piece) -> bool:
    return not one.leads and not other.glued


@dataclass(frozen=True)
class Text:
    lines: Sequence[Line]
    align: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Labels with values: spread to both edges, with a leader of dots between, one after the other, or in columns."""

    rows: Sequence[tuple[Line, Line]]
    kind: str = "spread"  # spread, leader, inline, columns, right


@dataclass(frozen=True)
class Grid:
    """A table; `aligns` has a number for each column, an empty line is an empty cell."""

    rows: Sequence[Sequence[Line]]
    aligns: Sequence[float]
    rules: str = (
        ""  # any of: h between rows, v between columns, o around, t under the heads, b top and bottom, d dotted
    )
    num_heads: int = 1
    num_totals: int = 0  # rows at the end that a rule parts from the others
    band: bool = False  # the head rows are filled
    zebra: bool = False
    wide: bool = True  # stretched over the page's width


@dataclass(frozen=True)
class Rule:
    kind: str = "thin"  # thin, thick, double, dashed, or a character to print in a row


@dataclass(frozen=True)
class Gap:
    lines: float = 0.5


@dataclass(frozen=True)
class Logo:
    shape: str  # disc, square, ring, triangle, stripes
    align: float = 0.0
    lines: float = 2.0


@dataclass(frozen=True)
class Side:
    """Blocks side by side, all of one width."""

    parts: Sequence[Block]


@dataclass(frozen=True)
class Panel:
    """A block in a box: outlined, or filled and printed in the band's ink."""

    inner: Block
    filled: bool = False


@dataclass(frozen=True)
class Blank:
    """One field of a form; an empty value leaves its place empty."""

    label: Line
    value: Line
    kind: str  # inline, underline, box, framed, or (held out) caption, dotted


@dataclass(frozen=True)
class Options:
    """Boxes to tick, each with its words."""

    options: Sequence[tuple[bool, Line]]
    round: bool = False
    mark: str = "check"  # check, cross, fill
    across: bool = True
    after: bool = False  # the box stands behind its words


@dataclass(frozen=True)
class Stack:
    blocks: Sequence[Block]


Block = Text | Pairs | Grid | Rule | Gap | Logo | Side | Panel | Blank | Options | Stack


@dataclass(frozen=True)
class Look:
    """How one page is set: typefaces, sizes in pixels, and colours."""

    face: Face
    head_face: Face  # of pieces larger than the rest
    size: int
    leading: float  # of the type size
    width: float  # of the widest line: how much wider the page is set
    margins: tuple[float, float, float, float]  # left, top, right, bottom, in pixels
    ink: Color = BLACK
    muted: Color = (90, 90, 90)
    paper: Color = WHITE
    band: Color = (40, 60, 110)
    band_ink: Color = WHITE
    tint: Color = (238, 238, 238)
    rule: Color = BLACK

    @property
    def pad(self) -> float:
        return self.size * 0.4

    def type_size(self, piece: Piece) -> int:
        return max(9, min(40, round(self.size * piece.scale)))

    def can_be_bolder(self, piece: Piece) -> bool:
        """Whether heavier strokes leave its letters open."""
        path = self.face_of(piece).path
        heavy = path is not None and re.search("bold|black|heavy", path.name.lower()) is not None
        return self.type_size(piece) > 11 and not heavy

    def face_of(self, piece: Piece) -> Face:
        return self.head_face if piece.scale > 1.1 else self.face


def mixed(one: Color, other: Color, share: float) -> Color:
    """`one`, and `share` of `other` in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def draw_look(brush: Brush, size: int) -> Look:
    """The dice for everything about a page that is not its content."""
    random = brush.random
    paper, ink = brush.colors()
    face = brush.face()
    accent = _accent(random, paper, ink)
    band, band_ink = (accent, paper) if random.random() < 0.6 else (mixed(paper, ink, random.uniform(0.08, 0.2)), ink)
    return Look(
        face=face,
        head_face=face if random.random() < 0.6 else brush.face(),
        size=size,
        leading=random.uniform(1.18, 1.7),
        width=random.choice((1.0, 1.0, random.uniform(1.0, 1.35))),
        margins=_margins(random, size),
        ink=ink,
        muted=mixed(ink, paper, random.uniform(0.0, 0.4)),
        paper=paper,
        band=band,
        band_ink=band_ink,
        tint=mixed(paper, ink, random.uniform(0.05, 0.12)),
        rule=mixed(ink, paper, random.choice((0.0, 0.2, 0.6))),
    )


def _accent(random: Random, paper: Color, ink: Color) -> Color:
    if sum(paper) < 384:
        return ink
    red, green, blue = random.sample((random.randint(0, 60), random.randint(20, 110), random.randint(60, 150)), 3)
    return red, green, blue


def _margins(random: Random, size: int) -> tuple[float, float, float, float]:
    widest = random.choice((1.0, 1.5, 3.0))
    left, top, right, bottom = (3 + size * random.uniform(0.2, widest) for _ in range(4))
    return left, top, right, bottom
