"""Producers that wait for room, first come first served: a line in front of each lane.

A request stands in the line of the lane that its next job needs. One request may carry
jobs for several lanes; then it goes from line to line, so that its jobs are accepted in
the order they were given. A job that is scheduled, or comes after others, needs no room, since
it is not in a lane yet: for such there is a line of their own (None).

A plain data structure, used by the dispatcher's thread alone. Whether there is room is what
the ledger said last. Who has waited for too long says so itself (``Withdraw``).

Whose next job has a unique key that another transaction has steps aside, so that others go on, and
is the first in its line again when it is time to look once more (``Given.not_before``).
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice

from final.engine.messages import Enqueue
from final.job import Priority, Task
from final.ledger.base import BYTES_AT_ONCE

# Jobs of a line that a turn offers to the ledger, at most: who brings more shares with the others.
OFFERED_AT_ONCE = 500


class Producers:
    """Every ``Enqueue`` that has jobs left to bring in."""

    def __init__(self) -> None:
        # Ordered, so that one from the middle can leave without a search.
        self._lines: dict[Priority | None, OrderedDict[Enqueue, None]] = {
            which: OrderedDict() for which in (None, *Priority)
        }
        self._aside: dict[Enqueue, None] = {}  # those that wait for keys
        self._inside: dict[Enqueue, None] = {}  # those of handlers that would wait for room
        self._numbers = itertools.count(1)  # in the order in which all came first

    def __bool__(self) -> bool:
        return bool(self._aside) or any(self._lines.values())

    def __iter__(self) -> Iterator[Enqueue]:
        for line in self._lines.values():
            yield from line
        yield from self._aside

    def join(self, request: Enqueue) -> None:
        """Stand at the end of the line of its first job."""
        request.number = request.number or next(self._numbers)
        self._lines[_lane(request.next_task())][request] = None
        if request.sender is not None and request.patient:
            self._inside[request] = None

    def leave(self, request: Enqueue) -> None:
        """Go away, if it stands anywhere."""
        for line in self._lines.values():
            line.pop(request, None)
        self._aside.pop(request, None)
        self._inside.pop(request, None)

    def can_go(self, room: Mapping[Priority, float]) -> bool:
        """Whether the first in some line has room."""
        return any(line and _has_room(lane, room) for lane, line in self._lines.items())

    def comes_in(self, request: Enqueue, room: Mapping[Priority, float]) -> bool:
        """Whether it waits for its turn alone."""
        return not request.aside and _has_room(_lane(request.next_task()), room)

    def take(self, room: Mapping[Priority, float]) -> Iterator[tuple[Enqueue, list[Task]]]:
        """Requests that may go, each with what may go of it; they stand in no line now."""
        left: dict[Priority | None, float] = {None: math.inf}
        left.update(room.items())
        size = 0
        for own, line in self._lines.items():
            budget = OFFERED_AT_ONCE
            while line and left[own] > 0 and budget > 0 and size < BYTES_AT_ONCE:
                request, _ = line.popitem(last=False)
                self._inside.pop(request, None)
                tasks: list[Task] = []
                for task in islice(request.tasks, request.durable, None):
                    lane = _lane(task)
                    others_were_first = lane is not own and self._lines[lane]
                    is_much = len(tasks) == budget or size >= BYTES_AT_ONCE
                    if left[lane] <= 0 or is_much or others_were_first:
                        break
                    left[lane] -= 1
                    size += task.size
                    tasks.append(task)
                budget -= len(tasks)
                yield request, tasks
        if size >= BYTES_AT_ONCE:  # which the lines share: another one begins the next turn
            first = next(iter(self._lines))
            self._lines[first] = self._lines.pop(first)

    def step_back(self, request: Enqueue, stood: Task) -> None:
        """It is not through: in the line where it ``stood`` for that job it is still the first.

        But where nobody waits for room the next one has its turn. For several: the last one first.
        """
        lane = _lane(request.next_task())
        self.join(request)
        if lane is not None and lane is _lane(stood):
            self._lines[lane].move_to_end(request, last=False)

    def step_aside(self, request: Enqueue) -> None:
        """A key that its next job needs is not to be had now."""
        self._aside[request] = None
        request.aside = True

    def come_back(self) -> None:
        """Those that have stepped aside are the first in their lines again."""
        for request in sorted(self._aside, key=lambda request: -request.number):
            self.join(request)
            self._lines[_lane(request.next_task())].move_to_end(request, last=False)
            request.aside = False
        self._aside.clear()

    def inside(self, room: Mapping[Priority, float]) -> list[Enqueue]:
        """Those of handlers that wait for room, and not for their turns alone, as they came."""
        inside = [request for request in self._inside if not self.comes_in(request, room)]
        return sorted(inside, key=lambda request: request.number)


def _lane(task: Task) -> Priority | None:
    return task.priority if task.due_at is None and not task.after else None


def _has_room(lane: Priority | None, room: Mapping[Priority, float]) -> bool:
    return lane is None or room[lane] > 0
