"""Questions about jobs, kept until they can be answered: Watch, Join and Inspect.

But: a plain data structure, used by the dispatcher's thread alone. Who has waited for too
long says so itself (``Withdraw``), so there are no timers here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from final.errors import UnknownJob
from final.messages import Inspect, Join, Watch
from final.metrics import Metrics
from final.stores.base import Store


class Questions:
    """Those that were asked and not answered. The ``store`` knows what has become of a job."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inspections: list[Inspect] = []
        self._joins: list[Join] = []
        self._new_watches: list[Watch] = []
        self._watches: dict[str, list[Watch]] = {}  # by the id of a job that has not ended

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
        else:
            self.watch(watch)

    def watch(self, watch: Watch) -> None:
        """Wait for the end of a job that has not ended."""
        self._watches.setdefault(watch.job_id, []).append(watch)

    def give_up(self, question: Watch | Join) -> None:
        """The sender has waited as long as it wanted."""
        match question:
            case Watch():
                watches = self._watches[question.job_id]
                watches.remove(question)
                if not watches:
                    del self._watches[question.job_id]
                question.refuse(TimeoutError(f"Job {question.job_id} has not ended in time."))
            case Join():
                self._joins.remove(question)
                question.refuse(TimeoutError("There were still unfinished jobs in the queue."))
