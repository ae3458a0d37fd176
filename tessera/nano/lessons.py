"""Pages as training batches: tokens, patches, and for each what is printed where.

All questions of a page stand in one sequence behind its pictures, which are so paid for once. Each
question sees the pictures and itself, and its positions go on from the pictures': to the model every
question is the only one. Pages are drawn by worker processes from their seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessera.chat import Image, Message
from tessera.images import prepare
from tessera.model.config import ModelConfig
from tessera.model.vision import pixels_to_patches
from tessera.nano.pictures.mix import Course, draw_page
from tessera.nano.pictures.page import MARK, Glyph, Page, Question, Written
from tessera.prompt import Tokenizer

CHARACTERS_PER_PATCH = 8  # of 9 px type four letters stand beside each other in a patch, in one line or two
PRINTABLE = "".join(chr(code) for code in range(33, 127)) + "£€"
NOTHING = len(PRINTABLE)  # the class that ends the list of a patch's characters
CHARACTER_CLASSES = NOTHING + 1
IGNORED = -100
SHARED = 0  # the segment of a page's pictures, which all questions see


@dataclass(frozen=True)
class Example:
    """One page as tensors; token t of `ids` is predicted from the token before it in its segment."""

    patches_PX: Tensor  # bfloat16, of all pictures
    grids: list[tuple[int, int]]
    ids: Tensor  # (T,) int64: the pictures, then each question with its answer and end token
    positions: Tensor  # (T,) int64
    segments: Tensor  # (T,) int64: SHARED, or the number of the question, from 1
    weights: Tensor  # (T,) float32: of the loss of this token's successor; 0 where none is taught
    characters: Tensor  # (P, CHARACTERS_PER_PATCH) int64 classes, IGNORED after the first NOTHING
    sources: Tensor  # (T,) int64: the image token that shows token t, at a question's end its clue; -1 for none

    def __len__(self) -> int:
        return len(self.ids)


def example_of(page: Page, tokenizer: Tokenizer, config: ModelConfig) -> Example:
    """Tokenize a page exactly as the engine would and attach its dense targets."""
    pictures = [prepare(picture, config.vision_encoder) for picture in page.pictures]
    asked = page.questions or (Question(Written("", ()), Written("", ()), "dense"),)
    contents = [Image(picture) for picture in page.pictures]
    prompt = tokenizer.encode_chat([Message("user", (*contents, asked[0].question.text or "?"))], pictures)
    first = tokenizer.encode_text(asked[0].question.text or "?", bos=False)
    closing = 1  # the end of the instruction, which follows the question
    shared = len(prompt.ids) - closing - len(first)
    ids, segments, positions = list(prompt.ids[:shared]), [SHARED] * shared, list(range(shared))
    weights, sources = [0.0] * shared, [-1] * shared
    places = _Places(page, [picture.grid for picture in pictures], [span.start for span in prompt.images])
    for number, question in enumerate(page.questions, 1):
        asks, answers = (tokenizer.encode_text(w.text, bos=False) for w in (question.question, question.answer))
        tokens = [*asks, prompt.ids[-1], *answers, tokenizer.eos_id]
        ids += tokens
        segments += [number] * len(tokens)
        positions += range(shared, shared + len(tokens))
        taught = len(answers) + 1
        # Halfway between equal tokens and equal answers: else long texts would drown the short ones.
        weights += [0.0] * len(asks) + [taught**-0.5] * taught + [0.0]
        clue = next((g for g in question.clue.glyphs if g is not None), None) if question.clue else None
        sources += [
            *places.of_bytes(question.question),
            places.token_of(clue) if clue is not None else -1,
            *places.of_bytes(question.answer),
            -1,
        ]
    size = config.vision_encoder.patch_size
    patches = [pixels_to_patches(picture.pixels_CHW, size) for picture in pictures]
    return Example(
        patches_PX=torch.cat([torch.zeros(0, 3 * size * size), *patches]).to(torch.bfloat16),
        grids=[picture.grid for picture in pictures],
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        segments=torch.tensor(segments),
        weights=torch.tensor(weights),
        characters=places.characters(),
        sources=torch.tensor(sources),
    )


class _Places:
    """Where each printed character of a page lies: its patch, and its patch's token."""

    def __init__(self, page: Page, grids: Sequence[tuple[int, int]], starts: Sequence[int]) -> None:
        self.glyphs = page.glyphs
        self.patches = sum(rows * columns for rows, columns in grids)
        self.patch_of_glyph: list[int] = []
        self.token_of_glyph: list[int] = []
        firsts = [sum(rows * columns for rows, columns in grids[:number]) for number in range(len(grids))]
        for glyph in page.glyphs:
            (rows, columns), (width, height) = grids[glyph.picture], page.pictures[glyph.picture].size
            row = min(max(int(glyph.y / height * rows), 0), rows - 1)
            column = min(max(int(glyph.x / width * columns), 0), columns - 1)
            self.patch_of_glyph.append(firsts[glyph.picture] + row * columns + column)
            # A break token ends each row of a picture's tokens.
            self.token_of_glyph.append(starts[glyph.picture] + row * (columns + 1) + column)

    def token_of(self, glyph: int) -> int:
        return self.token_of_glyph[glyph]

    def of_bytes(self, written: Written) -> list[int]:
        """The image token of each byte's character, on its first byte; -1 where nothing is printed."""
        tokens: list[int] = []
        for character, glyph in zip(written.text, written.glyphs, strict=True):
            tokens.append(-1 if glyph is None else self.token_of_glyph[glyph])
            tokens += [-1] * (len(character.encode()) - 1)
        return tokens

    def characters(self) -> Tensor:
        """Each patch's characters in reading order, ended by NOTHING where there is room."""
        lists: list[list[int]] = [[] for _ in range(self.patches)]
        for index, patch in enumerate(self.patch_of_glyph):
            if self.glyphs[index].char != MARK:
                lists[patch].append(index)
        targets = [
            [*(PRINTABLE.index(self.glyphs[i].char) for i in _in_reading_order(indices, self.glyphs)), NOTHING]
            for indices in lists
        ]
        padded = [(row + [IGNORED] * CHARACTERS_PER_PATCH)[:CHARACTERS_PER_PATCH] for row in targets]
        return torch.tensor(padded).view(-1, CHARACTERS_PER_PATCH)


def _in_reading_order(indices: list[int], glyphs: Sequence[Glyph]) -> list[int]:
    """Line by line, where half a type size down begins a new line, and from left to right in each."""
    if len(indices) < 2:
        return indices
    lines: list[list[int]] = []
    for index in sorted(indices, key=lambda i: glyphs[i].y):
        if lines and glyphs[index].y - glyphs[lines[-1][0]].y < glyphs[index].size / 2:
            lines[-1].append(index)
        else:
            lines.append([index])
    return [index for line in lines for index in sorted(line, key=lambda i: glyphs[i].x)]


@dataclass(frozen=True)
class Stretches:
    """G stretches of tokens padded to one length S, as places in the batch's row of T tokens."""

    index: Tensor  # (G, S) int64; 0 for padding
    real: Tensor  # (G, S) bool
    rows: Tensor  # (G,) int64: the page that each belongs to

    def to(self, device: torch.device) -> Stretches:
        return Stretches(*(tensor.to(device, non_blocking=True) for tensor in (self.index, self.real, self.rows)))


@dataclass(frozen=True)
class Batch:
    """R pages: their I pictures padded to Q patches, their tokens in one row without padding.

    First come the shared tokens of all pages, then the questions, the short ones first: `questions`
    are groups of about one length, so that little is padding where they are attended.
    """

    grids: list[tuple[int, int]]
    patches: Tensor  # (I * Q, X)
    real_patches: Tensor  # (I, Q) bool
    characters: Tensor  # (patches of all pictures, CHARACTERS_PER_PATCH), without padding
    ids: Tensor  # (T,)
    positions: Tensor  # (T,)
    weights: Tensor  # (T,)
    sources: Tensor  # (T,): place among its page's shared tokens
    answers: Tensor  # (T,) int64: the number of the question in the batch, -1 in the shared tokens
    shared: Stretches
    questions: list[Stretches]
    pages: int

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        moved["questions"] = [group.to(device) for group in self.questions]
        return dataclasses.replace(self, **moved, shared=self.shared.to(device))


def join(examples: Sequence[Example]) -> Batch:
    """Several pages as one batch; none sees another, and padding is never seen."""
    stack = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    counts = [[rows * columns for rows, columns in example.grids] for example in examples]
    pictures = [part for e, sizes in zip(examples, counts, strict=True) for part in e.patches_PX.split(sizes)]
    width = examples[0].patches_PX.shape[1]
    shared = [_Part(row, example, example.segments == SHARED) for row, example in enumerate(examples)]
    asked = [
        _Part(row, example, example.segments == number)
        for row, example in enumerate(examples)
        for number in range(1, int(example.segments.max()) + 1)
    ]
    asked.sort(key=len)
    parts = [*shared, *asked]
    starts = [0, *accumulate(len(part) for part in parts)]
    questions, first = [], len(shared)
    for _, group in groupby(asked, key=lambda part: _group_length(len(part))):
        count = len(list(group))
        questions.append(_stretches(parts[first : first + count], starts[first : first + count]))
        first += count
    number_of = [-1] * len(shared) + list(range(len(asked)))
    lengths = torch.tensor([len(part) for part in parts])
    return Batch(
        grids=[grid for example in examples for grid in example.grids],
        patches=stack(pictures).flatten(0, 1) if pictures else torch.zeros(0, width, dtype=torch.bfloat16),
        real_patches=stack([torch.ones(len(picture), dtype=torch.bool) for picture in pictures])
        if pictures
        else torch.zeros(0, 0, dtype=torch.bool),
        characters=torch.cat([e.characters for e in examples]),
        ids=torch.cat([part.of("ids") for part in parts]),
        positions=torch.cat([part.of("positions") for part in parts]),
        weights=torch.cat([part.of("weights") for part in parts]),
        sources=torch.cat([part.of("sources") for part in parts]),
        answers=torch.tensor(number_of).repeat_interleave(lengths),
        shared=_stretches(shared, starts[: len(shared)]),
        questions=questions,
        pages=len(examples),
    )


@dataclass(frozen=True)
class _Part:
    """The shared tokens of a page, or one of its questions."""

    row: int
    example: Example
    kept: Tensor

    def __len__(self) -> int:
        return int(self.kept.sum())

    def of(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self.example, name)
        return tensor[self.kept]


def _group_length(length: int) -> int:
    """Questions of up to half as many tokens more share a group: 24, 36, 54, 81, ..."""
    limit = 24
    while limit < length:
        limit += limit // 2
    return limit


def _stretches(parts: Sequence[_Part], starts: Sequence[int]) -> Stretches:
    index = torch.nn.utils.rnn.pad_sequence(
        [torch.arange(start, start + len(part)) for part, start in zip(parts, starts, strict=True)], True, -1
    )
    return Stretches(index.clamp_min(0), index >= 0, torch.tensor([part.row for part in parts]))


def batches_of(examples: Sequence[Example], tokens: int) -> list[Batch]:
    """Batches of at most about `tokens` tokens, each of pages with alike many shared tokens."""
    batches: list[list[Example]] = []
    room = 0
    for example in sorted(examples, key=lambda example: int((example.segments == SHARED).sum())):
        if room >= len(example):
            batches[-1].append(example)
        else:
            batches.append([example])
            room = tokens
        room -= len(example)
    return [join(batch) for batch in batches]


class Lessons(Dataset[Any]):
    """Examples by (course, seed); the same pair gives the same example in any process."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def __getitem__(self, lesson: tuple[Course, int]) -> Example:
        course, seed = lesson
        return example_of(draw_page(course, Random(seed)), self.tokenizer, self.config)


class LessonOrder:
    """The lessons of each step from `start` on; what makes a resumed run the run that never stopped."""

    def __init__(self, course: Course, steps: range, pages: int, first_seed: int, rank: int = 0, ranks: int = 1):
        self.course, self.steps, self.pages, self.first_seed = course, steps, pages, first_seed
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[list[tuple[Course, int]]]:
        for step in self.steps:
            first = self.first_seed + step * self.pages
            yield [(self.course, first + index) for index in range(self.rank, self.pages, self.ranks)]

    def __len__(self) -> int:
        return len(self.steps)


def lesson_batches(
    order: LessonOrder, tokenizer: Tokenizer, config: ModelConfig, tokens_per_pass: int, workers: int
) -> Iterable[list[Batch]]:
    """This rank's share of each step's batches, drawn ahead by worker processes."""
    return DataLoader(
        Lessons(tokenizer, config),
        batch_sampler=order,
        collate_fn=partial(batches_of, tokens=tokens_per_pass),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
