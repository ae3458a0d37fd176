"""The judgement of a reply: each value with its place, its confidence, and whether a person should look at it.

It joins what the other files know: where the value stands in the reply (spans), its tokens' probabilities
(confidence), its place in the text layer (boxes) or by attention (pointing), a second reading (reread), and what all
that meant on labelled documents (calibration). The model is never asked for a number about itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.chat import Completion
from tessera.documents.boxes import Place, TextPlaces
from tessera.documents.calibration import Calibration, evidence_of
from tessera.documents.confidence import Features, TokenSpans
from tessera.documents.page import Box, Page
from tessera.documents.pointing import Locator, Pointed
from tessera.documents.record import BoxSource, Field, State
from tessera.documents.repeats import loops
from tessera.documents.reread import Rereader
from tessera.documents.spans import Leaf, Leaves, find_leaves, kind_of

DEFAULT_MAX_ERROR = 0.05
UNREADABLE = {"unreadable", "illegible", "not readable", "not legible"}  # what a model writes for it
MIN_WORDS = 15  # a text layer with fewer words, in which nothing was found, does not speak for its page
NOT_IN_TEXT = "the page's text does not have this value"
OTHER_LETTERS = "the page's text has it with other letters: {text}"
READ_AGAIN = "a second reading of its place says something else"


@dataclass(frozen=True)
class Evidence:
    """All that is known of one leaf; what calibrations are made from."""

    leaf: Leaf
    features: Features | None
    place: Place | None = None
    pointed: Pointed | None = None
    text: float = 0.0  # 1: the text layer has the value, -1: it has not, 0: there is none, or it does not matter
    reread: float = 0.0  # 1: a second reading agrees, -1: it does not, 0: there was none

    @property
    def values(self) -> tuple[float, ...] | None:
        """The calibration's evidence; None without the tokens' probabilities."""
        if self.features is None:
            return None
        return evidence_of(self.features, self.pointed.weight if self.pointed else None, self.text, self.reread)


def judge(
    reply: Completion,
    schema: Mapping[str, Any],
    pages: Sequence[Page],
    *,
    calibration: Calibration | None = None,
    max_error: float = DEFAULT_MAX_ERROR,
    locate: Locator | None = None,
    reread: Rereader | None = None,
) -> dict[str, Field]:
    """Return the fields of a reply by path.

    A field asks for review if its confidence is below what `max_error` needs, the text layer or the second reading
    disagrees, or the reply was cut or went in circles. Without a calibration the score takes the confidence's place
    there, which promises nothing.
    """
    leaves = find_leaves(reply.text)
    threshold = 1.0 - max_error if calibration is None else calibration.threshold(max_error)
    broken = not leaves.whole or reply.finish_reason != "stop" or loops(reply.text, plain=False)
    found = {}
    for path, each in gather(reply, schema, pages, leaves=leaves, locate=locate, reread=reread).items():
        values = each.values
        score = each.features.score if each.features else 0.0
        confidence = None
        if calibration is not None and values is not None:
            confidence = calibration.confidence(kind_of(path), values)
        sure = score if confidence is None else confidence
        checks = _checks(each)
        box, source = _box(each)
        found[path] = Field(
            path=path,
            value=None if state_of(each.leaf.value) == "unreadable" else each.leaf.value,
            raw=each.leaf.value if each.leaf.quoted else reply.text[each.leaf.start : each.leaf.end],
            state=state_of(each.leaf.value),
            score=score,
            confidence=confidence,
            box=box,
            box_source=source,
            checks=checks,
            evidence=values or (),
            review=bool(broken or checks or threshold is None or sure < threshold or each.features is None),
        )
    return found


def gather(
    reply: Completion,
    schema: Mapping[str, Any],
    pages: Sequence[Page],
    *,
    leaves: Leaves | None = None,
    locate: Locator | None = None,
    reread: Rereader | None = None,
) -> dict[str, Evidence]:
    """Collect the evidence for each leaf of a reply, by path."""
    by_path = (leaves or find_leaves(reply.text)).by_path
    spans = TokenSpans(reply)
    texts = TextPlaces(pages)
    places = texts.find({path: leaf.value for path, leaf in by_path.items()})
    speaks = bool(texts) and (bool(places) or sum(len(page.words) for page in pages) >= MIN_WORDS)
    printed = {path: leaf for path, leaf in by_path.items() if _is_printed(leaf.value)}
    unplaced = {path: leaf for path, leaf in printed.items() if path not in places or places[path].source != "text"}
    pointed = locate.find(reply, unplaced) if locate is not None else {}
    again = _read_again(reread, printed, places, pointed)
    found = {}
    for path, leaf in by_path.items():
        text = 0.0
        has_text = path in places and places[path].source == "text"
        if speaks and path in printed and must_be_printed(schema, path) and (has_text or not texts.gave_up(path)):
            text = 1.0 if has_text else -1.0
        agrees = again.get(path)
        found[path] = Evidence(
            leaf, spans.features(leaf), places.get(path), pointed.get(path), text,
            0.0 if agrees is None else 1.0 if agrees else -1.0,
        )  # fmt: skip
    return found


def state_of(value: Any) -> State:
    """Say what a value means: null is missing, an empty text or list is blank, and some words mean unreadable."""
    if value is None:
        return "missing"
    if isinstance(value, str) and value.strip(" .[]()<>").lower() in UNREADABLE:
        return "unreadable"
    if value in ([], {}) or (isinstance(value, str) and not value.strip()):
        return "blank"
    return "found"


def must_be_printed(schema: Mapping[str, Any], path: str) -> bool:
    """Return True if a field's value is copied from the page: not a choice from a list, nor yes or no."""
    leaf = schema_at(schema, path)
    return not ({"enum", "const"} & set(leaf) or leaf.get("type") == "boolean" or leaf.get("x-verbatim") is False)


def schema_at(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the part of a JSON schema that describes a path; empty if it says nothing of it."""
    here: Any = schema
    for key in re.findall(r'\["(?:[^"\\]|\\.)*"\]|\[\d+\]|[^.\[\]]+', path):
        here = _resolved(here, schema)
        if key.startswith("[") and not key.startswith('["'):
            here = here.get("items", {})
        else:
            name = key[2:-2] if key.startswith('["') else key
            here = (here.get("properties") or {}).get(name, {})
    return _resolved(here, schema)


def _resolved(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references into the schema's own definitions, and the alternative to null."""
    for _ in range(8):
        if not isinstance(part, Mapping):
            return {}
        if isinstance(reference := part.get("$ref"), str) and reference.startswith("#/"):
            target: Any = root
            for key in reference[2:].split("/"):
                target = target.get(key, {}) if isinstance(target, Mapping) else {}
            part = target
            continue
        others = [each for each in part.get("anyOf", ()) if each != {"type": "null"}]
        if len(others) != 1:
            return part
        part = others[0]
    return {}


def _is_printed(value: Any) -> bool:
    return state_of(value) == "found" and not isinstance(value, (bool, dict, list))


def _read_again(
    reread: Rereader | None, leaves: Mapping[str, Leaf], places: Mapping[str, Place], pointed: Mapping[str, Pointed]
) -> dict[str, bool | None]:
    if reread is None:
        return {}
    boxes: dict[str, Box] = {path: each.box for path, each in pointed.items()}
    boxes |= {path: each.box for path, each in places.items()}
    return reread.read({path: (leaf.value, boxes[path]) for path, leaf in leaves.items() if path in boxes})


def _box(evidence: Evidence) -> tuple[Box | None, BoxSource]:
    """Choose the best place: the text layer's own, then a similar text, then attention.

    A place where the second reading did not find the value is none, unless the text layer has it there.
    """
    place, pointed = evidence.place, evidence.pointed
    if place is not None and place.source == "text":
        return place.box, "text"
    if evidence.reread < 0:
        return None, "none"
    if place is not None:
        return place.box, place.source
    return (pointed.box, "attention") if pointed is not None else (None, "none")


def _checks(evidence: Evidence) -> tuple[str, ...]:
    found = []
    if evidence.text < 0:
        found.append(NOT_IN_TEXT if evidence.place is None else OTHER_LETTERS.format(text=evidence.place.text[:80]))
    if evidence.reread < 0:
        found.append(READ_AGAIN)
    return tuple(found)
