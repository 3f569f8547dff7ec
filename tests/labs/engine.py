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
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from final.batches import OVERDUE_SECONDS, Batches
from final.dispatcher import Dispatcher, Rules
from final.errors import (
    DuplicateJob,
    EnqueueError,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
)
from final.job import Outcome, Priority, Status, Task
from final.lanes import Lanes
from final.limits import Gate, TokenBucket
from final.messages import (
    Batch,
    Cancel,
    Close,
    Enqueue,
    Inspect,
    Join,
    Message,
    Purge,
    Question,
    Report,
    Revive,
    Watch,
    Withdraw,
)
from final.metrics import Metrics, Recorder
from final.retry import Backoff
from final.stores import SqliteStore
from final.stores.base import Changes, Store
from final.transitions import Events
from tests.labs.memory_store import MemoryStore
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

    limits: token buckets of kinds, as in the model; of the kind "", of the queue.
    """

    workers: int = 2
    capacity: int = 2
    max_retries: int = 1
    fairness: int | None = 2
    overflow: str = "block"
    history: int = 1_000
    timeout: float | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def gate(self, now: float) -> Gate:
        buckets = {kind: TokenBucket(*limit) for kind, limit in self.limits.items()}
        return Gate(buckets.pop("", buckets), now)


BACKOFF = Backoff(base=1, maximum=4, jitter=0)


class Disk(Protocol):
    """What outlives the process."""

    def open(self) -> Store: ...

    def crash(self) -> None:
        """The process that had it open has ended without closing it."""


class MemoryDisk:
    """Dictionaries: fast."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def open(self) -> Store:
        return self._store

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

    def open(self) -> Store:
        self._store = SqliteStore(self._path, "normal")
        return self._store

    def crash(self) -> None:
        left_behind = self._path
        self._crashes += 1
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{left_behind}{suffix}", f"{self._path}{suffix}")
        self._store.close()


class WatchedStore:
    """A store that tells the engine of its commits, which fail or end the process if it says so."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self.lasting = store.lasting
        self.recover = store.recover
        self.taken = store.taken
        self.dead_letters = store.dead_letters
        self.get = store.get
        self.jobs = store.jobs
        self.attempts = store.attempts
        self.close = store.close

    def commit(self, changes: Changes) -> None:
        engine = self._engine
        engine.before_commit()
        self._store.commit(changes)
        engine.after_commit(changes)

    def probe(self) -> None:
        self._engine.before_commit()
        self._store.probe()
        self._engine.after_probe()


class Worker:
    """A thread of the pool. task: what it is running, with the token of that attempt."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batch: Batch | None = None
        self.task: Task | None = None
        self.token = 0
        self.question: Enqueue | None = None  # its handler enqueues, and waits for the answer


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
        self.crash_point = ""  # "before" or "after": the next commit ends the process
        self._another_turn = False  # the latest one has moved something, so more may follow
        self._id_of: dict[int, str] = {}  # jobs by their number
        self._known_ids: set[str] = set()
        self._coming_in: set[str] = set()  # the new jobs of the commit that is looked at
        self.open()

    # ---- the process -------------------------------------------------------------------------

    def open(self) -> None:
        """A new process opens what the last one left; it may end while it does."""
        while True:
            self._forget_the_process()
            self.handled = handled = self.next_handled
            options, gate = self.options, self.options.gate(self.now)
            self.store = WatchedStore(self._disk.open(), self)
            self.dispatcher = Dispatcher(
                self.store,
                Lanes(options.capacity, options.fairness),
                gate,
                Batches(options.workers, gate, options.timeout),
                Recorder(options.workers, self.now),
                Events(),
                rules=Rules(options.max_retries, BACKOFF, options.overflow, options.history),
                handles=handled.__contains__,
                workers=self,
            )
            self.model.reopen(self.now, self.wall, handled)
            try:
                self.dispatcher.recover(self.now, self.wall)
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
            self._another_turn = True
            return

    def _forget_the_process(self) -> None:
        """All that lives in its memory."""
        self.workers = [Worker(name) for name in "ABCDEFGH"[: self.options.workers]]
        self.ghosts: list[Worker] = []  # were given up, and go on all the same
        self.inbox: list[Message] = []
        self.producers: list[Producer] = []
        self.closes: list[Close] = []
        self.latest_failed = False  # the latest commit, that is
        self._failed_in_turn = False
        self._cut_off = False  # close was not waited for
        self._looked_at = self.now  # when the latest turn was
        self._questions: list[Question[Any]] = []
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
            Task(job_id, "null", Priority(lane), kind, due_at=due_at, by_clock=n % 2 == 1)
            for n, (job_id, lane) in enumerate(jobs)
        ]
        request = Enqueue(list(tasks), sender=worker.batch if worker else None)
        request.cut_at_a_repeated_id()
        if worker is None:
            self._producer_numbers += 1
            who = f"producer {self._producer_numbers}"
        else:
            worker.question, who = request, f"worker {worker.name}"
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
        self._ask(Cancel(job_id), "client", f"cancels {job_id}")

    def revive(self, job_id: str | None = None) -> None:
        self._ask(Revive(job_id), "client", f"retries {job_id or 'all dead letters'}")

    def purge(self) -> None:
        self._ask(Purge(None), "client", "purges the dead letters")

    def watch(self, job_id: str) -> None:
        self._ask(Watch(job_id), "client", f"waits for {job_id}")

    def join(self) -> None:
        self._ask(Join(), "client", "joins")

    def inspect(self) -> None:
        self._ask(Inspect(), "client", "asks for the metrics")

    def close(self, drain: bool) -> None:
        close = Close(drain)
        self.closes.append(close)
        self._ask(close, "client", "closes" if drain else "closes without draining")

    def give_up_closing(self) -> None:
        """Close has waited for as long as it wanted."""
        self._note("client", "has waited long enough for the end")
        self._cut_off = True
        self.inbox.append(Withdraw(self.closes[-1]))

    def give_up_asking(self, question_number: int) -> None:
        """Whoever waits for a job or for all of them, and has an own time-out."""
        waiting = [q for q in self._questions if isinstance(q, (Watch, Join))]
        if waiting:
            question = waiting[question_number % len(waiting)]
            self._note("client", f"gives up its {type(question).__name__.lower()}")
            self.inbox.append(Withdraw(question))

    def _ask(self, question: Question[Any], who: str, what: str) -> None:
        self._note(who, what)
        self._questions.append(question)
        self.dispatcher.unanswered.add(question)
        self.inbox.append(question)

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
        return [w for w in workers if w.batch and not (w.question and not w.question.answered)]

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
        while worker.batch and not (worker.question and not worker.question.answered):
            self.go_on(worker)

    def _start(self, worker: Worker, batch: Batch, task: Task) -> None:
        batch.started, batch.attempt, batch.running = self.now, task.attempts, task
        worker.task, worker.token = task, batch.token
        if task.cancelled:
            self._end_attempt(worker, batch, "is passed over, since it was cancelled:")
            return
        self._note(f"worker {worker.name}", f"starts {task.id}")
        self.model.start(task.id, batch.token)
        entry = self.model.jobs[task.id]
        require(
            entry.alone or self._looked_at < entry.claimed + OVERDUE_SECONDS,
            f"{task.id} starts {self.now - entry.claimed:g} s after it was claimed: what waits "
            "behind a slow job has to go back, for a more urgent one may have come.",
        )

    def _end_attempt(self, worker: Worker, batch: Batch, error: str | None) -> None:
        task, question = worker.task, worker.question
        worker.task, worker.question = None, None
        assert task is not None
        self._note(f"worker {worker.name}", f"{error or 'completes'} {task.id}")
        turned_away = question is not None and isinstance(question._error, QueueClosed)
        closed = error is not None and turned_away
        outcome = Outcome(task, self.now - batch.started, error=error, closed=closed)
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
        self.model.clock_was_set(seconds)
        self.tally["clock jumps"] += 1

    def fail_commits(self, count: int) -> None:
        self._note("disk", f"is full: {count} commits will fail")
        self.failing_commits = count

    def heal(self) -> None:
        """From here on nothing fails."""
        self._note("disk", "works, from here on")
        self.failing_commits, self.crash_point = 0, ""

    def crash_at_commit(self, point: str) -> None:
        self._note("process", f"will end right {point} its next commit")
        self.crash_point = point

    def before_commit(self) -> None:
        if self.failing_commits:
            self.failing_commits -= 1
            self.latest_failed = self._failed_in_turn = True
            self.tally["failed commits"] += 1
            self._note("disk", "a commit fails")
            raise StorageError("The disk is full.")
        if self.crash_point == "before":
            raise self._ended()

    def after_commit(self, changes: Changes) -> None:
        self.latest_failed = False
        self.tally["commits"] += 1
        self._another_turn = True
        self._watch(changes)
        if self.crash_point == "after":
            raise self._ended()

    def after_probe(self) -> None:
        """It was written, and nothing has changed."""
        self.latest_failed = False
        self._another_turn = True

    def _ended(self) -> Crash:
        self.crash_point = ""
        return Crash()

    # ---- turns -------------------------------------------------------------------------------

    def turn(self) -> list[Producer]:
        """One turn with all messages that wait. Returns who had no answer, if it was the last."""
        messages, self.inbox = self.inbox, []
        self._another_turn = self._failed_in_turn = False
        self.tally["turns"] += 1
        self._looked_at = self.now
        try:
            self.dispatcher.turn(messages, self.now, self.wall)
        except Crash:
            return self.crash()
        self._check_answers()
        if self.dispatcher.done:
            self._end()
        return []

    def settle(self) -> list[Producer]:
        """Turns until nothing more is written; then nothing may be left that could be done."""
        for _ in range(MOST_TURNS):
            if unanswered := self.turn():
                return unanswered
            if not self._another_turn and not self.inbox:
                break
        else:
            require(False, f"The dispatcher was still writing after {MOST_TURNS} turns.")
        if not self.latest_failed:
            self._check_nothing_is_left_undone()
        return []

    def _end(self) -> None:
        """The queue is closed: everybody gets an answer. Then it is opened again."""
        self.dispatcher.run()  # nothing but the end
        self._check_answers()
        require(not self._questions, "The queue has ended, and somebody still waits for an answer.")
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

    def _watch(self, changes: Changes) -> None:
        """Tell the model what was committed, in the order in which it came about."""
        model, now = self.model, self.now
        self._check_answers()  # those that were given before this commit
        new = sorted(changes.inserted + changes.turned_away, key=lambda task: task.seq)
        self._coming_in = {task.id for task in new}
        for task in new:
            self._id_of[task.seq] = task.id
            self._known_ids.add(task.id)
        self._note_commit(changes)
        for outcome in changes.completed:
            require(outcome in self._attempt_of, f"{outcome.task.id} completed and never ran.")
            model.complete(outcome.task.id, self._attempt_of[outcome])
        for outcome, due_at in changes.failed:
            job_id, token = outcome.task.id, self._attempt_of.get(outcome)
            if str(outcome.error).startswith("The process ended"):
                model.fail_by_crashes(job_id)
            elif due_at is None:
                model.fail(job_id, token)
            else:
                delay = due_at - changes.now
                self._check_delay(job_id, delay)
                model.retry_later(job_id, token, now + delay, due_at)
        for task in changes.interrupted:
            model.interrupt(task.id)
            charged = model.jobs[task.id].attempts
            require(
                task.attempts == charged,
                f"After the crash {task.id} has {task.attempts} attempts behind it, not {charged}.",
            )
        for task in changes.returned:
            model.give_back(task.id)
        for task in changes.cancelling:
            model.tell(task.id)
        for task in changes.cancelled:
            model.cancel(task.id)
        for task in new:
            self._check_line(task)
            if task in changes.turned_away:
                model.turn_away(task.id, task.priority, task.kind)
            elif task.due_at is None:
                model.accept(task.id, task.priority, task.kind)
            else:
                due = now + (task.due_at - changes.now)
                model.schedule(task.id, task.priority, task.kind, due, task.due_at, task.by_clock)
        for task in changes.claimed:
            model.claim(task.id, changes.token, task.alone, now)
        for task in sorted(changes.requeued + changes.revived, key=lambda task: task.place):
            if task in changes.revived:
                model.revive(task.id)
            else:
                model.come_back(task.id, now)
        for task in changes.dropped:
            model.drop(task.id)
        for seq in changes.forgotten:
            model.prune(self._id_of[seq])

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
        for question in [q for q in self._questions if q.answered]:
            self._questions.remove(question)
            self.dispatcher.unanswered.discard(question)
            try:
                answer, error = question.result(), None
            except Exception as raised:
                answer, error = None, raised
            if isinstance(question, Enqueue):
                self._check_producer(question, error)
            elif error is not None:
                self._check_refusal(question, error)
            else:
                self._check_answer(question, answer)

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
        self._another_turn = True  # it has made way for the next one
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
            worker.question is request and worker.task and worker.task.token == worker.token
            for worker in self.workers
        )

    def _check_refusal(self, question: Question[Any], error: Exception) -> None:
        model = self.model
        self._note("client", f"is refused: {type(error).__name__}")
        match question, error:
            case _, StorageError():
                just = self._failed_in_turn
            case _, QueueClosed():
                just = bool(self.closes)
            case ((Cancel() | Watch()), UnknownJob()):
                just = question.job_id not in model.jobs
            case Revive(), ValueError():
                just = question.job_id not in model.to_run("failed")
            case ((Watch() | Join()), TimeoutError()):
                just = True  # it was withdrawn
            case _:
                just = False
        require(just, f"{type(question).__name__} was refused without a reason: {error!r}")

    def _check_answer(self, question: Question[Any], answer: Any) -> None:
        model = self.model
        match question:
            case Inspect():
                self._check_metrics(answer)
            case Watch():
                self._note("client", f"is told that {question.job_id} is {answer.status}")
                entry = model.jobs[question.job_id]
                require(
                    answer.status.ended and answer.status == entry.status,
                    f"{question.job_id} was said to be {answer.status}; it is {entry.status}.",
                )
            case Cancel():
                self._check_cancel(question.job_id, answer)
            case Join():
                self._note("client", "is told that nothing is left to run")
                left = model.to_run("queued", "processing", "retrying")
                require(not left, f"join returned, and {left} had not run.")
            case Revive(job_id=None) | Purge():
                self._note("client", f"is told: {answer} jobs")
                left = (model.having if isinstance(question, Purge) else model.to_run)("failed")
                require(not left, f"All dead letters were dealt with, except {left}.")
            case Revive():
                self._note("client", f"is told that {question.job_id} starts over")
            case Close():
                self._check_close(question, answer)

    def _check_cancel(self, job_id: str, cancelled: bool) -> None:
        entry = self.model.jobs[job_id]
        self._note(
            "client", f"is told that {job_id} {'will not run' if cancelled else 'has ended'}"
        )
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
        waits = [w for w in self.workers if w.question and not w.question.answered]
        require(len(waits) < len(self.workers), "All workers wait for room that they must make.")
        if self.idle_workers() and all(close.drain for close in self.closes):
            waiting = model.could_start(self.now)
            require(not waiting, f"A worker is idle while {waiting} could run.")

    # ---- the history -------------------------------------------------------------------------

    def _note(self, who: str, what: str) -> None:
        self.history.append(Happened(self.now, who, what))

    def _note_commit(self, changes: Changes) -> None:
        lists = {
            "completed": [outcome.task for outcome in changes.completed],
            "to be retried": [f.task for f in changes.failed if f.due_at is not None],
            "failed": [f.task for f in changes.failed if f.due_at is None],
            "interrupted": changes.interrupted,
            "given back": changes.returned,
            "back in line": changes.requeued,
            "revived": changes.revived,
            "in": changes.inserted,
            "turned away": changes.turned_away,
            "claimed": changes.claimed,
            "told to stop": changes.cancelling,
            "cancelled": changes.cancelled,
            "dropped": changes.dropped,
        }
        parts = [f"{_names(tasks)} {what}" for what, tasks in lists.items() if tasks]
        if changes.forgotten:
            parts.append(f"{', '.join(self._id_of[seq] for seq in changes.forgotten)} deleted")
        self._note("commit", "; ".join(parts))


def _names(tasks: list[Task]) -> str:
    return ", ".join([task.id for task in tasks])
