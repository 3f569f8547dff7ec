"""The dispatcher on a test bench: no threads, virtual time, and a model that watches each commit.

``Engine`` is everything that the dispatcher has around it in a running queue: producers who
enqueue and give up, workers who run jobs or hang, a disk that fails, a process that ends,
two clocks. Each of these is a method here, and nothing happens that is not called for. Every
commit is told to the model (model.py), and every answer is checked against it.

But: it decides nothing. What happens next is up to a random number (simulate.py) or to
Hypothesis (test_model_final.py).
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, cast

import final.options
from final.engine.dispatcher import Dispatcher
from final.engine.events import Events
from final.engine.flight import OVERDUE_SECONDS, Flight
from final.engine.messages import (
    Close,
    Enqueue,
    Join,
    Measure,
    Message,
    Order,
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
from final.job import Outcome, Priority, Status, Task
from final.ledger.base import Cancel, Move, Purge, Retry
from final.ledger.local import CLOCK_SECONDS, LocalLedger
from final.ledger.sqlite import SqliteFile
from final.options import Backoff, TokenBucket
from final.workers.batch import Batch, Report
from tests.final import helpers
from tests.labs.memory_file import MemoryFile
from tests.labs.model import ENDED, LANES, Limit, Model, require

# Turns that follow each other without any message. A few are right: one that admits a producer,
# one that hands out its job. More than this, and the dispatcher goes round and round.
MOST_TURNS = 100

# The kinds of jobs. Handlers of an "obedient" job end when they are told to.
KINDS = ("deaf", "obedient", "other")


class Crash(BaseException):
    """The process ends in the middle of a turn. As of kill -9, nothing learns of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """As those of ``JobQueue``. A failed job waits 1 s, then 2 s, 4 s, and never more than 4.

    limits: token buckets of kinds, as in the model; of the kind "", of the queue. memory: each
    payload takes 4 bytes.
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

    def of_final(self) -> final.options.Options:
        buckets = {kind: TokenBucket(*limit) for kind, limit in self.limits.items()}
        chosen = {name: getattr(self, name) for name in self.__slots__ if name != "limits"}
        rate_limit = buckets.pop("", None) or buckets
        return helpers.options(**chosen, backoff=BACKOFF, rate_limit=rate_limit)


BACKOFF = Backoff(base=1, maximum=4, jitter=0)


class Disk(Protocol):
    """What outlives the process."""

    def open(self) -> SqliteFile: ...

    def crash(self) -> None:
        """The process that had it open has ended without closing it."""


class MemoryDisk:
    """Dictionaries: fast."""

    def __init__(self) -> None:
        self._file = MemoryFile()

    def open(self) -> SqliteFile:
        self._file.take_over()
        return cast(SqliteFile, self._file)

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
    they run. forgotten: by seq.
    """

    moves: list[Move] = field(default_factory=list)
    interrupted: list[Task] = field(default_factory=list)
    told: list[Task] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    wall: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.moves or self.interrupted or self.told or self.forgotten)


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
        self._engine.before_operation()
        return self._file.taken(job_ids)

    def find(self, job_id: str) -> Task | None:
        self._engine.before_operation()
        return self._file.find(job_id)

    def dead_letters(self, *which: Any) -> list[Task]:
        self._engine.before_operation()
        return self._file.dead_letters(*which)

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
        self._just_deleted: set[str] = set()
        self._let_in: set[str] = set()  # lanes that got new jobs in the latest commit
        self.open()

    # ---- the process -------------------------------------------------------------------------

    def open(self) -> None:
        """A new process opens what the last one left; it may end while it does."""
        while True:
            self._forget_the_process()
            self.handled = handled = self.next_handled
            options = self.options.of_final()
            self._delay = functools.partial(options.retry_delay, say=_say)
            file = cast(SqliteFile, WatchedFile(self._disk.open(), self))
            self.ledger = LocalLedger(
                file, options, handled.__contains__, lambda kind: True, self.now
            )
            self.dispatcher = Dispatcher(
                self.ledger,
                Flight(self, options.workers, options.timeout, self._delay),
                Recorder(options.workers, self.now),
                Events(),
            )
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
        self.workers = [Worker(name) for name in "ABCDEFGH"[: self.options.workers]]
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
        self._written: dict[Enqueue, int] = {}  # so many of its jobs are in the store
        self._request_of: dict[Task, Enqueue] = {}
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
    ) -> Enqueue:
        """Enqueue (id, lane) ...; wait for room for ``patience`` seconds.

        delay: the jobs are scheduled, so far ahead; every other one as a datetime. kind: one that
        is handled. worker: the call is made by the handler that it is running.
        """
        due_at = None if delay is None else self.wall + delay
        tasks = [
            Task(job_id, "null", Priority(lane), kind, due_at=due_at, by_clock=n % 2 == 1, size=4)
            for n, (job_id, lane) in enumerate(jobs)
        ]
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
        ids = [job_id for job_id, _ in jobs]
        self.producers.append(Producer(who, request, gives_up_at, ids))
        names = ", ".join(f"{job_id} ({lane})" for job_id, lane in jobs)
        when = "" if delay is None else f", due in {delay:g} s"
        until = "" if patience is None else f", gives up after {patience:g} s"
        self._ask(request, who, f"enqueues {names}{when}{until}")
        for task in tasks:
            self._request_of[task] = request
        self._written[request] = 0
        if due_at is None and len({lane for _, lane in jobs}) == 1:
            self._lines[jobs[0][1]].append(request)
        if patience == 0:
            self.inbox.append(Withdraw(request))
        return request

    def cancel(self, job_id: str) -> None:
        self._ask(Order(Cancel(job_id)), "client", f"cancels {job_id}")

    def retry(self, job_id: str | None = None) -> None:
        self._ask(Order(Retry(job_id)), "client", f"retries {job_id or 'all dead letters'}")

    def purge(self) -> None:
        self._ask(Order(Purge()), "client", "purges the dead letters")

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

    def _end_attempt(self, worker: Worker, batch: Batch, error: str | None) -> None:
        task, request = worker.task, worker.request
        worker.task, worker.request = None, None
        assert task is not None
        self._note(f"worker {worker.name}", f"{error or 'completes'} {task.id}")
        turned_away = request is not None and isinstance(request._error, QueueClosed)
        closed = error is not None and turned_away
        outcome = Outcome(task, self.now - batch.started, error=error, closed=closed)
        if error is not None:
            outcome.delay = self._delay(batch.attempt, False)
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
        self.wall += seconds
        self.model.clock_was_set(seconds, self.now + CLOCK_SECONDS)
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
        self._coming_in, self._just_failed, self._just_deleted = set(), set(), set()
        self.tally["turns"] += 1
        self._looked_at = self.now
        try:
            self.dispatcher.turn(messages, self.now, self.wall)
        except Crash:
            return self.crash()
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
            if worker.task and worker.task.token == worker.token:
                require(worker.task.cancelled, f"{worker.task.id} goes on, and was not told.")
            left = _names(list(worker.batch.tasks)) if worker.batch else ""
            require(not left, f"The queue has ended, and {left} would still be started.")
        self._note("process", "has closed the file; another one opens it")
        self.tally["closes"] += 1
        self.open()

    # ---- what is checked: each commit --------------------------------------------------------

    def _watch(self, written: Written) -> None:
        """Tell the model what was committed, in the order in which it came about."""
        model = self.model
        self._check_answers()  # those that were given before this commit
        new = [task for move in written.moves if move.source is None for task in move.tasks]
        self._coming_in = {task.id for task in new}
        for task in new:
            self._id_of[task.seq] = task.id
            self._known_ids.add(task.id)
        self._note_commit(written)
        for task in written.interrupted:
            model.interrupt(task.id)
            charged = model.jobs[task.id].attempts
            require(
                task.attempts == charged,
                f"After the crash {task.id} has {task.attempts} attempts behind it, not {charged}.",
            )
        self._let_in = set()
        for move, task in _in_order(written.moves):
            outcome = next((o for o in move.outcomes if o.task is task), None)
            self._follow(move, task, outcome, written.wall)
        for lane in self._let_in:
            require(not model.is_too_full(lane), f"The {lane} lane was let in more than it holds.")
        for task in written.told:
            model.tell(task.id)
        for seq in written.forgotten:
            model.prune(self._id_of[seq])
            self._just_deleted.add(self._id_of[seq])

    def _follow(self, move: Move, task: Task, outcome: Outcome | None, wall: float) -> None:
        """One job has moved."""
        model, now = self.model, self.now
        match move.source, move.target:
            case None, _:
                self._accept(move.target, task, wall)
            case _, None:
                model.prune(task.id)
                self._just_deleted.add(task.id)
            case Status.QUEUED, Status.PROCESSING:
                model.claim(task.id, task.token, task.alone, now)
            case Status.PROCESSING, Status.QUEUED if task.status is None:
                model.set_aside(task.id)
            case Status.PROCESSING, Status.QUEUED:
                model.give_back(task.id)
            case Status.FAILED, Status.QUEUED:
                model.start_over(task.id)
            case _, Status.QUEUED:
                model.come_back(task.id, now)
            case _, Status.CANCELLED:
                model.cancel(task.id)
            case _, Status.DROPPED:
                model.drop(task.id)
            case _:
                assert outcome is not None
                self._end(move.target, task, outcome, wall)

    def _accept(self, target: Status | None, task: Task, wall: float) -> None:
        model, makes_room = self.model, self.options.overflow == "drop-oldest"
        self._check_line(task)
        if target is Status.DROPPED:
            model.turn_away(task.id, task.priority, task.kind)
        elif target is Status.QUEUED:
            model.accept(task.id, task.priority, task.kind, makes_room)
            self._let_in.add(task.priority)
        else:
            assert task.due_at is not None
            due = self.now + (task.due_at - wall)
            model.schedule(task.id, task.priority, task.kind, due, task.due_at, task.by_clock)

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
        elif str(outcome.error).startswith("The process ended"):
            model.fail_by_crashes(task.id)
        else:
            model.fail(task.id, token)
            self._just_failed.add(task.id)

    def _check_delay(self, job_id: str, delay: float) -> None:
        longest = min(4.0, 2.0 ** (self.model.jobs[job_id].attempts - 1))
        require(abs(delay - longest) < 1e-6, f"{job_id} waits {delay:g} s, not {longest:g} s.")

    def _check_line(self, task: Task) -> None:
        """First come, first served; and the jobs of a call in the order they were given."""
        request = self._request_of[task]
        written = self._written[request]
        require(not request.answered, f"{task.id} came in after its producer had been refused.")
        require(request.tasks[written] is task, f"{task.id} came in before those in front of it.")
        self._written[request] += 1
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
        rest = request.tasks[self._written[request] :]
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
        written = [task.id for task in request.tasks[: self._written[request]]]
        if error is None:
            self._note(producer.name, "is told that all is in")
            require(
                len(written) == len(request.tasks),
                f"{producer.name} was told that all is in, but in the store are {written}.",
            )
            self.tally["jobs"] += len(written)
            return
        assert isinstance(error, EnqueueError)
        self._note(producer.name, f"is refused: {type(error).__name__}")
        require(
            error.accepted == written,
            f"{producer.name} was told that {error.accepted} are in, and {written} are.",
        )
        self.tally["jobs"] += len(written)
        match error:
            case QueueFull():
                gives_up_at = producer.gives_up_at
                just = gives_up_at is not None and gives_up_at <= self.now
                # Or all workers wait for room; those that were given up are no reason.
                just = just or request.sender in [w.batch for w in self.workers if w.batch]
            case QueueClosed():
                just = bool(self.closes) and not self._may_enqueue(request)
            case DuplicateJob():
                # As a loop of calls: the first that is not in is one that is there already.
                first = producer.ids[len(written)]
                just = first in error.ids and first in self._known_ids
            case _:
                just = self._failed_in_turn
        require(just, f"{producer.name} was refused without a reason: {error!r}")

    def _may_enqueue(self, request: Enqueue) -> bool:
        """Whether it is part of what a closing queue has to finish."""
        draining = all(close.drain for close in self.closes) and not self._cut_off
        return draining and any(
            worker.request is request and worker.task and worker.task.token == worker.token
            for worker in self.workers
        )

    def _check_refusal(self, request: Request[Any], error: Exception) -> None:
        model = self.model
        self._note("client", f"is refused: {type(error).__name__}")
        match request, error:
            case _, StorageError():
                just = self._failed_in_turn
            case _, QueueClosed():
                just = bool(self.closes)
            case Order(order=Cancel(job_id=job_id)), UnknownJob():
                # Or it came in in the same turn, so that its producer had no answer yet.
                just = job_id not in model.jobs or job_id in self._coming_in
            case Wait(job_id=job_id), UnknownJob():
                just = job_id not in model.jobs
            case Order(order=Retry(job_id=str(job_id))), ValueError():
                just = job_id not in model.to_run("failed") or job_id in self._just_failed
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
            case Order(order=Cancel(job_id=job_id)):
                self._check_cancel(job_id, answer)
            case Join():
                self._note("client", "is told that nothing is left to run")
                left = model.to_run("queued", "processing", "retrying")
                require(not left, f"join returned, and {left} had not run.")
            case Order(order=Retry(job_id=None) | Purge()):
                self._note("client", f"is told: {answer} jobs")
                purged = isinstance(request.order, Purge)
                dead = set((model.having if purged else model.to_run)("failed"))
                dead -= self._just_failed  # in the same turn
                require(not dead, f"All dead letters were dealt with, except {dead}.")
            case Order(order=Retry(job_id=job_id)):
                self._note("client", f"is told that {job_id} starts over")
            case Close():
                self._check_close(request, answer)

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
            require(
                entry.status in ENDED, f"{job_id} was said to have ended; it is {entry.status}."
            )

    def _check_close(self, close: Close, complete: bool) -> None:
        self._note("client", f"is told that the queue is closed{'' if complete else ', cut short'}")
        left = self.model.to_run("queued", "processing", "retrying") if close.drain else []
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
        for producer in self.producers:
            task = producer.request.tasks[self._written[producer.request]]
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
        if written.forgotten:
            parts.append(f"{', '.join(self._id_of[seq] for seq in written.forgotten)} deleted")
        self._note("commit", "; ".join(parts))


# How the history says where jobs went; else it is the name of their status.
_WENT = {
    (None, Status.QUEUED): "in",
    (None, Status.SCHEDULED): "scheduled",
    (None, Status.DROPPED): "turned away",
    (Status.QUEUED, Status.PROCESSING): "claimed",
    (Status.PROCESSING, Status.QUEUED): "given back",
    (Status.PROCESSING, Status.RETRYING): "to be retried",
    (Status.FAILED, Status.QUEUED): "starts over",
    (Status.FAILED, None): "purged",
    (Status.SCHEDULED, Status.QUEUED): "back in line",
    (Status.RETRYING, Status.QUEUED): "back in line",
}


def _in_order(moves: Sequence[Move]) -> list[tuple[Move, Task]]:
    """Each job that moved, in turn: a step makes one move of each sort, and had them mixed."""
    first: dict[str, int] = {}  # move of a step
    steps = []
    for number, move in enumerate(moves):
        for task in move.tasks:
            place: tuple[int, float] = number, 0
            if move.source is None:
                place = first.setdefault("new", number), task.seq
            elif (
                move.source in (Status.SCHEDULED, Status.RETRYING) and move.target is Status.QUEUED
            ):
                place = first.setdefault("due", number), task.key
            steps.append((place, move, task))
    steps.sort(key=lambda step: step[0])
    return [(move, task) for _, move, task in steps]


def _names(tasks: Sequence[Task]) -> str:
    return ", ".join([task.id for task in tasks])


def _say(level: int, text: str, *values: object, error: BaseException | None = None) -> None:
    """Nobody listens."""
