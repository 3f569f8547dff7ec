"""Stage 3: durable, fair, measured. Read ``final/job_queue.py`` first."""

from final.errors import (
    DuplicateJob,
    EnqueueError,
    JobQueueError,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
)
from final.job import Job, JobRecord, Priority, Status
from final.job_queue import JobQueue
from final.metrics import Counts, Metrics, Percentiles
from final.retry import Backoff
from final.workers import Handler

__all__ = [
    "Backoff",
    "Counts",
    "DuplicateJob",
    "EnqueueError",
    "Handler",
    "Job",
    "JobQueue",
    "JobQueueError",
    "JobRecord",
    "Metrics",
    "Percentiles",
    "Priority",
    "QueueClosed",
    "QueueFull",
    "Status",
    "StorageError",
    "UnknownJob",
]
