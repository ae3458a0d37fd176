"""Judgements of replies whose tokens, pages and second readings are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tessera.chat import ChatModel, Completion, Conversation, Delta, Glance, Timings, TokenLogprob, Usage
from tessera.documents.calibration import EVIDENCE, Calibration
from tessera.documents.evidence import gather, judge, must_be_printed, schema_at, state_of
from tessera.documents.page import Box
from tessera.documents.pointing import Locator
from tessera.documents.record import Field
from tessera.documents.reread import Rereader, around
from tessera.errors import EndpointError, TesseraError
from tessera.sampling import SamplingParams
from tests.documents.papers import TypedPage

SCHEMA = {
    "type": "object",
    "properties": {
        "vendor": {"type": ["string", "null"]},
        "total": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "kind": {"enum": ["invoice", "receipt"]},
        "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
    },
    "$defs": {"Item": {"type": "object", "properties": {"paid": {"type": "boolean"}, "name": {"type": "string"}}}},
}
PAGE = TypedPage(["Acme Tools Ltd", "Bread 2.50", "Tea 4.00 and some more words", "of a page that has text", "Total 6.50"])  # fmt: skip # noqa: E501
SCAN = TypedPage([])


def reply_of(value: Any, logprob: float = -0.01, finish: str = "stop") -> Completion:
    """A reply of single characters with one probability each."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    tokens = tuple(TokenLogprob(-1, char, logprob) for char in text)
    return Completion(text, finish, Usage(), Timings(), "m", logprobs=tokens)  # type: ignore[arg-type]


class Model(ChatModel):
    """Answers each conversation with the next reply; looks at one patch for every character."""

    model_name = "made up"

    def __init__(self, replies: Sequence[Completion | TesseraError] = (), column: int | None = None) -> None:
        self.replies, self.column, self.asked = list(replies), column, []  # type: ignore[var-annotated]

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Any = ()
    ) -> Iterator[Delta]:
        raise NotImplementedError

    def each(
        self, conversations: Iterable[Conversation], params: Any = None, *, tools: Any = ()
    ) -> Iterator[Completion | TesseraError]:
        for conversation, each in zip(conversations, params, strict=True):
            self.asked.append((conversation, each))
            yield self.replies.pop(0)

    def locate(self, messages: Any, reply: Any, spans: Sequence[tuple[int, int]], heads: Any = ()) -> Any:
        if self.column is None:
            return None
        look = (Glance(0, (10, 10), 3, self.column, 0.5, (0, 0)),)
        return [[look] * (end - start) for start, end in spans]

    def close(self) -> None:
        pass


def judged(value: Any, page: TypedPage = PAGE, **options: Any) -> dict[str, Field]:
    return judge(reply_of(value), SCHEMA, [page], max_error=0.2, **options)


def test_a_value_of_the_text_layer_is_found_with_its_place_and_score() -> None:
    field = judged({"vendor": "ACME Tools Ltd", "total": 6.5})["vendor"]
    assert (field.value, field.raw, field.state, field.box_source) == (
        "ACME Tools Ltd",
        "ACME Tools Ltd",
        "found",
        "text",
    )
    assert field.score == pytest.approx(math.exp(-0.01 * 15))
    assert (field.confidence, field.checks, field.review) == (None, (), False)
    assert len(field.evidence) == len(EVIDENCE)


def test_a_value_that_the_text_layer_lacks_asks_for_review() -> None:
    fields = judged({"vendor": "Acne Tools Ltd", "total": 6.51})
    assert fields["total"].review
    assert fields["total"].checks == ("the page's text does not have this value",)
    assert fields["total"].box is None
    assert fields["vendor"].review
    assert fields["vendor"].box_source == "text_fuzzy"
    assert "Acme Tools Ltd" in fields["vendor"].checks[0]


def test_choices_and_yes_or_no_need_not_stand_in_the_text() -> None:
    fields = judged({"kind": "receipt", "items": [{"paid": True, "name": "Tea"}]})
    assert not any(field.review for field in fields.values())
    assert must_be_printed(SCHEMA, "items[0].name")
    assert not must_be_printed(SCHEMA, "items[0].paid")
    assert schema_at(SCHEMA, "total") == {"type": "number"}
    assert schema_at(SCHEMA, "other.thing[2]") == {}
    assert schema_at({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "x") == {}


def test_a_scan_says_nothing_against_a_value() -> None:
    field = judged({"vendor": "Anything"}, SCAN)["vendor"]
    assert (field.box, field.box_source, field.checks, field.review) == (None, "none", (), False)


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (None, "missing"), ("", "blank"), ("  ", "blank"), ([], "blank"), ("[illegible]", "unreadable"), ("x", "found"),
        (0, "found"), (False, "found"),
    ],
)  # fmt: skip
def test_states(value: Any, state: str) -> None:
    assert state_of(value) == state
    field = judged({"vendor": value}, SCAN)["vendor"]
    assert field.state == state
    assert (field.value is None) == (state in ("missing", "unreadable"))


def test_a_cut_reply_asks_for_review_in_all_its_fields() -> None:
    fields = judge(reply_of('{"vendor": "Acme Tools Ltd", "tot', finish="length"), SCHEMA, [PAGE], max_error=0.2)
    assert set(fields) == {"vendor"}
    assert fields["vendor"].review


def test_a_reply_in_circles_asks_for_review() -> None:
    rows = [{"name": "Tea"}] * 12
    assert all(field.review for field in judged({"items": rows}).values())
    others = [{"name": f"Tea {number}"} for number in range(12)]
    assert not all(field.review for field in judged({"items": others}).values())


def test_without_probabilities_there_is_no_score_and_a_person_must_look() -> None:
    bare = replace(reply_of({"vendor": "Acme Tools Ltd"}), logprobs=())
    field = judge(bare, SCHEMA, [PAGE], max_error=0.2)["vendor"]
    assert (field.score, field.confidence, field.evidence, field.review) == (0.0, None, (), True)


def test_a_low_score_asks_for_review() -> None:
    field = judge(reply_of({"vendor": "Acme"}, logprob=-0.5), SCHEMA, [SCAN], max_error=0.2)["vendor"]
    assert field.review


def calibration(bias: float) -> Calibration:
    width = len(EVIDENCE)
    pairs = tuple((confidence, True) for confidence in [0.9] * 200)
    return Calibration("made up", (0.0,) * width, (1.0,) * width, (bias, *[0.0] * width), held_out=pairs)


def test_a_calibration_gives_the_confidence_and_its_threshold_decides() -> None:
    sure = judge(reply_of({"vendor": "x"}), SCHEMA, [SCAN], calibration=calibration(math.log(19)), max_error=0.05)
    assert sure["vendor"].confidence == pytest.approx(0.95)
    assert not sure["vendor"].review
    unsure = judge(reply_of({"vendor": "x"}), SCHEMA, [SCAN], calibration=calibration(math.log(3)), max_error=0.05)
    assert unsure["vendor"].confidence == pytest.approx(0.75)
    assert unsure["vendor"].review
    # 200 labels cannot show an error of 1 %.
    strict = judge(reply_of({"vendor": "x"}), SCHEMA, [SCAN], calibration=calibration(math.log(99)), max_error=0.01)
    assert strict["vendor"].review


def test_attention_places_what_the_text_layer_lacks() -> None:
    model = Model(column=4)
    locator = Locator(model, [], (Box(1, 0.0, 0.0, 1.0, 1.0),))
    field = judged({"vendor": "Acme Tools Ltd"}, SCAN, locate=locator)["vendor"]
    assert field.box_source == "attention"
    assert field.box is not None
    assert (field.box.left, field.box.top) == pytest.approx((0.4, 0.3))
    assert field.evidence[EVIDENCE.index("attention")] == pytest.approx(0.5)
    assert judged({"vendor": "Acme Tools Ltd"}, locate=locator)["vendor"].box_source == "text"
    nowhere = Locator(Model(), [], (Box(1, 0.0, 0.0, 1.0, 1.0),))
    assert judged({"vendor": "Acme"}, SCAN, locate=nowhere)["vendor"].box is None


def again(*values: Any) -> Rereader:
    return Rereader.of(Model([reply_of({"vendor": value}) if not isinstance(value, TesseraError) else value for value in values], 4), [SCAN])  # fmt: skip # noqa: E501


def located(rereader: Rereader) -> Field:
    locator = Locator(rereader.model, [], (Box(1, 0.0, 0.0, 1.0, 1.0),))
    return judged({"vendor": "Acme Tools Ltd"}, SCAN, locate=locator, reread=rereader)["vendor"]


def test_a_second_reading_that_agrees_keeps_the_box() -> None:
    rereader = again("ACME Tools Ltd")
    field = located(rereader)
    assert (field.box_source, field.checks) == ("attention", ())
    assert field.evidence[EVIDENCE.index("reread")] == 1.0
    ((conversation, params),) = rereader.model.asked  # type: ignore[attr-defined]
    image, text = conversation[0].content
    assert text == 'Return {"vendor": ...} as JSON, null for what is not shown.'
    assert image.source.size < SCAN.picture.size
    assert json.loads(params.grammar.source)["properties"] == {"vendor": {"type": ["string", "null"]}}


@pytest.mark.parametrize("said", ["Other Ltd", None])
def test_a_box_whose_crop_says_something_else_is_dropped(said: str | None) -> None:
    field = located(again(said))
    assert (field.box, field.box_source, field.review) == (None, "none", True)
    assert field.checks == ("a second reading of its place says something else",)
    assert field.evidence[EVIDENCE.index("reread")] == -1.0


def test_a_second_reading_that_fails_says_nothing() -> None:
    field = located(again(EndpointError("gone")))
    assert (field.box_source, field.checks) == ("attention", ())


def test_a_crop_has_a_margin_and_stays_on_the_page() -> None:
    assert around(Box(1, 0.05, 0.5, 0.4, 0.6)) == Box(1, 0.0, 0.4, pytest.approx(0.52), pytest.approx(0.7))


def test_evidence_is_gathered_for_every_leaf() -> None:
    value: Mapping[str, Any] = {"vendor": "Acme Tools Ltd", "total": None, "items": []}
    found = gather(reply_of(value), SCHEMA, [PAGE])
    assert {path: each.text for path, each in found.items()} == {"vendor": 1.0, "total": 0.0, "items": 0.0}
