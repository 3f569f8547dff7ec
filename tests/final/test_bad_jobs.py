"""A job that cannot be stored or run is refused where it comes in, with the field's name.

Without that it is found out later, in a worker, far from the line that is wrong; or a
payload silently comes out as something else than what went in.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import improved
from final import (
    DuplicateJob,
    EnqueueError,
    Job,
    JobQueue,
    Priority,
    QueueClosed,
    QueueFull,
    Status,
    Unique,
)
from tests.final.helpers import (
    OpenQueue,
    comes_true,
    completes,
    in_file,
    nested,
    nothing,
    plain,
    reaches,
)
from tests.helpers import DEADLINE, Background, Gate, Journal


def circle() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.fixture
def queue(open_queue: OpenQueue) -> JobQueue:
    return open_queue(nothing, workers=1, max_payload=100)


def assert_untouched(queue: JobQueue) -> None:
    """Nothing was accepted, and the queue works."""
    assert queue.metrics().accepted == 0
    assert queue.jobs() == []
    assert completes(queue)


def only_here(name: str) -> Callable[..., Any]:
    """What ``float`` does by this name, in the main thread alone."""

    def do(*given: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit(f"{name} of a number of one's own")
        return getattr(float, name)(*given)

    return do


OwnNumber: Any = type(
    "OwnNumber",
    (float,),
    {n: only_here(n) for n in ("__add__", "__radd__", "__sub__", "__rsub__", "__lt__", "__gt__")},
)


class OwnTime(datetime):
    def timestamp(self) -> float:
        return OwnNumber(super().timestamp())  # type: ignore[no-any-return]


OF_ONES_OWN: dict[str, Callable[[], dict[str, Any]]] = {
    "run_at": lambda: {"run_at": OwnTime.now(UTC) + timedelta(seconds=0.1)},
    "within": lambda: {"unique": Unique("key", within=OwnNumber(0.1))},
    "max_wait": lambda: {
        "unique": Unique("key", then="replace", max_wait=OwnNumber(0.2)),
        "run_at": 0.1,
    },
}


class TestFields:
    @pytest.mark.parametrize("fields", OF_ONES_OWN.values(), ids=OF_ONES_OWN.keys())
    def test_a_number_of_ones_own_does_not_end_the_queue(
        self, queue: JobQueue, fields: Callable[[], dict[str, Any]]
    ) -> None:
        """Its methods may raise anything: the queue's own thread runs none of them."""
        ids = [queue.enqueue(Job(**fields())) for _ in range(2)]
        assert queue.wait(ids[-1], DEADLINE).status is Status.COMPLETED
        assert completes(queue)

    @pytest.mark.parametrize("priority", ["urgent", "HIGH", "", 0, 1, None, [], True], ids=repr)
    def test_an_unknown_priority_is_refused(self, priority: Any) -> None:
        with pytest.raises(ValueError, match=r"Job\.priority must be one of high, medium, low"):
            Job(priority=priority)

    @pytest.mark.parametrize("priority", ["urgent", "HIGH", "", 0, None], ids=repr)
    def test_improved_refuses_an_unknown_priority_too(self, priority: Any) -> None:
        with pytest.raises(ValueError, match="Priority"):
            improved.Job(priority=priority)

    def test_a_priority_may_be_text(self, queue: JobQueue) -> None:
        job = Job(priority="high")
        assert job.priority is Priority.HIGH
        assert queue.get(queue.enqueue(job)).priority is Priority.HIGH
        assert queue.metrics().by_priority[Priority.HIGH].accepted == 1

    @pytest.mark.parametrize("field", ["id", "kind"])
    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("", ValueError),
            ("a\0b", ValueError),
            ("a\ud800b", ValueError),
            (5, TypeError),
            (None, TypeError),
            (b"bytes", TypeError),
        ],
        ids=plain,
    )
    def test_an_id_or_kind_that_is_no_proper_text_is_refused(
        self, field: str, value: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=rf"^Job\.{field} "):
            Job(**{field: value})

    @pytest.mark.parametrize(
        "text",
        ["ä", "a b", "'; DROP TABLE job", pytest.param("☃" * 500, id="snowmen"), "5"],
        ids=plain,
    )
    def test_any_other_text_is_an_id(self, queue: JobQueue, text: str) -> None:
        assert queue.enqueue(Job(text)) == text
        assert queue.wait(text, DEADLINE).id == text

    @pytest.mark.parametrize("not_a_job", [None, "job", {"id": "x"}, Job], ids=repr)
    def test_only_jobs_are_accepted(self, queue: JobQueue, not_a_job: Any) -> None:
        error = f"enqueue takes a Job, not {type(not_a_job).__name__}."
        with pytest.raises(TypeError, match=re.escape(error)):
            queue.enqueue(not_a_job)
        with pytest.raises(TypeError, match=re.escape(error)):
            queue.enqueue_many([Job(), not_a_job])
        assert_untouched(queue)

    @pytest.mark.parametrize("not_a_job", [None, "job", {"id": "x"}], ids=repr)
    def test_improved_accepts_only_jobs_too(self, not_a_job: Any) -> None:
        with improved.JobQueue(print, workers=1) as queue:
            with pytest.raises(TypeError, match="enqueue takes a Job, not "):
                queue.enqueue(not_a_job)
            assert queue.metrics().accepted == 0

    def test_a_kind_without_a_handler_is_refused(self, open_queue: OpenQueue) -> None:
        queue = open_queue({"email": nothing, "thumbnail": nothing})
        with pytest.raises(ValueError, match=r"Job\.kind 'fax' .* there are: email, thumbnail"):
            queue.enqueue(Job(kind="fax"))
        assert queue.metrics().accepted == 0
        assert completes(queue, Job(kind="email"))


class TestPayloads:
    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: float("nan"), ValueError, "not JSON compliant"),
            (lambda: float("inf"), ValueError, "not JSON compliant"),
            (lambda: {"a": [1, float("-inf")]}, ValueError, "not JSON compliant"),
            (lambda: {1, 2}, TypeError, "set"),
            (lambda: [{"a": {1}}], TypeError, "set"),
            (lambda: object(), TypeError, "object"),
            (lambda: (1, 2), TypeError, "has a tuple: .* use a list"),
            (lambda: {"a": [0, (1,)]}, TypeError, r"has a tuple at \['a'\]\[1\]"),
            (lambda: {1: "a"}, TypeError, "has the key 1: "),
            (lambda: [{"a": {None: 1}}], TypeError, r"has the key None at \[0\]\['a'\]"),
            (lambda: {True: 1}, TypeError, "has the key True: "),
            (lambda: "a\ud800", ValueError, "lone surrogate"),
            (lambda: ["a", {"b": "\udfff"}], ValueError, "lone surrogate"),
            (lambda: {"\ud800": 1}, ValueError, "lone surrogate"),
            (lambda: 10**5_000, ValueError, "4300 digits"),
            (lambda: [10**5_000], ValueError, "4300 digits"),
            (lambda: nested(101), ValueError, "nested too deeply"),
            (lambda: {"a": (nested(99),)}, ValueError, "nested too deeply"),
            (lambda: nested(200_000), ValueError, "nested too deeply"),
            (circle, ValueError, "[Cc]ircular"),
            (lambda: bytearray(b"abc"), TypeError, "bytearray"),
            (lambda: memoryview(b"abc"), TypeError, "memoryview"),
            (lambda: [b"abc"], TypeError, "bytes"),
        ],
        ids=[
            *("NaN", "infinity", "infinity inside", "set", "set inside", "object", "tuple"),
            *("tuple inside", "number as key", "None as key inside", "bool as key"),
            *("lone surrogate", "lone surrogate inside", "lone surrogate as key"),
            *("5,000 digits", "5,000 digits inside"),
            *("101 levels", "101 levels with a tuple", "200,000 levels", "circle"),
            *("bytearray", "memoryview", "bytes inside"),
        ],
    )
    def test_what_would_not_come_out_as_it_went_in_is_refused(
        self,
        queue: JobQueue,
        make: Callable[[], object],
        error: type[Exception],
        words: str,
    ) -> None:
        with pytest.raises(error, match=rf"^Job\.payload .*{words}"):
            queue.enqueue(Job(payload=make()))
        assert_untouched(queue)

    @pytest.mark.parametrize(
        ("fits", "too_large", "size"),
        [
            (b"x" * 100, b"x" * 101, 101),
            ("x" * 98, "x" * 99, 101),  # two quotes
            ("ä" * 49, "ä" * 50, 102),  # two bytes each
            ("☃" * 32, "☃" * 33, 101),  # three bytes each
            ([1] * 49, [1] * 50, 101),  # a bracket or comma each, and one more
        ],
        ids=["bytes", "text", "two-byte text", "three-byte text", "list"],
    )
    def test_a_payload_may_be_as_large_as_the_limit_and_no_larger(
        self, queue: JobQueue, fits: object, too_large: object, size: int
    ) -> None:
        message = rf"^Job\.payload takes {size} bytes, more than the limit of 100: "
        with pytest.raises(ValueError, match=message):
            queue.enqueue(Job(payload=too_large))
        assert_untouched(queue)
        assert completes(queue, Job(payload=fits))

    def test_a_job_that_cannot_be_stored_keeps_out_those_before_it(self, queue: JobQueue) -> None:
        with pytest.raises(TypeError, match=r"^Job\.payload"):
            queue.enqueue_many([Job(), Job(), Job(payload={1, 2}), Job()])
        assert_untouched(queue)

    def test_what_is_changed_afterwards_is_not_changed_in_the_job(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        received: list[object] = []

        def handler(job: Job) -> None:
            gate.wait()
            received.append(job.payload)

        queue = open_queue(handler, workers=1)
        letter = {"to": ["ada"]}
        queue.enqueue(Job(payload=letter))
        letter["to"].append("alan")
        gate.open()
        queue.join(DEADLINE)
        assert received == [{"to": ["ada"]}]

    def test_what_is_accepted_comes_out_as_it_went_in(self, open_queue: OpenQueue) -> None:
        """For any JSON value and any bytes: to the handler, in the record, and as a result."""
        received: list[object] = []

        def handler(job: Job) -> object:
            received.append(job.payload)
            return job.payload

        queue = open_queue(handler, workers=1)

        @given(JSON | st.binary())
        @settings(deadline=None, max_examples=100)
        def check(payload: object) -> None:
            record = queue.wait(queue.enqueue(Job(payload=payload)), DEADLINE)
            for came_out in (received.pop(), record.payload, record.result):
                assert came_out == payload
                # == takes True for 1 and 1 for 1.0; their spelling tells them apart.
                assert repr(came_out) == repr(payload)

        check()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)


class TestDuplicates:
    def test_an_id_that_is_in_the_file_is_refused(self, queue: JobQueue) -> None:
        queue.enqueue(Job("twice", payload=1))
        queue.wait("twice", DEADLINE)  # now it is in the file alone
        with pytest.raises(DuplicateJob, match="Already in the queue: twice") as refused:
            queue.enqueue(Job("twice", payload=2))
        assert refused.value.ids == ["twice"]
        assert refused.value.accepted == []
        assert queue.metrics().accepted == 1
        assert queue.get("twice").payload == 1

    @pytest.mark.parametrize(
        ("ids", "before", "twice"),
        [("aa", "a", "a"), ("aba", "ab", "a"), ("abbc", "ab", "b"), ("abcba", "abc", "b")],
    )
    @pytest.mark.parametrize("overflow", ["block", "reject", "drop-newest", "drop-oldest"])
    def test_an_id_that_comes_twice_in_a_call_ends_it_there(
        self, open_queue: OpenQueue, path: str, ids: str, before: str, twice: str, overflow: str
    ) -> None:
        """As it would end a loop of ``enqueue``."""
        with open_queue(nothing, path=path, overflow=overflow) as queue:
            with pytest.raises(DuplicateJob, match=f"Already in the queue: {twice}") as refused:
                queue.enqueue_many([Job(job_id) for job_id in ids])
            assert refused.value.ids == [twice]
            assert refused.value.accepted == list(before)
        assert in_file(path, "id, status") == [(job_id, "completed") for job_id in before]

    def test_all_ids_that_clash_are_named(self, queue: JobQueue) -> None:
        queue.enqueue_many([Job(str(n)) for n in range(8)])
        with pytest.raises(DuplicateJob, match="0, 1, 2, 3, 4 and 3 more") as refused:
            queue.enqueue_many([Job("new"), *(Job(str(n)) for n in range(8))])
        assert refused.value.ids == [str(n) for n in range(8)]
        assert refused.value.accepted == ["new"]
        assert queue.metrics().accepted == 9

    @pytest.mark.parametrize("capacity", [1, 2, 3, 100])
    @pytest.mark.parametrize("overflow", ["block", "drop-newest", "drop-oldest"])
    def test_what_comes_before_it_is_accepted_whatever_the_room(
        self, open_queue: OpenQueue, gate: Gate, path: str, capacity: int, overflow: str
    ) -> None:
        def handler(job: Job) -> None:
            gate.wait()

        queue = open_queue(handler, path=path, workers=1, capacity=capacity, overflow=overflow)
        queue.enqueue(Job("there"))
        reaches(queue, "there", Status.PROCESSING)
        many = [Job("a"), Job("b", run_at=3600), Job("c"), Job("there"), Job("d")]
        call = Background(queue.enqueue_many, many)
        if overflow == "block":
            gate.open()  # who waits for room is accepted bit by bit
        with pytest.raises(DuplicateJob, match="Already in the queue: there") as refused:
            call.result()
        assert refused.value.accepted == ["a", "b", "c"]
        gate.open()
        queue.close()
        assert in_file(path, "id") == ["there", "a", "b", "c"]

    def test_an_id_is_taken_after_a_restart_too(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("done"))
        queue = open_queue(nothing, path=path)
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job("done"))
        assert queue.metrics().accepted == 1

    def test_of_producers_with_one_id_exactly_one_is_told_that_it_is_in(
        self, open_queue: OpenQueue
    ) -> None:
        ran = Journal()
        queue = open_queue(lambda job: ran.write(job.id), workers=2)
        producers, rounds = 8, 30
        start = threading.Barrier(producers)
        clashes: list[list[str]] = []

        def produce() -> list[str]:
            told = []
            for n in range(rounds):
                start.wait(DEADLINE)
                try:
                    told.append(queue.enqueue(Job(f"job-{n}")))
                except DuplicateJob as refused:
                    clashes.append(refused.ids)
            return told

        threads = [Background(produce) for _ in range(producers)]
        told = [job_id for thread in threads for job_id in thread.result()]
        queue.join(DEADLINE)
        assert len(clashes) == (producers - 1) * rounds
        assert sorted(told) == sorted(ran.entries) == sorted(f"job-{n}" for n in range(rounds))

    def test_what_was_accepted_before_the_duplicate_is_listed(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        queue = open_queue(lambda job: gate.wait(), workers=1, capacity=1)
        queue.enqueue(Job("there"))
        # One place in the lane: these are accepted one after the other, as room comes.
        call = Background(queue.enqueue_many, [Job("a"), Job("b"), Job("there"), Job("c")])
        gate.open()
        with pytest.raises(DuplicateJob) as refused:
            call.result()
        assert refused.value.ids == ["there"]
        assert refused.value.accepted == ["a", "b"]
        queue.join(DEADLINE)
        assert queue.metrics().completed == 3


class TestPartlyAccepted:
    @pytest.fixture
    def held(self, open_queue: OpenQueue, gate: Gate) -> JobQueue:
        """A queue whose only worker is held; three more jobs fit in each lane."""
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1, capacity=3)
        queue.enqueue(Job("holder"))
        started.wait_for("holder")
        return queue

    def test_a_full_lane_tells_which_had_room(self, held: JobQueue, gate: Gate) -> None:
        with pytest.raises(QueueFull, match=r"medium lane had no room in time \(capacity 3\)") as e:
            held.enqueue_many([Job(str(n)) for n in range(5)], timeout=0)
        assert e.value.accepted == ["0", "1", "2"]
        gate.open()
        held.join(DEADLINE)
        assert [record.id for record in held.jobs(Status.COMPLETED)] == ["2", "1", "0", "holder"]

    def test_order_is_kept_where_one_lane_is_full(self, held: JobQueue) -> None:
        """A job behind one that has no room waits too, though its own lane is empty."""
        held.enqueue_many([Job(priority=Priority.HIGH) for _ in range(3)])
        low, high = Job(priority=Priority.LOW), Job(priority=Priority.HIGH)
        with pytest.raises(QueueFull, match="The high lane") as refused:
            held.enqueue_many([low, high, Job(priority=Priority.LOW)], timeout=0)
        assert refused.value.accepted == [low.id]

    def test_closing_tells_which_had_room(self, held: JobQueue, gate: Gate) -> None:
        call = Background(held.enqueue_many, [Job(str(n)) for n in range(5)])
        comes_true(held, lambda: held.metrics().queued == 3, "three jobs to be accepted")
        closing = Background(held.close)
        with pytest.raises(QueueClosed) as refused:
            call.result()
        assert refused.value.accepted == ["0", "1", "2"]
        gate.open()
        assert closing.result()
        assert held.metrics().completed == 4

    def test_every_refusal_is_an_enqueue_error(self) -> None:
        """So a caller can catch them all and look at ``accepted``."""
        for error in (QueueFull, QueueClosed, DuplicateJob):
            assert issubclass(error, EnqueueError)
