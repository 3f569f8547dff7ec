"""Orders: cancel a job, revive or delete dead letters, drop the oldest for the newest.

They change jobs that wait, wherever they wait. They are rare, so each is a transaction of
its own, carried out after the plan of the turn, which then never has to undo them.
Nothing changes in memory before its commit, so there is nothing to undo here either.

But: a job that runs is only told. What becomes of it is its handler's business, except that
it does not run again; that is written down before it is told, so it holds after a crash too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from final.batches import Batches
from final.errors import StorageError, UnknownJob
from final.job import Status, Task
from final.lines import Lines
from final.messages import Batch, Cancel, Order, Purge, Revive, Workers
from final.metrics import Recorder
from final.returns import Returns
from final.stores.base import Changes, Store
from final.waiting import Waiting


class Orders:
    """``commit`` makes changes durable and tells everybody; ``handles``: see Dispatcher."""

    def __init__(
        self,
        store: Store,
        waiting: Waiting,
        lines: Lines,
        batches: Batches,
        returns: Returns,
        recorder: Recorder,
        *,
        handles: Callable[[str], bool],
        workers: Workers,
        commit: Callable[[Changes], None],
    ) -> None:
        self._store = store
        self._waiting = waiting
        self._lines = lines
        self._batches = batches
        self._returns = returns
        self._recorder = recorder
        self._handles = handles
        self._workers = workers
        self._commit = commit

    def carry_out(self, order: Order, changes: Changes, now: float) -> None:
        """Do it and answer. ``changes``: still empty. now: monotonic seconds."""
        try:
            match order:
                case Cancel():
                    order.answer(self._cancel(order.job_id, changes))
                case Revive():
                    order.answer(self._revive(order, changes, now))
                case Purge():
                    order.answer(self._purge(order.kind, changes))
        except Exception as error:  # whatever it is, it concerns this order alone
            order.refuse(error)

    def _cancel(self, job_id: str, changes: Changes) -> bool:
        """A waiting job never runs; a running one is told, and is not tried again."""
        for task, status in self._waiting:
            if task.id == job_id:
                changes.cancelled.append(task)
                self._commit(changes)
                self._remove([task], status, Status.CANCELLED)
                return True
        for batch, task in self._not_waiting():
            if task.id == job_id:
                changes.cancelling.append(task)
                self._commit(changes)
                task.cancelled = True
                if batch is not None:
                    self._workers.tell(batch, task)
                return True
        if not self._store.taken([job_id]):
            raise UnknownJob(job_id)
        return False

    def _not_waiting(self) -> Iterator[tuple[Batch | None, Task]]:
        """Jobs that are with a worker; those that have run, where that is not written yet."""
        for batch in self._batches.in_flight:
            yield from ((batch, task) for task in batch.claimed if task.token == batch.token)
        yield from ((None, outcome.task) for outcome in self._returns.outcomes)

    def _revive(self, order: Revive, changes: Changes, now: float) -> int:
        """Dead letters start over, at the end of their lanes."""
        letters = self._store.dead_letters(order.job_id, order.kind)
        if order.job_id is not None:
            if not letters:
                raise ValueError(f"Job {order.job_id} is not a dead letter (any more).")
            if not self._handles(letters[0].kind):
                raise ValueError(f"No handler for kind {letters[0].kind!r} of job {order.job_id}.")
        changes.revived = [task for task in letters if self._handles(task.kind)]
        for task in changes.revived:
            task.attempts = 0
            task.place = self._waiting.next_number()
        self._commit(changes)
        for task in changes.revived:
            task.queued_at = now
            self._waiting.lanes.append(task)
        self._recorder.moved(changes.revived, Status.FAILED, Status.QUEUED)
        return len(changes.revived)

    def _purge(self, kind: str | None, changes: Changes) -> int:
        letters = self._store.dead_letters(None, kind)
        changes.forgotten = [task.seq for task in letters]
        self._commit(changes)
        self._recorder.purged(letters)
        return len(letters)

    def make_room(self, changes: Changes) -> None:
        """Drop the oldest jobs of full lanes for those that want to come in."""
        try:
            for request in self._lines.without_room():
                # Known ids are refused here already: no job may be dropped for their sake.
                ids = [task.id for task in request.tasks[request.planned :]]
                if taken := self._store.taken(ids):
                    self._lines.cut(request, taken)
                if request.answered:
                    continue
                coming = request.tasks[request.planned :]
                lane = request.next_task().priority
                wanted = sum(task.priority is lane and task.due_at is None for task in coming)
                changes.dropped += self._waiting.lanes.oldest(lane, wanted)
            self._commit(changes)
        except StorageError as error:
            for request in self._lines.dissolve():
                request.refuse(StorageError(str(error), request.accepted()))
            return
        self._remove(changes.dropped, Status.QUEUED, Status.DROPPED)

    def _remove(self, tasks: list[Task], source: Status, target: Status) -> None:
        """These jobs have ended where they waited."""
        for task in tasks:
            self._waiting.remove(task)
        self._recorder.moved(tasks, source, target)
