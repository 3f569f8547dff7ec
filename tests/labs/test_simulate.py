"""The simulation: 200 lives in CI, the same on both stores, and what it must catch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from final.engine.dispatcher import Dispatcher
from final.engine.flight import Flight
from final.engine.messages import Enqueue
from final.engine.metrics import Recorder
from final.engine.producers import Producers
from final.job import Outcome, Status, Task
from final.ledger import local
from final.ledger.base import Given
from final.ledger.lanes import Lanes
from final.ledger.limits import Gate
from final.ledger.local import LocalLedger
from final.options import Backoff, Options
from final.workers.batch import Batch
from tests.labs import engine, simulate
from tests.labs.engine import FileDisk
from tests.labs.memory_file import MemoryFile


@pytest.mark.timeout(0 if "SEEDS" in os.environ else 60)
def test_every_life_keeps_the_contract() -> None:
    live(int(os.environ.get("SEEDS", "200")))


def live(seeds: int) -> None:
    for seed in range(seeds):
        simulate.run(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_has_one_life(seed: int) -> None:
    assert simulate.run(seed).engine.history == simulate.run(seed).engine.history


@pytest.mark.parametrize("seed", range(100, 110))
def test_the_file_in_memory_does_what_sqlite_does(seed: int, tmp_path: Path) -> None:
    in_file = simulate.run(seed, FileDisk(tmp_path)).engine
    assert in_file.history == simulate.run(seed).engine.history


class RetriesFirst(Lanes):
    """A retry is put at the head of its lane."""

    def add(self, task: Task) -> None:
        if task.attempts:
            task.key = -task.seq
        super().add(task)


class NoFairness(Lanes):
    """Strict priority, whatever was asked for."""

    def __init__(self, capacity: int, fairness: int | None, *others: Any) -> None:
        super().__init__(capacity, None, *others)


class HeldTakesTheTurn(Lanes):
    """A job that has to wait for its limit uses up the turn of its lane."""

    def pick(self, open_kinds: Any = (), suits: Any = None) -> Task | None:
        for lane in self._lanes:
            if lane.size and lane.first(open_kinds) is None:
                lane.passed_over = 0
                self._lanes[-1].passed_over = 0
        return super().pick(open_kinds, suits)


class ForgetsWorkers(Flight):
    """A worker that was given up is not replaced in the count of those that are idle."""

    def _check_time(self, batch: Batch, now: float) -> None:
        idle = self.idle
        super()._check_time(batch, now)
        self.idle = idle


class TakesBackForIdleWorkers(Flight):
    """What waits behind a slow job stays there, unless another worker has nothing to do."""

    def _take_unstarted(self, batch: Batch) -> int:
        return super()._take_unstarted(batch) if self.idle else 0


class NoLimit(Gate):
    def admits(self, kind: str, now: float) -> bool:
        return True


class NeverLetsGo(Gate):
    """What its limit has made wait once waits for ever."""

    def admits(self, kind: str, now: float) -> bool:
        return now == 0 and super().admits(kind, now)


class LimitsForgetToUndo(Gate):
    """Starts whose commit failed count all the same."""

    def undo(self) -> None:
        pass


class CountsPurged(Recorder):
    """Dead letters that were purged are still counted."""

    def moved(self, moves: Any, now: float) -> None:
        super().moved([move for move in moves if move.target is not None], now)


def one_retry_more(options: Options, attempt: int, permanent: bool, **how: Any) -> float | None:
    return None if attempt > options.max_retries + 1 else engine.BACKOFF.delay(attempt)


def no_fence(ledger: LocalLedger, outcomes: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
    """The outcome of an attempt that was given up counts like any other."""
    for _, batch in outcomes:
        for outcome in batch:
            task, failed = outcome.task, outcome.error is not None
            target = ledger._verdict(task, outcome) if failed else Status.COMPLETED
            ledger._move([task], Status.PROCESSING, target, task.token, [outcome])


def last_come_first_served(producers: Producers, request: Enqueue) -> None:
    JOIN(producers, request)
    for line in producers._lines.values():
        if request in line:
            line.move_to_end(request, last=False)


JOIN = Producers.join


def given_back_is_lost(ledger: LocalLedger, unstarted: Any) -> None:
    """It says so in the file, and nobody has it in mind."""
    TAKE_BACK(ledger, unstarted)
    for _, tasks in unstarted:
        for task in tasks:
            if task.status is Status.QUEUED:
                ledger._leave(task)


TAKE_BACK = LocalLedger._take_back


def cancelled_jobs_stay(ledger: LocalLedger, job_id: str) -> object:
    """Where they wait."""
    ledger._leave = lambda task: task.status  # type: ignore[method-assign,assignment,return-value]
    answer = CANCEL(ledger, job_id)
    del ledger._leave
    return answer


CANCEL = LocalLedger._cancel


def nothing_is_read_again(ledger: LocalLedger) -> None:
    """What could not be written has happened all the same."""
    ledger._unread.clear()


def retries_go_by_the_wall_clock(ledger: LocalLedger, task: Task, due: Any = None) -> None:
    """A delay that was counted here ends when the machine's clock says so."""
    PUT_IN(ledger, task)


PUT_IN = LocalLedger._put_in


def all_oldest_are_dropped(ledger: LocalLedger, priority: Any, count: int) -> None:
    """One more than there is need for."""
    DROP_OLDEST(ledger, priority, min(count + 1, ledger._lanes._by_priority[priority].size))


DROP_OLDEST = LocalLedger._drop_oldest


def answer_before_commit(producers: Producers, room: Any) -> Iterator[tuple[Enqueue, list[Task]]]:
    for request, tasks in TAKE(producers, room):
        if request.durable + len(tasks) == len(request.tasks):
            request.answer([task.id for task in request.tasks])
        yield request, tasks


TAKE = Producers.take


def one_taken_none_accepted(ledger: LocalLedger, new: Sequence[Sequence[Task]]) -> None:
    """One id is taken, so nothing of the request is accepted."""
    taken = ledger._file.taken([task.id for tasks in new for task in tasks])
    ADMIT(ledger, [[t for t in tasks if t.id in taken] or tasks for tasks in new])


ADMIT = LocalLedger._admit


def closed_to_handlers(dispatcher: Dispatcher, sender: Batch | None) -> bool:
    return not dispatcher._closes


INTERRUPTED = MemoryFile.interrupted


def recover_all_as_causes(file: MemoryFile) -> list[tuple[Task, float]]:
    found = INTERRUPTED(file)
    for task, _ in found:
        task.alone = True
    return found


def recover_the_last_as_causes(file: MemoryFile) -> list[tuple[Task, float]]:
    """The first crash is enough to take the last attempt."""
    found = INTERRUPTED(file)
    for task, _ in found:
        task.interrupted += 1
    return found


def recover_uncharged(file: MemoryFile) -> list[tuple[Task, float]]:
    found = INTERRUPTED(file)
    for task, _ in found:
        task.alone = False
    return found


WAITING = MemoryFile.waiting


def recover_without_scheduled(file: MemoryFile) -> Iterator[tuple[Task, float]]:
    return ((task, at) for task, at in WAITING(file) if task.status is not Status.SCHEDULED)


def recover_all_kinds(ledger: LocalLedger, now: float, wall: float) -> Given:
    ledger._handles = lambda kind: True
    return OPEN(ledger, now, wall)


OPEN = LocalLedger.open

Plant = tuple[object, str, Any]

FAULTS: dict[str, tuple[Plant, str]] = {
    "one attempt too many": ((Options, "retry_delay", one_retry_more), "max_retries"),
    "backoff starts at 2 s": ((engine, "BACKOFF", Backoff(2, 4, 0)), "waits 2 s, not 1 s"),
    "retries before their peers": ((local, "Lanes", RetriesFirst), "of its own lane"),
    "LOW starves": ((local, "Lanes", NoFairness), "picks at the head of the"),
    "jobs given back are lost": (
        (LocalLedger, "_take_back", given_back_is_lost),
        "is idle while|of its own lane",
    ),
    "cancelled jobs run": (
        (LocalLedger, "_cancel", cancelled_jobs_stay),
        "while it is (cancelled|dropped)|no row|with token",
    ),
    "no fencing": ((LocalLedger, "_end_attempts", no_fence), "given up|while it is"),
    "abandoned workers are not replaced": ((engine, "Flight", ForgetsWorkers), "is idle while"),
    "a slow job holds up those behind it": (
        (engine, "Flight", TakesBackForIdleWorkers),
        "behind a slow job",
    ),
    "a limited job takes the turn of others": (
        (local, "Lanes", HeldTakesTheTurn),
        "picks at the head of the",
    ),
    "limited jobs wait for ever": ((local, "Gate", NeverLetsGo), "is idle while|still awake"),
    "no limit": ((local, "Gate", NoLimit), "sooner than its limit"),
    "starts that were undone count": (
        (local, "Gate", LimitsForgetToUndo),
        "picks at the head of the|is idle while",
    ),
    "what was not written has happened": (
        (LocalLedger, "_read_again", nothing_is_read_again),
        "no row|with token|is idle while|metrics say",
    ),
    "after a failed commit the wall clock counts": (
        (LocalLedger, "_put_in", retries_go_by_the_wall_clock),
        "are due and still wait|too soon",
    ),
    "one too many is dropped": (
        (LocalLedger, "_drop_oldest", all_oldest_are_dropped),
        "was dropped, though there was room",
    ),
    "counts that do not add up": ((engine, "Recorder", CountsPurged), "metrics say"),
    "producers last come first served": (
        (Producers, "join", last_come_first_served),
        "whose producer was there first",
    ),
    "acknowledged before the commit": (
        (Producers, "take", answer_before_commit),
        "was told that all is in, but",
    ),
    "one id is taken and none is accepted": (
        (LocalLedger, "_admit", one_taken_none_accepted),
        "refused without a reason: DuplicateJob",
    ),
    "what handlers enqueue is refused while the queue closes": (
        (Dispatcher, "_may_enqueue", closed_to_handlers),
        "refused without a reason: QueueClosed",
    ),
    "all that was claimed is charged for a crash": (
        (MemoryFile, "interrupted", recover_all_as_causes),
        "has . attempts behind it",
    ),
    "one crash ends a job that never started": (
        (MemoryFile, "interrupted", recover_the_last_as_causes),
        "because of a single crash",
    ),
    "jobs without a handler are run": (
        (LocalLedger, "open", recover_all_kinds),
        "nobody handles|are due and|let into",
    ),
    "a crashed attempt is not charged": (
        (MemoryFile, "interrupted", recover_uncharged),
        "attempts behind it",
    ),
    "scheduled jobs are lost by a restart": (
        (MemoryFile, "waiting", recover_without_scheduled),
        "are due and still wait",
    ),
}


@pytest.mark.parametrize(("plant", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_caught(
    plant: Plant, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*plant)
    with pytest.raises(AssertionError, match=sentence):
        live(seeds=1_000)


def test_a_broken_seed_is_shown_with_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "retry_delay", one_retry_more)
    console = Console(record=True, width=100)
    assert simulate.run_many(simulate.AT_A_TIME, console) == 1
    text = console.export_text()
    assert "breaks the contract" in text
    assert "producer 1" in text
    seed = text.split("SEED=")[1].split()[0]
    again = Console(record=True, width=100)
    assert simulate.replay(int(seed), again) == 1
    assert again.export_text().strip() in text
