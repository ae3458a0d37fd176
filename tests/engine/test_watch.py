"""Glances against a plain recomputation of the whole sequence with all its attention weights."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from tessera.chat import Glance, Head
from tessera.engine.engine import Engine
from tessera.engine.watch import WatchedPrompt
from tessera.images import PreparedImage
from tessera.model.attention import AttentionPlan
from tests.engine.tiny import CONFIG, prompt, random_image, text_ids, tiny_engine, tiny_model
from tests.engine.tiny import SamplingParams as Params

MODEL = tiny_model()
HEADS = tuple(Head(layer, head) for layer, head in product(range(CONFIG.n_layers), range(CONFIG.n_heads)))
PICTURES = (random_image(1, 3, 5), random_image(2, 4, 2))
QUESTION = prompt("look ", PICTURES[0], " and ", PICTURES[1], " what is there")


class Written(AttentionPlan):
    """Attention by the definition, one head and one token at a time, with all weights kept."""

    def __init__(self, length: int) -> None:
        self.positions_T = torch.arange(length)
        self.weights: dict[tuple[int, int, int], Tensor] = {}

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        out = torch.zeros_like(queries_TNK)
        length, heads, width = queries_TNK.shape
        for token, head in product(range(length), range(heads)):
            shared = head // (heads // keys_TMK.shape[1])
            scores = [float(queries_TNK[token, head] @ keys_TMK[past, shared]) / math.sqrt(width) for past in range(token + 1)]  # fmt: skip # noqa: E501
            weights = torch.tensor(scores).softmax(0)
            self.weights[layer, head, token] = weights
            out[token, head] = sum(weight * values_TMK[past, shared] for past, weight in enumerate(weights))
        return out


@torch.inference_mode()
def written_weights(ids: list[int], images: list[PreparedImage]) -> dict[tuple[int, int, int], Tensor]:
    plan = Written(len(ids))
    MODEL(MODEL.embed(torch.tensor(ids), MODEL.encode_images([each.pixels_CHW for each in images])), plan)
    return plan.weights


def watch(engine: Engine, reply: list[int], positions: range) -> WatchedPrompt:
    watched = WatchedPrompt((*QUESTION.ids, *reply), QUESTION.images, tuple(positions), HEADS)
    request = engine.add(watched, Params(max_tokens=1))
    while request.finish_reason is None:
        engine.step()
    return watched


REPLY = text_ids('{"a": "seven", "b": 12}')
SPAN = range(len(QUESTION.ids) + 3, len(QUESTION.ids) + 20)


def check(watched: WatchedPrompt) -> None:
    weights = written_weights(list(watched.ids), list(PICTURES))
    assert set(watched.glances) == set(SPAN)
    for position, head in product(SPAN, HEADS):
        seen = weights[head.layer, head.head, position]
        places = {}  # image, row, column -> weight
        for number, span in enumerate(QUESTION.images):
            rows, columns = span.image.grid
            for row, column in product(range(rows), range(columns)):
                places[number, row, column] = float(seen[span.start + row * (columns + 1) + column])
        glance = watched.glances[position][head]
        assert glance.weight == pytest.approx(max(places.values()), rel=1e-4)
        assert places[glance.image, glance.row, glance.column] == pytest.approx(max(places.values()), rel=1e-4)
        assert glance.grid == PICTURES[glance.image].grid
        assert glance.reach == reach(places, glance)


def reach(places: dict[tuple[int, int, int], float], glance: Glance) -> tuple[int, int]:
    def is_near(column: int) -> bool:
        return places.get((glance.image, glance.row, column), 0.0) >= glance.weight / 2

    first = last = glance.column
    while is_near(first - 1):
        first -= 1
    while is_near(last + 1):
        last += 1
    return first, last


def test_glances_are_the_largest_weights_of_a_plain_recomputation() -> None:
    check(watch(tiny_engine(MODEL), REPLY, SPAN))


def test_a_prompt_computed_in_pieces_gives_the_same() -> None:
    check(watch(tiny_engine(MODEL, max_num_batched_tokens=16), REPLY, SPAN))


def test_pages_come_from_the_cache_and_watched_tokens_are_computed_again() -> None:
    engine = tiny_engine(MODEL)
    first = watch(engine, REPLY, SPAN)
    queries, hits = engine.images.queries, engine.images.hits
    watched = WatchedPrompt(first.ids, first.images, tuple(SPAN), HEADS)
    request = engine.add(watched, Params(max_tokens=1))
    while request.finish_reason is None:
        engine.step()
    assert request.num_cached == SPAN.start // 16 * 16 > 0
    assert engine.images.hits - hits == engine.images.queries - queries
    check(watched)


def test_other_requests_of_the_same_step_are_not_changed() -> None:
    alone = tiny_engine(MODEL)
    request = alone.add(prompt("hello ", PICTURES[0]), Params(max_tokens=6, ignore_eos=True))
    while request.finish_reason is None:
        alone.step()
    engine = tiny_engine(MODEL)
    together = engine.add(prompt("hello ", PICTURES[0]), Params(max_tokens=6, ignore_eos=True))
    watched = WatchedPrompt((*QUESTION.ids, *REPLY), QUESTION.images, tuple(SPAN), HEADS)
    engine.add(watched, Params(max_tokens=1))
    while engine.has_work:
        engine.step()
    assert together.output_ids == request.output_ids
    check(watched)
