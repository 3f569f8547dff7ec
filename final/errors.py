"""What can go wrong, as exceptions whose message is a sentence with the way out."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from final.job import JobRecord


class JobQueueError(Exception):
    """The base of all errors of this package."""


class EnqueueError(JobQueueError):
    """A job was not accepted.

    ``accepted``: the ids of the same ``enqueue_many`` call that were accepted before it;
    they are durable and will run. Empty for ``enqueue``.
    """

    def __init__(self, message: str, accepted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted = list(accepted)


class QueueFull(EnqueueError, queue.Full):
    """The job's lane had no room in time, or others had its key; nothing was stored for it."""


class QueueClosed(EnqueueError, RuntimeError):
    """The queue is closed, or was closed while this call waited."""


class DuplicateJob(EnqueueError, ValueError):
    """The file already holds a job with this id, or it comes twice in one call.

    ``ids``: those of the call that were found to be taken when it was refused.
    """

    def __init__(self, ids: Sequence[str], accepted: Sequence[str] = ()) -> None:
        names = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        super().__init__(
            f"Already in the queue: {names}. Nothing more of this call was stored; "
            f"look at status(id), or use a new id.",
            accepted,
        )
        self.ids = list(ids)

    def __reduce__(self) -> tuple[object, ...]:  # else it would be made of its message
        return type(self), (self.ids,), self.__dict__


class StorageError(EnqueueError, OSError):
    """The file could not be opened, read or written; the message says which and what to do."""


class JobFailed(JobQueueError):
    """A job whose result was asked for has none; ``record`` says what became of it."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__(f"Job {record.id} is {record.status}: {record.error or 'no result'}")
        self.record = record

    def __reduce__(self) -> tuple[object, ...]:  # else it would be made of its message
        return type(self), (self.record,), self.__dict__


class PermanentFailure(Exception):
    """Raised by a handler: no other attempt would help. The job is a dead letter at once."""


class UnknownJob(JobQueueError, KeyError):
    """No job with this id: it was never accepted, or its history has been pruned.

    ``accepted``: as of EnqueueError, where a job was to come after that one.
    """

    def __init__(self, job_id: str, accepted: Sequence[str] = ()) -> None:
        super().__init__(job_id)
        self.id = job_id
        self.accepted = list(accepted)

    def __str__(self) -> str:  # KeyError would show the repr of its argument
        return f"No job {self.id!r} in this queue: check the id, or raise history=."


class UnknownPeriodic(JobQueueError, KeyError):
    """No periodic entry has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:  # KeyError would show the repr of its argument
        return f"No periodic entry is called {self.name!r}: periodic() lists those that there are."


class PeriodicExists(JobQueueError, ValueError):
    """A periodic entry with this name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a periodic entry called {name!r}: change_periodic changes it, or choose "
            "another name."
        )
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:  # else it would be made of its message
        return type(self), (self.name,), self.__dict__
