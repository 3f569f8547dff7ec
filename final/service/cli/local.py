"""A file without a service: read as it is, changed without running anything.

To look, the file is opened for reading only, so that goes on beside a process that owns it. To
change it, it is owned for that moment, but no ledger is opened: a ``JobQueue`` would start to run
what waits there. What was interrupted stays as it is until a process with handlers opens the file.

But: ``capacity`` is not looked at, because it is no property of the file but of whoever opens it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from final.beyond.control import Pause, in_order, readable
from final.beyond.filters import Filter
from final.beyond.meta import frozen
from final.beyond.periodic import Entry
from final.engine.many import OnProgress, in_turns
from final.errors import PeriodicExists, UnknownJob, UnknownPeriodic
from final.job import JobRecord, Priority, Status, Task
from final.ledger.base import ChangePeriodic, Move, SetPaused, SetWorkers
from final.ledger.features.controls import PAUSED, Controls
from final.ledger.features.dependencies import Dependencies
from final.ledger.features.holders import Holders
from final.ledger.features.keys import KEY_IS_TAKEN, Holder
from final.ledger.features.metas import Metas
from final.ledger.features.periodic import Periodic
from final.ledger.lookups import PERIODIC, LookupsBy
from final.ledger.owner import InUse
from final.ledger.schema import APPLICATION_ID, require_known
from final.ledger.sqlite import SqliteFile
from final.options import require_workers
from final.payload import encode
from final.service.cli.places import (
    LARGEST_PAYLOAD,
    Act,
    Document,
    Misuse,
    Refused,
    Unreachable,
    checked,
    new_job,
    new_periodic,
    pause_in,
)
from final.service.models import (
    GroupView,
    JobDetails,
    JobSummary,
    JobView,
    Paused,
    PauseView,
    PeriodicView,
    Workers,
    moment,
)


class File:
    """A ``Place``. create: whether the file may be a new one."""

    def __init__(self, path: str, create: bool = False) -> None:
        self.name = path
        self._look_ups = LookupsBy(self._rows)
        if not path:
            raise Misuse("--db is empty: give it a file.")
        if Path(path).is_dir():
            raise Unreachable(f"{path} is a folder: give --db a file in it.")
        if not create and not Path(path).is_file():
            raise Unreachable(f"There is no file {path}: check --db, or enqueue a job to make it.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # no connection is kept open

    # ---- looking -----------------------------------------------------------------------------

    def jobs(self, wanted: Filter, limit: int) -> Iterator[Document]:
        for record in self._look_ups.jobs(wanted, limit, None, payloads=False):
            yield JobSummary.of(record).model_dump(mode="json")

    def job(self, job_id: str) -> Document:
        details = JobDetails.of(self._record(job_id))
        return details.with_failures(self._look_ups.attempts(job_id)).model_dump(mode="json")

    def periodic(self) -> list[Document]:
        entries = [Entry(*row) for row in self._rows(PERIODIC)]
        return [PeriodicView.of(entry.record()).model_dump(mode="json") for entry in entries]

    def groups(self, limit: int) -> list[Document]:
        records = self._look_ups.groups(limit, time.time())
        return [GroupView.of(record).model_dump(mode="json") for record in records]

    def stats(self) -> Document:
        counted = self._rows("SELECT priority, status, count(*) FROM job GROUP BY 1, 2")
        counts = {(priority, status): count for priority, status, count in counted}
        lanes = {
            str(priority): {
                str(status): counts.get((priority, status), 0)  # texts, and equal to them
                for status in Status
            }
            for priority in Priority
        }
        return lane_stats(lanes) | _paused(self._paused())

    def _paused(self) -> frozenset[Pause]:
        """A file of an older release has no such table."""
        if not self._rows("SELECT 1 FROM sqlite_schema WHERE name = 'pause'", ()):
            return frozenset()
        return frozenset(readable(self._rows(PAUSED, ())))

    def _record(self, job_id: str) -> JobRecord:
        record = self._look_ups.get(job_id)
        if record is None:
            raise Refused(str(UnknownJob(job_id)))
        return record

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Read-only for SQLite too: it would else tidy up after the owner when it leaves."""
        try:
            with contextlib.closing(self._reader()) as connection:
                (application_id,) = connection.execute("PRAGMA application_id").fetchone()
                if application_id != APPLICATION_ID:
                    raise Unreachable(f"{self.name} is not a file of this queue: check --db.")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                require_known(version, self.name)
                return connection.execute(query, values).fetchall()
        except UnicodeEncodeError:  # half a character, from the command line: nothing is called so
            return []
        except sqlite3.Error as error:
            if "no such" in str(error):
                raise Unreachable(
                    f"{self.name} is of an older release ({error}): the next process that opens "
                    "it to change it, as `serve` and `enqueue` do, brings it up to date."
                ) from error
            raise Unreachable(f"Cannot read {self.name}: {error}.") from error

    def _reader(self) -> sqlite3.Connection:
        """Where nothing may be written, a journal cannot be opened; a closed file needs none."""
        address = f"{Path(self.name).absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema")
        except sqlite3.OperationalError:
            connection.close()
            if Path(f"{self.name}-wal").exists():
                raise
            connection = sqlite3.connect(f"{address}&immutable=1", uri=True)
        return connection

    # ---- changing ----------------------------------------------------------------------------

    def create(self, wishes: Document) -> Document:
        task = _new_task(wishes)
        with self._owned() as file:
            if file.taken([task.id]):
                raise Refused(f"Already in the queue: {task.id}. Nothing was stored.")
            for parent in sorted({*task.after} - file.taken(task.after)):
                raise Refused(f"No job {parent} to come after. Nothing was stored.")
            task.seq = task.key = file.last_number() + 1
            job_id = _put(file, task)
            if job_id == task.id:
                Dependencies(file, lambda: task.seq).admit([task])
        return self._view(job_id)

    def retry(self, job_id: str) -> Document:
        self._record(job_id)  # an unknown one is nothing to own the file for
        with self._owned() as file:
            task = file.find(job_id)
            if task is None or task.status is not Status.FAILED:
                status = self._record(job_id).status
                raise Refused(f"Job {job_id} is {status}: only a failed job can be retried.")
            if not _retry(file, [task]):
                raise Refused(KEY_IS_TAKEN.format(job_id))
        return self._view(job_id)

    def cancel(self, job_id: str) -> Document:
        """Also one that was running when the last process was killed: it does not run again."""
        self._record(job_id)
        with self._owned() as file:
            task = file.find(job_id)
            status = self._record(job_id).status
            if task is None or (status.ended and status is not Status.CANCELLED):
                raise Refused(
                    f"Job {job_id} is {status}: only one that has not ended can be cancelled."
                )
            if not status.ended:
                _cancel(file, [task])
        return self._view(job_id)

    def pause(self, part: Document) -> Document:
        return self._set_paused(part, True)

    def resume(self, part: Document) -> Document:
        return self._set_paused(part, False)

    def _set_paused(self, part: Document, paused: bool) -> Document:
        pause = pause_in(part)
        with self._owned() as file:
            controls = Controls(file)
            controls.set_paused(SetPaused(pause, paused))
            return _paused(controls.paused)

    def set_workers(self, number: int | None) -> Document:
        """The next start goes by it."""
        checked(Workers, {"workers": number})
        if number is not None:
            with misused():
                require_workers(number, shared=False)
        with self._owned() as file:
            Controls(file).set_workers(SetWorkers(number))
        return {"workers": number}

    def add_periodic(self, wishes: Document) -> Document:
        every = new_periodic(wishes)
        entry = Entry.of(every, time.time(), LARGEST_PAYLOAD)
        if not self._change_periodic("add", entry):
            raise Refused(str(PeriodicExists(every.name)))
        return self._periodic(every.name)

    def pause_periodic(self, name: str) -> Document:
        return self._change_stored("pause", name)

    def resume_periodic(self, name: str) -> Document:
        return self._change_stored("resume", name)

    def remove_periodic(self, name: str) -> Document:
        return self._change_stored("remove", name)

    def _change_stored(self, how: Literal["pause", "resume", "remove"], name: str) -> Document:
        before = self._periodic(name)  # an unknown one is nothing to own the file for
        [entry] = [Entry(*row) for row in self._rows(PERIODIC) if row[0] == name]
        try:
            now = entry.from_(time.time()) if how == "resume" else entry
        except (ImportError, ValueError) as error:
            raise Unreachable(str(error)) from error
        self._change_periodic(how, now)
        return before if how == "remove" else self._periodic(name)

    def _change_periodic(
        self, how: Literal["add", "pause", "resume", "remove"], entry: Entry
    ) -> bool:
        with self._owned() as file:
            changes = ChangePeriodic(how, [entry])
            say = logging.getLogger("final").log
            return Periodic(file, lambda _: True, say).carry_out(changes)

    def _periodic(self, name: str) -> Document:
        for document in self.periodic():
            if document["name"] == name:
                return document
        raise Refused(str(UnknownPeriodic(name)))

    def delete(self, job_id: str) -> Document:
        job = self._view(job_id)
        with self._owned() as file:
            task = file.find(job_id)
            if task is None or not self._record(job_id).status.ended:
                raise Refused(f"Job {job_id} is {self._record(job_id).status}: cancel it first.")
            if not _purge(file, [task]):
                raise Refused(f"Job {job_id} stays: jobs after it have not ended.")
        return job

    def deal(self, act: Act, wanted: Filter, dry_run: bool, progress: OnProgress) -> int:
        carry_out, statuses = DEALS[act]
        wanted = wanted._replace(statuses=wanted.statuses or statuses)
        if dry_run:
            return in_turns(self._look_ups, wanted, len, progress)
        with self._as_owner() as file:

            def order(numbers: Sequence[int]) -> int:
                with file.transaction():
                    return carry_out(file, file.meant(numbers, wanted))

            return in_turns(file, wanted, order, progress)

    @contextlib.contextmanager
    def _owned(self) -> Iterator[SqliteFile]:
        """The file as ours, in one transaction."""
        with self._as_owner() as file, file.transaction():
            yield file

    @contextlib.contextmanager
    def _as_owner(self) -> Iterator[SqliteFile]:
        try:
            file = SqliteFile(self.name, "full")
        except InUse as error:
            raise Unreachable(f"{error} If that is a service, give its --url.") from None
        with contextlib.closing(file):
            yield file

    def _view(self, job_id: str) -> Document:
        return JobView.of(self._record(job_id)).model_dump(mode="json")


def _paused(paused: Collection[Pause]) -> Document:
    return Paused(paused=[PauseView.of(p) for p in in_order(paused)]).model_dump(mode="json")


@contextlib.contextmanager
def misused() -> Iterator[None]:
    """A value that makes no sense is the caller's fault."""
    try:
        yield
    except ValueError as error:
        raise Misuse(str(error)) from None


# ---- what is done with many, each as a turn of a ledger does ----------------------------------


def _cancel(file: SqliteFile, tasks: Sequence[Task]) -> int:
    """Also those that were running when the last process was killed: they do not run again."""
    moves = [Move([task], task.status, Status.CANCELLED, task.token) for task in tasks]
    file.write(moves, time.time())
    return len(moves)


def _retry(file: SqliteFile, tasks: Sequence[Task]) -> int:
    letters, number = _holders(file, time.time()).retryable([*tasks], ()), file.last_number()
    for task in letters:
        number += 1
        task.key = number
    file.write([Move(letters, Status.FAILED, Status.QUEUED)], time.time())
    return len(letters)


def _purge(file: SqliteFile, tasks: Sequence[Task]) -> int:
    now = time.time()
    dependencies, holders = Dependencies(file, file.last_number), _holders(file, now)
    dependencies.open()
    needed = dependencies.needed(tasks)
    moves = [Move([task], task.status, None) for task in tasks if task.seq not in needed]
    file.write(moves, now)
    for feature in (dependencies, holders, _metas(file, holders)):
        feature.write(moves)
    return len(moves)


LIVE = tuple(status for status in Status if not status.ended)
# What to do, and with jobs of which statuses if none is given.
DEALS: dict[Act, tuple[Callable[[SqliteFile, Sequence[Task]], int], tuple[Status, ...]]] = {
    "cancel-all": (_cancel, LIVE),
    "retry-all": (_retry, (Status.FAILED,)),
    "purge": (_purge, (Status.FAILED,)),
}


def _holders(file: SqliteFile, now: float) -> Holders:
    holders = Holders(file, {})
    holders.open()
    holders.begin(now)
    return holders


def _metas(file: SqliteFile, holders: Holders) -> Metas:
    metas = Metas(file, holders)
    metas.open()
    return metas


def _put(file: SqliteFile, task: Task) -> str:
    """As the queue does; returns the id of the job that has its key, itself or another one."""
    now = time.time()
    holders, holder = _holders(file, now), None
    moves = [Move([task], None, task.status)]
    if task.unique is not None:
        keys = holders.of([[task]], ())
        holder = keys.holder(task)
        task.status = Status.QUEUED if task.due_at is None else Status.SCHEDULED
        if holder is None:
            keys.take(task, task.status)
        elif task.unique.then == "replace" and holder.waits:
            moves = _replace(holders, holder, task)
        else:
            moves = []
    file.write(moves, now)
    holders.write(moves)
    _metas(file, holders).write(moves)
    return task.id if holder is None else holder.id


def _replace(holders: Holders, holder: Holder, new: Task) -> list[Move]:
    task = holders.find(holder, ())
    source = task.status
    holders.replace(task, new)
    if source is Status.RETRYING:
        return []
    task.due_at, task.status, task.key = new.due_at, new.status, new.key
    return [Move([task], source, task.status)] if source is not task.status else []


def _new_task(wishes: Document) -> Task:
    job = new_job(wishes)
    payload = encode("payload", job.payload, LARGEST_PAYLOAD)
    now = time.time()
    task = Task(job.id, payload, job.priority, job.kind, job.timeout, size=len(payload))
    task.status, task.group = Status.QUEUED, job.group or ""
    task.unique, task.meta = job.unique, frozen("Job.meta", job.meta)
    task.size += task.meta.size()
    if job.run_at is not None:
        due = job.run_at.timestamp() if isinstance(job.run_at, datetime) else now + job.run_at
        if due > now:
            task.due_at, task.status = due, Status.SCHEDULED
    if job.after:
        task.after, task.if_failed = job.after, job.if_failed or "cancel"
        task.status = Status.WAITING
    return task


def lane_stats(lanes: dict[str, dict[str, int]]) -> Document:
    """As ``GET /stats`` has it. What is measured while jobs run is not stored anywhere."""
    totals = {str(status): sum(lane[status] for lane in lanes.values()) for status in Status}
    return {
        "at": moment(time.time()).isoformat().replace("+00:00", "Z"),
        **dict.fromkeys(("uptime", "demo", "stopping", "storage_error", "capacity")),
        **dict.fromkeys(("fairness", "limited", "throughput", "utilisation", "workers")),
        "totals": _lane_stats(totals),
        "lanes": {priority: _lane_stats(lane) for priority, lane in lanes.items()},
        "paused": [],
        "running": [],
        "processes": [],
    }


def _lane_stats(counts: dict[str, int]) -> Document:
    return {
        "accepted": sum(counts.values()),
        **counts,
        **dict.fromkeys(("oldest_queued", "wait", "run")),
    }
