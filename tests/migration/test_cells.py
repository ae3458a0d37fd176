"""Which values agree, which rows belong together, and who is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera.errors import UsageError
from tessera.labels import by_path
from tessera.migration.agreement import Rules, match
from tessera.migration.cells import Compared, compare_records
from tessera.migration.rows import aligned
from tests.migration.samples import VALUE, failed, preset, record

RULES = Rules()


@pytest.mark.parametrize(
    ("one", "other", "kind", "rules", "how"),
    [
        ("Acme", "Acme", "text", RULES, "exact"),
        ("ACME  Ltd", "Acme ltd", "text", RULES, "normalised"),
        ("1.234,50 €", 1234.5, "amount", RULES, "number"),
        (100.0, 100.4, "number", RULES, "differ"),
        (100.0, 100.4, "number", Rules(tolerance=0.01), "number"),
        ("10023", "10024", "text", Rules(tolerance=0.01), "differ"),  # a number of an invoice is not near another
        ("5 March 2026", "2026-03-05", "date", RULES, "date"),
        ("Brightwater Press", "Brightwater Pres", "text", RULES, "differ"),
        ("Brightwater Press", "Brightwater Pres", "text", Rules(similarity=0.9), "text"),
        ("2026-03-05", "2026-03-06", "date", Rules(similarity=0.5), "differ"),
        (None, "", "text", RULES, "nothing"),
        (None, "x", "text", RULES, "differ"),
        (0, None, "number", RULES, "differ"),
        (False, None, "boolean", RULES, "differ"),
    ],
)
def test_values_agree_as_their_kind_does(one: Any, other: Any, kind: Any, rules: Rules, how: str) -> None:
    assert match(one, other, kind, rules).how == how
    assert match(other, one, kind, rules).how == how


def test_similarity_is_anls() -> None:
    assert match("Brightwater", "Brightwatex", "text", RULES).similarity == pytest.approx(10 / 11)


def test_rules_have_bounds() -> None:
    with pytest.raises(UsageError, match="tolerance is 1"):
        Rules(tolerance=1.0)
    with pytest.raises(UsageError, match=r"similarity is 0\.2"):
        Rules(similarity=0.2)


def test_rows_are_paired_over_lost_and_invented_ones() -> None:
    def same(one: str, other: str) -> float:
        return float(one == other)

    assert aligned("abcd", "bcxd", same) == [(0, None), (1, 0), (2, 1), (None, 2), (3, 3)]
    assert aligned("ab", "ax", same) == [(0, 0), (1, 1)]  # a row misread, not one lost and one invented
    assert aligned("", "ab", same) == [(None, 0), (None, 1)]


def changed(**values: Any) -> Any:
    return record({**VALUE, **values})


def cells_of(compared: Compared) -> dict[str, Any]:
    return {cell.path: cell for cell in compared.cells}


def differing(compared: Compared) -> list[tuple[str, Any, Any]]:
    return [(cell.path, cell.right, cell.by) for cell in compared.cells if not cell.match.agrees]


def test_a_lost_row_is_one_difference_and_not_a_shift() -> None:
    new = changed(items=[{"name": "Ink", "amount": 40.0}])
    compared = compare_records(record(), new, preset(), RULES)
    assert differing(compared) == [("items[0].name", None, None), ("items[0].amount", None, None)]
    assert [(group.in_old, group.in_new, group.agrees) for group in compared.groups] == [
        (True, False, False),
        (True, True, True),
    ]


def test_labels_say_who_is_right_also_where_both_agree() -> None:
    truth = by_path({**VALUE, "vendor": "Brightwater Press Ltd", "gross": "119,00"})
    compared = compare_records(changed(date="2026-03-06"), record(), preset(), RULES, truth)
    cells = cells_of(compared)
    assert (cells["date"].right, cells["date"].by) == ("new", "labels")
    assert (cells["vendor"].right, cells["vendor"].match.agrees) == ("neither", True)
    assert cells["gross"].right == "both"
    assert all(group.old_right and group.new_right for group in compared.groups)


def test_an_invented_row_is_wrong_by_complete_labels_only() -> None:
    new = changed(items=[*VALUE["items"], {"name": "Tea", "amount": 1.0}])
    whole = compare_records(record(), new, preset(), RULES, by_path(VALUE))
    assert differing(whole) == [("items[2].name", "old", "labels"), ("items[2].amount", "old", "labels")]
    part = compare_records(record(), new, preset(), RULES, {"items[0].name": "Paper"})
    assert differing(part) == [("items[2].name", None, None), ("items[2].amount", None, None)]
    none = compare_records(record(), new, preset(), RULES, {"items": []})
    assert {cell.right for cell in none.cells if cell.group} == {"neither", "old"}


def test_a_check_that_holds_for_one_decides() -> None:
    compared = compare_records(record(), changed(net=101.0), preset(), RULES)
    assert differing(compared) == [("net", "old", "checks")]
    assert differing(compare_records(changed(net=101.0), record(), preset(), RULES)) == [("net", "new", "checks")]
    # Without a tax the check is skipped, so it says nothing.
    assert differing(compare_records(record(), changed(net=101.0, tax=None), preset(), RULES))[0] == ("net", None, None)


def test_the_text_layer_decides_if_only_one_value_is_printed() -> None:
    old, new = record(source="text"), record({**VALUE, "vendor": "Brightwaler Press"}, source="text")
    wrong = replace(new.fields["vendor"], box=None, box_source="none")
    new = replace(new, fields={**new.fields, "vendor": wrong})
    assert differing(compare_records(old, new, preset(), RULES)) == [("vendor", "old", "text layer")]
    printed = replace(wrong, box_source="text")
    both = replace(new, fields={**new.fields, "vendor": printed})
    assert differing(compare_records(old, both, preset(), RULES)) == [("vendor", None, None)]


def test_a_failed_document_differs_in_all_values() -> None:
    compared = compare_records(record(), failed(), preset(), RULES)
    assert {cell.match.how for cell in compared.cells} == {"failed"}
    truth = by_path({**VALUE, "vendor": None})
    told = compare_records(record({**VALUE, "vendor": None}), failed(), preset(), RULES, truth)
    assert {cell.right for cell in told.cells} == {"old"}
    assert not compare_records(failed(), failed(), preset(), RULES).cells


def test_labels_of_other_columns_are_left_out() -> None:
    compared = compare_records(record(), record(), preset(), RULES, {"remark": "paid", "gross": 119})
    assert [cell.path for cell in compared.cells if cell.by == "labels"] == ["gross"]
