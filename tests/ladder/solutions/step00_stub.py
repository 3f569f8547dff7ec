"""My job queue.

    queue = JobQueue(handler, workers=4)     starts 4 threads
    queue.enqueue(Job(payload="hello"))      returns at once
    queue.close()                            also when a `with` block ends

One of the threads calls ``handler(job)``. ``make mine`` grades this file and says what comes next;
the options and methods of later steps are told when their step begins.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Job:
    """One piece of work: ``id`` names it (text, unique), ``payload`` is what it is about."""

    id: str = field(default_factory=lambda: f"job-{next(_numbers)}")
    payload: object = None


class JobQueue:
    """Run ``handler(job)`` for every enqueued job on one of ``workers`` threads."""

    def __init__(self, handler, *, workers=4):
        self._handler = handler

    def enqueue(self, job):
        """Accept ``job`` for a worker, and return at once."""
        raise NotImplementedError("step 1 begins here")

    def close(self):
        """Stop the workers. May be called more than once."""
        raise NotImplementedError("step 1 begins here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
