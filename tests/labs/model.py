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

    place: its number in line, a new one each time that it goes to the back of its lane.
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
    """

    lane: str
    kind: str
    status: str
    place: int
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


class Model:
    """Every job that was accepted, by its id.

    fairness: how often in a row a waiting lane may be passed over; None for strict priority.
    limits: how fast jobs of a kind may start; of the kind "", all together.
    """

    def __init__(
        self,
        *,
        capacity: int,
        max_retries: int,
        fairness: int | None,
        limits: Mapping[str, Limit] | None = None,
    ) -> None:
        self.jobs: dict[str, Entry] = {}
        self._capacity = capacity
        self._max_retries = max_retries
        self._fairness = fairness
        self._limits = limits or {}
        self._tokens = {kind: Tokens(limit, 0.0) for kind, limit in self._limits.items()}
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
        # Ended jobs that the history has let go of are still counted.
        self._pruned: Counter[tuple[str, str]] = Counter()

    # ---- what may happen to a job ------------------------------------------------------------

    def accept(
        self, job_id: str, lane: str, kind: str = "default", makes_room: bool = False
    ) -> None:
        """A new job, at the back of its lane; there must be room for it, or it ``makes_room``."""
        has_room = makes_room or self.has_room(lane)
        require(has_room, f"{job_id} was let into the {lane} lane, which is full.")
        self._add(job_id, lane, kind, "queued")
        self._line_up(job_id)

    def schedule(
        self, job_id: str, lane: str, kind: str, due: float, due_at: float, by_clock: bool
    ) -> None:
        """A new job whose time is to come. It is in no lane yet, so it needs no room."""
        self._add(job_id, lane, kind, "scheduled")
        entry = self.jobs[job_id]
        entry.due, entry.due_at, entry.by_clock = due, due_at, by_clock

    def turn_away(self, job_id: str, lane: str, kind: str) -> None:
        """A new job that is dropped because its lane is full."""
        require(self.may_be_full(lane), f"{job_id} was dropped, though the {lane} lane has room.")
        self._add(job_id, lane, kind, "dropped")

    def claim(self, job_id: str, token: int, alone: bool, now: float = 0.0) -> None:
        """A worker gets the job. It must be its turn: in its lane, and by the token rule.

        alone: the worker gets no other one with it.
        """
        entry = self._entry(job_id, "claimed", "queued")
        require(
            entry.attempts <= self._max_retries,
            f"{job_id} was claimed again after {entry.attempts} attempts, with max_retries "
            f"{self._max_retries}.",
        )
        require(token > entry.token, f"{job_id} was claimed with token {token}, an old one.")
        if job_id in self.suspects:
            running = [s for s in self.suspects if self.jobs[s].status == "processing"]
            require(not running, f"{job_id} was claimed beside {running}: suspects run alone.")
        require(self.is_handled(job_id), f"{job_id} was claimed, and nobody handles {entry.kind}.")
        require(self._may_start(job_id, now), f"{job_id} was claimed sooner than its limit allows.")
        self._pick(job_id, entry.lane, now)
        for tokens in self._tokens_of(job_id):
            tokens.take(now)
        entry.status = "processing"
        entry.attempts += 1
        entry.token = self._last_token = max(token, self._last_token)
        entry.claimed, entry.alone, entry.begun = now, alone, False

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
        entry.begun = True
        entry.starts += 1

    def complete(self, job_id: str, token: int | None) -> None:
        """An attempt has ended well. token: the one that it was claimed with."""
        entry = self._ended_attempt(job_id, "completed", token)
        entry.status = "completed"

    def fail(self, job_id: str, token: int | None) -> None:
        """The last attempt has failed: a dead letter."""
        entry = self._ended_attempt(job_id, "given up", token)
        require(
            entry.attempts > self._max_retries,
            f"{job_id} became a dead letter after {entry.attempts} attempts, with max_retries "
            f"{self._max_retries}.",
        )
        self._bury(job_id, entry)

    def _bury(self, job_id: str, entry: Entry) -> None:
        """It is a dead letter, and has had its attempts.

        Nobody can tell whether a job that was alone had begun when the process ended. So such a
        crash may have been charged; but no single one ends a job that never began.
        """
        require(
            entry.starts + entry.charged_unbegun > self._max_retries,
            f"{job_id} became a dead letter after {entry.starts} starts and "
            f"{entry.charged_unbegun} crashes before one, with max_retries {self._max_retries}.",
        )
        require(
            entry.starts or entry.unbegun > 1,
            f"{job_id} became a dead letter without having started.",
        )
        entry.status = "failed"

    def retry_later(self, job_id: str, token: int | None, due: float, due_at: float) -> None:
        """An attempt has failed, and there will be another."""
        entry = self._ended_attempt(job_id, "to be retried", token)
        require(
            entry.attempts <= self._max_retries,
            f"{job_id} is to be retried after {entry.attempts} attempts, with max_retries "
            f"{self._max_retries}.",
        )
        require(not entry.told, f"{job_id} is to be retried, though it was cancelled.")
        entry.status, entry.due, entry.due_at = "retrying", due, due_at

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

    def cancel(self, job_id: str) -> None:
        """A waiting job will not run; a running one was told, and has failed since."""
        entry = self._entry(job_id, "cancelled", "queued", "scheduled", "retrying", "processing")
        require(entry.told or entry.status != "processing", f"{job_id} was cancelled by nobody.")
        self._end(job_id, entry, "cancelled")

    def drop(self, job_id: str) -> None:
        """It makes room for a newer one; the oldest of its lane goes first."""
        entry = self._entry(job_id, "dropped", "queued")
        waiting = [first for _, first in self._waiting[entry.lane]]
        require(self.may_be_too_full(entry.lane), f"{job_id} was dropped, though there was room.")
        is_first = job_id in self.suspects or waiting[:1] == [job_id]
        require(is_first, f"{job_id} was dropped before {waiting[:1]} of its own lane.")
        self._end(job_id, entry, "dropped")

    def start_over(self, job_id: str) -> None:
        """A dead letter starts over, at the back of its lane."""
        entry = self._entry(job_id, "started over", "failed")
        entry.attempts = entry.starts = entry.unbegun = entry.charged_unbegun = 0
        self._to_the_back(job_id, entry)

    def prune(self, job_id: str) -> None:
        """The history lets go of an ended job; a dead letter goes only when it is purged."""
        entry = self._entry(job_id, "deleted", *ENDED)
        if entry.status in PRUNED:
            self._pruned[entry.lane, entry.status] += 1
        del self.jobs[job_id]

    # ---- the process ends, and another one opens the file ------------------------------------

    def reopen(self, now: float, wall: float, handled: Collection[str] | None = None) -> None:
        """Clocks start anew, and so does the counting of picks. Nothing else is forgotten.

        handled: the kinds that have a handler now. The others are left aside until they have.
        """
        self._heads.clear()
        self._handled = handled
        self._tokens = {kind: Tokens(limit, now) for kind, limit in self._limits.items()}
        self._waiting = {lane: [] for lane in LANES}
        self.suspects = set()
        for job_id, entry in self.jobs.items():
            if entry.due_at is not None:
                entry.due, entry.noticed = now + (entry.due_at - wall), now
                entry.by_clock = entry.status == "scheduled"
            if entry.status == "queued":
                self._come_in(job_id, entry)

    def clock_was_set(self, seconds: float, noticed: float) -> None:
        """Somebody has set the wall clock. A time of day comes sooner or later by that."""
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
        was_last = entry.attempts > self._max_retries
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
        next_is_last = entry.attempts >= self._max_retries
        if not self.is_handled(job_id):
            return
        if entry.interrupted > 1 or (entry.interrupted and next_is_last):
            self.suspects.add(job_id)
        else:
            self._line_up(job_id)

    # ---- what can be asked -------------------------------------------------------------------

    def has_room(self, lane: str) -> bool:
        return len(self._waiting[lane]) < self._capacity

    def may_be_full(self, lane: str) -> bool:
        """Full if the suspects of the lane stand in it; one of them does when it is its turn."""
        return self._most_in(lane) >= self._capacity

    def may_be_too_full(self, lane: str) -> bool:
        return self._most_in(lane) > self._capacity

    def is_too_full(self, lane: str) -> bool:
        return len(self._waiting[lane]) > self._capacity

    def _most_in(self, lane: str) -> int:
        suspects = sum(self.jobs[job_id].lane == lane for job_id in self.suspects)
        return len(self._waiting[lane]) + suspects

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
        free = (
            self.jobs[job_id].status == "queued" and self._may_start(job_id, now)
            for job_id in self.suspects
        )
        return [*self.heads(now).values(), *(self.suspects if all(free) else ())]

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

    def until_due(self, now: float) -> float:
        """Seconds until the next job comes back or may start by itself; 0 when none will."""
        waits = [self.jobs[i].latest - now for i in self.to_run("retrying", "scheduled")]
        for job_id in self.to_run("queued"):
            if not self._may_start(job_id, now):
                tokens = self._tokens_of(job_id)
                waits.append(A_MOMENT + max(one.until_one(now) for one in tokens))
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
        """Whether its limits let it start."""
        return all(tokens.count(now) >= ONE for tokens in self._tokens_of(job_id))

    def _add(self, job_id: str, lane: str, kind: str, status: str) -> None:
        require(job_id not in self.jobs, f"{job_id} was accepted twice.")
        self.jobs[job_id] = Entry(lane, kind, status, self._next_place())

    def _next_place(self) -> int:
        self._last_place += 1
        return self._last_place

    def _line_up(self, job_id: str) -> None:
        entry = self.jobs[job_id]
        insort(self._waiting[entry.lane], (entry.place, job_id))

    def _to_the_back(self, job_id: str, entry: Entry) -> None:
        entry.status, entry.place = "queued", self._next_place()
        self._line_up(job_id)

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
        if (entry.place, job_id) in self._waiting[entry.lane]:
            self._waiting[entry.lane].remove((entry.place, job_id))
        self.suspects.discard(job_id)
        entry.status, entry.due_at, entry.by_clock = status, None, False

    def _pick(self, job_id: str, lane: str, now: float) -> None:
        """One pick: it is the turn of this job in its lane, and no other lane waits too long."""
        heads = self.heads(now)
        if job_id in self.suspects:
            # It was let in at its place, which is in front of what waits there now.
            self._heads.pop(lane, None)
            heads.pop(lane, None)
        else:
            place = self.jobs[job_id].place
            first = heads.setdefault(lane, job_id)
            require(
                place <= self.jobs[first].place,
                f"{job_id} was claimed before {first} of its own lane.",
            )
            self._waiting[lane].remove((place, job_id))
        if self._fairness is None:
            passed_over = [other for other in heads if LANES.index(other) < LANES.index(lane)]
            require(not passed_over, f"{job_id} ({lane}) was claimed while {passed_over} wait.")
            return
        for other, head in heads.items():
            place = self.jobs[head].place  # not its id, which may have been another job's
            known, picks = self._heads.get(other, (0, 0))
            picks = picks + 1 if known == place else 1
            self._heads[other] = place, picks
            require(
                picks < self._fairness + 2 or (picks == self._fairness + 2 and head == job_id),
                f"{head} was not among {picks} picks at the head of the {other} lane, with "
                f"fairness {self._fairness}.",
            )
        self._heads.pop(lane, None)  # should it be given back, it starts anew
