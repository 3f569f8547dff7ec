"""Planted faults: files that break one promise each, for the labs to find.

A lab that finds nothing may be blind. So each is also run with a fault that it must catch,
``FAULT=early-acknowledgement make lab-crash``, and a test sees to it that it does.
Each fault is a mistake that real queues have made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import final.job_queue
from final.job import Status, Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile

# Where a job is claimed, comes back without having started, and has run well.
CLAIMED = (Status.QUEUED, Status.PROCESSING)
GIVEN_BACK = (Status.PROCESSING, Status.QUEUED)
COMPLETED = (Status.PROCESSING, Status.COMPLETED)


class EarlyAcknowledgement(SqliteFile):
    """Says "written" when it is not, and commits each turn together with the next.

    So does everybody who answers first and commits in the background.
    """

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        is_second = self._writer.in_transaction
        if not is_second:
            self._writer.execute("BEGIN IMMEDIATE")
        yield
        if is_second:
            self._writer.execute("COMMIT")

    def close(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("COMMIT")
        super().close()


class CompletedBeforeRun(SqliteFile):
    """Writes a job as completed when a worker takes it: at most once, by mistake."""

    def write(self, moves: Sequence[Move], wall: float) -> None:
        super().write(moves, wall)
        self._writer.execute("UPDATE job SET status = 'completed' WHERE status = 'processing'")


class UnchargedClaim(SqliteFile):
    """Starts jobs without writing it down: one that kills the process does so for ever."""

    def write(self, moves: Sequence[Move], wall: float) -> None:
        known = [move for move in moves if move[1:3] not in (CLAIMED, GIVEN_BACK)]
        super().write([move._replace(token=0) for move in known], wall)
        self._writer.execute(  # those that were claimed as they came in
            "UPDATE job SET status = 'queued', attempts = 0, token = 0 WHERE status = 'processing'"
        )


class ForgottenOutcome(SqliteFile):
    """Announces completions and never writes them: the next start runs the jobs again."""

    def write(self, moves: Sequence[Move], wall: float) -> None:
        super().write([move for move in moves if move[1:3] != COMPLETED], wall)


class RemovedJournal(SqliteFile):
    """Tidies up at the start: a "-wal" file must be some leftover of the crash."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        Path(f"{os.fspath(path)}-wal").unlink(missing_ok=True)
        super().__init__(path, durability)


class ChargedInCompany(SqliteFile):
    """Takes whatever was claimed when its process ended for the cause, begun or not."""

    def interrupted(self) -> list[tuple[Task, float]]:
        found = super().interrupted()
        for task, _ in found:
            task.alone = True
            task.interrupted += 1
        return found


class SyncOff(SqliteFile):
    """Says "full" and never asks the disk to sync."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        super().__init__(path, "off")


class SyncNormal(SqliteFile):
    """Says "full" and syncs at checkpoints only."""

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        super().__init__(path, "normal")


@contextlib.contextmanager
def queues_use(file: type[SqliteFile]) -> Iterator[None]:
    """Queues that are opened meanwhile keep their jobs in such a file."""
    with mock.patch.object(final.job_queue, "SqliteFile", file):
        yield
