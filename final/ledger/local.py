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
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from final.beyond.control import WHOLE_QUEUE, Pause, holds
from final.beyond.filters import Filter
from final.beyond.kinds import Policies
from final.beyond.meta import NO_META
from final.beyond.periodic import Entry
from final.errors import StorageError, UnknownJob
from final.job import AttemptRecord, JobRecord, Outcome, Priority, Status, Task
from final.ledger.admission import admit
from final.ledger.base import (
    AT_ONCE,
    Cancel,
    CancelAll,
    ChangePeriodic,
    Given,
    Move,
    Offer,
    Order,
    Purge,
    Retry,
    RetryAll,
    SetFairness,
    SetPaused,
    SetWorkers,
    Told,
)
from final.ledger.caps import Caps
from final.ledger.controls import Controls
from final.ledger.dependencies import Dependencies
from final.ledger.groups import GroupLanes
from final.ledger.holders import Holders
from final.ledger.keys import KEY_IS_TAKEN, Holder, become, place_of
from final.ledger.lanes import Lanes, Ordered
from final.ledger.limits import Gate
from final.ledger.metas import Metas
from final.ledger.periodic import Periodic
from final.ledger.picking import Picker
from final.ledger.progress import ProgressRows
from final.ledger.sqlite import SqliteFile
from final.options import Options

log = logging.getLogger("final")

QUEUED, SCHEDULED, PROCESSING, RETRYING, COMPLETED, FAILED, CANCELLED, DROPPED, WAITING = Status
WAIT = (QUEUED, SCHEDULED, RETRYING, WAITING)

# Nobody tells us that the wall clock was set, or that the machine was suspended for an hour, so
# while jobs wait for a time of that clock it is looked at this often.
CLOCK_SECONDS = 1.0


class LocalLedger:
    """See ``Ledger``.

    handles: whether jobs of a kind can run here; others stay as they are, in the file alone.
    shares: whether jobs of a kind may share a batch (``picking.py``).
    """

    def __init__(
        self,
        file: SqliteFile,
        options: Options,
        policies: Policies,
        handles: Callable[[str], bool],
        shares: Callable[[str], bool],
        now: float,
    ) -> None:
        self.lasting = file.lasting
        self.shared = False
        self.capacity = options.capacity
        self.caps: Mapping[str, int] = policies.caps
        self.group_limit = options.group_limit
        self._file = file
        self._options = options
        self._policies = policies
        self._handles = handles
        self._gate = Gate(policies.limits, now)
        caps = Caps(options.group_limit, policies.caps)
        self._lanes = GroupLanes(
            options.capacity, options.fairness, self._gate.kinds | caps.kinds, self._next_number
        )
        self._picker = Picker(self._lanes, self._gate, caps, shares)
        self._controls = Controls(file)
        self._picker.pause(self._controls.paused, now)
        # Retries and scheduled jobs by when they are due, on the clock that goes for them.
        self._timers = Ordered()  # a delay: monotonic seconds
        self._clock = Ordered()  # a datetime: Unix seconds
        self._suspects = Ordered()  # go into their lanes one by one
        self._suspect: Task | None = None  # the one that has left for its lane
        self._live: dict[str, Task] = {}  # every job that is indexed here, by id
        self._keys = Holders(file, self._live.get)
        self._dependencies = Dependencies(file, self._live)
        self._progress = ProgressRows(file)
        self._periodic = Periodic(file, handles)
        self._children: set[Task] = set()  # wait for others
        self._metas = Metas(file)
        self._count: Counter[Status | None] = Counter()  # of these
        self._ended: deque[int] = deque()  # what the history may let go of, oldest first
        self._purged: set[int] = set()  # of these what is not there any more
        self._purging: set[int] = set()  # and what this exchange deletes
        self._kept = 0  # bytes of payloads of waiting jobs that are in memory
        self._number = 0  # the last one given to a job, or to a place in line
        self._token = 0
        self._too_many: list[Task] = []  # came into the index with payloads beyond ``memory``
        self._unread: dict[Task, bool] = {}  # moved in vain, and not read again yet; if replaced
        self._broken = False  # the latest exchange could not be written
        self._now = self._wall = 0.0
        self._given = Given()

    def open(self, now: float, wall: float) -> Given:
        self._now, self._wall, self._given = now, wall, Given()
        with self._file.transaction():
            # Tokens begin with the number of the owner, so that they grow over all owners.
            self._token = self._file.epoch << 32
            self._number = self._file.last_number()
            self._dependencies.open(self._number)
            self._recover()
            self._dependencies.ended(self._given.moves, self._number)
            self._ended.extend(self._file.ended())
            self._keys.open()
            self._metas.open()
            self._progress.open()
            self._periodic.open()
        self._file.recovered()
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
                extra={"kind": kind},
            )
        return self._summary()

    def exchange(self, offer: Offer) -> Given:
        self._now, self._wall, self._given = offer.now, offer.wall, Given()
        tokens = self._lanes.tokens()
        self._gate.begin()
        self._keys.begin()
        self._purging = set()
        self._controls.begin()
        try:
            self._read_again()
            with self._file.transaction():
                # Before attempts end: a retry without delay does not come back in the same turn.
                self._release_children()
                self._queue_due()
                self._progress.write(offer.said)
                self._end_attempts(offer.outcomes)
                self._take_back(offer.unstarted)
                self._set_aside(offer.aside)
                self._given.answers = [self._carry_out(order) for order in offer.orders]
                ticks = [] if offer.closing else self._periodic.ticks(self._wall)
                self._admit([*offer.new, *ticks])
                self._given.only(len(offer.new))
                self._claim(offer.idle, offer.cost)
                self._dependencies.ended(self._given.moves, self._number)
                pruned = self._prune()
                self._file.write(self._given.moves, self._wall)
                self._keys.write(self._given.moves, self._wall)
                self._metas.write(self._given.moves, self._keys.replaced)
                self._progress.purge(self._given.moves)
                self._file.write_cancelled(self._given.stop)
                self._load_payloads()
                if self._broken:
                    self._file.probe()  # or it would not be seen that nothing can be written
        except StorageError as error:
            moved = [task for move in self._given.moves for task in move.tasks]
            self._unread.update((task, False) for task in moved if self._handles(task.kind))
            self._unread.update((task, True) for task in self._keys.replaced)
            self._given, self._broken = Given(error=str(error)), True
            self._lanes.restore(tokens)
            self._picker.judge(self._gate.undo(), self._now)
            self._dependencies.undo()
            self._undo_controls()
            self._periodic.undo()
            with contextlib.suppress(StorageError):  # then before the next exchange
                self._read_again()
        else:
            self._broken = False
            for task in self._given.stop:
                task.cancelled = True
            self._remember_ended(pruned)
            self._ended.extend(self._dependencies.written())
            self._keep_in_memory()
            if self._keys.replaced:
                self._given.moves[:0] = self._keys.recount(self._given.moves)
        return self._summary(offer.closing)

    def listen(self, tell: Callable[[Told], object]) -> None:
        """Nobody else is there."""

    def enqueue_within(self, connection: object, tasks: Sequence[Task], wall: float) -> list[str]:
        raise ValueError(
            "connection= is for a queue on PostgreSQL: a file is written by this queue alone."
        )

    def ended_of(self, job_ids: Sequence[str]) -> Sequence[str]:
        return ()

    def _summary(self, closing: bool = False) -> Given:
        self._release_suspect()
        given = self._given
        given.live = {s: self._count[s] for s in Status if not s.ended}
        given.ready = self._picker.ready(self._now)
        given.next_start = self._picker.next_start(self._now)
        given.next_due = self._timers.head().key if self._timers.size else math.inf
        due = self._clock.head().key if self._clock.size else math.inf
        if not closing:
            due = min(due, self._periodic.next_tick)
        if due < math.inf:
            until = min(due - self._wall, CLOCK_SECONDS)
            given.next_due = min(given.next_due, self._now + until)
        given.releasing = self._dependencies.releasing
        given.paused, given.stalled = self._controls.paused, self._is_stalled()
        if given.releasing or self._beyond_history() > 0:
            given.next_due = self._now
        blocks = self._options.overflow in ("block", "reject")
        given.room = {p: self._lanes.room(p) if blocks else math.inf for p in Priority}
        return given

    def _is_stalled(self) -> bool:
        """Whether nothing of what waits will start, unless somebody resumes it."""
        paused = self._controls.paused
        if not paused or self._dependencies.releasing:
            return False
        if WHOLE_QUEUE in paused:
            return True
        kinds = [pause.kind for pause in paused if pause.kind is not None]
        return not (self._count[RETRYING] or self._lanes.has_others(kinds))

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
            was_last = task.attempts > self._policies.of(task.kind).max_retries
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

    def _release_children(self) -> None:
        """Of parents that have ended by now; in this exchange, their turn is the next one."""
        for ready, doomed in self._dependencies.release(self._number):
            for task in ready:
                if task.due_at is None or task.due_at <= self._wall:
                    task.key, task.due_at, task.queued_at = self._next_number(), None, self._now
                else:
                    self._set_timer(task)
            self._let_children_go([task for task in ready if task.due_at is None], QUEUED)
            self._let_children_go([task for task in ready if task.due_at is not None], SCHEDULED)
            self._let_children_go(doomed, CANCELLED)

    def _let_children_go(self, children: list[Task], target: Status) -> None:
        """Those that are not indexed here, as nobody handles their kind, in the file alone."""
        mine = [task for task in children if task.id in self._live]
        if aside := [task for task in children if task.id not in self._live]:
            self._given.moves.append(Move(aside, WAITING, target))
        for task in mine:
            self._leave(task)
        self._move(mine, WAITING, target)

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
                    is_done = outcome.error is None and outcome.again is None
                    target = COMPLETED if is_done else self._verdict(task, outcome)
                    ended.setdefault(target, []).append(outcome)
            for target, some in ended.items():
                self._move([outcome.task for outcome in some], PROCESSING, target, token, some)

    def _verdict(self, task: Task, outcome: Outcome) -> Status:
        """What becomes of a job whose attempt has failed, or was put off."""
        task.interrupted = 0
        if outcome.ended_at is None:  # at the first try to write it: a disk may be full for long
            outcome.ended_at = self._wall
        if task.cancelled:
            return CANCELLED
        if outcome.again is not None:
            task.attempts -= 1
            task.due_at, task.by_clock = outcome.again.due_at(self._wall), outcome.again.by_clock
            self._set_timer(task)
            return SCHEDULED
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
                self._picker.ended(back, self._now)
            for task in back:
                del self._live[task.id]
                task.attempts -= 1
                task.status = None

    def _carry_out(self, order: Order) -> object:
        match order:
            case Cancel(job_id):
                return self._cancel(job_id)
            case Retry(job_id):
                return self._retry(job_id)
            case CancelAll(numbers, wanted):
                found = self._file.meant(numbers, wanted)
                return sum(self._cancel(task.id) is True for task in found)
            case RetryAll(numbers, wanted):
                return len(self._start_over(self._file.meant(numbers, wanted)))
            case Purge(numbers, wanted):
                return self._purge(self._file.meant(numbers, wanted))
            case SetFairness(fairness):
                self._lanes.fairness = fairness
                return None
            case SetPaused():
                self._controls.set_paused(order)
                self._picker.pause(self._controls.paused, self._now)
                return None
            case SetWorkers(number):
                self._controls.set_workers(order)
                return self._options.workers if number is None else number
            case ChangePeriodic():
                return self._periodic.carry_out(order)

    def _undo_controls(self) -> None:
        self._controls.undo()
        self._picker.pause(self._controls.paused, self._now)

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

    def _retry(self, job_id: str) -> object:
        task = self._file.find(job_id)
        letters = self._unmoved([task], FAILED) if task else []
        if not letters:
            return ValueError(f"Job {job_id} is not a dead letter (any more).")
        if not self._handles(letters[0].kind):
            return ValueError(f"No handler for kind {letters[0].kind!r} of job {job_id}.")
        return len(self._start_over(letters)) or ValueError(KEY_IS_TAKEN.format(job_id))

    def _start_over(self, letters: list[Task]) -> list[Task]:
        """Dead letters, at the ends of their lanes; those that can."""
        mine = [task for task in self._unmoved(letters, FAILED) if self._handles(task.kind)]
        mine = self._keys.retryable(mine, self._given.moves, self._wall)
        for task in mine:
            task.attempts, task.key, task.queued_at = 0, self._next_number(), self._now
        self._move(mine, FAILED, QUEUED)
        return mine

    def _purge(self, tasks: list[Task]) -> int:
        """They are deleted, if they have ended and no child needs them."""
        needed = self._dependencies.needed(tasks)
        tasks = [task for task in tasks if task.seq not in needed]
        gone = 0
        for status in (COMPLETED, FAILED, CANCELLED, DROPPED):
            some = self._unmoved(tasks, status)
            self._move(some, status, None)
            gone += len(some)
            if status is not FAILED:
                self._purging.update([task.seq for task in some])
        return gone

    def _unmoved(self, tasks: list[Task], status: Status) -> list[Task]:
        """Those in this status: what this exchange has moved has it in the file only."""
        some = [task for task in tasks if task.status is status]
        moved = {task.id for move in self._given.moves for task in move.tasks} if some else set()
        return [task for task in some if task.id not in moved]

    def _admit(self, new: Sequence[Sequence[Task]]) -> None:
        """Of each producer's jobs those before the first that is refused."""
        if not new:
            return
        known = self._file.taken([task.id for tasks in new for task in tasks])
        if parents := [parent for tasks in new for task in tasks for parent in task.after]:
            known |= self._file.taken(parents)
        room = {priority: self._lanes.room(priority) for priority in Priority}
        overflow = self._options.overflow
        keys = self._keys.of(new, self._given.moves, self._wall)
        admission = admit(new, known, room, overflow, keys)
        self._given.accepted, self._given.taken = admission.accepted, admission.taken
        self._given.unknown, self._given.instead = admission.unknown, admission.instead
        for holder, task in keys.replaced:
            self._replace(holder, task)
        for task, _ in admission.coming:
            self._number += 1
            task.seq = task.key = self._number
            task.queued_at = self._now
            self._set_timer(task)
        targets = {target for _, target in admission.coming}
        for target in (QUEUED, SCHEDULED, WAITING, DROPPED):
            if target in targets:
                self._move(admission.of(target), None, target)
        if WAITING in targets:
            self._dependencies.admit(admission.of(WAITING), self._number)
        if overflow == "drop-oldest":
            self._drop_oldest(admission.of(QUEUED), room)

    def _replace(self, holder: Holder, new: Task) -> None:
        """The job that waits becomes the new one, under its own id, and at its place if it can."""
        task = self._keys.find(holder)
        if task.id not in self._live:  # nobody handled its kind
            task.by_clock = True
            self._put_in(task)
        if task.status is QUEUED and new.due_at is None and place_of(task) == place_of(new):
            self._let_go(task)
            self._keys.replace(task, new)
            self._keep(task)  # it stands where it stood
            return
        self._leave(task)
        self._keys.replace(task, new)
        if task.status is RETRYING:
            self._arrive(task)
        else:
            source, task.due_at, task.by_clock = task.status, new.due_at, new.by_clock
            task.key, task.queued_at = self._next_number(), self._now
            self._set_timer(task)
            self._move([task], source, QUEUED if task.due_at is None else SCHEDULED)

    def _set_timer(self, task: Task, due: float | None = None) -> None:
        """If it waits for a moment, that is its key."""
        if task.due_at is None:
            return
        if task.by_clock and task.status is not RETRYING:
            task.key = task.due_at
        else:
            task.key = self._now + (task.due_at - self._wall) if due is None else due

    def _drop_oldest(self, new: Sequence[Task], room: dict[Priority, int]) -> None:
        """The new jobs of a lane displace as many as there is no room for."""
        dropped = []
        for priority in {task.priority for task in new}:
            arrived = [task for task in new if task.priority is priority]
            # (One that was replaced may have left the lane meanwhile.)
            too_many = min(-room[priority], -self._lanes.room(priority))
            for number in range(-too_many, 0):  # the first of them found room
                displaced = self._lanes.displaced_by(arrived[number % len(arrived)])
                self._leave(displaced)
                dropped.append(displaced)
        self._move(dropped, QUEUED, DROPPED)

    def _claim(self, idle: int, cost: Mapping[str, float]) -> None:
        """Jobs for idle workers, new ones included: a job may be written and claimed at once."""
        if not idle:
            return
        self._token += 1
        self._given.claims = self._picker.batches(idle, cost, self._token, self._now)
        claimed = [task for batch in self._given.claims for task in batch]
        for task in claimed:
            self._let_go(task)
        self._move(claimed, QUEUED, PROCESSING)

    def _release_suspect(self) -> None:
        """Let the next suspect into its lane, if none is on its way. Not one that is paused."""
        paused, suspect = self._controls.paused, self._suspect
        if suspect is not None and suspect.status is QUEUED and holds(paused, suspect):
            self._lanes.remove(suspect)
            self._suspects.add(suspect)
        elif suspect is not None and suspect.status in (QUEUED, PROCESSING):
            return
        if not paused:
            self._suspect = self._suspects.pop() if self._suspects.size else None
        elif suspect := next((s for s in self._suspects if not holds(paused, s)), None):
            self._suspects.remove(suspect)
            self._suspect = suspect
        else:
            self._suspect = None
        if self._suspect is not None:
            self._lanes.add(self._suspect)

    def _load_payloads(self) -> None:
        claimed = [task for batch in self._given.claims for task in batch]
        if unloaded := [task for task in claimed if task.payload is None]:
            payloads = self._file.payloads(unloaded)
            for task in unloaded:
                task.payload = payloads[task.seq]
            self._metas.load(unloaded)

    def _prune(self) -> int:
        """Delete ended jobs beyond the history, oldest first; returns how many."""
        excess = min(self._beyond_history(), AT_ONCE)
        if excess > 0:
            oldest = [self._ended[n] for n in range(excess)]
            oldest = [seq for seq in oldest if seq not in self._purging]
            gone = self._dependencies.forgettable(oldest)
            self._file.forget(gone)
            self._keys.forget(gone, self._wall)
            self._metas.forget(gone)
            self._progress.forget(gone)
        return max(0, excess)

    def _keep_in_memory(self) -> None:
        """What the file has, and there is no room for here, is read when it is claimed."""
        for task in self._too_many:
            if task.payload is not None and task.status in WAIT:
                self._let_go(task)
                _unload(task)
        self._too_many.clear()

    def _remember_ended(self, pruned: int) -> None:
        self._purged |= self._purging
        self._purging = set()
        for _ in range(pruned):
            self._purged.discard(self._ended.popleft())
        for tasks, source, target, *_ in self._given.moves:
            if target in (COMPLETED, CANCELLED, DROPPED):
                self._ended.extend([task.seq for task in tasks])
                if source is not PROCESSING:
                    for task in tasks:  # to which an Ordered may refer for long
                        _unload(task)

        if len(self._purged) > len(self._ended) // 2:
            self._ended = deque(seq for seq in self._ended if seq not in self._purged)
            self._purged.clear()

    def _beyond_history(self) -> int:
        there = len(self._ended) - len(self._purged) - len(self._purging)
        return there - self._options.history

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
        if source is PROCESSING:
            self._picker.ended(tasks, self._now)
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
        if task.status in WAIT:
            self._set_timer(task, due)
            self._arrive(task)
        elif task.status is PROCESSING:
            self._live[task.id] = task
            self._picker.started([task], self._now)
        else:
            self._live.pop(task.id, None)

    def _arrive(self, task: Task) -> None:
        """Into the index, to wait where its status says."""
        self._live[task.id] = task
        task.token = 0
        self._keep(task)
        self._home(task).add(task)

    def _keep(self, task: Task) -> None:
        """It waits with its payload, if that has come with it."""
        if task.payload is not None:
            self._kept += task.size
            if self._kept > self._options.memory:
                self._too_many.append(task)

    def _leave(self, task: Task) -> Status:
        """Out of the index, where it waits; returns its status."""
        assert task.status is not None
        if task.status in WAIT:
            self._home(task).remove(task)
            self._let_go(task)
        return task.status

    def _home(self, task: Task) -> Ordered | Lanes | set[Task]:
        if task.status is QUEUED:
            if task.interrupted and task is not self._suspect and self._is_suspect(task):
                return self._suspects
            return self._lanes
        if task.status is WAITING:
            return self._children
        if task.status is SCHEDULED and task.by_clock:
            return self._clock
        return self._timers

    def _is_suspect(self, task: Task) -> bool:
        """Of one that was interrupted: whether it is likely the cause, or next a dead letter.

        If all of these ran side by side again, they would be charged together for what one
        of them does, and die together. So they run one at a time, beside the other jobs.
        """
        next_is_last = task.attempts >= self._policies.of(task.kind).max_retries
        return next_is_last or task.interrupted > 1

    def _let_go(self, task: Task) -> None:
        """It waits no longer, or not with its payload."""
        if task.payload is not None:
            self._kept -= task.size

    def _read_again(self) -> None:
        """The jobs that were moved in vain stand where the file says."""
        if not self._unread:
            return
        rows = {row.id: row for row in self._file.rows(self._unread)}
        tokens = self._lanes.tokens()  # who comes back was passed over as often as before
        for task, was_replaced in self._unread.items():
            if task.status is not None:
                self._count[self._leave(task)] -= 1
            if task.status is PROCESSING:
                self._picker.ended([task], self._now)
            row = rows.get(task.id)
            if row is not None and was_replaced:
                become(task, row)
                task.by_clock = True  # of a delay the file knows the end
            if row is None or row.seq != task.seq or not self._handles(row.kind):
                # It was new, and is not there; or it was in the file alone.
                task.status = None
                if self._live.get(task.id) is task:
                    del self._live[task.id]
                continue
            due = task.queued_at if task.due_at is None else task.key
            for name in ("key", "status", "attempts", "token", "interrupted", "due_at"):
                setattr(task, name, getattr(row, name))
            self._put_in(task, due)
        self._unread.clear()
        self._lanes.restore(tokens)
        self._keep_in_memory()

    # ---- looking ---------------------------------------------------------------------------

    @property
    def workers(self) -> int | None:
        return self._controls.workers

    def paused(self) -> frozenset[Pause]:
        return self._controls.paused

    def ages(self, now: float) -> dict[Priority, float]:
        heads = {priority: self._lanes.head(priority) for priority in Priority}
        return {priority: now - head.queued_at for priority, head in heads.items() if head}

    def counts(self) -> dict[tuple[Priority, Status], int]:
        return self._file.counts()

    def known(self, job_ids: Collection[str]) -> set[str]:
        return self._file.known(job_ids)

    def parents(self, job_id: str) -> dict[str, Any]:
        return self._file.parents(job_id)

    def get(self, job_id: str) -> JobRecord | None:
        return self._file.get(job_id)

    def jobs(
        self,
        wanted: Filter,
        limit: int,
        before: str | int | None = None,
        payloads: bool = True,
    ) -> list[JobRecord]:
        return self._file.jobs(wanted, limit, before, payloads)

    def numbers(self, wanted: Filter, after: int, upto: int, limit: int) -> list[int]:
        return self._file.numbers(wanted, after, upto, limit)

    def first_and_last(self) -> tuple[int, int]:
        return self._file.first_and_last()

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        return self._file.attempts(job_id)

    def periodic(self) -> list[Entry]:
        return self._file.periodic()

    def shared_figures(self) -> None:
        return None

    def close(self) -> None:
        self._file.close()


def _unload(task: Task) -> None:
    """What the file has of it, too, is read when it is claimed."""
    task.payload, task.job, task.meta = None, None, NO_META
