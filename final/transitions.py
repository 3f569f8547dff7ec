"""Transitions: what a committed turn means for each job, as log lines and as events.

One log line per transition at DEBUG, failures at WARNING with their traceback at DEBUG.
Log handlers and subscribers are code of others, so couriers (courier.py) take the news to them,
one to the log and one to the subscribers: a slow one holds up nobody.

But: events are news, not a record. Who listens too slowly misses some; the store has
the truth.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from final.courier import Courier
from final.job import Priority, Status, Task
from final.messages import Batch
from final.stores.base import Changes

log = logging.getLogger("final")

# Seconds that closing waits for what the log, and what the subscribers, have not heard yet.
LAST_LINES_SECONDS = 5.0
LAST_EVENTS_SECONDS = 1.0
GAP = "%d log lines are missing here: the log is too slow."


class Transition(NamedTuple):
    """A job has changed its status. ``at``: Unix seconds. ``error``: why, for a failed attempt."""

    job_id: str
    status: Status
    at: float
    attempts: int
    priority: Priority
    kind: str
    error: str | None


Subscriber = Callable[[Transition], object]


class Events:
    """Tells the log and the subscribers what has happened. Before ``start``: the log at once.

    ``publish`` and ``missed`` are for the dispatcher's thread, the rest for all.
    """

    def __init__(self) -> None:
        self._log = Courier("final-log", _write)
        # Log lines that were dropped since the last one that was not. (Two threads at a time may
        # miscount it, which is all that can happen.)
        self._unwritten = 0
        self._mutex = threading.Lock()  # guards the two below; no subscriber is called under it
        self._subscribers: list[Subscriber] = []
        self._courier: Courier[Transition] | None = None
        # Transitions that subscribers were not told of, which whoever watches a queue sees as
        # Metrics.missed_events. (A log line for each would come in floods, just when everything
        # is busy already.)
        self.missed = 0

    def start(self) -> None:
        """Write the log in a thread of its own from now on."""
        self._log.start()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber(transition)`` from now on; returns what ends it."""
        if not callable(subscriber):
            raise TypeError(f"A subscriber is called with a Transition; got {subscriber!r}.")
        with self._mutex:
            if self._courier is None:
                courier = Courier("final-events", self._tell)
                courier.start()
                self._courier = courier
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._mutex:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def publish(self, changes: Changes, batches: list[Batch]) -> None:
        """Never waits. Costs nothing while nobody wants to know."""
        self._write(list(lines_of(changes, batches)))
        if self._subscribers and self._courier is not None:
            news = list(_transitions(changes, batches))
            if not self._courier.send(news):
                self.missed += len(news)

    def say(self, level: int, text: str, *args: object, error: BaseException | None = None) -> None:
        """A line for the log, as by ``log.log``; with the traceback of ``error``. Never waits."""
        self._write([Line(level, text, args, error)])

    def close(self) -> None:
        """Deliver what waits, for as long as can be expected."""
        with self._mutex:
            courier = self._courier
        if courier is not None:
            courier.close(LAST_EVENTS_SECONDS)
        self._log.close(LAST_LINES_SECONDS)

    def _write(self, lines: list[Line]) -> None:
        if not lines:
            return
        gap = [Line(logging.WARNING, GAP, (self._unwritten,))] if self._unwritten else []
        sent = self._log.send(gap + lines)
        self._unwritten = 0 if sent else self._unwritten + len(lines)

    def _tell(self, transition: Transition) -> None:
        with self._mutex:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            try:
                subscriber(transition)
            except BaseException as error:
                text = "A subscriber raised on %s; the others go on."
                self._log.send([Line(logging.ERROR, text, (transition,), error)])


class Line(NamedTuple):
    """What ``log.log`` is called with."""

    level: int
    text: str
    args: tuple[object, ...] = ()
    error: BaseException | None = None


def log_transitions(changes: Changes, batches: list[Batch]) -> None:
    """In the calling thread."""
    for line in lines_of(changes, batches):
        _write(line)


def _write(line: Line) -> None:
    log.log(line.level, line.text, *line.args, exc_info=line.error)


def lines_of(changes: Changes, batches: list[Batch]) -> Iterator[Line]:
    """Those that the log's level lets through."""
    if log.isEnabledFor(logging.WARNING):
        yield from _warnings(changes)
    if log.isEnabledFor(logging.DEBUG):
        for outcome, _ in changes.failed:
            yield Line(logging.DEBUG, "job %s traceback:\n%s", (outcome.task.id, outcome.traceback))
        for transition in _transitions(changes, batches):
            args = (transition.job_id, transition.status, transition.attempts)
            yield Line(logging.DEBUG, "job %s %s, attempts %d", args)


def _warnings(changes: Changes) -> Iterator[Line]:
    for outcome in changes.completed:
        if outcome.note is not None:
            yield Line(logging.WARNING, "job %s: %s", (outcome.task.id, outcome.note))
    for outcome, due_at in changes.failed:
        task = outcome.task
        if due_at is not None:
            fate = f"again in {due_at - changes.now:.1f} s"
        else:
            fate = "for good" if outcome.permanent else "no attempts left"
        yield Line(
            logging.WARNING,
            "job %s failed, attempt %d, %s: %s",
            (task.id, task.attempts, fate, outcome.error),
        )
    if dropped := len(changes.dropped) + len(changes.turned_away):
        yield Line(logging.WARNING, "%d jobs dropped: no room", (dropped,))


def _transitions(changes: Changes, batches: list[Batch]) -> Iterator[Transition]:
    for outcome in changes.completed:
        yield _of(outcome.task, Status.COMPLETED, changes.now, outcome.note)
    for outcome, due_at in changes.failed:
        status = Status.FAILED if due_at is None else Status.RETRYING
        yield _of(outcome.task, status, changes.now, outcome.error)
    for status, tasks in (
        (Status.QUEUED, changes.interrupted),
        (Status.QUEUED, changes.returned),
        (Status.QUEUED, changes.requeued),
        (Status.QUEUED, changes.revived),
        (Status.CANCELLED, changes.cancelled),
        (Status.DROPPED, changes.dropped),
        (Status.DROPPED, changes.turned_away),
    ):
        for task in tasks:
            yield _of(task, status, changes.now)
    for task in changes.inserted:
        status = Status.QUEUED if task.due_at is None else Status.SCHEDULED
        # One that starts in this very turn has its first attempt counted already.
        yield _of(task, status, changes.now)._replace(attempts=0)
    for batch in batches:
        for task in batch.claimed:
            yield _of(task, Status.PROCESSING, changes.now)


def _of(task: Task, status: Status, at: float, error: str | None = None) -> Transition:
    return Transition(task.id, status, at, task.attempts, task.priority, task.kind, error)
