"""Stage 2: bounded lanes, priorities, retries, a polite close. Read ``improved/job_queue.py``."""

from improved.job_queue import (
    Backoff,
    Counts,
    Handler,
    Job,
    JobQueue,
    Metrics,
    Priority,
    QueueClosed,
    QueueFull,
)

__all__ = [
    "Backoff",
    "Counts",
    "Handler",
    "Job",
    "JobQueue",
    "Metrics",
    "Priority",
    "QueueClosed",
    "QueueFull",
]
