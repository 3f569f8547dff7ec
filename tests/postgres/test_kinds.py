"""Kinds with policies of their own, where several processes run their jobs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from final import Job, Kind, QueueFull, Status
from final.ledger.postgres import room, window
from final.ledger.postgres.witness import host
from tests.final.helpers import nothing
from tests.helpers import DEADLINE, Gate, Journal
from tests.host import Host
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_groups import tokens
from tests.postgres.test_processes import becomes, poll_again, sql

LONG = 3 * DEADLINE


def test_no_more_of_a_kind_run_in_all_processes_together(open_queue: OpenQueue) -> None:
    lock, running, most = threading.Lock(), 0, 0
    three = threading.Barrier(3)

    def handler(job: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if job.payload == "meet":
            three.wait(DEADLINE)
        time.sleep(0.005)
        with lock:
            running -= 1

    kinds = {"mine": Kind(handler, workers=3), "other": nothing}
    one, other = (open_queue(kinds, workers=4) for _ in range(2))
    one.enqueue_many([Job(payload="meet", kind="mine") for _ in range(3)])
    for queue in (one, other):
        queue.enqueue_many([Job(kind=kind) for _ in range(20) for kind in kinds])
    one.join(LONG)
    assert {record.status for record in one.jobs()} == {Status.COMPLETED}
    assert most == 3


def test_others_pass_however_many_of_a_full_kind_wait_before_them(
    open_queue: OpenQueue, gate: Gate
) -> None:
    started = Journal()

    def hold(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = open_queue({"mine": Kind(hold, workers=1), "other": nothing}, workers=3)
    ids = [f"{n:03}" for n in range(400)]
    queue.enqueue_many([Job(job_id, kind="mine") for job_id in ids])
    others = queue.enqueue_many([Job(kind="other") for _ in range(20)])
    for job_id in others:
        queue.wait(job_id, LONG)
    assert started.entries == ["000"]
    gate.open()
    started.wait_for_count(20)
    assert started.entries[:20] == ids[:20], "They have kept their places."


def test_a_suspect_of_a_full_kind_waits_and_nobody_asks_for_it_all_the_time(
    open_queue: OpenQueue, address: str
) -> None:
    gate, started = Gate(), Journal()

    def hold(job: Job) -> None:
        started.write(job.id)
        gate.wait()

    queue = open_queue({"mine": Kind(hold, workers=1)}, workers=2)
    queue.enqueue(Job("first", kind="mine"))
    started.wait_for("first")
    queue.enqueue(Job("suspect", kind="mine"))
    # As after two crashes while it was alone.
    sql(address, "UPDATE jobqueue.job SET suspect = true, interrupted = 2 WHERE id = 'suspect'")
    poll_again([queue])  # that finds it
    before = tokens(address)
    for _ in range(3):
        poll_again([queue])
    assert tokens(address) - before < 50, "a turn takes a token"
    gate.open()
    started.wait_for("suspect")


def test_a_killed_process_holds_no_place(open_queue: OpenQueue, address: str) -> None:
    """Nor does one that was counted before it went."""
    started = Journal()
    kinds = {"mine": Kind(lambda job: started.write(job.id), workers=2)}
    with Host(address, 2, host(), {"workers": 2}) as process:
        process.wait_for("ready")
        queue = open_queue(kinds, workers=4)
        queue.enqueue_many([Job(str(n), "held", kind="mine") for n in range(4)])
        becomes(lambda: len(queue.jobs(Status.PROCESSING)) + len(started.entries) >= 2)
        process.kill()
    started.wait_for_count(4)


def test_who_takes_over_judges_by_the_numbers_of_the_process_that_ran_it(
    open_queue: OpenQueue, address: str
) -> None:
    """It does not run the kind, so it has never heard how often that may be tried."""
    stranger = open_queue({"default": nothing}, workers=1, max_retries=0)
    bringer = open_queue(workers=0)
    bringer.enqueue(Job("x", "held", kind="mine"))
    for attempts in (1, 2, 3):
        with Host(address, 1, host(), {"max_retries": 2}) as process:
            process.wait_for("started x")
            process.kill()
            becomes(lambda: stranger.get("x").status is not Status.PROCESSING)
        assert stranger.get("x").attempts == attempts
    record = stranger.get("x")
    assert record.status is Status.FAILED
    assert record.error == "The process ended during attempt 3, the last one."


def test_of_a_kind_with_one_worker_jobs_start_in_order(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look finds many that may not start yet: the next one begins at them, not behind."""
    monkeypatch.setattr(window, "MARGIN", 0)
    started: list[object] = []
    one_at_a_time = Kind(lambda job: started.append(job.payload), workers=1)
    queue = open_queue({"a": one_at_a_time}, workers=8)
    queue.pause()
    queue.enqueue_many([Job(payload=n, kind="a") for n in range(60)])
    queue.resume()
    queue.join(DEADLINE)
    assert started == [*range(60)]


def test_jobs_that_run_elsewhere_fill_the_lane_for_all(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not run them looks beyond them, and counts them all the same."""
    monkeypatch.setattr(window, "MARGIN", 0)
    monkeypatch.setattr(room, "BELIEVED_SECONDS", 0.0)
    options: dict[str, Any] = {"capacity": 20, "overflow": "reject"}
    elsewhere = open_queue({"theirs": nothing}, workers=0, **options)
    elsewhere.enqueue_many([Job(kind="theirs") for _ in range(20)])
    queue = open_queue({"ours": nothing}, **options)
    for _ in range(4):
        with pytest.raises(QueueFull):
            queue.enqueue(Job(kind="ours"))
        poll_again([queue])
