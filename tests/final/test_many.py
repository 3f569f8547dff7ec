"""Operations on many jobs: which are meant, how many it was, and turn by turn."""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from final import (
    Job,
    JobQueue,
    PermanentFailure,
    QueueClosed,
    Status,
    Unique,
    UnknownJob,
    current_job,
)
from final.ledger.base import AT_ONCE
from tests.final.helpers import HeldUp, OpenQueue, eventually, nothing
from tests.helpers import DEADLINE, Background, Gate

AN_HOUR = 3_600


def fails(job: Job) -> None:
    if job.payload == "fails":
        raise PermanentFailure("no")


def ids(queue: JobQueue, status: str | None = None) -> list[str]:
    """The oldest first."""
    return [record.id for record in reversed(queue.jobs(status, 10_000))]


@pytest.fixture
def full(open_queue: OpenQueue) -> JobQueue:
    """Jobs that wait, w0 to w3; dead letters, d0 to d3; and completed ones, c0 to c3.

    The even ones are mails of user 7, the first of each is of group g, and the last is urgent.
    """
    queue: JobQueue = open_queue({"mail": fails, "sms": fails}, max_retries=0)
    for what, payload, run_at in (("w", None, AN_HOUR), ("d", "fails", None), ("c", None, None)):
        for n in range(4):
            queue.enqueue(
                Job(
                    f"{what}{n}",
                    payload,
                    kind="sms" if n % 2 else "mail",
                    run_at=run_at,
                    meta={"user": "8" if n % 2 else "7", "what": what},
                    group="g" if n == 0 else None,
                    priority="high" if n == 3 else "low",
                )
            )
    for n in range(4):
        queue.wait(f"d{n}", DEADLINE)
        queue.wait(f"c{n}", DEADLINE)
    return queue


WANTED = [
    ({}, "0123"),
    ({"kind": "mail"}, "02"),
    ({"meta": {"user": "7"}}, "02"),
    ({"meta": {"user": "8"}, "priority": "high"}, "3"),
    ({"group": "g"}, "0"),
    ({"group": "g", "kind": "sms"}, ""),
    ({"meta": {"user": "9"}}, ""),
    ({"enqueued_after": 0, "enqueued_before": 4_000_000_000}, "0123"),
    ({"enqueued_after": 4_000_000_000}, ""),
    ({"enqueued_before": datetime(2020, 1, 1, tzinfo=UTC)}, ""),
    ({"enqueued_after": datetime.now(UTC) - timedelta(days=1)}, "0123"),
]


class TestWhich:
    @pytest.mark.parametrize(("wanted", "found"), WANTED)
    def test_jobs_that_wait_are_cancelled(self, full: JobQueue, wanted: Any, found: str) -> None:
        assert full.cancel_all(**wanted, dry_run=True) == len(found)
        assert ids(full, "cancelled") == []
        assert full.cancel_all(**wanted) == len(found)
        assert ids(full, "cancelled") == [f"w{n}" for n in found]
        assert full.cancel_all(**wanted) == 0

    @pytest.mark.parametrize(("wanted", "found"), WANTED)
    def test_dead_letters_are_purged(self, full: JobQueue, wanted: Any, found: str) -> None:
        assert full.purge(**wanted, dry_run=True) == len(found)
        assert full.purge(**wanted) == len(found)
        assert ids(full, "failed") == [f"d{n}" for n in "0123" if n not in found]
        assert len(ids(full)) == 12 - len(found)
        assert full.metrics().accepted == 12 - len(found)

    @pytest.mark.parametrize(("wanted", "found"), WANTED)
    def test_dead_letters_start_over(self, full: JobQueue, wanted: Any, found: str) -> None:
        assert full.retry_all(**wanted, dry_run=True) == len(found)
        assert {full.get(f"d{n}").attempts for n in "0123"} == {1}
        before = {n: full.get(f"d{n}").ended_at for n in "0123"}
        assert full.retry_all(**wanted) == len(found)
        for n in found:
            full.wait(f"d{n}", DEADLINE)
        again = [n for n in "0123" if full.get(f"d{n}").ended_at != before[n]]
        assert again == list(found)

    def test_of_one_status(self, full: JobQueue) -> None:
        assert full.cancel_all(status="queued") == 0
        assert full.cancel_all(status=Status.SCHEDULED, kind="sms") == 2
        assert full.purge(status="completed", meta={"user": "7"}) == 2
        assert ids(full, "completed") == ["c1", "c3"]
        assert full.purge(status="cancelled") == 2
        assert full.purge(status=None, dry_run=True) == 6
        assert full.purge("mail", status=None) == 2
        assert full.purge(status=None) == 4
        assert ids(full) == ["w0", "w2"]
        assert full.metrics().accepted == 2

    def test_by_when_they_ended(self, full: JobQueue) -> None:
        moment = full.get("d2").ended_at
        assert moment is not None
        early = [n for n in range(4) if (full.get(f"d{n}").ended_at or 0) < moment]
        assert full.purge(ended_after=moment, dry_run=True) == 4 - len(early)
        assert full.purge(ended_before=moment) == len(early)
        assert full.purge(ended_after=moment) == 4 - len(early)
        assert ids(full, "failed") == []
        assert len(full.jobs(ended_after=0)) == 4
        assert len(full.jobs(enqueued_after=time.time() - AN_HOUR)) == 8

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            ({"enqueued_after": "yesterday"}, "^enqueued_after, an aware datetime or Unix seconds"),
            ({"ended_before": float("nan")}, "^ended_before, an aware datetime or Unix seconds"),
            ({"ended_before": -1}, "^ended_before, an aware datetime or Unix seconds"),
            ({"ended_after": True}, "^ended_after, an aware datetime or Unix seconds"),
            (
                {"enqueued_before": datetime(2026, 1, 1)},
                "^enqueued_before must say",
            ),
            ({"priority": "urgent"}, "urgent"),
            ({"kind": 7}, "^kind is text"),
            ({"kind": "\ud800"}, "No kind is called"),
            ({"group": 7}, "^group is text"),
            ({"meta": {"user": 7}}, "^meta value of 'user'"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_what_makes_no_sense(self, full: JobQueue, wanted: Any, told: str) -> None:
        for act in (full.cancel_all, full.retry_all, full.purge):
            with pytest.raises((TypeError, ValueError), match=told):
                act(**wanted)
        assert len(ids(full)) == 12

    def test_a_status_that_they_do_not_have(self, full: JobQueue) -> None:
        with pytest.raises(ValueError, match="status failed is of jobs that have ended"):
            full.cancel_all(status="failed")
        with pytest.raises(ValueError, match="status queued is of jobs that have not ended"):
            full.purge(status="queued")
        for act in (full.cancel_all, full.purge):
            with pytest.raises(ValueError, match="lost"):
                act(status="lost")
        assert full.cancel_all(group="\ud800") == 0


class TestRunning:
    def test_jobs_that_run_are_told(self, open_queue: OpenQueue) -> None:
        running = threading.Semaphore(0)

        def handler(job: Job) -> None:
            running.release()
            if not current_job().sleep(DEADLINE):
                raise RuntimeError("told to stop")

        queue = open_queue(handler, workers=2, max_retries=3)
        for number in range(4):
            queue.enqueue(Job(str(number)))
        for _ in range(2):
            assert running.acquire(timeout=DEADLINE)
        assert queue.cancel_all() == 4
        for number in range(4):
            assert queue.wait(str(number), DEADLINE).status is Status.CANCELLED
        assert queue.cancel_all() == 0

    def test_a_kind_that_nobody_handles_here(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue({"a": nothing, "b": nothing}, path=path) as queue:
            queue.enqueue_many([Job(kind=kind, run_at=AN_HOUR) for kind in "ab"])
            queue.close(drain=False)
        queue = open_queue({"a": nothing}, path=path)
        assert queue.cancel_all() == 2
        assert len(ids(queue, "cancelled")) == 2


@pytest.mark.timeout(300)
class TestTurns:
    A_WHILE = 3 * DEADLINE  # for hundreds of tracebacks, on a server as well

    @pytest.mark.slow
    def test_a_turn_moves_so_many_and_progress_is_told(self, open_queue: OpenQueue) -> None:
        queue = open_queue(fails, max_retries=0, capacity=5_000, workers=1)
        queue.enqueue_many([Job(payload="fails") for _ in range(2 * AT_ONCE + 10)])
        queue.join(self.A_WHILE)
        told: list[int] = []
        assert queue.retry_all(dry_run=True, progress=told.append) == 2 * AT_ONCE + 10
        assert told == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 10]
        told.clear()
        assert queue.purge(progress=told.append) == 2 * AT_ONCE + 10
        assert told == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 10]

    def test_what_progress_raises_ends_it_there(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, capacity=5_000)
        queue.enqueue_many([Job(run_at=AN_HOUR) for _ in range(2 * AT_ONCE)])

        def enough(done: int) -> None:
            raise InterruptedError(f"after {done}")

        with pytest.raises(InterruptedError, match=f"after {AT_ONCE}"):
            queue.cancel_all(progress=enough)
        assert queue.metrics().cancelled == AT_ONCE
        assert queue.cancel_all() == AT_ONCE

    @pytest.mark.slow
    def test_letters_that_fail_again_meanwhile_are_not_retried_for_ever(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(fails, max_retries=0, capacity=5_000, workers=1)
        queue.enqueue_many([Job(payload="fails") for _ in range(AT_ONCE + 10)])
        queue.join(self.A_WHILE)
        assert queue.retry_all(progress=lambda _: queue.join(self.A_WHILE)) == AT_ONCE + 10

    def test_letters_that_share_a_key_do_not_hold_up_those_behind_them(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(fails, max_retries=0, capacity=5_000, workers=1)
        for _ in range(3):
            queue.enqueue(Job(payload="fails", unique=Unique("shared")))
            queue.join(DEADLINE)
        queue.enqueue_many([Job(payload="fails") for _ in range(AT_ONCE + 10)])
        queue.join(self.A_WHILE)
        assert queue.retry_all(dry_run=True) == AT_ONCE + 13
        assert queue.retry_all() == AT_ONCE + 11

    def test_several_at_a_time(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, capacity=5_000)
        queue.enqueue_many([Job(run_at=AN_HOUR) for _ in range(2 * AT_ONCE)])
        cancelling = [Background(queue.cancel_all) for _ in range(3)]
        assert sum(each.result() for each in cancelling) == 2 * AT_ONCE

    def test_a_closed_queue_says_so(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.close()
        for act in (queue.cancel_all, queue.retry_all, queue.purge):
            with pytest.raises(QueueClosed):
                act()
            assert act(dry_run=True) == 0


class TestWithOthers:
    def test_children_of_what_is_cancelled_are_cancelled(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("parent", run_at=AN_HOUR, meta={"user": "7"}))
        queue.enqueue(Job("child", after=["parent"]))
        queue.enqueue(Job("stays", after=["parent"], if_failed="run"))
        assert queue.cancel_all(meta={"user": "7"}) == 1
        assert queue.wait("child", DEADLINE).status is Status.CANCELLED
        assert queue.wait("stays", DEADLINE).status is Status.COMPLETED

    def test_a_key_is_free_again(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        for _ in range(2):
            job_id = queue.enqueue(Job(run_at=AN_HOUR, unique=Unique("k")))
            assert queue.cancel_all() == 1
        assert queue.purge(status="cancelled") == 2
        assert queue.enqueue(Job(run_at=AN_HOUR, unique=Unique("k"))) != job_id

    def test_the_next_of_a_group_has_its_turn(self, held_up: HeldUp, gate: Gate) -> None:
        queue, started = held_up()
        for number in range(3):
            queue.enqueue(Job(str(number), group="g", meta={"n": str(number)}))
        assert queue.cancel_all(meta={"n": "0"}) == 1
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == ["holder", "1", "2"]

    def test_a_result_that_a_child_will_read_stays(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: job.id)
        queue.enqueue(Job("one"))
        queue.wait("one", DEADLINE)
        queue.enqueue(Job("two", run_at=AN_HOUR))
        queue.enqueue(Job("both", after=["one", "two"]))
        assert queue.purge(status="completed") == 0
        with pytest.raises(ValueError, match="Job one stays: jobs after it have not ended"):
            queue.delete("one")
        queue.cancel("two")
        queue.wait("both", DEADLINE)
        assert queue.purge(status="completed") == 1


class TestDelete:
    def test_one_that_has_ended_is_gone(self, full: JobQueue) -> None:
        full.cancel("w0")
        for job_id in ("w0", "d0", "c0"):
            full.delete(job_id)
            with pytest.raises(UnknownJob):
                full.get(job_id)
            assert full.attempts(job_id) == []
        assert full.jobs(group="g") == []
        assert full.metrics().accepted == 9
        assert full.enqueue(Job("d0", kind="mail")) == "d0"  # its id is free again

    def test_another_one_is_refused(self, full: JobQueue) -> None:
        with pytest.raises(ValueError, match="Job w0 is scheduled: cancel it first"):
            full.delete("w0")
        with pytest.raises(UnknownJob):
            full.delete("nobody")

    def test_one_that_runs_is_refused(self, held_up: HeldUp) -> None:
        queue, _ = held_up()
        with pytest.raises(ValueError, match="Job holder is processing: cancel it first"):
            queue.delete("holder")


def test_the_history_is_as_long_as_ever_after_a_purge(open_queue: OpenQueue) -> None:
    # With one worker, so that they end in the order in which they come.
    queue = open_queue({"a": nothing, "b": nothing}, workers=1, history=20)
    for turn in range(3):
        for number in range(30):
            queue.enqueue(Job(f"{turn}-{number}", kind="ab"[number % 2]))
        queue.join(DEADLINE)
        eventually(lambda: len(ids(queue)) == 20, "the others to be forgotten")
        assert queue.purge("a", status="completed") == 10
        assert ids(queue) == [f"{turn}-{number}" for number in range(11, 30, 2)]
        queue.enqueue_many([Job(kind="b") for _ in range(8)])
        queue.join(DEADLINE)
        assert len(ids(queue)) == 18


def test_in_the_file_nothing_is_left(open_queue: OpenQueue, path: str) -> None:
    with open_queue(fails, path=path, max_retries=0) as queue:
        for payload in ("fails", None):
            queue.enqueue(Job(payload=payload, meta={"a": "b"}, unique=Unique(str(payload))))
        queue.join(DEADLINE)
        assert queue.purge(status=None) == 2
    connection = sqlite3.connect(path)
    for table in ("job", "payload", "failure", "meta", "holder", "dependency"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    connection.close()
