"""What an earlier process left unfinished comes back: whole, in order, with its attempts.

Without that a restart loses jobs, runs them out of order, forgets how often they were
tried, or crashes again at each start over the job that ended the process before.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time

import pytest

from final import Job, JobQueue, Priority, QueueFull, Status, current_job
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    child,
    completes,
    eventually,
    in_file,
    next_line,
    nothing,
    reaches,
    run_child,
)
from tests.helpers import DEADLINE, Background, Gate, Journal

LANES = list(Priority)


class FirstSession:
    """A queue with one worker, where the test decides by the payload what becomes of a job.

    "fails": the attempt fails, whenever it runs; "holds": it does not end.
    """

    def __init__(self, open_queue: OpenQueue, path: str, gate: Gate) -> None:
        self._gate = gate
        self._started = Journal()
        self._open_queue = open_queue
        self._path = path

    def open(self, **options: object) -> JobQueue:
        self.queue = self._open_queue(self._handle, path=self._path, workers=1, **options)
        return self.queue

    def hold(self, job: Job) -> None:
        """Enqueue ``job`` and wait until it runs; it does so until the end of the session."""
        self.queue.enqueue(job)
        self._started.wait_for(job.id)

    def cut(self) -> None:
        """End the session with everything unfinished."""
        Background(self.queue.close, False, 0).result()

    def _handle(self, job: Job) -> None:
        if job.payload == "fails":
            raise ValueError("no")
        self._started.write(job.id)
        if job.payload == "holds":
            self._gate.wait()


@pytest.fixture
def first(open_queue: OpenQueue, path: str, gate: Gate) -> FirstSession:
    return FirstSession(open_queue, path, gate)


def run_the_rest(open_queue: OpenQueue, path: str) -> list[str]:
    """Open the file again with one worker; in which order it runs what is there."""
    ran = Journal()
    queue = open_queue(lambda job: ran.write(job.id), path=path, workers=1)
    queue.join(DEADLINE)
    return [str(entry) for entry in ran.entries]


class TestOrder:
    def test_lanes_come_back_in_their_order(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open()
        first.hold(Job("held", "holds", Priority.LOW))
        queue.enqueue_many([Job(f"{lane}-{n}", priority=lane) for n in range(30) for lane in LANES])
        first.cut()
        ran = run_the_rest(open_queue, path)
        assert len(ran) == 91
        for lane in LANES:
            expected = [f"{lane}-{n}" for n in range(30)]
            assert [job_id for job_id in ran if job_id.startswith(lane)] == expected
        # Across the lanes the token rule holds, as ever: ten urgent jobs, then each other lane.
        assert ran[:12] == [*(f"high-{n}" for n in range(10)), "medium-0", "held"]

    def test_a_retried_job_comes_back_behind_its_peers(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(backoff=AT_ONCE)
        queue.enqueue_many([Job("retried", "fails"), Job("held", "holds"), Job("a"), Job("b")])
        eventually(
            lambda: (queue.status("retried"), queue.get("retried").attempts) == ("queued", 1),
            "the retry to stand in the lane",
        )
        queue.enqueue(Job("c"))
        first.cut()
        assert run_the_rest(open_queue, path) == ["held", "a", "b", "retried", "c"]

    def test_a_revived_dead_letter_comes_back_behind_its_peers(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(max_retries=0)
        queue.wait(queue.enqueue(Job("dead", "fails")), DEADLINE)
        first.hold(Job("held", "holds"))
        queue.enqueue_many([Job("a"), Job("b")])
        queue.retry("dead")
        queue.enqueue(Job("c"))
        first.cut()
        assert run_the_rest(open_queue, path) == ["held", "a", "b", "dead", "c"]

    def test_new_jobs_come_behind_those_that_came_back(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        first.open()
        first.hold(Job("1", "holds"))
        first.queue.enqueue_many([Job("2"), Job("3")])
        first.cut()
        first.open()
        first.queue.enqueue(Job("4"))
        first.cut()
        assert run_the_rest(open_queue, path) == ["1", "2", "3", "4"]

    def test_a_backlog_larger_than_the_lanes_comes_back_whole(
        self, first: FirstSession, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        first.open(capacity=500)
        first.hold(Job("0", "holds"))
        first.queue.enqueue_many([Job(str(n)) for n in range(1, 500)])
        first.cut()

        ran, hold = Journal(), Gate()

        def handler(job: Job) -> None:
            ran.write(int(job.id))
            hold.wait()

        queue = open_queue(handler, path=path, workers=1, capacity=3)
        counts = queue.metrics()
        assert counts.queued + counts.processing == counts.accepted == 500
        with pytest.raises(QueueFull):  # the lane is more than full
            queue.enqueue(Job(), timeout=0)
        hold.open()
        queue.join(DEADLINE)
        assert ran.entries == list(range(500))
        assert completes(queue, Job("500"))

    def test_it_runs_without_anybody_asking(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        first.open()
        first.hold(Job("held", "holds"))
        first.queue.enqueue(Job("queued"))
        first.cut()
        ran = Journal()
        open_queue(lambda job: ran.write(job.id), path=path, workers=1)
        ran.wait_for("queued")  # nobody has called a method of the queue
        assert ran.entries == ["held", "queued"]

    def test_a_name_that_is_refused_by_now_runs(self, open_queue: OpenQueue, path: str) -> None:
        """Of 3,000 bytes: a release that did not count them has let it in."""
        older = open_queue(nothing, path=path)
        older.enqueue(Job("short", "payload", run_at=86_400))
        older.close()
        long = "\u6f22" * 1_000
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            file.execute("UPDATE job SET id = ?, grp = ?, due_at = 0", (long, long))
        ran: list[tuple[str, object]] = []

        def handle(job: Job) -> None:
            ran.append((job.id, job.payload))

        queue = open_queue(handle, path=path)
        assert queue.wait(long, DEADLINE).status is Status.COMPLETED
        assert ran == [(long, "payload")]


class TestAttempts:
    def test_a_retry_keeps_its_attempts_and_its_due_time(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(backoff=NOT_TODAY)
        queue.enqueue(Job("later", "fails"))
        reaches(queue, "later", Status.RETRYING)
        before = queue.get("later")
        first.cut()
        queue = open_queue(nothing, path=path, backoff=AT_ONCE)
        assert completes(queue)  # while that one still waits
        assert queue.get("later") == before
        assert queue.metrics().retrying == 1

    def test_a_retry_that_fell_due_meanwhile_runs_at_once(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(backoff=NOT_TODAY)
        queue.enqueue(Job("later", "fails"))
        reaches(queue, "later", Status.RETRYING)
        first.cut()
        fall_due(path)
        queue = open_queue(nothing, path=path)
        record = queue.wait("later", DEADLINE)
        assert (record.status, record.attempts) == (Status.COMPLETED, 2)

    def test_attempts_add_up_over_restarts(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(backoff=NOT_TODAY)
        queue.enqueue(Job("hopeless", "fails"))
        reaches(queue, "hopeless", Status.RETRYING)
        first.cut()
        fall_due(path)
        record = first.open(max_retries=3, backoff=AT_ONCE).wait("hopeless", DEADLINE)
        assert (record.status, record.attempts) == (Status.FAILED, 4)

    def test_a_job_that_was_running_at_a_crash_is_charged_and_runs_again(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        kill_while_busy(path)
        assert in_file(path, "id, status, attempts") == [
            ("in flight", "processing", 1),
            ("queued", "queued", 0),
            ("too", "queued", 0),
        ]
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), path=path, workers=1)
        queue.join(DEADLINE)
        assert ran.entries == ["in flight", "queued", "too"]
        assert [queue.get(str(job_id)).attempts for job_id in ran.entries] == [2, 1, 1]

    def test_its_last_attempt_is_not_charged_the_first_time(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        """It may have been claimed, and not begun."""
        kill_while_busy(path)
        queue = open_queue(nothing, path=path, max_retries=0)
        assert queue.wait("in flight", DEADLINE).status is Status.COMPLETED
        assert queue.get("in flight").attempts == 1

    def test_a_job_without_attempts_left_is_a_dead_letter_that_says_why(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        before = time.time()
        kill_while_busy(path)
        kill_while_busy(path)
        queue = open_queue(nothing, path=path, max_retries=1)
        [dead] = queue.dead_letters()
        assert (dead.id, dead.status, dead.attempts) == ("in flight", Status.FAILED, 2)
        assert dead.error == "The process ended during attempt 2, the last one."
        assert dead.ended_at is not None
        first, second = queue.attempts(dead.id)
        assert (first.number, first.error) == (1, "The process ended during attempt 1.")
        assert (second.number, second.error) == (2, dead.error)
        assert before <= first.started_at < first.ended_at <= second.started_at < second.ended_at
        assert second.started_at == pytest.approx(dead.started_at, abs=0.001)
        assert second.ended_at == dead.ended_at
        queue.join(DEADLINE)
        assert queue.metrics().completed == 2

    def test_the_log_says_so_too(
        self, open_queue: OpenQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        kill_while_busy(path)
        kill_while_busy(path)
        open_queue(nothing, path=path, max_retries=1)
        assert caplog.messages == [
            "job in flight failed, attempt 2, no attempts left: "
            "The process ended during attempt 2, the last one."
        ]

    def test_a_job_that_comes_back_is_told_of_at_debug(
        self, open_queue: OpenQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        kill_while_busy(path)
        caplog.set_level(logging.DEBUG, "final")
        open_queue(nothing, path=path)
        assert caplog.messages[0] == "job in flight queued, attempts 1"

    def test_fencing_tokens_only_grow(self, open_queue: OpenQueue, path: str) -> None:
        tokens = Journal()
        for _ in range(3):
            with open_queue(lambda job: tokens.write(current_job().token), path=path) as queue:
                completes(queue)
                completes(queue)
        assert tokens.entries == sorted(set(tokens.entries))
        assert len(tokens.entries) == 6


def fall_due(path: str) -> None:
    """Let time pass: what waits for a retry has been due for an hour."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE job SET due_at = ?", (time.time() - 3_600,))
        connection.commit()


def kill_while_busy(path: str) -> None:
    """Let a process be killed with one job in flight and two queued."""
    with child("busy", path) as process:
        assert next_line(process) == "busy"
        process.kill()
        Background(process.wait).result()


class TestJobsThatEndTheProcess:
    @pytest.mark.parametrize("killers", [1, 3])
    def test_they_end_as_dead_letters_and_the_innocent_ones_beside_them_complete(
        self, open_queue: OpenQueue, path: str, killers: int
    ) -> None:
        crashes = 0
        while run_child("crash", path, killers)[0] != 0:
            crashes += 1
            assert crashes <= 4 * killers, "The killers have more attempts than they should."
        jobs = in_file(path, "id, status")
        assert [job for job in jobs if job[0].startswith("killer")] == [
            (f"killer-{n}", "failed") for n in range(killers)
        ]
        assert [job for job in jobs if job[0].startswith("innocent")] == [
            (f"innocent-{n}", "completed") for n in range(killers, 8)
        ]
        # The next start is a peaceful one, and says what happened.
        queue = open_queue(nothing, path=path)
        for dead in queue.dead_letters():
            assert dead.attempts == 4
            assert dead.error == "The process ended during attempt 4, the last one."
        assert completes(queue)

    def test_nobody_is_a_dead_letter_because_of_its_company(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        """Quick jobs are claimed a hundred at a time: most have not begun when one kills."""
        crashes = 0
        while run_child("crash_in_company", path)[0] != 0:
            crashes += 1
        assert crashes == 2  # of max_retries + 2 = 2 starts
        queue = open_queue(nothing, path=path)
        assert [dead.id for dead in queue.dead_letters()] == ["killer"]
        assert queue.metrics().completed == queue.metrics().accepted - 1


class TestUnhandledKinds:
    @pytest.fixture
    def left(self, open_queue: OpenQueue, path: str, gate: Gate) -> None:
        """A file with unfinished jobs of several kinds in every state, the faxes in front."""
        started = Journal()

        def hold(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        def fail(job: Job) -> None:
            raise ValueError("no paper")

        handlers = {"fax": fail, "telex": hold, "email": hold}
        queue = open_queue(handlers, path=path, workers=1, backoff=NOT_TODAY)
        queue.enqueue(Job("fax", kind="fax"))
        reaches(queue, "fax", Status.RETRYING)
        queue.enqueue(Job("telex-0", kind="telex"))
        started.wait_for("telex-0")
        queue.enqueue_many([Job("telex-1", kind="telex"), Job("email", kind="email")])
        assert Background(queue.close, False, 0).result() is False

    @pytest.mark.usefixtures("left")
    def test_they_stay_as_they_are_and_block_nobody(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue({"email": nothing}, path=path, workers=1)
        queue.join(DEADLINE)
        assert queue.status("email") is Status.COMPLETED
        assert completes(queue, Job(kind="email"))
        assert (queue.metrics().queued, queue.metrics().retrying) == (2, 1)
        assert Background(queue.close).result() is True
        assert in_file(path, "id, status, attempts")[:3] == [
            ("fax", "retrying", 1),
            ("telex-0", "queued", 0),
            ("telex-1", "queued", 0),
        ]

    @pytest.mark.usefixtures("left")
    def test_a_warning_names_each_kind(
        self, open_queue: OpenQueue, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.clear()
        open_queue({"email": nothing}, path=path)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert sorted(warnings) == [
            "1 recovered jobs of kind 'fax' stay queued: open the file with a handler for it.",
            "2 recovered jobs of kind 'telex' stay queued: open the file with a handler for it.",
        ]

    @pytest.mark.usefixtures("left")
    def test_they_run_when_somebody_handles_them_again(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        open_queue({"email": nothing}, path=path).close()
        ran = Journal()
        queue = open_queue({"telex": lambda job: ran.write(job.id)}, path=path, workers=1)
        queue.join(DEADLINE)
        assert ran.entries == ["telex-0", "telex-1"]

    def test_a_dead_letter_of_such_a_kind_cannot_be_retried(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        def fail(job: Job) -> None:
            raise ValueError("no paper")

        with open_queue({"fax": fail}, path=path, max_retries=0) as queue:
            queue.enqueue(Job("dead", kind="fax"))
        queue = open_queue({"email": nothing}, path=path)
        with pytest.raises(ValueError, match="No handler for kind 'fax' of job dead"):
            queue.retry("dead")
        assert queue.status("dead") is Status.FAILED
        assert completes(queue, Job(kind="email"))


class TestCounts:
    def test_they_add_up_after_reopening(
        self, first: FirstSession, open_queue: OpenQueue, path: str
    ) -> None:
        queue = first.open(max_retries=0)
        for n, lane in enumerate(LANES):
            queue.enqueue_many([Job(priority=lane) for _ in range(n + 1)])  # complete
            queue.enqueue_many([Job(priority=lane, payload="fails") for _ in range(3 - n)])
        queue.join(DEADLINE)
        queue.close()
        queue = first.open(max_retries=1, backoff=NOT_TODAY)
        queue.enqueue_many([Job("later", "fails", Priority.LOW), Job(priority=Priority.HIGH)])
        reaches(queue, "later", Status.RETRYING)
        first.hold(Job("held", "holds"))
        queue.enqueue_many([Job(priority=lane) for lane in LANES for _ in range(2)])
        first.cut()

        queue = open_queue({"another": nothing}, path=path)  # so all stays as it is
        counts = queue.metrics()
        assert counts.accepted == 6 + 6 + 2 + 1 + 6
        found = {status: len(queue.jobs(status, limit=100)) for status in Status}
        assert found == {status: getattr(counts, status) for status in Status}
        assert {status: count for status, count in found.items() if count} == {
            "queued": 7,
            "retrying": 1,
            "completed": 7,
            "failed": 6,
        }
        for lane in LANES:
            in_lane = [job.status for job in queue.jobs(limit=100) if job.priority is lane]
            of_lane = counts.by_priority[lane]
            assert of_lane.accepted == len(in_lane)
            assert {s: in_lane.count(s) for s in Status} == {s: getattr(of_lane, s) for s in Status}
