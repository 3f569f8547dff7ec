"""Several processes on one ledger in PostgreSQL, driven step by step by whoever holds this world.

Each process is a real ``PostgresLedger`` with a connection of its own to a real server, through a
proxy that cuts connections around a commit. Dispatcher and workers are the test: it says who
exchanges what, whose job ends how, who crashes, whose lease runs out, whose clock is wrong.

What must hold: an acknowledged job is in and comes to its end; no two processes run a job under
leases that stand; of what came of an attempt, each is told once; a trigger has seen each job
complete once. And after each exchange: nothing that is paused has started; no more of a group or
a kind run than may; of one sort the jobs start in order; no child starts before its parents have
ended, and of one key one job is to be run.

But: of two steps that overlap (``overlap``) each stops once; ``make lab-hosts`` lets them run.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg

from final.beyond.control import Pause, holds, pause_from
from final.beyond.kinds import Kind, Policies
from final.beyond.snooze import Again
from final.beyond.unique import Unique
from final.engine.events import Events
from final.job import Outcome, Priority, Task
from final.ledger.base import Cancel, Given, Offer, Order, Retry, SetPaused
from final.ledger.postgres.address import parse
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.migrate import in_schema
from tests.final.helpers import options
from tests.labs.hosts import AUDIT
from tests.labs.model import require
from tests.postgres.proxy import Moment, Proxy, Stop

MAX_RETRIES = 2
CAPACITY = 10
LEASE = 600.0  # seconds: it runs out when the world says so
MOST_ROUNDS = 60  # until all has ended, when nothing fails any more
CUTS: tuple[Moment, ...] = ("before", "in", "half-way", "after")
CAPPED = "capped"  # a kind of which one job runs at a time
KINDS = ("default", CAPPED)
GROUPS = ("big", "small")
ENDED = "ended"  # a key that its job has until it has ended
UNIQUES = (
    Unique(ENDED),
    Unique(ENDED, then="replace", until="ended"),
    Unique("started", until="started"),
    Unique("started", then="replace"),
)
PAUSES = (
    Pause(),
    *(Pause(kind=kind) for kind in KINDS),
    *(Pause(priority=lane) for lane in Priority),
    *(Pause(group=group) for group in GROUPS),
)


class Rules(NamedTuple):
    """What all processes of a world were started with."""

    overflow: str = "block"
    group_limit: int | None = None


class Sort(NamedTuple):
    """What new jobs are."""

    lane: Priority = Priority.MEDIUM
    kind: str = "default"
    group: str = ""
    unique: Unique | None = None
    after: tuple[str, ...] = ()
    if_failed: str = "cancel"


class Process:
    """One of them. skew: seconds that its clocks are ahead.

    hands: jobs that it runs. back: outcomes that are to be written. given_up: tokens
    of claims whose lease has run out. is_elsewhere: on a host where nobody can see that it ends.
    has_run_out: its lease, within the exchange that is under way.
    """

    def __init__(self, world: World, skew: float) -> None:
        self._world = world
        self._skew = skew
        chosen = options(
            workers=2, max_retries=MAX_RETRIES, capacity=CAPACITY, **world.rules._asdict()
        )
        policies = Policies(chosen, {CAPPED: Kind(print, workers=1)})
        self.ledger = PostgresLedger(
            parse(world.address), chosen, policies, None, lambda kind: True, Events().say
        )
        self.hands: list[Task] = []
        self.back: list[Outcome] = []
        self.unstarted: list[Task] = []
        self.given_up: set[int] = set()
        self.is_elsewhere = False
        self.has_run_out = False
        self.ledger.open(self.now, self.now)

    @property
    def now(self) -> float:
        return time.monotonic() + self._skew

    def let_pass(self, seconds: float) -> None:
        self._skew += seconds
        self.ledger._housekeeping._look_back_at -= seconds

    def exchange(
        self, new: Sequence[Task] = (), orders: Sequence[Order] = (), idle: int = 0
    ) -> Given:
        """A turn; what it gives is taken into hand."""
        back, self.back = self.back, []
        unstarted, self.unstarted = self.unstarted, []
        paused, cuts = self._world.paused(), self._world.cuts
        given = self.ledger.exchange(
            Offer(
                self.now,
                self.now,
                [(outcome.task.token, [outcome]) for outcome in back],
                [(task.token, [task]) for task in unstarted],
                orders=orders,
                new=[new] if new else [],
                idle=idle,
            )
        )
        if given.error is not None:
            self.back, self.unstarted = back, unstarted
            require(self._world.cuts > cuts, f"Nothing was cut, and it failed: {given.error}")
            return given
        claimed = [task for batch in given.claims for task in batch]
        with self._world.mutex:
            for task in claimed:
                if self.has_run_out:
                    self.given_up.add(task.token)
                else:
                    self._world.is_claimed(task, self)
            self.hands += claimed
            for move in given.moves:
                for outcome in move.outcomes:
                    self._world.is_told(outcome.task)
            self._world.check(claimed, paused, cut=self._world.cuts > cuts)
        return given


Step = tuple[Process, Callable[[Process], object]]


class _Running(threading.Thread):
    """A step, while another one may go on."""

    def __init__(self, world: World, step: Step, stop: Stop) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._process, self._step = step
        self._stops_at = stop
        self._error: BaseException | None = None
        world.proxy.stops = [stop]
        self.start()
        self.settle()
        world.proxy.stops = []

    def run(self) -> None:
        try:
            self._step(self._process)
        except BaseException as error:
            self._error = error

    def settle(self) -> None:
        """Until it has ended, or has stopped, or waits for a lock."""
        stop, until = self._stops_at, time.monotonic() + 30
        while self.is_alive() and time.monotonic() < until:
            pid = self._process.ledger._session.connection.info.backend_pid
            [waits_for] = self._world._sql(WAITS_FOR, pid) or [("",)]
            is_stopped = stop.reached.is_set() and not stop.go_on.is_set()
            if waits_for == ("Lock",) or (is_stopped and waits_for == ("Client",)):
                return
            self.join(0.001)

    def go_on(self) -> None:
        self._stops_at.go_on.set()

    def end(self) -> None:
        """Raises what it has raised."""
        self.join(60)
        require(not self.is_alive(), "An exchange hangs.")
        if self._error is not None:
            raise self._error


RUN_OUT = """UPDATE jobqueue.owner SET expires_at = '-infinity', witness = NULL
    WHERE id IN (SELECT id FROM jobqueue.owner WHERE id = %s FOR UPDATE SKIP LOCKED) RETURNING id"""
WAITS_FOR = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
RUNNING_OF_GROUPS = """SELECT grp, count(*) FROM jobqueue.job
    WHERE status = 'processing' AND grp IS NOT NULL GROUP BY grp"""
RUNNING_OF_KIND = "SELECT count(*) FROM jobqueue.job WHERE status = 'processing' AND kind = %s"
BEFORE_PARENTS = """SELECT parent FROM jobqueue.dependency JOIN jobqueue.job ON job.id = parent
    WHERE child = %s AND (open OR NOT runs AND job.status <> 'completed')"""
KEYS_TWICE = """SELECT unique_key, count(*) FROM jobqueue.job
    WHERE ended_at IS NULL AND unique_key = %s GROUP BY unique_key HAVING count(*) > 1"""


class World:
    """count: of processes."""

    def __init__(self, dsn: str, count: int = 3, rules: Rules = Rules()) -> None:
        self.rules = rules
        self._queue = f"sim{uuid.uuid4().hex[:16]}"
        self.proxy = Proxy(dsn)
        self.address = f"{self.proxy.dsn}&lease={LEASE}&queue={self._queue}"
        self.processes = [Process(self, skew) for skew in (0.0, 3_600.0, -900.0)[:count]]
        self._books = psycopg.connect(dsn, autocommit=True)
        self._sql(AUDIT)
        self.acknowledged: list[str] = []
        self._in_line: dict[str, Sort] = {}  # those that have kept the place they came in with
        self._told: Counter[tuple[str, int]] = Counter()
        self._numbers = 0
        self._overlaps = False  # two exchanges, now
        self.mutex = threading.RLock()  # what is written down above, and whose hands hold what

    def close(self) -> None:
        for process in self.processes:
            process.ledger.close()
        self._sql("DROP SCHEMA jobqueue_ CASCADE".replace("jobqueue_", f"jobqueue_{self._queue}"))
        self._books.close()
        self.proxy.__exit__()

    def _sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        text = in_schema(statement, f"jobqueue_{self._queue}")
        cursor = self._books.execute(text, values or None)
        return cursor.fetchall() if cursor.description else []

    # ---- what may happen ---------------------------------------------------------------------

    def bring(self, process: Process, count: int, sort: Sort = Sort()) -> None:
        """New jobs come in there, as far as there is room."""
        new = []
        for _ in range(count):
            with self.mutex:
                self._numbers += 1
                job_id = f"job-{self._numbers}"
            task = Task(job_id, "null", sort.lane, sort.kind, size=4, group=sort.group)
            task.unique, task.after, task.if_failed = sort.unique, sort.after, sort.if_failed
            new.append(task)
            if sort.unique is None and not sort.after and not self._overlaps:
                self._in_line[job_id] = sort
        given = process.exchange(new)
        if given.error is None:
            require(not given.taken, f"{given.taken} are new, and said to be there already.")
            require(not given.refused, f"{given.refused}: it is there, and said not to be.")
            instead = given.instead.get(0, {})
            came = enumerate(new[: given.accepted[0]])
            self.acknowledged += [instead.get(number, task.id) for number, task in came]

    def look(self, process: Process, idle: int = 2) -> None:
        """It has so many idle workers."""
        process.exchange(idle=idle)

    def end(self, process: Process, error: str | None = None) -> None:
        """Its first job ends; that is written with its next exchange."""
        if process.hands:
            task = process.hands.pop(0)
            outcome = Outcome(task, 0.001, error=error)
            if error is not None and task.attempts <= MAX_RETRIES:
                outcome.delay = 0.0
            process.back.append(outcome)

    def snooze(self, process: Process) -> None:
        """Its first job is to run again at once."""
        if process.hands:
            process.back.append(Outcome(process.hands.pop(0), 0.001, again=Again(0.0, False)))

    def give_back(self, process: Process) -> None:
        """Its last job has not started."""
        if process.hands:
            process.unstarted.append(process.hands.pop())

    def cancel(self, process: Process, which: int) -> None:
        if self.acknowledged:
            job_id = self.acknowledged[which % len(self.acknowledged)]
            process.exchange(orders=[Cancel(job_id)])

    def retry(self, process: Process) -> None:
        """The oldest dead letter."""
        for (job_id,) in self._sql("SELECT id FROM jobqueue.job WHERE dead ORDER BY seq LIMIT 1"):
            self._in_line.pop(job_id, None)
            process.exchange(orders=[Retry(job_id)])

    def pause(self, process: Process, pause: Pause, paused: bool = True) -> None:
        process.exchange(orders=[SetPaused(pause, paused)])

    def cut(self, moment: Moment) -> None:
        """The connection of whoever commits next."""
        self.proxy.cuts = [moment]

    def let_pass(self, seconds: float) -> None:
        for process in self.processes:
            process.let_pass(seconds)

    def lease_runs_out(self, process: Process) -> None:
        """It was stopped, or cut off, for too long; it does not know."""
        owner = process.ledger._lease.owner
        if not self._sql(RUN_OUT, owner):
            return  # it has just renewed it
        process.let_pass(LEASE)
        process.is_elsewhere = True
        process.given_up |= {task.token for task in process.hands}
        process.has_run_out = self._overlaps

    def crash(self, process: Process, on_this_host: bool) -> None:
        """It ends like after kill -9, and another one is started. Elsewhere, the lease tells."""
        ledger = process.ledger
        if on_this_host and not process.is_elsewhere:
            ledger._lease._witness._lock.release()  # the system lets go of it, and leaves the file
        else:
            self.lease_runs_out(process)
            ledger._lease.close()
        ledger._session.close()
        ledger.look_ups.close()
        self.proxy.cuts = []  # whoever cannot open it is no process
        self.processes[self.processes.index(process)] = Process(self, process._skew)

    # ---- at once -----------------------------------------------------------------------------

    def overlap(self, one: Step, other: Step, stops: tuple[Stop, Stop]) -> None:
        """Two steps of two processes. Each stops somewhere: the first until the other one has come
        so far, or waits for it; the other until the first has ended, or waits.
        """
        self._overlaps = True
        first, second = _Running(self, one, stops[0]), _Running(self, other, stops[1])
        for running in (first, second):
            running.go_on()
            first.settle()
        first.end()
        second.end()
        self._overlaps = False
        for process in self.processes:
            process.has_run_out = False
        self.check((), self.paused(), cut=True)

    # ---- what must hold ----------------------------------------------------------------------

    def is_claimed(self, task: Task, by: Process) -> None:
        for other in self.processes:
            tokens = {each.token for each in other.hands if each.id == task.id}
            require(
                other is by or tokens <= other.given_up,
                f"{task.id} was claimed by two processes whose leases stand.",
            )
        require(task.attempts <= MAX_RETRIES + 1, f"{task.id} starts {task.attempts} times.")

    def is_told(self, task: Task) -> None:
        self._told[task.id, task.token] += 1
        times = self._told[task.id, task.token]
        require(times == 1, f"What came of attempt {task.token} of {task.id} is told {times} x.")
        require(task.attempts >= 0, f"{task.id} is told with {task.attempts} attempts.")

    @property
    def cuts(self) -> int:
        """How many connections were cut so far."""
        return len(self.proxy.done)

    def paused(self) -> frozenset[Pause]:
        return frozenset(map(pause_from, self._sql("SELECT sort, name FROM jobqueue.pause")))

    def check(self, claimed: Sequence[Task], paused: frozenset[Pause], cut: bool) -> None:
        """After an exchange that has claimed these. paused: what was before. cut: its connection
        was.
        """
        if self._overlaps:
            paused &= self.paused()
        for task in claimed:
            require(not holds(paused, task), f"{task.id} starts, and {paused} is paused.")
            sort = self._in_line.pop(task.id, None)
            if sort is not None and not (cut or self._overlaps):  # or others hold jobs meanwhile
                self._came_in_order(task, sort)
            children = self._sql(BEFORE_PARENTS, task.seq)
            require(not children, f"{task.id} starts, and its parents have not: {children}.")
        most = self.rules.group_limit
        for name, count in self._sql(RUNNING_OF_GROUPS) if most is not None else []:
            require(count <= (most or 0), f"{count} of group {name} run; {most} may.")
        for (count,) in self._sql(RUNNING_OF_KIND, CAPPED):
            require(count <= 1, f"{count} of a kind run of which one may.")
        twice = self._sql(KEYS_TWICE, ENDED)
        require(not twice, f"several jobs have a key that one has until it ends: {twice}.")

    def _came_in_order(self, task: Task, sort: Sort) -> None:
        number = int(task.id.removeprefix("job-"))
        before = [
            job_id
            for job_id, other in self._in_line.items()
            if other == sort and int(job_id.removeprefix("job-")) < number
        ]
        passed = self._sql(
            "SELECT id FROM jobqueue.job WHERE id = ANY (%s) AND status = 'queued'", before
        )
        require(not passed, f"{task.id} starts before {passed} of its sort.")

    def come_to_the_end(self) -> None:
        """Nothing fails any more: everything ends, and the books agree."""
        self.proxy.cuts = []
        for pause in self.paused():
            self.pause(self.processes[0], pause, False)
        left = [(0,)]
        for _ in range(MOST_ROUNDS):
            for process in self.processes:
                while process.hands:
                    self.end(process)
                process.exchange(idle=2)
            self.let_pass(1.0)
            left = self._sql("SELECT count(*) FROM jobqueue.job WHERE ended_at IS NULL")
            idle = not any(process.hands or process.back for process in self.processes)
            if left == [(0,)] and idle:
                break
        require(left == [(0,)], f"{left[0][0]} jobs never end.")
        there = {job_id for (job_id,) in self._sql("SELECT id FROM jobqueue.job")}
        lost = set(self.acknowledged) - there
        require(not lost, f"{sorted(lost)} were acknowledged and are lost.")
        twice = self._sql("SELECT id FROM jobqueue.audit GROUP BY id HAVING count(*) > 1")
        require(not twice, f"{len(twice)} jobs completed twice.")
