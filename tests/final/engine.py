"""The engine without its threads: a test is the dispatcher's thread, the workers and the clocks.

What takes luck to see in a running queue (a write that fails in the middle of things, two
messages in one turn, a clock that is set back) is a line of a test here.

Everything else is real, the file too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from final import Backoff, Metrics, Priority, Status, StorageError
from final.beyond.kinds import Kind, Policies
from final.engine.dispatcher import Dispatcher
from final.engine.events import Events
from final.engine.flight import Flight
from final.engine.messages import Enqueue, Measure, Message, Request
from final.engine.metrics import Recorder
from final.job import Outcome, Task
from final.ledger.base import Move
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from final.workers.batch import Batch, Report
from tests.final.helpers import options

IN_A_SECOND = Backoff(base=1, jitter=0)
START = 1_000_000.0  # the wall clock when the monotonic one says 0


class WatchedFile(SqliteFile):
    """The real file; notes what each exchange writes, and fails when it is told to."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "full")
        # For each transaction: which jobs went from which status to which.
        self.commits: list[dict[tuple[Status | None, Status | None], list[str]]] = []
        self.failures = 0  # so many fail
        self.on_write: Callable[[], None] = lambda: None

    def write(self, moves: Sequence[Move], wall: float) -> None:
        super().write(moves, wall)
        self.on_write()
        if self.failures:
            self.failures -= 1
            raise StorageError("The disk is full.")
        ways: dict[tuple[Status | None, Status | None], list[str]] = {}
        for move in moves:
            ids = [task.id for task in move.tasks]
            ways.setdefault((move.source, move.target), []).extend(ids)
        self.commits.append(ways)


class Engine:
    """A dispatcher whose thread and workers are the test.

    handles and shares: as of ``LocalLedger``. kinds: those with a policy of their own. options:
    those of a JobQueue.
    """

    def __init__(
        self,
        path: str = ":memory:",
        *,
        handles: Callable[[str], bool] = lambda kind: True,
        shares: Callable[[str], bool] = lambda kind: True,
        kinds: Mapping[str, Kind] | None = None,
        **chosen: Any,
    ) -> None:
        self.now = 0.0  # the monotonic clock
        self.ahead = START  # by how much the wall clock is
        self._path = path
        self._kinds = handles, shares
        self._options = options(**{"workers": 1, "backoff": IN_A_SECOND, **chosen})
        self._policies = Policies(self._options, kinds)
        self.open()

    def open(self) -> None:
        """Open the file, as the first process or as another one after it."""
        workers = self._options.workers
        self.file = WatchedFile(self._path)
        events = Events()
        self.ledger = LocalLedger(
            self.file, self._options, self._policies, *self._kinds, self.now, events.say
        )
        self.batches: list[Batch] = []  # delivered, oldest first
        self.handed_out: list[list[str]] = []  # the jobs in each of them
        self.dispatcher = Dispatcher(
            self.ledger,
            Flight(self, workers, self._policies.timeout, self._delay),
            Recorder(self.now),
            events,
        )
        self.dispatcher.open(self.now, self.wall)
        self.file.commits.clear()

    @property
    def wall(self) -> float:
        return self.ahead + self.now

    # What the dispatcher asks of its workers.

    def deliver(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.handed_out.append([task.id for task in batch.claimed])

    def tell(self, batch: Batch, task: Task) -> None:
        """Nobody listens: these handlers do not exist."""

    def hire(self, count: int) -> int:
        return count

    def retire(self) -> None:
        """There are no threads."""

    def obeys(self, batch: Batch, task: Task) -> bool:
        raise AssertionError("No job of these tests has a time-out.")

    def replace(self, batch: Batch) -> bool:
        raise AssertionError("No worker of these tests is given up.")

    # What the test does.

    def turn(self, *messages: Message, later: float = 0.0) -> None:
        """One turn, ``later`` seconds after the one before."""
        self.now += later
        for message in messages:
            if isinstance(message, Report):
                self._decide_on_retries(message.batch)
        self.dispatcher.turn(messages, self.now, self.wall)

    def settle(self, *messages: Message) -> None:
        """A turn, and those that follow it by themselves."""
        self.turn(*messages)
        while self.dispatcher._again:
            self.turn()

    def _decide_on_retries(self, batch: Batch) -> None:
        """As a worker does, before it reports."""
        for outcome in batch.outcomes:
            if outcome.error is not None:
                outcome.delay = self._delay(
                    outcome.task.kind, outcome.task.attempts, outcome.permanent
                )

    def _delay(self, kind: str, attempt: int, permanent: bool) -> float | None:
        say = self.dispatcher._events.say
        return self._policies.retry_delay(kind, attempt, permanent, say=say)

    def sleeps(self) -> float | None:
        """For how long the dispatcher's thread would sleep now; None for as long as it takes."""
        return self.dispatcher._until_due(self.now)

    def work_off(self, reported: int = 0, seconds: float = 0.1) -> list[str]:
        """Be the workers until nothing is left to do; the jobs in the order they were claimed.

        reported: so many batches have been reported already. seconds: what a job takes.
        """
        for batch in itertools.islice(self.batches, reported, None):  # grows meanwhile
            if batch in self.dispatcher._flight.batches:
                self.settle(report(batch, seconds=seconds))
        return [job_id for ids in self.handed_out[reported:] for job_id in ids]

    def waiting(self, priority: Priority = Priority.MEDIUM) -> list[str]:
        """The ids in a lane, first to last."""
        lane = self.ledger._lanes._by_priority[priority]
        tasks = [t for part in (lane.free, *lane.limited.values()) for t in part]
        return [task.id for task in sorted(tasks, key=lambda task: task.key)]

    def status(self, job_id: str) -> tuple[str, int]:
        """Status and attempts in the file."""
        record = self.file.get(job_id)
        assert record is not None
        return record.status, record.attempts

    def metrics(self) -> Metrics:
        metrics: Metrics = ask(self, Measure()).metrics()
        return metrics

    def state(self) -> object:
        """What a turn may change and a failed one must not."""
        ledger, producers = self.ledger, self.dispatcher._producers
        if ledger._unread:
            ledger._read_again()
        timers = [*ledger._index.timers, *ledger._index.clock]
        return (
            [self.waiting(priority) for priority in Priority],
            [lane.passed_over for lane in ledger._lanes._lanes],
            sorted((task.id, task.status, task.attempts) for task in ledger._index.live.values()),
            sorted((task.key, task.id) for task in timers),
            [[request.tasks for request in line] for line in producers._lines.values()],
        )

    def crash(self) -> None:
        """End without recording what is in flight."""
        self.file.close()


def ask(engine: Engine, request: Request[Any]) -> Any:
    """The answer to a request, or its error, after one turn."""
    engine.turn(request)
    assert request.answered
    return request.result()


def jobs(*ids: str, priority: Priority = Priority.MEDIUM, sender: Batch | None = None) -> Enqueue:
    return Enqueue([Task(job_id, "null", priority, "default", size=4) for job_id in ids], sender)


def report(batch: Batch, *, failed: bool = False, seconds: float = 0.1) -> Report:
    """What a worker says that has worked off its batch."""
    batch.tasks.clear()
    error = "ValueError: no" if failed else None
    batch.outcomes.extend(Outcome(task, seconds, error=error) for task in batch.claimed)
    return Report(batch)
