"""The pool: least in flight, affinity of pictures, rest after failures, and the death of a model loses nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera import pool as pool_module
from tessera.chat import Completion, Conversation, Delta, ToolDefinitions, Tools
from tessera.errors import (
    EndpointError,
    EngineBusyError,
    KeyRefusedError,
    NotFiniteError,
    PromptTooLongError,
    ReplyError,
    TesseraError,
    UnreachableError,
    UsageError,
)
from tessera.messages import Image, Message, images_digest, parse_messages
from tessera.pool import LONGEST_REST_S, MAX_TRIES, SLACK, Pool, choose
from tessera.sampling import SamplingParams
from tessera.threads import MAX_AHEAD
from tests.documents.stub import Stub


class Clock:
    """Time that passes only while the pool waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        assert timeout is not None, "every wait has an end"
        clock.now += timeout
        return True

    monkeypatch.setattr(pool_module, "time", clock)
    monkeypatch.setattr(pool_module.threading.Condition, "wait", wait)
    return clock


class Model(Stub):
    """Answers with its own name, or fails as told; notes when it was asked."""

    def __init__(self, name: str, fail: Callable[[int], TesseraError | None] = lambda number: None) -> None:
        super().__init__(lambda text: name)
        self.model_name, self.fail, self.calls = name, fail, 0

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        self.calls += 1
        if (error := self.fail(self.calls)) is not None:
            raise error
        yield from super().stream(messages, params, tools=tools)


def question(text: str = "?", *images: Any) -> list[Message]:
    return [Message("user", (*(Image(each) for each in images), text))]


def always(error: TesseraError) -> Callable[[int], TesseraError]:
    return lambda number: error


def test_answers_keep_their_order_and_all_models_work() -> None:
    all_asked = threading.Barrier(3)

    def answer(text: str) -> str:
        if int(text) < 3:  # the first three wait for one another, so that each model must have one
            all_asked.wait(timeout=60)
        return f"<{text}>"

    models = [Stub(answer), Stub(answer), Stub(answer)]
    with Pool(models) as pool:
        replies = list(pool.each([question(str(number)) for number in range(100)]))
    assert [str(reply) for reply in replies] == [f"<{number}>" for number in range(100)]
    assert sum(len(model.asked) for model in models) == 100
    assert all(model.asked for model in models)


def test_a_pool_needs_models() -> None:
    with pytest.raises(UsageError, match="0 models"):
        Pool([])


def test_what_a_dead_model_had_goes_to_the_others(clock: Clock) -> None:
    dying = Model("dying", lambda number: None if number < 5 else EndpointError("the reply broke off"))
    with Pool([dying, Model("well")]) as pool:
        replies = [str(pool.chat(question())) for _ in range(50)]
    assert Counter(replies) == {"dying": 4, "well": 46}


def test_a_model_that_failed_rests_longer_each_time_and_is_tried_with_one(clock: Clock) -> None:
    times: list[float] = []

    def note(number: int) -> TesseraError:
        times.append(clock.now)
        return UnreachableError("not there")

    with (
        Pool([Model("gone", note)], patience_s=200) as pool,
        pytest.raises(UnreachableError, match=r"1 endpoints.*200"),
    ):
        pool.chat(question())
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_REST_S, LONGEST_REST_S][: len(pauses)]
    assert len(pauses) == 8
    assert clock.now == 200


def test_a_server_that_says_when_to_come_back_is_waited_for(clock: Clock) -> None:
    loading = EndpointError("loading")
    loading.retry_after_s = 7
    with Pool([Model("slow", lambda number: loading if number <= 2 * MAX_TRIES else None)]) as pool:
        assert str(pool.chat(question())) == "slow"
    assert clock.now == 2 * MAX_TRIES * 7


def test_a_refused_key_is_told_at_once_unless_another_server_takes_it(clock: Clock) -> None:
    refusing = always(KeyRefusedError("no such key"))
    with Pool([Model("one", refusing), Model("two", refusing)]) as pool, pytest.raises(KeyRefusedError):
        pool.chat(question())
    assert clock.now == 0
    with Pool([Model("one", refusing), Model("two")]) as pool:
        assert {str(pool.chat(question())) for _ in range(5)} == {"two"}


def test_a_model_that_comes_back_is_used_again(clock: Clock) -> None:
    coming = Model("back", lambda number: UnreachableError("starting") if number <= 3 else None)
    with Pool([coming]) as pool:
        assert [str(pool.chat(question())) for _ in range(3)] == ["back"] * 3
    assert clock.now == 1 + 2 + 4


def test_many_conversations_report_one_death_once(clock: Clock) -> None:
    with Pool([Model("gone")]) as pool:
        taken = [pool._taken(b"", 0.0, None) for _ in range(8)]
        for replica, epoch in taken:
            pool._failed(replica, epoch, EndpointError("broken"))
        [replica] = pool._replicas
        assert (replica.failures, replica.in_flight, replica.rests_until) == (1, 0, 1.0)


@pytest.mark.parametrize("error", [UsageError("bad"), PromptTooLongError("long"), NotFiniteError("nan")])
def test_a_requests_own_error_is_no_models_failure(clock: Clock, error: TesseraError) -> None:
    refusing, other = Model("refusing", always(error)), Model("other")
    with Pool([refusing, other]) as pool:
        with pytest.raises(type(error)):
            pool.chat(question())
        assert pool._replicas[0].failures == 0
    assert other.calls == 0


def test_a_conversation_that_kills_models_does_not_kill_them_all(clock: Clock) -> None:
    models = [Model(str(number), always(ReplyError("died of it"))) for number in range(6)]
    with Pool(models) as pool, pytest.raises(ReplyError):
        pool.chat(question())
    assert sum(model.calls for model in models) == MAX_TRIES


def test_a_busy_model_is_asked_when_it_wants_and_others_meanwhile(clock: Clock) -> None:
    full = EngineBusyError("full")
    full.retry_after_s = 7.0
    busy = Model("busy", lambda number: full if number == 1 else None)
    with Pool([busy, Model("free")]) as pool:
        assert str(pool.chat(question())) == "free"
        assert pool._replicas[0].failures == 0
    alone = Model("alone", lambda number: full if number < 3 else None)
    with Pool([alone]) as pool:
        began = clock.now
        assert str(pool.chat(question())) == "alone"
        assert clock.now - began == 14
    with Pool([Model("never", always(full))], patience_s=30) as pool, pytest.raises(EngineBusyError):
        pool.chat(question())


def test_the_same_pictures_go_to_the_same_model_unless_it_has_too_much() -> None:
    models = [Model(str(number)) for number in range(4)]
    with Pool(models) as pool:
        homes = {
            f"data:image/png;base64,{n}": {
                str(pool.chat(question(str(q), f"data:image/png;base64,{n}"))) for q in range(4)
            }
            for n in range(24)
        }
        assert all(len(each) == 1 for each in homes.values())
        assert len(set.union(*homes.values())) == 4  # spread over all
        picture = "data:image/png;base64,0"
        digest = images_digest(parse_messages(question("?", picture)))
        own = choose(pool._replicas, digest)
        own.in_flight = SLACK
        assert choose(pool._replicas, digest) is own
        own.in_flight = SLACK + 1
        assert choose(pool._replicas, digest) is not own


def test_when_a_model_is_gone_only_its_own_pictures_move() -> None:
    with Pool([Model(str(number)) for number in range(4)]) as pool:
        digests = [bytes([number]) * 16 for number in range(100)]
        before = [choose(pool._replicas, digest).number for digest in digests]
        after = [choose(pool._replicas[:3], digest).number for digest in digests]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != 3)


def test_pictures_are_told_apart_by_what_they_are() -> None:
    def digest(*images: Any) -> bytes:
        return images_digest(question("?", *images))

    red, blue = PILImage.new("RGB", (2, 2), "red"), PILImage.new("RGB", (2, 2), "blue")
    assert digest() == b""
    assert len({digest(red), digest(blue), digest(b"1"), digest("a.png"), digest(red, blue), digest(blue, red)}) == 6
    assert digest(red) == digest(red.copy())


def test_a_stream_moves_on_before_its_first_piece_and_not_after(clock: Clock) -> None:
    class Breaking(Model):
        def stream(self, messages, params=None, *, tools=()):  # type: ignore[no-untyped-def]
            yield Delta("begun")
            raise EndpointError("broke off")

    with Pool([Model("gone", always(UnreachableError("x"))), Model("well")]) as pool:
        assert Completion.from_deltas(list(pool.stream(question())), "m").text == "well"
    with Pool([Breaking("breaking"), Model("well")]) as pool:
        pieces = pool.stream(question())
        assert next(pieces).text == "begun"
        with pytest.raises(EndpointError):
            next(pieces)


def test_a_closed_pool_ends_those_who_wait() -> None:
    entered = threading.Event()

    def gone(number: int) -> TesseraError:
        entered.set()
        return UnreachableError("not there")

    pool, errors = Pool([Model("gone", gone)]), []

    def wait() -> None:
        try:
            pool.chat(question())
        except EndpointError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert entered.wait(60)
    pool.close()
    thread.join(timeout=60)
    assert errors == ["the pool was closed."]


def test_a_name_is_asked_of_whoever_answers(clock: Clock) -> None:
    class Nameless(Model):
        @property
        def model_name(self) -> str:  # type: ignore[override]
            raise UnreachableError("not there")

        @model_name.setter
        def model_name(self, value: str) -> None:
            pass

    with Pool([Nameless("a"), Model("b")]) as pool:
        assert pool.model_name == "b"


def test_one_slow_reply_holds_up_no_more_than_the_replies_after_it() -> None:
    free, asked = threading.Event(), list[str]()
    slow = Stub(lambda text: text if text != "0" or free.wait(60) else "", concurrency=2)

    def questions() -> Iterator[list[Message]]:
        for number in range(MAX_AHEAD + 20):
            asked.append(str(number))
            if number == MAX_AHEAD:
                free.set()  # which comes only if the others went on meanwhile
            yield question(str(number))

    assert [str(each) for each in slow.each(questions())] == asked
