"""What anybody may ask of the file, in any thread, while the dispatcher writes.

But: which connection reads, and that it never delays a commit, is the business of ``database.py``.
"""

from __future__ import annotations

import abc
import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from final.beyond.filters import Filter
from final.beyond.periodic import Entry
from final.job import AttemptRecord, GroupRecord, JobRecord, Priority, Status
from final.ledger.matching import HOW_MANY, matching
from final.ledger.rows import (
    ATTEMPT_COLUMNS,
    RECORD_COLUMNS,
    SOUND,
    SUMMARY_COLUMNS,
    attempt_of,
    record_of,
)
from final.payload import decode

COUNTS = (
    "SELECT priority, status, sum(count) FROM (SELECT priority, status, count(*) AS count FROM job"
    " GROUP BY priority, status UNION ALL SELECT * FROM forgotten) GROUP BY priority, status"
)

PERIODIC = (
    "SELECT name, schedule, timezone, missed, job, payload, paused, last_tick, next_tick"
    " FROM periodic ORDER BY name"
)
# No index has them: each claim and each end would have to write it, for who looks now and then.
GROUPS = (
    "SELECT grp, sum(status = 'queued') AS queued, sum(status = 'processing'),"
    " coalesce(max(0.0, ? - min(iif(status = 'queued', coalesce(due_at, enqueued_at), NULL))), 0.0)"
    " FROM job WHERE status IN ('queued', 'processing') AND grp IS NOT NULL"
    f" AND {SOUND} GROUP BY grp ORDER BY queued DESC, grp LIMIT ?"
)
FIRST_AND_LAST = (
    "SELECT coalesce((SELECT min(seq) FROM job), 1), coalesce((SELECT max(seq) FROM job), 0)"
)


# So many records are made before others may have the interpreter: some tenths of a millisecond.
RECORDS_AT_ONCE = 32


class SqliteLookups(abc.ABC):
    """Queries, for whoever can ``_read``."""

    def __init__(self) -> None:
        # Held by who makes a long list of records. Several who did that at a time would each take
        # their turn at the interpreter before the dispatcher gets it back.
        self._long_list = threading.RLock()

    @abc.abstractmethod
    def _read(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """All rows of a query; from any thread."""

    def clock(self, wall: float) -> float:
        return wall

    def hold_up_writing(self) -> bool:
        return False

    def counts(self) -> dict[tuple[Priority, Status], int]:
        counts = {}
        for priority, status, count in self._read(COUNTS, ()):
            with contextlib.suppress(ValueError):  # a row that makes no sense
                counts[Priority(priority), Status(status)] = count
        return counts

    def periodic(self) -> list[Entry]:
        return [Entry(*row) for row in self._read(PERIODIC, ())]

    def groups(self, limit: int, wall: float) -> list[GroupRecord]:
        return [GroupRecord(*row) for row in self._read(GROUPS, (wall, limit))]

    def get(self, job_id: str) -> JobRecord | None:
        records = self._records("id = ?", (job_id,))
        return records[0] if records else None

    def jobs(
        self, wanted: Filter, limit: int, before: str | int | None = None, payloads: bool = True
    ) -> list[JobRecord]:
        source, where, values = matching(wanted, self._how_many)
        if before is not None:
            first = "?" if isinstance(before, int) else "(SELECT seq FROM job WHERE id = ?)"
            where, values = f"{where} AND seq < {first}", [*values, before]
        clause = f"{where} ORDER BY seq DESC LIMIT ?"
        columns = RECORD_COLUMNS if payloads else SUMMARY_COLUMNS
        return self._records(clause, (*values, limit), columns, source)

    def numbers(self, wanted: Filter, after: int, upto: int, limit: int) -> list[int]:
        source, where, values = matching(wanted, self._how_many)
        query = f"SELECT seq FROM {source} WHERE {where} AND seq > ? AND seq <= ?"
        rows = self._read(f"{query} ORDER BY seq LIMIT ?", (*values, after, upto, limit))
        return [seq for (seq,) in rows]

    def first_and_last(self) -> tuple[int, int]:
        ((first, last),) = self._read(FIRST_AND_LAST, ())
        return first, last

    def _how_many(self, name: str, value: str) -> int:
        ((count,),) = self._read(HOW_MANY, (name, value))
        return int(count)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        rows = self._read(
            f"SELECT {ATTEMPT_COLUMNS} FROM failure JOIN job USING (seq)"
            " WHERE job.id = ? ORDER BY failure.token",
            (job_id,),
        )
        return [attempt_of(row) for row in rows]

    def known(self, job_ids: Collection[str]) -> set[str]:
        rows = self._read(
            "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(job_ids)),),
        )
        return {job_id for (job_id,) in rows}

    def parents(self, job_id: str) -> dict[str, Any]:
        rows = self._read(
            "SELECT parent, result FROM dependency LEFT JOIN job ON job.id = parent"
            " WHERE child = (SELECT seq FROM job WHERE id = ?) ORDER BY number",
            (job_id,),
        )
        return {parent: None if r is None else decode(r) for parent, r in rows}

    def _records(
        self,
        clause: str,
        values: Sequence[object],
        columns: str = RECORD_COLUMNS,
        source: str = "job",
    ) -> list[JobRecord]:
        query = (
            f"SELECT {columns} FROM {source} JOIN payload USING (seq) WHERE {SOUND} AND {clause}"
        )
        rows = self._read(query, values)
        if len(rows) <= RECORDS_AT_ONCE:
            return [record_of(row) for row in rows]
        records = []
        with self._long_list:
            for start in range(0, len(rows), RECORDS_AT_ONCE):
                records += [record_of(row) for row in rows[start : start + RECORDS_AT_ONCE]]
                time.sleep(0)
        return records


class LookupsBy(SqliteLookups):
    """For whoever can ``read``: called with each query and its values, it returns all rows."""

    def __init__(self, read: Callable[[str, Sequence[object]], list[tuple[Any, ...]]]) -> None:
        super().__init__()
        self._all_rows = read

    def _read(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._all_rows(statement, values)
