"""The pool: threads that take batches of jobs, have them run, and report the outcomes.

How an attempt is made is the business of ``attempts.py``. One that goes on as a coroutine holds
no thread: its batch comes back with its end. So ``workers`` is how many batches may be out, and
there are as many threads as these can hold (``Handlers.threads``).

But: a thread cannot be killed. One that is still in its handler when the time is up is abandoned
at once: a fresh worker takes its place, and what it returns in the end is dropped.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

from final.job import Outcome, Task
from final.workers.attempts import LATER, NOTHING_TO_KEEP, Ending, Runner
from final.workers.batch import Batch, Report
from final.workers.current import Delay, Ways, current_batch, enter_attempt
from final.workers.handlers import Handlers


class WorkerPool:
    """Threads that run jobs; ``report`` takes what came of them.

    delay: see ``Delay``.
    say: writes a line into the log, like ``Events.say``.
    ways: for ``current_job``, as ``Ways``.
    clock: seconds, as time.monotonic() has them, which is the one by default.
    """

    def __init__(
        self,
        handlers: Handlers,
        report: Callable[[Report], None],
        delay: Delay,
        say: Callable[..., None],
        ways: Ways,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._handlers = handlers
        self._report = report
        self._delay = delay
        self._say = say
        self._ways = ways
        self._clock = time.monotonic if clock is None else clock
        # Waited on by idle threads: a batch, which may have come back, or None to leave.
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._workers = 0
        self._wanted = 0  # threads: without those that were told to leave, or abandoned
        # An abandoned worker is taken out: nobody waits for it any more.
        self._threads: list[threading.Thread] = []
        self._is_short = False  # there was no thread when one was wanted last

    def start(self, count: int) -> int:
        """Start that many workers, or as many as there are threads for; returns how many.

        Raises RuntimeError if there is not one.
        """
        if not count:
            return 0
        self._hire()
        self._workers = self._wanted = 1
        return 1 + self.hire(count - 1)

    def hire(self, count: int) -> int:
        """Start so many more workers, or as many as there are threads for; returns how many."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]  # some have left
        for number in range(count):
            try:
                if self._wanted < self._handlers.threads(self._workers + 1):
                    self._hire()
                    self._wanted += 1
            except RuntimeError as error:
                self._tell_of_few(self._workers, error)
                return number
            self._workers += 1
        return count

    def retire(self) -> None:
        """Let an idle worker leave. The dispatcher knows that there is one."""
        self._workers -= 1
        if self._wanted > self._handlers.threads(self._workers):
            self._wanted -= 1
            self._batches.put(None)

    def _hire(self) -> None:
        """Start another thread; raises RuntimeError if there is none."""
        name = f"final-worker-{next(self._numbers)}"
        thread = threading.Thread(target=self._work, args=(name,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
        self._is_short = False

    def _tell_of_few(self, workers: int, error: RuntimeError) -> None:
        if not self._is_short:  # tell it once, however often it is tried
            self._say(logging.WARNING, "The queue goes on with %d workers: %s.", workers, error)
        self._is_short = True

    # ---- for the dispatcher ----------------------------------------------------------------

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to an idle worker. The dispatcher knows that there is one.

        Also one that comes back, with the end of its coroutine.
        """
        self._batches.put(batch)

    def tell(self, batch: Batch, task: Task) -> None:
        """Tell the handler of a running job to stop. It may listen or not."""
        if batch.running is not task:
            return  # the worker will see that it is cancelled, or is through with it
        batch.told = task
        if (stop := batch.stop) is not None:  # looked at once: the worker may take it away
            stop()
        for wake in batch.sleepers.copy():
            wake.set()

    def obeys(self, batch: Batch, task: Task) -> bool:
        """Whether ``tell`` frees the worker in any case: a coroutine, or a process."""
        return batch.on_loop or self._handlers.of(task.kind).can_stop

    def replace(self, batch: Batch) -> bool:
        """Put a fresh worker in the place of the one that has this batch, and seize the batch.

        False: there is no thread for it, or that one is through with it at this very moment.
        """
        try:
            self._hire()
        except RuntimeError as error:
            self._tell_of_few(self._workers - 1, error)
            return False
        if not batch.seize():
            self._batches.put(None)  # the fresh one, or another idle one, leaves again
            return False
        self._threads = [thread for thread in self._threads if thread is not batch.worker]
        return True

    # ---- for the queue ---------------------------------------------------------------------

    def stop(self) -> None:
        """Let every worker leave when it is through with its batch."""
        for _ in self._threads:
            self._batches.put(None)

    def join(self) -> None:
        """Wait until all workers have left."""
        for thread in self._threads:
            thread.join()

    def is_calling(self) -> bool:
        """Whether the caller is inside a handler, so that its worker waits for it."""
        batch = current_batch()
        if batch is not None and batch.pool is self and not batch.is_seized():  # not given up
            return batch.running is not None
        return self._handlers.is_current_thread()

    def _work(self, name: str) -> None:
        while (batch := self._batches.get()) is not None:
            threading.current_thread().name = name  # a handler may have given it another one
            if not self._work_off(batch):
                break  # given up, and replaced
        self._handlers.leave()

    def _work_off(self, batch: Batch) -> bool:
        """Run its jobs and report; False where somebody else has ended it meanwhile."""
        batch.pool, batch.worker = self, threading.current_thread()
        batch.name = batch.worker.name
        if batch.awaited is not None and not self._go_on(batch):
            return True
        batch.running = None
        while (runner := self._next_runner(batch)) is not None:
            # A process may take a second to start: until then its job can be taken back, too.
            unfit = runner.prepare()
            try:
                task = batch.tasks.popleft()
            except IndexError:
                break  # it was
            ending = self._attempt(batch, task, runner, unfit)
            if ending is LATER:
                return True  # it comes back: another thread may have it by now
            if ending is None:
                batch.tasks.appendleft(task)
            else:
                batch.outcomes.append(self._outcome(batch, task, ending))
            batch.running = None
        if not batch.seize():
            return False
        self._report(Report(batch))
        return True

    def _next_runner(self, batch: Batch) -> Runner | None:
        try:
            return self._handlers.of(batch.tasks[0].kind)
        except IndexError:
            return None

    def _go_on(self, batch: Batch) -> bool:
        """Its coroutine has ended; False if there is one more to wait for."""
        task = batch.running
        assert task is not None, "it is this job that was waited for"
        enter_attempt(batch, task, self._ways)
        ending = self._handlers.of(task.kind).go_on(batch)
        if ending is LATER:
            return False
        if ending is not None:  # else it was taken back
            batch.outcomes.append(self._outcome(batch, task, ending))
        return True

    def _attempt(
        self, batch: Batch, task: Task, runner: Runner, unfit: Ending | None
    ) -> Ending | None:
        """None: its handler has not begun. LATER: its coroutine is under way."""
        # In this order: who reads `running` first never sees a job with an older start.
        batch.started = self._clock()
        batch.attempt = task.attempts
        batch.running = task
        enter_attempt(batch, task, self._ways)
        if task.cancelled:  # while it waited in the batch
            return CANCELLED_BEFORE_START
        return unfit or runner.run(batch, task)

    def _outcome(self, batch: Batch, task: Task, ending: Ending) -> Outcome:
        seconds, waited = self._clock() - batch.started, batch.started - task.queued_at
        if ending is NOTHING_TO_KEEP:
            return Outcome(task, seconds, waited=waited)
        outcome = Outcome(task, seconds, *ending, waited=waited)
        if outcome.error is not None:
            # Asked here, since a Backoff of the user's own may take its time.
            outcome.delay = self._delay(task.kind, batch.attempt, outcome.permanent)
        return outcome


CANCELLED_BEFORE_START = Ending(error="Cancelled before it started.", permanent=True)
