"""Bounded lanes and the token rule: which job is next.

One first-in-first-out lane per priority. The most urgent lane that has a job is
served, except that a lane which has been passed over ``fairness`` times in a row
goes first. With all three lanes full and fairness 10, picks run 10 high, 1 medium,
1 low, and so on.

The bound, for any arrivals: a job that comes to the head of its lane is picked
within ``fairness + 2`` picks. The lane is passed over at most ``fairness`` times by
more urgent lanes before it is due, and then at most once more by the one other lane
that can be due before it.

A job that was picked but may not start yet (its kind has a rate limit) is held: it
keeps its place at the front of its lane and its share of the capacity, and lets those
behind it pass. Its lane keeps its turn: that pick does not count.

But: a plain data structure. No threads, no I/O, no clock.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from final.job import Priority, Task

Suits = Callable[[Task], bool]


class Lane:
    """The waiting jobs of one priority. ``passed_over`` counts since it was last served."""

    __slots__ = ("held", "passed_over", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        self.held: list[Task] = []
        self.passed_over = 0

    def __len__(self) -> int:
        return len(self.tasks) + len(self.held)


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
        # How many jobs of each kind are held: counted as they come and go, because every turn
        # asks which kinds there are. A kind of which none is held is not in it.
        self._held: Counter[str] = Counter()
        self._picked: list[Task] = []  # since the latest ``begin``, in this order
        self._passed_over: list[int] = []  # as they were then
        self._turn: list[int] = []  # and as they were before the latest pick

    def __len__(self) -> int:
        """How many jobs wait in all, held ones included."""
        return sum([len(lane.tasks) + len(lane.held) for lane in self._lanes])

    def __iter__(self) -> Iterator[Task]:
        """All waiting jobs, lane by lane."""
        for lane in self._lanes:
            yield from lane.held
            yield from lane.tasks

    def ready(self) -> int:
        """How many jobs can be picked."""
        return sum([len(lane.tasks) for lane in self._lanes])

    def room(self, priority: Priority) -> int:
        """How many jobs a producer may add. (Retries and recovered jobs need no room.)"""
        return self.capacity - len(self._by_priority[priority])

    def heads(self) -> list[Task]:
        """The first job of each lane that has one."""
        return [(lane.held or lane.tasks)[0] for lane in self._lanes if len(lane)]

    def append(self, task: Task) -> None:
        """Add to the back of the job's lane."""
        self._by_priority[task.priority].tasks.append(task)

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Return jobs that were picked to the front of their lanes.

        A lane is always in the order of ``place``. If a job that stood further in front came
        back earlier, the front is not where these belong, and the lane is put in order.
        """
        coming = sorted(tasks, key=_place)  # those at the same place keep their order
        for priority, lane in self._by_priority.items():
            back = [task for task in coming if task.priority is priority]
            in_order = not (back and lane.tasks) or back[-1].place <= lane.tasks[0].place
            lane.tasks.extendleft(reversed(back))
            if not in_order:
                lane.tasks = deque(sorted(lane.tasks, key=_place))

    def remove(self, task: Task) -> None:
        """Take a waiting job out, wherever it stands."""
        lane = self._by_priority[task.priority]
        if task in lane.held:
            self._let_go(lane, [task])
        else:
            lane.tasks.remove(task)
        if not len(lane):
            lane.passed_over = 0  # nobody waits there any more; who comes next starts anew

    def oldest(self, priority: Priority, count: int) -> list[Task]:
        """The first ``count`` jobs of a lane; they stay where they are."""
        lane = self._by_priority[priority]
        return sorted([*lane.held, *lane.tasks], key=_place)[:count]

    # ---- picking, and undoing it -----------------------------------------------------------

    def begin(self) -> None:
        """Picks from here on can be undone."""
        self._picked = []
        self._passed_over = [lane.passed_over for lane in self._lanes]

    def undo(self, appended: Iterable[Task]) -> None:
        """Restore the lanes as they were at ``begin``; ``appended`` has come since, in order."""
        for lane in self._lanes:
            self._let_go(lane, [task for task in self._picked if task in lane.held])
        self.put_back(self._picked)
        for task in reversed(list(appended)):
            removed = self._by_priority[task.priority].tasks.pop()
            assert removed is task, "the lanes were changed between begin and undo"
        for lane, passed_over in zip(self._lanes, self._passed_over, strict=True):
            lane.passed_over = passed_over
        self._picked = []

    def pick(self, suits: Suits | None = None) -> Task | None:
        """Take the next job by the token rule; None when there is none that may start.

        suits: whether to take it. Where not, it stays next.
        """
        waiting = [lane for lane in self._lanes if lane.tasks]
        if not waiting:
            return None
        chosen = waiting[0]
        if len(waiting) > 1:
            chosen = self._first_due(waiting) or chosen
        if suits is not None and not suits(chosen.tasks[0]):
            return None
        self._turn = [lane.passed_over for lane in self._lanes]
        if len(waiting) > 1:
            # Only a more urgent pick passes a lane over: a due LOW job served before a
            # waiting MEDIUM one does not count against it, or the rhythm would drift.
            for lane in waiting[waiting.index(chosen) + 1 :]:
                lane.passed_over += 1
        chosen.passed_over = 0
        task = chosen.tasks.popleft()
        self._picked.append(task)
        return task

    def _first_due(self, waiting: list[Lane]) -> Lane | None:
        if self.fairness is None:
            return None
        for lane in waiting:
            if lane.passed_over >= self.fairness:
                return lane
        return None

    def hold(self, task: Task) -> None:
        """The job that was picked last may not start yet; it keeps its place, its lane the turn."""
        for lane, passed_over in zip(self._lanes, self._turn, strict=True):
            lane.passed_over = passed_over
        insort(self._by_priority[task.priority].held, task, key=_place)
        self._held[task.kind] += 1

    def held_kinds(self) -> list[str]:
        """The kinds of which jobs are held."""
        return list(self._held)

    def release(self, kind: str, at_most: int) -> None:
        """Jobs of this kind may be picked again.

        at_most: for each lane. As many as may start, so that no newer one passes them. Not all
        of them need be picked in the same turn, so those released next may belong behind them.
        """
        for lane in self._lanes if at_most else ():
            free = [task for task in lane.held if task.kind == kind][:at_most]
            self._let_go(lane, free)
            self.put_back(free)

    def _let_go(self, lane: Lane, tasks: list[Task]) -> None:
        """These are not held any more."""
        free = set(tasks)
        lane.held = [task for task in lane.held if task not in free]
        self._held -= Counter([task.kind for task in tasks])  # which keeps no zeros


def _place(task: Task) -> int:
    return task.place
