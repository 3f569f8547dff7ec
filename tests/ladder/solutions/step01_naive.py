"""Stage 1, naive: the job queue everyone writes first.

A queue of jobs and a few threads that take one after the other. It starts every
job once, in order, and runs several at a time. On a good day that is enough.

But: a job queue is judged on its bad days, and this one has seven flaws, on
purpose. Each is marked ``FLAW`` at the line that causes it; ``make test-naive``
shows them all, and ``improved/`` and ``final/`` mend them one by one.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

# Unique in this process, and no job outlives it.
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Job:
    """One piece of work: ``id`` names it, ``payload`` is what the handler works on."""

    id: str = field(default_factory=lambda: f"job-{next(_numbers)}")
    payload: object = None


Handler = Callable[[Job], object]


class JobQueue:
    """Run ``handler(job)`` for every enqueued job on one of ``workers`` threads.

    Leaving the ``with`` block closes the queue.
    """

    def __init__(self, handler: Handler, *, workers: int = 4) -> None:
        self._handler = handler
        # FLAW N1: unbounded. A producer that is faster than the workers fills the memory.
        # FLAW N3: memory only. When the process ends, so do the jobs.
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"naive-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        # FLAW N7: nothing to look at. No metrics, no status: how far are we, did it work?

    def enqueue(self, job: Job) -> None:
        """Add ``job`` to the end of the queue; never waits."""
        # FLAW N2: first in, first out only. An urgent job waits behind everything.
        self._jobs.put(job)

    def close(self) -> None:
        """Tell the workers to stop."""
        # FLAW N4: returns at once. What is queued is dropped, what is in flight dies with the
        # process. A later job is taken without a word, and runs only if a worker was idle.
        self._closed = True

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        """What each worker thread does: take a job, run it, repeat."""
        while not self._closed:
            job = self._jobs.get()
            # FLAW N5: no retry. A job that fails once is lost.
            # FLAW N6: an exception ends this loop and its thread: four bad jobs stop the queue.
            self._handler(job)
