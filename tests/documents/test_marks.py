"""What a page's text becomes as Markdown, judged by markdown-it's rendering and by the standard library's parser."""

from __future__ import annotations

import random
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tessera.documents.markdown import text_to_markdown
from tessera.documents.marks import Paragraphs, inert, literal_line, plain
from tests.documents.papers import TypedPage

RENDERERS = (MarkdownIt("commonmark").enable(["table", "strikethrough"]), MarkdownIt("commonmark"))
for renderer in RENDERERS:
    renderer.validateLink = lambda url: True  # type: ignore[method-assign]  # others do not look at a link's scheme
OURS = {
    "p", "br", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "code", "pre", "em", "strong", "a", "blockquote",
    "hr", "table", "thead", "tbody", "tr", "th", "td", "s", "sub", "sup",
}  # fmt: skip
TEXTS = (
    "a <!-- no comment --> b", "-->", "<!--", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "if (a<b && c>d)", "x[i]*y_1 + z_{2}*w", "*one* and **two**", "snake_case_name and __init__", "# no heading", "C #",
    "#5 of 9", "```", "~~~", "~~gone~~", "`code`", "[text](javascript:alert(1))", "![picture](http://example.com/x.png)",
    "[1]: see-there", "AT&T &amp; &lt;b&gt; &#65;",
    "C:\\*.txt", "ends in a backslash\\", "-----", "=====", "* * *", "***", "> quoted", "-",
    "$x<y$ costs $5", "| a | b |", "2 * 3 * 4", "<https://example.com>", "a -> b", "5 < 6", "---|---", "\\<b>",
)  # fmt: skip


class Seen(HTMLParser):
    """The text, tags and links of HTML."""

    def __init__(self, rendered: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self.comments = "", set[str](), dict[str, str](), list[str]()
        self.feed(rendered)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes.update(attrs)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def assert_inert(markdown: str, given: str) -> None:
    for renderer in RENDERERS:
        seen = Seen(renderer.render(f"<!-- one -->\n\n{markdown}\n\n<!-- two -->\n"))
        assert [each.strip() for each in seen.comments] == ["one", "two"], given
        assert seen.tags <= OURS, given
        assert set(seen.attributes) <= {"href", "title", "class", "start", "style"}, given  # a column's alignment
        assert re.match(r"https?:|mailto:|[^:]*([/?#]|$)", seen.attributes.get("href", "")), given


@pytest.mark.parametrize("text", TEXTS)
def test_a_line_of_a_text_layer_shows_its_own_signs(text: str) -> None:
    for before in ("", "A line before\n"):
        for renderer in RENDERERS:
            seen = Seen(renderer.render(before + literal_line(text)))
            assert seen.text.strip() == before + text
            assert seen.tags <= {"p"} | ({"hr"} if text == "* * *" else set()), text
    assert plain(literal_line(text)) == text
    assert_inert(literal_line(text), text)


def test_a_cell_of_a_table_shows_its_own_signs() -> None:
    page = TypedPage(["What           Code", "a|b            <b>x</b>", "c\\|d           `x`", "*e*            [x](y)"])
    seen = Seen(RENDERERS[0].render(text_to_markdown(page)))
    assert seen.text.split() == ["What", "Code", "a|b", "<b>x</b>", "c\\|d", "`x`", "*e*", "[x](y)"]
    assert "table" in seen.tags


def test_code_and_formulas_of_a_model_stay_as_they_are() -> None:
    code = "```c\n#include <stdio.h>\nif (a<b) x[i] = *p; // <!-- -->\n```"
    rest = "Use `vector<int>` for *all*:\n\n- $a<b$ and\n- x<sub>2</sub>\n\n| a<br>b | 1 |\n| --- | --- |"
    told = f"# Title\n\n{code}\n\n{rest}"
    shown = inert(told)
    assert code in shown
    assert "`vector<int>` for *all*" in shown
    assert "$a< b$" in shown  # the same formula
    seen = Seen(RENDERERS[0].render(shown))
    assert {"h1", "pre", "code", "em", "ul", "table", "sub", "br"} <= seen.tags
    assert inert(shown) == shown


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("a <b>bold</b> move", "a <b>bold</b> move"), ("<!-- hidden", "<!-- hidden"), ("--> shown", "--> shown"),
        ("[x](https://example.com/a)", "x"), ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("[x](\njava&#115;cript:alert(1))", "[x](\njavascript:alert(1))"), ("![x](a.png)", "![x](a.png)"),
        ("[x]: javascript:a\n\n[x]", "[x]: javascript:a\n[x]"), ("``` `\n<script>", "``` `\n<script>"),
    ],
)  # fmt: skip
def test_html_of_a_model_is_shown_and_not_obeyed(markdown: str, text: str) -> None:
    assert_inert(inert(markdown), markdown)
    assert Seen(RENDERERS[0].render(inert(markdown))).text.replace("\n\n", "").strip("\n") == text


def test_a_fence_says_no_more_than_its_language() -> None:
    assert inert("~~~ c++ [a]<script>\n<b>\n~~~") == "~~~c++\n<b>\n~~~"
    assert inert("  ```\n x\n  ```") == "```\n x\n```"


def test_code_that_is_left_open_ends_with_its_page() -> None:
    seen = Seen(RENDERERS[0].render(inert("````\na\n```") + "\n\n# Next page\n"))
    assert seen.text.split("\n")[:2] == ["a", "```"]
    assert "h1" in seen.tags


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["10. October", "15. November"], "10. October\n15\\. November"), (["1. a", "2. b"], "1. a\n2. b"),
        (["007. Bond"], "007\\. Bond"), (["3) c", "4) d", "4) e"], "3) c\n4) d\n4\\) e"),
    ],
)  # fmt: skip
def test_numbers_of_a_list_are_those_of_the_page(before: list[str], now: str) -> None:
    assert Paragraphs().literal(before) == now
    apart = Paragraphs()
    assert "\n".join(apart.literal([line]) for line in before) == now  # a list goes on over an empty line
    if len(before) == 2:
        assert apart.literal(["Words"]) + apart.literal(before[:1]) == "Words" + before[0]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("- 50,00 EUR", "- 50,00 EUR"), ("+ 49 30 1234", "+ 49 30 1234"), ("- \u20ac 5", "- \u20ac 5"),
        ("- # x", "# x"), ("1. > x", "> x"), ("1. ---", "---"), ("- - 5", "- 5"),
    ],
)  # fmt: skip
def test_signs_are_kept_before_amounts_and_within_items(line: str, text: str) -> None:
    for renderer in RENDERERS:
        assert Seen(renderer.render(literal_line(line))).text.strip() == text


def shown(markdown: str) -> list[str]:
    """The text of Markdown by both judges; Python-Markdown with what could take a bracket for more."""
    other = pytest.importorskip("markdown", reason="the docs extra is not installed")
    html = other.markdown(markdown, extensions=["abbr", "footnotes", "tables", "attr_list"])
    return [Seen(each).text.strip() for each in (RENDERERS[0].render(markdown), html)]


@pytest.mark.parametrize("line", ["Versand [pauschal]: 5,00", "Nr [1]: Stift", "Preis* 12,00", "*inkl. MwSt", "12,00*"])
def test_signs_that_mean_nothing_where_they_are_need_no_escape(line: str) -> None:
    assert Paragraphs().literal([line]) == line
    assert shown(line) == [line, line]


@pytest.mark.parametrize(
    "lines",
    [
        ["[pauschal]: 5,00"], ["- [pauschal]: 5,00"], ["1. [a]: b"], ["[two", "lines]: 5,00"],
        ["[two", "b \\[x]: 5,00"], ["[two", "b ![x]: 5,00"], ["Preis* 12,00*"],
        ["12,00*", "*inkl. MwSt"], ["*[MwSt]: Steuer", "MwSt"], ["[^1]: Note", "see [^1]"],
    ],
)  # fmt: skip
def test_signs_that_would_mean_something_are_escaped(lines: list[str]) -> None:
    told, no_signs = "\n".join(lines), re.compile(r"^- |^1\. |\\")  # Python-Markdown shows some of the backslashes
    for found in shown(Paragraphs().literal(lines)):
        assert no_signs.sub("", found) == no_signs.sub("", told)
    assert_inert(inert(told), told)
    assert "5,00" not in told or "5,00" in Seen(RENDERERS[0].render(inert(told))).text


@pytest.mark.parametrize(
    "piece", ["a`b``", "`|", "](", "$", "\n", "`a\n", "- ", "1. ", "#", "*", "\\", "&", "<", "a[]:"]
)
def test_a_long_line_takes_no_more_than_its_length(piece: str) -> None:
    told = piece * (60_000 // len(piece))
    began = time.process_time()
    inert(told)
    literal_line(told.replace("\n", " "))
    assert time.process_time() - began < 5  # it took 30 s and more where the time grew with the square


def test_no_mixture_of_marks_comes_alive() -> None:
    pieces = [
        "<script>", "</script>", "<!--", "-->", "<br>", "<sub>", "<img src=x onerror=y>",
        "`", "``", "```", "````", "~~~",
        "\n", "\n\n", "\r", " ", "   ", "    ", "\t", "\xa0", "\x0c", "- ", "1. ", "> ", "# ", "|", "| --- |",
        "---", "\\", "[", "]",
        "[a]", "(", ")", "](", "javascript:x", "&#58;", "![", "]:", "$", "word", "<", ">", "!", '"', "'", "\0", "0",
    ]  # fmt: skip
    draw = random.Random(7)
    for _ in range(6000):
        given = "".join(draw.choices(pieces, k=draw.randint(1, 24)))
        assert_inert(inert(given), given)
        assert_inert("\n".join(map(literal_line, re.split(r"[\r\n]+", given.replace("\0", "")))), given)
