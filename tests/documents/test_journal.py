"""The journal: every item once, done means committed, leases come back, and killers are found out."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tessera.documents import journal as journal_module
from tessera.documents.journal import Counts, DuplicateError, Journal, Result
from tessera.errors import DiskFullError, TesseraError, UsageError

JOB = {"input": "sha256 of it", "model": "nano", "settings": "{}"}


def items(count: int) -> list[tuple[str, str]]:
    return [(f"i{number}", f"payload {number}") for number in range(count)]


def crash(journal: Journal) -> None:
    """End a worker as a kill would: nothing buffered is written, and the system drops its locks."""
    journal._closing.set()
    journal._keeper.join()
    journal._connection.close()
    os.close(journal._owner._descriptor)


def raw(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_results_come_in_the_order_of_adding_whatever_the_order_of_finishing(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        assert journal.add(items(5)) == 5
        taken = [item.id for item in journal.take(5)]
        assert taken == ["i0", "i1", "i2", "i3", "i4"]
        for identity in reversed(taken):
            journal.finish(identity, f"r{identity}", identity == "i2", review=identity == "i3")
        assert [(row.id, row.result, row.failed, row.review) for row in journal.results()] == [
            (name, f"r{name}", name == "i2", name == "i3") for name in taken
        ]
        assert journal.counts() == Counts(total=5, done=4, failed=1, running=0, waiting=0, review=1)


def test_a_result_counts_as_done_only_when_another_process_can_read_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(2))
        journal.take(2)
        journal.finish("i0", "r")
        journal.flush()
        assert raw(tmp_path / "j", "SELECT result FROM items WHERE id = 'i0'") == [("r",)]
        assert journal.counts().done == 1


def test_late_results_are_committed_without_a_further_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "GROUP_S", 0.02)
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
        journal.take()
        journal.finish("i0", "r")
        for _ in range(1000):
            if raw(tmp_path / "j", "SELECT result FROM items") == [("r",)]:
                break
            threading.Event().wait(0.02)
        else:
            pytest.fail("the result was never committed")


@pytest.mark.parametrize("name", ["input", "model", "settings"])
def test_another_job_is_refused_by_the_name_of_what_differs(tmp_path: Path, name: str) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
    with pytest.raises(UsageError, match=rf"its {name} is .*another'.*--force"):
        Journal.open(tmp_path / "j", JOB | {name: "another"})
    with Journal.open(tmp_path / "j", JOB | {name: "another"}, force=True) as journal:
        assert journal.counts().total == 0


def test_what_is_no_journal_is_refused_and_never_overwritten(tmp_path: Path) -> None:
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("not a database, and long enough that SQLite reads its header in vain " * 20)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    for path in (text, database):
        before = path.read_bytes()
        for force in (False, True):
            with pytest.raises(UsageError, match="is no journal"):
                Journal.open(path, JOB, force=force)
        assert path.read_bytes()[100:] == before[100:]
    with pytest.raises(UsageError, match="not there"):
        Journal.open(tmp_path / "absent" / "j", JOB)


def test_a_journal_in_use_is_not_begun_anew(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB), pytest.raises(UsageError, match="in use"):
        Journal.open(tmp_path / "j", JOB, force=True)


def test_ids_that_occur_twice_are_refused_with_both_payloads_and_nothing_is_added(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        with pytest.raises(DuplicateError) as caught:
            journal.add([("a", "line 1"), ("b", "line 2"), ("a", "line 3")])
        assert (caught.value.first, caught.value.second) == ("line 1", "line 3")
        assert journal.counts().total == 0
        assert journal.add([("a", "line 1")]) == 1
        assert journal.add([("a", "line 1"), ("c", "line 3")]) == 1  # a second run adds what is new
        with pytest.raises(DuplicateError):
            journal.add([("a", "another line")])


def test_two_workers_share_a_journal_and_never_an_item(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as one, Journal.open(tmp_path / "j", JOB) as two:
        one.add(items(10))
        first, second = {item.id for item in one.take(4)}, {item.id for item in two.take(20)}
        assert len(first) == 4
        assert len(second) == 6
        assert not first & second
        assert one.take() == two.take() == []
        two.release()
        assert {item.id for item in one.take(20)} == second


def test_items_given_back_count_as_not_tried(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
        for _ in range(5):
            assert [item.attempts for item in journal.take()] == [1]
            journal.release(["i0"])


def test_a_dead_workers_items_come_back_at_once_after_all_others(tmp_path: Path) -> None:
    dead = Journal.open(tmp_path / "j", JOB)
    dead.add(items(3))
    dead.take(1)
    crash(dead)
    with Journal.open(tmp_path / "j", JOB) as journal:
        assert [(item.id, item.attempts) for item in journal.take(2)] == [("i1", 1), ("i2", 1)]
        assert journal.take() == []  # a suspect waits for an empty hand
        journal.release()
        for _ in range(2):
            [item] = journal.take()
            journal.finish(item.id, "r")
        assert [(item.id, item.attempts, item.died) for item in journal.take(3)] == [("i0", 2, False)]
    assert list(tmp_path.glob(".j.*")) == []  # neither worker leaves its lock behind


def test_a_standing_workers_items_come_back_at_their_deadline_without_blame(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "j", JOB, lease_s=-1.0) as standing,
        Journal.open(tmp_path / "j", JOB) as journal,
    ):
        standing.add(items(1))
        standing.take()
        assert [(item.id, item.died) for item in journal.take()] == [("i0", False)]
        assert raw(tmp_path / "j", "SELECT blame FROM items") == [(0.0,)]
        standing.finish("i0", "late")  # the first result stays
        standing.flush()
        journal.finish("i0", "later")
        assert [row.result for row in journal.results()] == ["late"]


def test_the_killer_among_many_is_found_and_the_others_are_never_blamed_for_it(tmp_path: Path) -> None:
    deaths, finished = 0, set[str]()
    for _ in range(20):
        journal = Journal.open(tmp_path / "j", JOB)
        journal.add(items(100))
        died = False
        while taken := [item for _ in range(64) for item in journal.take()]:
            if "i7" in {item.id for item in taken if not item.died}:
                died = True
                break
            for item in taken:
                journal.finish(item.id, "worker_died" if item.died else "r", item.died)
                finished.add(item.id)
        if not died:
            journal.close()
            break
        deaths += 1
        crash(journal)
    assert deaths == 4  # among 64, among 8, and twice alone
    with Journal.open(tmp_path / "j", JOB) as journal:
        assert [row.id for row in journal.results() if row.failed] == ["i7"]
        assert journal.counts() == Counts(100, 99, 1, 0, 0)


def test_failed_items_wait_again_when_asked(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(3))
        for item in journal.take(3):
            journal.finish(item.id, "r", item.id != "i1")
        journal.flush()
        assert journal.retry_failed() == 2
        assert [(item.id, item.attempts) for item in journal.take(3)] == [("i0", 1), ("i2", 1)]


def test_a_signal_as_a_transaction_begins_leaves_none_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        connection = journal._connection

        class Interrupted:
            def __getattr__(self, name: str) -> object:
                return getattr(connection, name)

            def execute(self, statement: str, *values: object) -> object:
                done = connection.execute(statement, *values)
                if statement.startswith("BEGIN"):
                    raise KeyboardInterrupt
                return done

        with monkeypatch.context() as patch:
            patch.setattr(journal, "_connection", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                journal.add(items(1))
        assert journal.add(items(2)) == 2


def test_a_full_disk_is_said_at_the_next_call(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
        (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        journal.take()
        journal.finish("i0", "r" * 100_000)
        with pytest.raises(DiskFullError, match="no space"):
            journal.flush()
        journal._connection.execute("PRAGMA max_page_count = 1000000")
        assert [row.result for row in journal.results()] == ["r" * 100_000]


def test_a_limit_on_files_is_said_and_loses_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
        journal.take()
        journal.finish("i0", "r" * 100_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, before[1]))
        try:
            with pytest.raises(DiskFullError, match="ulimit -f"):
                journal.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [row.result for row in journal.results()] == ["r" * 100_000]


def test_a_failure_of_the_keeper_reaches_the_worker(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", JOB) as journal:
        journal.add(items(1))
        journal._failure = TesseraError("the disk is gone")
        with pytest.raises(TesseraError, match="gone"):
            journal.take()
        journal._failure = None


def test_a_million_items_need_no_memory_of_theirs(tmp_path: Path) -> None:
    """In a process of its own: the peak of resident memory does not grow with the number of items."""
    program = """
import resource, sys
from tessera.documents.journal import Journal
def many(count):
    for number in range(count):
        yield f"i{number}", f"payload {number} " + "x" * 40
with Journal.open(sys.argv[1], {}) as journal:
    journal.add(many(1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    journal.add(many(100_000))
    sum(len(row.result or '') for row in journal.results())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "j"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # KiB; the items themselves have more


class Machine(RuleBasedStateMachine):
    """Random work of up to three workers on one journal, against a model that is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "j"
        self.workers: list[Journal] = []
        self.hands: list[dict[str, str]] = []
        self.added: list[str] = []
        self.committed: dict[str, Result] = {}
        self.buffered: list[dict[str, str]] = []

    @initialize(count=st.integers(1, 12))
    def begin(self, count: int) -> None:
        self.open()
        self.workers[0].add(items(count))
        self.added = [identity for identity, _ in items(count)]

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def open(self) -> None:
        self.workers.append(Journal.open(self.path, JOB))
        self.hands.append({})
        self.buffered.append({})

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2), count=st.integers(1, 4))
    def take(self, which: int, count: int) -> None:
        which %= len(self.workers)
        for item in self.workers[which].take(count):
            assert all(item.id not in hand for hand in self.hands), "two workers have one item"
            assert item.id not in self.committed
            self.hands[which][item.id] = item.payload

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2), pick=st.integers(0, 9), failed=st.booleans())
    def finish(self, which: int, pick: int, failed: bool) -> None:
        which %= len(self.workers)
        if not self.hands[which]:
            return
        identity = sorted(self.hands[which])[pick % len(self.hands[which])]
        del self.hands[which][identity]
        self.workers[which].finish(identity, f"r {identity}", failed)
        self.buffered[which][identity] = f"r {identity}"

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2))
    def flush(self, which: int) -> None:
        which %= len(self.workers)
        self.workers[which].flush()
        self.committed |= self.buffered[which]
        self.buffered[which] = {}

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2))
    def give_back(self, which: int) -> None:
        which %= len(self.workers)
        self.workers[which].release()
        self.hands[which] = {}

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2), kill=st.booleans())
    def end(self, which: int, kill: bool) -> None:
        which %= len(self.workers)
        worker, _, buffered = self.workers.pop(which), self.hands.pop(which), self.buffered.pop(which)
        if kill:
            crash(worker)  # what was buffered may be committed by now, or may be asked again
        else:
            worker.close()
            self.committed |= buffered

    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        if not self.path.exists() or not self.added:
            return
        rows = raw(self.path, "SELECT id, state, result FROM items ORDER BY number")
        assert [row[0] for row in rows] == self.added
        done = {str(row[0]): row[2] for row in rows if row[1] in (2, 3)}
        assert done.items() >= self.committed.items()

    def teardown(self) -> None:
        for worker in self.workers:
            worker.close()
        if self.added:
            with Journal.open(self.path, JOB) as journal:
                while taken := journal.take():
                    for item in taken:
                        journal.finish(item.id, f"r {item.id}", item.died)
                assert [row.id for row in journal.results()] == self.added
                assert {row.result for row in journal.results()} == {f"r {identity}" for identity in self.added}
        self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
