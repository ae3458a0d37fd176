"""The headings of a table on a scanned page, asked of the model, for the pages on which the table goes on without them.

Pages with a text layer tell them without a question (`markdown.table_headings`).
"""

from __future__ import annotations

import json

from tessera.chat import ChatModel
from tessera.documents.markdown import MAX_CELL, MAX_COLUMNS
from tessera.documents.page import Page
from tessera.documents.repeats import parsed
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams

QUESTION = (
    'Which headings do the columns of the last table on this page have? Answer {"columns": [""]} as JSON, with an '
    "empty list if there is no table with headings."
)
SCHEMA = {
    "type": "object",
    "properties": {
        "columns": {"type": "array", "maxItems": MAX_COLUMNS, "items": {"type": "string", "maxLength": MAX_CELL}}
    },
    "required": ["columns"],
    "additionalProperties": False,
}
MAX_TOKENS = 400


def read_headings(model: ChatModel, page: Page, side: int, turn: int = 0) -> tuple[str, ...]:
    """Ask for the headings on a page, shown with `side` pixels along its longer edge and turned; () if it has none."""
    params = SamplingParams(grammar=Grammar("json_schema", json.dumps(SCHEMA), compact=True), max_tokens=MAX_TOKENS)
    told = parsed(model.chat([Message("user", (Image(page.image(side, rotation=turn)), QUESTION))], params).text)
    columns = told.get("columns") if isinstance(told, dict) else None
    if not isinstance(columns, list) or not all(isinstance(each, str) for each in columns):
        return ()
    return tuple(" ".join(each.split())[:MAX_CELL] for each in columns[:MAX_COLUMNS] if each.strip())
