"""Schemas of every source become one form; what cannot be followed is refused with its name."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tessera.documents import presets
from tessera.documents.presets import open_preset, preset_of
from tessera.documents.schemas import Leaf, make_schema, paths_in, read_schema
from tessera.errors import UsageError


class Item(BaseModel):
    name: str
    price: Decimal


class Color(Enum):
    red = "red"
    blue = "blue"


class Order(BaseModel):
    number: int
    day: date
    color: Color
    paid: bool | None = None
    items: list[Item]


def test_a_pydantic_class_becomes_leaves_with_kinds() -> None:
    kinds = {leaf.path: leaf.kind for leaf in read_schema(Order).leaves}
    assert kinds == {
        "number": "integer", "day": "date", "color": "enum", "paid": "boolean", "items[].name": "text",
        "items[].price": "number",
    }  # fmt: skip


def test_every_leaf_may_be_null_unless_nulls_are_strict() -> None:
    schema = {"properties": {"a": {"type": "string"}, "b": {"type": ["number", "null"]}, "c": {"enum": [1, None]}}}
    loose, strict = make_schema("s", schema), make_schema("s", schema, strict_nulls=True)
    assert [leaf.nullable for leaf in loose.leaves] == [True, True, True]
    assert [leaf.nullable for leaf in strict.leaves] == [False, True, True]
    assert strict.wire["properties"]["a"] == {"type": "string"}
    assert strict.wire["properties"]["c"] == {"enum": [1, None]}


def test_the_wire_form_requires_all_and_copies_numbers_as_printed() -> None:
    wire = read_schema(Order).wire
    assert wire["required"] == ["number", "day", "color", "paid", "items"]
    assert wire["additionalProperties"] is False
    assert wire["properties"]["items"]["items"]["properties"]["price"] == {"type": ["string", "number", "null"]}
    assert wire["properties"]["color"] == {"enum": ["red", "blue", None]}


def test_a_module_in_the_working_directory_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from pydantic import BaseModel\nclass Bill(BaseModel):\n    total: float\n"
    )
    monkeypatch.chdir(tmp_path)
    schema = read_schema("own_models:Bill")
    assert (schema.name, schema.leaves) == ("Bill", (Leaf("total", "number"),))


LAUGHS = {  # ten references each to the next: a million values, from a small file
    f"A{level}": {"properties": {f"p{n}": {"$ref": f"#/$defs/A{level + 1}"} for n in range(10)}} for level in range(6)
} | {"A6": {"type": "string"}}
REFUSED: list[tuple[Any, str]] = [
    ({"type": "array", "items": {"type": "string"}}, "must describe an object"),
    ({"type": "object"}, "must describe an object"),
    ({"properties": {}}, "any keys"),
    ({"properties": {"a": {"type": "object"}}}, "a is an object of any keys"),
    ({"properties": {"a": {"type": "array"}}}, "a is a list of anything"),
    ({"properties": {"a.b": {"type": "string"}}}, "'a.b' cannot be part of a path"),
    ({"properties": {"a": {"type": "strin"}}}, "a has the type 'strin'"),
    ({"properties": {"a": {"enum": []}}}, "the enum of a"),
    ({"properties": {"a": {"enum": [{"b": 1}]}}}, "the enum of a lists objects"),
    ({"properties": {"a": {"$ref": "#/$defs/Gone"}}}, "leads nowhere"),
    ({"properties": {"a": {"$ref": "#"}}}, "leads nowhere"),
    (
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}}}},
        "deep",
    ),
    ({"properties": {"a": {"$ref": "#/$defs/A0"}}, "$defs": LAUGHS}, "50,000 parts"),
    ({"properties": {"a": {"anyOf": [{"type": "object"}, {"type": "array"}]}}}, "one of several objects"),
    ({"properties": {str(n): {"type": "string"} for n in range(501)}}, "501 values"),
    ({"properties": {"a": {"type": "number", "minimum": "x"}}}, "minimum of a"),
    ({"properties": {"a": 3}}, "a is described by 3"),
]


@pytest.mark.parametrize(("schema", "part"), REFUSED, ids=[part for _, part in REFUSED])
def test_a_schema_that_cannot_be_followed_is_refused(schema: Any, part: str) -> None:
    with pytest.raises(UsageError, match=part.replace("(", r"\(")):
        make_schema("s", schema)


def test_a_file_may_begin_with_a_mark_and_need_not_be_read_to_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"properties": {"a": {"type": "string"}}}', encoding="utf-8-sig")
    assert open_preset(path).schema.keys == ("a",)
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is not JSON"):
        open_preset(path)


@pytest.mark.parametrize(
    "name", ["gone.json", "no_such_module:Model", "json:Gone", "a b:c", "preset:gone", "gone.yaml"]
)
def test_a_schema_that_is_not_there_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=name.partition(":")[2 if name.startswith("preset") else 0]):
        open_preset(name)


def test_parts_of_an_all_of_are_one_and_names_of_definitions_may_be_properties() -> None:
    given = {
        "$defs": {"Sum": {"type": "number", "minimum": 0}},
        "properties": {
            "total": {"allOf": [{"$ref": "#/$defs/Sum"}, {"maximum": 9}], "title": "Total"},
            "definitions": {"type": "string"},
            "$defs": {"type": "string"},
        },
    }
    total, *others = make_schema("s", given).leaves
    assert (total.kind, total.minimum, total.maximum) == ("number", 0, 9)
    assert [leaf.path for leaf in others] == ["definitions", "$defs"]


def test_paths_name_every_leaf() -> None:
    assert dict(paths_in({"a": 1, "b": [{"c": 2}, {"c": None}], "d": {"e": ["x"]}})) == {
        "a": 1, "b[0].c": 2, "b[1].c": None, "d.e[0]": "x",
    }  # fmt: skip


def test_all_presets_open_and_say_why_their_temperature() -> None:
    found = list(presets.every())
    assert {each.name for each in found if isinstance(each, presets.Preset)} == {
        "invoice", "receipt", "form", "statement", "table", "chart-data", "transcribe", "code", "whiteboard",
        "describe", "alt-text", "ui-critique", "compare", "count",
    }  # fmt: skip
    assert all(isinstance(each, presets.Preset) and each.reason and each.title for each in found)


def test_the_closing_line_names_the_keys_as_nano_was_taught() -> None:
    preset = open_preset({"properties": {"vendor": {"type": "string"}, "items": {"items": {"properties": {"p": {}}}}}})
    assert preset.question == 'Extract {"vendor", "items": [{"p"}]} as JSON. Use null for what is not shown.'


def test_ones_own_preset_stands_beside_the_packaged_and_may_replace_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    presets.own_folder().mkdir(parents=True)
    (presets.own_folder() / "invoice.yaml").write_text("title: Mine\nschema: {properties: {total: {format: amount}}}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "label.yaml").write_text("ask: Read the label.\n")
    assert open_preset("preset:invoice").title == "Mine"
    assert open_preset("preset:label", folder=tmp_path / "more").schema.plain
    with pytest.raises(UsageError, match=r"folder of presets .*mroe does not exist"):
        open_preset("preset:invoice", folder=tmp_path / "mroe")
    (tmp_path / "more" / "sign.yml").write_text("schema: {properties: {day: {enum: [2024-01-31]}}}\n")
    assert open_preset("preset:sign", folder=tmp_path / "more").schema.leaves[0].choices == ("2024-01-31",)
    (tmp_path / "more" / "My own.yaml").write_text("ask: Read it.\n")
    assert "rename it" in str(list(presets.every(tmp_path / "more"))[-1])
    assert open_preset(str(tmp_path / "more" / "label.yaml")).ask == "Read the label."
    with pytest.raises(UsageError, match="no preset 'label'; there are alt-text"):
        open_preset("preset:label")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"temprature": 0}, "'temprature' is unknown"), ({"temperature": 3}, "between 0 and 2"),
        ({"temperature": True}, "cannot be True"), ({"tiles": "3x3"}, "use one of auto"),
        ({"checks": "net"}, "checks cannot be 'net'"), ({"schema": []}, "must be a JSON schema"),
        ({"checks": ["a = b"], "schema": {"properties": {"a": {}}}}, "names b"),
        ({"readings": 100}, "between 1 and 25"), ({"title": 2024}, "must be a text"),
        ({"temperature": "hot"}, "must be a number"), ({"windows": "2"}, "must be a whole number"),
        ({"schema": {"properties": {False: {}}}}, "name is False, which is no text"),
    ],
)  # fmt: skip
def test_a_preset_with_a_mistake_is_refused(content: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        preset_of("mine", content)


def test_checks_of_a_schema_file_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"properties": {"a": {"type": "number"}}, "x-checks": ["0 <= a"]}))
    assert open_preset(str(file)).checks == ("0 <= a",)
