"""Labelled pictures to training batches: token ids, patches, and the two dense targets.

The generator knows for free where each character lies, which gives two targets that make learning
to read an order of magnitude quicker than the next-token loss alone: the characters in each patch
(for the vision side), and, for each character of the answer, the patch it is read from (for two
attention heads of the decoder). Both serve in training only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessera.chat import Image, Message
from tessera.images import prepare
from tessera.model.config import ModelConfig
from tessera.model.vision import pixels_to_patches
from tessera.nano.recipe import Recipe
from tessera.nano.synthesize import Sample, draw
from tessera.prompt import Tokenizer

CHARACTERS_PER_PATCH = 6  # at 11 px type the narrowest letters stand five to a patch
PRINTABLE = "".join(chr(code) for code in range(33, 127)) + "£€"
NOTHING = len(PRINTABLE)  # the class that ends the list of a patch's characters
CHARACTER_CLASSES = NOTHING + 1
IGNORED = -100
DIFFICULTY_LEVELS = (0.4, 0.8, 1.0, 1.0)  # of the step's difficulty: the easy stays in the mix


@dataclass(frozen=True)
class Example:
    """One sample as tensors; token t of `ids` is to be predicted from token t - 1."""

    patches_PX: Tensor  # bfloat16
    grid: tuple[int, int]
    ids: Tensor  # (T,) int64, prompt, answer and end token
    answer_start: int
    characters: Tensor  # (P, CHARACTERS_PER_PATCH) int64 classes, IGNORED after the first NOTHING
    # (T,) int64: position of the image token whose patch shows token t, at the prompt's end the clue; -1 for none.
    sources: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def example_of(sample: Sample, tokenizer: Tokenizer, config: ModelConfig) -> Example:
    """Tokenize a sample exactly as the engine would and attach its dense targets."""
    picture = prepare(sample.image, config.vision_encoder)
    message = Message("user", (Image(sample.image), sample.question))
    prompt = tokenizer.encode_chat([message], [picture])
    answer_ids = tokenizer.encode_text(sample.answer, bos=False)
    rows, columns = picture.grid
    patch_of_glyph = _patches_of_glyphs(sample, rows, columns)
    span = prompt.images[0]
    sources = torch.full((len(prompt.ids) + len(answer_ids) + 1,), -1)

    def place_of(glyph: int) -> int:
        row, column = divmod(patch_of_glyph[glyph], columns)
        return span.start + row * (columns + 1) + column

    # The question follows its picture, and an end-of-instruction token stands before the answer.
    for position, text, glyphs in (
        (span.start + span.length, sample.question, sample.question_glyphs),
        (len(prompt.ids), sample.answer, sample.answer_glyphs),
    ):
        for character, glyph in zip(text, glyphs, strict=True):
            if glyph is not None:
                sources[position] = place_of(glyph)
            position += len(character.encode())
    if sample.clue_glyph is not None:
        sources[len(prompt.ids) - 1] = place_of(sample.clue_glyph)
    size = config.vision_encoder.patch_size
    return Example(
        patches_PX=pixels_to_patches(picture.pixels_CHW, size).to(torch.bfloat16),
        grid=picture.grid,
        ids=torch.tensor([*prompt.ids, *answer_ids, tokenizer.eos_id]),
        answer_start=len(prompt.ids),
        characters=_characters_of_patches(sample, patch_of_glyph, rows * columns),
        sources=sources,
    )


def _patches_of_glyphs(sample: Sample, rows: int, columns: int) -> list[int]:
    width, height = sample.image.size
    return [
        min(int(glyph.y / height * rows), rows - 1) * columns + min(int(glyph.x / width * columns), columns - 1)
        for glyph in sample.glyphs
    ]


def _characters_of_patches(sample: Sample, patch_of_glyph: Sequence[int], patches: int) -> Tensor:
    lists: list[list[int]] = [[] for _ in range(patches)]
    in_reading_order = sorted(range(len(sample.glyphs)), key=lambda i: (sample.glyphs[i].y // 6, sample.glyphs[i].x))
    for index in in_reading_order:
        lists[patch_of_glyph[index]].append(PRINTABLE.index(sample.glyphs[index].char))
    targets = torch.full((patches, CHARACTERS_PER_PATCH), IGNORED)
    for patch, classes in enumerate(lists):
        ended = [*classes, NOTHING][:CHARACTERS_PER_PATCH]
        targets[patch, : len(ended)] = torch.tensor(ended)
    return targets


@dataclass(frozen=True)
class Batch:
    """R examples padded to one length L (tokens) and one patch count Q; all flat, row after row."""

    grids: list[tuple[int, int]]
    patches: Tensor  # (R * Q, X)
    real_patches: Tensor  # (R, Q) bool
    ids: Tensor  # (R, L)
    predicts: Tensor  # (R, L) bool: this token's successor belongs to the answer
    characters: Tensor  # (R, Q, CHARACTERS_PER_PATCH)
    sources: Tensor  # (R, L): image token position of each token's printed original, or -1

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.grids,
            *(
                tensor.to(device, non_blocking=True)
                for tensor in (
                    self.patches, self.real_patches, self.ids, self.predicts, self.characters, self.sources
                )
            ),
        )  # fmt: skip


def pad(examples: Sequence[Example], pad_id: int) -> Batch:
    """Stack examples of different sizes; padding is never seen by what is real."""
    stack = torch.nn.utils.rnn.pad_sequence
    positions = [torch.arange(len(example)) for example in examples]
    return Batch(
        grids=[example.grid for example in examples],
        patches=stack([e.patches_PX for e in examples], batch_first=True).flatten(0, 1),
        real_patches=stack([torch.ones(len(e.patches_PX), dtype=torch.bool) for e in examples], batch_first=True),
        ids=stack([e.ids for e in examples], batch_first=True, padding_value=pad_id),
        predicts=stack(
            [(p >= e.answer_start - 1) & (p < len(e) - 1) for p, e in zip(positions, examples, strict=True)],
            batch_first=True,
        ),
        characters=stack([e.characters for e in examples], batch_first=True, padding_value=IGNORED),
        sources=stack([e.sources for e in examples], batch_first=True, padding_value=-1),
    )


def batches_of(examples: Sequence[Example], size: int, pad_id: int) -> list[Batch]:
    """Batches of `size`, each of examples that are alike in length, so that little is padding."""
    examples = sorted(examples, key=len)
    return [pad(examples[i : i + size], pad_id) for i in range(0, len(examples), size)]


class Lessons(Dataset[Any]):
    """Examples by (seed, difficulty); the same pair gives the same example in any process."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def __getitem__(self, lesson: tuple[int, float]) -> Example:
        seed, difficulty = lesson
        return example_of(draw(seed, difficulty), self.tokenizer, self.config)


class LessonOrder:
    """The (seed, difficulty) pairs of each step from `start` on; what makes a resumed run identical."""

    def __init__(self, recipe: Recipe, start: int, rank: int = 0, ranks: int = 1) -> None:
        self.recipe = recipe
        self.start = start
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        count = self.recipe.samples_per_step
        for step in range(self.start, self.recipe.steps):
            difficulty = self.recipe.difficulty(step)
            first = self.recipe.first_seed + step * count
            yield [
                (first + index, difficulty * DIFFICULTY_LEVELS[index % 4])
                for index in range(self.rank, count, self.ranks)
            ]

    def __len__(self) -> int:
        return self.recipe.steps - self.start


def lesson_batches(
    recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, start: int, workers: int, rank: int = 0, ranks: int = 1
) -> Iterable[list[Batch]]:
    """This rank's share of each step's batches, drawn ahead by worker processes."""

    return DataLoader(
        Lessons(tokenizer, config),
        batch_sampler=LessonOrder(recipe, start, rank, ranks),
        collate_fn=partial(batches_of, size=recipe.samples_per_pass, pad_id=tokenizer.eos_id),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
