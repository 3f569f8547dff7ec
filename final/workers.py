"""The pool: threads that take batches of jobs, run their handlers and report the outcomes.

But: a thread cannot be killed. A handler that never returns keeps its worker, and a
queue that closes without waiting for it leaves it behind as a daemon thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from final.job import Job, Outcome, Task
from final.messages import Batch, Report
from final.payload import decode, encode

log = logging.getLogger("final")

Handler = Callable[[Job], object]


class WorkerPool:
    """``count`` threads. ``handler_of(kind)`` finds the handler, ``report`` takes what came of it.

    max_result: the most bytes that a handler's return value may take in stored form.
    """

    def __init__(
        self,
        count: int,
        handlers: Handlers,
        report: Callable[[Report], None],
        max_result: int,
    ) -> None:
        self._handlers = handlers
        self._report = report
        self._max_result = max_result
        # Waited on by idle workers: a batch, or None to leave.
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"final-worker-{n}", daemon=True)
            for n in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to an idle worker. The dispatcher knows that there is one."""
        self._batches.put(batch)

    def stop(self) -> None:
        """Let every worker leave when it is through with its batch."""
        for _ in self._threads:
            self._batches.put(None)

    def join(self) -> None:
        """Wait until all workers have left."""
        for thread in self._threads:
            thread.join()

    def is_current_thread(self) -> bool:
        """Whether the caller is one of the workers, that is, inside a handler."""
        return threading.current_thread() in self._threads

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcomes = []
            while batch.tasks:
                try:
                    task = batch.tasks.popleft()
                except IndexError:
                    break  # the dispatcher has just taken back the rest
                outcomes.append(self._attempt(task))
            self._report(Report(batch, outcomes))

    def _attempt(self, task: Task) -> Outcome:
        started = time.perf_counter()
        try:
            job = Job(task.id, decode(task.payload), task.priority, task.kind)
            value = self._handlers.of(task.kind)(job)
        except BaseException as error:
            # Also SystemExit and KeyboardInterrupt: a handler ends its attempt, not its worker.
            seconds = time.perf_counter() - started
            return Outcome(task, seconds, error=_line(error), traceback=_full(error))
        seconds = time.perf_counter() - started
        if value is None:
            return Outcome(task, seconds)
        try:
            return Outcome(task, seconds, result=encode("The result", value, self._max_result))
        except (TypeError, ValueError) as error:
            # The work is done and must not be done again, so the job completes without it.
            note = f"{error} The job completed; its result is not kept."
            log.warning("job %s: %s", task.id, note)
            return Outcome(task, seconds, note=note)


class Handlers:
    """Which handler runs which kind of job: one for all kinds, or one for each.

    Raises TypeError or ValueError for what cannot be called.
    """

    def __init__(self, handler: Handler | Mapping[str, Handler]) -> None:
        self._for_all = None if isinstance(handler, Mapping) else handler
        self._by_kind = dict(handler) if isinstance(handler, Mapping) else {}
        if self._for_all is None and not self._by_kind:
            raise ValueError("handler is an empty mapping: give at least one kind a handler.")
        if self._for_all is not None and not callable(self._for_all):
            raise TypeError(
                f"handler must be callable as handler(job), or a mapping of kinds to such, "
                f"not {handler!r}."
            )
        for kind, one in self._by_kind.items():
            if not isinstance(kind, str) or not kind:
                raise TypeError(f"The kinds of handlers are non-empty text, not {kind!r}.")
            if not callable(one):
                raise TypeError(f"The handler of kind {kind!r} must be callable, not {one!r}.")

    def handles(self, kind: str) -> bool:
        return self._for_all is not None or kind in self._by_kind

    def of(self, kind: str) -> Handler:
        return self._for_all or self._by_kind[kind]

    def kinds(self) -> list[str]:
        return sorted(self._by_kind)


def _line(error: BaseException) -> str:
    """``ValueError: no such address``, also for an exception whose text cannot be had."""
    return traceback.format_exception_only(error)[-1].strip()


def _full(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
