"""History: how many ended jobs the file keeps; forgetting the others is done bit by bit."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import sys
from collections.abc import Callable, Sequence

import pytest

from final import Job, JobQueue, Priority, Status, UnknownJob, current_job
from final.ledger import history
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.final import inside
from tests.final.helpers import AT_ONCE, OpenQueue, eventually, in_file, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal


def fails(job: Job) -> None:
    """A handler that fails where the payload says so: always, or at first."""
    if job.payload == "always" or (job.payload == "once" and current_job().attempt == 1):
        raise ValueError("no")


def run(queue: JobQueue, *names: str, payload: object = None) -> None:
    """Run these jobs one after the other, so that they end in this order."""
    for name in names:
        queue.wait(queue.enqueue(Job(name, payload=payload)), DEADLINE)


def kept(queue: JobQueue) -> list[str]:
    """The ended jobs that are still there, oldest first."""
    return [record.id for record in reversed(queue.jobs(limit=10_000)) if record.status.ended]


def keeps(queue: JobQueue, *names: str) -> None:
    eventually(lambda: kept(queue) == list(names), f"the history to be {names}")


class TestWhatIsKept:
    def test_the_latest_ones(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, history=3)
        run(queue, "a", "b", "c")
        keeps(queue, "a", "b", "c")
        run(queue, "d", "e")
        keeps(queue, "c", "d", "e")

    def test_by_when_they_ended_not_by_when_they_came(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "old":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, workers=2, history=2)
        queue.enqueue(Job("old"))
        started.wait_for("old")
        run(queue, "a", "b")
        gate.open()
        queue.wait("old", DEADLINE)
        keeps(queue, "old", "b")

    def test_nothing_if_so_asked(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path, history=0)
        queue.enqueue_many([Job(str(n)) for n in range(100)])
        queue.join(DEADLINE)
        keeps(queue)
        with pytest.raises(UnknownJob, match=r"check the id, or raise history=\."):
            queue.get("5")
        queue.close()
        assert in_file(path, "id") == []

    def test_cancelled_and_dropped_jobs_are_history_too(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if job.id == "holder":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, workers=1, capacity=1, overflow="drop-newest", history=2)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        queue.enqueue_many([Job("cancelled"), Job("dropped")])
        queue.cancel("cancelled")
        keeps(queue, "cancelled", "dropped")
        gate.open()
        queue.join(DEADLINE)
        run(queue, "next")
        eventually(lambda: len(kept(queue)) == 2, "the history to be full")
        assert kept(queue)[-1] == "next"
        assert (queue.metrics().cancelled, queue.metrics().dropped) == (1, 1)

    def test_dead_letters_stay_until_somebody_decides(self, open_queue: OpenQueue) -> None:
        queue = open_queue(fails, history=2, max_retries=0)
        run(queue, "dead", "dead too", payload="always")
        run(queue, *"abcdef")
        keeps(queue, "dead", "dead too", "e", "f")
        queue.retry("dead")
        queue.wait("dead", DEADLINE)
        assert queue.purge() == 2
        keeps(queue, "e", "f")

    def test_what_has_not_ended_is_never_forgotten(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, history=0)
        queue.enqueue(Job("later", run_at=3600))
        run_many(queue, 50)
        keeps(queue)
        assert queue.status("later") is Status.SCHEDULED

    def test_attempts_of_forgotten_jobs_go_with_them(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(fails, path=path, history=1, backoff=AT_ONCE)
        run(queue, "a", "b", "c", payload="once")
        keeps(queue, "c")
        queue.close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT seq FROM failure").fetchall()
            assert rows == connection.execute("SELECT seq FROM job").fetchall()

    def test_whoever_waits_for_a_job_gets_its_record_all_the_same(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        def handler(job: Job) -> str:
            gate.wait()
            return "kept for whoever waits"

        queue = open_queue(handler, history=0)
        queue.enqueue(Job("x"))
        waiting = Background(queue.wait, "x", DEADLINE)
        eventually(lambda: "x" in inside.watched(queue), "the wait to arrive")
        gate.open()
        assert waiting.result().result == "kept for whoever waits"
        eventually(lambda: queue.jobs() == [], "the job to be forgotten")

    @pytest.mark.parametrize("history", [0, 1, 31])
    def test_a_map_needs_none(self, open_queue: OpenQueue, history: int) -> None:
        queue = open_queue(lambda job: job.payload, workers=2, history=history)
        assert list(queue.map(range(100), timeout=DEADLINE)) == list(range(100))

    def test_nor_does_one_whose_results_are_not_asked_for_at_once(
        self, open_queue: OpenQueue
    ) -> None:
        """However many others end before they are."""
        queue = open_queue(lambda job: job.payload, workers=2, history=1)
        results = queue.map(range(32), timeout=DEADLINE)
        assert next(results) == 0
        queue.enqueue_many([Job() for _ in range(100)])
        queue.join(DEADLINE)
        eventually(lambda: len(queue.jobs()) == 1, "all but one to be forgotten")
        assert list(results) == list(range(1, 32))

    def test_nor_do_several_maps_at_once(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload, workers=4, history=0)
        maps = [Background(lambda: list(queue.map(range(500)))) for _ in range(3)]
        assert [each.result() for each in maps] == [list(range(500))] * 3

    def test_a_map_leaves_no_wait_behind(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.payload, history=0)
        for result in queue.map(itertools.count(), timeout=DEADLINE):
            if result == 100:
                break
        queue.join(DEADLINE)
        assert inside.nobody_waits(queue)

    def test_the_id_of_a_forgotten_job_is_free_again(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, history=0)
        for _ in range(3):
            queue.enqueue(Job("again"))
            queue.join(DEADLINE)
            keeps(queue)

    def test_nothing_is_kept_for_every_kind_that_ever_was(self, open_queue: OpenQueue) -> None:
        """There may be a kind for each customer: whoever still holds its name is counted."""
        kinds = [f"customer {n}" for n in range(3_000)]
        before = [sys.getrefcount(kind) for kind in kinds]
        queue = open_queue(nothing, history=0, capacity=3_000)
        queue.enqueue_many([Job(kind=kind) for kind in kinds])
        queue.join(DEADLINE)
        after = [sys.getrefcount(kind) for kind in kinds]
        assert sum(now > then for now, then in zip(after, before, strict=True)) < 1_500

    def test_the_counts_stay(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, history=5)
        run_many(queue, 300)
        eventually(lambda: len(kept(queue)) == 5, "the rest to be forgotten")
        counts = queue.metrics()
        assert (counts.completed, counts.accepted) == (300, 300)


class TestBitByBit:
    def test_no_commit_forgets_more_than_a_few(
        self, open_queue: OpenQueue, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "AT_ONCE", 7)
        with open_queue(nothing, path=path) as queue:
            run_many(queue, 100)
        sizes: list[int] = []
        monkeypatch.setattr(SqliteFile, "forget", counting(sizes, SqliteFile.forget))
        queue = open_queue(nothing, path=path, history=10)
        eventually(lambda: len(kept(queue)) == 10, "the rest to be forgotten")
        assert sum(sizes) == 90
        assert max(sizes) <= 7

    def test_jobs_run_meanwhile(
        self, open_queue: OpenQueue, path: str, monkeypatch: pytest.MonkeyPatch, gate: Gate
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            run_many(queue, 200)
        monkeypatch.setattr(history, "AT_ONCE", 1)
        sizes: list[int] = []
        forgets, forget = Journal(), counting(sizes, SqliteFile.forget)
        before_it_started: list[int] = []

        def forget_when_it_is_there(file: SqliteFile, seqs: Sequence[int]) -> None:
            forgets.write("begins")
            gate.wait()
            forget(file, seqs)

        def note(moves: Sequence[Move]) -> None:
            if any(t.id == "x" for m in moves if m.target is Status.PROCESSING for t in m.tasks):
                before_it_started.append(sum(sizes))

        monkeypatch.setattr(SqliteFile, "forget", forget_when_it_is_there)
        queue = open_queue(nothing, path=path, history=0)
        inside.before_each_commit(queue, note)
        forgets.wait_for("begins")
        enqueued = Background(queue.enqueue, Job("x"))
        eventually(lambda: inside.messages(queue) > 0, "the job to be there")
        gate.open()
        assert enqueued.result() == "x"
        queue.join(DEADLINE)
        [forgotten] = before_it_started
        assert forgotten < 200, "Everything was forgotten before the first job could run."


class TestReopening:
    def test_a_smaller_history_trims_the_file(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(fails, path=path, max_retries=0) as queue:
            run(queue, "dead", payload="always")
            run(queue, *"abcdef")
        queue = open_queue(nothing, path=path, history=2)
        keeps(queue, "dead", "e", "f")
        queue.close()
        assert in_file(path, "id") == ["dead", "e", "f"]

    def test_a_larger_one_keeps_what_is_there(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path, history=2) as queue:
            run(queue, *"abcd")
            keeps(queue, "c", "d")
        queue = open_queue(nothing, path=path, history=100)
        run(queue, *"ef")
        keeps(queue, *"cdef")

    def test_the_counts_stay_what_they_were(self, open_queue: OpenQueue, path: str) -> None:
        """Whoever plots them sees no jump. (A purged dead letter has left them at once.)"""
        options = {"path": path, "history": 2, "max_retries": 0}
        with open_queue(fails, **options) as queue:
            run(queue, *"abcd")
            run(queue, "x", "y", payload="always")
            assert queue.purge() == 2
            queue.enqueue_many([Job(n, run_at=60, priority=Priority.LOW) for n in "efg"])
            assert all(queue.cancel(name) for name in "efg")
            run(queue, "z", payload="always")
            keeps(queue, "f", "g", "z")
            before = queue.metrics()
        queue = open_queue(fails, **options)
        after = queue.metrics()
        for status in ("accepted", *Status):
            for lane in Priority:
                of_lane = (counts.by_priority[lane] for counts in (before, after))
                assert len({getattr(counts, status) for counts in of_lane}) == 1
        assert (after.completed, after.cancelled, after.failed, after.accepted) == (4, 3, 1, 8)

    def test_so_does_the_count_of_drops(self, open_queue: OpenQueue, path: str, gate: Gate) -> None:
        def handler(job: Job) -> None:
            gate.wait()

        options = {"path": path, "history": 1, "capacity": 1, "overflow": "drop-newest"}
        with open_queue(handler, workers=1, **options) as queue:
            queue.enqueue_many([Job() for _ in range(9)])
            dropped = queue.metrics().dropped
            assert dropped > 1
            gate.open()
        assert open_queue(handler, **options).metrics().dropped == dropped

    def test_numbers_and_tokens_still_only_grow(self, open_queue: OpenQueue, path: str) -> None:
        """Also when the row with the highest ones is gone: a token is for other systems too."""
        tokens: list[int] = []

        def handler(job: Job) -> None:
            tokens.append(current_job().token)

        for _ in range(3):
            with open_queue(handler, path=path, history=0) as queue:
                run_many(queue, 3)
                keeps(queue)
        assert tokens == sorted(tokens)
        assert tokens[0] < tokens[3] < tokens[6]


def run_many(queue: JobQueue, count: int) -> None:
    queue.enqueue_many([Job() for _ in range(count)])
    queue.join(DEADLINE)


Forget = Callable[[SqliteFile, Sequence[int]], None]


def counting(sizes: list[int], forget: Forget) -> Forget:
    """``forget``, but it leaves in ``sizes`` how many jobs each call is about."""

    def counted(file: SqliteFile, seqs: Sequence[int]) -> None:
        forget(file, seqs)
        sizes.append(len(seqs))

    return counted


def test_what_was_purged_is_not_let_go_of_again() -> None:
    ended = history.History(limit=1)
    ended.add([1, 2, 3])
    ended.purge([1])
    ended.written([])
    let_go = []
    while ended.is_too_long():
        let_go += ended.oldest()
        ended.written([])
    assert let_go == [2]
