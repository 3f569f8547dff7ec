"""The contract of a job queue as a plain model: what each job is, and what may become of it.

The queue under test does something; whoever watches it tells the model, in the field's words:
``accept``, ``claim``, ``complete``, ``fail`` ... The model knows what the contract allows, and
raises ``ContractBroken``, with a sentence, for anything else. ``improved`` and ``final`` are
held against the same model; a verb that a stage does not have is never said.

But: no threads, no storage, no clock. It is slow and obvious, where the queue is fast.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from final.beyond.unique import Unique
from tests.labs.families import Families
from tests.labs.held_keys import HeldKeys
from tests.labs.turns import Line, Turns

LANES = ("high", "medium", "low")  # most urgent first
ENDED = ("completed", "failed", "cancelled", "dropped")
PRUNED = ("completed", "cancelled", "dropped")  # what a history may let go of
A_MOMENT = 1e-6  # sums of floating-point seconds may differ by so much
ONE = 1.0 - 1e-9  # token, by such sums


class ContractBroken(AssertionError):
    """The queue has done what it must not do, or has not done what it must."""


def require(holds: object, sentence: str) -> None:
    if not holds:
        raise ContractBroken(sentence)


@dataclass(slots=True)
class Entry:
    """One accepted job.

    number: its own, in the order of acceptance.
    place: its number in line, a new one each time that it goes to the back of its lane; came: the
    commit that put it there.
    group: "" for none. key: of its Unique; "" for none.
    token: the fencing token of its latest claim. claimed: when that was.
    due: when it may come back, on the clock that never jumps. due_at: the same, Unix seconds.
    by_clock: the wall clock decides, and when that is set, ``due`` is another. noticed: by when
    that is noticed at the latest.
    alone: the latest claim was of this job only, so a crash is charged to it.
    begun: the handler has begun since then. starts: how often it has begun in all.
    unbegun: so many crashes met it between a claim and the beginning of its handler.
    charged_unbegun: and so many of these were charged.
    interrupted: so many times in a row the process ended while it ran.
    told: it was cancelled while it ran, so it is not tried again.
    owed: the retries that it was promised before it was replaced by one of another kind.
    """

    lane: str
    kind: str
    status: str
    number: int
    place: int
    came: int = 0
    group: str = ""
    key: str = ""
    attempts: int = 0
    token: int = 0
    claimed: float = 0.0
    begun: bool = False
    starts: int = 0
    unbegun: int = 0
    charged_unbegun: int = 0
    due: float = 0.0
    due_at: float | None = None
    by_clock: bool = False
    noticed: float = 0.0
    alone: bool = False
    interrupted: int = 0
    told: bool = False
    owed: int = 0

    @property
    def latest(self) -> float:
        """When it is due at the latest: between two clocks lies a sum."""
        return max(self.due, self.noticed) + A_MOMENT if self.by_clock else self.due


class Limit(NamedTuple):
    """``rate`` starts a second, and up to ``burst`` at once after a pause."""

    rate: float
    burst: int


class Tokens:
    """What a limit allows at this moment: one token for each start, and never more than burst."""

    def __init__(self, limit: Limit, now: float) -> None:
        self._limit = limit
        self._count, self._counted_at = float(limit.burst), now

    def count(self, now: float) -> float:
        earned = (now - self._counted_at) * self._limit.rate
        return min(self._count + earned, float(self._limit.burst))

    def take(self, now: float) -> None:
        self._count, self._counted_at = self.count(now) - 1.0, now

    def until_one(self, now: float) -> float:
        """Seconds until the next start is allowed; 0 when it is."""
        return max(0.0, (1.0 - self.count(now)) / self._limit.rate)


class Ticks(NamedTuple):
    """A periodic job: seconds from a tick to the next; missed: as of ``Every``."""

    kind: str
    seconds: float
    missed: str


class Model:
    """Every job that was accepted, by its id.

    fairness: how often in a row a waiting lane may be passed over; None for strict priority.
    limits: how fast jobs of a kind may start; of the kind "", all together. retries: max_retries of
    the kinds that have their own. caps: how many of a kind may be processing at a time;
    group_limit: of a group.
    """

    def __init__(
        self,
        *,
        capacity: int,
        max_retries: int,
        fairness: int | None,
        limits: Mapping[str, Limit] | None = None,
        retries: Mapping[str, int] | None = None,
        caps: Mapping[str, int] | None = None,
        group_limit: int | None = None,
    ) -> None:
        self.jobs: dict[str, Entry] = {}
        self._capacity = capacity
        self._max_retries = max_retries
        self._fairness = fairness
        self._limits = limits or {}
        self._retries = retries or {}
        self._caps = caps or {}
        self._group_limit = group_limit
        # Kinds whose jobs are lines of their own in their groups: also those that were paused.
        self._limited = self._limits.keys() | self._caps.keys()
        self._tokens = {kind: Tokens(limit, 0.0) for kind, limit in self._limits.items()}
        self.paused: set[tuple[str, str]] = set()  # ("kind", its name), ("queue", "") ...
        self._handled: Collection[str] | None = None  # kinds that have a handler; None for all
        self._last_place = 0
        self._last_token = 0
        # The jobs that wait in each lane, as (place, id), first to last.
        self._waiting: dict[str, list[tuple[int, str]]] = {lane: [] for lane in LANES}
        # Jobs that were interrupted twice in a row, or once before their last attempt, run one at
        # a time, beside the lanes.
        self.suspects: set[str] = set()
        # The head of each lane, by its place, and how many picks it has seen.
        self._heads: dict[str, tuple[int, int]] = {}
        self._periodic: Ticks | None = None
        self._next_tick = 0.0  # Unix seconds
        self._noticed = 0.0  # since when everybody knows how the wall clock was set
        self._turns = Turns()
        self._has_groups = False
        self.keys = HeldKeys()
        self.families = Families()
        self._commit = 0  # the number of the latest
        # So many jobs were replaced in it and went elsewhere, for which a lane needs no room.
        self._replaced = 0
        # Ended jobs that the history has let go of are still counted.
        self._pruned: Counter[tuple[str, str]] = Counter()

    # ---- what comes by itself ----------------------------------------------------------------

    def declare(self, kind: str, seconds: float, wall: float, missed: str) -> None:
        """A job of this kind is periodic: all of its ticks count, or the latest for them all."""
        self._periodic = Ticks(kind, seconds, missed)
        self._next_tick = wall + seconds

    def tick(self, tick: float, wall: float) -> None:
        """A job of this tick comes in."""
        assert self._periodic is not None, "it was declared"
        require(tick <= wall, f"A job came in {tick - wall:g} s before its tick.")
        require(tick >= self._next_tick, f"The tick {tick:g} has had its job.")
        passed_over = round((tick - self._next_tick) / self._periodic.seconds)
        if self._periodic.missed == "all":
            require(not passed_over, f"{passed_over} ticks were passed over.")
        self._next_tick = tick + self._periodic.seconds

    def lacks_a_tick(self, now: float, wall: float) -> bool:
        """Whether one has come of which there is no job."""
        ticks = self._periodic
        if ticks is None or now < self._noticed:
            return False
        is_handled = self._handled is None or ticks.kind in self._handled
        return is_handled and self._next_tick <= wall

    # ---- what may happen to a job ------------------------------------------------------------

    def commit(self) -> None:
        """What is said from here on is in one transaction."""
        self._commit += 1
        self._replaced = 0

    def accept(
        self,
        job_id: str,
        lane: str,
        kind: str = "default",
        makes_room: bool = False,
        group: str = "",
    ) -> None:
        """A new job, at the back of its lane; there must be room for it, or it ``makes_room``."""
        has_room = makes_room or self.has_room(lane)
        require(has_room, f"{job_id} was let into the {lane} lane, which is full.")
        self._add(job_id, lane, kind, "queued", group)
        self._line_up(job_id)

    def schedule(
        self,
        job_id: str,
        lane: str,
        kind: str,
        due: float,
        due_at: float,
        by_clock: bool,
        group: str = "",
    ) -> None:
        """A new job whose time is to come. It is in no lane yet, so it needs no room."""
        self._add(job_id, lane, kind, "scheduled", group)
        entry = self.jobs[job_id]
        entry.due, entry.due_at, entry.by_clock = due, due_at, by_clock

    def turn_away(self, job_id: str, lane: str, kind: str, group: str = "") -> None:
        """A new job that is dropped because its lane is full."""
        full = self.may_be_full(lane)
        require(full, f"{job_id} was dropped, though the {lane} lane has room.")
        self._add(job_id, lane, kind, "dropped", group)

    def take_key(self, job_id: str, unique: Unique, wall: float) -> None:
        """The new job has come in with this key, which nobody held."""
        entry = self.jobs[job_id]
        holder = self.keys.now(wall).get(unique.key)
        require(not holder, f"{job_id} came in, though another job holds its key: {holder}.")
        entry.key = unique.key
        self.keys.take(job_id, entry, unique, wall)

    def replace(
        self, job_id: str, lane: str, kind: str, group: str, back: bool, due_at: float | None
    ) -> None:
        """A job that waits becomes another one. back: it goes to the back of its lane, or waits
        until ``due_at``; else it stays where it is, and as it is.
        """
        entry = self._entry(job_id, "replaced", "queued", "scheduled", "retrying")
        stays = (lane, kind, group) == (entry.lane, entry.kind, entry.group)
        stays = stays or entry.status == "retrying"
        require(back or stays, f"{job_id} was replaced, and stands in the {entry.lane} lane still.")
        if back:
            self._leave(job_id, entry)
            self.go_elsewhere()
        entry.owed = max(entry.owed, self._most_retries(entry), entry.attempts)  # it waits to run
        entry.lane, entry.kind, entry.group = lane, kind, group
        self._has_groups |= group != ""
        if not back:
            return
        entry.due_at, entry.by_clock = due_at, False
        if due_at is None:
            self._to_the_back(job_id, entry)
        else:
            entry.status = "scheduled"

    def go_elsewhere(self) -> None:
        """A job that was replaced goes into another lane, and asks for no room there."""
        self._replaced += 1

    def wait_for(self, job_id: str, lane: str, kind: str, group: str, due_at: float | None) -> None:
        """A new job that comes after others. It is in no lane yet, so it needs no room."""
        self._add(job_id, lane, kind, "waiting", group)
        self.jobs[job_id].due_at = due_at

    def set_family(self, job_id: str, parents: Mapping[int, str], if_failed: str) -> None:
        """Its parents, by their numbers, and what each of them has become; "" where it has not."""
        self.families.come_in(self.jobs[job_id].number, parents, if_failed)

    def release(self, job_id: str, due: float | None) -> None:
        """Its parents have ended: to the back of its lane, or it is scheduled."""
        entry = self._entry(job_id, "let go", "waiting")
        child = self.families.waiting.pop(entry.number)
        require(not child.open, f"{job_id} was let go before its parents had ended.")
        require(not child.is_doomed, f"{job_id} was let go, though a parent has failed.")
        if due is None:
            entry.due_at, entry.by_clock = None, False
            self._to_the_back(job_id, entry)
        else:
            entry.status, entry.due = "scheduled", due

    def claim(self, job_id: str, token: int, alone: bool, now: float = 0.0) -> None:
        """A worker gets the job. It must be its turn: in its lane, and by the token rule.

        alone: the worker gets no other one with it.
        """
        entry = self._entry(job_id, "claimed", "queued")
        # A process that did not know the kind may have judged it by the queue's own.
        most = max(self._most_retries(entry), self._max_retries, entry.owed)
        require(
            entry.attempts <= most,
            f"{job_id} was claimed again after {entry.attempts} attempts, with max_retries {most}.",
        )
        require(token > entry.token, f"{job_id} was claimed with token {token}, an old one.")
        if job_id in self.suspects:
            running = [s for s in self.suspects if self.jobs[s].status == "processing"]
            require(not running, f"{job_id} was claimed beside {running}: suspects run alone.")
        require(self.is_handled(job_id), f"{job_id} was claimed, and nobody handles {entry.kind}.")
        require(
            not self._is_full(entry.group),
            f"{job_id} was claimed beside {self._group_limit} others of group {entry.group}.",
        )
        require(self._may_start(job_id, now), f"{job_id} was claimed sooner than its limit allows.")
        self._pick(job_id, entry.lane, now)
        for tokens in self._tokens_of(job_id):
            tokens.take(now)
        entry.status = "processing"
        entry.attempts += 1
        entry.token = self._last_token = max(token, self._last_token)
        entry.claimed, entry.alone, entry.begun = now, alone, False
        self.look_at_heads()

    def deliver(self, job_ids: list[str]) -> None:
        """These were claimed for one worker."""
        alone = len(job_ids) == 1
        for job_id in job_ids:
            entry = self.jobs[job_id]
            require(entry.alone == alone, f"{job_id} was claimed as if it was alone: {not alone}.")
            require(
                alone or not entry.interrupted,
                f"{job_id} may have ended the process, and was claimed together with others.",
            )

    def start(self, job_id: str, token: int) -> None:
        """The handler begins."""
        entry = self.jobs.get(job_id)
        require(
            entry and entry.status == "processing" and entry.token == token,
            f"{job_id} is started without a claim that is in the store.",
        )
        assert entry is not None
        require(not entry.told, f"{job_id} is started, though it was cancelled before.")
        require(not self.is_paused(job_id), f"{job_id} is started, and it is paused.")
        entry.begun = True
        entry.starts += 1

    def complete(self, job_id: str, token: int | None) -> None:
        """An attempt has ended well. token: the one that it was claimed with."""
        entry = self._ended_attempt(job_id, "completed", token)
        entry.status = "completed"
        self.families.ended(entry.number, "completed")

    def fail(self, job_id: str, token: int | None) -> None:
        """The last attempt has failed: a dead letter."""
        entry = self._ended_attempt(job_id, "given up", token)
        require(
            entry.attempts > self._most_retries(entry),
            f"{job_id} became a dead letter after {entry.attempts} attempts, with max_retries "
            f"{self._most_retries(entry)}.",
        )
        self._bury(job_id, entry)

    def _bury(self, job_id: str, entry: Entry) -> None:
        """It is a dead letter, and has had its attempts.

        Nobody can tell whether a job that was alone had begun when the process ended. So such a
        crash may have been charged; but no single one ends a job that never began.
        """
        require(
            entry.starts + entry.charged_unbegun > self._most_retries(entry),
            f"{job_id} became a dead letter after {entry.starts} starts and "
            f"{entry.charged_unbegun} crashes before one, with max_retries "
            f"{self._most_retries(entry)}.",
        )
        require(
            entry.starts or entry.unbegun > 1,
            f"{job_id} became a dead letter without having started.",
        )
        entry.status = "failed"
        self.families.ended(entry.number, "failed")

    def retry_later(self, job_id: str, token: int | None, due: float, due_at: float) -> None:
        """An attempt has failed, and there will be another."""
        entry = self._ended_attempt(job_id, "to be retried", token)
        require(
            entry.attempts <= self._most_retries(entry),
            f"{job_id} is to be retried after {entry.attempts} attempts, with max_retries "
            f"{self._most_retries(entry)}.",
        )
        require(not entry.told, f"{job_id} is to be retried, though it was cancelled.")
        entry.status, entry.due, entry.due_at = "retrying", due, due_at

    def snooze(
        self, job_id: str, token: int | None, due: float, due_at: float, by_clock: bool
    ) -> None:
        """Its handler has put it off: it runs again then, as if it had not been started."""
        entry = self._ended_attempt(job_id, "put off", token)
        require(not entry.told, f"{job_id} was put off, though it was cancelled.")
        entry.attempts -= 1
        entry.starts -= 1
        entry.status, entry.due, entry.due_at, entry.by_clock = "scheduled", due, due_at, by_clock

    def come_back(self, job_id: str, now: float) -> None:
        """Its backoff or its run_at is over: to the back of its lane, behind its peers."""
        entry = self._entry(job_id, "put into its lane", "retrying", "scheduled")
        require(entry.due <= now + A_MOMENT, f"{job_id} came back {entry.due - now:g} s too soon.")
        entry.due_at, entry.by_clock = None, False
        self._to_the_back(job_id, entry)

    def give_back(self, job_id: str) -> None:
        """It was claimed and did not run to an end: back to its place, uncharged."""
        entry = self._entry(job_id, "taken back", "processing")
        entry.status = "queued"
        entry.attempts -= 1
        if job_id not in self.suspects:
            self._line_up(job_id)

    def set_aside(self, job_id: str) -> None:
        """The same, but it does not run again before the next start."""
        entry = self._entry(job_id, "set aside", "processing")
        entry.status = "queued"
        entry.attempts -= 1
        self.suspects.discard(job_id)

    def tell(self, job_id: str) -> None:
        """It is cancelled while it runs: it may complete, but it does not run again."""
        self._entry(job_id, "told to stop", "processing").told = True

    def cancel(self, job_id: str, asked: bool = True) -> None:
        """A waiting job will not run; a running one was told, and has failed since.

        Somebody has ``asked`` for it, or a parent takes it along.
        """
        entry = self._entry(
            job_id, "cancelled", "queued", "scheduled", "retrying", "processing", "waiting"
        )
        require(entry.told or entry.status != "processing", f"{job_id} was cancelled by nobody.")
        child = self.families.waiting.pop(entry.number, None)
        require(
            asked or (child and child.is_doomed),
            f"{job_id} was cancelled by nobody, and no parent has failed.",
        )
        self._end(job_id, entry, "cancelled")

    def drop(self, job_id: str) -> None:
        """It makes room for a newer one; the oldest of its lane goes first."""
        entry = self._entry(job_id, "dropped", "queued")
        line = self._line(job_id)
        waiting = [first for _, first in self._waiting[entry.lane] if self._line(first) == line]
        require(self.may_be_too_full(entry.lane), f"{job_id} was dropped, though there was room.")
        is_first = job_id in self.suspects or waiting[:1] == [job_id]
        require(is_first, f"{job_id} was dropped before {waiting[:1]} of its own lane.")
        require(
            self._may_displace(job_id),
            f"{job_id} was dropped, though those that came have others in their own groups.",
        )
        self._end(job_id, entry, "dropped")

    def _may_displace(self, job_id: str) -> bool:
        """A new job pushes out the oldest of its group; else, of the lane, and never itself.

        (Where others have come back into the lane, or wait for a limit, much is possible.)
        """
        lane = [i for _, i in self._waiting[self.jobs[job_id].lane]]
        entries = {i: self.jobs[i] for i in lane}
        just_came = {i for i in lane if entries[i].came == self._commit}
        new = {i for i in just_came if entries[i].number == entries[i].place}
        if self._limited or job_id in self.suspects or just_came - new:
            return True
        were_there = {entries[i].group for i in lane if i not in new}
        came = {entries[i].group for i in new}
        newest = [i for i in lane if entries[i].group == entries[job_id].group][-1]
        strangers = {group for group in came if not group or group not in were_there}
        if job_id in new and job_id == newest:
            return not were_there or strangers > {entries[job_id].group}
        return bool(strangers) or entries[job_id].group in came

    def start_over(self, job_id: str, wall: float = 0.0) -> None:
        """A dead letter starts over, at the back of its lane, unless another job has its key."""
        entry = self._entry(job_id, "started over", "failed")
        if entry.key:
            may = self.keys.may_take_again(entry, wall)
            require(may, f"{job_id} started over, though another job holds its key {entry.key}.")
            self.keys.take_again(job_id, entry, wall)
        entry.attempts = entry.starts = entry.unbegun = entry.charged_unbegun = 0
        self._to_the_back(job_id, entry)

    def prune(self, job_id: str) -> None:
        """The history lets go of an ended job, which stays counted; of no dead letter."""
        entry = self._entry(job_id, "forgotten", *PRUNED)
        self._pruned[entry.lane, entry.status] += 1
        children = self._children(entry)
        require(not children, f"{job_id} was let go of, and its children {children} need it.")
        del self.jobs[job_id]

    def purge(self, job_id: str) -> None:
        """An ended job is deleted, because somebody wants it."""
        self._entry(job_id, "deleted", *ENDED)
        del self.jobs[job_id]

    def set_paused(self, sort: str, name: str, paused: bool) -> None:
        """Nothing of this starts, or it may again. The picks are counted anew from here on."""
        if paused:
            self.paused.add((sort, name))
            self.set_apart(self._paused_kinds())
        else:
            self.paused.discard((sort, name))
        self._heads.clear()

    def set_apart(self, kinds: Collection[str]) -> None:
        """From now on the jobs of each of these are a line of their own in their groups."""
        if not self._limited.issuperset(kinds):
            self._limited |= set(kinds)
            self._turns.start_anew()

    def _paused_kinds(self) -> set[str]:
        return {name for sort, name in self.paused if sort == "kind"}

    def _children(self, parent: Entry) -> list[str]:
        """Those that have not ended."""
        numbers = self.families.children_of(parent.number)
        live = [(i, entry) for i, entry in self.jobs.items() if entry.status not in ENDED]
        return [job_id for job_id, entry in live if entry.number in numbers]

    # ---- the process ends, and another one opens the file ------------------------------------

    def reopen(self, now: float, wall: float, handled: Collection[str] | None = None) -> None:
        """Clocks start anew, and so does the counting of picks. Nothing else is forgotten.

        handled: the kinds that have a handler now. The others are left aside until they have.
        """
        self._heads.clear()
        self._handled = handled
        self._tokens = {kind: Tokens(limit, now) for kind, limit in self._limits.items()}
        self._limited = self._limits.keys() | self._caps.keys()
        self.set_apart(self._paused_kinds())
        self._waiting = {lane: [] for lane in LANES}
        self.suspects = set()
        for job_id, entry in self.jobs.items():
            if entry.due_at is not None:
                entry.due, entry.noticed = now + (entry.due_at - wall), now
                entry.by_clock = entry.status in ("scheduled", "waiting")
            if entry.status == "queued":
                self._come_in(job_id, entry)
        self._turns.start_anew()
        self.look_at_heads()

    def clock_was_set(self, seconds: float, noticed: float, wall: float) -> None:
        """Somebody has set the wall clock, which said ``wall``. A time of day comes sooner or later
        by that.
        """
        self.keys.clock_is_set(wall)
        self._noticed = noticed
        for entry in self.jobs.values():
            if entry.by_clock:
                entry.due -= seconds
                entry.noticed = noticed

    def fail_by_crashes(self, job_id: str) -> None:
        """It was on its last attempt when the process ended, and not for the first time."""
        entry = self._entry(job_id, "given up", "processing")
        require(entry.interrupted, f"{job_id} became a dead letter because of a single crash.")
        self._note_crash(entry, charged=True)
        self.fail(job_id, None)

    def interrupt(self, job_id: str) -> None:
        """It was claimed when the process ended: back to its place, charged if it was alone.

        But the first crash does not take the last attempt.
        """
        entry = self._entry(job_id, "called interrupted", "processing")
        require(not entry.told, f"{job_id} is to run again, though it was cancelled.")
        was_last = entry.attempts > self._most_retries(entry)
        require(
            not (was_last and entry.interrupted),
            f"{job_id} goes on after {entry.attempts} attempts that ended the process.",
        )
        charged = entry.alone and not was_last
        self._note_crash(entry, charged)
        entry.status = "queued"
        entry.attempts -= not charged
        entry.interrupted += 1
        self._come_in(job_id, entry)

    def _note_crash(self, entry: Entry, charged: bool) -> None:
        entry.unbegun += not entry.begun
        entry.charged_unbegun += charged and not entry.begun

    def _come_in(self, job_id: str, entry: Entry) -> None:
        """A recovered job: into its lane, to the suspects, or aside."""
        next_is_last = entry.attempts >= self._most_retries(entry)
        if not self.is_handled(job_id):
            return
        if entry.interrupted > 1 or (entry.interrupted and next_is_last):
            self.suspects.add(job_id)
        else:
            self._line_up(job_id)

    # ---- what can be asked -------------------------------------------------------------------

    def has_room(self, lane: str) -> bool:
        return len(self._waiting[lane]) < self._capacity + self._replaced

    def may_be_full(self, lane: str) -> bool:
        """Full if the suspects of the lane stand in it; one of them does when it is its turn."""
        return self._most_in(lane) >= self._capacity

    def may_be_too_full(self, lane: str) -> bool:
        return self._most_in(lane) > self._capacity

    def is_too_full(self, lane: str) -> bool:
        return len(self._waiting[lane]) > self._capacity + self._replaced

    def _most_in(self, lane: str) -> int:
        suspects = sum(self.jobs[job_id].lane == lane for job_id in self.suspects)
        return len(self._waiting[lane]) + suspects + self._replaced

    def heads(self, now: float = 0.0) -> dict[str, str]:
        """The first job in each lane that has one which may start."""
        heads = {}
        for lane, jobs in self._waiting.items():
            free = (job_id for _, job_id in jobs if self._may_start(job_id, now))
            if head := next(free, None):
                heads[lane] = head
        return heads

    def could_start(self, now: float) -> list[str]:
        """Jobs of which an idle worker takes one."""
        # The suspect whose turn it is may be running, or be the one that its limit lets wait.
        mine = [job_id for job_id in self.suspects if not self.is_paused(job_id)]
        running = [job_id for job_id in self.suspects if self.jobs[job_id].status == "processing"]
        free = not running and all(self._may_start(job_id, now) for job_id in mine)
        return [*self.heads(now).values(), *(mine if free else ())]

    def is_paused(self, job_id: str) -> bool:
        entry = self.jobs[job_id]
        of_job = {("queue", ""), ("kind", entry.kind), ("priority", entry.lane)}
        return not self.paused.isdisjoint(of_job)

    def is_handled(self, job_id: str) -> bool:
        return self._handled is None or self.jobs[job_id].kind in self._handled

    def having(self, *statuses: str) -> list[str]:
        return [job_id for job_id, entry in self.jobs.items() if entry.status in statuses]

    def to_run(self, *statuses: str) -> list[str]:
        """Those of them that will run in this process."""
        return [job_id for job_id in self.having(*statuses) if self.is_handled(job_id)]

    def due(self, now: float) -> list[str]:
        """Jobs that wait for a time that has come."""
        return [i for i in self.to_run("retrying", "scheduled") if self.jobs[i].latest <= now]

    def children_left(self) -> list[str]:
        """Jobs that wait for others, though these have ended or take them along."""
        left = {n for n, c in self.families.waiting.items() if c.may_go_on or c.is_doomed}
        return [job_id for job_id in self.having("waiting") if self.jobs[job_id].number in left]

    def has_rival(self, job_id: str) -> bool:
        """Whether another job with the key of this dead letter is to run."""
        entry = self.jobs[job_id]
        rivals = [e for e in self.jobs.values() if e.key == entry.key and e is not entry]
        return bool(entry.key) and any(e.status not in ENDED for e in rivals)

    def has_children(self, job_id: str) -> bool:
        """Whether jobs come after it, that have ended or not."""
        return bool(self.families.children_of(self.jobs[job_id].number))

    def until_due(self, now: float) -> float:
        """Seconds until the next job comes back or may start by itself; 0 when none will."""
        waits = [self.jobs[i].latest - now for i in self.to_run("retrying", "scheduled")]
        for job_id in self.to_run("queued"):
            until = max((one.until_one(now) for one in self._tokens_of(job_id)), default=0.0)
            if until > 0 and not self._may_start(job_id, now):  # else its kind is full
                waits.append(A_MOMENT + until)
        return max(0.0, min(waits, default=0.0))

    def counts(self) -> Counter[tuple[str, str]]:
        """How many jobs of each lane are in each status."""
        live = Counter((entry.lane, entry.status) for entry in self.jobs.values())
        return live + self._pruned

    # ---- inside ------------------------------------------------------------------------------

    def _entry(self, job_id: str, verb: str, *allowed: str) -> Entry:
        entry = self.jobs.get(job_id)
        require(entry, f"{job_id} was {verb}, but is not in the queue.")
        assert entry is not None
        require(entry.status in allowed, f"{job_id} was {verb} while it is {entry.status}.")
        return entry

    def _tokens_of(self, job_id: str) -> list[Tokens]:
        limits = (self.jobs[job_id].kind, "")
        return [self._tokens[limit] for limit in limits if limit in self._tokens]

    def _may_start(self, job_id: str, now: float) -> bool:
        """Whether it is not paused, its limits let it start, and its kind is not full."""
        if self.is_paused(job_id):
            return False
        kind = self.jobs[job_id].kind
        if kind in self._caps and self._running(kind) >= self._caps[kind]:
            return False
        if self._is_full(self.jobs[job_id].group):
            return False
        return all(tokens.count(now) >= ONE for tokens in self._tokens_of(job_id))

    def _running(self, kind: str) -> int:
        return sum(self.jobs[job_id].kind == kind for job_id in self.having("processing"))

    def _is_full(self, group: str) -> bool:
        """Whether as many of the group run as may."""
        if not group or self._group_limit is None:
            return False
        running = [self.jobs[job_id].group for job_id in self.having("processing")]
        return running.count(group) >= self._group_limit

    def _most_retries(self, entry: Entry) -> int:
        """Those of its kind; a kind without a handler has the queue's own."""
        is_known = self._handled is None or entry.kind in self._handled
        return self._retries.get(entry.kind, self._max_retries) if is_known else self._max_retries

    def _add(self, job_id: str, lane: str, kind: str, status: str, group: str) -> None:
        require(job_id not in self.jobs, f"{job_id} was accepted twice.")
        number = self._next_place()
        self.jobs[job_id] = Entry(lane, kind, status, number, number, self._commit, group)
        self._has_groups |= group != ""

    def _next_place(self) -> int:
        self._last_place += 1
        return self._last_place

    def _line_up(self, job_id: str) -> None:
        entry = self.jobs[job_id]
        insort(self._waiting[entry.lane], (entry.place, job_id))

    def _to_the_back(self, job_id: str, entry: Entry) -> None:
        entry.status, entry.place, entry.came = "queued", self._next_place(), self._commit
        self._come_in(job_id, entry)

    def _leave(self, job_id: str, entry: Entry) -> None:
        """Out of where it waits."""
        if (entry.place, job_id) in self._waiting[entry.lane]:
            self._waiting[entry.lane].remove((entry.place, job_id))
        self.suspects.discard(job_id)

    def _ended_attempt(self, job_id: str, verb: str, token: int | None) -> Entry:
        entry = self._entry(job_id, verb, "processing")
        require(
            token is None or token == entry.token,
            f"{job_id} was {verb} by an attempt that was given up (token {token}, and the "
            f"latest is {entry.token}).",
        )
        entry.interrupted = 0
        self.suspects.discard(job_id)
        return entry

    def _end(self, job_id: str, entry: Entry, status: str) -> None:
        self._leave(job_id, entry)
        self.families.ended(entry.number, status)
        entry.status, entry.due_at, entry.by_clock = status, None, False

    def _pick(self, job_id: str, lane: str, now: float) -> None:
        """One pick: it is the turn of this job in its lane, and no other lane waits too long."""
        heads = self.heads(now)
        self._take_turn(job_id, now)
        if job_id in self.suspects:
            # It was let in at its place, which is in front of what waits there now.
            self._heads.pop(lane, None)
            heads.pop(lane, None)
        else:
            place = self.jobs[job_id].place
            heads.setdefault(lane, job_id)
            first = self._first_of(self._line(job_id), now) or job_id
            require(
                place <= self.jobs[first].place,
                f"{job_id} was claimed before {first} of its own lane.",
            )
            self._waiting[lane].remove((place, job_id))
        if self._fairness is None:
            passed_over = [other for other in heads if LANES.index(other) < LANES.index(lane)]
            require(not passed_over, f"{job_id} ({lane}) was claimed while {passed_over} wait.")
            return
        most = self._fairness + 2
        for other, head in heads.items():
            place = self.jobs[head].place  # not its id, which may have been another job's
            known, picks = self._heads.get(other, (0, 0))
            picks = picks + 1 if known == place else 1
            self._heads[other] = place, picks
            require(
                picks < most or (picks == most and other == lane),
                f"{head} was not among {picks} picks at the head of the {other} lane, with "
                f"fairness {self._fairness}.",
            )
        self._heads.pop(lane, None)  # should it be given back, it starts anew

    # ---- groups ------------------------------------------------------------------------------

    def start_turns_anew(self) -> None:
        """What was picked has come back, since it could not be written: at new places in line."""
        self._turns.start_anew()

    def look_at_heads(self) -> None:
        """Something has moved, so others may be the first of their groups."""
        if not self._has_groups:
            return
        heads: dict[Line, int] = {}
        for jobs in self._waiting.values():
            for place, job_id in jobs:
                if not self._is_full(self.jobs[job_id].group):
                    heads.setdefault(self._line(job_id), place)
        for job_id in self.suspects:  # where they stand is not known here
            heads.pop(self._line(job_id), None)
        self._turns.stand(heads, self._commit)

    def _take_turn(self, job_id: str, now: float) -> None:
        if not self._has_groups:
            return
        line = self._line(job_id)
        lines = {self._line(other) for _, other in self._waiting[line.lane]}
        free = {other for other in lines if self._first_may_start(other, now)}
        wrong = self._turns.pick(line, self.jobs[job_id].came, free)
        require(not wrong, f"{job_id} of the {line.lane} lane was claimed {wrong}.")

    def _line(self, job_id: str) -> Line:
        entry = self.jobs[job_id]
        kind = entry.kind if entry.group and entry.kind in self._limited else ""
        return Line(entry.lane, entry.group, kind)

    def _of_line(self, line: Line) -> list[str]:
        return [i for _, i in self._waiting[line.lane] if self._line(i) == line]

    def _first_of(self, line: Line, now: float) -> str | None:
        """The first of those that may start."""
        return next((i for i in self._of_line(line) if self._may_start(i, now)), None)

    def _first_may_start(self, line: Line, now: float) -> bool:
        return self._may_start(self._of_line(line)[0], now)
