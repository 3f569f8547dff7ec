"""Crash lab: kill the process at every step, again and again, and count what is missing.

Promised by ``final``: an accepted job is not lost, a completion that was announced stays
announced, and a job runs at least once. A job that kills its process is a dead letter after
its attempts; one that never began is none. And the file is whole, whatever happens.

How it is shown: a real child process opens a queue, enqueues, runs and completes, and is
killed (SIGKILL; on Windows TerminateProcess) at any moment, or exactly at a labelled step.
What it acknowledged it has put into a pipe before, which outlives it. Then a copy of the file
is looked into, and the next child goes on with the original, to be killed in its turn;
after some kills one is let live, to finish what is left. Then the books are balanced.

What there is to see: ``naive`` and ``improved`` keep their jobs in memory, so a kill loses
jobs and no job runs twice: at most once. ``final`` loses none, and runs again what was in
flight: at least once. There is no third way, other than handlers that may run twice.

What a planted fault does: FAULT=early-acknowledgement and removed-journal lose jobs,
completed-before-run has jobs completed that never ran, forgotten-outcome runs jobs again that were
completed, uncharged-claim lets a job kill its process for ever, charged-in-company makes dead
letters of jobs that were claimed with it. The lab names each.

    python -m tests.labs.crash              60 kills of final, and some of the others
    KILLS=5000 python -m tests.labs.crash   on demand

But: a kill is no power cut. The system lives on and writes what it was given: see power.py.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from tests.labs import choices, output
from tests.labs.crash_child import (
    ANY_MOMENT,
    AT_CLOSE,
    BY_THE_JOB,
    FAULTS,
    IN_RECOVERY,
    STEPS,
    Life,
    live,
)
from tests.labs.output import Check

MAX_RETRIES = 3  # of a job that kills its process
ATTEMPTS = MAX_RETRIES + 1
# One life more: a start in company is charged to nobody.
KILLERS_LIVES = ATTEMPTS + 1

# How often a life comes to its step before it ends there, at most: some have few occasions.
OCCASIONS = {AT_CLOSE: 2, IN_RECOVERY: 3}
MANY_OCCASIONS = 8

AT_ONCE = 2 * (os.cpu_count() or 1)  # children: they wait for each other more than they compute
LIVES = 10  # that end on one file, before one is let live
LONGEST_SECONDS = 0.05  # until a kill "at any moment"
PATIENCE_SECONDS = 30.0  # with a child that says nothing

LOST = "acknowledged but lost"
UNDONE = "completion announced but lost"
NEVER_RAN = "completed but never ran"
RERUN = "run again after an announced completion"
DAMAGED = "database damaged"
ENDLESS = "job that kills its process for ever"
INNOCENT = "innocent job among the dead letters"
NEVER_BEGAN = "dead letter that never began"


@dataclass
class Tally:
    """What the kills at one step came to.

    lost: accepted jobs that never completed. twice: runs beyond a job's first.
    recovered: jobs that were unfinished when their process was killed, and completed later.
    killers, dead_letters: jobs that kill their process, and those that ended as they should.
    looks: how often the file was looked into. broken: promises that were, and how often.
    """

    kills: int = 0
    accepted: int = 0
    completed: int = 0
    lost: int = 0
    twice: int = 0
    recovered: int = 0
    killers: int = 0
    dead_letters: int = 0
    looks: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.kills += other.kills
        self.accepted += other.accepted
        self.completed += other.completed
        self.lost += other.lost
        self.twice += other.twice
        self.recovered += other.recovered
        self.killers += other.killers
        self.dead_letters += other.dead_letters
        self.looks += other.looks
        self.broken += other.broken


Tallies = dict[tuple[str, str], Tally]  # by stage and step


def main() -> None:
    held = run(choices.whole_number("KILLS", 60), choices.fault(FAULTS), output.console())
    sys.exit(not held)


def run(kills: int, fault: str, console: Console, seed: int = 1) -> bool:
    """Kill ``final`` so often, and the others a few times; whether all promises were kept."""
    began = time.monotonic()
    tallies: Tallies = {(stage, step): Tally() for stage in STEPS for step in STEPS[stage]}
    with output.scratch() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        campaigns: dict[Future[Tally], tuple[str, str, int]] = {}
        for stage, step, lives in _shares(kills):
            number = len(campaigns)
            path = str(folder / f"{number}.db")
            life = Life(stage, path, "", step, fault=fault if stage == "final" else "")
            if stage == "final" and step != BY_THE_JOB and number % 2:
                life = replace(life, max_retries=0, quick=True)
            part = pool.submit(campaign, life, lives, random.Random(f"{seed} {number}"))
            campaigns[part] = stage, step, lives
        total = sum(lives for _, _, lives in campaigns.values())
        with output.progress(console, "Processes to kill", total) as advance:
            for part in as_completed(campaigns):
                stage, step, lives = campaigns[part]
                tallies[stage, step].add(part.result())
                advance(lives)
    show(console, tallies, fault)
    checks = verdict(tallies)
    output.show_checks(console, output.NEVER, checks)
    done = sum(tally.kills for tally in tallies.values())
    seconds = time.monotonic() - began
    console.print(f"  {done:,} kills in {seconds:.0f} s, {done / seconds * 60:,.0f} a minute.")
    return all(check.held for check in checks)


def _shares(kills: int) -> Iterator[tuple[str, str, int]]:
    """Campaigns: (stage, step, kills). ``final`` gets all its kills, the others a tenth each."""
    for stage, steps in STEPS.items():
        wanted = kills if stage == "final" else kills // 10
        for n, step in enumerate(steps):
            left = max(1, (wanted + n) // len(steps))  # adds up to what is wanted
            while left > 0:
                lives = KILLERS_LIVES if step == BY_THE_JOB else min(left, LIVES)
                yield stage, step, lives
                left -= lives


# ---- one file and the processes that die over it -----------------------------------------------


def campaign(life: Life, kills: int, chance: random.Random) -> Tally:
    """Let ``kills`` processes die at one step, one after the other, over the same file."""
    if life.step == BY_THE_JOB:
        life = replace(life, max_retries=MAX_RETRIES)
    books = Books(life)
    for n in range(kills):
        if life.step == IN_RECOVERY:  # first there must be something to recover; not counted
            books.enter(lead(replace(life, name=f"{n}-before", step=ANY_MOMENT), chance))
        end = lead(_doomed(life, n, chance), chance)
        books.enter(end)
        if not end.killed:
            assert life.step == BY_THE_JOB, f"The child never came to the step {life.step!r}."
            break
        books.tally.kills += 1
    if life.stage == "final":
        # Now nobody is killed, unless by a job that should have ended by now.
        step = BY_THE_JOB if life.step == BY_THE_JOB else ""
        end = lead(replace(life, name="last", step=step, jobs=1, closes=True), chance)
        books.enter(end)
        if end.killed:
            books.tally.broken[ENDLESS] += 1
    return books.balance()


def _doomed(life: Life, n: int, chance: random.Random) -> Life:
    """The nth life over this file."""
    if life.step == BY_THE_JOB:
        if life.stage == "final" and n > 0:  # the job of the first life is still there
            return replace(life, name=str(n), jobs=0, closes=True)
        return replace(life, name=str(n), jobs=20, killer=True)
    occasion = chance.randint(1, OCCASIONS.get(life.step, MANY_OCCASIONS))
    return replace(life, name=str(n), nth=occasion)


class End(NamedTuple):
    """What a child said until it was killed, or ended by itself."""

    said: list[tuple[str, str]]
    killed: bool


def lead(life: Life, chance: random.Random) -> End:
    """Start a child, listen to it, kill it at its step or moment, and hear its last words."""
    context = _processes()
    ear, mouth = context.Pipe(duplex=False)
    process = context.Process(target=live, args=(mouth, life), daemon=True)  # type: ignore[attr-defined]
    process.start()
    mouth.close()  # ours; when the child's is closed too, the pipe ends
    said: list[tuple[str, str]] = []
    deadline = None
    killed = False
    try:
        # The pipe is emptied all the time: if it were full, the child would stand still.
        while not said or said[-1][0] != "at the step":
            left = PATIENCE_SECONDS if deadline is None else deadline - time.monotonic()
            if not ear.poll(max(0.0, left)):
                assert deadline is not None, f"The child was silent for {PATIENCE_SECONDS:.0f} s."
                break
            said.append(ear.recv())
            if life.step == ANY_MOMENT and deadline is None:
                deadline = time.monotonic() + chance.uniform(0, LONGEST_SECONDS)
        process.kill()  # SIGKILL; on Windows TerminateProcess, which is as sudden
        killed = True
        while True:
            said.append(ear.recv())
    except (EOFError, BrokenPipeError):  # the latter on Windows
        pass
    finally:
        process.kill()
        process.join()
        ear.close()
    return End(said, killed)


@functools.cache
def _processes() -> BaseContext:
    """How children are made: copies of a process that has loaded everything, where there are such.

    Others start from nothing each time, which takes longer.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.labs.crash_child", "final", "improved", "naive"])
    return context


# ---- the books ---------------------------------------------------------------------------------


class Books:
    """What the children of one campaign said, against what their file says."""

    def __init__(self, life: Life) -> None:
        self.tally = Tally()
        self._path = Path(life.path) if life.stage == "final" else None
        self._accepted: set[str] = set()
        self._killers: set[str] = set()
        self._may_give_up = life.max_retries == 0
        self._started: Counter[str] = Counter()
        self._met_unbegun: Counter[str] = Counter()  # kills after its claim, before its beginning
        self._ran: set[str] = set()
        self._completed: set[str] = set()  # and the queue has announced it
        self._unfinished: set[str] = set()  # when their process was killed
        self._found: dict[str, tuple[str, int]] = {}  # in the file: status and attempts
        self._broken: set[tuple[str, str]] = set()

    def enter(self, end: End) -> None:
        """Book a life and look at what it left."""
        begun = {job_id for word, job_id in end.said if word == "started"}
        for word, job_id in end.said:
            match word:
                case "accepted":
                    self._accepted.add(job_id)
                case "killer":
                    self._killers.add(job_id)
                case "started":
                    self._started[job_id] += 1
                    if job_id in self._completed:
                        self._break(RERUN, job_id)
                case "ran":
                    self._ran.add(job_id)
                case "completed":
                    self._completed.add(job_id)
        if self._path is not None:
            self._compare_with_file(self._path)
        if end.killed:
            claimed = {i for i, (status, _) in self._found.items() if status == "processing"}
            self._met_unbegun.update(claimed - begun)
            self._unfinished |= self._accepted - self._done()

    def balance(self) -> Tally:
        """After the last life: what is missing now is missing for good."""
        done = self._done()
        tally = self.tally
        if self._path is not None:
            for job_id, (status, attempts) in self._found.items():
                if job_id in self._killers:
                    tally.dead_letters += status == "failed" and attempts == ATTEMPTS
                elif status == "failed" and self._may_give_up:
                    done.add(job_id)  # with its only attempt
                    # Twice is allowed: nobody can tell whether a job that was alone had begun.
                    if not self._started[job_id] and self._met_unbegun[job_id] < 2:
                        self._break(NEVER_BEGAN, job_id)
                elif status == "failed":
                    self._break(INNOCENT, job_id)
            for job_id in self._accepted - done:
                self._break(LOST, job_id)
        tally.accepted = len(self._accepted)
        tally.killers = len(self._killers)
        tally.completed = len(self._completed)
        tally.lost = len(self._accepted - done)
        tally.twice = sum(
            count - 1 for job_id, count in self._started.items() if job_id not in self._killers
        )
        tally.recovered = len(self._unfinished & done)
        tally.broken.update(promise for promise, _ in self._broken)
        return tally

    def _done(self) -> set[str]:
        """Jobs that need not run any more, as far as the stage can tell."""
        if self._path is None:
            return self._ran
        return {job_id for job_id, (status, _) in self._found.items() if status == "completed"}

    def _compare_with_file(self, path: Path) -> None:
        self.tally.looks += 1
        try:
            self._found = _look(path)
        except sqlite3.DatabaseError as error:
            self._break(DAMAGED, str(error))
            return
        for job_id in (self._accepted | self._killers) - self._found.keys():
            self._break(LOST, job_id)
        done = self._done()
        for job_id in self._completed - done:
            self._break(UNDONE, job_id)
        for job_id in done - self._ran:
            self._break(NEVER_RAN, job_id)

    def _break(self, promise: str, what: str) -> None:
        self._broken.add((promise, what))


def _look(path: Path) -> dict[str, tuple[str, int]]:
    """Status and attempts of each job; from a copy, so that the next start finds the file, and the
    journal that belongs to it, exactly as they were left."""
    with output.scratch() as folder:
        for name in (path.name, path.name + "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(path.with_name(name), folder)
        copy = folder / path.name
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            (whole,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if whole != "ok":
                raise sqlite3.DatabaseError(whole)
            rows = connection.execute("SELECT id, status, attempts FROM job")
            return {job_id: (status, attempts) for job_id, status, attempts in rows}


# ---- the report --------------------------------------------------------------------------------


def verdict(tallies: Tallies) -> list[Check]:
    durable = Tally()
    for (stage, _), tally in tallies.items():
        if stage == "final":
            durable.add(tally)
    of = {
        LOST: f"of {durable.accepted:,} jobs",
        UNDONE: f"of {durable.completed:,} completions",
        NEVER_RAN: "",
        RERUN: "",
        INNOCENT: "",
        NEVER_BEGAN: "",
        ENDLESS: f"; {durable.dead_letters} of {durable.killers} ended as dead letters",
        DAMAGED: f"of {durable.looks:,} looks",
    }
    checks = []
    for promise, figures in of.items():
        count = durable.broken[promise]
        held = not count
        if promise == ENDLESS:
            held = held and durable.dead_letters == durable.killers
        text = f"{count:,}{figures}" if figures.startswith(";") else f"{count:,} {figures}"
        checks.append(Check(promise, held, text))
    return checks


def show(console: Console, tallies: Tallies, fault: str) -> None:
    table = output.table("killed", "kills", "accepted", "lost", "again", "recovered")
    for stage, steps in STEPS.items():
        promise = "at least once" if stage == "final" else "at most once"
        table.add_row(Text.assemble((stage, "bold"), f": {promise}"))
        for step in steps:
            tally = tallies[stage, step]
            lost = Text(f"{tally.lost:,}", "red" if tally.lost else "")
            counts = (tally.twice, tally.recovered)
            table.add_row(
                f"  {step}",
                f"{tally.kills:,}",
                f"{tally.accepted:,}",
                lost,
                *(f"{count:,}" for count in counts),
            )
        table.add_section()
    console.print()
    console.print("What kills leave of the jobs that were accepted", style="bold")
    if fault:
        console.print(f"With a planted fault in final: {fault}", style="yellow")
    console.print(table)


if __name__ == "__main__":  # the processes that it starts import this file too
    main()
