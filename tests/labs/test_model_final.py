"""``final`` against the model, on a real file: any order of work, faults, crashes and reopening.

The simulation draws many short lives from random numbers; Hypothesis looks for the few odd
steps that do harm, and shows the shortest such story. Both use the same engine. Here the store
is SQLite on a disk, and after each step what is in the file is compared with the model. A crash
leaves the files as kill -9 would, and the next process opens those.

A power cut is not a crash; that is looked at elsewhere.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
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

from final.beyond.control import Pause
from final.beyond.filters import Filter
from final.beyond.kinds import Policy
from final.beyond.snooze import Again
from final.beyond.unique import Unique
from final.job import Priority, Status
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile
from tests.labs.engine import KINDS, Beyond, Engine, FileDisk, Options
from tests.labs.examples import examples, until_it_fails
from tests.labs.model import LANES, require
from tests.labs.simulate import LIMITS, UNIQUES, quiet

# The machine may be busy with other things: a few hundred lives take their time.
pytestmark = pytest.mark.timeout(200)

which = st.integers(0, 9)  # one of those that there are
PARTS = [Pause(), Pause(kind="deaf"), Pause(kind="other"), Pause(priority=Priority.HIGH)]


class FinalMachine(RuleBasedStateMachine):
    @initialize(
        workers=st.integers(1, 3),
        capacity=st.sampled_from([1, 2, 9]),
        max_retries=st.sampled_from([0, 1, 3]),
        overflow=st.sampled_from(["block", "reject", "drop-newest", "drop-oldest"]),
        history=st.sampled_from([1, 1_000]),
        timeout=st.sampled_from([None, 2.0]),
        memory=st.sampled_from([0, 1_000]),
        limits=st.sampled_from(LIMITS),
        group_limit=st.sampled_from([None, None, 1]),
    )
    def open(self, **options: Any) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.engine = Engine(Options(**options), FileDisk(self.folder))
        self.ids: list[str] = []

    @rule(
        lanes=st.lists(st.sampled_from(LANES), min_size=1, max_size=5),
        patience=st.sampled_from([None, 0.0, 1.0]),
        delay=st.sampled_from([None, None, 1.5]),
        which_kind=which,
        by_a_handler=st.booleans(),
        group=st.sampled_from(["", "", "big", "small"]),
        unique=st.sampled_from([None, None, *UNIQUES]),
        which_parent=which,
        if_failed=st.sampled_from(["", "", "cancel", "run"]),
    )
    def enqueue(
        self,
        lanes: list[str],
        which_kind: int,
        by_a_handler: bool,
        group: str,
        unique: Unique | None,
        which_parent: int,
        if_failed: str,
        **how: Any,
    ) -> None:
        """if_failed: "" for jobs that come after nobody."""
        beyond = Beyond(group, unique)
        if if_failed:
            parent = self.ids[-1 - which_parent % len(self.ids)] if self.ids else ""
            beyond = Beyond(group, None, [parent] if parent else [], if_failed, chained=True)
        jobs = [(self.engine.new_id(), lane) for lane in lanes]
        self.ids += [job_id for job_id, _ in jobs]
        kinds = list(self.engine.handled)
        running = [w for w in self.engine.busy_workers() if w.task and by_a_handler]
        self.engine.enqueue(
            jobs,
            kind=kinds[which_kind % len(kinds)],
            worker=running[0] if running else None,
            beyond=beyond,
            **how,
        )
        self.engine.settle()

    @rule(error=st.sampled_from([None, "fails"]), steps=st.integers(1, 8))
    def workers_go_on(self, error: str | None, steps: int) -> None:
        """Start a job, end it with ``error`` or well, report; one worker after the other."""
        for step in range(steps):
            if workers := self.engine.busy_workers():
                self.engine.go_on(workers[step % len(workers)], error)
                self.engine.settle()

    @rule(seconds=st.sampled_from([0.0, 1.5]), by_clock=st.booleans())
    def a_handler_snoozes(self, seconds: float, by_clock: bool) -> None:
        if running := [worker for worker in self.engine.busy_workers() if worker.task]:
            again = Again(seconds + self.engine.wall * by_clock, by_clock)
            self.engine.snooze(running[0], again)
            self.engine.settle()

    @rule(seconds=st.sampled_from([0.02, 1.0, 3.0]))
    def tick(self, seconds: float) -> None:
        """Retries fall due, producers give up, attempts run out of time."""
        self.engine.let_pass(seconds)
        self.engine.settle()

    @rule(seconds=st.sampled_from([-3_600.0, 3_600.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.engine.jump(seconds)

    @precondition(lambda self: self.ids)
    @rule(which=which)
    def cancel(self, which: int) -> None:
        self.engine.cancel(self.ids[-1 - which % len(self.ids)])
        self.engine.settle()

    @rule()
    def retry(self) -> None:
        self.engine.retry_all()
        self.engine.settle()

    @rule(part=st.sampled_from(PARTS), paused=st.booleans())
    def pause(self, part: Pause, paused: bool) -> None:
        self.engine.pause(part, paused)
        self.engine.settle()

    @rule(number=st.sampled_from([1, 2, 4, None]))
    def set_workers(self, number: int | None) -> None:
        self.engine.set_workers(number)
        self.engine.settle()

    @precondition(lambda self: self.ids)
    @rule(which=which)
    def wait(self, which: int) -> None:
        self.engine.wait(self.ids[-1 - which % len(self.ids)])
        self.engine.measure()
        self.engine.settle()

    @rule(count=st.integers(1, 3), operation=st.sampled_from([1, 2, 3, 1_000]))
    def disk_fills(self, count: int, operation: int) -> None:
        self.engine.fail_commits(count, operation)

    @rule(handled=st.sets(st.sampled_from(KINDS), min_size=1))
    def crash(self, handled: set[str]) -> None:
        """From the next process on there are handlers for these kinds."""
        self.engine.deploy(sorted(handled))
        self.engine.crash()

    @rule(point=st.sampled_from(["before", "after"]))
    def crash_at_the_next_commit(self, point: str) -> None:
        self.engine.crash_at_commit(point)

    @rule(drain=st.booleans())
    def close(self, drain: bool) -> None:
        """It is opened again as soon as it is closed."""
        self.engine.close(drain)
        self.engine.settle()

    @precondition(lambda self: self.engine.closes)
    @rule()
    def closing_takes_too_long(self) -> None:
        self.engine.give_up_closing()
        self.engine.settle()

    @invariant()
    def the_file_says_what_the_model_says(self) -> None:
        in_file = {
            record.id: (record.status, record.attempts, record.due_at)
            for record in self.engine.ledger.look_ups.jobs(Filter(), 1_000)
        }
        in_model = {
            job_id: (entry.status, entry.attempts, entry.due_at)
            for job_id, entry in self.engine.model.jobs.items()
        }
        require(in_file == in_model, f"In the file: {in_file}. It should be: {in_model}.")

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.ledger.close()
            shutil.rmtree(self.folder)


def test_any_history_keeps_the_contract() -> None:
    with quiet():
        run_state_machine_as_test(FinalMachine, settings=examples(35, steps=40))


def one_retry_more(policy: Policy, attempt: int, permanent: bool, say: Any) -> float | None:
    return None if attempt > policy.max_retries + 1 else policy.backoff.delay(attempt)


WRITE = SqliteFile.write


def claims_charge_nothing(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
    WRITE(file, moves, wall)
    file._writer.execute("UPDATE job SET attempts = 0 WHERE status = 'processing'")


def outcomes_are_not_written(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
    WRITE(file, [move for move in moves if move.target is not Status.COMPLETED], wall)


def a_due_time_is_forgotten(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
    WRITE(file, moves, wall)
    file._writer.execute("UPDATE job SET due_at = 0 WHERE status IN ('retrying', 'scheduled')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "fault", "sentence"),
    [
        (Policy, "retry_delay", one_retry_more, "max_retries|goes on after"),
        (SqliteFile, "write", claims_charge_nothing, "In the file"),
        (SqliteFile, "write", outcomes_are_not_written, "In the file|called interrupted"),
        (SqliteFile, "write", a_due_time_is_forgotten, "In the file"),
    ],
    ids=["one attempt too many", "attempts not written", "outcomes not written", "due times lost"],
)
def test_a_planted_fault_is_caught(
    owner: object, name: str, fault: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, fault)
    with quiet(), pytest.raises(AssertionError, match=sentence):
        run_state_machine_as_test(FinalMachine, settings=until_it_fails(1_500, steps=50))
