"""Stage 3: durable, fair, measured. Read the top of ``final/job_queue.py`` first."""

import sys

from final.engine import loading  # noqa: F401  (before the rest, which takes a while)

# isort: split
from final.beyond.async_queue import AsyncJobQueue
from final.beyond.control import Pause
from final.beyond.kinds import Kind
from final.beyond.periodic import Every, PeriodicRecord
from final.beyond.progress import Progress
from final.beyond.snooze import Snooze
from final.beyond.unique import Unique
from final.engine.events import Transition
from final.engine.metrics import Counts, Histogram, Metrics, Percentiles, Running
from final.errors import (
    DuplicateJob,
    EnqueueError,
    JobFailed,
    JobQueueError,
    PeriodicExists,
    PermanentFailure,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
    UnknownPeriodic,
)
from final.job import AttemptRecord, GroupRecord, Job, JobRecord, Priority, Status
from final.job_queue import JobQueue
from final.ledger.base import ProcessRecord, SharedFigures
from final.options import Backoff, LeakyBucket, TokenBucket
from final.workers.attempts import Handler
from final.workers.current import CurrentJob, current_job
from final.workers.middleware import CallNext, Middleware

__all__ = [
    "AsyncJobQueue",
    "AttemptRecord",
    "Backoff",
    "CallNext",
    "Counts",
    "CurrentJob",
    "DuplicateJob",
    "EnqueueError",
    "Every",
    "GroupRecord",
    "Handler",
    "Histogram",
    "Job",
    "JobFailed",
    "JobQueue",
    "JobQueueError",
    "JobRecord",
    "Kind",
    "LeakyBucket",
    "Metrics",
    "Middleware",
    "Pause",
    "Percentiles",
    "PeriodicExists",
    "PeriodicRecord",
    "PermanentFailure",
    "Priority",
    "ProcessRecord",
    "Progress",
    "QueueClosed",
    "QueueFull",
    "Running",
    "SharedFigures",
    "Snooze",
    "Status",
    "StorageError",
    "TokenBucket",
    "Transition",
    "Unique",
    "UnknownJob",
    "UnknownPeriodic",
    "current_job",
]

# Modules that have moved are found by their old names, too: final.cli, final.async_job_queue.
__path__.append(f"{__path__[0]}/service")
sys.modules["final.async_job_queue"] = sys.modules[AsyncJobQueue.__module__]
