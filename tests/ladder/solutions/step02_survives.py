"""Step 2: a handler that raises ends its job, not its worker.

But: still unbounded, in memory, and gone in a blink when it closes; see the marks.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

log = logging.getLogger("improved")

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
            try:
                self._handler(job)
            except BaseException as error:
                # Also SystemExit and KeyboardInterrupt: a handler ends its job, not its worker.
                # FLAW N5: no retry. A job that fails once is lost.
                log.warning("Job %s failed: %r", job.id, error)
