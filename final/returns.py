"""What comes back from the workers, until it is written: outcomes, and jobs that did not start.

Most comes in a worker's report. The rest is fetched: when an attempt has had its time, when
a batch is stuck behind a slow job, and when the queue closes.

But: nothing is decided here about the jobs that come back. The next plan records it all,
and when its commit fails, the one after that.
"""

from __future__ import annotations

from final.batches import Batches, too_late
from final.job import Outcome, Task
from final.messages import Batch, Workers
from final.waiting import Waiting


class Returns:
    """Fetches from the ``batches`` of the ``workers``; what did not start is ``waiting`` again.

    outcomes: of attempts. unstarted: jobs that were claimed and are queued again, uncharged.
    cancelled: the same, but nobody wants them any more.
    """

    def __init__(self, batches: Batches, waiting: Waiting, workers: Workers) -> None:
        self._batches = batches
        self._waiting = waiting
        self._workers = workers
        self.written()

    def written(self) -> None:
        """All of it has been committed."""
        self.outcomes: list[Outcome] = []
        self.unstarted: list[Task] = []
        self.cancelled: list[Task] = []

    def __bool__(self) -> bool:
        """Whether anything has come back and is not written."""
        return bool(self.outcomes or self.unstarted or self.cancelled)

    def lanes_are_ahead(self) -> bool:
        """Whether jobs stand in their lanes that are processing by what is written."""
        return bool(self.unstarted or self.cancelled)

    def hand_in(self, batch: Batch) -> None:
        """Take the report of a worker that is through with its batch."""
        self.outcomes += self._batches.hand_in(batch)

    def look_at_batches(self, now: float) -> None:
        """Fetch what takes too long, if it is time to look."""
        if self._batches.next_check() > now:
            return
        self._end_late_attempts(now)
        outcomes, unstarted = self._batches.look_after(now)
        self.outcomes += outcomes
        self._take_back(unstarted)
        self._batches.checked()

    def _end_late_attempts(self, now: float) -> None:
        """End attempts whose time is up; what they still send is behind the fence."""
        for batch, task, timeout in self._batches.out_of_time(now):
            obeys = self._workers.obeys(batch, task)
            self._workers.tell(batch, task)
            if not obeys and not self._workers.replace(batch):
                continue  # until the report comes, or the next look at it
            waited = batch.started - task.queued_at
            error = too_late(timeout)
            self.outcomes.append(Outcome(task, now - batch.started, error=error, waited=waited))
            task.token += 1
            if not obeys:
                outcomes, unstarted = self._batches.abandon(batch)
                self.outcomes += outcomes
                self._take_back(unstarted)

    def forgive_those_turned_away(self) -> None:
        """While the queue closes: who ended because of that is not charged for it.

        Nor does it run again here, where it could only end so again.
        """
        for outcome in self.outcomes.copy():
            task = outcome.task
            if outcome.closed and not task.cancelled:
                self.outcomes.remove(outcome)
                task.attempts -= 1
                self.unstarted.append(task)
                self._waiting.set_aside(task)

    def fetch_unstarted(self) -> None:
        """Take back every job that has not started."""
        self._take_back(self._batches.take_back_unstarted())

    def fetch_all(self) -> int:
        """Take back every job that has not ended, started or not; returns how many."""
        outcomes, unfinished = self._batches.give_up()
        self.outcomes += outcomes
        self._take_back(unfinished)
        return len(unfinished)

    def _take_back(self, tasks: list[Task]) -> None:
        """Not charged, and first in their lanes."""
        for task in tasks:
            task.attempts -= 1
        self.unstarted += [task for task in tasks if not task.cancelled]
        self.cancelled += [task for task in tasks if task.cancelled]
        self._waiting.lanes.put_back(task for task in tasks if not task.cancelled)
