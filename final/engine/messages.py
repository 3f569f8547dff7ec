"""What callers ask of the dispatcher: requests, each with one answer.

Nothing is shared under a lock. A caller puts a ``Request`` into the dispatcher's inbox and waits
for its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from final.engine.metrics import Snapshot
from final.errors import DuplicateJob, EnqueueError, QueueClosed, QueueFull, UnknownJob
from final.job import JobRecord, Task
from final.ledger import base
from final.workers.batch import Batch, Report

Answer = TypeVar("Answer")


class Request(Generic[Answer]):
    """A message whose sender waits for one answer.

    The lock is the cheapest thing a thread can wait on once: it is born locked, and
    ``answer`` unlocks it. (A threading.Event is a lock, a condition and a second lock.) Who waits
    in an event loop, and not in a thread, puts its own ``wake`` there.
    """

    def __init__(self) -> None:
        self._unanswered = threading.Lock()
        self._unanswered.acquire()
        self.wake: Callable[[], object] = self._unanswered.release
        self._value: Answer | None = None
        self._error: BaseException | None = None
        self.answered = False

    def answer(self, value: Answer) -> None:
        """Give the answer; only the first one counts. For the dispatcher's thread."""
        if not self.answered:
            self._value = value
            self.answered = True  # first the value: who sees this may take it
            self.wake()

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, which ``result`` raises in the sender's thread."""
        if not self.answered:
            self._error = error
            self.answered = True
            self.wake()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the answer, at most ``timeout`` seconds; False when there is none yet."""
        while timeout is not None and timeout > threading.TIMEOUT_MAX:  # on Windows: 49 days
            if self._unanswered.acquire(timeout=threading.TIMEOUT_MAX):
                return True
            timeout -= threading.TIMEOUT_MAX
        return self._unanswered.acquire(timeout=-1 if timeout is None else timeout)

    def result(self) -> Answer:
        """The answer, after ``wait`` said True."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Enqueue(Request[list[str]]):
    """Jobs to accept, in this order; answered with their ids when all are durable.

    durable: how many of them are in. sender: the batch of the handler that sends it; None from
    outside. waits: one for each job, if any, which hold from the moment that it is accepted.
    taken: ids because of which it was cut short; DuplicateJob names them in the end. instead: where
    another job holds the key of one, the id of that, by the number of the one. patient: whether its
    sender waits for room, if there is none. number: among all, as they came. aside: what it waits
    for is the unique key of its next job.
    """

    def __init__(
        self, tasks: list[Task], sender: Batch | None = None, waits: Sequence[Wait] = ()
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.sender = sender
        self.waits = waits
        self.patient = True
        self.number = 0
        self.aside = False
        self.durable = 0
        self.taken: Sequence[str] = ()
        self.instead: dict[int, str] = {}

    def come_in(self, count: int, instead: Mapping[int, str]) -> Sequence[Wait]:
        """So many more are in, or another job holds their keys; returns the waits of these."""
        first, self.durable = self.durable, self.durable + count
        for number, job_id in instead.items():
            self.instead[first + number] = job_id
            for wait in self.waits[first + number : first + number + 1]:
                wait.job_id, wait.shared = job_id, True
        return self.waits[first : self.durable]

    def next_task(self) -> Task:
        return self.tasks[self.durable]

    def accepted(self) -> list[str]:
        ids = [task.id for task in self.tasks[: self.durable]]
        for number, job_id in self.instead.items():
            ids[number] = job_id
        return ids

    def cut(self, taken: Sequence[str]) -> None:
        """No more is accepted, because of these ids."""
        self.taken = taken
        del self.tasks[self.durable :]

    def cannot_come_in(self, error: EnqueueError | UnknownJob) -> None:
        """Nor what comes after it."""
        error.accepted = self.accepted()
        self.refuse(error)

    def refuse_for_room(self, capacity: int) -> None:
        """Its next job has found none in time, or has not got its key."""
        task = self.next_task()
        message = (
            f"The {task.priority} lane had no room in time (capacity {capacity}): "
            "enqueue again later, or raise capacity or workers."
        )
        if self.aside and task.unique is not None:
            message = (
                f"The unique key {task.unique.key!r} was not to be had in time: another "
                "transaction, which is still open, has it: enqueue again later."
            )
        self.refuse(QueueFull(message, self.accepted()))

    def finish(self) -> bool:
        """Answer if all that it asks for is in; whether it is."""
        if self.durable < len(self.tasks):
            return False
        if self.taken:
            self.refuse(DuplicateJob(self.taken, self.accepted()))
        else:
            self.answer(self.accepted())
        return True


class GiveOrder(Request[Answer]):
    """Brings the ledger an ``order`` of its own (``base.Order``), and is answered as it says there.

    sender: the batch of the handler that sends it; None from outside.
    """

    def __init__(self, order: base.Order, sender: Batch | None = None) -> None:
        super().__init__()
        self.order = order
        self.sender = sender


class Wait(Request[JobRecord]):
    """Answered with the job's record when it has ended.

    sender: the batch of the handler that waits; None from outside. kind and group: of that job.
    shared: it holds the key of the one that was sent, so it is not the sender's to call off.
    awaited: whether the sender waits for it by now; a ``map`` does so for one after the other.
    """

    def __init__(
        self, job_id: str, sender: Batch | None = None, kind: str = "", group: str = ""
    ) -> None:
        super().__init__()
        self.job_id = job_id
        self.sender = sender
        self.kind = kind
        self.group = group
        self.shared = False
        self.awaited = True

    def asker(self) -> str | None:
        """The job whose handler waits; None from outside."""
        sender = self.sender  # a `map` that is given up sets it to None
        task = None if sender is None else sender.running
        return None if task is None else task.id


class Join(Request[None]):
    """Answered when nothing is queued, processing or retrying."""


class Measure(Request[Snapshot]):
    """Asks for the figures of this instant."""


class Close(Request[bool]):
    """Stop accepting; drain says whether to run what is waiting. True: nothing was cut off."""

    def __init__(self, drain: bool) -> None:
        super().__init__()
        self.drain = drain


class Withdraw(NamedTuple):
    """The sender of this request has waited long enough. It still gets an answer.

    gone: there is no sender any more. Of an Enqueue nothing more comes in, nor by this turn: a
    ``map`` that stops cancels its jobs, and a turn carries out orders before it accepts any.
    """

    request: Request[Any]
    gone: bool = False


class Woken(NamedTuple):
    """Nothing but a reason to look what is due: a handler has said how far it is."""


Message = Request[Any] | Withdraw | Report | base.Told | Woken


def closed(accepted: Sequence[str] = ()) -> QueueClosed:
    """What is told to those who come when the queue is closing."""
    return QueueClosed("The queue is closed and accepts no more jobs.", accepted)
