"""Tables in a page's Markdown, found by their bars, and written as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from tessera.documents.marks import plain

RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")
CELL = re.compile(r"(?<!\\)\|")


def tables_in(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield each table's place in the text and its lines: two or more that begin with a bar, the second a rule."""
    place, begun, lines = 0, 0, list[str]()
    for line in [*markdown.split("\n"), ""]:
        if line.lstrip().startswith("|"):
            begun = begun if lines else place
            lines.append(line)
        elif lines:
            if len(lines) > 1 and RULE.fullmatch(lines[1].strip()):
                yield begun, "\n".join(lines)
            lines = []
        place += len(line) + 1


def as_html(table: str) -> str:
    """A table of bars as HTML."""
    head, _, *rows = (_cells(line) for line in table.split("\n"))
    written = [_row(head, "th"), *(_row(row, "td") for row in rows)]
    return f"<table>{''.join(written)}</table>"


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [plain(cell.strip()) for cell in CELL.split(inner)]


def _row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
