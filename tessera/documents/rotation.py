"""Which way is up: asked of the model about a thumbnail, for pages that no file says it of."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tessera.chat import ChatModel, Completion, Conversation
from tessera.documents.page import Page
from tessera.errors import TesseraError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams

SIDE = 256  # pixels: the lines of text show, and the question is cheap
QUESTION = "By how many degrees clockwise must this page be turned to be upright? Answer 0, 90, 180 or 270."
ANSWERS = ("0", "90", "180", "270")
PARAMS = SamplingParams(grammar=Grammar("choice", json.dumps(ANSWERS)), max_tokens=8)


class Turning:
    """The questions about pages, one after the other, and what they bring: `turns`, in degrees clockwise.

    A turn counts once the model finds the turned thumbnail upright; a page stays as it is without that.
    """

    def __init__(self, pages: Sequence[Page], is_asked: bool) -> None:
        self.pages = tuple(pages)
        self.turns = [0] * len(self.pages)
        self._left = [number for number, page in enumerate(self.pages) if is_asked and not page.words]
        self._tried = 0  # degrees by which the thumbnail of the next question is turned

    def question(self) -> Conversation | None:
        """The next question, to be asked with PARAMS; None if nothing is left to ask."""
        if not self._left:
            return None
        return [Message("user", (Image(self.pages[self._left[0]].image(SIDE, rotation=self._tried)), QUESTION))]

    def take(self, reply: Completion | TesseraError) -> None:
        """Take in the reply to the last question; a page is left as it is if there was an error."""
        text = reply.text if isinstance(reply, Completion) else ""
        if not self._tried and text in ANSWERS[1:]:
            self._tried = int(text)
            return
        self.turns[self._left.pop(0)] = self._tried if text == ANSWERS[0] else 0
        self._tried = 0


def detect_turn(model: ChatModel, page: Page) -> int:
    """Return the degrees clockwise that make a page upright, confirmed on the turned thumbnail; 0 without agreement."""
    turning = Turning([page], True)
    while (question := turning.question()) is not None:
        turning.take(model.chat(question, PARAMS))
    return turning.turns[0]
