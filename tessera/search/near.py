"""Words of the index that are like one that it does not have: misspelt ones, and longer ones that contain it.

Candidates share trigrams with the word, or contain all of it; the edit distance decides among them.
"""

from __future__ import annotations

import sqlite3

from rapidfuzz.distance import DamerauLevenshtein

from tessera.search.query import Clause, Query, Term
from tessera.search.terms import LEAST, tokens

RARE = 3  # pages; a word on fewer may be a part of others, and one on none may be misspelt
MAX_CANDIDATES, MAX_NEAR = 20_000, 8
LEAST_MISSPELT = 4  # characters; shorter words are like too many
PART_SHARE = 0.5  # of a longer word that the given one must be


class Frequencies:
    """The numbers of pages with terms; a search asks for each once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._known: dict[Term, int] = {}

    def __call__(self, term: Term) -> int:
        if term not in self._known:
            self._known[term] = _frequency(self.connection, term)
        return self._known[term]


def _frequency(connection: sqlite3.Connection, term: Term) -> int:
    """The number of pages with the rarest token of a term; of a prefix, of its beginning all together, about."""
    counts = []
    for token in term.tokens[: len(term.tokens) - term.prefix]:
        row = connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (token,)).fetchone()
        counts.append(0 if row is None else int(row[0]))
    if term.prefix:
        start = term.tokens[-1]
        some = connection.execute(
            "SELECT SUM(doc) FROM (SELECT doc FROM vocabulary WHERE term >= ? AND term < ? LIMIT 1000)",
            (start, start + "\U0010ffff"),
        ).fetchone()
        counts.append(int(some[0] or 0))
    return min(counts)


def with_near(frequency: Frequencies, query: Query) -> tuple[tuple[Clause, ...], dict[str, list[str]]]:
    """Return the wanted clauses with near words for rare ones, and which those are; the same clauses if none is."""
    clauses: list[Clause] = []
    found: dict[str, list[str]] = {}
    for clause in query.wanted:
        options: list[Term] = []
        for term in clause.options:
            assert isinstance(term, Term)
            count = RARE if term.quoted or term.prefix else frequency(term)
            near = nearest(frequency.connection, term, misspelt=count == 0) if count < RARE else []
            if near:
                found[term.written] = near
            options += [term, *(Term(each, tuple(tokens(each))) for each in near)]
        clauses.append(Clause(tuple(options)))
    return tuple(clauses), found


def nearest(connection: sqlite3.Connection, term: Term, *, misspelt: bool = True) -> list[str]:
    """Return the indexed words that are most like a term, the nearest first; unless misspelt, those that contain it."""
    word = "".join(term.written.lower().split()) if len(term.tokens) > 1 else term.tokens[0]
    if len(word) < LEAST:
        return []
    allowed = 0 if len(word) < LEAST_MISSPELT else 1 if len(word) < 8 else 2
    least = int(len(word) / PART_SHARE)
    rows = connection.execute(
        "SELECT term FROM trigrams WHERE trigrams MATCH ? AND length(term) <= ? LIMIT ?",
        (_quoted(word), least, MAX_CANDIDATES),
    ).fetchall()
    ranked = {term: len(term) - len(word) + 0.5 for (term,) in rows if term != word}
    if allowed and misspelt:
        pieces = {word[place : place + 3] for place in range(len(word) - 2)}
        rows = connection.execute(
            "SELECT term FROM trigrams WHERE trigrams MATCH ? AND length(term) BETWEEN ? AND ? LIMIT ?",
            (" OR ".join(map(_quoted, sorted(pieces))), len(word) - allowed, len(word) + allowed, MAX_CANDIDATES),
        ).fetchall()
        for (other,) in rows:
            distance = DamerauLevenshtein.distance(word, other, score_cutoff=allowed)
            if 0 < distance <= allowed:
                ranked[other] = min(ranked.get(other, 99), distance)
    return [each for each, _ in sorted(ranked.items(), key=lambda item: (item[1], item[0]))][:MAX_NEAR]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
