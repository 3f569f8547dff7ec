"""A kind's own policy: what it has chosen holds for its jobs, the queue's choice for all others.

Without that one delicate kind sets the rules for all: a payment that needs ten attempts gives
them to every newsletter.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from final import (
    Backoff,
    Job,
    JobQueue,
    Kind,
    LeakyBucket,
    Priority,
    Status,
    TokenBucket,
    current_job,
)
from final.engine.messages import Enqueue
from final.job import Task
from tests.final import process_handlers as handlers
from tests.final.engine import Engine, report
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    OpenQueue,
    child,
    comes_true,
    completes,
    in_file,
    next_line,
    nothing,
    reaches,
    run_child,
)
from tests.final.test_processes import children
from tests.helpers import DEADLINE, Background, Gate

LONG = 3 * DEADLINE  # a process takes its time to start on a busy machine


def fail(job: Job) -> None:
    raise ValueError("no")


class TestRetries:
    def test_a_kind_has_its_own_number_of_them(self, open_queue: OpenQueue) -> None:
        queue = open_queue(
            {"payment": Kind(fail, max_retries=5), "news": fail, "once": Kind(fail, max_retries=0)},
            max_retries=2,
            backoff=AT_ONCE,
        )
        queue.enqueue_many([Job(kind, kind=kind) for kind in ("payment", "news", "once")])
        queue.join(DEADLINE)
        attempts = {dead.kind: dead.attempts for dead in queue.dead_letters()}
        assert attempts == {"payment": 6, "news": 3, "once": 1}

    def test_a_kind_has_its_own_pauses_between_them(self, open_queue: OpenQueue) -> None:
        queue = open_queue(
            {"patient": Kind(fail, backoff=NOT_TODAY), "news": fail}, backoff=AT_ONCE
        )
        queue.enqueue_many([Job("a", kind="patient"), Job("b", kind="news")])
        assert queue.wait("b", DEADLINE).attempts == 4
        reaches(queue, "a", Status.RETRYING)
        assert queue.get("a").attempts == 1

    def test_a_late_attempt_is_tried_again_by_the_rules_of_its_kind(
        self, open_queue: OpenQueue
    ) -> None:
        """It is the queue's own thread that fails it, and no worker."""

        async def hang(job: Job) -> None:
            await asyncio.sleep(LONG)

        kinds = {"late": Kind(hang, timeout=0.02, max_retries=2)}
        queue = open_queue(kinds, max_retries=0, backoff=AT_ONCE)
        assert queue.wait(queue.enqueue(Job(kind="late")), DEADLINE).attempts == 3


class TestTimeout:
    @pytest.mark.parametrize(
        ("kind", "job", "holds"),
        [(None, None, 60.0), (20.0, None, 20.0), (20.0, 90.0, 90.0), (None, 90.0, 90.0)],
    )
    def test_the_jobs_goes_before_the_kinds_and_that_before_the_queues(
        self, open_queue: OpenQueue, kind: float | None, job: float | None, holds: float
    ) -> None:
        def seconds_left(job: Job) -> float:
            deadline = current_job().deadline
            assert deadline is not None
            return deadline - time.monotonic()

        queue = open_queue({"a": Kind(seconds_left, timeout=kind)}, timeout=60)
        left: Any = queue.wait(queue.enqueue(Job(kind="a", timeout=job)), DEADLINE).result
        assert holds - DEADLINE < left <= holds

    def test_a_late_attempt_has_failed(self, open_queue: OpenQueue, gate: Gate) -> None:
        queue = open_queue({"slow": Kind(lambda job: gate.wait(), timeout=0.05), "b": nothing})
        queue.enqueue(Job("a", kind="slow"))
        reaches(queue, "a", Status.RETRYING)
        assert queue.get("a").error == "TimeoutError: the attempt took longer than 0.05 s."
        assert completes(queue, Job(kind="b"))

    def test_without_one_there_is_no_deadline(self, open_queue: OpenQueue) -> None:
        def has_none(job: Job) -> bool:
            return current_job().deadline is None

        queue = open_queue({"a": Kind(has_none), "b": Kind(nothing, timeout=5)})
        assert queue.wait(queue.enqueue(Job(kind="a")), DEADLINE).result is True


class TestRateLimit:
    def test_it_holds_beside_the_one_of_the_queue(self) -> None:
        engine = Engine(
            workers=10,
            kinds={"slow": Kind(nothing, rate_limit=LeakyBucket(1))},
            rate_limit=TokenBucket(4, burst=4),
        )
        slow, quick = ([f"{name}{n}" for n in range(5)] for name in ("slow", "quick"))
        engine.settle(enqueue("slow", *slow), enqueue("quick", *quick))
        started = engine.work_off()
        assert started == ["slow0", "quick0", "quick1", "quick2"]
        engine.turn(later=0.5)  # the queue's limit has let two more start by now
        assert engine.work_off(len(engine.batches) - 2) == ["quick3", "quick4"]
        engine.turn(later=0.5)
        assert engine.work_off(len(engine.batches) - 1) == ["slow1"]

    def test_a_kind_cannot_have_two(self) -> None:
        kinds = {"mail": Kind(nothing, rate_limit=TokenBucket(1))}
        with pytest.raises(ValueError, match=r"Kind 'mail' has two rate limits, .* leave one out"):
            JobQueue(kinds, rate_limit={"mail": TokenBucket(2)})

    def test_two_kinds_may_have_theirs_in_two_places(self, open_queue: OpenQueue) -> None:
        queue = open_queue(
            {"mail": Kind(nothing, rate_limit=TokenBucket(1, burst=2)), "sms": nothing},
            rate_limit={"sms": TokenBucket(1, burst=3)},
        )
        queue.enqueue_many([Job(kind=kind) for kind in ("mail", "sms") for _ in range(20)])
        comes_true(queue, lambda: queue.metrics().completed == 5, "both bursts")


def enqueue(kind: str, *ids: str) -> Enqueue:
    return Enqueue([Task(job_id, "null", Priority.MEDIUM, kind, size=4) for job_id in ids])


class TestWorkers:
    """So many of a kind run at a time, whatever else is idle."""

    def test_those_behind_a_full_kind_pass_and_it_goes_on_in_order(self) -> None:
        engine = Engine(workers=4, kinds={"slow": Kind(nothing, workers=2)})
        slow, quick = ([f"{name}{n}" for n in range(4)] for name in ("slow", "quick"))
        engine.settle(enqueue("slow", *slow), enqueue("quick", *quick))
        assert engine.handed_out == [["slow0"], ["slow1"], ["quick0"], ["quick1"]]
        engine.settle(report(engine.batches[2]))  # a quick one
        assert engine.handed_out[4:] == [["quick2"]]
        engine.settle(report(engine.batches[0]))
        assert engine.handed_out[5:] == [["slow2"]]

    def test_it_keeps_its_place(self) -> None:
        engine = Engine(workers=2, kinds={"slow": Kind(nothing, workers=1)})
        engine.settle(enqueue("slow", "slow0", "slow1"), enqueue("quick", "quick0", "quick1"))
        assert engine.handed_out == [["slow0"], ["quick0"]]
        engine.settle(report(engine.batches[0]))
        assert engine.handed_out[2:] == [["slow1"]], "It came before quick1."

    def test_an_urgent_one_that_is_full_lets_others_pass(self) -> None:
        engine = Engine(workers=2, kinds={"slow": Kind(nothing, workers=1)})
        urgent = [Task(f"slow{n}", "null", Priority.HIGH, "slow", size=4) for n in range(3)]
        low = [Task("low", "null", Priority.LOW, "quick", size=4)]
        engine.settle(Enqueue(urgent), Enqueue(low))
        assert engine.handed_out == [["slow0"], ["low"]]

    def test_a_failed_one_holds_no_place_while_it_waits_for_its_retry(self) -> None:
        engine = Engine(workers=4, kinds={"slow": Kind(nothing, workers=1)})
        engine.settle(enqueue("slow", "slow0", "slow1"))
        engine.settle(report(engine.batches[0], failed=True))
        assert engine.handed_out == [["slow0"], ["slow1"]]
        engine.turn(later=1.0)  # its retry is due, and slow1 still runs
        assert engine.sleeps() is None, "Only the end of slow1 lets it start."
        engine.settle(report(engine.batches[1]))
        assert engine.handed_out[2:] == [["slow0"]]

    def test_quick_ones_are_not_claimed_by_the_hundred(self) -> None:
        """They count from their claim: who stands behind another one in a batch does not run."""
        engine = Engine(workers=4, kinds={"mine": Kind(nothing, workers=3)})
        engine.settle(enqueue("mine", "first"))
        engine.settle(report(engine.batches[0], seconds=1e-6))
        engine.settle(enqueue("mine", *map(str, range(100))))
        assert sum(len(ids) for ids in engine.handed_out[1:]) == 3

    def test_no_more_of_them_run_and_all_of_them_do(self, open_queue: OpenQueue) -> None:
        lock, running, most = threading.Lock(), Counter[str](), Counter[str]()
        three = threading.Barrier(3)

        def handler(job: Job) -> None:
            with lock:
                running[job.kind] += 1
                most[job.kind] = max(most[job.kind], running[job.kind])
            if job.payload == "meet":
                three.wait(DEADLINE)
            time.sleep(0.001)
            with lock:
                running[job.kind] -= 1
            if job.payload == "fails" and current_job().attempt == 1:
                raise ValueError("no")

        caps = {"one": 1, "three": 3}
        kinds = {name: Kind(handler, workers=cap) for name, cap in caps.items()}
        queue = open_queue(kinds, workers=8, backoff=AT_ONCE)
        queue.enqueue_many([Job(payload="meet", kind="three") for _ in range(3)])
        for n in range(150):
            payload = "fails" if n % 10 == 0 else None
            queue.enqueue_many([Job(payload=payload, kind=kind) for kind in kinds])
        queue.join(LONG)
        assert queue.metrics().completed == 303
        assert most == {"one": 1, "three": 3}

    def test_with_a_rate_limit_both_hold(self) -> None:
        slow = Kind(nothing, workers=2, rate_limit=TokenBucket(1, burst=3))
        engine = Engine(workers=4, kinds={"slow": slow})
        engine.settle(enqueue("slow", "0", "1", "2", "3"))
        assert engine.handed_out == [["0"], ["1"]]
        engine.settle(report(engine.batches[0]), report(engine.batches[1]))
        assert engine.handed_out[2:] == [["2"]], "Three of the bucket are used up."
        assert engine.sleeps() == pytest.approx(1.0)
        engine.settle()
        engine.turn(later=1.0)
        assert engine.handed_out[3:] == [["3"]]

    def test_after_a_crash_it_holds_again(self, path: str) -> None:
        engine = Engine(path, workers=4, kinds={"slow": Kind(nothing, workers=2)})
        engine.settle(enqueue("slow", *map(str, range(6))))
        engine.crash()
        engine.open()
        engine.settle()
        assert len(engine.handed_out) == 2
        assert len(engine.work_off()) == 6


class TestWaitingForAFullKind:
    """Inside a handler of it: that would never end, though workers are idle."""

    def test_for_a_job_of_its_own_kind(self, open_queue: OpenQueue) -> None:
        def parent(job: Job) -> object:
            return job.payload or queue.wait(queue.enqueue(Job(payload=1, kind="tree"))).result

        queue = open_queue({"tree": Kind(parent, workers=1, max_retries=0)}, workers=4)
        record = queue.wait(queue.enqueue(Job(kind="tree")), DEADLINE)
        assert record.status is Status.FAILED
        assert "the jobs that run of kind 'tree' wait, too" in str(record.error)
        assert "(Kind.workers=1)" in str(record.error)

    def test_two_kinds_for_each_other(self, open_queue: OpenQueue) -> None:
        def parent(job: Job) -> object:
            if job.payload:
                return "child"
            both.wait(DEADLINE)
            other = "b" if job.kind == "a" else "a"
            return queue.wait(queue.enqueue(Job(payload="child", kind=other))).result

        both = threading.Barrier(2)
        kinds = {name: Kind(parent, workers=1, max_retries=0) for name in "ab"}
        queue = open_queue(kinds, workers=4)
        ids = [queue.enqueue(Job(kind=kind)) for kind in kinds]
        records = [queue.wait(job_id, DEADLINE) for job_id in ids]
        assert sorted(record.status for record in records) == [Status.COMPLETED, Status.FAILED]

    def test_who_may_yet_hear_of_it_waits(self, open_queue: OpenQueue, gate: Gate) -> None:
        """One that runs of the kind does not wait, and will end."""

        def run(job: Job) -> object:
            if job.payload == "parent":
                return queue.wait("child").result
            if job.payload == "busy":
                gate.wait()
            return "ran"

        queue = open_queue({"tree": Kind(run, workers=2)}, workers=4)
        queue.enqueue_many([Job(payload=p, kind="tree", id=p) for p in ("busy", "child")][:1])
        reaches(queue, "busy", Status.PROCESSING)
        parent = Job("parent", "parent", kind="tree", run_at=0.05)
        queue.enqueue_many([parent, Job("child", "child", kind="tree", run_at=0.1)])
        reaches(queue, "parent", Status.PROCESSING)
        reaches(queue, "child", Status.QUEUED)
        gate.open()
        assert queue.wait("parent", DEADLINE).result == "ran"

    def test_a_crawler_that_fills_its_own_lane(self, open_queue: OpenQueue) -> None:
        def crawl(job: Job) -> None:
            for n in range(3):
                queue.enqueue(Job(f"{job.id}.{n}", "page", kind="crawl"))

        kinds = {"crawl": Kind(crawl, workers=1, max_retries=0), "other": nothing}
        queue = open_queue(kinds, workers=4, capacity=2)
        record = queue.wait(queue.enqueue(Job("start", kind="crawl")), DEADLINE)
        assert record.status is Status.FAILED
        why = "what waits there is of kinds or groups of which no more may run"
        assert why in str(record.error)
        assert completes(queue, Job(kind="other", priority=Priority.HIGH))


class TestExecutor:
    def test_kinds_of_one_queue_run_in_threads_and_in_processes(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(
            {"compute": Kind(handlers.process_id, executor="process"), "talk": handlers.process_id},
            workers=2,
        )
        assert set(queue.map(range(20), kind="talk", timeout=LONG)) == {os.getpid()}
        assert children() == set(), "Nobody has needed one yet."
        pids = set(queue.map(range(20), kind="compute", timeout=LONG))
        assert os.getpid() not in pids
        assert set(queue.map(range(20), kind="talk", timeout=LONG)) == {os.getpid()}
        assert pids == children(), "They are kept."
        assert len(pids) <= 2

    def test_a_handler_may_stay_in_a_thread_where_the_queue_has_processes(
        self, open_queue: OpenQueue
    ) -> None:
        seen = []  # no process would find it

        async def send(job: Job) -> str:
            return "sent"

        kinds = {
            "compute": handlers.process_id,
            "remember": Kind(lambda job: seen.append(job.id), executor="thread"),
            "send": Kind(send, executor="thread"),
        }
        queue = open_queue(kinds, executor="process", workers=1)
        ids = [queue.enqueue(Job(kind, kind=kind)) for kind in kinds]
        pid, nothing, sent = (queue.wait(job_id, LONG).result for job_id in ids)
        assert (nothing, sent, seen) == (None, "sent", ["remember"])
        assert {pid} == children()

    def test_a_crash_costs_an_attempt_of_its_own_kind(self, open_queue: OpenQueue) -> None:
        kinds = {"bad": Kind(handlers.misbehave, executor="process", max_retries=1), "b": nothing}
        queue = open_queue(kinds, workers=2, backoff=AT_ONCE)
        others = queue.enqueue_many([Job(kind="b") for _ in range(20)])
        queue.enqueue(Job("bad", "kill", kind="bad"))
        others += queue.enqueue_many([Job(kind="b") for _ in range(20)])
        record = queue.wait("bad", LONG)
        assert (record.status, record.attempts) == (Status.FAILED, 2)
        assert {queue.wait(job_id, LONG).attempts for job_id in others} == {1}

    def test_a_late_attempt_ends_its_process_and_no_thread(
        self, open_queue: OpenQueue, tmp_path: Path
    ) -> None:
        note = tmp_path / "note"
        kinds = {
            "hang": Kind(handlers.hang_at_first, executor="process", timeout=LONG / 4),
            "b": handlers.process_id,
        }
        queue = open_queue(kinds, workers=1, backoff=AT_ONCE)
        record = queue.wait(queue.enqueue(Job(payload=str(note), kind="hang")), LONG)
        assert (record.result, record.attempts) == ("attempt 2", 2)
        assert int(note.read_text()) not in children()
        assert queue.wait(queue.enqueue(Job(kind="b")), LONG).result == os.getpid()

    @pytest.mark.parametrize(
        ("handler", "sentence"),
        [
            (handlers.send, "handler of kind 'a' is a coroutine function: use executor='thread'"),
            (lambda job: None, "handler of kind 'a' cannot be sent to another process"),
        ],
        ids=["coroutine", "lambda"],
    )
    def test_what_cannot_run_in_a_process_is_refused(self, handler: Any, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            JobQueue({"a": Kind(handler, executor="process"), "b": handler})


class TestCrashes:
    """The process ends, by kill -9, in the middle of a handler."""

    def test_the_last_attempt_is_the_one_of_its_kind(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        starts: Counter[str] = Counter()
        while (ended := run_child("crash_by_kind", path))[0] != 0:
            starts.update(ended[1])
            assert starts.total() < 20, "They have more attempts than they should."
        # The first crash never takes the last attempt: else it is max_retries + 1.
        assert starts == {"delicate": 2, "sturdy": 4}
        assert sorted(in_file(path, "kind, status, attempts")) == [
            ("delicate", "failed", 1),
            ("sturdy", "failed", 4),
        ]

    def test_without_a_handler_the_queues_own_holds(self, open_queue: OpenQueue, path: str) -> None:
        """Who finds it does not know the kind, and so not how often it may be tried."""
        for _ in range(2):
            with child("runs_a_kind", path) as process:
                assert next_line(process) == "started"
                process.kill()
                Background(process.wait).result()
        open_queue({"other": nothing}, path=path, max_retries=0).close()
        assert in_file(path, "kind, status, attempts") == [("mine", "failed", 2)]


class TestTypos:
    def test_an_option_that_does_not_exist(self) -> None:
        with pytest.raises(TypeError, match="retries"):
            Kind(nothing, retries=5)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="positional"):
            Kind(nothing, 5)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("option", "value", "error", "sentence"),
        [
            ("max_retries", -1, ValueError, "Kind.max_retries must be at least 0, not -1."),
            ("max_retries", "5", TypeError, "Kind.max_retries must be a whole number, not '5'."),
            ("backoff", 5, TypeError, "Kind.backoff must be a Backoff, not 5."),
            ("timeout", 0, ValueError, "Kind.timeout must be a number above 0, not 0."),
            ("timeout", math.nan, ValueError, "Kind.timeout must be a number above 0, not nan."),
            ("rate_limit", 5, TypeError, "Kind.rate_limit must be a TokenBucket or a LeakyBucket"),
            ("rate_limit", {"a": LeakyBucket(1)}, TypeError, "Kind.rate_limit must be a TokenB"),
            ("workers", 0, ValueError, "Kind.workers must be at least 1, not 0."),
            ("workers", True, TypeError, "Kind.workers must be a whole number, not True."),
            (
                "workers",
                10**400,
                ValueError,
                "Kind.workers must be at most 1,000,000,000, not one so large.",
            ),
            ("executor", "fork", ValueError, "Kind.executor must be one of thread, process"),
        ],
    )
    def test_a_value_that_makes_no_sense(
        self, option: str, value: Any, error: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(error, match=sentence):
            Kind(nothing, **{option: value})

    def test_no_handler(self) -> None:
        with pytest.raises(TypeError, match=r"Kind takes a callable handler\(job\) first, not 5"):
            Kind(5)  # type: ignore[arg-type]

    def test_a_mapping_to_something_else(self) -> None:
        sentence = r"handler of kind 'b' must be callable as handler\(job\), or a Kind, not 5"
        with pytest.raises(TypeError, match=sentence):
            JobQueue({"a": Kind(nothing), "b": 5})  # type: ignore[dict-item]

    def test_a_kind_for_all_kinds(self) -> None:
        with pytest.raises(TypeError, match="handler is a Kind, which is for one of several"):
            JobQueue(Kind(nothing))  # type: ignore[arg-type]


def test_a_kind_that_chooses_nothing_is_a_plain_handler(open_queue: OpenQueue) -> None:
    queue = open_queue({"a": Kind(fail), "b": fail}, max_retries=1, backoff=Backoff(0, 0, 0))
    queue.enqueue_many([Job(kind="a"), Job(kind="b")])
    queue.join(DEADLINE)
    assert [dead.attempts for dead in queue.dead_letters()] == [2, 2]
