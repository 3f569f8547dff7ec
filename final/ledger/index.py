"""The index: which jobs wait and run here, in memory, and where each of them waits.

A job that waits has one home: its lane, a timer, the suspects of a crash, or those that wait for a
parent. A step of an exchange takes jobs out of theirs and *moves* them: they arrive where
their new status says, and the move is noted for the file.

Payloads are kept as far as ``memory`` bytes go. Beyond that a job waits without its own.

But: it reads and writes no file. Which job is next, the lanes and the picker say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from final.beyond.control import WHOLE_QUEUE, Pause, holds
from final.beyond.kinds import Policies
from final.beyond.meta import NO_META
from final.job import Outcome, Status, Task
from final.ledger.base import Move
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.lanes import Lanes
from final.ledger.limits import Gate
from final.ledger.ordered import Ordered
from final.ledger.picking import Picker
from final.options import Options

QUEUED, SCHEDULED, PROCESSING, RETRYING, *_, WAITING = Status
WAIT = (QUEUED, SCHEDULED, RETRYING, WAITING)


class Index:
    """handles: whether jobs of a kind may be here. lanes and picker: for what is queued.

    live: every job that is here, by id. count: of these, by status. moves: of this exchange.

    timers and clock: retries and scheduled jobs by when they are due, each on the clock that goes
    for it: a delay in monotonic seconds, a datetime in Unix seconds. children: wait for parents.
    number: the last one given to a job, or to a place in line.

    Who is moved has left before: by ``leave``, or as the first of where it waited (``pick`` or
    ``pop``, and ``count_out``). ``put_in`` and ``take_out`` are for jobs that come from the file,
    or are left to it, without a move.
    """

    def __init__(
        self,
        options: Options,
        policies: Policies,
        gate: Gate,
        handles: Callable[[str], bool],
        shares: Callable[[str], bool],
    ) -> None:
        self.handles = handles
        caps = Caps(options.group_limit, policies.caps)
        self.lanes = GroupLanes(
            options.capacity, options.fairness, gate.kinds | caps.kinds, self.next_number
        )
        self.picker = Picker(self.lanes, gate, caps, shares)
        self.timers = Ordered()
        self.clock = Ordered()
        self.children: set[Task] = set()
        self.suspects = Ordered()  # go into their lanes one by one
        self._suspect: Task | None = None  # the one that has left for its lane
        self.live: dict[str, Task] = {}
        self.count: Counter[Status | None] = Counter()
        self.number = 0
        self._policies = policies
        self._memory = options.memory
        self.kept = 0  # bytes of payloads of waiting jobs that are in memory
        self._too_many: list[Task] = []  # came with payloads beyond ``memory``
        self.begin(0.0, 0.0)

    def begin(self, now: float, wall: float) -> list[Move]:
        """An exchange begins; returns the list that its moves will be in."""
        self.now, self.wall = now, wall
        self.moves: list[Move] = []
        return self.moves

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def move(
        self,
        tasks: list[Task],
        source: Status | None,
        target: Status | None,
        token: int = 0,
        outcomes: Sequence[Outcome] = (),
    ) -> None:
        """Jobs that have left where they were arrive elsewhere. The file follows at the end."""
        if not tasks:
            return
        self.moves.append(Move(tasks, source, target, token, outcomes))
        self.count[source] -= len(tasks)
        self.count[target] += len(tasks)
        if source is PROCESSING:
            self.picker.ended(tasks, self.now)
        for task in tasks:
            task.status = target
        if target is None or target.ended:
            for task in tasks:
                self.live.pop(task.id, None)
        elif target is not PROCESSING:
            self.arrive(tasks)

    def put_in(self, task: Task, due: float | None = None) -> None:
        """One that was read from the file. due: the end of a delay that was counted here."""
        self.count[task.status] += 1
        if task.status in WAIT:
            self.set_timer(task, due)
            self.arrive([task])
        elif task.status is PROCESSING:
            self.live[task.id] = task
            self.picker.started([task], self.now)
        else:
            self.live.pop(task.id, None)

    def take_out(self, task: Task) -> None:
        """One whose move could not be written, or that is in the file alone from now on."""
        if task.status is not None:
            self.count[self.leave(task)] -= 1
        if task.status is PROCESSING:
            self.picker.ended([task], self.now)

    def arrive(self, tasks: Sequence[Task]) -> None:
        """To wait where their status says."""
        for task in tasks:
            self.live[task.id] = task
            task.token = 0
            self._home(task).add(task)
        self.count_in(tasks)

    def leave(self, task: Task) -> Status:
        """Out of where it waits, if it does; returns its status."""
        assert task.status is not None
        if task.status in WAIT:
            self._home(task).remove(task)
            self.count_out([task])
            if task is self._suspect:  # another job may replace it, which is none
                self._suspect = None
        return task.status

    def _home(self, task: Task) -> Ordered | Lanes | set[Task]:
        if task.status is QUEUED:
            if task.interrupted and task is not self._suspect and self._is_suspect(task):
                return self.suspects
            return self.lanes
        if task.status is WAITING:
            return self.children
        if task.status is SCHEDULED and task.by_clock:
            return self.clock
        return self.timers

    def set_timer(self, task: Task, due: float | None = None) -> None:
        """If it waits for a moment, that is its key."""
        if task.due_at is None:
            return
        if task.by_clock and task.status is not RETRYING:
            task.key = task.due_at
        else:
            task.key = self.now + (task.due_at - self.wall) if due is None else due

    def is_stalled(self, paused: Collection[Pause]) -> bool:
        """Whether nothing of what waits will start, unless somebody resumes it."""
        if not paused or WHOLE_QUEUE in paused:
            return bool(paused)
        kinds = [pause.kind for pause in paused if pause.kind is not None]
        return not (self.count[RETRYING] or self.lanes.has_others(kinds))

    # ---- after a crash -----------------------------------------------------------------------

    def _is_suspect(self, task: Task) -> bool:
        """Of one that was interrupted: whether it is likely the cause, or next a dead letter.

        If all of these ran side by side again, they would be charged together for what one
        of them does, and die together. So they run one at a time, beside the other jobs.
        """
        next_is_last = task.attempts >= self._policies.of(task.kind).max_retries
        return next_is_last or task.interrupted > 1

    def release_suspect(self, paused: Collection[Pause]) -> None:
        """Let the next suspect into its lane, if none is on its way. Not one that is paused."""
        suspect = self._suspect
        if suspect and suspect.status in (QUEUED, PROCESSING):
            if suspect.status is PROCESSING or not holds(paused, suspect):
                return
            self.lanes.remove(suspect)
            self.suspects.add(suspect)
        self._suspect = next((s for s in self.suspects if not holds(paused, s)), None)
        if self._suspect is not None:
            self.suspects.remove(self._suspect)
            self.lanes.add(self._suspect)

    # ---- payloads in memory --------------------------------------------------------------------

    def count_in(self, tasks: Sequence[Task]) -> None:
        """They wait with their payloads, if those have come with them: these count."""
        loaded = [task for task in tasks if task.payload is not None]
        self.kept += sum([task.size for task in loaded])
        if self.kept > self._memory:
            self._too_many += loaded

    def count_out(self, tasks: Iterable[Task]) -> None:
        """They wait no longer, or not with their payloads: these count no more."""
        self.kept -= sum([task.size for task in tasks if task.payload is not None])

    def unload(self) -> None:
        """What the file has, and there is no room for here, is read when it is claimed."""
        while self.kept > self._memory and self._too_many:
            task = self._too_many.pop()
            if task.payload is not None and task.status in WAIT:
                self.count_out([task])
                without_payload([task])
        self._too_many.clear()


def without_payload(tasks: Iterable[Task]) -> None:
    """These let go of what the file has of them, too."""
    for task in tasks:
        task.payload, task.job, task.meta = None, None, NO_META
