"""A file without a service: read as it is, changed without running anything.

To look, the file is opened for reading only, so that goes on beside a process that owns it. To
change it, it is owned for that moment, but no ledger is opened: a ``JobQueue`` would start to run
what waits there. What was interrupted stays as it is until a process with handlers opens the file.

But: ``capacity`` is not looked at, because it is no property of the file but of whoever opens it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from final.cli.places import Document, Misuse, Refused, Unreachable
from final.errors import UnknownJob
from final.job import JobRecord, Priority, Status, Task
from final.ledger.base import Move
from final.ledger.owner import InUse
from final.ledger.rows import (
    ATTEMPT_COLUMNS,
    RECORD_COLUMNS,
    SUMMARY_COLUMNS,
    attempt_of,
    record_of,
)
from final.ledger.schema import APPLICATION_ID
from final.ledger.sqlite import SqliteFile
from final.payload import encode
from final.service.models import JobDetails, JobSummary, JobView, NewJob, moment

LARGEST_PAYLOAD = 1024 * 1024  # bytes; as much as the service takes


class File:
    """A ``Place``. create: whether the file may be a new one."""

    def __init__(self, path: str, create: bool = False) -> None:
        self.name = path
        if not create and not Path(path).is_file():
            raise Unreachable(f"There is no file {path}: check --db, or enqueue a job to make it.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # no connection is kept open

    # ---- looking -----------------------------------------------------------------------------

    def jobs(
        self, status: Status | None, kind: str | None, priority: Priority | None, limit: int
    ) -> Iterator[Document]:
        wanted = {"status": status, "kind": kind, "priority": priority}
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        where = " AND ".join(["true", *(f"{name} = :{name}" for name in given)])
        clause = f"WHERE {where} ORDER BY seq DESC LIMIT :limit"
        for record in self._records(clause, {**given, "limit": limit}, SUMMARY_COLUMNS):
            yield JobSummary.of(record).model_dump(mode="json")

    def job(self, job_id: str) -> Document:
        failures = self._rows(
            f"SELECT {ATTEMPT_COLUMNS} FROM failure JOIN job USING (seq)"
            " WHERE job.id = :id ORDER BY failure.token",
            {"id": job_id},
        )
        details = JobDetails.of(self._record(job_id))
        return details.with_failures(list(map(attempt_of, failures))).model_dump(mode="json")

    def stats(self) -> Document:
        counted = self._rows("SELECT priority, status, count(*) FROM job GROUP BY 1, 2", {})
        counts = {(priority, status): count for priority, status, count in counted}
        lanes = {
            str(priority): {
                str(status): counts.get((priority, status), 0)  # texts, and equal to them
                for status in Status
            }
            for priority in Priority
        }
        totals = {str(status): sum(lane[status] for lane in lanes.values()) for status in Status}
        return {
            "at": moment(time.time()).isoformat().replace("+00:00", "Z"),
            **dict.fromkeys(("uptime", "demo", "stopping", "storage_error", "capacity")),
            **dict.fromkeys(("fairness", "throughput", "utilisation", "workers")),
            "totals": _lane_stats(totals),
            "lanes": {priority: _lane_stats(lane) for priority, lane in lanes.items()},
            "running": [],
        }

    def _record(self, job_id: str) -> JobRecord:
        records = self._records("WHERE id = :id", {"id": job_id})
        if not records:
            raise Refused(str(UnknownJob(job_id)))
        return records[0]

    def _records(
        self, clause: str, values: dict[str, Any], columns: str = RECORD_COLUMNS
    ) -> list[JobRecord]:
        query = f"SELECT {columns} FROM job JOIN payload USING (seq) {clause}"
        return [record_of(row) for row in self._rows(query, values)]

    def _rows(self, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Read-only for SQLite too: it would else tidy up after the owner when it leaves."""
        try:
            address = f"{Path(self.name).absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                (application_id,) = connection.execute("PRAGMA application_id").fetchone()
                if application_id != APPLICATION_ID:
                    raise Unreachable(f"{self.name} is not a file of this queue: check --db.")
                return connection.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise Unreachable(f"Cannot read {self.name}: {error}.") from error

    # ---- changing ----------------------------------------------------------------------------

    def create(self, wishes: Document) -> Document:
        task = _new_task(wishes)
        with self._owned() as file:
            if file.taken([task.id]):
                raise Refused(f"Already in the queue: {task.id}. Nothing was stored.")
            task.seq = file.last_number() + 1
            file.write([Move([task], None, task.status)], task.enqueued_at)
        return self._view(task.id)

    def retry(self, job_id: str) -> Document:
        with self._owned() as file:
            task = file.find(job_id)
            if task is None or task.status is not Status.FAILED:
                status = self._record(job_id).status
                raise Refused(f"Job {job_id} is {status}: only a failed job can be retried.")
            task.key = file.last_number() + 1
            file.write([Move([task], Status.FAILED, Status.QUEUED)], time.time())
        return self._view(job_id)

    def cancel(self, job_id: str) -> Document:
        """Also one that was running when the last process was killed: it does not run again."""
        with self._owned() as file:
            task = file.find(job_id)
            status = self._record(job_id).status
            if task is None or (status.ended and status is not Status.CANCELLED):
                raise Refused(
                    f"Job {job_id} is {status}: only one that has not ended can be cancelled."
                )
            if not status.ended:
                file.write([Move([task], status, Status.CANCELLED, task.token)], time.time())
        return self._view(job_id)

    @contextlib.contextmanager
    def _owned(self) -> Iterator[SqliteFile]:
        """The file as ours, in one transaction."""
        try:
            file = SqliteFile(self.name, "full")
        except InUse as error:
            raise Unreachable(f"{error} If that is a service, give its --url.") from None
        try:
            with file.transaction():
                yield file
        finally:
            file.close()

    def _view(self, job_id: str) -> Document:
        return JobView.of(self._record(job_id)).model_dump(mode="json")


def _new_task(wishes: Document) -> Task:
    """Checked as the service does."""
    try:
        job = NewJob.model_validate(wishes).job()
        payload = encode("payload", job.payload, LARGEST_PAYLOAD)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise Misuse("; ".join(problems)) from None
    except (TypeError, ValueError) as error:
        raise Misuse(str(error)) from None
    now = time.time()
    task = Task(job.id, payload, job.priority, job.kind, job.timeout, size=len(payload))
    task.enqueued_at, task.status = now, Status.QUEUED
    if job.run_at is not None:
        due = job.run_at.timestamp() if isinstance(job.run_at, datetime) else now + job.run_at
        if due > now:
            task.due_at, task.status = due, Status.SCHEDULED
    return task


def _lane_stats(counts: dict[str, int]) -> Document:
    """What is measured while jobs run is in no file."""
    return {
        "accepted": sum(counts.values()),
        **counts,
        **dict.fromkeys(("oldest_queued", "wait", "run")),
    }
