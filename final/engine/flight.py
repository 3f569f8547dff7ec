"""What is with a worker: handing out, taking back, time-outs.

What has come back stays here until the ledger has written it: ``outcomes`` of attempts, jobs that
are ``unstarted``, and those set ``aside``, each with the token of their claim.

A plain data structure, used by the dispatcher's thread alone. What is to become of a job is
the ledger's business.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from final.engine.metrics import Running
from final.engine.sayings import Sayings
from final.job import Outcome, Task
from final.workers.batch import Batch
from final.workers.current import Delay, Timeout

# A batch that was misjudged (a slow job among quick ones) is not waited for: when a job of it has
# run for so long, the outcomes before it are collected, and what has not started goes back to the
# front of its lanes, where a more urgent job may pass it.
OVERDUE_SECONDS = 0.01
# Weight of the newest batch in the running average of a kind's handler time.
COST_WEIGHT = 0.05
# So many kinds are remembered, those that ran last.
KINDS = 1_000


class Crew(Protocol):
    """What is asked of the pool. None of it may block."""

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to an idle worker."""

    def tell(self, batch: Batch, task: Task) -> None:
        """Tell the handler of a running job to stop."""

    def obeys(self, batch: Batch, task: Task) -> bool:
        """Whether ``tell`` frees the worker in any case."""

    def replace(self, batch: Batch) -> bool:
        """Put a fresh worker in the place of the one that has this batch, and seize the batch.

        False: it cannot be had, or the worker is through with it; its report is on the way.
        """

    def hire(self, count: int) -> int:
        """Start so many more workers; returns how many there are threads for."""

    def retire(self) -> None:
        """Let an idle worker leave."""


class Flight:
    """The batches of ``workers`` in the ``pool``; ``idle`` of them wait for one.

    Where these are more than are ``wanted``, some leave as soon as they are idle.

    timeout and delay: see ``Timeout`` and ``Delay``. cost: seconds that a job of a kind takes,
    about. sayings: how far the jobs are, as their handlers say.
    """

    def __init__(
        self,
        pool: Crew,
        workers: int,
        timeout: Timeout,
        delay: Delay,
        sayings: Sayings | None = None,
    ) -> None:
        self.workers = self.idle = self.wanted = workers
        self.batches: dict[Batch, None] = {}  # in the order of handing out
        self.cost: OrderedDict[str, float] = OrderedDict()
        self.next_look = math.inf  # when ``look`` may find something
        self.sayings = sayings or Sayings()
        self._pool = pool
        self._timeout = timeout
        self._delay = delay
        self.written()

    def __bool__(self) -> bool:
        """Whether anything is with a worker, or has come back and is not written yet."""
        return bool(self.batches or self.outcomes or self.unstarted or self.aside)

    def written(self) -> None:
        """What has come back is in the ledger."""
        # By token and ``late``: what was claimed in one exchange and comes back together is written
        # together. Ends that are made here are ``late``, and stand apart: the worker may report
        # them, too, and only one counts.
        self.outcomes: dict[tuple[int, bool], list[Outcome]] = {}
        self.unstarted: list[tuple[int, Sequence[Task]]] = []
        self.aside: list[tuple[int, Sequence[Task]]] = []

    def hand_out(self, tasks: list[Task], now: float) -> None:
        overdue_at = now + OVERDUE_SECONDS if len(tasks) > 1 else math.inf
        batch = Batch(tasks, tasks[0].token, overdue_at, now + self._shortest(tasks))
        self.batches[batch] = None
        self.next_look = min(self.next_look, overdue_at, batch.check_at)
        self.idle -= 1
        self._pool.deliver(batch)

    def hand_in(self, batch: Batch) -> None:
        """A worker is through with it, or was given up."""
        del self.batches[batch]
        self.idle += 1
        self._collect(batch)
        self._let_surplus_go()

    def set_workers(self, count: int) -> int:
        """So many are wanted; returns how many there will be, where there are too few threads."""
        more = max(0, count - self.workers)
        hired = self._pool.hire(more) if more else 0
        self.workers += hired
        self.idle += hired
        self.wanted = count - more + hired
        self._let_surplus_go()
        return self.wanted

    def _let_surplus_go(self) -> None:
        while self.idle and self.workers > self.wanted:
            self._pool.retire()
            self.workers -= 1
            self.idle -= 1

    def tell(self, tasks: Collection[Task]) -> None:
        """Tell handlers of running jobs to stop. What has not begun is not charged."""
        told = set(tasks)
        for batch in self.batches if told else ():
            for task in [task for task in batch.claimed if task in told]:
                if task.token == batch.token:
                    self._take_unstarted(batch)
                    self._pool.tell(batch, task)

    def recall(self, running: bool = False) -> int:
        """Take back what has not started. running: also what runs; nobody waits for it then.

        Returns how many jobs that are.
        """
        count = 0
        for batch in self.batches:
            count += self._take_unstarted(batch)
            if running:
                self._collect(batch)
                self.unstarted.append((batch.token, batch.claimed))
                count += len(batch.claimed)
        return count

    def forgive(self) -> None:
        """Who ended because the queue is closed is not charged for it.

        Nor does it run again here, where it could only end so again.
        """
        for (token, late), ends in self.outcomes.items():
            if turned_away := [o.task for o in ends if o.closed and _goes_on(o.task, token)]:
                self.aside.append((token, turned_away))
                self.outcomes[token, late] = [o for o in ends if o.task not in turned_away]

    def abandon(self) -> None:
        """Nobody waits any more for what is out: tell it to stop, or not to begin."""
        for batch in self.batches:
            for task in batch.claimed:
                task.cancelled = True  # so that no worker begins it; the file does not say so
                self._pool.tell(batch, task)

    def is_running(self, batch: Batch | None) -> bool:
        """Whether this is a batch with a handler that runs and was not given up."""
        if batch is None or batch not in self.batches:
            return False
        return batch.running is not None and batch.running is not batch.late

    def running(self, now: float) -> Iterator[Running]:
        """The job of each busy worker at this moment."""
        for batch in self.batches:
            task, started, attempt = batch.running, batch.started, batch.attempt
            if task is not None and batch.worker is not None:
                seconds = max(0.0, now - started)
                name, said = batch.name, batch.said
                progress = said[1] if said is not None and said[0] is task else None
                yield Running(name, task.id, task.kind, task.priority, attempt, seconds, progress)

    # ---- time ------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End attempts whose time is up, and take back what waits behind a slow job."""
        if self.next_look > now:
            return
        for batch in list(self.batches):
            if batch.check_at <= now:
                self._check_time(batch, now)
            if batch.overdue_at <= now:
                self._look_after(batch, now)
        times = [min(batch.check_at, batch.overdue_at) for batch in self.batches]
        self.next_look = min(times, default=math.inf)

    def _look_after(self, batch: Batch, now: float) -> None:
        """Nobody waits for a slow job: not who has ended before it, nor who stands behind it."""
        self._collect(batch)
        since = now if batch.running is None else batch.started
        batch.overdue_at = since + OVERDUE_SECONDS if batch.tasks else math.inf
        if batch.overdue_at <= now:
            self._take_unstarted(batch)
            batch.overdue_at = math.inf

    def _check_time(self, batch: Batch, now: float) -> None:
        """End the attempt that is running, if its time is up.

        A thread that is still in its handler is given up at once. A coroutine or a process is
        stopped, and looked at again after as long.
        """
        task, started = batch.running, batch.started
        batch.check_at = now + self._shortest([*batch.claimed, task] if task else batch.claimed)
        if task is None:
            return  # none has started yet
        has_ended = task is batch.late
        due = started + self._timeout_of(task) * (2 if has_ended else 1)
        if due > now:  # it has started later than it was handed out
            batch.check_at = min(due, batch.check_at)
            return
        obeys = self._pool.obeys(batch, task)
        if obeys:
            self._pool.tell(batch, task)
        elif not self._replace_worker(batch, task):
            return  # until the report comes, or the next look at it
        if not has_ended:
            self._end_late(batch, task, started, now)
        if not obeys:
            self.hand_in(batch)

    def _replace_worker(self, batch: Batch, task: Task) -> bool:
        """Give up the thread that is on this job, and its batch; False if that cannot be."""
        self._take_unstarted(batch)  # or the worker could turn to the next of them meanwhile
        self._collect(batch)
        if batch.running is not task or not (task is batch.late or task in batch.claimed):
            return False  # it has just ended
        self._pool.tell(batch, task)
        return self._pool.replace(batch)

    def _end_late(self, batch: Batch, task: Task, started: float, now: float) -> None:
        """Its attempt has failed, whatever still comes of it."""
        batch.late = task
        batch.claimed = [other for other in batch.claimed if other is not task]
        late = Outcome(task, now - started, waited=started - task.queued_at)
        self._time_out(late)
        self.outcomes.setdefault((batch.token, True), []).append(late)

    # ---- taking back -----------------------------------------------------------------------

    def _take_unstarted(self, batch: Batch) -> int:
        """The worker may take the leftmost at the same moment; each job is popped once.

        A coroutine that waits for its loop has not started either.
        """
        taken: list[Task] = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(batch.tasks.pop())
        if (task := batch.withdraw()) is not None:
            batch.late = task
            taken.append(task)
        return self._give_back(batch, taken[::-1])

    def _give_back(self, batch: Batch, tasks: list[Task]) -> int:
        if tasks:
            gone = set(tasks)
            batch.claimed = [task for task in batch.claimed if task not in gone]
            self.unstarted.append((batch.token, tasks))
        return len(tasks)

    def _collect(self, batch: Batch) -> None:
        """Take the outcomes that have come in."""
        outcomes = [batch.outcomes.popleft() for _ in range(len(batch.outcomes))]
        if not outcomes:
            return
        self._learn(outcomes)
        if batch.check_at < math.inf:
            for outcome in outcomes:
                # It may come in just before ``look``; its time was up all the same.
                if outcome.seconds >= self._timeout_of(outcome.task):
                    self._time_out(outcome)
        self.outcomes.setdefault((batch.token, False), []).extend(outcomes)
        if batch in self.batches:  # it is still out
            ended = {outcome.task for outcome in outcomes}
            batch.claimed = [task for task in batch.claimed if task not in ended]

    def _time_out(self, outcome: Outcome) -> None:
        """Whatever came of it, it came too late."""
        timeout = self._timeout_of(outcome.task)
        outcome.error = f"TimeoutError: the attempt took longer than {timeout:g} s."
        outcome.result, outcome.note, outcome.permanent, outcome.again = None, None, False, None
        outcome.delay = self._delay(outcome.task.kind, outcome.task.attempts, False)

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
            known = self.cost.get(kind, mean)
            self.cost[kind] = known + COST_WEIGHT * (mean - known)
            self.cost.move_to_end(kind)
        while len(self.cost) > KINDS:
            self.cost.popitem(last=False)

    def _timeout_of(self, task: Task) -> float:
        return self._timeout(task.kind, task.timeout)

    def _shortest(self, tasks: Sequence[Task]) -> float:
        alike = {(task.kind, task.timeout) for task in tasks}
        return min([self._timeout(*each) for each in alike], default=math.inf)


def _goes_on(task: Task, token: int) -> bool:
    """Whether it may run again. (An attempt whose time was up has had its end, and that says.)"""
    return task.is_claimed_with(token) and not task.cancelled
