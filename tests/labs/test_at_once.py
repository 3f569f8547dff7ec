"""Two processes exchange at once: one stops between two statements, and the other one goes on.

What a world of steps cannot show: who has locked what, who passes it by, and who waits for whom.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection

import pytest

from final.job import Priority
from final.ledger.postgres import dependencies
from final.ledger.postgres import statements as sql
from tests import postgres_server
from tests.labs.shared_world import CAPPED, CUTS, KINDS, PAUSES, UNIQUES, Process, Rules, World
from tests.labs.simulate import quiet
from tests.labs.test_shared import OVERFLOWS, USES, draw_sort
from tests.postgres.proxy import STATEMENT, TRIP_ENDS, Stop

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(not postgres_server.is_there(), reason=postgres_server.MISSING),
]

STEPS = 25
Exchange = Callable[[Process], object]


class Life:
    """Of few sorts of jobs, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = random.Random(seed)
        self._uses: Collection[str] = chance.choice(USES[1:])
        limit = chance.choice((1, 2)) if "groups" in self._uses else None
        self._world = World(postgres_server.dsn(), rules=Rules(chance.choice(OVERFLOWS), limit))
        self._lanes = chance.sample(list(Priority), 2)
        self._kinds = chance.choice((KINDS[:1], (CAPPED,), KINDS))
        self._unique = chance.choice(UNIQUES)
        self._pauses = chance.sample(PAUSES, 2)

    def live(self) -> None:
        try:
            for _ in range(STEPS):
                self._step()
            self._world.come_to_the_end()
        finally:
            self._world.close()

    def _step(self) -> None:
        chance, world = self._chance, self._world
        one, other = chance.sample(world.processes, 2)
        for process in (one, other):
            for _ in range(chance.choice((0, 1, 1, 2, 3))):
                self._come_back(process)
            process.ledger._memory.more |= chance.random() < 0.9  # it is told
        self._mishap(one)
        if one in world.processes:
            few = [self._exchange() for _ in range(chance.choice((1, 1, 2, 3)))]
            if chance.random() < 0.1:
                few[:0] = [lambda _: world.lease_runs_out(one), lambda p: p.let_pass(1.0)]
            world.overlap((one, self._exchange()), (other, in_turn(few)), self._stops())

    def _come_back(self, process: Process) -> None:
        """One of its jobs."""
        chance, world = self._chance, self._world
        ends = (
            lambda: world.end(process),
            lambda: world.end(process, "ValueError: no"),
            lambda: world.snooze(process),
            lambda: world.give_back(process),
        )
        chance.choices(ends, (10, 4, 3, 3))[0]()

    def _mishap(self, process: Process) -> None:
        chance, world = self._chance, self._world
        happens = (
            lambda: None,
            lambda: world.crash(process, chance.random() < 0.5),
            lambda: world.lease_runs_out(process),
            lambda: world.let_pass(chance.choice((0.01, 1.0))),
            lambda: world.cut(chance.choice(CUTS)),
        )
        chance.choices(happens, (12, 1, 1, 4, 2))[0]()

    def _exchange(self) -> Exchange:
        chance, world = self._chance, self._world
        # All is drawn here: what is called on another thread draws nothing, or no seed would say
        # the same twice.
        number, idle, which = (
            chance.choice((1, 2, 4)),
            chance.choice((1, 1, 2)),
            chance.randrange(100),
        )
        sort = draw_sort(chance, self._uses, world)
        sort = sort._replace(
            lane=chance.choice(self._lanes),
            kind=chance.choice(self._kinds),
            group="g" if "groups" in self._uses else "",
            unique=sort.unique and self._unique,
        )
        pause, paused = chance.choice(self._pauses), chance.random() < 0.3
        exchanges: dict[Exchange, int] = {
            lambda process: world.bring(process, number, sort): 5,
            lambda process: world.look(process, idle): 6,
            lambda process: world.cancel(process, which): 1,
            world.retry: 1,
            lambda process: world.pause(process, pause, paused): 3 * ("pauses" in self._uses),
        }
        return chance.choices(list(exchanges), list(exchanges.values()))[0]

    def _stops(self) -> tuple[Stop, Stop]:
        never = Stop(10**9)
        return self._stop(), self._chance.choice((never, self._stop()))

    def _stop(self) -> Stop:
        """Between the trips of its turn, most likely, or anywhere in them."""
        chance = self._chance
        if chance.random() < 0.5:
            return Stop(chance.choice((1, 2)), TRIP_ENDS)
        return Stop(chance.randrange(2, 20), STATEMENT)


def in_turn(exchanges: Collection[Exchange]) -> Exchange:
    def go(process: Process) -> None:
        for exchange in exchanges:
            process.ledger._memory.more = True
            exchange(process)

    return go


def live_many(count: int) -> None:
    for seed in range(count):
        try:
            Life(seed).live()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_every_life_keeps_the_contract() -> None:
    with quiet():
        live_many(int(os.environ.get("SEEDS", "4")))


def locks_no_meters(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sql, "METERS", sql.METERS.replace(" FOR UPDATE", ""))


def locks_no_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sql, "LOCK_KEYS", "SELECT FROM (SELECT %s::bigint, %s::text[]) AS keys")


def locks_no_parents(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dependencies, "LOCK", dependencies.LOCK.replace(" FOR SHARE", ""))
    patch.setattr(dependencies, "SET_FLAG", "SELECT FROM unnest(%s::text[])")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (locks_no_meters, "of a kind"),
        (locks_no_keys, "have a key"),
        (locks_no_parents, "never end|its parents have not"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: Callable[[pytest.MonkeyPatch], None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with quiet(), pytest.raises(AssertionError, match=sentence):
        live_many(150)
