"""One exchange with a database that many processes share (``turn.py``), until it has come about.

What makes it right with any process killed, stopped or cut off at any moment:

- **The lease** (``lease.py``): who is silent for too long loses its jobs to others.
- **The fence** (``returned.py``): an outcome counts only where the token of its claim stands.
- **A commit in doubt** (``doubt.py``) is looked for by what it would have written.
- **The poll** (``housekeeping.py``) finds what no notification told.

But: what a turn asks the database is in ``turn.py`` and its parts. Here it is asked only what
``join`` and ``close`` have to know: whether anything is left to run.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import errors

from final.beyond.control import WHOLE_QUEUE, Pause
from final.beyond.kinds import Policies
from final.errors import StorageError
from final.job import JobRecord, Priority, Status, Task
from final.ledger.base import Given, Offer, SharedFigures, Told
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import Address
from final.ledger.postgres.dependencies import PostgresDependencies
from final.ledger.postgres.doubt import UNKNOWN, Doubt
from final.ledger.postgres.housekeeping import Housekeeping
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.listener import Listener
from final.ledger.postgres.lookups import OwnLookups, PostgresLookups
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.migrate import migrate
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.returned import portions
from final.ledger.postgres.room import Room
from final.ledger.postgres.session import Session, explained
from final.ledger.postgres.ticks import Ticks
from final.ledger.postgres.turn import InDoubt, ThisProcess, Turn
from final.ledger.postgres.window import Window
from final.ledger.postgres.within import enqueue_within
from final.options import Options

PATIENCE = 3.0  # seconds to reconnect in, before those who ask are told
LARGEST = 2**62  # of a capacity: as good as none, and a number that the database can add to
LIVE = [status for status in Status if not status.ended]
# What another try may get past: others were in the way.
PASSING = (
    errors.UniqueViolation,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,  # as by a process that is stopped half-way: it has its locks for longer
)
TRIED_TWICE = (errors.LockNotAvailable, errors.QueryCanceled)  # both have waited


class PostgresLedger:
    """See ``Ledger``.

    kinds: those that run here; None for all. shares: see ``picking.py``. say: as ``Events.say``.
    """

    lasting = shared = True

    def __init__(
        self,
        address: Address,
        options: Options,
        policies: Policies,
        kinds: Collection[str] | None,
        shares: Callable[[str], bool],
        say: Callable[..., None],
    ) -> None:
        options = replace(options, capacity=min(options.capacity, LARGEST))
        self.capacity = options.capacity
        self.caps: Mapping[str, int] = policies.caps
        self.group_limit = options.group_limit
        self._address = address
        self._options = options
        self._listener: Listener | None = None
        self.look_ups = PostgresLookups(address)
        self._watching = PostgresLookups(address)  # figures are in the way of nobody
        self._memory = memory = Memory(say)
        with contextlib.ExitStack() as undo:
            try:
                self._session = session = Session(address)
                undo.callback(session.close)
                session.persist(lambda: migrate(session.connection, address))
                self._notices = notices = Notices(session)
                self._lease = session.persist(
                    lambda: Lease(session, options, policies, memory, notices)
                )
            except psycopg.Error as error:
                raise explained(address, error) from error
            undo.pop_all()
        self._own = OwnLookups(session, self._lease.reconnect)
        self._window = Window(session, options, policies, memory, kinds, shares, self._lease.table)
        self._room = Room(session, options, memory)
        self._doubt = Doubt(session, self._lease, memory)
        self._dependencies = PostgresDependencies(session, memory, self._lease.table)
        self._ticks = Ticks(session, memory, self._lease.table)
        self._housekeeping = Housekeeping(
            session, self._lease, memory, self._dependencies, notices, options.history
        )
        self._broken = False  # the latest exchange has failed

    # ---- the first and the last thing ------------------------------------------------------

    def open(self, now: float, wall: float) -> Given:
        self._memory.now, self._memory.wall = now, wall
        try:
            self._session.persist(self._lease.register)
            self._session.persist(self._housekeeping.poll)
        except psycopg.Error as error:
            raise explained(self._address, error) from error
        return self._summary(self._with_what_was_done(Given()))

    def get(self, job_id: str) -> JobRecord | None:
        return self._own.get(job_id)

    def listen(self, tell: Callable[[Told], object]) -> None:
        def hear(told: Told) -> None:
            self._memory.was_told = True
            self._housekeeping.was_told_to_stop |= told.stop
            tell(told)

        self._listener = Listener(
            self._address,
            self._session,
            (self.look_ups, self._watching),
            self._notices,
            self._address.lease / 3,
            hear,
        )

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(psycopg.Error):
            if not self._session.is_lost:
                self._notices.send_at_once()
                self._lease.leave()
        self._session.close()
        self.look_ups.close()
        self._watching.close()
        self._lease.close()

    # ---- an exchange -------------------------------------------------------------------------

    def exchange(self, offer: Offer) -> Given:
        self._memory.now, self._memory.wall = offer.now, offer.wall
        self._memory.begin()
        try:
            given = self._whole_or_in_parts(self._after_large_results(offer))
            self._broken = False
        except StorageError as error:
            self._could_not_write()
            return self._summary(Given(error=str(error)), offer.closing)
        is_busy, goes_on, is_left = 1, 1, bool(self._memory.aside)
        with contextlib.suppress(psycopg.Error):  # it is durable; this need not be
            self._notices.work |= self._dependencies.release(given.moves)
            if not offer.closing:
                given.moves += self._ticks.make_jobs()
            if offer.count:
                values = self._window.paused() | {"aside": list(self._memory.aside)}
                (is_busy,) = self._session.one(sql.BUSY, values)
                if values["aside"]:
                    (is_left,) = self._session.one(sql.ANY_LEFT, (values["aside"],))
                if self._memory.paused:
                    values["owner"] = self._lease.owner
                    (goes_on,) = self._session.one(sql.GOES_ON, values)
            self._notices.send()
        given = self._summary(self._with_what_was_done(given), offer.closing)
        if offer.count:
            given.live = {**given.live, Status.QUEUED: int(is_busy)}
            given.stalled = not goes_on
            given.left = is_left
        return given

    def _after_large_results(self, offer: Offer) -> Offer:
        """What is left for the turn; before it is written what would make it too long.

        Should a later part fail, these are offered once more, and are behind the fence then.
        """
        memory, began = self._memory, time.monotonic()
        *before, last = portions(offer.outcomes)
        for outcomes in before:
            memory.moves += self._turn(Offer(memory.now, memory.wall, outcomes=outcomes)).moves
            passed = time.monotonic() - began
            memory.now, memory.wall = offer.now + passed, offer.wall + passed
        return replace(offer, now=memory.now, wall=memory.wall, outcomes=last) if before else offer

    def _whole_or_in_parts(self, offer: Offer) -> Given:
        """Who wants a job that a caller's transaction has is refused, and holds up nobody else."""
        try:
            return self._turn(offer)
        except StorageError as error:
            if not isinstance(error.__cause__, errors.LockNotAvailable):
                raise
            held_up = error
        given = self._turn(replace(offer, orders=(), new=()))
        nothing = Offer(offer.now, offer.wall, curious=offer.curious)
        until = time.monotonic() + self._address.lease / 4
        for order in offer.orders:
            is_time = time.monotonic() < until
            part = replace(nothing, orders=[order])
            given.add(self._part(part) if is_time else Given(answers=[held_up]))
        for tasks in offer.new:  # whom this does not reach, the next exchange offers once more
            is_time = time.monotonic() < until
            given.add(self._part(replace(nothing, new=[tasks])) if is_time else Given(accepted=[0]))
        return given

    def _part(self, offer: Offer) -> Given:
        """One order, or what one producer brings: if it fails, this is refused and nothing else."""
        try:
            return self._turn(offer, again=True)
        except StorageError as error:
            self._could_not_write()
            if offer.orders:
                return Given(answers=[error])
            return Given(accepted=[0], refused={0: error})

    def _could_not_write(self) -> None:
        """No later turn waits until the database is back; and what runs here stays here."""
        self._broken = True
        with contextlib.suppress(psycopg.Error):
            if not self._session.is_lost:
                self._lease.renew()

    def _turn(self, offer: Offer, again: bool = False) -> Given:
        """Tries until it has come about. Raises StorageError when nothing was written.

        again: it has failed before.
        """
        process = ThisProcess(
            self._session,
            self._options,
            self._memory,
            self._lease,
            self._window,
            self._room,
            self._notices,
            self._doubt,
            self._dependencies,
        )
        until, ran_out = time.monotonic() + PATIENCE, False
        for attempt in itertools.count(2 if again else 1):
            try:
                self._doubt.settle()
                if ran_out:
                    self._lease.start_over()
                    ran_out = False
                self._housekeeping.look_around()
                return Turn(process, offer, again=attempt > 1).run()
            except errors.DivisionByZero:  # our lease ran out
                ran_out = self._session.roll_back()  # else the next try finds it out once more
            except InDoubt as doubt:
                has_come_about = self._doubt.find_out(until)
                if has_come_about is None:
                    raise StorageError(UNKNOWN.format(self._address.shown)) from doubt
                if has_come_about:
                    return doubt.turn.land_unseen()
                if time.monotonic() > until:  # it is cut off each time
                    raise explained(self._address, doubt.cause) from doubt
            except psycopg.Error as error:
                is_certain = self._session.roll_back()
                tries = 2 if isinstance(error, TRIED_TWICE) else 5
                if is_certain and isinstance(error, PASSING) and attempt < tries:
                    continue
                if is_certain or self._broken or time.monotonic() > until:
                    raise explained(self._address, error) from error
                time.sleep(min(0.02 * 2**attempt, 0.5))
        raise AssertionError("it comes about, or not")

    def _with_what_was_done(self, given: Given) -> Given:
        """Beside the turn."""
        memory = self._memory
        given.moves, memory.moves = memory.moves + given.moves, []
        given.stop, memory.stop = given.stop + memory.stop, []
        return given

    def _summary(self, given: Given, closing: bool = False) -> Given:
        memory = self._memory
        given.ready = int(memory.more and self._window.is_open)
        given.next_start = math.inf if WHOLE_QUEUE in memory.paused else self._window.start_at
        given.paused = memory.paused
        given.helped = memory.helped
        given.releasing = self._dependencies.releasing
        given.live = dict.fromkeys(LIVE, 0)
        blocks = self._options.overflow in ("block", "reject")
        given.room = dict(self._room.left) if blocks else dict.fromkeys(Priority, math.inf)
        given.not_before = memory.not_before
        given.next_due = min(
            self._lease.beat_at,
            memory.not_before or math.inf,
            memory.due_at,
            math.inf if closing else memory.tick_at,
            self._housekeeping.poll_at,
            self._notices.send_at,
            memory.now if given.releasing else math.inf,
        )
        return given

    @property
    def workers(self) -> int | None:
        """Each process has its own."""
        return None

    def paused(self) -> frozenset[Pause]:
        return self.look_ups.paused()

    # ---- looking -----------------------------------------------------------------------------

    def ages(self, now: float) -> dict[Priority, float]:
        return self._watching.ages()

    def counts(self) -> Mapping[tuple[Priority, Status], int]:
        return self._watching.counts()

    def shared_figures(self) -> SharedFigures:
        memory, tables = self._memory, self._watching.tables()
        return SharedFigures(
            self._watching.processes(self._lease.owner),
            *self._watching.oldest_view(),
            {name: dead for name, dead, _ in tables},
            {name: size for name, _, size in tables},
            memory.leases_expired,
            memory.fenced,
            memory.found_untold,
        )

    def enqueue_within(self, connection: object, tasks: Sequence[Task], wall: float) -> list[str]:
        place = (self._address, self._options, self._lease.table)
        return enqueue_within(connection, place, tasks, wall)

    def ended_of(self, job_ids: Sequence[str]) -> Sequence[str]:
        return self._own.ended_of(job_ids)

    def known(self, job_ids: Collection[str]) -> set[str]:
        return self.look_ups.known(job_ids)

    def parents(self, job_id: str) -> dict[str, Any]:
        return self.look_ups.parents(job_id)
