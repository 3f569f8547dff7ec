"""The dispatcher: the one owner of what is alive here. Messages in, answers out.

One thread runs ``turn`` over and over. A turn

1. takes every message that waits, or sleeps until one comes or something falls due;
2. **exchanges** with the ledger, in one transaction: what has come back from the workers and who
   wants to come in, for what is to be run next;
3. and only then acts on it: producers learn that their job is durable, workers get jobs.

The busier the queue, the more messages a turn finds, and the more share one sync: for group
commit ``_receive`` only has to give way once. A claim is durable before the handler runs, so
a job that takes the process down is charged for it and ends as a dead letter, instead
of crashing every restart. An exchange that could not be written has changed nothing: the
producers get the error, and what has come back from the workers is kept and offered again.

This state belongs to one thread, so it needs no lock. (Only what handlers say of their progress has
one: ``sayings.py``.) ``turn`` is a function of state, messages and time, so it can also be run
without any thread.

But: what is accepted and which job is next is the ledger's business (``ledger/``). What is with a
worker is in ``flight.py``, who waits for room in ``producers.py``; ``workers/`` runs the jobs.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections.abc import Iterable
from typing import Any

from final.engine.deadlocks import Deadlocks
from final.engine.events import Events
from final.engine.flight import Flight
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
    closed,
)
from final.engine.metrics import Recorder, Snapshot
from final.engine.producers import Producers
from final.engine.waits import Waits
from final.errors import QueueClosed, StorageError
from final.job import Status, Task
from final.ledger.base import Given, Ledger, Offer, Retry, RetryAll, SetWorkers, Told
from final.workers.batch import Batch, Report

# While the disk refuses to be written, an exchange is tried again this often.
STORAGE_RETRY_SECONDS = 0.5
# A lock cannot wait for a job that is scheduled for the year 9999.
LONGEST_SLEEP = 86_400.0

ByProducer = list[tuple[Enqueue, list[Task]]]  # those of its jobs that are offered now


class Dispatcher:
    """See the top of this file."""

    def __init__(self, ledger: Ledger, flight: Flight, recorder: Recorder, events: Events) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # Everybody who waits for an answer; whoever asks adds and removes itself.
        self.unanswered: set[Request[Any]] = set()
        self.done = False  # no further turn is needed
        self.finished = False  # the thread is through
        self.failed = False  # once finished: by an internal error
        self.why_closed = "The queue is closed."
        self.orderly = False  # once finished: no handler was left behind
        self.last_figures: Snapshot | None = None  # for those who ask after the end
        self._ledger = ledger
        self._flight = flight
        self._recorder = recorder
        self._events = events
        self._producers = Producers()
        self._orders: list[GiveOrder[Any]] = []
        self._measures: list[Measure] = []
        self._withdrawn: list[Withdraw] = []
        self._joins: list[Join] = []
        self._new_waits: list[Wait] = []
        self._waits = Waits(ledger, flight.batches)
        self._deadlocks = Deadlocks(ledger, flight, self._producers, self._waits)
        self._given = Given()  # the latest

        self._closes: list[Close] = []  # not empty: the queue is closing
        self._drain = True  # while closing: run what waits
        self._cut_off = False  # close ran out of time
        self._set_aside: set[str] = set()  # jobs that were turned away, and wait for the next start
        self._all_ran = False  # at the end: nothing is left that was to run
        self._lost = 0  # at the end: jobs that had not ended, of a queue in memory
        self._storage_error: str | None = None  # why nothing could be written
        self._try_again_at = math.inf  # then, when to offer again
        self._again = True  # there is work for another turn right away
        self._told = False  # another process on this ledger says that something is new

    # ---- the thread ----------------------------------------------------------------------

    def open(self, now: float, wall: float) -> None:
        """Take over what an earlier process left in the ledger."""
        self._given = self._ledger.open(now, wall)
        for (priority, status), count in self._ledger.look_ups.counts().items():
            self._recorder.found(priority, status, count)
        self._events.publish(self._given.moves, wall)
        self._ledger.listen(self.inbox.put)

    def run(self) -> None:
        """Turn after turn until closed. Whatever happens, nobody is left without an answer."""
        try:
            while not self.done:
                self.turn(self._receive(), time.monotonic(), time.time())
            self.last_figures = self._figures(time.monotonic())
        except BaseException as cause:
            self._fail(cause)
        finally:
            self._end()

    def ask(self, request: Request[Any]) -> None:
        """Put a request into the inbox. Once ``finished``, nobody may be there to answer it."""
        self.unanswered.add(request)
        self.inbox.put(request)

    def _receive(self) -> list[Message]:
        """All messages that wait; sleeps while there are none and nothing is due."""
        messages: list[Message] = []
        if not self._again:
            try:
                messages.append(self.inbox.get(timeout=self._until_due(time.monotonic())))
            except queue.Empty:
                return messages
            # Give way once: those whom the last turn has woken are about to put their next
            # message, and each that comes now shares this turn's sync. (Measured: 20 % fewer
            # turns with one producer, 40 % fewer with eight.)
            time.sleep(0)
        for _ in range(self.inbox.qsize()):
            messages.append(self.inbox.get_nowait())
        return messages

    def _until_due(self, now: float) -> float | None:
        """Seconds until a turn is needed even without a message; None when it is not."""
        due = self._try_again_at
        if self._storage_error is None:  # else what is due before could not be written
            due = min(self._given.next_due, self._flight.next_look, self._flight.sayings.due())
            if self._idle():
                due = min(due, self._given.next_start)
        return None if due == math.inf else min(max(0.0, due - now), LONGEST_SLEEP)

    def _fail(self, cause: BaseException) -> None:
        """Whoever asks is told the cause from now on, and not that the queue was closed."""
        self.failed = True
        self.why_closed = f"The queue stopped on an internal error: {cause!r}. Open the file again."
        if isinstance(cause, QueueClosed):  # the file has another owner, or is cut off
            self.why_closed = str(cause)
        self._events.say(logging.CRITICAL, "%s", self.why_closed, error=cause)
        self._flight.abandon()  # whoever has the file runs these jobs

    def _end(self) -> None:
        """Close the ledger and answer everybody who still waits."""
        self.orderly = self.done and not self._cut_off and not self.failed
        self.finished = True
        try:
            self._ledger.close()
        finally:
            for request in self.unanswered.copy():
                if isinstance(request, Close):
                    request.answer(self.has_done(request))
                else:
                    accepted = request.accepted() if isinstance(request, Enqueue) else ()
                    request.refuse(QueueClosed(self.why_closed, accepted))

    def has_done(self, close: Close) -> bool:
        """Whether the end was what ``close`` asked for: of two, each is told what holds for it."""
        return self.orderly and not self._lost and (self._all_ran or not close.drain)

    # ---- one turn ------------------------------------------------------------------------

    def turn(self, messages: Iterable[Message], now: float, wall: float) -> None:
        """Take in messages, exchange, act. now: monotonic seconds; wall: Unix seconds."""
        for message in messages:
            match message:
                case Enqueue():
                    self._producers.join(message)
                case Report():
                    self._flight.hand_in(message.batch)
                case Withdraw():
                    self._withdrawn.append(message)
                    if message.gone and isinstance(message.request, Enqueue):
                        self._producers.leave(message.request)  # so none of its jobs comes in
                case GiveOrder():
                    self._orders.append(message)
                case Wait():
                    self._new_waits.append(message)
                case Join():
                    self._joins.append(message)
                case Measure():
                    self._measures.append(message)
                case Close():
                    self._start_closing(message)
                case Told():
                    self._hear(message, wall)
        self._flight.look(now)
        if self._closes:
            self._turn_away()
        self._exchange(now, wall)
        workers = self._flight.workers
        self._recorder.busy(workers - self._flight.idle, workers, now)
        self._answer_those_who_wait(now)
        self._refuse_a_deadlock()
        if self._closes and not (self._has_to_run() if self._drain else self._flight):
            self._finish()
        # Last, so that a timeout of 0 still gets what this turn had to give.
        withdrawn, self._withdrawn = self._withdrawn, []
        for withdraw in withdrawn:
            if not withdraw.request.answered:
                self._withdraw(withdraw, now, wall)
        # While nothing can be written, only producers are offered at once: so they get the error.
        can_come_in = self._producers.can_go(self._given.room)
        can_start = self._idle() > 0 and self._given.ready > 0
        has_more = can_start or bool(self._flight.unstarted)
        self._again = can_come_in or (has_more and self._storage_error is None)

    def _exchange(self, now: float, wall: float) -> None:
        """Offer the ledger what there is, if there is anything, and act on what it gives."""
        orders, self._orders = self._orders, []
        if self._given.not_before <= now:
            self._producers.come_back()
        new: ByProducer = list(self._producers.take(self._given.room))
        flight, idle = self._flight, self._idle()
        due = min(self._given.next_due, self._try_again_at)
        may_start = idle and (self._given.ready or self._given.next_start <= now)
        come_back = flight.outcomes or flight.unstarted or flight.aside
        count = self._ledger.shared and bool(self._joins or self._closes)
        told, self._told = self._told, False
        was_paused = self._given.paused
        said = flight.sayings.take(now, flight.outcomes.values())
        if not (come_back or orders or new or may_start or due <= now or count or told or said):
            return
        given = self._given = self._ledger.exchange(
            Offer(
                now,
                wall,
                outcomes=[(token, ended) for (token, _), ended in flight.outcomes.items()],
                unstarted=flight.unstarted,
                aside=flight.aside,
                orders=[order.order for order in orders],
                new=[tasks for _, tasks in new],
                idle=idle,
                cost=flight.cost,
                curious=self._ledger.shared and self._is_curious(),
                count=count,
                said=said,
                closing=bool(self._closes),
            )
        )
        if given.error is not None:
            self._refuse(new, orders, given.error, now)
            return
        if self._storage_error is not None:
            text = "The storage works again; nothing that was accepted is lost."
            self._events.say(logging.WARNING, text)
            self._storage_error, self._try_again_at = None, math.inf
        self._set_aside.update(task.id for _, tasks in flight.aside for task in tasks)
        flight.written()
        flight.sayings.written(said)
        if given.paused - was_paused:
            flight.recall()  # what has not begun does not begin, and goes back in the next turn
        self._answer_producers(new, given)
        flight.tell(given.stop)
        for tasks in given.claims:
            flight.hand_out(tasks, now)
        for order, answer in zip(orders, given.answers, strict=True):
            self._answer_order(order, answer)  # last: idle workers that got nothing may leave
        self._announce(now, wall)
        if self._ledger.shared:
            self._waits.others_ended()

    def _refuse(
        self, new: ByProducer, orders: list[GiveOrder[Any]], error: str, now: float
    ) -> None:
        """Nothing was written. What has come back from workers is kept, and offered again."""
        for request, _ in new:
            request.refuse(StorageError(error, request.accepted()))
        for order in orders:
            order.refuse(StorageError(error))
        if self._storage_error is None:
            text = "%s Jobs are refused until then; nothing accepted is lost."
            self._events.say(logging.ERROR, text, error)
        self._storage_error, self._try_again_at = error, now + STORAGE_RETRY_SECONDS

    def _answer_producers(self, new: ByProducer, given: Given) -> None:
        """Who is through is answered; the others go back to where they stood, the last first."""
        for number, (request, tasks) in reversed(list(enumerate(new))):
            for wait in request.come_in(given.accepted[number], given.instead.get(number, {})):
                # One that another has sent may have ended before.
                begin = self._waits.look_up if wait.shared else self._waits.add
                begin(wait)
            if number in given.taken:
                request.cut(given.taken[number])
            if number in given.refused:
                request.cannot_come_in(given.refused[number])
                continue
            if number in given.busy:
                self._producers.step_aside(request)
            elif not request.finish():
                self._producers.step_back(request, tasks[0])

    def _answer_order(self, order: GiveOrder[Any], answer: object) -> None:
        if isinstance(answer, Exception):
            order.refuse(answer)
        elif isinstance(order.order, SetWorkers):
            assert isinstance(answer, int)
            order.answer(self._flight.set_workers(answer))
        else:
            order.answer(answer)

    def _announce(self, now: float, wall: float) -> None:
        """Everything that listens reads the moves: the figures, who waits, the log, subscribers."""
        moves = self._given.moves
        self._recorder.moved(moves, now, self._given.recounted)
        for move in moves:
            if move.target is None or move.target.ended:
                self._waits.ended(move.tasks)
                if self._set_aside:  # then somebody may have cancelled those
                    self._set_aside.difference_update(task.id for task in move.tasks)
        self._events.publish(moves, wall)

    # ---- those who ask, and wait -----------------------------------------------------------

    def _answer_those_who_wait(self, now: float) -> None:
        if self._measures:
            figures = self._figures(now)
            for measure in self._measures:
                measure.answer(figures)
            self._measures = []
        if self._joins and self._has_run_all():
            for join in self._joins:
                join.answer(None)
            self._joins = []
        waits, self._new_waits = self._new_waits, []
        for wait in waits:
            self._waits.look_up(wait)

    def _refuse_a_deadlock(self) -> None:
        self._deadlocks.refuse(self._given, self._idle(), self._claiming, bool(self._closes))

    def _withdraw(self, withdraw: Withdraw, now: float, wall: float) -> None:
        """The sender has waited as long as it wanted: for room, and not for its turns."""
        room = self._given.room
        match request := withdraw.request:
            case Enqueue() if not withdraw.gone and self._producers.comes_in(request, room):
                self._withdrawn.append(withdraw)  # its turn is the next; then it is asked again
            case Enqueue():
                self._producers.leave(request)
                request.refuse_for_room(self._ledger.capacity)
            case Wait():
                self._waits.remove(request)
                request.refuse(TimeoutError(f"Job {request.job_id} has not ended in time."))
            case Join():
                self._joins.remove(request)
                request.refuse(TimeoutError("There were still unfinished jobs in the queue."))
            case Close() if not self.done:
                self._end_now(now, wall)

    # ---- the end ---------------------------------------------------------------------------

    def _start_closing(self, close: Close) -> None:
        """Without drain no job starts any more. A second close may say so, not take it back."""
        self._closes.append(close)
        self._drain = self._drain and close.drain
        if not self._drain:
            self._flight.recall()

    def _turn_away(self) -> None:
        """While the queue closes, no more jobs come in, but for those that running ones need."""
        for request in list(self._producers):
            if not self._may_enqueue(request.sender):
                self._producers.leave(request)
                request.refuse(closed(request.accepted()))
        for order in [o for o in self._orders if isinstance(o.order, Retry | RetryAll)]:
            if not self._may_enqueue(order.sender):
                self._orders.remove(order)
                order.refuse(closed())
        self._flight.forgive()

    def _may_enqueue(self, sender: Batch | None) -> bool:
        """What a handler enqueues while the queue drains is part of the work to be drained."""
        return self._drain and self._flight.is_running(sender)

    def _end_now(self, now: float, wall: float) -> None:
        """Close ran out of time: what runs goes back to the queue uncharged, for the next start."""
        self._cut_off, self._drain = True, False
        self._turn_away()
        live = self._given.live
        waiting = sum(live.values()) - live[Status.PROCESSING]
        interrupted = self._flight.recall(running=True)
        self._exchange(now, wall)
        if self._ledger.lasting:
            text = "Closed with %d jobs interrupted and %d waiting: they run at the next start."
            self._events.say(logging.WARNING, text, interrupted, waiting)
        self._flight.abandon()
        self._finish()

    def _finish(self) -> None:
        """No more turns: find out what was left undone."""
        self.done = True
        self._all_ran = self._has_run_all() or (self._given.helped and not self._flight)
        if self._given.stalled and self._drain and self._is_busy():
            text = "Closed with jobs that are paused: they stay where they are until a resume."
            self._events.say(logging.WARNING, text)
        if not self._ledger.lasting:
            self._lost = sum(self._given.live.values()) + len(self._set_aside)
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

    def _idle(self) -> int:
        """How many workers may get jobs."""
        return self._flight.idle if self._claiming else 0

    def _is_busy(self) -> bool:
        """Whether anything is queued, processing or retrying (of a kind that is handled)."""
        live = self._given.live
        busy = live[Status.QUEUED] + live[Status.PROCESSING] + live[Status.RETRYING]
        return bool(busy or self._flight or self._given.releasing)

    def _has_run_all(self) -> bool:
        """Nothing is left to run; what was set aside here, others may have run since."""
        left = self._given.left if self._ledger.shared else len(self._set_aside)
        return not self._is_busy() and not left

    def _has_to_run(self) -> bool:
        """Whether anything is left for a queue that drains.

        What waits, others may run; and what is paused, or has no workers, stays for the next start.
        """
        if self._given.helped or self._given.stalled or not self._flight.wanted:
            return bool(self._flight)
        return self._is_busy()

    # ---- other processes on the same ledger --------------------------------------------------

    def _is_curious(self) -> bool:
        """Whether somebody here waits for what they do."""
        waiting = self._producers or self._joins or self._waits
        return bool(waiting or self._events.has_subscribers)

    def _hear(self, told: Told, wall: float) -> None:
        self._waits.end([c.job_id for c in told.changes if c.status.ended])
        self._events.publish_told(told.changes, wall)
        self._told |= told.stop or self._idle() > 0 or bool(self._producers)

    def _figures(self, now: float) -> Snapshot:
        if self._ledger.shared:
            self._recorder.recount(self._ledger.counts, now)
        try:
            ages = self._ledger.ages(now)
        except StorageError:
            ages = {}
        return self._recorder.snapshot(
            now,
            ages,
            list(self._flight.running(now)),
            self._storage_error,
            self._events.missed,
            self._flight.wanted,
            self._given.paused,
        )
