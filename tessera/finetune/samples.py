"""Conversations as token sequences with labels: which tokens are trained, and images that are decoded when needed.

A trained turn is what the model would write after the prompt that it would see. Chat format v3 puts the system
prompt and the tools at the last user turn, so an earlier turn's prompt is not the beginning of a later one's: such
a conversation becomes one sequence for each trained turn. Where the prompts agree it stays one sequence.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from tessera.errors import PromptTooLongError, TesseraError, UsageError
from tessera.finetune.data import Conversation, Problem
from tessera.images import PreparedImage, grid_of, load_pixels, prepare, token_count
from tessera.messages import Image
from tessera.model.config import VisionConfig
from tessera.prompt import Tokenizer
from tessera.sources import ImageLimits

LEAST_SIDE_TOKENS = 4  # images are not shrunk below this many tokens a side
TOO_LONG = ("stop", "drop", "shrink")  # what happens to a sample of too many tokens


@dataclass(frozen=True)
class Picture:
    """An image of a sample: its source, the longest side it is scaled to, and its grid in tokens."""

    source: str | Path
    side: int
    grid: tuple[int, int]
    shrunk: bool = False  # below what the model would see, so that the sample fits

    def pixels(self, vision: VisionConfig, limits: ImageLimits) -> torch.Tensor:
        """Decode the image and return its normalised pixels."""
        prepared = prepare(load_pixels(Image(self.source), limits), replace(vision, image_size=self.side))
        if prepared.grid != self.grid:
            raise UsageError(f"{self.source} has changed since the run began: its size is another.")
        return prepared.pixels_CHW


@dataclass(frozen=True)
class Sample:
    """One sequence: `labels[t]` is 1 where token t is trained, that is, predicted from those before it."""

    place: str
    source: str
    ids: array[int]
    labels: bytes
    images: tuple[Picture, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> int:
        return sum(self.labels)


@dataclass
class Samples:
    """What became of a data file: the samples, problems by row, and counts by name."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # rows, shrunk, dropped, split


class Encoder:
    """Turns conversations into samples; each image is read once, to check it and to learn its size."""

    def __init__(
        self, tokenizer: Tokenizer, vision: VisionConfig, *, max_tokens: int, too_long: str, limits: ImageLimits
    ) -> None:
        self.tokenizer, self.vision, self.limits = tokenizer, vision, limits
        self.max_tokens, self.too_long = max_tokens, too_long
        self._sizes: dict[str | Path, tuple[int, int]] = {}

    def encode_all(self, rows: Iterable[Conversation | Problem]) -> Samples:
        """Encode every row; what cannot be used is a problem, and what is too long goes by the chosen name."""
        found = Samples()
        for row in rows:
            found.counts["rows"] += 1
            if isinstance(row, Problem):
                found.problems.append(row)
                continue
            try:
                made = self.encode(row)
            except PromptTooLongError as error:
                if self.too_long == "drop":
                    found.counts["dropped"] += 1
                else:
                    found.problems.append(Problem(row.place, "too_long", str(error)))
                continue
            except TesseraError as error:
                found.problems.append(Problem(row.place, getattr(error, "code", "") or "invalid_row", str(error)))
                continue
            found.counts["shrunk"] += any(picture.shrunk for each in made for picture in each.images)
            found.counts["split"] += len(made) > 1
            found.samples += made
        return found

    def encode(self, row: Conversation) -> list[Sample]:
        """Encode a conversation; raises PromptTooLongError if a sequence has more than `max_tokens`."""
        made: list[tuple[list[int], bytearray, list[Picture]]] = []
        for turn in sorted(row.taught, reverse=True):
            ids, begin, pictures = self._turn(row, turn)
            later = next((each for each in made if each[0][: len(ids)] == ids), None)
            if later is None:
                made.append((ids, bytearray(len(ids)), pictures))
            labels = (later or made[-1])[1]
            labels[begin : len(ids)] = b"\1" * (len(ids) - begin)
        return [
            Sample(row.place, row.source, array("i", ids), bytes(labels), tuple(pictures))
            for ids, labels, pictures in reversed(made)
        ]

    def _turn(self, row: Conversation, turn: int) -> tuple[list[int], int, list[Picture]]:
        """Return the tokens up to the end of a trained turn, where its own begin, and its images."""
        before = row.messages[:turn]
        images = [image for message in before for image in message.images]
        side = self.vision.image_size
        while True:
            pictures = [self._picture(image, side) for image in images]
            prepared = [_outline(picture) for picture in pictures]
            ids = list(self.tokenizer.encode_chat((*before, row.messages[turn]), prepared, row.tools, whole=True).ids)
            if len(ids) <= self.max_tokens:
                break
            side = self._smaller(images, side, len(ids))
        prompt = self.tokenizer.encode_chat(before, prepared, row.tools).ids
        if tuple(ids[: len(prompt)]) != prompt or len(prompt) == len(ids):
            raise UsageError(f"messages.{turn} (assistant) does not follow its prompt in the chat format; merge turns.")
        return ids, len(prompt), pictures

    def _smaller(self, images: Sequence[Image], side: int, tokens: int) -> int:
        """Return the longest side at which the sequence fits; raises PromptTooLongError if none does."""
        words = tokens - sum(token_count(self._picture(image, side).grid) for image in images)
        size = self.vision.token_size
        if images and self.too_long == "shrink":
            for smaller in range(side - size, (LEAST_SIDE_TOKENS - 1) * size, -size):
                if words + sum(token_count(self._picture(image, smaller).grid) for image in images) <= self.max_tokens:
                    return smaller
        raise PromptTooLongError(
            f"the sample has {tokens:,} tokens, {words:,} of them text, and the limit is {self.max_tokens:,} "
            "(max_tokens); raise it, shorten the sample, or choose what happens: too_long=drop, or shrink its images."
        )

    def _picture(self, image: Image, side: int) -> Picture:
        source = image.source
        if not isinstance(source, str | Path):
            raise TypeError("images of samples are named by path")
        if source not in self._sizes:
            height, width = load_pixels(image, self.limits).shape[:2]
            self._sizes[source] = (width, height)
        whole = min(self.vision.image_size, image.side or self.vision.image_size)
        scaled = min(side, whole)
        grid = grid_of(*self._sizes[source], replace(self.vision, image_size=scaled))
        return Picture(source, scaled, grid, scaled < whole)


def _outline(picture: Picture) -> PreparedImage:
    """Return what the tokenizer needs of an image, its grid, without pixels."""
    return PreparedImage(torch.empty(0), picture.grid, b"", 0, 0)
