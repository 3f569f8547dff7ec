"""How much room the lanes have, and who comes in.

Jobs are counted inside the turn, where what was counted before is not enough to be sure.

But: capacity is exact for one process; of several, each believes its latest count for a moment, and
then brings half its share of the room at most.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from final.job import Priority, Status, Task
from final.ledger.admission import Admission, admit
from final.ledger.features.keys import Keys
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.rows import LANES
from final.ledger.postgres.session import Session
from final.ledger.postgres.window import MARGIN
from final.options import Options

BELIEVED_SECONDS = 0.6  # what was counted: others bring jobs, too


class Room:
    """left: in each lane, as far as is known here."""

    def __init__(self, session: Session, options: Options, memory: Memory) -> None:
        self._session = session
        self._capacity = options.capacity
        self._overflow = options.overflow
        self._memory = memory
        self.left: dict[Priority, float] = dict.fromkeys(Priority, options.capacity)
        self._unchecked: dict[Priority, float] = dict.fromkeys(Priority, 0)
        self._believed_until = 0.0

    def is_unsure(self, new: Sequence[Sequence[Task]]) -> bool:
        """Whether it takes a count to know that all of these have room."""
        if self._memory.now > self._believed_until:
            self._unchecked = dict.fromkeys(Priority, 0)
        return any(len(tasks) > self._unchecked[lane] for lane, tasks in _by_lane(new).items())

    def ask(self, new: Sequence[Sequence[Task]]) -> Any:
        """How full the lanes are, where that matters; an answer for ``count``."""
        if self._overflow == "drop-oldest":
            # All come in; but is a unique job to wait, as who has its key may have to go?
            matters = any(task.unique for tasks in new for task in tasks)
        else:
            matters = self.is_unsure(new) or min(self.left.values()) <= 0
        if not matters:
            return None
        # What runs elsewhere alone, the low marks have passed.
        marks = self._memory.low if self._memory.kinds is None else self._memory.first
        values = [value for mark in marks for value in (self._capacity, mark, self._capacity)]
        return self._session.ask(sql.FILLED, values)

    def count(self, answer: Any) -> None:
        if answer is None:
            return
        others = 2 if self._memory.helped else 1
        self._believed_until = self._memory.now + BELIEVED_SECONDS
        for n, (lane, (count, place)) in enumerate(zip(LANES, answer.fetchone(), strict=True)):
            if place is not None:  # the next count need not pass over what is before it
                self._memory.first[n] = max(self._memory.first[n], place - MARGIN)
            self.left[lane] = self._capacity - count
            # Half of it may be used up before it is counted again: others come in, too.
            self._unchecked[lane] = self.left[lane] // (2 * others)

    def ask_to_drop(self, coming: Sequence[Task], kept: Collection[int]) -> list[Any]:
        """The oldest make room for these, which come in. kept: jobs that stay, by seq."""
        return [
            drop_oldest(self._session.ask, lane, len(tasks), len(tasks), self._capacity, kept)
            for lane, tasks in _by_lane([coming]).items()
        ]

    def admit(
        self,
        new: Sequence[Sequence[Task]],
        known: Collection[str],
        keys: Keys,
        now: float,
    ) -> Admission:
        before = {lane: int(self.left[lane]) for lane in LANES}
        room = before.copy()
        admission = admit(new, known, room, self._overflow, keys)
        if self._overflow == "drop-oldest":
            # Those that are there make room afterwards; of the new ones, the first go.
            for lane in LANES:
                over = before[lane] - room[lane] - self._capacity
                coming = []
                for task, target in admission.coming:
                    drops = over > 0 and target is Status.QUEUED and task.priority is lane
                    over -= drops
                    coming.append((task, Status.DROPPED if drops else target))
                admission.coming[:] = coming
        for task, _ in admission.coming:
            task.attempts = task.token = task.seq = 0
            task.alone = False
            task.queued_at = now
        return admission

    def take(self, lane: Priority) -> None:
        """One more job stands in it."""
        self.left[lane] -= 1
        self._unchecked[lane] -= 1

    def free(self, lane: Priority) -> None:
        """One that stood in it was claimed."""
        self.left[lane] += 1


def drop_oldest(
    ask: Any, lane: Priority, coming: int, most: int, capacity: int, kept: Collection[int] = ()
) -> Any:
    """Of those in this lane, that ``coming`` more have room; at most so many."""
    values = {"lane": LANES.index(lane), "coming": coming, "most": most, "capacity": capacity}
    return ask(sql.DROP_OLDEST, values | {"kept": list(kept)})


def _by_lane(new: Sequence[Sequence[Task]]) -> dict[Priority, list[Task]]:
    """Those that want to stand in a lane."""
    lanes: dict[Priority, list[Task]] = {}
    for tasks in new:
        for task in tasks:
            if task.due_at is None and not task.after:
                lanes.setdefault(task.priority, []).append(task)
    return lanes
