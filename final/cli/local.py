"""A file without a service: read as it is, changed without running anything.

To look, the file is opened for reading only, so that goes on beside a process that owns it. To
change it, it is owned for that moment, by its store alone (``SqliteStore``): a ``JobQueue`` would
start to run what waits there. What was interrupted stays as it is until a process with handlers
opens the file.

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
from final.job import AttemptRecord, JobRecord, Priority, Status, Task
from final.payload import decode, encode
from final.service.models import JobDetails, JobSummary, JobView, NewJob, moment
from final.stores import SqliteStore
from final.stores.base import Changes, DuplicateIds, Recovered
from final.stores.owner import InUse
from final.stores.sqlite import APPLICATION_ID, RECORD_COLUMNS

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
        for record in self._records(clause, {**given, "limit": limit}):
            yield JobSummary.of(record).model_dump(mode="json")

    def job(self, job_id: str) -> Document:
        details = JobDetails.of(self._record(job_id)).with_failures(
            [
                AttemptRecord(*row)
                for row in self._rows(
                    "SELECT number, failure.started_at, failure.ended_at, failure.error, traceback"
                    " FROM failure JOIN job USING (seq) WHERE job.id = :id ORDER BY failure.token",
                    {"id": job_id},
                )
            ]
        )
        return details.model_dump(mode="json")

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

    def _records(self, clause: str, values: dict[str, Any]) -> list[JobRecord]:
        rows = self._rows(f"SELECT {RECORD_COLUMNS} FROM job {clause}", values)
        return [_to_record(dict(row)) for row in rows]

    def _rows(self, query: str, values: dict[str, Any]) -> list[sqlite3.Row]:
        """Read-only for SQLite too: it would else tidy up after the owner when it leaves."""
        try:
            address = f"{Path(self.name).absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                (application_id,) = connection.execute("PRAGMA application_id").fetchone()
                if application_id != APPLICATION_ID:
                    raise Unreachable(f"{self.name} is not a file of this queue: check --db.")
                return connection.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise Unreachable(f"Cannot read {self.name}: {error}.") from error

    # ---- changing ----------------------------------------------------------------------------

    def create(self, wishes: Document) -> Document:
        task = _new_task(wishes)
        with self._owned() as (store, found):
            task.seq = found.last_number + 1
            try:
                store.commit(_changes(found, inserted=[task]))
            except DuplicateIds:
                raise Refused(f"Already in the queue: {task.id}. Nothing was stored.") from None
        return self._view(task.id)

    def retry(self, job_id: str) -> Document:
        with self._owned() as (store, found):
            tasks = store.dead_letters(job_id, None)
            if not tasks:
                status = self._record(job_id).status
                raise Refused(f"Job {job_id} is {status}: only a failed job can be retried.")
            tasks[0].place = found.last_number + 1
            store.commit(_changes(found, revived=tasks))
        return self._view(job_id)

    def cancel(self, job_id: str) -> Document:
        """Also one that was running when the last process was killed: it does not run again."""
        with self._owned() as (store, found):
            tasks = [each.task for each in found.unfinished if each.task.id == job_id]
            status = self._record(job_id).status
            if not tasks and status is not Status.CANCELLED:
                raise Refused(
                    f"Job {job_id} is {status}: only one that has not ended can be cancelled."
                )
            if tasks:
                store.commit(_changes(found, cancelled=tasks))
        return self._view(job_id)

    @contextlib.contextmanager
    def _owned(self) -> Iterator[tuple[SqliteStore, Recovered]]:
        """The file as ours, and what is in it."""
        try:
            store = SqliteStore(self.name, "full")
        except InUse as error:
            raise Unreachable(f"{error} If that is a service, give its --url.") from None
        try:
            yield store, store.recover()
        finally:
            store.close()

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
    task = Task(job.id, payload, job.priority, job.kind, job.timeout)
    if job.run_at is not None:
        now = time.time()
        due = job.run_at.timestamp() if isinstance(job.run_at, datetime) else now + job.run_at
        task.due_at = due if due > now else None
    return task


def _changes(found: Recovered, **lists: list[Task]) -> Changes:
    return Changes(found.last_token, time.time(), **lists)  # type: ignore[arg-type]


def _to_record(values: dict[str, Any]) -> JobRecord:
    values["payload"] = decode(values["payload"])
    values["result"] = None if values["result"] is None else decode(values["result"])
    values["priority"] = Priority(values["priority"])
    values["status"] = Status(values["status"])
    return JobRecord(**values)


def _lane_stats(counts: dict[str, int]) -> Document:
    """What is measured while jobs run is in no file."""
    return {
        "accepted": sum(counts.values()),
        **counts,
        **dict.fromkeys(("oldest_queued", "wait", "run")),
    }
