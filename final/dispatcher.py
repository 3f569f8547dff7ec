"""The dispatcher: the one owner of lanes, timers and the store. Messages in, answers out.

One thread runs ``turn`` over and over. A turn

1. takes every message that waits, or sleeps until one comes or a retry falls due;
2. plans: which outcomes to record, which new jobs have room, which jobs idle workers get;
3. commits the plan in one transaction: inserts, outcomes and claims together;
4. and only then acts on it: producers learn that their job is durable, workers get jobs.

The busier the queue, the more messages a turn finds, and the more share one sync:
group commit needs no code of its own. A claim is durable before the handler runs, so
a job that takes the process down is charged for it and ends as a dead letter, instead
of crashing every restart. A commit that fails changes nothing: the plan is undone,
the producers get the error, and outcomes are kept and tried again.

There is no lock here and none to forget: this state belongs to one thread. ``turn`` is
a function of state, messages and time, so it can also be run without any thread.

But: which job is next is decided in ``lanes.py``, who waits for room in ``lines.py``, how
many jobs a worker gets in ``batches.py``; ``workers.py`` runs them.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from final.batches import Batches, too_late
from final.errors import (
    DuplicateJob,
    EnqueueError,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
)
from final.job import Outcome, Status, Task
from final.lanes import Lanes
from final.limits import Gate
from final.lines import Lines
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
from final.stores.base import Changes, DuplicateIds, FailedAttempt, Store
from final.transitions import Events, log_transitions

log = logging.getLogger("final")

# While the disk refuses to be written, a commit is tried again this often.
STORAGE_RETRY_SECONDS = 0.5
# A lock cannot wait for a job that is scheduled for the year 9999.
LONGEST_SLEEP = 86_400.0
# How many rows beyond the history a turn deletes at most.
FORGET_AT_ONCE = 500


@dataclass(slots=True)
class Plan:
    """What one turn intends: committed as ``changes`` and then applied, or undone as a whole."""

    changes: Changes
    number: int  # the last number given out before this turn
    gate: list[tuple[float, float]]  # the state of the rate limits before this turn
    later: list[tuple[float, Task]] = field(default_factory=list)  # failed; due then
    due: list[tuple[float, int, Task]] = field(default_factory=list)  # taken off the timers
    admitted: list[Enqueue] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)


class Workers(Protocol):
    """What the dispatcher asks of the pool. None of it may block."""

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to an idle worker."""

    def tell(self, batch: Batch, task: Task) -> None:
        """Tell the handler of a running job to stop."""

    def obeys(self, task: Task) -> bool:
        """Whether ``tell`` frees the worker in any case."""

    def replace(self, batch: Batch) -> None:
        """Put a fresh worker in the place of the one that has this batch."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The options that the dispatcher goes by; ``JobQueue`` says what they mean."""

    max_retries: int
    backoff: Backoff
    overflow: str
    history: int


class Dispatcher:
    """See the top of this file. ``handles``: whether a job of this kind has a handler."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        gate: Gate,
        batches: Batches,
        recorder: Recorder,
        events: Events,
        *,
        rules: Rules,
        handles: Callable[[str], bool],
        workers: Workers,
    ) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # Everybody who waits for an answer; whoever asks adds and removes itself.
        self.unanswered: set[Question[Any]] = set()
        self.done = False  # no further turn is needed
        self.finished = False  # the thread is through, and the store closed
        self.complete = False  # then: nothing was cut short
        self.last_metrics = Metrics()  # for those who ask after the end
        self._store = store
        self._lanes = lanes
        self._gate = gate
        self._batches = batches  # jobs that are with a worker
        self._recorder = recorder
        self._events = events
        self._rules = rules
        self._handles = handles
        self._pool = workers

        self._number = 0  # the last one given to a job or a place in line
        self._token = 0  # the last fencing token
        self._lines = Lines(lanes)  # producers that wait for room
        # Jobs that are not due: a retry's backoff, a scheduled job's run_at. Soonest first:
        # (due, tie breaker, job). ``_retrying`` counts the retries among them.
        self._later: list[tuple[float, int, Task]] = []
        self._retrying = 0
        self._tie_breaker = itertools.count()
        # Recovered jobs of kinds that nobody handles stay what they are.
        self._unhandled: dict[Task, Status] = {}
        self._suspects: deque[Task] = deque()  # see _release_suspect
        self._suspect: Task | None = None  # the one that is on its way now

        self._outcomes: list[Outcome] = []  # reported, to be recorded
        self._returned: list[Task] = []  # taken back from batches, to be recorded
        self._cancelled: list[Task] = []  # the same, but nobody wants them any more
        self._ended: deque[int] = deque()  # the history: ended jobs by number, oldest first
        self._orders: list[Cancel | Revive | Purge] = []
        self._inspections: list[Inspect] = []
        self._watches: list[Watch] = []  # new ones; then in _watchers, by job id
        self._watchers: dict[str, list[Watch]] = {}
        self._joins: list[Join] = []
        self._closes: list[Close] = []  # not empty: the queue is closing

        self._drain = True  # while closing: run what waits
        self._cut_off = False  # close ran out of time
        self._storage_error: str | None = None  # why the latest commit failed
        self._again = False  # there is work for another turn right away

    # ---- the thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Turn after turn until closed. Whatever happens, nobody is left without an answer."""
        error: EnqueueError = _closed()
        try:
            while not self.done:
                self.turn(self._receive(), time.monotonic(), time.time())
        except BaseException as cause:
            log.critical("The dispatcher failed and stops; open the file again.", exc_info=True)
            error = QueueClosed(f"The queue stopped on an internal error: {cause!r}.")
        finally:
            self._end(error)

    def ask(self, question: Question[Any]) -> None:
        """Put a question into the inbox. Once ``finished``, nobody may be there to answer it."""
        self.unanswered.add(question)
        self.inbox.put(question)

    def _receive(self) -> list[Message]:
        """All messages that wait; sleeps while there are none and nothing is due."""
        messages: list[Message] = []
        if not self._again:
            try:
                messages.append(self.inbox.get(timeout=self._until_due(time.monotonic())))
            except queue.Empty:
                return messages
            # Give way once: those whom the last turn has woken are about to put their next
            # message, and each that comes now shares this turn's sync. (It took a fifth off the
            # turns of one producer, and four tenths off those of eight.)
            time.sleep(0)
        for _ in range(self.inbox.qsize()):
            messages.append(self.inbox.get_nowait())
        return messages

    def _until_due(self, now: float) -> float | None:
        """Seconds until a turn is needed even without a message; None when it is not."""
        if self._storage_error is not None:
            return STORAGE_RETRY_SECONDS if self._busy() else None
        due = min(
            self._later[0][0] if self._later else math.inf,
            self._batches.next_check(),
            self._next_token(now),
        )
        return None if due == math.inf else min(max(0.0, due - now), LONGEST_SLEEP)

    def _next_token(self, now: float) -> float:
        """When a rate limit lets the next waiting job start, if a worker is free for it."""
        if not self._batches.idle or not self._claiming:
            return math.inf
        return self._gate.next_at(self._lanes.held_kinds(), self._lanes.ready() > 0, now)

    def _end(self, error: EnqueueError) -> None:
        """Close the store and answer everybody who still waits."""
        self.finished = True
        self.complete = self.done and not self._cut_off
        try:
            self.last_metrics = self._metrics(time.monotonic())
            self._store.close()
        finally:
            for question in self.unanswered.copy():
                if isinstance(question, Close):
                    question.answer(self.complete)
                else:
                    question.refuse(error)

    # ---- before the first turn -----------------------------------------------------------

    def recover(self, now: float, wall: float) -> None:
        """Take over what an earlier process left in the store.

        Jobs return in the order of their lanes, with their attempts and due times, however
        many there are. What was processing when that process ended keeps the attempt that it
        was charged: out of attempts it is a dead letter, so a job that kills the process
        does so a bounded number of times.
        """
        recovered = self._store.recover()
        self._number, self._token = recovered.last_number, recovered.last_token
        for (priority, status), count in recovered.counts.items():
            self._recorder.found(priority, status, count)
        changes = Changes(self._token, wall)
        self._ended.extend(recovered.ended)
        for task, status, due_at, interrupted in recovered.unfinished:
            task.queued_at = now - max(0.0, wall - task.enqueued_at)
            if status is Status.PROCESSING and task.attempts > self._rules.max_retries:
                error = f"The process ended during attempt {task.attempts}, the last one."
                changes.failed.append(FailedAttempt(Outcome(task, 0.0, error=error), None))
                continue
            if status is Status.PROCESSING:
                changes.interrupted.append(task)
                interrupted += 1
            if not self._handles(task.kind):
                waits = status is not Status.PROCESSING
                self._unhandled[task] = status if waits else Status.QUEUED
            elif status in (Status.SCHEDULED, Status.RETRYING) and due_at is not None:
                task.due_at = due_at if status is Status.SCHEDULED else None
                self._add_later(now + (due_at - wall), task)
            elif interrupted > 1:
                self._suspects.append(task)
            else:
                self._lanes.append(task)
        if changes:
            self._store.commit(changes)
            dead = [failed.task for failed in changes.failed]
            self._recorder.moved(dead, Status.PROCESSING, Status.FAILED)
            self._recorder.moved(changes.interrupted, Status.PROCESSING, Status.QUEUED)
        self._release_suspect()
        self._warn_of_unhandled()
        self._again = True  # what came back does not wait for a message

    def _release_suspect(self) -> None:
        """Let the next suspect into its lane, if none is on its way.

        A job that was interrupted by the end of a process twice in a row may be the cause.
        If all of these ran side by side again, they would be charged together for what one
        of them does, and die together. So they run one at a time, beside the other jobs.
        """
        if self._suspect is None and self._suspects:
            self._suspect = self._suspects.popleft()
            self._lanes.put_back([self._suspect])

    def _warn_of_unhandled(self) -> None:
        for kind, count in Counter(task.kind for task in self._unhandled).items():
            log.warning(
                "%d recovered jobs of kind %r stay queued: open the file with a handler for it.",
                count,
                kind,
            )

    # ---- one turn ------------------------------------------------------------------------

    def turn(self, messages: Iterable[Message], now: float, wall: float) -> None:
        """Take in messages, plan, commit, apply. now: monotonic seconds; wall: Unix seconds."""
        withdrawn: list[Question[Any]] = []
        for message in messages:
            match message:
                case Enqueue():
                    self._line_up(message)
                case Report():
                    self._outcomes += self._batches.hand_in(message.batch)
                case Withdraw():
                    withdrawn.append(message.question)
                case Watch():
                    self._watches.append(message)
                case Inspect():
                    self._inspections.append(message)
                case Cancel() | Revive() | Purge():
                    self._orders.append(message)
                case Join():
                    self._joins.append(message)
                case Close():
                    self._start_closing(message)
        if self._batches.next_check() <= now:
            self._look_at_batches(now)
        self._plan_and_commit(now, wall)
        self._carry_out_orders(now, wall)
        self._answer_questions(now)
        self._finish_if_done()
        # Last, so that a timeout of 0 still gets what this turn had to give.
        for question in withdrawn:
            if not question.answered:
                self._withdraw(question, now, wall)
        self._again = self._storage_error is None and self._can_go_on(now)

    def _plan_and_commit(self, now: float, wall: float) -> None:
        clashes: list[tuple[Enqueue, list[str]]] = []
        while True:
            plan = self._plan(now, wall)
            try:
                if plan.changes:
                    self._store.commit(plan.changes)
            except DuplicateIds as taken:
                found = _clashes(plan, taken.ids)
                self._undo(plan)
                if not found:
                    raise  # or this would go round for ever
                for request, _ in found:
                    self._lines.leave(request)
                clashes += found
            except StorageError as error:
                self._undo(plan)
                plan.admitted += [request for request, _ in clashes]
                self._refuse_unwritten(plan, error)
                return
            else:
                if plan.changes:
                    self._apply(plan, now)
                # Not before: the job that has the id may have come in with this very commit.
                for request, ids in clashes:
                    request.refuse(DuplicateJob(ids, request.accepted()))
                return

    # ---- messages in ---------------------------------------------------------------------

    def _line_up(self, request: Enqueue) -> None:
        if self._closes:
            request.refuse(_closed())
        else:
            self._lines.join(request)

    def _look_at_batches(self, now: float) -> None:
        self._stop_late_jobs(now)
        outcomes, unstarted = self._batches.look_after(now)
        self._outcomes += outcomes
        self._take_back(unstarted)
        self._batches.checked()

    def _stop_late_jobs(self, now: float) -> None:
        """End attempts whose time is up; what they still send is behind the fence."""
        for batch, task, timeout in self._batches.out_of_time(now):
            obeys = self._pool.obeys(task)
            if not obeys and not batch.seize():
                continue  # it ended at this very moment: its report is on the way
            self._outcomes.append(Outcome(task, now - batch.started, error=too_late(timeout)))
            task.token += 1
            self._pool.tell(batch, task)
            if not obeys:
                self._pool.replace(batch)
                outcomes, unstarted = self._batches.abandon(batch)
                self._outcomes += outcomes
                self._take_back(unstarted)

    def _take_back(self, tasks: list[Task]) -> None:
        """Jobs that were claimed and have not started: not charged, and first in their lanes."""
        for task in tasks:
            task.attempts -= 1
        self._returned += [task for task in tasks if not task.cancelled]
        self._cancelled += [task for task in tasks if task.cancelled]
        self._lanes.put_back(task for task in tasks if not task.cancelled)

    def _start_closing(self, close: Close) -> None:
        """No more jobs come in; without drain none starts any more, either."""
        self._closes.append(close)
        self._drain = self._drain and close.drain
        for request in self._lines.dissolve():
            request.refuse(_closed(request.accepted()))
        if not self._drain:
            self._take_back(self._batches.take_back_unstarted())

    # ---- the plan ------------------------------------------------------------------------

    def _plan(self, now: float, wall: float) -> Plan:
        plan = Plan(Changes(self._token + 1, wall), self._number, self._gate.state())
        self._lanes.begin()
        self._plan_outcomes(plan, now)
        plan.changes.returned = list(self._returned)
        plan.changes.cancelled += self._cancelled
        plan.changes.forgotten = self._beyond_history()
        self._plan_admissions(plan, now)
        self._plan_due_jobs(plan, now)
        if self._claiming:
            self._plan_claims(plan, now)
        return plan

    def _plan_outcomes(self, plan: Plan, now: float) -> None:
        changes = plan.changes
        changes.completed = [outcome for outcome in self._outcomes if outcome.error is None]
        for outcome in self._outcomes:
            if outcome.error is None:
                continue
            task = outcome.task
            if task.cancelled:
                changes.cancelled.append(task)
            elif task.attempts <= self._rules.max_retries:
                delay = self._rules.backoff.delay(task.attempts)
                changes.failed.append(FailedAttempt(outcome, changes.now + delay))
                plan.later.append((now + delay, task))
            else:
                changes.failed.append(FailedAttempt(outcome, None))

    def _beyond_history(self) -> list[int]:
        """The oldest ended jobs, a few at a time, so that no turn stalls over deleting them."""
        excess = min(len(self._ended) - self._rules.history, FORGET_AT_ONCE)
        return [self._ended[n] for n in range(excess)]

    def _plan_due_jobs(self, plan: Plan, now: float) -> None:
        """Due jobs go to the back of their lanes, also of full ones: they were accepted before."""
        while self._later and self._later[0][0] <= now:
            entry = heapq.heappop(self._later)
            plan.due.append(entry)
            entry[2].place = self._next_number()
            plan.changes.requeued.append(entry[2])

    def _plan_admissions(self, plan: Plan, now: float) -> None:
        """Accept what has room of what the producers wait to bring in."""
        inserted = plan.changes.inserted

        def number(task: Task) -> None:
            task.seq = task.place = self._next_number()
            task.enqueued_at, task.queued_at = plan.changes.now, now

        def accept(task: Task) -> None:
            number(task)
            inserted.append(task)
            if task.due_at is None:
                self._lanes.append(task)

        def turn_away(task: Task) -> None:
            number(task)
            plan.changes.turned_away.append(task)

        dropping = self._rules.overflow == "drop-newest"
        plan.admitted = self._lines.admit(accept, turn_away if dropping else None)

    def _plan_claims(self, plan: Plan, now: float) -> None:
        """Jobs for idle workers, new ones included: a job may be written and claimed at once."""
        token = plan.changes.token
        plan.batches = self._batches.plan(self._lanes, token, now)
        for batch in plan.batches:
            plan.changes.claimed += batch.claimed
            for task in batch.claimed:
                task.attempts += 1
                task.token = token

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    # ---- after the commit ----------------------------------------------------------------

    def _apply(self, plan: Plan, now: float) -> None:
        """The plan is durable: make it so in memory, and tell everybody."""
        changes = plan.changes
        self._token = changes.token
        self._outcomes, self._returned, self._cancelled = [], [], []
        if self._storage_error is not None:
            log.warning("The storage works again; nothing that was accepted is lost.")
            self._storage_error = None
        self._count(plan, now)

        for due, task in plan.later:
            self._add_later(due, task)
        for task in changes.inserted:
            if task.due_at is not None:
                self._add_later(now + (task.due_at - changes.now), task)
        for _, _, task in plan.due:
            self._retrying -= task.due_at is None
            task.due_at = None
            task.queued_at = now
            self._lanes.append(task)
        if self._suspect is not None and self._suspect in _attempted(changes):
            self._suspect = None
            self._release_suspect()

        for request in plan.admitted:
            request.durable = request.planned
            if request.durable == len(request.tasks):
                request.answer(request.accepted())
        for _ in changes.forgotten:
            self._ended.popleft()
        self._announce(changes, plan.batches)
        for batch in plan.batches:
            self._batches.hand_out(batch)
            self._pool.deliver(batch)
        self._recorder.busy(self._batches.workers - self._batches.idle, now)

    def _announce(self, changes: Changes, batches: list[Batch]) -> None:
        """Remember ended jobs for the history; tell those who wait, the log, and subscribers."""
        gone = changes.cancelled + changes.dropped + changes.turned_away
        ended = [outcome.task for outcome in changes.completed] + gone
        self._ended.extend([task.seq for task in ended])
        if self._watchers:
            dead = [failed.task for failed in changes.failed if failed.due_at is None]
            for task in ended + dead:
                for watch in self._watchers.pop(task.id, ()):
                    self._answer(watch)
        log_transitions(changes, batches)
        self._events.publish(changes, batches)

    def _count(self, plan: Plan, now: float) -> None:
        """Bring the metrics up to date with what was committed."""
        changes, recorder = plan.changes, self._recorder
        recorder.ended(changes.completed, Status.COMPLETED)
        scheduled = [task for task in changes.inserted if task.due_at is not None]
        recorder.accepted(changes.inserted, Status.QUEUED)
        recorder.moved(scheduled, Status.QUEUED, Status.SCHEDULED)
        recorder.accepted(changes.turned_away, Status.DROPPED)
        recorder.started(changes.claimed, now)
        if changes.failed:
            dead = [failed.outcome for failed in changes.failed if failed.due_at is None]
            recorder.ended(dead, Status.FAILED)
            again = [failed.outcome for failed in changes.failed if failed.due_at is not None]
            recorder.ended(again, Status.RETRYING)
        recorder.moved(changes.returned, Status.PROCESSING, Status.QUEUED)
        recorder.moved(changes.cancelled, Status.PROCESSING, Status.CANCELLED)
        for _, _, task in plan.due:
            source = Status.RETRYING if task.due_at is None else Status.SCHEDULED
            recorder.moved([task], source, Status.QUEUED)

    def _add_later(self, due: float, task: Task) -> None:
        heapq.heappush(self._later, (due, next(self._tie_breaker), task))
        self._retrying += task.due_at is None

    # ---- when a commit fails -------------------------------------------------------------

    def _undo(self, plan: Plan) -> None:
        """Put everything back as it was before ``_plan``; outcomes and returns are still there."""
        for batch in plan.batches:
            for task in batch.claimed:
                task.attempts -= 1
        self._lanes.undo(task for task in plan.changes.inserted if task.due_at is None)
        self._gate.restore(plan.gate)
        self._lines.step_back(plan.admitted)
        for entry in plan.due:
            heapq.heappush(self._later, entry)
        self._number = plan.number

    def _refuse_unwritten(self, plan: Plan, error: StorageError) -> None:
        """Tell those whose jobs were not written; keep outcomes and claims for another try."""
        for request in plan.admitted:
            self._lines.leave(request)
            request.refuse(StorageError(str(error), request.accepted()))
        if self._storage_error is None:
            log.error("%s Jobs are refused until then; nothing accepted is lost.", error)
        self._storage_error = str(error)

    # ---- orders: cancel, revive, purge, drop the oldest ------------------------------------

    # These change jobs that wait. They are rare, so each is a transaction of its own, done
    # after the plan of the turn, which then never has to undo them.

    def _carry_out_orders(self, now: float, wall: float) -> None:
        orders, self._orders = self._orders, []
        if self._returned or self._cancelled:  # the plan failed: the lanes are ahead of the store
            for order in orders:
                order.refuse(StorageError(str(self._storage_error)))
            return
        for order in orders:
            changes = Changes(self._token, wall)
            try:
                match order:
                    case Cancel():
                        order.answer(self._cancel(order.job_id, changes))
                    case Revive():
                        order.answer(self._revive(order, changes, now))
                    case Purge():
                        order.answer(self._purge(order.kind, changes))
            except (StorageError, UnknownJob, QueueClosed, ValueError) as error:
                order.refuse(error)
        if self._rules.overflow == "drop-oldest":
            self._make_room(wall)

    def _cancel(self, job_id: str, changes: Changes) -> bool:
        """A waiting job never runs; a running one is told, and is not tried again."""
        for task, status in self._waiting():
            if task.id == job_id:
                changes.cancelled.append(task)
                self._commit_order(changes)
                self._take_out(task)
                self._recorder.moved([task], status, Status.CANCELLED)
                return True
        for batch in self._batches.in_flight:
            for task in batch.claimed:
                if task.id == job_id and task.token == batch.token:
                    task.cancelled = True
                    self._pool.tell(batch, task)
                    return True
        for outcome in self._outcomes:  # it has run, but that could not be written yet
            if outcome.task.id == job_id:
                outcome.task.cancelled = True
                return True
        if self._store.get(job_id) is None:
            raise UnknownJob(job_id)
        return False

    def _revive(self, order: Revive, changes: Changes, now: float) -> int:
        """Dead letters start over, at the end of their lanes."""
        if self._closes:
            raise _closed()
        letters = self._store.dead_letters(order.job_id, order.kind)
        if order.job_id is not None:
            if not letters:
                raise ValueError(f"Job {order.job_id} is not a dead letter (any more).")
            if not self._handles(letters[0].kind):
                raise ValueError(f"No handler for kind {letters[0].kind!r} of job {order.job_id}.")
        changes.revived = [task for task in letters if self._handles(task.kind)]
        for task in changes.revived:
            task.attempts = 0
            task.place = self._next_number()
        self._commit_order(changes)
        for task in changes.revived:
            task.queued_at = now
            self._lanes.append(task)
        self._recorder.moved(changes.revived, Status.FAILED, Status.QUEUED)
        return len(changes.revived)

    def _purge(self, kind: str | None, changes: Changes) -> int:
        letters = self._store.dead_letters(None, kind)
        changes.forgotten = [task.seq for task in letters]
        self._commit_order(changes)
        self._recorder.purged(letters)
        return len(letters)

    def _make_room(self, wall: float) -> None:
        """Drop the oldest jobs of full lanes for those that want to come in."""
        changes = Changes(self._token, wall)
        try:
            for request in self._lines.without_room():
                coming = request.tasks[request.planned :]
                # Known ids are refused here already: no job may be dropped for their sake.
                if taken := self._store.taken([task.id for task in coming]):
                    self._lines.leave(request)
                    clashing = [task.id for task in coming if task.id in taken]
                    request.refuse(DuplicateJob(clashing, request.accepted()))
                    continue
                lane = request.next_task().priority
                wanted = sum(task.priority is lane and task.due_at is None for task in coming)
                changes.dropped += self._lanes.oldest(lane, wanted)
            self._commit_order(changes)
        except StorageError as error:
            for request in self._lines.dissolve():
                request.refuse(StorageError(str(error), request.accepted()))
            return
        for task in changes.dropped:
            self._take_out(task)
        self._recorder.moved(changes.dropped, Status.QUEUED, Status.DROPPED)

    def _commit_order(self, changes: Changes) -> None:
        if changes:
            self._store.commit(changes)
            self._announce(changes, [])

    def _waiting(self) -> Iterator[tuple[Task, Status]]:
        """Every job that waits, and what its status is."""
        for task in itertools.chain(self._lanes, self._suspects):
            yield task, Status.QUEUED
        yield from self._unhandled.items()
        for _, _, task in self._later:
            yield task, Status.RETRYING if task.due_at is None else Status.SCHEDULED

    def _take_out(self, task: Task) -> None:
        """Forget a job that waits, wherever it does."""
        if task in self._unhandled:
            del self._unhandled[task]
            return
        if task in self._suspects:
            self._suspects.remove(task)
            return
        for entry in self._later:
            if entry[2] is task:
                self._later.remove(entry)
                heapq.heapify(self._later)
                self._retrying -= task.due_at is None
                return
        self._lanes.remove(task)
        if task is self._suspect:
            self._suspect = None
            self._release_suspect()

    # ---- answers out ---------------------------------------------------------------------

    def _answer_questions(self, now: float) -> None:
        for inspect in self._inspections:
            inspect.answer(self._metrics(now))
        self._inspections = []
        if self._joins and not self._busy():
            for join in self._joins:
                join.answer(None)
            self._joins = []
        watches, self._watches = self._watches, []
        for watch in watches:
            self._answer(watch)
        self._refuse_deadlock()

    def _answer(self, watch: Watch) -> None:
        """Hand over the record of a job that has ended; else wait for its end.

        Now, and not when the waiting thread looks: by then a short history may have let go of it.
        """
        try:
            record = self._store.get(watch.job_id)
        except StorageError as error:
            watch.refuse(error)
            return
        if record is None:
            watch.refuse(UnknownJob(watch.job_id))
        elif record.status.ended:
            watch.answer(record)
        else:
            self._watchers.setdefault(watch.job_id, []).append(watch)

    def _refuse_deadlock(self) -> None:
        """If all workers wait for room that only workers can make, turn the last one away."""
        if self._batches.idle:
            return
        waiting = [request for request in self._lines if request.by_worker]
        if len(waiting) == self._batches.workers:
            request = waiting[-1]
            self._lines.leave(request)
            request.refuse(
                QueueFull(
                    f"All {self._batches.workers} workers wait to enqueue into full lanes, so "
                    "no room would ever come: raise capacity, or enqueue less inside handlers.",
                    request.accepted(),
                )
            )

    def _withdraw(self, question: Question[Any], now: float, wall: float) -> None:
        """The sender has waited as long as it wanted."""
        match question:
            case Enqueue():
                self._lines.leave(question)
                lane = question.tasks[question.durable].priority
                message = (
                    f"The {lane} lane had no room in time (capacity {self._lanes.capacity}): "
                    "enqueue again later, or raise capacity or workers."
                )
                question.refuse(QueueFull(message, question.accepted()))
            case Watch():
                watches = self._watchers[question.job_id]
                watches.remove(question)
                if not watches:
                    del self._watchers[question.job_id]
                question.refuse(TimeoutError(f"Job {question.job_id} has not ended in time."))
            case Join():
                self._joins.remove(question)
                question.refuse(TimeoutError("There were still unfinished jobs in the queue."))
            case Close() if not self.done:
                self._end_now(now, wall)

    def _finish_if_done(self) -> None:
        busy = self._busy() if self._drain else self._unrecorded()
        self.done = bool(self._closes) and not busy

    def _end_now(self, now: float, wall: float) -> None:
        """Close ran out of time: what runs goes back to the queue uncharged, for the next start."""
        self._cut_off = True
        self._drain = False
        waiting = len(self._lanes) + len(self._later) + len(self._suspects)
        outcomes, interrupted = self._batches.give_up()
        self._outcomes += outcomes
        self._take_back(interrupted)
        self._plan_and_commit(now, wall)
        log.warning(
            "Closed with %d jobs interrupted and %d waiting: they run at the next start.",
            len(interrupted),
            waiting,
        )
        for batch in self._batches.in_flight:
            for task in batch.claimed:
                task.cancelled = True  # so that one which has not begun does not begin any more
                self._pool.tell(batch, task)
        self.done = True

    # ---- state -----------------------------------------------------------------------------

    @property
    def _claiming(self) -> bool:
        """Whether jobs may still start."""
        return self._drain or not self._closes

    def _busy(self) -> bool:
        """Whether anything is queued, processing or retrying (of a kind that is handled)."""
        return bool(len(self._lanes) or self._retrying or self._suspects or self._unrecorded())

    def _unrecorded(self) -> bool:
        """Whether anything is with a worker, or has come back and is not written yet."""
        return bool(self._batches.in_flight or self._outcomes or self._returned or self._cancelled)

    def _can_go_on(self, now: float) -> bool:
        """Whether another turn could do something without waiting for a message."""
        if self._lines.can_admit():
            return True
        if self._rules.overflow == "drop-oldest" and len(self._lines):
            return True
        if len(self._ended) > self._rules.history:
            return True
        if not (self._claiming and self._batches.idle and len(self._lanes)):
            return False
        return (self._lanes.ready() > 0 and self._gate.is_open(now)) or self._next_token(now) <= now

    def _metrics(self, now: float) -> Metrics:
        oldest = max((now - task.queued_at for task in self._lanes.heads()), default=0.0)
        return self._recorder.snapshot(now, oldest, self._storage_error)


def _clashes(plan: Plan, taken: set[str]) -> list[tuple[Enqueue, list[str]]]:
    """The requests of a plan with ids that are in the store, or twice in the plan."""
    clashes = []
    for request in plan.admitted:
        ids = [task.id for task in request.tasks[request.durable : request.planned]]
        clashing = [job_id for job_id in ids if job_id in taken]
        if clashing:
            clashes.append((request, clashing))
        else:
            taken.update(ids)
    return clashes


def _attempted(changes: Changes) -> list[Task]:
    """The jobs of which an attempt has ended."""
    ended = [o.task for o in changes.completed] + [failed.task for failed in changes.failed]
    return ended + changes.cancelled


def _closed(accepted: list[str] | None = None) -> QueueClosed:
    return QueueClosed("The queue is closed and accepts no more jobs.", accepted or ())
