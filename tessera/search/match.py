"""A query as SQL: the expressions for FTS5, and the conditions of filters with their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tessera.errors import UsageError
from tessera.search.query import Clause, Filter, Query, Range, Term
from tessera.search.terms import folded

BUILT_IN = ("file", "page", "source", "code")
# What people call a field, and what the presets call it.
ALIASES = {
    "total": ("gross", "amount"), "supplier": ("vendor",), "seller": ("vendor",), "number": ("invoice_number",),
    "invoice": ("invoice_number",), "buyer": ("customer",), "vat": ("tax",), "subtotal": ("net",),
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A condition on a page `p`, and its parameters."""

    sql: str
    values: tuple[object, ...] = ()


NO_CONDITION = Condition("p.source != 'error'")


def resolve(query: Query, names: Iterable[str]) -> Query:
    """Give filters the names that the index has. Raises UsageError for one that it does not."""
    known = set(names)
    clauses = tuple(
        clause
        if clause.is_text
        else replace(clause, options=tuple(_known(each, known) for each in clause.options if isinstance(each, Filter)))
        for clause in query.clauses
    )
    return replace(query, clauses=clauses)


def _known(given: Filter, known: set[str]) -> Filter:
    name = given.name
    if name in BUILT_IN or name in known:
        return given
    by_case = {each.lower(): each for each in known}
    for other in (name, *ALIASES.get(name, ())):
        if other in by_case:
            return replace(given, name=by_case[other])
    fields = ", ".join(sorted(known)) or "no other; `tessera index --preset NAME -m MODEL` adds them"
    raise UsageError(
        f"{given.written} asks for a field {name}, which this index does not have; it has {', '.join(BUILT_IN)} and "
        f'{fields}. To look for the words, write "{given.written}" in quotes.',
        param="q",
    )


def expression(clauses: Sequence[Clause], excluded: Sequence[Clause] = (), *, every: bool = True) -> str:
    """FTS5's expression for all of the clauses, or for any; without what is excluded."""
    positive = (" AND " if every else " OR ").join(f"({_either(clause)})" for clause in clauses)
    negative = " OR ".join(_either(clause) for clause in excluded)
    return f"({positive}) NOT ({negative})" if negative else positive


def _either(clause: Clause) -> str:
    return " OR ".join(phrase(term) for term in clause.options if isinstance(term, Term))


def phrase(term: Term) -> str:
    """Only letters, digits and spaces are within the quotes, so nothing of it is syntax."""
    return f'"{" ".join(term.tokens)}"{" *" if term.prefix else ""}'


def conditions(filters: Sequence[Clause]) -> Condition:
    """The condition of all filters; pages that could not be read are found only by their code."""
    found = [_clause(clause) for clause in filters]
    if not filters:
        return NO_CONDITION
    if not any(each.name == "code" for clause in filters for each in clause.options if isinstance(each, Filter)):
        found.append(Condition("p.source != 'error'"))
    return Condition(" AND ".join(each.sql for each in found), tuple(value for each in found for value in each.values))


def _clause(clause: Clause) -> Condition:
    options = [_filter(each) for each in clause.options if isinstance(each, Filter)]
    sql = " OR ".join(f"({each.sql})" for each in options)
    sql = f"NOT ({sql})" if clause.excluded else f"({sql})"
    return Condition(sql, tuple(value for each in options for value in each.values))


def _filter(given: Filter) -> Condition:
    special: dict[str, Callable[[Filter], Condition]] = {"file": _file, "page": _page, "source": _source, "code": _code}
    return special.get(given.name, _field)(given)


def _pattern(text: str) -> str:
    """GLOB's pattern of a text with stars; brackets mean themselves."""
    return text.lower().replace("[", "[[]").replace("?", "[?]")


def _file(given: Filter) -> Condition:
    text = _text(given)
    if "*" in text:
        wanted: tuple[str, ...] = (_pattern(text), f"*/{_pattern(text)}")
    else:
        wanted = (f"*{_pattern(text)}*",) * 2
    sql = (
        "p.content IN (SELECT content FROM files WHERE lower(name) GLOB ? OR lower(name) GLOB ?) OR "
        "(p.member != '' AND (lower(p.member) GLOB ? OR lower(p.member) GLOB ?))"
    )
    return Condition(sql, (*wanted, *wanted))


def _page(given: Filter) -> Condition:
    if given.numbers is None:
        raise UsageError(f"{given.written}: a page is a number, as in page:2 or page:1..3.", param="q")
    return _within("p.number", given.numbers)


def _source(given: Filter) -> Condition:
    return Condition("p.source GLOB ?", (_pattern(_text(given)),))


def _code(given: Filter) -> Condition:
    return Condition("p.code GLOB ?", (_pattern(_text(given)),))


def _text(given: Filter) -> str:
    if given.text is None:
        raise UsageError(f"{given.written}: {given.name} is text and cannot be compared; write {given.name}:*.pdf or "
                         "the like.", param="q")  # fmt: skip
    return given.text


def _field(given: Filter) -> Condition:
    tests = []
    if given.numbers is not None:
        tests.append(_within("number", given.numbers))
    if given.days is not None:
        tests.append(_within("day", given.days))
    if given.text is not None:
        if "*" in given.text:
            tests.append(Condition("text GLOB ?", (_pattern(folded(given.text)),)))
        elif tests:  # total:100 is not 2,100
            tests.append(Condition("text = ?", (folded(given.text),)))
        else:
            escaped = folded(given.text).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            tests.append(Condition("text LIKE ? ESCAPE '\\'", (f"%{escaped}%",)))
    sql = " OR ".join(f"({test.sql})" for test in tests)
    values = (given.name, *(value for test in tests for value in test.values))
    return Condition(
        f"(p.content, p.member) IN (SELECT content, member FROM fields WHERE name = ? AND ({sql}))", values
    )


def _within(column: str, bounds: Range) -> Condition:
    tests: list[str] = [f"{column} IS NOT NULL"]
    values: list[object] = []
    if bounds.low is not None:
        tests.append(f"{column} {'>' if bounds.over else '>='} ?")
        values.append(bounds.low)
    if bounds.high is not None:
        tests.append(f"{column} {'<' if bounds.under else '<='} ?")
        values.append(bounds.high)
    return Condition(" AND ".join(tests), tuple(values))
