"""Rate limits: exact over time, in order, and without keeping anybody awake."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import Job, JobQueue, LeakyBucket, Priority, QueueFull, Status, TokenBucket
from final.engine.messages import Enqueue
from final.job import Task
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.limits import Gate, meter_of
from final.ledger.picking import Picker
from final.options import QUEUE, Limit
from tests.final import inside
from tests.final.engine import Engine, jobs, report
from tests.final.helpers import AT_ONCE, OpenQueue, nothing
from tests.helpers import DEADLINE, Background, Journal
from tests.helpers import Gate as Door

HIGH, MEDIUM, LOW = Priority
MINUTE = 60.0
EVER = 86_400.0  # virtual seconds


def starts(limit: Limit, until: float, late: Callable[[int], float] = lambda n: 0.0) -> list[float]:
    """When jobs start if there are always some waiting; look n comes ``late(n)`` seconds late."""
    meter = meter_of(limit, 0.0)
    times: list[float] = []
    now = 0.0
    while (now := max(now, meter.next_at(now))) <= until:
        now += late(len(times))
        meter.take(now)
        times.append(now)
    return times


def most_beyond_rate(times: list[float], rate: float) -> float:
    """By how many starts any stretch of time had more than its share, both ends included."""
    worst = lowest = -math.inf
    for n, at in enumerate(times):
        lowest = max(lowest, rate * at - n)
        worst = max(worst, n + 1 - rate * at + lowest)
    return worst


class TestTokenBucket:
    @pytest.mark.parametrize("rate", [0.5, 7, 100 / 3, 100, 999.9])
    @pytest.mark.parametrize("burst", [1, 10])
    def test_over_a_minute_it_is_exact(self, rate: float, burst: int) -> None:
        times = starts(TokenBucket(rate, burst), MINUTE)
        assert rate * MINUTE - 1e-6 <= len(times) <= rate * MINUTE + burst + 1e-6
        assert most_beyond_rate(times, rate) <= burst + 1e-6  # that is: in every window

    def test_a_late_look_loses_nothing(self) -> None:
        times = starts(TokenBucket(100, 10), MINUTE, late=lambda n: (n % 10) * 0.0009)
        assert len(times) >= 100 * MINUTE
        assert most_beyond_rate(times, 100) <= 10 + 1e-6

    def test_after_a_pause_there_is_one_burst_and_no_more(self) -> None:
        meter = meter_of(TokenBucket(rate=2, burst=3), 0.0)
        for pause_ends in (0.0, 1000.0, 2000.0):
            for _ in range(3):
                assert meter.next_at(pause_ends) <= pause_ends
                meter.take(pause_ends)
            assert meter.next_at(pause_ends) == pytest.approx(pause_ends + 0.5)

    @given(
        rate=st.floats(0.01, 1000),
        burst=st.integers(1, 50),
        looks=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    )
    def test_no_window_has_more_than_its_share(
        self, rate: float, burst: int, looks: list[float]
    ) -> None:
        assert most_beyond_rate(greedy(TokenBucket(rate, burst), looks), rate) <= burst + 1e-3


class TestLeakyBucket:
    @pytest.mark.parametrize("rate", [0.5, 7, 100 / 3, 100, 999.9])
    def test_over_a_minute_it_is_exact_and_even(self, rate: float) -> None:
        times = starts(LeakyBucket(rate), MINUTE)
        assert abs(len(times) - rate * MINUTE) <= 1 + 1e-6
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert gaps == pytest.approx([1 / rate] * len(gaps))

    def test_it_stays_so_when_each_look_is_a_little_late(self) -> None:
        """The dispatcher never wakes at the very moment; that must not add up."""
        times = starts(LeakyBucket(100), MINUTE, late=lambda n: (n % 10) * 0.0009)
        assert abs(len(times) - 100 * MINUTE) <= 1
        for n, at in enumerate(times):
            assert -1e-9 <= at - n / 100 < 0.01

    def test_after_a_pause_there_is_no_burst(self) -> None:
        meter = meter_of(LeakyBucket(rate=10), 0.0)
        meter.take(0.0)
        meter.take(1000.0)
        assert meter.next_at(1000.0) == pytest.approx(1000.1)

    @given(rate=st.floats(0.01, 1000), pauses=st.lists(st.floats(0, 3), min_size=1, max_size=200))
    def test_two_starts_are_never_closer_than_an_interval(
        self, rate: float, pauses: list[float]
    ) -> None:
        """A job starts when it comes, or if it may not yet, at the very moment when it may."""
        meter, now, times = meter_of(LeakyBucket(rate), 0.0), 0.0, []
        for pause in pauses:
            now = max(now + pause / rate, meter.next_at(now + pause / rate))
            meter.take(now)
            times.append(now)
        assert all(b - a >= 1 / rate - 1e-6 for a, b in itertools.pairwise(times))

    def test_only_a_start_that_was_waited_for_may_be_made_up_for(self) -> None:
        waited, paused = meter_of(LeakyBucket(rate=1), 0.0), meter_of(LeakyBucket(rate=1), 0.0)
        for meter in (waited, paused):
            meter.take(0.0)
        assert waited.next_at(0.1) == 1.0
        for meter in (waited, paused):
            meter.take(1.9)
        assert waited.next_at(1.9) == 2.0
        assert paused.next_at(1.9) == 2.9

    @pytest.mark.parametrize("late", [0.25, 0.5, 0.75, 1.0, 1.5])
    def test_two_never_start_at_once(self, late: float) -> None:
        meter = meter_of(LeakyBucket(rate=1), 0.0)
        meter.take(late)
        assert meter.next_at(late) > late

    @given(rate=st.floats(0.01, 1000), looks=st.lists(st.floats(0, 3), min_size=1, max_size=200))
    def test_no_window_has_more_than_its_share(self, rate: float, looks: list[float]) -> None:
        # One for the window's edge, and one because a start may be late and the next in time.
        assert most_beyond_rate(greedy(LeakyBucket(rate), looks), rate) <= 2 + 1e-3


def greedy(limit: Limit, pauses: list[float]) -> list[float]:
    """Start as many as allowed at each look; the looks are ``pauses`` apart."""
    meter, now, times = meter_of(limit, 0.0), 0.0, []
    for pause in pauses:
        now += pause
        while meter.next_at(now) <= now:
            meter.take(now)
            times.append(now)
    return times


@pytest.mark.parametrize("limit", [TokenBucket(rate=10), LeakyBucket(rate=10)])
def test_a_clock_that_was_set_back_holds_nothing_up(limit: Limit) -> None:
    """That of a database, where the state is kept."""
    before, after = meter_of(limit, 5000.0), meter_of(limit, 1000.0)
    before.take(5000.0)
    after.restore(before.state())
    assert after.next_at(1000.0) <= 1002.0


class TestGate:
    @given(
        limit=st.one_of(
            st.builds(TokenBucket, st.floats(0.1, 100), st.integers(1, 9)),
            st.builds(LeakyBucket, st.floats(0.1, 100)),
        ),
        by_kind=st.booleans(),
        before=st.lists(st.floats(0, 1), max_size=20),
        undone=st.integers(1, 9),
    )
    def test_starts_that_did_not_happen_are_taken_back(
        self, limit: Limit, by_kind: bool, before: list[float], undone: int
    ) -> None:
        gate = Gate({"mail": limit} if by_kind else limit, 0.0)
        now = 0.0

        def take() -> None:
            if gate.is_open(now) and (not by_kind or gate.opens_at("mail", now) <= now):
                gate.take("mail", now)

        for pause in before:
            now += pause
            take()
        name = "mail" if by_kind else QUEUE
        due, state = gate.opens_at(name, now), gate.states()
        gate.begin()
        for _ in range(undone):
            take()
        assert gate.undo() == (["mail"] if by_kind and gate._before else [])
        assert gate.states() == state
        assert gate.opens_at(name, now) == due

    def test_a_start_counts_for_its_kind_alone(self) -> None:
        gate = Gate({"mail": LeakyBucket(1)}, 0.0)
        assert gate.kinds == {"mail"}
        gate.take("other", 0.0)
        assert gate.opens_at("mail", 0.0) == 0.0
        gate.take("mail", 0.0)
        assert gate.opens_at("mail", 0.0) == 1.0
        assert gate.is_open(0.0)


class TestPicker:
    def test_it_says_when_to_look_again(self) -> None:
        limits: dict[str, Limit] = {"mail": LeakyBucket(2), "sms": TokenBucket(10)}
        lanes, picker = picking(limits, "mail", "mail", "sms", "sms")
        assert [task.kind for [task] in picker.batches(4, {}, 1, 0.0)] == ["mail", "sms"]
        assert picker.ready(0.0) == 0
        assert picker.next_start(0.0) == pytest.approx(0.1)
        assert [task.kind for [task] in picker.batches(4, {}, 2, 0.1)] == ["sms"]
        assert picker.next_start(0.1) == pytest.approx(0.5)
        lanes.remove(next(iter(lanes._lanes[1].limited["mail"])))
        assert picker.next_start(0.1) == math.inf

    def test_a_limit_for_all_counts_only_while_jobs_wait(self) -> None:
        _, picker = picking(LeakyBucket(2), "mail", "mail")
        assert len(picker.batches(2, {}, 1, 0.0)) == 1
        assert picker.ready(0.0) == 0
        assert picker.next_start(0.0) == pytest.approx(0.5)
        assert len(picker.batches(2, {}, 2, 0.5)) == 1
        assert picker.next_start(0.5) == math.inf

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("arrives"), st.sampled_from("abcd"), st.sampled_from(Priority)),
                st.tuples(st.sampled_from(["picks", "comes back", "is cancelled"]), st.integers(0)),
                st.tuples(st.just("passes"), st.floats(0.01, 2)),
            ),
            max_size=150,
        )
    )
    def test_what_may_start_is_what_a_plain_look_at_all_says(
        self, history: list[tuple[Any, ...]]
    ) -> None:
        """a and b have limits; what is held lets the others pass, and keeps its place."""
        limits: dict[str, Limit] = {"a": TokenBucket(1, burst=2), "b": LeakyBucket(2)}
        lanes, picker = picking(limits)
        meters = {kind: meter_of(limit, 0.0) for kind, limit in limits.items()}
        waiting: list[Task] = []
        out: list[Task] = []
        now = 0.0
        for number, (what, *which) in enumerate(history):
            match what:
                case "arrives":
                    kind, priority = which
                    task = Task("x", "null", priority, kind, seq=number, key=number)
                    lanes.add(task)
                    waiting.append(task)
                case "comes back" if out:
                    task = out.pop(which[0] % len(out))
                    lanes.add(task)
                    waiting.append(task)
                case "is cancelled" if waiting:
                    lanes.remove(waiting.pop(which[0] % len(waiting)))
                case "passes":
                    now += which[0]
                case "picks":
                    may_start = [
                        task
                        for task in sorted(waiting, key=lambda task: task.key)
                        if task.kind not in meters or meters[task.kind].next_at(now) <= now
                    ]
                    assert picker.ready(now) == len(may_start)
                    batches = picker.batches(1, {}, 1, now)
                    if not batches:
                        assert may_start == []
                        continue
                    [[picked]] = batches
                    lane = [task for task in may_start if task.priority is picked.priority]
                    assert picked is lane[0]
                    if picked.kind in meters:
                        meters[picked.kind].take(now)
                    waiting.remove(picked)
                    out.append(picked)


def picking(limits: Limit | dict[str, Limit], *kinds: str) -> tuple[GroupLanes, Picker]:
    """Lanes with a MEDIUM job of each of these kinds, in this order."""
    gate = Gate(limits, 0.0)
    lanes = GroupLanes(1_000, None, gate.kinds, itertools.count().__next__)
    for number, kind in enumerate(kinds):
        lanes.add(Task(f"{number}", "null", MEDIUM, kind, seq=number, key=number))
    return lanes, Picker(lanes, gate, Caps(None, {}), lambda kind: True)


class TestBadValues:
    @pytest.mark.parametrize("bucket", [TokenBucket, LeakyBucket])
    @pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
    def test_a_rate_must_be_above_0(self, bucket: Callable[[float], Limit], rate: float) -> None:
        with pytest.raises(ValueError, match=r"Bucket.rate must be a number .*, not "):
            bucket(rate)

    @pytest.mark.parametrize("bucket", [TokenBucket, LeakyBucket])
    @pytest.mark.parametrize("rate", ["10/s", None, True])
    def test_a_rate_must_be_a_number(self, bucket: Callable[[object], Limit], rate: object) -> None:
        with pytest.raises(TypeError, match=r"Bucket.rate must be a number, not "):
            bucket(rate)

    @pytest.mark.parametrize(
        ("burst", "error"), [(0, ValueError), (10**400, ValueError), (1.5, TypeError)]
    )
    def test_a_burst_must_be_a_whole_number(self, burst: int, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"TokenBucket.burst must be "):
            TokenBucket(10, burst)

    @pytest.mark.parametrize("limit", [10, "10/s", {"mail": 10}, [LeakyBucket(1)]])
    def test_a_limit_must_be_one(self, limit: object) -> None:
        with pytest.raises(
            TypeError, match="rate_limit must be a TokenBucket or a LeakyBucket, or"
        ):
            JobQueue(nothing, rate_limit=limit)  # type: ignore[arg-type]


def some(kind: str, *names: object, priority: Priority = MEDIUM) -> Enqueue:
    request = jobs(*map(str, names), priority=priority)
    for task in request.tasks:
        task.kind = kind
    return request


def ran(engine: Engine) -> list[str]:
    return [job_id for ids in engine.handed_out for job_id in ids]


class TestOrder:
    """Jobs that may not start yet keep their places. Here without threads, in virtual time."""

    def test_jobs_of_a_kind_start_in_their_order_over_many_limits(self) -> None:
        engine = Engine(workers=4, rate_limit={"limited": TokenBucket(10, burst=3)})
        lane_of: dict[str, tuple[Priority, str]] = {}
        for turn in range(30):
            for n in range(turn * 7, turn * 7 + 7):  # they come in while others are held
                priority, kind = list(Priority)[n % 3], "limited" if n % 2 else "free"
                lane_of[str(n)] = priority, kind
                engine.turn(some(kind, n, priority=priority))
            engine.turn(later=0.02)
            engine.work_off()
        while engine.waiting(HIGH) + engine.waiting() + engine.waiting(LOW):
            engine.turn(later=engine.sleeps() or 0.0)
            engine.work_off()
        started = ran(engine)
        assert sorted(started) == sorted(lane_of)
        for lane in itertools.product(Priority, ("limited", "free")):
            numbers = [int(job_id) for job_id in started if lane_of[job_id] == lane]
            assert numbers == sorted(numbers)

    def test_a_newer_job_does_not_pass_many_held_ones(self) -> None:
        """After a pause more may start at once than ever before."""
        engine = Engine(workers=4, rate_limit={"limited": TokenBucket(1, burst=200)})
        engine.turn(some("limited", *(f"first-{n}" for n in range(200))))
        assert len(engine.work_off(seconds=1e-6)) == 200  # which is all that may start
        known = len(engine.batches)
        engine.turn(some("limited", *range(150)))
        assert engine.handed_out[known:] == []
        engine.turn(some("limited", *range(150, 200)), later=EVER)
        engine.work_off(seconds=1e-6)
        assert engine.handed_out[known][:2] == ["0", "1"]  # a worker gets many
        assert ran(engine)[200:] == [str(n) for n in range(200)]

    def test_slow_jobs_start_in_their_order_when_several_may_start_after_a_pause(self) -> None:
        """A worker takes one slow job at a time, so some of those that may start still wait."""
        engine = Engine(rate_limit={"limited": TokenBucket(1, burst=3)})
        engine.turn(some("limited", *range(10)))
        for later, count in ((0.0, 3), (9.0, 6), (90.0, 9), (900.0, 10)):
            engine.turn(later=later)
            engine.work_off()
            assert ran(engine) == [str(n) for n in range(count)]

    def test_no_start_is_taken_while_no_worker_is_idle(self) -> None:
        engine = Engine(rate_limit={"limited": TokenBucket(1, burst=2)})
        engine.turn(some("limited", *range(4)))
        engine.turn(some("free", "x"), later=EVER)
        assert ran(engine) == ["0"]
        engine.work_off()
        assert ran(engine) == ["0", "1", "2", "x"]

    def test_a_failed_exchange_takes_no_start_and_no_place(self) -> None:
        """Of two queues, one has a disk that is full whenever something is to start."""
        orders = []
        for failures in (0, 1):
            engine = Engine(workers=2, rate_limit={"limited": TokenBucket(1, burst=2)})
            for n in range(20):
                engine.turn(some("limited" if n % 2 else "free", n))
            for later in (0.0, 5.0, EVER, EVER, EVER, EVER):
                engine.now += later
                while True:
                    before = engine.waiting()
                    engine.file.failures = failures
                    engine.turn(*map(report, engine.dispatcher._flight.batches))
                    assert not failures or engine.waiting() == before
                    engine.file.failures = 0
                    engine.settle()
                    if not engine.dispatcher._flight:
                        break
            orders.append(ran(engine))
        assert orders[0] == orders[1]
        assert len(orders[0]) == 20


def test_after_a_pause_a_leaky_bucket_counts_from_the_first_start() -> None:
    """Although workers are idle: nobody may ask the bucket while no job waits."""
    engine = Engine(workers=3, rate_limit=LeakyBucket(1))
    engine.turn(jobs("a"))
    engine.turn(report(engine.batches[0]))
    engine.turn(jobs("b"), later=1.9)
    engine.turn(jobs("c"), later=0.05)
    for later, started in ((0.94, "ab"), (0.02, "abc")):
        engine.turn(later=later)
        assert engine.handed_out == [[job_id] for job_id in started]


class TestInAQueue:
    def test_a_low_one_has_its_turn_among_high_ones_of_its_kind(
        self, open_queue: OpenQueue
    ) -> None:
        """However many HIGH ones wait for the same limit: a turn is over when a job has started."""
        door, order = Door(), list[str]()

        def handler(job: Job) -> None:
            door.wait()
            order.append(str(job.priority))

        limit = {"limited": TokenBucket(rate=500)}
        handlers = {"free": handler, "limited": handler}
        queue = open_queue(handlers, workers=1, fairness=2, rate_limit=limit)
        queue.enqueue(Job(kind="free"))  # holds the worker until all others wait
        queue.enqueue_many(Job(kind="limited", priority=p) for p in [LOW] + 20 * [HIGH])
        door.open()
        queue.join(DEADLINE)
        assert order.index("low") <= 1 + 2 + 1

    @pytest.mark.parametrize(
        ("limit", "burst"),
        [(TokenBucket(100, burst=10), 10), (LeakyBucket(100), 1)],
    )
    def test_jobs_take_the_time_that_they_must(
        self, open_queue: OpenQueue, limit: Limit, burst: int
    ) -> None:
        times: list[float] = []
        queue = open_queue(lambda job: times.append(time.monotonic()), rate_limit=limit)
        began = time.monotonic()
        queue.enqueue_many([Job() for _ in range(50)])
        queue.join(DEADLINE)
        assert len(times) == 50
        assert max(times) - began >= (50 - burst) / 100 - 0.001

    def test_a_limited_kind_does_not_hold_up_the_others(self, open_queue: OpenQueue) -> None:
        ran = Journal()
        handlers = {"limited": lambda job: ran.write("limited"), "free": nothing}
        queue = open_queue(
            handlers, workers=1, rate_limit={"limited": TokenBucket(1 / EVER, burst=1)}
        )
        queue.enqueue_many([Job(kind="limited") for _ in range(10)])
        free = queue.enqueue_many([Job(kind="free") for _ in range(100)])
        assert queue.wait(free[-1], DEADLINE).status is Status.COMPLETED
        counts = queue.metrics()
        assert (counts.completed, counts.queued) == (101, 9)
        assert ran.entries == ["limited"]

    def test_a_limit_for_all_counts_every_kind_and_every_attempt(
        self, open_queue: OpenQueue
    ) -> None:
        ran = Journal()

        def fails(job: Job) -> None:
            ran.write(job.kind)
            raise ValueError("no")

        queue = open_queue(
            {"a": fails, "b": lambda job: ran.write(job.kind)},
            workers=1,
            backoff=AT_ONCE,
            max_retries=1,
            rate_limit=TokenBucket(1 / EVER, burst=4),
        )
        queue.enqueue_many([Job(kind="a"), Job(kind="b"), Job(kind="b"), Job(kind="b")])
        ran.wait_for_count(4)
        eventual = queue.metrics()
        assert eventual.completed + eventual.failed + eventual.queued + eventual.processing == 4
        assert sorted(ran.entries) in (["a", "b", "b", "b"], ["a", "a", "b", "b"])

    def test_order_within_a_limited_kind_is_kept(self, open_queue: OpenQueue) -> None:
        ran: list[tuple[Priority, int]] = []
        queue = open_queue(
            {"limited": lambda job: ran.append((job.priority, job.payload)), "free": nothing},
            workers=1,
            rate_limit={"limited": TokenBucket(400, burst=5)},
        )
        jobs = [
            Job(payload=n, priority=list(Priority)[n % 3], kind="free" if n % 4 == 3 else "limited")
            for n in range(200)
        ]
        for start in range(0, 200, 20):
            queue.enqueue_many(jobs[start : start + 20])
        queue.join(DEADLINE)
        assert len(ran) == 150
        for lane in Priority:
            numbers = [n for priority, n in ran if priority is lane]
            assert numbers == sorted(numbers)

    def test_held_jobs_count_for_the_capacity(self, open_queue: OpenQueue) -> None:
        queue = open_queue(
            {"limited": nothing, "free": nothing},
            capacity=5,
            overflow="reject",
            rate_limit={"limited": TokenBucket(1 / EVER, burst=1)},
        )
        queue.wait(queue.enqueue(Job(kind="limited")), DEADLINE)
        queue.enqueue_many([Job(kind="limited") for _ in range(5)])
        with pytest.raises(QueueFull, match=r"medium lane had no room .*\(capacity 5\)"):
            queue.enqueue(Job(kind="free"))
        assert queue.enqueue(Job("urgent", kind="free", priority=HIGH)) == "urgent"
        assert queue.metrics().queued >= 5

    def test_load_is_shed_at_once_when_it_comes_faster_than_it_may_run(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(
            nothing, capacity=10, overflow="reject", rate_limit=TokenBucket(1 / EVER, burst=5)
        )
        shed = 0
        for _ in range(100):
            try:
                queue.enqueue(Job())
            except QueueFull:
                shed += 1
        assert shed == 100 - 10 - 5
        assert queue.metrics().accepted == 15

    def test_the_dispatcher_sleeps_between_the_starts(
        self, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = open_queue(
            {"limited": nothing, "free": nothing}, rate_limit={"limited": LeakyBucket(100)}
        )
        turns = count_turns(queue)
        queue.enqueue_many([Job(kind="limited") for _ in range(30)])
        queue.join(DEADLINE)
        # A turn for each start and for each outcome, and some for what the test itself asks.
        assert 30 <= len(turns) <= 30 * 3 + 10

    def test_nothing_turns_while_the_workers_are_busy(
        self, open_queue: OpenQueue, gate: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1, rate_limit=LeakyBucket(1000))
        queue.enqueue_many([Job("first"), *(Job() for _ in range(20))])
        started.wait_for("first")
        turns = count_turns(queue)
        for _ in range(20):
            queue.metrics()  # by now, tokens have come many times over
            time.sleep(0.001)  # (a token's time: it is what must not wake the dispatcher)
        assert len(turns) <= 20 + 1

    def test_closing_runs_what_is_held(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, rate_limit=LeakyBucket(200))
        queue.enqueue_many([Job() for _ in range(20)])
        assert Background(queue.close).result() is True
        assert queue.metrics().completed == 20

    def test_closing_without_drain_leaves_held_jobs_in_the_file(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        limits = {"default": TokenBucket(1 / EVER, burst=1)}
        queue = open_queue(nothing, path=path, rate_limit=limits)
        ids = queue.enqueue_many([Job() for _ in range(5)])
        queue.wait(ids[0], DEADLINE)
        assert Background(queue.close, False).result() is True
        queue = open_queue(nothing, path=path)
        queue.join(DEADLINE)
        assert [queue.get(job_id).attempts for job_id in ids] == [1] * 5


def count_turns(queue: JobQueue) -> list[float]:
    """A list that gets an entry for every turn of the dispatcher from now on."""
    turns: list[float] = []
    inside.before_each_turn(queue, lambda: turns.append(time.monotonic()))
    return turns
