"""Decode graphs on a CPU: a plain call over the same buffers stands in for the graph."""

from __future__ import annotations

import pytest
import torch

from tessera.chat import Completion
from tessera.engine import memory
from tessera.engine.decode_graphs import DecodeGraphs, graph_sizes
from tessera.engine.engine import Engine
from tessera.engine.memory import StepSize
from tessera.model.pixtral import Pixtral
from tessera.sampling import SamplingParams
from tests.engine.tiny import max_logprob_error, prompt, random_image, run, tiny_engine, tiny_model
from tests.invariants.test_engine_invariants import BOUND


@pytest.fixture(scope="module")
def model() -> Pixtral:
    return tiny_model()


def with_graphs(engine: Engine) -> Engine:
    engine.graphs = DecodeGraphs(
        engine.model,
        engine.cache,
        max_num_seqs=engine.config.max_num_seqs,
        max_model_len=engine.config.max_model_len,
        capture=lambda work: work,
    )
    return engine


def replies(engine: Engine, lengths: tuple[int, ...]) -> list[Completion]:
    givens = [prompt("ab" * length, random_image(length, 2, 3)) for length in lengths]
    wanted = [
        SamplingParams(max_tokens=10 + 3 * n, logprobs=5, temperature=0.7 * (n % 2), seed=n, ignore_eos=True)
        for n in range(len(lengths))
    ]
    return run(engine, *[engine.add(given, params) for given, params in zip(givens, wanted, strict=True)])


def test_some_batch_sizes_have_a_graph() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(20) == [1, 2, 4, 8, 16, 20]
    assert graph_sizes(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]


@pytest.mark.parametrize("lengths", [(5,), (3, 20)])
def test_static_buffers_give_the_bits_of_the_dynamic_plan(
    model: Pixtral, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as a graph has, and tables as wide: the same arithmetic in the same order."""
    monkeypatch.setattr("tessera.engine.plans.DEVICE_PLANS", {"cpu"})
    options = {"max_num_seqs": len(lengths), "max_model_len": 96}
    expected = replies(tiny_engine(model, **options), lengths)
    found = replies(with_graphs(tiny_engine(model, **options)), lengths)
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert [each.logprobs for each in found] == [each.logprobs for each in expected]


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_padded_rows_change_nothing(model: Pixtral, dtype: str) -> None:
    """Requests that come and go, in graphs that are larger than what runs; blocks that others held before."""
    options = {"max_num_seqs": 5, "num_blocks": 20, "max_model_len": 96, "kv_cache_dtype": dtype}
    engine = with_graphs(tiny_engine(model, **options))
    calls: list[int] = []
    logits = engine.graphs.logits
    engine.graphs.logits = lambda chunks: calls.append(len(chunks)) or logits(chunks)  # type: ignore[method-assign]
    expected = replies(tiny_engine(model, **options), (3, 4, 20, 24, 30, 7))
    for one, other in zip(replies(engine, (3, 4, 20, 24, 30, 7)), expected, strict=True):
        assert max_logprob_error(one, other) < BOUND
    assert 3 in calls  # which no graph has
    assert engine.pool.counts().used == 0


@pytest.mark.parametrize(
    "run_largest", [memory.run_largest_images, memory.run_largest_prefill, memory.run_largest_decode]
)
def test_the_largest_steps_run(model: Pixtral, run_largest: object, monkeypatch: pytest.MonkeyPatch) -> None:
    size = StepSize(step_tokens=48, context=96, num_seqs=5, drafted=0, block_tokens=16, cache_dtype=torch.int8)
    sizes: list[torch.Size] = []
    forward = Pixtral.forward
    encode = Pixtral.encode_images
    monkeypatch.setattr(Pixtral, "forward", lambda self, x, plan: sizes.append(x.shape) or forward(self, x, plan))
    monkeypatch.setattr(Pixtral, "encode_images", lambda self, x: sizes.append(len(x)) or encode(self, x))
    run_largest(model, memory._one_layer(model, size), size)  # type: ignore[operator]
    expected = {
        memory.run_largest_images: 8192 // 64,  # of 32 pixels in patches of 4
        memory.run_largest_prefill: torch.Size([48, 32]),
        memory.run_largest_decode: torch.Size([5, 32]),
    }
    assert sizes == [expected[run_largest]]
