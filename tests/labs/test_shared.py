"""Several processes on one ledger in PostgreSQL: random lives, any story, and planted faults."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from final.beyond.control import Pause
from final.job import Priority, Task
from final.ledger.base import Move
from final.ledger.postgres import dependencies, holders, window
from final.ledger.postgres import statements as sql
from final.ledger.postgres.doubt import Doubt
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.returned import Returned
from final.ledger.postgres.window import Window
from tests import postgres_server
from tests.labs.examples import examples
from tests.labs.shared_world import (
    CUTS,
    GROUPS,
    KINDS,
    PAUSES,
    UNIQUES,
    Rules,
    Sort,
    World,
)
from tests.labs.simulate import quiet
from tests.postgres.proxy import Moment

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(not postgres_server.is_there(), reason=postgres_server.MISSING),
]

STEPS = 40


@pytest.fixture(autouse=True)
def _no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchanges follow each other here, so the order of commits is the order of places."""
    monkeypatch.setattr(window, "MARGIN", 0)


def live(seed: int) -> None:
    """A life of a world, drawn from the random numbers of ``seed``."""
    chance = random.Random(seed)
    rules = Rules(chance.choice(OVERFLOWS), chance.choice((None, 1, 2)))
    uses = chance.choice(USES)
    world = World(postgres_server.dsn(), rules=rules)
    steps: dict[Callable[[], object], int] = {
        lambda: world.bring(one(), chance.choice((1, 1, 3)), draw_sort(chance, uses, world)): 8,
        lambda: world.look(one()): 12,
        lambda: world.end(one(), chance.choice((None, None, "ValueError: no"))): 12,
        lambda: world.snooze(one()): 2,
        lambda: world.give_back(one()): 2,
        lambda: world.cancel(one(), chance.randrange(100)): 2,
        lambda: world.retry(one()): 1,
        lambda: world.cut(chance.choice(CUTS)): 6,
        lambda: world.let_pass(chance.choice((0.01, 1.0))): 4,
        lambda: world.lease_runs_out(one()): 2,
        lambda: world.crash(one(), chance.random() < 0.5): 2,
    }
    if "pauses" in uses:
        steps[lambda: world.pause(one(), chance.choice(PAUSES))] = 1
        steps[lambda: world.pause(one(), chance.choice(PAUSES), False)] = 4

    def one() -> Any:
        return chance.choice(world.processes)

    try:
        for step in chance.choices(list(steps), list(steps.values()), k=STEPS):
            step()
        world.come_to_the_end()
    except Exception as error:
        error.add_note(f"seed {seed}: {rules}, {uses}")
        raise
    finally:
        world.close()


OVERFLOWS = ("block", "block", "reject", "drop-newest", "drop-oldest")
# What a life uses beyond the basics.
USES: tuple[Collection[str], ...] = (
    (),
    ("groups",),
    ("keys",),
    ("parents",),
    ("pauses",),
    ("groups", "keys", "parents", "pauses"),
)


def draw_sort(chance: random.Random, uses: Collection[str], world: World) -> Sort:
    sort = Sort(
        chance.choice(list(Priority)),
        chance.choice((*KINDS, "default")),
        chance.choice(("", "big", *GROUPS)) if "groups" in uses else "",
    )
    if "keys" in uses and chance.random() < 0.5:
        return sort._replace(unique=chance.choice(UNIQUES))
    if "parents" in uses and chance.random() < 0.5 and world.acknowledged:
        parents = chance.choices(world.acknowledged, k=chance.choice((1, 2)))
        if_failed = chance.choice(("cancel", "run"))
        return sort._replace(after=tuple(dict.fromkeys(parents)), if_failed=if_failed)
    return sort


def test_every_life_keeps_the_contract() -> None:
    with quiet():
        live_many(int(os.environ.get("SEEDS", "4")))


@pytest.mark.parametrize("moment", CUTS)
def test_a_lease_is_renewed_by_what_is_committed_and_by_nothing_else(moment: Moment) -> None:
    with quiet(), contextlib.closing(World(postgres_server.dsn(), count=1)) as world:
        [process] = world.processes
        world.bring(process, 1)
        world.lease_runs_out(process)
        process.ledger._housekeeping.poll_at = math.inf  # or that is what is cut off
        world.cut(moment)
        world.look(process)
        assert world._sql("SELECT expires_at > now() FROM jobqueue.owner") == [(True,)]


def live_many(count: int) -> None:
    for seed in range(count):
        live(seed)


which = st.integers(0, 2)
sorts = st.builds(
    Sort,
    st.sampled_from(list(Priority)),
    st.sampled_from(KINDS),
    st.sampled_from(("", *GROUPS)),
    st.sampled_from((None, *UNIQUES)),
    st.just(()),
    st.just("cancel"),
)


class SharedMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.world = World(postgres_server.dsn(), rules=Rules(group_limit=1))

    @rule(which=which, count=st.integers(1, 3), sort=sorts)
    def bring(self, which: int, count: int, sort: Sort) -> None:
        self.world.bring(self.world.processes[which], count, sort)

    @rule(which=which, pause=st.sampled_from(PAUSES), paused=st.booleans())
    def pause(self, which: int, pause: Pause, paused: bool) -> None:
        self.world.pause(self.world.processes[which], pause, paused)

    @rule(which=which)
    def retry(self, which: int) -> None:
        self.world.retry(self.world.processes[which])

    @rule(which=which)
    def look(self, which: int) -> None:
        self.world.look(self.world.processes[which])

    @rule(which=which, error=st.sampled_from([None, "ValueError: no"]))
    def end(self, which: int, error: str | None) -> None:
        self.world.end(self.world.processes[which], error)

    @rule(which=which)
    def snooze(self, which: int) -> None:
        self.world.snooze(self.world.processes[which])

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


def heeds_no_pause(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "hear", lambda self, paused: None)


def counts_no_groups(patch: pytest.MonkeyPatch) -> None:
    _at_each_turn(patch, lambda window: setattr(window, "group_limit", None))


def counts_no_kinds(patch: pytest.MonkeyPatch) -> None:
    _at_each_turn(patch, lambda window: setattr(window, "_caps", {}))


def _at_each_turn(patch: pytest.MonkeyPatch, change: Callable[[Window], None]) -> None:
    begin = Window.begin

    def changed(self: Window) -> None:
        change(self)
        begin(self)

    patch.setattr(Window, "begin", changed)


def knows_no_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holders, "holders_of", lambda rows, wall: {})


def waits_for_one_parent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        dependencies, "GO_ON", dependencies.GO_ON.replace("WHERE open AND", "WHERE false AND")
    )


def begins_behind_what_it_has_seen(patch: pytest.MonkeyPatch) -> None:
    """Whatever of that has stayed is behind the low mark."""
    landed = Window.landed

    def forget(self: Window, claimed: Iterable[Task]) -> None:
        lanes = self._seen.places if self._seen is not None else []
        landed(self, [Task("", None, Priority.LOW, "", seq=seq) for lane in lanes for seq in lane])

    patch.setattr(Window, "landed", forget)


def takes_off_at_once(patch: pytest.MonkeyPatch) -> None:
    """A snoozed attempt is not charged, at each try to write that."""
    take = Returned.take

    def take_off(self: Returned, moves: list[Move]) -> None:
        take(self, moves)
        Returned.land(self)
        self._uncharged = []

    patch.setattr(Returned, "take", take_off)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (takes_off_at_once, "with -1 attempts"),
        (heeds_no_pause, "is paused"),
        (counts_no_groups, "of group"),
        (counts_no_kinds, "of a kind"),
        (knows_no_keys, "have a key"),
        (waits_for_one_parent, "its parents have not"),
        (begins_behind_what_it_has_seen, "of its sort"),
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
