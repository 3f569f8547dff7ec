"""What all endpoints share."""

from __future__ import annotations

from dataclasses import dataclass

from final import JobQueue


@dataclass
class Service:
    """A queue, and what it was opened with.

    demo: whether the dashboard may flood it and change its fairness.
    stopping: from the signal to stop until the end of the process.
    """

    queue: JobQueue
    workers: int
    capacity: int
    fairness: int | None
    demo: bool = False
    stopping: bool = False
