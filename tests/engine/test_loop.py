"""The thread around the engine: replies arrive, leaving early frees, and failure is told to all."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from tessera.chat import Completion
from tessera.engine.loop import EngineLoop
from tessera.errors import EngineBusyError, EngineDeadError, PromptTooLongError, TesseraError, UsageError
from tessera.model.pixtral import Pixtral
from tessera.sampling import SamplingParams
from tests.engine.tiny import prompt, random_image, reply, tiny_engine, tiny_model

LONG = SamplingParams(max_tokens=400, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Pixtral:
    return tiny_model()


@pytest.fixture
def loop(model: Pixtral) -> Iterator[EngineLoop]:
    loop = EngineLoop(tiny_engine(model, max_num_seqs=2, max_queued_requests=3))
    yield loop
    loop.close()


def until(condition: object, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return False


def test_many_threads_get_the_replies_of_a_lone_engine(model: Pixtral) -> None:
    loop = EngineLoop(tiny_engine(model))
    params = SamplingParams(max_tokens=15, temperature=0.8, seed=4)
    givens = [prompt(f"question {index}", random_image(index % 3, 2, 3)) for index in range(8)]
    got: dict[int, Completion] = {}

    def ask(index: int) -> None:
        got[index] = Completion.from_deltas(list(loop.submit(givens[index], params)), "tiny")

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop.close()
    for index, given in enumerate(givens):
        assert (
            got[index].token_ids == reply(tiny_engine(model), given, max_tokens=15, temperature=0.8, seed=4).token_ids
        )


def test_leaving_a_stream_midway_frees_its_blocks(loop: EngineLoop) -> None:
    for delta in loop.submit(prompt("abc"), LONG):
        assert delta.token_ids
        break
    stream = iter(loop.submit(prompt("def"), LONG))
    next(stream)
    del stream
    assert until(lambda: loop.engine.stats().finished == {"abort": 2})
    assert loop.engine.stats().blocks.used == 0
    assert not loop._handles


def test_refusals_come_at_once_in_the_callers_thread(loop: EngineLoop) -> None:
    with pytest.raises(PromptTooLongError):
        loop.submit(prompt("x" * 600), LONG)
    handles = [loop.submit(prompt("a"), LONG, request_id=str(index)) for index in range(2)]
    with pytest.raises(UsageError, match="'1' is already in use"):
        loop.submit(prompt("a"), LONG, request_id="1")
    assert until(lambda: loop.engine.stats().running == 2)
    handles += [loop.submit(prompt("a"), LONG) for _ in range(3)]
    with pytest.raises(EngineBusyError, match="3 requests are waiting"):
        loop.submit(prompt("a"), LONG)
    for handle in handles:
        handle.close()
    assert until(lambda: not loop.engine.has_work)


def test_closing_a_handle_whose_request_ended_leaves_a_later_one_of_the_same_id_alone(loop: EngineLoop) -> None:
    short = SamplingParams(max_tokens=1, ignore_eos=True)
    first = loop.submit(prompt("a"), short, request_id="same")
    assert until(lambda: not loop._handles)
    second = loop.submit(prompt("a"), SamplingParams(max_tokens=20, ignore_eos=True), request_id="same")
    first.close()
    assert list(second)[-1].finish_reason == "length"


def test_closing_ends_every_request_once_and_refuses_new_ones(model: Pixtral) -> None:
    loop = EngineLoop(tiny_engine(model, max_num_seqs=1))
    handles = [loop.submit(prompt("a"), LONG) for _ in range(3)]
    handles[0].next(timeout_s=30)
    loop.close()
    loop.close()
    for handle in handles:
        assert [delta.finish_reason for delta in handle if delta.finish_reason] == ["abort"]
    with pytest.raises(EngineDeadError, match="closed"):
        loop.submit(prompt("a"), LONG)
    assert not loop.alive


def test_an_engine_that_fails_for_one_request_after_another_tells_everyone_who_waits(
    loop: EngineLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError("no room")

    running = [loop.submit(prompt("a"), LONG) for _ in range(2)]
    for handle in running:
        handle.next(timeout_s=30)
    waiting = [loop.submit(prompt("a"), LONG) for _ in range(2)]
    monkeypatch.setattr(loop.engine.runner, "run", fail)
    for handle in running:
        assert list(handle)[-1].finish_reason == "error"
    for handle in waiting:
        with pytest.raises(EngineDeadError, match="restart it") as told:
            list(handle)
        assert isinstance(told.value.__cause__, MemoryError)
        assert "no room" not in str(told.value)  # a server passes these words on
    with pytest.raises(EngineDeadError):
        loop.submit(prompt("a"), LONG)
    assert not loop.alive
    assert "the engine failed" in caplog.text


def test_a_request_that_cannot_be_started_ends_alone(loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    running = loop.submit(prompt("a"), LONG)
    running.next(timeout_s=30)
    monkeypatch.setattr(loop.engine.tokenizer, "detokenizer", fail)
    with pytest.raises(TesseraError, match="could not be started"):
        list(loop.submit(prompt("b"), LONG))
    monkeypatch.undo()
    assert loop.alive
    assert list(running)[-1].finish_reason == "length"
    assert not loop._handles


def test_an_idle_loop_keeps_its_heart_beating_and_waits_without_work(
    loop: EngineLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.engine.loop.IDLE_S", 0.01)
    handle = loop.submit(prompt("a"), SamplingParams(max_tokens=1, ignore_eos=True))
    assert list(handle)[-1].finish_reason == "length"
    before = loop.heartbeat_s
    assert until(lambda: loop.heartbeat_s > before)
    with pytest.raises(queue.Empty):
        handle.next(timeout_s=0.01)
