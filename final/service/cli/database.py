"""A queue in a PostgreSQL database: asked and told by a ``JobQueue`` that runs nothing.

But: what is measured while jobs run, each of the processes that run them knows for itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

from final.beyond.filters import Filter
from final.engine.many import OnProgress
from final.errors import (
    DuplicateJob,
    JobQueueError,
    PeriodicExists,
    StorageError,
    UnknownJob,
    UnknownPeriodic,
)
from final.job import Status
from final.job_queue import JobQueue
from final.service.cli.local import lane_stats
from final.service.cli.places import (
    Act,
    Document,
    Misuse,
    Refused,
    Unreachable,
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
    ProcessView,
)


class SharedDatabase:
    """A ``Place``: ``url`` is the address of a queue."""

    def __init__(self, url: str) -> None:
        self.name = url.partition("?")[0].rpartition("@")[2]  # without a password
        try:
            self._queue = JobQueue(None, path=url, workers=0)
        except (StorageError, ImportError) as error:
            raise Unreachable(str(error)) from error
        except ValueError as error:
            raise Misuse(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.close(drain=False, timeout=5)

    def create(self, wishes: Document) -> Document:
        job = new_job(wishes)
        with _explained():
            job_id = self._queue.enqueue(job, timeout=0)
        return self._view(job_id)

    def jobs(self, wanted: Filter, limit: int) -> Iterator[Document]:
        with _explained():
            records = self._queue.jobs(
                next(iter(wanted.statuses), None),
                limit,
                kind=wanted.kind,
                priority=wanted.priority,
                group=wanted.group,
                meta=wanted.meta,
                payloads=False,
            )
        for record in records:
            yield JobSummary.of(record).model_dump(mode="json")

    def job(self, job_id: str) -> Document:
        with _explained():
            details = JobDetails.of(self._queue.get(job_id))
            failures = self._queue.attempts(job_id)
        return details.with_failures(failures).model_dump(mode="json")

    def retry(self, job_id: str) -> Document:
        with _explained():
            self._queue.retry(job_id)
        return self._view(job_id)

    def cancel(self, job_id: str) -> Document:
        with _explained():
            if not self._queue.cancel(job_id):
                status = self._queue.status(job_id)
                if status is not Status.CANCELLED:
                    raise Refused(
                        f"Job {job_id} is {status}: only one that has not ended can be cancelled."
                    )
        return self._view(job_id)

    def pause(self, part: Document) -> Document:
        pause = pause_in(part)
        with _explained():
            self._queue.pause(*pause)
        return self._paused()

    def resume(self, part: Document) -> Document:
        pause = pause_in(part)
        with _explained():
            self._queue.resume(*pause)
        return self._paused()

    def set_workers(self, number: int | None) -> Document:
        raise Misuse(
            "On a database each process has its own number of workers, which is kept nowhere: ask "
            "the service that runs them (--url)."
        )

    def _paused(self) -> Document:
        with _explained():
            views = [PauseView.of(pause) for pause in self._queue.paused()]
        return Paused(paused=views).model_dump(mode="json")

    def periodic(self) -> list[Document]:
        with _explained():
            return [PeriodicView.of(r).model_dump(mode="json") for r in self._queue.periodic()]

    def add_periodic(self, wishes: Document) -> Document:
        every = new_periodic(wishes)
        with _explained():
            self._queue.add_periodic(every)
        return self._entry(every.name)

    def pause_periodic(self, name: str) -> Document:
        with _explained():
            self._queue.pause_periodic(name)
        return self._entry(name)

    def resume_periodic(self, name: str) -> Document:
        with _explained():
            self._queue.resume_periodic(name)
        return self._entry(name)

    def remove_periodic(self, name: str) -> Document:
        before = self._entry(name)
        with _explained():
            self._queue.remove_periodic(name)
        return before

    def _entry(self, name: str) -> Document:
        for document in self.periodic():
            if document["name"] == name:
                return document
        raise Refused(str(UnknownPeriodic(name)))

    def delete(self, job_id: str) -> Document:
        job = self._view(job_id)
        with _explained():
            self._queue.delete(job_id)
        return job

    def deal(self, act: Act, wanted: Filter, dry_run: bool, progress: OnProgress) -> int:
        which = wanted._asdict()
        statuses = which.pop("statuses")
        if act == "purge" and statuses:
            which["status"] = statuses[0]
        elif act == "cancel-all":
            which["status"] = next(iter(statuses), None)
        deals = {
            "cancel-all": self._queue.cancel_all,
            "retry-all": self._queue.retry_all,
            "purge": self._queue.purge,
        }
        with _explained():
            return deals[act](**which, dry_run=dry_run, progress=progress)

    def groups(self, limit: int) -> list[Document]:
        with _explained():
            return [GroupView.of(r).model_dump(mode="json") for r in self._queue.groups(limit)]

    def stats(self) -> Document:
        with _explained():
            metrics, figures = self._queue.metrics(), self._queue.shared_figures()
        lanes = {
            str(priority): {str(status): getattr(counts, status.value) for status in Status}
            for priority, counts in metrics.by_priority.items()
        }
        processes = [ProcessView.of(p) for p in figures.processes if not p.here] if figures else []
        views = [process.model_dump(mode="json") for process in processes]
        return lane_stats(lanes) | self._paused() | {"processes": views}

    def _view(self, job_id: str) -> Document:
        with _explained():
            return JobView.of(self._queue.get(job_id)).model_dump(mode="json")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (DuplicateJob, UnknownJob, PeriodicExists, UnknownPeriodic) as error:
        raise Refused(str(error)) from None
    except StorageError as error:
        raise Unreachable(str(error)) from error
    except JobQueueError as error:  # full, closed
        raise Unreachable(str(error)) from error
    except ValueError as error:  # its state does not allow it
        raise Refused(str(error)) from None
