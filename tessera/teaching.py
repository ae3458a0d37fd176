"""Teaching from documents: those whose values are known become samples that ask as `extract` asks.

A sample is a row for `tessera finetune` and `tessera eval`: the images of a document's pages, the question, and the
reply that `extract` hopes for. Every value is written as it is printed, where that is known.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from PIL import Image as PILImage

from tessera.documents.extraction import Extraction, Options
from tessera.documents.journal import Item
from tessera.documents.plan import Unit
from tessera.documents.presets import Preset
from tessera.documents.readings import agree
from tessera.documents.spans import child_path, item_path
from tessera.documents.values import UnreadableError, typed
from tessera.errors import DocumentError, UsageError
from tessera.labels import Labels, read_labels
from tessera.messages import Image, Message, parse_messages

COPIED = ("number", "integer", "amount", "date")  # kinds that are written as they are printed
PAGES = "pages"  # the folder of images


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
    whole record stand alone. Raises UsageError.
    """
    known: Labels = {}
    for file in files:
        for document, values in read_labels(file, say, trusted=True).items():
            before = known.get(document, {})
            kept = {} if _is_whole(preset, values) else before
            known[document] = {**kept, **values, **_as_printed(preset, before, values)}
    return known


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
        return [_written(preset, wire["items"], item_path(path, number), values) for number in range(count)]
    if path not in values:
        raise UnknownError(f"{path} is not known")
    return _leaf(preset, wire, path, values[path])


def _length(path: str, values: Mapping[str, Any]) -> int:
    """The items of a list that have a value."""
    inside = {at: value for at, value in values.items() if at.startswith(f"{path}[")}
    if not inside and values.get(path) != []:
        raise UnknownError(f"{path} is not known; an empty list is []")
    filled = [int(at.removeprefix(f"{path}[").partition("]")[0]) for at, value in inside.items() if value is not None]
    return max(filled, default=-1) + 1


def _leaf(preset: Preset, wire: Mapping[str, Any], path: str, value: Any) -> Any:
    leaf = preset.schema.leaf(path)
    assert leaf is not None  # the wire form is made of leaves
    if value is None:
        if not leaf.nullable:
            raise UnknownError(f"{path} is null, which the schema forbids")
        return None
    if leaf.kind == "enum":
        value = next((each for each in leaf.choices if str(each) == str(value)), value)
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

    `options` carry the budget of the model that is to learn. A document is held out by its content and its name, so
    that it stays so when others are added. Documents that are read in several parts are passed over, since labels do
    not say which part holds a value.
    """
    if preset.images > 1:
        raise UsageError(f"the preset {preset.name} compares {preset.images} images; samples are of one document each.")
    extraction = Extraction(list(labels), preset, replace(options, detect_rotation=False))
    items = _first_readings(extraction)
    taught = Taught()
    (folder / PAGES).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        train, held = (
            stack.enter_context((folder / name).open("w", encoding="utf-8"))
            for name in ("train.jsonl", "held-out.jsonl")
        )
        for number, unit in enumerate(extraction.units):
            try:
                row = _row(extraction, unit, items[unit.id], labels, folder, f"{number:05}")
            except (UnknownError, DocumentError) as error:
                taught.passed.append(f"{unit.document}: {error}")
                continue
            is_held = _place(unit) < held_out
            _append(held if is_held else train, row)
            taught.held_out += is_held
            taught.train += not is_held
    return taught


def _place(unit: Unit) -> float:
    """A number from 0 to 1 by the document's content and the name of its file, wherever that lies."""
    identity = f"{unit.id.partition(':')[0]} {Path(unit.document).name}"
    return int(sha256(identity.encode()).hexdigest()[:8], 16) / 2**32


def _first_readings(extraction: Extraction) -> dict[str, list[Item]]:
    """Plan all documents, and return the items of each that are not asked again to vote."""
    items: dict[str, list[Item]] = defaultdict(list)
    for identity, payload in extraction.plan():
        if json.loads(payload)["reading"] == 0:
            items[identity.rpartition("#")[0]].append(Item(identity, payload, 0))
    return items


def _row(
    extraction: Extraction, unit: Unit, items: Sequence[Item], labels: Labels, folder: Path, name: str
) -> dict[str, Any]:
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
    asked = {"system" if each.role == "system" else "question": _text(each) for each in messages}
    return {"document": unit.document, "images": list(_saved(messages, folder, name)), **asked, "answer": answer}


def _text(message: Message) -> str:
    return "".join(part for part in message.content if isinstance(part, str))


def _saved(messages: Sequence[Message], folder: Path, name: str) -> Iterator[str]:
    sources = [part.source for message in messages for part in message.content if isinstance(part, Image)]
    for number, image in enumerate(sources):
        assert isinstance(image, PILImage.Image)  # pages are rendered
        path = f"{PAGES}/{name}-{number}.png"
        image.save(folder / path)
        yield path


def _append(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
