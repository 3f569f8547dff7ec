"""A handler that waits for its own queue: fine while a worker is free, refused where it hangs.

Without that the first handler that calls ``join`` holds its worker for ever, and ``close``
with it; and a few that wait for jobs of their own stop the whole queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from final import Job, JobQueue, QueueClosed, Status
from tests.final import inside
from tests.final.helpers import OpenQueue, completes, eventually, is_closing
from tests.helpers import DEADLINE, Background, Gate, Journal

Waits = Callable[[JobQueue, Job], object]


class Parents:
    """Jobs of the kind "parent" do ``wait``; all others do nothing. As threads or coroutines."""

    def __init__(self, open_queue: OpenQueue, wait: Waits, how: str, **options: Any) -> None:
        def parent(job: Job) -> object:
            return wait(self.queue, job)

        async def on_the_loop(job: Job) -> object:
            return wait(self.queue, job)

        async def in_a_thread(job: Job) -> object:
            return await asyncio.to_thread(wait, self.queue, job)

        handlers: dict[str, Callable[[Job], Any]] = {
            "thread": parent,
            "loop": on_the_loop,
            "to_thread": in_a_thread,
        }
        everything = {"parent": handlers[how], "default": lambda job: job.payload}
        self.queue: JobQueue = open_queue(everything, max_retries=0, **options)

    def end_of(self, job_id: str) -> tuple[Status, str]:
        record = self.queue.wait(self.queue.enqueue(Job(job_id, kind="parent")), DEADLINE)
        return record.status, record.error or ""


def wait_for_itself(queue: JobQueue, job: Job) -> object:
    return queue.wait(job.id).status


def wait_for_one_after_it(queue: JobQueue, job: Job) -> object:
    queue.enqueue_many([Job("next", after=[job.id]), Job("last", after=["next"])])
    return queue.wait("last").result


def join(queue: JobQueue, job: Job) -> None:
    queue.join()


def wait_for_a_child(queue: JobQueue, job: Job) -> object:
    return queue.wait(queue.enqueue(Job(payload="child"))).result


def map_children(queue: JobQueue, job: Job) -> object:
    return list(queue.map(["a", "b"]))


NEVER = [
    (wait_for_itself, "thread", 4, "wait('x') in the handler of job 'x' would never return"),
    (wait_for_itself, "to_thread", 4, "wait('x') in the handler of job 'x' would never return"),
    (wait_for_one_after_it, "thread", 4, "wait('last') in the handler of job 'x' would never"),
    (wait_for_one_after_it, "to_thread", 4, "wait('last') in the handler of job 'x' would never"),
    (join, "thread", 4, "join() in a handler would wait for the job that calls it"),
    (join, "to_thread", 4, "join() in a handler would wait for the job that calls it"),
    (join, "loop", 4, "join() in a handler would wait for the job that calls it"),
    (wait_for_a_child, "loop", 4, "await asyncio.to_thread(queue.wait, job_id)"),
    (map_children, "loop", 4, "await asyncio.to_thread(list, queue.map(payloads))"),
    (wait_for_a_child, "thread", 1, "All 1 workers wait"),
    (wait_for_a_child, "to_thread", 1, "All 1 workers wait"),
    (map_children, "thread", 1, "All 1 workers wait"),
    (map_children, "to_thread", 1, "All 1 workers wait"),
]


@pytest.mark.parametrize(("wait", "how", "workers", "sentence"), NEVER)
def test_what_would_never_end_is_refused(
    open_queue: OpenQueue, wait: Waits, how: str, workers: int, sentence: str
) -> None:
    parents = Parents(open_queue, wait, how, workers=workers)
    status, error = parents.end_of("x")
    assert status is Status.FAILED
    assert error.startswith("RuntimeError: ")
    assert sentence in error
    assert completes(parents.queue)
    parents.queue.join(DEADLINE)


@pytest.mark.parametrize("how", ["thread", "to_thread"])
@pytest.mark.parametrize("wait", [wait_for_a_child, map_children])
def test_while_a_worker_is_free_a_handler_may_wait(
    open_queue: OpenQueue, wait: Waits, how: str
) -> None:
    parents = Parents(open_queue, wait, how, workers=2)
    for n in range(5):
        assert parents.end_of(f"parent-{n}") == (Status.COMPLETED, "")


def test_a_map_that_is_refused_on_the_loop_has_enqueued_nothing(open_queue: OpenQueue) -> None:
    parents = Parents(open_queue, map_children, "loop")
    parents.end_of("x")
    assert parents.queue.metrics().accepted == 1


def test_a_map_that_is_not_asked_for_more_waits_for_nothing(
    open_queue: OpenQueue, gate: Gate
) -> None:
    """Its handler goes on, and its worker will be free: another one may wait for that."""
    mapped = Journal()

    def maps(job: Job) -> object:
        results = queue.map(["first", "second"])
        first = next(results)
        mapped.write(first)
        gate.wait()
        return first

    def waits(job: Job) -> object:
        mapped.wait_for("first")
        return wait_for_a_child(queue, job)

    def child(job: Job) -> object:
        if job.payload == "first":
            queue.enqueue(Job("waits", kind="waits", priority="high"))
        return job.payload

    handlers = {"maps": maps, "waits": waits, "default": child}
    queue = open_queue(handlers, workers=2, max_retries=0)
    queue.enqueue(Job("maps", kind="maps"))
    mapped.wait_for("first")
    eventually(lambda: len(inside.watched(queue)) == 2, "the other handler to wait")
    gate.open()
    assert queue.wait("maps", DEADLINE).result == "first"
    assert queue.wait("waits", DEADLINE).result == "child"


def test_a_job_of_a_map_that_waits_for_its_handler_is_refused(open_queue: OpenQueue) -> None:
    """Whenever it does: ``map`` comes to it later, and then both would wait for ever."""
    refused = Journal()

    def child(job: Job) -> object:
        if job.payload == "first":
            refused.wait_for("second")
            return None
        try:
            return queue.wait("maps").result
        finally:
            refused.write(job.payload)

    def maps(job: Job) -> object:
        return list(queue.map(["first", "second"]))

    queue = open_queue({"maps": maps, "default": child}, workers=4, max_retries=0)
    record = queue.wait(queue.enqueue(Job("maps", kind="maps")), DEADLINE)
    assert "RuntimeError: wait('maps') in the handler of job" in (record.error or "")


def test_a_map_that_is_refused_later_takes_its_jobs_back(open_queue: OpenQueue) -> None:
    parents = Parents(open_queue, map_children, "thread", workers=1)
    parents.end_of("x")
    assert parents.queue.metrics().cancelled == 2


def test_on_the_loop_even_the_wait_for_an_ended_job_is_refused(open_queue: OpenQueue) -> None:
    """Or it would go well now and then, as the threads happen to run."""
    parents = Parents(open_queue, lambda queue, job: queue.wait("ended").result, "loop")
    parents.queue.wait(parents.queue.enqueue(Job("ended")), DEADLINE)
    assert parents.end_of("x")[0] is Status.FAILED


def test_a_look_is_no_wait(open_queue: OpenQueue) -> None:
    def look(queue: JobQueue, job: Job) -> object:
        with pytest.raises(TimeoutError):
            queue.wait(queue.enqueue(Job()), timeout=0)
        return None

    assert Parents(open_queue, look, "thread", workers=1).end_of("x")[0] is Status.COMPLETED


@pytest.mark.parametrize("how", ["thread", "to_thread"])
def test_of_those_that_wait_for_each_other_one_is_refused(open_queue: OpenQueue, how: str) -> None:
    """Though workers are free. In a circle of three, so that nobody waits for its own waiter."""
    following = {"a": "b", "b": "c", "c": "a"}
    all_run = threading.Barrier(3)

    def wait(queue: JobQueue, job: Job) -> object:
        all_run.wait(DEADLINE)
        return queue.wait(following[job.id]).status

    queue = Parents(open_queue, wait, how, workers=8).queue
    queue.enqueue_many([Job(job_id, kind="parent") for job_id in following])
    queue.join(DEADLINE)
    [dead] = queue.dead_letters()
    assert "would never return: that job is this one, or waits for it" in str(dead.error)
    results = {job_id: queue.get(job_id).result for job_id in following}
    assert sorted(map(str, results.values())) == ["None", "completed", "failed"]


@pytest.mark.parametrize("how", ["thread", "to_thread"])
def test_if_all_workers_wait_for_children_not_all_are_refused(
    open_queue: OpenQueue, how: str
) -> None:
    both_run = threading.Barrier(2)

    def wait(queue: JobQueue, job: Job) -> object:
        both_run.wait(DEADLINE)
        return wait_for_a_child(queue, job)

    queue = Parents(open_queue, wait, how, workers=2).queue
    queue.enqueue_many([Job("a", kind="parent"), Job("b", kind="parent")])
    queue.join(DEADLINE)
    [dead] = queue.dead_letters()
    assert "All 2 workers wait" in str(dead.error)
    assert queue.metrics().completed == 3


def test_one_that_waits_for_a_job_and_one_that_waits_for_room(open_queue: OpenQueue) -> None:
    """Each could go on if the other's worker were free."""
    both_run = threading.Barrier(2)

    def wait(queue: JobQueue, job: Job) -> object:
        both_run.wait(DEADLINE)
        if job.id == "waits":
            return wait_for_a_child(queue, job)
        return queue.enqueue_many([Job(payload=n) for n in range(3)])

    queue = Parents(open_queue, wait, "thread", workers=2, capacity=1).queue
    for job_id in ("waits", "fills"):
        queue.enqueue(Job(job_id, kind="parent"), DEADLINE)
    queue.join(DEADLINE)
    counts = queue.metrics()
    assert counts.failed == len(queue.dead_letters()) >= 1
    assert counts.accepted == counts.completed + counts.failed


@pytest.mark.parametrize("run_at", [None, 3600.0])
@pytest.mark.parametrize("how", ["thread", "to_thread"])
def test_who_has_room_may_bring_more_than_a_turn_takes(
    open_queue: OpenQueue, how: str, run_at: float | None
) -> None:
    """To wait for its turns is no wait for room: nobody has to run anything."""

    def bring_many(queue: JobQueue, job: Job) -> object:
        return len(queue.enqueue_many([Job(run_at=run_at) for _ in range(1_200)]))

    parents = Parents(open_queue, bring_many, how, workers=1, capacity=1_200)
    assert parents.end_of("x") == (Status.COMPLETED, "")


def test_closing_without_drain_ends_the_wait_for_what_does_not_start(
    open_queue: OpenQueue, path: str, gate: Gate
) -> None:
    said = Journal()

    def wait(queue: JobQueue, job: Job) -> object:
        said.write(f"{job.id} runs")
        if job.id == "holder":
            gate.wait()
            return None
        try:
            return queue.wait("behind them").result
        except QueueClosed as error:
            said.write(error)
            raise

    queue = Parents(open_queue, wait, "thread", path=path, workers=2).queue
    jobs = [Job("holder", kind="parent"), Job("waiter", kind="parent"), Job("behind them")]
    queue.enqueue_many(jobs)
    said.wait_for_count(2)
    closing = Background(queue.close, False)
    eventually(lambda: is_closing(queue), "the closing to begin")  # before a worker is free
    gate.open()
    assert closing.result() is True
    assert isinstance(said.entries[-1], QueueClosed)
    assert queue.status("behind them") is Status.QUEUED
    assert (queue.status("waiter"), queue.get("waiter").attempts) == (Status.QUEUED, 0)


def test_another_queue_is_none_of_its_business(open_queue: OpenQueue) -> None:
    other = open_queue(lambda job: job.payload)

    def wait(queue: JobQueue, job: Job) -> object:
        child = other.enqueue(Job(job.id, "child"))  # of the same name as its own job
        other.join(DEADLINE)
        return other.wait(child, DEADLINE).result

    assert Parents(open_queue, wait, "thread", workers=1).end_of("x")[0] is Status.COMPLETED


def test_nor_are_its_jobs_of_the_same_name(open_queue: OpenQueue, gate: Gate) -> None:
    """An order has one number, in whichever queue: it would not be waited for by itself."""
    started = Journal()

    def handler(job: Job) -> object:
        started.write(job.id)
        gate.wait()
        return "packed"

    other = open_queue(handler, workers=1)
    queue = open_queue(lambda job: other.wait(job.id).result, workers=1, max_retries=0)
    other.enqueue(Job("order-7"))
    started.wait_for("order-7")
    queue.enqueue(Job("order-7"))
    eventually(
        lambda: "order-7" in inside.watched(other) or queue.status("order-7").ended, "it to wait"
    )
    gate.open()
    assert queue.wait("order-7", DEADLINE).result == "packed"
