"""The floor: what SQLite and the disk alone take for the statements that ``final`` makes.

No queue on top of these statements can be faster than this, so it shows what the queue
itself costs. The statements are not written down a second time: final's own store is
listened to once while it inserts, claims and completes batches of 512 jobs, and what it
said is then said again to an empty file, with nothing in between. Three commits a batch.

But: a floor for one batch at a time. A turn of final may do the three steps of three
batches in one commit, and a job that is claimed in the turn that inserts it needs no claim
of its own; so final can come closer to the floor than its own work would let you expect.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from final.job import Outcome
from final.stores.base import Changes
from final.stores.sqlite import SqliteStore
from tests.benchmarks.measure import Contender
from tests.benchmarks.ours import Durability, task

FLOOR_BATCH = 512

Statement = tuple[str, Sequence[Any]]


class Floor(Contender):
    """Raw SQLite. Everything happens in ``wait``: there are no producers and no workers."""

    def __init__(self, durability: Durability = "full") -> None:
        self.name = f"raw SQLite, {durability}"
        self.sync = durability

    def start(self, folder: Path, jobs: int) -> None:
        self._statements = spoken_for(jobs)
        store = SqliteStore(folder / "floor.db", self.sync)  # makes the schema, sets the modes
        self._store, self._connection = store, store._writer

    def put(self, payloads: Sequence[str]) -> None:
        """The payloads are in the statements already."""

    def wait(self) -> None:
        execute = self._connection.execute
        for sql, values in self._statements:
            execute(sql, values)

    def stop(self) -> None:
        self._store.close()


def spoken_for(jobs: int) -> list[Statement]:
    """What final's store says to SQLite for this many jobs."""
    store = SqliteStore(":memory:", "full")
    listener = Listener(store._writer)
    store._writer = cast(sqlite3.Connection, listener)
    for start in range(1, jobs + 1, FLOOR_BATCH):
        tasks = [task(number) for number in range(start, min(jobs + 1, start + FLOOR_BATCH))]
        now = tasks[0].enqueued_at
        store.commit(Changes(start, now, inserted=tasks))
        store.commit(Changes(start, now, claimed=tasks))
        store.commit(Changes(start, now, completed=[Outcome(each, 0.0) for each in tasks]))
    store._writer = listener.connection
    store.close()
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
