"""Which jobs the idle workers get: batches, filled by the token rule as far as limits let them.

It looks at what waits in the lanes that it is given, and knows no file and no database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush

from final.beyond.control import WHOLE_QUEUE, Pause
from final.job import Priority, Task
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.limits import Gate
from final.options import QUEUE

# The millisecond rule: a batch holds as many jobs as take about a millisecond, by the measured
# time of their kind. That is up to 128 for no-op jobs and one for anything slow. (A slow job may
# also be the last of a batch of quick ones.) So order, fairness and latency are those of single
# claims wherever a handler does real work, and the cost of a hand-over between threads is shared
# wherever it does not.
BATCH_SECONDS = 0.001
BATCH_JOBS = 128
BATCH_BYTES = 1 << 20
# Sums of seconds are rounded: a limit that opens within a billionth of one is open.
ROUNDING = 1e-9


class Picker:
    """Takes jobs out of ``lanes``, as fast as ``gate`` lets them start.

    caps: how many may run at a time. shares: whether jobs of a kind may share a batch. Kinds
        that can be stopped never do, since a stop ends the whole batch.
    """

    def __init__(
        self, lanes: GroupLanes, gate: Gate, caps: Caps, shares: Callable[[str], bool]
    ) -> None:
        self._lanes = lanes
        self._gate = gate
        self._caps = caps
        # Whether a start may close anything. (What is paused is held until it is resumed.)
        self._is_limited = gate.is_limited or caps.is_limited
        self._limited_kinds = gate.kinds | caps.kinds
        self._kind_shares = shares
        # Kinds that are held, by when their limit lets the next one start.
        self._opens: list[tuple[float, str]] = []
        self._opens_at: dict[str, float] = {}  # of several entries of a kind the one that counts

    def batches(
        self, idle: int, cost: Mapping[str, float], token: int, now: float
    ) -> list[list[Task]]:
        """One for each idle worker, as far as there are jobs; they are claimed with ``token``."""
        batches: list[list[Task]] = []
        self._judge_those_due(now)
        for workers in range(idle, 0, -1):
            # At most a fair share, so that four waiting jobs go to four idle workers.
            share = -(-self._lanes.ready() // workers)
            batch = self._fill(min(BATCH_JOBS, share), cost, now)
            if not batch:
                break
            alone = len(batch) == 1
            for task in batch:
                task.attempts += 1
                task.token, task.alone = token, alone
            batches.append(batch)
        return batches

    def ready(self, now: float) -> int:
        """How many jobs could start at once."""
        if not len(self._lanes) or not self._gate.is_open(now):
            return 0
        self._judge_those_due(now)
        return self._lanes.ready()

    def next_start(self, now: float) -> float:
        """When a limit lets the next job start that waits for it; infinity for never."""
        self._judge_those_due(now)
        if self._lanes.ready():
            return max(now, self._gate.opens_at(QUEUE, now))
        return self._opens[0][0] if self._opens else math.inf

    def started(self, tasks: Sequence[Task], now: float) -> None:
        """They run. Their groups and kinds may be full now."""
        if self._is_limited:
            self._count(tasks, 1, now)

    def ended(self, tasks: Sequence[Task], now: float) -> None:
        """They run no more. Their groups and kinds may go on."""
        if self._caps.is_limited:  # a rate limit does not open by an end
            self._count(tasks, -1, now)

    def pause(self, paused: Collection[Pause], now: float) -> None:
        """From now on nothing of these starts, and all else may."""
        caps, lanes = self._caps, self._lanes
        kinds = frozenset(pause.kind for pause in paused if pause.kind is not None)
        groups = frozenset(pause.group for pause in paused if pause.group is not None)
        changed_kinds, changed_groups = kinds ^ caps.paused_kinds, groups ^ caps.paused_groups
        caps.paused_kinds, caps.paused_groups = kinds, groups
        for kind in kinds:
            lanes.set_apart(kind)
        self._limited_kinds |= kinds
        self.judge(changed_kinds, now)
        self._judge_groups(changed_groups)
        served = {*Priority} - {pause.priority for pause in paused}
        lanes.serve(() if WHOLE_QUEUE in paused else served)

    def judge(self, kinds: Collection[str], now: float) -> None:
        """Of these kinds, which may start? The others are held until their time has come."""
        for kind in self._limited_kinds.intersection(kinds):
            waits = self._lanes.waiting[kind] and not self._caps.kind_is_full(kind)
            opens_at = self._gate.opens_at(kind, now) if waits else math.inf
            if opens_at <= now + ROUNDING:
                self._lanes.release(kind)
                continue
            self._lanes.hold(kind)
            if self._opens_at.get(kind) != opens_at < math.inf:
                self._opens_at[kind] = opens_at
                heappush(self._opens, (opens_at, kind))

    def _judge_groups(self, groups: Collection[str]) -> None:
        """Of these groups, which may start?"""
        for group in groups:
            if self._caps.is_full(group):
                self._lanes.hold_group(group)
            else:
                self._lanes.release_group(group)

    def _count(self, tasks: Sequence[Task], change: int, now: float) -> None:
        """So many more of each of these run. What that lets start is judged anew."""
        self._caps.count(tasks, change)
        self._judge_groups({task.group for task in tasks})
        self.judge({task.kind for task in tasks}, now)

    def _judge_those_due(self, now: float) -> None:
        """Those of which jobs have come to wait, and those whose time has come."""
        if self._lanes.unknown:
            self.judge(self._lanes.unknown, now)
            self._lanes.unknown.clear()
        while self._opens:
            at, kind = self._opens[0]
            counts = self._opens_at.get(kind) == at and self._lanes.waiting[kind]
            if counts and at > now + ROUNDING:
                break
            heappop(self._opens)
            if self._opens_at.get(kind) == at:
                del self._opens_at[kind]
            if counts:
                self.judge([kind], now)

    def _fill(self, limit: int, cost: Mapping[str, float], now: float) -> list[Task]:
        """The batch of one worker: the next job, and those behind it that may share a batch."""
        batch: list[Task] = []
        seconds, size = 0.0, 0
        while len(batch) < limit and seconds < BATCH_SECONDS and size < BATCH_BYTES:
            if self._is_limited and not self._gate.is_open(now):
                break
            task = self._lanes.pick(self._shares if batch else None)
            if task is None:
                break
            if self._is_limited:
                self._gate.take(task.kind, now)
                self.started([task], now)
            batch.append(task)
            if len(batch) == 1 and not self._shares(task):
                break
            seconds += cost.get(task.kind, BATCH_SECONDS)
            size += task.size
        return batch

    def _shares(self, task: Task) -> bool:
        """Whether it may be in company. One that a crash has interrupted may be its cause."""
        return not task.interrupted and self._kind_shares(task.kind)
