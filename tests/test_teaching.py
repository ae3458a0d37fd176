"""Documents with known values become the very questions that `extract` asks, with the replies that it hopes for."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jsonschema
import numpy as np
import pytest
from PIL import Image as PILImage

from tessera import teaching
from tessera.chat import Conversation
from tessera.documents.api import extract
from tessera.documents.extraction import Options
from tessera.documents.plan import Budget
from tessera.documents.presets import open_preset
from tessera.documents.stored import record_object
from tessera.documents.tables import Layout, write_table
from tessera.errors import UsageError
from tessera.evals.tasks.own import own_task
from tessera.finetune.data import Conversation as Taught
from tessera.finetune.data import Reader
from tessera.labels import by_path
from tessera.messages import Image
from tessera.teaching import UnknownError, known_values, reply_of, write_samples
from tests.documents.fakes import Scripted, draw
from tests.evals.stub import Stub
from tests.evals.test_run import run, score_of

SHOP = open_preset(
    {
        "properties": {
            "vendor": {"type": "string"},
            "total": {"type": "string", "format": "amount"},
            "paid": {"type": "boolean"},
            "terms": {"enum": [14, 30]},
            "items": {"type": "array", "items": {"properties": {"name": {}, "count": {"type": "integer"}}}},
        }
    }
)
WHOLE = {"vendor": "Acme", "total": "$1,234.50", "paid": True, "terms": 30, "items": [{"name": "Tea", "count": 2}]}
SMALL = Budget(context_tokens=8192, image_side=512, token_side=12, type_size=14.0, instructions=False, rotation=False)


def known(value: Mapping[str, Any]) -> str:
    return reply_of(SHOP, by_path(value))


def test_a_reply_has_the_form_that_extract_forces() -> None:
    items = [{"count": 2, "name": "Tee, grün"}, {"name": None, "count": "1 Stk"}]
    reply = known(WHOLE | {"items": items, "paid": None})
    assert reply == (
        '{"vendor":"Acme","total":"$1,234.50","paid":null,"terms":30,'
        '"items":[{"name":"Tee, grün","count":2},{"name":null,"count":"1 Stk"}]}'
    )
    jsonschema.validate(json.loads(reply), SHOP.schema.wire)


def test_a_table_of_labels_gives_the_same_reply() -> None:
    cells = {"vendor": "Acme", "total": "9", "paid": None, "terms": "14", "items[0].name": "Tea", "items[0].count": "2",
             "items[1].name": None, "items[1].count": None}  # fmt: skip
    assert reply_of(SHOP, cells) == (
        '{"vendor":"Acme","total":"9","paid":null,"terms":14,"items":[{"name":"Tea","count":"2"}]}'
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"total": ...}, "total is not known"),
        ({"items": ...}, r"items is not known; an empty list is \[\]"),
        ({"items": [{"name": "Tea"}]}, r"items\[0\].count is not known"),
        ({"items": [{}, {"name": "Tea", "count": 1}]}, r"items\[0\].name is not known"),
        ({"total": "much"}, "total: 'much' holds no number"),
        ({"paid": "yes"}, "paid: 'yes' is neither true nor false"),
        ({"terms": 60}, "terms: 60 is none of the enum's values"),
        ({"vendor": ["a"]}, "vendor is not known"),
    ],
)
def test_a_value_that_is_not_known_or_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    value = {key: each for key, each in (WHOLE | change).items() if each is not ...}
    with pytest.raises(UnknownError, match=said):
        known(value)


def test_an_empty_list_is_known_to_be_empty() -> None:
    assert json.loads(known(WHOLE | {"items": []}))["items"] == []


def test_null_is_refused_where_the_schema_does() -> None:
    strict = open_preset({"properties": {"a": {"type": "string"}}}, strict_nulls=True)
    with pytest.raises(UnknownError, match="a is null"):
        reply_of(strict, {"a": None})


def rows_of(folder: Path, *fields: tuple[str, Any, str, bool]) -> Path:
    """A row as `extract` writes it: path, value, as printed, and whether it asks for review."""
    told = {path: {"path": path, "value": value, "raw": raw, "review": review} for path, value, raw, review in fields}
    value = {path: value for path, value, _, _ in fields}
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"document": "a.png", "value": value, "fields": told}) + "\n")
    return path


def labels_of(folder: Path, value: Mapping[str, Any]) -> Path:
    path = folder / "labels.jsonl"
    path.write_text(json.dumps({"document": "a.png", "value": value}) + "\n")
    return path


def test_rows_tell_what_needs_no_review_and_labels_the_rest(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path, ("vendor", "ACME", "ACME", False), ("total", 1234.5, "$1,234.50", False), ("paid", True, "true", True)
    )
    assert known_values([rows], SHOP, print) == {tmp_path / "a.png": {"vendor": "ACME", "total": "$1,234.50"}}
    labels = labels_of(tmp_path, {"vendor": "Acme", "total": 1234.5, "paid": False})
    values = {"vendor": "Acme", "total": "$1,234.50", "paid": False}
    assert known_values([rows, labels], SHOP, print) == {tmp_path / "a.png": values}


def test_a_corrected_number_replaces_the_printed_one(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ("total", 1234.5, "$1,234.50", False))
    labels = labels_of(tmp_path, {"total": 1284.5})
    assert known_values([rows, labels], SHOP, print) == {tmp_path / "a.png": {"total": 1284.5}}


def test_labels_of_a_whole_record_stand_alone(tmp_path: Path) -> None:
    rows = labels_of(tmp_path, WHOLE | {"items": [{"name": "Tea", "count": 2}, {"name": "Milk", "count": 1}]})
    rows = rows.rename(tmp_path / "first.jsonl")
    labels = labels_of(tmp_path, WHOLE)
    assert known_values([rows, labels], SHOP, print) == {tmp_path / "a.png": by_path(WHOLE)}


def shown(messages: Conversation) -> list[tuple[str, list[Any]]]:
    """Roles and contents; an image is its pixels."""
    return [
        (each.role, [_pixels(part) if isinstance(part, Image) else part for part in each.content]) for each in messages
    ]  # type: ignore[union-attr]


def _pixels(image: Image) -> list[Any]:
    source = image.source
    picture = source if isinstance(source, PILImage.Image) else PILImage.open(source)  # type: ignore[arg-type]
    return np.asarray(picture.convert("RGB")).tolist()


@pytest.mark.parametrize("budget", [SMALL, Budget()], ids=["question alone", "with instructions"])
def test_a_sample_asks_what_extract_asks(tmp_path: Path, budget: Budget) -> None:
    document = draw(tmp_path / "two.tiff", "Acme\n$1,234.50", "page two")
    model = Scripted(lambda images, params: WHOLE)
    list(extract(document, SHOP, model, budget=budget, detect_rotation=False))
    ((asked, _),) = model.asked

    out = tmp_path / "samples"
    taught = write_samples({document: by_path(WHOLE)}, SHOP, Options(budget=budget), out, held_out=0)
    assert (taught.train, taught.held_out, taught.passed) == (1, 0, [])
    (row,) = Reader(tmp_path / "kept").read(out / "train.jsonl")
    assert isinstance(row, Taught), row
    assert shown(row.messages[:-1]) == shown(asked)
    assert (row.messages[-1].content, row.taught) == ((known(WHOLE),), frozenset({len(asked)}))

    measured = Stub(lambda conversation, params: known(WHOLE))
    summary = run(own_task(out / "train.jsonl", "json", 0.0, 64, None), out / "train.jsonl", tmp_path / "run", measured)
    assert score_of(summary, "score") == 100
    assert shown(measured.asked[0][0]) == shown(asked)


def test_documents_that_cannot_be_taught_are_passed_over_and_named(tmp_path: Path) -> None:
    long = draw(tmp_path / "long.tiff", *(f"page {number}" for number in range(9)))
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, blank = draw(tmp_path / "good.png", "Acme"), draw(tmp_path / "blank.png", "")
    part = draw(tmp_path / "part.png", "part")
    whole = by_path(WHOLE)
    labels = {long: whole, tmp_path / "bad.png": whole, good: whole, blank: whole, part: {"vendor": "Acme"},
              tmp_path / "gone.png": whole}  # fmt: skip
    taught = write_samples(labels, SHOP, Options(budget=SMALL), tmp_path / "out", held_out=0)
    assert taught.train == 1
    reasons = {Path(line.partition(": ")[0]).name: line.partition(": ")[2] for line in taught.passed}
    assert reasons.keys() == {"long.tiff", "bad.png", "blank.png", "part.png", "gone.png"}
    assert reasons["long.tiff"].startswith("its 9 pages are read in ")
    assert reasons["blank.png"] == "its pages are blank"
    assert reasons["part.png"] == "total is not known"
    assert [file.name for file in (tmp_path / "out" / "pages").iterdir()] == ["00002-0.png"]


def test_what_is_held_out_stays_so_when_others_are_added(tmp_path: Path) -> None:
    documents = [draw(tmp_path / f"{number}.png", f"page {number}") for number in range(12)]
    values = by_path(WHOLE)

    def held(count: int) -> set[str]:
        out = tmp_path / f"of {count}"
        labels = dict.fromkeys(documents[-count:], values)
        taught = write_samples(labels, SHOP, Options(budget=SMALL), out, held_out=0.4)
        rows = [json.loads(line) for line in (out / "held-out.jsonl").read_text().splitlines()]
        assert (len(rows), taught.train) == (taught.held_out, count - len(rows))
        return {row["document"] for row in rows}

    few, many = held(6), held(12)
    assert few == many & {str(each) for each in documents[-6:]}
    assert 0 < len(many) < 12


def test_a_preset_of_several_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compares 2 images"):
        write_samples({}, open_preset("preset:compare"), Options(), tmp_path / "out", held_out=0)


def test_a_text_is_taught_as_it_is() -> None:
    plain = open_preset("preset:transcribe")
    assert reply_of(plain, {"text": "# Title\n\nText"}) == "# Title\n\nText"
    with pytest.raises(UnknownError, match="its text is not known"):
        reply_of(plain, {})


def test_a_row_of_extract_is_a_label_as_it_was_written(tmp_path: Path) -> None:
    """The whole way: a record's line, read back, gives the reply that the model made."""
    document = draw(tmp_path / "a.png", "x")
    model = Scripted(lambda images, params: WHOLE)
    (record,) = extract(document, SHOP, model, budget=SMALL, max_error=0.999)
    told = record_object(record)
    for each in told["fields"].values():
        each["review"] = False  # as if a calibration had found them sure enough
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(told) + "\n")
    ((_, values),) = known_values([rows], SHOP, print).items()
    assert json.loads(reply_of(SHOP, values)) == {**WHOLE, "items": [{"name": "Tea", "count": "2"}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"items": {"a.b": 1}}, "items is not known"),
        ({"items": [{"name": "Tea", "count": 1}] * 501}, "items has 501 items, and at most 500"),
    ],
)
def test_a_list_of_another_shape_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownError, match=said):
        known(WHOLE | change)


@pytest.mark.parametrize("column", ["items[-1].name", "items[].name", "items[x].name", "items[1"])
def test_a_column_that_leads_nowhere_is_no_empty_list(column: str) -> None:
    cells = {"vendor": "Acme", "total": "9", "paid": None, "terms": "14", column: "Tea"}
    with pytest.raises(UnknownError, match="items is not known"):
        reply_of(SHOP, cells)


@pytest.mark.parametrize(("cell", "meant"), [("true", True), ("FALSE", False)])
def test_a_table_says_true_and_false_and_empty_lists(cell: str, meant: bool) -> None:
    cells = {"vendor": "Acme", "total": "9", "paid": cell, "terms": "14", "items": "[]"}
    assert json.loads(reply_of(SHOP, cells)) == {
        "vendor": "Acme",
        "total": "9",
        "paid": meant,
        "terms": 14,
        "items": [],
    }


ITEMS = [
    ("items[0].name", "Tea", "Tea", False), ("items[0].count", 2, "2", False),
    ("items[1].name", "Milk", "Milk", True), ("items[1].count", 1, "1", True),
]  # fmt: skip
REST = {"vendor": "Acme", "total": "9", "paid": None, "terms": 14}


def row_of(folder: Path, value: Mapping[str, Any], *fields: tuple[str, Any, str, bool], **row: Any) -> Path:
    told = {path: {"value": value, "raw": raw, "review": review} for path, value, raw, review in fields}
    path = folder / "row.jsonl"
    path.write_text(json.dumps({"document": "a.png", "value": value, "fields": told, **row}) + "\n")
    return path


def test_the_last_rows_of_a_list_are_not_lost_when_they_ask_for_review(tmp_path: Path) -> None:
    row = row_of(tmp_path, {"items": [{"name": "Tea", "count": 2}, {"name": "Milk", "count": 1}]}, *ITEMS)
    labels = labels_of(tmp_path, REST)
    for order in ([row, labels], [labels, row]):
        (values,) = known_values(order, SHOP, print).values()
        with pytest.raises(UnknownError, match=r"items\[1\].name is not known"):
            reply_of(SHOP, values)
    labels = labels_of(tmp_path, REST | {"items": [{}, {"name": "Milch", "count": 1}]})
    for order in ([row, labels], [labels, row]):
        (values,) = known_values(order, SHOP, print).values()
        items = json.loads(reply_of(SHOP, values))["items"]
        assert items == [{"name": "Tea", "count": "2"}, {"name": "Milch", "count": 1}]


def test_a_list_of_texts_is_not_cut_either(tmp_path: Path) -> None:
    tags = open_preset({"properties": {"tags": {"type": "array", "items": {"type": "string"}}}})
    row = row_of(tmp_path, {"tags": ["a", "b"]}, ("tags[0]", "a", "a", False), ("tags[1]", "b", "b", True))
    (values,) = known_values([row], tags, print).values()
    with pytest.raises(UnknownError, match=r"tags\[1\] is not known"):
        reply_of(tags, values)
    labels = labels_of(tmp_path, {"tags": ["a", "B"]})
    for order in ([row, labels], [labels, row]):
        (values,) = known_values(order, tags, print).values()
        assert json.loads(reply_of(tags, values)) == {"tags": ["a", "B"]}


def test_a_label_that_says_a_list_is_empty_takes_its_rows_away(tmp_path: Path) -> None:
    row = row_of(tmp_path, {"items": [{"name": "Tea", "count": 2}]}, *ITEMS[:2])
    labels = labels_of(tmp_path, {"vendor": "Acme", "items": []})
    (values,) = known_values([row, labels], SHOP, print).values()
    assert values == {"vendor": "Acme", "items": []}


def test_what_nobody_judged_in_a_row_is_not_known(tmp_path: Path) -> None:
    """An empty list has no evidence, and of what a cut reply lacks not even the null was written."""
    row = row_of(
        tmp_path, {"vendor": "Acme", "total": None, "paid": None, "items": []},
        ("vendor", "Acme", "Acme", False), ("total", None, "", False), ("paid", None, "null", False),
    )  # fmt: skip
    assert known_values([row], SHOP, print) == {tmp_path / "a.png": {"vendor": "Acme", "paid": None}}
    row = row_of(tmp_path, {"text": "a a a"}, ("text", "a a a", "a a a", False), review=True)
    assert known_values([row], open_preset("preset:transcribe"), print) == {tmp_path / "a.png": {}}


def test_a_text_is_known_without_the_escapes_of_json(tmp_path: Path) -> None:
    document = draw(tmp_path / "a.png", "x")
    said = WHOLE | {"vendor": 'Zum "Löwen" \\ Co\nBern'}
    model = Scripted(lambda images, params: said)  # which writes \" and \u00f6
    (record,) = extract(document, SHOP, model, budget=SMALL)
    assert record.fields["vendor"].raw == said["vendor"]
    told = record_object(record)
    for each in told["fields"].values():
        each["review"] = False
    told["fields"]["vendor"]["raw"] = json.dumps(said["vendor"])[1:-1]  # as earlier rows have it
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(told | {"review": False}) + "\n")
    ((_, values),) = known_values([rows], SHOP, print).items()
    assert json.loads(reply_of(SHOP, values))["vendor"] == said["vendor"]


def test_a_table_of_extract_is_refused_since_it_lacks_the_evidence(tmp_path: Path) -> None:
    document = draw(tmp_path / "a.png", "x")
    table = tmp_path / "rows.csv"
    records = extract(document, SHOP, Scripted(lambda images, params: WHOLE), budget=SMALL)
    write_table(table, records, Layout(schema=SHOP.schema, about={}))
    with pytest.raises(UsageError, match=r"which values ask for review; give rows that were written as \.jsonl"):
        known_values([table], SHOP, print)


def test_what_a_sample_cannot_hold_is_passed_over(tmp_path: Path) -> None:
    values = {"half.png": "a\ud800b", "mark.png": "see <image> 1"}
    labels = {draw(tmp_path / name, name): by_path(WHOLE | {"vendor": vendor}) for name, vendor in values.items()}
    taught = write_samples(labels, SHOP, Options(budget=SMALL), tmp_path / "out", held_out=0)
    assert taught.train == 0
    assert ["half of a surrogate pair" in taught.passed[0], "<image>" in taught.passed[1]] == [True, True]


def test_copies_of_a_document_are_held_out_together(tmp_path: Path) -> None:
    documents = [draw(tmp_path / f"{number}.png", f"page {number}") for number in range(6)]
    copies = [each.with_name(f"copy of {each.name}") for each in documents]
    for each, copy in zip(documents, copies, strict=True):
        copy.write_bytes(each.read_bytes())
    labels = dict.fromkeys([*documents, *copies], by_path(WHOLE))
    write_samples(labels, SHOP, Options(budget=SMALL), tmp_path / "out", held_out=0.5)
    lines = (tmp_path / "out" / "held-out.jsonl").read_text().splitlines()
    held = {Path(json.loads(line)["document"]).name for line in lines}
    assert 0 < len(held) < 12
    assert {name.removeprefix("copy of ") for name in held} == {name for name in held if not name.startswith("copy")}
    assert len(held) == 2 * len({name.removeprefix("copy of ") for name in held})


def test_a_run_that_ends_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, out = draw(tmp_path / "a.png", "x"), tmp_path / "out"
    assert not write_samples({document: {}}, SHOP, Options(budget=SMALL), out, held_out=0).train
    assert list(out.iterdir()) == []
    monkeypatch.setattr(teaching, "_append", lambda file, row: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_samples({document: by_path(WHOLE)}, SHOP, Options(budget=SMALL), out, held_out=0)
    assert list(out.iterdir()) == []


def test_images_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[weakref.ref[PILImage.Image]] = []
    save = PILImage.Image.save

    def watched(image: PILImage.Image, *given: Any, **named: Any) -> None:
        images.append(weakref.ref(image))
        save(image, *given, **named)

    documents = [draw(tmp_path / f"{number}.png", f"page {number}") for number in range(6)]
    monkeypatch.setattr(PILImage.Image, "save", watched)
    alive: list[int] = []
    append = teaching._append

    def counted(file: TextIO, row: Mapping[str, Any]) -> None:
        append(file, row)
        alive.append(sum(each() is not None for each in images))

    monkeypatch.setattr(teaching, "_append", counted)
    write_samples(dict.fromkeys(documents, by_path(WHOLE)), SHOP, Options(budget=SMALL), tmp_path / "out", held_out=0)
    assert len(images) == 6
    assert max(alive) <= 2


def test_a_row_of_which_a_label_tells_nothing_is_still_there(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, WHOLE | {"items": [{"name": "Tea", "count": 2}, {}]})
    (values,) = known_values([labels], SHOP, print).values()
    with pytest.raises(UnknownError, match=r"items\[1\].name is not known"):
        reply_of(SHOP, values)


def test_a_document_is_one_by_whatever_path_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row_of(tmp_path, {"vendor": "Acme"}, ("vendor", "Acme", "Acme", False))
    labels = labels_of(tmp_path, {"total": "9"})
    known = known_values([Path("row.jsonl"), labels], SHOP, print)
    assert known == {Path("a.png"): {"vendor": "Acme", "total": "9"}}
