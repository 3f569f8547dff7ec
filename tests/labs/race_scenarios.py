"""The scenarios: what runs against what, and what must hold whoever is faster.

Each scenario sets the stage, yields the threads that run against each other, and checks
what is true of every order. ``on`` is what it plays on: a stage, or one with a planted bug.

But: the threads of a scenario are few and their jobs are two or three. That is what makes
it possible to try all of the orders; and a race among many has one among few inside.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from final import current_job

Rivals = Iterator[tuple[Callable[[], object], ...]]

# More than fits into what a page of the database has left.
LARGE = "x" * 10_000


def close_against_enqueue(on: Any) -> Rivals:
    """What was accepted before the door closed runs; what comes later is refused."""
    ran: list[str] = []
    queue = on.JobQueue(lambda job: ran.append(job.id), workers=1)
    accepted = []

    def producer() -> None:
        for name in ("a", "b"):
            try:
                queue.enqueue(on.Job(name))
            except on.QueueClosed:
                return
            accepted.append(name)

    def closer() -> None:
        queue.close()

    yield producer, closer
    assert ran == accepted, f"accepted {accepted}, but ran {ran}"


def two_workers_claiming(on: Any) -> Rivals:
    """Two workers and two jobs: each job runs once, whoever takes it."""
    ran: list[str] = []
    queue = on.JobQueue(lambda job: ran.append(job.id), workers=2)

    def ada() -> None:
        queue.enqueue(on.Job("a"))

    def bob() -> None:
        queue.enqueue(on.Job("b"))

    yield ada, bob
    assert sorted(ran) == ["a", "b"], f"enqueued a and b, but ran {ran}"


def notify_against_wait(on: Any) -> Rivals:
    """Two producers before a full lane with room for one: both get in, one after the other."""
    ran: list[str] = []
    queue = on.JobQueue(lambda job: ran.append(job.id), workers=1, capacity=1)
    queue.enqueue(on.Job("a"))

    def ada() -> None:
        queue.enqueue(on.Job("b"))

    def bob() -> None:
        queue.enqueue(on.Job("c"))
        waiting = queue.metrics().queued
        assert waiting <= 1, f"{waiting} jobs in a lane with room for one"

    yield ada, bob
    assert sorted(ran) == ["a", "b", "c"], f"ran {ran}, and everybody sleeps"


def giving_up_against_room(on: Any) -> Rivals:
    """A producer's time is up just as a place becomes free: it is in, or refused, not both."""
    ran: list[str] = []

    def handler(job: Any) -> None:
        time.sleep(1)
        ran.append(job.id)

    queue = on.JobQueue(handler, workers=1, capacity=1)
    queue.enqueue(on.Job("a"))
    accepted = ["a"]

    def patient() -> None:
        queue.enqueue(on.Job("b"))
        accepted.append("b")

    def hurried() -> None:
        try:
            queue.enqueue(on.Job("c"), timeout=1)
        except on.QueueFull:
            return
        accepted.append("c")

    yield patient, hurried
    queue.close()
    assert sorted(ran) == sorted(accepted), f"accepted {accepted}, but ran {ran}"


def close_timeout_against_completion(on: Any) -> Rivals:
    """``close`` runs out of time just as the last job ends: what it says is true."""
    ran: list[str] = []

    def handler(job: Any) -> None:
        time.sleep(1)
        ran.append(job.id)

    queue = on.JobQueue(handler, workers=1)
    queue.enqueue(on.Job("a"))
    complete = []

    def closer() -> None:
        complete.append((queue.close(timeout=1), list(ran)))

    def second_closer() -> None:
        queue.close()

    yield closer, second_closer
    in_time, ran_by_then = complete[0]
    assert not in_time or ran_by_then == ["a"], "close() said that all was done; it was not"


def retry_due_against_close(on: Any) -> Rivals:
    """A job fails and waits for its retry while the queue closes: draining includes it."""
    ran: list[str] = []

    def fails_once(job: Any) -> None:
        ran.append(job.id)
        if ran.count(job.id) == 1:
            raise ConnectionError("reset by peer")

    queue = on.JobQueue(fails_once, workers=2, backoff=on.Backoff(base=1, jitter=0))
    queue.enqueue(on.Job("a"))

    def closer() -> None:
        queue.close()

    yield (closer,)
    metrics = queue.metrics()
    assert ran == ["a", "a"], f"close() returned after {len(ran)} of 2 attempts"
    assert (metrics.completed, metrics.retrying) == (1, 0), f"the counts say {metrics}"


def metrics_against_work(on: Any) -> Rivals:
    """Whoever asks, whenever: the counts add up."""
    queue = on.JobQueue(lambda job: None, workers=1)

    def producer() -> None:
        queue.enqueue(on.Job("a"))

    def observer() -> None:
        now = queue.metrics()
        total = now.queued + now.processing + now.retrying + now.completed + now.failed
        assert total == now.accepted, f"{now.accepted} accepted, but {total} accounted for"

    yield producer, observer
    now = queue.metrics()
    assert (now.completed, now.processing) == (1, 0), f"one job ran; the counts say {now}"


# ---- what only final has -------------------------------------------------------------------


def cancel_against_claim(on: Any) -> Rivals:
    """A job is cancelled just as a worker takes it: it never runs, or its handler is told."""
    asleep: set[str] = set()
    ran: list[str] = []

    def handler(job: Any) -> None:
        asleep.add(job.id)
        goes_on = current_job().sleep(1)
        asleep.remove(job.id)
        if not goes_on:
            raise InterruptedError("told to stop")
        ran.append(job.id)

    queue = on.JobQueue(handler, workers=1)
    queue.enqueue(on.Job("a"))
    queue.enqueue(on.Job("b"))
    answers = []

    def canceller() -> None:
        answers.append((queue.cancel("b"), "b" in asleep))

    def closer() -> None:
        queue.close()

    yield canceller, closer
    (kept_from_running, was_asleep) = answers[0]
    status = str(queue.status("b"))
    assert status == ("completed" if "b" in ran else "cancelled"), f"ran {ran}, but b is {status}"
    assert kept_from_running or "b" in ran, "cancel() said no to a job that never ran"
    if kept_from_running and was_asleep:
        assert "b" not in ran, "cancel() said yes while b slept, and nobody woke it"


def timeout_against_completion(on: Any) -> Rivals:
    """An attempt's time is up just as it ends: it ends one way, and leaves one worker behind."""
    running: list[str] = []
    most = 0

    def handler(job: Any) -> None:
        nonlocal most
        if job.id == "late":
            time.sleep(0.5)
            return
        running.append(job.id)
        most = max(most, len(running))
        time.sleep(1)
        running.remove(job.id)

    queue = on.JobQueue(handler, workers=1, max_retries=0)
    queue.enqueue(on.Job("late", timeout=1))

    def client() -> None:
        queue.enqueue(on.Job("b"))
        queue.enqueue(on.Job("c"))
        queue.close()

    yield (client,)
    statuses = [str(queue.status(name)) for name in ("late", "b", "c")]
    assert statuses[0] in ("completed", "failed"), f"the late job is {statuses[0]}"
    assert statuses[1:] == ["completed", "completed"], f"statuses {statuses}"
    assert most == 1, f"one worker, but {most} handlers at a time"


def failed_commit_against_producers(on: Any) -> Rivals:
    """The disk is full for a while: whoever got an id has a job, whoever got an error has none."""
    ran: list[str] = []

    def handler(job: Any) -> str:
        ran.append(job.id)
        return LARGE  # so that an outcome may have to wait for the disk too

    queue = on.JobQueue(handler, workers=1, capacity=1)
    disk = Disk(queue)
    accepted = []

    def enqueue(name: str) -> None:
        with contextlib.suppress(on.StorageError):
            accepted.append(queue.enqueue(on.Job(name, payload=LARGE)))

    def disk_is_full() -> None:
        disk.full = True

    def ada() -> None:
        enqueue("a")

    def bob() -> None:
        enqueue("b")

    def disk_is_freed() -> None:
        disk.full = False

    yield disk_is_full, ada, bob, disk_is_freed
    queue.close()
    stored = [record.id for record in queue.jobs("completed")]
    assert sorted(ran) == sorted(accepted) == sorted(stored), (
        f"accepted {accepted}, ran {ran}, stored {stored}"
    )


class Disk:
    """The disk under a queue: SQLite itself refuses to let the database grow while it is full."""

    def __init__(self, queue: Any) -> None:
        self.full = False
        self._file = queue._ledger._file
        self._transaction = self._file.transaction
        self._file.transaction = self.transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        limit = 1 if self.full else 1_000_000  # less than what there is means what there is
        self._file._writer.execute(f"PRAGMA max_page_count = {limit}")
        with self._transaction():
            yield


def wait_against_completion(on: Any) -> Rivals:
    """Somebody waits for a job that ends while the queue closes: an answer comes in any case."""
    queue = on.JobQueue(lambda job: "done", workers=1)
    queue.enqueue(on.Job("a"))
    answers = []

    def waiter() -> None:
        try:
            answers.append(str(queue.wait("a").status))
        except on.QueueClosed:
            answers.append("closed")

    def closer() -> None:
        queue.close()

    yield waiter, closer
    assert answers in (["completed"], ["closed"]), f"the answers were {answers}"
    assert str(queue.status("a")) == "completed"


def retry_due_against_leaving(on: Any) -> Rivals:
    """``close(drain=False)`` as a retry falls due: it runs, or stays for the next start."""
    ran: list[str] = []

    def fails(job: Any) -> None:
        ran.append(job.id)
        raise ConnectionError("reset by peer")

    queue = on.JobQueue(fails, workers=1, backoff=on.Backoff(base=1, jitter=0), max_retries=1)
    queue.enqueue(on.Job("a"))

    def passing_time() -> None:
        time.sleep(1)

    def closer() -> None:
        queue.close(drain=False)

    yield passing_time, closer
    record = queue.get("a")
    assert str(record.status) in ("queued", "retrying", "failed"), f"it is {record.status}"
    assert record.attempts == len(ran), f"{record.attempts} attempts charged, {len(ran)} made"


def batch_against_leaving(on: Any) -> Rivals:
    """A worker takes jobs from its batch while ``close(drain=False)`` takes them back."""
    ran: list[str] = []
    queue = on.JobQueue(lambda job: ran.append(job.id), workers=1)
    queue.enqueue(on.Job("quick"))
    queue.wait("quick")  # now it is known that these take no time, and go out by batches
    ids = ["a", "b", "c"]

    def producer() -> None:
        with contextlib.suppress(on.QueueClosed):
            queue.enqueue_many([on.Job(name) for name in ids])

    def closer() -> None:
        queue.close(drain=False)

    yield producer, closer
    ended = [record.id for record in reversed(queue.jobs("completed"))]
    waiting = queue.jobs("queued")
    assert ran == ended, f"ran {ran}, completed {ended}"
    assert all(record.attempts == 0 for record in waiting), f"charged for nothing: {waiting}"
    assert len(ended) + len(waiting) in (1, 1 + len(ids)), f"completed {ended}, {waiting} wait"
