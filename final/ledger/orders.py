"""Orders for jobs: cancel, retry, purge; for one, or for many.

But: who asks is answered when the exchange is written. What is paused is in ``controls.py``, what
is periodic in ``periodic.py``.
"""

from __future__ import annotations

from final.errors import UnknownJob
from final.job import Status, Task
from final.ledger.base import Cancel, CancelAll, Move, Purge, Retry, RetryAll
from final.ledger.features.dependencies import Dependencies
from final.ledger.features.holders import Holders
from final.ledger.features.keys import KEY_IS_TAKEN
from final.ledger.history import FORGETTABLE, History
from final.ledger.index import Index
from final.ledger.sqlite import SqliteFile

JobOrder = Cancel | Retry | CancelAll | RetryAll | Purge


class Orders:
    """Those of an exchange, which may come to nothing: whatever they do, they do by moves."""

    def __init__(
        self,
        file: SqliteFile,
        index: Index,
        keys: Holders,
        dependencies: Dependencies,
        history: History,
    ) -> None:
        self._file = file
        self._index = index
        self._keys = keys
        self._dependencies = dependencies
        self._history = history
        self.begin()

    def begin(self) -> list[Task]:
        """An exchange begins; returns the list that running jobs will be in that are cancelled."""
        self._stop: list[Task] = []
        return self._stop

    def carry_out(self, order: JobOrder) -> object:
        """Its answer."""
        match order:
            case Cancel(job_id):
                return self._cancel(job_id)
            case Retry(job_id):
                return self._retry(job_id)
            case CancelAll(numbers, wanted):
                found = self._file.meant(numbers, wanted)
                return sum(self._cancel(task.id) is True for task in found)
            case RetryAll(numbers, wanted):
                return len(self._start_over(self._file.meant(numbers, wanted)))
            case Purge(numbers, wanted):
                return self._purge(self._file.meant(numbers, wanted))

    def _cancel(self, job_id: str) -> object:
        """A waiting job never runs; a running one is told, and is not tried again."""
        index = self._index
        task = index.live.get(job_id)
        if task is None:
            return self._cancel_aside(job_id)
        if task.status is Status.PROCESSING:
            self._stop.append(task)
        else:
            index.move([task], index.leave(task), Status.CANCELLED)
        return True

    def _cancel_aside(self, job_id: str) -> object:
        """One that is not indexed here: it has ended, or nobody handles its kind."""
        task = self._file.find(job_id)
        if task is None or task.status is None:
            return UnknownJob(job_id)
        status = self._moved().get(job_id, task.status)
        if status is None or status.ended:
            return False
        self._index.moves.append(Move([task], status, Status.CANCELLED))
        return True

    def _retry(self, job_id: str) -> object:
        task = self._file.find(job_id)
        letters = self._unmoved([task], Status.FAILED) if task else []
        if not letters:
            return ValueError(f"Job {job_id} is not a dead letter (any more).")
        if not self._index.handles(letters[0].kind):
            return ValueError(f"No handler for kind {letters[0].kind!r} of job {job_id}.")
        return len(self._start_over(letters)) or ValueError(KEY_IS_TAKEN.format(job_id))

    def _start_over(self, letters: list[Task]) -> list[Task]:
        """Dead letters, at the ends of their lanes; those that can."""
        index = self._index
        mine = [task for task in self._unmoved(letters, Status.FAILED) if index.handles(task.kind)]
        mine = self._keys.retryable(mine, index.moves)
        for task in mine:
            task.attempts, task.key, task.queued_at = 0, index.next_number(), index.now
        index.move(mine, Status.FAILED, Status.QUEUED)
        return mine

    def _purge(self, tasks: list[Task]) -> int:
        """They are deleted, if they have ended and no child needs them."""
        needed = self._dependencies.needed(tasks)
        tasks = [task for task in tasks if task.seq not in needed]
        gone = 0
        for status in (*FORGETTABLE, Status.FAILED):
            some = self._unmoved(tasks, status)
            self._index.move(some, status, None)
            gone += len(some)
            if status in FORGETTABLE:
                self._history.purge([task.seq for task in some])
        return gone

    def _unmoved(self, tasks: list[Task], status: Status) -> list[Task]:
        """Those in this status: what this exchange has moved has it in the file only."""
        some = [task for task in tasks if task.status is status]
        moved = self._moved() if some else ()
        return [task for task in some if task.id not in moved]

    def _moved(self) -> dict[str, Status | None]:
        """By this exchange so far, and what they are by now."""
        return {task.id: move.target for move in self._index.moves for task in move.tasks}
