"""The engine by hand, step by step: who runs, who is refused, how each request ends."""

from __future__ import annotations

import pytest
import torch

from tessera.chat import Completion
from tessera.engine.batch import embeddings_before, image_rows
from tessera.engine.grammar import Matcher
from tessera.engine.request import Chunk, State
from tessera.engine.runner import Runner
from tessera.engine.sampler import Sampler
from tessera.engine.text import TextStream
from tessera.errors import EngineBusyError, PromptTooLongError, UsageError
from tessera.images import PreparedImage
from tessera.model.pixtral import Pixtral
from tessera.prompt import ImageSpan, Prompt
from tessera.sampling import Grammar, SamplingParams
from tests.engine.tiny import (
    EOS,
    ByteTokenizer,
    dense_logits,
    max_logprob_error,
    prompt,
    random_image,
    reply,
    run,
    tiny_engine,
    tiny_model,
)


@pytest.fixture(scope="module")
def model() -> Pixtral:
    return tiny_model()


@pytest.fixture
def encoded(model: Pixtral, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the vision encoder got."""
    calls: list[int] = []
    original = model.encode_images

    def count(images: list[torch.Tensor]) -> list[torch.Tensor]:
        calls.append(len(images))
        return original(images)

    monkeypatch.setattr(model, "encode_images", count)
    return calls


def params(**changes: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, "ignore_eos": True} | changes)  # type: ignore[arg-type]


def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers(model: Pixtral) -> None:
    engine = tiny_engine(model, num_blocks=2)
    with pytest.raises(PromptTooLongError, match=r"41 tokens .* limit of 32"):
        engine.add(prompt("x" * 40), params())
    with pytest.raises(PromptTooLongError, match=r"the reply at least 30"):
        engine.add(prompt("x" * 9), params(min_tokens=30, max_tokens=None))
    with pytest.raises(PromptTooLongError, match="73 tokens"):  # break and end tokens count as well
        engine.add(prompt(random_image(1, 8, 8)), params())
    assert not engine.has_work
    engine.add(prompt("x" * 30), params(max_tokens=None))
    (request, delta), *_ = engine.step()
    assert (delta.finish_reason, request.num_output) == ("length", 1)


def test_a_full_queue_is_refused_and_frees_itself(model: Pixtral) -> None:
    engine = tiny_engine(model, max_queued_requests=2)
    requests = [engine.add(prompt(text), params()) for text in "ab"]
    with pytest.raises(EngineBusyError, match=r"2 requests are waiting .* max_queued_requests=2"):
        engine.add(prompt("c"), params())
    engine.step()
    requests.append(engine.add(prompt("c"), params()))
    assert len(run(engine, *requests)) == 3


def test_images_in_memory_are_bounded_but_a_large_request_alone_is_taken(model: Pixtral) -> None:
    engine = tiny_engine(model, max_pixel_bytes=20_000)  # of 8 x 8 tokens: 3 * 32 * 32 * 4 = 12,288
    first = engine.add(prompt(random_image(1, 8, 8), random_image(2, 8, 8)), params())
    with pytest.raises(EngineBusyError, match="max_pixel_bytes=20000"):
        engine.add(prompt(random_image(3, 1, 1)), params())
    run(engine, first)
    engine.add(prompt(random_image(3, 1, 1)), params())


def test_wrong_requests_are_refused(model: Pixtral) -> None:
    engine = tiny_engine(model, max_images_per_prompt=1)
    engine.add(prompt("a"), params(), request_id="mine")
    with pytest.raises(UsageError, match="'mine' is already in use"):
        engine.add(prompt("a"), params(), request_id="mine")
    with pytest.raises(UsageError, match=r"2 images .* max_images_per_prompt=1"):
        engine.add(prompt(random_image(1, 1, 1), random_image(2, 1, 1)), params())
    with pytest.raises(UsageError, match="token id 290 is not in"):
        engine.add(prompt("a"), params(stop_token_ids=(290,)))
    with pytest.raises(UsageError, match="min_tokens=9 exceeds max_tokens=8"):
        engine.add(prompt("a"), params(min_tokens=9))
    with pytest.raises(UsageError, match="empty"):
        engine.add(Prompt(ids=(), images=()), params())


def test_images_and_their_tokens_must_agree(model: Pixtral) -> None:
    engine, image = tiny_engine(model), random_image(1, 2, 3)
    good = prompt("a", image)
    without_break = Prompt(ids=good.ids[:-1], images=(ImageSpan(start=2, length=7, image=image),))
    missing = Prompt(ids=(*good.ids[:3], 50, *good.ids[4:]), images=good.images)
    larger = PreparedImage(pixels_CHW=torch.zeros(3, 12, 12), grid=(2, 3), digest=b"x" * 32, width=12, height=12)
    bad_pixels = Prompt(ids=good.ids, images=(ImageSpan(start=2, length=8, image=larger),))
    for wrong in (without_break, missing, bad_pixels, Prompt(ids=good.ids, images=())):
        with pytest.raises(ValueError, match="token"):
            engine.add(wrong, params())


def test_usage_counts_images_and_cached_tokens_and_a_whole_hit_still_computes_its_last_token(
    model: Pixtral, encoded: list[int]
) -> None:
    engine, given = tiny_engine(model), prompt(random_image(1, 8, 8), "1234567")
    assert len(given.ids) == 80
    cold = reply(engine, given, max_tokens=3, ignore_eos=True)
    warm = reply(engine, given, max_tokens=3, ignore_eos=True)
    assert (cold.usage.cached_tokens, warm.usage.cached_tokens) == (0, 64)  # 80 is five whole blocks
    assert (warm.usage.prompt_tokens, warm.usage.image_tokens, warm.usage.completion_tokens) == (80, 72, 3)
    assert encoded == [1]  # the second came from the image cache
    salted = engine.add(given, params(), cache_salt="another tenant")
    assert run(engine, salted)[0].usage.cached_tokens == 0
    assert (engine.images.queries, engine.images.hits) == (3, 1)  # tenants learn nothing of each other's images
    assert encoded == [1, 1]


def test_a_image_covered_by_a_prefix_hit_is_not_encoded(model: Pixtral, encoded: list[int]) -> None:
    engine = tiny_engine(model, image_cache_bytes=0)
    reply(engine, prompt(random_image(1, 3, 3), "a question that is long enough"), max_tokens=2)
    again = reply(engine, prompt(random_image(1, 3, 3), "a question that is another"), max_tokens=2)
    assert again.usage.cached_tokens == 32
    assert engine.images.bytes_used <= 9 * 32 * 4
    assert encoded == [1]


def test_several_images_of_a_step_are_encoded_in_one_call_within_the_budget(
    model: Pixtral, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [prompt(random_image(seed, 2, 2), "x", random_image(seed + 10, 2, 3)) for seed in range(2)]
    twice = prompt(random_image(0, 2, 2), random_image(0, 2, 2))
    engine = tiny_engine(model)
    run(engine, *[engine.add(each, params()) for each in (*given, twice)])
    assert encoded == [4]
    assert (engine.images.queries, engine.images.hits) == (6, 2)
    monkeypatch.setattr("tessera.engine.runner.MAX_PATCHES_PER_CALL", 10)
    engine = tiny_engine(model)
    run(engine, *[engine.add(each, params()) for each in given])
    assert encoded == [4, 2, 2]


def test_the_image_cache_keeps_its_budget_and_a_image_in_mid_prefill_is_encoded_once(
    model: Pixtral, encoded: list[int]
) -> None:
    one = 64 * 32 * 4  # bytes of 64 embeddings of width 32
    engine = tiny_engine(model, image_cache_bytes=2 * one, max_num_batched_tokens=8, enable_prefix_caching=False)
    for seed in (1, 2, 3):
        reply(engine, prompt(random_image(seed, 8, 8), "x"), max_tokens=1)
        assert engine.images.bytes_used <= 2 * one
    assert encoded == [1, 1, 1]  # nine chunks each
    reply(engine, prompt(random_image(2, 8, 8), "x"), max_tokens=1)
    assert len(encoded) == 3
    reply(engine, prompt(random_image(1, 8, 8), "x"), max_tokens=1)  # the oldest was dropped
    assert len(encoded) == 4
    reply(engine, prompt(random_image(2, 8, 8), "x"), max_tokens=1)  # used after 3, so 3 went before it
    assert len(encoded) == 4
    assert (engine.images.queries, engine.images.hits) == (6, 2)  # once a request, however many chunks it takes
    small = tiny_engine(model, image_cache_bytes=0, max_num_batched_tokens=8)
    reply(small, prompt(random_image(4, 8, 8), "x"), max_tokens=1)
    assert len(encoded) == 5


def test_the_embeddings_of_a_chunk_skip_breaks_and_the_end() -> None:
    # An image of 2 rows, 3 columns at position 10: tokens 10-12, break 13, 14-16, end 17.
    assert [embeddings_before(offset, 3) for offset in range(9)] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    model = tiny_model()
    request = tiny_engine(model).add(prompt("123456789", random_image(1, 2, 3), "more"), params())
    (rows,) = image_rows(Chunk(request, 12, 4))
    assert (rows.start, rows.end) == (2, 5)
    assert image_rows(Chunk(request, 18, 2)) == []


def test_decoding_goes_first_and_prompts_share_what_is_left(model: Pixtral) -> None:
    engine = tiny_engine(model, max_num_batched_tokens=20)
    first = engine.add(prompt("x" * 29), params())
    engine.add(prompt("y" * 29), params())
    shape = lambda chunks: [(chunk.request is first, chunk.start, chunk.length) for chunk in chunks]  # noqa: E731
    scheduler = engine.scheduler
    for expected in (
        [(True, 0, 20)],
        [(True, 20, 10), (False, 0, 10)],
        [(True, 30, 1), (False, 10, 19)],
        [(False, 29, 1), (True, 31, 1)],
    ):
        chunks = scheduler.schedule()
        assert sorted(shape(chunks)) == sorted(expected)
        for chunk in chunks:
            scheduler.advance(chunk.request, chunk.end)
            if chunk.samples:
                chunk.request.append(50)


def test_the_youngest_is_sent_back_with_its_tokens_kept(model: Pixtral) -> None:
    engine = tiny_engine(model, num_blocks=5, max_model_len=80, enable_prefix_caching=False)
    old, young = (engine.add(prompt(text * 30), params(max_tokens=30)) for text in "ab")
    while engine.stats().preemptions == 0:
        engine.step()
    assert (old.state, young.state) == (State.RUNNING, State.WAITING)
    assert young.num_output > 0
    assert young.blocks == []
    kept = young.output_ids
    while engine.has_work:
        engine.step()
    assert young.output_ids[: len(kept)] == kept
    assert (old.finish_reason, young.finish_reason, young.num_output) == ("length", "length", 30)


def test_a_request_that_was_sent_back_starts_again_before_all_that_wait(model: Pixtral) -> None:
    engine = tiny_engine(model, num_blocks=5, max_model_len=80, max_num_seqs=2)
    requests = [engine.add(prompt(text * 30), params(max_tokens=40)) for text in "abc"]
    while engine.stats().preemptions == 0:
        engine.step()
    assert list(engine.scheduler.waiting) == requests[1:]


def test_a_newcomer_waits_when_it_would_leave_no_block_for_those_that_run(model: Pixtral) -> None:
    engine = tiny_engine(model, num_blocks=5, max_model_len=80)
    old, young = (engine.add(prompt(text * 30), params(max_tokens=18)) for text in "ab")
    third = engine.add(prompt("c" * 10), params())
    engine.step()
    assert [each.state for each in (old, young, third)] == [State.RUNNING, State.RUNNING, State.WAITING]


def test_a_reply_ends_where_the_context_does(model: Pixtral) -> None:
    got = reply(tiny_engine(model, max_model_len=40), prompt("x" * 29), max_tokens=1000, ignore_eos=True)
    assert (got.finish_reason, got.usage.completion_tokens) == ("length", 10)


def test_reasons_to_end(model: Pixtral) -> None:
    plain = reply(tiny_engine(model), prompt("abc"), max_tokens=12, ignore_eos=True)
    assert (plain.finish_reason, len(plain.token_ids)) == ("length", 12)
    fifth = plain.token_ids[5]
    stopped = reply(tiny_engine(model), prompt("abc"), max_tokens=12, ignore_eos=True, stop_token_ids=(fifth,))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(fifth) + 1]
    assert plain.text.startswith(stopped.text)
    word = plain.text[3:5]
    cut = reply(tiny_engine(model), prompt("abc"), max_tokens=12, ignore_eos=True, stop=(word,))
    assert (cut.finish_reason, cut.text) == ("stop", plain.text[: plain.text.index(word)])


def test_eos_ends_a_reply_is_counted_and_is_not_text(model: Pixtral, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(model)
    original = engine.sampler.sample
    script = iter([50, EOS])

    def scripted(logits_RV: torch.Tensor, requests: list) -> list:
        return [type(choice)(next(script)) for choice in original(logits_RV, requests)]

    monkeypatch.setattr(engine.sampler, "sample", scripted)
    got = reply(engine, prompt("abc"))
    assert (got.finish_reason, got.token_ids, got.usage.completion_tokens) == ("stop", (50, EOS), 2)
    assert len(got.text) == 1


def test_timings_are_measured(model: Pixtral) -> None:
    got = reply(tiny_engine(model), prompt("abc"), max_tokens=5, ignore_eos=True)
    assert 0 <= got.timings.queue_s <= got.timings.first_token_s
    assert got.timings.decode_s > 0


def test_abort_ends_once_and_frees_everything(model: Pixtral) -> None:
    engine = tiny_engine(model, max_num_seqs=1)
    running, waiting = engine.add(prompt("abc"), params()), engine.add(prompt("def"), params())
    engine.step()
    assert engine.abort(running.id)
    assert engine.abort(waiting.id)
    assert not engine.abort(running.id)
    assert not engine.abort("never seen")
    assert engine.stats().blocks.used == 0
    events = engine.step()
    assert [(request, delta.finish_reason) for request, delta in events] == [(running, "abort"), (waiting, "abort")]
    assert events[0][1].usage.completion_tokens == 1
    assert not engine.has_work


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Runner, "run"),
        (Matcher, "fill"),
        (Matcher, "accept"),
        (Sampler, "_adjust"),
        (TextStream, "add"),
        (ByteTokenizer, "token_text"),
    ],
)
def test_a_fault_of_one_request_ends_only_that_one(
    model: Pixtral, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    engine = tiny_engine(model)
    bad = engine.add(prompt("def"), params(grammar=Grammar("regex", "[a-z]{30}"), ignore_eos=False, logprobs=2))
    good = [engine.add(prompt(text), params()) for text in ("abc", "x" * 40)]
    whole = getattr(owner, name)

    def failing(self: object, *arguments: object, **more: object) -> object:
        if owner is Runner:
            concerned = bad in arguments[0].sampled
        else:
            concerned = (owner is not Sampler or arguments[1] is bad) and (owner is not TextStream or self is bad.text)
        if not concerned:
            return whole(self, *arguments, **more)
        raise RuntimeError("a fault")

    monkeypatch.setattr(owner, name, failing)
    replies = run(engine, bad, *good)
    monkeypatch.undo()
    assert replies[0].finish_reason == "error"
    for given, got in zip(("abc", "x" * 40), replies[1:], strict=True):
        assert got.token_ids == reply(tiny_engine(model), prompt(given), max_tokens=8, ignore_eos=True).token_ids
    assert engine.stats().blocks.used == 0


def test_numbers_gone_wrong_in_one_request_do_not_reach_the_others(
    model: Pixtral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.engine.plans.DEVICE_PLANS", {"cpu"})  # contexts attended together, as on a GPU
    engine = tiny_engine(model, num_blocks=8, enable_prefix_caching=False)
    image = random_image(1, 2, 2)
    image.pixels_CHW.fill_(torch.nan)
    assert reply(engine, prompt(image, "x" * 80), max_tokens=4).finish_reason == "error"
    givens = [prompt("y" * 20), prompt("z" * 25)]
    after = run(engine, *[engine.add(each, params(logprobs=5)) for each in givens])  # in the same blocks
    for given, got in zip(givens, after, strict=True):
        alone = tiny_engine(model)
        assert max_logprob_error(got, run(alone, alone.add(given, params(logprobs=5)))[0]) < 2e-5


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_the_plan_of_a_gpu_equals_the_plan_of_a_cpu(
    model: Pixtral, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Prompts whole, in chunks beside others that decode, with a shared prefix, and a chunk of one token."""
    shared = "words that several prompts begin with "
    givens = [prompt(shared * (length % 3), random_image(length, 2, 3), "ab" * length) for length in (3, 4, 20, 24, 40)]

    def replies() -> list[Completion]:
        engine = tiny_engine(model, max_num_batched_tokens=33, kv_cache_dtype=dtype)
        return run(engine, *[engine.add(each, params(logprobs=5)) for each in givens])

    expected = replies()
    monkeypatch.setattr("tessera.engine.plans.DEVICE_PLANS", {"cpu"})
    for one, other in zip(replies(), expected, strict=True):
        assert max_logprob_error(one, other) < 2e-5


def test_blocks_of_32_tokens_work_as_well(model: Pixtral) -> None:
    given = prompt("some text ", random_image(1, 4, 4), "and more of it")
    wide = reply(tiny_engine(model, block_tokens=32), given, max_tokens=20, logprobs=5)
    assert max_logprob_error(wide, reply(tiny_engine(model), given, max_tokens=20, logprobs=5)) < 2e-5


def test_a_prompt_is_scored_as_by_the_whole_model_at_once(model: Pixtral) -> None:
    """However it is cut into chunks, cached by others before, set back, or run beside others."""
    givens = [prompt("It was a dark ", random_image(7, 2, 3), "and stormy night"), prompt("short")]
    plain = tiny_engine(model)
    for engine in (plain, plain, tiny_engine(model, max_num_batched_tokens=5, max_num_seqs=4)):
        replies = run(engine, *[engine.add(given, params(prompt_logprobs=3, max_tokens=3)) for given in givens])
        for given, made in zip(givens, replies, strict=True):
            expected_TV = dense_logits(model, given).log_softmax(-1)
            first, *scored = made.prompt_logprobs
            assert (first.token_id, first.logprob) == (given.ids[0], None)
            assert [entry.token_id for entry in scored] == list(given.ids[1:])
            for row, entry in enumerate(scored):
                assert entry.logprob == pytest.approx(float(expected_TV[row, entry.token_id]), abs=2e-5)
                assert [top[0] for top in entry.top] == expected_TV[row].topk(3).indices.tolist()
    assert reply(plain, givens[0], max_tokens=3).prompt_logprobs == ()


def test_a_prompt_that_is_set_back_is_scored_once(model: Pixtral) -> None:
    engine = tiny_engine(model, num_blocks=12, max_num_batched_tokens=16, max_num_seqs=4)
    givens = [prompt(letter * 60) for letter in "abc"]
    made = run(engine, *[engine.add(given, params(prompt_logprobs=0, max_tokens=60)) for given in givens])
    assert engine.stats().preemptions
    for given, each in zip(givens, made, strict=True):
        assert [entry.token_id for entry in each.prompt_logprobs] == list(given.ids)
