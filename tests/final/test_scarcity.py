"""No thread to be had, or Ctrl-C before it is open: a queue has fewer workers, or leaves nothing.

Without that a constructor that fails leaves its file locked and threads that wait for ever, and
a queue whose handlers hang dies with the first worker that it cannot replace.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import psutil
import pytest

from final import Backoff, Job, JobQueue, Status
from tests.final.helpers import POSIX, OpenQueue, completes, eventually, nothing
from tests.helpers import DEADLINE, Gate, Journal

RoomFor = Callable[[int | None], None]


@pytest.fixture
def room_for() -> Iterator[RoomFor]:
    """Lets the process start about so many threads more; 0: none at all; None: as ever.

    Each has a large stack, and there is an end of the addresses. (About: what former threads had
    may be used again.)
    """
    if sys.platform != "linux":
        pytest.skip("Only Linux keeps to a limit of addresses.")
    import resource

    usual, usual_stack = resource.getrlimit(resource.RLIMIT_AS), threading.stack_size()

    def room_for(threads: int | None) -> None:
        if threads is None:
            resource.setrlimit(resource.RLIMIT_AS, usual)
            threading.stack_size(usual_stack)
        else:
            used = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (used + (threads + 1 << 30), usual[1]))
            threading.stack_size(1 << 30 if threads else 1 << 45)

    yield room_for
    room_for(None)


class TestNoThread:
    @pytest.mark.parametrize("threads", range(6))
    def test_a_queue_begins_with_fewer_workers_or_leaves_nothing_behind(
        self,
        open_queue: OpenQueue,
        path: str,
        room_for: RoomFor,
        caplog: pytest.LogCaptureFixture,
        threads: int,
    ) -> None:
        before = set(threading.enumerate())
        room_for(threads)
        refused = ""
        try:
            queue = open_queue(nothing, path=path, workers=50)
        except RuntimeError as error:
            refused = str(error)
        if refused:
            room_for(None)
            assert "The system has no threads left for this queue: end some" in refused
            assert set(threading.enumerate()) <= before
            assert completes(open_queue(nothing, path=path))
        else:
            assert threads > 0
            queue.enqueue_many([Job() for _ in range(100)])
            queue.join(DEADLINE)
            eventually(lambda: bool(caplog.messages), "a log line")
            assert re.match(r"The queue goes on with [1-9] workers: can't", caplog.messages[0])

    def test_a_worker_that_hangs_is_replaced_when_there_is_one_again(
        self, open_queue: OpenQueue, gate: Gate, room_for: RoomFor, caplog: pytest.LogCaptureFixture
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if job.payload == "hangs":
                started.write(job.id)
                gate.wait()

        queue = open_queue(handler, workers=2, timeout=0.05, max_retries=0)
        room_for(0)
        queue.enqueue(Job("a", payload="hangs"))
        eventually(lambda: "The queue goes on with 1 workers" in caplog.text, "a log line")
        assert completes(queue, Job(timeout=DEADLINE))
        queue.enqueue(Job("b", payload="hangs"))
        started.wait_for("b")
        room_for(None)
        assert (
            queue.wait("a", DEADLINE).error == "TimeoutError: the attempt took longer than 0.05 s."
        )
        assert queue.wait("b", DEADLINE).status is Status.FAILED
        assert completes(queue, Job(timeout=DEADLINE))

    def test_one_that_comes_back_meanwhile_goes_on(
        self, open_queue: OpenQueue, gate: Gate, room_for: RoomFor, caplog: pytest.LogCaptureFixture
    ) -> None:
        ran = Journal()

        def handler(job: Job) -> None:
            if ran.write(job.id) == 1:
                gate.wait()

        at_once = Backoff(base=0, jitter=0)
        queue = open_queue(handler, workers=1, timeout=0.05, max_retries=100, backoff=at_once)
        room_for(0)
        queue.enqueue(Job("a"))
        eventually(lambda: "The queue goes on with 0 workers" in caplog.text, "a log line")
        gate.open()
        record = queue.wait("a", DEADLINE)
        # Two attempts, unless the machine is so busy that the second is late as well.
        assert (record.status, record.attempts >= 2) == (Status.COMPLETED, True)

    def test_what_a_coroutine_lets_a_thread_do_waits_for_one(
        self, open_queue: OpenQueue, room_for: RoomFor, gate: Gate, journal: Journal
    ) -> None:
        def wait() -> None:
            journal.write("waits")
            gate.wait()

        async def handler(job: Job) -> None:
            journal.write("begins")
            await asyncio.to_thread(wait)

        queue = open_queue(handler, workers=20, max_retries=0)
        ids = queue.enqueue_many([Job() for _ in range(10)])
        journal.wait_for_count(20)
        room_for(0)
        ids += queue.enqueue_many([Job() for _ in range(10)])
        journal.wait_for_count(30)
        gate.open()
        assert {queue.wait(job_id, DEADLINE).status for job_id in ids} == {Status.COMPLETED}


async def waits(job: Job) -> None:
    """A coroutine, which has a thread before there is one for the queue."""


def open_and_press(path: str, moment: int) -> JobQueue:
    """Open a queue; at the so-many-th call or return on the way, Ctrl-C is pressed."""
    left = moment

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        is_over = event == "return" and frame.f_code is JobQueue.__init__.__code__
        if left == 0 or is_over:
            sys.setprofile(None)
            if not is_over:
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(count)
    try:
        return JobQueue({"a": nothing, "b": waits}, path=path)
    finally:
        sys.setprofile(None)


@pytest.mark.skipif(not POSIX, reason="Ctrl-C comes another way on Windows.")
def test_ctrl_c_while_it_opens_leaves_nothing_behind(open_queue: OpenQueue, path: str) -> None:
    before = set(threading.enumerate())
    for moment in itertools.count(1, 101):
        try:
            late = open_and_press(path, moment)
        except KeyboardInterrupt:
            assert set(threading.enumerate()) <= before
            open_queue(nothing, path=path).close()
        else:  # the moment was after the end
            late.close()
            break
    assert moment > 500
