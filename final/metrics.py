"""What the queue says about itself: counts that add up, percentiles, throughput, utilisation.

The invariant, in every ``Metrics`` and for every lane of it:

    queued + scheduled + processing + retrying
        + completed + failed + cancelled + dropped = accepted

``Recorder`` is fed by the dispatcher after each commit and read by it alone, so a
``Metrics`` is a picture of one instant without a lock.

But: percentiles come from the latest jobs (1,000 per lane), not from all of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from final.job import Outcome, Priority, Status, Task
from final.stores.base import Changes

SAMPLES = 1_000  # the latest jobs per lane that percentiles are taken from
RATE_WINDOW = 10.0  # seconds over which throughput and utilisation are averaged


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; 0.0 where nothing was measured yet."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, samples: Iterable[float]) -> Percentiles:
        """By nearest rank: the smallest sample with at least that share at or below it."""
        ordered = sorted(samples)
        if not ordered:
            return cls()
        p50, p95, p99 = (
            ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95, 99)
        )
        return cls(p50, p95, p99)


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by status, and how many were accepted in all.

    The counts cover what is in the file: jobs of earlier runs count as they stand there.
    Ended jobs stay counted when ``history`` lets go of them; purged dead letters do not.
    wait: from being ready to run until started. run: how long the handler took.
    """

    accepted: int = 0
    queued: int = 0
    scheduled: int = 0
    processing: int = 0
    retrying: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    wait: Percentiles = Percentiles()
    run: Percentiles = Percentiles()


@dataclass(frozen=True, slots=True)
class Metrics(Counts):
    """The totals as attributes, and the same for each lane in ``by_priority``.

    throughput: jobs that ended per second, over the last ten seconds.
    utilisation: share of the workers' time that was spent on jobs, 0 to 1, over the same.
    oldest_queued: seconds that the longest waiting job has been ready to run; 0.0 if none.
    storage_error: why nothing can be written at the moment (a full disk); None when all is well.
    missed_events: transitions that no subscriber got, because one was too slow.
    """

    throughput: float = 0.0
    utilisation: float = 0.0
    oldest_queued: float = 0.0
    storage_error: str | None = None
    missed_events: int = 0
    by_priority: Mapping[Priority, Counts] = field(default_factory=dict)


class Lane:
    """The running figures of one priority."""

    def __init__(self) -> None:
        self.accepted = 0
        self.by_status: Counter[Status] = Counter()
        self.waits: deque[float] = deque(maxlen=SAMPLES)
        self.runs: deque[float] = deque(maxlen=SAMPLES)


class Recorder:
    """Counts what the dispatcher tells it; ``workers`` is the size of the pool."""

    def __init__(self, workers: int, now: float) -> None:
        self._workers = workers
        self._lanes = {priority: Lane() for priority in Priority}
        self._ended = 0
        self._busy = 0
        self._busy_seconds = 0.0  # the area under the number of busy workers
        self._updated = now
        # (time, ended, busy seconds) about once a second, the window's left edge first.
        self._history: deque[tuple[float, int, float]] = deque([(now, 0, 0.0)])

    def committed(self, changes: Changes, now: float) -> None:
        """What a turn has written. now: monotonic seconds."""
        self.ended(changes.completed, Status.COMPLETED)
        scheduled = [task for task in changes.inserted if task.due_at is not None]
        self.accepted(changes.inserted, Status.QUEUED)
        self.moved(scheduled, Status.QUEUED, Status.SCHEDULED)
        self.accepted(changes.turned_away, Status.DROPPED)
        self.started(changes.claimed, now)
        if changes.failed:
            dead = [failed.outcome for failed in changes.failed if failed.due_at is None]
            self.ended(dead, Status.FAILED)
            again = [failed.outcome for failed in changes.failed if failed.due_at is not None]
            self.ended(again, Status.RETRYING)
        self.moved(changes.returned, Status.PROCESSING, Status.QUEUED)
        self.moved(changes.cancelled, Status.PROCESSING, Status.CANCELLED)
        for task in changes.requeued:
            source = Status.RETRYING if task.due_at is None else Status.SCHEDULED
            self.moved([task], source, Status.QUEUED)

    def found(self, priority: Priority, status: Status, count: int) -> None:
        """Jobs that were in the file when it was opened."""
        self._lanes[priority].accepted += count
        self._lanes[priority].by_status[status] += count

    def accepted(self, tasks: Iterable[Task], status: Status) -> None:
        """New jobs."""
        for priority, count in Counter([task.priority for task in tasks]).items():
            self.found(priority, status, count)

    def moved(self, tasks: Iterable[Task], source: Status, target: Status) -> None:
        """Jobs that went from one status to another: the sum stays what it was."""
        for priority, count in Counter([task.priority for task in tasks]).items():
            by_status = self._lanes[priority].by_status
            by_status[source] -= count
            by_status[target] += count
            if target.ended:
                self._ended += count

    def purged(self, tasks: Iterable[Task]) -> None:
        """Dead letters that were deleted."""
        for priority, count in Counter([task.priority for task in tasks]).items():
            self.found(priority, Status.FAILED, -count)

    def started(self, tasks: Sequence[Task], now: float) -> None:
        """Queued jobs that were claimed."""
        self.moved(tasks, Status.QUEUED, Status.PROCESSING)
        for task in tasks[:: _step(tasks)]:
            self._lanes[task.priority].waits.append(now - task.queued_at)

    def ended(self, outcomes: Sequence[Outcome], target: Status) -> None:
        """Attempts that ended, and with what status for their jobs."""
        self.moved([outcome.task for outcome in outcomes], Status.PROCESSING, target)
        for outcome in outcomes[:: _step(outcomes)]:
            self._lanes[outcome.task.priority].runs.append(outcome.seconds)

    def busy(self, workers: int, now: float) -> None:
        """How many workers have jobs from ``now`` on."""
        self._busy_seconds += self._busy * (now - self._updated)
        self._busy, self._updated = workers, now
        if now - self._history[-1][0] >= 1.0:
            self._history.append((now, self._ended, self._busy_seconds))
            while now - self._history[1][0] > RATE_WINDOW:
                self._history.popleft()

    def snapshot(
        self, now: float, oldest_queued: float, storage_error: str | None, missed_events: int
    ) -> Metrics:
        """The figures of this instant."""
        self.busy(self._busy, now)
        start, ended, busy_seconds = self._history[0]
        elapsed = max(now - start, 1e-9)
        by_priority = {priority: _counts([lane]) for priority, lane in self._lanes.items()}
        totals = _counts(list(self._lanes.values()))
        return Metrics(
            **{name: getattr(totals, name) for name in Counts.__slots__},
            throughput=(self._ended - ended) / elapsed,
            utilisation=(self._busy_seconds - busy_seconds) / (elapsed * self._workers),
            oldest_queued=oldest_queued,
            storage_error=storage_error,
            missed_events=missed_events,
            by_priority=by_priority,
        )


def _step(events: Sequence[object]) -> int:
    """Of many events in one turn only some are samples, evenly picked: 16 to 31 of them."""
    return max(1, len(events) // 16)


def _counts(lanes: list[Lane]) -> Counts:
    def total(status: Status) -> int:
        return sum(lane.by_status[status] for lane in lanes)

    counts = {status.value: total(status) for status in Status}
    return Counts(
        accepted=sum(lane.accepted for lane in lanes),
        **counts,
        wait=Percentiles.of(sample for lane in lanes for sample in lane.waits),
        run=Percentiles.of(sample for lane in lanes for sample in lane.runs),
    )
