"""Who waits for the end of a job, and which handlers would wait for ever.

Used by the dispatcher's thread alone. What has become of a job it reads from the ledger.

But: it changes nothing there. Who has waited for too long says so itself (``Withdraw``), so there
are no timers here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable, Mapping

from final.engine.messages import Wait
from final.errors import StorageError, UnknownJob
from final.job import Status, Task
from final.ledger.base import Ledger
from final.workers.batch import Batch

# So many jobs are looked at, to find out whether one waits for itself.
MOST = 1_000

_FULL = (
    "the jobs that run of {} {!r} wait, too, and there may be no more ({}={}): raise it, or do not "
    "wait inside handlers."
)


class Waits:
    """The ``ledger`` knows what has become of a job.

    batches: those that are with a worker. One whose handler waits may be given up.
    """

    def __init__(self, ledger: Ledger, batches: Collection[Batch]) -> None:
        self._ledger = ledger
        self._batches = batches
        self._by_id: dict[str, list[Wait]] = {}  # of jobs that have not ended
        self._inside: dict[Wait, None] = {}  # those of handlers, oldest first; answered ones, too

    def look_up(self, wait: Wait) -> None:
        """Hand over the record of a job that has ended; else wait for its end."""
        try:
            record = self._ledger.get(wait.job_id)
            never_returns = record and not record.status.ended and self._is_for_itself(wait)
        except Exception as error:  # whatever it is: a job that cannot be read must not end us
            wait.refuse(error)
            return
        if record is None:
            wait.refuse(UnknownJob(wait.job_id))
        elif record.status.ended:
            wait.answer(record)
        elif never_returns:
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
            self._inside[wait] = None

    def ended(self, tasks: Iterable[Task]) -> None:
        """Answer those who wait for these jobs.

        Now, and not when the waiting thread looks: by then a short history may have let go of it.
        """
        if self._by_id:
            self.end(task.id for task in tasks)

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def end(self, job_ids: Iterable[str]) -> None:
        """Answer those who wait for these."""
        for job_id in job_ids:
            for wait in self._by_id.pop(job_id, ()):
                self.look_up(wait)

    def others_ended(self) -> None:
        """Answer those whose jobs another process has ended, whether it told or not."""
        if self._by_id:
            with contextlib.suppress(StorageError):  # then it is asked again
                self.end(self._ledger.ended_of(list(self._by_id)))

    def remove(self, wait: Wait) -> None:
        """Its sender waits no longer."""
        waits = self._by_id[wait.job_id]
        waits.remove(wait)
        if not waits:
            del self._by_id[wait.job_id]

    # ---- handlers that wait ----------------------------------------------------------------

    def _is_for_itself(self, wait: Wait) -> bool:
        """Whether its job is the one that asks, or waits for that, if by way of others.

        A job waits for those that its handler waits for, or will by its ``map``, and for those that
        it comes after.
        """
        if wait.sender not in self._batches:  # from outside, or of another queue with such ids
            return False
        reached, inside = {wait.job_id}, self._of_handlers()
        more = reached
        while more and len(reached) < MOST:
            waited_for = {w.job_id for w in inside if w.asker() in more}
            more = (waited_for | self._parents(more)) - reached
            reached = reached | more
        return wait.asker() in reached

    def _parents(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that wait for their parents."""
        records = [self._ledger.get(job_id) for job_id in job_ids]
        return {p for r in records if r and r.status is Status.WAITING for p in r.after}

    def _of_handlers(self) -> list[Wait]:
        """Those of handlers that hold a worker."""
        still = [w for w in self._inside if not w.answered and w.sender in self._batches]
        self._inside = dict.fromkeys(still)
        return still

    def _awaited(self) -> list[Wait]:
        """Those of handlers that hold a worker, and can do nothing else meanwhile."""
        return [wait for wait in self._of_handlers() if wait.awaited]

    def refuse_hopeless(self, caps: Mapping[str, int], group_limit: int | None) -> None:
        """Turn away a handler that waits for a job of a full kind or group, of which none will end.

        All that run of it wait, too: for such jobs, or for others that wait so. Of several handlers
        the one that came last is turned away. caps and group_limit: see ``Ledger``.
        """
        inside = self._awaited()
        if not inside:
            return
        running = [(batch, task) for batch in self._batches if (task := batch.running) is not None]
        stuck = {wait.sender for wait in inside}

        def why_never(wait: Wait) -> str:
            """What its job waits for in vain before it starts; empty where it may start."""
            of_kind = [batch for batch, task in running if task.kind == wait.kind]
            if len(of_kind) >= caps.get(wait.kind, math.inf) and stuck.issuperset(of_kind):
                return _FULL.format("kind", wait.kind, "Kind.workers", caps[wait.kind])
            of_group = [batch for batch, task in running if task.group == wait.group]
            limit = group_limit if group_limit is not None and wait.group else math.inf
            if len(of_group) >= limit and stuck.issuperset(of_group):
                return _FULL.format("group", wait.group, "group_limit", limit)
            return ""

        def is_hopeless(wait: Wait) -> bool:
            runs_in = [batch for batch, task in running if task.id == wait.job_id]
            return runs_in[0] in stuck if runs_in else bool(why_never(wait))

        while hopeful := {w.sender for w in inside if w.sender in stuck and not is_hopeless(w)}:
            stuck -= hopeful
        for wait in [w for w in inside if w.sender in stuck and why_never(w)][-1:]:
            self.remove(wait)
            text = f"wait({wait.job_id!r}) would never return: {why_never(wait)}"
            wait.refuse(RuntimeError(text))

    def senders(self) -> set[Batch | None]:
        """The batches of handlers that wait for a job."""
        return {wait.sender for wait in self._awaited()}

    def refuse_last(self, error: Exception) -> bool:
        """Turn away the handler that came last, whatever it waits for; False if none waits."""
        inside = self._awaited()
        for wait in inside:
            if wait.sender is inside[-1].sender:
                self.remove(wait)
                wait.refuse(error)
        return bool(inside)
