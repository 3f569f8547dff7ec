"""What anybody may ask of the database, in any thread, while the dispatcher writes.

One connection, made when it is first needed, and again after it was lost. After ``close``: one for
each question. A question may take long, and the next one waits for it; so the dispatcher asks its
own (``OwnLookups``) on the connection that it has.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import psycopg

from final.beyond.control import Pause, readable
from final.beyond.filters import Filter
from final.beyond.periodic import Entry
from final.job import AttemptRecord, GroupRecord, JobRecord, Priority, Status
from final.ledger.base import ProcessRecord
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import Address
from final.ledger.postgres.matching import HOW_MANY, matching
from final.ledger.postgres.migrate import in_schema
from final.ledger.postgres.periodic import ENTRIES, entry_of
from final.ledger.postgres.rows import LANES
from final.ledger.postgres.session import Session, break_off, connect, explained
from final.ledger.rows import attempt_of, record_of
from final.payload import decode


class PostgresLookups:
    """See ``Ledger``. All of them raise StorageError."""

    def __init__(self, address: Address) -> None:
        self._address = address
        # Guards the four below. No user code runs under it; who has it may look again, in a
        # signal handler or a finalizer.
        self._mutex = threading.RLock()
        self._connection: psycopg.Connection | None = None
        self._closed = False
        self._failed_at, self._failure = 0.0, ""  # when no connection could be had, and why
        self._asked: tuple[psycopg.Connection, float] | None = None  # and since when

    def counts(self) -> dict[tuple[Priority, Status], int]:
        return {(LANES[n], Status(status)): count for n, status, count in self._read(sql.COUNTS)}

    def ages(self) -> dict[Priority, float]:
        (ages,) = self._read(sql.AGES)
        return {LANES[n]: age for n, age in enumerate(ages) if age is not None}

    def get(self, job_id: str) -> JobRecord | None:
        records = self._records(f"{sql.RECORD} FROM jobqueue.job WHERE id = %s", [job_id])
        return records[0] if records else None

    def jobs(
        self, wanted: Filter, limit: int, before: str | int | None = None, payloads: bool = True
    ) -> list[JobRecord]:
        bound, bounds = "true", [before]
        if before is None:
            bounds = []
        elif isinstance(before, int):
            bound = "seq < %s"
        else:
            bound = "seq < (SELECT seq FROM jobqueue.job WHERE id = %s)"
        source, where, values = matching(wanted, self._how_many, bound, bounds)
        columns = sql.RECORD if payloads else sql.SUMMARY
        values += [None if limit < 0 else limit]
        return self._records(f"{columns} FROM {source} WHERE {where} LIMIT %s", values)

    def numbers(self, wanted: Filter, after: int, upto: int, limit: int) -> list[int]:
        bound = "seq > %s AND seq <= %s"
        found = matching(wanted, self._how_many, bound, (after, upto), direction="ASC")
        query = f"SELECT seq FROM {found.source} WHERE {found.where} LIMIT %s"
        return [seq for (seq,) in self._read(query, [*found.values, limit])]

    def first_and_last(self) -> tuple[int, int]:
        ((first, last),) = self._read(sql.FIRST_AND_LAST)
        return first, last

    def clock(self, wall: float) -> float:
        ((now,),) = self._read(sql.CLOCK)
        return float(now)

    def hold_up_writing(self) -> bool:
        return False

    def _how_many(self, name: str, value: str) -> int:
        ((count,),) = self._read(HOW_MANY, [name, value])
        return int(count)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        return [attempt_of(row) for row in self._read(sql.ATTEMPTS, [job_id])]

    def ended_of(self, job_ids: Sequence[str]) -> list[str]:
        return [job_id for (job_id,) in self._read(sql.ENDED_OF, [list(job_ids)])]

    def known(self, job_ids: Collection[str]) -> set[str]:
        return {job_id for (job_id,) in self._read(sql.TAKEN, [list(job_ids)])}

    def parents(self, job_id: str) -> dict[str, Any]:
        rows = self._read(sql.PARENTS, [job_id])
        results = {parent: result or result_bytes for parent, result, result_bytes in rows}
        return {parent: None if r is None else decode(r) for parent, r in results.items()}

    def paused(self) -> frozenset[Pause]:
        return frozenset(readable(self._read(sql.PAUSED)))

    def periodic(self) -> list[Entry]:
        return [entry_of(row) for row in self._read(ENTRIES)]

    def groups(self, limit: int, wall: float) -> list[GroupRecord]:
        return [GroupRecord(*row) for row in self._read(sql.GROUPS, [limit])]

    def processes(self, ours: int) -> list[ProcessRecord]:
        return [
            ProcessRecord(
                owner, name, workers, started_at, lease, json.loads(running), owner == ours
            )
            for owner, name, workers, started_at, lease, running in self._read(sql.OWNERS)
        ]

    def oldest_view(self) -> tuple[int, float, str]:
        """Its age in transactions and in seconds, and who holds it; of nobody if there is none."""
        age, seconds, holder = next(iter(self._read(sql.OLDEST_VIEW)), (0, 0.0, ""))
        return age, seconds, holder

    def tables(self) -> list[tuple[str, int, int]]:
        """Dead rows and bytes of each, as far as the statistics have them."""
        return [(name, dead, size) for name, dead, size in self._read(sql.TABLES)]

    def close(self) -> None:
        """Waits for nobody: a question that is under way is asked again, by whoever asks it."""
        self._closed = True
        if self._mutex.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._connection.close()
            finally:
                self._mutex.release()
        elif (connection := self._connection) is not None:
            break_off(connection)

    def _records(self, query: str, values: Sequence[object]) -> list[JobRecord]:
        records = []
        for *row, result, result_bytes, payload, payload_bytes in self._read(query, values):
            stored = payload_bytes if payload is None else payload
            records.append(record_of((*row, result or result_bytes, stored)))
        return records

    def _read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        if any(isinstance(value, str) and "\0" in value for value in values):
            return []  # PostgreSQL has no such text
        try:
            return self._ask(statement, values)
        except psycopg.Error as error:
            raise explained(self._address, error) from error

    def _ask(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        query, came = in_schema(statement, self._address.schema), time.monotonic()
        with self._mutex:
            if came < self._failed_at:  # while this one waited: nor would it be answered
                raise psycopg.OperationalError(self._failure)
            try:
                if self._connection is not None and not self._closed:
                    with contextlib.suppress(psycopg.OperationalError):
                        return self._answer(self._connection, query, values)
                with self._fresh() as connection:
                    return self._answer(connection, query, values)
            finally:
                if self._closed and self._connection is not None:
                    self._connection.close()

    def _answer(
        self, connection: psycopg.Connection, query: bytes, values: Sequence[object]
    ) -> list[tuple[Any, ...]]:
        self._asked = (connection, time.monotonic())
        try:
            return connection.cursor(binary=True).execute(query, values).fetchall()
        finally:
            self._asked = None

    def break_off_if_stuck(self, seconds: float) -> None:
        """End a question that has waited for so long: no answer will come. From another thread."""
        asked = self._asked
        if asked is not None and time.monotonic() - asked[1] > seconds:
            break_off(asked[0])

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[psycopg.Connection]:
        """A new connection, which is kept for the next question."""
        try:
            connection = connect(self._address)
        except psycopg.Error as error:
            self._failure, self._failed_at = str(error), time.monotonic()
            raise
        if self._closed:
            with contextlib.closing(connection):
                yield connection
            return
        if self._connection is not None:
            self._connection.close()
        self._connection = connection
        yield connection


class OwnLookups(PostgresLookups):
    """For the dispatcher's thread, between its transactions: only what is found at once."""

    def __init__(self, session: Session, reconnect: Callable[[], None]) -> None:
        super().__init__(session.address)
        self._session = session
        self._reconnect = reconnect

    def _ask(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if not self._session.is_lost:
            with contextlib.suppress(psycopg.OperationalError):
                return self._session.ask(statement, values).fetchall()
        self._reconnect()
        return self._session.ask(statement, values).fetchall()
