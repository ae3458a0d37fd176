"""How questions about papers are worded, and how their answers are written.

A datum that is not printed answers "not shown", or null in JSON. JSON is written as json.dumps does,
and a printed text that is a JSON number stands there as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random

from tessera.nano.pictures.page import Glyph, Question, Written, filled, joined, unprinted
from tessera.nano.pictures.papers_blocks import Piece, blank_between

Places = Mapping[Piece, Written]
NOT_SHOWN = "not shown"
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
LONGEST_JSON = 500  # characters of an answer; more items than that make another question

FIELD_QUESTIONS = (
    "What is the {field}?", "What is the {field}?", "What's the {field}?", "{field}?", "{field}", "Give the {field}.",
    "Give me the {field}.", "Read the {field}.", "Tell me the {field}.", "Find the {field}.", "Extract the {field}.",
    "Which {field} is printed here?", "Which {field} is shown?", "What {field} is given?", "State the {field}.",
    "Can you read the {field}?", "Could you tell me the {field}?", "I need the {field}.", "Show me the {field}.",
    "What does it say for {field}?", "Return the {field}.", "Return only the {field}.", "What {field} does it show?",
    "Look up the {field}.", "Do you see the {field}? What is it?", "The {field}, please.", "Name the {field}.",
)  # fmt: skip
FIELDS_AS_JSON = (
    "Give {keys} as JSON.", "Extract {keys} as JSON.", "Return JSON with the keys {keys}.", "Return {keys} as JSON.",
    "Extract {braces}", "Fill in this JSON: {braces}", "JSON with {keys}", "Read {keys} and answer in JSON.",
    "Give me a JSON object with {keys}.", "Output JSON: {keys}.", "Answer as JSON with the fields {keys}.",
    "Please extract {keys} as JSON.", "Extract the fields {keys} and return JSON only.", "What are {keys}? Use JSON.",
    "Return a JSON object with these keys: {keys}.", "{keys} as JSON", "Write {keys} as JSON.", "Find {keys}. JSON.",
    "Return {braces} as JSON.", "Extract these fields as JSON: {keys}. Use null for what is not shown.",
    "Give {keys} as JSON, null where missing.", "As JSON: {keys}", "I need {keys} in JSON format.",
)  # fmt: skip
LISTS_AS_JSON = (
    "List the {things} as JSON with the keys {keys}.", "Return all {things} as a JSON list of objects with {keys}.",
    "Extract the {things} as JSON: {list}", "Give the {things} as JSON with {keys}.", "Extract all {things} as {list}",
    "Give every {thing} with {keys} as a JSON list.", "Return {list} for the {things}.", "{things} as JSON ({keys})",
    "Make a JSON array of the {things} with the fields {keys}.", "List {keys} of each {thing} as JSON.",
    "Read the {things} into JSON with the keys {keys}.", "Convert the {things} to JSON: {list}",
    "For each {thing} give {keys}, as JSON.", "All {things} as JSON, with {keys}, please.",
    "Write the {things} as a JSON list. Keys: {keys}.", "JSON list of {things} with {keys}",
    "Return the {things} as JSON objects with {keys}.", "What are the {things}? Answer as JSON with {keys}.",
    "I need the {things} as JSON, each with {keys}.", "Output the {things} as JSON: {list}",
)  # fmt: skip
TRANSCRIBE = (
    "Transcribe this.", "Transcribe the {thing}.", "Read everything on this {thing}.", "What does it say?",
    "Write down all the text.", "Read all the text.", "Transcribe all text in the picture.", "OCR this.",
    "What is written on this {thing}?", "Read the whole {thing}.", "Give the full text.", "Read this {thing} to me.",
    "Extract all text.", "Type out the {thing}.", "Copy the text of this {thing}.", "Return all the text you see.",
    "Transcribe this {thing} line by line.", "Show the text of the {thing}.", "Read this.",
    "Full transcription, please.",
)  # fmt: skip


def asked(random: Random, templates: Sequence[str], **pieces: Written | str) -> Written:
    """One of the templates with its pieces; at times all lower case, or without its last sign."""
    template = random.choice(templates)
    kind = random.random()
    if kind < 0.12 and "JSON" not in template:
        template = template[0].lower() + template[1:]
    if random.random() < 0.1 and template[-1] in ".?":
        template = template[:-1]
    elif random.random() < 0.04 and template[-1] == ".":
        template = template[:-1] + ", please."
    text = filled(template, **pieces)
    if kind > 0.88 and text.glyphs and text.glyphs[0] is None:
        text = Written(text.text[0].upper() + text.text[1:], text.glyphs)
    return text


def absent(question: Written) -> Question:
    return Question(question, unprinted(NOT_SHOWN), "absent")


def yes_or_no(question: Written, yes: bool, skill: str, clue: Written | None = None) -> Question:
    return Question(question, unprinted("yes" if yes else "no"), skill, clue)


# JSON ----------------------------------------------------------------------------------------


def json_value(value: Written | None) -> Written:
    """null, a number as printed, or a quoted text."""
    if value is None:
        return unprinted("null")
    return value if NUMBER.fullmatch(value.text) else json_text(value)


def json_text(value: Written) -> Written:
    texts = ['"']
    glyphs: list[int | None] = [None]
    for char, glyph in zip(value.text, value.glyphs, strict=True):
        escaped = json.dumps(char, ensure_ascii=False)[1:-1]
        texts.append(escaped)
        glyphs += [None] * (len(escaped) - 1) + [glyph]
    return Written("".join([*texts, '"']), (*glyphs, None))


def json_object(items: Sequence[tuple[Written | str, Written | None]]) -> Written:
    pairs = []
    for key, value in items:
        name = unprinted(key) if isinstance(key, str) else key
        pairs.append(joined([json_text(name), json_value(value)], ": "))
    return joined([unprinted("{"), joined(pairs, ", "), unprinted("}")])


def json_list(values: Sequence[Written]) -> Written:
    return joined([unprinted("["), joined(values, ", "), unprinted("]")])


def key_list(random: Random, keys: Sequence[str]) -> str:
    """Several keys as people name them in a sentence."""
    kind = random.random()
    if kind < 0.25 and len(keys) > 1:
        return ", ".join(keys[:-1]) + " and " + keys[-1]
    if kind < 0.45:
        return ", ".join(f'"{key}"' for key in keys)
    if kind < 0.55:
        return ", ".join(f"'{key}'" for key in keys)
    return ", ".join(keys)


def key_braces(random: Random, keys: Sequence[str]) -> str:
    """The keys as the object that is wanted."""
    filling = random.choice((None, None, ": ...", ': ""', ": null"))
    return "{" + ", ".join(f'"{key}"{filling or ""}' for key in keys) + "}"


def in_case(random: Random, key: str) -> str:
    """A key in one of the ways that people write keys: invoice_number, invoiceNumber, Invoice Number..."""
    words = key.split("_")
    kind = random.random()
    if kind < 0.6:
        return key
    if kind < 0.75:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    if kind < 0.85:
        return " ".join(word.capitalize() for word in words)
    if kind < 0.93:
        return " ".join(words)
    return key.upper() if kind < 0.97 else "-".join(words)


# Transcripts ---------------------------------------------------------------------------------


def transcript(places: Places, glyphs: Sequence[Glyph]) -> Written:
    """All pieces in reading order, those of one row with a blank between."""
    starts = {
        piece: glyphs[next(index for index in written.glyphs if index is not None)]
        for piece, written in places.items()
        if written.text.strip()
    }
    rows: list[list[Piece]] = []
    for piece in sorted(starts, key=lambda piece: starts[piece].y):
        if rows and starts[piece].y - starts[rows[-1][0]].y < 0.5 * starts[piece].size:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return joined([_row(places, sorted(row, key=lambda piece: starts[piece].x)) for row in rows], "\n")


def _row(places: Places, row: Sequence[Piece]) -> Written:
    parts = [places[row[0]]]
    for before, piece in pairwise(row):
        if blank_between(before, piece):
            parts.append(unprinted(" "))
        parts.append(places[piece])
    return joined(parts)
