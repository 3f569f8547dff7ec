"""Transitions: what a committed turn means for each job, as log lines and as events.

One log line per transition at DEBUG, failures at WARNING with their traceback at DEBUG.
Subscribers are called in a thread of their own, so that a slow one holds up nobody.

But: events are news, not a record. Who listens too slowly misses some; the store has
the truth.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from final.job import Priority, Status, Task
from final.messages import Batch
from final.stores.base import Changes

log = logging.getLogger("final")

# Turns that may wait for a slow subscriber; beyond it, news is dropped, and counted where
# whoever watches a queue looks: Metrics.missed_events. (A log line for each would come in
# floods, just when everything is busy already.)
BACKLOG = 1000


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


def log_transitions(changes: Changes, batches: list[Batch]) -> None:
    for outcome, due_at in changes.failed:
        task = outcome.task
        if due_at is not None:
            fate = f"again in {due_at - changes.now:.1f} s"
        else:
            fate = "for good" if outcome.permanent else "no attempts left"
        log.warning(
            "job %s failed, attempt %d, %s: %s", task.id, task.attempts, fate, outcome.error
        )
        log.debug("job %s traceback:\n%s", task.id, outcome.traceback)
    if changes.dropped or changes.turned_away:
        log.warning("%d jobs dropped: no room", len(changes.dropped) + len(changes.turned_away))
    if log.isEnabledFor(logging.DEBUG):
        for transition in _transitions(changes, batches):
            log.debug(
                "job %s %s, attempts %d", transition.job_id, transition.status, transition.attempts
            )


class Events:
    """Hands transitions to subscribers. ``publish`` is for the dispatcher, the rest for all."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # guards the two below; no subscriber is called under it
        self._subscribers: list[Subscriber] = []
        self._thread: threading.Thread | None = None
        # Waited on by the thread: the news of a turn, or None for the end.
        self._news: queue.Queue[list[Transition] | None] = queue.Queue(BACKLOG)
        self.missed = 0  # transitions; for the dispatcher's thread alone

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber(transition)`` from now on; returns what ends it."""
        if not callable(subscriber):
            raise TypeError(f"A subscriber is called with a Transition; got {subscriber!r}.")
        with self._mutex:
            self._subscribers.append(subscriber)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="final-events", daemon=True)
                self._thread.start()

        def unsubscribe() -> None:
            with self._mutex:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def publish(self, changes: Changes, batches: list[Batch]) -> None:
        """Never waits. Costs nothing while nobody has subscribed."""
        if not self._subscribers:
            return
        news = list(_transitions(changes, batches))
        try:
            self._news.put_nowait(news)
        except queue.Full:
            self.missed += len(news)

    def close(self, timeout: float) -> None:
        """Deliver what waits, at most for ``timeout`` seconds."""
        with self._mutex:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            try:
                self._news.put(None, timeout=timeout)
            except queue.Full:
                return  # a subscriber hangs; its thread is a daemon
            thread.join(timeout)

    def _run(self) -> None:
        while (news := self._news.get()) is not None:
            for transition in news:
                with self._mutex:
                    subscribers = list(self._subscribers)
                for subscriber in subscribers:
                    try:
                        subscriber(transition)
                    except Exception:
                        log.exception("A subscriber raised on %s; the others go on.", transition)


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
