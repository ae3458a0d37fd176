"""Places of values in text layers whose words stand at known places."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.documents.boxes import MAX_WORDS, Place, TextPlaces, overlap, union
from tessera.documents.page import Box
from tests.documents.papers import TypedPage

INVOICE = TypedPage(
    [
        "Acme Tools Ltd                 Invoice 2026-117",  # 0
        "12 Mill Lane                   Date: 5 March 2026",
        "",
        "Item                 Qty   Price    Amount",  # 3
        "Bread                1     2.50       2.50",
        "Coffee               2     2.50       5.00",
        "Tea, green           1     1.234,50   1.234,50",  # 6
        "",
        "Subtotal                             1.242,00",  # 8
        "Total                                1.242,00",
        "A long description that goes on and",  # 10
        "on over two lines of the page",
    ]
)


def find(values: dict[str, Any], page: TypedPage = INVOICE) -> dict[str, Place]:
    return TextPlaces([page]).find(values)


def is_at(box: Box, row: int, column: int, length: int, page: TypedPage = INVOICE) -> bool:
    return overlap(box, page.at(row, column, length)) > 0.99


def test_words_numbers_and_dates_are_found_in_any_notation() -> None:
    found = find({"vendor": "ACME Tools Ltd", "number": "2026-117", "date": "2026-03-05", "tea": 1234.5})
    assert is_at(found["vendor"].box, 0, 0, 14)
    assert is_at(found["number"].box, 0, 39, 8)
    assert is_at(found["date"].box, 1, 37, 12)
    assert found["tea"].text == "1.234,50"
    assert {place.source for place in found.values()} == {"text"}


def test_a_value_over_a_line_break_is_one_box_around_both_lines() -> None:
    box = find({"text": "goes on and on over two lines"})["text"].box
    assert box == union([INVOICE.at(10, 24, 11), INVOICE.at(11, 0, 17)])


def test_of_several_places_the_one_beside_the_label_is_meant() -> None:
    found = find({"total": "1.242,00", "subtotal": "1.242,00"})
    assert is_at(found["total"].box, 9, 37, 8)
    assert is_at(found["subtotal"].box, 8, 37, 8)


def test_a_value_below_its_label_is_preferred_to_one_that_is_further_below() -> None:
    page = TypedPage(["Date        Due", "2026-01-02  2026-02-01", "", "2026-01-02", "2026-02-01"])
    found = find({"due": "2026-02-01", "date": "2026-01-02"}, page)
    assert is_at(found["due"].box, 1, 12, 10, page)
    assert is_at(found["date"].box, 1, 0, 10, page)


def test_fields_of_an_item_stand_in_its_row_and_equal_ones_take_different_places() -> None:
    found = find(
        {
            "items[0].name": "Bread", "items[0].price": "2.50", "items[0].amount": 2.5,
            "items[1].name": "Coffee", "items[1].price": "2.50",
            "items[2].name": "Tea, green", "items[2].quantity": 1,
        }
    )  # fmt: skip
    assert is_at(found["items[0].price"].box, 4, 27, 4) or is_at(found["items[0].price"].box, 4, 38, 4)
    assert is_at(found["items[1].price"].box, 5, 27, 4)
    assert is_at(found["items[2].quantity"].box, 6, 21, 1)
    assert is_at(found["items[2].name"].box, 6, 0, 10)


def test_a_text_with_a_few_other_letters_is_fuzzy_and_a_number_is_not() -> None:
    found = find({"vendor": "Acne Toals Ltd", "total": "1.243,00", "date": "2026-03-06"})
    assert set(found) == {"vendor"}
    assert found["vendor"].source == "text_fuzzy"
    assert is_at(found["vendor"].box, 0, 0, 14)


def test_a_part_of_a_word_is_not_its_place_but_a_part_between_signs_is() -> None:
    page = TypedPage(["Subtotal: $12.50, Bread/Milk 4711x"])
    found = find({"a": "total", "b": "12.50", "c": "Milk", "d": "4711"}, page)
    assert "a" not in found
    assert "d" not in found
    assert is_at(found["b"].box, 0, 11, 5, page)
    assert is_at(found["c"].box, 0, 24, 4, page)


@pytest.mark.parametrize("value", [None, True, "", "   ", [], {}, "x" * 2000, "not on this page at all"])
def test_what_stands_nowhere_has_no_place(value: Any) -> None:
    assert find({"a": value}) == {}


def test_signs_and_amounts_in_words_of_their_own_are_one_number() -> None:
    page = TypedPage(["Total EUR 1 234,50", "Rest 7 €"])
    found = find({"total": 1234.5, "rest": "€7.00"}, page)
    assert found["total"].box.left <= page.at(0, 10, 1).left + 1e-9
    assert "234,50" in found["total"].text
    assert is_at(found["rest"].box, 1, 5, 1, page) or is_at(found["rest"].box, 1, 5, 3, page)


def test_values_of_a_second_page_are_found_there() -> None:
    pages = [TypedPage(["First"]), TypedPage(["Total 9.99"], number=2)]
    assert TextPlaces(pages).find({"total": "9.99"})["total"].box.page == 2


def test_after_its_time_a_document_gets_no_more_places() -> None:
    assert TextPlaces([INVOICE], max_seconds=-1).find({"vendor": "Acme Tools Ltd"}) == {}


def test_words_beyond_the_limit_of_a_page_are_not_read() -> None:
    page = TypedPage(["first", *["x"] * (MAX_WORDS - 1), "last"])
    assert set(find({"a": "first", "b": "last"}, page)) == {"a"}


def test_overlap_by_hand() -> None:
    assert overlap(Box(1, 0, 0, 0.2, 0.1), Box(1, 0.1, 0, 0.3, 0.1)) == pytest.approx(1 / 3)
    assert overlap(Box(1, 0, 0, 0.2, 0.1), Box(2, 0, 0, 0.2, 0.1)) == 0
