"""Questions about jobs, kept until they can be answered: Watch, Join and Inspect.

But: a plain data structure, used by the dispatcher's thread alone. Who has waited for too
long says so itself (``Withdraw``), so there are no timers here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from final.errors import UnknownJob
from final.messages import Batch, Inspect, Join, Watch
from final.metrics import Metrics
from final.stores.base import Store


class Questions:
    """Those that were asked and not answered. The ``store`` knows what has become of a job.

    in_flight: the batches that are with a worker. One whose handler asks may be given up.
    """

    def __init__(self, store: Store, in_flight: Collection[Batch]) -> None:
        self._store = store
        self._in_flight = in_flight
        self._inspections: list[Inspect] = []
        self._joins: list[Join] = []
        self._new_watches: list[Watch] = []
        self._watches: dict[str, list[Watch]] = {}  # by the id of a job that has not ended
        self._inside: list[Watch] = []  # those of handlers, oldest first; answered ones, too

    def add(self, question: Watch | Join | Inspect) -> None:
        """Not answered before ``answer``: the turn that it came with has changes to commit."""
        match question:
            case Watch():
                self._new_watches.append(question)
            case Join():
                self._joins.append(question)
            case Inspect():
                self._inspections.append(question)

    def answer(self, metrics: Callable[[], Metrics], is_busy: Callable[[], bool]) -> None:
        """Answer what can be answered now."""
        for inspect in self._inspections:
            inspect.answer(metrics())
        self._inspections = []
        if self._joins and not is_busy():
            for join in self._joins:
                join.answer(None)
            self._joins = []
        watches, self._new_watches = self._new_watches, []
        for watch in watches:
            self._look_up(watch)

    def watched(self) -> bool:
        """Whether anybody waits for the end of a job."""
        return bool(self._watches)

    def ended(self, job_ids: Iterable[str]) -> None:
        """Answer those who wait for these jobs.

        Now, and not when the waiting thread looks: by then a short history may have let go of it.
        """
        for job_id in job_ids:
            for watch in self._watches.pop(job_id, ()):
                self._look_up(watch)

    def _look_up(self, watch: Watch) -> None:
        """Hand over the record of a job that has ended; else wait for its end."""
        try:
            record = self._store.get(watch.job_id)
        except Exception as error:  # whatever it is: a job that cannot be read must not end us
            watch.refuse(error)
            return
        if record is None:
            watch.refuse(UnknownJob(watch.job_id))
        elif record.status.ended:
            watch.answer(record)
        elif self._waits_for_itself(watch):
            watch.refuse(
                RuntimeError(
                    f"wait({watch.job_id!r}) in the handler of job {watch.asker()!r} would never "
                    "return: that job is this one, or waits for it."
                )
            )
        else:
            self.watch(watch)

    def watch(self, watch: Watch) -> None:
        """Wait for the end of a job that has not ended."""
        self._watches.setdefault(watch.job_id, []).append(watch)
        if watch.sender is not None:
            self._inside.append(watch)

    # ---- handlers that wait ----------------------------------------------------------------

    def _waits_for_itself(self, watch: Watch) -> bool:
        """Whether its job is the one that asks, or waits for that, if by way of others."""
        if watch.sender is None:
            return False
        reached, inside = {watch.job_id}, self._from_handlers()
        while more := {w.job_id for w in inside if w.asker() in reached} - reached:
            reached |= more
        return watch.asker() in reached

    def _from_handlers(self) -> list[Watch]:
        """Those of handlers that hold a worker."""
        waiting = [w for w in self._inside if not w.answered and w.sender in self._in_flight]
        self._inside = waiting
        return waiting

    def senders(self) -> set[Batch | None]:
        """The batches of handlers that wait for a job."""
        return {watch.sender for watch in self._from_handlers()}

    def refuse_last(self, error: Exception) -> bool:
        """Turn away the handler that came last, whatever it waits for; False if none waits."""
        inside = self._from_handlers()
        for watch in inside:
            if watch.sender is inside[-1].sender:
                self._drop(watch)
                watch.refuse(error)
        return bool(inside)

    # ---- those who have waited long enough -------------------------------------------------

    def give_up(self, question: Watch | Join) -> None:
        """The sender has waited as long as it wanted."""
        match question:
            case Watch():
                self._drop(question)
                question.refuse(TimeoutError(f"Job {question.job_id} has not ended in time."))
            case Join():
                self._joins.remove(question)
                question.refuse(TimeoutError("There were still unfinished jobs in the queue."))

    def _drop(self, watch: Watch) -> None:
        watches = self._watches[watch.job_id]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.job_id]
