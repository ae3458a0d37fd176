"""Leaves of replies, against the standard library's reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.documents.spans import (
    child_path,
    find_json,
    find_leaves,
    group_of,
    is_wrapped,
    item_path,
    kind_of,
    name_of,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
RECORDS = VALUES.filter(lambda value: isinstance(value, dict | list))


def walk(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a parsed value, read off the value itself."""
    if isinstance(value, dict) and value:
        return {p: leaf for key, each in value.items() for p, leaf in walk(each, child_path(path, key)).items()}
    if isinstance(value, list) and value:
        return {p: leaf for index, each in enumerate(value) for p, leaf in walk(each, item_path(path, index)).items()}
    return {path: value}


@given(RECORDS, st.booleans(), st.sampled_from([None, 0, 2]))
def test_leaves_are_those_that_json_loads_reads_and_their_characters_say_them(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    found = find_leaves(text)
    assert found.whole
    assert {path: leaf.value for path, leaf in found.by_path.items()} == walk(value)
    for leaf in found.by_path.values():
        said = text[leaf.start : leaf.end]
        assert json.loads(f'"{said}"' if leaf.quoted else said) == leaf.value


@given(RECORDS, st.data())
def test_a_cut_reply_gives_only_leaves_that_the_whole_one_has(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = find_leaves(text[: data.draw(st.integers(0, len(text) - 1))])
    whole = find_leaves(text).by_path
    assert not cut.whole
    assert all(whole[path] == leaf for path, leaf in cut.by_path.items())


def test_text_around_the_json_is_passed_over() -> None:
    text = 'Here it is:\n```json\n{"total": "9.50"}\n```'
    leaf = find_leaves(text).by_path["total"]
    assert (text[leaf.start : leaf.end], leaf.value) == ("9.50", "9.50")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('```json\n{"total": 5}\n```', '{"total": 5}'),
        ('[Note] The set {a, b} is empty. {"total": {"net": 5}} I hope {this} helps!', '{"total": {"net": 5}}'),
        ('For example {"a": 1}. So:\n{"total": 5, "tax": 1}', '{"total": 5, "tax": 1}'),
        ('Here: {"items": [{"name": "Tea"}, {"na', '{"items": [{"name": "Tea"}, {"na'),
        (' {"total": 5} ', '{"total": 5}'),
        ("[1, 2] then", "[1, 2]"),
        ("nothing", "nothing"),
    ],
    ids=["fence", "braces in words", "the longest", "cut", "alone", "list", "none"],
)
def test_a_replys_object_is_found_in_its_fence_and_among_words(text: str, found: str) -> None:
    assert text[slice(*find_json(text))] == found
    assert is_wrapped(text) == (text.strip() != found)


def test_of_equal_keys_the_last_counts_with_all_that_is_in_it() -> None:
    text = '{"a": {"b": 1, "c": 2}, "a": {"b": 3}}'
    found = find_leaves(text).by_path
    assert {path: leaf.value for path, leaf in found.items()} == walk(json.loads(text))


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{", '{"a"', '{"a": 1', '{"a": 1,', '{"a": tru', '{"a" 1}', "[1 2]", '{"a": -}']
)
def test_what_is_not_json_is_not_whole(text: str) -> None:
    assert not find_leaves(text).whole


def test_deep_nesting_ends_instead_of_overflowing() -> None:
    assert not find_leaves("[" * 100_000).whole


def test_paths_name_kinds_groups_and_keys() -> None:
    assert kind_of("items[2].amount") == "items[].amount"
    assert (group_of("items[2].amount"), group_of("total")) == ("items[2]", "")
    assert (name_of("items[2].amount"), name_of("vendor.name"), name_of("tags[0]")) == ("amount", "name", "tags")
    assert child_path("a", "b.c") == 'a["b.c"]'
