"""Which samples make a step, and how they are laid end to end: a function of the seed and the step alone.

Samples of one pass are attended each by itself, and a step's loss is the mean over all its labelled tokens, so
packing changes only the speed.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from tessera.errors import UsageError
from tessera.finetune.samples import Picture, Sample


@dataclass(frozen=True)
class Pack:
    """Samples end to end, computed in one pass; `step_labelled` are the labelled tokens of its whole step.

    A rank of several may have a pass without samples, beside others' passes.
    """

    samples: tuple[Sample, ...]
    step_labelled: int
    passes: int = 1  # of its step, over all ranks
    beside_images: bool = False  # of this rank's pass or of another's at the same time

    @property
    def tokens(self) -> int:
        return sum(map(len, self.samples))

    @property
    def labelled(self) -> int:
        return sum(sample.labelled for sample in self.samples)

    @property
    def lengths(self) -> list[int]:
        return [len(sample) for sample in self.samples]

    @property
    def images(self) -> list[Picture]:
        return [picture for sample in self.samples for picture in sample.images]

    def ids(self, device: torch.device) -> Tensor:
        return torch.tensor([token for sample in self.samples for token in sample.ids], device=device)

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rows whose next token is labelled, and those tokens."""
        labels = torch.frombuffer(bytearray(b"".join(sample.labels for sample in self.samples)), dtype=torch.uint8)
        targets = labels.nonzero()[:, 0].to(device)
        return targets - 1, self.ids(device)[targets]

    def sources(self) -> list[tuple[str, int]]:
        """Return each sample's source and kind, and its labelled tokens, in order."""
        return [
            (f"{sample.source}/{'images' if sample.images else 'text'}", sample.labelled) for sample in self.samples
        ]


@dataclass(frozen=True)
class Order:
    """The order of a run: every epoch passes all samples once, shuffled anew.

    The `replayed` samples after those `count` are mixed in, against forgetting: a `share` of each step, at least one.
    """

    count: int
    per_step: int
    seed: int
    replayed: int = 0
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.replayed and self.per_step < 2:
            raise UsageError("replay shares a step with the samples, so step_samples must be 2 or more.")

    @property
    def replays(self) -> int:
        """The replayed samples in a step."""
        return min(max(1, round(self.share * self.per_step)), self.per_step - 1) if self.replayed else 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.count // (self.per_step - self.replays))

    def step(self, number: int) -> list[int]:
        """Return the samples of a step, by number."""
        epoch, place = divmod(number, self.steps_per_epoch)
        own = self.per_step - self.replays
        chosen = self._shuffled(self.count, f"{epoch}")[place * own : (place + 1) * own]
        for replay in range(number * self.replays, (number + 1) * self.replays):
            turn, place = divmod(replay, self.replayed)
            chosen.append(self.count + self._shuffled(self.replayed, f"replay/{turn}")[place])
        return chosen

    def _shuffled(self, count: int, name: str) -> list[int]:
        numbers = list(range(count))
        Random(f"{self.seed}/{name}").shuffle(numbers)
        return numbers


def packs(samples: Sequence[Sample], tokens_per_pass: int) -> list[Pack]:
    """Lay samples in as few passes of at most `tokens_per_pass` as is easily found; a longer sample has its own."""
    bins: list[list[Sample]] = []
    for sample in sorted(samples, key=len, reverse=True):
        for held in bins:
            if sum(map(len, held)) + len(sample) <= tokens_per_pass:
                held.append(sample)
                break
        else:
            bins.append([sample])
    labelled = sum(sample.labelled for sample in samples)
    return [Pack(tuple(held), labelled, len(bins), any(each.images for each in held)) for held in bins]


def shares(samples: Sequence[Sample], tokens_per_pass: int, ranks: int) -> list[list[Pack]]:
    """Lay samples in equally many passes for each rank, which begin together and are of about equal size.

    The gradients' mean over a rank's passes, and then over the ranks, is that of the step's mean loss.
    """
    whole = packs(samples, tokens_per_pass)
    if ranks == 1:
        return [whole]
    rounds = -(-len(whole) // ranks)
    while True:
        bins = _spread(samples, rounds * ranks)
        if rounds * ranks >= len(samples) or all(_fits(held, tokens_per_pass) for held in bins):
            break
        rounds += 1
    labelled = sum(sample.labelled for sample in samples)
    parts: list[list[Pack]] = [[] for _ in range(ranks)]
    for first in range(0, len(bins), ranks):
        together = bins[first : first + ranks]
        images = any(sample.images for held in together for sample in held)
        for part, held in zip(parts, together, strict=True):
            part.append(Pack(tuple(held), labelled, len(bins), images))
    return parts


def _fits(held: Sequence[Sample], tokens: int) -> bool:
    return len(held) < 2 or sum(map(len, held)) <= tokens


def _spread(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """Lay each sample, the longest first, where the fewest tokens are; return the fullest first."""
    bins: list[list[Sample]] = [[] for _ in range(count)]
    for sample in sorted(samples, key=len, reverse=True):
        min(bins, key=lambda held: sum(map(len, held))).append(sample)
    return sorted(bins, key=lambda held: sum(map(len, held)), reverse=True)


# Two tokens that a rank without samples computes beside the others, times 0.
FILLER = Sample("", "", array("i", [0, 0]), b"\0\1")
