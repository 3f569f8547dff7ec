"""Planted bugs: one mistake each, of the kind that a test meets once in a million runs.

Each is a stage with a method or two written as many would write them at first. The lab must
find the schedule that breaks it; where it does not, the lab is broken.

But: only the mistake is like the stage. What else a method does is left out where its
scenario does not need it.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any
from unittest import mock

import final
import final.job_queue
import improved
from final.engine.dispatcher import Dispatcher
from final.engine.messages import Request
from final.job import Status
from final.ledger.local import LocalLedger
from final.workers.batch import Batch
from final.workers.pool import WorkerPool
from improved.job_queue import Job, Metrics, QueueClosed, _Task

# ---- improved ------------------------------------------------------------------------------


class LooksBeforeItLocks(improved.JobQueue):
    """The door is looked at before the lock is taken: it may close in between."""

    def enqueue(self, job: Job, timeout: float | None = None) -> None:
        if self._closing:
            raise QueueClosed("The queue is closed and accepts no more jobs.")
        lane = self._lanes[job.priority]
        with self._mutex:
            lane.tasks.append(_Task(job))
            lane.counts.accepted += 1
            lane.counts.queued += 1
            self._runnable.notify()


class LooksOnceAfterWaking(improved.JobQueue):
    """``if`` in place of ``while`` around a wait: the room may be gone when the lock is back."""

    def enqueue(self, job: Job, timeout: float | None = None) -> None:
        lane = self._lanes[job.priority]
        with self._mutex:
            if len(lane.tasks) >= self._capacity:
                lane.room.wait()
            if self._closing:
                raise QueueClosed("The queue is closed and accepts no more jobs.")
            lane.tasks.append(_Task(job))
            lane.counts.accepted += 1
            lane.counts.queued += 1
            self._runnable.notify()


class SleepsOnOldNews(improved.JobQueue):
    """A lost wake-up: the notify comes between the look at the lanes and the wait."""

    def _take(self) -> _Task | None:
        while not self._stopping():
            if not any(lane.tasks for lane in self._lanes.values()):
                with self._mutex:
                    self._runnable.wait(self._until_next_retry())
                continue
            with self._mutex:
                for lane in self._lanes.values():
                    if lane.tasks:
                        lane.counts.queued -= 1
                        lane.counts.processing += 1
                        lane.room.notify()
                        return lane.tasks.popleft()
        return None


class PeeksThenPops(improved.JobQueue):
    """A claim in two steps: two workers look at the same job before either takes it."""

    def _take(self) -> _Task | None:
        while True:
            with self._mutex:
                while not self._stopping() and not self._unfinished():
                    self._runnable.wait()
                if self._stopping():
                    return None
                waiting = [lane for lane in self._lanes.values() if lane.tasks]
                task = waiting[0].tasks[0] if waiting else None
                if task is None:
                    self._runnable.wait()
            if task is not None:
                with self._mutex:
                    if waiting[0].tasks:
                        waiting[0].tasks.popleft()
                    waiting[0].counts.queued -= 1
                    waiting[0].counts.processing += 1
                    return task


class CountsInTwoSteps(improved.JobQueue):
    """One fact changed under the lock twice: in between, a failed job is nowhere."""

    def _record(self, task: _Task, error: BaseException | None) -> None:
        counts = self._lanes[task.job.priority].counts
        with self._mutex:
            counts.processing -= 1
            if self._stopping():
                self._drained.notify_all()
                self._runnable.notify_all()
        with self._mutex:
            if error is None:
                counts.completed += 1
            else:
                counts.retrying += 1
                due = time.monotonic() + self._backoff.delay(1)
                heapq.heappush(self._retries, (due, next(self._tie_breaker), task))
                self._runnable.notify()


class TwoLocksTwoOrders(improved.JobQueue):
    """A second lock for the counts: one thread takes the two in one order, one in the other."""

    def __init__(self, handler: Any, **options: Any) -> None:
        self._counting = threading.Lock()
        super().__init__(handler, **options)

    def metrics(self) -> Metrics:
        with self._counting:
            return super().metrics()

    def _record(self, task: _Task, error: BaseException | None) -> None:
        with self._mutex:
            with self._counting:
                counts = self._lanes[task.job.priority].counts
                counts.processing -= 1
                counts.completed += 1
            self._drained.notify_all()


# ---- final ---------------------------------------------------------------------------------


class AsksTheDead(final.JobQueue):
    """A request to a dispatcher that is through: nobody is left to answer it."""

    def _ask(self, request: Request[Any], timeout: float | None) -> Any:
        self._dispatcher.ask(request)
        request.wait(timeout)
        self._dispatcher.unanswered.discard(request)
        return request.result()


class ReachesIn(final.JobQueue):
    """``cancel`` marks the job by itself, in an index that belongs to another thread."""

    def cancel(self, job_id: str) -> bool:
        assert isinstance(self._ledger, LocalLedger)
        task = self._ledger._index.live.get(job_id)
        if task is not None and task.status is Status.QUEUED:
            task.cancelled = True  # so its worker will pass over it: if it has not begun
            return True
        return super().cancel(job_id)


class _AnswersFirst(Dispatcher):
    def _exchange(self, now: float, wall: float) -> None:
        for request in self._producers:
            if self._given.room[request.next_task().priority] > 0:
                request.answer([task.id for task in request.tasks])
        super()._exchange(now, wall)


class AnswersBeforeTheCommit(final.JobQueue):
    """The producer hears "accepted" before the commit, which may yet fail."""

    def __init__(self, handler: Any, **options: Any) -> None:
        with mock.patch.object(final.job_queue, "Dispatcher", _AnswersFirst):
            super().__init__(handler, **options)


class _SleepsMeanwhile(Dispatcher):
    def turn(self, *arguments: Any) -> None:
        super().turn(*arguments)
        self._again = self._again and self._storage_error is None

    def _until_due(self, now: float) -> float | None:
        return None if self._storage_error is not None else super()._until_due(now)


class ForgetsTheNextInLine(final.JobQueue):
    """After a failed commit nobody looks at the line. (Not invented: the lab found it.)"""

    def __init__(self, handler: Any, **options: Any) -> None:
        with mock.patch.object(final.job_queue, "Dispatcher", _SleepsMeanwhile):
            super().__init__(handler, **options)


class _Unfenced(Batch):
    __slots__ = ()

    def seize(self) -> bool:
        return True


class _UnfencedPool(WorkerPool):
    def deliver(self, batch: Batch) -> None:
        batch.__class__ = _Unfenced
        super().deliver(batch)


class EndsBothWays(final.JobQueue):
    """No fence at the end of a batch: its worker reports it, and is given up all the same."""

    def __init__(self, handler: Any, **options: Any) -> None:
        with mock.patch.object(final.job_queue, "WorkerPool", _UnfencedPool):
            super().__init__(handler, **options)
