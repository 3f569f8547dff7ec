"""What the threads say to each other: questions to the dispatcher, batches to the workers.

Nothing is shared under a lock. A producer puts an ``Enqueue`` into the dispatcher's
inbox and waits for its answer; a worker gets a ``Batch`` and sends back a ``Report``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from final.errors import DuplicateJob
from final.job import JobRecord, Outcome, Task
from final.metrics import Metrics

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """A message whose sender waits for one answer.

    The lock is the cheapest thing a thread can wait on once: it is born locked, and
    ``answer`` unlocks it. (A threading.Event is a lock, a condition and a second lock.)
    """

    def __init__(self) -> None:
        self._unanswered = threading.Lock()
        self._unanswered.acquire()
        self._value: Answer | None = None
        self._error: BaseException | None = None
        self.answered = False

    def answer(self, value: Answer) -> None:
        """Give the answer; only the first one counts. For the dispatcher's thread."""
        if not self.answered:
            self.answered = True
            self._value = value
            self._unanswered.release()

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, which ``result`` raises in the sender's thread."""
        if not self.answered:
            self.answered = True
            self._error = error
            self._unanswered.release()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the answer, at most ``timeout`` seconds; False when there is none yet."""
        return self._unanswered.acquire(timeout=-1 if timeout is None else timeout)

    def result(self) -> Answer:
        """The answer, after ``wait`` said True."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Enqueue(Question[list[str]]):
    """Jobs to accept, in this order; answered with their ids when all are durable.

    planned and durable count the jobs that the running turn and past turns accepted.
    sender: the batch of the handler that sends it; None from outside.
    watches: one for each job, if any, which hold from the moment that it is accepted.
    taken: ids because of which it was cut short; DuplicateJob names them in the end.
    waits: whether its sender waits for room, if there is none.
    """

    def __init__(
        self, tasks: list[Task], sender: Batch | None = None, watches: Sequence[Watch] = ()
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.sender = sender
        self.watches = watches
        self.taken: list[str] = []
        self.waits = True
        self.planned = 0
        self.durable = 0

    def next_task(self) -> Task:
        return self.tasks[self.planned]

    def accepted(self) -> list[str]:
        return [task.id for task in self.tasks[: self.durable]]

    def cut_at_a_repeated_id(self) -> None:
        """Ask for no more than the jobs before the first whose id one of them has."""
        seen: set[str] = set()
        for number, task in enumerate(self.tasks):
            if task.id in seen:
                self._cut(number, [task.id])
                return
            seen.add(task.id)

    def cut(self, taken: Collection[str]) -> None:
        """Ask for no more than the jobs before the first whose id is ``taken``."""
        clashing = [n for n in range(self.durable, len(self.tasks)) if self.tasks[n].id in taken]
        self._cut(clashing[0], [self.tasks[n].id for n in clashing])

    def _cut(self, number: int, taken: list[str]) -> None:
        del self.tasks[number:]
        self.taken = taken

    def finish_if_durable(self) -> bool:
        """Answer if all that it asks for is in; whether it is."""
        if self.durable < len(self.tasks):
            return False
        if self.taken:
            self.refuse(DuplicateJob(self.taken, self.accepted()))
        else:
            self.answer(self.accepted())
        return True


class Watch(Question[JobRecord]):
    """Answered with the job's record when it has ended.

    sender: the batch of the handler that waits; None from outside.
    """

    def __init__(self, job_id: str, sender: Batch | None = None) -> None:
        super().__init__()
        self.job_id = job_id
        self.sender = sender

    def asker(self) -> str | None:
        """The job whose handler waits; None from outside."""
        sender = self.sender  # a `map` that is given up sets it to None
        task = None if sender is None else sender.running
        return None if task is None else task.id


class Cancel(Question[bool]):
    """Answered with whether the job is kept from running, or told to stop."""

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id


class Revive(Question[int]):
    """Put dead letters back into their lanes with all their attempts; answered with how many.

    job_id: this one. Otherwise all of a kind, or, with neither, all. sender: as of Enqueue.
    """

    def __init__(
        self, job_id: str | None = None, kind: str | None = None, sender: Batch | None = None
    ) -> None:
        super().__init__()
        self.job_id = job_id
        self.kind = kind
        self.sender = sender


class Purge(Question[int]):
    """Delete dead letters, all or those of a kind; answered with how many."""

    def __init__(self, kind: str | None) -> None:
        super().__init__()
        self.kind = kind


Order = Cancel | Revive | Purge


class SetFairness(Question[None]):
    """Choose by this rule from the running turn on; answered when it is so."""

    def __init__(self, fairness: int | None) -> None:
        super().__init__()
        self.fairness = fairness


class Join(Question[None]):
    """Answered when nothing is queued, processing or retrying."""


class Inspect(Question[Metrics]):
    """Asks for the metrics of this instant."""


class Close(Question[bool]):
    """Stop accepting; drain says whether to run what is waiting. True: so it was."""

    def __init__(self, drain: bool) -> None:
        super().__init__()
        self.drain = drain


class Withdraw(NamedTuple):
    """The sender of this question has waited long enough. It still gets an answer."""

    question: Question[Any]


class Batch:
    """Jobs for one worker, who takes them from the left while the dispatcher may take them back.

    It takes from the right: both ends of a deque may be popped from different threads at the
    same time, and each job is popped once.

    token: the fencing token of these attempts.
    overdue_at: when the dispatcher looks after a batch of several jobs that is still out
        (monotonic); infinity for never.
    check_at: when it looks whether a running job is out of time; infinity for never.
    running, attempt, started: the job that the worker is on, which attempt that is,
        and since when (monotonic).
    outcomes: of the jobs that it is through with, until somebody collects them.
    told: the job that was told to stop. stop: what wakes or ends its handler, where there is
        a way. on_loop: whether the worker waits for a coroutine, so that this frees it.
    worker: the thread that has the batch.
    """

    __slots__ = (
        "_seized",
        "attempt",
        "check_at",
        "claimed",
        "on_loop",
        "outcomes",
        "overdue_at",
        "running",
        "started",
        "stop",
        "tasks",
        "token",
        "told",
        "worker",
    )

    def __init__(self, tasks: list[Task], token: int, overdue_at: float, check_at: float) -> None:
        self.claimed = tasks
        self.tasks = deque(tasks)
        self.token = token
        self.overdue_at = overdue_at
        self.check_at = check_at
        self.running: Task | None = None
        self.attempt = 0
        self.started = 0.0
        self.outcomes: deque[Outcome] = deque()
        self.stop: Callable[[], object] | None = None
        self.told: Task | None = None
        self.on_loop = False
        self.worker: threading.Thread | None = None
        self._seized = threading.Lock()

    def seize(self) -> bool:
        """Whoever calls first gets True, and with it the end of the batch.

        That is the worker that is through with it, to report it, or the dispatcher, to give
        that worker up. So no batch ends both ways, or neither.
        """
        return self._seized.acquire(blocking=False)


class Report(NamedTuple):
    """A worker is through with its batch and is idle again."""

    batch: Batch


Message = Question[Any] | Withdraw | Report


class Workers(Protocol):
    """What the dispatcher asks of the pool. None of it may block."""

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to an idle worker."""

    def tell(self, batch: Batch, task: Task) -> None:
        """Tell the handler of a running job to stop."""

    def obeys(self, batch: Batch, task: Task) -> bool:
        """Whether ``tell`` frees the worker in any case."""

    def replace(self, batch: Batch) -> bool:
        """Seize the batch, and put a fresh worker in the place of the one that has it.

        False: it cannot be had, or the worker is through with it; its report is on the way.
        """
