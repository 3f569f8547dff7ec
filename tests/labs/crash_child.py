"""The process that the crash lab kills: it opens a queue, enqueues, runs, and tells what happens.

What it tells goes through a pipe to the parent at once, so it is there when this process is
not any more. Where a life is to end at a labelled step, the thread that comes to it says so
and stands still; the kill then finds the process exactly there.

But: the queues are the real ones. The steps come from around them: a handler, a subclass
of the file, and for the stages in memory a subclass of the queue.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from final.job import Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.labs import crash_faults
from tests.labs.crash_faults import CLAIMED, COMPLETED, queues_use

ANY_MOMENT = "at any moment"
BEFORE_INSERT = "before the insert"  # is committed: it stands in the open transaction
AFTER_INSERT = "after the insert"
AFTER_CLAIM = "after the claim"
IN_HANDLER = "in the handler"
AFTER_HANDLER = "after the handler"
AFTER_COMPLETION = "after the completion"
AT_CLOSE = "at close"
AT_CHECKPOINT = "at a checkpoint"
IN_RECOVERY = "during recovery"
BY_THE_JOB = "by the job itself"

# Where processes die, by stage. In memory there is nothing to claim, record or recover.
IN_MEMORY = (
    ANY_MOMENT,
    BEFORE_INSERT,
    AFTER_INSERT,
    IN_HANDLER,
    AFTER_HANDLER,
    AT_CLOSE,
    BY_THE_JOB,
)
DURABLE = (
    ANY_MOMENT,
    BEFORE_INSERT,
    AFTER_INSERT,
    AFTER_CLAIM,
    IN_HANDLER,
    AFTER_HANDLER,
    AFTER_COMPLETION,
    AT_CLOSE,
    AT_CHECKPOINT,
    IN_RECOVERY,
    BY_THE_JOB,
)
STEPS = {"naive": IN_MEMORY, "improved": IN_MEMORY, "final": DURABLE}

FAULTS: dict[str, type[SqliteFile]] = {
    "early-acknowledgement": crash_faults.EarlyAcknowledgement,
    "completed-before-run": crash_faults.CompletedBeforeRun,
    "uncharged-claim": crash_faults.UnchargedClaim,
    "forgotten-outcome": crash_faults.ForgottenOutcome,
    "removed-journal": crash_faults.RemovedJournal,
    "charged-in-company": crash_faults.ChargedInCompany,
}

PRODUCERS = 2
KILLER = "kills its process"


@dataclass(frozen=True)
class Life:
    """One start of the child.

    step, nth: the life ends when it comes to this step for the nth time.
    jobs: how many each producer enqueues; killer: and one of them kills its process.
    closes: it closes the queue and ends by itself, if it gets that far.
    max_retries: so many that no job runs out of attempts because it was in flight at every
        kill of ours; fewer where that is what the kills are about.
    quick: handlers take no time, and jobs come many at once, so that workers get many at a time.
    """

    stage: str
    path: str
    name: str
    step: str = ""
    nth: int = 1
    jobs: int = 100
    killer: bool = False
    closes: bool = False
    max_retries: int = 1_000
    quick: bool = False
    fault: str = ""


class Report:
    """What the child tells its parent: (word, job id)."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._mutex = threading.Lock()  # one message at a time; so short a one is sent as a whole

    def say(self, word: str, job_id: str = "") -> None:
        with self._mutex:
            self._pipe.send((word, job_id))


class Step:
    """The place where this life ends."""

    def __init__(self, life: Life, report: Report) -> None:
        self._step = life.step
        self._nth = life.nth
        self._report = report
        self._visits = itertools.count(1)

    def reach(self, step: str) -> None:
        """Come by ``step``; the thread that is to be killed here goes no further."""
        if self._is_here(step):
            self._report.say("at the step")
            wait_for_the_end()

    def reach_during(self, step: str, work: Callable[[], object]) -> None:
        """Come by ``step``, which is not a point but some work: the kill finds it under way."""
        if self._is_here(step):
            self._report.say("at the step")
            while True:
                work()

    def _is_here(self, step: str) -> bool:
        return step == self._step and next(self._visits) == self._nth


def live(pipe: Connection, life: Life) -> None:
    """The whole life of the process, unless it is cut short."""
    logging.disable()
    report = Report(pipe)
    step = Step(life, report)

    def handler(job: Any) -> None:
        report.say("started", job.id)
        if job.payload == KILLER:
            step.reach(BY_THE_JOB)
        step.reach(IN_HANDLER)
        if not life.quick:
            time.sleep(0.0005)  # its work
        report.say("ran", job.id)
        step.reach(AFTER_HANDLER)

    queue = (_open_final if life.stage == "final" else _open_in_memory)(life, handler, step, report)
    report.say("open")
    job_class = importlib.import_module(life.stage).Job

    def produce(producer: int) -> None:
        if life.quick:
            jobs = [job_class(f"{life.name}-{producer}-{n}") for n in range(life.jobs)]
            for job_id in queue.enqueue_many(jobs):
                report.say("accepted", job_id)
            return
        for n in range(life.jobs):
            kills = life.killer and producer == 0 and n == life.jobs // 2
            job = job_class(f"{life.name}-{producer}-{n}", KILLER if kills else n)
            if kills:  # it may not leave time to say so afterwards
                report.say("killer", job.id)
            queue.enqueue(job)
            if not kills:
                report.say("accepted", job.id)

    producers = [threading.Thread(target=produce, args=(n,)) for n in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    if life.closes or life.step == AT_CLOSE:
        step.reach(AT_CLOSE)
        queue.close()
        step.reach(AT_CLOSE)
    if not life.closes:
        wait_for_the_end()


def wait_for_the_end() -> None:
    threading.Event().wait()


def _open_final(life: Life, handler: Callable[[Any], None], step: Step, report: Report) -> Any:
    from final import JobQueue, Status

    with queues_use(_watched_file(FAULTS.get(life.fault, SqliteFile), step)):
        queue = JobQueue(handler, path=life.path, capacity=20, max_retries=life.max_retries)
    queue.subscribe(
        lambda transition: (
            report.say("completed", transition.job_id)
            if transition.status is Status.COMPLETED
            else None
        )
    )
    return queue


def _watched_file(file: type[SqliteFile], step: Step) -> type[SqliteFile]:
    """A file that stops at the steps on its way."""

    class Watched(file):  # type: ignore[misc,valid-type]
        def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
            super().__init__(path, durability)
            self._has_committed = False
            self._ways: set[tuple[object, object]] = set()  # that jobs went in this transaction

        def interrupted(self) -> list[tuple[Task, float]]:
            step.reach(IN_RECOVERY)
            found: list[tuple[Task, float]] = super().interrupted()
            step.reach(IN_RECOVERY)
            return found

        def write(self, moves: Sequence[Move], wall: float) -> None:
            super().write(moves, wall)
            self._ways = {(move.source, move.target) for move in moves}
            if self._has_new():
                step.reach(BEFORE_INSERT)

        @contextlib.contextmanager
        def transaction(self) -> Iterator[None]:
            self._ways = set()
            with super().transaction():
                yield
            if not self._has_committed:  # if there was anything to recover, then this was it
                self._has_committed = True
                step.reach(IN_RECOVERY)
            if self._has_new():
                step.reach(AFTER_INSERT)
            if CLAIMED in self._ways:
                step.reach(AFTER_CLAIM)
            if COMPLETED in self._ways:
                step.reach(AFTER_COMPLETION)
            step.reach_during(AT_CHECKPOINT, self._checkpoint)

        def _has_new(self) -> bool:
            return any(source is None for source, _ in self._ways)

        def _checkpoint(self) -> None:
            self.probe()  # so that there is something to move
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        def close(self) -> None:
            step.reach(AT_CLOSE)
            super().close()
            step.reach(AT_CLOSE)

    return Watched


def _open_in_memory(life: Life, handler: Callable[[Any], None], step: Step, report: Report) -> Any:
    package = importlib.import_module(life.stage)

    class Watched(package.JobQueue):  # type: ignore[misc,name-defined]
        """Here the insert is all that ``enqueue`` does."""

        def enqueue(self, job: Any) -> None:
            step.reach(BEFORE_INSERT)
            super().enqueue(job)
            step.reach(AFTER_INSERT)

    return Watched(handler)
