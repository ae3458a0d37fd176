"""After any traffic every block is free or cached, every request ended once, and the counts add up.

And every greedy reply is the one that the whole sequence, computed at once without a cache, gives.
"""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tessera.chat import Delta
from tessera.engine.request import State
from tessera.errors import EngineBusyError, PromptTooLongError
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams
from tests.engine.tiny import banned_ids, dense_logits, prompt, random_image, tiny_engine, tiny_model

MODEL = tiny_model()
BANNED = banned_ids(MODEL)
IMAGES = [random_image(seed, rows, columns) for seed, (rows, columns) in enumerate([(1, 1), (2, 5), (4, 4), (2, 5)])]
PARTS = st.lists(
    st.one_of(st.integers(0, 3), st.sampled_from(["a", "bc", "the same long beginning ", "x" * 40])),
    min_size=1,
    max_size=4,
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([1, 2, 9, 30, None]),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), ("a",), ("\ufffd", "e")]),
    ignore_eos=st.booleans(),
    min_tokens=st.sampled_from([0, 1]),
    logprobs=st.sampled_from([None, 2]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
)


class Traffic(RuleBasedStateMachine):
    """Arrivals, steps and aborts in any order, over a cache of 12 blocks that forces preemption."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = tiny_engine(
            MODEL,
            num_blocks=12,
            max_model_len=120,
            max_num_seqs=4,
            max_num_batched_tokens=23,
            max_queued_requests=5,
            image_cache_bytes=20 * 32 * 4,
        )
        self.deltas: dict[str, list[Delta]] = {}
        self.greedy: dict[str, Prompt] = {}

    @rule(parts=PARTS, params=PARAMS, salt=st.sampled_from(["", "b"]))
    def arrive(self, parts: list, params: SamplingParams, salt: str) -> None:
        waiting, name = self.engine.scheduler.num_new, f"request {len(self.deltas)}"
        given = prompt(*[IMAGES[part] if isinstance(part, int) else part for part in parts])
        try:
            self.engine.add(given, params, request_id=name, cache_salt=salt)
        except PromptTooLongError:
            assert len(given.ids) + max(params.min_tokens, 1) > 120
        except EngineBusyError:
            assert waiting >= 5
        else:
            self.deltas[name] = []
            if params.temperature == params.presence_penalty == params.min_tokens == 0:
                self.greedy[name] = given

    @precondition(lambda self: self.engine.has_work)
    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.engine.has_work:
                self.collect()

    @precondition(lambda self: self.deltas)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.deltas)))
        ended = any(delta.finish_reason for delta in self.deltas[request_id])
        aborted = self.engine.abort(request_id)
        assert not (aborted and ended)
        assert not self.engine.abort(request_id)  # a second time there is nothing to end

    def collect(self) -> None:
        for request, delta in self.engine.step():
            self.deltas[request.id].append(delta)

    @invariant()
    def blocks_add_up(self) -> None:
        engine, counts = self.engine, self.engine.pool.counts()
        assert counts.free + counts.cached + counts.used == counts.total == 12
        holders = Counter(block for request in engine.scheduler.running for block in request.blocks)
        assert holders == Counter({block: n for block, n in enumerate(engine.pool._holders) if n})
        assert counts.used == len(holders)
        for request in engine.scheduler.running:
            assert request.state is State.RUNNING
            assert request.num_computed <= len(request.blocks) * 16
        assert not any(request.blocks for request in engine.scheduler.waiting)
        assert len(engine.scheduler.running) <= 4
        assert engine.scheduler.num_new == sum(each.started_s is None for each in engine.scheduler.waiting)
        pinned = sum(engine.images[digest].nbytes for digest in engine.images._pinned if digest in engine.images)
        assert engine.images.bytes_used <= max(20 * 32 * 4, pinned)

    def teardown(self) -> None:
        for _ in range(3000):
            if not self.engine.has_work:
                break
            self.collect()
        assert not self.engine.has_work
        stats = self.engine.stats()
        assert (stats.waiting, stats.running, stats.blocks.used) == (0, 0, 0)
        assert stats.blocks.free + stats.blocks.cached == 12
        for deltas in self.deltas.values():
            assert [delta.finish_reason is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
            assert sum(len(delta.token_ids) for delta in deltas) == deltas[-1].usage.completion_tokens
            assert deltas[-1].finish_reason != "error"
        assert sum(stats.finished.values()) == len(self.deltas)
        for name, given in self.greedy.items():
            ids = [token_id for delta in self.deltas[name] for token_id in delta.token_ids]
            self.check_greedy(given, ids)

    def check_greedy(self, given: Prompt, ids: list[int]) -> None:
        logits_TV = dense_logits(MODEL, given, ids)[len(given.ids) - 1 : -1]
        logits_TV[:, BANNED] = -torch.inf
        chosen_T = logits_TV.gather(1, torch.tensor(ids, dtype=torch.int64)[:, None])[:, 0]
        # Of two logits that differ by rounding (1e-5 at most) either may win.
        assert (chosen_T >= logits_TV.amax(1) - 1e-4).all()


Traffic.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestTraffic = Traffic.TestCase
