"""``current_job()``: what a handler may ask about the job that it runs.

A handler that takes its time should look at ``cancelled`` now and then and use ``sleep``
instead of ``time.sleep``: then ``cancel``, a time-out and a shutdown reach it.

But: not a coroutine. It needs none of that, since all three end it at its next ``await``;
and ``sleep`` would put the event loop to sleep, and with it every other coroutine.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from final.beyond.progress import Progress, progress
from final.job import Task
from final.workers.batch import Batch


class CurrentJob:
    """The job that runs in this thread, coroutine or process.

    id, attempt (from 1): which one. token: its fencing token, a number that only grows; hand
        it to another system that should refuse what an older attempt sends late.
    deadline: in the seconds of time.monotonic(), in another process, too; None without a time-out.
    """

    def __init__(
        self,
        task: Task,
        attempt: int,
        token: int,
        deadline: float | None,
        batch: Batch | None,
        look_up: LookUp | None = None,
        note: Note | None = None,
    ) -> None:
        self.id = task.id
        # Not the task's own, which are those of the latest attempt: this may be an older one.
        self.attempt = attempt
        self.token = token
        self.deadline = deadline
        self._task = task
        self._batch = batch
        self._look_up = look_up  # in a process of its own these two are set there
        self._note = note

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the job was cancelled, or its time is up."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or (self._batch is not None and self._batch.told is self._task)

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0.0 once it is over; None without a time-out.

        Hand it on to what a handler calls: ``get(url, timeout=current_job().remaining())``.
        """
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the job is: ``JobRecord.progress`` has the latest word of it.

        fraction: 0 to 1. message: for people; of a longer one the first 200 characters are kept.
        It is cheap: what is said is written about once a second, and when the attempt ends. An
        attempt whose time is up is not heard any more.

        Raises TypeError or ValueError for what makes no sense.
        """
        pass_on(self, progress(fraction, message))

    @property
    def parents(self) -> dict[str, Any]:
        """The results of the jobs that this one comes after (``Job.after``), by id, in that order.

        None for a parent without a result: it returned none, or it failed and this job runs all
        the same. Each look reads them from the queue.
        """
        assert self._look_up is not None, "whoever enters a job says where to look"
        return self._look_up(self.id)

    def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than until ``cancelled``. Returns whether to go on.

        It blocks the calling thread. Inside a coroutine that is the event loop of them all:
        there use ``await asyncio.sleep(seconds)``.
        """
        until = time.monotonic() + seconds
        if self.deadline is not None:
            until = min(until, self.deadline)
        wake = threading.Event()
        sleepers = set() if self._batch is None else self._batch.sleepers
        sleepers.add(wake)  # first this, then the look at `cancelled`
        while not self.cancelled and (remaining := until - time.monotonic()) > 0:
            wake.wait(min(remaining, threading.TIMEOUT_MAX))
            wake.clear()  # another job of the batch may have been told, whose handler left a thread
        sleepers.discard(wake)
        return not self.cancelled


# Seconds for an attempt, by the job's kind and the time-out that it names; infinity: no limit.
Timeout = Callable[[str, float | None], float]
# Seconds until a job is tried again, by its kind, the number of its attempt that has failed and
# whether no other would help; None for never.
Delay = Callable[[str, int, bool], float | None]
# The results of a job's parents.
LookUp = Callable[[str], dict[str, Any]]

# Takes what a job says of how far it is, with the token of the attempt that says so.
Note = Callable[[Task, int, Progress], None]


class Ways(NamedTuple):
    """Where the worker of a handler turns to, for what the handler asks and says."""

    timeout: Timeout
    look_up: LookUp
    note: Note


# What the worker of this context is on. A coroutine inherits it from the attempt that has called
# its function; in a process of its own it is set there.
_running: ContextVar[CurrentJob | tuple[Batch, Task, Ways]] = ContextVar("final.current_job")


def current_job() -> CurrentJob:
    """The job that the calling handler runs. Raises RuntimeError outside of a handler."""
    running = _running.get(None)
    if isinstance(running, CurrentJob):
        return running
    if running is not None:
        batch, task, ways = running
        started, attempt = batch.started, batch.attempt  # first these, then the look at `running`
        if batch.running is task:  # else it has ended, and left this thread behind
            timeout = ways.timeout(task.kind, task.timeout)
            deadline = None if timeout == math.inf else started + timeout
            return CurrentJob(task, attempt, batch.token, deadline, batch, ways.look_up, ways.note)
    raise RuntimeError("current_job() is for handlers: no job runs in this thread.")


def current_batch() -> Batch | None:
    """The batch of the handler that calls; None outside of handlers, and in another process.

    Also where ``asyncio.to_thread`` runs something for a coroutine, since that takes the context
    along, or a handler its own thread; None if the attempt has ended before it.
    """
    running = _running.get(None)
    if running is None:
        return None
    if isinstance(running, CurrentJob):
        batch, task = running._batch, running._task
    else:
        batch, task, _ = running
    return batch if batch is not None and batch.running is task else None


def pass_on(job: CurrentJob, said: Progress) -> None:
    """What the handler of ``job`` has said, here or in its process."""
    if job._batch is not None:
        job._batch.said = job._task, said
    assert job._note is not None, "whoever enters a job says who listens"
    job._note(job._task, job.token, said)


def enter_attempt(batch: Batch, task: Task, ways: Ways) -> None:
    """This thread works on ``task`` of ``batch`` now. Quick jobs pay next to nothing for it."""
    _running.set((batch, task, ways))


def enter_job(job: CurrentJob, look_up: LookUp, note: Note) -> None:
    """This process runs ``job`` now."""
    job._look_up, job._note = look_up, note
    _running.set(job)


def enter_coroutine() -> tuple[Batch, Task]:
    """This context is that of a coroutine now, which may outlast its batch: see its `finally`.

    Returns the batch and the job that it belongs to.
    """
    job = current_job()
    assert job._batch is not None, "in a process nothing is awaited"
    _running.set(job)
    return job._batch, job._task
