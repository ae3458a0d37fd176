"""A second renderer: the same papers, and pages of prose, set by typst and read back from its PDF.

Typst breaks lines, kerns and aligns in its own way, so that nothing learned depends on how our own
canvas does it. All texts of a page are written down in the order they are set in; the characters of
the PDF must be just these, which is what makes every character's place certain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import typst
from PIL import Image

from tessera.nano.pictures import text_questions, words
from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush, Color
from tessera.nano.pictures.fonts import Face
from tessera.nano.pictures.page import Glyph, Page, Written, joined
from tessera.nano.pictures.papers import draw_table, fitted, questions_about
from tessera.nano.pictures.papers_blocks import (
    Blank,
    Block,
    Gap,
    Grid,
    Line,
    Logo,
    Look,
    Options,
    Pairs,
    Panel,
    Piece,
    Rule,
    Side,
    Stack,
    Text,
    blank_between,
    draw_look,
)
from tessera.nano.pictures.pdf import locate_all, read_pdf
from tessera.nano.pictures.text_sheet import Reading

KINDS = {"receipt": 20, "invoice": 25, "form": 15, "table": 20, "prose": 20}
TRIES = 7
SPARE = 1.05  # of the width that our own canvas needs: typst's lines are a little longer at times
TICKS = {  # strokes in a square of side 1, from point to point
    "cross": (((0.2, 0.2), (0.8, 0.8)), ((0.2, 0.8), (0.8, 0.2))),
    "check": (((0.15, 0.5), (0.42, 0.8)), ((0.42, 0.8), (0.95, 0.08))),
}


def draw_typst(brush: Brush) -> Page:
    """A receipt, invoice, form, table or page of prose; one of our own canvas where nothing fits typst's lines."""
    kind = brush.random.choices(list(KINDS), list(KINDS.values()))[0]
    page = _draw_prose(brush) if kind == "prose" else _draw_paper(brush, kind)
    return page or draw_table(brush)


@dataclass(frozen=True)
class _Print:
    """What came of a page's source, each piece with its place."""

    image: Image.Image
    glyphs: list[Glyph]
    written: list[Written]


def _printed(setting: _Setting, body: str, max_height: int) -> _Print | None:
    """The page, unless it is too high, a word left the paper, or two columns were printed in turns."""
    image, glyphs = read_pdf(_compiled(setting.look.face, setting.page(body)), 1.0)
    texts = [piece.text for piece in setting.pieces]
    wanted = "".join("".join(text.split()) for text in texts)
    if image.height > max_height or wanted != "".join(glyph.char for glyph in glyphs):
        return None
    return _Print(image, glyphs, locate_all(glyphs, texts))


def _draw_paper(brush: Brush, kind: str) -> Page | None:
    width, height = int(brush.max_width / SPARE), brush.max_height
    for _ in range(TRIES):
        paper, sheet = fitted(replace(brush, max_width=width, max_height=height), kind)
        setting = _Setting(sheet.look, sheet.size[0] * SPARE)
        printed = _printed(setting, setting.block(paper.block), brush.max_height)
        if printed is not None:
            places = dict(zip(setting.pieces, printed.written, strict=True))
            questions = questions_about(brush, paper, places, printed.glyphs)
            return Page((printed.image,), tuple(printed.glyphs), tuple(questions))
        height = round(height * 0.85)
    return None


# Prose ---------------------------------------------------------------------------------------


def _draw_prose(brush: Brush) -> Page | None:
    """A heading and paragraphs, at times in two columns or numbered."""
    random = brush.random
    size = brush.size(SMALLEST_TYPE, 26)
    share = random.uniform(0.4, 1.0)
    for _ in range(2 * TRIES):
        look = draw_look(brush, size)
        width = brush.max_width * random.uniform(0.6, 1.0)
        texts = _paragraphs(brush, look, width, share)
        setting = _Setting(look, width)
        printed = _printed(setting, _prose_source(brush, setting, texts), brush.max_height)
        if printed is not None:
            reading = _reading(printed.glyphs, printed.written, bool(texts[0]))
            questions = text_questions.questions(random, reading)
            return Page((printed.image,), tuple(printed.glyphs), tuple(questions))
        share *= 0.8
        size = max(round(SMALLEST_TYPE), round(size * 0.9))
    return None


def _paragraphs(brush: Brush, look: Look, width: float, share: float) -> list[str]:
    """The heading, empty for none, and the paragraphs."""
    random = brush.random
    columns = (width - look.margins[0] - look.margins[2]) / (look.size * 0.55)
    lines = brush.max_height / (look.size * look.leading)
    letters = max(10, round(columns * lines * share * 0.6))
    heading = words.title(random) if random.random() < 0.4 and letters > 60 else ""
    count = random.choice((1, 1, 2, 3)) if letters > 80 else 1
    source = words.prose if random.random() < 0.75 else words.line
    return [heading, *(source(random, max(8, min(300, letters // count))) for _ in range(count))]


def _prose_source(brush: Brush, setting: _Setting, texts: Sequence[str]) -> str:
    random, look = brush.random, setting.look
    numbered = len(texts) > 2 and random.random() < 0.25
    parts = [f"#set par(justify: {'true' if random.random() < 0.4 else 'false'}, spacing: {look.size * 1.1}pt)"]
    if brush.style.unseen_layouts:  # held out: hanging indents and centred prose
        hanging = random.random() < 0.5
        parts.append(f"#set par(hanging-indent: {look.size * 2}pt)" if hanging else "#set align(center)")
    if texts[0]:
        head = Piece(texts[0], random.uniform(1.0, 1.7), random.random() < 0.4)
        parts.append(f"#align({random.choice(('left', 'center', 'left'))})[{setting.line((head,))}]\n")
    paragraphs = []
    for number, text in enumerate(texts[1:], 1):
        line = (Piece(f"{number}."), Piece(text)) if numbered else (Piece(text),)
        paragraphs.append(setting.line(line))
    body = "\n\n".join(paragraphs)
    two = setting.width > 26 * look.size and not brush.style.unseen_layouts and random.random() < 0.2
    parts.append(f"#columns(2, gutter: {look.size * 1.5}pt)[{body}]" if two else body)
    return "\n".join(parts)


def _reading(glyphs: Sequence[Glyph], written: Sequence[Written], heading: bool) -> Reading:
    """The pieces broken into the rows that typst made of them."""
    reading = Reading()
    blocks = [_rows(glyphs, piece) for piece in written]
    for number, rows in enumerate(blocks):
        if number and blocks[number - 1] and _same_row(glyphs, reading.rows[-1], rows[0]):
            reading.rows[-1] = joined([reading.rows[-1], rows[0]], " ")
            reading.rows += rows[1:]
            reading.blocks[-1] = joined([reading.blocks[-1], joined(rows, "\n")], " ")
            continue
        reading.rows += rows
        reading.blocks.append(joined(rows, "\n"))
    if heading:
        reading.roles["heading"] = blocks[0]
    _split_columns(glyphs, reading, len(blocks[0]) if heading else 0)
    return reading


def _split_columns(glyphs: Sequence[Glyph], reading: Reading, start: int) -> None:
    """Name the rows of two columns: the second begins where a row stands higher than the one before."""
    tops = [glyphs[next(index for index in row.glyphs if index is not None)].y for row in reading.rows]
    for number in range(start + 1, len(tops)):
        if tops[number] < tops[number - 1] - 1:
            reading.roles |= {"left": reading.rows[start:number], "right": reading.rows[number:]}


def _rows(glyphs: Sequence[Glyph], written: Written) -> list[Written]:
    rows, start, last = [], 0, None
    for position, index in enumerate(written.glyphs):
        if index is None:
            continue
        if last is not None and abs(glyphs[index].y - glyphs[last].y) > glyphs[index].size * 0.5:
            rows.append(_stripped(written[start:position]))
            start = position
        last = index
    return [*rows, _stripped(written[start:])]


def _stripped(written: Written) -> Written:
    left = len(written.text) - len(written.text.lstrip())
    return written[left : len(written.text.rstrip())]


def _same_row(glyphs: Sequence[Glyph], one: Written, other: Written) -> bool:
    first = next(index for index in reversed(one.glyphs) if index is not None)
    second = next(index for index in other.glyphs if index is not None)
    before, after = glyphs[first], glyphs[second]
    return abs(before.y - after.y) < before.size * 0.2 and after.x > before.x


# Source --------------------------------------------------------------------------------------


def _color(color: Color) -> str:
    return 'rgb("#{:02x}{:02x}{:02x}")'.format(*color)


def _align(align: float) -> str:
    return "left" if align < 0.25 else "right" if align > 0.75 else "center"


class _Setting:
    """Typst source of a page's blocks, and their pieces in the order they are set in."""

    def __init__(self, look: Look, width: float) -> None:
        self.look, self.width = look, width
        self.pieces: list[Piece] = []
        self.stroke = f"0.8pt + {_color(look.rule)}"
        self.ink, self.muted = look.ink, look.muted

    def page(self, body: str) -> bytes:
        look = self.look
        left, top, right, bottom = look.margins
        leading = max(0.25, look.leading - 0.75)
        return f"""#set page(width: {self.width}pt, height: auto, fill: {_color(look.paper)},
  margin: (left: {left}pt, top: {top}pt, right: {right}pt, bottom: {bottom}pt))
#set text(size: {look.size}pt, fill: {_color(look.ink)}, ligatures: false, hyphenate: false, lang: "en")
#set par(leading: {leading}em, spacing: {leading}em)
#set block(spacing: {leading}em)
#set table(inset: (x: {look.pad}pt, y: {look.size * leading * 0.5}pt))
{body}
""".encode()

    def line(self, line: Line) -> str:
        """Markup of one line."""
        parts = []
        for number, piece in enumerate(line):
            if number and blank_between(line[number - 1], piece):
                parts.append(" ")
            parts.append(self._piece(piece))
        return "".join(parts)

    def _piece(self, piece: Piece) -> str:
        self.pieces.append(piece)
        options = []
        if piece.scale != 1.0:
            options.append(f"size: {self.look.type_size(piece)}pt")
        if piece.muted:
            options.append(f"fill: {_color(self.muted)}")
        if piece.strong and self.look.can_be_bolder(piece):
            options.append(f"stroke: 0.025em + {_color(self.muted if piece.muted else self.ink)}")
        text = piece.text.replace("\\", "\\\\").replace('"', '\\"')
        return f'#text({"".join(option + ", " for option in options)}"{text}")'

    def block(self, block: Block) -> str:
        """Markup of a block; its texts are taken down in reading order."""
        size = self.look.size
        match block:
            case Text(lines, align):
                rows = " \\\n".join(self.line(line) for line in lines)
                return f"#align({_align(align)})[{rows}]"
            case Stack(blocks):
                return "\n".join(f"#block(width: 100%)[{self.block(inner)}]" for inner in blocks)
            case Pairs():
                return self._pairs(block)
            case Grid():
                return self._grid(block)
            case Rule(kind):
                return self._rule(kind)
            case Gap(lines):
                return f"#v({size * lines * 0.5}pt)"
            case Side(parts):
                cells = ", ".join(f"[{self.block(part)}]" for part in parts)
                return f"#grid(columns: (1fr,) * {len(parts)}, column-gutter: {self.look.pad * 2}pt, {cells})"
            case Panel(inner, filled):
                return self._panel(inner, filled)
            case Blank():
                return self._blank(block)
            case Options():
                return self._options(block)
            case Logo(shape, align, lines):
                return f"#align({_align(align)})[{_logo(shape, lines * size * 0.85, _color(self.look.band))}]"

    def _pairs(self, pairs: Pairs) -> str:
        rows = []
        for label, value in pairs.rows:
            left, right = self.line(label), self.line(value)
            if pairs.kind == "leader":
                dots = (
                    f'#box(width: 1fr, line(length: 100%, stroke: (paint: {_color(self.look.muted)}, dash: "dotted")))'
                )
                rows.append(f"[{left} {dots} {right}]")
            elif pairs.kind == "inline":
                rows.append(f"[{left} {right}]")
            else:
                rows.append(f"[{left}], [{right}]")
        cells, gutter = ", ".join(rows), f"{self.look.leading - 0.75}em"
        if pairs.kind in ("leader", "inline"):
            return f"#grid(columns: (1fr,), row-gutter: {gutter}, {cells})"
        columns, align = {
            "spread": ("(1fr, auto)", "(left, right)"),
            "columns": ("(auto, 1fr)", "(left, left)"),
            "right": ("(auto, auto)", "(right, right)"),
        }[pairs.kind]
        gaps = f"column-gutter: {self.look.pad * 2}pt, row-gutter: {gutter}"
        grid = f"grid(columns: {columns}, align: {align}, {gaps}, {cells})"
        return f"#align(right, {grid})" if pairs.kind == "right" else f"#{grid}"

    def _grid(self, grid: Grid) -> str:
        cells = []
        for number, row in enumerate(grid.rows):
            if grid.band and number < grid.num_heads:
                cells += [self._on_band(partial(self.line, line)) for line in row]
            else:
                cells += [f"[{self.line(line)}]" for line in row]
        aligns = ", ".join(map(_align, grid.aligns))
        columns = "1fr, " + "auto, " * (len(grid.aligns) - 1) if grid.wide else "auto, " * len(grid.aligns)
        look = f"columns: ({columns}), align: ({aligns},), fill: (x, y) => {self._fills(grid)}, stroke: none"
        return f"#table({look}, {self._rules(grid)} {', '.join(cells)})"

    def _fills(self, grid: Grid) -> str:
        zebra = f"if calc.rem(y, 2) == 1 {{ {_color(self.look.tint)} }}" if grid.zebra else "none"
        return f"if y < {grid.num_heads} {{ {_color(self.look.band)} }} else {{ {zebra} }}" if grid.band else zebra

    def _rules(self, grid: Grid) -> str:
        """Lines of a table, as arguments before its cells."""
        count, rules, lines = len(grid.rows), grid.rules, []
        for y in range(count + 1):
            end = y in (0, count)
            under_heads = "t" in rules and y == grid.num_heads
            over_totals = grid.num_totals and y == count - grid.num_totals
            if (end and ("b" in rules or "o" in rules)) or under_heads or over_totals or ("h" in rules and not end):
                lines.append(f"table.hline(y: {y}, stroke: {self.stroke}),")
            elif "d" in rules and not end:
                dots = f'(paint: {_color(self.look.rule)}, thickness: 0.8pt, dash: "dotted")'
                lines.append(f"table.hline(y: {y}, stroke: {dots}),")
        edges = range(len(grid.aligns) + 1)
        for x in edges:
            end = x in (0, edges[-1])
            if ("o" in rules and end) or ("v" in rules and not end):
                lines.append(f"table.vline(x: {x}, stroke: {self.stroke}),")
        return " ".join(lines)

    def _rule(self, kind: str) -> str:
        paint = _color(self.look.rule)
        thick = "1.6pt" if kind == "thick" else "0.8pt"
        dash = "dashed" if kind == "dashed" or len(kind) == 1 else "solid"
        line = f'line(length: 100%, stroke: (paint: {paint}, thickness: {thick}, dash: "{dash}"))'
        return f"#stack(spacing: 2pt, {line}, {line})" if kind == "double" else f"#{line}"

    def _panel(self, inner: Block, filled: bool) -> str:
        box = f"fill: {_color(self.look.band)}" if filled else f"stroke: {self.stroke}"
        set_inner = partial(self.block, inner)
        content = self._on_band(set_inner) if filled else f"[{set_inner()}]"
        return f"#block(width: 100%, inset: {self.look.pad * 1.4}pt, {box}){content}"

    def _on_band(self, markup: Callable[[], str]) -> str:
        """Content in the ink of filled places."""
        kept = self.ink, self.muted
        self.ink = self.muted = self.look.band_ink
        content = f"[#set text(fill: {_color(self.ink)})\n{markup()}]"
        self.ink, self.muted = kept
        return content

    def _blank(self, blank: Blank) -> str:
        pad, size = self.look.pad, self.look.size
        if blank.kind == "caption":
            value, label = self.line(blank.value), self.line(blank.label)
            rule = f"line(length: 100%, stroke: {self.stroke})"
            return f"#stack(spacing: {pad}pt, block(height: {size}pt)[{value}], {rule}, [{label}])"
        label, value = self.line(blank.label), self.line(blank.value)
        if blank.kind == "framed":
            inner = f"#stack(spacing: {pad}pt, [{label}], block(height: {size}pt)[{value}])"
            return f"#block(width: 100%, inset: {pad}pt, stroke: {self.stroke})[{inner}]"
        dotted = f'(bottom: (paint: {_color(self.look.rule)}, thickness: 0.8pt, dash: "dotted"))'
        stroke = {"box": self.stroke, "dotted": dotted, "underline": f"(bottom: {self.stroke})"}.get(blank.kind, "none")
        field = (
            f"block(width: 100%, stroke: {stroke}, inset: (x: {pad}pt, y: {pad * 0.7}pt))[#box(height: 0.7em)[{value}]]"
        )
        return f"#grid(columns: (auto, 1fr), align: horizon, column-gutter: {pad}pt, [{label}], {field})"

    def _options(self, block: Options) -> str:
        parts = []
        for ticked, line in block.options:
            tick = _tick(block, ticked, self.look.size * 0.8, _color(self.look.ink))
            label = self.line(line)
            parts.append(f"#box[{label}~{tick}]" if block.after else f"#box[{tick}~{label}]")
        gap = f"#h({self.look.size}pt, weak: true)" if block.across else " \\\n"
        return gap.join(parts)


def _tick(block: Options, ticked: bool, side: float, ink: str) -> str:
    inner = ""
    if ticked and block.mark == "fill":
        shape = "circle" if block.round else "square"
        radius = f"radius: {side * 0.27}pt" if block.round else f"size: {side * 0.54}pt"
        inner = f"#place(center + horizon, {shape}({radius}, fill: {ink}))"
    elif ticked:
        for (x, y), (to_x, to_y) in TICKS[block.mark]:
            points = f"start: ({x * side}pt, {y * side}pt), end: ({to_x * side}pt, {to_y * side}pt)"
            inner += f"#place(top + left, line({points}, stroke: {max(1.0, side / 8)}pt + {ink}))"
    radius = f"radius: {side / 2}pt, " if block.round else ""
    return f"#box(width: {side}pt, height: {side}pt, baseline: 12%, {radius}stroke: 0.8pt + {ink})[{inner}]"


def _logo(shape: str, side: float, color: str) -> str:
    match shape:
        case "disc":
            return f"#circle(radius: {side / 2}pt, fill: {color})"
        case "ring":
            return f"#circle(radius: {side / 2}pt, stroke: {max(2, side / 6)}pt + {color})"
        case "triangle":
            return f"#polygon(fill: {color}, (0pt, {side}pt), ({side / 2}pt, 0pt), ({side}pt, {side}pt))"
        case "stripes":
            bars = ", ".join(
                f"rect(width: {side * (1 - n / 4)}pt, height: {side / 5}pt, fill: {color})" for n in range(3)
            )
            return f"#stack(spacing: {side / 6}pt, {bars})"
    return f"#square(size: {side}pt, fill: {color})"


# The compiler --------------------------------------------------------------------------------


def _compiled(face: Face, source: bytes) -> bytes:
    data = _compiler(face.path).compile(input=source, format="pdf", pdf_tags=False)
    assert isinstance(data, bytes)
    return data


@lru_cache(maxsize=256)
def _compiler(path: Path | None) -> typst.Compiler:
    """A compiler that knows one typeface, which need not be found among its family; without a path, typst's own."""
    if path is None:
        return typst.Compiler(font_paths=typst.Fonts(False, True, []), ignore_system_fonts=True)
    folder = Path(tempfile.mkdtemp(dir=_folders().name))
    (folder / path.name).symlink_to(path.resolve())
    return typst.Compiler(font_paths=typst.Fonts(False, False, [folder]), ignore_system_fonts=True)


@lru_cache(maxsize=1)
def _folders() -> tempfile.TemporaryDirectory[str]:
    """Typst searches folders for typefaces; here each one gets its own."""
    return tempfile.TemporaryDirectory(prefix="nano-typst-")
