"""Running a journal's items through a model: lazily, in order, with retries, so that an end at any point loses nothing.

What an item asks and what its reply is worth is the caller's business. Errors become results through
the same function as replies. Only two things end a run early: a model that is gone, and the user.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from tessera.chat import ChatModel, Completion, Conversation, Tools
from tessera.documents.journal import Counts, Item, Journal
from tessera.documents.progress import Meter, Progress
from tessera.errors import DocumentError, EngineDeadError, TesseraError, UnreachableError
from tessera.sampling import SamplingParams

MAX_ROUNDS = 32  # questions about one item, first and further ones: 8 pages' turns, confirmed, and all retries
WAIT_S = 0.25  # between looks at items that another process has in hand


@dataclass(frozen=True)
class Done:
    """An item's result; `review` asks for a person's look."""

    result: str
    failed: bool = False
    review: bool = False


@dataclass(frozen=True)
class Again:
    """A further question about the same item."""

    conversation: Conversation
    params: SamplingParams
    tools: Tools = field(default_factory=Tools)


Question = tuple[Conversation, SamplingParams] | tuple[Conversation, SamplingParams, Tools]
Ask = Callable[[Item], Question]
Accept = Callable[[Item, Completion | TesseraError], Done | Again]


def run(
    journal: Journal, model: ChatModel, ask: Ask, accept: Accept, *, progress: Progress = lambda snapshot: None
) -> Counts:
    """Work until no item of the journal is left, here or with other processes, and return the counts.

    `ask` makes an item's question, and may raise TesseraError. `accept` turns each reply or error into a result, or
    into a further question. Raises UnreachableError and EngineDeadError when the model is gone; then, as after
    KeyboardInterrupt, everything unfinished waits in the journal for the next run.
    """
    job = _Job(journal, model, ask, accept, Meter(journal, progress))
    try:
        while True:
            if job.work():
                continue
            journal.flush()
            if not journal.counts().left:
                break
            time.sleep(WAIT_S)  # the rest is in another process's hands
    except BaseException as error:
        # An item may be what ended the engine, so all that were in it are suspects.
        journal.release(died=isinstance(error, EngineDeadError))
        raise
    finally:
        journal.flush()
        job.meter.end()
    return journal.counts()


class _Job:
    """One run's state: what is asked and not answered, and further questions to ask first."""

    def __init__(self, journal: Journal, model: ChatModel, ask: Ask, accept: Accept, meter: Meter) -> None:
        self.journal, self.model, self.ask, self.accept, self.meter = journal, model, ask, accept, meter
        self.asked: deque[tuple[Item, Again, int]] = deque()
        self.further: deque[tuple[Item, Again, int]] = deque()
        self.took_any = False

    def work(self) -> bool:
        """Ask until nothing can be taken now; returns True if anything was."""
        self.took_any = False
        following = _Following(self._questions())
        replies = self.model.each(following.conversations(), following.params(), tools=following.tools())
        try:
            for reply in replies:
                if isinstance(reply, UnreachableError | EngineDeadError):
                    raise reply
                item, _, number = self.asked.popleft()
                self._settle(item, reply, number)
        finally:
            if isinstance(replies, Generator):
                replies.close()  # ends what is in flight now, not when it is collected
        return self.took_any

    def _questions(self) -> Iterator[Again]:
        """Yield what to ask next, noting it as asked: further questions first, then new items."""
        while True:
            if self.further:
                self.took_any = True
                entry = self.further.popleft()
            elif taken := self.journal.take(1):
                self.took_any = True
                begun = self._begun(taken[0])
                if begun is None:
                    continue
                entry = (taken[0], begun, 1)
            else:
                return
            self.asked.append(entry)
            yield entry[1]

    def _begun(self, item: Item) -> Again | None:
        """The item's first question; None if it is settled without one."""
        if item.died:
            error: TesseraError = DocumentError(
                f"the process died {item.attempts - 1} times while it worked on this, and on nothing else at last; "
                "take it out, or try it alone.",
                code="worker_died",
            )
        else:
            try:
                return Again(*self.ask(item))
            except TesseraError as failure:
                error = failure
        self._settle(item, error, MAX_ROUNDS)
        return None

    def _settle(self, item: Item, reply: Completion | TesseraError, number: int) -> None:
        """Record the result, or queue the further question; `number` counts the item's questions."""
        if isinstance(reply, Completion):
            self.meter.count(reply.usage)
        outcome = self.accept(item, reply)
        if isinstance(outcome, Again) and number < MAX_ROUNDS:
            self.further.append((item, outcome, number + 1))
            return
        if isinstance(outcome, Again):
            outcome = _given_up(number)
        self.journal.finish(item.id, outcome.result, outcome.failed, review=outcome.review)
        self.meter.finished(failed=outcome.failed, review=outcome.review)


class _Following:
    """The three inputs of `ChatModel.each`, which reads one of each in turn."""

    def __init__(self, questions: Iterator[Again]) -> None:
        self._questions = questions
        self._last: Again | None = None

    def conversations(self) -> Iterator[Conversation]:
        for question in self._questions:
            self._last = question
            yield question.conversation
        self._last = None

    def params(self) -> Iterator[SamplingParams]:
        while self._last is not None:
            yield self._last.params

    def tools(self) -> Iterator[Tools]:
        while self._last is not None:
            yield self._last.tools


def _given_up(number: int) -> Done:
    error = {"code": "too_many_questions", "message": f"{number} questions brought no result that can be kept."}
    return Done(json.dumps({"error": error}), failed=True)
