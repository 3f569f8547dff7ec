"""AsyncJobQueue: a JobQueue whose methods are awaited. Read ``final/job_queue.py`` first.

``enqueue``, ``wait``, ``map`` and ``join`` may take long, so they take no thread: each sends its
request to the dispatcher as ever, and the answer comes back to the event loop that waits for it
(``Request.wake``). What takes a moment (a look at the file, an order for one turn, opening and
closing) is done by ``asyncio.to_thread``, so the loop goes on meanwhile.

But: a face, not another queue. Handlers run as in any JobQueue: plain ones in the workers' threads,
coroutines on the event loop of the queue, none on the loop of the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from final.beyond.control import Pause
from final.beyond.kinds import Kind
from final.beyond.periodic import Every, PeriodicRecord
from final.engine.events import Subscriber
from final.engine.messages import Enqueue, Join, Request, Wait, Withdraw
from final.engine.metrics import Metrics
from final.errors import QueueClosed
from final.job import AttemptRecord, GroupRecord, Job, JobRecord, Priority, Status, Task
from final.job_queue import JobQueue, _result
from final.ledger.base import SharedFigures
from final.options import ByOption, require_timeout
from final.workers.attempts import Handler
from final.workers.current import current_batch

Answer = TypeVar("Answer")


class AsyncJobQueue:
    """A queue for programs on asyncio: ``async with AsyncJobQueue(handlers, path=...) as queue``.

    handler and options: those of ``JobQueue``, which is opened when the ``async with`` begins. (Of
    tasks that begin it at a time one opens it, for them all; the first to leave closes it.) Each
    method does what that of the same name does there, and raises the same. It may be called in any
    event loop, also by a coroutine handler.

    A task that is cancelled while it waits has withdrawn what it asked for, as a time-out does; but
    whether a job came in before that it does not know. (Enqueue it again with the same id, and
    DuplicateJob says so.) A shutdown that has begun goes on.
    """

    def __init__(
        self, handler: Handler | Mapping[str, Handler | Kind] | None, **options: Any
    ) -> None:
        self._open_queue = functools.partial(JobQueue, handler, **options)
        self._queue: JobQueue | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def of(cls, queue: JobQueue) -> AsyncJobQueue:
        """The awaitable face of a queue that is open."""
        face = cls(None)
        face._queue = queue
        return face

    @property
    def sync(self) -> JobQueue:
        """The queue itself, for threads and plain handlers. RuntimeError before it is open."""
        if self._queue is None:
            raise RuntimeError("This queue is not open yet: async with AsyncJobQueue(...) as queue")
        return self._queue

    async def __aenter__(self) -> AsyncJobQueue:
        async with self._opening:
            if self._queue is None:
                opening = asyncio.get_running_loop().run_in_executor(None, self._open_queue)
                try:
                    self._queue = await asyncio.shield(opening)
                except asyncio.CancelledError:  # it opens all the same, and nobody would close it
                    while not opening.done():
                        with contextlib.suppress(asyncio.CancelledError):  # a second time
                            await asyncio.wait([opening])
                    await asyncio.to_thread(opening.result().close, False, 0)
                    raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- what may take long, without a thread ----------------------------------------------

    async def enqueue(self, job: Job, timeout: float | None = None) -> str:
        """As ``JobQueue.enqueue``; while its lane is full the calling task waits."""
        [job_id] = await self.enqueue_many([job], timeout)
        return job_id

    async def enqueue_many(self, jobs: Iterable[Job], timeout: float | None = None) -> list[str]:
        """As ``JobQueue.enqueue_many``."""
        require_timeout(timeout)
        tasks = in_order = [self.sync._task(job) for job in jobs]
        if any(task.after for task in tasks):
            in_order = await asyncio.to_thread(self.sync._in_order, tasks)
        ids = await self._enqueue(in_order, timeout)
        by_task = dict(zip([task.id for task in in_order], ids, strict=True))
        return [by_task[task.id] for task in tasks]

    async def map(
        self,
        payloads: Iterable[object],
        *,
        kind: str = "default",
        priority: Priority | str = Priority.MEDIUM,
        timeout: float | None = None,
    ) -> AsyncIterator[object]:
        """As ``JobQueue.map``: ``async for result in queue.map(payloads)``."""
        require_timeout(timeout)
        remaining = iter(payloads)
        under_way: deque[Wait] = deque()
        try:
            while True:
                await self._enqueue(*self.sync._more_of(remaining, under_way, kind, priority))
                if not under_way:
                    return
                record = await self._answer(self.sync._first_of(under_way), timeout)
                under_way.popleft()
                yield _result(record)
        finally:
            self.sync._give_up(under_way, patience=0)

    async def wait(self, job_id: str, timeout: float | None = None) -> JobRecord:
        """As ``JobQueue.wait``; ten thousand tasks may wait at a time."""
        require_timeout(timeout)
        record = await self.get(job_id)
        if not record.status.ended:
            try:
                record = await self._ask(self.sync._wait_for(record, timeout), timeout)
            except QueueClosed:  # too late to ask, but it may have ended before
                record = await self.get(job_id)
                if not record.status.ended:
                    raise
        return record

    async def join(self, timeout: float | None = None) -> None:
        """As ``JobQueue.join``."""
        require_timeout(timeout)
        self.sync._refuse_to_join_inside()
        await self._ask(Join(), timeout)

    # ---- what takes a moment, in another thread --------------------------------------------

    async def cancel(self, job_id: str) -> bool:
        """As ``JobQueue.cancel``."""
        return await asyncio.to_thread(self.sync.cancel, job_id)

    async def dead_letters(self) -> list[JobRecord]:
        """As ``JobQueue.dead_letters``."""
        return await asyncio.to_thread(self.sync.dead_letters)

    async def attempts(self, job_id: str) -> list[AttemptRecord]:
        """As ``JobQueue.attempts``."""
        return await asyncio.to_thread(self.sync.attempts, job_id)

    async def retry(self, job_id: str) -> None:
        """As ``JobQueue.retry``."""
        await asyncio.to_thread(self.sync.retry, job_id)

    async def cancel_all(self, kind: str | None = None, **chosen: Any) -> int:
        """As ``JobQueue.cancel_all``, same keywords; ``progress`` is called in a thread."""
        return await asyncio.to_thread(self.sync.cancel_all, kind, **chosen)

    async def retry_all(self, kind: str | None = None, **chosen: Any) -> int:
        """As ``JobQueue.retry_all``, in the same way."""
        return await asyncio.to_thread(self.sync.retry_all, kind, **chosen)

    async def purge(self, kind: str | None = None, **chosen: Any) -> int:
        """As ``JobQueue.purge``, in the same way."""
        return await asyncio.to_thread(self.sync.purge, kind, **chosen)

    async def delete(self, job_id: str) -> None:
        """As ``JobQueue.delete``."""
        await asyncio.to_thread(self.sync.delete, job_id)

    async def periodic(self) -> list[PeriodicRecord]:
        """As ``JobQueue.periodic``."""
        return await asyncio.to_thread(self.sync.periodic)

    async def add_periodic(self, every: Every) -> None:
        """As ``JobQueue.add_periodic``."""
        await asyncio.to_thread(self.sync.add_periodic, every)

    async def change_periodic(self, every: Every) -> None:
        """As ``JobQueue.change_periodic``."""
        await asyncio.to_thread(self.sync.change_periodic, every)

    async def pause_periodic(self, name: str) -> None:
        """As ``JobQueue.pause_periodic``."""
        await asyncio.to_thread(self.sync.pause_periodic, name)

    async def resume_periodic(self, name: str) -> None:
        """As ``JobQueue.resume_periodic``."""
        await asyncio.to_thread(self.sync.resume_periodic, name)

    async def remove_periodic(self, name: str) -> None:
        """As ``JobQueue.remove_periodic``."""
        await asyncio.to_thread(self.sync.remove_periodic, name)

    async def status(self, job_id: str) -> Status:
        """As ``JobQueue.status``."""
        return await asyncio.to_thread(self.sync.status, job_id)

    async def get(self, job_id: str) -> JobRecord:
        """As ``JobQueue.get``."""
        return await asyncio.to_thread(self.sync.get, job_id)

    async def jobs(
        self, status: Status | str | None = None, limit: int = 100, **chosen: Any
    ) -> list[JobRecord]:
        """As ``JobQueue.jobs``, with the same keywords."""
        return await asyncio.to_thread(self.sync.jobs, status, limit, **chosen)

    async def groups(self, limit: int = 10) -> list[GroupRecord]:
        """As ``JobQueue.groups``."""
        return await asyncio.to_thread(self.sync.groups, limit)

    async def metrics(self) -> Metrics:
        """As ``JobQueue.metrics``."""
        return await asyncio.to_thread(self.sync.metrics)

    async def shared_figures(self) -> SharedFigures | None:
        """As ``JobQueue.shared_figures``."""
        return await asyncio.to_thread(self.sync.shared_figures)

    async def set_fairness(self, fairness: int | None) -> None:
        """As ``JobQueue.set_fairness``."""
        await asyncio.to_thread(self.sync.set_fairness, fairness)

    async def pause(
        self,
        kind: str | None = None,
        priority: Priority | str | None = None,
        group: str | None = None,
    ) -> None:
        """As ``JobQueue.pause``."""
        await asyncio.to_thread(self.sync.pause, kind, priority, group)

    async def resume(
        self,
        kind: str | None = None,
        priority: Priority | str | None = None,
        group: str | None = None,
    ) -> None:
        """As ``JobQueue.resume``."""
        await asyncio.to_thread(self.sync.resume, kind, priority, group)

    async def paused(self) -> list[Pause]:
        """As ``JobQueue.paused``."""
        return await asyncio.to_thread(self.sync.paused)

    async def set_workers(self, count: int | None) -> int:
        """As ``JobQueue.set_workers``."""
        return await asyncio.to_thread(self.sync.set_workers, count)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """As ``JobQueue.subscribe``: not awaited, and ``subscriber`` is called in a thread."""
        return self.sync.subscribe(subscriber)

    async def close(
        self,
        drain: bool = True,
        timeout: float | ByOption | None = ByOption.SHUTDOWN_TIMEOUT,
    ) -> bool:
        """As ``JobQueue.close``."""
        return await asyncio.to_thread(self.sync.close, drain, timeout)

    # ---- inside ----------------------------------------------------------------------------

    async def _enqueue(
        self, tasks: list[Task], timeout: float | None, waits: Sequence[Wait] = ()
    ) -> list[str]:
        if not tasks:
            return []
        request = Enqueue(tasks, current_batch(), waits)
        return await self._ask(request, self.sync._patience(request, timeout))

    async def _ask(self, request: Request[Answer], timeout: float | None) -> Answer:
        self.sync._refuse_out_of_place()
        self.sync._dispatcher.ask(request)
        return await self._answer(request, timeout)

    async def _answer(self, request: Request[Answer], timeout: float | None) -> Answer:
        """As ``JobQueue._await``: the same tie, without a thread."""
        queue, dispatcher = self.sync, self.sync._dispatcher
        if dispatcher.finished or not queue._has_thread:
            return await asyncio.to_thread(queue._await, request, timeout)
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        request.wake = functools.partial(_wake, loop, answered)
        if request.answered:  # before it could wake anybody here
            request.wake()
        try:
            in_time, _ = await asyncio.wait([answered], timeout=timeout)
            if not in_time:
                dispatcher.inbox.put(Withdraw(request))
                await answered
        except BaseException:  # the task is cancelled
            dispatcher.inbox.put(Withdraw(request, gone=True))
            raise
        finally:
            dispatcher.unanswered.discard(request)
        return request.result()


def _wake(loop: asyncio.AbstractEventLoop, answered: asyncio.Future[None]) -> None:
    """In the dispatcher's thread: the loop goes on with who waits for ``answered``."""
    with contextlib.suppress(RuntimeError):  # it is closed, so nobody waits
        loop.call_soon_threadsafe(_set, answered)


def _set(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
