"""Extraction end to end with a scripted model: windows, retries, errors as rows, blanks, votes, resuming."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from tessera.documents import extract
from tessera.documents.calibration import EVIDENCE, Calibration
from tessera.documents.extraction import Extraction, Options
from tessera.documents.journal import Journal
from tessera.documents.limits import PageLimits
from tessera.documents.plan import Budget, windows
from tessera.documents.presets import Preset, open_preset
from tessera.errors import DeadEndError, GrammarError, ReplyError, UsageError
from tests.documents.fakes import Scripted, completion, draw
from tests.documents.files import pdf_bytes, text_at

WIDTH = len(EVIDENCE)
BUDGET = Budget(context_tokens=100_000)
SCHEMA = {
    "properties": {
        "vendor": {"type": "string"},
        "total": {"format": "amount"},
        "items": {"items": {"properties": {"name": {"type": "string"}}}},
    }
}
SAID = {"vendor": "Acme", "total": "EUR 1.234,50", "items": [{"name": "Tea"}]}


def records(paths: Any, model: Scripted, schema: Any = SCHEMA, **options: Any) -> list[Any]:
    return list(extract(paths, schema, model, budget=BUDGET, **options))


def test_a_page_becomes_a_typed_record_with_evidence(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: SAID)
    (record,) = records(draw(tmp_path / "a.png", "Acme"), model)
    assert record.value == {"vendor": "Acme", "total": 1234.5, "items": [{"name": "Tea"}]}
    assert record.fields["total"].raw == "EUR 1.234,50"
    assert record.fields["items[0].name"].state == "found"
    assert record.usage.prompt_tokens == 10
    (messages, params) = model.asked[0]
    assert [message.role for message in messages] == ["system", "user"]
    assert messages[1].content[-1] == (
        'Extract {"vendor", "total", "items": [{"name"}]} as JSON. Use null for what is not shown.'
    )
    assert json.loads(params.grammar.source)["required"] == ["vendor", "total", "items"]
    assert (params.temperature, params.logprobs) == (0.0, 0)


def test_a_fence_and_words_around_the_json_are_passed_over_and_noted(tmp_path: Path) -> None:
    said = f"Sure! Here is {{the}} record:\n```json\n{json.dumps(SAID, indent=1)}\n```\nAnything else?"
    model = Scripted(lambda images, params: completion(said, probability=-0.1))
    (record,) = records(draw(tmp_path / "a.png", "Acme"), model)
    assert len(model.asked) == 1, "nothing is wrong with it, so it is not asked again"
    assert record.value == {"vendor": "Acme", "total": 1234.5, "items": [{"name": "Tea"}]}
    assert record.fields["vendor"].score == pytest.approx(math.exp(-0.1 * len('Acme"'))), "of the value's own tokens"
    assert record.notes == ("the reply had a fence or words around its JSON (pages 1)",)
    assert record.checks == ()
    plain = Scripted(lambda images, params: SAID)
    assert records(draw(tmp_path / "b.png", "Acme"), plain)[0].notes == ()


def test_null_blank_and_unreadable_are_told_apart(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: {"vendor": "", "total": "see below", "items": []})
    (record,) = records(draw(tmp_path / "a.png", "Acme"), model)
    assert {path: field.state for path, field in record.fields.items()} == {"vendor": "blank", "total": "unreadable"}
    assert record.value["total"] is None
    assert record.fields["total"].raw == "see below"
    assert record.review


def test_blank_pages_never_reach_the_model_and_a_blank_document_is_a_row(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: SAID)
    paths = [draw(tmp_path / "a.tif", "one", "", "three"), draw(tmp_path / "b.png", "")]
    first, second = records(paths, model)
    by_name = {Path(each.document).name: each for each in (first, second)}
    assert by_name["a.tif"].pages == (1, 3)
    assert by_name["b.png"].error == "blank"
    assert by_name["b.png"].message == f"{tmp_path / 'b.png'} has nothing on its only page."
    assert len(model.asked) == 1


def test_each_file_has_passwords_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        locked = pikepdf.Encryption(user=f"open {name}", owner="boss", R=6)
        (tmp_path / f"{name}.pdf").write_bytes(pdf_bytes(text_at(50, 700, name), save={"encryption": locked}))
    paths = [tmp_path / "a.pdf", tmp_path / "b.pdf"]
    passwords = {str(paths[0]): ("open a",), str(paths[1]): ("open a",)}
    found = records(paths, Scripted(lambda *_: SAID), passwords=passwords)
    errors = {Path(each.document).name: each.error for each in found}
    assert errors == {"a.pdf": None, "b.pdf": "password_required"}
    assert "open a" not in repr(Options(passwords=passwords))


def test_a_bad_file_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 damaged")
    (tmp_path / "empty.png").write_bytes(b"")
    good = draw(tmp_path / "good.png", "x")
    found = records(
        [tmp_path / "bad.pdf", tmp_path / "gone.pdf", tmp_path / "empty.png", good], Scripted(lambda *_: SAID)
    )
    errors = {Path(each.document).name: each.error for each in found}
    assert errors["good.png"] is None
    assert all(errors[name] for name in ("bad.pdf", "gone.pdf", "empty.png"))
    assert all(each.message for each in found if each.error)


def test_a_page_that_cannot_be_rendered_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    """To see how large its type is, a page is rendered while the run is planned."""
    (tmp_path / "bad.pdf").write_bytes(pdf_bytes(text_at(50, 700, "A4 has 741,376 pixels at a side of 1,024")))
    good = draw(tmp_path / "good.png", "x")
    budget, limits = replace(BUDGET, type_size=14.0), PageLimits(max_pixels=741_375)
    found = list(extract([tmp_path / "bad.pdf", good], SCHEMA, Scripted(lambda *_: SAID), budget=budget, limits=limits))
    assert [each.error for each in found] == ["too_large", None]
    assert "max_pixels" in str(found[0].message)


def test_a_long_document_is_read_in_windows_that_share_a_page(tmp_path: Path) -> None:
    def answer(images: list[Any], params: Any) -> Any:
        return SAID | {"items": [{"name": f"of {len(images)}"}]}

    model = Scripted(answer)
    (record,) = records(draw(tmp_path / "a.tif", *"abcdefghij"), model)
    assert len(model.asked) == 7, "three windows, and once the headings of a table, of each page of the first"
    assert record.pages == tuple(range(1, 11))
    assert record.value["vendor"] == "Acme"


COLUMNS, XS = ("Name", "Count", "Price each"), (60, 260, 420)


def table_page(first: int, *, header: bool) -> str:
    rows = [COLUMNS] if header else []
    rows += [(f"Part {first + number}", str(number), f"{number}.50") for number in range(5)]
    return "".join(
        text_at(x, 760 - 30 * line, cell) for line, row in enumerate(rows) for x, cell in zip(XS, row, strict=True)
    )


def carried(model: Scripted) -> list[bool]:
    """Whether each question about the schema names the columns of an earlier page."""
    return [
        "its columns are: Name | Count | Price each." in messages[-1].content[-1]
        for messages, params in model.asked
        if "vendor" in params.grammar.source
    ]


def test_a_tables_headings_go_along_to_the_windows_that_lack_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_bytes(*(table_page(10 * number, header=number == 0) for number in range(10))))
    model = Scripted(lambda images, params: SAID)
    records(path, model)
    assert carried(model) == [False, True, True]
    small = Scripted(lambda images, params: SAID)
    list(extract(path, SCHEMA, small, budget=Budget(context_tokens=100_000, instructions=False)))
    assert carried(small) == [False, False, False], "a model of questions alone is told nothing else"


@pytest.mark.parametrize("before", [0, 1, 9])
def test_headings_of_a_scan_are_asked_of_its_first_pages_once(before: int, tmp_path: Path) -> None:
    """`before` pages come before the one with the headings; only the first window's four pages are asked about."""
    pages = iter(range(10))

    def answer(images: list[Any], params: Any) -> Any:
        if "columns" in params.grammar.source:
            return {"columns": list(COLUMNS) if next(pages) == before else []}
        return SAID

    model = Scripted(answer)
    records(draw(tmp_path / "a.tif", *"abcdefghij"), model)
    assert carried(model) == [False, before < 4, before < 4]
    assert len(model.asked) == 3 + min(before + 1, 4)


@pytest.mark.parametrize(
    ("count", "context", "expected"),
    [
        (8, 60_000, [8]), (9, 60_000, [4, 4, 3]), (10, 60_000, [4, 4, 4]), (8, 14_000, [3, 3, 3, 2]),
        (3, 3_000, [1, 1, 1]), (1, 3_000, [1]),
    ],
)  # fmt: skip
def test_windows_fit_the_context(count: int, context: int, expected: list[int]) -> None:
    preset = open_preset(SCHEMA)
    found = windows([3008] * count, preset, Budget(context_tokens=context))
    assert [len(window) for window in found] == expected
    assert sorted({page for window in found for page in window}) == list(range(count))


def test_a_loop_is_asked_again_warmer_and_the_sound_reply_kept(tmp_path: Path) -> None:
    replies = iter(
        [completion("Man " * 80, "length"), completion('{"vendor": "A', "length"), completion(json.dumps(SAID))]
    )
    model = Scripted(lambda images, params: next(replies))
    (record,) = records(draw(tmp_path / "a.png", "x"), model)
    assert record.value["vendor"] == "Acme"
    assert record.retried == 2
    assert [params.temperature for _, params in model.asked] == [0.0, 0.1, 0.1]
    assert record.usage.prompt_tokens == 30
    assert len({id(messages) for messages, _ in model.asked}) == 1  # rendered once


def test_retries_are_bounded_and_the_best_is_kept_for_review(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: completion('{"vendor": "Acme", "total": "1', "length"))
    (record,) = records(draw(tmp_path / "a.png", "x"), model, retries=2)
    assert len(model.asked) == 3
    assert record.value == {"vendor": "Acme", "total": None, "items": []}
    assert record.review
    assert record.checks == ("the reply was cut at its longest (pages 1)",)


def test_a_failed_reply_is_a_row_with_its_code(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: ReplyError("it broke"))
    (record,) = records(draw(tmp_path / "a.png", "x"), model)
    assert (record.error, record.message, record.value) == ("reply_failed", "it broke", None)


def test_a_schema_that_the_model_cannot_follow_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(GrammarError):
        records(draw(tmp_path / "a.png", "x"), Scripted(lambda images, params: GrammarError("too complex")))


def test_a_reply_that_its_grammar_cannot_continue_is_asked_again_and_then_a_row(tmp_path: Path) -> None:
    page = draw(tmp_path / "a.png", "x")
    said = iter([DeadEndError("no way on"), "{", SAID])
    (record,) = records(page, Scripted(lambda images, params: next(said)))
    assert record.value["vendor"] == "Acme"
    model = Scripted(lambda images, params: DeadEndError("no way on"))
    (record,) = records(page, model, retries=2)
    assert (record.error, record.message) == ("grammar_dead_end", "no way on")
    assert [params.temperature for _, params in model.asked] == [0.0, 0.1, 0.1]


def test_failed_checks_mark_the_record_and_their_fields(tmp_path: Path) -> None:
    said = {"net": "10,00", "tax": "1,90", "gross": "12,90"}
    schema = {"properties": {key: {"format": "amount"} for key in said}, "x-checks": ["net + tax = gross"]}
    (record,) = records(draw(tmp_path / "a.png", "x"), Scripted(lambda *_: said), schema)
    assert record.review
    assert "net + tax = gross does not hold: 11.9 and 12.9" in record.checks
    assert "net + tax = gross does not hold: 11.9 and 12.9" in record.fields["gross"].checks


def test_two_images_are_compared_in_one_request(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: {"same": len(images) != 2, "differences": []})
    paths = [draw(tmp_path / f"{name}.png", name) for name in "abc"]
    pair, alone = sorted(records(paths, model, "preset:compare"), key=lambda record: record.document)
    assert pair.document.endswith("b.png")
    assert pair.value["same"] is False
    assert (alone.value, alone.error) == (None, "image_missing")
    assert "1 is missing" in str(alone.message)
    assert len(model.asked) == 1  # nothing is compared with nothing


def test_a_documents_pages_are_pairs_and_a_blank_one_is_compared_with_none(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: {"same": False, "differences": []})
    found = list(records(draw(tmp_path / "a.tif", "a", "b", "c", "d", "e", ""), model, "preset:compare"))
    assert sorted((each.pages, each.error) for each in found) == [((1, 2), None), ((3, 4), None), ((5,), "blank")]
    assert "page 6 of" in str(next(each.message for each in found if each.error))


def test_readings_of_a_count_vote(tmp_path: Path) -> None:
    totals = iter([3, 4, 3, 3, 3])
    model = Scripted(lambda images, params: {"kinds": [], "total": next(totals)})
    (record,) = records(draw(tmp_path / "a.png", "x"), model, "preset:count")
    assert record.value["total"] == 3
    assert record.fields["total"].score == 0.8
    assert record.review
    temperatures = [params.temperature for _, params in model.asked]
    assert temperatures == [0.0, 0.7, 0.7, 0.7, 0.7]
    assert len({params.seed for _, params in model.asked}) == 5


def test_leaving_the_iteration_ends_the_work(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{n:03}.png", str(n)) for n in range(200)]
    model = Scripted(lambda images, params: SAID)
    stream = extract(paths, SCHEMA, model, budget=BUDGET)
    next(stream)
    stream.close()
    asked = len(model.asked)
    assert asked < 200


def test_a_second_run_asks_only_what_is_left(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{n}.png", str(n)) for n in range(3)]
    model = Scripted(lambda images, params: SAID)
    first = records(paths[:2], model, journal=tmp_path / "journal")
    again = records(paths, model, journal=tmp_path / "journal")
    assert len(model.asked) == 3
    assert [record.value for record in again[:2]] == [record.value for record in first]


def test_the_records_of_a_journal_come_in_the_documents_order(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{n}.png", str(n)) for n in range(3)]
    preset = open_preset(SCHEMA)
    model = Scripted(lambda images, params: SAID)
    identity = Extraction(paths, preset, Options()).identity("m")
    for given in (paths[1:2], paths[::-1]):
        job = Extraction(given, preset, Options(budget=BUDGET))
        with Journal.open(tmp_path / "journal", identity) as journal:
            journal.add(job.plan())
            job.run(journal, model)
            assert [record.document for record in job.records(journal)] == [str(path) for path in given]


def test_half_a_surrogate_pair_in_a_reply_ends_no_run(tmp_path: Path) -> None:
    model = Scripted(lambda images, params: completion(r'{"vendor": "a\ud800b", "total": null, "items": []}'))
    (record,) = records(draw(tmp_path / "a.png", "x"), model, journal=tmp_path / "journal")
    assert record.value["vendor"] == "a\ufffdb"
    (again,) = records(tmp_path / "a.png", model, journal=tmp_path / "journal")
    assert again.value["vendor"] == "a\ufffdb"


@pytest.mark.parametrize("said", [{}, {"vendor": "Acme", "total": 1, "items": {"name": "Tea"}}, SAID | {"items": [5]}])
def test_a_reply_without_all_parts_of_the_schema_is_asked_again_and_then_for_review(said: Any, tmp_path: Path) -> None:
    model = Scripted(lambda images, params: said)
    (record,) = records(draw(tmp_path / "a.png", "x"), model, retries=1)
    assert len(model.asked) == 2
    assert record.review
    assert record.checks == ("the reply lacked parts of the schema (pages 1)",)


def test_a_file_that_changed_is_read_again_and_its_old_results_are_not_used(tmp_path: Path) -> None:
    path, said = tmp_path / "a.png", iter(["old", "new"])
    model = Scripted(lambda images, params: SAID | {"vendor": next(said)})
    for vendor in ("old", "new"):
        draw(path, vendor)
        job = Extraction([path], open_preset(SCHEMA), Options(budget=BUDGET))
        with Journal.open(tmp_path / "journal", job.identity("m")) as journal:
            journal.add(job.plan())
            job.run(journal, model)
            assert [record.value["vendor"] for record in job.records(journal) if record.value] == [vendor]


def test_a_file_that_changes_after_it_was_planned_is_an_error_and_not_the_new_one(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", "old")
    model = Scripted(lambda images, params: SAID)
    job = Extraction([path], open_preset(SCHEMA), Options(budget=BUDGET))
    with Journal.open(tmp_path / "journal", job.identity("m")) as journal:
        journal.add(job.plan())
        draw(path, "new")
        job.run(journal, model)
        (record,) = job.records(journal)
    assert record.error == "changed"
    assert not model.asked


def test_another_calibration_needs_another_journal(tmp_path: Path) -> None:
    calibrations = [
        Calibration("scripted", (0.0,) * WIDTH, (1.0,) * WIDTH, (bias,) + (0.0,) * WIDTH) for bias in (0.0, 1.0)
    ]
    identities = [
        Extraction([], open_preset(SCHEMA), Options(calibration=each)).identity("m") for each in (None, *calibrations)
    ]
    assert len({each["settings"] for each in identities}) == 3


def test_another_schema_needs_another_journal(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", "x")
    model = Scripted(lambda images, params: SAID)
    records(path, model, journal=tmp_path / "journal")
    with pytest.raises(UsageError, match="schema"):
        records(path, model, {"properties": {"vendor": {"type": "string"}}}, journal=tmp_path / "journal")


@pytest.mark.parametrize("option", [{"retries": 9}, {"max_error": 0.0}, {"pages": "x"}])
def test_a_wrong_option_is_refused_before_anything_is_read(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        records(draw(tmp_path / "a.png", "x"), Scripted(lambda *_: SAID), **option)


def test_a_preset_may_be_given_as_an_object() -> None:
    assert isinstance(open_preset(open_preset(SCHEMA)), Preset)
