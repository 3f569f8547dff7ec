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
from dataclasses import dataclass

LANES = ("high", "medium", "low")  # most urgent first
ENDED = ("completed", "failed", "cancelled", "dropped")
PRUNED = ("completed", "cancelled", "dropped")  # what a history may let go of
A_MOMENT = 1e-6  # sums of floating-point seconds may differ by so much


class ContractBroken(AssertionError):
    """The queue has done what it must not do, or has not done what it must."""


def require(holds: object, sentence: str) -> None:
    if not holds:
        raise ContractBroken(sentence)


@dataclass(slots=True)
class Entry:
    """One accepted job.

    place: its number in line, a new one each time that it goes to the back of its lane.
    token: the fencing token of its latest claim.
    due: when it may come back, on the clock that never jumps. due_at: the same, Unix seconds.
    by_clock: the wall clock decides, and when that is set, ``due`` is another.
    alone: the latest claim was of this job only, so a crash is charged to it.
    interrupted: so many times in a row the process ended while it ran.
    told: it was cancelled while it ran, so it is not tried again.
    """

    lane: str
    status: str
    place: int
    attempts: int = 0
    token: int = 0
    due: float = 0.0
    due_at: float | None = None
    by_clock: bool = False
    alone: bool = False
    interrupted: int = 0
    told: bool = False

    @property
    def latest(self) -> float:
        """When it is due at the latest: between two clocks lies a sum."""
        return self.due + A_MOMENT if self.by_clock else self.due


class Model:
    """Every job that was accepted, by its id.

    fairness: how often in a row a waiting lane may be passed over; None for strict priority.
    """

    def __init__(self, *, capacity: int, max_retries: int, fairness: int | None) -> None:
        self.jobs: dict[str, Entry] = {}
        self._capacity = capacity
        self._max_retries = max_retries
        self._fairness = fairness
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

    def accept(self, job_id: str, lane: str) -> None:
        """A new job, at the back of its lane; there must be room for it."""
        require(self.has_room(lane), f"{job_id} was let into the {lane} lane, which is full.")
        self._add(job_id, lane, "queued")
        self._line_up(job_id)

    def schedule(self, job_id: str, lane: str, due: float, due_at: float, by_clock: bool) -> None:
        """A new job whose time is to come. It is in no lane yet, so it needs no room."""
        self._add(job_id, lane, "scheduled")
        entry = self.jobs[job_id]
        entry.due, entry.due_at, entry.by_clock = due, due_at, by_clock

    def turn_away(self, job_id: str, lane: str) -> None:
        """A new job that is dropped because its lane is full."""
        require(self.may_be_full(lane), f"{job_id} was dropped, though the {lane} lane has room.")
        self._add(job_id, lane, "dropped")

    def claim(self, job_id: str, token: int, alone: bool) -> None:
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
        self._pick(job_id, entry.lane)
        entry.status = "processing"
        entry.attempts += 1
        entry.token = self._last_token = max(token, self._last_token)
        entry.alone = alone

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
        self._end(job_id, entry, "dropped")

    def revive(self, job_id: str) -> None:
        """A dead letter starts over, at the back of its lane."""
        entry = self._entry(job_id, "revived", "failed")
        entry.attempts = 0
        self._to_the_back(job_id, entry)

    def prune(self, job_id: str) -> None:
        """The history lets go of an ended job; a dead letter goes only when it is purged."""
        entry = self._entry(job_id, "deleted", *ENDED)
        if entry.status in PRUNED:
            self._pruned[entry.lane, entry.status] += 1
        del self.jobs[job_id]

    # ---- the process ends, and another one opens the file ------------------------------------

    def reopen(self, now: float, wall: float) -> None:
        """Clocks start anew, and so does the counting of picks. Nothing else is forgotten."""
        self._heads.clear()
        for entry in self.jobs.values():
            if entry.due_at is not None:
                entry.due = now + (entry.due_at - wall)
                entry.by_clock = entry.status == "scheduled"

    def clock_was_set(self, seconds: float) -> None:
        """Somebody has set the wall clock. A time of day comes sooner or later by that."""
        for entry in self.jobs.values():
            if entry.by_clock:
                entry.due -= seconds

    def fail_by_crashes(self, job_id: str) -> None:
        """It was on its last attempt when the process ended, and not for the first time."""
        entry = self._entry(job_id, "given up", "processing")
        require(entry.interrupted, f"{job_id} became a dead letter because of a single crash.")
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
        entry.status = "queued"
        entry.attempts -= was_last or not entry.alone
        entry.interrupted += 1
        if entry.interrupted > 1 or entry.attempts >= self._max_retries:
            self.suspects.add(job_id)
        else:
            self._line_up(job_id)

    # ---- what can be asked -------------------------------------------------------------------

    def has_room(self, lane: str) -> bool:
        return len(self._waiting[lane]) < self._capacity

    def may_be_full(self, lane: str) -> bool:
        """Full if the suspects of the lane stand in it; one of them does when it is its turn."""
        suspects = sum(self.jobs[job_id].lane == lane for job_id in self.suspects)
        return len(self._waiting[lane]) + suspects >= self._capacity

    def heads(self) -> dict[str, str]:
        """The first job in each lane that has one."""
        return {lane: jobs[0][1] for lane, jobs in self._waiting.items() if jobs}

    def having(self, *statuses: str) -> list[str]:
        return [job_id for job_id, entry in self.jobs.items() if entry.status in statuses]

    def due(self, now: float) -> list[str]:
        """Jobs that wait for a time that has come."""
        waiting = ("retrying", "scheduled")
        jobs = self.jobs.items()
        return [i for i, entry in jobs if entry.status in waiting and entry.latest <= now]

    def until_due(self, now: float) -> float:
        """Seconds until the next job comes back by itself; 0 when none will."""
        waiting = ("retrying", "scheduled")
        dues = [entry.latest for entry in self.jobs.values() if entry.status in waiting]
        return max(0.0, min(dues, default=now) - now)

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

    def _add(self, job_id: str, lane: str, status: str) -> None:
        require(job_id not in self.jobs, f"{job_id} was accepted twice.")
        self.jobs[job_id] = Entry(lane, status, self._next_place())

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
        if entry.status == "queued" and job_id not in self.suspects:
            self._waiting[entry.lane].remove((entry.place, job_id))
        self.suspects.discard(job_id)
        entry.status, entry.due_at, entry.by_clock = status, None, False

    def _pick(self, job_id: str, lane: str) -> None:
        """One pick: it is the turn of this job in its lane, and no other lane waits too long."""
        heads = self.heads()
        if job_id in self.suspects:
            # It was let in at its place, which is in front of what waits there now.
            self._heads.pop(lane, None)
            heads.pop(lane, None)
        else:
            first = heads[lane]
            require(first == job_id, f"{job_id} was claimed before {first} of its own lane.")
            self._waiting[lane].pop(0)
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
