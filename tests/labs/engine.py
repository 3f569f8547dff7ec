"""The dispatcher on a test bench: no threads, virtual time, and a model that watches each commit.

``Engine`` is everything that the dispatcher has around it in a running queue: producers who
enqueue and give up, workers who run jobs or hang, a disk that fails, a process that ends,
two clocks. Each of these is a method here, and nothing happens that is not called for. Every
commit is told to the model (model.py), and every answer is checked against it.

It decides nothing. What happens next is up to a random number (simulate.py) or to
Hypothesis (test_model_final.py).
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Protocol, cast

import final.options
from final.beyond.control import Pause, pause_from
from final.beyond.filters import Filter
from final.beyond.kinds import Kind, Policies
from final.beyond.periodic import Entry as PeriodicEntry
from final.beyond.periodic import Every
from final.beyond.snooze import Again
from final.beyond.unique import Unique
from final.engine.dispatcher import Dispatcher
from final.engine.events import Events
from final.engine.flight import OVERDUE_SECONDS, Flight
from final.engine.messages import (
    Close,
    Enqueue,
    GiveOrder,
    Join,
    Measure,
    Message,
    Request,
    Wait,
    Withdraw,
)
from final.engine.metrics import Metrics, Recorder
from final.errors import (
    DuplicateJob,
    EnqueueError,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
)
from final.job import Job, Outcome, Priority, Status, Task
from final.ledger.base import (
    AT_ONCE,
    Cancel,
    CancelAll,
    ChangePeriodic,
    Move,
    Purge,
    Retry,
    RetryAll,
    SetPaused,
    SetWorkers,
)
from final.ledger.features.controls import PAUSE, RESUME
from final.ledger.features.holders import REPLACE
from final.ledger.features.periodic import Periodic
from final.ledger.local import CLOCK_SECONDS, LocalLedger
from final.ledger.sqlite import SqliteFile
from final.options import Backoff, TokenBucket
from final.workers.batch import Batch, Report
from tests.final import helpers
from tests.labs.held_keys import WAITS
from tests.labs.model import ENDED, LANES, Entry, Limit, Model, require

# Turns that follow each other without any message. A few are right: one that admits a producer,
# one that hands out its job. More than this, and the dispatcher goes round and round.
MOST_TURNS = 100

# The kinds of jobs. Handlers of an "obedient" job end when they are told to.
KINDS = ("deaf", "obedient", "other")
NAMES = "ABCDEFGH"  # of workers
PERIODIC = "every"  # the name of the periodic job


class Crash(BaseException):
    """The process ends in the middle of a turn. As of kill -9, nothing learns of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """As those of ``JobQueue``. A failed job waits 1 s, then 2 s, 4 s, and never more than 4.

    limits: token buckets of kinds, as in the model; of the kind "", of the queue. retries and caps:
    of kinds, as in the model. memory: each payload takes 4 bytes. every: seconds from one tick of a
    periodic job to the next, and what comes of those that were missed.
    """

    workers: int = 2
    capacity: int = 2
    max_retries: int = 1
    fairness: int | None = 2
    overflow: str = "block"
    history: int = 1_000
    timeout: float | None = None
    memory: int = 1_000
    limits: Mapping[str, Limit] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    every: tuple[float, Literal["once", "all"]] | None = None
    group_limit: int | None = None

    def of_final(self) -> final.options.Options:
        buckets = {kind: TokenBucket(*limit) for kind, limit in self.limits.items()}
        by_kind = ("limits", "retries", "caps", "every")
        chosen = {name: getattr(self, name) for name in self.__slots__ if name not in by_kind}
        rate_limit = buckets.pop("", None) or buckets
        return helpers.options(**chosen, backoff=BACKOFF, rate_limit=rate_limit)

    def policies(self, handled: Collection[str]) -> Policies:
        """Of a process that has handlers for these kinds."""
        kinds = {
            kind: Kind(
                helpers.nothing, max_retries=self.retries.get(kind), workers=self.caps.get(kind)
            )
            for kind in handled
        }
        return Policies(self.of_final(), kinds)


BACKOFF = Backoff(base=1, maximum=4, jitter=0)


@dataclass(frozen=True, slots=True)
class Beyond:
    """What the jobs of a call ask for beyond the basics, all the same.

    chained: each of them comes after the one before it, too.
    """

    group: str = ""
    unique: Unique | None = None
    after: Sequence[str] = ()
    if_failed: str = "cancel"
    chained: bool = False

    def parents(self, job_ids: Sequence[str], number: int) -> tuple[str, ...]:
        """Of the job with this number in the call."""
        before = job_ids[number - 1 : number] if self.chained and number else ()
        return tuple(dict.fromkeys(i for i in (*self.after, *before) if i != job_ids[number]))

    def __str__(self) -> str:
        said = (
            f" of group {self.group}" if self.group else "",
            f", {self.unique}" if self.unique else "",
            f", after {', '.join(self.after)}" if self.after else "",
            ", one after the other" if self.chained else "",
            f" (if one fails: {self.if_failed})" if self.after or self.chained else "",
        )
        return "".join(said)


PLAIN = Beyond()


class Disk(Protocol):
    """What outlives the process."""

    def open(self) -> SqliteFile: ...

    def crash(self) -> None:
        """The process that had it open has ended without closing it."""


class MemoryDisk(SqliteFile):
    """A database in memory, of which the next process gets the same connection: fast."""

    def __init__(self) -> None:
        super().__init__(":memory:", "normal")
        self.lasting = True  # as far as its ledgers know
        super().close()  # when nobody has it any more

    def open(self) -> SqliteFile:
        self._take_over()
        return self

    def close(self) -> None:
        """It outlives the process."""

    def crash(self) -> None:
        """What was committed is there."""


class FileDisk:
    """A real SQLite file. A crash leaves what kill -9 would: the files as they are, unclosed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._crashes = 0

    @property
    def _path(self) -> Path:
        return self._folder / f"after-{self._crashes}-crashes.db"

    def open(self) -> SqliteFile:
        self._file = SqliteFile(self._path, "normal")
        return self._file

    def crash(self) -> None:
        left_behind = self._path
        self._crashes += 1
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{left_behind}{suffix}", f"{self._path}{suffix}")
        self._file.close()


@dataclass(slots=True)
class Written:
    """What stands in a transaction. wall: its time.

    interrupted: jobs that are queued again after a crash. told: jobs that were cancelled while
    they run. forgotten: by seq. paused: what, and whether it is from now on. admission: so many
    moves were made before new jobs were let in. replaced: what the rows of these jobs are now, by
    seq.
    """

    moves: list[Move] = field(default_factory=list)
    interrupted: list[Task] = field(default_factory=list)
    told: list[Task] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    paused: list[tuple[str, str, bool]] = field(default_factory=list)
    replaced: dict[int, Replaced] = field(default_factory=dict)
    admission: int | None = None
    wall: float = 0.0

    def __bool__(self) -> bool:
        others = self.interrupted, self.told, self.forgotten, self.paused, self.replaced
        return any((self.moves, *others))


class Replaced(NamedTuple):
    """What a job that waits has become."""

    lane: str
    kind: str
    group: str


class WatchedFile:
    """A file that tells the engine what was committed.

    Each operation in a transaction is a moment at which it may fail, or end the process.
    """

    def __init__(self, file: SqliteFile, engine: Engine) -> None:
        self._file = file
        self._engine = engine
        self._written = Written()

    def __getattr__(self, name: str) -> Any:
        """Reading is as it is."""
        return getattr(self._file, name)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._written = Written()
        with self._file.transaction():
            self._engine.before_operation()
            yield
            self._engine.before_commit()
        self._engine.after_commit(self._written)

    def taken(self, job_ids: Sequence[str]) -> set[str]:
        """New jobs are about to be let in: these ids are asked about."""
        self._engine.before_operation()
        if self._written.admission is None:
            self._written.admission = len(self._engine.ledger._given.moves)
        return self._file.taken(job_ids)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if self._file._writer.in_transaction:  # not when the ledger is made
            self._engine.before_operation()
        if statement in (PAUSE, RESUME):
            sort, name = values
            self._written.paused.append((sort, name, statement is PAUSE))
        if statement is REPLACE:
            lane, kind, _, _, group, *_, seq = values
            self._written.replaced[seq] = Replaced(lane, kind, group or "")
        return self._file.execute(statement, values)

    def find(self, job_id: str) -> Task | None:
        self._engine.before_operation()
        return self._file.find(job_id)

    def meant(self, numbers: Sequence[int], wanted: Filter) -> list[Task]:
        self._engine.before_operation()
        return self._file.meant(numbers, wanted)

    def write(self, moves: Sequence[Move], wall: float) -> None:
        self._engine.before_operation()
        self._file.write(moves, wall)
        self._written.moves += moves
        self._written.wall = wall

    def write_interrupted(self, crash: Outcome, charged: bool, wall: float) -> None:
        self._engine.before_operation()
        self._file.write_interrupted(crash, charged, wall)
        self._written.interrupted.append(crash.task)

    def write_cancelled(self, tasks: Sequence[Task]) -> None:
        self._engine.before_operation()
        self._file.write_cancelled(tasks)
        self._written.told += tasks

    def forget(self, seqs: Sequence[int]) -> None:
        self._engine.before_operation()
        self._file.forget(seqs)
        self._written.forgotten += seqs


class Worker:
    """A thread of the pool. task: what it is running, with the token of that attempt."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batch: Batch | None = None
        self.task: Task | None = None
        self.token = 0
        self.request: Enqueue | None = None  # its handler enqueues, and waits for the answer


class Producer(NamedTuple):
    """A call of ``enqueue_many`` that is under way."""

    name: str
    request: Enqueue
    gives_up_at: float | None
    ids: list[str]
    beyond: Beyond


class HeldBy(NamedTuple):
    """The job with this id has a key. waits: so it can be replaced."""

    job_id: str
    waits: bool


class Happened(NamedTuple):
    """A line of the history."""

    at: float
    who: str
    what: str


class Engine:
    """See the top of this file. now: monotonic seconds. wall: Unix seconds, which may jump."""

    def __init__(self, options: Options, disk: Disk | None = None) -> None:
        self.options = options
        self.history: list[Happened] = []
        self.tally: Counter[str] = Counter()
        self.now = 0.0
        self.wall = 1_000_000.0
        self.model = Model(
            capacity=options.capacity,
            max_retries=options.max_retries,
            fairness=options.fairness,
            limits=options.limits,
            retries=options.retries,
            caps=options.caps,
            group_limit=options.group_limit,
        )
        self._disk = disk or MemoryDisk()
        self._job_numbers = 0
        self._producer_numbers = 0
        self.handled: Collection[str] = KINDS  # those that have a handler in this process
        self.next_handled: Collection[str] = KINDS  # and in the next one
        self.failing_commits = 0  # so many will fail
        self.failing_operation = 0  # of a transaction: the one that fails, or else its commit
        self.crash_point = ""  # "before" or "after": the next commit ends the process
        self._id_of: dict[int, str] = {}  # jobs by their number
        self._known_ids: set[str] = set()
        self._coming_in: set[str] = set()  # the new jobs of the latest turn
        self._just_failed: set[str] = set()  # and its new dead letters
        self._just_revived: set[str] = set()
        self._just_let_go: set[str] = set()  # the keys of jobs that were cancelled or dropped
        self._meant: dict[Request[Any], set[str]] = {}  # the jobs that an order was for
        self._just_deleted: dict[str, Entry] = {}
        self._asked_to_cancel: set[str] = set()
        self._replacements: dict[str, list[Task]] = {}
        self._holders: dict[str, HeldBy] = {}  # of keys, when the latest new jobs were let in
        self._let_in: set[str] = set()  # lanes that got new jobs in the latest commit
        if options.every:
            self._declare(*options.every)
        self.open()

    def _declare(self, seconds: float, missed: Literal["once", "all"]) -> None:
        """A periodic job is in the file before the first process opens it."""
        every = Every(seconds, Job(kind="deaf"), name=PERIODIC, missed=missed)
        entry = PeriodicEntry.of(every, self.wall, 4)
        file = self._disk.open()
        with file.transaction():
            Periodic(file, lambda kind: True, _say).carry_out(ChangePeriodic("add", [entry]))
        self._disk.crash()
        self.model.declare("deaf", seconds, self.wall, missed)

    # ---- the process -------------------------------------------------------------------------

    def open(self) -> None:
        """A new process opens what the last one left; it may end while it does."""
        while True:
            self._forget_the_process()
            self.handled = handled = self.next_handled
            options = self.options.of_final()
            policies = self.options.policies(handled)
            self._delay = functools.partial(policies.retry_delay, say=_say)
            file = cast(SqliteFile, WatchedFile(self._disk.open(), self))
            self.ledger = LocalLedger(
                file, options, policies, handled.__contains__, lambda kind: True, self.now, _say
            )
            self.dispatcher = Dispatcher(
                self.ledger,
                Flight(self, self.ledger.workers or options.workers, policies.timeout, self._delay),
                Recorder(self.now),
                Events(),
            )
            if self.ledger.workers is not None:
                self.workers = [Worker(name) for name in NAMES[: self.ledger.workers]]
            self.model.reopen(self.now, self.wall, handled)
            try:
                self.dispatcher.open(self.now, self.wall)
            except Crash:
                self._note("process", "ends while it opens the file")
                self._disk.crash()
                continue
            except StorageError:
                self._note("process", "cannot open the file, and ends")
                self._disk.crash()
                continue
            require(
                not self.model.having("processing"),
                "After opening the file jobs are still said to be processing.",
            )
            return

    def _forget_the_process(self) -> None:
        """All that lives in its memory."""
        self.workers = [Worker(name) for name in NAMES[: self.options.workers]]
        self.ghosts: list[Worker] = []  # were given up, and go on all the same
        self.inbox: list[Message] = []
        self.producers: list[Producer] = []
        self.closes: list[Close] = []
        self.latest_failed = False  # the latest commit, that is
        self._operations = 0  # in the transaction, so far
        self._failed_in_turn = False
        self._cut_off = False  # close was not waited for
        self._looked_at = self.now  # when the latest turn was
        self._requests: list[Request[Any]] = []
        self._written: dict[Enqueue, list[str]] = {}  # those of its jobs that are in the store
        self._skipped: dict[Enqueue, dict[int, str]] = {}  # what it was told instead, so far
        self._request_of: dict[Task, Enqueue] = {}
        self._replaced: Mapping[int, Replaced] = {}  # by the latest commit
        self._came_for: dict[Task, str] = {}  # the lane that it was enqueued into; "" for none yet
        # Requests for one lane alone, in the order they came: they must be served in it.
        self._lines: dict[str, list[Enqueue]] = {lane: [] for lane in LANES}
        self._attempt_of: dict[Outcome, int] = {}  # the token of the attempt that it came from

    def crash(self) -> list[Producer]:
        """The process ends now and another one opens the file; returns who had no answer."""
        unanswered = self.producers
        self._note("process", "ends; another one opens the file")
        self.tally["crashes"] += 1
        self.crash_point = ""
        self._disk.crash()
        self.open()
        return unanswered

    def deploy(self, kinds: Collection[str]) -> None:
        """The next process has handlers for these kinds."""
        self._note("process", f"the next one will handle {', '.join(kinds)}")
        self.next_handled = kinds

    # ---- producers and others who ask --------------------------------------------------------

    def new_id(self) -> str:
        self._job_numbers += 1
        return f"j{self._job_numbers}"

    def enqueue(
        self,
        jobs: list[tuple[str, str]],
        *,
        patience: float | None = None,
        delay: float | None = None,
        kind: str = "deaf",
        worker: Worker | None = None,
        beyond: Beyond = PLAIN,
    ) -> Enqueue:
        """Enqueue (id, lane) ...; wait for room for ``patience`` seconds.

        delay: the jobs are scheduled, so far ahead; every other one as a datetime. kind: one that
        is handled. worker: the call is made by the handler that it is running.
        """
        due_at = None if delay is None else self.wall + delay
        ids = [job_id for job_id, _ in jobs]
        tasks = [
            Task(job_id, "null", Priority(lane), kind, due_at=due_at, by_clock=n % 2 == 1, size=4)
            for n, (job_id, lane) in enumerate(jobs)
        ]
        for n, task in enumerate(tasks):
            task.group, task.unique = beyond.group, beyond.unique
            task.after, task.if_failed = beyond.parents(ids, n), beyond.if_failed
        request = Enqueue(list(tasks), sender=worker.batch if worker else None)
        if worker is None:
            self._producer_numbers += 1
            who = f"producer {self._producer_numbers}"
        else:
            worker.request, who = request, f"worker {worker.name}"
        if self.options.overflow == "reject":
            patience = 0.0
        elif self.options.overflow != "block":
            patience = None
        gives_up_at = None if patience is None else self.now + patience
        self.producers.append(Producer(who, request, gives_up_at, ids, beyond))
        names = ", ".join(f"{job_id} ({lane})" for job_id, lane in jobs)
        when = "" if delay is None else f", due in {delay:g} s"
        until = "" if patience is None else f", gives up after {patience:g} s"
        self._ask(request, who, f"enqueues {names}{beyond}{when}{until}")
        for task in tasks:
            self._request_of[task] = request
            self._came_for[task] = task.priority if due_at is None else ""
        self._written[request] = []
        self._skipped[request] = {}
        needs_room = due_at is None and not any(task.after for task in tasks) and not beyond.unique
        if needs_room and len({lane for _, lane in jobs}) == 1:
            self._lines[jobs[0][1]].append(request)
        if patience == 0:
            self.inbox.append(Withdraw(request))
        return request

    def cancel(self, job_id: str) -> None:
        self._asked_to_cancel.add(job_id)
        self._ask(GiveOrder(Cancel(job_id)), "client", f"cancels {job_id}")

    def retry(self, job_id: str) -> None:
        self._ask(GiveOrder(Retry(job_id)), "client", f"retries {job_id}")

    def cancel_all(self) -> None:
        live = tuple(status for status in Status if not status.ended)
        self._ask_for_many(CancelAll, Filter(live), "cancels all jobs")

    def retry_all(self) -> None:
        self._ask_for_many(RetryAll, Filter((Status.FAILED,)), "retries all dead letters")

    def purge(self, status: Status) -> None:
        self._ask_for_many(Purge, Filter((status,)), f"purges what is {status}")

    def _ask_for_many(
        self, order: type[CancelAll | RetryAll | Purge], wanted: Filter, what: str
    ) -> None:
        """As a client finds them, a moment before."""
        found = self.ledger.look_ups.jobs(wanted, AT_ONCE)
        request: GiveOrder[int] = GiveOrder(order([record.seq for record in found], wanted))
        self._meant[request] = {record.id for record in found}
        if order is CancelAll:
            self._asked_to_cancel |= self._meant[request]
        self._ask(request, "client", what)

    def pause(self, part: Pause, paused: bool = True) -> None:
        what = " ".join(part.row).strip()
        self._ask(GiveOrder(SetPaused(part, paused)), "client", f"{_PAUSES[paused]} {what}")

    def resume_all(self) -> None:
        for row in sorted(self.model.paused):
            self.pause(pause_from(row), False)

    def set_workers(self, number: int | None) -> None:
        self._ask(GiveOrder(SetWorkers(number)), "client", f"wants {number or 'the usual'} workers")

    def wait(self, job_id: str) -> None:
        self._ask(Wait(job_id), "client", f"waits for {job_id}")

    def join(self) -> None:
        self._ask(Join(), "client", "joins")

    def measure(self) -> None:
        self._ask(Measure(), "client", "asks for the metrics")

    def close(self, drain: bool) -> None:
        close = Close(drain)
        self.closes.append(close)
        self._ask(close, "client", "closes" if drain else "closes without draining")

    def give_up_closing(self) -> None:
        """Close has waited for as long as it wanted."""
        self._note("client", "has waited long enough for the end")
        self._cut_off = True
        self.inbox.append(Withdraw(self.closes[-1]))

    def give_up_asking(self, number: int) -> None:
        """Whoever waits for a job or for all of them, and has an own time-out."""
        waiting = [r for r in self._requests if isinstance(r, (Wait, Join))]
        if waiting:
            request = waiting[number % len(waiting)]
            self._note("client", f"gives up its {type(request).__name__.lower()}")
            self.inbox.append(Withdraw(request))

    def _ask(self, request: Request[Any], who: str, what: str) -> None:
        self._note(who, what)
        self._requests.append(request)
        self.dispatcher.unanswered.add(request)
        self.inbox.append(request)

    # ---- workers: what the dispatcher asks of them -------------------------------------------

    def deliver(self, batch: Batch) -> None:
        idle = self.idle_workers()
        require(idle, "A batch was handed out, but every worker has one.")
        self.model.deliver([task.id for task in batch.claimed])
        worker = idle[0]
        worker.batch = batch
        self._note(f"worker {worker.name}", f"gets {_names(batch.claimed)}")

    def tell(self, batch: Batch, task: Task) -> None:
        for worker in self.workers:
            if worker.batch is batch and worker.task is task:
                batch.told = task
                self._note(f"worker {worker.name}", f"is told to stop {task.id}")

    def obeys(self, batch: Batch, task: Task) -> bool:
        return task.kind == "obedient"

    def replace(self, batch: Batch) -> bool:
        if not batch.seize():
            return False
        for n, worker in enumerate(self.workers):
            if worker.batch is batch:
                self._note(f"worker {worker.name}", f"is given up, and replaced by {worker.name}'")
                self.ghosts.append(worker)
                self.workers[n] = Worker(worker.name + "'")
                self.tally["abandoned workers"] += 1
        return True

    def hire(self, count: int) -> int:
        """There are threads for as many as there are names."""
        taken = {worker.name[0] for worker in self.workers}
        names = [name for name in NAMES if name not in taken][:count]
        self.workers += map(Worker, names)
        return len(names)

    def retire(self) -> None:
        idle = self.idle_workers()
        require(idle, "An idle worker was to leave, and there is none.")
        self._note(f"worker {idle[-1].name}", "leaves")
        self.workers.remove(idle[-1])

    # ---- workers: what they do ---------------------------------------------------------------

    def idle_workers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.batch is None]

    def busy_workers(self) -> list[Worker]:
        """Those that can go on: they have a batch, and their handler waits for nobody."""
        workers = self.workers + self.ghosts
        return [w for w in workers if w.batch and not (w.request and not w.request.answered)]

    def go_on(self, worker: Worker, error: str | None = None) -> None:
        """End the attempt that it is on, with ``error`` or well; or else start the next job."""
        batch = worker.batch
        assert batch is not None
        if worker.task is not None:
            self._end_attempt(worker, batch, error)
        self._go_on_with(worker, batch)

    def snooze(self, worker: Worker, again: Again) -> None:
        """Its handler puts off the job that it is on."""
        assert worker.batch is not None
        self._end_attempt(worker, worker.batch, None, again)
        self._go_on_with(worker, worker.batch)

    def _go_on_with(self, worker: Worker, batch: Batch) -> None:
        if batch.tasks:
            self._start(worker, batch, batch.tasks.popleft())
        else:
            self._report(worker, batch)

    def rush(self, worker: Worker) -> None:
        """Run all that it has, in no time, and report."""
        while worker.batch and not (worker.request and not worker.request.answered):
            self.go_on(worker)

    def _start(self, worker: Worker, batch: Batch, task: Task) -> None:
        slow = batch.running  # it was, if a turn could see it
        if slow is not None:
            require(
                self._looked_at < batch.started + OVERDUE_SECONDS,
                f"{task.id} starts after {slow.id}, which had run for "
                f"{self._looked_at - batch.started:g} s when the dispatcher looked: what waits "
                "behind a slow job has to go back, for a more urgent one may have come.",
            )
        batch.started, batch.attempt, batch.running = self.now, task.attempts, task
        worker.task, worker.token = task, batch.token
        if task.cancelled:
            self._end_attempt(worker, batch, "is passed over, since it was cancelled:")
            return
        self._note(f"worker {worker.name}", f"starts {task.id}")
        self.model.start(task.id, batch.token)

    def _end_attempt(
        self, worker: Worker, batch: Batch, error: str | None, again: Again | None = None
    ) -> None:
        task, request = worker.task, worker.request
        worker.task, worker.request = None, None
        assert task is not None
        what = error or ("completes" if again is None else "snoozes")
        self._note(f"worker {worker.name}", f"{what} {task.id}")
        turned_away = request is not None and isinstance(request._error, QueueClosed)
        closed = error is not None and turned_away
        outcome = Outcome(task, self.now - batch.started, error=error, closed=closed, again=again)
        if error is not None:
            outcome.delay = self._delay(task.kind, batch.attempt, False)
        self._attempt_of[outcome] = worker.token
        batch.outcomes.append(outcome)
        self.tally["attempts"] += 1

    def _report(self, worker: Worker, batch: Batch) -> None:
        batch.running = None
        worker.batch = None
        if batch.seize():
            require(worker in self.workers, "A worker that was given up was let back in.")
            self.inbox.append(Report(batch))
        else:
            self.ghosts.remove(worker)

    # ---- time, and the disk ------------------------------------------------------------------

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        for producer in self.producers:
            gives_up_at = producer.gives_up_at
            if gives_up_at is not None and self.now - seconds < gives_up_at <= self.now:
                self._note(producer.name, "gives up")
                self.inbox.append(Withdraw(producer.request))

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock of the machine."""
        self._note("clock", f"is set {abs(seconds):g} s {'forward' if seconds > 0 else 'back'}")
        self.model.clock_was_set(seconds, self.now + CLOCK_SECONDS, self.wall)
        self.wall += seconds
        self.tally["clock jumps"] += 1

    def fail_commits(self, count: int, operation: int = 1_000) -> None:
        """So many transactions fail: at this operation, or when they are committed."""
        self._note("disk", f"is full: {count} commits will fail")
        self.failing_commits, self.failing_operation = count, operation

    def heal(self) -> None:
        """From here on nothing fails."""
        self._note("disk", "works, from here on")
        self.failing_commits, self.crash_point = 0, ""

    def crash_at_commit(self, point: str) -> None:
        self._note("process", f"will end right {point} its next commit")
        self.crash_point = point

    def before_operation(self) -> None:
        self._operations += 1
        if self.failing_commits and self._operations == self.failing_operation:
            self._fail("something cannot be read or written")

    def before_commit(self) -> None:
        if self.failing_commits:
            self._fail("a commit fails")
        if self.crash_point == "before":
            raise self._ended()
        self._operations = 0

    def _fail(self, what: str) -> NoReturn:
        self._operations = 0
        self.failing_commits -= 1
        self.latest_failed = self._failed_in_turn = True
        self.tally["failed commits"] += 1
        self.model.start_turns_anew()
        self._note("disk", what)
        raise StorageError("The disk is full.")

    def after_commit(self, written: Written) -> None:
        self.latest_failed = False
        self.tally["commits"] += 1
        if written:
            self._watch(written)
        if self.crash_point == "after":
            raise self._ended()

    def _ended(self) -> Crash:
        self.crash_point = ""
        return Crash()

    # ---- turns -------------------------------------------------------------------------------

    def turn(self) -> list[Producer]:
        """One turn with all messages that wait. Returns who had no answer, if it was the last."""
        messages, self.inbox = self.inbox, []
        self._failed_in_turn = False
        self._coming_in, self._just_failed = set(), set()
        self._just_revived, self._just_deleted = set(), {}
        self._just_let_go = set()
        self._holders = {}
        self.tally["turns"] += 1
        self._looked_at = self.now
        try:
            self.dispatcher.turn(messages, self.now, self.wall)
        except Crash:
            return self.crash()
        self._check_skipped()
        self._check_replacements()
        self._check_answers()
        if self.dispatcher.done:
            self._close()
        return []

    def settle(self) -> list[Producer]:
        """Turns until the dispatcher would sleep; then nothing may be left that could be done."""
        for _ in range(MOST_TURNS):
            if unanswered := self.turn():
                return unanswered
            if not self._is_awake():
                break
        else:
            require(False, f"The dispatcher was still awake after {MOST_TURNS} turns.")
        if not self.latest_failed:
            self._check_nothing_is_left_undone()
        return []

    def _is_awake(self) -> bool:
        dispatcher = self.dispatcher
        return bool(self.inbox or dispatcher._again or dispatcher._until_due(self.now) == 0)

    def _close(self) -> None:
        """The queue is closed: everybody gets an answer. Then it is opened again."""
        self.dispatcher.run()  # nothing but the end
        self._check_answers()
        require(not self._requests, "The queue has ended, and somebody still waits for an answer.")
        require(
            self.latest_failed or not self.model.having("processing"),
            "The queue has ended, and jobs are still said to be processing.",
        )
        for worker in self.workers:
            task, batch = worker.task, worker.batch
            if task and batch and task.token == worker.token:
                told = task.cancelled or batch.told is task  # the latter when its time was up
                require(told, f"{task.id} goes on, and was not told.")
            left = _names(list(worker.batch.tasks)) if worker.batch else ""
            require(not left, f"The queue has ended, and {left} would still be started.")
        self._note("process", "has closed the file; another one opens it")
        self.tally["closes"] += 1
        self.open()

    # ---- what is checked: each commit --------------------------------------------------------

    def _watch(self, written: Written) -> None:
        """Tell the model what was committed, in the order in which it came about."""
        model = self.model
        self._check_skipped()
        self._check_answers()  # those that were given before this commit
        new = [task for move in written.moves if move.source is None for task in move.tasks]
        self._coming_in = {task.id for task in new}
        for task in new:
            self._id_of[task.seq] = task.id
            self._known_ids.add(task.id)
        self._note_commit(written)
        model.commit()
        for task in written.interrupted:
            model.interrupt(task.id)
            charged = model.jobs[task.id].attempts
            require(
                task.attempts == charged,
                f"After the crash {task.id} has {task.attempts} attempts behind it, not {charged}.",
            )
        for sort, name, paused in written.paused:
            model.set_paused(sort, name, paused)
        self._let_in = set()
        self._replaced = written.replaced
        at = len(written.moves) if written.admission is None else written.admission
        for move, task in _in_order(written.moves[:at]):
            outcome = next((o for o in move.outcomes if o.task is task), None)
            self._follow(move, task, outcome, written.wall)
            model.look_at_heads()
        self._look_at_keys(written.wall)
        self._replace_in_place(written, at)
        for move, task in _in_order(written.moves[at:], is_admission=True):
            if move.source in _WAITS and move.target in _WAITS:
                self._replace(task, written.replaced[task.seq], written.wall)
            else:
                self._follow(move, task, None, written.wall)
            model.look_at_heads()
        for lane in self._let_in:
            require(not model.is_too_full(lane), f"The {lane} lane was let in more than it holds.")
        for task in written.told:
            model.tell(task.id)
        for seq in written.forgotten:
            if self._id_of[seq] in model.jobs:  # else somebody has purged it before
                self._delete(self._id_of[seq])
        model.look_at_heads()

    def _delete(self, job_id: str) -> None:
        self._just_deleted[job_id] = self.model.jobs[job_id]
        self.model.prune(job_id)

    def _look_at_keys(self, wall: float) -> None:
        """New jobs are let in now: who holds which key?"""
        for key, held in self.model.keys.now(wall).items():
            self._holders[key] = HeldBy(held.job_id, held.by.status in WAITS)

    def _replace_in_place(self, written: Written, at: int) -> None:
        """Those that were replaced and did not move."""
        moved = {
            task.seq
            for move in written.moves[at:]
            if move.source in _WAITS and move.target in _WAITS
            for task in move.tasks
        }
        for seq, (lane, kind, group) in written.replaced.items():
            if seq not in moved:
                self.model.replace(self._id_of[seq], lane, kind, group, False, None)
                self.model.look_at_heads()

    def _replace(self, task: Task, replaced: Replaced, wall: float) -> None:
        """It goes elsewhere by that."""
        model, (lane, kind, group) = self.model, replaced
        model.replace(task.id, lane, kind, group, True, task.due_at)
        if task.due_at is not None:
            entry = model.jobs[task.id]
            entry.due, entry.by_clock = self.now + (task.due_at - wall), task.by_clock

    def _follow(self, move: Move, task: Task, outcome: Outcome | None, wall: float) -> None:
        """One job has moved."""
        model, now = self.model, self.now
        if move.target in (Status.CANCELLED, Status.DROPPED) and move.source is not None:
            self._just_let_go.add(model.jobs[task.id].key)
        match move.source, move.target:
            case None, _:
                self._accept(move.target, task, wall)
            case _, None:
                self._just_deleted[task.id] = model.jobs[task.id]
                model.purge(task.id)
            case Status.QUEUED, Status.PROCESSING:
                model.claim(task.id, task.token, task.alone, now)
            case Status.PROCESSING, Status.QUEUED if task.status is None:
                model.set_aside(task.id)
            case Status.PROCESSING, Status.QUEUED:
                model.give_back(task.id)
            case Status.FAILED, Status.QUEUED:
                model.start_over(task.id, wall)
                self._just_revived.add(task.id)
            case Status.WAITING, Status.QUEUED:
                model.release(task.id, None)
            case Status.WAITING, Status.SCHEDULED:
                assert task.due_at is not None
                model.release(task.id, now + (task.due_at - wall))
            case _, Status.QUEUED:
                model.come_back(task.id, now)
            case _, Status.CANCELLED:
                model.cancel(task.id, task.id in self._asked_to_cancel)
            case _, Status.DROPPED:
                model.drop(task.id)
            case _:
                assert outcome is not None
                self._end(move.target, task, outcome, wall)

    def _accept(self, target: Status | None, task: Task, wall: float) -> None:
        model, makes_room = self.model, self.options.overflow == "drop-oldest"
        if task.id.startswith(PERIODIC):
            require(not self.closes, f"{task.id} came in while the queue closes.")
            model.tick(datetime.fromisoformat(task.id.partition("@")[2]).timestamp(), wall)
            self.tally["ticks"] += 1
        else:
            self._check_line(task)
        what = task.id, str(task.priority), task.kind
        if target is Status.DROPPED:
            model.turn_away(*what, task.group)
            return
        came_for = self._came_for.get(task, task.priority)
        is_elsewhere = target is Status.QUEUED and came_for != task.priority
        if is_elsewhere:
            model.go_elsewhere()  # it was replaced by one that came with it
        if target is Status.QUEUED:
            model.accept(*what, makes_room or is_elsewhere, task.group)
            if not is_elsewhere:
                self._let_in.add(task.priority)
        elif target is Status.WAITING:
            model.wait_for(*what, task.group, task.due_at)
            model.set_family(task.id, self._parents(task), task.if_failed)
            model.jobs[task.id].by_clock = task.by_clock and task.due_at is not None
        else:
            assert task.due_at is not None
            due = self.now + (task.due_at - wall)
            model.schedule(*what, due, task.due_at, task.by_clock, task.group)
        if task.unique is not None:
            model.take_key(task.id, task.unique, wall)
            self._holders[task.unique.key] = HeldBy(task.id, True)

    def _parents(self, task: Task) -> dict[int, str]:
        """What each has become, by its number. Those that start over in this turn had failed."""
        became = {}
        for parent in task.after:
            entry = self.model.jobs.get(parent) or self._just_deleted.get(parent)
            require(entry, f"{task.id} comes after {parent}, which is not there.")
            assert entry is not None
            status = "failed" if parent in self._just_revived else entry.status
            became[entry.number] = status if status in ENDED else ""
        return became

    def _end(self, target: Status | None, task: Task, outcome: Outcome, wall: float) -> None:
        """An attempt has, with this outcome."""
        model, token = self.model, self._attempt_of.get(outcome)
        if target is Status.COMPLETED:
            require(outcome in self._attempt_of, f"{task.id} completed and never ran.")
            model.complete(task.id, token)
        elif target is Status.RETRYING:
            assert task.due_at is not None
            delay = task.due_at - wall
            self._check_delay(task.id, delay)
            model.retry_later(task.id, token, self.now + delay, task.due_at)
        elif target is Status.SCHEDULED:
            assert outcome.again is not None
            by_clock = outcome.again.by_clock
            due_at = outcome.again.seconds + (0.0 if by_clock else wall)
            if task.due_at is not None and task.seq not in self._replaced:
                self._check_snooze(task.id, outcome.again, task.due_at, wall)
                due_at = task.due_at
            model.snooze(task.id, token, self.now + (due_at - wall), due_at, by_clock)
            self.tally["snoozes"] += 1
        elif str(outcome.error).startswith("The process ended"):
            model.fail_by_crashes(task.id)
        else:
            model.fail(task.id, token)
            self._just_failed.add(task.id)

    def _check_delay(self, job_id: str, delay: float) -> None:
        longest = min(4.0, 2.0 ** (self.model.jobs[job_id].attempts - 1))
        require(abs(delay - longest) < 1e-6, f"{job_id} waits {delay:g} s, not {longest:g} s.")

    def _check_snooze(self, job_id: str, again: Again, due_at: float, wall: float) -> None:
        expected = max(again.seconds, wall) if again.by_clock else wall + again.seconds
        require(
            abs(due_at - expected) < 1e-6,
            f"{job_id} was put off until {due_at:g}, not {expected:g}.",
        )

    def _check_line(self, task: Task) -> None:
        """First come, first served; and the jobs of a call in the order they were given."""
        request = self._request_of[task]
        written = len(self._written[request])
        require(not request.answered, f"{task.id} came in after its producer had been refused.")
        self._written[request].append(task.id)
        if task.unique is not None:
            return  # some of its call may not come in at all
        require(request.tasks[written] is task, f"{task.id} came in before those in front of it.")
        line = self._lines[task.priority]
        if request in line:
            first = next(r for r in line if r is request or not self._is_out_of_line(r))
            require(
                first is request,
                f"{task.id} came in before {first.tasks[0].id}, whose producer was there first.",
            )
            if written + 1 == len(request.tasks):
                line.remove(request)

    def _is_out_of_line(self, request: Enqueue) -> bool:
        """It was refused, or is about to be, because one of its ids is taken."""
        rest = request.tasks[len(self._written[request]) :]
        return request.answered or any(
            task.id in self.model.jobs or task.id in self._coming_in for task in rest
        )

    # ---- what is checked: each answer --------------------------------------------------------

    def _check_answers(self) -> None:
        for request in [r for r in self._requests if r.answered]:
            self._requests.remove(request)
            self.dispatcher.unanswered.discard(request)
            try:
                answer, error = request.result(), None
            except Exception as raised:
                answer, error = None, raised
            if isinstance(request, Enqueue):
                self._check_producer(request, error)
            elif error is not None:
                self._check_refusal(request, error)
            else:
                self._check_answer(request, answer)

    def _check_producer(self, request: Enqueue, error: Exception | None) -> None:
        [producer] = [p for p in self.producers if p.request is request]
        self.producers.remove(producer)
        written = self._written[request]
        through = len(written) + len(self._skipped[request])
        self.tally["jobs"] += len(written)
        if error is None:
            self._note(producer.name, "is told that all is in")
            require(
                through == len(request.tasks),
                f"{producer.name} was told that all is in, but in the store are {written}.",
            )
            return
        assert isinstance(error, EnqueueError | UnknownJob)
        self._note(producer.name, f"is refused: {type(error).__name__}")
        skipped = set(self._skipped[request].values())
        accepted = [job_id for job_id in error.accepted if job_id not in skipped]
        require(
            accepted == [job_id for job_id in written if job_id not in skipped],
            f"{producer.name} was told that {error.accepted} are in, and {written} are.",
        )
        match error:
            case QueueFull():
                gives_up_at = producer.gives_up_at
                just = gives_up_at is not None and gives_up_at <= self.now
                # Or all workers wait for room; those that were given up are no reason.
                just = just or request.sender in [w.batch for w in self.workers if w.batch]
            case QueueClosed():
                just = not self._may_enqueue(request) or self._waits_for_a_resume(request)
                just = just and bool(self.closes)
            case DuplicateJob():
                # As a loop of calls: the first that is not in is one that is there already.
                first = producer.ids[through]
                just = first in error.ids and first in self._known_ids
            case UnknownJob():
                parents = producer.beyond.parents(producer.ids, through)
                known = self.model.jobs.keys() - self._coming_in
                just = error.id in parents and error.id not in known
            case _:
                just = self._failed_in_turn
        require(just, f"{producer.name} was refused without a reason: {error!r}")

    def _waits_for_a_resume(self, request: Enqueue) -> bool:
        """Whether its lane is full, and something is paused: nobody knows when there is room."""
        return bool(self.model.paused) and self.model.may_be_full(request.next_task().priority)

    def _check_skipped(self) -> None:
        """Who was not let in, since another job holds the key: is it that one?"""
        for request in [*self._requests]:
            if not isinstance(request, Enqueue):
                continue
            for number, job_id in request.instead.items():
                if number not in self._skipped[request]:
                    self._skipped[request][number] = job_id
                    self._check_holder(request.tasks[number], job_id)

    def _check_holder(self, task: Task, job_id: str) -> None:
        assert task.unique is not None
        if not self._holders:
            self._look_at_keys(self.wall)
        held_by = self._holders.get(task.unique.key)
        is_right = held_by.job_id == job_id if held_by else job_id in self.model.keys.doubtful
        require(
            is_right, f"{task.id} was not let in because of {job_id}, and {held_by} has its key."
        )
        self._note("commit", f"{task.id} is not in, because of {job_id}")
        if held_by and held_by.waits and task.unique.then == "replace":
            self._replacements.setdefault(job_id, []).append(task)

    def _check_replacements(self) -> None:
        """One of those that came to replace it is what the job is now: who was last, who knows."""
        for job_id, tasks in self._replacements.items():
            if (entry := self.model.jobs.get(job_id)) is not None:
                is_now = entry.lane, entry.kind, entry.group
                wanted = [(task.priority, task.kind, task.group) for task in tasks]
                by = _names(tasks)
                require(is_now in wanted, f"{job_id} was to be replaced by {by}, and was not.")
        self._replacements.clear()

    def _may_enqueue(self, request: Enqueue) -> bool:
        """Whether it is part of what a closing queue has to finish.

        A handler whose time is up has had its end, and cleans up.
        """
        draining = all(close.drain for close in self.closes) and not self._cut_off
        return draining and any(
            worker.request is request
            and worker.task
            and worker.task.token == worker.token
            and worker.batch
            and worker.batch.late is not worker.task
            for worker in self.workers
        )

    def _check_refusal(self, request: Request[Any], error: Exception) -> None:
        model = self.model
        self._note("client", f"is refused: {type(error).__name__}")
        match request, error:
            case _, StorageError():
                just = self._failed_in_turn
                # A kind that was to be paused may stand apart in memory, and go on to.
                model.set_apart(self.ledger._lanes._limited_kinds)
            case _, QueueClosed():
                just = bool(self.closes)
            case GiveOrder(order=Cancel(job_id=job_id)), UnknownJob():
                # Or it came in in the same turn, so that its producer had no answer yet.
                just = job_id not in model.jobs or job_id in self._coming_in
            case Wait(job_id=job_id), UnknownJob():
                just = job_id not in model.jobs
            case GiveOrder(order=Retry(job_id=str(job_id))), ValueError():
                just = job_id not in model.to_run("failed") or job_id in self._just_failed
                just = just or self._had_rival(job_id)
            case ((Wait() | Join()), TimeoutError()):
                just = True  # it was withdrawn
            case _:
                just = False
        require(just, f"{type(request).__name__} was refused without a reason: {error!r}")

    def _check_answer(self, request: Request[Any], answer: Any) -> None:
        model = self.model
        match request:
            case Measure():
                self._check_metrics(answer.metrics())
            case Wait(job_id=job_id):
                self._note("client", f"is told that {job_id} is {answer.status}")
                entry = model.jobs[job_id]
                require(
                    answer.status.ended and answer.status == entry.status,
                    f"{job_id} was said to be {answer.status}; it is {entry.status}.",
                )
            case GiveOrder(order=Cancel(job_id=job_id)):
                self._check_cancel(job_id, answer)
            case Join():
                self._note("client", "is told that nothing is left to run")
                left = model.to_run("queued", "processing", "retrying")
                require(not left, f"join returned, and {left} had not run.")
            case GiveOrder(order=CancelAll() | RetryAll() | Purge() as order):
                self._note("client", f"is told: {answer} jobs")
                not_yet = self._meant.pop(request) & self._left_of(order)
                not_yet -= self._just_failed  # in the same turn
                require(not not_yet, f"All were dealt with, except {not_yet}.")
            case GiveOrder(order=Retry(job_id=job_id)):
                self._note("client", f"is told that {job_id} starts over")
            case GiveOrder(order=SetPaused(pause=part, paused=paused)):
                self._note("client", f"is told that it {_PAUSES[paused]} {part.row}")
            case GiveOrder(order=SetWorkers()):
                self._note("client", f"is told: {answer} workers")
            case Close():
                self._check_close(request, answer)

    def _left_of(self, order: CancelAll | RetryAll | Purge) -> set[str]:
        """Jobs that it could have been for."""
        model = self.model
        if isinstance(order, RetryAll):
            return {job_id for job_id in model.to_run("failed") if not self._had_rival(job_id)}
        left = set(model.having(*order.wanted.statuses))
        if isinstance(order, Purge):
            return {job_id for job_id in left if not model.has_children(job_id)}
        return {job_id for job_id in left if not model.jobs[job_id].told}

    def _had_rival(self, job_id: str) -> bool:
        """Whether another job with its key is to run, or was until it was cancelled in this turn.

        (The order came before that, then.)
        """
        key = self.model.jobs[job_id].key
        return self.model.has_rival(job_id) or (key != "" and key in self._just_let_go)

    def _check_cancel(self, job_id: str, cancelled: bool) -> None:
        self._note(
            "client", f"is told that {job_id} {'will not run' if cancelled else 'has ended'}"
        )
        if job_id in self._just_deleted:
            require(not cancelled, f"{job_id} had ended, and was said to be cancelled.")
            return
        entry = self.model.jobs[job_id]
        if cancelled and entry.status == "processing":
            require(entry.told, f"{job_id} was cancelled, and a crash would run it again.")
        elif cancelled:
            require(entry.status == "cancelled", f"{job_id} was cancelled and is {entry.status}.")
        else:
            # Or it had, and somebody else's order of the same turn made it start over.
            require(
                entry.status in ENDED or job_id in self._just_revived,
                f"{job_id} was said to have ended; it is {entry.status}.",
            )

    def _check_close(self, close: Close, complete: bool) -> None:
        self._note("client", f"is told that the queue is closed{'' if complete else ', cut short'}")
        left = self.model.to_run("queued", "processing", "retrying") + self.model.children_left()
        left = left if close.drain else []
        require(
            complete or self._cut_off or left, "close said that it was cut short, and it was not."
        )
        require(not complete or not left, f"close said that everything ran, and {left} had not.")

    def _check_metrics(self, metrics: Metrics) -> None:
        """Every count of every lane, and that they add up."""
        expected = self.model.counts()
        for priority, lane in metrics.by_priority.items():
            counts = {status: getattr(lane, status) for status in Status}
            for status, count in counts.items():
                require(
                    count == expected[priority, status],
                    f"metrics say {count} {status} in the {priority} lane; there are "
                    f"{expected[priority, status]}.",
                )
            require(
                sum(counts.values()) == lane.accepted,
                f"The counts of the {priority} lane do not add up to accepted: {lane}.",
            )

    # ---- what is checked: that nothing is left undone ----------------------------------------

    def _check_nothing_is_left_undone(self) -> None:
        model = self.model
        require(not model.due(self.now), f"{model.due(self.now)} are due and still wait.")
        if not self.closes:
            require(
                not model.lacks_a_tick(self.now, self.wall), "A tick has come, and no job of it."
            )
        left = model.children_left()
        require(not left, f"{left} still wait for their parents, which have ended.")
        for producer in self.producers:
            task = producer.request.next_task()
            require(
                self.options.overflow in ("block", "reject"),
                f"{producer.name} waits, though overflow is {self.options.overflow}.",
            )
            require(
                model.may_be_full(task.priority),
                f"{producer.name} waits for room in the {task.priority} lane, which has some.",
            )
        waits = [w for w in self.workers if w.request and not w.request.answered]
        require(len(waits) < len(self.workers), "All workers wait for room that they must make.")
        if self.idle_workers() and all(close.drain for close in self.closes):
            waiting = model.could_start(self.now)
            require(not waiting, f"A worker is idle while {waiting} could run.")

    # ---- the history -------------------------------------------------------------------------

    def _note(self, who: str, what: str) -> None:
        self.history.append(Happened(self.now, who, what))

    def _note_commit(self, written: Written) -> None:
        went = [
            *((move.tasks, _WENT.get(move[1:3], move.target)) for move in written.moves),
            (written.interrupted, "interrupted"),
            (written.told, "told to stop"),
        ]
        parts = [f"{_names(tasks)} {where}" for tasks, where in went if tasks]
        parts += [f"{self._id_of[seq]} replaced" for seq in written.replaced]
        if written.forgotten:
            parts.append(f"{', '.join(self._id_of[seq] for seq in written.forgotten)} deleted")
        parts += [f"{_PAUSES[paused]} {sort} {name}" for sort, name, paused in written.paused]
        self._note("commit", "; ".join(parts))


_PAUSES = {True: "pauses", False: "resumes"}
# How the history says where jobs went; else it is the name of their status.
_WENT = {
    (None, Status.QUEUED): "in",
    (None, Status.SCHEDULED): "scheduled",
    (None, Status.DROPPED): "turned away",
    (Status.QUEUED, Status.PROCESSING): "claimed",
    (Status.PROCESSING, Status.QUEUED): "given back",
    (Status.PROCESSING, Status.RETRYING): "to be retried",
    (Status.PROCESSING, Status.SCHEDULED): "put off",
    (Status.FAILED, Status.QUEUED): "starts over",
    (Status.FAILED, None): "purged",
    (None, Status.WAITING): "in, behind its parents",
    (Status.WAITING, Status.QUEUED): "let go",
    (Status.SCHEDULED, Status.QUEUED): "back in line",
    (Status.RETRYING, Status.QUEUED): "back in line",
}


# Where a job stands that may be replaced by another, at a new place.
_WAITS = (Status.QUEUED, Status.SCHEDULED)


def _in_order(moves: Sequence[Move], is_admission: bool = False) -> list[tuple[Move, Task]]:
    """Each job that moved, in turn: a step makes one move of each sort, and had them mixed.

    is_admission: no jobs have come back from a wait, but some that waited were replaced.
    """
    first: dict[str, int] = {}  # move of a step
    steps = []
    for number, move in enumerate(moves):
        for task in move.tasks:
            place: tuple[int, float] = number, 0
            if move.source is None:
                place = first.setdefault("new", number), task.seq
            elif (
                move.source in (Status.SCHEDULED, Status.RETRYING)
                and move.target is Status.QUEUED
                and not is_admission
            ):
                place = first.setdefault("due", number), task.key
            steps.append((place, move, task))
    steps.sort(key=lambda step: step[0])
    return [(move, task) for _, move, task in steps]


def _names(tasks: Sequence[Task]) -> str:
    return ", ".join([task.id for task in tasks])


def _say(level: int, text: str, *values: object, error: BaseException | None = None) -> None:
    """Nobody listens."""
