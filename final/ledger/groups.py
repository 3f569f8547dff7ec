"""Groups take turns: of each one job at a time stands in its lane, and the next goes to its end.

So a tenant that floods the queue is passed by everybody else. The bound, for any arrivals: the
head of a group waits at most for one pick of each other group that waits in its lane, and for the
jobs without a group that came before it was the head. (Jobs of a kind with a limit of its own are
a line of their own in their group, as they are in their lane.)

A group that already has as many jobs running as it may has none in the lanes.

But: how many run, ``caps.py`` counts. And an order of groups is not kept: after a restart each
has its oldest job in the lane, behind the jobs without a group that waited then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from operator import attrgetter

from final.job import Priority, Task
from final.ledger.lanes import Lanes
from final.ledger.ordered import Ordered


class GroupLine:
    """The waiting jobs of one group, in one lane. head: the one that stands there, at ``place``."""

    __slots__ = ("behind", "head", "place")

    def __init__(self) -> None:
        self.head: Task | None = None
        self.place = 0.0
        self.behind = Ordered()

    def __iter__(self) -> Iterator[Task]:
        if self.head is not None:
            yield self.head
        yield from self.behind


_place = attrgetter("key")
LineName = tuple[Priority, str]  # its lane, and the kind where that has a limit of its own


class GroupLanes(Lanes):
    """Lanes for jobs of which some belong to groups.

    number: the next place in line; it only grows.
    """

    def __init__(
        self,
        capacity: int,
        fairness: int | None,
        limited: Collection[str],
        number: Callable[[], float],
    ) -> None:
        super().__init__(capacity, fairness, limited)
        self._number = number
        self._lines: defaultdict[str, dict[LineName, GroupLine]] = defaultdict(dict)  # by group
        self._full: set[str] = set()  # groups of which none may start
        self._behind: Counter[Priority] = Counter()
        # Lines of which no job stands in the lane, as their group is full.
        self._headless: dict[Priority, dict[GroupLine, None]] = {
            priority: {} for priority in Priority
        }

    def __len__(self) -> int:
        return super().__len__() + self._behind.total()

    def room(self, priority: Priority) -> int:
        return super().room(priority) - self._behind[priority]

    def ready(self) -> int:
        in_lanes = super().ready()
        return in_lanes and in_lanes + self._behind.total()

    def head(self, priority: Priority) -> Task | None:
        headless = self._headless[priority]
        if headless and not self._by_priority[priority].size:
            return next(iter(headless)).behind.head()
        return super().head(priority)

    def displaced_by(self, task: Task) -> Task:
        """The one that goes when there is no room for this one, which has come in already.

        A group displaces its own: the others do not suffer for it.
        """
        line = self._lines[task.group].get(self._name(task)) if task.group in self._lines else None
        first = line and (line.head or line.behind.head())
        if first and first is not task:
            return first
        heads = [super().head(task.priority)]
        if heads[0] is task:  # an older one that is next in its group may stand behind it
            self.remove(task)
            heads.append(super().head(task.priority))
            self.add(task)
        # (Two, as one may be its own line.)
        heads += [line.behind.head() for line in islice(self._headless[task.priority], 2)]
        return min(filter(None, heads), key=_place)

    def add(self, task: Task, place: float | None = None) -> None:
        """place: where it stands in its lane, if that is known."""
        if not task.group:
            self._put_in(task, task.key)
            return
        line = self._lines[task.group].setdefault(self._name(task), GroupLine())
        if line.head is not None and task.key < line.head.key:
            self._step_back(line)  # it comes back from a worker, and was in front
        line.behind.add(task)
        self._behind[task.priority] += 1
        self._come_forward(line, task, place)

    def remove(self, task: Task) -> None:
        if not task.group:
            super().remove(task)
            return
        line = self._lines[task.group][self._name(task)]
        if line.head is task:
            self._take_out(task, line.place)
            line.head = None
        else:
            line.behind.remove(task)
            self._behind[task.priority] -= 1
        self._come_forward(line, task)
        self._start_anew_if_empty(task.priority)

    def _picked(self, task: Task) -> None:
        if task.group:
            line = self._lines[task.group][self._name(task)]
            line.head = None
            self._come_forward(line, task)
        super()._picked(task)  # not sooner: its kind would be as one that comes anew, and be held

    def hold_group(self, group: str) -> None:
        """No job of this group may start."""
        self._full.add(group)
        for (priority, _), line in self._lines.get(group, {}).items():
            self._step_back(line)
            self._headless[priority][line] = None

    def release_group(self, group: str) -> None:
        """Jobs of this group may start again."""
        if group in self._full:
            self._full.remove(group)
            for line in self._lines.get(group, {}).values():
                self._come_forward(line, line.behind.head())

    def set_apart(self, kind: str) -> None:
        """Of a group, too, they are a line of their own from now on."""
        lines = [line for lines in self._lines.values() for line in lines.values()]
        mine = [task for line in lines for task in line if task.kind == kind]
        standings = self.standings()
        if kind not in self._limited_kinds:
            for task in mine:
                self.remove(task)
            super().set_apart(kind)
            for task in mine:
                self.add(task)
        self.restore(standings)

    def _name(self, task: Task) -> LineName:
        return task.priority, task.kind if task.kind in self._limited_kinds else ""

    def _come_forward(self, line: GroupLine, task: Task, place: float | None = None) -> None:
        """The first of this job's line goes to the end of the lane, if it may and none is there."""
        headless = self._headless[task.priority]
        if line.head is not None:
            return
        if not line.behind.size:
            headless.pop(line, None)
            del self._lines[task.group][self._name(task)]
            if not self._lines[task.group]:
                del self._lines[task.group]
        elif task.group in self._full:
            headless[line] = None
        else:
            headless.pop(line, None)
            line.head = line.behind.pop()
            line.place = self._number() if place is None else place
            self._behind[task.priority] -= 1
            self._put_in(line.head, line.place)

    def _step_back(self, line: GroupLine) -> None:
        if line.head is not None:
            self._take_out(line.head, line.place)
            line.behind.add(line.head)
            self._behind[line.head.priority] += 1
            line.head = None
