"""The simulation: 200 lives in CI, the same on both stores, and what it must catch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from final import dispatcher, recovery
from final.batches import Batches
from final.dispatcher import Dispatcher, Rules
from final.job import Status, Task
from final.lanes import Lanes
from final.limits import Gate
from final.lines import Lines
from final.messages import Batch, Enqueue
from final.metrics import Recorder
from final.retry import Backoff
from final.stores.base import Recovered
from tests.labs import engine, simulate
from tests.labs.engine import FileDisk
from tests.labs.memory_store import MemoryStore


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
def test_the_store_in_memory_does_what_sqlite_does(seed: int, tmp_path: Path) -> None:
    in_file = simulate.run(seed, FileDisk(tmp_path)).engine
    assert in_file.history == simulate.run(seed).engine.history


class RetriesFirst(Lanes):
    """A retry is put at the head of its lane."""

    def append(self, task: Task) -> None:
        waiting = self._by_priority[task.priority].tasks
        (waiting.appendleft if task.attempts else waiting.append)(task)


class NoFairness(Lanes):
    """Strict priority, whatever was asked for."""

    def __init__(self, capacity: int, fairness: int | None) -> None:
        super().__init__(capacity, None)


class NoPuttingBack(Lanes):
    """What was handed out and not started is forgotten."""

    def put_back(self, tasks: Any) -> None:
        if tasks is self._picked:  # that is undoing
            super().put_back(tasks)


class NoRemoving(Lanes):
    """A cancelled job stays in its lane."""

    def remove(self, task: Task) -> None:
        pass


class NoFence(Batches):
    """The outcome of an attempt that was given up counts like any other."""

    def hand_in(self, batch: Batch) -> Any:
        for outcome in batch.outcomes:
            batch.token = outcome.task.token
        return super().hand_in(batch)


class ForgetsWorkers(Batches):
    """A worker that was given up is not replaced in the count of those that are idle."""

    def abandon(self, batch: Batch) -> Any:
        try:
            return super().abandon(batch)
        finally:
            self.idle -= 1


class TakesBackForIdleWorkers(Batches):
    """What waits behind a slow job stays there, unless another worker has nothing to do."""

    def look_after(self, now: float) -> Any:
        return super().look_after(now) if self.idle else ([], [])


class HeldTakesTheTurn(Lanes):
    """A job that has to wait for its limit uses up the turn of its lane."""

    def hold(self, task: Task) -> None:
        self._turn = [lane.passed_over for lane in self._lanes]
        super().hold(task)


class NeverLetsGo(Lanes):
    """What is held for its limit once is held for ever."""

    def release(self, kind: str, at_most: int) -> None:
        pass


class NoLimit(Gate):
    def admits(self, kind: str, now: float) -> bool:
        return True


class LimitsForgetToUndo(Gate):
    """Starts whose commit failed count all the same."""

    def restore(self, state: list[tuple[float, float]]) -> None:
        pass


class CountsPurged(Recorder):
    """Dead letters that were purged are still counted."""

    def purged(self, tasks: Any) -> None:
        pass


def one_retry_more(max_retries: int, *others: Any) -> Rules:
    return Rules(max_retries + 1, *others)


def last_come_first_served(lines: Lines, request: Enqueue) -> None:
    lines._lines[request.tasks[0].priority].appendleft(request)


ADMIT = Lines.admit


def answer_before_commit(lines: Lines, *arguments: Any) -> list[Enqueue]:
    served = ADMIT(lines, *arguments)
    for request in served:
        if request.planned == len(request.tasks):
            request.answer([task.id for task in request.tasks])
    return served


def cut_nothing_accepted(request: Enqueue, taken: Any) -> None:
    """One id is taken, so nothing more of the request is accepted."""
    request._cut(request.durable, sorted(taken))


def closed_to_handlers(dispatcher: Dispatcher, sender: Batch | None) -> bool:
    return not dispatcher._closes


RECOVER = MemoryStore.recover


def recover_all_as_causes(store: MemoryStore) -> Recovered:
    recovered = RECOVER(store)
    for task, *_ in recovered.unfinished:
        task.alone = True
    return recovered


def recover_the_last_as_causes(store: MemoryStore) -> Recovered:
    """The first crash is enough to take the last attempt."""
    recovered = RECOVER(store)
    for task, status, *_ in recovered.unfinished:
        task.interrupted += status is Status.PROCESSING
    return recovered


def recover_all_kinds(*arguments: Any, handles: Any, **others: Any) -> Recovered:
    return recovery.recover(*arguments, handles=lambda kind: True, **others)


def recover_uncharged(store: MemoryStore) -> Recovered:
    recovered = RECOVER(store)
    for job in recovered.unfinished:
        job.task.attempts -= job.status is Status.PROCESSING
    return recovered


def recover_without_scheduled(store: MemoryStore) -> Recovered:
    recovered = RECOVER(store)
    waiting = [job for job in recovered.unfinished if job.status is not Status.SCHEDULED]
    return recovered._replace(unfinished=waiting)


Plant = tuple[object, str, Any]

FAULTS: dict[str, tuple[Plant, str]] = {
    "one attempt too many": ((engine, "Rules", one_retry_more), "max_retries"),
    "backoff starts at 2 s": ((engine, "BACKOFF", Backoff(2, 4, 0)), "waits 2 s, not 1 s"),
    "retries before their peers": ((engine, "Lanes", RetriesFirst), "of its own lane"),
    "LOW starves": ((engine, "Lanes", NoFairness), "picks at the head of the"),
    "jobs given back are lost": ((engine, "Lanes", NoPuttingBack), "is idle while"),
    "cancelled jobs run": ((engine, "Lanes", NoRemoving), "while it is (cancelled|dropped)|no row"),
    "no fencing": ((engine, "Batches", NoFence), "that was given up|while it is"),
    "abandoned workers are not replaced": ((engine, "Batches", ForgetsWorkers), "is idle while"),
    "a slow job holds up those behind it": (
        (engine, "Batches", TakesBackForIdleWorkers),
        "behind a slow job",
    ),
    "a limited job takes the turn of others": (
        (engine, "Lanes", HeldTakesTheTurn),
        "picks at the head of the",
    ),
    "limited jobs wait for ever": ((engine, "Lanes", NeverLetsGo), "is idle while"),
    "no limit": ((engine, "Gate", NoLimit), "sooner than its limit"),
    "starts that were undone count": (
        (engine, "Gate", LimitsForgetToUndo),
        "picks at the head of the|is idle while",
    ),
    "counts that do not add up": ((engine, "Recorder", CountsPurged), "metrics say"),
    "producers last come first served": (
        (Lines, "join", last_come_first_served),
        "whose producer was there first",
    ),
    "acknowledged before the commit": (
        (Lines, "admit", answer_before_commit),
        "was told that all is in, but",
    ),
    "one id is taken and none is accepted": (
        (Enqueue, "cut", cut_nothing_accepted),
        "refused without a reason: DuplicateJob",
    ),
    "what handlers enqueue is refused while the queue closes": (
        (Dispatcher, "_may_enqueue", closed_to_handlers),
        "refused without a reason: QueueClosed",
    ),
    "all that was claimed is charged for a crash": (
        (MemoryStore, "recover", recover_all_as_causes),
        "has . attempts behind it",
    ),
    "one crash ends a job that never started": (
        (MemoryStore, "recover", recover_the_last_as_causes),
        "because of a single crash",
    ),
    "jobs without a handler are run": (
        (dispatcher, "recover", recover_all_kinds),
        "nobody handles|are due and|let into",
    ),
    "a crashed attempt is not charged": (
        (MemoryStore, "recover", recover_uncharged),
        "attempts behind it",
    ),
    "scheduled jobs are lost by a restart": (
        (MemoryStore, "recover", recover_without_scheduled),
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
    monkeypatch.setattr(engine, "Rules", one_retry_more)
    console = Console(record=True, width=100)
    assert simulate.run_many(simulate.AT_A_TIME, console) == 1
    text = console.export_text()
    assert "breaks the contract" in text
    assert "producer 1" in text
    seed = text.split("SEED=")[1].split()[0]
    again = Console(record=True, width=100)
    assert simulate.replay(int(seed), again) == 1
    assert again.export_text().strip() in text
