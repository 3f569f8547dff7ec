"""What the queue says about itself: counts that add up, percentiles, throughput, utilisation.

The invariant, in every ``Metrics`` and for every lane of it:

    queued + scheduled + waiting + processing + retrying
        + completed + failed + cancelled + dropped = accepted

``Recorder`` is fed by the dispatcher after each commit and read by it alone, so a
``Metrics`` is a picture of one instant without a lock.

But: percentiles come from the latest jobs (1,000 per lane), not from all of them. The
histograms count all jobs since the file was opened; of many that start or end in one turn, some
stand for the others.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from final.beyond.control import Pause, in_order
from final.beyond.progress import Progress
from final.errors import StorageError
from final.job import Outcome, Priority, Status
from final.ledger.base import Move

SAMPLES = 1_000  # the latest jobs per lane that percentiles are taken from
RATE_WINDOW = 10.0  # seconds over which throughput and utilisation are averaged
# Upper bounds of histograms: seconds, and jobs in a transaction.
SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800)
JOBS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)


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
class Histogram:
    """How many values fell between each of ``bounds`` and the one before it.

    counts: one more than there are bounds; the last is for what is above them all.
    total: the sum of all values.
    """

    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that is being made: by which worker (a thread's name), and for how long.

    worker: of a coroutine it is the thread that began it, and does other things meanwhile.
    progress: what it has said last, in this attempt.
    """

    worker: str
    job_id: str
    kind: str
    priority: Priority
    attempt: int
    seconds: float
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by status, and how many were accepted in all.

    The counts cover the life of the file: jobs of earlier runs count as they stand there. Ended
    jobs stay counted when ``history`` lets go of them, over restarts as well; purged dead letters
    do not.
    wait: from being ready to run until started. run: how long the handler took. Both count once
    an attempt has ended.
    oldest_queued: seconds that the first in line has been ready to run; 0.0 if none.
    waits and runs: the same as wait and run, as histograms of all attempts since it was opened.
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
    waiting: int = 0
    wait: Percentiles = Percentiles()
    run: Percentiles = Percentiles()
    oldest_queued: float = 0.0
    waits: Histogram = Histogram()
    runs: Histogram = Histogram()


@dataclass(frozen=True, slots=True)
class Metrics(Counts):
    """The totals as attributes, and the same for each lane in ``by_priority``.

    throughput: jobs that ended per second, over the last ten seconds.
    utilisation: share of the workers' time that was spent on jobs, 0 to 1, over the same.
    commits: how many jobs were accepted in one transaction, as a histogram (group commit).
    running: what the workers are on, job by job.
    storage_error: why nothing can be written at the moment (a full disk); None when all is well.
    missed_events: transitions that no subscriber got, because one was too slow.
    workers: how many there are. paused: what is, as ``JobQueue.paused`` has it.
    """

    throughput: float = 0.0
    utilisation: float = 0.0
    commits: Histogram = Histogram()
    running: Sequence[Running] = ()
    storage_error: str | None = None
    missed_events: int = 0
    workers: int = 0
    paused: Sequence[Pause] = ()
    by_priority: Mapping[Priority, Counts] = field(default_factory=dict)


class Tally:
    """A histogram that is still being filled."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def copy(self) -> Tally:
        tally = copy.copy(self)
        tally._counts = self._counts.copy()
        return tally

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class LaneFigures:
    """The running figures of one priority."""

    def __init__(self) -> None:
        self.accepted = 0
        self.by_status: Counter[Status] = Counter()
        self.waits: deque[float] = deque(maxlen=SAMPLES)
        self.runs: deque[float] = deque(maxlen=SAMPLES)
        self.all_waits = Tally(SECONDS)
        self.all_runs = Tally(SECONDS)

    def copy(self) -> LaneFigures:
        lane = copy.copy(self)
        lane.by_status, lane.waits = self.by_status.copy(), self.waits.copy()
        lane.runs = self.runs.copy()
        lane.all_waits, lane.all_runs = self.all_waits.copy(), self.all_runs.copy()
        # What others have brought since all were counted is known only by what we did with it.
        untold = sum(count for count in lane.by_status.values() if count < 0)
        lane.by_status, lane.accepted = +lane.by_status, lane.accepted - untold
        return lane


class Snapshot:
    """The figures of one instant, as the dispatcher hands them over: copied, and not yet sorted.

    So the work of percentiles is done by the first who asks for them, and holds up nobody else.
    others: fields of Metrics.
    """

    def __init__(
        self,
        lanes: Mapping[Priority, LaneFigures],
        waiting: Mapping[Priority, float],
        others: Mapping[str, Any],
    ) -> None:
        self.lanes = lanes
        self.waiting = waiting
        self.others = others
        self._metrics: Metrics | None = None
        # Guards _metrics: all who ask in a turn share it; a signal handler may ask meanwhile.
        self._mutex = threading.RLock()

    def metrics(self) -> Metrics:
        with self._mutex:
            if self._metrics is None:
                self._metrics = self._calculate()
            return self._metrics

    def _calculate(self) -> Metrics:
        by_priority = {
            priority: Counts(**_counts([lane]), oldest_queued=self.waiting.get(priority, 0.0))
            for priority, lane in self.lanes.items()
        }
        return Metrics(
            **_counts(list(self.lanes.values())),
            oldest_queued=max(self.waiting.values(), default=0.0),
            by_priority=by_priority,
            **self.others,
        )


class Recorder:
    """Counts what the dispatcher tells it."""

    def __init__(self, now: float) -> None:
        self._lanes = {priority: LaneFigures() for priority in Priority}
        self._commits = Tally(JOBS)
        self._ended = 0
        self._busy = 0.0  # share of the workers
        self._busy_seconds = 0.0  # the area under it
        self._updated = now
        self._recount_at = -math.inf  # when what others did may be counted again
        # (time, ended, busy seconds), two about once a second. The first is the last one before the
        # window. Between two of them it all rose evenly.
        self._history: deque[tuple[float, float, float]] = deque([(now, 0, 0.0)])

    def found(self, priority: Priority, status: Status, count: int) -> None:
        """Jobs that were in the file when it was opened."""
        self._lanes[priority].accepted += count
        self._lanes[priority].by_status[status] += count

    def recount(
        self, counts: Callable[[], Mapping[tuple[Priority, Status], int]], now: float
    ) -> None:
        """All jobs there are, where others move them, too.

        Now and then, so that it costs a twentieth of the time at most.
        """
        if now < self._recount_at:
            return
        began = time.monotonic()
        try:
            there = counts()
        except StorageError:
            return  # what was known last
        self._recount_at = now + max(1.0, 20 * (time.monotonic() - began))
        for lane in self._lanes.values():
            lane.accepted = 0
            lane.by_status.clear()
        for (priority, status), count in there.items():
            self.found(priority, status, count)

    def moved(self, moves: Collection[Move], now: float, recounted: Iterable[Move] = ()) -> None:
        """What an exchange has done. now: monotonic seconds. recounted: as in ``Given``."""
        self._advance(now)
        for tasks, source, target, *_ in (*recounted, *moves):
            priorities = [task.priority for task in tasks]
            for priority in set(priorities):
                count = priorities.count(priority)
                self._count(self._lanes[priority], source, target, count)
        new = sum([len(move.tasks) for move in moves if move.source is None])
        if ended := [outcome for move in moves for outcome in move.outcomes]:
            self._sample(ended)
        if new:
            self._commits.add(new)

    def _count(
        self, lane: LaneFigures, source: Status | None, target: Status | None, count: int
    ) -> None:
        if source is None:
            lane.accepted += count
        else:
            lane.by_status[source] -= count
        if target is None:
            lane.accepted -= count
        else:
            lane.by_status[target] += count
            if target.ended:
                self._ended += count

    def _sample(self, outcomes: Sequence[Outcome]) -> None:
        """Only now is it certain what a job has waited: one that was claimed may go back."""
        by_priority: dict[Priority, list[Outcome]] = {}
        for outcome in outcomes:
            by_priority.setdefault(outcome.task.priority, []).append(outcome)
        for priority, of_lane in by_priority.items():
            lane = self._lanes[priority]
            for outcome, times in _samples(of_lane):
                lane.waits.append(outcome.waited)
                lane.all_waits.add(outcome.waited, times)
                lane.runs.append(outcome.seconds)
                lane.all_runs.add(outcome.seconds, times)

    def busy(self, busy: int, workers: int, now: float) -> None:
        """How many workers have jobs from ``now`` on, of how many."""
        self._advance(now)
        self._busy = busy / max(1, workers)

    def _advance(self, now: float) -> None:
        """Time has passed, in which nothing changed."""
        note = now - self._history[-1][0] >= 1.0
        if note:
            self._history.append((self._updated, self._ended, self._busy_seconds))
        self._busy_seconds += self._busy * (now - self._updated)
        self._updated = now
        if note:
            self._history.append((now, self._ended, self._busy_seconds))
        while len(self._history) > 1 and now - self._history[1][0] >= RATE_WINDOW:
            self._history.popleft()

    def _at_left_edge(self, now: float) -> tuple[float, float, float]:
        """When the window begins, and how many jobs had ended and workers been busy by then."""
        start, ended, busy_seconds = self._history[0]
        edge = max(start, now - RATE_WINDOW)
        if edge > start:
            end, ended_then, busy_then = self._history[1]
            share = (edge - start) / (end - start)
            ended += share * (ended_then - ended)
            busy_seconds += share * (busy_then - busy_seconds)
        return edge, ended, busy_seconds

    def snapshot(
        self,
        now: float,
        waiting: Mapping[Priority, float],
        running: Sequence[Running],
        storage_error: str | None,
        missed_events: int,
        workers: int = 0,
        paused: Collection[Pause] = (),
    ) -> Snapshot:
        """The figures of this instant. waiting: seconds, of the first job of each lane."""
        self._advance(now)
        start, ended, busy_seconds = self._at_left_edge(now)
        elapsed = max(now - start, 1e-9)
        return Snapshot(
            {priority: lane.copy() for priority, lane in self._lanes.items()},
            waiting,
            {
                "throughput": (self._ended - ended) / elapsed,
                "utilisation": (self._busy_seconds - busy_seconds) / elapsed,
                "commits": self._commits.histogram(),
                "running": running,
                "storage_error": storage_error,
                "missed_events": missed_events,
                "workers": workers,
                "paused": in_order(paused),
            },
        )


def _samples(values: Sequence[Outcome]) -> Iterator[tuple[Outcome, int]]:
    """Of many outcomes in one turn only some, evenly picked, and how many each stands for.

    Up to 31 are all taken; from then on 16 to 31 of them.
    """
    step = max(1, len(values) // 16)
    for start in range(0, len(values), step):
        yield values[start], min(step, len(values) - start)


def _sum(histograms: list[Histogram]) -> Histogram:
    counts = tuple(map(sum, zip(*(each.counts for each in histograms), strict=True)))
    return Histogram(histograms[0].bounds, counts, sum(each.total for each in histograms))


def _counts(lanes: list[LaneFigures]) -> dict[str, Any]:
    """The fields of Counts, of these lanes together."""

    def total(status: Status) -> int:
        return sum(lane.by_status[status] for lane in lanes)

    return {
        "accepted": sum(lane.accepted for lane in lanes),
        **{status.value: total(status) for status in Status},
        "wait": Percentiles.of(sample for lane in lanes for sample in lane.waits),
        "run": Percentiles.of(sample for lane in lanes for sample in lane.runs),
        "waits": _sum([lane.all_waits.histogram() for lane in lanes]),
        "runs": _sum([lane.all_runs.histogram() for lane in lanes]),
    }
