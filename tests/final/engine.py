"""The engine without its threads: a test is the dispatcher's thread, the workers and the clocks.

What takes luck to see in a running queue (a commit that fails in the middle of things, two
messages in one turn, a clock that is set back) is a line of a test here.

But: everything else is real, the file too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from final import Backoff, Priority, StorageError
from final.batches import Batches
from final.dispatcher import Dispatcher, Rules
from final.job import Outcome, Task
from final.lanes import Lanes
from final.limits import Gate
from final.messages import Batch, Enqueue, Inspect, Message, Question, Report
from final.metrics import Metrics, Recorder
from final.stores import Changes, SqliteStore
from final.transitions import Events

IN_A_SECOND = Backoff(base=1, jitter=0)
START = 1_000_000.0  # the wall clock when the monotonic one says 0


class WatchedStore(SqliteStore):
    """The real store; notes each commit, and fails when it is told to."""

    def __init__(self, path: str = ":memory:") -> None:
        super().__init__(path, "full")
        self.commits: list[Changes] = []
        self.failures = 0  # so many commits fail
        self.on_commit: Callable[[], None] = lambda: None

    def commit(self, changes: Changes) -> None:
        self.on_commit()
        self._fail_if_told()
        super().commit(changes)
        self.commits.append(changes)

    def probe(self) -> None:
        self._fail_if_told()
        super().probe()

    def _fail_if_told(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("The disk is full.")


class Engine:
    """A dispatcher whose thread and workers are the test."""

    def __init__(self, path: str = ":memory:", *, workers: int = 1, **options: Any) -> None:
        self.now = 0.0  # the monotonic clock
        self.ahead = START  # by how much the wall clock is
        self._path = path
        self._workers = workers
        self._options = options
        self.open()

    def open(self) -> None:
        """Open the file, as the first process or as another one after it."""
        options = self._options
        self.store = WatchedStore(self._path)
        self.batches: list[Batch] = []  # delivered, oldest first
        self.handed_out: list[list[str]] = []  # the jobs in each of them
        self.lanes = Lanes(options.get("capacity", 1_000), fairness=10)
        gate = Gate(options.get("rate_limit"), self.now)
        self.dispatcher = Dispatcher(
            self.store,
            self.lanes,
            gate,
            Batches(self._workers, gate, timeout=None),
            Recorder(self._workers, self.now),
            Events(),
            rules=Rules(options.get("max_retries", 3), IN_A_SECOND, "block", history=1_000),
            handles=options.get("handles", lambda kind: True),
            workers=self,
        )
        self.dispatcher.recover(self.now, self.wall)

    @property
    def wall(self) -> float:
        return self.ahead + self.now

    # What the dispatcher asks of its workers.

    def deliver(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.handed_out.append([task.id for task in batch.claimed])

    def tell(self, batch: Batch, task: Task) -> None:
        """Nobody listens: these handlers do not exist."""

    def obeys(self, batch: Batch, task: Task) -> bool:
        raise AssertionError("No job of these tests has a time-out.")

    def replace(self, batch: Batch) -> bool:
        raise AssertionError("No worker of these tests is given up.")

    # What the test does.

    def turn(self, *messages: Message, later: float = 0.0) -> None:
        """One turn, ``later`` seconds after the one before."""
        self.now += later
        self.dispatcher.turn(messages, self.now, self.wall)

    def sleeps(self) -> float | None:
        """For how long the dispatcher's thread would sleep now; None for as long as it takes."""
        return self.dispatcher._until_due(self.now, self.wall)

    def work_off(self, reported: int = 0, seconds: float = 0.1) -> list[str]:
        """Be the workers until nothing is left to do; the jobs in the order they were claimed.

        reported: so many batches have been reported already. seconds: what a job takes.
        """
        for batch in itertools.islice(self.batches, reported, None):  # grows meanwhile
            self.turn(report(batch, seconds=seconds))
            while self.dispatcher._again:
                self.turn()
        return [job_id for ids in self.handed_out[reported:] for job_id in ids]

    def waiting(self, priority: Priority = Priority.MEDIUM) -> list[str]:
        """The ids in a lane, first to last."""
        return [task.id for task in self.lanes._by_priority[priority].tasks]

    def status(self, job_id: str) -> tuple[str, int]:
        """Status and attempts in the store."""
        record = self.store.get(job_id)
        assert record is not None
        return record.status, record.attempts

    def metrics(self) -> Metrics:
        metrics: Metrics = ask(self, Inspect())
        return metrics

    def state(self) -> object:
        """What a turn may change and a failed one must not."""
        dispatcher = self.dispatcher
        return (
            [[(task.id, task.attempts) for task in lane.tasks] for lane in self.lanes._lanes],
            [lane.passed_over for lane in self.lanes._lanes],
            [[request.tasks for request in line] for line in dispatcher._lines._lines.values()],
            sorted((due, task.id, task.attempts) for due, _, task in dispatcher._waiting._later),
            dispatcher._token,
        )

    def crash(self) -> None:
        """End without recording what is in flight."""
        self.store.close()


def ask(engine: Engine, question: Question[Any]) -> Any:
    """The answer to a question, or its error, after one turn."""
    engine.turn(question)
    assert question.answered
    return question.result()


def jobs(*ids: str, priority: Priority = Priority.MEDIUM, sender: Batch | None = None) -> Enqueue:
    return Enqueue([Task(job_id, "null", priority, "default") for job_id in ids], sender)


def report(batch: Batch, *, failed: bool = False, seconds: float = 0.1) -> Report:
    """What a worker says that has worked off its batch."""
    batch.tasks.clear()
    error = "ValueError: no" if failed else None
    batch.outcomes.extend(Outcome(task, seconds, error=error) for task in batch.claimed)
    return Report(batch)
