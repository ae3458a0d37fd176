"""A model that answers by a script, and documents for it: everything of an extraction but the reading itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from PIL import ImageDraw

from tessera.chat import ChatModel, Completion, Delta, Timings, TokenLogprob, Usage, with_params
from tessera.documents.rotation import ANSWERS, PARAMS
from tessera.errors import TesseraError
from tessera.messages import Image
from tessera.sampling import SamplingParams

Answer = Callable[[list[Any], SamplingParams], str | Completion | TesseraError]


class Scripted(ChatModel):
    """Answers with what a function says of the images and parameters; an object becomes JSON.

    Unless `turns`, every page is upright to it, and the question after that is answered without the function.
    """

    def __init__(self, answer: Callable[[list[Any], SamplingParams], Any], *, turns: bool = False) -> None:
        self.model_name, self.answer, self.turns = "scripted", answer, turns
        self.asked: list[tuple[Any, SamplingParams]] = []

    def reply(self, messages: Any, params: SamplingParams) -> Completion | TesseraError:
        if params == PARAMS and not self.turns:
            return completion(ANSWERS[0])
        self.asked.append((messages, params))
        images = [part.source for message in messages for part in message.content if isinstance(part, Image)]
        said = self.answer(images, params)
        if isinstance(said, Completion | TesseraError):
            return said
        return completion(said if isinstance(said, str) else json.dumps(said))

    def stream(self, messages: Any, params: SamplingParams | None = None, *, tools: Any = ()) -> Iterator[Delta]:
        said = self.reply(messages, params or SamplingParams())
        if isinstance(said, TesseraError):
            raise said
        yield Delta(said.text, finish_reason=said.finish_reason, usage=said.usage, timings=said.timings)

    def each(self, conversations: Iterable[Any], params: Any = None, *, tools: Any = ()) -> Iterator[Any]:
        for messages, wanted in with_params(conversations, params):
            yield self.reply(messages, wanted)

    def close(self) -> None: ...


def completion(text: str, finish: Any = "stop", probability: float = 0.0) -> Completion:
    """A reply of one token a character, each with this log-probability."""
    logprobs = tuple(TokenLogprob(ord(char), char, probability) for char in text)
    return Completion(text, finish, Usage(10, len(text), 4, 6), Timings(), "scripted", logprobs=logprobs)


def draw(path: Path, *pages: str) -> Path:
    """Write a TIFF or PNG with a page for each text; an empty text is a blank page."""
    drawn = []
    for text in pages:
        picture = PILImage.new("RGB", (240, 300), "white")
        if text:
            ImageDraw.Draw(picture).multiline_text((10, 10), text, "black", font_size=24)
        drawn.append(picture)
    drawn[0].save(path, save_all=len(drawn) > 1, append_images=drawn[1:]) if len(drawn) > 1 else drawn[0].save(path)
    return path
