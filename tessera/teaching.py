"""Teaching from documents: those whose values are known become samples that ask as `extract` asks.

A sample is a row for `tessera finetune` and `tessera eval`: the images of a document's pages, the question, and the
reply that `extract` hopes for. Every value is written as it is printed, where that is known.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from PIL import Image as PILImage

from tessera.documents.extraction import Extraction, Options
from tessera.documents.journal import Item
from tessera.documents.journal_file import HALVES
from tessera.documents.plan import Unit
from tessera.documents.presets import Preset
from tessera.documents.readings import agree
from tessera.documents.spans import child_path, item_path
from tessera.documents.values import UnreadableError, typed
from tessera.errors import DocumentError, UsageError
from tessera.labels import Labels, read_labels
from tessera.machine import written_whole
from tessera.messages import Image, Message, parse_messages
from tessera.samples import MARKER

TABLED = {"true": True, "false": False}  # as tables write them
COPIED = ("number", "integer", "amount", "date")  # kinds that are written as they are printed
PAGES = "pages"  # the folder of images
INDEX = re.compile(r"\[([0-9]{1,9})\]")


@dataclass
class Taught:
    """What was written, and why documents were passed over."""

    train: int = 0
    held_out: int = 0
    passed: list[str] = field(default_factory=list)


class UnknownError(ValueError):
    """A reply that cannot be written, since a value is not known or does not fit; the text says which."""


def known_values(files: Sequence[Path], preset: Preset, say: Callable[[str], None]) -> Labels:
    """Read what is known of documents, from labels and from rows that `extract` wrote; later files override earlier.

    A value that a later file says in another form, 1234.5 of "$1,234.50", stays as it was printed. Labels that tell a
    whole record stand alone, and an empty list has none of the items of earlier files. Raises UsageError.
    """
    known: Labels = {}
    named: dict[Path, Path] = {}  # by the absolute path: a name is as in the first file
    for file in files:
        for given, values in read_labels(file, say, trusted=True).items():
            document = named.setdefault(Path(os.path.abspath(given)), given)
            before = known.get(document, {})
            kept = {} if _is_whole(preset, values) else _without_emptied(before, values)
            told = {path: value for path, value in values.items() if value != {}}  # which says that an item is there
            known[document] = {**values, **kept, **told, **_as_printed(preset, before, values)}
    return known


def _without_emptied(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    emptied = tuple(f"{path}[" for path, value in values.items() if value == [])
    return {path: value for path, value in before.items() if not path.startswith(emptied)}


def _as_printed(preset: Preset, before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of numbers and dates that two files tell in two forms, the first; of a text, every letter counts."""
    kinds = {path: leaf.kind for path in before.keys() & values.keys() if (leaf := preset.schema.leaf(path))}
    return {path: before[path] for path, kind in kinds.items() if kind in COPIED and agree(values[path], before[path])}


def _is_whole(preset: Preset, values: Mapping[str, Any]) -> bool:
    try:
        reply_of(preset, values)
    except UnknownError:
        return False
    return True


def reply_of(preset: Preset, values: Mapping[str, Any]) -> str:
    """Return the reply that says these values, by path: JSON as `extract` forces it, or the text of a plain preset.

    Every value outside of lists must be known, and of a list all values of its items, or that it is empty. Items of
    nulls at its end, as a table of labels has them for shorter lists, are none. Raises UnknownError.
    """
    if preset.schema.plain:
        text = values.get("text")
        if not isinstance(text, str):
            raise UnknownError("its text is not known")
        return text
    return json.dumps(_written(preset, preset.schema.wire, "", values), ensure_ascii=False, separators=(",", ":"))


def _written(preset: Preset, wire: Mapping[str, Any], path: str, values: Mapping[str, Any]) -> Any:
    if "properties" in wire:
        return {
            name: _written(preset, part, child_path(path, name), values) for name, part in wire["properties"].items()
        }
    if "items" in wire:
        count = _length(path, values)
        if count > wire["maxItems"]:
            raise UnknownError(f"{path} has {count} items, and at most {wire['maxItems']} are asked for")
        return [_written(preset, wire["items"], item_path(path, number), values) for number in range(count)]
    if values.get(path, {}) == {}:
        raise UnknownError(f"{path} is not known")
    return _leaf(preset, wire, path, values[path])


def _length(path: str, values: Mapping[str, Any]) -> int:
    """The items of a list that have a value."""
    places = {at: INDEX.match(at, len(path)) for at in values if at.startswith(f"{path}[")}
    inside = {at: int(place[1]) for at, place in places.items() if place is not None}
    if not inside and values.get(path) not in ([], "[]"):
        raise UnknownError(f"{path} is not known; an empty list is []")
    return max((number for at, number in inside.items() if values[at] is not None), default=-1) + 1


def _leaf(preset: Preset, wire: Mapping[str, Any], path: str, value: Any) -> Any:
    leaf = preset.schema.leaf(path)
    assert leaf is not None  # the wire form is made of leaves
    if value is None:
        if not leaf.nullable:
            raise UnknownError(f"{path} is null, which the schema forbids")
        return None
    if leaf.kind == "enum":
        value = next((each for each in leaf.choices if str(each) == str(value)), value)
    if leaf.kind == "boolean":
        value = TABLED.get(str(value).lower(), value)
    try:
        meant, _ = typed(leaf, value)
    except UnreadableError as error:
        raise UnknownError(f"{path}: {error}") from error
    if leaf.kind in ("enum", "boolean"):
        return meant
    types = wire["type"]
    copied = isinstance(value, int | float) and "number" in types
    return value if copied or isinstance(value, str) else json.dumps(value)


def write_samples(labels: Labels, preset: Preset, options: Options, folder: Path, *, held_out: float) -> Taught:
    """Write `train.jsonl` and `held-out.jsonl` into a folder, with the images of their pages.

    `options` carry the budget of the model that is to learn. A document is held out by its content, so that it stays so
    when others are added, and with its copies. Documents that are read in several parts are passed over, since labels
    do not say which part holds a value. If no document is left, nothing is written.
    """
    if preset.images > 1:
        raise UsageError(f"the preset {preset.name} compares {preset.images} images; samples are of one document each.")
    extraction = Extraction(list(labels), preset, replace(options, detect_rotation=False))
    items = _first_readings(extraction)
    taught = Taught()
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(UnknownError), ExitStack() as stack:  # what is left early leaves nothing
        train, held, pages = (
            stack.enter_context(written_whole(folder / name)) for name in ("train.jsonl", "held-out.jsonl", PAGES)
        )
        pages.mkdir()
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in (train, held)]
        for number, unit in enumerate(extraction.units):
            try:
                row = _row(extraction, unit, items[unit.id], labels, pages / f"{number:05}")
            except (UnknownError, DocumentError) as error:
                taught.passed.append(f"{unit.document}: {error}")
                continue
            is_held = _place(unit) < held_out
            _append(files[is_held], row)
            taught.held_out += is_held
            taught.train += not is_held
        if not taught.train + taught.held_out:
            raise UnknownError("every document was passed over")
    return taught


def _place(unit: Unit) -> float:
    """A number from 0 to 1 by the document's content, so that copies of it have the same."""
    return int(unit.id[:8], 16) / 2**32  # it begins with the content's digest


def _first_readings(extraction: Extraction) -> dict[str, list[Item]]:
    """Plan all documents, and return the items of each that are not asked again to vote."""
    items: dict[str, list[Item]] = defaultdict(list)
    for identity, payload in extraction.plan():
        if json.loads(payload)["reading"] == 0:
            items[identity.rpartition("#")[0]].append(Item(identity, payload, 0))
    return items


def _row(extraction: Extraction, unit: Unit, items: Sequence[Item], labels: Labels, stem: Path) -> dict[str, Any]:
    if unit.errors:
        raise UnknownError(unit.errors[0].message)
    if not items:
        raise UnknownError("its pages are blank")
    if len(items) > 1:
        raise UnknownError(f"its {len(unit.keys)} pages are read in {len(items)} parts")
    if (values := labels.get(Path(unit.document))) is None:
        raise UnknownError("the labels name what it lies in; name the document itself")
    answer = reply_of(extraction.preset, values)
    messages = parse_messages(extraction.ask(items[0])[0])
    extraction.forget(items[0])
    texts = {"system" if each.role == "system" else "question": _text(each) for each in messages} | {"answer": answer}
    for name, text in texts.items():
        if HALVES.search(text):
            raise UnknownError(f"its {name} holds half of a surrogate pair, which is no character")
        if MARKER in text:
            raise UnknownError(f"its {name} holds {MARKER}, which stands for an image in samples")
    return {"document": unit.document, "images": list(_saved(messages, stem)), **texts}


def _text(message: Message) -> str:
    return "".join(part for part in message.content if isinstance(part, str))


def _saved(messages: Sequence[Message], stem: Path) -> Iterator[str]:
    sources = [part.source for message in messages for part in message.content if isinstance(part, Image)]
    for number, image in enumerate(sources):
        assert isinstance(image, PILImage.Image)  # pages are rendered
        path = stem.with_name(f"{stem.name}-{number}.png")
        image.save(path)
        yield f"{PAGES}/{path.name}"


def _append(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
