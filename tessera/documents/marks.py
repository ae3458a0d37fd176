"""Marks of Markdown and HTML in a page's text: it stays text where a transcript is rendered, and opens no comment.

`literal` is for a text layer, all of whose signs are meant as they are; `inert` for Markdown that a model wrote, whose
headings, lists, tables and code are meant and whose HTML is not. The rules are CommonMark's with GitHub's tables.
Fences are set to the left, and those behind the mark of a list or a quotation are text. Where it is not certain that a
renderer sees code in a line, it is not taken for code: "&lt;" is then shown in it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

MARKS = r"[!-/:-@\[-`{-~]"  # the signs that a backslash makes literal
TAG = re.compile(r"<(?=[A-Za-z/!?])")
KEPT = re.compile(r"<(?:br\s*/?|/?su[bp])>", re.IGNORECASE)  # in a line, after words
LINK = re.compile(r"\](?=\()")
DEFINED = re.compile(r"\](?=:)")
LETTER = re.compile(r"[^\W\d_]")
SAFE = re.compile(r"\]\(\s*(?:https?://|mailto:|[^\0\s<>():&\\]+[\s)#?/]|[)#?/])", re.IGNORECASE)
FENCE = re.compile(r"[ \t]*(?:(`{3,})[^`]*|(~{3,}).*)")
LANGUAGE = re.compile(r"^\s*([\w+#.-]*)")
FENCE_WITHIN = re.compile(
    r"[\s>*+.)\d-]*(?:```|~~~)"
)  # a quotation or an item of a list, where its end is hard to tell
RUN = re.compile(r"(`+)")
MATH = re.compile(r"(\$\$.+?\$\$|\$[^$\n]+\$)", re.DOTALL)
ESCAPE = re.compile(rf"\\({MARKS})|(&(?:#\w{{1,8}}|\w{{2,40}});)")
LITERAL = (
    (re.compile(rf"\\(?={MARKS}|$)"), r"\\\\"),
    (re.compile(r"&(?=#?\w{1,40};)"), "&amp;"),
    (TAG, "&lt;"),
    (re.compile(r"`|(?<![^\W_])_(?=\S)|(?<=\S)_(?![^\W_])|~(?=~)|(?<=~)~"), r"\\\g<0>"),
    (LINK, r"]\\"),
)
STAR = re.compile(r"(?<=\S)\*|\*(?=\S)")
AT_EDGES = re.compile(
    r"^((?:(?:[-+*]|[0-9]{1,9}[.)])\s+){0,4}?)"  # items of lists; more could take long
    r"(#(?=#{0,5}(?:\s|$))|>|(?=[-=_*+|:])[-=_*+|:\s]+$|[-+](?=\s+[\d$€£]))"  # a sign of minus is no item's mark
    r"|(?<=\s)(#+)$"
)
NUMBERED = re.compile(r"^[0-9]{1,9}(?=[.)](?:\s|$))")


def literal(text: str, *, has_pairs: bool = True) -> str:
    """Return text within a line as Markdown that shows the same signs; `has_pairs`: of stars, in its paragraph."""
    for pattern, instead in LITERAL:
        text = pattern.sub(instead, text)
    return _without_definition(STAR.sub(r"\\*", text) if has_pairs else text)


def literal_line(line: str, paragraph: str | None = None) -> str:
    """Return a line as Markdown that shows the same signs; an item of a list may still be drawn as one.

    A star alone in its paragraph emphasizes nothing; before a bracket, some renderers take it for an abbreviation's.
    """
    around = line if paragraph is None else paragraph
    has_pairs = around.count("*") > 1 or "*[" in around
    return AT_EDGES.sub(r"\1\\\2\3", literal(line, has_pairs=has_pairs))


class Paragraphs:
    """A page's paragraphs as Markdown that shows the same signs: a list counts on, whatever its items' numbers are.

    "10. October" and then "15. November" would be shown as 10 and 11, also with an empty line between.
    """

    def __init__(self) -> None:
        self._last = ""  # number of a list that may go on

    def literal(self, lines: Sequence[str]) -> str:
        """Return the next paragraph."""
        if not NUMBERED.match(lines[0]):
            self.end_list()
        whole = "\n".join(lines)
        return "\n".join(NUMBERED.sub(self._number, literal_line(line, whole)) for line in lines)

    def end_list(self) -> None:
        """Begin anew after a heading or a table."""
        self._last = ""

    def _number(self, found: re.Match[str]) -> str:
        number, last = found[0], self._last
        if number != str(int(last) + 1 if last else int(number)):
            return number + "\\"
        self._last = number
        return number


def plain(markdown: str) -> str:
    """Take the escapes out of Markdown in a line: `\\*` is a star, `&lt;` a sign of less."""
    return ESCAPE.sub(lambda found: found[1] or html.unescape(found[2]), markdown)


def inert(markdown: str) -> str:
    """Return a model's Markdown without HTML, comments, images, definitions, and links that could run something."""
    return "\n".join(_inert_lines(re.sub("\r\n?", "\n", markdown.replace("\0", "")).split("\n")))


def _inert_lines(lines: list[str]) -> Iterator[str]:
    """Go from one fence to the next; what lies between is treated a paragraph at a time."""
    fence, within, paragraph = "", False, list[str]()
    for line in lines:
        if fence:
            ended = re.fullmatch(rf"[ \t]*{fence[0]}{{{len(fence)},}}[ \t]*", line) is not None
            yield fence if ended else line
            fence = "" if ended else fence
            continue
        begun = FENCE.fullmatch(line)
        if within if begun else FENCE_WITHIN.match(line):
            within, begun, line = not within, None, re.sub("(?=```|~~~)", r"\\", line, count=1)
        if begun is None and line.strip(" \t"):
            paragraph.append(line)
            continue
        yield from _inert_paragraph(paragraph)
        paragraph = []
        fence = begun[1] or begun[2] if begun else ""
        # The language alone: with more behind it, Python-Markdown sees no fence, and HTML in what follows.
        yield fence + LANGUAGE.findall(line.strip(" \t").removeprefix(fence))[0]
    yield from _inert_paragraph(paragraph)
    if fence:
        yield fence  # or all pages after this one would be code


def _inert_paragraph(lines: list[str]) -> Iterator[str]:
    certain = all(_is_closed(line) for line in lines)
    parts = [part for line in lines for part in (*(_parts(line) if certain else [(line, False)]), ("\n", False))]
    text = "".join(f"\0{number}\0" if is_code else part for number, (part, is_code) in enumerate(parts[:-1]))
    if lines:
        yield re.sub("\0(\\d+)\0", lambda found: parts[int(found[1])][0], _inert_text(text))


def _is_closed(line: str) -> bool:
    """Tell whether all code in a line ends in it, so that it is code whatever the lines around it are."""
    return "\\`" not in line and all(is_code or "`" not in part for part, is_code in _parts(line))


def _parts(line: str) -> Iterator[tuple[str, bool]]:
    """Divide a line into text and code; a bar would end code as it ends a table's cell."""
    pieces = RUN.split(line)
    ends, last = dict[int, int](), dict[str, int]()  # of each run, the next one as long
    for place in range(len(pieces) - 2, 0, -2):
        if pieces[place] in last:
            ends[place] = last[pieces[place]]
        last[pieces[place]] = place
    place = 0
    while place < len(pieces):
        end = ends.get(place, place)
        code = "".join(pieces[place : end + 1])
        if end == place or "|" in code:
            yield pieces[place], False
            place += 1
        else:
            yield code, True
            place = end + 1


def _inert_text(text: str) -> str:
    text = LINK.sub(_inert_link, text).replace("![", "!\\[")
    pieces = MATH.split("\n".join(map(_without_definition, text.split("\n"))))
    # In a formula, a space after the sign changes nothing.
    text = "".join(TAG.sub("< ", piece) if number % 2 else piece for number, piece in enumerate(pieces))
    return "\n".join(_without_tags(line) for line in text.split("\n"))


def _inert_link(bracket: re.Match[str]) -> str:
    return "]" if SAFE.match(bracket.string, bracket.start()) else "]\\"


def _without_definition(line: str) -> str:
    """Return a line that defines no link: where a word stands before the first bracket, it could not anyway.

    Before that bracket, another one may end that a line above has opened.
    """
    opening, word = line.find("["), LETTER.search(line)
    if opening < 1 or word is None or word.start() > opening or line[opening - 1] == "\\":
        opening = len(line)
    return DEFINED.sub(r"]\\", line[:opening]) + line[opening:]


def _without_tags(line: str) -> str:
    word = re.search(r"[^\W\d_]|\|", line)

    def shown(sign: re.Match[str]) -> str:
        after_words = word is not None and word.start() < sign.start()  # before them it could begin a part of HTML
        return "<" if after_words and KEPT.match(line, sign.start()) else "&lt;"

    return TAG.sub(shown, line)
