"""Prints a paper's blocks on our own canvas: first how large each one is, then each at its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from PIL import ImageFont

from tessera.nano.pictures.canvas import Canvas, Color
from tessera.nano.pictures.page import Written
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
)

BASELINE = 0.35  # of the type size: how far the baseline lies under the middle of its line


class Sheet:
    """A page of blocks under one look; `size` is known before anything is drawn."""

    def __init__(self, block: Block, look: Look) -> None:
        self.block, self.look = block, look
        self.places: dict[Piece, Written] = {}
        self._widths: dict[int, float] = {}

    @cached_property
    def width(self) -> float:
        """Of the set page, without margins."""
        return self.width_of(self.block) * self.look.width

    @property
    def size(self) -> tuple[float, float]:
        left, top, right, bottom = self.look.margins
        return left + self.width + right, top + self.height_of(self.block, self.width) + bottom

    def print(self) -> Canvas:
        look = self.look
        self.canvas = Canvas(*self.size, look.paper)
        self.ink, self.muted = look.ink, look.muted
        self._paint(self.block, look.margins[0], look.margins[1], self.width)
        return self.canvas

    # Measures ------------------------------------------------------------------------------------

    def _font(self, piece: Piece) -> ImageFont.FreeTypeFont:
        return self.look.face_of(piece).font(self.look.type_size(piece))

    @cached_property
    def _blank(self) -> float:
        return self.look.face.font(self.look.size).getlength(" ")

    def line_width(self, line: Line) -> float:
        known = self._widths.get(id(line))
        if known is None:
            known = sum(self._font(piece).getlength(piece.text) for piece in line)
            known += sum(self._blank_between(*neighbours) for neighbours in pairwise(line))
            self._widths[id(line)] = known
        return known

    def _blank_between(self, one: Piece, other: Piece) -> float:
        return self._blank * max(1.0, other.scale) if blank_between(one, other) else 0.0

    def line_height(self, *lines: Line) -> float:
        sizes = [self.look.type_size(piece) for line in lines for piece in line]
        return max(sizes, default=self.look.size) * self.look.leading

    def width_of(self, block: Block) -> float:
        pad, size = self.look.pad, self.look.size
        match block:
            case Text(lines):
                return max(map(self.line_width, lines), default=0.0)
            case Pairs(rows, "columns" | "right"):
                return sum(self._pair_columns(rows)) + 2 * pad
            case Pairs(rows):
                return max(self.line_width(label) + self.line_width(value) for label, value in rows) + 3 * pad
            case Grid():
                return sum(self._columns(block))
            case Stack(blocks):
                return max(map(self.width_of, blocks))
            case Side(parts):
                return max(map(self.width_of, parts)) * len(parts) + 2 * pad * (len(parts) - 1)
            case Panel(inner):
                return self.width_of(inner) + 4 * pad
            case Blank(label, value, kind):
                one, other = self.line_width(label), self.line_width(value)
                return max(one, other, 4 * size) + 3 * pad if kind in ("framed", "caption") else one + other + 4 * pad
            case Options(options, across=across):
                widths = [self.line_width(line) + 2.2 * size for _, line in options]
                return sum(widths) if across else max(widths)
            case Logo(lines=lines):
                return lines * size * 1.5
        return 0.0

    def height_of(self, block: Block, width: float) -> float:
        pad, size = self.look.pad, self.look.size
        match block:
            case Text(lines):
                return sum(map(self.line_height, lines))
            case Pairs(rows):
                return sum(self.line_height(*row) for row in rows)
            case Grid(rows):
                return sum(self._row_height(row) for row in rows)
            case Stack(blocks):
                return sum(self.height_of(inner, width) for inner in blocks)
            case Side(parts):
                return max(self.height_of(part, width / len(parts)) for part in parts)
            case Panel(inner):
                return self.height_of(inner, width) + 2 * pad
            case Blank(label, value, kind):
                one, other = self.line_height(label), self.line_height(value)
                if kind in ("framed", "caption"):
                    return one + other + pad
                return max(one, other) + (pad * 1.6 if kind == "box" else pad / 2)
            case Options(options, across=across):
                heights = [self.line_height(line) for _, line in options]
                return max(heights) if across else sum(heights)
            case Rule():
                return size * 0.7
            case Gap(lines):
                return size * lines
            case Logo(lines=lines):
                return lines * size
        return 0.0

    def _pair_columns(self, rows: Sequence[tuple[Line, Line]]) -> tuple[float, float]:
        return max(self.line_width(label) for label, _ in rows), max(self.line_width(value) for _, value in rows)

    def _columns(self, grid: Grid) -> list[float]:
        return [max(map(self.line_width, column)) + 2 * self.look.pad for column in zip(*grid.rows, strict=True)]

    def _row_height(self, row: Sequence[Line]) -> float:
        return self.line_height(*row) + self.look.pad * 0.3

    # Painting ------------------------------------------------------------------------------------

    def _paint(self, block: Block, x: float, y: float, width: float) -> None:
        pad = self.look.pad
        match block:
            case Text(lines, align):
                for line in lines:
                    self._write(line, x + align * width, y, self.line_height(line), align)
                    y += self.line_height(line)
            case Pairs():
                self._paint_pairs(block, x, y, width)
            case Grid():
                self._paint_grid(block, x, y, width)
            case Stack(blocks):
                for inner in blocks:
                    self._paint(inner, x, y, width)
                    y += self.height_of(inner, width)
            case Side(parts):
                share = (width - 2 * pad * (len(parts) - 1)) / len(parts)
                for number, part in enumerate(parts):
                    self._paint(part, x + number * (share + 2 * pad), y, share)
            case Panel(inner, filled):
                self._paint_panel(inner, filled, x, y, width)
            case Blank():
                self._paint_blank(block, x, y, width)
            case Options():
                self._paint_options(block, x, y)
            case Rule(kind):
                self._paint_rule(kind, x, y + self.look.size * 0.35, width)
            case Logo():
                self._paint_logo(block, x, y, width)

    def _write(self, line: Line, x: float, y: float, height: float, align: float = 0.0) -> None:
        """Print one line in the height it has; its pieces share a baseline."""
        x -= align * self.line_width(line)
        baseline = y + height / 2 + max((self.look.type_size(piece) for piece in line), default=0) * BASELINE
        for number, piece in enumerate(line):
            font = self._font(piece)
            x += self._blank_between(line[number - 1], piece) if number else 0
            ink = self.muted if piece.muted else self.ink
            self.places[piece] = self.canvas.write(x, baseline, piece.text, font, ink)
            if piece.strong and self.look.can_be_bolder(piece):  # printed twice, a pixel apart
                self.canvas.pen.text((round(x) + 1, round(baseline)), piece.text, font=font, fill=ink, anchor="ls")
            x += font.getlength(piece.text)

    def _paint_pairs(self, pairs: Pairs, x: float, y: float, width: float) -> None:
        first, second = self._pair_columns(pairs.rows)
        for label, value in pairs.rows:
            height = self.line_height(label, value)
            right = x + width
            if pairs.kind == "right":
                self._write(label, right - second - self.look.pad * 2, y, height, 1.0)
            else:
                self._write(label, x, y, height)
            if pairs.kind in ("inline", "columns"):
                start = self.line_width(label) + self._blank if pairs.kind == "inline" else first + 2 * self.look.pad
                self._write(value, x + start, y, height)
            else:
                self._write(value, right, y, height, 1.0)
            if pairs.kind == "leader":
                self._paint_leader(x + self.line_width(label), right - self.line_width(value), y, height)
            y += height

    def _paint_leader(self, left: float, right: float, y: float, height: float) -> None:
        font = self.look.face.font(self.look.size)
        count = int((right - left - 2 * self._blank) / font.getlength("."))
        if count > 1:
            baseline = y + height / 2 + self.look.size * BASELINE
            self.canvas.write(right - self._blank, baseline, "." * count, font, self.muted, 1.0)

    def _paint_grid(self, grid: Grid, x: float, y: float, width: float) -> None:
        columns = self._columns(grid)
        if grid.wide:
            columns = [column + (width - sum(columns)) * column / sum(columns) for column in columns]
        edges = [x + sum(columns[:number]) for number in range(len(columns) + 1)]
        heights = [self._row_height(row) for row in grid.rows]
        tops = [y + sum(heights[:number]) for number in range(len(heights) + 1)]
        self._fill_rows(grid, edges, tops)
        for number, row in enumerate(grid.rows):
            ink = self.ink
            if grid.band and number < grid.num_heads:
                self.ink = self.look.band_ink
            for column, line in enumerate(row):
                align, inner = grid.aligns[column], columns[column] - 2 * self.look.pad
                start = edges[column] + self.look.pad + align * inner
                self._write(line, start, tops[number], heights[number], align)
            self.ink = ink
        self._rule_grid(grid, edges, tops)

    def _fill_rows(self, grid: Grid, edges: Sequence[float], tops: Sequence[float]) -> None:
        for number in range(len(grid.rows)):
            fill = self.look.band if grid.band and number < grid.num_heads else None
            if fill is None and grid.zebra and number % 2:
                fill = self.look.tint
            if fill is not None:
                self.canvas.pen.rectangle((edges[0], tops[number], edges[-1], tops[number + 1]), fill=fill)

    def _rule_grid(self, grid: Grid, edges: Sequence[float], tops: Sequence[float]) -> None:
        left, right, rules = edges[0], edges[-1], grid.rules
        if "o" in rules:
            self.canvas.pen.rectangle((left, tops[0], right, tops[-1]), outline=self.look.rule)
        for number, top in enumerate(tops):
            end = number in (0, len(grid.rows))
            heads = number == grid.num_heads and "t" in rules
            totals = number == len(grid.rows) - grid.num_totals and not end
            if (end and "b" in rules) or heads or totals or ("h" in rules and not end):
                self._stroke(left, top, right, top, 2 if end and "b" in rules else 1)
            elif "d" in rules and not end:
                self._dash(left, right, top, 1, 3)
        if "v" in rules:
            for edge in edges[1:-1]:
                self._stroke(edge, tops[0], edge, tops[-1])

    def _paint_panel(self, inner: Block, filled: bool, x: float, y: float, width: float) -> None:
        pad, height = self.look.pad, self.height_of(Panel(inner), width)
        box = (x, y + pad * 0.2, x + width, y + height - pad * 0.2)
        kept = self.ink, self.muted
        if filled:
            self.canvas.pen.rectangle(box, fill=self.look.band)
            self.ink = self.muted = self.look.band_ink
        else:
            self.canvas.pen.rectangle(box, outline=self.look.rule)
        self._paint(inner, x + 2 * pad, y + pad, width - 4 * pad)
        self.ink, self.muted = kept

    def _paint_blank(self, blank: Blank, x: float, y: float, width: float) -> None:
        pad, height = self.look.pad, self.height_of(blank, width)
        one, other = self.line_height(blank.label), self.line_height(blank.value)
        if blank.kind == "framed":
            self.canvas.pen.rectangle((x, y, x + width, y + height), outline=self.look.rule)
            self._write(blank.label, x + pad, y, one)
            self._write(blank.value, x + pad, y + one, other)
        elif blank.kind == "caption":
            self._write(blank.value, x + pad, y, other)
            self._stroke(x, y + other, x + width, y + other)
            self._write(blank.label, x + pad / 2, y + other, one)
        else:
            self._write(blank.label, x, y, height)
            start = x + self.line_width(blank.label) + pad
            self._write(blank.value, start + pad, y, height)
            under = y + height / 2 + self.look.size * 0.6
            if blank.kind == "underline":
                self._stroke(start, under, x + width, under)
            elif blank.kind == "dotted":
                self._dash(start, x + width, under, 1, 2)
            elif blank.kind == "box":
                self.canvas.pen.rectangle((start, y + pad * 0.3, x + width, y + height - pad * 0.3), outline=self.ink)

    def _paint_options(self, block: Options, x: float, y: float) -> None:
        size = self.look.size
        height = max(self.line_height(line) for _, line in block.options)
        side = size * 0.8
        for ticked, line in block.options:
            width = self.line_width(line)
            if block.after:
                self._write(line, x, y, height)
                self._paint_tick(block, ticked, x + width + size * 0.4, y + (height - side) / 2, side)
            else:
                self._paint_tick(block, ticked, x, y + (height - side) / 2, side)
                self._write(line, x + side + size * 0.4, y, height)
            if block.across:
                x += width + 2.2 * size
            else:
                y += height

    def _paint_tick(self, block: Options, ticked: bool, x: float, y: float, side: float) -> None:
        pen, ink = self.canvas.pen, self.ink
        box = (x, y, x + side, y + side)
        shape = pen.ellipse if block.round else pen.rectangle
        shape(box, outline=ink)
        if not ticked:
            return
        thick = max(1, round(side / 7))
        if block.mark == "fill":
            inset = side * 0.25
            shape((x + inset, y + inset, x + side - inset, y + side - inset), fill=ink)
        elif block.mark == "cross":
            pen.line((x + side * 0.2, y + side * 0.2, x + side * 0.8, y + side * 0.8), fill=ink, width=thick)
            pen.line((x + side * 0.2, y + side * 0.8, x + side * 0.8, y + side * 0.2), fill=ink, width=thick)
        else:
            middle = (x + side * 0.42, y + side * 0.78)
            pen.line((x + side * 0.15, y + side * 0.5, *middle), fill=ink, width=thick)
            pen.line((*middle, x + side * 0.95, y + side * 0.08), fill=ink, width=thick)

    def _paint_rule(self, kind: str, x: float, y: float, width: float) -> None:
        if len(kind) == 1:
            font = self.look.face.font(self.look.size)
            count = int(width / font.getlength(kind))
            self.canvas.write(x, y + self.look.size * BASELINE, kind * count, font, self.ink)
        elif kind == "dashed":
            self._dash(x, x + width, y, 4, 3)
        else:
            self._stroke(x, y, x + width, y, 2 if kind == "thick" else 1)
            if kind == "double":
                self._stroke(x, y + 3, x + width, y + 3)

    def _stroke(self, left: float, top: float, right: float, bottom: float, thick: int = 1) -> None:
        self.canvas.pen.line((left, top, right, bottom), fill=self.look.rule, width=thick)

    def _dash(self, left: float, right: float, y: float, dash: int, gap: int) -> None:
        for start in range(round(left), round(right), dash + gap):
            self.canvas.pen.line((start, y, min(start + dash - 1, right), y), fill=self.look.rule)

    def _paint_logo(self, logo: Logo, x: float, y: float, width: float) -> None:
        pen, color, side = self.canvas.pen, self._logo_color(), logo.lines * self.look.size * 0.85
        left = x + logo.align * (width - side)
        box = (left, y, left + side, y + side)
        match logo.shape:
            case "disc":
                pen.ellipse(box, fill=color)
            case "square":
                pen.rectangle(box, fill=color)
            case "ring":
                pen.ellipse(box, outline=color, width=max(2, round(side / 6)))
            case "triangle":
                pen.polygon((left, y + side, left + side / 2, y, left + side, y + side), fill=color)
            case "stripes":
                for number in range(3):
                    top = y + number * side * 0.36
                    pen.rectangle((left, top, left + side * (1 - number * 0.25), top + side * 0.2), fill=color)

    def _logo_color(self) -> Color:
        return self.look.band
