"""A full disk: nothing is acknowledged that is not stored, and the queue goes on by itself.

Two ways to fill it, both real. SQLite itself refuses to let the file grow beyond
``max_page_count``, on every platform; and POSIX systems refuse a process to write beyond
RLIMIT_FSIZE, which hits every commit, as a disk that is full to the last byte does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Sequence
from unittest import mock

import pytest

from final import Job, JobQueue, Status, StorageError
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.final import inside
from tests.final.helpers import (
    OpenQueue,
    child,
    completes,
    eventually,
    in_file,
    next_line,
    nothing,
    run_child,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

LARGE = "x" * 100_000  # a payload or result that does not fit into what is free in a page


class Disk:
    """The disk under a queue, which a test can fill and free: it counts at each commit."""

    def __init__(self, queue: JobQueue) -> None:
        self.full = True
        self._queue = queue
        inside.before_each_commit(queue, self._fill)

    def free(self) -> None:
        self.full = False

    def _fill(self, moves: Sequence[Move]) -> None:
        # Less than what there is means: what there is.
        limit = 1 if self.full else 1_000_000
        inside.pragma(self._queue, f"max_page_count = {limit}")


class TestNoRoomInTheFile:
    def test_a_job_that_does_not_fit_is_refused_in_a_sentence(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        Disk(queue)
        with pytest.raises(StorageError) as refused:
            queue.enqueue(Job("refused", payload=LARGE))
        assert str(refused.value) == (
            f"Cannot write {path}: database or disk is full. "
            "Free some space; the queue goes on by itself."
        )
        assert refused.value.accepted == []
        assert queue.metrics().accepted == 0
        assert queue.jobs() == []

    def test_the_metrics_say_so_until_it_is_over(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        assert queue.metrics().storage_error is None
        disk = Disk(queue)
        with (
            mock.patch("final.engine.dispatcher.STORAGE_RETRY_SECONDS", DEADLINE),
            pytest.raises(StorageError) as refused,
        ):
            queue.enqueue(Job(payload=LARGE))
        assert queue.metrics().storage_error == str(refused.value)
        disk.free()
        assert completes(queue)
        assert queue.metrics().storage_error is None

    def test_what_cannot_be_recovered_for_want_of_room_is_there_when_it_is_opened_again(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue_many([Job(run_at=3600) for _ in range(300)])
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            file.execute(
                "UPDATE job SET status = 'processing', due_at = NULL, started_at = enqueued_at,"
                " attempts = 1, token = seq, alone = 1"
            )
        connect = SqliteFile._connect

        def connect_full(file: SqliteFile, read_only: bool = False) -> sqlite3.Connection:
            connection = connect(file, read_only)
            connection.execute("PRAGMA max_page_count = 1")
            return connection

        with (
            mock.patch.object(SqliteFile, "_connect", connect_full),
            pytest.raises(StorageError) as refused,
        ):
            open_queue(nothing, path=path)
        assert str(refused.value) == (
            f"Cannot write {path}: database or disk is full. Free some space; open it again."
        )
        queue = open_queue(nothing, path=path)
        queue.join(DEADLINE)
        assert queue.metrics().completed == 300

    def test_an_idle_queue_sees_by_itself_that_it_is_over(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        disk = Disk(queue)
        with pytest.raises(StorageError):
            queue.enqueue(Job(payload=LARGE))
        disk.free()
        eventually(lambda: queue.metrics().storage_error is None, "the queue to find out")

    def test_the_log_says_when_it_begins_and_when_it_is_over(
        self,
        open_queue: OpenQueue,
        path: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # What is small can be written all the time: it must not try that between the three.
        monkeypatch.setattr("final.engine.dispatcher.STORAGE_RETRY_SECONDS", DEADLINE)
        queue = open_queue(nothing, path=path)
        disk = Disk(queue)
        for _ in range(3):
            with pytest.raises(StorageError):
                queue.enqueue(Job(payload=LARGE))
        disk.free()
        assert completes(queue)
        assert Background(queue.close).result() is True  # then all of the log is written
        assert caplog.messages == [
            f"Cannot write {path}: database or disk is full. Free some space; the queue goes on "
            "by itself. Jobs are refused until then; nothing accepted is lost.",
            "The storage works again; nothing that was accepted is lost.",
        ]

    def test_what_was_acknowledged_is_in_the_file_and_nothing_else(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), path=path, workers=1)
        queue.enqueue(Job("holder"))
        disk = Disk(queue)
        acknowledged = ["holder"]

        def enqueue_on_and_on() -> None:  # some still fit into the pages that are there
            for n in itertools.count():
                acknowledged.append(queue.enqueue(Job(f"job-{n}", payload="x" * 500)))

        with pytest.raises(StorageError):
            enqueue_on_and_on()
        gate.open()
        disk.free()
        assert Background(queue.close).result() is True
        assert in_file(path, "id") == acknowledged
        assert set(in_file(path, "status")) == {"completed"}

    def test_of_many_jobs_in_one_call_all_are_refused_or_listed(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path, capacity=1)
        Disk(queue)
        with pytest.raises(StorageError) as refused:
            queue.enqueue_many([Job(f"job-{n}", payload="x" * 500) for n in range(1_000)])
        accepted = refused.value.accepted
        assert [record.id for record in queue.jobs(limit=1_000)] == accepted[::-1]
        assert queue.metrics().accepted == len(accepted)

    def test_a_call_of_which_one_job_does_not_fit_stores_none_of_it(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        Disk(queue)
        with pytest.raises(StorageError) as refused:
            queue.enqueue_many([Job("fits"), Job("too"), Job("does not", payload=LARGE)])
        assert refused.value.accepted == []
        assert queue.jobs() == []

    def test_a_refused_job_can_be_enqueued_again_under_its_id(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        disk = Disk(queue)
        job = Job("again", payload=LARGE)
        with pytest.raises(StorageError):
            queue.enqueue(job)
        disk.free()
        assert completes(queue, job)

    def test_an_outcome_of_the_outage_is_recorded_after_it_without_anybody_asking(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        ran = Journal()

        def handler(job: Job) -> str | None:
            ran.write(job.id)
            gate.wait()
            return LARGE if job.id == "large" else None

        queue = open_queue(handler, path=path, workers=2)
        queue.enqueue_many([Job("large"), Job("small"), Job("queued")])
        ran.wait_for("large")
        disk = Disk(queue)
        gate.open()
        eventually(lambda: queue.metrics().storage_error is not None, "the outcome to be refused")
        assert queue.status("large") is Status.PROCESSING
        # From here on nobody sends the dispatcher a message: it must come back by itself.
        waiting = Background(queue.wait, "large")
        eventually(lambda: "large" in inside.watched(queue), "the wait to begin")
        disk.free()
        assert waiting.result().result == LARGE
        queue.join(DEADLINE)
        assert queue.metrics().storage_error is None
        assert sorted(ran.entries) == ["large", "queued", "small"]
        assert [queue.get(job_id).attempts for job_id in ("large", "small", "queued")] == [1, 1, 1]

    def test_a_job_scheduled_before_the_outage_runs_after_it_without_anybody_asking(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), path=path)
        queue.enqueue(Job("scheduled", run_at=0.2))
        disk = Disk(queue)
        with pytest.raises(StorageError):
            queue.enqueue(Job(payload=LARGE))
        disk.free()
        ran.wait_for("scheduled")  # nobody sends the dispatcher a message meanwhile

    def test_close_waits_for_space_and_then_records_the_outcome(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        def handler(job: Job) -> str:
            gate.wait()
            return LARGE

        queue = open_queue(handler, path=path)
        queue.enqueue(Job())
        disk = Disk(queue)
        gate.open()
        eventually(lambda: queue.metrics().storage_error is not None, "the outcome to be refused")
        closing = Background(queue.close)
        disk.free()
        assert closing.result() is True
        assert in_file(path, "status, attempts") == [("completed", 1)]

    def test_close_gives_up_on_a_disk_that_stays_full(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        ran = Journal()

        def handler(job: Job) -> str:
            ran.write(job.id)
            return LARGE

        queue = open_queue(handler, path=path)
        Disk(queue)
        queue.enqueue(Job("done"))
        eventually(lambda: queue.metrics().storage_error is not None, "the outcome to be refused")
        assert Background(queue.close, True, 0).result() is False
        # At least once: what could not be recorded runs again at the next start.
        queue = open_queue(handler, path=path)
        assert queue.wait("done", DEADLINE).status is Status.COMPLETED
        assert ran.entries == ["done", "done"]


@pytest.mark.parametrize("scenario", ["full_disk"] if os.name == "posix" else [])
class TestNoRoomForOneByte:
    """The child of this test says what it sees, line by line: see ``children.full_disk``."""

    OUTAGE = (
        *(
            "Cannot write {path}: disk I/O error. Check the disk; the queue goes on by itself when "
            "it works again.",
        )
        * 3,
        "2 accepted, 1 completed",
        "processing",
    )

    def test_the_queue_goes_on_when_there_is_room_again(self, scenario: str, path: str) -> None:
        with child(scenario, path) as process:
            assert [next_line(process) for _ in self.OUTAGE] == [
                line.format(path=path) for line in self.OUTAGE
            ]
            assert process.stdin
            process.stdin.write("go on\n")
            process.stdin.flush()
            after = [next_line(process) for _ in range(5)]
        assert after == ["completed", "None", "completed", "True", "before in flight refused"]
        assert in_file(path, "id, status, attempts") == [
            ("before", "completed", 1),
            ("in flight", "completed", 1),
            ("refused", "completed", 1),
        ]

    def test_an_idle_queue_looks_until_there_is_room_again(self, scenario: str, path: str) -> None:
        (error,) = {line.format(path=path) for line in self.OUTAGE[:3]}
        code, lines, _ = run_child(f"idle_{scenario}", path)
        assert (code, lines) == (0, [error, error])

    def test_what_was_acknowledged_survives_a_kill_meanwhile(
        self, scenario: str, path: str, open_queue: OpenQueue
    ) -> None:
        with child(scenario, path) as process:
            for _ in self.OUTAGE:
                next_line(process)
            process.kill()
            Background(process.wait).result()
        queue = open_queue(nothing, path=path)
        queue.join(DEADLINE)
        jobs = {job.id: (job.status, job.attempts) for job in queue.jobs()}
        assert jobs == {"before": ("completed", 1), "in flight": ("completed", 2)}

    def test_a_file_that_cannot_be_made_is_refused_in_a_sentence(
        self, scenario: str, path: str, open_queue: OpenQueue
    ) -> None:
        _, [error], _ = run_child("no_disk", path)
        assert error.startswith(("Cannot write next to ", "Cannot open "))
        assert error.endswith("Check the disk; open it again when it works again.")
        assert completes(open_queue(nothing, path=path))  # what it left behind is no obstacle
