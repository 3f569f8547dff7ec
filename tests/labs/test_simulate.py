"""The simulation: 100 lives in CI, the same in memory and on a disk, and what it must catch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from rich.console import Console

from final.beyond.kinds import Policy
from final.engine.dispatcher import Dispatcher
from final.engine.flight import Flight
from final.engine.messages import Enqueue
from final.engine.metrics import Recorder
from final.engine.producers import Producers
from final.errors import QueueClosed
from final.job import Outcome, Status, Task
from final.ledger import admission, index, local
from final.ledger.base import Given, Move, Offer
from final.ledger.caps import Caps
from final.ledger.features import dependencies, periodic
from final.ledger.features.dependencies import Dependencies
from final.ledger.features.keys import Holder, Keys
from final.ledger.features.periodic import Periodic
from final.ledger.groups import GroupLanes, GroupLine
from final.ledger.index import Index
from final.ledger.limits import Gate
from final.ledger.local import LocalLedger
from final.ledger.orders import Orders
from final.ledger.picking import Picker
from final.ledger.sqlite import SqliteFile
from final.options import Backoff
from final.workers.batch import Batch
from tests.helpers import DEADLINE
from tests.labs import engine, simulate
from tests.labs.engine import FileDisk
from tests.labs.simulate import Life


@pytest.mark.timeout(0 if "SEEDS" in os.environ else 60)
def test_every_life_keeps_the_contract() -> None:
    live(int(os.environ.get("SEEDS", "100")))


def live(seeds: int) -> None:
    for seed in range(seeds):
        simulate.run(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_has_one_life(seed: int) -> None:
    assert simulate.run(seed).engine.history == simulate.run(seed).engine.history


@pytest.mark.parametrize("seed", range(100, 110))
def test_a_life_on_a_disk_is_the_same(seed: int, tmp_path: Path) -> None:
    in_file = simulate.run(seed, FileDisk(tmp_path)).engine
    assert in_file.history == simulate.run(seed).engine.history


class RetriesFirst(GroupLanes):
    """A retry is put at the head of its lane."""

    def add(self, task: Task, place: float | None = None) -> None:
        if task.attempts:
            task.key = -task.seq
        super().add(task, place)


class NoFairness(GroupLanes):
    """Strict priority, whatever was asked for."""

    def __init__(self, capacity: int, fairness: int | None, *others: Any) -> None:
        super().__init__(capacity, None, *others)


class HeldTakesTheTurn(GroupLanes):
    """A job that has to wait for its limit uses up the turn of its lane."""

    def pick(self, suits: Any = None) -> Task | None:
        for lane in self._lanes:
            if lane.size and lane.first() is None:
                lane.start_anew()
                self._lanes[-1].start_anew()
        return super().pick(suits)


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


class HandedOutIsGone(Flight):
    """What a worker has in its hands starts, whatever has been paused since."""

    def recall(self, running: bool = False) -> int:
        return super().recall(running) if running else 0


class NothingIsPaused(Picker):
    def pause(self, paused: Any, now: float) -> None:
        """What for?"""


class NothingIsResumed(Picker):
    paused: frozenset[Any] = frozenset()

    def pause(self, paused: Any, now: float) -> None:
        self.paused |= paused
        super().pause(self.paused, now)


class NoTurns(GroupLanes):
    """The next of a group stands in the lane where it came, and not at its end."""

    def _come_forward(self, line: GroupLine, task: Task, place: float | None = None) -> None:
        first = line.behind.head().key if line.behind.size else None
        super()._come_forward(line, task, first)


class FullForEver(GroupLanes):
    """A group of which as many run as may never goes on."""

    def release_group(self, group: str) -> None:
        pass


class NoLimit(Gate):
    def is_open(self, now: float) -> bool:
        return True

    def opens_at(self, kind: str, now: float) -> float:
        return now


class NeverLetsGo(Gate):
    """What its limit has made wait once waits for ever."""

    def opens_at(self, kind: str, now: float) -> float:
        return now if now == 0 >= super().opens_at(kind, now) else math.inf


class LimitsForgetToUndo(Gate):
    """Starts whose commit failed count all the same."""

    def undo(self) -> list[str]:
        return []


class CountsPurged(Recorder):
    """Dead letters that were purged are still counted."""

    def moved(self, moves: Any, now: float, recounted: Any = ()) -> None:
        super().moved([move for move in moves if move.target is not None], now, recounted)


def one_retry_more(policy: Policy, attempt: int, permanent: bool, say: Any) -> float | None:
    return None if attempt > policy.max_retries + 1 else engine.BACKOFF.delay(attempt)


def no_fence(ledger: LocalLedger, outcomes: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
    """The outcome of an attempt that was given up counts like any other."""
    for _, batch in outcomes:
        for outcome in batch:
            task, done = outcome.task, outcome.error is None and outcome.again is None
            target = Status.COMPLETED if done else ledger._verdict(task, outcome)
            ledger._index.move([task], Status.PROCESSING, target, task.token, [outcome])


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
                ledger._index.leave(task)


TAKE_BACK = LocalLedger._take_back


def cancelled_jobs_stay(orders: Orders, job_id: str) -> object:
    """Where they wait."""
    with mock.patch.object(orders._index, "leave", lambda task: task.status):
        return CANCEL(orders, job_id)


CANCEL = Orders._cancel


def nothing_is_read_again(ledger: LocalLedger) -> None:
    """What could not be written has happened all the same."""
    ledger._unread.clear()


def retries_go_by_the_wall_clock(index: Index, task: Task, due: Any = None) -> None:
    """A delay that was counted here ends when the machine's clock says so."""
    PUT_IN(index, task)


PUT_IN = Index.put_in


def all_oldest_are_dropped(ledger: LocalLedger, new: Any, room: Any) -> None:
    """One more than there is need for."""
    DROP_OLDEST(ledger, new, room)
    for task in new:
        if room[task.priority] < 0 and ledger._lanes.head(task.priority):
            displaced = ledger._lanes.displaced_by(task)
            ledger._index.leave(displaced)
            ledger._index.move([displaced], Status.QUEUED, Status.DROPPED)
            break


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


def keys_are_held_for_ever(holder: Holder, wall: float) -> bool:
    return True


def keys_are_held_till_started(holder: Holder, wall: float) -> bool:
    """Whatever was asked for."""
    return holder.waits and not holder.attempts


def end_as_completed(dependencies: Dependencies, status: Status, *others: Any) -> None:
    """A parent that fails is a parent that has ended."""
    NOTE(dependencies, Status.COMPLETED, *others)


NOTE = Dependencies._note


def releases_are_in_memory(dependencies: Dependencies) -> None:
    """Another process does not look for those that are left."""


INTERRUPTED = SqliteFile.interrupted


def recover_all_as_causes(file: SqliteFile) -> list[tuple[Task, float]]:
    found = INTERRUPTED(file)
    for task, _ in found:
        task.alone = True
    return found


def recover_the_last_as_causes(file: SqliteFile) -> list[tuple[Task, float]]:
    """The first crash is enough to take the last attempt."""
    found = INTERRUPTED(file)
    for task, _ in found:
        task.interrupted += 1
    return found


def recover_uncharged(file: SqliteFile) -> list[tuple[Task, float]]:
    found = INTERRUPTED(file)
    for task, _ in found:
        task.alone = False
    return found


def snoozes_are_charged(file: SqliteFile, moves: Sequence[Move], wall: float) -> None:
    """Who puts off a job has used up an attempt of it."""
    WRITE(file, moves, wall)
    for move in moves:
        if (move.source, move.target) == (Status.PROCESSING, Status.SCHEDULED):
            for task in move.tasks:
                file.execute("UPDATE job SET attempts = attempts + 1 WHERE seq = ?", [task.seq])


WRITE = SqliteFile.write


WAITING = SqliteFile.waiting


def recover_without_scheduled(file: SqliteFile) -> Iterator[tuple[Task, float]]:
    return ((task, at) for task, at in WAITING(file) if task.status is not Status.SCHEDULED)


def recover_all_kinds(ledger: LocalLedger, now: float, wall: float) -> Given:
    ledger._index.handles = lambda kind: True
    return OPEN(ledger, now, wall)


OPEN = LocalLedger.open


def whoever_closes(ledger: LocalLedger, offer: Offer) -> Given:
    """Ticks go on."""
    offer.closing = False
    return EXCHANGE(ledger, offer)


EXCHANGE = LocalLedger.exchange

Plant = tuple[object, str, Any]

FAULTS: dict[str, tuple[Plant, str]] = {
    "one attempt too many": ((Policy, "retry_delay", one_retry_more), "max_retries"),
    "backoff starts at 2 s": ((engine, "BACKOFF", Backoff(2, 4, 0)), "waits 2 s, not 1 s"),
    "retries before their peers": (
        (index, "GroupLanes", RetriesFirst),
        "of its own lane|which was there first|a second time while",
    ),
    "LOW starves": ((index, "GroupLanes", NoFairness), "picks at the head of the"),
    "jobs given back are lost": (
        (LocalLedger, "_take_back", given_back_is_lost),
        "is idle while|of its own lane|which is full|at the head of the|was claimed while|__len__",
    ),
    "cancelled jobs run": (
        (Orders, "_cancel", cancelled_jobs_stay),
        "while it is (cancelled|dropped)|another process|which has some",
    ),
    "no fencing": (
        (LocalLedger, "_end_attempts", no_fence),
        "given up|while it is|another process",
    ),
    "abandoned workers are not replaced": ((engine, "Flight", ForgetsWorkers), "is idle while"),
    "a slow job holds up those behind it": (
        (engine, "Flight", TakesBackForIdleWorkers),
        "behind a slow job|is started, and it is paused|would still be started",
    ),
    "a limited job takes the turn of others": (
        (index, "GroupLanes", HeldTakesTheTurn),
        "picks at the head of the",
    ),
    "limited jobs wait for ever": ((local, "Gate", NeverLetsGo), "is idle while|still awake"),
    "pauses hold nothing": ((index, "Picker", NothingIsPaused), "sooner than its limit|is paused"),
    "what is resumed is held": ((index, "Picker", NothingIsResumed), "is idle while"),
    "handed out and paused, it starts": (
        (engine, "Flight", HandedOutIsGone),
        "is started, and it is paused|would still be started",
    ),
    "groups have no turns": ((index, "GroupLanes", NoTurns), "a second time while"),
    "a full group is served": ((Caps, "is_full", lambda caps, group: False), "others of group"),
    "a full group waits for ever": ((index, "GroupLanes", FullForEver), "is idle while"),
    "nobody holds a key": ((Keys, "holder", lambda keys, task: None), "came in, though"),
    "a key is let go of at the start": (
        (Holder, "holds", keys_are_held_till_started),
        "came in, though",
    ),
    "keys are held for ever": ((Holder, "holds", keys_are_held_for_ever), "was not let in because"),
    "nothing is replaced": (
        (admission, "_replace", lambda *what: None),
        "was to be replaced",
    ),
    "one parent is enough": (
        (dependencies, "STILL_OPEN", "SELECT 0 WHERE ? IS NULL"),
        "before its parents had ended",
    ),
    "children of those that failed run": (
        (Dependencies, "_note", end_as_completed),
        "though a parent has failed",
    ),
    "a failed parent cancels those that are to run": (
        (dependencies, "NEXT", dependencies.NEXT.replace(" if_failed,", " 'cancel' AS if_failed,")),
        "no parent has failed",
    ),
    "a crash loses a release": (
        (Dependencies, "open", releases_are_in_memory),
        "still wait for|need it",
    ),
    "the history lets go of parents": (
        (Dependencies, "forgettable", lambda dependencies, seqs: seqs),
        "need it",
    ),
    "no limit": ((local, "Gate", NoLimit), "sooner than its limit"),
    "starts that were undone count": (
        (local, "Gate", LimitsForgetToUndo),
        "picks at the head of the|is idle while|of its own lane",
    ),
    "what was not written has happened": (
        (LocalLedger, "_read_again", nothing_is_read_again),
        "no row|another process|is idle while|metrics say|never come to their end|not in the queue",
    ),
    "after a failed commit the wall clock counts": (
        (Index, "put_in", retries_go_by_the_wall_clock),
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
        (SqliteFile, "interrupted", recover_all_as_causes),
        "has . attempts behind it",
    ),
    "one crash ends a job that never started": (
        (SqliteFile, "interrupted", recover_the_last_as_causes),
        "because of a single crash|is idle while",
    ),
    "jobs without a handler are run": (
        (LocalLedger, "open", recover_all_kinds),
        "nobody handles|are due and|let into",
    ),
    "a crashed attempt is not charged": (
        (SqliteFile, "interrupted", recover_uncharged),
        "attempts behind it",
    ),
    "a snooze is charged": (
        (SqliteFile, "write", snoozes_are_charged),
        "attempts behind it|max_retries|waits 2 s, not 1 s",
    ),
    "a tick that was not written has had its job": (
        (Periodic, "undo", lambda periodic: None),
        "A tick has come, and no job of it|ticks were passed over",
    ),
    "a tick comes again after a restart": (
        (periodic, "MOVE_ON", f"{periodic.MOVE_ON} AND false"),
        "has had its job",
    ),
    "a queue that closes makes jobs of its own": (
        (LocalLedger, "exchange", whoever_closes),
        "came in while the queue closes|still awake",
    ),
    "scheduled jobs are lost by a restart": (
        (SqliteFile, "waiting", recover_without_scheduled),
        "are due and still wait",
    ),
}


# What takes a rare meeting of events to be seen. They come more often than all others then, so that
# a hundred lives show it, and not a thousand.
MEETINGS = {
    "no fencing": [Life.time_passes],
    "starts that were undone count": [Life.disk_fills],
    "after a failed commit the wall clock counts": [Life.disk_fills, Life.clock_jumps],
    "what handlers enqueue is refused while the queue closes": [
        Life.handler_enqueues,
        Life.queue_closes,
    ],
    "a snooze is charged": [Life.handler_snoozes, Life.process_ends],
    "a tick that was not written has had its job": [
        Life.disk_fills,
        Life.time_passes,
        Life.clock_jumps,
    ],
    "a queue that closes makes jobs of its own": [Life.queue_closes, Life.clock_jumps],
}
OFTEN = 40


@pytest.mark.slow
@pytest.mark.timeout(300)  # the machine may be busy with other things
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, sentence = FAULTS[fault]
    monkeypatch.setattr(*plant)
    for event in MEETINGS.get(fault, ()):
        monkeypatch.setitem(simulate.WEIGHTS, event, OFTEN)
    # Or the fence finds it.
    with pytest.raises((AssertionError, ValueError, QueueClosed), match=sentence):
        live(seeds=3_000)


def test_after_a_broken_seed_no_more_are_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what is shown of it holds on to the frames it came through."""
    monkeypatch.setattr(Policy, "retry_delay", one_retry_more)
    _, seed = simulate.live_through(range(simulate.AT_A_TIME))
    closed = []

    def outcomes(pieces: object) -> Iterator[tuple[Counter[str], int | None]]:
        try:
            while True:
                yield Counter(), seed
        finally:
            closed.append(True)

    monkeypatch.setattr(simulate, "_outcomes", outcomes)
    assert simulate.run_many(range(10), Console(record=True)) == 1
    assert closed


def test_a_broken_seed_is_shown_with_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "retry_delay", one_retry_more)
    console = Console(record=True, width=100)
    assert simulate.run_many(range(simulate.AT_A_TIME), console) == 1
    text = console.export_text()
    assert "breaks the contract" in text
    assert "producer 1" in text
    seed = text.split("SEED=")[1].split()[0]
    again = Console(record=True, width=100)
    assert simulate.replay(int(seed), again) == 1
    assert again.export_text().strip() in text


ENDLESS = """
import time
from tests.labs.cores import on_all_cores

if __name__ == "__main__":
    with on_all_cores() as processes:
        print(processes.submit(abs, -1).result(), flush=True)
        processes.submit(time.sleep, 3600).result()
"""


def test_killed_it_leaves_no_process_that_computes(tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text(ENDLESS)
    command, paths = [sys.executable, str(program)], os.pathsep.join(sys.path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        children = psutil.Process(process.pid).children()
        process.kill()
        _, left = psutil.wait_procs(children, timeout=DEADLINE)
    assert children
    assert left == []
