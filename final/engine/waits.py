"""Who waits for the end of a job, and which handlers would wait for ever.

But: a plain data structure, used by the dispatcher's thread alone. Who has waited for too long
says so itself (``Withdraw``), so there are no timers here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from final.engine.messages import Wait
from final.errors import UnknownJob
from final.job import Task
from final.ledger.base import Ledger
from final.workers.batch import Batch


class Waits:
    """The ``ledger`` knows what has become of a job.

    batches: those that are with a worker. One whose handler waits may be given up.
    """

    def __init__(self, ledger: Ledger, batches: Collection[Batch]) -> None:
        self._ledger = ledger
        self._batches = batches
        self._by_id: dict[str, list[Wait]] = {}  # of jobs that have not ended
        self._inside: list[Wait] = []  # those of handlers, oldest first; answered ones, too

    def look_up(self, wait: Wait) -> None:
        """Hand over the record of a job that has ended; else wait for its end."""
        try:
            record = self._ledger.get(wait.job_id)
        except Exception as error:  # whatever it is: a job that cannot be read must not end us
            wait.refuse(error)
            return
        if record is None:
            wait.refuse(UnknownJob(wait.job_id))
        elif record.status.ended:
            wait.answer(record)
        elif self._is_for_itself(wait):
            wait.refuse(
                RuntimeError(
                    f"wait({wait.job_id!r}) in the handler of job {wait.asker()!r} would never "
                    "return: that job is this one, or waits for it."
                )
            )
        else:
            self.add(wait)

    def add(self, wait: Wait) -> None:
        """Wait for the end of a job that has not ended."""
        self._by_id.setdefault(wait.job_id, []).append(wait)
        if wait.sender is not None:
            self._inside.append(wait)

    def ended(self, tasks: Iterable[Task]) -> None:
        """Answer those who wait for these jobs.

        Now, and not when the waiting thread looks: by then a short history may have let go of it.
        """
        for task in tasks if self._by_id else ():
            for wait in self._by_id.pop(task.id, ()):
                self.look_up(wait)

    def remove(self, wait: Wait) -> None:
        """Its sender waits no longer."""
        waits = self._by_id[wait.job_id]
        waits.remove(wait)
        if not waits:
            del self._by_id[wait.job_id]

    # ---- handlers that wait ----------------------------------------------------------------

    def _is_for_itself(self, wait: Wait) -> bool:
        """Whether its job is the one that asks, or waits for that, if by way of others."""
        if wait.sender is None:
            return False
        reached, inside = {wait.job_id}, self._from_handlers()
        while more := {w.job_id for w in inside if w.asker() in reached} - reached:
            reached |= more
        return wait.asker() in reached

    def _from_handlers(self) -> list[Wait]:
        """Those of handlers that hold a worker."""
        self._inside = [w for w in self._inside if not w.answered and w.sender in self._batches]
        return self._inside

    def senders(self) -> set[Batch | None]:
        """The batches of handlers that wait for a job."""
        return {wait.sender for wait in self._from_handlers()}

    def refuse_last(self, error: Exception) -> bool:
        """Turn away the handler that came last, whatever it waits for; False if none waits."""
        inside = self._from_handlers()
        for wait in inside:
            if wait.sender is inside[-1].sender:
                self.remove(wait)
                wait.refuse(error)
        return bool(inside)
