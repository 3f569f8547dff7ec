"""Jobs that come after others: random graphs against a plain model, and all that goes wrong."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from final import (
    Backoff,
    Job,
    JobQueue,
    PermanentFailure,
    Priority,
    Status,
    UnknownJob,
    current_job,
)
from final.beyond.graph import parents_first
from final.job import Task
from final.ledger.base import AT_ONCE
from final.workers.batch import Batch
from tests.final import process_handlers
from tests.final.engine import Engine, jobs, report
from tests.final.helpers import HeldUp, OpenQueue, child, comes_true, nothing, reaches
from tests.helpers import DEADLINE, Broken, Gate, Journal


def echo(job: Job) -> object:
    if job.payload == "fails":
        raise PermanentFailure("as it was told")
    return job.id


def ids(queue: JobQueue) -> list[str]:
    return [record.id for record in queue.jobs()]


# ---- what a graph comes to -----------------------------------------------------------------------


@some.composite
def graphs(draw: Any) -> list[Job]:
    """Jobs with random parents, in a random order; some fail."""
    made: list[Job] = []
    for number in range(draw(some.integers(1, 12))):
        ids = [job.id for job in made]
        after = draw(some.lists(some.sampled_from(ids), max_size=3)) if ids else None
        made.append(
            Job(
                str(number),
                payload=draw(some.sampled_from(["", "", "fails"])),
                priority=draw(some.sampled_from(["high", "low"])),
                run_at=draw(some.sampled_from([None, None, 0.01])),
                after=after,
                if_failed=None if after is None else draw(some.sampled_from(["cancel", "run"])),
            )
        )
    shuffled: list[Job] = draw(some.permutations(made))
    return shuffled


def model(graph: list[Job]) -> dict[str, Status]:
    """What becomes of each, by the rules alone."""
    became: dict[str, Status] = {}
    while len(became) < len(graph):
        for job in graph:
            ends = [became.get(parent) for parent in job.after or ()]
            if job.id in became or None in ends:
                continue
            doomed = job.if_failed == "cancel" and set(ends) - {Status.COMPLETED}
            own = Status.FAILED if job.payload == "fails" else Status.COMPLETED
            became[job.id] = Status.CANCELLED if doomed else own
    return became


class TestGraphs:
    @settings(max_examples=40)
    @given(graph=graphs(), workers=some.integers(1, 3))
    def test_a_random_graph_comes_to_what_the_rules_say(
        self, graph: list[Job], workers: int
    ) -> None:
        order: list[str] = []

        def handler(job: Job) -> object:
            order.append(job.id)
            return echo(job)

        with JobQueue(handler, workers=workers) as queue:
            assert queue.enqueue_many(graph) == [job.id for job in graph]
            for job in graph:
                queue.wait(job.id, DEADLINE)
            expected = model(graph)
            assert {job.id: queue.status(job.id) for job in graph} == expected
            assert queue.metrics().waiting == 0
        ran = {i for i, status in expected.items() if status is not Status.CANCELLED}
        assert sorted(order) == sorted(ran)
        for job in graph:
            for parent in job.after or ():
                if job.id in ran and parent in ran:
                    assert order.index(parent) < order.index(job.id)

    @given(graph=graphs())
    def test_parents_are_accepted_first_and_what_is_free_keeps_its_order(
        self, graph: list[Job]
    ) -> None:
        tasks = [Task(job.id, None, job.priority, "", after=job.after or ()) for job in graph]
        place = {task.id: n for n, task in enumerate(parents_first(tasks))}
        assert sorted(place) == sorted(job.id for job in graph)
        assert all(place[p] < place[job.id] for job in graph for p in job.after or ())
        free = [job.id for job in graph if not job.after]
        assert sorted(free, key=lambda job_id: place[job_id]) == free

    @pytest.mark.parametrize(
        ("edges", "circle"),
        [
            ({"a": "b", "b": "a"}, "a -> b -> a"),
            ({"x": "", "a": "x", "b": "ad", "c": "b", "d": "c"}, "b -> c -> d -> b"),
        ],
    )
    def test_a_circle_is_refused_by_name_and_nothing_is_accepted(
        self, open_queue: OpenQueue, edges: dict[str, str], circle: str
    ) -> None:
        queue = open_queue(nothing)
        with pytest.raises(ValueError, match="would never run: ") as refused:
            queue.enqueue_many([Job(i, after=list(parents)) for i, parents in edges.items()])
        named = str(refused.value).rpartition(": ")[2].strip(".").split(" -> ")
        assert named[0] == named[-1]
        start = named.index(min(named[:-1]))
        turned = named[start:-1] + named[:start]
        assert " -> ".join([*turned, turned[0]]) == circle
        assert queue.jobs() == []


class TestBadJobs:
    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"after": "abc"}, r"Job\.after is a list of ids, as after=\[job_id\], not 'abc'"),
            ({"after": 7}, "Job.after is a list of ids"),
            ({"after": [7]}, "An id in Job.after must be text"),
            ({"after": [Job()]}, "An id in Job.after must be text .*not Job"),
            ({"after": [""]}, "An id in Job.after must not be empty"),
            ({"id": "a", "after": ["b", "a"]}, "cannot come after itself: a -> a"),
            ({"after": ["a"], "if_failed": "stop"}, "Job.if_failed must be one of cancel, run"),
            ({"after": ["a"], "if_failed": ""}, "Job.if_failed must be one of cancel, run"),
            ({"if_failed": "run"}, "name some in after="),
        ],
    )
    def test_is_refused_by_name(self, fields: dict[str, Any], text: str) -> None:
        with pytest.raises((TypeError, ValueError), match=text):
            Job(**fields)

    def test_ids_are_kept_as_a_tuple_each_once(self) -> None:
        job = Job(after=iter(["b", "a", "b"]))
        assert (job.after, job.if_failed) == (("b", "a"), "cancel")
        assert Job(after=[]).after == ()

    def test_an_unknown_parent_is_named_before_anything_is_accepted(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(nothing)
        with pytest.raises(UnknownJob, match="No job 'nobody'"):
            queue.enqueue_many([Job("first"), Job("second", after=["first", "nobody"])])
        assert queue.jobs() == []

    def test_a_parent_that_goes_meanwhile_is_unknown_to_the_exchange(self) -> None:
        engine = Engine()
        request = jobs("first", "second")
        request.tasks[1].after = ("gone",)
        engine.turn(request)
        with pytest.raises(UnknownJob) as refused:
            request.result()
        assert refused.value.accepted == ["first"]

    def test_no_parents_are_no_reason_to_wait(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        assert queue.wait(queue.enqueue(Job(after=[])), DEADLINE).status is Status.COMPLETED


# ---- a life in waiting ---------------------------------------------------------------------------


class TestWaiting:
    def test_it_needs_no_room_and_counts_as_waiting(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=1)
        queue.enqueue_many([Job(str(n), priority="low", after=["holder"]) for n in range(10)])
        assert queue.metrics().waiting == 10
        assert queue.metrics().by_priority[Priority.LOW].waiting == 10
        assert queue.get("3").after == ("holder",)
        assert {job.id for job in queue.jobs("waiting")} == set(map(str, range(10)))

    def test_it_can_be_cancelled_and_is_not_run_then(self, held_up: HeldUp, gate: Gate) -> None:
        queue, started = held_up()
        queue.enqueue_many([Job("child", after=["holder"]), Job("grandchild", after=["child"])])
        assert queue.cancel("child")
        assert queue.wait("grandchild", DEADLINE).status is Status.CANCELLED
        assert queue.get("grandchild").error == "Job child, which it comes after, was cancelled."
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == ["holder"]

    def test_run_at_counts_as_usual(self, open_queue: OpenQueue) -> None:
        queue = open_queue(echo)
        queue.enqueue_many([Job("first"), Job("later", run_at=3600, after=["first"])])
        reaches(queue, "later", Status.SCHEDULED)
        assert queue.get("later").due_at is not None

    def test_join_waits_for_those_after_what_is_to_run_and_for_no_others(
        self, open_queue: OpenQueue
    ) -> None:
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), workers=1)
        queue.enqueue(Job("tomorrow", run_at=86_400))
        queue.enqueue(Job("after tomorrow", after=["tomorrow"]))
        queue.enqueue(Job("0"))
        queue.enqueue_many([Job(str(n), after=[str(n - 1)]) for n in range(1, 20)])
        queue.join(DEADLINE)
        assert ran.entries == [str(n) for n in range(20)]
        assert queue.status("after tomorrow") is Status.WAITING

    def test_a_key_keeps_its_order_though_its_first_job_is_retried(
        self, open_queue: OpenQueue, path: str, gate: Gate
    ) -> None:
        """Each job comes after the one before it of its key; the other keys go on."""
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            if job.id == "ann-1" and current_job().attempt == 1:
                gate.wait()
                raise Broken

        queue = open_queue(handler, path=path, workers=4, backoff=Backoff(base=0.05))
        last: dict[str, list[str]] = {"ann": [], "bob": []}
        for job_id in ("ann-1", "bob-1", "ann-2", "ann-3", "bob-2"):
            key = job_id.partition("-")[0]
            last[key] = [queue.enqueue(Job(job_id, after=last[key]))]
        queue.wait("bob-2", DEADLINE)
        assert queue.status("ann-2") is Status.WAITING
        gate.open()
        queue.join(DEADLINE)
        of_ann = [job_id for job_id in started.entries if job_id.startswith("ann")]
        assert of_ann == ["ann-1", "ann-1", "ann-2", "ann-3"]

    def test_closing_drains_what_comes_after(self, held_up: HeldUp, gate: Gate) -> None:
        queue, started = held_up()
        queue.enqueue(Job("child", after=["holder"]))
        gate.open()
        assert queue.close()
        assert started.entries == ["holder", "child"]

    def test_a_dead_letter_that_is_retried_brings_no_cancelled_child_back(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(echo)
        queue.enqueue_many([Job("letter", payload="fails"), Job("child", after=["letter"])])
        queue.wait("child", DEADLINE)
        queue.retry("letter")
        queue.join(DEADLINE)
        assert queue.status("child") is Status.CANCELLED
        queue.enqueue(Job("too late", after=["letter"]))  # a dead letter counts as ended
        assert queue.wait("too late", DEADLINE).status is Status.CANCELLED
        queue.enqueue(Job("all the same", after=["letter"], if_failed="run"))
        assert queue.wait("all the same", DEADLINE).result == "all the same"

    def test_the_history_keeps_a_parent_for_its_children(self, open_queue: OpenQueue) -> None:
        gate = Gate()

        def handler(job: Job) -> object:
            if job.id == "child":
                gate.wait()
                return current_job().parents
            return job.id

        queue = open_queue(handler, history=0)
        queue.enqueue_many([Job("parent"), Job("other"), Job("child", after=["parent"])])
        reaches(queue, "child", Status.PROCESSING)
        queue.enqueue(Job("last", after=["parent"]))

        def completed() -> tuple[int, list[str]]:
            """In all, and those that the history has not let go of."""
            return queue.metrics().completed, [r.id for r in queue.jobs(Status.COMPLETED)]

        comes_true(queue, lambda: completed() == (3, ["parent"]), "the parent to be held alone")
        queue.enqueue(Job("listener", after=["child"]))
        gate.open()
        comes_true(queue, lambda: completed() == (5, []), "the history to let go of all")

    def test_the_history_keeps_a_parent_for_a_dead_letter(self, open_queue: OpenQueue) -> None:
        """It may be retried, and then it wants the result."""
        seen = Journal()

        def handler(job: Job) -> object:
            if job.id == "child" and seen.write(current_job().parents) == 1:
                raise PermanentFailure("the first time")
            return job.id

        queue = open_queue(handler, history=0)
        queue.enqueue_many([Job("parent"), Job("other"), Job("child", after=["parent"])])
        queue.wait("child", DEADLINE)
        comes_true(queue, lambda: "other" not in ids(queue), "the history to let go of the other")
        assert ids(queue) == ["child", "parent"]
        queue.retry("child")
        comes_true(queue, lambda: not ids(queue), "the history to let go of all")
        assert seen.entries == [{"parent": "parent"}] * 2

    def test_a_dead_letter_that_is_purged_needs_its_parents_no_longer(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(echo, history=0)
        queue.enqueue_many([Job("parent"), Job("child", "fails", after=["parent"])])
        queue.wait("child", DEADLINE)
        assert ids(queue) == ["child", "parent"]
        queue.purge()
        queue.enqueue(Job("next"))
        comes_true(queue, lambda: not ids(queue), "the history to let go of all")

    def test_a_child_of_a_kind_without_handler_is_let_go_in_the_file(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue({"a": nothing, "b": nothing}, path=path) as queue:
            queue.pause(kind="a")
            queue.enqueue(Job("parent", kind="a"))
            queue.enqueue(Job("child", kind="b", after=["parent"]))
        with open_queue({"a": nothing}, path=path) as queue:
            queue.resume(kind="a")
            queue.wait("parent", DEADLINE)
            reaches(queue, "child", Status.QUEUED)
        with open_queue({"b": nothing}, path=path) as queue:
            assert queue.wait("child", DEADLINE).status is Status.COMPLETED


# ---- what a handler sees -------------------------------------------------------------------------


class TestParents:
    def require(self, queue: JobQueue) -> None:
        queue.enqueue_many(
            [
                Job("child", after=["a", "fails", "b"], if_failed="run", kind="child"),
                Job("a", payload={"n": 1}),
                Job("b"),
                Job("fails", payload="fails"),
            ]
        )
        record = queue.wait("child", 4 * DEADLINE)
        assert record.result == {"a": {"n": 1}, "fails": None, "b": None}
        assert queue.wait(queue.enqueue(Job(kind="child")), 4 * DEADLINE).result == {}

    @pytest.mark.parametrize("executor", ["thread", "process"])
    def test_are_its_parents_results_in_their_order(
        self, open_queue: OpenQueue, executor: Any
    ) -> None:
        handlers = {"child": process_handlers.parents, "default": process_handlers.give_back}
        self.require(open_queue(handlers, executor=executor, workers=2, max_retries=0))

    def test_in_a_coroutine_too(self, open_queue: OpenQueue) -> None:
        async def parents(job: Job) -> object:
            return current_job().parents

        handlers = {"child": parents, "default": process_handlers.give_back}
        self.require(open_queue(handlers, max_retries=0))


# ---- many, and in between ------------------------------------------------------------------------


def settle(engine: Engine) -> None:
    """Turns, for as long as one is wanted at once."""
    while engine.sleeps() == 0.0 or engine.dispatcher._again:
        engine.turn()


def released(engine: Engine) -> list[int]:
    """How many children each transaction has let go."""
    return [
        sum(len(ids) for (source, _), ids in ways.items() if source is Status.WAITING)
        for ways in engine.file.commits
    ]


class TestMany:
    CHILDREN = 100_000

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_a_hundred_thousand_children_go_on_in_bounded_turns(self) -> None:
        engine = Engine(capacity=10 * self.CHILDREN, memory=0)
        parent = self.enqueue_children(engine, self.CHILDREN)
        statements = Counter[str]()
        engine.file._writer.set_trace_callback(lambda text: statements.update([text[:9]]))
        engine.file.commits.clear()
        engine.turn(report(parent))
        settle(engine)
        turns = released(engine)
        assert (sum(turns), max(turns)) == (self.CHILDREN, AT_ONCE)
        assert len(turns) <= self.CHILDREN / AT_ONCE + 3
        assert sum(statements.values()) < 2 * self.CHILDREN
        assert engine.sleeps() is None

    def test_others_get_in_between(self) -> None:
        engine = Engine(capacity=10 * AT_ONCE, workers=2)
        parent = self.enqueue_children(engine, 6 * AT_ONCE)
        engine.turn(report(parent))
        engine.turn()
        engine.turn(other := jobs("other", priority=Priority.HIGH))
        assert other.answered
        assert engine.metrics().waiting > AT_ONCE

    def enqueue_children(self, engine: Engine, children: int) -> Batch:
        engine.turn(jobs("parent"))
        request = jobs(*map(str, range(children)))
        for task in request.tasks:
            task.after = ("parent",)
        engine.settle(request)
        assert request.answered
        return engine.batches[0]

    def test_a_chain_is_cancelled_many_at_a_time(self, open_queue: OpenQueue) -> None:
        queue = open_queue(echo, max_retries=0)
        chain = [Job("0", payload="fails", run_at=0.2)]
        chain += [Job(str(n), after=[str(n - 1)]) for n in range(1, 2_000)]
        queue.enqueue_many(chain)
        assert queue.wait("1999", DEADLINE).status is Status.CANCELLED

    def test_a_job_after_thousands(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, capacity=10_000)
        parents = queue.enqueue_many([Job() for _ in range(5_000)])
        record = queue.wait(queue.enqueue(Job(after=parents)), 4 * DEADLINE)
        assert record.status is Status.COMPLETED
        assert record.after == tuple(parents)


@pytest.mark.parametrize("left", [1, 4, 9])
def test_a_process_that_is_killed_in_the_middle_loses_no_child(path: str, left: int) -> None:
    with child("parent_of_many", path, left) as process:
        assert process.wait(4 * DEADLINE) != 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (waiting,) = connection.execute(
            "SELECT count(*) FROM job WHERE status = 'waiting'"
        ).fetchone()
    assert waiting == 5_000 - (left - 1) * AT_ONCE
    with JobQueue(nothing, path=path, workers=4, capacity=10_000) as queue:
        queue.join(4 * DEADLINE)
        metrics = queue.metrics()
    assert (metrics.waiting, metrics.completed) == (0, 5_001)
