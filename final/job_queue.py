"""JobQueue, the façade: read this first.

Follow one job through the files:

1. ``enqueue`` below checks it, brings its payload into stored form (payload.py) and puts
   an ``Enqueue`` message (messages.py) into the dispatcher's inbox;
2. a turn of the dispatcher (dispatcher.py) gives it a place in its lane (lanes.py), writes
   it to the store (stores/sqlite.py) and answers: only now does ``enqueue`` return;
3. the same turn, or a later one, picks it for an idle worker and commits that claim;
4. the worker (workers.py) runs the handler and reports the outcome;
5. the next turn commits the outcome: completed, or waiting for its retry (retry.py), or,
   with no attempts left, a dead letter.

But: at least once, not exactly once. A process that dies between running a handler and
committing the outcome runs that job again at the next start: make handlers idempotent.
One process owns a file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, TypeVar

from final.dispatcher import Dispatcher
from final.errors import DuplicateJob, QueueClosed, UnknownJob
from final.job import Job, JobRecord, Status, Task
from final.lanes import Lanes
from final.messages import Close, Enqueue, Inspect, Join, Question, Report, Retry, Watch, Withdraw
from final.metrics import Metrics, Recorder
from final.options import require_choice, require_int, require_number, require_timeout
from final.payload import encode
from final.retry import Backoff
from final.stores import SqliteStore
from final.workers import Handler, Handlers, WorkerPool

Answer = TypeVar("Answer")


class JobQueue:
    """A durable job queue: bounded lanes by priority, retries with backoff, no starvation.

    handler: ``handler(job)``, or a mapping of kinds to handlers. An exception fails the
        attempt; a returned JSON value or bytes is kept as the job's result.
    path: the SQLite file; ":memory:" (the default) keeps nothing beyond this object.
    workers: threads that run handlers.
    capacity: how many jobs may wait in each lane; retries and recovered jobs come on top.
    max_retries: further attempts after the first one fails, spaced by ``backoff``.
    fairness: how often in a row a waiting lane may be passed over (lanes.py); None for
        strict priority.
    durability: "full": an accepted job survives a power cut. "normal": it survives the end
        of the process; a power cut may take the latest ones.
    max_payload: the most bytes a payload or a result may take, 16 MiB.
    shutdown_timeout: seconds that ``close`` waits by default; None for as long as it takes.

    Opening a file takes over what an earlier process left unfinished. Leaving the ``with``
    block closes the queue. All methods may be called from any thread.

    Raises TypeError or ValueError for an option that makes no sense, and StorageError for
    a file that cannot be used (wrong place, no database, damaged, owned by a process).
    """

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler],
        *,
        path: str | os.PathLike[str] = ":memory:",
        workers: int = 4,
        capacity: int = 1000,
        max_retries: int = 3,
        backoff: Backoff = Backoff(),
        fairness: int | None = 10,
        durability: Literal["full", "normal"] = "full",
        max_payload: int = 16 * 1024 * 1024,
        shutdown_timeout: float | None = 30.0,
    ) -> None:
        self._handlers = Handlers(handler)
        require_int("workers", workers, 1)
        require_int("capacity", capacity, 1)
        require_int("max_retries", max_retries, 0)
        require_int("max_payload", max_payload, 1)
        if not isinstance(backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff, not {backoff!r}.")
        if fairness is not None:
            require_int("fairness", fairness, 1)
        require_choice("durability", durability, ("full", "normal"))
        if shutdown_timeout is not None:
            require_number("shutdown_timeout", shutdown_timeout)
        self._max_payload = max_payload
        self._shutdown_timeout = shutdown_timeout

        store = SqliteStore(path, durability)
        self._store = store
        try:
            self._pool = WorkerPool(workers, self._handlers, self._report, max_payload)
            self._dispatcher = Dispatcher(
                store,
                Lanes(capacity, fairness),
                Recorder(workers, time.monotonic()),
                workers=workers,
                max_retries=max_retries,
                backoff=backoff,
                handles=self._handlers.handles,
                deliver=self._pool.deliver,
            )
            self._dispatcher.recover(time.monotonic(), time.time())
        except BaseException:
            store.close()
            raise
        self._thread = threading.Thread(target=self._run, name="final-dispatcher", daemon=True)
        self._thread.start()
        self._pool.start()

    # ---- jobs in ---------------------------------------------------------------------------

    def enqueue(self, job: Job, timeout: float | None = None) -> str:
        """Accept ``job`` and return its id once it is durable; wait while its lane is full.

        Waits for room at most ``timeout`` seconds (None: as long as it takes; 0: not at all).
        Raises TypeError or ValueError for a job that cannot be stored or has no handler,
        QueueFull when there was no room in time, DuplicateJob for an id that is taken,
        QueueClosed, and StorageError when the disk is full or broken. In all of these cases
        the job is not in the queue.
        """
        return self.enqueue_many([job], timeout)[0]

    def enqueue_many(self, jobs: Iterable[Job], timeout: float | None = None) -> list[str]:
        """Accept jobs in order, as by ``enqueue`` for each, in as few transactions as possible.

        Where one is refused, the error's ``accepted`` lists the ids before it, which are
        durable and will run. A job that cannot be stored, or an id that comes twice in the
        call, is found before anything is accepted.
        """
        require_timeout(timeout)
        tasks = [self._task(job) for job in jobs]
        if not tasks:
            return []
        if len(tasks) > 1:
            _refuse_repeated_ids(tasks)
        return self._ask(Enqueue(tasks, self._pool.is_current_thread()), timeout)

    def retry(self, job_id: str) -> None:
        """Put a dead letter back into its lane, with all its attempts.

        Raises UnknownJob for an unknown id, ValueError for a job that is not a dead letter.
        """
        status = self.status(job_id)
        if status is not Status.FAILED:
            raise ValueError(f"Job {job_id} is {status}: only a failed job can be retried.")
        self._ask(Retry(job_id), None)

    # ---- looking at jobs -------------------------------------------------------------------

    def status(self, job_id: str) -> Status:
        """Where the job is in its life. Raises UnknownJob for an unknown id."""
        return self.get(job_id).status

    def get(self, job_id: str) -> JobRecord:
        """All that is known about the job. Raises UnknownJob for an unknown id."""
        record = self._store.get(job_id)
        if record is None:
            raise UnknownJob(job_id)
        return record

    def jobs(self, status: Status | str | None = None, limit: int = 100) -> list[JobRecord]:
        """The newest jobs first, at most ``limit``; of one status, if given."""
        require_int("limit", limit, 1)
        return self._store.jobs(None if status is None else Status(status), limit)

    def dead_letters(self) -> list[JobRecord]:
        """The jobs that have failed for good, newest first; ``retry`` gives one another chance."""
        return self._store.jobs(Status.FAILED, -1)

    def wait(self, job_id: str, timeout: float | None = None) -> JobRecord:
        """Wait until the job has completed or failed, and return its record.

        Raises UnknownJob for an unknown id, TimeoutError after ``timeout`` seconds, and
        QueueClosed when the queue closes before the job has ended.
        """
        require_timeout(timeout)
        record = self.get(job_id)
        if not record.status.ended:
            self._ask(Watch(job_id), timeout)
            record = self.get(job_id)
        return record

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing is queued, processing or retrying.

        Raises TimeoutError after ``timeout`` seconds, QueueClosed when the queue closes first.
        Jobs of a kind without a handler are not waited for.
        """
        require_timeout(timeout)
        self._ask(Join(), timeout)

    def metrics(self) -> Metrics:
        """Counts, percentiles and rates of one instant; after ``close``, of its last one."""
        try:
            return self._ask(Inspect(), None)
        except QueueClosed:
            return self._dispatcher.last_metrics

    # ---- the end ---------------------------------------------------------------------------

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Stop accepting, finish, and let go of the file.

        drain: run everything that was accepted, retries too. Otherwise only what is in flight
            is finished; the rest stays in the file for the next start.
        timeout: seconds to wait, ``shutdown_timeout`` if None. After that, jobs in flight go
            back to the queue for the next start, uncharged, and their threads are left behind.

        Returns whether it was not cut short. May be called again, from any thread; blocked
        producers are woken with QueueClosed. Inside a handler it starts the shutdown and
        returns False at once, because it would wait for the very job that called it.
        """
        require_timeout(timeout)
        close = Close(drain)
        if self._pool.is_current_thread():
            self._dispatcher.ask(close)
            return False
        complete = self._ask(close, self._shutdown_timeout if timeout is None else timeout)
        self._thread.join()
        if complete:
            self._pool.join()
        return complete

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- inside ----------------------------------------------------------------------------

    def _task(self, job: Job) -> Task:
        """The job as the engine carries it; raises where it cannot be stored or run."""
        if not isinstance(job, Job):
            raise TypeError(f"enqueue takes a Job, not {type(job).__name__}.")
        if not self._handlers.handles(job.kind):
            known = ", ".join(self._handlers.kinds())
            raise ValueError(f"Job.kind {job.kind!r} has no handler here; there are: {known}.")
        payload = encode("Job.payload", job.payload, self._max_payload)
        return Task(job.id, payload, job.priority, job.kind)

    def _ask(self, question: Question[Answer], timeout: float | None) -> Answer:
        """Send a question to the dispatcher and wait for the answer.

        The dispatcher owns the state, so it also decides a tie: whoever runs out of time asks
        it to withdraw the question, and takes whatever answer comes of that.
        """
        self._dispatcher.ask(question)
        try:
            if not question.wait(timeout):
                self._dispatcher.inbox.put(Withdraw(question))
                question.wait(None)
        except BaseException:  # Ctrl-C in the waiting thread
            self._dispatcher.inbox.put(Withdraw(question))
            raise
        return question.result()

    def _report(self, report: Report) -> None:
        self._dispatcher.inbox.put(report)

    def _run(self) -> None:
        """The dispatcher's thread; whichever way it ends, the workers go home."""
        try:
            self._dispatcher.run()
        finally:
            self._pool.stop()


def _refuse_repeated_ids(tasks: list[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise DuplicateJob([task.id])
        seen.add(task.id)
