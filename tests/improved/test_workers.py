"""What improved's workers do beside running handlers: wait, log, leave."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest

from improved import Backoff, Job, JobQueue
from tests.helpers import Background, Broken, Gate, Journal

AT_ONCE = Backoff(base=0, jitter=0)
TOMORROW = Backoff(base=86_400, maximum=86_400, jitter=0)


class TestRetries:
    def test_a_worker_goes_on_while_a_failed_job_waits(self, journal: Journal) -> None:
        """Not for a moment does it wait along: this retry is due tomorrow."""

        def handler(job: Job) -> None:
            journal.write(job.id)
            if job.id == "flaky":
                raise Broken

        queue = JobQueue(handler, workers=1, backoff=TOMORROW)
        queue.enqueue(Job("flaky"))
        queue.enqueue(Job("other"))
        journal.wait_for("other")
        assert not queue.close(timeout=0)
        assert journal.entries == ["flaky", "other"]

    def test_one_that_is_due_goes_behind_its_peers(self, journal: Journal, gate: Gate) -> None:
        def handler(job: Job) -> None:
            gate.wait()
            if journal.write(job.id) == 1 and job.id == "flaky":
                raise Broken

        queue = JobQueue(handler, workers=1, backoff=AT_ONCE)
        for job_id in ("flaky", "a", "b"):
            queue.enqueue(Job(job_id))
        gate.open()
        assert Background(queue.close).result()
        assert journal.entries == ["flaky", "a", "b", "flaky"]


class TestClosing:
    def test_it_runs_the_retries_too(self, journal: Journal) -> None:
        def handler(job: Job) -> None:
            if journal.write(job.id) == 1:
                raise Broken

        queue = JobQueue(handler, workers=1, backoff=Backoff(base=0.1, jitter=0))
        queue.enqueue(Job("flaky"))
        journal.wait_for("flaky")
        assert Background(queue.close).result()
        assert journal.entries == ["flaky", "flaky"]

    def test_no_worker_is_left(self, log: Log) -> None:
        """A worker has things to do after its last job; here it writes a line of the log."""

        def handler(job: Job) -> None:
            raise Broken

        log.listen(lambda: time.sleep(0.05))  # a slow disk
        queue = JobQueue(handler, workers=1, max_retries=0)
        queue.enqueue(Job())
        Background(queue.close).result()
        assert [worker.is_alive() for worker in queue._workers] == [False]

    def test_one_that_is_cut_short_says_so_once(
        self, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        with JobQueue(lambda job: gate.wait(), workers=1) as queue:
            queue.enqueue(Job())
            assert not queue.close(timeout=0)
        assert [record.getMessage() for record in caplog.records] == [
            "Closed after 0 s with 1 jobs unfinished: they are lost."
        ]


class TestLog:
    def test_whoever_listens_to_it_may_ask_the_queue(self, log: Log) -> None:
        """It is written when the lock is free: also a slow or a curious listener stops nobody."""

        def handler(job: Job) -> None:
            raise Broken

        seen: list[int] = []
        log.listen(lambda: seen.append(queue.metrics().failed))
        queue = JobQueue(handler, workers=1, max_retries=0)
        queue.enqueue(Job())
        assert Background(queue.close).result(5)
        assert seen == [1]


class Log(logging.Handler):
    """Listens to improved's log."""

    def listen(self, call: Callable[[], object]) -> None:
        self._call = call
        logging.getLogger("improved").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._call()


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    logging.getLogger("improved").removeHandler(log)
