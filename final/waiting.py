"""Where accepted jobs wait that are not with a worker. There are four places:

- their lanes (lanes.py): ready to run;
- later: not due yet. A retry waits out its backoff, a scheduled job waits for its ``run_at``:
  what is a delay by the monotonic clock, what is a datetime by the wall clock;
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

# (due, tie breaker, job). Due in monotonic seconds, or in those of the wall clock: see _timers_of.
Timer = tuple[float, int, Task]

# Nobody tells us that the wall clock was set, or that the machine was suspended for an hour, so
# while jobs wait for a time of that clock it is looked at this often.
CLOCK_SECONDS = 1.0


class Waiting:
    """Every job that waits. ``retrying`` counts the retries among those that are not due."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.aside: dict[Task, Status] = {}
        self.number = 0  # the last one given to a job or a place in line
        self.retrying = 0
        # Heaps, the soonest first: by the monotonic clock, and by the wall clock.
        self._later: list[Timer] = []
        self._by_clock: list[Timer] = []
        self._tie_breaker = itertools.count()
        self._suspects: deque[Task] = deque()
        self._suspect: Task | None = None  # the one that has left for its lane and not ended

    def to_run(self) -> int:
        """How many will run by themselves: all but those aside."""
        later = len(self._later) + len(self._by_clock)
        return len(self.lanes) + later + len(self._suspects)

    def __iter__(self) -> Iterator[tuple[Task, Status]]:
        """Every job that waits, and what its status is."""
        for task in itertools.chain(self.lanes, self._suspects):
            yield task, Status.QUEUED
        yield from self.aside.items()
        for _, _, task in itertools.chain(self._later, self._by_clock):
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
        elif timer := next((t for t in self._timers_of(task) if t[2] is task), None):
            self._timers_of(task).remove(timer)
            heapq.heapify(self._timers_of(task))
            self.retrying -= task.due_at is None
        else:
            self.lanes.remove(task)
            self.ended([task])

    def set_aside(self, task: Task) -> None:
        """Queued, but not to run before the next start."""
        self.aside[task] = Status.QUEUED
        self.ended([task])

    # ---- later -----------------------------------------------------------------------------

    def retry_later(self, due: float, task: Task) -> None:
        """A job that has failed waits until ``due``, in monotonic seconds."""
        self._push((due, next(self._tie_breaker), task))

    def schedule(self, task: Task, now: float, wall: float) -> None:
        """A job waits for its ``due_at``. now: monotonic seconds; wall: Unix seconds."""
        assert task.due_at is not None
        due = task.due_at if task.by_clock else now + (task.due_at - wall)
        self._push((due, next(self._tie_breaker), task))

    def next_due(self, now: float, wall: float) -> float:
        """When to look whether one is due, in monotonic seconds; infinity for never."""
        due = self._later[0][0] if self._later else math.inf
        if self._by_clock:
            due = min(due, now + min(self._by_clock[0][0] - wall, CLOCK_SECONDS))
        return due

    def take_due(self, now: float, wall: float) -> list[Timer]:
        """Take out those whose time has come, the soonest first. They are ready since then."""
        taken = []
        for timers, time in ((self._later, now), (self._by_clock, wall)):
            while timers and timers[0][0] <= time:
                due, _, task = timer = heapq.heappop(timers)
                task.queued_at = now - (time - due)
                self.retrying -= task.due_at is None
                taken.append(timer)
        return sorted(taken, key=lambda timer: timer[2].queued_at)

    def put_back(self, timers: Iterable[Timer]) -> None:
        """Undo ``take_due``."""
        for timer in timers:
            self._push(timer)

    def _push(self, timer: Timer) -> None:
        heapq.heappush(self._timers_of(timer[2]), timer)
        self.retrying += timer[2].due_at is None

    def _timers_of(self, task: Task) -> list[Timer]:
        """Those with which this job waits, if it waits for its time."""
        return self._by_clock if task.by_clock and task.due_at is not None else self._later

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
