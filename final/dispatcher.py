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
many jobs a worker gets in ``batches.py``; ``workers/`` runs them. Of the jobs that wait,
``waiting.py`` knows where, and ``orders.py`` what else may become of them. What comes back
from the workers is kept in ``returns.py``, who asks about jobs in ``questions.py``.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from final.batches import Batches
from final.errors import QueueClosed, StorageError
from final.history import History
from final.job import Outcome, Task
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
    Order,
    Purge,
    Question,
    Report,
    Revive,
    SetFairness,
    Watch,
    Withdraw,
    Workers,
)
from final.metrics import Metrics, Recorder
from final.orders import Orders
from final.plan import Plan
from final.questions import Questions
from final.recovery import recover
from final.retry import Backoff, ask
from final.returns import Returns
from final.stores.base import Changes, DuplicateIds, FailedAttempt, Store
from final.transitions import Events
from final.waiting import Waiting

__all__ = ["Dispatcher", "Plan", "Rules", "Workers"]

# While the disk refuses to be written, a commit is tried again this often.
STORAGE_RETRY_SECONDS = 0.5
# A lock cannot wait for a job that is scheduled for the year 9999.
LONGEST_SLEEP = 86_400.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The options that the dispatcher goes by; ``JobQueue`` says what they mean."""

    max_retries: int
    backoff: Backoff
    overflow: str
    history: int

    def delay(self, outcome: Outcome, attempt: int, say: Callable[..., None]) -> float | None:
        """Seconds until a failed job is tried again; None for never. say: see ``retry.ask``."""
        if outcome.permanent or attempt > self.max_retries:
            return None
        return ask(self.backoff, attempt, say)


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
        self.finished = False  # the thread is through
        self.failed = False  # then: it ended by an internal error
        self.why_closed = "The queue is closed."
        self.orderly = False  # then: no handler was left behind
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

        self._token = 0  # the last fencing token
        self._waiting = Waiting(lanes)
        self._lines = Lines(lanes)  # producers that wait for room
        self._returns = Returns(batches, self._waiting, workers)
        self._orders = Orders(
            store,
            self._waiting,
            self._lines,
            batches,
            self._returns,
            recorder,
            handles=handles,
            workers=workers,
            commit=self._commit_order,
        )
        self._new_orders: list[Order] = []  # carried out after the plan
        self._questions = Questions(store, batches.in_flight)
        self._history = History(rules.history)

        self._closes: list[Close] = []  # not empty: the queue is closing
        self._drain = True  # while closing: run what waits
        self._cut_off = False  # close ran out of time
        self._all_ran = False  # at the end: nothing is left that was to run
        self._lost = 0  # at the end: jobs that had not ended, of a queue in memory
        self._storage_error: str | None = None  # why the latest commit failed
        self._try_again_at = math.inf  # then, when to write even if there is nothing to write
        self._again = False  # there is work for another turn right away

    # ---- the thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Turn after turn until closed. Whatever happens, nobody is left without an answer."""
        try:
            while not self.done:
                self.turn(self._receive(), time.monotonic(), time.time())
            self.last_metrics = self._metrics(time.monotonic())
        except BaseException as cause:
            self._fail(cause)
        finally:
            self._end()

    def ask(self, question: Question[Any]) -> None:
        """Put a question into the inbox. Once ``finished``, nobody may be there to answer it."""
        self.unanswered.add(question)
        self.inbox.put(question)

    def _receive(self) -> list[Message]:
        """All messages that wait; sleeps while there are none and nothing is due."""
        messages: list[Message] = []
        if not self._again:
            try:
                messages.append(
                    self.inbox.get(timeout=self._until_due(time.monotonic(), time.time()))
                )
            except queue.Empty:
                return messages
            # Give way once: those whom the last turn has woken are about to put their next
            # message, and each that comes now shares this turn's sync. (It took a fifth off the
            # turns of one producer, and four tenths off those of eight.)
            time.sleep(0)
        for _ in range(self.inbox.qsize()):
            messages.append(self.inbox.get_nowait())
        return messages

    def _until_due(self, now: float, wall: float) -> float | None:
        """Seconds until a turn is needed even without a message; None when it is not."""
        due = min(
            self._waiting.next_due(now, wall),
            self._batches.next_check(),
            self._next_token(now),
        )
        if self._storage_error is not None:
            due = self._try_again_at  # what is due before could not be written
        return None if due == math.inf else min(max(0.0, due - now), LONGEST_SLEEP)

    def _next_token(self, now: float) -> float:
        """When a rate limit lets the next waiting job start, if a worker is free for it."""
        if not self._batches.idle or not self._claiming:
            return math.inf
        return self._gate.next_at(self._lanes.held_kinds(), self._lanes.ready() > 0, now)

    def _fail(self, cause: BaseException) -> None:
        """Whoever asks is told the cause from now on, and not that the queue was closed."""
        self.failed = True
        if isinstance(cause, QueueClosed):  # the file has another owner, or is cut off
            self.why_closed = str(cause)
            self._batches.take_back_unstarted()  # they are not ours to run any more
        else:
            self.why_closed = (
                f"The queue stopped on an internal error: {cause!r}. Open the file again."
            )
        self._events.say(logging.CRITICAL, "%s", self.why_closed, error=cause)

    def _end(self) -> None:
        """Close the store and answer everybody who still waits."""
        self.orderly = self.done and not self._cut_off and not self.failed
        self.finished = True
        try:
            self._store.close()
        finally:
            for question in self.unanswered.copy():
                if isinstance(question, Close):
                    question.answer(self.has_done(question))
                else:
                    accepted = question.accepted() if isinstance(question, Enqueue) else ()
                    question.refuse(QueueClosed(self.why_closed, accepted))

    def has_done(self, close: Close) -> bool:
        """Whether the end was what ``close`` asked for: of two, each is told what holds for it."""
        return self.orderly and not self._lost and (self._all_ran or not close.drain)

    # ---- before the first turn -----------------------------------------------------------

    def recover(self, now: float, wall: float) -> None:
        """Take over what an earlier process left in the store (``recovery.py``)."""
        recovered = recover(
            self._store,
            self._waiting,
            self._recorder,
            max_retries=self._rules.max_retries,
            handles=self._handles,
            now=now,
            wall=wall,
        )
        self._token = recovered.last_token
        self._history.add(recovered.ended)
        self._again = True  # what came back does not wait for a message

    # ---- one turn ------------------------------------------------------------------------

    def turn(self, messages: Iterable[Message], now: float, wall: float) -> None:
        """Take in messages, plan, commit, apply. now: monotonic seconds; wall: Unix seconds."""
        withdrawn: list[Question[Any]] = []
        for message in messages:
            match message:
                case Enqueue():
                    self._lines.join(message)
                case Report():
                    self._returns.hand_in(message.batch)
                case Withdraw():
                    withdrawn.append(message.question)
                case SetFairness():
                    self._lanes.fairness = message.fairness
                    message.answer(None)
                case Cancel() | Revive() | Purge():
                    self._new_orders.append(message)
                case Watch() | Join() | Inspect():
                    self._questions.add(message)
                case Close():
                    self._start_closing(message)
        self._returns.look_at_batches(now)
        if self._closes:
            self._turn_producers_away()
        self._plan_and_commit(now, wall)
        self._recorder.busy(self._batches.workers - self._batches.idle, now)
        self._carry_out_orders(now, wall)
        self._questions.answer(lambda: self._metrics(now), self._busy)
        self._refuse_deadlock()
        self._finish_if_done()
        # Last, so that a timeout of 0 still gets what this turn had to give.
        for question in withdrawn:
            if not question.answered:
                self._withdraw(question, now, wall)
        self._again = self._can_go_on(now)

    def _plan_and_commit(self, now: float, wall: float) -> None:
        # Ids are looked at only after one was found to be taken. Of two requests that bring the
        # same one, the second then waits for a plan of its own: only when the first one is in is
        # the second a duplicate, since the first may yet be refused for another of its jobs.
        careful = False
        while True:
            plan = self._plan(now, wall, careful)
            try:
                self._write(plan.changes, now)
            except DuplicateIds as taken:
                clashing = plan.clashing(taken.ids)
                plan.undo(self._waiting, self._lines, self._gate)
                if careful and not clashing:
                    raise  # or this would go round for ever
                for request in clashing:
                    self._lines.cut(request, taken.ids)
                careful = True
            except StorageError as error:
                plan.undo(self._waiting, self._lines, self._gate)
                self._try_again_at = now + STORAGE_RETRY_SECONDS
                self._refuse_unwritten(plan, error)
                return
            else:
                if plan.changes:
                    self._apply(plan, now)
                if not self._lines.somebody_waits_for(plan.coming):
                    return
                careful = False

    def _write(self, changes: Changes, now: float) -> None:
        """Commit what there is. If that is nothing, find out now and then whether it would work.

        For an idle queue has to know when its disk works again: a service that is not ready gets
        no jobs to find out with.
        """
        if changes:
            self._store.commit(changes)
        elif now >= self._try_again_at:
            self._store.probe()
        else:
            return
        if self._storage_error is not None:
            self._events.say(
                logging.WARNING, "The storage works again; nothing that was accepted is lost."
            )
            self._storage_error, self._try_again_at = None, math.inf

    # ---- messages in ---------------------------------------------------------------------

    def _start_closing(self, close: Close) -> None:
        """Without drain no job starts any more. A second close may say so, not take it back."""
        self._closes.append(close)
        self._drain = self._drain and close.drain
        if not self._drain:
            self._returns.fetch_unstarted()

    def _turn_producers_away(self) -> None:
        """While the queue closes, no more jobs come in, but for those that running ones need."""
        for request in self._lines.dissolve(lambda request: self._may_enqueue(request.sender)):
            request.refuse(_closed(request.accepted()))

    def _may_enqueue(self, sender: Batch | None) -> bool:
        """What a handler enqueues while the queue drains is part of the work to be drained."""
        return not self._closes or (self._drain and self._batches.is_running(sender))

    # ---- the plan ------------------------------------------------------------------------

    def _plan(self, now: float, wall: float, careful: bool) -> Plan:
        plan = Plan(Changes(self._token + 1, wall), self._waiting.number, self._gate.state())
        self._lanes.begin()
        if self._closes:
            self._returns.forgive_those_turned_away()
        self._plan_outcomes(plan, now)
        plan.changes.returned = self._returns.unstarted
        plan.changes.cancelled += self._returns.cancelled
        plan.changes.forgotten = self._history.oldest_beyond()
        self._plan_admissions(plan, now, careful)
        self._plan_due_jobs(plan, now)
        if self._claiming:
            self._plan_claims(plan, now)
        return plan

    def _plan_outcomes(self, plan: Plan, now: float) -> None:
        changes, outcomes = plan.changes, self._returns.outcomes
        changes.completed = [outcome for outcome in outcomes if outcome.error is None]
        for outcome in outcomes:
            if outcome.error is None:
                continue
            task = outcome.task
            if (
                outcome.ended_at is None
            ):  # at the first try to write it: a disk may be full for long
                outcome.ended_at = changes.now
            if task.cancelled:
                changes.cancelled.append(task)
                continue
            if outcome.delay is None:  # nobody has asked yet, or there is none
                outcome.delay = self._rules.delay(outcome, task.attempts, self._events.say)
            if outcome.delay is None:
                changes.failed.append(FailedAttempt(outcome, None))
            else:
                changes.failed.append(FailedAttempt(outcome, changes.now + outcome.delay))
                plan.later.append((now + outcome.delay, task))

    def _plan_due_jobs(self, plan: Plan, now: float) -> None:
        """Due jobs go to the back of their lanes, also of full ones: they were accepted before."""
        plan.due = self._waiting.take_due(now, plan.changes.now)
        for _, _, task in plan.due:
            task.place = self._waiting.next_number()
            plan.changes.requeued.append(task)

    def _plan_admissions(self, plan: Plan, now: float, careful: bool) -> None:
        """Accept what has room of what the producers wait to bring in; each id once if careful."""
        inserted = plan.changes.inserted

        def number(task: Task) -> None:
            task.seq = task.place = self._waiting.next_number()
            task.enqueued_at, task.queued_at = plan.changes.now, now
            if careful:
                plan.coming.add(task.id)

        def accept(task: Task) -> None:
            number(task)
            inserted.append(task)
            if task.due_at is None:
                self._lanes.append(task)

        def turn_away(task: Task) -> None:
            number(task)
            plan.changes.turned_away.append(task)

        dropping = self._rules.overflow == "drop-newest"
        plan.admitted = self._lines.admit(accept, turn_away if dropping else None, plan.coming)

    def _plan_claims(self, plan: Plan, now: float) -> None:
        """Jobs for idle workers, new ones included: a job may be written and claimed at once."""
        token = plan.changes.token
        plan.batches = self._batches.plan(self._lanes, token, now)
        for batch in plan.batches:
            plan.changes.claimed += batch.claimed
            for task in batch.claimed:
                task.attempts += 1
                task.token = token
                task.alone = len(batch.claimed) == 1

    # ---- after the commit ----------------------------------------------------------------

    def _apply(self, plan: Plan, now: float) -> None:
        """The plan is durable: make it so in memory, and tell everybody."""
        changes = plan.changes
        self._token = changes.token
        self._returns.written()
        self._recorder.committed(changes, now)

        for due, task in plan.later:
            task.interrupted = 0
            self._waiting.retry_later(due, task)
        for task in changes.inserted:
            if task.due_at is not None:
                self._waiting.schedule(task, now, changes.now)
        for _, _, task in plan.due:
            task.due_at = None
            self._lanes.append(task)
        self._waiting.ended(_attempted(changes))

        for request in plan.admitted:
            for watch in request.watches[request.durable : request.planned]:
                self._questions.watch(watch)
            request.durable = request.planned
            request.finish_if_durable()
        self._history.forget(len(changes.forgotten))
        self._announce(changes, plan.batches)
        for batch in plan.batches:
            self._batches.hand_out(batch)
            self._pool.deliver(batch)

    def _announce(self, changes: Changes, batches: list[Batch]) -> None:
        """Remember ended jobs for the history; tell those who wait, the log, and subscribers."""
        gone = changes.cancelled + changes.dropped + changes.turned_away
        ended = [outcome.task for outcome in changes.completed] + gone
        self._history.add([task.seq for task in ended])
        if self._questions.watched():
            dead = [failed.task for failed in changes.failed if failed.due_at is None]
            self._questions.ended(task.id for task in ended + dead)
        self._events.publish(changes, batches)

    # ---- when a commit fails -------------------------------------------------------------

    def _refuse_unwritten(self, plan: Plan, error: StorageError) -> None:
        """Tell those whose jobs were not written; keep outcomes and claims for another try."""
        for request in plan.admitted:
            self._lines.leave(request)
            request.refuse(StorageError(str(error), request.accepted()))
        if self._storage_error is None:
            self._events.say(
                logging.ERROR, "%s Jobs are refused until then; nothing accepted is lost.", error
            )
        self._storage_error = str(error)

    # ---- orders --------------------------------------------------------------------------

    def _carry_out_orders(self, now: float, wall: float) -> None:
        """Cancel, revive, purge, make room (``orders.py``), each in a transaction of its own."""
        orders, self._new_orders = self._new_orders, []
        if self._returns.lanes_are_ahead():  # the plan could not be written
            for order in orders:
                order.refuse(StorageError(str(self._storage_error)))
            return
        for order in orders:
            if isinstance(order, Revive) and not self._may_enqueue(order.sender):
                order.refuse(_closed())
            else:
                self._orders.carry_out(order, Changes(self._token, wall), now)
        if self._rules.overflow == "drop-oldest":
            self._orders.make_room(Changes(self._token, wall))

    def _commit_order(self, changes: Changes) -> None:
        """Make an order's changes durable, and tell everybody of them."""
        if changes:
            self._store.commit(changes)
            self._announce(changes, [])

    def _refuse_deadlock(self) -> None:
        """If every handler waits for what only another one could do, turn one away."""
        in_flight, workers = self._batches.in_flight, self._batches.workers
        if not in_flight or (self._claiming and self._batches.idle):
            return  # nobody waits in a handler, or a worker is free for the others
        waiting = self._questions.senders() | self._lines.senders()
        if not waiting.issuperset(in_flight):
            return
        error = RuntimeError(
            f"All {workers} workers wait for room or for other jobs, and none is left to run "
            "these: use more workers, or do not wait inside handlers."
        )
        if not self._questions.refuse_last(error if self._claiming else _closed()):
            self._lines.refuse_last(in_flight, workers)

    # ---- those who wait no longer, and the end ---------------------------------------------

    def _withdraw(self, question: Question[Any], now: float, wall: float) -> None:
        """The sender has waited as long as it wanted."""
        match question:
            case Enqueue():
                self._lines.give_up(question)
            case Watch() | Join():
                self._questions.give_up(question)
            case Close() if not self.done:
                self._end_now(now, wall)

    def _finish_if_done(self) -> None:
        busy = self._busy() if self._drain else self._unrecorded()
        if self._closes and not busy:
            self._finish()

    def _end_now(self, now: float, wall: float) -> None:
        """Close ran out of time: what runs goes back to the queue uncharged, for the next start."""
        self._cut_off = True
        self._drain = False
        self._turn_producers_away()
        waiting = self._waiting.to_run()
        interrupted = self._returns.fetch_all()
        self._plan_and_commit(now, wall)
        if self._store.lasting:
            self._events.say(
                logging.WARNING,
                "Closed with %d jobs interrupted and %d waiting: they run at the next start.",
                interrupted,
                waiting,
            )
        for batch in self._batches.in_flight:
            for task in batch.claimed:
                task.cancelled = True  # so that one which has not begun does not begin any more
                self._pool.tell(batch, task)
        self._finish()

    def _finish(self) -> None:
        """No more turns: find out what was left undone."""
        self.done = True
        turned_away = any(self._handles(task.kind) for task in self._waiting.aside)
        self._all_ran = not self._waiting.is_busy() and not turned_away
        if not self._store.lasting:
            self._lost = self._waiting.to_run() + len(self._waiting.aside)
        if self._lost:
            self._events.say(
                logging.WARNING,
                "Closed with %d jobs that have not ended: they were in memory alone and are lost. "
                "Give the queue a path to keep such jobs.",
                self._lost,
            )

    # ---- state -----------------------------------------------------------------------------

    @property
    def _claiming(self) -> bool:
        """Whether jobs may still start."""
        return self._drain or not self._closes

    def _busy(self) -> bool:
        """Whether anything is queued, processing or retrying (of a kind that is handled)."""
        return self._waiting.is_busy() or self._unrecorded()

    def _unrecorded(self) -> bool:
        """Whether anything is with a worker, or has come back and is not written yet."""
        return bool(self._batches.in_flight or self._returns)

    def _can_go_on(self, now: float) -> bool:
        """Whether another turn could do something without waiting for a message."""
        if self._lines.can_admit():
            return True  # or be refused: nobody stands in front of a free place and sleeps
        if self._storage_error is not None:
            return False
        if self._rules.overflow == "drop-oldest" and len(self._lines):
            return True
        if self._history.is_too_long():
            return True
        if not (self._claiming and self._batches.idle and len(self._lanes)):
            return False
        return (self._lanes.ready() > 0 and self._gate.is_open(now)) or self._next_token(now) <= now

    def _metrics(self, now: float) -> Metrics:
        waiting = {task.priority: now - task.queued_at for task in self._lanes.heads()}
        running = list(self._batches.running(now))
        return self._recorder.snapshot(
            now, waiting, running, self._storage_error, self._events.missed
        )


def _attempted(changes: Changes) -> Iterator[Task]:
    """The jobs of which an attempt has ended."""
    yield from (outcome.task for outcome in changes.completed)
    yield from (failed.task for failed in changes.failed)
    yield from changes.cancelled


def _closed(accepted: list[str] | None = None) -> QueueClosed:
    return QueueClosed("The queue is closed and accepts no more jobs.", accepted or ())
