"""Bounded lanes and the token rule: which job is next.

One first-in-first-out lane per priority. The most urgent lane that has a job is
served, except that a lane which has been passed over ``fairness`` times in a row
goes first; of two such, the one that was passed over more often. With all three lanes
full and fairness 10, picks run 10 high, 1 medium, 1 low, and so on.

The bound, for any arrivals: a job that comes to the head of its lane is picked
within ``fairness + 2`` picks. The lane is passed over at most ``fairness`` times by
more urgent lanes before it is due, and then at most once more, by one other lane: one that
is due for longer, or that it has overtaken before.

A job of a kind with a limit of its own keeps its place in the lane and its share of the
capacity. While its kind may not start, those behind it pass.

The bound holds for its lane, too, counted in the picks at which it may be served. That takes one
more rule: a lane that is due goes before a more urgent one once, and not again until that one was
served. For example, MEDIUM has one job, which may not start, and HIGH is served until LOW is due.
Now the job may start for one pick; but LOW goes first. Then it may not again, and LOW falls due
again. Without the rule LOW would be first each time that the job may start. With it, the second
time is MEDIUM's.

A lane that is not served is not passed over either: it stands still, and so does its count.

Plain data structures. No threads, no I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from final.job import Priority, Task
from final.ledger.ordered import Heads, Ordered, Rank

Suits = Callable[[Task], bool]
Standing = tuple[int, frozenset[int]]  # of a lane, by the token rule: passed_over, overtaken


class Lane:
    """The waiting jobs of one priority.

    number: 0 for the most urgent one. passed_over: how often, since it was last served or empty;
    overtaken: since then, by these less urgent ones, which were due. limited: the jobs of kinds
    with a limit of their own, by kind; free: all others. held: such kinds of which none may start
    now; the owner changes it. held_jobs: of these, how many stand here.
    """

    def __init__(self, number: int, held: Collection[str]) -> None:
        self.number = number
        self.size = 0
        self.start_anew()
        self.held_jobs = 0
        self.free = Ordered()
        self.limited: dict[str, Ordered] = {}
        self._held = held
        self._open = Heads(lambda kind: None if kind in held else self._rank(kind))
        self._oldest = Heads(self._rank)

    def start_anew(self) -> None:
        """It was served, or is empty: nobody has gone before it."""
        self.passed_over = 0
        self.overtaken: frozenset[int] = frozenset()

    def add_limited(self, task: Task, key: float) -> None:
        part = self.limited.setdefault(task.kind, Ordered())
        part.add(task, key)
        if part.head() is task:
            self.open(task.kind)
            self._oldest.enter(task.kind)

    def open(self, kind: str) -> None:
        """Jobs of this kind may start again."""
        if kind in self.limited:
            self._open.enter(kind)

    def set_apart(self, kind: str) -> int:
        """From now on it is like one with a limit of its own. Returns how many there are."""
        part = self.free.split(kind)
        if part.size:
            self.limited[kind] = part
            self._open.enter(kind)
            self._oldest.enter(kind)
        return part.size

    def count(self, kind: str) -> int:
        """How many jobs there are, of one with a limit of its own."""
        return self.limited[kind].size if kind in self.limited else 0

    def first(self) -> Ordered | None:
        """Where the first of those stands that may start; None where none may."""
        return self._before(self._open.first())

    def head(self) -> Task | None:
        """The job that has waited for longest, whether it may start or not."""
        part = self._before(self._oldest.first())
        return None if part is None else part.head()

    def _rank(self, kind: str) -> Rank | None:
        part = self.limited[kind]
        return part.rank() if part.size else None

    def _before(self, kind: str | None) -> Ordered | None:
        """The jobs without a limit or those of ``kind``: which has the older one?"""
        free = self.free if self.free.size else None
        limited = None if kind is None else self.limited[kind]
        if free is None or limited is None:
            return free or limited
        return free if free.rank() < limited.rank() else limited


class Lanes:
    """The three lanes. ``capacity`` bounds what a producer may add to each.

    fairness: how often in a row a waiting lane may be passed over; None is strict
        priority, under which the lower lanes starve while a higher one never empties.
    limited: kinds that have a limit of their own. ``hold`` and ``release`` say which may start.
        With its first job a kind is held, and in ``unknown`` until its owner has judged it.
    """

    def __init__(
        self, capacity: int, fairness: int | None, limited: Collection[str] = frozenset()
    ) -> None:
        self.fairness = fairness
        self.waiting: Counter[str] = Counter()  # how many jobs of the limited kinds stand in lanes
        self.unknown: set[str] = set()
        self._held: set[str] = set()
        self._capacity = capacity
        self._limited_kinds = frozenset(limited)
        self._by_priority = {p: Lane(n, self._held) for n, p in enumerate(Priority)}
        self._served = self._lanes = list(self._by_priority.values())

    def __len__(self) -> int:
        """How many jobs wait in all."""
        return sum([lane.size for lane in self._lanes])

    def room(self, priority: Priority) -> int:
        """How many jobs a producer may add. (Retries and recovered jobs need no room.)"""
        return self._capacity - self._by_priority[priority].size

    def ready(self) -> int:
        """How many jobs may start, as far as their kinds and their lanes are concerned."""
        return sum([lane.size - lane.held_jobs for lane in self._served])

    def has_others(self, kinds: Collection[str]) -> bool:
        """Whether jobs of other kinds than these stand in lanes that are served."""
        return any(lane.size > sum(map(lane.count, kinds)) for lane in self._served)

    def head(self, priority: Priority) -> Task | None:
        """The first job of a lane, whether it may start or not."""
        return self._by_priority[priority].head()

    def add(self, task: Task) -> None:
        """At the place that its ``key`` says."""
        self._put_in(task, task.key)

    def remove(self, task: Task) -> None:
        """Take a waiting job out, wherever it stands."""
        self._take_out(task, task.key)
        self._start_anew_if_empty(task.priority)

    def _put_in(self, task: Task, key: float) -> None:
        lane = self._by_priority[task.priority]
        lane.size += 1
        if task.kind in self._limited_kinds:
            self._count(task, 1)
            lane.add_limited(task, key)
        else:
            lane.free.add(task, key)

    def _take_out(self, task: Task, key: float) -> None:
        lane = self._by_priority[task.priority]
        lane.size -= 1
        if task.kind in self._limited_kinds:
            self._count(task, -1)
            lane.limited[task.kind].remove(task, key)
        else:
            lane.free.remove(task, key)

    def _start_anew_if_empty(self, priority: Priority) -> None:
        """Nobody waits there any more: who comes next was not passed over yet."""
        if self.room(priority) == self._capacity:
            self._by_priority[priority].start_anew()

    def hold(self, kind: str) -> None:
        """No job of this kind may start."""
        if kind not in self._held:
            self._held.add(kind)
            for lane in self._lanes:
                lane.held_jobs += lane.count(kind)

    def release(self, kind: str) -> None:
        """Jobs of this kind may start again."""
        if kind in self._held:
            self._held.remove(kind)
            for lane in self._lanes:
                lane.held_jobs -= lane.count(kind)
                lane.open(kind)

    def set_apart(self, kind: str) -> None:
        """From now on this kind can be held, as one with a limit of its own. Looks at each job."""
        if kind not in self._limited_kinds:
            self._limited_kinds |= {kind}
            self.waiting[kind] = sum(lane.set_apart(kind) for lane in self._lanes)

    def serve(self, priorities: Collection[Priority]) -> None:
        """Only jobs of these lanes may start."""
        self._served = [lane for p, lane in self._by_priority.items() if p in priorities]

    def pick(self, suits: Suits | None = None) -> Task | None:
        """Take the next job by the token rule; None when there is none that may start.

        suits: whether to take the job. Where not, it stays next.
        """
        waiting = [lane for lane in self._served if lane.size > lane.held_jobs]
        if not waiting:
            return None
        chosen = 0 if len(waiting) == 1 else self._first_due(waiting)
        lane = waiting[chosen]
        part = lane.first() if lane.limited else lane.free
        assert part is not None, "what is not held may start"
        if suits is not None and not suits(part.head()):
            return None
        # Only a more urgent pick passes a lane over: a due LOW job served before a
        # waiting MEDIUM one does not count against it, or the rhythm would drift.
        for passed in waiting[chosen + 1 :]:
            passed.passed_over += 1
        for urgent in waiting[:chosen]:
            urgent.overtaken |= {lane.number}
        lane.start_anew()
        task = part.pop()
        lane.size -= 1
        if lane.limited or task.group:
            self._picked(task)
        return task

    def _picked(self, task: Task) -> None:
        """It has left its place in front."""
        if task.kind in self._limited_kinds:
            self._count(task, -1)

    def _first_due(self, waiting: list[Lane]) -> int:
        """The lane that is overdue for longest; where none is, the most urgent one.

        It does not overtake one twice: where that still waits, it is the turn of that one.
        """
        due = max(range(len(waiting)), key=lambda n: waiting[n].passed_over)
        if self.fairness is None or waiting[due].passed_over < self.fairness:
            return 0
        again = (n for n in range(due) if waiting[due].number in waiting[n].overtaken)
        return next(again, due)

    def _count(self, task: Task, change: int) -> None:
        """So many more jobs of its kind, which is limited, stand in its lane."""
        kind = task.kind
        if not self.waiting[kind]:
            self.unknown.add(kind)
            self._held.add(kind)
        self.waiting[kind] += change
        if kind in self._held:
            self._by_priority[task.priority].held_jobs += change

    # Whose turn it is, to be restored when picks have come to nothing.

    def standings(self) -> list[Standing]:
        return [(lane.passed_over, lane.overtaken) for lane in self._lanes]

    def restore(self, standings: list[Standing]) -> None:
        for lane, standing in zip(self._lanes, standings, strict=True):
            lane.passed_over, lane.overtaken = standing
