"""The dispatcher's turns, one by one and without a thread: a function of state, messages, time."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from final import DuplicateJob, Job, Priority, QueueClosed, QueueFull, StorageError
from final.beyond.filters import Filter
from final.beyond.kinds import Kind
from final.beyond.unique import Unique
from final.engine.dispatcher import STORAGE_RETRY_SECONDS
from final.engine.messages import Close, Enqueue, GiveOrder, Join, Measure, Request, Wait, Withdraw
from final.engine.producers import OFFERED_AT_ONCE, Producers
from final.job import Outcome, Task
from final.ledger.base import BYTES_AT_ONCE, Cancel, Offer, Retry
from final.ledger.picking import BATCH_JOBS
from final.workers.batch import Batch, Report
from tests.final import inside
from tests.final.engine import START, Engine, ask, jobs, report
from tests.final.helpers import OpenQueue, eventually, learn_that_jobs_are_quick, nothing
from tests.helpers import DEADLINE, Gate, Journal

HIGH, MEDIUM, LOW = Priority


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def held() -> Engine:
    """An engine whose only worker is busy with the job "held"."""
    engine = Engine(capacity=2)
    engine.turn(jobs("held"))
    return engine


class TestOneCommit:
    def test_inserts_outcomes_and_claims_of_a_turn_are_one_commit(self, engine: Engine) -> None:
        engine.turn(jobs("a"), jobs("b"), jobs("c", priority=HIGH))
        assert len(engine.file.commits) == 1
        engine.turn(report(engine.batches[0]), jobs("d"), jobs("e"))
        assert len(engine.file.commits) == 2
        assert engine.file.commits[-1] == {
            ("processing", "completed"): ["c"],
            (None, "queued"): ["d", "e"],
            ("queued", "processing"): ["a"],
        }

    def test_a_turn_without_changes_commits_nothing(self, engine: Engine) -> None:
        engine.turn()
        engine.turn(Measure(), Join(), Wait("unknown"))
        assert engine.file.commits == []

    def test_a_new_job_may_be_written_and_claimed_at_once(self, engine: Engine) -> None:
        engine.turn(jobs("a"))
        assert engine.file.commits == [{(None, "queued"): ["a"], ("queued", "processing"): ["a"]}]
        assert engine.status("a") == ("processing", 1)

    def test_everybody_is_answered_only_after_the_commit(self, held: Engine) -> None:
        enqueue, wait = jobs("a", "b"), Wait("held")
        answered: list[bool] = []
        delivered: list[int] = []

        def look() -> None:
            answered.extend([enqueue.answered, wait.answered])
            delivered.append(len(held.batches))

        held.file.on_write = look
        held.turn(wait, enqueue, report(held.batches[0]))
        assert answered == [False, False]
        assert delivered == [1]
        assert enqueue.answered
        assert wait.answered
        assert len(held.batches) == 2

    def test_the_claim_is_in_the_file_when_the_worker_gets_the_job(self, path: str) -> None:
        engine = Engine(path)
        seen: list[tuple[str, int]] = []

        def deliver(batch: Batch) -> None:
            connection = sqlite3.connect(path)
            seen.extend(connection.execute("SELECT status, attempts FROM job"))
            connection.close()

        engine.deliver = deliver  # type: ignore[method-assign]
        engine.turn(jobs("a"))
        assert seen == [("processing", 1)]


class TestUnreadableJobs:
    """A payload may be nested so deeply that only some threads have the stack to read it."""

    @pytest.fixture
    def unreadable(self, path: str) -> Engine:
        """An engine whose only job is one that nobody can read."""
        engine = Engine(path)
        engine.turn(jobs("x"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            nested = "[" * 100_000 + "]" * 100_000
            connection.execute("UPDATE payload SET payload = ?", (nested,))
        return engine

    def test_who_waits_for_one_gets_the_error_and_the_turns_go_on(self, unreadable: Engine) -> None:
        wait = Wait("x")
        unreadable.turn(wait)  # which does not raise
        with pytest.raises(RecursionError):
            wait.result()
        unreadable.turn(report(unreadable.batches[0]))
        assert unreadable.metrics().completed == 1

    def test_one_that_has_ended_is_not_read_to_refuse_its_cancelling(
        self, unreadable: Engine
    ) -> None:
        unreadable.turn(report(unreadable.batches[0]))
        assert ask(unreadable, GiveOrder(Cancel("x"))) is False


def test_the_id_that_another_producer_has_just_taken_is_named(engine: Engine) -> None:
    engine.turn(jobs("b"))
    first, second = jobs("a"), jobs("a", "b")
    engine.turn(first, second)
    assert first.result() == ["a"]
    with pytest.raises(DuplicateJob) as refused:
        second.result()
    assert list(refused.value.ids) == ["a", "b"]


class TestFailedCommit:
    @pytest.fixture
    def busy(self) -> Engine:
        """An engine in the middle of things.

        "dead" is a dead letter, "failing" retries in a second, "x" and "y" are in flight, jobs
        wait in each lane, and "h3" in the line of a full one.
        """
        engine = Engine(workers=2, capacity=2, max_retries=1)
        engine.turn(jobs("dead"))
        engine.turn(report(engine.batches[0], failed=True))
        engine.turn(later=1.0)
        engine.turn()
        engine.turn(report(engine.batches[1], failed=True))
        engine.turn(jobs("failing"))
        engine.turn(report(engine.batches[2], failed=True))
        engine.turn(jobs("x", "y"))
        engine.turn(jobs("h1", "h2", priority=HIGH), jobs("m1"), jobs("l1", priority=LOW))
        engine.turn(jobs("h3", priority=HIGH))
        return engine

    def test_everything_is_as_it_was_before(self, busy: Engine) -> None:
        """The turn would record two outcomes, requeue "failing", revive "dead", insert, claim."""
        before = busy.state()
        enqueue, retry = jobs("l2", priority=LOW), GiveOrder[int](Retry("dead"))
        busy.file.failures = 1
        outcomes = [report(busy.batches[3]), report(busy.batches[4], failed=True)]
        busy.turn(*outcomes, enqueue, retry, later=1.0)
        assert busy.state() == before
        assert len(busy.batches) == 5
        for request in (enqueue, retry):
            with pytest.raises(StorageError, match="The disk is full"):
                request.result()

    def test_the_counts_are_as_they_were_before(self, busy: Engine) -> None:
        before = busy.metrics()
        retry = GiveOrder[int](Retry("dead"))
        busy.file.failures = 2
        busy.turn(report(busy.batches[3]), jobs("l2", priority=LOW), retry, later=1.0)
        after = busy.metrics()
        for name in ("accepted", "queued", "processing", "retrying", "completed", "failed"):
            assert getattr(after, name) == getattr(before, name)

    def test_the_next_turn_makes_up_for_it(self, busy: Engine) -> None:
        busy.file.failures = 1
        outcomes = [report(busy.batches[3]), report(busy.batches[4], failed=True)]
        busy.turn(*outcomes, GiveOrder[int](Retry("dead")), later=1.0)
        assert [busy.status(i) for i in ("x", "h1")] == [("processing", 1), ("queued", 0)]
        busy.turn()
        assert busy.file.commits[-1] == {
            ("processing", "completed"): ["x"],
            ("processing", "retrying"): ["y"],
            ("retrying", "queued"): ["failing"],
            ("queued", "processing"): ["h1", "h2"],
        }
        assert [busy.status(i) for i in ("x", "h1")] == [("completed", 1), ("processing", 1)]

    def test_a_delay_goes_on_whoever_sets_the_clock(self, engine: Engine) -> None:
        """It was counted before the disk was full, and is not to be counted anew."""
        engine.turn(jobs("a"))
        engine.turn(report(engine.batches[0], failed=True))
        engine.ahead -= 86_400
        engine.file.failures = 1
        engine.turn(later=1.0)
        assert engine.status("a") == ("retrying", 1)
        engine.turn(later=1.0)
        assert engine.status("a") == ("processing", 2)

    def test_a_claim_that_was_not_committed_charges_no_attempt(self, engine: Engine) -> None:
        engine.turn(jobs("a", "b"))
        engine.file.failures = 3
        engine.turn(report(engine.batches[0]))
        assert not engine.dispatcher._again, "it would go round and round"
        engine.turn()
        engine.turn()
        assert len(engine.batches) == 1
        engine.turn()
        assert engine.status("b") == ("processing", 1)
        assert engine.batches[1].claimed[0].attempts == 1

    def test_what_the_engine_refuses_in_the_middle_leaves_nothing_of_the_turn(
        self, engine: Engine
    ) -> None:
        """Not only a full disk, after which SQLite takes back the transaction by itself."""
        engine.file._writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
        enqueue = jobs("a", "b", "too long")
        enqueue.tasks[2].payload = "x" * 20_000
        engine.turn(enqueue)
        with pytest.raises(StorageError, match="string or blob too big"):
            enqueue.result()
        assert engine.ledger.look_ups.jobs(Filter(), 10) == []
        engine.turn(jobs("a", "b"))
        assert engine.work_off() == ["a", "b"]

    def test_several_failures_lose_no_outcome(self, engine: Engine) -> None:
        engine = Engine(workers=3)
        engine.turn(jobs("a", "b", "c"))
        engine.file.failures = 3
        for batch in list(engine.batches):
            engine.turn(report(batch))
        engine.turn()
        assert [engine.status(i) for i in "abc"] == [("completed", 1)] * 3

    def test_a_producer_is_told_what_was_accepted_before(self, held: Engine) -> None:
        enqueue = jobs("a", "b", "c", "d")  # two have room
        held.turn(enqueue)
        held.turn(report(held.batches[0]))  # "a" starts
        held.file.failures = 1
        held.turn()  # "c" would have room now
        with pytest.raises(StorageError) as refused:
            enqueue.result()
        assert refused.value.accepted == ["a", "b"]
        held.turn()
        assert held.work_off() == ["held", "a", "b"]

    def test_those_still_in_line_stay_there(self, held: Engine) -> None:
        first, second = jobs("a", "b", "c"), jobs("d")
        held.turn(first, second)
        held.file.failures = 1
        held.turn(report(held.batches[0]))  # "a" would start
        assert not first.answered
        assert not second.answered
        held.turn()
        assert held.work_off() == ["held", "a", "b", "c", "d"]

    def test_those_next_in_line_are_told_too_and_do_not_sleep_before_a_free_place(self) -> None:
        engine = Engine(capacity=1)
        first, second = jobs("first"), jobs("second")
        engine.file.failures = 2
        engine.turn(first, second)
        assert first.answered
        assert not second.answered
        assert engine.dispatcher._again, "the second would wait until somebody else says something"
        engine.turn()
        with pytest.raises(StorageError, match="The disk is full"):
            second.result()
        assert not engine.dispatcher._again

    def test_an_attempt_ended_when_it_did_however_late_that_could_be_written(
        self, engine: Engine
    ) -> None:
        engine.turn(jobs("a"))
        engine.file.failures = 1
        engine.turn(report(engine.batches[0], failed=True, seconds=2.0), later=2.0)
        ended_at = engine.wall
        engine.turn(later=600.0)
        [attempt] = engine.file.attempts("a")
        assert (attempt.started_at, attempt.ended_at) == (ended_at - 2.0, ended_at)

    def test_a_failed_job_is_not_tried_again_if_it_is_cancelled_meanwhile(
        self, engine: Engine
    ) -> None:
        """It is neither waiting nor running, but it has not ended either: that is not written."""
        engine.turn(jobs("a"))
        engine.file.failures = 1
        engine.turn(report(engine.batches[0], failed=True))
        assert ask(engine, GiveOrder[bool](Cancel("a"))) is True
        assert engine.status("a") == ("cancelled", 1)

    def test_an_idle_queue_finds_out_by_itself_that_the_disk_works_again(
        self, engine: Engine
    ) -> None:
        engine.file.failures = 2
        engine.turn(jobs("a"))
        assert engine.sleeps() == STORAGE_RETRY_SECONDS
        engine.turn(later=STORAGE_RETRY_SECONDS / 2)  # whoever looks meanwhile costs no write
        engine.turn(later=STORAGE_RETRY_SECONDS / 2)
        assert engine.metrics().storage_error == "The disk is full."
        assert engine.sleeps() == STORAGE_RETRY_SECONDS
        engine.turn(later=STORAGE_RETRY_SECONDS)
        assert engine.metrics().storage_error is None
        assert engine.sleeps() is None

    def test_the_clock_goes_on_for_retries_meanwhile(self, engine: Engine) -> None:
        engine.turn(jobs("a"))
        engine.turn(report(engine.batches[0], failed=True))
        engine.file.failures = 1
        engine.turn(later=1.0)
        assert engine.status("a") == ("retrying", 1)
        engine.turn()
        engine.turn()
        assert engine.status("a") == ("processing", 2)


class TestFirstComeFirstServed:
    def test_producers_get_room_in_the_order_they_came(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        waiting = [jobs(name) for name in "cdefgh"]
        for enqueue in waiting[:3]:
            held.turn(enqueue)
        held.turn(*waiting[3:])
        assert held.work_off() == ["held", *"abcdefgh"]
        assert [enqueue.result() for enqueue in waiting] == [[name] for name in "cdefgh"]

    def test_a_large_request_keeps_its_place_at_the_front(self, held: Engine) -> None:
        held.turn(jobs("a", "b", "c", "d", "e"), jobs("f"))
        assert held.work_off() == ["held", *"abcdef"]

    def test_nobody_overtakes_in_another_lane_either(self, held: Engine) -> None:
        """A request that comes from another lane stands behind those that wait in this one."""
        held.turn(jobs("m1", "m2"), jobs("h1", "h2", priority=HIGH))
        both = jobs("h3", priority=HIGH)
        both.tasks += jobs("m4").tasks
        held.turn(both, jobs("m3"))
        held.work_off()
        seq = {task_id: held.file.get(task_id) for task_id in ("m3", "m4")}
        assert seq["m3"] is not None
        newest_first = [
            job.id for job in held.ledger.look_ups.jobs(Filter(), 10) if job.id in ("m3", "m4")
        ]
        assert newest_first == ["m4", "m3"]

    def test_order_survives_that_somebody_in_front_is_refused(self) -> None:
        engine = Engine(capacity=3)
        engine.turn(jobs("held"))
        taken = jobs("held")
        engine.settle(taken, *[jobs(name) for name in "abcdef"])
        with pytest.raises(DuplicateJob):
            taken.result()
        assert engine.waiting() == ["a", "b", "c"]
        assert engine.work_off() == ["held", *"abcdef"]

    def test_whoever_gives_up_makes_way(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        impatient, patient = jobs("c"), jobs("d")
        held.turn(impatient, patient)
        held.turn(Withdraw(impatient))
        with pytest.raises(QueueFull):
            impatient.result()
        assert held.work_off() == ["held", "a", "b", "d"]

    @pytest.mark.parametrize("turns", [0, 1])
    def test_of_a_sender_who_is_gone_nothing_more_comes_in(self, turns: int) -> None:
        """Nor by this turn: a ``map`` that stops cancels what is in, and would miss these."""
        engine = Engine(capacity=3_000)
        request, others = jobs(*map(str, range(2_001))), jobs("other")
        engine.turn(*[request][:turns])
        before = engine.metrics().accepted
        engine.turn(*[request][turns:], Withdraw(request, gone=True), others)
        assert engine.metrics().accepted == before + 1
        assert (0 < before < 2_001) == bool(turns)
        assert others.result() == ["other"]

    def test_nor_does_anything_stay_of_one_who_was_out_of_time_and_is_gone(
        self, engine: Engine
    ) -> None:
        request = jobs(*map(str, range(1_001)))
        engine.turn(request, Withdraw(request), Withdraw(request, gone=True))
        engine.turn()
        assert request.answered
        assert (engine.metrics().accepted, engine.dispatcher._withdrawn) == (0, [])

    def test_no_time_to_wait_is_enough_where_there_is_room(self, held: Engine) -> None:
        fits, does_not = jobs("a", "b"), jobs("c")
        held.turn(fits, does_not, Withdraw(fits), Withdraw(does_not))
        assert fits.result() == ["a", "b"]
        with pytest.raises(QueueFull, match=r"The medium lane had no room .*capacity 2"):
            does_not.result()

    def test_jobs_in_the_file_stand_in_the_order_of_the_lanes(self, path: str) -> None:
        """A retry falls due in the very turn in which a new job comes."""
        engine = Engine(path)
        engine.turn(jobs("retried"))
        engine.turn(report(engine.batches[0], failed=True), jobs("held", "a"))
        engine.turn(jobs("b"), later=1.0)
        in_memory = engine.waiting()
        assert sorted(in_memory) == ["a", "b", "retried"]
        engine.crash()
        again = Engine(path)
        assert again.waiting() == ["held", *in_memory]

    def test_numbers_go_on_after_a_restart_where_they_had_ended(self, path: str) -> None:
        """Also where the last ones were given to retries, as their new places in line."""
        engine = Engine(path)
        engine.turn(jobs("r1", "r2", "held"))
        engine.turn(report(engine.batches[0], failed=True))
        engine.turn(report(engine.batches[1], failed=True))
        engine.turn(later=1.0)
        assert engine.waiting() == ["r1", "r2"]
        engine.crash()
        engine = Engine(path)
        engine.turn(jobs("new"))
        assert engine.waiting() == ["r1", "r2", "new"]
        engine.crash()
        assert Engine(path).waiting() == ["held", "r1", "r2", "new"]

    @pytest.mark.parametrize("with_others", [False, True])
    def test_a_scheduled_job_needs_no_room_and_stands_behind_nobody(
        self, held: Engine, with_others: bool
    ) -> None:
        held.turn(jobs("a", "b"))
        plain, scheduled = jobs("c"), jobs("s", *(["d"] if with_others else []))
        scheduled.tasks[0].due_at = held.wall + 60
        held.turn(plain, scheduled)
        assert not plain.answered
        assert held.status("s") == ("scheduled", 0)
        assert scheduled.answered is not with_others
        assert held.work_off() == ["held", "a", "b", "c"] + ["d"] * with_others


class TestDuplicates:
    def test_of_two_in_one_turn_the_first_wins(self, engine: Engine) -> None:
        first, second = jobs("a"), jobs("a")
        engine.turn(first, second)
        assert first.result() == ["a"]
        with pytest.raises(DuplicateJob) as refused:
            second.result()
        assert refused.value.ids == ["a"]
        assert engine.work_off() == ["a"]

    def test_a_refused_request_takes_no_id_from_the_next(self, engine: Engine) -> None:
        first, clashing, last = jobs("a", "b"), jobs("b", "c"), jobs("c")
        engine.turn(first, clashing, last)
        assert (first.result(), last.result()) == (["a", "b"], ["c"])
        with pytest.raises(DuplicateJob) as refused:
            clashing.result()
        assert (refused.value.ids, refused.value.accepted) == (["b"], [])

    def test_what_has_no_room_yet_takes_no_id_from_others(self) -> None:
        """DuplicateJob means "it is in". A job that waits for room is not in yet."""
        engine = Engine(capacity=3)
        engine.turn(jobs("held"))
        engine.turn(jobs("m1", "m2", "m3"))  # the medium lane is full
        waiting, urgent = jobs("h1", priority=HIGH), jobs("x", priority=HIGH)
        waiting.tasks += jobs("x").tasks
        taken = jobs("held", priority=HIGH)  # makes the turn look at ids
        engine.turn(waiting, taken, urgent)
        assert urgent.result() == ["x"]
        engine.work_off()
        with pytest.raises(DuplicateJob) as refused:
            waiting.result()
        assert (refused.value.ids, refused.value.accepted) == (["x"], ["h1"])

    def test_a_request_that_goes_from_line_to_line_is_no_duplicate_of_itself(
        self, engine: Engine
    ) -> None:
        engine.turn(jobs("taken"))
        both = jobs("h", priority=HIGH)
        both.tasks += jobs("m").tasks  # has to stand behind the duplicate
        duplicate = jobs("taken")
        engine.settle(both, duplicate)
        assert both.result() == ["h", "m"]
        with pytest.raises(DuplicateJob):
            duplicate.result()

    def test_nobody_is_called_a_duplicate_of_a_job_that_is_not_in_yet(self, engine: Engine) -> None:
        """The commit that would bring in the first of the two may fail."""
        first, second = jobs("a"), jobs("a")
        engine.file.failures = 1
        engine.turn(first, second)
        for enqueue in (first, second):
            with pytest.raises(StorageError):
                enqueue.result()
        assert ask(engine, jobs("a")) == ["a"]

    def test_nor_of_one_that_is_refused_for_another_job_of_its_request(self) -> None:
        """Found by the simulation, in life 141,683: "x is in the queue", and it never was."""
        engine = Engine(capacity=1)
        engine.turn(jobs("in"))
        first, second = jobs("x"), jobs("x", priority=LOW)
        first.tasks += jobs("in", priority=LOW).tasks  # has room only if the second one has gone
        engine.settle(first, second)
        with pytest.raises(DuplicateJob) as refused:
            second.result()
        assert refused.value.ids == ["x"]
        with pytest.raises(DuplicateJob) as refused:
            first.result()
        assert (refused.value.ids, refused.value.accepted) == (["in"], ["x"])
        assert engine.work_off() == ["in", "x"]

    def test_the_others_of_the_turn_are_not_disturbed(self, engine: Engine) -> None:
        engine.turn(jobs("a"))
        rest = [jobs(f"new-{n}") for n in range(10)]
        taken = jobs("a")
        engine.turn(*rest[:5], taken, *rest[5:], report(engine.batches[0]))
        assert [enqueue.result() for enqueue in rest] == [[f"new-{n}"] for n in range(10)]
        assert engine.status("a") == ("completed", 1)
        counts = engine.metrics()
        assert (counts.accepted, counts.queued, counts.processing) == (11, 9, 1)

    def test_nor_is_one_that_goes_from_line_to_line_in_that_turn(self, engine: Engine) -> None:
        """It stands in two lines of the turn, but it does not clash with itself."""
        engine.turn(jobs("in"))
        both = jobs("urgent", priority=HIGH)
        both.tasks += jobs("medium").tasks
        taken = jobs("in")  # before "medium" in the line of its lane
        engine.settle(both, taken)
        with pytest.raises(DuplicateJob):
            taken.result()
        assert both.answered
        assert both.result() == ["urgent", "medium"]


class TestTokens:
    def test_what_comes_back_with_an_old_token_is_dropped(self, engine: Engine) -> None:
        """It is of an attempt that was given up."""
        engine.turn(jobs("a"))
        [batch] = engine.batches
        [task], old = batch.claimed, batch.token - 1
        for offer in (
            Offer(0.0, START, outcomes=[(old, [Outcome(task, 0.1)])]),
            Offer(0.0, START, outcomes=[(old, [Outcome(task, 0.1, error="no", delay=1.0)])]),
            Offer(0.0, START, unstarted=[(old, [task])]),
        ):
            assert engine.ledger.exchange(offer).moves == []
            assert engine.status("a") == ("processing", 1)
        engine.turn(report(batch))
        assert engine.status("a") == ("completed", 1)

    def test_what_is_set_aside_at_that_moment_can_be_cancelled(self, engine: Engine) -> None:
        """It waits for the next start, and has not ended."""
        engine.turn(jobs("a"))
        [batch] = engine.batches
        orders = [Cancel("a"), Cancel("a")]
        offer = Offer(0.0, START, aside=[(batch.token, batch.claimed)], orders=orders)
        assert engine.ledger.exchange(offer).answers == [True, False]
        assert engine.status("a") == ("cancelled", 0)

    def test_nor_does_it_stand_in_a_lane_where_that_could_not_be_written(
        self, engine: Engine
    ) -> None:
        engine.turn(jobs("a"))
        [batch] = engine.batches
        exchange, cancel = engine.ledger.exchange, Offer(0.0, START, orders=[Cancel("a")])
        before = exchange(Offer(0.0, START, aside=[(batch.token, batch.claimed)]))
        engine.file.failures = 1
        assert exchange(cancel).error
        after = exchange(cancel)
        assert after.answers == [True]
        assert (after.room, after.live) == (before.room, before.live)
        assert engine.status("a") == ("cancelled", 0)

    def test_each_claim_has_a_newer_token(self, engine: Engine) -> None:
        engine.turn(jobs("a", "b", "c"))
        engine.work_off()
        tokens = [batch.token for batch in engine.batches]
        assert tokens == sorted(set(tokens))
        assert len(tokens) == 3


class TestMillisecondRule:
    @pytest.mark.parametrize(
        ("seconds", "size"),
        [
            (1e-6, BATCH_JOBS),
            (1.1e-5, 91),
            (0.00011, 10),
            (0.0003, 4),
            (0.0009, 2),
            (0.001, 1),
            (0.5, 1),
        ],
    )
    def test_a_worker_gets_as_many_jobs_as_take_a_millisecond(
        self, engine: Engine, seconds: float, size: int
    ) -> None:
        engine.turn(jobs("measured"))
        engine.turn(report(engine.batches[0], seconds=seconds))
        engine.turn(jobs(*(f"job-{n}" for n in range(200))))
        assert [len(ids) for ids in engine.handed_out] == [1, size]

    def test_a_kind_that_was_never_measured_goes_one_at_a_time(self, engine: Engine) -> None:
        engine.turn(jobs("a", "b", "c"))
        assert [len(ids) for ids in engine.handed_out] == [1]

    def test_each_kind_costs_what_it_costs(self, engine: Engine) -> None:
        slow, quick = jobs("slow"), jobs(*(f"quick-{n}" for n in range(100)))
        slow.tasks[0].kind = "slow"
        engine.turn(jobs("measured"))
        engine.turn(report(engine.batches[0], seconds=1e-6))
        engine.turn(jobs("first"))
        engine.turn(slow, quick)
        engine.turn(report(engine.batches[1], seconds=1e-6))
        assert engine.handed_out[2] == ["slow"]  # not measured yet
        engine.turn(report(engine.batches[2], seconds=0.0008))
        assert len(engine.handed_out[3]) == 100
        engine.turn(jobs("slow-2"))
        assert engine.waiting()[-1] == "slow-2"

    def test_waiting_jobs_are_shared_among_idle_workers(self) -> None:
        engine = Engine(workers=4)
        engine.turn(jobs("measured"))
        engine.turn(report(engine.batches[0], seconds=1e-6))
        engine.turn(jobs(*(f"job-{n}" for n in range(10))))
        assert [len(ids) for ids in engine.handed_out[1:]] == [3, 3, 2, 2]

    def test_a_job_that_a_crash_has_interrupted_is_alone(self, path: str) -> None:
        """It may be about to end the process again, and company would be in the dark."""
        engine = interrupted_together("a", "b", "c", path=path)
        engine.turn(jobs("d", "e"))
        assert engine.work_off(seconds=1e-6) == ["a", "b", "c", "d", "e"]
        assert engine.handed_out == [["a"], ["b"], ["c"], ["d", "e"]]

    def test_nor_does_it_come_behind_others(self, path: str) -> None:
        engine = interrupted_together("a", "b", path=path)
        engine.turn()
        engine.turn(jobs("c", "d", priority=Priority.HIGH))
        engine.work_off(seconds=1e-6)
        assert engine.handed_out == [["a"], ["c", "d"], ["b"]]


class TestCrashes:
    """Who was claimed together with others may not have begun when the process ended."""

    def test_they_are_not_charged(self, path: str) -> None:
        engine = interrupted_together("a", "b", "c", path=path)
        assert [engine.status(i) for i in "abc"] == [("queued", 0)] * 3

    def test_who_was_alone_is(self, path: str) -> None:
        engine = Engine(path, workers=2)
        engine.turn(jobs("a", "b"))
        engine.crash()
        engine = Engine(path)
        assert [engine.status(i) for i in "ab"] == [("queued", 1)] * 2

    def test_the_first_one_takes_nobodys_last_attempt(self, path: str) -> None:
        engine = Engine(path, max_retries=0)
        engine.turn(jobs("a"))
        for status in (("queued", 0), ("failed", 1)):
            engine.crash()
            engine = Engine(path, max_retries=0)
            assert engine.status("a") == status
            engine.turn()

    def test_before_their_last_attempt_they_run_one_at_a_time(self, path: str) -> None:
        """Or the next crash would end them all, for what one of them does."""
        engine = interrupted_together("a", "b", "c", path=path, workers=3, max_retries=0)
        engine.turn()
        assert engine.handed_out == [["a"]]

    def test_an_attempt_that_ends_clears_a_job_of_suspicion(self, path: str) -> None:
        engine = interrupted_together("a", "b", path=path)
        engine.turn()
        engine.turn(report(engine.batches[0], failed=True, seconds=1e-6))  # of a
        engine.turn(report(engine.batches[1], seconds=1e-6), jobs("c"))  # of b
        engine.turn(jobs("d"), later=1.0)
        engine.work_off(reported=2, seconds=1e-6)
        assert engine.handed_out[2:] == [["c"], ["a", "d"]]


def that_knows_they_are_quick(path: str, **options: Any) -> Engine:
    """An engine that has measured a job, and forgotten all else of it."""
    engine = Engine(path, **options)
    engine.turn(jobs("measured"))
    engine.turn(report(engine.batches.pop(), seconds=1e-6))
    engine.handed_out.pop()
    return engine


def interrupted_together(*ids: str, path: str, **options: Any) -> Engine:
    """The file of a process that ended when one worker had claimed these, opened again."""
    engine = that_knows_they_are_quick(path)
    engine.turn(jobs(*ids))
    assert engine.handed_out == [list(ids)]
    engine.crash()
    return Engine(path, **options)


class TestOverdue:
    """A batch that was misjudged: its first job is slow, and the rest waits behind it."""

    @staticmethod
    def misjudged(workers: int, count: int, path: str = ":memory:") -> Engine:
        engine = that_knows_they_are_quick(path, workers=workers)
        engine.turn(jobs(*map(str, range(count))))
        for batch in engine.batches:
            batch.running, batch.started = batch.tasks.popleft(), engine.now  # all have begun
        return engine

    def test_the_rest_goes_back_uncharged(self) -> None:
        engine = self.misjudged(workers=2, count=10)
        assert [engine.status(str(n)) for n in range(10)] == [("processing", 1)] * 10
        engine.turn(later=0.02)
        for n in range(10):
            assert engine.status(str(n)) == (("queued", 0) if n % 5 else ("processing", 1))

    def test_an_idle_worker_takes_it_over(self) -> None:
        engine = self.misjudged(workers=2, count=10)
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.02)
        assert engine.handed_out[2] == ["1", "2", "3", "4"]
        assert [engine.status(str(n)) for n in range(5)] == [("processing", 1)] * 5

    def test_while_nobody_is_idle_urgent_jobs_may_pass_it(self) -> None:
        engine = self.misjudged(workers=1, count=10)
        engine.turn(jobs("urgent", priority=Priority.HIGH), later=0.02)
        engine.turn(report(engine.batches[0], seconds=0.02))
        assert engine.handed_out[1] == ["urgent"]

    def test_not_before_it_is_overdue(self) -> None:
        engine = self.misjudged(workers=2, count=10)
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.005)
        engine.turn()
        assert len(engine.batches) == 2

    def test_what_the_worker_reports_then_is_what_it_did(self) -> None:
        engine = self.misjudged(workers=2, count=10)
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.02)
        engine.turn(report(engine.batches[0]))
        assert [engine.status(str(n))[0] for n in (0, 5, 9)] == ["completed"] * 3
        assert sorted(engine.work_off(reported=2)) == ["1", "2", "3", "4"]
        counts = engine.metrics()
        assert (counts.accepted, counts.completed) == (11, 11)

    def test_they_come_back_in_order_from_many_batches(self) -> None:
        engine = self.misjudged(workers=8, count=64)
        engine.turn(report(engine.batches[7], seconds=1e-6), later=0.02)
        engine.turn()
        assert engine.handed_out[8] == [str(n) for n in range(56) if n % 8]

    def test_they_run_before_those_that_came_later(self) -> None:
        engine = self.misjudged(workers=2, count=10)
        engine.turn(jobs("late-1", "late-2"))
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.02)
        engine.turn()
        assert engine.handed_out[2][:4] == ["1", "2", "3", "4"]

    def test_a_crash_then_charges_nobody(self, path: str) -> None:
        engine = self.misjudged(workers=2, count=10, path=path)
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.02)
        engine.turn()
        engine.crash()
        again = Engine(path, handles=lambda kind: False)
        assert [again.status(str(n)) for n in range(5)] == [("queued", 0)] * 5

    def test_nobody_turns_round_and_round_over_it(self, open_queue: OpenQueue) -> None:
        """While no worker is idle there is nothing to do about an overdue batch."""
        started = Journal()
        gate = Gate()

        def handler(job: Job) -> None:
            if job.id == "slow":
                started.write("slow")
                gate.wait()

        queue = open_queue(handler, workers=1)
        learn_that_jobs_are_quick(queue)
        turns: list[float] = []
        inside.before_each_turn(queue, lambda: turns.append(time.monotonic()))
        queue.enqueue_many([Job("slow"), *(Job() for _ in range(20))])
        started.wait_for("slow")
        looks = 0

        def long_overdue() -> bool:
            nonlocal looks
            looks += 1  # each look at the metrics is a turn
            queue.metrics()
            return bool(turns) and turns[-1] - turns[0] > 0.1

        eventually(long_overdue, "the batch to be overdue")
        gate.open()
        queue.join(DEADLINE)
        assert len(turns) < looks + 100


class TestSuspects:
    """Jobs that were interrupted twice by the end of the process run one at a time."""

    @pytest.fixture
    def crashed_twice(self, path: str) -> Callable[..., Engine]:
        """Three jobs in flight at two crashes; opens the file for the third time."""
        engine = Engine(path, workers=3)
        engine.turn(jobs("a", "b", "c"))
        engine.crash()
        engine = Engine(path, workers=3)
        engine.turn()
        assert [batch.claimed[0].attempts for batch in engine.batches] == [2, 2, 2]
        engine.crash()

        def open_again(**options: Any) -> Engine:
            return Engine(path, workers=3, **options)

        return open_again

    def test_one_at_a_time(self, crashed_twice: Callable[..., Engine]) -> None:
        engine = crashed_twice()
        for name in "abc":
            engine.turn()
            engine.turn()
            assert engine.handed_out[-1] == [name]
            assert len(engine.batches) == "abc".index(name) + 1
            engine.turn(report(engine.batches[-1]))
        assert [engine.status(i) for i in "abc"] == [("completed", 3)] * 3

    def test_other_jobs_run_beside_them(self, crashed_twice: Callable[..., Engine]) -> None:
        engine = crashed_twice()
        engine.turn(jobs("new-1", "new-2", "new-3"))
        assert engine.handed_out == [["a"], ["new-1"], ["new-2"]]

    def test_a_failure_lets_the_next_one_go(self, crashed_twice: Callable[..., Engine]) -> None:
        engine = crashed_twice()
        engine.turn()
        engine.turn(report(engine.batches[0], failed=True))
        engine.turn()
        assert engine.handed_out[1] == ["b"]

    def test_a_crash_charges_only_the_one_that_ran(
        self, crashed_twice: Callable[..., Engine]
    ) -> None:
        engine = crashed_twice()
        engine.turn()
        engine.crash()
        again = crashed_twice(handles=lambda kind: False)
        assert [again.status(i)[1] for i in "abc"] == [3, 2, 2]

    def test_those_that_did_not_run_are_suspects_still(
        self, crashed_twice: Callable[..., Engine]
    ) -> None:
        engine = crashed_twice()
        engine.turn()
        engine.crash()
        again = crashed_twice()
        again.turn()
        again.turn()
        assert len(again.batches) == 1

    def test_join_and_close_wait_for_them(self, crashed_twice: Callable[..., Engine]) -> None:
        engine = crashed_twice()
        join, close = Join(), Close(drain=True)
        engine.turn(join, close)
        assert not join.answered
        assert not engine.dispatcher.done
        engine.work_off()
        assert join.answered
        assert engine.dispatcher.done

    def test_one_that_another_job_has_replaced_lets_the_next_one_go(self, path: str) -> None:
        """The other job is none, though after its claim it has no retry left, either."""
        brittle = {"brittle": Kind(nothing, max_retries=0)}

        def replacing(job_id: str, kind: str) -> Enqueue:
            key = Unique("key", then="replace")
            return Enqueue([Task(job_id, "null", MEDIUM, kind, size=4, unique=key)])

        engine = Engine(path, workers=2, max_retries=1, kinds=brittle)
        engine.turn(replacing("a", "brittle"))
        engine.turn(Enqueue([Task("b", "null", MEDIUM, "brittle", size=4)]))
        engine.crash()
        engine = Engine(path, workers=2, max_retries=1, kinds=brittle)
        engine.turn(replacing("new", "default"))
        engine.turn()
        assert engine.handed_out == [["a"], ["b"]]

    def test_they_count_as_queued(self, crashed_twice: Callable[..., Engine]) -> None:
        counts = crashed_twice().metrics()
        assert counts.accepted == 3
        assert counts.queued + counts.processing == 3


class TestRequests:
    def test_a_wait_is_answered_when_its_job_has_ended(self, engine: Engine) -> None:
        wait = Wait("a")
        engine.turn(jobs("a"), wait)
        engine.turn(report(engine.batches[0], failed=True))
        assert not wait.answered  # it will be tried again
        engine.turn(later=1.0)
        engine.turn()
        engine.turn(report(engine.batches[1]))
        assert wait.answered

    def test_a_wait_that_was_withdrawn_leaves_nothing_behind(self, engine: Engine) -> None:
        first, second = Wait("a"), Wait("a")
        engine.turn(jobs("a"), first, second)
        engine.turn(Withdraw(first))
        with pytest.raises(TimeoutError):
            first.result()
        engine.turn(Withdraw(second))
        assert engine.dispatcher._waits._by_id == {}

    def test_a_join_is_answered_when_nothing_is_left(self, engine: Engine) -> None:
        join = Join()
        engine.turn(jobs("a", "b"), join)
        engine.turn(report(engine.batches[0]))
        assert not join.answered
        engine.turn(report(engine.batches[1]))
        assert join.answered

    def test_a_join_waits_for_outcomes_that_could_not_be_recorded(self, engine: Engine) -> None:
        engine.turn(jobs("a"))
        join = Join()
        engine.file.failures = 1
        engine.turn(report(engine.batches[0]), join)
        assert not join.answered
        engine.turn()
        assert join.answered

    def test_two_retries_of_a_dead_letter_in_one_turn_revive_it_once(self) -> None:
        engine = Engine(max_retries=0)
        engine.turn(jobs("x"))
        engine.turn(report(engine.batches[0], failed=True))
        first, second = GiveOrder[int](Retry("x")), GiveOrder[int](Retry("x"))
        engine.turn(first, second)
        engine.turn()
        assert first.result() == 1
        with pytest.raises(ValueError, match="Job x is not a dead letter"):
            second.result()
        assert engine.work_off(reported=1) == ["x"]
        counts = engine.metrics()
        assert (counts.accepted, counts.completed, counts.failed) == (1, 1, 0)

    def test_workers_that_all_wait_for_room_would_wait_for_ever(self) -> None:
        engine = Engine(workers=2, capacity=1)
        engine.turn(jobs("a", "b"))
        engine.turn(jobs("filler"))
        one, other = engine.batches
        first, producer, second = jobs("c", sender=one), jobs("d"), jobs("e", sender=other)
        engine.turn(first, producer)
        assert not first.answered  # the other worker may still make room
        engine.turn(second)
        with pytest.raises(QueueFull, match="All 2 workers wait to enqueue into full lanes"):
            second.result()
        assert not first.answered
        assert not producer.answered
        engine.turn(report(other))  # its handler has got the error
        engine.work_off()
        assert first.result() == ["c"]
        assert producer.result() == ["d"]

    def test_who_waits_for_room_from_outside_of_the_workers_does_not_count(self) -> None:
        engine = Engine(workers=2, capacity=1)
        engine.turn(jobs("a", "b"))
        engine.turn(jobs("filler"))
        given_up = Batch([], token=0, overdue_at=0, check_at=0)  # is not in flight any more
        one, _ = engine.batches
        requests = [
            jobs("of a worker that was given up", sender=given_up),
            jobs("of a worker", sender=one),
            jobs("of the same one, in another thread", sender=one),
        ]
        engine.turn(*requests)
        assert not any(request.answered for request in requests)

    def test_of_those_that_wait_for_room_the_last_that_came_is_turned_away(self) -> None:
        """Also where one that came before was let in halfway."""
        engine = Engine(workers=2, capacity=1)
        engine.settle(jobs("a", "b"))
        one, other = engine.batches
        first, second = jobs("c", "d", sender=one), jobs("e", sender=other)
        engine.settle(first, second)
        with pytest.raises(QueueFull):
            second.result()
        assert not first.answered

    def test_who_waits_for_its_turn_does_not_count(self) -> None:
        """There is room; one turn takes no more than so many from a line."""
        engine = Engine(capacity=5_000)
        engine.turn(jobs("a"))
        flood = jobs(*map(str, range(OFFERED_AT_ONCE)))
        inside = jobs("b", sender=engine.batches[0])
        engine.turn(flood, inside)
        assert flood.answered
        assert not inside.answered
        engine.turn()
        assert inside.result() == ["b"]


class TestClosing:
    def test_draining_runs_everything_and_ends_with_the_last_outcome(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        held.turn(Close(drain=True))
        for n in range(3):
            assert not held.dispatcher.done
            held.turn(report(held.batches[n]))
        assert held.dispatcher.done

    def test_without_drain_nothing_starts_any_more(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        held.turn(Close(drain=False))
        held.turn(report(held.batches[0]))
        assert held.dispatcher.done
        assert len(held.batches) == 1
        assert held.status("a") == ("queued", 0)

    def test_a_close_without_drain_ends_one_with(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        held.turn(Close(drain=True))
        held.turn(Close(drain=False))
        held.turn(report(held.batches[0]))
        assert held.dispatcher.done
        assert held.status("a") == ("queued", 0)

    def test_a_close_with_drain_does_not_revoke_one_without(self, held: Engine) -> None:
        held.turn(jobs("a", "b"))
        held.turn(Close(drain=False))
        held.turn(Close(drain=True))
        held.turn(report(held.batches[0]))
        assert held.dispatcher.done

    def test_jobs_that_come_in_the_same_turn_are_refused(self, held: Engine) -> None:
        before, after = jobs("a"), jobs("b")
        held.turn(before, Close(drain=True), after)
        for enqueue in (before, after):
            with pytest.raises(QueueClosed):
                enqueue.result()
        held.turn(report(held.batches[0]))
        assert held.dispatcher.done

    def test_what_waits_in_a_batch_goes_back(self) -> None:
        engine = TestOverdue.misjudged(workers=1, count=5)
        engine.turn(Close(drain=False))
        assert [engine.status(str(n)) for n in range(1, 5)] == [("queued", 0)] * 4
        assert not engine.dispatcher.done
        engine.turn(report(engine.batches[0]))
        assert engine.dispatcher.done
        assert engine.status("0") == ("completed", 1)

    def test_out_of_time_all_that_is_with_a_worker_goes_back(self) -> None:
        engine = TestOverdue.misjudged(workers=1, count=5)
        close = Close(drain=True)
        engine.turn(close)
        engine.turn(Withdraw(close))
        assert engine.dispatcher.done
        assert [engine.status(str(n)) for n in range(5)] == [("queued", 0)] * 5

    def test_out_of_time_what_was_taken_back_before_goes_back_only_once(self) -> None:
        engine = TestOverdue.misjudged(workers=2, count=10)
        engine.turn(report(engine.batches[1], seconds=1e-6), later=0.02)
        engine.turn()  # the idle worker has got what waited behind the slow job
        close = Close(drain=True)
        engine.turn(close)
        engine.turn(Withdraw(close))
        assert [engine.status(str(n)) for n in range(5)] == [("queued", 0)] * 5
        assert sorted(engine.waiting()) == [str(n) for n in range(5)]

    def test_when_time_is_up_in_the_turn_of_the_last_outcome_nothing_is_cut_short(
        self, held: Engine
    ) -> None:
        close = Close(drain=True)
        held.turn(close)
        held.turn(report(held.batches[0]), Withdraw(close))
        assert held.dispatcher.done
        held.dispatcher.run()  # nothing but the end
        assert held.dispatcher.orderly


class TestTurnedAway:
    def test_a_suspect_that_a_closing_queue_turns_away_lets_the_next_one_run(
        self, path: str
    ) -> None:
        """Suspects run one at a time: one that waits for the next start is out of their way."""
        engine = Engine(path, workers=2)
        engine.turn(jobs("a", "b"))
        for _ in range(2):
            engine.crash()
            engine.open()
            engine.turn()
        assert engine.handed_out == [["a"]]
        engine.turn(Close(drain=True))
        [batch] = engine.batches
        turned_away = report(batch, failed=True)
        batch.outcomes[0].closed = True
        engine.turn(turned_away)
        assert engine.status("a") == ("queued", 2)
        engine.turn()
        assert engine.handed_out == [["a"], ["b"]]
        engine.turn(report(engine.batches[1]))
        assert engine.dispatcher.done

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_one_that_somebody_then_cancels_is_not_left(self, path: str, in_memory: bool) -> None:
        engine = Engine(":memory:" if in_memory else path)
        engine.turn(jobs("a"))
        [batch] = engine.batches
        batch.running = batch.tasks.popleft()
        closes = [Close(drain=False), Close(drain=True)]
        for close in closes:
            engine.dispatcher.ask(close)
        engine.turn(*closes)
        turned_away = report(batch, failed=True)
        batch.outcomes[0].closed = True
        engine.turn(turned_away, GiveOrder(Cancel("a")))
        assert engine.status("a") == ("cancelled", 0)
        assert engine.dispatcher.done
        engine.dispatcher.run()  # nothing but the end
        assert [close.result() for close in closes] == [True, True]


class TestTheEnd:
    def test_an_internal_error_leaves_nobody_without_an_answer(self) -> None:
        engine = Engine(capacity=2, max_retries=0)
        engine.turn(jobs("dead"))
        engine.turn(report(engine.batches[0], failed=True))
        engine.turn(jobs("held"))
        has_room, has_not = jobs("a"), jobs("b", "c", "d")
        waiting: list[Request[Any]] = [has_room, has_not, GiveOrder(Retry("dead"))]
        waiting += [Wait("held"), Join(), Measure()]

        def fail() -> None:
            raise RuntimeError("a bug")

        engine.file.on_write = fail
        for request in waiting:
            engine.dispatcher.ask(request)
        engine.dispatcher.run()
        assert [type(request) for request in waiting if not request.answered] == []
        for enqueue in (has_room, has_not):
            with pytest.raises(QueueClosed, match=r"internal error: RuntimeError\('a bug'\)"):
                enqueue.result()


class TestOutOfTime:
    """An attempt whose time is up has had its end, whatever its worker says of it later."""

    class WithThreads(Engine):
        """Its handlers do not listen, and its workers can be given up."""

        can_stop = False

        def obeys(self, batch: Batch, task: Task) -> bool:
            return self.can_stop

        def replace(self, batch: Batch) -> bool:
            return batch.seize()

    class WithProcesses(WithThreads):
        """Their workers stay: to stop an attempt frees them."""

        can_stop = True

    def test_what_a_stopped_worker_reports_is_no_second_end(self) -> None:
        engine = self.WithProcesses(timeout=1.0, max_retries=1)
        engine.turn(jobs("slow"))
        [batch] = engine.batches
        [task] = batch.claimed
        begin(batch, task, engine.now)
        engine.file.failures = 1
        engine.turn(later=1.5)  # its time is up, and that cannot be written
        batch.outcomes.append(Outcome(task, 1.6, error="it was stopped"))
        engine.turn(Report(batch), later=STORAGE_RETRY_SECONDS)
        assert engine.status("slow") == ("retrying", 1)
        assert [attempt.error for attempt in engine.file.attempts("slow")] == [
            "TimeoutError: the attempt took longer than 1 s."
        ]

    def test_a_worker_that_has_just_turned_to_the_next_job_is_not_given_up(self) -> None:
        engine = self.WithThreads(timeout=1.0)
        engine.dispatcher._flight.cost["default"] = 1e-6
        engine.turn(jobs("quick", "next"))
        [batch] = engine.batches
        quick, following = batch.claimed
        begin(batch, quick, engine.now)
        batch.tasks.popleft()  # the next one, while "quick" is still said to be running
        batch.outcomes.append(Outcome(quick, 0.9))
        engine.turn(later=1.5)
        begin(batch, following, engine.now)
        batch.outcomes.append(Outcome(following, 0.1))
        engine.turn(Report(batch))
        assert [engine.status(job_id)[0] for job_id in ("quick", "next")] == ["completed"] * 2

    def test_one_that_hangs_is_given_up_and_what_waits_behind_it_goes_back(self) -> None:
        engine = self.WithThreads(timeout=1.0)
        engine.dispatcher._flight.cost["default"] = 1e-6
        engine.turn(jobs("hangs", "behind"))
        begin(engine.batches[0], engine.batches[0].claimed[0], engine.now)
        engine.turn(later=1.5)
        engine.turn()
        assert engine.status("hangs")[0] == "retrying"
        assert engine.handed_out == [["hangs", "behind"], ["behind"]]


def begin(batch: Batch, task: Task, now: float) -> None:
    """A worker turns to it."""
    with contextlib.suppress(ValueError):
        batch.tasks.remove(task)
    batch.running, batch.started, batch.attempt = task, now, task.attempts


def test_large_payloads_of_one_lane_leave_the_others_their_turns() -> None:
    producers, room = Producers(), dict.fromkeys(Priority, math.inf)
    low = Enqueue([Task("low", "1", LOW, "default", size=1)])
    producers.join(low)
    for number in range(len(Priority) + 1):  # a turn for each line, and one for those without
        producers.join(Enqueue([Task(str(number), "1", HIGH, "default", size=BYTES_AT_ONCE)]))
        if low in [request for request, _ in producers.take(room)]:
            return
    pytest.fail("It had no turn.")


def test_who_steps_aside_lets_others_go_and_comes_back_before_them() -> None:
    producers, room = Producers(), dict.fromkeys(Priority, math.inf)
    requests = [Enqueue([Task(str(n), "1", HIGH, "default", size=1)]) for n in range(4)]

    def take() -> list[Enqueue]:
        return [request for request, _ in producers.take(room)]

    for request in requests:
        producers.join(request)
    first, second, *others = take()
    for request in (second, first):  # as of several that step back, the last one first
        producers.step_aside(request)
    for request in others:
        producers.join(request)
    assert take() == others
    assert not producers.can_go(room)
    assert list(producers) == [second, first]
    for request in others:
        producers.join(request)
    producers.come_back()
    assert take() == requests
