"""What one process knows of the queue from one exchange to the next: its own claims, and hints.

The truth is in the database, and others change it. A hint that is behind costs a look in vain, or
the time until the next poll: 0.6 s at most. A job before the low mark of its lane is found a second
or two later (``_look_back``). Nothing is decided by a hint alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from final.beyond.control import Pause
from final.job import Outcome, Status, Task
from final.ledger.base import Move
from final.ledger.postgres.rows import LANES


class Memory:
    """Used by the dispatcher's thread, except for ``was_told``, which any may set.

    say: as ``Events.say``.
    now and wall: of the exchange under way, as in ``Offer``. ahead: the database's clock minus now.
    last: the highest number of a job that is known here: a new one has a higher.
    flying: our claims, by seq. aside: jobs, by seq, that are not to run here any more.
    more: jobs may wait. was_told: another process has said so, since the latest exchange began.
    suspects: and some of them under suspicion. flows: the latest look has found what others may
    have brought; once that has run, it looks again and is not told first.
    low: of each lane the place before which nothing waits that runs here. first: nor anything else,
    by the latest look back. beyond: by the kinds that a look leaves out, nothing but these and what
    is paused. due_at: when a job is due (monotonic). tick_at: and when a periodic one. unreadable:
    the entries that make no sense here, by name, and until when that is believed.
    not_before: producers wait until then (monotonic), for keys; 0 if none does.
    paused: what is, as the latest turn has read it. kinds: those that run here; None for all.
    closed: those that no limit lets start, as the latest look has found.
    helped: other processes run jobs, too. moves and stop: for the next ``Given``.
    leases_expired, fenced and found_untold: see ``SharedFigures``. untold: a poll has looked, and
    nobody had told that there is something.
    """

    def __init__(self, say: Callable[..., None]) -> None:
        self.say = say
        self.now = self.wall = self.ahead = 0.0
        self.last = 0
        self.flying: dict[int, Task] = {}
        self.aside: set[int] = set()
        self.more = True
        self.was_told = False
        self.suspects = self.flows = False
        self.low = [0, 0, 0]
        self.first = [0, 0, 0]
        self.beyond: dict[frozenset[str], list[int]] = {}
        self.due_at = self.tick_at = -math.inf
        self.unreadable: dict[str, float] = {}
        self.not_before = 0.0
        self.paused: frozenset[Pause] = frozenset()
        self.kinds: list[str] | None = None
        self.closed: list[str] = []
        self.helped = False
        self.moves: list[Move] = []
        self.stop: list[Task] = []
        self.leases_expired = self.fenced = self.found_untold = 0
        self.untold = False

    def begin(self) -> None:
        """An exchange: what it has not seen, it hears of now."""
        if self.was_told:
            self.was_told, self.more = False, True

    def clock(self) -> float:
        """The database's, about."""
        return self.now + self.ahead

    def hear(self, paused: frozenset[Pause]) -> None:
        """So much is paused now. What is not any more is looked for."""
        if paused != self.paused:
            self.more |= bool(self.paused - paused)
            self.paused, self.beyond = paused, {}

    def may_start(self) -> dict[str, Any]:
        """What may start here, as statements have it."""
        paused = [pause.kind for pause in self.paused if pause.kind is not None]
        closed = [*self.closed, *paused]
        return {"kinds": self.kinds, "closed": closed, "aside": list(self.aside)}

    def moved(self, rows: Iterable[tuple[Any, ...]], moves: list[Move]) -> list[Task]:
        """The jobs of a statement that returns those it has moved, with whence and where."""
        by_way: dict[tuple[Status, Status | None], list[Task]] = defaultdict(list)
        tasks = []
        for seq, job_id, lane, kind, attempts, place, group, source, target, error in rows:
            task = Task(job_id, None, LANES[lane], kind, seq=seq, key=place, attempts=attempts)
            task.status = None if target is None else Status(target)
            task.group = group or ""
            tasks.append(task)
            if source == target:  # one that runs, and is to stop
                continue
            by_way[Status(source), task.status].append(task)
            if target == Status.QUEUED:
                self.comes_back(task)
            if error is not None and target == Status.FAILED:
                by_way.pop((Status(source), task.status))
                crash = Outcome(task, 0.0, error=error)
                moves.append(Move([task], Status.PROCESSING, Status.FAILED, task.token, [crash]))
        moves += [Move(some, source, target) for (source, target), some in by_way.items()]
        return tasks

    def comes_back(self, task: Task) -> None:
        """It may stand before the low mark of its lane."""
        self.more, self.untold = True, False
        self.stands(task, int(task.key))

    def stands(self, task: Task, place: int) -> None:
        """It waits there: no mark lies behind it."""
        lane = LANES.index(task.priority)
        beyond = [marks for kinds, marks in self.beyond.items() if task.kind not in kinds]
        for marks in (self.low, self.first, *beyond):
            marks[lane] = min(marks[lane], place)

    def stops_here(self, seq: int) -> bool:
        """A job that runs is cancelled; whether it runs here."""
        task = self.flying.get(seq)
        if task is not None and not task.cancelled:
            task.cancelled = True
            self.stop.append(task)
        return task is not None

    def give_up(self) -> None:
        """Our jobs are with others now. What still runs here is behind the fence."""
        for seq in list(self.flying):
            self.stops_here(seq)
        self.flying = {}
