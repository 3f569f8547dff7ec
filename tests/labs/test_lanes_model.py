"""The lanes of ``final``, alone, against the model: the order in a lane, and the bound of fairness.

Jobs arrive, are picked, are given back, are cancelled, and a whole turn is undone, in any order.
After each pick the model checks that the job was the first of its lane and that no head of
another lane has waited for more than ``fairness + 2`` picks; with the default of 10 that is the
"within 12 picks" of the README. What leads to it is checked here: more urgent lanes pass over a
waiting one at most ``fairness`` times in a row; LOW once more, if MEDIUM is due with it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from final.job import Priority, Task
from final.ledger.lanes import Lanes, Standing
from tests.labs.examples import examples, until_it_fails
from tests.labs.model import LANES, Model, require

ENDLESS = 1_000_000
a_few = st.sampled_from([1, 2, 12])


class LanesMachine(RuleBasedStateMachine):
    make_lanes: type[Lanes] = Lanes

    @initialize(fairness=st.sampled_from([1, 2, 3, 10, None]))
    def begin(self, fairness: int | None) -> None:
        self.fairness = fairness
        self.lanes = self.make_lanes(ENDLESS, fairness)
        self.model = Model(capacity=ENDLESS, max_retries=ENDLESS, fairness=fairness)
        self.numbers = itertools.count(1)
        self.tasks: dict[str, Task] = {}
        self.running: list[Task] = []
        self.passed_over = dict.fromkeys(LANES, 0)

    @rule(lane=st.sampled_from(LANES), count=a_few)
    def arrive(self, lane: str, count: int) -> None:
        for _ in range(count):
            task = self.new_task(lane)
            self.tasks[task.id] = task
            self.lanes.add(task)
            self.model.accept(task.id, lane)

    def new_task(self, lane: str) -> Task:
        number = next(self.numbers)
        return Task(f"j{number}", "null", Priority(lane), "default", seq=number, key=number)

    @rule(count=a_few)
    def pick(self, count: int) -> None:
        for _ in range(count):
            waiting = list(self.model.heads())
            task = self.lanes.pick()
            if task is None:
                require(not waiting, f"Nothing was picked, and jobs wait in {waiting}.")
                return
            self.model.claim(task.id, self.model.jobs[task.id].token + 1, alone=False)
            self.running.append(task)
            self._count_passes(task.priority, waiting)

    def _count_passes(self, picked: str, waiting: list[str]) -> None:
        for lane in waiting:
            if LANES.index(lane) > LANES.index(picked):
                self.passed_over[lane] += 1
                passes = self.passed_over[lane]
                most = math.inf if self.fairness is None else self.fairness + (lane == "low")
                require(
                    passes <= most,
                    f"{lane} was passed over {passes} times in a row, fairness {self.fairness}.",
                )
        self.passed_over[picked] = 0

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def give_back(self, which: int) -> None:
        task = self.running.pop(which % len(self.running))
        self.lanes.add(task)
        self.model.give_back(task.id)

    @precondition(lambda self: self.model.heads())
    @rule(which=st.integers(0, 99), whole_lane=st.booleans())
    def cancel(self, which: int, whole_lane: bool) -> None:
        """One job, or all that wait in its lane."""
        queued = self.model.having("queued")
        chosen = self.tasks[queued[which % len(queued)]]
        lane = chosen.priority
        for job_id in queued:
            task = self.tasks[job_id]
            if task is chosen or (whole_lane and task.priority is lane):
                self.lanes.remove(task)
                self.model.cancel(job_id)
        if lane not in self.model.heads():
            self.passed_over[lane] = 0  # nobody waits there any more

    @rule(arrivals=st.lists(st.sampled_from(LANES), max_size=5), picks=st.integers(0, 20))
    def undo_a_turn(self, arrivals: list[str], picks: int) -> None:
        """A turn whose exchange fails. The model never hears of it."""
        standings = self.lanes.standings()
        new = [self.new_task(lane) for lane in arrivals]
        for task in new:
            self.lanes.add(task)
        picked = [picked for _ in range(picks) if (picked := self.lanes.pick())]
        for task in new:
            if task not in picked:
                self.lanes.remove(task)
        for task in picked:
            if task not in new:
                self.lanes.add(task)
        self.lanes.restore(standings)

    @invariant()
    def the_heads_are_those_of_the_model(self) -> None:
        heads = {p.value: task.id for p in Priority if (task := self.lanes.head(p))}
        require(heads == self.model.heads(), f"{heads}, and not {self.model.heads()}?")


def test_any_arrivals_keep_the_bound() -> None:
    run_state_machine_as_test(LanesMachine, settings=examples(100))


class OncePerElevenPicks(Lanes):
    """Off by one: a lane is due after one pass more."""

    def _first_due(self, waiting: Any) -> int:
        for n, lane in enumerate(waiting):
            if self.fairness is not None and lane.passed_over > self.fairness:
                return n
        return 0


class NoFairness(Lanes):
    def _first_due(self, waiting: Any) -> int:
        return 0


class LowBeforeMedium(Lanes):
    """Of two lanes that are due, the less urgent goes first."""

    def _first_due(self, waiting: Any) -> int:
        due = super()._first_due(waiting[::-1])
        return len(waiting) - 1 - due if due or self._is_due(waiting[-1]) else 0

    def _is_due(self, last: Any) -> bool:
        return self.fairness is not None and last.passed_over >= self.fairness


class ForgetsPassesWhenUndoing(Lanes):
    def restore(self, standings: list[Standing]) -> None:
        super().restore(Lanes(0, None).standings())


class GivesBackToTheEnd(Lanes):
    """A job that comes again gets a new place."""

    def add(self, task: Task) -> None:
        if task.token:
            task.key = ENDLESS - 1
        task.token = 1
        super().add(task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (OncePerElevenPicks, "passed over"),
        (NoFairness, "passed over|picks at the head"),
        (LowBeforeMedium, "passed over|picks at the head"),
        (ForgetsPassesWhenUndoing, "passed over|picks at the head"),
        (GivesBackToTheEnd, "and not|of its own lane"),
    ],
)
def test_a_planted_fault_is_caught(broken: type[Lanes], sentence: str) -> None:
    machine = type("Broken", (LanesMachine,), {"make_lanes": broken})
    with pytest.raises(AssertionError, match=sentence):
        run_state_machine_as_test(machine, settings=until_it_fails(1_000))
