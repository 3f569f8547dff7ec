"""Planted faults: stores that break one promise each, for the labs to find.

A lab that finds nothing may be blind. So each is also run with a fault that it must catch,
``FAULT=early-acknowledgement make lab-crash``, and a test sees to it that it does.
Each fault is a mistake that real queues have made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import final.job_queue
from final.job import Status
from final.stores import Changes, Recovered, SqliteStore


class EarlyAcknowledgement(SqliteStore):
    """Says "written" when it is not, and writes each turn together with the next.

    So does everybody who answers first and commits in the background.
    """

    _late: Changes | None = None

    def commit(self, changes: Changes) -> None:
        late, self._late = self._late, changes
        if late is not None:
            super().commit(late)

    def close(self) -> None:
        if self._late is not None:
            super().commit(self._late)
        super().close()


class CompletedBeforeRun(SqliteStore):
    """Writes a job as completed when a worker takes it: at most once, by mistake."""

    def _write(self, changes: Changes) -> None:
        super()._write(changes)
        self._end_as("completed", changes.claimed, changes.now)


class UnchargedClaim(SqliteStore):
    """Starts jobs without writing it down: one that kills the process does so for ever."""

    def _write(self, changes: Changes) -> None:
        claimed, changes.claimed = changes.claimed, []
        super()._write(changes)
        changes.claimed = claimed


class ForgottenOutcome(SqliteStore):
    """Announces completions and never writes them: the next start runs the jobs again."""

    def _write(self, changes: Changes) -> None:
        completed, changes.completed = changes.completed, []
        super()._write(changes)
        changes.completed = completed


class RemovedJournal(SqliteStore):
    """Tidies up at the start: a "-wal" file must be some leftover of the crash."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        Path(f"{os.fspath(path)}-wal").unlink(missing_ok=True)
        super().__init__(path, durability)


class ChargedInCompany(SqliteStore):
    """Takes whatever was claimed when its process ended for the cause, begun or not."""

    def recover(self) -> Recovered:
        recovered = super().recover()
        for unfinished in recovered.unfinished:
            if unfinished.status is Status.PROCESSING:
                unfinished.task.alone = True
                unfinished.task.interrupted += 1
        return recovered


class SyncOff(SqliteStore):
    """Says "full" and never asks the disk to sync."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        super().__init__(path, "off")


class SyncNormal(SqliteStore):
    """Says "full" and syncs at checkpoints only."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        super().__init__(path, "normal")


@contextlib.contextmanager
def queues_use(store: type[SqliteStore]) -> Iterator[None]:
    """Queues that are opened meanwhile keep their jobs in such a store."""
    with mock.patch.object(final.job_queue, "SqliteStore", store):
        yield
