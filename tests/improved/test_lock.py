"""What improved's lock and conditions promise, provoked instead of hoped for.

A race that shows once in a million runs is no test. Here the lock itself looks at what it
guards, and a wake-up comes just when it should not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from improved import Backoff, Job, JobQueue, Priority, QueueClosed, QueueFull
from tests.final.helpers import eventually
from tests.helpers import DEADLINE, Background, Broken, Gate

AT_ONCE = Backoff(base=0, jitter=0)


class WatchedLock:
    """A lock that looks round each time before it is free again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.look: Callable[[], None] = lambda: None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self.look()
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> WatchedLock:
    """The lock of the next queue that is made."""
    lock = WatchedLock()
    everything = {name: getattr(threading, name) for name in threading.__all__}
    watched = SimpleNamespace(**everything | {"Lock": lambda: lock})
    monkeypatch.setattr("improved.job_queue.threading", watched)
    return lock


class TestInvariant:
    def test_the_counts_add_up_whenever_the_lock_is_free(self, lock: WatchedLock) -> None:
        wrong: list[str] = []

        def look() -> None:
            for priority, lane in queue._lanes.items():
                counts = lane.counts
                if counts.accepted != counts.unfinished + counts.completed + counts.failed:
                    wrong.append(f"{priority}: {counts}")

        def handler(job: Job) -> None:
            if job.payload == "hopeless":
                raise Broken

        with JobQueue(handler, workers=2, capacity=5, max_retries=1, backoff=AT_ONCE) as queue:
            lock.look = look
            for n in range(30):
                payload = "hopeless" if n % 3 == 0 else "good"
                queue.enqueue(Job(payload=payload, priority=list(Priority)[n % 3]))
        assert wrong == []
        assert queue.metrics().failed == 10

    def test_a_refused_job_is_not_counted(self, gate: Gate) -> None:
        queue = JobQueue(lambda job: gate.wait(), workers=1, capacity=1)
        for _ in range(2):
            queue.enqueue(Job(), timeout=DEADLINE)  # one for the worker, one for the lane
        with pytest.raises(QueueFull):
            queue.enqueue(Job(), timeout=0)
        assert queue.metrics().accepted == 2
        gate.open()
        assert Background(queue.close).result()


class TestWakeUps:
    def test_a_producer_that_is_woken_without_room_goes_on_waiting(self, gate: Gate) -> None:
        """Another producer may have taken the room between the wake-up and the lock."""
        queue = JobQueue(lambda job: gate.wait(), workers=1, capacity=1)
        for _ in range(2):
            queue.enqueue(Job(), timeout=DEADLINE)
        room = queue._lanes[Priority.MEDIUM].room
        producer = Background(queue.enqueue, Job())
        eventually(lambda: waiting(room) == 1, "the producer to wait for room")
        with queue._mutex:
            room.notify()
        # Whoever is woken waits again, or has gone in; closing tells which.
        eventually(lambda: waiting(room) == 1 or queue.metrics().queued > 1, "what it does then")
        closing = Background(queue.close)
        with pytest.raises(QueueClosed):
            producer.result()
        gate.open()
        assert closing.result()
        assert queue.metrics().accepted == 2


def waiting(condition: Any) -> int:
    """How many threads wait on it."""
    return len(condition._waiters)
