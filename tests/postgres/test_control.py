"""Pause and scale where several processes share a queue: a pause holds for all, workers are own."""

from __future__ import annotations

import math

import pytest

from final import Job, Kind, Pause, Priority, QueueFull, Status
from final.ledger.postgres.witness import host
from tests.final.helpers import AT_ONCE, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal
from tests.host import Host
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes, ledger, sql

LONG = 3 * DEADLINE
EVERYTHING = [{}, {"kind": "mail"}, {"priority": "low"}, {"group": "a"}]


@pytest.mark.parametrize("what", EVERYTHING, ids=["queue", "kind", "lane", "group"])
def test_it_holds_for_all_processes_and_for_one_that_comes_later(
    open_queue: OpenQueue, what: dict[str, str]
) -> None:
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)

    one, other = (open_queue(handler) for _ in range(2))
    one.pause(**what)
    becomes(lambda: bool(other.metrics().paused))
    later = open_queue(handler)
    for number, queue in enumerate((one, other, later)):
        queue.enqueue(Job(f"held-{number}", kind="mail", priority=Priority.LOW, group="a"))
        queue.enqueue(Job(f"free-{number}"))
    if what:
        for number in range(3):
            one.wait(f"free-{number}", LONG)
    assert not [job_id for job_id in started.entries if job_id.startswith("held")]
    assert {one.status(f"held-{number}") for number in range(3)} == {Status.QUEUED}
    assert one.paused() == other.paused() == later.paused() != []
    other.resume(**what)
    for number in range(3):
        assert one.wait(f"held-{number}", LONG).status is Status.COMPLETED
        assert one.wait(f"free-{number}", LONG).status is Status.COMPLETED
    assert one.paused() == []


def test_a_paused_kind_keeps_its_places_and_lets_others_pass(open_queue: OpenQueue) -> None:
    started = Journal()

    def mail(job: Job) -> None:
        started.write(job.id)

    queue = open_queue({"mail": mail, "other": nothing}, workers=1)
    queue.pause(kind="mail")
    ids = [f"{n:03}" for n in range(300)]
    queue.enqueue_many([Job(job_id, kind="mail") for job_id in ids])
    for job_id in queue.enqueue_many([Job(kind="other") for _ in range(20)]):
        assert queue.wait(job_id, LONG).status is Status.COMPLETED
    assert started.entries == []
    queue.resume(kind="mail")
    started.wait_for_count(300)
    assert started.entries == ids


def test_behind_thousands_that_are_paused_nothing_is_forgotten(
    open_queue: OpenQueue, address: str
) -> None:
    """Looks begin behind them; what comes back to its place before that is found all the same."""
    queue = open_queue(handler=None, workers=0, capacity=10_000)
    queue.pause(kind="mail")
    with Host(address, 1, host()) as process:
        process.wait_for("ready")
        held = queue.enqueue(Job("held", "held"))
        process.wait_for("started held")
        queue.enqueue_many([Job(kind="mail") for _ in range(4_000)])
        runner = open_queue(workers=2, capacity=10_000)
        for _ in range(3):
            runner.wait(runner.enqueue(Job()), LONG)
        assert runner._ledger._memory.beyond  # type: ignore[attr-defined]
        process.kill()
    assert runner.wait(held, LONG).status is Status.COMPLETED
    queue.resume(kind="mail")
    queue.join(LONG)
    assert queue.metrics().completed == 4_004


def test_another_process_resumes_after_the_one_that_paused_was_killed(
    open_queue: OpenQueue, address: str
) -> None:
    queue = open_queue(workers=0, handler=None)
    with Host(address, 2, host(), {"workers": 2}) as process:
        process.wait_for("ready")
        queue.pause(kind="mine")
        queue.wait(queue.enqueue(Job()), LONG)  # a turn that had begun before may not know
        held = queue.enqueue(Job(kind="mine"))
        queue.wait(queue.enqueue(Job()), LONG)
        assert queue.status(held) is Status.QUEUED
        process.kill()
    with Host(address, 2, host()) as process:
        process.wait_for("ready")
        queue.wait(queue.enqueue(Job()), LONG)
        assert (queue.status(held), queue.paused()) == (Status.QUEUED, [Pause(kind="mine")])
        queue.resume(kind="mine")
        assert queue.wait(held, LONG).status is Status.COMPLETED


def test_what_runs_goes_on_and_its_retries_wait(open_queue: OpenQueue, gate: Gate) -> None:
    started = Journal()

    def handler(job: Job) -> None:
        started.write(job.id)
        gate.wait()
        raise ValueError("no")

    one, other = (open_queue(handler, workers=1, max_retries=1) for _ in range(2))
    job_id = one.enqueue(Job())
    started.wait_for(job_id)
    other.pause()
    gate.open()
    becomes(lambda: one.status(job_id) is Status.QUEUED)
    assert len(one.attempts(job_id)) == 1
    one.resume()
    assert one.wait(job_id, LONG).status is Status.FAILED


@pytest.mark.parametrize("what", [{"group": "a"}, {"priority": "low"}], ids=["group", "lane"])
def test_a_suspect_that_is_paused_lets_the_next_one_go(
    open_queue: OpenQueue, address: str, what: dict[str, str]
) -> None:
    """Jobs that may have ended their process run one at a time, but not only the first of them."""
    queue = open_queue(handler=None, workers=0)
    with Host(address, 2, host(), {"max_retries": 0}) as process:
        process.wait_for("ready")
        queue.enqueue(Job("a", "held", "low", "mine", group="a"))  # the first of them
        queue.enqueue(Job("b", "held", kind="mine", group="b"))
        becomes(lambda: len(queue.jobs(Status.PROCESSING)) == 2)
        queue.pause(**what)
        process.kill()
    runner = open_queue({"mine": Kind(nothing, max_retries=0)}, workers=2)
    assert runner.wait("b", LONG).status is Status.COMPLETED
    assert runner.status("a") is Status.QUEUED
    runner.resume(**what)
    assert runner.wait("a", LONG).status is Status.COMPLETED


def test_what_comes_in_is_not_claimed_as_it_does(open_queue: OpenQueue) -> None:
    """Where nothing waits, a new job is claimed by the statement that brings it."""
    queue = open_queue(lambda job: None, workers=2)
    queue.pause(kind="mail")
    for number in range(20):
        queue.enqueue(Job(f"held-{number}", kind="mail"))
        queue.wait(queue.enqueue(Job()), LONG)
    assert len(queue.jobs(Status.QUEUED, kind="mail")) == 20
    queue.resume(kind="mail")
    queue.join(LONG)


def test_a_paused_queue_sleeps_between_two_polls(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.pause()
    queue.enqueue(Job())
    queue.metrics()
    given = queue._dispatcher._given
    assert (given.ready, given.next_start) == (0, math.inf)


def test_a_paused_queue_that_closes_waits_for_nobody(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.pause(kind="mail")
    held, free = queue.enqueue(Job(kind="mail")), queue.enqueue(Job())
    assert Background(queue.close, True, None).result(LONG) is False
    assert (queue.status(held), queue.status(free)) == (Status.QUEUED, Status.COMPLETED)


def test_a_handler_that_waits_for_a_paused_job_is_turned_away_at_the_end(
    open_queue: OpenQueue,
) -> None:
    tries = Journal()

    def handler(job: Job) -> None:
        tries.write(job.id)
        queue.wait("held")

    queue = open_queue({"asks": handler, "mail": nothing})
    queue.pause(kind="mail")
    queue.enqueue_many([Job("held", kind="mail"), Job("asker", kind="asks")])
    tries.wait_for("asker")
    assert Background(queue.close, True, None).result(LONG) is False
    record = queue.get("asker")
    assert (record.status, record.attempts) == (Status.QUEUED, 0)


def test_join_waits_for_what_is_paused(open_queue: OpenQueue) -> None:
    one, other = (open_queue() for _ in range(2))
    one.pause()
    becomes(lambda: bool(ledger(other)._memory.paused))  # it may have been in the middle of a turn
    one.enqueue(Job())
    with pytest.raises(TimeoutError):
        one.join(timeout=0.01)
    call = Background(one.join, LONG)
    other.resume()
    call.result(LONG)


def test_a_job_of_the_callers_own_transaction_waits_too(
    open_queue: OpenQueue, address: str
) -> None:
    import psycopg

    from final.ledger.postgres.address import parse

    queue = open_queue()
    queue.pause(kind="mail")
    with psycopg.connect(parse(address).dsn) as connection:
        job_id = queue.enqueue(Job(kind="mail"), connection=connection)
    queue.wait(queue.enqueue(Job()), LONG)
    assert queue.status(job_id) is Status.QUEUED
    queue.resume(kind="mail")
    assert queue.wait(job_id, LONG).status is Status.COMPLETED


def test_a_full_lane_that_is_paused_is_as_full_as_ever(open_queue: OpenQueue) -> None:
    queue = open_queue(capacity=5, overflow="reject")
    queue.pause(kind="mail")
    with pytest.raises(Exception, match="no room"):
        queue.enqueue_many([Job(kind="mail") for _ in range(20)])
    held = queue.metrics().queued
    assert 5 <= held <= 6
    queue.resume(kind="mail")
    queue.join(LONG)


def test_who_has_room_is_not_refused_for_its_turn(open_queue: OpenQueue) -> None:
    queue = open_queue(capacity=1_700, overflow="reject", workers=0)
    assert len(queue.enqueue_many([Job() for _ in range(1_200)])) == 1_200
    with pytest.raises(QueueFull) as refused:
        queue.enqueue_many([Job() for _ in range(1_200)])
    assert len(refused.value.accepted) == 500


def test_nor_is_the_handler_of_the_only_worker(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> object:
        if job.id == "parent":
            return len(queue.enqueue_many([Job(run_at=3600.0) for _ in range(1_200)]))
        return None

    queue = open_queue(handler, workers=1, max_retries=0)
    assert queue.wait(queue.enqueue(Job("parent")), LONG).result == 1_200


# ---- workers ----------------------------------------------------------------------------------


def test_each_process_has_its_own_number_of_workers(open_queue: OpenQueue) -> None:
    one, other = open_queue(workers=2), open_queue(workers=3)
    assert one.set_workers(5) == 5
    figures = other.shared_figures()
    assert figures
    assert sorted(process.workers for process in figures.processes) == [3, 5]
    assert (one.metrics().workers, other.metrics().workers) == (5, 3)
    assert one.set_workers(None) == 2
    one.close()
    assert open_queue(workers=4).metrics().workers == 4, "Nobody has kept it."


def test_with_0_a_process_leaves_the_jobs_to_the_others(open_queue: OpenQueue) -> None:
    """How an autoscaler takes a process away: no more jobs, then what it has ends."""
    ran = Journal()
    one = open_queue(lambda job: ran.write("one"))
    assert one.set_workers(0) == 0
    job_id = one.enqueue(Job())
    other = open_queue(lambda job: ran.write("other"))
    assert other.wait(job_id, LONG).status is Status.COMPLETED
    assert ran.entries == ["other"]
    other.close()
    assert one.set_workers(1) == 1
    assert one.wait(one.enqueue(Job()), LONG).status is Status.COMPLETED


def test_a_queue_without_a_handler_takes_no_workers(open_queue: OpenQueue) -> None:
    queue = open_queue(None, workers=0)
    with pytest.raises(ValueError, match="no handler"):
        queue.set_workers(1)
    assert queue.set_workers(0) == 0


def test_a_kind_with_a_limit_can_be_paused(open_queue: OpenQueue) -> None:
    queue = open_queue({"mail": Kind(nothing, workers=1, max_retries=0)}, backoff=AT_ONCE)
    queue.pause(kind="mail")
    ids = queue.enqueue_many([Job(kind="mail") for _ in range(5)])
    queue.metrics()
    assert {queue.status(job_id) for job_id in ids} == {Status.QUEUED}
    queue.resume(kind="mail")
    queue.join(LONG)


@pytest.mark.parametrize("row", ["'priority', 'urgent'", "'moon', ''"])
def test_a_pause_of_another_program_that_makes_no_sense_is_none(
    open_queue: OpenQueue, address: str, row: str
) -> None:
    queue = open_queue()
    queue.pause(kind="other")
    sql(address, f"INSERT INTO jobqueue.pause VALUES ({row})")
    for each in (queue, open_queue()):
        assert each.wait(each.enqueue(Job(payload=1)), DEADLINE).result == 1
        assert [pause.kind for pause in each.paused()] == ["other"]
