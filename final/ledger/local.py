"""One exchange with a file that this process owns, step by step.

The file is the truth; the lanes and the timers are its index in memory. Each step finds the jobs
that it concerns and *moves* them: in the index at once, and noted for the file, which is written
last. When it cannot be written, the jobs that were moved are read again from it, and stand where
it says: that is the only undo, and the same that opening does.

But: payloads beyond ``memory`` bytes stay in the file until they are claimed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from final.errors import StorageError, UnknownJob
from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.ledger.base import Cancel, Given, Move, Offer, Order, Purge, Retry, SetFairness
from final.ledger.lanes import Lanes, Ordered
from final.ledger.limits import Gate
from final.ledger.sqlite import SqliteFile
from final.options import Options

log = logging.getLogger("final")

QUEUED, SCHEDULED, PROCESSING, RETRYING, COMPLETED, FAILED, CANCELLED, DROPPED = Status

# The millisecond rule: a batch holds as many jobs as take about a millisecond, by the measured
# time of their kind. That is up to 128 for no-op jobs and one for anything slow. So order,
# fairness and latency are those of single claims wherever a handler does real work, and the cost
# of a hand-over between threads is shared wherever it does not.
BATCH_SECONDS = 0.001
BATCH_JOBS = 128
BATCH_BYTES = 1 << 20
# How many jobs a step of an exchange moves at most, where they are many: others get in between.
AT_ONCE = 500
# Nobody tells us that the wall clock was set, or that the machine was suspended for an hour, so
# while jobs wait for a time of that clock it is looked at this often.
CLOCK_SECONDS = 1.0


class LocalLedger:
    """See ``Ledger``.

    handles: whether jobs of a kind can run here; others stay as they are, in the file alone.
    shares: whether jobs of a kind may share a batch. Not where telling one to stop would
        reach whichever runs by then.
    """

    def __init__(
        self,
        file: SqliteFile,
        options: Options,
        handles: Callable[[str], bool],
        shares: Callable[[str], bool],
        now: float,
    ) -> None:
        self.lasting = file.lasting
        self.capacity = options.capacity
        self._file = file
        self._options = options
        self._handles = handles
        self._kind_shares = shares
        self._gate = Gate(options.rate_limit, now)
        self._lanes = Lanes(options.capacity, options.fairness, self._gate.kinds)
        # Retries and scheduled jobs by when they are due, on the clock that goes for them.
        self._timers = Ordered()  # a delay: monotonic seconds
        self._clock = Ordered()  # a datetime: Unix seconds
        self._suspects = Ordered()  # go into their lanes one by one
        self._suspect: Task | None = None  # the one that has left for its lane
        self._live: dict[str, Task] = {}  # every job that is indexed here, by id
        self._count: Counter[Status | None] = Counter()  # of these
        self._ended: deque[int] = deque()  # what the history may let go of, oldest first
        self._kept = 0  # bytes of payloads of waiting jobs that are in memory
        self._number = 0  # the last one given to a job, or to a place in line
        self._token = 0
        self._too_many: list[Task] = []  # came into the index with payloads beyond ``memory``
        self._unread: dict[Task, None] = {}  # moved in vain, and not read again yet
        self._broken = False  # the latest exchange could not be written
        self._now = self._wall = 0.0
        self._given = Given()

    def open(self, now: float, wall: float) -> Given:
        self._now, self._wall, self._given = now, wall, Given()
        with self._file.transaction():
            # Tokens begin with the number of the owner, so that they grow over all owners.
            self._token = self._file.epoch << 32
            self._number = self._file.last_number()
            self._recover()
            self._ended.extend(self._file.ended())
        if unsound := self._file.unsound():
            log.warning("Rows that make no sense are left alone: %s.", unsound)
        aside: Counter[str] = Counter()
        for task, ready_at in self._file.waiting():
            if self._handles(task.kind):
                task.queued_at = now - max(0.0, wall - ready_at)
                task.by_clock = True  # a delay, too: the process that counted is gone
                self._put_in(task)
            else:
                aside[task.kind] += 1
        for kind, count in aside.items():
            log.warning(
                "%d recovered jobs of kind %r stay queued: open the file with a handler for it.",
                count,
                kind,
            )
        return self._summary()

    def exchange(self, offer: Offer) -> Given:
        self._now, self._wall, self._given = offer.now, offer.wall, Given()
        tokens = self._lanes.tokens()
        self._gate.begin()
        try:
            self._read_again()
            with self._file.transaction():
                # Before attempts end: a retry without delay does not come back in the same turn.
                self._queue_due()
                self._end_attempts(offer.outcomes)
                self._take_back(offer.unstarted)
                self._set_aside(offer.aside)
                self._given.answers = [self._carry_out(order) for order in offer.orders]
                self._admit(offer.new)
                self._claim(offer.idle, offer.cost)
                pruned = self._prune()
                self._file.write(self._given.moves, self._wall)
                self._file.write_cancelled(self._given.stop)
                self._load_payloads()
                if self._broken:
                    self._file.probe()  # or it would not be seen that nothing can be written
        except StorageError as error:
            moved = [task for move in self._given.moves for task in move.tasks]
            self._unread.update((task, None) for task in moved if self._handles(task.kind))
            self._given, self._broken = Given(error=str(error)), True
            self._lanes.restore(tokens)
            self._gate.undo()
            with contextlib.suppress(StorageError):  # then before the next exchange
                self._read_again()
        else:
            self._broken = False
            for task in self._given.stop:
                task.cancelled = True
            self._remember_ended(pruned)
            self._keep_in_memory()
        return self._summary()

    def _summary(self) -> Given:
        self._release_suspect()
        given, waiting = self._given, len(self._lanes)
        given.live = {s: self._count[s] for s in (QUEUED, SCHEDULED, PROCESSING, RETRYING)}
        if waiting and self._gate.is_open(self._now):
            given.ready = self._lanes.ready(self._open_kinds())
        limited = self._lanes.limited
        given.next_start = self._gate.next_at(limited, waiting > 0, self._now)
        given.next_due = self._timers.head().key if self._timers.size else math.inf
        if self._clock.size:
            until = min(self._clock.head().key - self._wall, CLOCK_SECONDS)
            given.next_due = min(given.next_due, self._now + until)
        if len(self._ended) > self._options.history:
            given.next_due = self._now
        blocks = self._options.overflow in ("block", "reject")
        given.room = {p: self._lanes.room(p) if blocks else math.inf for p in Priority}
        return given

    # ---- what an earlier owner left --------------------------------------------------------

    def _recover(self) -> None:
        """What ran when the last owner ended is queued again, or a dead letter.

        It may be the cause, or may have been claimed and not begun: nobody knows. So it is marked,
        and from then on runs alone with its worker. The attempt is charged to a job that was
        alone, except that the last one is charged only to a marked one. So no company makes a dead
        letter of a job that never began, and one that kills its process starts at most
        ``max_retries + 2`` times.
        """
        back = []
        for task, started_at in self._file.interrupted():
            was_last = task.attempts > self._options.max_retries
            error = f"The process ended during attempt {task.attempts}"
            # When exactly, nobody knows: it is noticed now.
            crash = Outcome(task, max(0.0, self._wall - started_at), error=f"{error}.")
            if task.cancelled:
                self._given.moves.append(Move([task], PROCESSING, CANCELLED, task.token))
            elif was_last and task.interrupted:
                crash.error = f"{error}, the last one."
                self._given.moves.append(Move([task], PROCESSING, FAILED, task.token, [crash]))
            else:
                charged = task.alone and not was_last
                task.attempts -= not charged
                task.interrupted += 1
                self._file.write_interrupted(crash, charged, self._wall)
                back.append(task)
        self._file.write(self._given.moves, self._wall)
        if back:
            self._given.moves.append(Move(back, PROCESSING, QUEUED))

    # ---- the steps of an exchange ----------------------------------------------------------

    def _queue_due(self) -> None:
        """Due jobs go to the back of their lanes, also of full ones: they were accepted before."""
        due: list[Task] = []
        for timers, time in ((self._timers, self._now), (self._clock, self._wall)):
            while len(due) < AT_ONCE and timers.size and timers.head().key <= time:
                task = timers.pop()
                self._let_go(task)
                task.queued_at = task.key + (self._now - time)  # it has been ready since then
                due.append(task)
        due.sort(key=lambda task: task.queued_at)
        for task in due:
            task.key, task.due_at = self._next_number(), None
        for source in (SCHEDULED, RETRYING):
            self._move([task for task in due if task.status is source], source, QUEUED)

    def _end_attempts(self, outcomes: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
        for token, batch in outcomes:
            ended: dict[Status, list[Outcome]] = {}
            for outcome in batch:
                task = outcome.task
                # The fence: an attempt that was given up does not count.
                if task.token == token and task.status is PROCESSING:
                    target = COMPLETED if outcome.error is None else self._verdict(task, outcome)
                    ended.setdefault(target, []).append(outcome)
            for target, some in ended.items():
                self._move([outcome.task for outcome in some], PROCESSING, target, token, some)

    def _verdict(self, task: Task, outcome: Outcome) -> Status:
        """What becomes of a job whose attempt has failed."""
        task.interrupted = 0
        if outcome.ended_at is None:  # at the first try to write it: a disk may be full for long
            outcome.ended_at = self._wall
        if task.cancelled:
            return CANCELLED
        if outcome.delay is None:
            return FAILED
        task.key, task.due_at = self._now + outcome.delay, self._wall + outcome.delay
        return RETRYING

    def _take_back(self, unstarted: Sequence[tuple[int, Sequence[Task]]]) -> None:
        """Not charged, and at the place they had."""
        for token, tasks in unstarted:
            back = [task for task in tasks if task.token == token and task.status is PROCESSING]
            for task in back:
                task.attempts -= 1
            self._move([task for task in back if not task.cancelled], PROCESSING, QUEUED, token)
            self._move([task for task in back if task.cancelled], PROCESSING, CANCELLED, token)

    def _set_aside(self, unstarted: Sequence[tuple[int, Sequence[Task]]]) -> None:
        """Queued again in the file alone, uncharged: they run at the next start."""
        for token, tasks in unstarted:
            back = [task for task in tasks if task.token == token and task.status is PROCESSING]
            if back:
                self._given.moves.append(Move(back, PROCESSING, QUEUED, token))
                self._count[PROCESSING] -= len(back)
            for task in back:
                del self._live[task.id]
                task.attempts -= 1
                task.status = None

    def _carry_out(self, order: Order) -> object:
        match order:
            case Cancel(job_id):
                return self._cancel(job_id)
            case Retry() | Purge() if any(move.source is FAILED for move in self._given.moves):
                return order  # what another order has moved is a dead letter in the file still
            case Retry():
                return self._retry(order)
            case Purge():
                letters = self._file.dead_letters(None, order.kind, order.after, AT_ONCE)
                self._move(letters, FAILED, None)
                return _progress(order, letters, len(letters))
            case SetFairness(fairness):
                self._lanes.fairness = fairness
                return None

    def _cancel(self, job_id: str) -> object:
        """A waiting job never runs; a running one is told, and is not tried again."""
        task = self._live.get(job_id)
        if task is None:
            return self._cancel_aside(job_id)
        if task.status is PROCESSING:
            self._given.stop.append(task)
        else:
            self._move([task], self._leave(task), CANCELLED)
        return True

    def _cancel_aside(self, job_id: str) -> object:
        """One that is not indexed here: it has ended, or nobody handles its kind."""
        task = self._file.find(job_id)
        if task is None or task.status is None:
            return UnknownJob(job_id)
        ended_just_now = any(t.id == job_id for move in self._given.moves for t in move.tasks)
        if task.status.ended or ended_just_now:
            return False
        self._given.moves.append(Move([task], task.status, CANCELLED))
        return True

    def _retry(self, order: Retry) -> object:
        """Dead letters start over, at the end of their lanes."""
        letters = self._file.dead_letters(order.job_id, order.kind, order.after, AT_ONCE)
        mine = [task for task in letters if self._handles(task.kind)]
        if order.job_id is not None and not mine:
            if letters:
                return ValueError(f"No handler for kind {letters[0].kind!r} of job {order.job_id}.")
            return ValueError(f"Job {order.job_id} is not a dead letter (any more).")
        for task in mine:
            task.attempts, task.key, task.queued_at = 0, self._next_number(), self._now
        self._move(mine, FAILED, QUEUED)
        return _progress(order, letters, len(mine))

    def _admit(self, new: Sequence[Sequence[Task]]) -> None:
        """Of each producer's jobs those before the first that is refused."""
        if not new:
            return
        known = self._file.taken([task.id for tasks in new for task in tasks])
        taken = set(known)
        room = {priority: self._lanes.room(priority) for priority in Priority}
        overflow = self._options.overflow
        coming: dict[Status, list[Task]] = {QUEUED: [], SCHEDULED: [], DROPPED: []}
        for index, tasks in enumerate(new):
            accepted = 0
            for task in tasks:
                if task.id in taken:
                    later = [t.id for t in tasks[accepted + 1 :] if t.id in known]
                    self._given.taken[index] = [task.id, *later]
                    break
                target = QUEUED if task.due_at is None else SCHEDULED
                if target is QUEUED and room[task.priority] <= 0 and overflow != "drop-oldest":
                    if overflow != "drop-newest":
                        break
                    target = DROPPED
                room[task.priority] -= target is QUEUED
                taken.add(task.id)
                self._number += 1
                task.seq = task.key = self._number
                task.enqueued_at, task.queued_at = self._wall, self._now
                if task.due_at is not None:
                    self._set_timer(task)
                coming[target].append(task)
                accepted += 1
            self._given.accepted.append(accepted)
        for target, some in coming.items():
            self._move(some, None, target)
        if overflow == "drop-oldest":
            for priority in {task.priority for task in coming[QUEUED]}:
                self._drop_oldest(priority, -room[priority])

    def _set_timer(self, task: Task, due: float | None = None) -> None:
        """If it waits for a moment, that is its key."""
        if task.due_at is None:
            return
        if task.by_clock and task.status is not RETRYING:
            task.key = task.due_at
        else:
            task.key = self._now + (task.due_at - self._wall) if due is None else due

    def _drop_oldest(self, priority: Priority, count: int) -> None:
        dropped = []
        for _ in range(count):
            task = self._lanes.head(priority)
            assert task is not None, "there are more jobs than room"
            self._leave(task)
            dropped.append(task)
        self._move(dropped, QUEUED, DROPPED)

    def _claim(self, idle: int, cost: Mapping[str, float]) -> None:
        """Jobs for idle workers, new ones included: a job may be written and claimed at once."""
        if not idle:
            return
        open_kinds = self._open_kinds()
        self._token += 1
        for workers in range(idle, 0, -1):
            # At most a fair share, so that four waiting jobs go to four idle workers.
            share = -(-self._lanes.ready(open_kinds) // workers)
            batch = self._fill(min(BATCH_JOBS, share), cost, open_kinds)
            if not batch:
                break
            self._given.claims.append(batch)
        self._move([task for batch in self._given.claims for task in batch], QUEUED, PROCESSING)

    def _open_kinds(self) -> set[str]:
        return {kind for kind in self._lanes.limited if self._gate.admits(kind, self._now)}

    def _fill(self, limit: int, cost: Mapping[str, float], open_kinds: set[str]) -> list[Task]:
        """The batch of one worker."""
        batch: list[Task] = []
        seconds, size = 0.0, 0
        is_limited = self._options.rate_limit is not None
        while len(batch) < limit and seconds < BATCH_SECONDS and size < BATCH_BYTES:
            if is_limited and not self._gate.is_open(self._now):
                break
            task = self._lanes.pick(open_kinds, self._shares if batch else None)
            if task is None:
                break
            if is_limited:
                self._spend(task.kind, open_kinds)
            batch.append(task)
            if len(batch) == 1 and not self._shares(task):
                break
            seconds += cost.get(task.kind, BATCH_SECONDS)
            size += task.size
        for task in batch:
            if task.payload is not None:
                self._kept -= task.size
            task.attempts += 1
            task.token = self._token
            task.alone = len(batch) == 1
        return batch

    def _spend(self, kind: str, open_kinds: set[str]) -> None:
        """A job of this kind starts. Its limit may let no other one start now."""
        self._gate.take(kind, self._now)
        waits = kind in self._lanes.limited
        if kind in open_kinds and not (waits and self._gate.admits(kind, self._now)):
            open_kinds.remove(kind)

    def _shares(self, task: Task) -> bool:
        """Whether it may be in company. One that a crash has interrupted may be its cause."""
        return not task.interrupted and self._kind_shares(task.kind)

    def _release_suspect(self) -> None:
        """Let the next suspect into its lane, if none is on its way."""
        if self._suspect is not None and self._suspect.status in (QUEUED, PROCESSING):
            return
        self._suspect = self._suspects.pop() if self._suspects.size else None
        if self._suspect is not None:
            self._lanes.add(self._suspect)

    def _load_payloads(self) -> None:
        claimed = [task for batch in self._given.claims for task in batch]
        if unloaded := [task for task in claimed if task.payload is None]:
            payloads = self._file.payloads(unloaded)
            for task in unloaded:
                task.payload = payloads[task.seq]

    def _prune(self) -> int:
        """Delete ended jobs beyond the history, oldest first; returns how many."""
        excess = min(len(self._ended) - self._options.history, AT_ONCE)
        if excess > 0:
            self._file.forget([self._ended[n] for n in range(excess)])
        return max(0, excess)

    def _keep_in_memory(self) -> None:
        """What the file has, and there is no room for here, is read when it is claimed."""
        for task in self._too_many:
            if task.payload is not None and task.status in (QUEUED, SCHEDULED, RETRYING):
                self._let_go(task)
                task.payload = task.job = None
        self._too_many.clear()

    def _remember_ended(self, pruned: int) -> None:
        for _ in range(pruned):
            self._ended.popleft()
        for tasks, source, target, *_ in self._given.moves:
            if target in (COMPLETED, CANCELLED, DROPPED):
                self._ended.extend([task.seq for task in tasks])
                if source is not PROCESSING:
                    for task in tasks:  # to which an Ordered may refer for long
                        task.payload = task.job = None

    # ---- the index -------------------------------------------------------------------------

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _move(
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
        self._given.moves.append(Move(tasks, source, target, token, outcomes))
        self._count[source] -= len(tasks)
        self._count[target] += len(tasks)
        if target is None or target.ended:
            for task in tasks:
                task.status = target
                self._live.pop(task.id, None)
        else:
            for task in tasks:
                task.status = target
                if target is not PROCESSING:
                    self._arrive(task)

    def _put_in(self, task: Task, due: float | None = None) -> None:
        """One that was read from the file. due: the end of a delay that was counted here."""
        self._count[task.status] += 1
        if task.status in (QUEUED, SCHEDULED, RETRYING):
            self._set_timer(task, due)
            self._arrive(task)
        elif task.status is PROCESSING:
            self._live[task.id] = task
        else:
            self._live.pop(task.id, None)

    def _arrive(self, task: Task) -> None:
        """Into the index, to wait where its status says."""
        self._live[task.id] = task
        task.token = 0
        if task.payload is not None:
            self._kept += task.size
            if self._kept > self._options.memory:
                self._too_many.append(task)
        self._home(task).add(task)

    def _leave(self, task: Task) -> Status:
        """Out of the index, where it waits; returns its status."""
        assert task.status is not None
        if task.status in (QUEUED, SCHEDULED, RETRYING):
            self._home(task).remove(task)
            self._let_go(task)
        return task.status

    def _home(self, task: Task) -> Ordered | Lanes:
        if task.status is SCHEDULED and task.by_clock:
            return self._clock
        if task.status is not QUEUED:
            return self._timers
        if self._is_suspect(task) and task is not self._suspect:
            return self._suspects
        return self._lanes

    def _is_suspect(self, task: Task) -> bool:
        """Whether it is likely the cause of a crash, or one more would make a dead letter of it.

        If all of these ran side by side again, they would be charged together for what one
        of them does, and die together. So they run one at a time, beside the other jobs.
        """
        next_is_last = task.attempts >= self._options.max_retries
        return task.interrupted > 1 or (task.interrupted > 0 and next_is_last)

    def _let_go(self, task: Task) -> None:
        """It waits no longer, or not with its payload."""
        if task.payload is not None:
            self._kept -= task.size

    def _read_again(self) -> None:
        """The jobs that were moved in vain stand where the file says."""
        if not self._unread:
            return
        rows = {row.id: row for row in self._file.rows(self._unread)}
        for task in self._unread:
            if task.status is not None:
                self._count[self._leave(task)] -= 1
            row = rows.get(task.id)
            if row is None or row.seq != task.seq:  # it was new, and is not there
                task.status = None
                if self._live.get(task.id) is task:
                    del self._live[task.id]
                continue
            due = task.queued_at if task.due_at is None else task.key
            for name in ("key", "status", "attempts", "token", "interrupted", "due_at"):
                setattr(task, name, getattr(row, name))
            self._put_in(task, due)
        self._unread.clear()
        self._keep_in_memory()

    # ---- looking ---------------------------------------------------------------------------

    def ages(self, now: float) -> dict[Priority, float]:
        heads = {priority: self._lanes.head(priority) for priority in Priority}
        return {priority: now - head.queued_at for priority, head in heads.items() if head}

    def counts(self) -> dict[tuple[Priority, Status], int]:
        return self._file.counts()

    def get(self, job_id: str) -> JobRecord | None:
        return self._file.get(job_id)

    def jobs(
        self,
        status: Status | None,
        limit: int,
        kind: str | None = None,
        priority: Priority | None = None,
        before: str | None = None,
        payloads: bool = True,
    ) -> list[JobRecord]:
        return self._file.jobs(status, limit, kind, priority, before, payloads)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        return self._file.attempts(job_id)

    def close(self) -> None:
        self._file.close()


def _progress(order: Retry | Purge, letters: list[Task], moved: int) -> object:
    """How many it was in all; or the order to go on with, where more may be left."""
    done = order.done + moved
    return order._replace(after=letters[-1].seq, done=done) if len(letters) == AT_ONCE else done
