"""Answers of a model in training to held-out samples: greedy, with keys and values kept, on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.finetune.samples import Sample
from tessera.finetune.tower import Tower
from tessera.model.attention import AttentionPlan, attend
from tessera.model.pixtral import Pixtral
from tessera.prompt import Tokenizer
from tessera.training.ranks import Ranks

MAX_TOKENS = 128  # of an answer


@dataclass(frozen=True)
class Answer:
    """What a model writes for a sample's last trained turn, beside what the sample says."""

    place: str
    expected: str
    answer: str


class GrowingPlan(AttentionPlan):
    """One sequence that grows: each step's keys and values are kept for the steps after it."""

    def __init__(self, layers: int) -> None:
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        keys, values = self._keys[layer], self._values[layer]
        keys = keys_TMK if keys is None else torch.cat([keys, keys_TMK])
        values = values_TMK if values is None else torch.cat([values, values_TMK])
        self._keys[layer], self._values[layer] = keys, values
        return attend(queries_TNK, keys, values, causal=True)


def chosen(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return `count` samples spread over all, the same in every evaluation."""
    count = min(count, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def last_turn(sample: Sample) -> tuple[int, int]:
    """Return where a sample's last trained turn begins and ends."""
    end = sample.labels.rindex(1) + 1
    return sample.labels.rfind(0, 0, end) + 1, end


@torch.no_grad()
def answer(model: Pixtral, tower: Tower, tokenizer: Tokenizer, sample: Sample, ranks: Ranks) -> Answer:
    """Write the sample's last turn anew, at most MAX_TOKENS. All of `ranks` compute; rank 0 decides each token."""
    begin, end = last_turn(sample)
    plan, written = GrowingPlan(len(model.layers)), list[int]()
    hidden_TD = model.embed(torch.tensor(sample.ids[:begin], device=model.device), tower.embed(sample.images))
    plan.positions_T = torch.arange(begin, device=model.device)
    while len(written) < MAX_TOKENS:
        likeliest = model.logits(model(hidden_TD, plan)[-1:]).argmax(-1)
        token = ranks.from_first(lambda found=likeliest: int(found))  # type: ignore[misc]
        if token == tokenizer.eos_id or token in tokenizer.prompt_only_ids:
            break
        written.append(token)
        hidden_TD = model.embed(torch.tensor([token], device=model.device), ())
        plan.positions_T = torch.tensor([begin + len(written) - 1], device=model.device)
    said = [token for token in sample.ids[begin:end] if token != tokenizer.eos_id]
    return Answer(sample.place, tokenizer.decode(said), tokenizer.decode(written))
