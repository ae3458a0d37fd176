"""Nano over two processes writes what nano in one writes, and when one process ends, nobody waits for it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera import LLM, Completion, Grammar, SamplingParams
from tessera.engine.ranks import Start, _Child, start_ranks
from tessera.errors import EngineDeadError, ReplyError, UsageError
from tessera.lora.peft import write_peft
from tessera.shelf import ModelSource
from tests.engine.tiny import max_logprob_error
from tests.lora.adapters import random_adapter

DEMO = Path(__file__).parents[2] / "tessera" / "nano" / "demo"
# Partial sums in another order: float32 rounding of logits of order 10.
BOUND = 1e-3
OPTIONS = {"kv_cache_bytes": 2**24, "max_num_batched_tokens": 128, "seed": 1, "max_loras": 2}


def question(image: str, text: str) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": str(DEMO / image)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def shared() -> Iterator[LLM]:
    with LLM("nano", tensor_parallel_size=2, **OPTIONS) as llm:
        yield llm
        (child,) = llm._loop.engine.ranks._children
    assert child.process.poll() == 0  # it ended by itself when it was told to
    llm.close()


def test_two_processes_write_what_one_writes(shared: LLM) -> None:
    asked = [
        (question("receipt.png", "Give vendor, date and total as JSON."), SamplingParams(max_tokens=80, logprobs=5)),
        (question("chart.png", "What is the value of Rome?"), SamplingParams(logprobs=5, prompt_logprobs=0)),
        (question("receipt.png", "Read the text."), SamplingParams(max_tokens=40, temperature=1.0, seed=3, logprobs=5)),
        (
            question("chart.png", "Give the chart as JSON."),
            SamplingParams(
                max_tokens=40, temperature=0.5, seed=4, logprobs=5, grammar=Grammar("choice", json.dumps(["yes", "no"]))
            ),
        ),
        ([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=20, min_tokens=20, logprobs=5)),
    ]
    conversations, params = zip(*asked, strict=True)
    with LLM("nano", **OPTIONS) as alone:
        for _ in range(2):  # the second time from the prefix cache
            expected, made = alone.batch(conversations, params), shared.batch(conversations, params)
            for one, other in zip(expected, made, strict=True):
                assert max_logprob_error(one, other) < BOUND
                assert (one.text, one.usage) == (other.text, other.usage)
                assert len(one.prompt_logprobs) == len(other.prompt_logprobs)
    stats = shared.stats()
    assert stats.drafts.accepted > 0
    assert stats.image_hits > 0


def test_two_processes_compute_adapters_as_one_does(shared: LLM, tmp_path: Path) -> None:
    """Each process gets its share of the matrices, and an adapter that is exchanged is exchanged in both."""
    with LLM("nano", **OPTIONS) as alone:
        config = alone.model.config
        for name, scale in (("one", 2.0), ("other", 5.0)):
            write_peft(random_adapter(config, scale=scale), tmp_path / name, config)
        told = []
        for llm in (alone, shared):
            llm.adapters.load("one", tmp_path / "one")
            llm.adapters.load("other", tmp_path / "other")
            names = ["one", None, "other", "one"]
            params = [SamplingParams(max_tokens=12, logprobs=5, adapter=name) for name in names]
            replies = llm.batch([question("chart.png", "What is the value of Rome?")] * 4, params)
            llm.adapters.load("one", tmp_path / "other", replaces=True)
            told.append([*replies, llm.chat(question("receipt.png", "Read."), params[0])])
    for one, other in zip(*told, strict=True):
        assert max_logprob_error(one, other) < BOUND
    assert len({reply.token_ids for reply in told[0][:3]}) == 3


def test_tenants_share_no_image_over_two_processes(shared: LLM) -> None:
    """Neither blocks nor embeddings: each tenant's first question is computed whole, and says the same."""
    asked, params = question("receipt.png", "Which shop is this?"), SamplingParams(max_tokens=8)
    told: list[tuple[str, int, int]] = []
    for salt in ("one", "two", "one", "two"):
        before = shared._loop.engine.images.hits
        deltas = list(shared.submit(asked, params, cache_salt=salt))
        completion = Completion.from_deltas(deltas, "nano")
        told.append((completion.text, completion.usage.cached_tokens, shared._loop.engine.images.hits - before))
    assert len({text for text, _, _ in told}) == 1
    cached = [tokens for _, tokens, _ in told]
    assert cached[:2] == [0, 0]
    assert cached[2] == cached[3] > 200  # the image's tokens are 210
    assert [hits for _, _, hits in told[:2]] == [0, 0]


def test_a_fault_before_anything_is_sent_ends_one_request(shared: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a fault")

    hello, params = [{"role": "user", "content": "hello"}], SamplingParams(max_tokens=3, ignore_eos=True)
    monkeypatch.setattr("tessera.engine.ranks._dump", fail)
    with pytest.raises(ReplyError, match="could not be computed"):
        shared.chat(hello, params)
    monkeypatch.undo()
    assert shared.chat(hello, params).finish_reason == "length"


def wait_until_dead(llm: LLM) -> None:
    began = time.monotonic()
    while llm.alive:
        assert time.monotonic() - began < 20
        time.sleep(0.05)


@pytest.mark.parametrize("busy", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_when_a_rank_ends_everyone_is_told(busy: bool) -> None:
    with LLM("nano", tensor_parallel_size=2, **OPTIONS) as llm:
        (child,) = llm._loop.engine.ranks._children
        params = SamplingParams(max_tokens=2000, ignore_eos=True, temperature=1.0)
        deltas = llm.stream([{"role": "user", "content": "hello"}], params) if busy else iter(())
        if busy:
            next(deltas)
        os.kill(child.process.pid, signal.SIGKILL)
        if busy:
            with pytest.raises(EngineDeadError, match="the engine stopped"):
                list(deltas)
        wait_until_dead(llm)
        with pytest.raises(EngineDeadError, match="the engine stopped"):
            llm.chat([{"role": "user", "content": "hello"}])


@pytest.mark.slow
def test_a_failure_in_the_midst_of_a_step_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("nano", tensor_parallel_size=2, **OPTIONS) as llm:
        (child,) = llm._loop.engine.ranks._children

        def fail(*arguments: object) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(llm._loop.engine.model.layers[2].attention, "project", fail)
        with pytest.raises(EngineDeadError, match="the engine stopped"):
            llm.chat([{"role": "user", "content": "hello"}])
        wait_until_dead(llm)
        assert child.process.poll() is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size is 3, and n_heads of this model is 4"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0"),
        (
            {"tensor_parallel_size": 2, "device": "cuda:1"},
            "device is 'cuda:1' and tensor_parallel_size=2 takes several",
        ),
        ({"tensor_parallel_size": 2000, "device": "cuda"}, "this machine has [0-9]+ CUDA devices"),
    ],
)
def test_what_cannot_be_shared_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        start_ranks(ModelSource(**{"device": "cpu"} | options))


def test_a_rank_that_cannot_load_says_why(tmp_path: Path) -> None:
    source = ModelSource(dtype="float99", device="cpu", tensor_parallel_size=2)
    child = _Child(Start(source, rank=1, meeting=tmp_path, threads=1))
    with pytest.raises(UsageError, match="dtype 'float99' is unknown"):
        child.expect()
    assert child.process.wait(20) == 1
    child.end()
