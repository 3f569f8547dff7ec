"""JobQueue, the façade: what callers use.

One job's way through the files (docs/inside-final.md has pictures, and in which order to read):

1. ``enqueue`` below checks it, brings its payload into stored form (payload.py) and puts
   an ``Enqueue`` (engine/messages.py) into the dispatcher's inbox;
2. a turn of the dispatcher (engine/dispatcher.py) offers it to the ledger (ledger/base.py);
3. one exchange (ledger/local.py) gives it a place in its lane (ledger/lanes.py), picks it if a
   worker is idle, and writes both to the file (ledger/sqlite.py), in one transaction;
4. the turn goes on with what it was given: ``enqueue`` returns, and what was picked is handed
   out (engine/flight.py), now or by a later turn;
5. the worker (workers/pool.py) runs the handler (workers/attempts.py) and reports the outcome;
6. the next exchange writes it: completed, or waiting for its retry, or, with no attempts left
   or none that could help, a dead letter.

But: at least once, not exactly once. A process that dies between running a handler and
committing the outcome runs that job again at the next start: make handlers idempotent.
One process owns a file; a database (ledger/postgres/) is for many.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

from final.beyond.control import Pause, in_order, pause_of
from final.beyond.filters import Filter, Which, filter_of, plain_text
from final.beyond.graph import parents_elsewhere, parents_first
from final.beyond.kinds import Kind, Policies
from final.beyond.meta import frozen
from final.beyond.periodic import Entry, Every, PeriodicRecord, require_names
from final.engine.dispatcher import Dispatcher
from final.engine.events import Events, Subscriber
from final.engine.flight import Flight
from final.engine.many import OnProgress, in_turns
from final.engine.messages import (
    Close,
    Enqueue,
    GiveOrder,
    Join,
    Measure,
    Request,
    Wait,
    Withdraw,
    Woken,
)
from final.engine.metrics import Metrics, Recorder
from final.engine.sayings import Sayings
from final.engine.uninterrupted import uninterrupted
from final.errors import (
    JobFailed,
    PeriodicExists,
    QueueClosed,
    QueueFull,
    UnknownJob,
    UnknownPeriodic,
)
from final.job import AttemptRecord, GroupRecord, Job, JobRecord, Priority, Status, Task
from final.ledger import base
from final.ledger.base import SharedFigures
from final.ledger.local import LocalLedger
from final.ledger.postgres import address
from final.ledger.sqlite import SqliteFile
from final.options import (
    Backoff,
    ByOption,
    Limit,
    Options,
    require_fairness,
    require_int,
    require_limits,
    require_timeout,
    require_workers,
)
from final.payload import IMMUTABLE, encode
from final.workers.attempts import Handler
from final.workers.batch import Report
from final.workers.current import Ways, current_batch
from final.workers.handlers import Handlers
from final.workers.middleware import Middleware, before_enqueue
from final.workers.pool import WorkerPool

Answer = TypeVar("Answer")

LARGEST_LIMIT = 2**63 - 1  # the largest number that SQLite knows


class JobQueue:
    """A durable job queue: bounded lanes by priority, retries with backoff, no starvation.

    handler: ``handler(job)``, or a mapping of kinds to handlers, or to a ``Kind`` where one has
        options of its own (docs/kinds.md); coroutine functions too. An exception fails the attempt,
        a PermanentFailure the job; a returned JSON value or bytes is kept as the result. A returned
        coroutine is run to its end; other work that is not done (a generator, a function) fails
        the job.
    path: the SQLite file; ":memory:" (the default) keeps nothing beyond this object; or
        "postgresql://host/database?queue=name", which many processes share: docs/many-hosts.md
        says what that changes.
    workers: how many handlers run at a time, until ``set_workers`` says otherwise. Each holds a
        thread, unless it is a coroutine function: docs/asyncio.md. On PostgreSQL also 0: it brings
        jobs that others run, and the handler may be None.
    capacity: how many jobs may wait in each lane; retries and recovered jobs come on top.
    max_retries: further attempts after the first one fails, spaced by ``backoff``.
    fairness: how often in a row a waiting lane may be passed over (lanes.py); None for
        strict priority.
    overflow: what a full lane does. "block": the producer waits. "reject": QueueFull at once.
        "drop-newest" and "drop-oldest": a job of that lane is dropped, and its status says so.
    rate_limit: a TokenBucket or LeakyBucket for the queue, or a mapping of kinds to such;
        it bounds how fast jobs start, not how fast they are accepted.
    group_limit: how many jobs of each group (``Job.group``) run at a time; None for no limit.
    timeout: seconds that an attempt may take, where neither the job nor its kind names any; None
        for no limit.
        A late attempt has failed. A thread that goes on all the same is abandoned, and so is a
        coroutine that goes on for 5 s after it was cancelled.
    executor: "thread", or "process" for handlers that compute: each worker then has a process
        of its own, and a handler must be importable there: a script needs its
        ``if __name__ == "__main__":``.
    middleware: functions ``m(job, call_next)`` around every attempt, the first one outermost
        (docs/handlers.md): what they return is the result, what they raise the attempt ends with.
    durability: "full": an accepted job survives a power cut. "normal": it survives the end
        of the process; a power cut may take the latest ones.
    history: how many completed, cancelled and dropped jobs the file keeps; dead letters are
        kept until they are retried or purged.
    memory: bytes of waiting payloads that are kept at hand, 64 MiB; the others are read from the
        file when their jobs start.
    max_payload: the most bytes a payload or a result may take, 16 MiB; at most 256 MiB.
    periodic: what is to be enqueued again and again, each an ``Every``. They are durable: an entry
        that is stored under the same name is changed, and those that are not among these stay.
    shutdown_timeout: seconds that ``close`` and the end of a ``with`` block wait by default;
        None for as long as it takes.

    Opening a file takes over what an earlier process left unfinished. Leaving the ``with``
    block closes the queue. All methods may be called from any thread.

    Raises TypeError or ValueError for an option that makes no sense, and StorageError for
    a file that cannot be used (wrong place, no database, damaged, owned by a process).
    """

    _can_run = True  # it has a handler
    _has_thread = True  # which takes the turns; else who asks does (testing.py)

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler | Kind] | None,
        *,
        path: str | os.PathLike[str] = ":memory:",
        workers: int = 4,
        capacity: int = 1000,
        max_retries: int = 3,
        backoff: Backoff = Backoff(),
        fairness: int | None = 10,
        overflow: Literal["block", "reject", "drop-newest", "drop-oldest"] = "block",
        rate_limit: Limit | Mapping[str, Limit] | None = None,
        group_limit: int | None = None,
        timeout: float | None = None,
        executor: Literal["thread", "process"] = "thread",
        middleware: Iterable[Middleware] = (),
        durability: Literal["full", "normal"] = "full",
        history: int = 100_000,
        memory: int = 64 * 1024 * 1024,
        max_payload: int = 16 * 1024 * 1024,
        periodic: Iterable[Every] = (),
        shutdown_timeout: float | None = 30.0,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path must be text or a Path, not {path!r}.")
        shared = address.is_address(path)
        self._options = options = Options(
            workers=workers,
            capacity=capacity,
            max_retries=max_retries,
            backoff=backoff,
            fairness=fairness,
            overflow=overflow,
            rate_limit=rate_limit,
            group_limit=group_limit,
            timeout=timeout,
            executor=executor,
            durability=durability,
            history=history,
            memory=memory,
            max_payload=max_payload,
            shutdown_timeout=shutdown_timeout,
            shared=shared,
        )
        policies = Policies(options, handler)
        if handler is None and shared and not workers:
            handler, self._can_run = _nobody, False
        self._process = os.getpid()
        # Waited on by the dispatcher's thread: whether all the rest is there.
        self._complete: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="final-dispatcher", daemon=True)

        # Whatever fails or interrupts this, nothing stays behind: no thread, lock, or open file.
        undo = contextlib.ExitStack()
        try:
            with uninterrupted(), _explained():
                now = time.monotonic()
                self._handlers = Handlers(handler, policies, max_payload, middleware)
                undo.callback(self._handlers.close)
                handles, shares = self._handlers.handles, self._handlers.share_batches
                require_limits(rate_limit, handles)
                entries = self._entries(periodic)
                self._events = Events()
                say = self._events.say
                self._ledger: base.Ledger
                if shared:
                    place = os.fspath(path)
                    self._ledger = _on_postgres(place, options, policies, self._handlers, say)
                else:
                    file = SqliteFile(path, durability)
                    with contextlib.ExitStack() as fails:
                        fails.callback(file.close)
                        self._ledger = LocalLedger(
                            file, options, policies, handles, shares, now, say
                        )
                        fails.pop_all()
                undo.callback(self._ledger.close)
                self._events.start()
                undo.callback(self._events.close)
                self._thread.start()  # before the workers, which may do with fewer threads
                undo.callback(self._thread.join)
                undo.callback(self._complete.put, False)
                delay = functools.partial(policies.retry_delay, say=say)
                sayings = Sayings(self._wake)
                ways = Ways(policies.timeout, self._ledger.look_ups.parents, sayings.say)
                self._pool = WorkerPool(self._handlers, self._report, delay, say, ways)
                undo.callback(self._pool.join)
                undo.callback(self._pool.stop)
                if (kept := self._ledger.workers) not in (None, workers):
                    text = "%d workers, as by set_workers, and not %d as the option says."
                    say(logging.WARNING, text, kept, workers)
                self._workers = self._pool.start(workers if kept is None else kept)
                self._dispatcher = Dispatcher(
                    self._ledger,
                    Flight(self._pool, self._workers, policies.timeout, delay, sayings),
                    Recorder(now),
                    self._events,
                )
                # Both clocks at once: the file may have taken a while to open.
                self._dispatcher.open(time.monotonic(), time.time())
                _open.add(self)
                declare = GiveOrder[bool](base.ChangePeriodic("declare", self._from_now(entries)))
                if entries:
                    self._dispatcher.ask(declare)  # known before the first turn makes jobs of them
                self._complete.put(True)
                undo.pop_all()  # from here on the dispatcher owns it all
                undo.callback(self.close, drain=False, timeout=0)
                if entries:
                    self._await(declare, None)
        except BaseException:
            undo.close()
            raise

    # ---- jobs in ---------------------------------------------------------------------------

    def enqueue(self, job: Job, timeout: float | None = None, *, connection: object = None) -> str:
        """Accept ``job`` and return its id once it is durable; wait while its lane is full.

        Waits for room at most ``timeout`` seconds (None: as long as it takes; 0: not at all).
        Raises TypeError or ValueError for a job that cannot be stored or has no handler,
        QueueFull when there was no room in time, DuplicateJob for an id that is taken, UnknownJob
        for a parent (``Job.after``) that is not there (any more), QueueClosed, and StorageError
        when the disk is full or broken. In all of these cases the job is not in the queue. (But if
        a sync has failed and the process dies before the next one, it may be in the file.)

        connection: on PostgreSQL, a psycopg connection to the same database. The job then is part
        of the transaction that is open there: it commits and rolls back with it, and a full lane
        raises QueueFull at once.

        While the queue closes, only handlers that run may enqueue (see ``close``), themselves or
        by ``asyncio.to_thread``; a thread that they have started is not known to be theirs.

        It blocks the calling thread. Inside a coroutine handler that is the event loop of them
        all, so there it waits for no room: use ``await asyncio.to_thread(queue.enqueue, job)``.
        """
        return self.enqueue_many([job], timeout, connection=connection)[0]

    def enqueue_many(
        self,
        jobs: Iterable[Job],
        timeout: float | None = None,
        *,
        connection: object = None,
    ) -> list[str]:
        """Accept jobs in order, as by ``enqueue`` for each, in as few transactions as possible.

        Jobs may come after others of the same call, wherever these stand: parents are accepted
        first.

        Where one is refused, the error's ``accepted`` lists the ids before it, which are
        durable and will run. Before anything is accepted only this is found: a job that cannot be
        stored, a parent that is not there (UnknownJob), and jobs that come after each other in a
        circle (ValueError).
        """
        require_timeout(timeout)
        tasks = [self._task(job) for job in jobs]
        if any(task.after for task in tasks):
            if connection is not None:
                raise ValueError(
                    "A job inside your transaction (connection=) cannot come after others: they "
                    "would be locked until you commit. Enqueue it afterwards."
                )
            in_order = self._in_order(tasks)
            ids = dict(zip([t.id for t in in_order], self._enqueue(in_order, timeout), strict=True))
            return [ids[task.id] for task in tasks]
        if connection is None:
            return self._enqueue(tasks, timeout)
        self._refuse_out_of_place()
        if self._dispatcher.finished:
            raise QueueClosed(self._dispatcher.why_closed)
        return self._ledger.enqueue_within(connection, tasks, self._now())

    def _enqueue(
        self, tasks: list[Task], timeout: float | None, waits: Sequence[Wait] = ()
    ) -> list[str]:
        if not tasks:
            return []
        request = Enqueue(tasks, current_batch(), waits)
        if self._options.overflow == "block" and self._handlers.is_current_thread():
            return self._enqueue_on_the_loop(request)
        return self._ask(request, self._patience(request, timeout))

    def _patience(self, request: Enqueue, timeout: float | None) -> float | None:
        """How long its sender waits for room."""
        if self._options.overflow == "reject":
            timeout = 0
        elif self._options.overflow != "block":
            timeout = None  # nobody waits for room, so nobody runs out of time
        request.patient = timeout != 0
        return timeout

    def map(
        self,
        payloads: Iterable[object],
        *,
        kind: str = "default",
        priority: Priority | str = Priority.MEDIUM,
        timeout: float | None = None,
    ) -> Iterator[object]:
        """Run a job for each payload and yield the results in the order of the payloads.

        The jobs run in any order and the results are put in order at the end ("reorder at the
        sink"). A bounded window of jobs is under way at a time, so ``payloads`` may be endless.
        Raises JobFailed at the first job that has no result, and TimeoutError if a result takes
        longer than ``timeout`` seconds. Whoever stops early cancels the jobs that still wait.
        Inside a handler it is refused where ``wait`` is.
        """
        require_timeout(timeout)
        self._refuse_on_the_loop("asyncio.to_thread(list, queue.map(payloads))")
        remaining = iter(payloads)
        under_way: deque[Wait] = deque()
        try:
            while True:
                self._enqueue(*self._more_of(remaining, under_way, kind, priority))
                if not under_way:
                    return
                record = self._await(self._first_of(under_way), timeout)
                under_way.popleft()
                yield _result(record)
        finally:
            self._give_up(under_way)

    def _more_of(
        self,
        payloads: Iterator[object],
        under_way: deque[Wait],
        kind: str,
        priority: Priority | str,
    ) -> tuple[list[Task], None, list[Wait]]:
        """What ``map`` enqueues next; refills ``under_way`` by halves, a transaction each.

        They are watched from the start, so that no history, however short, forgets a result.
        """
        # So many find room, whatever has started; who may wait for room gives each worker a job.
        fit = self._ledger.capacity
        if self._options.overflow == "block":
            fit = max(fit, self._workers)
        window = min(16 * max(1, self._workers), fit)
        if len(under_way) > window // 2:
            return [], None, []
        chunk = itertools.islice(payloads, window - len(under_way))
        jobs = [Job(payload=p, kind=kind, priority=priority) for p in chunk]
        tasks = [self._task(job) for job in jobs]
        waits = [Wait(task.id, current_batch(), task.kind, task.group) for task in tasks]
        for wait in waits:
            wait.awaited = False  # not yet: its handler may be busy with other results
        self._dispatcher.unanswered.update(waits)
        under_way.extend(waits)
        return tasks, None, waits

    def _first_of(self, under_way: deque[Wait]) -> Wait:
        """What ``map`` waits for next."""
        wait = under_way[0]
        wait.awaited = True
        if wait.sender is not None:
            self._wake()  # a handler that waits now may be the last one that did not
        return wait

    def cancel(self, job_id: str) -> bool:
        """Keep a job from running, or tell its handler to stop (``current_job().cancelled``).

        A waiting job is cancelled at once. A running one is cancelled if its handler then
        raises, and completed if it returns; it is not tried again. Returns False for a job
        that has already ended. Raises UnknownJob for an unknown id.
        """
        return self._ask(GiveOrder[bool](base.Cancel(self.get(job_id).id)), None)

    # ---- periodic jobs ---------------------------------------------------------------------

    def periodic(self) -> list[PeriodicRecord]:
        """The periodic entries that there are, by name."""
        self._refuse_out_of_place()
        return [entry.record() for entry in self._ledger.look_ups.periodic()]

    def add_periodic(self, every: Every) -> None:
        """Enqueue a job again and again from now on, over restarts. Durable when it returns.

        Raises PeriodicExists where one has its name, ValueError for a job without a handler here.
        """
        (entry,) = self._from_now([self._entry(every)])
        if not self._ask(GiveOrder[bool](base.ChangePeriodic("add", [entry])), None):
            raise PeriodicExists(every.name)

    def change_periodic(self, every: Every) -> None:
        """The entry of this name is now what ``every`` says; one that is paused stays so.

        If its schedule is the same, it goes on where it is. Raises UnknownPeriodic, and as
        ``add_periodic``.
        """
        (entry,) = self._from_now([self._entry(every)])
        if not self._ask(GiveOrder[bool](base.ChangePeriodic("change", [entry])), None):
            raise UnknownPeriodic(every.name)

    def pause_periodic(self, name: str) -> None:
        """No jobs of this entry until it is resumed. Raises UnknownPeriodic."""
        self._change_stored("pause", name)

    def resume_periodic(self, name: str) -> None:
        """Its next tick is the first one from now on: those of the pause count for nothing.

        One that is not paused goes on as it was. Raises UnknownPeriodic.
        """
        self._change_stored("resume", name)

    def remove_periodic(self, name: str) -> None:
        """No more jobs of this entry; those that are enqueued stay. Raises UnknownPeriodic."""
        self._change_stored("remove", name)

    # ---- many at once ----------------------------------------------------------------------

    def cancel_all(
        self,
        kind: str | None = None,
        *,
        status: Status | str | None = None,
        dry_run: bool = False,
        progress: OnProgress | None = None,
        **which: Unpack[Which],
    ) -> int:
        """Cancel jobs that have not ended, as ``cancel`` does each; returns how many.

        Those of which all that is given holds (see ``jobs``); all, where nothing is.
        dry_run: only count them. progress: called with how many it is so far, in this thread,
            after each turn of at most 500; what it raises ends it there.

        Jobs that come in meanwhile are not meant.
        """
        wanted = filter_of(status, _kind(kind), **which)
        if status is None:
            wanted = wanted._replace(statuses=tuple(s for s in Status if not s.ended))
        elif wanted.statuses[0].ended:
            raise ValueError(
                f"status {status} is of jobs that have ended: these are not cancelled."
            )
        return self._in_turns(base.CancelAll, wanted, dry_run, progress)

    def retry_all(
        self,
        kind: str | None = None,
        *,
        dry_run: bool = False,
        progress: OnProgress | None = None,
        **which: Unpack[Which],
    ) -> int:
        """Put dead letters back into their lanes, those that can be; returns how many.

        All of them, or those of a kind, or of which all that is given holds. dry_run, progress: as
        in ``cancel_all``; a dry run counts those, too, that another job's unique key will keep.
        """
        wanted = filter_of(Status.FAILED, _kind(kind), **which)
        return self._in_turns(base.RetryAll, wanted, dry_run, progress)

    def purge(
        self,
        kind: str | None = None,
        *,
        status: Status | str | None = Status.FAILED,
        dry_run: bool = False,
        progress: OnProgress | None = None,
        **which: Unpack[Which],
    ) -> int:
        """Delete jobs that have ended; returns how many.

        status: dead letters, unless another one is given; None for all that have ended.
        Beside that as ``retry_all``. A job stays whose result is still read by jobs after it.
        """
        wanted = filter_of(status, _kind(kind), **which)
        if status is None:
            wanted = wanted._replace(statuses=tuple(s for s in Status if s.ended))
        elif not wanted.statuses[0].ended:
            raise ValueError(f"status {status} is of jobs that have not ended: cancel them first.")
        return self._in_turns(base.Purge, wanted, dry_run, progress)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with all that is known about it.

        Raises UnknownJob for an unknown id, ValueError for a job that has not ended, or whose
        result is still read by jobs after it.
        """
        job = self.get(job_id)
        if not job.status.ended:
            raise ValueError(f"Job {job.id} is {job.status}: cancel it first.")
        if not self._ask(GiveOrder[int](base.Purge([job.seq], Filter((job.status,)))), None):
            self.get(job_id)  # or somebody else has done it
            raise ValueError(f"Job {job.id} stays: jobs after it have not ended, or it runs again.")

    def _in_turns(
        self,
        order: type[base.CancelAll | base.RetryAll | base.Purge],
        wanted: Filter,
        dry_run: bool,
        progress: OnProgress | None,
    ) -> int:
        def carry_out(numbers: Sequence[int]) -> int:
            return self._ask(GiveOrder[int](order(numbers, wanted), current_batch()), None)

        self._refuse_out_of_place()
        try:
            return in_turns(self._ledger.look_ups, wanted, len if dry_run else carry_out, progress)
        except UnicodeEncodeError:  # no stored text has a lone surrogate
            return 0

    # ---- dead letters ----------------------------------------------------------------------

    def dead_letters(self) -> list[JobRecord]:
        """The jobs that have failed for good, newest first."""
        self._refuse_out_of_place()
        return self._ledger.look_ups.jobs(Filter((Status.FAILED,)), -1)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The failed attempts of a job, with their times and tracebacks."""
        self._refuse_out_of_place()
        try:
            return self._ledger.look_ups.attempts(plain_text("A job's id", job_id))
        except UnicodeEncodeError:  # no stored id has a lone surrogate
            return []

    def retry(self, job_id: str) -> None:
        """Put a dead letter back into its lane, with all its attempts.

        Raises UnknownJob for an unknown id, ValueError for a job that is not a dead letter.
        """
        job = self.get(job_id)
        if job.status is not Status.FAILED:
            raise ValueError(f"Job {job.id} is {job.status}: only a failed job can be retried.")
        self._ask(GiveOrder[int](base.Retry(job.id), current_batch()), None)

    # ---- looking at jobs -------------------------------------------------------------------

    def status(self, job_id: str) -> Status:
        """Where the job is in its life. Raises UnknownJob for an unknown id."""
        return self.get(job_id).status

    def get(self, job_id: str) -> JobRecord:
        """All that is known about the job. Raises UnknownJob for an unknown id."""
        self._refuse_out_of_place()
        job_id = plain_text("A job's id", job_id)
        try:
            record = self._ledger.look_ups.get(job_id)
        except UnicodeEncodeError:  # no stored id has a lone surrogate
            record = None
        if record is None:
            raise UnknownJob(job_id)
        return record

    def jobs(
        self,
        status: Status | str | None = None,
        limit: int = 100,
        *,
        kind: str | None = None,
        before: str | int | None = None,
        payloads: bool = True,
        **which: Unpack[Which],
    ) -> list[JobRecord]:
        """The newest jobs first, at most ``limit``; those of which all that is given holds.

        which: priority, group, meta, and when they were enqueued or have ended: see ``Which``.
        before: only jobs that were accepted before this one. So the last id of one page leads
        to the next, whatever comes in between. Raises UnknownJob for an unknown id; the ``seq``
        of its record will do also where the history has let go of it.
        payloads: False for a list that reads neither payloads nor results; they are None in it.
        """
        self._refuse_out_of_place()
        require_int("limit", limit, 1, LARGEST_LIMIT)
        if isinstance(before, int):
            require_int("before", before, 0, LARGEST_LIMIT)
        elif before is not None:
            before = plain_text("A job's id", before)
        wanted = filter_of(status, kind, **which)
        try:
            records = self._ledger.look_ups.jobs(wanted, limit, before, bool(payloads))
        except UnicodeEncodeError:  # no stored text has a lone surrogate
            records = []
        if not records and isinstance(before, str):
            self.get(before)  # is it the last one, or unknown?
        return records

    def groups(self, limit: int = 10) -> list[GroupRecord]:
        """The groups that have jobs waiting or running; those with most waiting first.

        It looks at all jobs of a file, some 50 ms for 100,000: ask no more often than is needed.
        """
        self._refuse_out_of_place()
        require_int("limit", limit, 1, LARGEST_LIMIT)
        return self._ledger.look_ups.groups(limit, self._now())

    def wait(self, job_id: str, timeout: float | None = None) -> JobRecord:
        """Wait until the job has ended, and return its record.

        Raises UnknownJob for an unknown id, TimeoutError after ``timeout`` seconds, and
        QueueClosed when the queue closes before the job has ended.

        A handler may wait for another job while there are workers to run it. RuntimeError where
        that would never end: for its own job, for one that waits for it or comes after it, when all
        workers wait, or all of a kind or group of which no more may run. And in a coroutine, where
        it would block the event loop of them all: ``await asyncio.to_thread(queue.wait, job_id)``.
        """
        require_timeout(timeout)
        self._refuse_on_the_loop("asyncio.to_thread(queue.wait, job_id)")
        record = self.get(job_id)
        if not record.status.ended:
            try:
                record = self._ask(self._wait_for(record, timeout), timeout)
            except QueueClosed:  # too late to ask, but it may have ended before
                record = self.get(job_id)
                if not record.status.ended:
                    raise
        return record

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing is queued, processing or retrying.

        So a job that comes after others is waited for as long as one of these is; not if it comes
        after one that is scheduled.
        Raises TimeoutError after ``timeout`` seconds, QueueClosed when the queue closes first.
        Jobs of a kind without a handler are not waited for. RuntimeError inside a handler,
        because it would wait for the very job that called it.
        """
        require_timeout(timeout)
        self._refuse_to_join_inside()
        self._ask(Join(), timeout)

    def metrics(self) -> Metrics:
        """Counts, percentiles and rates of one instant; after ``close``, of its last one.

        Raises QueueClosed, with the cause, where an internal error has ended the queue.
        """
        try:
            return self._ask(Measure(), None).metrics()
        except QueueClosed:
            if self._dispatcher.failed:
                raise
            assert self._dispatcher.last_figures is not None
            return self._dispatcher.last_figures.metrics()

    def shared_figures(self) -> SharedFigures | None:
        """The processes that share a database, and what is worth watching there; None on a file.

        Raises StorageError where the database cannot be asked.
        """
        self._refuse_out_of_place()
        return self._ledger.shared_figures()

    def set_fairness(self, fairness: int | None) -> None:
        """Choose by another ``fairness`` from the next pick on; None for strict priority."""
        require_fairness(fairness)
        rule = base.SetFairness(None if fairness is None else int(fairness))
        self._ask(GiveOrder[None](rule), None)

    # ---- pause and scale ---------------------------------------------------------------------

    def pause(
        self,
        kind: str | None = None,
        priority: Priority | str | None = None,
        group: str | None = None,
    ) -> None:
        """Start no more jobs of one kind, one lane or one group; without an argument, none at all.

        Durable when it returns, until ``resume``, over restarts, and for all processes that share
        a database. From then on no handler begins here; on a database others hear of it within
        milliseconds, and 0.6 s at most. Those that run go on to their end. What is paused
        keeps its place and is accepted as before, until its lane is full. To pause what is paused
        changes nothing. docs/control.md has more.

        Raises ValueError for more than one of the three, and TypeError or ValueError for what is
        no kind, lane or group; StorageError where it cannot be written: then it is not paused.
        """
        self._ask(GiveOrder[None](base.SetPaused(pause_of(kind, priority, group), True)), None)

    def resume(
        self,
        kind: str | None = None,
        priority: Priority | str | None = None,
        group: str | None = None,
    ) -> None:
        """Take back the ``pause`` with these arguments, and no other one.

        What another pause holds, too, stays held. To resume what is not paused changes nothing.
        Raises as ``pause`` does.
        """
        self._ask(GiveOrder[None](base.SetPaused(pause_of(kind, priority, group), False)), None)

    def paused(self) -> list[Pause]:
        """What is paused: the whole queue as ``Pause()``, then lanes, kinds and groups."""
        self._refuse_out_of_place()
        return in_order(self._ledger.paused())

    def set_workers(self, count: int | None) -> int:
        """Run so many handlers at a time from now on; returns how many.

        More start at once. Of fewer the surplus ones leave when they are through with what they
        have; nothing is interrupted. (Where the system has no threads for so many, it is fewer.)

        The file keeps the number: at the next start it counts instead of the option ``workers``,
        and the log says so. None gives it back to the option. A database does not keep it, since
        each process has its own; there 0 is allowed, as in the option: it starts no more.

        Raises TypeError or ValueError for what is no such number, StorageError where it cannot be
        written: then all is as it was.
        """
        if count is not None:
            require_workers(count, self._options.shared)
        if count and not self._can_run:
            raise ValueError("This queue has no handler (None): it brings jobs, and runs none.")
        count = None if count is None else int(count)
        self._workers = self._ask(GiveOrder[int](base.SetWorkers(count)), None)
        return self._workers

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber(transition)`` for every change of a job's status.

        In a thread of its own, after the change is durable: a slow or raising subscriber harms
        nothing, but one that is too slow misses some: ``Metrics.missed_events`` counts them.
        Returns a function that ends it.
        """
        return self._events.subscribe(subscriber)

    # ---- the end ---------------------------------------------------------------------------

    def close(
        self,
        drain: bool = True,
        timeout: float | ByOption | None = ByOption.SHUTDOWN_TIMEOUT,
    ) -> bool:
        """Stop accepting, finish, and let go of the file.

        drain: run everything that was accepted, retries too, and what running handlers enqueue
            meanwhile. Otherwise only what is in flight is finished; the rest stays in the file
            for the next start.
        timeout: seconds to wait, by default the option ``shutdown_timeout``; None for as long as
            it takes. After that, jobs in flight go back to the queue for the next start,
            uncharged, and their threads are left behind.

        Producers that are blocked, and those that come now, get QueueClosed. So do handlers
        without ``drain`` or when time is up, and a job whose handler ends with it is not charged
        for that attempt, and runs at the next start.

        Returns whether it all came about as asked; jobs that are scheduled stay in the file. It
        is False, too, if a queue in memory ends with jobs that have not: they are lost.

        May be called again, from any thread. Then the least patient one decides: it drains only
        if all want to, and the first whose time is up ends it for all. Each is told what is true
        for it. Inside a handler it starts the shutdown and returns False at once, because it
        would wait for the very job that called it.
        """
        if timeout is ByOption.SHUTDOWN_TIMEOUT:
            timeout = self._options.shutdown_timeout
        require_timeout(timeout)
        close = Close(bool(drain))
        if self._pool.is_calling():
            self._dispatcher.ask(close)
            return False
        try:
            done = self._ask(close, timeout)
        except QueueClosed:  # it was closed before
            done = self._dispatcher.has_done(close)
        self._thread.join()
        if self._dispatcher.orderly:
            self._pool.join()
        self._handlers.close()
        self._events.close()
        _open.discard(self)
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- inside ----------------------------------------------------------------------------

    def _in_order(self, tasks: list[Task]) -> list[Task]:
        """Parents first; raises where one is nowhere, or where they lead in a circle."""
        tasks = parents_first(tasks)
        self._refuse_out_of_place()
        elsewhere = parents_elsewhere(tasks)
        if unknown := elsewhere - self._ledger.look_ups.known(elsewhere):
            raise UnknownJob(min(unknown))
        return tasks

    def _task(self, job: Job) -> Task:
        """The job as the engine carries it; raises where it cannot be stored or run."""
        if not isinstance(job, Job):
            raise TypeError(f"enqueue takes a Job, not {type(job).__name__}.")
        if self._handlers.middleware:
            job = before_enqueue(self._handlers.middleware, job)
        self._require_handler(job)
        payload = encode("Job.payload", job.payload, self._options.max_payload)
        timeout = None if job.timeout is None else float(job.timeout)
        task = Task(job.id, payload, job.priority, job.kind, timeout, size=len(payload))
        if job.meta:
            task.meta = frozen("Job.meta", job.meta)
            task.size += task.meta.size()
        if job.run_at is not None:
            task.due_at = _due_at(job.run_at, self._now())
            task.by_clock = isinstance(job.run_at, datetime)
        if job.group is not None:
            task.group = job.group
        if job.after is not None:
            task.after, task.if_failed = job.after, job.if_failed or "cancel"
        task.unique = job.unique
        unchangeable = type(job.payload) in IMMUTABLE and type(job.timeout) in IMMUTABLE
        asks_for_more = job.run_at is not None or job.unique is not None or job.after is not None
        if type(job) is Job and unchangeable and not asks_for_more:
            task.job = job
        return task

    def _require_handler(self, job: Job) -> None:
        if not self._handlers.handles(job.kind):
            known = ", ".join(self._handlers.kinds())
            raise ValueError(f"Job.kind {job.kind!r} has no handler here; there are: {known}.")

    def _entries(self, periodic: Iterable[Every]) -> list[Entry]:
        if not isinstance(periodic, Iterable):
            raise TypeError(f"periodic must be a list of Every, not {periodic!r}.")
        entries = [self._entry(every) for every in periodic]
        require_names(entries)
        return entries

    def _entry(self, every: Every) -> Entry:
        """As it is stored; raises where its jobs could not be enqueued here."""
        if not isinstance(every, Every):
            raise TypeError(f"A periodic entry is an Every, not {type(every).__name__}.")
        self._require_handler(every.job)
        return Entry.of(every, self._now(), self._options.max_payload)

    def _from_now(self, entries: Sequence[Entry]) -> list[Entry]:
        """By the clock that their ticks go by."""
        now = self._ledger.look_ups.clock(self._now()) if entries else 0.0
        return [entry.from_(now) for entry in entries]

    def _change_stored(self, how: Literal["pause", "resume", "remove"], name: str) -> None:
        """Until it has come about: somebody may change its schedule at the same time."""
        name, done = plain_text("A periodic entry's name", name), False
        while not done:
            self._refuse_out_of_place()
            entries = [entry for entry in self._ledger.look_ups.periodic() if entry.name == name]
            if not entries:
                raise UnknownPeriodic(name)
            (entry,) = self._from_now(entries) if how == "resume" else entries
            change = base.ChangePeriodic(how, [entry])
            done = self._ask(GiveOrder[bool](change), None)

    def _enqueue_on_the_loop(self, request: Enqueue) -> list[str]:
        """From a coroutine handler: while it waited, no other coroutine could make room."""
        request.patient = False
        try:
            return self._ask(request, timeout=0)
        except QueueFull as error:
            raise QueueFull(
                f"{error} A coroutine may wait for room only in another thread: "
                "await asyncio.to_thread(queue.enqueue, job).",
                error.accepted,
            ) from None

    def _wait_for(self, record: JobRecord, timeout: float | None) -> Wait:
        """For the end of a job that has not ended."""
        sender = None if timeout == 0 else current_batch()  # 0: it only looks
        return Wait(record.id, sender, record.kind, record.group or "")

    def _refuse_to_join_inside(self) -> None:
        if self._pool.is_calling():
            raise RuntimeError(
                "join() in a handler would wait for the job that calls it: wait(job_id) for "
                "the jobs that you mean, or join outside of handlers."
            )

    def _refuse_on_the_loop(self, instead: str) -> None:
        if self._handlers.is_current_thread():
            raise RuntimeError(
                f"To wait here would block the event loop of all coroutines: await {instead}."
            )

    def _ask(self, request: Request[Answer], timeout: float | None) -> Answer:
        """Send a request to the dispatcher and wait for the answer.

        The dispatcher owns the state, so it also decides a tie: whoever runs out of time asks
        it to withdraw the request, and takes whatever answer comes of that.
        """
        self._refuse_out_of_place()
        if self._ledger.look_ups.hold_up_writing():
            raise RuntimeError(
                "This has interrupted a look at the queue in the same thread, for which the queue "
                "would wait: a signal handler or finalizer leaves it to another thread."
            )
        self._dispatcher.ask(request)
        return self._await(request, timeout)

    def _await(self, request: Request[Answer], timeout: float | None) -> Answer:
        dispatcher = self._dispatcher
        try:
            if dispatcher.finished:
                self._thread.join()  # it answers what it can before it ends
                if not request.answered:
                    request.refuse(QueueClosed(dispatcher.why_closed))
            if not request.wait(timeout):
                dispatcher.inbox.put(Withdraw(request))
                request.wait(None)
        except BaseException:  # Ctrl-C in the waiting thread
            if not isinstance(request, Close):  # a shutdown goes on; ask again to wait for it
                dispatcher.inbox.put(Withdraw(request, gone=True))
            raise
        finally:
            dispatcher.unanswered.discard(request)
        return request.result()

    def _give_up(self, waits: Iterable[Wait], patience: float = 1.0) -> None:
        """Cancel jobs whose results nobody wants any more, if the queue and they still exist.

        It may be the garbage collector that calls this, at any moment in any thread: in the one
        that answers, or in one that holds what that needs. So it waits a moment at most
        (``patience`` seconds); what is sent is done all the same.
        """
        self._dispatcher.unanswered.difference_update(waits)
        for wait in waits:
            wait.sender = None  # no handler waits for it any more
        cancels = [GiveOrder[bool](base.Cancel(wait.job_id)) for wait in waits if not wait.shared]
        for cancel in cancels:
            self._dispatcher.inbox.put(cancel)
        with contextlib.suppress(RuntimeError):
            self._refuse_out_of_place()
            if cancels and not self._dispatcher.finished:
                cancels[-1].wait(patience)

    def _refuse_out_of_place(self) -> None:
        """Neither threads nor SQLite's connections may be carried over a fork.

        And in the dispatcher's thread runs what Python calls there when it collects garbage.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "This queue belongs to the process that opened it, and this is a fork of that: "
                "its threads are not here. Open another file, or enqueue before forking."
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "This is the queue's own thread, which would wait for itself: what a finalizer "
                "(__del__, weakref, generator) wants of the queue must be done in another one."
            )

    def _now(self) -> float:
        """Unix seconds."""
        return time.time()

    def _report(self, report: Report) -> None:
        self._dispatcher.inbox.put(report)

    def _wake(self) -> None:
        self._dispatcher.inbox.put(Woken())

    def _run(self) -> None:
        """The dispatcher's thread; whichever way it ends, the workers go home."""
        if self._complete.get():
            try:
                self._dispatcher.run()
            finally:
                self._pool.stop()


def _on_postgres(
    url: str, options: Options, policies: Policies, handlers: Handlers, say: Callable[..., None]
) -> base.Ledger:
    place = address.parse(url)
    try:
        from final.ledger.postgres.ledger import PostgresLedger
    except ImportError as error:
        raise ImportError(
            "A queue on PostgreSQL needs psycopg: pip install 'three-stage-job-queue[postgres]'."
        ) from error
    kinds = None if handlers.handles_all else handlers.kinds()
    return PostgresLedger(place, options, policies, kinds, handlers.share_batches, say)


def _nobody(job: Job) -> None:
    """The handler of a queue without workers, which only brings jobs."""
    raise AssertionError("nobody gives a job to a queue without workers")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what to do where Python only says that it "can't start new thread"."""
    try:
        yield
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise RuntimeError(
            "The system has no threads left for this queue: end some of those that there are, or "
            "raise its limit (ulimit -u, or pids of the container)."
        ) from error


def _result(record: JobRecord) -> object:
    """What ``map`` yields; raises JobFailed where there is none."""
    if record.status is not Status.COMPLETED or record.error is not None:
        raise JobFailed(record)
    return record.result


def _kind(value: object) -> str | None:
    """None for all kinds."""
    if value is None:
        return None
    kind = plain_text("kind", value)
    try:
        kind.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"No kind is called {kind!r}: {error.reason}.") from None
    return kind


def _due_at(run_at: datetime | float, now: float) -> float | None:
    """Unix seconds; None for a time that has come."""
    # A plain number: of another one the dispatcher would run the ``<``.
    due = float(run_at.timestamp() if isinstance(run_at, datetime) else now + run_at)
    return due if due > now else None


_open: weakref.WeakSet[JobQueue] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    """The program ends without ``close``: give back what is in flight, uncharged, and go."""
    for queue in list(_open):
        if os.getpid() == queue._process:
            queue.close(drain=False, timeout=1.0)
