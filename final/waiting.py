"""Where accepted jobs wait that are not with a worker. There are four places:

- their lanes (lanes.py): ready to run;
- later: not due yet. A retry waits out its backoff, a scheduled job waits for its ``run_at``;
- the suspects: they may have ended the process before, so they go into their lanes one by one;
- aside: not for this process. Recovered jobs of kinds that have no handler here stay what they
  are; a job whose handler was told that the queue is closed is queued for the next start.

Here are also the numbers that jobs get in order of acceptance, and as their places in line.

But: a plain data structure, used by the dispatcher's thread alone. It writes nothing: whoever
moves a job here commits that, too. What puts a recovered job where is in ``recovery.py``.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator

from final.job import Status, Task
from final.lanes import Lanes

Timer = tuple[float, int, Task]  # (due in monotonic seconds, tie breaker, job)


class Waiting:
    """Every job that waits. ``retrying`` counts the retries among those that are not due."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.aside: dict[Task, Status] = {}
        self.number = 0  # the last one given to a job or a place in line
        self.retrying = 0
        self._later: list[Timer] = []  # a heap, the soonest first
        self._tie_breaker = itertools.count()
        self._suspects: deque[Task] = deque()
        self._suspect: Task | None = None  # the one that has left for its lane and not ended

    def to_run(self) -> int:
        """How many will run by themselves: all but those aside."""
        return len(self.lanes) + len(self._later) + len(self._suspects)

    def __iter__(self) -> Iterator[tuple[Task, Status]]:
        """Every job that waits, and what its status is."""
        for task in itertools.chain(self.lanes, self._suspects):
            yield task, Status.QUEUED
        yield from self.aside.items()
        for _, _, task in self._later:
            yield task, Status.RETRYING if task.due_at is None else Status.SCHEDULED

    def is_busy(self) -> bool:
        """Whether any is queued or retrying. Scheduled jobs and those aside do not count."""
        return bool(len(self.lanes) or self.retrying or self._suspects)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def remove(self, task: Task) -> None:
        """Forget a job, wherever it waits."""
        if task in self.aside:
            del self.aside[task]
        elif task in self._suspects:
            self._suspects.remove(task)
        elif timer := next((timer for timer in self._later if timer[2] is task), None):
            self._later.remove(timer)
            heapq.heapify(self._later)
            self.retrying -= task.due_at is None
        else:
            self.lanes.remove(task)
            self.ended([task])

    def set_aside(self, task: Task) -> None:
        """Queued, but not to run before the next start."""
        self.aside[task] = Status.QUEUED
        self.ended([task])

    # ---- later -----------------------------------------------------------------------------

    def add_later(self, due: float, task: Task) -> None:
        """Not before ``due``. A retry, unless the job has a ``due_at``: then it is scheduled."""
        self._push((due, next(self._tie_breaker), task))

    def next_due(self) -> float:
        """When the soonest is due; infinity for never."""
        return self._later[0][0] if self._later else math.inf

    def take_due(self, now: float) -> list[Timer]:
        """Take out those whose time has come, the soonest first."""
        due = []
        while self.next_due() <= now:
            due.append(heapq.heappop(self._later))
            self.retrying -= due[-1][2].due_at is None
        return due

    def put_back(self, timers: Iterable[Timer]) -> None:
        """Undo ``take_due``."""
        for timer in timers:
            self._push(timer)

    def _push(self, timer: Timer) -> None:
        heapq.heappush(self._later, timer)
        self.retrying += timer[2].due_at is None

    # ---- suspects --------------------------------------------------------------------------

    def suspect(self, task: Task) -> None:
        """A job that is likely the cause of a crash, or that one more would make a dead letter.

        If all of these ran side by side again, they would be charged together for what one
        of them does, and die together. So they run one at a time, beside the other jobs.
        """
        self._suspects.append(task)

    def release_suspect(self) -> None:
        """Let the next suspect into its lane, if none is on its way."""
        if self._suspect is None and self._suspects:
            self._suspect = self._suspects.popleft()
            self.lanes.put_back([self._suspect])

    def ended(self, tasks: Iterable[Task]) -> None:
        """Attempts have ended; if one was the suspect's, it is the next one's turn."""
        if self._suspect is not None and self._suspect in tasks:
            self._suspect = None
            self.release_suspect()
