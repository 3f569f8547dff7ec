"""Batches: how many jobs an idle worker gets at a time, and which are with a worker now.

The millisecond rule: as many jobs as take about a millisecond, by the measured time of
their kind. That is up to 64 for no-op jobs and one for anything slow. So order, fairness
and latency are those of single claims wherever a handler does real work, and the cost of
a hand-over between threads is shared wherever it does not.

But: a plain data structure, used by the dispatcher's thread alone.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable

from final.job import Outcome, Task
from final.lanes import Lanes
from final.messages import Batch, Report

BATCH_SECONDS = 0.001
BATCH_LIMIT = 64
# A batch that was misjudged (63 quick jobs behind one slow one) is not waited for: after
# this time, if a worker is idle, what has not started goes back to the front of its lanes.
OVERDUE_SECONDS = 0.01
# Weight of the newest batch in the running average of a kind's handler time.
COST_WEIGHT = 0.05


class Batches:
    """What the ``workers`` are doing. ``idle`` counts those that wait for a batch."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.idle = workers
        self.in_flight: set[Batch] = set()
        self._cost: dict[str, float] = {}  # seconds that a job of this kind takes, about

    def plan(self, lanes: Lanes, token: int, now: float) -> list[Batch]:
        """Pick jobs from the lanes for every idle worker. Nothing is handed out yet."""
        batches = []
        for idle in range(self.idle, 0, -1):
            waiting = len(lanes)
            if not waiting:
                break
            # At most a fair share, so that four waiting jobs go to four idle workers.
            tasks = self._pick(lanes, limit=min(BATCH_LIMIT, -(-waiting // idle)))
            batches.append(Batch(tasks, token, now + OVERDUE_SECONDS))
        return batches

    def _pick(self, lanes: Lanes, limit: int) -> list[Task]:
        picked: list[Task] = []
        seconds = 0.0
        while len(picked) < limit and seconds < BATCH_SECONDS:
            task = lanes.pick()
            if task is None:
                break
            picked.append(task)
            if task.attempts:
                break  # tried before, so maybe about to end the process: nothing behind it
            seconds += self._cost.get(task.kind, BATCH_SECONDS)
        return picked

    def hand_out(self, batch: Batch) -> None:
        """A worker has it now."""
        self.in_flight.add(batch)
        self.idle -= 1

    def hand_in(self, report: Report) -> list[Outcome]:
        """A worker is through; returns the outcomes that count.

        The fence: an outcome whose token is not the job's latest belongs to an attempt that
        was given up, and is dropped.
        """
        batch, outcomes = report
        self.in_flight.discard(batch)
        self.idle += 1
        self._learn(outcomes)
        return [outcome for outcome in outcomes if outcome.task.token == batch.token]

    def _learn(self, outcomes: list[Outcome]) -> None:
        """Update the running averages.

        Averaged over the batch first: one job that had to wait 5 ms for the GIL says nothing
        about its kind.
        """
        by_kind: dict[str, list[float]] = {}
        for outcome in outcomes:
            by_kind.setdefault(outcome.task.kind, []).append(outcome.seconds)
        for kind, seconds in by_kind.items():
            mean = sum(seconds) / len(seconds)
            known = self._cost.get(kind, mean)
            self._cost[kind] = known + COST_WEIGHT * (mean - known)

    def next_overdue(self) -> float | None:
        """When a batch may have to be taken back; None while nobody could take it over."""
        if not self.idle:
            return None
        return min((batch.overdue_at for batch in self.in_flight if batch.tasks), default=None)

    def take_back_overdue(self, now: float) -> list[Task]:
        """Jobs that wait in a batch behind a slow one, if somebody has time for them."""
        if not self.idle:
            return []
        return self._take_back(batch for batch in self.in_flight if batch.overdue_at <= now)

    def take_back_unstarted(self) -> list[Task]:
        """All jobs that are with a worker and have not started."""
        return self._take_back(self.in_flight)

    def give_up(self) -> list[Task]:
        """All jobs that are with a worker, started or not."""
        return self.take_back_unstarted() + [t for b in self.in_flight for t in b.claimed]

    def _take_back(self, batches: Iterable[Batch]) -> list[Task]:
        back: list[Task] = []
        for batch in batches:
            # The worker may take the leftmost at the same moment; each job is popped once.
            taken: deque[Task] = deque()
            with contextlib.suppress(IndexError):
                while True:
                    taken.appendleft(batch.tasks.pop())
            batch.claimed = [task for task in batch.claimed if task not in taken]
            back += taken
        return back
