"""``current_job()``: what a handler may ask about the job that it runs.

A handler that takes its time should look at ``cancelled`` now and then and use ``sleep``
instead of ``time.sleep``: then ``cancel``, a time-out and a shutdown reach it.

But: not a coroutine. It needs none of that, since all three end it at its next ``await``;
and ``sleep`` would put the event loop to sleep, and with it every other coroutine.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

from final.job import Task
from final.workers.batch import Batch


class CurrentJob:
    """The job that runs in this thread, coroutine or process.

    id, attempt (from 1): which one. token: its fencing token, a number that only grows; hand
        it to another system that should refuse what an older attempt sends late.
    deadline: in the seconds of time.monotonic(); None without a time-out.
    """

    def __init__(
        self, task: Task, attempt: int, token: int, deadline: float | None, batch: Batch | None
    ) -> None:
        self.id = task.id
        # Not the task's own, which are those of the latest attempt: this may be an older one.
        self.attempt = attempt
        self.token = token
        self.deadline = deadline
        self._task = task
        self._batch = batch
        self._told: threading.Event | None = None  # of a coroutine: set when it is told to stop

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the job was cancelled, or its time is up."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or (self._batch is not None and self._batch.told is self._task)

    def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than until ``cancelled``. Returns whether to go on.

        It blocks the calling thread. Inside a coroutine that is the event loop of them all:
        there use ``await asyncio.sleep(seconds)``.
        """
        until = time.monotonic() + seconds
        if self.deadline is not None:
            until = min(until, self.deadline)
        wake = self._told or threading.Event()
        if self._told is None and self._batch is not None:
            self._batch.stop = wake.set  # first this, then the look at `cancelled`
        while not self.cancelled and (remaining := until - time.monotonic()) > 0:
            wake.wait(remaining)
        return not self.cancelled


# What the worker of this context is on. A coroutine inherits it from the worker that waits
# for it; in a process of its own it is set there.
_running: ContextVar[CurrentJob | tuple[Batch, float | None]] = ContextVar("final.current_job")


def current_job() -> CurrentJob:
    """The job that the calling handler runs. Raises RuntimeError outside of a handler."""
    running = _running.get(None)
    if running is None:
        raise RuntimeError("current_job() is for handlers: no job runs in this thread.")
    if isinstance(running, CurrentJob):
        return running
    batch, default_timeout = running
    task = batch.running
    if task is None:
        raise RuntimeError("current_job() is for handlers: no job runs in this thread.")
    timeout = default_timeout if task.timeout is None else task.timeout
    deadline = None if timeout is None else batch.started + timeout
    return CurrentJob(task, batch.attempt, batch.token, deadline, batch)


def current_batch() -> Batch | None:
    """The batch of the handler that calls; None outside of handlers, and in another process.

    Also where ``asyncio.to_thread`` runs something for a coroutine, since that takes the context
    along; None if the worker has not waited for it.
    """
    running = _running.get(None)
    if not isinstance(running, CurrentJob):
        return None if running is None else running[0]
    batch = running._batch
    return batch if batch is not None and batch.running is running._task else None


def enter_batch(batch: Batch, default_timeout: float | None) -> None:
    """This thread works on ``batch`` now. Once a batch, so that quick jobs pay nothing."""
    _running.set((batch, default_timeout))


def enter_job(job: CurrentJob) -> None:
    """This process runs ``job`` now."""
    _running.set(job)


def enter_coroutine() -> tuple[Batch, Task, threading.Event]:
    """This context is that of a coroutine now, which may outlast its batch: see its `finally`.

    Returns the batch and the job that it belongs to, and what to set when it is told to stop:
    ``sleep`` waits on that, in whatever thread the coroutine lets it.
    """
    job = current_job()
    assert job._batch is not None, "in a process nothing is awaited"
    job._told = threading.Event()
    _running.set(job)
    return job._batch, job._task, job._told
