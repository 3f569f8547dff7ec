"""What all endpoints share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from final import JobQueue
from final.service.problems import Problem


@dataclass
class Service:
    """A queue, and what it was opened with.

    demo: whether the dashboard may flood it and change its fairness.
    limited: whether jobs may wait for a limit of their type or group while others start.
    root_path: under which a proxy offers the service, as "/queue"; empty where there is none.
    stopping: from the signal to stop until the end of the process.
    refused: how many requests were answered with a problem, by the name of that.
    """

    queue: JobQueue
    capacity: int
    fairness: int | None
    demo: bool = False
    limited: bool = False
    root_path: str = ""
    stopping: bool = False
    refused: Counter[str] = field(default_factory=Counter)

    def refuse_jobs_while_stopping(self, **members: object) -> None:
        """The queue itself closes a moment later. Raises Problem, with ``members``."""
        if self.stopping:
            raise Problem("stopping", "The service is stopping: no more jobs.", **members)
