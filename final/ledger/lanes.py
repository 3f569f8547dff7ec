"""Bounded lanes and the token rule: which job is next.

One first-in-first-out lane per priority. The most urgent lane that has a job is
served, except that a lane which has been passed over ``fairness`` times in a row
goes first. With all three lanes full and fairness 10, picks run 10 high, 1 medium,
1 low, and so on.

The bound, for any arrivals: a job that comes to the head of its lane is picked
within ``fairness + 2`` picks. The lane is passed over at most ``fairness`` times by
more urgent lanes before it is due, and then at most once more by the one other lane
that can be due before it.

A job of a kind with a rate limit of its own keeps its place in the lane and its share of the
capacity, and lets those behind it pass while its kind may not start.

But: plain data structures. No threads, no I/O, no clock.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from heapq import heapify, heappop, heappush

from final.job import Priority, Task

Suits = Callable[[Task], bool]
Entry = tuple[float, int, Task]  # (key, seq, job): an entry keeps the key that it came with


class Ordered:
    """Jobs by their ``key``. In, out and away in O(log n); in O(1) where they come in order."""

    __slots__ = ("_gone", "_heap", "_run", "size")

    def __init__(self) -> None:
        self.size = 0
        self._run: deque[Entry] = deque()  # those that came in order
        self._heap: list[Entry] = []  # the others
        self._gone: set[Task] = set()  # removed, and still in one of these

    def __iter__(self) -> Iterator[Task]:
        for _, _, task in sorted([*self._run, *self._heap]):
            if task not in self._gone:
                yield task

    def add(self, task: Task) -> None:
        if task in self._gone:
            self._clear_up()
        self.size += 1
        entry = (task.key, task.seq, task)
        if not self._run or self._run[-1] < entry:
            self._run.append(entry)
        else:
            heappush(self._heap, entry)

    def remove(self, task: Task) -> None:
        """Take it out, wherever it stands; it is there."""
        self.size -= 1
        self._gone.add(task)
        if len(self._gone) > 32 + self.size:  # more gone than there
            self._clear_up()

    def head(self) -> Task:
        """The first; there is one."""
        return self._first()[0][2]

    def pop(self) -> Task:
        self.size -= 1
        if not self._heap and not self._gone:
            return self._run.popleft()[2]
        where = self._first()
        return (self._run.popleft() if where is self._run else heappop(self._heap))[2]

    def _first(self) -> deque[Entry] | list[Entry]:
        """Where the first one stands in front."""
        run, heap, gone = self._run, self._heap, self._gone
        while gone and run and run[0][2] in gone:
            gone.discard(run.popleft()[2])
        while gone and heap and heap[0][2] in gone:
            gone.discard(heappop(heap)[2])
        return run if not heap or (run and run[0] < heap[0]) else heap

    def _clear_up(self) -> None:
        self._run = deque([entry for entry in self._run if entry[2] not in self._gone])
        self._heap = [entry for entry in self._heap if entry[2] not in self._gone]
        heapify(self._heap)
        self._gone.clear()


class Lane:
    """The waiting jobs of one priority.

    passed_over: counts since it was last served, or empty. limited: the jobs of kinds with a rate
    limit of their own, by kind.
    """

    __slots__ = ("free", "limited", "passed_over", "size")

    def __init__(self) -> None:
        self.size = 0
        self.passed_over = 0
        self.free = Ordered()
        self.limited: dict[str, Ordered] = {}

    def first(self, open_kinds: Collection[str]) -> Ordered | None:
        """Where the first of those stands that may start; None where none may."""
        first = self.free if self.free.size else None
        if self.limited:
            for kind in open_kinds:
                queue = self.limited.get(kind)
                if queue and queue.size and (not first or queue.head().key < first.head().key):
                    first = queue
        return first

    def parts(self) -> list[Ordered]:
        return [part for part in (self.free, *self.limited.values()) if part.size]


class Lanes:
    """The three lanes. ``capacity`` bounds what a producer may add to each.

    fairness: how often in a row a waiting lane may be passed over; None is strict
        priority, under which the lower lanes starve while a higher one never empties.
    limited: kinds that have a rate limit of their own.
    """

    def __init__(
        self, capacity: int, fairness: int | None, limited: Collection[str] = frozenset()
    ) -> None:
        self.fairness = fairness
        self.limited: Counter[str] = Counter()  # how many jobs of these kinds wait
        self._capacity = capacity
        self._limited_kinds = limited
        self._by_priority = {priority: Lane() for priority in Priority}
        self._lanes = list(self._by_priority.values())

    def __len__(self) -> int:
        """How many jobs wait in all."""
        return sum([lane.size for lane in self._lanes])

    def room(self, priority: Priority) -> int:
        """How many jobs a producer may add. (Retries and recovered jobs need no room.)"""
        return self._capacity - self._by_priority[priority].size

    def ready(self, open_kinds: Collection[str]) -> int:
        """How many jobs may start, as far as their kinds are concerned."""
        ready = sum([lane.free.size for lane in self._lanes])
        for lane in self._lanes:
            ready += sum([part.size for kind, part in lane.limited.items() if kind in open_kinds])
        return ready

    def head(self, priority: Priority) -> Task | None:
        """The job that has waited for longest."""
        heads = [part.head() for part in self._by_priority[priority].parts()]
        return min(heads, key=_place, default=None)

    def add(self, task: Task) -> None:
        """At the place that its ``key`` says."""
        lane = self._by_priority[task.priority]
        lane.size += 1
        if task.kind in self._limited_kinds:
            self.limited[task.kind] += 1
            lane.limited.setdefault(task.kind, Ordered()).add(task)
        else:
            lane.free.add(task)

    def remove(self, task: Task) -> None:
        """Take a waiting job out, wherever it stands."""
        lane = self._by_priority[task.priority]
        part = lane.limited[task.kind] if task.kind in self._limited_kinds else lane.free
        part.remove(task)
        lane.size -= 1
        self._left(task)
        if not lane.size:
            lane.passed_over = 0  # nobody waits there any more; who comes next starts anew

    def pick(self, open_kinds: Collection[str] = (), suits: Suits | None = None) -> Task | None:
        """Take the next job by the token rule; None when there is none that may start.

        open_kinds: of those with a rate limit, the ones that may start now.
        suits: whether to take the job. Where not, it stays next.
        """
        waiting = []
        for lane in self._lanes:
            part = lane.first(open_kinds) if lane.limited else lane.free
            if part and part.size:
                waiting.append((lane, part))
        if not waiting:
            return None
        chosen = 0 if len(waiting) == 1 else self._first_due(waiting)
        lane, part = waiting[chosen]
        if suits is not None and not suits(part.head()):
            return None
        # Only a more urgent pick passes a lane over: a due LOW job served before a
        # waiting MEDIUM one does not count against it, or the rhythm would drift.
        for passed, _ in waiting[chosen + 1 :]:
            passed.passed_over += 1
        lane.passed_over = 0
        task = part.pop()
        lane.size -= 1
        if lane.limited:
            self._left(task)
        return task

    def _first_due(self, waiting: list[tuple[Lane, Ordered]]) -> int:
        fairness = math.inf if self.fairness is None else self.fairness
        for n, (lane, _) in enumerate(waiting):
            if lane.passed_over >= fairness:
                return n
        return 0

    def _left(self, task: Task) -> None:
        if task.kind in self._limited_kinds:
            self.limited[task.kind] -= 1
            if not self.limited[task.kind]:
                del self.limited[task.kind]

    # Which lane was passed over how often, to be restored when picks have come to nothing.

    def tokens(self) -> list[int]:
        return [lane.passed_over for lane in self._lanes]

    def restore(self, tokens: list[int]) -> None:
        for lane, passed_over in zip(self._lanes, tokens, strict=True):
            lane.passed_over = passed_over


def _place(task: Task) -> float:
    return task.key
