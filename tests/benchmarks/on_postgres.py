"""What is measured of queues that several processes share: a method for each table.

A round is one in a fresh database (``several.py``); the contenders take turns. CPU and WAL a job
are far steadier than rates, so the goals that count are theirs.

But: server, producers and workers share the cores of one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psycopg

from tests.benchmarks import measure, several
from tests.benchmarks.measure import BATCH, Size
from tests.benchmarks.measures import note
from tests.benchmarks.postgres_queues import Final, SharedQueue, shared_queues
from tests.benchmarks.report import (
    Findings,
    Goal,
    Table,
    at_least,
    at_most,
    micros,
    ms,
    rate,
    times,
)
from tests.benchmarks.several import Crew, Database, Round, median

Results = dict[str, Round | str]  # or why there is none
COSTS = {"server": "the server's CPU", "wal": "WAL"}
COLUMNS = ["final is", "as fast as", "jobs/s", "server CPU", "clients' CPU", "WAL"]


class Setting(NamedTuple):
    """processes, batch and producers: of a round. share: of its jobs."""

    processes: int
    batch: int = BATCH
    producers: int = 1
    share: float = 1.0


class PostgresMeasures:
    """A method for each; its docstring is the note in the report."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.few = max(1, size.rounds - 2)
        self.counts: Sequence[int] = (1, 2, 4)  # processes

    def processes(self) -> Findings:
        """No-op jobs from 1, 2 and 4 processes, each with a producer (batches of 500) and four
        workers. The floor is final's ledger in a loop: one process, no threads, no messages.
        """
        found = Findings([])
        with several.server() as fresh:
            for count in self.counts:
                results = self._compare(fresh, Setting(count))
                title = f"On PostgreSQL in bulk, {_count(count, 'process')}"
                found.tables.append(_table(title, note(self.processes), results))
                least = 1.0 if count == 4 else 0.8
                found.goals += [
                    _ratio_goal(title, results, "final's ledger alone", least),
                    _ratio_goal(title, results, "pgqueuer", 1.5),
                    _ratio_goal(title, results, "procrastinate", 10),
                    _cost_goal(title, results, "pgqueuer", "server", 0.5),
                    _cost_goal(title, results, "pgqueuer", "wal", 0.5),
                ]
        return found

    def producers(self) -> Findings:
        """One job per call, each durable before its call returns; one process."""
        found = Findings([])
        with several.server() as fresh:
            for count, least in ((1, 1.0), (8, 2.5), (64, 4.0)):
                setting = Setting(1, batch=1, producers=count, share=0.2)
                results = self._compare(fresh, setting, floor=False)
                title = f"On PostgreSQL, one job per enqueue, {_count(count, 'producer')}"
                found.tables.append(_table(title, note(self.producers), results))
                found.goals.append(_ratio_goal(title, results, "pgqueuer", least))
        return found

    def elsewhere(self) -> Findings:
        """1,000 jobs a second, one by one, by the clock: from when a job is due until it runs, in
        the process that brings it, and in another one.
        """
        jobs = max(20, int(4_000 * self.size.seconds))
        rows, goals = [], []
        with several.server() as fresh:
            for where, count in (("the same process", 1), ("another process", 2)):
                with _crew(Final(), fresh, count, producer_only=count > 1) as (_, crew):
                    crew.run(20)
                    crew.forget()
                    reached = crew.run(jobs, pace=1_000).rate
                    p50, p99 = crew.delays()
                rows.append([times(reached / 1_000), where, ms(p50), ms(p99)])
                if count > 1:
                    what = "PostgreSQL, 1,000 jobs/s, p99 to another process"
                    goals.append(Goal(what, "<= 25 ms", ms(p99), p99 <= 0.025))
        columns = ["reached", "the handler runs in", "p50", "p99"]
        title = "On PostgreSQL, enqueue to start"
        return Findings([Table(title, note(self.elsewhere), columns, rows)], goals)

    def rows(self) -> Findings:
        """The bulk workload of one process in an empty table, and on top of finished jobs; and what
        the rounds have left behind there.
        """
        rows: list[list[str]] = []
        rates: list[float] = []
        with several.server() as fresh:
            for finished in (0, self.size.history):
                with _crew(Final(), fresh, 1) as (database, crew):
                    if finished:
                        database.ask(FINISHED.format(finished))
                        database.ask("VACUUM ANALYZE jobqueue.job")
                    each = median([crew.run(self.size.shared) for _ in range(1 + self.few)][1:])
                    dead, size = database.ask(LEFT)
                rates.append(each.rate)
                ratio = times(each.rate / rates[0])
                cost = [rate(each.rate), micros(each.server), f"{each.wal:,.0f} B"]
                left = [f"{dead:,}", f"{size / 2**20:,.0f} MiB"]
                rows.append([ratio, f"{finished:,}", *cost, *left])
        columns = ["to empty", "finished", "jobs/s", "server CPU", "WAL", "dead rows", "size"]
        title = "On PostgreSQL, on finished jobs"
        return Findings([Table(title, note(self.rows), columns, rows)])

    def held(self) -> Findings:
        """The bulk workload of one process while somebody holds a transaction open, in five rounds,
        one after the other: no vacuum may remove what they leave behind.
        """
        rows: list[list[str]] = []
        goals = []
        with several.server() as fresh, _crew(Final(), fresh, 1) as (database, crew):
            with psycopg.connect(database.dsn) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT 1")
                rounds = [crew.run(2 * self.size.shared) for _ in range(5)]
            first = rounds[0].server or 1e-9
            for number, each in enumerate(rounds, start=1):
                ratio = times(each.server / first)
                jobs = f"{2 * number * self.size.shared:,}"
                rows.append([ratio, jobs, rate(each.rate), micros(each.server)])
            growth = rounds[-1].server / first
            what = f"PostgreSQL, a held transaction, server CPU a job after {rows[-1][1]} jobs"
            goals.append(Goal(what, "< 2 x", times(growth), growth < 2))
        columns = ["CPU to the first", "jobs so far", "jobs/s", "server CPU"]
        title = "On PostgreSQL, a transaction held open"
        return Findings([Table(title, note(self.held), columns, rows)], goals)

    def _compare(
        self, fresh: Callable[[], Database], setting: Setting, floor: bool = True
    ) -> Results:
        """By turns; for one that cannot take part, why."""
        results: dict[str, str] = {}
        rounds: dict[str, list[Round]] = {}
        for _ in range(self.few):
            for contender in shared_queues():
                if contender.alone and not floor:
                    continue
                name = contender.name
                results.setdefault(name, contender.missing())
                if not results[name]:
                    try:
                        rounds.setdefault(name, []).append(self._round(fresh, contender, setting))
                    except Exception as error:  # a peer may raise anything, and the others go on
                        results[name] = f"{type(error).__name__}: {error}"
        return {name: why or median(rounds[name]) for name, why in results.items()}

    def _round(
        self, fresh: Callable[[], Database], contender: SharedQueue, setting: Setting
    ) -> Round:
        processes, batch, producers, share = setting
        jobs = max(2 * producers, int(self.size.shared * share * contender.share))
        measure.announce(f"{contender.name}: {jobs:,} jobs, {_count(processes, 'process')}")
        with _crew(contender, fresh, 1 if contender.alone else processes) as (_, crew):
            crew.run(max(producers, jobs // 10), batch, producers)  # it warms up
            return crew.run(jobs, batch, producers)


FINISHED = """INSERT INTO jobqueue.job (id, kind, lane, status, attempts, place, size, ended_at)
    SELECT 'old-' || n, 'default', n % 3, 'completed', 1, n, 2, now()
    FROM generate_series(1, {}) AS n"""
LEFT = """SELECT n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables
    WHERE relid = 'jobqueue.job'::regclass"""


@contextmanager
def _crew(
    contender: SharedQueue,
    fresh: Callable[[], Database],
    processes: int,
    producer_only: bool = False,
) -> Iterator[tuple[Database, Crew]]:
    with fresh() as database:
        contender.prepare(database.dsn)
        with Crew(contender, database, processes, producer_only=producer_only) as crew:
            yield database, crew


def _table(title: str, about: str, results: Results) -> Table:
    rows = []
    ours = results["final"]
    for name, each in results.items():
        if isinstance(each, str) or isinstance(ours, str):
            rows.append(["", name, str(each), "", "", ""])
            continue
        cost = [micros(each.server), micros(each.clients), f"{each.wal:,.0f} B"]
        rows.append([times(ours.rate / each.rate), name, rate(each.rate), *cost])
    return Table(title, about, COLUMNS, rows)


def _ratio_goal(what: str, results: Results, other: str, least: float) -> Goal:
    """The goal that final is at least so many times as fast."""
    ours, theirs = results["final"], results[other]
    if isinstance(ours, str) or isinstance(theirs, str):
        return Goal(f"{what}, against {other}", f">= {least:g} x", "not measured", None)
    return at_least(f"{what}, against {other}", ours.rate / theirs.rate, least)


def _cost_goal(what: str, results: Results, other: str, column: str, most: float) -> Goal:
    """The goal that a job takes at most this share of the server's CPU, or WAL."""
    about = f"{what}, {COSTS[column]} a job, of {other}'s"
    ours, theirs = results["final"], results[other]
    if isinstance(ours, str) or isinstance(theirs, str):
        return Goal(about, f"<= {most:.0%}", "not measured", None)
    # (A round of a few jobs may take no time that a clock of CPU would show.)
    return at_most(about, getattr(ours, column) / (getattr(theirs, column) or 1e-9), most)


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}{'es' if what[-1] == 's' else 's'}"
