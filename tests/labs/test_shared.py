"""Several processes on one ledger in PostgreSQL: random lives, any story, and planted faults."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from final.job import Priority
from final.ledger.postgres import statements as sql
from final.ledger.postgres.doubt import Doubt
from final.ledger.postgres.lease import Lease
from tests import postgres_server
from tests.labs.examples import examples
from tests.labs.shared_world import CUTS, World
from tests.labs.simulate import quiet
from tests.postgres.proxy import Moment

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(not postgres_server.is_there(), reason=postgres_server.MISSING),
]

STEPS = 40


def live(seed: int) -> None:
    """A life of a world, drawn from the random numbers of ``seed``."""
    chance = random.Random(seed)
    world = World(postgres_server.dsn())
    steps: dict[Callable[[], object], int] = {
        lambda: world.bring(one(), chance.choice((1, 1, 3)), chance.choice(list(Priority))): 8,
        lambda: world.look(one()): 12,
        lambda: world.end(one(), chance.choice((None, None, "ValueError: no"))): 12,
        lambda: world.give_back(one()): 2,
        lambda: world.cancel(one(), chance.randrange(100)): 2,
        lambda: world.cut(chance.choice(CUTS)): 6,
        lambda: world.let_pass(chance.choice((0.01, 1.0))): 4,
        lambda: world.lease_runs_out(one()): 2,
        lambda: world.crash(one(), chance.random() < 0.5): 2,
    }

    def one() -> Any:
        return chance.choice(world.processes)

    try:
        for step in chance.choices(list(steps), list(steps.values()), k=STEPS):
            step()
        world.come_to_the_end()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        world.close()


def test_every_life_keeps_the_contract() -> None:
    with quiet():
        live_many(int(os.environ.get("SEEDS", "8")))


@pytest.mark.parametrize("moment", CUTS)
def test_a_lease_is_renewed_by_what_is_committed_and_by_nothing_else(moment: Moment) -> None:
    with quiet(), contextlib.closing(World(postgres_server.dsn(), count=1)) as world:
        [process] = world.processes
        world.bring(process, 1, Priority.HIGH)
        world.lease_runs_out(process)
        process.ledger._housekeeping.poll_at = math.inf  # or that is what is cut off
        world.cut(moment)
        world.look(process)
        assert world._sql("SELECT expires_at > now() FROM jobqueue.owner") == [(True,)]


def live_many(count: int) -> None:
    for seed in range(count):
        live(seed)


which = st.integers(0, 2)


class SharedMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.world = World(postgres_server.dsn())

    @rule(which=which, count=st.integers(1, 3), lane=st.sampled_from(list(Priority)))
    def bring(self, which: int, count: int, lane: Priority) -> None:
        self.world.bring(self.world.processes[which], count, lane)

    @rule(which=which)
    def look(self, which: int) -> None:
        self.world.look(self.world.processes[which])

    @rule(which=which, error=st.sampled_from([None, "ValueError: no"]))
    def end(self, which: int, error: str | None) -> None:
        self.world.end(self.world.processes[which], error)

    @rule(which=which)
    def give_back(self, which: int) -> None:
        self.world.give_back(self.world.processes[which])

    @rule(which=which, job=st.integers(0, 9))
    def cancel(self, which: int, job: int) -> None:
        self.world.cancel(self.world.processes[which], job)

    @rule(moment=st.sampled_from(CUTS))
    def cut(self, moment: Any) -> None:
        self.world.cut(moment)

    @rule(seconds=st.sampled_from([0.01, 1.0]))
    def tick(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule(which=which)
    def lease_runs_out(self, which: int) -> None:
        self.world.lease_runs_out(self.world.processes[which])

    @rule(which=which, on_this_host=st.booleans())
    def crash(self, which: int, on_this_host: bool) -> None:
        self.world.crash(self.world.processes[which], on_this_host)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.come_to_the_end()
            finally:
                self.world.close()


def test_any_story_keeps_the_contract() -> None:
    with quiet():
        run_state_machine_as_test(SharedMachine, settings=examples(6, steps=20))


def believes_anybody(patch: pytest.MonkeyPatch) -> None:
    """Whoever has a result is believed."""
    patch.setattr(sql, "COMPLETED", sql.COMPLETED.replace(sql.FENCE, "job.seq = o.seq"))


def doubts_nothing(patch: pytest.MonkeyPatch) -> None:
    """A commit whose answer was lost has not come about."""
    settle = Doubt.settle

    def forget(self: Doubt) -> bool:
        self.trace = None
        return settle(self)

    patch.setattr(Doubt, "settle", forget)


def takes_over_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "take_over", lambda self: None)


def forgets_the_fate(patch: pytest.MonkeyPatch) -> None:
    """Who takes over does so without a look whether the lease has run out."""
    patch.setattr(sql, "EXPIRED", sql.EXPIRED.replace("expires_at < clock_timestamp() AND", ""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (believes_anybody, "completed twice|is told"),
        (doubts_nothing, "said to be there already"),
        (takes_over_nothing, "never end"),
        (forgets_the_fate, "two processes|starts"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: Callable[[pytest.MonkeyPatch], None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with quiet(), pytest.raises(AssertionError, match=sentence):
        live_many(100)
