"""The runner: lazy, bounded, retries within a limit, errors as results, and an end at any point loses nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tessera.chat import Completion, Conversation, Tools
from tessera.documents import runner as runner_module
from tessera.documents.journal import Counts, Item, Journal
from tessera.documents.progress import Snapshot
from tessera.documents.runner import MAX_ROUNDS, Again, Done, run
from tessera.errors import DocumentError, EngineDeadError, ReplyError, TesseraError, UnreachableError
from tessera.sampling import SamplingParams
from tessera.threads import MAX_AHEAD
from tests import forks
from tests.documents import stub
from tests.documents.stub import Stub, accept, ask

JOB = {"input": "test"}


def begun(path: Path, payloads: Iterable[str]) -> Path:
    with Journal.open(path, JOB) as journal:
        journal.add((f"i{number}", payload) for number, payload in enumerate(payloads))
    return path


def results(path: Path) -> list[str]:
    with Journal.open(path, JOB) as journal:
        return [row.result for row in journal.results()]


def failing(error: TesseraError) -> Callable[[str], str]:
    def answer(text: str) -> str:
        if text == "bad":
            raise error
        return f"<{text}>"

    return answer


def test_every_item_is_answered_once_and_in_order(tmp_path: Path) -> None:
    path, model = begun(tmp_path / "j", map(str, range(50))), Stub()
    shown: list[Snapshot] = []
    with Journal.open(path, JOB) as journal:
        assert run(journal, model, ask, accept, progress=shown.append) == Counts(50, 50, 0, 0, 0)
    assert results(path) == [json.dumps([f"i{number}", f"<{number}>"]) for number in range(50)]
    assert sorted(model.asked, key=int) == [str(number) for number in range(50)]
    assert (shown[-1].counts.done, shown[-1].usage.prompt_tokens, shown[-1].usage.completion_tokens) == (50, 150, 100)


def test_items_are_taken_as_the_model_reads_them(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", map(str, range(100)))
    most = 0

    def accept_counting(item: Item, reply: Completion | TesseraError) -> Done:
        nonlocal most
        most = max(most, len(journal._held))
        return accept(item, reply)

    with Journal.open(path, JOB) as journal:
        run(journal, Stub(concurrency=4), ask, accept_counting)
    assert 5 <= most <= 5 + MAX_AHEAD  # those in flight, one that is read ahead, and replies behind a slower one


def test_an_error_of_one_item_is_its_result(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", ["a", "bad", "unasked", "c"])

    def ask_some(item: Item) -> tuple[Conversation, SamplingParams]:
        if item.payload == "unasked":
            raise DocumentError("the page cannot be read", code="damaged")
        return ask(item)

    with Journal.open(path, JOB) as journal:
        assert run(journal, Stub(failing(ReplyError("broken"))), ask_some, accept) == Counts(4, 2, 2, 0, 0)
    assert results(path) == ['["i0", "<a>"]', '["i1", "reply_failed"]', '["i2", "damaged"]', '["i3", "<c>"]']


def test_further_questions_are_asked_with_their_own_parameters_and_tools(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", ["a", "b"])
    seen: list[tuple[str, float, int]] = []

    class Watching(Stub):
        def chat(self, messages, params=None, *, tools=()):  # type: ignore[no-untyped-def]
            seen.append((messages[-1].content[-1], params.temperature, len(Tools.of(tools).definitions)))
            return super().chat(messages, params, tools=tools)

    def accept_third(item: Item, reply: Completion | TesseraError) -> Done | Again:
        number = len([each for each in seen if each[0] == item.payload])
        if number < 3:
            tool = ({"type": "function", "function": {"name": "f"}},)
            return Again(ask(item)[0], SamplingParams(temperature=number / 10), Tools(tool))
        return accept(item, reply)

    with Journal.open(path, JOB) as journal:
        run(journal, Watching(concurrency=1), ask, accept_third)
    assert [each for each in seen if each[0] == "a"] == [("a", 0.0, 0), ("a", 0.1, 1), ("a", 0.2, 1)]
    assert sorted(seen) == sorted([(text, *rest) for text in "ab" for rest in [(0.0, 0), (0.1, 1), (0.2, 1)]])


def test_an_item_that_is_never_content_ends_as_failed(tmp_path: Path) -> None:
    path, model = begun(tmp_path / "j", ["a"]), Stub()
    with Journal.open(path, JOB) as journal:
        counts = run(journal, model, ask, lambda item, reply: Again(*ask(item)))
    assert counts == Counts(1, 0, 1, 0, 0)
    assert len(model.asked) == MAX_ROUNDS
    assert json.loads(results(path)[0])["error"]["code"] == "too_many_questions"


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), UnreachableError("gone"), ValueError("a fault of ours")])
def test_an_early_end_leaves_what_is_unfinished_for_the_next_run(tmp_path: Path, ending: BaseException) -> None:
    path = begun(tmp_path / "j", map(str, range(20)))

    def accept_ten(item: Item, reply: Completion | TesseraError) -> Done:
        if item.id == "i10":
            raise ending
        return accept(item, reply)

    with Journal.open(path, JOB) as journal:
        with pytest.raises(type(ending)):
            run(journal, Stub(), ask, accept_ten)
        assert journal.counts() == Counts(20, 10, 0, 0, 10)
        assert run(journal, Stub(), ask, accept) == Counts(20, 20, 0, 0, 0)
    assert results(path) == [json.dumps([f"i{number}", f"<{number}>"]) for number in range(20)]


def test_a_model_that_is_gone_ends_the_run_and_fails_no_item(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", ["a", "bad", "c", "d", "e", "f"])
    with Journal.open(path, JOB) as journal:
        with pytest.raises(UnreachableError):
            run(journal, Stub(failing(UnreachableError("no server"))), ask, accept)
        assert (journal.counts().failed, journal.counts().running) == (0, 0)


def test_an_engine_that_dies_blames_what_was_in_it_until_the_killer_is_alone(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", [*"abcdefghij", "bad", *"klm"])
    deaths = 0
    with Journal.open(path, JOB) as journal:
        while True:
            try:
                counts = run(journal, Stub(failing(EngineDeadError("dead"))), ask, accept)
                break
            except EngineDeadError:
                deaths += 1
                assert deaths < 10
    assert counts == Counts(14, 13, 1, 0, 0)
    assert deaths == 3  # among four, and twice alone
    assert results(path)[10] == '["i10", "worker_died"]'


def test_a_run_waits_for_what_another_process_has_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = begun(tmp_path / "j", ["a", "b"])
    waits: list[float] = []
    with Journal.open(path, JOB) as other, Journal.open(path, JOB) as journal:
        [item] = other.take()

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.finish(item.id, "the other's")
                other.flush()

        monkeypatch.setattr(runner_module.time, "sleep", wait)
        assert run(journal, Stub(), ask, accept) == Counts(2, 2, 0, 0, 0)
    assert len(waits) == 3
    assert results(path) == ["the other's", '["i1", "<b>"]']


def worker(path: Path, seconds: float, poison: str = "none", most: int = 10_000) -> ForkServerProcess:
    return forks.start(stub.work, path, seconds, poison, most)


def done(path: Path) -> int:
    import sqlite3

    connection = sqlite3.connect(path, timeout=60)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM items WHERE state > 1").fetchone()[0])
    finally:
        connection.close()


def kill_often(path: Path, lines: int, kills: int, seconds: float, seed: int) -> None:
    """Run workers and kill each when a random number of items is done; each stays before the end, so all are hit."""
    chance = random.Random(seed)
    for place in sorted(chance.sample(range(lines - 10), kills)):
        running = worker(path, seconds, most=max(place - done(path), 0) + 9)
        while done(path) < place:
            assert running.exitcode is None
            time.sleep(0.005)
        time.sleep(chance.random() * 0.06)
        running.kill()
        assert forks.ended(running) == -signal.SIGKILL
    assert forks.ended(worker(path, seconds), 200) == 0


@pytest.mark.parametrize(
    ("lines", "kills"), [(60, 3), pytest.param(500, 50, marks=pytest.mark.slow)], ids=["three", "fifty"]
)
def test_kills_at_random_moments_change_no_byte_of_the_results(tmp_path: Path, lines: int, kills: int) -> None:
    payloads = [f"{number} é\x00" for number in range(lines)]
    calm, killed = begun(tmp_path / "calm", payloads), begun(tmp_path / "killed", payloads)
    assert forks.ended(worker(calm, 0.0), 200) == 0
    kill_often(killed, lines, kills, 0.02, seed=7)
    assert results(killed) == results(calm)
    assert len(set(results(killed))) == lines
    assert list(tmp_path.glob(".killed.*")) == []


def test_an_item_that_kills_its_process_ends_as_an_error_of_its_own(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", [*"abcdef", "poison", *"ghi"])
    codes = [forks.ended(worker(path, 0.0, "poison")) for _ in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert [json.loads(row)[1] for row in results(path)] == [
        *(f"<{text}>" for text in "abcdef"), "worker_died", *(f"<{text}>" for text in "ghi")
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["j"]
