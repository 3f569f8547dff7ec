"""Transitions: what a committed turn means for each job, as log lines and as events.

One log line per transition at DEBUG, failures at WARNING with their traceback at DEBUG.
Log handlers and subscribers are code of others, so couriers (courier.py) take the news to them,
one to the log and one to the subscribers: a slow one holds up nobody.

But: events are news, not a record. Who listens too slowly misses some; the file has
the truth.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from final.engine.courier import Courier
from final.job import Priority, Status, Task
from final.ledger.base import Change, Move
from final.workers import forks

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
        # Guards the two below; no subscriber is called under it. A finalizer may end a subscription
        # at any moment, also in who has it.
        self._mutex = threading.RLock()
        self._subscribers: dict[object, Subscriber] = {}  # each under a key of its own
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
            self._subscribers[key := object()] = subscriber

        def unsubscribe() -> None:
            with self._mutex:
                self._subscribers.pop(key, None)

        return unsubscribe

    def publish(self, moves: list[Move], wall: float) -> None:
        """Never waits. Costs nothing while nobody wants to know."""
        self._write(list(lines_of(moves, wall)))
        if self._subscribers and self._courier is not None:
            news = list(_transitions(moves, wall))
            if not self._courier.send(news):
                self.missed += len(news)

    @property
    def has_subscribers(self) -> bool:
        return bool(self._subscribers)

    def publish_told(self, changes: Sequence[Change], wall: float) -> None:
        """What another process has done is news for subscribers; it writes its own log."""
        if changes and self._subscribers and self._courier is not None:
            news = [Transition(c.job_id, c.status, wall, *c[2:]) for c in changes]
            if not self._courier.send(news):
                self.missed += len(news)

    def say(self, level: int, text: str, *args: object, error: BaseException | None = None) -> None:
        """A line for the log, as by ``log.log``; with the traceback of ``error``. Never waits."""
        self._write([LogLine(level, text, args, error)])

    def close(self) -> None:
        """Deliver what waits, for as long as can be expected."""
        with self._mutex:  # who comes after this hears nothing, and needs no thread for that
            courier = self._courier = self._courier or Courier("final-events", self._tell)
        courier.close(LAST_EVENTS_SECONDS)
        self._log.close(LAST_LINES_SECONDS)

    def _write(self, lines: list[LogLine]) -> None:
        if not lines:
            return
        gap = [LogLine(logging.WARNING, GAP, (self._unwritten,))] if self._unwritten else []
        sent = self._log.send(gap + lines)
        self._unwritten = 0 if sent else self._unwritten + len(lines)

    def _tell(self, transition: Transition) -> None:
        with self._mutex:
            subscribers = list(self._subscribers.values())
        for subscriber in subscribers:
            try:
                with forks.ended():
                    subscriber(transition)
            except BaseException as error:
                text = "A subscriber raised on %s; the others go on."
                about = {"job_id": transition.job_id, "kind": transition.kind}
                self._log.send([LogLine(logging.ERROR, text, (transition,), error, about)])


class LogLine(NamedTuple):
    """What ``log.log`` is called with. about: which job it is about, as ``extra``."""

    level: int
    text: str
    args: tuple[object, ...] = ()
    error: BaseException | None = None
    about: Mapping[str, object] | None = None


def _write(line: LogLine) -> None:
    with forks.ended():  # its handlers are code of others
        log.log(line.level, line.text, *line.args, exc_info=line.error, extra=line.about)


def is_enabled_for(level: int) -> bool:
    """As ``log.isEnabledFor``, which may wait for the lock of the module ``logging``.

    ``dictConfig`` has that while it makes handlers, and one that asks the queue something would
    wait for the dispatcher.
    """
    lowest = max(log.manager.disable + 1, log.getEffectiveLevel())
    return level >= lowest and not log.disabled


def lines_of(moves: list[Move], wall: float) -> Iterator[LogLine]:
    """Those that the log's level lets through. wall: when it was, in Unix seconds."""
    if is_enabled_for(logging.WARNING):
        yield from _warnings(moves, wall)
    if is_enabled_for(logging.DEBUG):
        for move in moves:
            for outcome in move.outcomes:
                if outcome.error is not None:
                    args = (outcome.task.id, outcome.traceback)
                    about = _about(outcome.task, move.target)
                    yield LogLine(logging.DEBUG, "job %s traceback:\n%s", args, None, about)
        for task, status, attempts, _ in _steps(moves):
            told = (task.id, status, attempts)
            about = _about(task, status, attempts)
            yield LogLine(logging.DEBUG, "job %s %s, attempts %d", told, None, about)


def _warnings(moves: list[Move], wall: float) -> Iterator[LogLine]:
    dropped = 0
    for tasks, _, target, _, outcomes in moves:
        if target is Status.DROPPED:
            dropped += len(tasks)
        has_failed = target in (Status.FAILED, Status.RETRYING)
        for outcome in outcomes:
            task = outcome.task
            if outcome.note is not None:
                told = (task.id, outcome.note)
                yield LogLine(logging.WARNING, "job %s: %s", told, None, _about(task, target))
            if has_failed:
                fate = "for good" if outcome.permanent else "no attempts left"
                if target is Status.RETRYING:
                    fate = f"again in {(task.due_at or wall) - wall:.1f} s"
                args = (task.id, task.attempts, fate, outcome.error)
                text = "job %s failed, attempt %d, %s: %s"
                yield LogLine(logging.WARNING, text, args, None, _about(task, target))
    if dropped:
        yield LogLine(logging.WARNING, "%d jobs dropped: no room", (dropped,))


def _about(task: Task, status: Status | None, attempt: int | None = None) -> dict[str, object]:
    """What a line says of a job for programs (docs/operations.md)."""
    return {
        "job_id": task.id,
        "kind": task.kind,
        "priority": str(task.priority),
        "group": task.group or None,
        "attempt": task.attempts if attempt is None else attempt,
        "status": None if status is None else str(status),
    }


def _transitions(moves: list[Move], wall: float) -> Iterator[Transition]:
    for task, status, attempts, error in _steps(moves):
        yield Transition(task.id, status, wall, attempts, task.priority, task.kind, error)


def _steps(moves: list[Move]) -> Iterator[tuple[Task, Status, int, str | None]]:
    """Each job that changed its status, the one that it has now, its attempts so far, and why."""
    claimed = {task for move in moves if move.target is Status.PROCESSING for task in move.tasks}
    for tasks, _, target, _, outcomes in moves:
        if target is None:
            continue  # deleted: there is nothing more to be told of it
        errors = [outcome.error or outcome.note for outcome in outcomes] or [None] * len(tasks)
        for task, error in zip(tasks, errors, strict=True):
            # One that starts in this very exchange has that attempt counted already.
            before = target is not Status.PROCESSING and task in claimed
            attempts = task.attempts - before
            yield task, target, attempts, error
