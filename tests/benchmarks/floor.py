"""The floor: what one thread takes that does nothing but what ``final``'s file must do.

Batches of 512 jobs are inserted, claimed and completed, with a commit after each step. No
queue on top of these statements can be much faster, so this shows what the queue itself
costs: threads that hand over to each other, lanes, messages, handlers.

``FileAlone`` is final's own file, called in a loop: a program without a queue would have
to build the values of its statements, too. ``Statements`` is less than any program can do:
the file is listened to once, and what it said is then said again to an empty one, with
nothing in between. So none of the SQL is written down a second time.

But: a floor for one batch at a time. A turn of final may do the three steps of three
batches in one commit, and a job that is claimed in the turn that inserts it needs no claim
of its own; so final can come closer to the floor than its own work would let you expect.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from final.job import Outcome, Status, Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.benchmarks.measure import Contender
from tests.benchmarks.ours import Durability, task

FLOOR_BATCH = 512

Statement = tuple[str, Sequence[Any]]


class FileAlone(Contender):
    """Everything happens in ``wait``: there are no producers and no workers."""

    def __init__(self, durability: Durability = "full") -> None:
        self.name = f"final's file alone, {durability}"
        self.sync = durability

    def start(self, folder: Path, jobs: int) -> None:
        self._tasks = [task(number) for number in range(1, jobs + 1)]
        self._file = SqliteFile(folder / "floor.db", self.sync)

    def put(self, payloads: Sequence[str]) -> None:
        """The payloads are in the tasks already."""

    def wait(self) -> None:
        work_through(self._file, self._tasks)

    def stop(self) -> None:
        self._file.close()


class Statements(FileAlone):
    """The same without any Python between the statements."""

    def __init__(self, durability: Durability = "full") -> None:
        super().__init__(durability)
        self.name = f"its statements alone, {durability}"

    def start(self, folder: Path, jobs: int) -> None:
        super().start(folder, jobs)
        self._statements = spoken_for(self._tasks)

    def wait(self) -> None:
        execute = self._file._writer.execute
        for sql, values in self._statements:
            execute(sql, values)


def work_through(file: SqliteFile, tasks: list[Task]) -> None:
    """Insert, claim and complete, as three turns of the dispatcher would."""
    for token, start in enumerate(range(0, len(tasks), FLOOR_BATCH), start=1):
        batch = tasks[start : start + FLOOR_BATCH]
        now = time.time()
        write(file, Move(batch, None, Status.QUEUED), now)
        for each in batch:
            each.token = token
        write(file, Move(batch, Status.QUEUED, Status.PROCESSING), now)
        outcomes = [Outcome(each, 0.0) for each in batch]
        write(file, Move(batch, Status.PROCESSING, Status.COMPLETED, token, outcomes), now)


def write(file: SqliteFile, move: Move, now: float) -> None:
    with file.transaction():
        file.write([move], now)


def spoken_for(tasks: list[Task]) -> list[Statement]:
    """What final's file says to SQLite to work through these jobs."""
    file = SqliteFile(":memory:", "full")
    listener = Listener(file._writer)
    file._writer = cast(sqlite3.Connection, listener)
    work_through(file, tasks)
    file._writer = listener.connection
    file.close()
    for each in tasks:  # the next file has not seen them
        each.token = 0
    return listener.heard


class Listener:
    """Stands in front of a connection and writes down what it is told."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.heard: list[Statement] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self.heard.append((sql, values))
        return self.connection.execute(sql, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)
