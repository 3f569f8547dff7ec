"""Stage 1: an unbounded FIFO with intentional flaws. Read ``naive/job_queue.py``."""

from naive.job_queue import Handler, Job, JobQueue

__all__ = ["Handler", "Job", "JobQueue"]
