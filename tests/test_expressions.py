"""Every regular expression that is run over what anybody sends takes time in proportion to it: shown by its form.

An expression is linear if nothing that it has read is read again: each repetition without an end is possessive,
and a search that failed behind one cannot begin again within it, since no sign of it begins a match.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import tessera
from tessera.engine.grammar import GBNF_RULE, LARK_TEXT, MAX_LINE_CHARS, MAX_PROBLEM_LINES, SPECIAL
from tessera.engine.grammar_check import GrammarCheck
from tessera.tool_calls import LISTED_HEAD, LISTED_TAIL, NAMED_HEAD

PACKAGE = Path(tessera.__file__).parent
MODULES = (
    "conversation.py", "prompt.py", "tool_calls.py", "engine/grammar.py", "engine/grammar_check.py", "engine/schema.py",
    "engine/patterns.py", "messages.py", "server/translate.py", "server/structured.py", "server/wire.py",
    *(f"server/routes/{path.name}" for path in sorted((PACKAGE / "server" / "routes").glob("*.py"))),
)  # fmt: skip
# These read the library's words, of which a few short lines are left.
OVER_SHORT_TEXT = {"_refuse", "_name_part", "_loosen"}
READ_AT_ONE_PLACE = {LISTED_HEAD.pattern, LISTED_TAIL.pattern, NAMED_HEAD.pattern}  # by match alone
SIGNS = [*map(chr, range(128)), "é", "中", "\u00a0"]
Part = tuple[Any, Any]


def expressions() -> Iterator[tuple[str, str, bool]]:
    """Where each literal expression stands, itself, and whether it is tried at every place of a text."""
    for module in MODULES:
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
            for node in calls_in(function):
                name, pattern = node.func.attr, node.args[0]  # type: ignore[attr-defined]
                if name in ("compile", "search", "match", "fullmatch", "sub", "findall", "finditer", "split"):
                    assert isinstance(pattern, ast.Constant), f"{module}:{node.lineno} is no literal"
                    if getattr(function, "name", "") not in OVER_SHORT_TEXT:
                        anchored = name in ("match", "fullmatch") or pattern.value in READ_AT_ONE_PLACE
                        yield f"{module}:{node.lineno}", str(pattern.value), not anchored


def calls_in(function: ast.AST) -> list[ast.Call]:
    """Calls of `re` that belong to this function, or to no function."""
    found, rest = [], list(ast.iter_child_nodes(function))
    while rest:
        node = rest.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        is_of_re = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_of_re and isinstance(node.func.value, ast.Name) and node.func.value.id == "re":  # type: ignore[attr-defined]
            found.append(node)
        rest += ast.iter_child_nodes(node)
    return found  # type: ignore[return-value]


def signs_of(part: Part) -> set[str]:
    """The signs that one part may read first."""
    code, value = part
    if code is codes.LITERAL:
        return {chr(value)}
    if code is codes.NOT_LITERAL:
        return set(SIGNS) - {chr(value)}
    if code is codes.ANY:
        return set(SIGNS) - {"\n"}
    if code is codes.IN:
        return in_set(value)
    if code is codes.SUBPATTERN:
        return first_signs(list(value[3]))
    if code is codes.BRANCH:
        return set().union(*(first_signs(list(each)) for each in value[1]))
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        return first_signs(list(value[2]))
    return set()


def in_set(members: list[Part]) -> set[str]:
    categories = {
        "DIGIT": r"\d",
        "SPACE": r"\s",
        "WORD": r"\w",
        "NOT_DIGIT": r"\D",
        "NOT_SPACE": r"\S",
        "NOT_WORD": r"\W",
    }
    found: set[str] = set()
    for code, value in members:
        if code is codes.LITERAL:
            found.add(chr(value))
        elif code is codes.RANGE:
            found |= {sign for sign in SIGNS if value[0] <= ord(sign) <= value[1]}
        elif code is codes.CATEGORY:
            found |= {sign for sign in SIGNS if re.match(categories[str(value).removeprefix("CATEGORY_")], sign)}
    return set(SIGNS) - found if members[0][0] is codes.NEGATE else found


def is_nullable(part: Part) -> bool:
    code, value = part
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        return value[0] == 0 or all(map(is_nullable, value[2]))
    if code is codes.SUBPATTERN:
        return all(map(is_nullable, value[3]))
    return code is codes.AT or (code is codes.BRANCH and any(all(map(is_nullable, each)) for each in value[1]))


def first_signs(parts: list[Part]) -> set[str]:
    found: set[str] = set()
    for part in parts:
        if part[0] is codes.AT and part[1] is codes.AT_BEGINNING:
            return {"\n"}  # it begins behind a new line only
        found |= signs_of(part)
        if not is_nullable(part):
            break
    return found


def faults(pattern: str, is_tried_everywhere: bool) -> list[str]:
    """What in an expression could make it read a text again and again."""
    parts = list(parser.parse(pattern))
    ways = [list(each) for each in parts[0][1][1]] if len(parts) == 1 and parts[0][0] is codes.BRANCH else [parts]
    endless = [way for way in ways if "MAXREPEAT" in str(way)]
    opening = set().union(*map(first_signs, endless))
    return [fault for way in ways for fault in faults_of(way, opening if is_tried_everywhere else set())]


def faults_of(parts: list[Part], opening: set[str]) -> list[str]:
    found = []
    for place, (code, value) in enumerate(parts):
        if code is codes.SUBPATTERN:
            found += faults_of(list(value[3]) + parts[place + 1 :], opening)
        if code not in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            continue
        if value[1] is not codes.MAXREPEAT:
            found += faults_of(list(value[2]), opening)
            continue
        rest = parts[place + 1 :]
        if code is not codes.POSSESSIVE_REPEAT and rest:
            found.append("a repetition gives back what it read")
        if signs_of((code, value)) & opening and not all(map(is_nullable, rest)):
            found.append("a match may begin within a repetition that failed")
    return found


@pytest.mark.parametrize(("place", "pattern", "is_tried_everywhere"), expressions())
def test_an_expression_is_linear(place: str, pattern: str, is_tried_everywhere: bool) -> None:
    assert faults(pattern, is_tried_everywhere) == []


@pytest.mark.parametrize(
    "pattern",
    [r"^\s*[\w-]+\s*::=", r'"(?:\\.|[^"\\\n])*"', r"<[^>\s]+>", r"<[^>\s]++>", r"Pointer '.*' does", r"\s*[\[,]?\s*\{"],
)
def test_what_was_quadratic_is_found(pattern: str) -> None:
    flagged = r"(?m)" + pattern
    assert faults(flagged.replace(r"(?m)", ""), is_tried_everywhere=True)


def test_texts_of_all_kinds_read_as_before() -> None:
    assert GBNF_RULE.search('root ::= "a"')
    assert GBNF_RULE.search('# x\n\n \t my-rule\t::= "a"')
    assert not GBNF_RULE.search('start: "::="')
    assert LARK_TEXT.sub("", r'a "x\"<y>" b /<z>\/<q>/ c // <w>' + "\n<v>") == "a  b  c \n<v>"
    for text, found in (
        ("<a>", "<a>"),
        ("<<a>", "<a>"),
        ("<[5]>", "<[5]>"),
        ("< a>", None),
        ("%llguidance {}", "%llguidance"),
    ):
        match = SPECIAL.search(text)
        assert (match and match[0]) == found
    assert LISTED_HEAD.match(' , { "name" : "f" , "arguments" : {}')["name"] == "f"  # type: ignore[index]
    assert LISTED_TAIL.match(' , "id" : "x" }')["id"] == "x"  # type: ignore[index]
    assert LISTED_TAIL.match(" }")
    assert NAMED_HEAD.match(" f\x02id\x03 {")["id"] == "id"  # type: ignore[index]


def test_the_librarys_words_are_cut_before_they_are_read() -> None:
    from tessera.errors import GrammarError
    from tessera.sampling import Grammar
    from tests.engine.test_grammar import COMPILER, schema_grammar

    with pytest.raises(GrammarError, match="leads nowhere"):
        COMPILER.matcher(schema_grammar({"$ref": "#/" + "x" * 72_000}))
    for source in (
        "\n" * 99_000 + "x",
        " \n" * 45_000 + "x",
        '"""' * 30_000,
        r"/\/" * 30_000,
        "<" * 99_000,
        "a ::= " + "(" * 9_000,
    ):
        with pytest.raises(GrammarError) as caught:
            COMPILER.matcher(Grammar("lark", source))
        assert len(str(caught.value)) < 300
    assert MAX_PROBLEM_LINES * MAX_LINE_CHARS < 10_000


def test_llama_cpps_grammars_are_converted_where_they_can_be_stopped() -> None:
    """A chain of rules makes the converter go over all of them once for each: 3,000 took six seconds."""
    chain = "\n".join(f"r{number} ::= r{number + 1}" for number in range(7000)) + '\nr7000 ::= "a"\nroot ::= r0\n'
    impatient, patient = GrammarCheck(deadline_s=2.0), GrammarCheck(deadline_s=60.0)
    try:
        assert impatient.convert(chain) == ("too complex", "")
        problem, lark = patient.convert('root ::= "a" [0-9]+')
        assert (problem, patient.ask(lark)) == ("", "")
        assert patient.convert("root ::= (")[0] == "not GBNF"
    finally:
        impatient.close()
        patient.close()
