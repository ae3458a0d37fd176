"""A second reading: the model is asked for a value again, with only the place in view where it was found.

Two readings that differ in what they see are worth more than two that do not (arXiv 2606.24420). The question is the
same for every value, so that agreement means the same; the reply is forced into the value's type or null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.chat import ChatModel, Completion, Conversation
from tessera.documents.page import Box, Page
from tessera.documents.readings import agree
from tessera.documents.spans import find_leaves, name_of
from tessera.errors import TesseraError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams

MARGIN_LINES, MARGIN_WIDTH = 1.0, 0.12  # around a box: in its own heights, and as a share of the page's width
PAGE_SIDE = 1536  # pixels that the page would have at the crop's scale: half as much again as when read whole
LEAST_SIDE = 64
SPARE_TOKENS = 64


@dataclass(frozen=True)
class Rereader:
    """Reads values again in crops of their pages, which are turned clockwise by the degrees in `turns`."""

    model: ChatModel
    pages: Mapping[int, Page]
    turns: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ChatModel, pages: Sequence[Page], turns: Mapping[int, int] | None = None) -> Rereader:
        return cls(model, {page.number: page for page in pages}, turns or {})

    def read(self, places: Mapping[str, tuple[Any, Box]]) -> dict[str, bool | None]:
        """Return, for each path's value and box, if the second reading agrees; None if there was none."""
        asked = [(path, value, box) for path, (value, box) in places.items() if box.page in self.pages]
        params = [_params(path, value) for path, value, _ in asked]
        replies = self.model.each(self._conversations(asked), params)
        found = {path: _agrees(value, reply) for (path, value, _), reply in zip(asked, replies, strict=True)}
        return {path: found.get(path) for path in places}

    def _conversations(self, asked: Sequence[tuple[str, Any, Box]]) -> Iterator[Conversation]:
        for path, _, box in asked:
            page, turn = self.pages[box.page], self.turns.get(box.page, 0)
            crop = around(box.turned(turn)).turned(-turn)
            width, height = page.size
            longest = max((crop.right - crop.left) * width, (crop.bottom - crop.top) * height) / max(width, height)
            image = page.image(max(LEAST_SIDE, round(PAGE_SIDE * longest)), crop, turn)
            key = json.dumps(name_of(path), ensure_ascii=False)
            text = f"Return {{{key}: ...}} as JSON, null for what is not shown."
            yield [Message("user", (Image(image), text))]


def around(box: Box) -> Box:
    """Return a box with a margin, within the page."""
    height = box.bottom - box.top
    return Box(
        box.page,
        max(0.0, box.left - MARGIN_WIDTH),
        max(0.0, box.top - MARGIN_LINES * height),
        min(1.0, box.right + MARGIN_WIDTH),
        min(1.0, box.bottom + MARGIN_LINES * height),
    )


def _params(path: str, value: Any) -> SamplingParams:
    kind = "string" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"
    name = name_of(path)
    schema = {
        "type": "object", "properties": {name: {"type": [kind, "null"]}}, "required": [name],
        "additionalProperties": False,
    }  # fmt: skip
    tokens = SPARE_TOKENS + 2 * len(json.dumps({name: value}, ensure_ascii=False).encode())
    return SamplingParams(max_tokens=tokens, grammar=Grammar("json_schema", json.dumps(schema), compact=True))


def _agrees(value: Any, reply: Completion | TesseraError) -> bool | None:
    if isinstance(reply, TesseraError):
        return None
    leaves = find_leaves(reply.text).by_path
    return bool(leaves) and agree(value, next(iter(leaves.values())).value)
