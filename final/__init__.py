"""Stage 3: durable, fair, measured. Read ``final/job_queue.py`` first."""

from final.engine.events import Transition
from final.engine.metrics import Counts, Histogram, Metrics, Percentiles, Running
from final.errors import (
    DuplicateJob,
    EnqueueError,
    JobFailed,
    JobQueueError,
    PermanentFailure,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
)
from final.job import AttemptRecord, Job, JobRecord, Priority, Status
from final.job_queue import JobQueue
from final.options import Backoff, LeakyBucket, TokenBucket
from final.workers.attempts import Handler
from final.workers.current import CurrentJob, current_job

__all__ = [
    "AttemptRecord",
    "Backoff",
    "Counts",
    "CurrentJob",
    "DuplicateJob",
    "EnqueueError",
    "Handler",
    "Histogram",
    "Job",
    "JobFailed",
    "JobQueue",
    "JobQueueError",
    "JobRecord",
    "LeakyBucket",
    "Metrics",
    "Percentiles",
    "PermanentFailure",
    "Priority",
    "QueueClosed",
    "QueueFull",
    "Running",
    "Status",
    "StorageError",
    "TokenBucket",
    "Transition",
    "UnknownJob",
    "current_job",
]
