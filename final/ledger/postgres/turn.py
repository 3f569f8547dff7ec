"""One turn: an offer goes to the database, and what came of it comes back.

1. Out: begin, take a token, write what has come back from the workers (fenced), carry out orders,
   lock the head of each lane. Back: what of it counted, and who may run next.
2. The token rule picks, as it does on a file. Out: insert, claim, commit. Back: it is durable.

(Where the oldest are dropped, a trip between them drops those, and looks.)

Where nobody but new jobs can be next, what is written is known before anything is asked, and one
trip does both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg

from final.beyond.control import readable
from final.beyond.meta import from_pairs
from final.errors import StorageError
from final.job import Status, Task
from final.ledger.admission import Admission
from final.ledger.base import AT_ONCE, Given, Move, Offer
from final.ledger.postgres import metas
from final.ledger.postgres import statements as sql
from final.ledger.postgres.dependencies import PostgresDependencies
from final.ledger.postgres.doubt import UNKNOWN, Doubt
from final.ledger.postgres.holders import LOOK_AGAIN_SECONDS, PostgresHolders
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.orders import PostgresOrders
from final.ledger.postgres.returned import Returned, batched
from final.ledger.postgres.room import Room
from final.ledger.postgres.rows import new_columns
from final.ledger.postgres.session import Session
from final.ledger.postgres.window import Answers, Window
from final.options import Options

QUEUED, SCHEDULED, PROCESSING, RETRYING, COMPLETED, FAILED, CANCELLED, DROPPED, WAITING = Status


class ThisProcess(NamedTuple):
    """What one process has from one turn to the next."""

    session: Session
    options: Options
    memory: Memory
    lease: Lease
    window: Window
    room: Room
    notices: Notices
    doubt: Doubt
    dependencies: PostgresDependencies


class InDoubt(Exception):
    """The connection was lost with a commit on its way. turn: ``land_unseen`` if it came about."""

    def __init__(self, turn: Turn, cause: psycopg.Error) -> None:
        super().__init__()
        self.turn = turn
        self.cause = cause


class Turn:
    """again: after one that failed."""

    def __init__(self, process: ThisProcess, offer: Offer, again: bool) -> None:
        self._session = process.session
        self._options = process.options
        self._memory = process.memory
        self._lease = process.lease
        self._window = process.window
        self._room = process.room
        self._notices = process.notices
        self._doubt = process.doubt
        self._dependencies = process.dependencies
        self._offer = offer
        self._again = again
        self._returned = Returned(self._session, self._memory, offer)
        table = process.lease.table
        self._holders = PostgresHolders(
            self._session, self._memory, table, offer, patient=not again
        )
        self._orders = PostgresOrders(
            self._session, self._memory, self._window, self._notices, process.lease
        )
        self._given = Given()
        self._admission = Admission([], {}, [], {}, set(), {})
        self._token = self._last = self._others = 0
        self._curious = False  # some of those others
        self._answered = False
        self._inserted: Iterable[tuple[Any, ...]] = ()
        self._read: Iterable[tuple[Any, ...]] = ()

    def run(self) -> Given:
        """Raises InDoubt, or psycopg.Error when nothing was written."""
        self._window.begin()
        if self._looks():
            has_meters = self._first_trip()
            self._second_trip(has_meters)
        else:
            self._only_trip()
        return self._land()

    def _looks(self) -> bool:
        """Whether it takes a look at the lanes to know what to write."""
        offer, memory, window = self._offer, self._memory, self._window
        if self._again or self._holders.unique or offer.orders or memory.now >= memory.due_at:
            return True
        if offer.new and (window.limits or self._options.overflow != "block"):
            return True
        if any(task.after for tasks in offer.new for task in tasks):
            return True
        memory.more |= bool(window.freed(offer)) or window.may_open(offer)
        memory.more |= memory.flows and bool(offer.outcomes)
        may_claim = memory.more or memory.now >= min(window.start_at, memory.due_at)
        return self._room.is_unsure(offer.new) or bool(offer.idle and may_claim)

    # ---- two trips ---------------------------------------------------------------------------

    def _first_trip(self) -> bool:
        """Returns whether a limit was looked at."""
        offer, ask = self._offer, self._session.ask
        wanted = self._window.wanted(offer)
        drops = offer.new and self._options.overflow == "drop-oldest"
        check = self._again or self._holders.unique
        new_ids = [task.id for tasks in offer.new for task in tasks] if check else []
        known: Any = ()
        answers = Answers(None, (), ())
        with self._session.trip():
            self._ask()
            if new_ids:
                known = ask(sql.TAKEN, (new_ids,))
            self._holders.ask()
            parents = self._dependencies.lock_parents(offer.new)
            if wanted and not drops:
                answers = self._window.ask(wanted, offer)
        self._take()
        self._admit({job_id for (job_id,) in (*known, *parents)})
        if drops:
            answers = self._drop_and_look(wanted)
        if wanted:
            self._given.claims = self._window.pick(
                offer,
                wanted,
                self._admission,
                self._token,
                self._last,
                answers,
                self._holders.replaced(),
            )
            memory = self._memory
            found = any(task.seq for task in self._claimed())
            memory.found_untold += memory.untold and found
            memory.untold = False
            memory.flows = found and self._others > 0
        else:
            self._memory.more |= bool(self._admission.of(QUEUED))
        return answers.meters is not None

    def _drop_and_look(self, wanted: int) -> Answers:
        """A trip of its own, once it is known who comes in: who is refused pushes out nobody."""
        answers, offer = Answers(None, (), ()), self._offer
        with self._session.trip():
            coming, kept = self._admission.of(QUEUED), self._holders.replaced()
            dropped = self._room.ask_to_drop(coming, kept)
            if wanted:
                answers = self._window.ask(wanted, offer)
        for cursor in dropped:
            self._memory.moved(cursor, self._given.moves)
        return answers

    def _second_trip(self, has_meters: bool) -> None:
        claimed = self._claimed()
        new = {task for task, _ in self._admission.coming}
        old = [task for task in claimed if task not in new]
        self._doubt.trace = self._trace(old)
        try:
            with self._session.trip():
                groups = self._lock_groups()
                self._insert(claimed)
                if old:
                    self._claim(old)
                if claimed and has_meters:
                    self._window.ask_to_count(claimed)
                self._holders.write()
                self._let_next_come_forward(groups)
                self._session.ask("COMMIT")
        except psycopg.Error as error:
            if self._session.is_lost and self._doubt.trace is not None:
                raise InDoubt(self, error) from error
            self._doubt.trace = None  # the server has refused it
            raise
        self._doubt.trace = None

    # ---- one trip ----------------------------------------------------------------------------

    def _only_trip(self) -> None:
        self._admit(())
        self._given.claims = self._window.pick_new(self._offer, self._admission)
        claimed = self._claimed()
        try:
            with self._session.trip():
                self._ask()
                groups = self._lock_groups()
                self._insert(claimed)
                self._let_next_come_forward(groups)
                self._session.ask("COMMIT")
        except psycopg.Error as error:
            if self._session.is_lost:
                self._doubt.trace = self._trace([])
            if self._doubt.trace is None:
                raise
            raise InDoubt(self, error) from error
        self._take()
        for task in claimed:
            task.token = self._token

    # ---- what both have ----------------------------------------------------------------------

    def _ask(self) -> None:
        """From BEGIN to what does not depend on any answer."""
        ask, offer, lease = self._session.ask, self._offer, self._lease
        self._begun = lease.begin()
        self._holders.ask_to_lock()
        beats = offer.now >= lease.beat_at or offer.curious != lease.curious
        # Of an order nothing else may tell whether it has come about.
        beats |= bool(offer.orders)
        self._beat = lease.ask_to_renew(offer.curious) if beats else None
        is_due = self._again or offer.now >= self._memory.due_at
        self._due = (ask(sql.DUE), ask(sql.NEXT_DUE)) if is_due else None
        self._returned.ask()
        self._orders.ask(offer.orders, self._holders.busy)
        self._filled = self._room.ask(offer.new)

    def _take(self) -> None:
        """The answers to those."""
        self._answered = True
        memory, moves = self._memory, self._given.moves
        begun = self._begun.fetchone()
        self._token, clock, self._last, memory.helped, self._curious, self._others, _, rows = begun
        memory.hear(frozenset(readable(json.loads(rows or "[]"))))
        memory.ahead = clock - memory.now
        memory.last = self._last
        if self._due is not None:
            due, next_due = self._due
            came = memory.moved(due, moves)
            for task in came:
                self._room.take(task.priority)
            (until,) = next_due.fetchone() or (math.inf,)
            if until <= 0.0 and len(came) < AT_ONCE:  # somebody has locked what is due
                until = LOOK_AGAIN_SECONDS
            memory.due_at = memory.now + max(0.0, until)
        self._returned.take(moves)
        self._given.answers = self._orders.answers(moves)
        self._room.count(self._filled)

    def _trace(self, old: Sequence[Task]) -> tuple[str, Sequence[Any]] | None:
        """A transaction is written as a whole: what tells whether it was. old: jobs it claims."""
        # (Of a group that was full by then none is: that tells nothing.)
        certain = [t for t in old if self._window.group_limit is None or not t.group]
        if certain:
            return sql.IS_CLAIMED, ([task.seq for task in certain], self._token)
        if self._answered and self._beat is not None:
            return sql.HAS_BEATEN, (self._lease.owner, *self._beat.fetchone())
        if self._admission.coming or self._returned:
            new_ids = [task.id for task, _ in self._admission.coming]
            return sql.IS_WRITTEN, (new_ids, self._memory.last, *self._returned.pairs())
        if old:  # and nothing else: where none is claimed, it may as well be done again
            return sql.IS_CLAIMED, ([task.seq for task in old], self._token)
        return None

    def _admit(self, known: Iterable[str]) -> None:
        offer = self._offer
        keys = self._holders.keys()
        self._admission = self._room.admit(offer.new, set(known), keys, offer.now)

    def _claimed(self) -> list[Task]:
        return [task for batch in self._given.claims for task in batch]

    def _insert(self, claimed: Sequence[Task]) -> None:
        """New jobs, as what they are at the end of the turn."""
        if not self._admission.coming:
            return
        mine = set(claimed)
        rows = (
            (task, PROCESSING if task in mine else status, self._offer.wall)
            for task, status in self._admission.coming
        )
        insert = sql.INSERT + sql.OR_FAIL
        self._inserted = itertools.chain.from_iterable(
            [  # all are asked now, and answered later
                self._session.ask(insert, (self._lease.owner, *new_columns(some)))
                for some in batched(rows, lambda row: row[0].size)
            ]
        )
        self._dependencies.insert(self._admission.of(WAITING), self._offer.wall)
        metas.write(self._session.ask, (task for task, _ in self._admission.coming))

    def _claim(self, tasks: Sequence[Task]) -> None:
        """Jobs that the look has locked. Of a group with a limit others may have started some."""
        statement = sql.CLAIM
        values: dict[str, object] = {
            "owner": self._lease.owner,
            "alone": [task.seq for task in tasks if task.alone],
            "claimed": [task.seq for task in tasks],
        }
        if (limit := self._window.group_limit) is not None:
            of_groups = Counter(task.group for task in tasks if task.group)
            values |= {"limit": limit, "groups": list(of_groups), "numbers": [*of_groups.values()]}
            statement += sql.UNLESS_FULL
        self._read = self._session.ask(statement + sql.READ, values)

    def _lock_groups(self) -> list[str]:
        """The groups of which this turn may change who stands in a lane.

        In the order in which their next ones come forward: who was served last comes last.
        """
        came_or_went = (m for m in self._given.moves if QUEUED in (m.source, m.target))
        groups = {task.group for move in came_or_went for task in move.tasks}
        groups |= {task.group for task, _ in self._admission.coming}
        groups |= self._window.groups | self._holders.groups()
        turns = {task.group: number for number, task in enumerate(self._claimed())}
        named = sorted(groups - {""}, key=lambda group: (turns.get(group, -1), group))
        if named:
            with self._session.waiting_at_most(0):  # other turns wait in line for them
                self._session.ask(sql.LOCK_GROUPS, (named,))
        return named

    def _let_next_come_forward(self, groups: list[str]) -> None:
        if groups:
            values = {"groups": groups, **self._memory.may_start()}
            self._session.ask(sql.COME_FORWARD, values)

    # ---- it is durable -----------------------------------------------------------------------

    def land_unseen(self) -> Given:
        """It has come about, and its answers were lost. Its claims were given back."""
        self._given.claims = []
        self._inserted = self._read = ()
        if not self._answered:
            nobody_knows = StorageError(UNKNOWN.format(self._session.address.shown))
            self._given.answers = [nobody_knows for _ in self._offer.orders]
            with contextlib.suppress(psycopg.Error):  # then only the database knows
                self._returned.look_again()
                self._returned.take(self._given.moves)
            self._others, self._curious = 1, True  # for all we know
        self._holders.forget()
        return self._land()

    def _land(self) -> Given:
        """Here, too, things are now as they are there."""
        given, offer, admission, memory = self._given, self._offer, self._admission, self._memory
        if self._beat is not None:
            self._lease.renewed(offer.curious)
        given.accepted, given.taken = admission.accepted, admission.taken
        given.refused, given.busy = admission.refused, admission.busy
        given.instead = admission.instead
        claimed = self._claimed()
        new = {task for task, _ in admission.coming}
        old = [task for task in claimed if task not in new]
        mine = {task for task in claimed if task in new}
        by_id = dict(self._inserted)
        memory.last = max(memory.last, *by_id.values(), 0)
        for task in mine:
            task.seq = by_id[task.id]
        by_seq = {task.seq: task for task in old}
        for seq, job_id, payload, payload_bytes, meta, waited in self._read:
            task = by_seq.pop(seq)
            task.id = job_id
            task.payload = payload_bytes if payload is None else payload
            task.meta = from_pairs(meta)
            task.queued_at = offer.now - waited
            self._room.free(task.priority)
        if by_seq:  # their groups were full by then
            without = [[t for t in batch if t.seq not in by_seq] for batch in given.claims]
            given.claims = [batch for batch in without if batch]
            claimed = self._claimed()
        self._returned.land()
        held_up = self._window.landed(claimed) and bool(claimed)
        for task, status in admission.coming:
            task.status = status
            if status is SCHEDULED and task.due_at is not None:
                memory.due_at = min(memory.due_at, offer.now + max(0.0, task.due_at - offer.wall))
            elif status is QUEUED and task not in mine:
                self._room.take(task.priority)
        for target in (QUEUED, SCHEDULED, WAITING, DROPPED):
            if some := admission.of(target):
                given.moves.append(Move(some, None, target))
        if claimed:
            given.moves.append(Move(claimed, QUEUED, PROCESSING))
        for task in claimed:
            task.status = PROCESSING
            memory.flying[task.seq] = task
        self._holders.land(given)
        # Jobs that wait and were locked, to be replaced or as parents, others have passed over.
        hidden = bool(self._holders.replaced()) or any(t.after for ts in offer.new for t in ts)
        memory.more |= hidden
        self._note(held_up or hidden)
        return given

    def _note(self, held_up: bool) -> None:
        """Who is to hear of it? held_up: by locks, others who have looked meanwhile."""
        queued = any(move.target is QUEUED for move in self._given.moves)
        freed = bool(self._window.freed(self._offer))
        if self._others and (queued or held_up or freed):
            # (The next of a group may be of a kind that does not run here.)
            self._notices.work |= self._memory.more or (freed and self._window.kinds is not None)
        if self._others and self._curious:
            self._notices.happened(self._given.moves)
