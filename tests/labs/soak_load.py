"""The load of the soak: every kind of job and every call, drawn from a seed.

A job's fate stands in its payload: how often it fails, how long it takes. So the same seed
offers the same jobs, whatever the threads do with them.

As a program it is a process to kill: it works on a file and says what it does, line by line.

    python -m tests.labs.soak_load PATH SEED NAME
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from final import (
    Backoff,
    DuplicateJob,
    EnqueueError,
    Job,
    JobQueue,
    Priority,
    QueueClosed,
    QueueFull,
    Status,
    TokenBucket,
    Transition,
    UnknownJob,
    current_job,
)
from tests.helpers import DEADLINE, Broken

PRODUCERS = 3
WORKERS = 4
HISTORY = 3_000
FOR_EVER = 99  # more failures than a job has attempts
OPTIONS: dict[str, Any] = {
    "workers": WORKERS,
    "history": HISTORY,
    "max_retries": 3,
    "backoff": Backoff(base=0.02, maximum=0.2, jitter=0.5),
    "rate_limit": {"limited": TokenBucket(100, burst=10)},
}


class Books(Protocol):
    """Who is told of each job; see ``soak_books.Ledger``."""

    def offer(self, *job_ids: str) -> None: ...
    def accept(self, *job_ids: str) -> None: ...
    def refuse(self, *job_ids: str) -> None: ...
    def heard(self, job_id: str, status: str) -> None: ...
    def count(self, what: str) -> None: ...
    def complain(self, sentence: str) -> None: ...


# ---- the handlers ----------------------------------------------------------------------------


def handlers(ready: threading.Event) -> dict[str, Callable[[Job], object]]:
    """By kind. They wait for ``ready``: a subscriber must hear of all that comes of them."""

    def work(job: Job) -> object:
        """Hears when it is cancelled or late."""
        ready.wait()
        if not current_job().sleep(seconds(job)):
            raise TimeoutError("told to stop")
        return outcome(job)

    def deaf(job: Job) -> object:
        """Does not hear of its time-out: its thread is given up."""
        ready.wait()
        time.sleep(seconds(job))
        return outcome(job)

    async def coroutine(job: Job) -> object:
        if not ready.is_set():
            await asyncio.to_thread(ready.wait)
        await asyncio.sleep(seconds(job))
        return outcome(job)

    return {"work": work, "limited": work, "deaf": deaf, "coroutine": coroutine}


def new_job(rng: random.Random, job_id: str) -> Job:
    """One of any kind; its fate is in its payload."""
    (kind,) = rng.choices(["work", "coroutine", "limited", "deaf"], [70, 20, 8, 2])
    (fails,) = rng.choices([0, 1, 2, FOR_EVER], [85, 8, 4, 3])
    takes = rng.uniform(0.01, 0.06) if kind == "deaf" else rng.choice([0.0, rng.uniform(0, 0.005)])
    filler = "x" * min(100_000, int(100 * rng.paretovariate(1.2)))
    return Job(
        id=job_id,
        payload={"fails": fails, "seconds": takes, "filler": filler},
        priority=rng.choice(list(Priority)),
        kind=kind,
        run_at=rng.uniform(0.05, 0.5) if rng.random() < 0.05 else None,
        timeout=0.03 if kind == "deaf" or rng.random() < 0.1 else None,
    )


def seconds(job: Job) -> float:
    assert isinstance(job.payload, dict)
    return float(job.payload["seconds"])


def outcome(job: Job) -> object:
    assert isinstance(job.payload, dict)
    if current_job().attempt <= job.payload["fails"]:
        raise Broken("on purpose")
    return job.payload["seconds"]


# ---- the producers ---------------------------------------------------------------------------


class Load:
    """Producers that do all that clients do, until the queue closes.

    name: goes before the ids of its jobs. pause: seconds between two calls of a producer.
    """

    def __init__(
        self, queue: JobQueue, books: Books, seed: str, name: str, pause: float = 0.0
    ) -> None:
        self._queue = queue
        self._books = books
        self._name = name
        self._pause = pause
        self._closed = threading.Event()
        self._recent: deque[str] = deque(maxlen=200)
        # A job that outlives the load: nobody else may have its id.
        self._taken = Job(f"{name}-taken", kind="work", run_at=3_600)
        self._threads = [
            threading.Thread(target=self._produce, args=[f"{seed}/{name}/{n}", n], daemon=True)
            for n in range(PRODUCERS)
        ]

    def start(self) -> None:
        for record in self._queue.jobs(Status.SCHEDULED, 1_000):
            if record.id.endswith("-taken"):  # of an earlier load
                self._queue.cancel(record.id)
        self._enqueue([self._taken])
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every producer has noticed that the queue is closed."""
        self._closed.set()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), f"A producer did not return within {DEADLINE:.0f} s."

    def _produce(self, seed: str, number: int) -> None:
        rng = random.Random(seed)
        calls = [self._one, self._many, self._cancel, self._look, self._wait]
        calls += [self._twice, self._unfit, self._revive]
        weights = [60, 15, 6, 6, 4, 4, 2, 2]
        made = 0

        def job() -> Job:
            nonlocal made
            made += 1
            return new_job(rng, f"{self._name}-{number}-{made}")

        try:
            while not self._closed.wait(rng.expovariate(1 / self._pause) if self._pause else 0):
                (call,) = rng.choices(calls, weights)
                call(rng, job)
        except QueueClosed:
            pass
        except Exception as error:
            self._books.complain(f"A producer met {type(error).__name__}: {error}")

    # Each is one call of a client.

    def _one(self, rng: random.Random, job: Callable[[], Job]) -> None:
        self._enqueue([job()], timeout=rng.choice([None, 0, 0.01]))

    def _many(self, rng: random.Random, job: Callable[[], Job]) -> None:
        self._enqueue([job() for _ in range(rng.randint(2, 30))], timeout=rng.choice([None, 0.1]))

    def _cancel(self, rng: random.Random, job: Callable[[], Job]) -> None:
        if self._recent:
            with contextlib.suppress(UnknownJob):
                self._queue.cancel(rng.choice(list(self._recent)))

    def _look(self, rng: random.Random, job: Callable[[], Job]) -> None:
        self._queue.metrics()
        self._queue.jobs(rng.choice([None, *Status]), limit=20)
        for letter in self._queue.dead_letters()[:1]:
            self._queue.attempts(letter.id)

    def _wait(self, rng: random.Random, job: Callable[[], Job]) -> None:
        if self._recent:
            with contextlib.suppress(UnknownJob, TimeoutError):
                self._queue.wait(rng.choice(list(self._recent)), timeout=0.02)

    def _twice(self, rng: random.Random, job: Callable[[], Job]) -> None:
        try:
            self._queue.enqueue(self._taken)
        except DuplicateJob:
            self._books.count("duplicates refused")
        except QueueFull:  # it needs no room, but others stood in line before it
            self._books.count("calls refused for want of room")
        else:
            self._books.complain(f"The id {self._taken.id} was accepted twice.")

    def _unfit(self, rng: random.Random, job: Callable[[], Job]) -> None:
        try:
            self._queue.enqueue(Job(payload=float("nan"), kind="work"))
        except ValueError:
            self._books.count("unfit jobs refused")

    def _revive(self, rng: random.Random, job: Callable[[], Job]) -> None:
        if letters := self._queue.dead_letters():
            with contextlib.suppress(UnknownJob, ValueError):  # somebody else was quicker
                self._queue.retry(rng.choice(letters).id)

    def _enqueue(self, jobs: list[Job], timeout: float | None = None) -> None:
        ids = [job.id for job in jobs]
        self._books.offer(*ids)
        try:
            self._queue.enqueue_many(jobs, timeout)
        except EnqueueError as error:
            accepted = len(error.accepted)
            self._books.accept(*ids[:accepted])
            self._books.refuse(*ids[accepted:])
            if not isinstance(error, QueueFull):
                raise
            self._books.count("calls refused for want of room")
        else:
            self._books.accept(*ids)
        if jobs != [self._taken]:
            self._recent.append(ids[0])


# ---- work that computes ----------------------------------------------------------------------


def square(job: Job) -> object:
    """For executor="process"; now and then the process ends instead, at the first attempt."""
    assert isinstance(job.payload, int)
    if job.payload % 50 == 0 and current_job().attempt == 1:
        os._exit(1)
    return job.payload * job.payload


# ---- a process to kill -----------------------------------------------------------------------


class Wire:
    """Books kept by another process: each call is a line on standard output."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()

    def offer(self, *job_ids: str) -> None:
        self._say("offer", *job_ids)

    def accept(self, *job_ids: str) -> None:
        self._say("accept", *job_ids)

    def refuse(self, *job_ids: str) -> None:
        self._say("refuse", *job_ids)

    def heard(self, job_id: str, status: str) -> None:
        self._say("heard", job_id, status)

    def count(self, what: str) -> None:
        pass

    def complain(self, sentence: str) -> None:
        self._say("complain", sentence)

    def _say(self, *words: str) -> None:
        with self._mutex:
            print(*words, flush=True)


def listen(line: str, books: Books) -> None:
    """Enter what a ``Wire`` said; half a line, cut off by the kill, says nothing."""
    if line.endswith("\n"):
        verb, *words = line.split()
        getattr(books, verb)(*([" ".join(words)] if verb == "complain" else words))


def tell(books: Books) -> Callable[[Transition], None]:
    """A subscriber that enters what it hears."""
    return lambda transition: books.heard(transition.job_id, transition.status.value)


def main(path: str, seed: str, name: str) -> None:
    """Load the queue until somebody kills this process."""
    logging.disable()  # jobs fail on purpose
    books, ready = Wire(), threading.Event()
    queue = JobQueue(handlers(ready), path=path, **OPTIONS)
    queue.subscribe(tell(books))
    ready.set()
    Load(queue, books, seed, name, pause=0.005).start()
    sys.stdin.read()  # ends with the parent, should it end before it kills this process
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
