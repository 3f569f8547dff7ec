"""Every schedule of a scenario, the simplest first: without a forced switch, with one, with two.

Most races need no more than two switches at the right lines. So the first failure that is
found is a shortest one, and a scenario that holds has been tried in all these ways.

But: what needs three forced switches is not found with two, and a scenario shows only what
its threads do. "Holds" means these schedules of this scenario, not a proof.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import Any

from tests.labs.scheduler import (
    Deadlock,
    Event,
    NotRepeatable,
    Run,
    Scenario,
    Schedule,
    Stuck,
    Where,
)
from tests.labs.stand_ins import in_place


@dataclass
class Verdict:
    """What came of it.

    tried: how many schedules with no forced switch, with one, and so on.
    failure: what went wrong; empty if every schedule held.
    schedule, story, stuck: of the run that failed.
    """

    scenario: str
    tried: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    schedule: Schedule = ()
    story: list[Event] = field(default_factory=list)
    stuck: list[Stuck] = field(default_factory=list)

    def count(self, schedule: Schedule) -> None:
        """Another one is about to be tried."""
        self.tried += [0] * (len(schedule) + 1 - len(self.tried))
        self.tried[len(schedule)] += 1

    def found(self, schedule: Schedule, run: Run) -> None:
        """This one fails."""
        error = run.failure or NotRepeatable()
        says = isinstance(error, AssertionError) and str(error)
        self.failure = says or f"{type(error).__name__}: {error}"
        self.schedule, self.story = schedule, run.story
        self.stuck = error.stuck if isinstance(error, Deadlock) else []

    @property
    def holds(self) -> bool:
        return not self.failure

    def __str__(self) -> str:
        tried = f"{sum(self.tried):,}"
        if self.holds:
            most = forced_switches(len(self.tried) - 1)
            return f"{self.scenario}: holds in {tried} schedules, up to {most}"
        number = forced_switches(len(self.schedule))
        return f"{self.scenario}: {self.failure} (schedule {tried}, {number})"


def forced_switches(count: int) -> str:
    return f"{count or 'no'} forced switch{'es' if count > 1 else ''}"


def explore(
    scenario: Scenario,
    *modules: ModuleType,
    switches: int = 2,
    where: Where | None = None,
    every: int = 1,
) -> Verdict:
    """Play ``scenario`` under every schedule with up to ``switches`` forced switches.

    modules: the code under test. Meanwhile the threads, locks, queues and clocks in there (and
        in the scenario's own module) are stand-ins, and a switch can be forced before each line.
    where: for modules with too many lines, the code in which it can. It can then also be
        forced before each operation on a lock, an event or a queue.
    every: of the schedules with the most forced switches only each second, or third, ...
    """
    function = getattr(scenario, "func", scenario)  # a functools.partial has one
    own = sys.modules[function.__module__]
    files = {module.__file__ for module in modules}

    def lines(code: CodeType) -> bool | None:
        if code.co_filename in files:
            return True if where is None else where(code)
        return False if code.co_filename == function.__code__.co_filename else None

    verdict = Verdict(function.__name__.replace("_", " "))
    tree = _Tree(scenario, lines, operations=where is not None)
    began = time.monotonic()
    with in_place([*modules, own]):
        for schedule in tree.all(switches, every):
            verdict.count(schedule)
            if tree.play(schedule, watch=False).failure is not None:
                verdict.found(schedule, tree.play(schedule))
                break
    verdict.seconds = time.monotonic() - began
    return verdict


@dataclass(frozen=True)
class _Tree:
    """The schedules as a tree: each branch adds one later switch to its parent's."""

    scenario: Scenario
    where: Where
    operations: bool

    def all(self, switches: int, every: int) -> Iterator[Schedule]:
        """Those with few forced switches first."""
        for forced in range(switches + 1):
            step = every if forced == switches else 1
            yield from itertools.islice(self.level(forced), 0, None, step)

    def level(self, forced: int) -> Iterator[Schedule]:
        """All with that many forced switches; each comes once.

        The parents are played again for every level, to ask them for their branches. That
        costs one run for hundreds, and saves keeping millions of schedules in memory.
        """
        if forced == 0:
            yield ()
            return
        for parent in self.level(forced - 1):
            for switch in self.play(parent).choices:
                yield (*parent, switch)

    def play(self, schedule: Schedule, watch: bool = True) -> Run:
        run = Run(self.where, schedule, operations=self.operations, watch=watch)
        run.play(self.scenario)
        return run


def only(*places: Any) -> Where:
    """These functions, and all methods of these classes."""
    chosen: set[CodeType] = set()
    for place in places:
        functions = vars(place).values() if isinstance(place, type) else [place]
        chosen.update(f.__code__ for f in functions if hasattr(f, "__code__"))
    return lambda code: code in chosen or None
