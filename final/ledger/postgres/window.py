"""The lanes, as a window: the heads that a turn has locked, of which the token rule picks.

It lasts one transaction. On a file the same rule (``picking.py``) picks from all that waits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from final.beyond.control import WHOLE_QUEUE, Pause, holds
from final.beyond.kinds import Policies
from final.job import Status, Task
from final.ledger.admission import Admission
from final.ledger.base import Offer
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.lanes import Lanes, Standing
from final.ledger.limits import Gate
from final.ledger.picking import BATCH_JOBS, BATCH_SECONDS, Picker
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.rows import LANES, candidate_of, columns
from final.ledger.postgres.session import Session
from final.options import Options

# The order of commits is not the order of places: a look begins so far before the last job seen.
MARGIN = 2_000
BEYOND_ALL = 2**63 - 1  # places


class Answers(NamedTuple):
    """What was asked: the state of rate limits, how many run of each kind, and who may be next.

    clock: when the meters were locked.
    """

    meters: Any
    slots: Any
    looks: Sequence[Any]
    clock: Any = None


class Seen(NamedTuple):
    """What a look has found. standings: of the lanes, after what it has picked. places: of each
    lane, by seq, of those who stand in line. beside: who was looked for by itself, and where it
    stands. last: the highest place there is, if those in line are all.
    """

    standings: list[Standing]
    places: Sequence[Mapping[int, int]]
    beside: Sequence[tuple[Task, int]]
    last: int


class Window:
    """kinds: those that run here; None for all. shares: see ``picking.py``.

    fairness: as in the options, until an order changes it. limits: the kinds that have a rate
    limit, "" is the queue's, and those of which only so many may run at a time. start_at: when a
    limit lets more start (monotonic).
    """

    def __init__(
        self,
        session: Session,
        options: Options,
        policies: Policies,
        memory: Memory,
        kinds: Collection[str] | None,
        shares: Callable[[str], bool],
        table: int,
    ) -> None:
        self._session = session
        self._memory = memory
        self._capacity = options.capacity
        self._shares = shares
        self._table = table
        self.kinds = memory.kinds = None if kinds is None else list(kinds)
        self.group_limit = options.group_limit
        self.groups: set[str] = set()  # of what the latest look has seen
        self.fairness = options.fairness
        self._gate = Gate(policies.limits, 0.0)
        self._caps = policies.caps
        fresh = dict.fromkeys(self._caps, (0.0, 0.0)) | self._gate.states()
        self._fresh = columns((kind, *state) for kind, state in sorted(fresh.items()))
        self.limits = list(fresh)
        self.start_at = math.inf
        self._crowded = False  # by jobs that no limit lets start: those behind are not seen
        self._full: set[str] = set()  # kinds of which no more might run when it was last counted
        self._left_out: list[str] = []  # kinds whose jobs are not looked at
        self._looked_without: frozenset[Pause] = frozenset()  # nor are the jobs of these
        self._standings = Lanes(0, None).standings()  # from one exchange to the next
        self._seen: Seen | None = None  # of the look under way

    @property
    def is_open(self) -> bool:
        """Whether any job may start: it is not paused, and its rate limit lets one."""
        if WHOLE_QUEUE in self._memory.paused:
            return False
        return not self.limits or "" not in self._gate.closed(self._memory.clock())

    def runs(self, kind: str) -> bool:
        return self.kinds is None or kind in self.kinds

    # ---- looking -----------------------------------------------------------------------------

    def begin(self) -> None:
        """A turn, or another try. What the one before has picked did not come about."""
        self.groups.clear()
        self._seen = None

    def wanted(self, offer: Offer) -> int:
        """How many jobs the idle workers may take: the millisecond rule, by the fastest kind."""
        if WHOLE_QUEUE in self._memory.paused:
            return 0
        fastest = min(offer.cost.values(), default=BATCH_SECONDS)
        return offer.idle * min(BATCH_JOBS, max(1, int(BATCH_SECONDS / (fastest + 1e-9))))

    def may_open(self, offer: Offer) -> bool:
        """Whether what has come back may have been in the way of others of its kind."""
        return bool(self._caps and (offer.outcomes or offer.unstarted or offer.aside))

    def freed(self, offer: Offer) -> list[str]:
        """The groups with a limit of which one runs less."""
        if self.group_limit is None:
            return []
        ended = (outcome.task.group for _, outcomes in offer.outcomes for outcome in outcomes)
        return list(set(ended) - {""})

    def ask(self, wanted: int, offer: Offer) -> Answers:
        """Lock the heads of the lanes, and read what the limits have let through so far."""
        ask = self._session.ask
        caps = list(self._caps)
        meters = clock = None
        if self.limits:
            with self._session.waiting_at_most(0):  # other turns wait in line for them
                # Or there is nothing to lock, and two processes count at the same time.
                ask(sql.ADD_METERS, self._fresh)
                meters, clock = ask(sql.METERS, (self.limits,)), ask(sql.CLOCK)
        slots = ask(sql.SLOTS, (caps, caps)) if caps else ()
        # Where their jobs are in the way of others.
        self._left_out = self._memory.closed if self._crowded else []
        self._looked_without, paused = self._memory.paused, self.paused()
        heads = self._heads(wanted, paused, self._left_out)
        looks = [ask(sql.LOOK, heads)]
        if opened := self._may_have_opened(offer):
            looks.append(ask(sql.LOOK, self._heads(wanted, paused, ()) | {"kinds": opened}))
        if freed := self.freed(offer):
            values = {"freed": freed, "lanes": paused["lanes"]}
            looks.append(ask(sql.LOOK_AT_FREED, self._heads(wanted, paused, ()) | values))
        if self._memory.suspects:
            values = {**heads, **paused, "table": self._table}
            looks.append(ask(sql.LOOK_FOR_SUSPECT, values))
        return Answers(meters, slots, looks, clock)

    def paused(self) -> dict[str, Any]:
        """What is not looked at for that, and the kinds that are at all: as statements have it."""
        paused = self._memory.paused
        lanes = [p.priority for p in paused if p.priority is not None]
        return {
            "kinds": self.kinds,
            "paused": [pause.kind for pause in paused if pause.kind is not None],
            "lanes": [n for n, lane in enumerate(LANES) if lane in lanes or WHOLE_QUEUE in paused],
            "groups": [pause.group for pause in paused if pause.group is not None],
        }

    def _may_have_opened(self, offer: Offer) -> list[str]:
        """Of the kinds that are left out, those of which the next one may start by now."""
        clock = self._memory.clock()
        closed = self._gate.closed(clock) if self.may_open(offer) else self._closed(clock)
        return [kind for kind in self._left_out if kind not in closed and self.runs(kind)]

    def _heads(
        self, wanted: int, paused: Mapping[str, Any], left_out: Collection[str]
    ) -> dict[str, object]:
        share = wanted if self.fairness is None else wanted // (self.fairness + 1) + 2
        # Those of a look that has left out no more than this one does.
        beyond = (marks for kinds, marks in self._memory.beyond.items() if kinds.issubset(left_out))
        low0, low1, low2 = (
            BEYOND_ALL if n in paused["lanes"] else max(places)
            for n, places in enumerate(zip(self._memory.low, *beyond, strict=True))
        )
        return {
            "n": wanted,
            "share": min(share, wanted),
            "low0": low0,
            "low1": low1,
            "low2": low2,
            "kinds": self.kinds,
            "closed": [*left_out, *paused["paused"]],
            "aside": list(self._memory.aside),
            "groups": paused["groups"],
            "limit": self.group_limit,
        }

    def _closed(self, clock: float) -> list[str]:
        """The kinds that no limit lets start."""
        return [kind for kind in self._gate.closed(clock).keys() | self._full if kind]

    # ---- picking -----------------------------------------------------------------------------

    def pick(
        self,
        offer: Offer,
        wanted: int,
        admission: Admission,
        token: int,
        last: int,
        answers: Answers,
        passed: Collection[int],
    ) -> list[list[Task]]:
        """The token rule, over the heads of the lanes, and what is new if those are all.

        last: the highest place that was taken when the turn began. passed: jobs, by seq, that stay.
        """
        clock = self._memory.clock()
        if answers.meters is not None:
            # What is written there others may have written while this turn waited for them.
            (clock,) = answers.clock.fetchone()
            self._gate.load({kind: (first, second) for kind, first, second in answers.meters})
        caps = Caps(self.group_limit, self._caps)
        caps.found_kinds(dict(answers.slots))
        lanes = self._lanes(self._gate.kinds | caps.kinds, last + 1)
        picker = Picker(lanes, self._gate, caps, self._shares)
        picker.pause(self._memory.paused, clock)
        lanes.restore(self._standings)
        places: list[dict[int, int]] = [{} for _ in LANES]  # by seq, of who stands in line
        apart: list[tuple[Task, int]] = []
        seen = [False, False, False]
        look, *beside = answers.looks
        rows = {row[0]: row for row in look}  # by seq: some are in two
        in_line = frozenset(rows)
        rows |= {row[0]: row for look in beside for row in look}
        # Of a group those that stand in the lane come first, then those behind them.
        candidates = sorted(
            map(candidate_of, rows.values()), key=lambda one: (one.is_behind, one.task.key)
        )
        for found, candidate in enumerate(candidates):
            task, place = candidate.task, None
            lane = LANES.index(task.priority)
            seen[lane] = True
            is_anywhere = candidate.is_suspect or candidate.is_behind
            if task.seq in in_line and not is_anywhere:
                places[lane][task.seq] = int(task.key)
            elif not is_anywhere:
                apart.append((task, int(task.key)))
            if task.group:
                self.groups.add(task.group)
                caps.found(task.group, candidate.running or 0)
                place, task.key = None if candidate.is_behind else task.key, found
            if task.seq not in passed:
                lanes.add(task, place)
        saw_all = len(in_line) < wanted
        brought = admission.of(Status.QUEUED) if saw_all else []
        new = [task for task in brought if self._may_be_next(task)]
        for number, task in enumerate(new, start=1):
            task.key = last + number
            # Else older ones of its sort were not looked at.
            if not (task.kind in self._left_out or holds(self._looked_without, task)):
                lanes.add(task)
        batches = picker.batches(offer.idle, offer.cost, token, clock)
        self._seen = Seen(
            self._standings_after(lanes, seen, batches), places, apart, saw_all * last
        )
        self._full = {kind for kind in self._caps if caps.kind_is_full(kind)}
        self._memory.closed = self._closed(clock)
        has_opened = any(kind not in self._memory.closed for kind in self._left_out)
        self._memory.more = (
            not saw_all or picker.ready(clock) > 0 or has_opened or bool(self.groups and batches)
        )
        self._memory.more |= bool(self._looked_without - self._memory.paused)
        self._memory.more |= len(new) < len(brought)
        if self.limits:
            self._crowded = not saw_all and len(batches) < offer.idle
            opens_at = min(self._gate.closed(clock).values(), default=math.inf)
            self.start_at = opens_at - self._memory.ahead
        return batches

    def _standings_after(
        self, lanes: GroupLanes, seen: Sequence[bool], batches: Sequence[Sequence[Task]]
    ) -> list[Standing]:
        """Where the lanes stand by the token rule, for the next turn.

        A lane of which nothing is seen may be empty, or another process may look at its head just
        now. One that has waited before is counted as passed over all the same; else each of P
        processes would count only the picks between which it saw the head.
        """
        standings = lanes.standings()
        picked = [LANES.index(task.priority) for batch in batches for task in batch]
        for lane, (count, overtaken) in enumerate(standings):
            if count and not seen[lane]:
                standings[lane] = count + sum(other < lane for other in picked), overtaken
        return standings

    def landed(self, claimed: Iterable[Task]) -> bool:
        """What was picked is durable: the next look begins at the first job that has stayed.

        Returns whether any has. Until now nobody else could see it.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            return False
        self._standings = seen.standings
        gone = {task.seq for task in claimed}
        stay = [[lane[seq] for seq in lane.keys() - gone] for lane in seen.places]
        if self._looked_without == self._memory.paused:  # else others stand there, too
            without, marks = frozenset(self._left_out), self._memory.low
            if without or self._looked_without:
                marks = self._memory.beyond.setdefault(without, [0, 0, 0])
            for lane, places in enumerate(seen.places):
                end = max(marks[lane] + MARGIN, seen.last, *places.values())
                marks[lane] = min(stay[lane], default=end) - MARGIN
        for task, place in seen.beside:
            if task.seq not in gone:  # nor was it in line: a mark may have passed it
                self._memory.stands(task, place)
        return any(stay)

    def pick_new(self, offer: Offer, admission: Admission) -> list[list[Task]]:
        """Nothing else waits, as far as is known here: a new job is claimed as it comes in."""
        new = [task for task in admission.of(Status.QUEUED) if self._may_be_next(task)]
        if not offer.idle or not new:
            self._memory.more |= bool(admission.of(Status.QUEUED))
            return []
        lanes = self._lanes((), 0)
        for number, task in enumerate(new):
            task.key = number
            lanes.add(task)
        picker = Picker(lanes, self._gate, Caps(None, {}), self._shares)
        batches = picker.batches(offer.idle, offer.cost, 0, offer.now)
        self._memory.more = len(lanes) > 0 or len(new) < len(admission.of(Status.QUEUED))
        return batches

    def _may_be_next(self, task: Task) -> bool:
        """Of new jobs. One of a group waits behind what is there of it, seen or not."""
        return self.runs(task.kind) and not task.group and not holds(self._memory.paused, task)

    def _lanes(self, limited: Collection[str], place: int) -> GroupLanes:
        """Empty ones, for this turn. place: the end of the line."""
        return GroupLanes(self._capacity, self.fairness, limited, itertools.count(place).__next__)

    def ask_to_count(self, claimed: Sequence[Task]) -> None:
        """Write down what the limits have let through by now."""
        ask = self._session.ask
        if states := [(kind, *state) for kind, state in self._gate.states().items()]:
            ask(sql.SET_METERS, columns(states))
        if counted := [task for task in claimed if task.kind in self._caps]:
            # Of those that were there the number is known; of new ones it is the id.
            old, new = [t.seq for t in counted if t.seq], [t.id for t in counted if not t.seq]
            ask(sql.ADD_SLOTS, (old, new))
