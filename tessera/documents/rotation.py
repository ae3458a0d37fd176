"""Which way is up: asked of the model about a thumbnail, for pages that no file says it of."""

from __future__ import annotations

import json

from tessera.chat import ChatModel
from tessera.documents.page import Page
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams

SIDE = 256  # pixels: the lines of text show, and the question is cheap
QUESTION = "By how many degrees clockwise must this page be turned to be upright? Answer 0, 90, 180 or 270."
ANSWERS = ("0", "90", "180", "270")


def detect_turn(model: ChatModel, page: Page) -> int:
    """Return the degrees clockwise that make a page upright, confirmed on the turned thumbnail; 0 without agreement."""
    turn = _ask(model, page, 0)
    return turn if turn and _ask(model, page, turn) == 0 else 0


def _ask(model: ChatModel, page: Page, turn: int) -> int:
    params = SamplingParams(grammar=Grammar("choice", json.dumps(ANSWERS)), max_tokens=8)
    image = Image(page.image(SIDE, rotation=turn))
    text = model.chat([Message("user", (image, QUESTION))], params).text
    return int(text) if text in ANSWERS else 0
