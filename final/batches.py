"""Batches: how many jobs an idle worker gets at a time, and which are with a worker now.

The millisecond rule: as many jobs as take about a millisecond, by the measured time of
their kind. That is up to 128 for no-op jobs and one for anything slow. So order, fairness
and latency are those of single claims wherever a handler does real work, and the cost of
a hand-over between threads is shared wherever it does not.

The rule may be wrong: a kind that was quick turns slow. So a batch that is still out after
ten milliseconds keeps the job that runs, and the rest goes back.

But: a plain data structure, used by the dispatcher's thread alone.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator

from final.job import Outcome, Task
from final.lanes import Lanes
from final.limits import Gate
from final.messages import Batch
from final.metrics import Running

BATCH_SECONDS = 0.001
BATCH_LIMIT = 128
# A batch that was misjudged (a slow job among quick ones) is not waited for: after this time
# its outcomes are collected, and what has not started goes back to the front of its lanes, where
# a more urgent job may pass it.
OVERDUE_SECONDS = 0.01
# Weight of the newest batch in the running average of a kind's handler time.
COST_WEIGHT = 0.05
# It is kept for so many kinds, the latest that ran. (There may be a kind for each customer.)
KINDS = 1_000


class Batches:
    """What the ``workers`` are doing. ``idle`` counts those that wait for a batch.

    gate: the rate limits. timeout: seconds for an attempt of a job that names none itself.
    shares: whether jobs of a kind may share a batch. Not where telling one to stop would
        reach whichever runs by then.
    """

    def __init__(
        self,
        workers: int,
        gate: Gate,
        timeout: float | None,
        shares: Callable[[str], bool] = lambda kind: True,
    ) -> None:
        self.workers = workers
        self.idle = workers
        self.in_flight: dict[Batch, None] = {}  # in the order of handing out
        self._gate = gate
        self._timeout = timeout
        self._kind_shares = shares
        # No batch has to be looked at before then, so that a turn does not look at all of them.
        self._soonest = math.inf
        # Seconds that a job of this kind takes, about; the kind that ran last is the last.
        self._cost: OrderedDict[str, float] = OrderedDict()

    # ---- handing out -----------------------------------------------------------------------

    def plan(self, lanes: Lanes, token: int, now: float) -> list[Batch]:
        """Pick jobs from the lanes for every idle worker. Nothing is handed out yet."""
        if not self.idle:
            return []
        for kind in lanes.held_kinds():
            lanes.release(kind, self._gate.allowance(kind, now))
        batches = []
        for idle in range(self.idle, 0, -1):
            # At most a fair share, so that four waiting jobs go to four idle workers.
            share = -(-lanes.ready() // idle)
            tasks = self._pick(lanes, min(BATCH_LIMIT, share), now)
            if not tasks:
                break
            check_at = now + min(self._timeout_of(task) for task in tasks)
            overdue_at = now + OVERDUE_SECONDS if len(tasks) > 1 else math.inf
            batches.append(Batch(tasks, token, overdue_at, check_at))
        return batches

    def _pick(self, lanes: Lanes, limit: int, now: float) -> list[Task]:
        picked: list[Task] = []
        seconds = 0.0
        while len(picked) < limit and seconds < BATCH_SECONDS and self._gate.is_open(now):
            task = lanes.pick(self._shares if picked else None)
            if task is None:
                break
            if not self._gate.admits(task.kind, now):
                lanes.hold(task)
                continue
            picked.append(task)
            if not self._shares(task):
                break
            seconds += self._cost.get(task.kind, BATCH_SECONDS)
        return picked

    def _shares(self, task: Task) -> bool:
        """Whether it may be in company. One that a crash has interrupted may be its cause."""
        return not task.interrupted and self._kind_shares(task.kind)

    def hand_out(self, batch: Batch) -> None:
        """A worker has it now."""
        self.in_flight[batch] = None
        self._soonest = min(self._soonest, batch.check_at, batch.overdue_at)
        self.idle -= 1

    # ---- handing in ------------------------------------------------------------------------

    def hand_in(self, batch: Batch) -> list[Outcome]:
        """A worker is through; returns the outcomes that count."""
        self.in_flight.pop(batch, None)
        self.idle += 1
        return self._collect(batch)

    def _collect(self, batch: Batch) -> list[Outcome]:
        """The outcomes that have come in and count.

        The fence: an outcome whose token is not the job's latest belongs to an attempt that
        was given up, and is dropped.
        """
        outcomes = [batch.outcomes.popleft() for _ in range(len(batch.outcomes))]
        self._learn(outcomes)
        outcomes = [outcome for outcome in outcomes if outcome.task.token == batch.token]
        if batch.check_at < math.inf:
            for outcome in outcomes:
                self._fail_if_late(outcome)
        return outcomes

    def _fail_if_late(self, outcome: Outcome) -> None:
        """It may come in just before ``out_of_time`` looks; its time was up all the same."""
        timeout = self._timeout_of(outcome.task)
        if outcome.seconds >= timeout:
            outcome.error, outcome.result, outcome.permanent = too_late(timeout), None, False

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
            self._cost.move_to_end(kind)
        while len(self._cost) > KINDS:
            self._cost.popitem(last=False)

    def abandon(self, batch: Batch) -> tuple[list[Outcome], list[Task]]:
        """Give up the worker of a batch; another has taken its place.

        Returns the outcomes that it had ready and the jobs that it had not started.
        """
        self.in_flight.pop(batch, None)
        self.idle += 1
        return self._collect(batch), self._take_back([batch])

    # ---- time ------------------------------------------------------------------------------

    def out_of_time(self, now: float) -> Iterator[tuple[Batch, Task, float]]:
        """Batches whose running job has had its time: with that job and the time it had."""
        for batch in list(self.in_flight):
            if batch.check_at > now:
                continue
            task, started = batch.running, batch.started
            batch.check_at = now + min(map(self._timeout_of, batch.claimed), default=math.inf)
            if task is None or task.token != batch.token:
                continue  # none has started yet, or this one has had its end and cleans up
            due = started + self._timeout_of(task)
            if due <= now:
                yield batch, task, self._timeout_of(task)
            else:  # it has started later than it was handed out
                batch.check_at = min(due, batch.check_at)

    def is_running(self, batch: Batch | None) -> bool:
        """Whether this is a batch with a handler that runs and was not given up."""
        if batch is None or batch not in self.in_flight:
            return False
        task = batch.running
        return task is not None and task.token == batch.token

    def running(self, now: float) -> Iterator[Running]:
        """The job of each busy worker at this moment."""
        for batch in self.in_flight:
            task, started, attempt = batch.running, batch.started, batch.attempt
            if task is not None and batch.worker is not None:
                seconds = max(0.0, now - started)
                name = batch.worker.name
                yield Running(name, task.id, task.kind, task.priority, attempt, seconds)

    def next_check(self) -> float:
        """When ``out_of_time`` or ``look_after`` may have something; infinity for never."""
        return self._soonest

    def checked(self) -> None:
        """All batches have been looked at; find out when to do so next."""
        times = [min(batch.check_at, batch.overdue_at) for batch in self.in_flight]
        self._soonest = min(times, default=math.inf)

    def look_after(self, now: float) -> tuple[list[Outcome], list[Task]]:
        """Batches that take longer than they should: their worker has met a slow job.

        Returns the outcomes of the jobs before it, which must not wait for it, and the jobs
        behind it, whether or not another worker is idle: what is urgent may come before them.
        """
        outcomes: list[Outcome] = []
        unstarted: list[Task] = []
        for batch in self.in_flight:
            if batch.overdue_at <= now:
                unstarted += self._take_back([batch])
                collected = self._collect(batch)
                ended = [outcome.task for outcome in collected]
                batch.claimed = [task for task in batch.claimed if task not in ended]
                outcomes += collected
                batch.overdue_at = math.inf
        return outcomes, unstarted

    def take_back_unstarted(self) -> list[Task]:
        """All jobs that are with a worker and have not started."""
        return self._take_back(self.in_flight)

    def give_up(self) -> tuple[list[Outcome], list[Task]]:
        """The outcomes that have come in, and all jobs that are with a worker, started or not."""
        outcomes: list[Outcome] = []
        unfinished = self.take_back_unstarted()
        for batch in self.in_flight:
            collected = self._collect(batch)
            ended = [outcome.task for outcome in collected]
            unfinished += [t for t in batch.claimed if t.token == batch.token and t not in ended]
            outcomes += collected
        return outcomes, unfinished

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

    def _timeout_of(self, task: Task) -> float:
        timeout = self._timeout if task.timeout is None else task.timeout
        return math.inf if timeout is None else timeout


def too_late(timeout: float) -> str:
    return f"TimeoutError: the attempt took longer than {timeout:g} s."
