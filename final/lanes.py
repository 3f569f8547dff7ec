"""Bounded lanes and the token rule: which job is next.

One first-in-first-out lane per priority. The most urgent lane that has a job is
served, except that a lane which has been passed over ``fairness`` times in a row
goes first. With all three lanes full and fairness 10, picks run 10 high, 1 medium,
1 low, and so on.

The bound, for any arrivals: a job that comes to the head of its lane is picked
within ``fairness + 2`` picks. The lane is passed over at most ``fairness`` times by
more urgent lanes before it is due, and then at most once more by the one other lane
that can be due before it.

But: a plain data structure. No threads, no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from final.job import Priority, Task


class Lane:
    """The waiting jobs of one priority. ``passed_over`` counts since it was last served."""

    __slots__ = ("passed_over", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        self.passed_over = 0


class Lanes:
    """The three lanes. ``capacity`` bounds what a producer may add to each.

    fairness: how often in a row a waiting lane may be passed over; None is strict
        priority, under which the lower lanes starve while a higher one never empties.
    """

    def __init__(self, capacity: int, fairness: int | None) -> None:
        self.capacity = capacity
        self.fairness = fairness
        self._by_priority = {priority: Lane() for priority in Priority}
        self._lanes = list(self._by_priority.values())

    def __len__(self) -> int:
        return sum(len(lane.tasks) for lane in self._lanes)

    def has_room(self, priority: Priority) -> bool:
        """Whether a producer may add a job. (Retries and recovered jobs need no room.)"""
        return len(self._by_priority[priority].tasks) < self.capacity

    def heads(self) -> list[Task]:
        """The first job of each lane that has one."""
        return [lane.tasks[0] for lane in self._lanes if lane.tasks]

    def append(self, task: Task) -> None:
        """Add to the back of the job's lane."""
        self._by_priority[task.priority].tasks.append(task)

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Return jobs that were picked, in the order of picking, to the front of their lanes."""
        for task in reversed(list(tasks)):
            self._by_priority[task.priority].tasks.appendleft(task)

    def take_off(self, tasks: Iterable[Task]) -> None:
        """Undo ``append`` for these jobs, given in the order they were appended."""
        for task in reversed(list(tasks)):
            removed = self._by_priority[task.priority].tasks.pop()
            assert removed is task, "lanes changed between append and take_off"

    def pick(self) -> Task | None:
        """Take the next job by the token rule; None when all lanes are empty."""
        waiting = [lane for lane in self._lanes if lane.tasks]
        if not waiting:
            return None
        chosen = waiting[0]
        if len(waiting) > 1:
            chosen = self._first_due(waiting) or chosen
            # Only a more urgent pick passes a lane over: a due LOW job served before a
            # waiting MEDIUM one does not count against it, or the rhythm would drift.
            for lane in waiting[waiting.index(chosen) + 1 :]:
                lane.passed_over += 1
        chosen.passed_over = 0
        return chosen.tasks.popleft()

    def _first_due(self, waiting: list[Lane]) -> Lane | None:
        if self.fairness is None:
            return None
        for lane in waiting:
            if lane.passed_over >= self.fairness:
                return lane
        return None

    def tokens(self) -> list[int]:
        """The state of the token rule, to be handed to ``restore_tokens`` after a failed turn."""
        return [lane.passed_over for lane in self._lanes]

    def restore_tokens(self, tokens: list[int]) -> None:
        for lane, passed_over in zip(self._lanes, tokens, strict=True):
            lane.passed_over = passed_over
