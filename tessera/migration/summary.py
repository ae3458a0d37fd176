"""What a comparison comes to: agreement and errors by field and by row, with what chance would do, and the decision.

Values of one document are right or wrong together, so intervals are drawn over documents. McNemar's test counts only
the values on which one model is right and the other wrong.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tessera.documents.assemble import PROBLEMS
from tessera.documents.record import Field, Record
from tessera.errors import UsageError, counted
from tessera.evals.answers import REFUSAL
from tessera.evals.metrics import bootstrap_interval, mcnemar, wilson_interval
from tessera.migration.cells import Cell, Compared, Group

MAX_CELLS = 2_000_000
SIGNIFICANT = 0.05
WORDS = ("go", "no-go", "undecided")


@dataclass(frozen=True)
class Share:
    """A mean over values, with its 95 % interval over documents."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})" if self.count else "none"


@dataclass(frozen=True)
class FieldSummary:
    """One kind of field. `right` counts are of labelled values; None without labels."""

    name: str
    agreement: Share
    how: dict[str, int]
    similarity: float | None  # mean ANLS, of texts
    new_errors: int
    fixed: int
    undecided: int
    labelled: int
    old_right: int
    new_right: int


@dataclass(frozen=True)
class GroupSummary:
    """The rows of one list: how many each side has, how many are alike in all their values, and right."""

    name: str
    rows: int
    old: int
    new: int
    agree: int
    labelled: int
    truth: int
    old_right: int
    new_right: int


@dataclass
class SideSummary:
    """What one model's records cost, and what went wrong with them."""

    name: str
    documents: int = 0
    pages: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    problems: int = 0  # replies that looped, were cut or were not the wanted JSON
    retried: int = 0
    review: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.documents += 1
        self.pages += len(record.pages)
        if record.error is not None:
            self.failed[record.error] += 1
        self.refused += any(REFUSAL.match(each.raw) is not None for each in record.fields.values())
        self.problems += any(check.startswith(tuple(PROBLEMS.values())) for check in record.checks)
        self.retried += record.retried
        self.review += record.review and record.error is None
        self.seconds += record.seconds
        self.prompt_tokens += record.usage.prompt_tokens
        self.completion_tokens += record.usage.completion_tokens


@dataclass(frozen=True)
class Decision:
    word: Literal["go", "no-go", "undecided"]
    reason: str

    def __str__(self) -> str:
        return f"{self.word.upper()}: {self.reason}"


@dataclass(frozen=True)
class Summary:
    """The comparison of two models on the same documents."""

    documents: int
    equal_documents: int
    agreement: Share
    fields: tuple[FieldSummary, ...]
    groups: tuple[GroupSummary, ...]
    new_errors: int
    fixed: int
    neither: int
    undecided: int
    judged_by: dict[str, int]
    p: float
    difference: Share  # of values that are right, new less old, counting the undecided as equal
    old_right: Share | None  # of the labelled values
    new_right: Share | None
    surety: Share  # of values that both found, new less old
    sides: tuple[SideSummary, SideSummary]
    least: float
    decision: Decision

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Adds up compared documents; keeps a few bytes of each value."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.sides = SideSummary(names[0]), SideSummary(names[1])
        self.documents = self.equal = self.neither = 0
        self.by: Counter[str] = Counter()
        self._fields: dict[str, _Kind] = {}
        self._groups: dict[str, Counter[str]] = {}
        self._all = _Kind()
        self._surety = _Column()

    def add(self, compared: Compared) -> None:
        """Count a document; raises UsageError if there are too many values."""
        place = self.documents
        self.documents += 1
        for side, record in zip(self.sides, (compared.old, compared.new), strict=True):
            side.add(record)
        self.equal += bool(compared.cells) and all(cell.match.agrees for cell in compared.cells)
        for cell in compared.cells:
            self._fields.setdefault(cell.name, _Kind()).add(cell, place)
            self._all.add(cell, place)
            self.neither += cell.right == "neither"
            if cell.by is not None and not cell.match.agrees:
                self.by[cell.by] += 1
            sure = [surety(each) for each in (cell.old, cell.new)]
            if sure[0] is not None and sure[1] is not None:
                self._surety.add(sure[1] - sure[0], place)
        for group in compared.groups:
            self._count(group)
        if len(self._all.agrees.values) > MAX_CELLS:
            raise UsageError(f"more than {MAX_CELLS:,} values are compared; divide the documents.")

    def _count(self, group: Group) -> None:
        counts = self._groups.setdefault(group.name, Counter())
        counts["rows"] += 1
        counts["old"] += group.in_old
        counts["new"] += group.in_new
        counts["agree"] += group.agrees
        if group.in_truth is not None:
            counts["labelled"] += 1
            counts["truth"] += group.in_truth
            counts["old_right"] += bool(group.old_right)
            counts["new_right"] += bool(group.new_right)

    def summary(self, least: float) -> Summary:
        """Sum up; `least` is the agreement that is wanted."""
        whole = self._all
        agreement, difference = whole.agrees.share(), whole.gains.share(signed=True)
        p = mcnemar(whole.new_errors, whole.fixed)
        rights = [column.share() if column.values else None for column in (whole.old_right, whole.new_right)]
        groups = [
            GroupSummary(name, **{key: counts[key] for key in GroupSummary.__dataclass_fields__ if key != "name"})
            for name, counts in self._groups.items()
        ]
        # What nobody judged may all be new errors.
        worst = difference.low - whole.undecided / max(1, difference.count)
        judged = bool(self.by) or rights[0] is not None
        return Summary(
            documents=self.documents, equal_documents=self.equal, agreement=agreement,
            fields=tuple(kind.summary(name) for name, kind in self._fields.items()), groups=tuple(groups),
            new_errors=whole.new_errors, fixed=whole.fixed, neither=self.neither, undecided=whole.undecided,
            judged_by=dict(self.by), p=p, difference=difference, old_right=rights[0], new_right=rights[1],
            surety=self._surety.share(signed=True), sides=self.sides, least=least,
            decision=decide(agreement, worst if judged else None, (whole.new_errors, whole.fixed), least),
        )  # fmt: skip


def decide(agreement: Share, worst: float | None, errors: tuple[int, int], least: float) -> Decision:
    """Say whether the new model can take over.

    `worst` is the lower end of what the share of right values may have gained, None if nothing tells; `errors` are new
    ones and fixed ones. No, if it makes more errors than chance explains, or if the whole interval of agreement lies
    below `least` and nothing shows that it is as good. Yes, if that interval lies above, or if at most 1 - `least` of
    the values can have become wrong. Otherwise there are too few documents to tell.
    """
    new, fixed = errors
    p = mcnemar(new, fixed)
    change = f"{counted(new, 'new error')}, {fixed:,} fixed (p = {p:.2g})"
    told = f"agreement {agreement}, at least {least:.1%} wanted; {change}"
    if not agreement.count:
        return Decision("undecided", "no value could be compared")
    if new > fixed and p < SIGNIFICANT:
        return Decision("no-go", f"the new model makes more errors than chance explains; {told}")
    if agreement.low >= least:
        return Decision("go", told)
    if worst is not None and worst > least - 1:
        return Decision("go", f"the models differ, and the new one is right as often; {told}")
    if agreement.high < least:
        return Decision("no-go", f"the models differ too often, and nothing shows that the new one is right; {told}")
    return Decision("undecided", f"the interval is too wide, give more documents or labels; {told}")


def surety(each: Field | None) -> float | None:
    """How sure a model was of a value: calibrated, or else its score; None without the tokens' probabilities."""
    if each is None or each.state != "found" or (each.confidence is None and not each.evidence):
        return None
    return each.score if each.confidence is None else each.confidence


@dataclass
class _Column:
    """Numbers, and the document of each."""

    values: array[float] = field(default_factory=lambda: array("d"))
    places: array[int] = field(default_factory=lambda: array("l"))

    def add(self, value: float, place: int) -> None:
        self.values.append(value)
        self.places.append(place)

    def share(self, *, signed: bool = False) -> Share:
        """The mean with its interval. Where all documents are equal, drawing again shows nothing; their number does."""
        count, least = len(self.values), -1.0 if signed else 0.0
        if not count:
            return Share(0.0, least, 1.0, 0)
        mean = sum(self.values) / count
        if len(set(self.values)) > 1:
            low, high = bootstrap_interval(self.values, [str(place) for place in self.places])
            if low < high:
                return Share(mean, low, high, count)
        documents = len(set(self.places))
        slack = 1 - wilson_interval(documents, documents)[0]
        return Share(mean, max(least, mean - slack), min(1.0, mean + slack), count)


@dataclass
class _Kind:
    """What is counted of one kind of field, or of all."""

    agrees: _Column = field(default_factory=_Column)
    gains: _Column = field(default_factory=_Column)  # 1: fixed, -1: a new error
    old_right: _Column = field(default_factory=_Column)
    new_right: _Column = field(default_factory=_Column)
    how: Counter[str] = field(default_factory=Counter)
    similarities: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum and count, of two texts
    new_errors: int = 0
    fixed: int = 0
    undecided: int = 0

    def add(self, cell: Cell, place: int) -> None:
        self.agrees.add(cell.match.agrees, place)
        self.gains.add({"new": 1, "old": -1}.get(cell.right or "", 0), place)
        self.how[cell.match.how] += 1
        if cell.by == "labels":
            self.old_right.add(cell.right in ("old", "both"), place)
            self.new_right.add(cell.right in ("new", "both"), place)
        self.new_errors += cell.right == "old"
        self.fixed += cell.right == "new"
        self.undecided += cell.right is None and not cell.match.agrees
        if all(each is not None and isinstance(each.value, str) for each in (cell.old, cell.new)):
            self.similarities[0] += cell.match.similarity
            self.similarities[1] += 1

    def summary(self, name: str) -> FieldSummary:
        total, count = self.similarities
        return FieldSummary(
            name, self.agrees.share(), dict(self.how), total / count if count else None, self.new_errors, self.fixed,
            self.undecided, len(self.old_right.values), int(sum(self.old_right.values)),
            int(sum(self.new_right.values)),
        )  # fmt: skip
