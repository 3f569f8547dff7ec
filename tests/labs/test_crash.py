"""The crash lab keeps its books right: ``final`` passes, each planted fault is found by name.

One fault, one promise: a lab in which every fault broke every promise would not know what it saw.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from final import Job, JobQueue
from tests.labs import crash
from tests.labs.crash import Books, End, Tally, campaign
from tests.labs.crash_child import (
    AFTER_CLAIM,
    AFTER_COMPLETION,
    BEFORE_INSERT,
    BY_THE_JOB,
    FAULTS,
    IN_HANDLER,
    Life,
)
from tests.labs.output import console

Kill = Callable[..., Tally]


@pytest.fixture
def kill(tmp_path: Path) -> Kill:
    """Kill so many processes of a stage at a step."""

    def kill(stage: str, step: str, kills: int, fault: str = "", **options: Any) -> Tally:
        life = Life(stage, str(tmp_path / "jobs.db"), "", step, fault=fault, **options)
        return campaign(life, kills, random.Random(1))

    return kill


@pytest.mark.timeout(120)
def test_sixty_kills_break_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert crash.run(60, "", console())
    report = capsys.readouterr().out
    assert "final: at least once" in report
    assert "0 of" in report
    assert " kills in " in report


@pytest.mark.parametrize("in_memory", ["naive", "improved"])
def test_what_is_in_memory_only_runs_at_most_once(kill: Kill, in_memory: str) -> None:
    tally = kill(in_memory, IN_HANDLER, 2)
    assert tally.kills == 2
    assert tally.lost > 0
    assert tally.twice == 0
    assert tally.recovered == 0


def test_what_is_in_a_file_runs_at_least_once(kill: Kill) -> None:
    tally = kill("final", IN_HANDLER, 3)
    assert not tally.broken
    assert tally.lost == 0
    assert tally.twice > 0  # the one in whose handler it was killed, to begin with
    assert tally.recovered > 0


def test_a_job_that_kills_its_process_does_so_as_often_as_it_may(kill: Kill) -> None:
    tally = kill("final", BY_THE_JOB, crash.KILLERS_LIVES)
    assert not tally.broken
    assert tally.kills in (crash.ATTEMPTS, crash.KILLERS_LIVES)  # the first may be in company
    assert tally.dead_letters == 1


def test_whose_only_attempt_is_taken_has_begun(kill: Kill) -> None:
    tally = kill("final", IN_HANDLER, 3, max_retries=0, quick=True)
    assert not tally.broken
    assert tally.lost == 0


@pytest.mark.parametrize(
    ("fault", "step", "kills", "broken"),
    [
        ("early-acknowledgement", BEFORE_INSERT, 3, {crash.LOST}),
        ("completed-before-run", AFTER_CLAIM, 2, {crash.NEVER_RAN}),
        ("forgotten-outcome", AFTER_COMPLETION, 2, {crash.UNDONE, crash.RERUN}),
        ("uncharged-claim", BY_THE_JOB, crash.KILLERS_LIVES, {crash.ENDLESS}),
        ("removed-journal", IN_HANDLER, 2, {crash.LOST}),
        ("charged-in-company", AFTER_CLAIM, 2, {crash.NEVER_BEGAN}),
    ],
)
def test_a_planted_fault_is_found(
    kill: Kill, fault: str, step: str, kills: int, broken: set[str]
) -> None:
    options = {"max_retries": 0, "quick": True} if crash.NEVER_BEGAN in broken else {}
    assert broken <= set(kill("final", step, kills, fault, **options).broken)


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with JobQueue(lambda job: None, path=path) as queue:
        queue.enqueue_many([Job(run_at=3600) for _ in range(100)])  # none of them runs
    books = Books(Life("final", str(path), ""))
    books.enter(End([], killed=True))
    assert not books.balance().broken
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096)
    books.enter(End([], killed=True))
    assert set(books.balance().broken) == {crash.DAMAGED}


def test_every_fault_has_such_a_test() -> None:
    mark = test_a_planted_fault_is_found.pytestmark[0]  # type: ignore[attr-defined]
    assert {fault for fault, *_ in mark.args[1]} == set(FAULTS)
