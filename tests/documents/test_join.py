"""Windows join to one record: the best values, conflicts shown, every row once."""

from __future__ import annotations

from typing import Any

from tessera.documents.join import Part, join, vote
from tessera.documents.record import Field
from tessera.documents.schemas import make_schema, paths_in, plain_text

ITEM = {"properties": {"name": {"type": "string"}, "amount": {"type": "number"}}}
SCHEMA = make_schema(
    "s", {"properties": {"vendor": {"type": "string"}, "total": {"type": "number"}, "items": {"items": ITEM}}}
)


def part(pages: tuple[int, ...], score: float = 0.9, **value: Any) -> Part:
    whole = {"vendor": None, "total": None, "items": []} | value
    fields = {
        path: Field(path, leaf, str(leaf), "missing" if leaf is None else "found", score)
        for path, leaf in paths_in(whole)
    }
    return Part(pages, whole, fields)


def row(name: str | None, amount: float | None) -> dict[str, Any]:
    return {"name": name, "amount": amount}


def test_a_value_comes_from_the_window_that_has_it() -> None:
    joined = join([part((1, 2), vendor="A"), part((3, 4), total=5.0)], SCHEMA)
    assert joined.value == {"vendor": "A", "total": 5.0, "items": []}
    assert joined.pages == (1, 2, 3, 4)
    assert not any(field.review for field in joined.fields.values())


def test_a_conflict_keeps_the_better_score_and_shows_both() -> None:
    joined = join([part((1, 2), 0.4, total=5.0), part((2, 3), 0.8, total=6.0)], SCHEMA)
    assert joined.value["total"] == 6.0
    (said,) = joined.fields["total"].checks
    assert joined.fields["total"].review
    assert "1-2 say '5.0'" in said
    assert "2-3 '6.0'" in said


def test_case_and_spaces_are_no_conflict() -> None:
    joined = join([part((1,), vendor="ACME Ltd."), part((2,), vendor="Acme  Ltd")], SCHEMA)
    assert not joined.fields["vendor"].review


def test_rows_of_a_page_that_two_windows_share_are_there_once() -> None:
    first = part((1, 2, 3, 4), items=[row("a", 1.0), row("b", 2.0), row("c", 3.0)])
    second = part((4, 5), items=[row("b", 2.0), row("C", 3.0), row("d", 4.0)])
    joined = join([first, second], SCHEMA)
    assert [item["name"] for item in joined.value["items"]] == ["a", "b", "c", "d"]
    assert joined.fields["items[3].name"].value == "d"
    assert set(joined.fields) == {path for path, _ in paths_in(joined.value)}


def test_equal_rows_of_pages_that_no_window_shares_are_kept() -> None:
    joined = join([part((1,), items=[row("fee", 1.0)]), part((2,), items=[row("fee", 1.0)])], SCHEMA)
    assert len(joined.value["items"]) == 2


def test_a_row_that_a_page_break_cut_is_one_row_for_review() -> None:
    first = part((1,), items=[row("a", 1.0), row("long name", None)])
    second = part((2,), items=[row(None, 7.5), row("c", 3.0)])
    joined = join([first, second], SCHEMA)
    assert joined.value["items"] == [row("a", 1.0), row("long name", 7.5), row("c", 3.0)]
    assert joined.fields["items[1].amount"].review
    assert joined.fields["items[1].amount"].value == 7.5
    assert not joined.fields["items[2].name"].review


def test_whole_rows_on_both_sides_of_a_break_stay_two() -> None:
    joined = join([part((1,), items=[row("a", 1.0)]), part((2,), items=[row("b", 2.0)])], SCHEMA)
    assert len(joined.value["items"]) == 2


def test_a_row_that_one_window_saw_half_of_is_the_others() -> None:
    first = part((1, 2), items=[row("a", 1.0), row("consulting", 7.5)])
    second = part((2, 3), items=[row("consulting in May", 7.5), row("c", 3.0)])
    joined = join([first, second], SCHEMA)
    assert joined.value["items"] == [row("a", 1.0), row("consulting in May", 7.5), row("c", 3.0)]
    assert joined.fields["items[1].name"].value == "consulting in May"
    assert not joined.fields["items[1].name"].review, "the beginning of a text is no other text"
    cut = join([part((1, 2), items=[row("b", None)]), part((2, 3), items=[row("b", 2.0)])], SCHEMA)
    assert cut.value["items"] == [row("b", 2.0)]
    assert cut.fields["items[0].amount"].value == 2.0


WIDE = {"properties": {name: {"type": "string"} for name in ("name", "unit", "code")}}
ROWS = make_schema("r", {"properties": {"items": {"items": WIDE}}})


def wide(pages: tuple[int, ...], *rows: tuple[str | None, str | None, str | None]) -> Part:
    value = {"items": [dict(zip(("name", "unit", "code"), each, strict=True)) for each in rows]}
    fields = {path: Field(path, leaf, str(leaf), "found", 0.9) for path, leaf in paths_in(value)}
    return Part(pages, value, fields)


def test_what_two_windows_read_differently_in_one_row_is_shown() -> None:
    joined = join([wide((1, 2), ("bolt", "kg", "A1")), wide((2, 3), ("bolt", "kg", "A7"))], ROWS)
    assert joined.value["items"] == [{"name": "bolt", "unit": "kg", "code": "A1"}]
    field = joined.fields["items[0].code"]
    assert (field.value, field.review) == ("A1", True)
    assert field.checks == ("items[0].code: pages 2-3 say 'A7' instead",)
    assert not joined.fields["items[0].unit"].review


def test_a_text_that_a_page_break_cut_goes_on_and_is_for_review() -> None:
    joined = join([part((1,), items=[row("services for", 7.5)]), part((2,), items=[row("the month", None)])], SCHEMA)
    assert joined.value["items"] == [row("services for the month", 7.5)]
    field = joined.fields["items[0].name"]
    assert (field.value, field.review, field.checks) == ("services for the month", True, ("joined over a page break",))
    two = join([part((1,), items=[row("Tax", 7.5)]), part((2,), items=[row("Shipping", None)])], SCHEMA)
    assert len(two.value["items"]) == 2, "what begins with a capital is a row of its own"


def test_transcripts_follow_one_another() -> None:
    parts = [Part((n,), {"text": t}, {"text": Field("text", t, t, "found", 0.9)}) for n, t in ((1, "one"), (2, "two"))]
    assert join(parts, plain_text("t")).value == {"text": "one\n\ntwo"}


KINDS = {"properties": {"kind": {"type": "string"}, "count": {"type": "integer"}}}
COUNTS = make_schema("c", {"properties": {"kinds": {"items": KINDS}, "total": {"type": "integer"}}})


def reading(total: int, **kinds: int) -> Part:
    return Part((1,), {"kinds": [{"kind": kind, "count": count} for kind, count in kinds.items()], "total": total})


def test_readings_vote_and_flag_where_they_differ() -> None:
    voted = vote([reading(5, cups=3, pens=2), reading(5, cups=3, pens=2), reading(6, cups=3, pens=3, keys=1)], COUNTS)
    assert voted.value == {"kinds": [{"kind": "cups", "count": 3}, {"kind": "pens", "count": 2}], "total": 5}
    assert not voted.fields["kinds[0].count"].review
    assert voted.fields["kinds[1].count"].review
    assert voted.fields["total"].score == 2 / 3
    assert voted.fields["total"].checks == ("total: 3 readings say 5, 6",)
