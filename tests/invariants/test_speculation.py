"""A reply is the same with and without drafts, whatever is drafted and whatever else runs.

The drafts here are the plain reply with some tokens made wrong, so that every step accepts some and
refuses others, also of requests whose text repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import pytest
import torch

from tessera.chat import Completion
from tessera.engine.config import DRAFTED_ON_CPU
from tessera.engine.engine import Engine
from tessera.engine.lookup import Lookup
from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.packed_linear import packed_linear
from tessera.model.pixtral import Pixtral
from tessera.quantize.rounding import round_to
from tessera.sampling import Grammar, SamplingParams
from tests.engine.tiny import (
    EOS,
    IMAGE,
    SCALED,
    max_logprob_error,
    prompt,
    random_image,
    run,
    tiny_engine,
    tiny_model,
)

Draft = Callable[[Iterable[Sequence[int]]], None]
BOUND = 2e-5  # as among requests of one step: float32 sums in another order
GIVENS = (
    prompt("What is the total?"),
    prompt("read ", random_image(1, 3, 5), " this"),
    prompt("x" * 60),
    prompt("abc"),
)
WANTED = {
    "greedy": SamplingParams(max_tokens=50, logprobs=3, ignore_eos=True),
    "drawn": SamplingParams(max_tokens=50, logprobs=3, ignore_eos=True, temperature=1.0, top_p=0.9, seed=5),
    "penalised": SamplingParams(
        max_tokens=50, logprobs=3, temperature=0.7, seed=6, frequency_penalty=0.5, repetition_penalty=1.2, min_tokens=20
    ),
    "biased": SamplingParams(max_tokens=50, logprobs=3, temperature=1.0, seed=7, logit_bias={40: 3.0, EOS: 5.0}),
    "grammar": SamplingParams(
        max_tokens=50, logprobs=3, temperature=1.0, seed=8, grammar=Grammar("regex", "(ab|c[0-9]{3}){9,}")
    ),
    "schema": SamplingParams(max_tokens=50, logprobs=3, grammar=Grammar("json_object")),
    "scored": SamplingParams(max_tokens=50, logprobs=3, prompt_logprobs=1, temperature=1.0, seed=9),
    "short": SamplingParams(max_tokens=3, logprobs=3),
}


@pytest.fixture(scope="module")
def model() -> Pixtral:
    return tiny_model()


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Draft:
    """Makes every request of these sequences draft its own future, a fifth of it wrong."""

    def install(sequences: Iterable[Sequence[int]]) -> None:
        random, known = Random(1), [list(sequence) for sequence in sequences]

        def guess(lookup: Lookup, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
            future = next((each[len(ids) :] for each in known if each[: len(ids)] == ids), [])
            wrong = (100, EOS, IMAGE)
            made = [token if random.random() < 0.8 else random.choice(wrong) for token in future[:count]]
            return made, [1.0] * len(made)

        monkeypatch.setattr(Lookup, "guess", guess)

    return install


def check_equal(plain: Sequence[Completion], speculated: Sequence[Completion]) -> None:
    for one, other in zip(plain, speculated, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.finish_reason, one.usage.completion_tokens) == (
            other.text,
            other.finish_reason,
            other.usage.completion_tokens,
        )
        assert max_logprob_error(one, other) < BOUND
        assert len(one.prompt_logprobs) == len(other.prompt_logprobs)


def reply_all(engine: Engine, wanted: Sequence[SamplingParams]) -> list[Completion]:
    return run(engine, *[engine.add(given, params) for given, params in zip(GIVENS, wanted, strict=True)])


@pytest.mark.parametrize("name", WANTED)
def test_a_speculated_reply_equals_the_plain_one(model: Pixtral, name: str, draft: Draft) -> None:
    check_speculation(model, name, draft)


def test_a_speculated_reply_equals_the_plain_one_where_queries_are_scaled(draft: Draft) -> None:
    check_speculation(tiny_model(SCALED), "greedy", draft)


def check_speculation(model: Pixtral, name: str, draft: Draft) -> None:
    wanted = [WANTED[name]] * len(GIVENS)
    plain = reply_all(tiny_engine(model, num_speculative_tokens=0), wanted)
    draft([*given.ids, *reply.token_ids] for given, reply in zip(GIVENS, plain, strict=True))
    engine = tiny_engine(model, num_speculative_tokens=6)
    check_equal(plain, reply_all(engine, wanted))
    counts = engine.stats().drafts
    if name != "short":
        assert counts.accepted > 0
        # What a grammar forbids is not computed at all, and the rest is right here.
        assert (counts.accepted < counts.tokens) is (name != "grammar")


def test_requests_that_draft_and_requests_beside_them_equal_plain_ones(model: Pixtral, draft: Draft) -> None:
    wanted = [WANTED[name] for name in ("drawn", "greedy", "grammar", "penalised")]
    plain = reply_all(tiny_engine(model, num_speculative_tokens=0), wanted)
    draft([*given.ids, *reply.token_ids] for given, reply in list(zip(GIVENS, plain, strict=True))[::2])
    engine = tiny_engine(model, max_num_batched_tokens=40)
    check_equal(plain, reply_all(engine, wanted))
    assert engine.stats().drafts.accepted > 0


@pytest.mark.parametrize("caching", [True, False])
def test_drafts_under_preemption_leave_tokens_and_blocks_as_they_should_be(
    model: Pixtral, caching: bool, draft: Draft
) -> None:
    wanted = [WANTED["drawn"]] * len(GIVENS)
    plain = reply_all(tiny_engine(model, num_speculative_tokens=0), wanted)
    draft([*given.ids, *reply.token_ids] for given, reply in zip(GIVENS, plain, strict=True))
    engine = tiny_engine(model, num_blocks=14, max_model_len=130, enable_prefix_caching=caching)
    check_equal(plain, reply_all(engine, wanted))
    assert engine.stats().preemptions > 0
    assert engine.pool.counts().used == 0


def test_only_blocks_of_chosen_tokens_are_shared(model: Pixtral, draft: Draft) -> None:
    """What a later request finds in the cache is what it would have computed."""
    params = WANTED["greedy"]
    plain = reply_all(tiny_engine(model, num_speculative_tokens=0), [params] * len(GIVENS))
    draft([*given.ids, *reply.token_ids] for given, reply in zip(GIVENS, plain, strict=True))
    engine = tiny_engine(model)
    reply_all(engine, [params] * len(GIVENS))
    for given, reply in zip(GIVENS, plain, strict=True):
        longer = type(given)(ids=(*given.ids, *reply.token_ids), images=given.images)
        warm = run(engine, engine.add(longer, params))[0]
        assert warm.usage.cached_tokens >= (len(longer.ids) - 1) // 16 * 16 - 16
        cold = tiny_engine(model, num_speculative_tokens=0)
        assert max_logprob_error(warm, run(cold, cold.add(longer, params))[0]) < BOUND


@pytest.mark.parametrize("scheme", ["int3", "int4", "int8"])
def test_a_row_of_a_packed_linear_is_the_same_whatever_is_computed_beside_it(scheme: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = round_to(scheme, torch.randn(96, 256, generator=generator))
    most = 1 + DRAFTED_ON_CPU
    inputs_TK = torch.randn(most, 256, generator=generator)
    with torch.inference_mode():
        alone = torch.cat([packed_linear(inputs_TK[row : row + 1], weight) for row in range(most)])
        for rows in (2, 5, 8, most):
            # The kernel gives the very bits; the twin's product of another height may sum in another order.
            bound = 0.0 if kernel("packed_linear", ADDRESS, WHOLE) else 1e-4
            torch.testing.assert_close(packed_linear(inputs_TK[:rows], weight), alone[:rows], atol=bound, rtol=0)


def test_an_abort_between_steps_frees_what_drafts_held(model: Pixtral, draft: Draft) -> None:
    given, params = GIVENS[0], WANTED["greedy"]
    plain = tiny_engine(model, num_speculative_tokens=0)
    expected = run(plain, plain.add(given, params))[0]
    draft([[*given.ids, *expected.token_ids]])
    engine = tiny_engine(model)
    request = engine.add(given, params)
    for _ in range(5):
        engine.step()
    assert engine.abort(request.id)
    (delta,) = [delta for _, delta in engine.step()]
    assert delta.finish_reason == "abort"
    assert tuple(request.output_ids) == expected.token_ids[: request.num_output]
    assert engine.pool.counts().used == 0


def test_a_failing_step_with_drafts_is_computed_again_for_each_alone(
    model: Pixtral, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [WANTED["drawn"]] * len(GIVENS)
    plain = reply_all(tiny_engine(model, num_speculative_tokens=0), wanted)
    draft([*given.ids, *reply.token_ids] for given, reply in zip(GIVENS, plain, strict=True))
    engine = tiny_engine(model)
    compute, calls = engine.runner.run, iter(range(10**6))

    def fail_sometimes(batch: object, *rest: Any) -> object:
        if next(calls) % 6 == 0 and len(batch.sampled) > 1:  # type: ignore[attr-defined]
            raise RuntimeError("no")
        return compute(batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.runner, "run", fail_sometimes)
    check_equal(plain, reply_all(engine, wanted))
