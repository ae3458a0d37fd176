"""What must hold of requests with adapters, whatever else is in their batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.chat import Completion
from tessera.engine.engine import Engine
from tessera.errors import ModelNotFoundError, UsageError
from tessera.linears.quantized import count_weights
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.attach import attach
from tessera.lora.peft import write_peft
from tessera.sampling import SamplingParams
from tests.engine.tiny import CONFIG, max_logprob_error, prompt, random_image, reply, run, tiny_engine, tiny_model
from tests.invariants.test_engine_invariants import BOUND, CACHES, INT8_BOUND, MIXED, WANTED
from tests.lora.adapters import random_adapter
from tests.parallel.ranks import DIVISIBLE, random_model

NO_IMAGES = ("layers.", "output")


def with_head(adapter: LoraAdapter) -> LoraAdapter:
    """The same with a change of the head."""
    generator = torch.Generator().manual_seed(11)
    a_RK, b_NR = (torch.randn(*size, generator=generator) * 0.1 for size in ((4, CONFIG.dim), (CONFIG.vocab_size, 4)))
    return replace(adapter, modules={**adapter.modules, "output": LowRank(a_RK, b_NR, 1.0)})


CONTENTS: Mapping[str, LoraAdapter] = {
    "decoder": with_head(random_adapter(CONFIG, lambda name: name.startswith(NO_IMAGES), scale=1.5)),
    "vision": random_adapter(CONFIG, lambda name: not name.startswith(NO_IMAGES), scale=3.0),
    "all": random_adapter(CONFIG, scale=1.0, rank=8),
}
Load = Callable[[Engine, str, str], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for name, content in CONTENTS.items():
        write_peft(content, folder / name, CONFIG)
    return folder


def engine_with(folder: Path, **options: object) -> Engine:
    """An engine over the tiny model with all adapters loaded."""
    engine = tiny_engine(tiny_model(), **{"max_loras": 3, **options})
    for name in CONTENTS:
        engine.adapters.load(name, folder / name)
    return engine


def alone(name: str | None, given: object, **options: object) -> Completion:
    """The reply of a model that always computes with the adapter, in an engine that has no slots."""
    model = tiny_model()
    if name is not None:
        attach(model, CONTENTS[name])
    return reply(tiny_engine(model, **options), given, **WANTED)  # type: ignore[arg-type]


@CACHES
def test_three_adapters_and_the_base_in_one_batch_equal_each_alone(folder: Path, cache: str, bound: float) -> None:
    names = [None, "all", "decoder", "vision", "all"]
    engine = engine_with(folder, kv_cache_dtype=cache, enable_prefix_caching=False)
    params = [SamplingParams(adapter=name, **WANTED) for name in names]
    together = run(engine, *[engine.add(given, wanted) for given, wanted in zip(MIXED, params, strict=True)])
    for name, given, got in zip(names, MIXED, together, strict=True):
        expected = alone(name, given, kv_cache_dtype=cache, enable_prefix_caching=False)
        # The slots add the same numbers after the base's product, as the attached adapter does.
        assert max_logprob_error(got, expected) < bound
    told = {alone(name, MIXED[2]).token_ids for name in (None, *CONTENTS)}
    assert len(told) == 4


@pytest.mark.parametrize("scheme", ["int4", "int8", "fp8"])
def test_a_quantized_base_keeps_its_codes_and_computes_adapters_beside_them(scheme: str, tmp_path: Path) -> None:
    contents = {"one": random_adapter(DIVISIBLE), "other": random_adapter(DIVISIBLE, scale=1.0, rank=8)}
    engine = tiny_engine(random_model(scheme=scheme), max_loras=2)
    for name, content in contents.items():
        write_peft(content, tmp_path / name, DIVISIBLE)
        engine.adapters.load(name, tmp_path / name)
    names = (None, *contents)
    together = run(engine, *[engine.add(MIXED[1], SamplingParams(adapter=name, **WANTED)) for name in names])
    for name, got in zip(names, together, strict=True):
        model = random_model(scheme=scheme)
        if name is not None:
            attach(model, contents[name])
        expected = reply(tiny_engine(model), MIXED[1], **WANTED)
        # In a batch the adapters' sums have another order. Packed products round their inputs to 8 bits, and a
        # difference of 1e-7 can carry one over the edge between two codes: then some numbers move by a percent.
        assert max_logprob_error(got, expected) < 2.5 * INT8_BOUND
        (same,) = run(engine, engine.add(MIXED[1], SamplingParams(adapter=name, **WANTED), cache_salt="own"))
        assert max_logprob_error(same, expected) == 0  # alone, and its scale is a power of two
    assert count_weights(engine.model)[scheme] > 0


def test_drafts_are_checked_with_the_request_s_own_adapter(folder: Path) -> None:
    given = prompt("one two three one two three one two three one two")
    engine = engine_with(folder)
    requests = [engine.add(given, SamplingParams(max_tokens=60, adapter=name)) for name in (*CONTENTS, None)]
    together = run(engine, *requests)
    assert engine.stats().drafts.tokens > 0
    for name, got in zip((*CONTENTS, None), together, strict=True):
        model = tiny_model()
        if name is not None:
            attach(model, CONTENTS[name])
        expected = reply(tiny_engine(model, num_speculative_tokens=0), given, max_tokens=60)
        assert got.token_ids == expected.token_ids


def test_adapters_and_the_base_share_no_prefix_and_only_images_that_are_the_same(folder: Path) -> None:
    engine = engine_with(folder)
    given = prompt(random_image(5, 6, 6), "a question about it, longer than a block")
    cached, encoded = {}, {}
    for name in (None, "decoder", "vision", "all"):
        before = engine.images.queries - engine.images.hits
        (got,) = run(engine, engine.add(given, SamplingParams(adapter=name, **WANTED)))
        cached[name] = got.usage.cached_tokens
        encoded[name] = engine.images.queries - engine.images.hits - before
        assert max_logprob_error(got, alone(name, given)) < BOUND
    assert set(cached.values()) == {0}
    assert encoded == {None: 1, "decoder": 0, "vision": 1, "all": 1}
    (again,) = run(engine, engine.add(given, SamplingParams(adapter="all", **WANTED)))
    assert again.usage.cached_tokens >= 48


def test_a_name_with_new_weights_answers_anew_and_running_requests_keep_the_old(folder: Path) -> None:
    engine = engine_with(folder)
    given = MIXED[2]
    first = engine.add(given, SamplingParams(adapter="all", **WANTED))
    engine.step()
    with pytest.raises(UsageError, match="'all' is loaded already"):
        engine.adapters.load("all", folder / "decoder")
    engine.adapters.load("all", folder / "decoder", replaces=True)
    _, new = run(engine, first, engine.add(given, SamplingParams(adapter="all", **WANTED)))
    assert first.output_ids == list(alone("all", given).token_ids)
    assert max_logprob_error(new, alone("decoder", given)) < BOUND
    assert new.usage.cached_tokens == 0
    (same,) = run(engine, engine.add(given, SamplingParams(adapter="decoder", **WANTED)))
    assert same.usage.cached_tokens > 0  # it has the same content


def test_an_unloaded_adapter_ends_what_it_began(folder: Path) -> None:
    engine = engine_with(folder, max_cpu_loras=3)
    request = engine.add(MIXED[0], SamplingParams(adapter="vision", **WANTED))
    engine.step()
    engine.adapters.unload("vision")
    with pytest.raises(ModelNotFoundError, match="'vision'"):
        engine.add(MIXED[0], SamplingParams(adapter="vision"))
    with pytest.raises(UsageError, match="1 of them only until their requests end"):
        engine.adapters.load("more", folder / "vision")
    assert run(engine, request)[0].finish_reason != "error"
    assert engine.adapters.load("more", folder / "vision").summary == "decoder 0/14, vision 14/14, adapter 2/2, rank 4"
    with pytest.raises(UsageError, match="3 adapters are loaded, and the limit is max_cpu_loras=3"):
        engine.adapters.load("another", folder / "vision")


def test_with_one_slot_adapters_take_turns_and_the_base_waits_for_none(folder: Path) -> None:
    engine = engine_with(folder, max_loras=1)
    names = ("all", "decoder", "vision", "all", None)
    requests = [engine.add(MIXED[0], SamplingParams(adapter=name, **WANTED)) for name in names]
    engine.step()
    assert [request.slot for request in requests] == [0, None, None, None, None]
    assert requests[4].num_output == 1
    run(engine, *requests)
    for name, request in zip(names, requests, strict=True):
        assert request.output_ids == list(alone(name, MIXED[0]).token_ids)


def test_a_preempted_request_takes_its_adapter_up_again(folder: Path) -> None:
    givens = [prompt(random_image(seed, 3, 4), "tell me a story") for seed in range(5)]
    names = [None, "all", "decoder", "vision", "all"]
    wanted = {"max_tokens": 60, "ignore_eos": True}
    crowded = engine_with(folder, num_blocks=14, max_model_len=100, max_loras=2)
    replies = run(
        crowded,
        *[
            crowded.add(given, SamplingParams(adapter=name, **wanted))
            for given, name in zip(givens, names, strict=True)
        ],
    )
    assert crowded.stats().preemptions > 0
    for given, name, got in zip(givens, names, replies, strict=True):
        calm = engine_with(folder)
        (expected,) = run(calm, calm.add(given, SamplingParams(adapter=name, **wanted)))
        assert got.token_ids == expected.token_ids


def test_prompts_are_scored_with_the_adapter(folder: Path) -> None:
    engine = engine_with(folder)
    params = {"max_tokens": 1, "prompt_logprobs": 0}
    both = run(engine, *[engine.add(MIXED[2], SamplingParams(adapter=name, **params)) for name in ("all", None)])
    for name, got in zip(("all", None), both, strict=True):
        model = tiny_model()
        if name is not None:
            attach(model, CONTENTS[name])
        expected = reply(tiny_engine(model), MIXED[2], **params)
        pairs = zip(got.prompt_logprobs[1:], expected.prompt_logprobs[1:], strict=True)
        assert max(abs(one.logprob - other.logprob) for one, other in pairs) < BOUND  # type: ignore[operator]


def test_a_long_step_keeps_rows_in_their_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed-forward computes long steps in parts, which would shift the rows."""
    monkeypatch.setattr("tessera.model.block.FEED_FORWARD_TOKENS", 7)
    engine = engine_with(folder)
    names = (None, "all", "decoder")
    requests = [engine.add(MIXED[4], SamplingParams(adapter=name, **WANTED)) for name in names]
    for name, got in zip(names, run(engine, *requests), strict=True):
        assert max_logprob_error(got, alone(name, MIXED[4])) < BOUND


def test_a_batch_without_adapters_takes_the_plain_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the model without slots, though adapters are loaded and one has run."""
    engine = engine_with(folder)
    run(engine, engine.add(MIXED[0], SamplingParams(adapter="all", max_tokens=2)))

    def fail(*arguments: object) -> None:
        raise AssertionError("an adapter's product was computed")

    monkeypatch.setattr("tessera.linears.slots.SlotLinear.product", fail)
    for given in MIXED:
        assert max_logprob_error(reply(engine, given, **WANTED), alone(None, given)) == 0


def test_what_cannot_be_loaded_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    engine = engine_with(folder)
    for name in ("", "with space", "../up", "x" * 101, "é"):
        with pytest.raises(UsageError, match="must have 1 to 100 letters"):
            engine.adapters.load(name, folder / "all")
    with pytest.raises(UsageError, match="is the model's own name"):
        engine.adapters.load("tiny", folder / "all", taken=("tiny",))
    write_peft(random_adapter(CONFIG, rank=17), tmp_path / "wide", CONFIG)
    with pytest.raises(UsageError, match="has rank 17 and the limit is max_lora_rank=16"):
        engine.adapters.load("wide", tmp_path / "wide")
    with pytest.raises(UsageError, match="adapters per request are off"):
        tiny_engine(tiny_model()).adapters.load("all", folder / "all")
    with pytest.raises(UsageError, match="max_cpu_loras=2 is less than max_loras=3"):
        tiny_engine(tiny_model(), max_loras=3, max_cpu_loras=2)
    with pytest.raises(UsageError, match="max_lora_rank is given and max_loras is 0"):
        tiny_engine(tiny_model(), max_lora_rank=3)
