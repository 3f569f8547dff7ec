"""One exchange with a file that this process owns, step by step.

The file is the truth; the index (``index.py``) says where each job of it waits. Each step finds the
jobs that it concerns and *moves* them: in the index at once, and noted for the file, which is
written last. When it cannot be written, the jobs that were moved are read again from it, and stand
where it says: for jobs that is the only undo.

But: what has tables of its own is a feature (``features/``), and acts in the steps that name it.
Payloads beyond ``memory`` bytes stay in the file until they are claimed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from final.beyond.control import Pause
from final.beyond.kinds import Policies
from final.errors import StorageError
from final.job import Outcome, Priority, Status, Task
from final.ledger.admission import Admission, admit
from final.ledger.base import (
    AT_ONCE,
    ChangePeriodic,
    Given,
    Move,
    Offer,
    Order,
    SetFairness,
    SetPaused,
    SetWorkers,
    Told,
)
from final.ledger.features.base import Feature
from final.ledger.features.controls import Controls
from final.ledger.features.dependencies import Dependencies
from final.ledger.features.holders import Holders
from final.ledger.features.keys import become
from final.ledger.features.metas import Metas
from final.ledger.features.periodic import Periodic
from final.ledger.features.progress import ProgressRows
from final.ledger.history import History
from final.ledger.index import Index, without_payload
from final.ledger.limits import Gate
from final.ledger.lookups import LookupsBy
from final.ledger.orders import Orders
from final.ledger.recovery import load, recover
from final.ledger.sqlite import SqliteFile
from final.options import Options

QUEUED, SCHEDULED, PROCESSING, RETRYING, COMPLETED, FAILED, CANCELLED, DROPPED, WAITING = Status
LIVE = [status for status in Status if not status.ended]
PRIORITIES = tuple(Priority)  # an enum is slow to go through, in each turn

# Nobody tells us that the wall clock was set, or that the machine was suspended for an hour, so
# while jobs wait for a time of that clock it is looked at this often.
CLOCK_SECONDS = 1.0


class LocalLedger:
    """See ``Ledger``.

    handles: whether jobs of a kind can run here; others stay as they are, in the file alone.
    shares: whether jobs of a kind may share a batch (``picking.py``). say: as ``Events.say``.
    """

    shared = False

    def __init__(
        self,
        file: SqliteFile,
        options: Options,
        policies: Policies,
        handles: Callable[[str], bool],
        shares: Callable[[str], bool],
        now: float,
        say: Callable[..., None],
    ) -> None:
        self.lasting = file.lasting
        self.capacity = options.capacity
        self.caps: Mapping[str, int] = policies.caps
        self.group_limit = options.group_limit
        self.look_ups = file
        self.get = LookupsBy(file.read_own).get
        self._file = file
        self._options = options
        self._policies = policies
        self._gate = Gate(policies.limits, now)
        self._index = index = Index(options, policies, self._gate, handles, shares)
        self._lanes, self._picker = index.lanes, index.picker
        self._history = History(options.history)
        self._keys = Holders(file, index.live)
        self._metas = Metas(file, self._keys)
        self._dependencies = Dependencies(file, lambda: index.number)
        self._controls = Controls(file)
        self._progress = ProgressRows(file)
        self._periodic = Periodic(file, handles, say)
        self._features: list[Feature] = [
            *(self._keys, self._metas, self._dependencies),
            *(self._controls, self._progress, self._periodic),
        ]
        self._orders = Orders(file, index, self._keys, self._dependencies, self._history)
        self._picker.pause(self._controls.paused, now)
        self._token = 0
        # Moved in vain, and not read again yet; with what each was before it was replaced.
        self._unread: dict[Task, Task | None] = {}
        self._broken = False  # the latest exchange could not be written

    def open(self, now: float, wall: float) -> Given:
        self._begin(now, wall)
        with self._file.transaction():
            # Tokens begin with the number of the owner, so that they grow over all owners.
            self._token = self._file.epoch << 32
            self._index.number = self._file.last_number()
            for feature in self._features:
                feature.open()
            self._given.moves += recover(self._file, self._policies, wall)
            for feature in self._features:
                feature.write(self._given.moves)
            self._history.add(self._file.forgettable())
        self._file.recovered()
        load(self._file, self._index)
        return self._summary()

    def exchange(self, offer: Offer) -> Given:
        self._begin(offer.now, offer.wall)
        given, lanes = self._given, self._lanes
        standings, fairness = lanes.standings(), lanes.fairness
        try:
            self._read_again()
            with self._file.transaction():
                self._dependencies.release(self._index)
                # Before attempts end: a retry without delay does not come back in the same turn.
                self._queue_due()
                self._progress.hear(offer.said)
                self._end_attempts(offer.outcomes)
                self._take_back(offer.unstarted)
                self._set_aside(offer.aside)
                given.answers = [self._carry_out(order) for order in offer.orders]
                ticks = [] if offer.closing else self._periodic.ticks(self._wall)
                self._admit([*offer.new, *ticks])
                given.only(len(offer.new))
                self._claim(offer.idle, offer.cost)
                self._write()
        except StorageError as error:
            self._undo(error)
            lanes.restore(standings)
            lanes.fairness = fairness
            with contextlib.suppress(StorageError):  # then before the next exchange
                self._read_again()
        else:
            self._written()
        return self._summary(offer.closing)

    def _begin(self, now: float, wall: float) -> None:
        self._now, self._wall, self._given = now, wall, Given()
        self._given.moves = self._index.begin(now, wall)
        self._given.stop = self._orders.begin()
        self._gate.begin()
        self._history.begin()
        for feature in self._features:
            feature.begin(wall)

    def _write(self) -> None:
        """The last step: all that this exchange has come to."""
        self._file.write(self._given.moves, self._wall)
        for feature in self._features:
            feature.write(self._given.moves)
        self._file.write_cancelled(self._given.stop)
        if oldest := self._history.oldest():
            forgettable = self._dependencies.forgettable(oldest)
            self._file.forget(forgettable)
            for feature in self._features:
                feature.forget(forgettable)
        self._load_payloads()
        if self._broken:
            self._file.probe()  # or it would not be seen that nothing can be written

    def _written(self) -> None:
        """What the file says now, memory says, too."""
        given, self._broken = self._given, False
        for task in given.stop:
            task.cancelled = True
        self._history.written(given.moves)
        self._history.add(self._dependencies.written())
        for tasks, source, target, *_ in given.moves:
            if target in (CANCELLED, DROPPED) and source is not PROCESSING:
                without_payload(tasks)  # where they waited, something may refer to them for long
        self._index.unload()
        if self._keys.replaced:
            given.recounted = self._keys.recount(given.moves)

    def _undo(self, error: StorageError) -> None:
        """Nothing of this exchange is in the file."""
        moves, self._given, self._broken = self._given.moves, Given(error=str(error)), True
        # Those that memory has moved: their status is the target, or None. (What is in the file
        # alone was read for an order, and keeps the status that it was read with.)
        here = [t for move in moves for t in move.tasks if t.status in (move.target, None)]
        self._unread.update(dict.fromkeys(here))
        self._unread.update(self._keys.replaced)
        self._history.begin()
        self._picker.judge(self._gate.undo(), self._now)
        for feature in self._features:
            feature.undo()
        self._picker.pause(self._controls.paused, self._now)

    def _read_again(self) -> None:
        """The jobs that were moved in vain stand where the file says."""
        if not self._unread:
            return
        index = self._index
        rows = {row.id: row for row in self._file.rows(self._unread)}
        standings = self._lanes.standings()  # who comes back was passed over as often as before
        for task, replaced in self._unread.items():
            index.take_out(task)
            row = rows.get(task.id)
            if row is not None and replaced is not None:
                become(task, row)
                task.by_clock = replaced.by_clock
            if row is None or row.seq != task.seq or not index.handles(row.kind):
                # It was new, and is not there; or it was in the file alone.
                task.status = None
                if index.live.get(task.id) is task:
                    del index.live[task.id]
                continue
            # Where it was due in vain, ``_queue_due`` has put the moment into queued_at.
            was = replaced or task
            due = was.queued_at if was.due_at is None else was.key
            for name in ("key", "status", "attempts", "token", "interrupted", "due_at"):
                setattr(task, name, getattr(row, name))
            index.put_in(task, due)
        self._unread.clear()
        self._lanes.restore(standings)
        index.unload()

    def _summary(self, closing: bool = False) -> Given:
        """Lets the next suspect into its lane, and says how things stand."""
        given, index, paused = self._given, self._index, self._controls.paused
        index.release_suspect(paused)
        given.live = {status: index.count[status] for status in LIVE}
        given.ready = self._picker.ready(self._now)
        given.next_start = self._picker.next_start(self._now)
        given.releasing = self._dependencies.releasing
        given.paused = paused
        given.stalled = not given.releasing and index.is_stalled(paused)
        given.next_due = self._next_due(closing)
        blocks = self._options.overflow in ("block", "reject")
        given.room = {p: self._lanes.room(p) if blocks else math.inf for p in PRIORITIES}
        return given

    def _next_due(self, closing: bool) -> float:
        if self._dependencies.releasing or self._history.is_too_long():
            return self._now
        index = self._index
        next_due = index.timers.head().key if index.timers.size else math.inf
        by_clock = index.clock.head().key if index.clock.size else math.inf
        if not closing:
            by_clock = min(by_clock, self._periodic.next_tick)
        if by_clock < math.inf:
            next_due = min(next_due, self._now + min(by_clock - self._wall, CLOCK_SECONDS))
        return next_due

    # ---- the steps of an exchange ----------------------------------------------------------

    def _queue_due(self) -> None:
        """Due jobs go to the back of their lanes, also of full ones: they were accepted before."""
        index, due = self._index, list[Task]()
        for timers, time in ((index.timers, self._now), (index.clock, self._wall)):
            while len(due) < AT_ONCE and timers.size and timers.head().key <= time:
                task = timers.pop()
                index.count_out([task])
                task.queued_at = task.key + (self._now - time)  # it has been ready since then
                due.append(task)
        due.sort(key=lambda task: task.queued_at)
        for task in due:
            task.key, task.due_at = index.next_number(), None
        for source in (SCHEDULED, RETRYING):
            index.move([task for task in due if task.status is source], source, QUEUED)

    def _end_attempts(self, outcomes: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
        for token, batch in outcomes:
            ended: dict[Status, list[Outcome]] = {}
            for outcome in batch:
                task = outcome.task
                if task.is_claimed_with(token):
                    is_done = outcome.error is None and outcome.again is None
                    target = COMPLETED if is_done else self._verdict(task, outcome)
                    ended.setdefault(target, []).append(outcome)
            for target, some in ended.items():
                tasks = [outcome.task for outcome in some]
                self._index.move(tasks, PROCESSING, target, token, some)

    def _verdict(self, task: Task, outcome: Outcome) -> Status:
        """Where a job goes whose attempt failed or was put off; sets what it needs there."""
        task.interrupted = 0
        if outcome.ended_at is None:  # at the first try to write it: a disk may be full for long
            outcome.ended_at = self._wall
        if task.cancelled:
            return CANCELLED
        if outcome.again is not None:
            task.attempts -= 1
            task.due_at, task.by_clock = outcome.again.due_at(self._wall), outcome.again.by_clock
            self._index.set_timer(task)
            return SCHEDULED
        if outcome.delay is None:
            return FAILED
        task.key, task.due_at = self._now + outcome.delay, self._wall + outcome.delay
        return RETRYING

    def _take_back(self, unstarted: Sequence[tuple[int, Sequence[Task]]]) -> None:
        """Not charged, and at the place they had, where those that are cancelled end."""
        index = self._index
        for token, tasks in unstarted:
            back = [task for task in tasks if task.is_claimed_with(token)]
            for task in back:
                task.attempts -= 1
            index.move(back, PROCESSING, QUEUED, token)
            for task in [task for task in back if task.cancelled]:
                index.move([task], index.leave(task), CANCELLED)

    def _set_aside(self, aside: Sequence[tuple[int, Sequence[Task]]]) -> None:
        """Queued again in the file alone, uncharged: they run at the next start."""
        for token, tasks in aside:
            back = [task for task in tasks if task.is_claimed_with(token)]
            if back:
                self._given.moves.append(Move(back, PROCESSING, QUEUED, token))
            for task in back:
                self._index.take_out(task)
                del self._index.live[task.id]
                task.attempts -= 1
                task.status = None

    def _carry_out(self, order: Order) -> object:
        match order:
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
            case _:
                return self._orders.carry_out(order)

    def _admit(self, new: Sequence[Sequence[Task]]) -> None:
        """Of each producer's jobs those before the first that is refused."""
        if not new:
            return
        index = self._index
        known = self._file.taken([task.id for tasks in new for task in tasks])
        if parents := [parent for tasks in new for task in tasks for parent in task.after]:
            known |= self._file.taken(parents)
        room = {priority: self._lanes.room(priority) for priority in PRIORITIES}
        keys = self._keys.of(new, self._given.moves)
        admission = admit(new, known, room, self._options.overflow, keys)
        self._given.accepted, self._given.taken = admission.accepted, admission.taken
        self._given.refused, self._given.instead = admission.refused, admission.instead
        for holder, task in keys.replaced:
            self._keys.replace_waiting(holder, task, index)
        self._let_in(admission)
        if self._options.overflow == "drop-oldest":
            self._drop_oldest(admission.of(QUEUED), room)

    def _let_in(self, admission: Admission) -> None:
        """Each gets its number, and stands where it waits."""
        index = self._index
        for task, _ in admission.coming:
            task.seq = task.key = index.next_number()
            task.queued_at = self._now
            if task.due_at is not None:
                index.set_timer(task)
        targets = {target for _, target in admission.coming}
        for target in (QUEUED, SCHEDULED, WAITING, DROPPED):
            if target in targets:
                index.move(admission.of(target), None, target)
        if WAITING in targets:
            self._dependencies.admit(admission.of(WAITING))

    def _drop_oldest(self, new: Sequence[Task], room: dict[Priority, int]) -> None:
        """The new jobs of a lane displace as many as there is no room for."""
        dropped = []
        for priority in {task.priority for task in new}:
            arrived = [task for task in new if task.priority is priority]
            # (One that was replaced may have left the lane meanwhile.)
            too_many = min(-room[priority], -self._lanes.room(priority))
            # The first that arrived found room, so it is the last ones that displace somebody, one
            # each; where more has to go than has arrived, they begin again.
            # (2 of 3: numbers -2 and -1, the last two. 4 of 3: -4 to -1, the last one twice.)
            first = arrived[0].seq
            for number in range(-too_many, 0):
                displaced = self._lanes.displaced_by(arrived[number % len(arrived)])
                self._index.leave(displaced)
                if displaced.seq >= first and len(arrived) > 1:
                    arrived.remove(displaced)  # and displaces nobody any more, unless all are gone
                dropped.append(displaced)
        self._index.move(dropped, QUEUED, DROPPED)

    def _claim(self, idle: int, cost: Mapping[str, float]) -> None:
        """Jobs for idle workers, new ones included: a job may be written and claimed at once."""
        if not idle:
            return
        self._token += 1
        self._given.claims = self._picker.batches(idle, cost, self._token, self._now)
        claimed = [task for batch in self._given.claims for task in batch]
        self._index.count_out(claimed)
        self._index.move(claimed, QUEUED, PROCESSING)

    def _load_payloads(self) -> None:
        if unloaded := [t for batch in self._given.claims for t in batch if t.payload is None]:
            self._metas.load(unloaded)  # first: who has a payload is not asked about again
            payloads = self._file.payloads(unloaded)
            for task in unloaded:
                task.payload = payloads[task.seq]

    # ---- what only several processes have, and what is asked by the dispatcher ----------------

    def listen(self, tell: Callable[[Told], object]) -> None:
        """Nobody else is there."""

    def enqueue_within(self, connection: object, tasks: Sequence[Task], wall: float) -> list[str]:
        raise ValueError(
            "connection= is for a queue on PostgreSQL: a file is written by this queue alone."
        )

    def ended_of(self, job_ids: Sequence[str]) -> Sequence[str]:
        return ()

    @property
    def workers(self) -> int | None:
        return self._controls.workers

    def paused(self) -> frozenset[Pause]:
        return self._controls.paused

    def ages(self, now: float) -> dict[Priority, float]:
        heads = {priority: self._lanes.head(priority) for priority in Priority}
        return {priority: now - head.queued_at for priority, head in heads.items() if head}

    def counts(self) -> Mapping[tuple[Priority, Status], int]:
        return self.look_ups.counts()

    def shared_figures(self) -> None:
        return None

    def close(self) -> None:
        self._file.close()
