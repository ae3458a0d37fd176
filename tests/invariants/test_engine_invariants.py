"""What must hold whatever the engine does to be fast; each test is one sentence."""

from __future__ import annotations

import functools

import pytest
import torch

from tessera.chat import Completion
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral
from tessera.sampling import SamplingParams
from tests.engine.tiny import (
    CONFIGS,
    RoundedDensePlan,
    dense_greedy,
    dense_logits,
    max_logprob_error,
    prompt,
    random_image,
    reply,
    run,
    tiny_engine,
    tiny_model,
)

# Float32 sums of the same numbers in another order (another batch size, another split of a softmax)
# differ by some 1e-6 in logits of order 10, and at worst by 2e-5; log-probabilities inherit that.
BOUND = 4e-5
# With keys and values in int8 such a difference can, rarely, carry a value over the edge between two codes, which moves
# it by a 127th of its head's largest. Rounding all values of all tokens moves these log-probabilities by 0.1 to 0.3;
# one value among thousands must stay far below that.
INT8_BOUND = 0.02
CACHES = pytest.mark.parametrize(("cache", "bound"), [("auto", BOUND), ("int8", INT8_BOUND)])
WANTED = {"max_tokens": 24, "logprobs": 5}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Pixtral:
    return tiny_model(CONFIGS[request.param])


MIXED = (
    prompt("What is the total?"),
    prompt(random_image(1, 3, 5), "read this"),
    prompt("compare ", random_image(2, 2, 7), " and ", random_image(3, 8, 8), " now"),
    prompt("x"),
    prompt("a longer text that fills several blocks of the cache " * 3, random_image(4, 1, 1), "?"),
)


@functools.cache
def undisturbed(model: Pixtral, cache: str) -> list[Completion]:
    """What the mixed prompts are answered one by one, each by an engine of its own."""
    return [reply(tiny_engine(model, kv_cache_dtype=cache), given, **WANTED) for given in MIXED]


def test_two_images_encoded_together_equal_each_alone(model: Pixtral) -> None:
    images = [random_image(1, 3, 5).pixels_CHW, random_image(2, 8, 8).pixels_CHW, random_image(3, 1, 1).pixels_CHW]
    with torch.no_grad():
        together = model.encode_images(images)
        for image, embeddings in zip(images, together, strict=True):
            torch.testing.assert_close(embeddings, model.encode_images([image])[0], atol=BOUND, rtol=0)


@pytest.mark.parametrize(
    ("cache", "plan", "bound"), [("auto", DensePlan, BOUND), ("int8", RoundedDensePlan, INT8_BOUND)]
)
@pytest.mark.parametrize("number", range(len(MIXED)))
def test_paged_equals_dense(model: Pixtral, number: int, cache: str, plan: type[DensePlan], bound: float) -> None:
    given, got = MIXED[number], undisturbed(model, cache)[number]
    assert list(got.token_ids) == dense_greedy(model, given, 24, plan)
    expected_TV = dense_logits(model, given, got.token_ids, plan).log_softmax(-1)[len(given.ids) - 1 :]
    for row, entry in enumerate(got.logprobs):
        assert abs(entry.logprob - float(expected_TV[row, entry.token_id])) < bound


@CACHES
def test_a_batch_equals_its_members(model: Pixtral, cache: str, bound: float) -> None:
    engine = tiny_engine(model, enable_prefix_caching=False, kv_cache_dtype=cache)
    together = run(engine, *[engine.add(given, SamplingParams(**WANTED)) for given in MIXED])
    for given, got in zip(MIXED, together, strict=True):
        alone = reply(tiny_engine(model, enable_prefix_caching=False, kv_cache_dtype=cache), given, **WANTED)
        assert max_logprob_error(got, alone) < bound


@CACHES
@pytest.mark.parametrize("budget", [8, 9, 17, 50])
def test_chunked_prefill_equals_whole(model: Pixtral, budget: int, cache: str, bound: float) -> None:
    for given, whole in zip(MIXED, undisturbed(model, cache), strict=True):
        chunked = reply(tiny_engine(model, max_num_batched_tokens=budget, kv_cache_dtype=cache), given, **WANTED)
        assert max_logprob_error(chunked, whole) < bound


@CACHES
def test_a_prefix_hit_equals_a_cold_run(model: Pixtral, cache: str, bound: float) -> None:
    engine = tiny_engine(model, kv_cache_dtype=cache)
    shared = ("some words, then an image: ", random_image(5, 6, 6), " and then ")
    reply(engine, prompt(*shared, "a question"), **WANTED)
    for given in (prompt(*shared, "another question"), prompt(*shared, "a question")):
        warm = reply(engine, given, **WANTED)
        cold = reply(tiny_engine(model, kv_cache_dtype=cache), given, **WANTED)
        assert warm.usage.cached_tokens >= 48
        assert cold.usage.cached_tokens == 0
        assert max_logprob_error(warm, cold) < bound


def test_two_different_images_with_identical_token_ids_do_not_share_a_prefix(model: Pixtral) -> None:
    engine = tiny_engine(model)
    one, other = prompt(random_image(6, 8, 8), "same?"), prompt(random_image(7, 8, 8), "same?")
    assert one.ids == other.ids
    first, second = (reply(engine, given, **WANTED) for given in (one, other))
    assert second.usage.cached_tokens == 0
    assert max_logprob_error(second, reply(tiny_engine(model), other, **WANTED)) < BOUND
    assert first.logprobs[0].top != second.logprobs[0].top
    assert reply(engine, one, **WANTED).usage.cached_tokens == 64


@CACHES
def test_a_preempted_request_equals_an_undisturbed_one(model: Pixtral, cache: str, bound: float) -> None:
    givens = [prompt(random_image(seed, 3, 4), "tell me a story") for seed in range(5)]
    # Not seed 2: its 47th draw lies within 2e-6 of the border between two tokens, and falls to either side.
    params = [SamplingParams(max_tokens=60, logprobs=5, ignore_eos=True, temperature=0.7, seed=n) for n in range(5, 10)]
    expected = []
    for given, wanted in zip(givens, params, strict=True):
        roomy = tiny_engine(model, kv_cache_dtype=cache)
        expected += run(roomy, roomy.add(given, wanted))
    for caching in (True, False):
        options = {"enable_prefix_caching": caching, "kv_cache_dtype": cache}
        crowded = tiny_engine(model, num_blocks=14, max_model_len=100, **options)
        replies = run(crowded, *[crowded.add(given, wanted) for given, wanted in zip(givens, params, strict=True)])
        assert crowded.stats().preemptions > 0
        for whole, got in zip(expected, replies, strict=True):
            assert max_logprob_error(got, whole) < bound


def test_streamed_pieces_joined_equal_the_plain_reply(model: Pixtral) -> None:
    for seed in range(8):
        params = {"max_tokens": 40, "temperature": 1.5, "seed": seed, "ignore_eos": True}
        plain = reply(tiny_engine(model), MIXED[0], **params).text
        stop = (plain[9:12], plain[20:23])
        engine = tiny_engine(model)
        engine.add(MIXED[0], SamplingParams(stop=stop, **params))
        pieces = [delta.text for _ in range(60) for _, delta in (engine.step() if engine.has_work else [])]
        end = min(plain.find(each) + len(each) for each in stop)
        begin = min(plain.find(each) for each in stop if plain.find(each) + len(each) == end)
        assert "".join(pieces) == plain[:begin]


def test_the_same_seed_draws_the_same_whatever_else_runs(model: Pixtral) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, top_p=0.9, seed=7, ignore_eos=True)
    alone = tiny_engine(model)
    expected = run(alone, alone.add(MIXED[2], params))[0].token_ids
    crowded = tiny_engine(model, max_num_batched_tokens=40)
    others = [
        SamplingParams(max_tokens=25, temperature=2.0, seed=7),
        SamplingParams(max_tokens=9, temperature=0.5, top_k=3),
        SamplingParams(max_tokens=40),
    ]
    requests = [crowded.add(given, wanted) for given, wanted in zip(MIXED, others, strict=False)]
    requests.insert(1, crowded.add(MIXED[2], params))
    assert run(crowded, *requests)[1].token_ids == expected
