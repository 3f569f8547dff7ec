"""Ctrl-C while the main thread waits: the question is withdrawn, and the queue goes on."""

from __future__ import annotations

import os
import signal

import pytest

from final import Job, UnknownJob
from tests.final import inside
from tests.final.helpers import OpenQueue, completes, eventually, is_closing
from tests.helpers import DEADLINE, Gate, interrupt_once

# On Windows a thread that waits for a lock hears of Ctrl-C only afterwards.
pytestmark = pytest.mark.parametrize("signal_number", [signal.SIGINT] if os.name == "posix" else [])


def test_a_wait_is_forgotten(open_queue: OpenQueue, gate: Gate, signal_number: int) -> None:
    queue = open_queue(lambda job: gate.wait())
    job_id = queue.enqueue(Job())
    pressed = interrupt_once(signal_number, lambda: job_id in inside.watched(queue))
    with pytest.raises(KeyboardInterrupt):
        queue.wait(job_id, DEADLINE)
    pressed.result()
    eventually(lambda: inside.nobody_waits(queue), "the wait to be withdrawn")
    gate.open()
    assert completes(queue)


def test_a_producer_that_waits_for_room_leaves_the_line(
    open_queue: OpenQueue, gate: Gate, signal_number: int
) -> None:
    queue = open_queue(lambda job: gate.wait(), workers=1, capacity=1)
    queue.enqueue_many([Job(), Job()])
    pressed = interrupt_once(signal_number, lambda: inside.producers_in_line(queue) > 0)
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(Job("given up"), DEADLINE)
    pressed.result()
    eventually(lambda: inside.nobody_waits(queue), "the line to be empty")
    gate.open()
    queue.join(DEADLINE)
    with pytest.raises(UnknownJob):
        queue.get("given up")


def test_a_shutdown_goes_on(open_queue: OpenQueue, gate: Gate, signal_number: int) -> None:
    queue = open_queue(lambda job: gate.wait(), workers=1)
    queue.enqueue_many([Job(), Job()])
    pressed = interrupt_once(signal_number, lambda: is_closing(queue))
    with pytest.raises(KeyboardInterrupt):
        queue.close(timeout=DEADLINE)
    pressed.result()
    gate.open()
    assert queue.close() is True
    assert queue.metrics().completed == 2
