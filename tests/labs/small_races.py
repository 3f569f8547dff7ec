"""Scenarios of a few lines whose verdicts are known: they test the race lab itself.

Short enough to find the failing schedule by hand. Try that first, then let the lab do it:

    from tests.labs import small_races
    from tests.labs.races import explore, show

    show(explore(small_races.lost_update, small_races))
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Acts = Iterator[tuple[Callable[[], object], ...]]


def lost_update() -> Acts:
    count = {"n": 0}

    def ada() -> None:
        before = count["n"]
        count["n"] = before + 1

    def bob() -> None:
        before = count["n"]
        count["n"] = before + 1

    yield ada, bob
    assert count["n"] == 2, f"counted {count['n']} of 2"


orders: list[str] = []


def two_times_two_steps() -> Acts:
    order: list[str] = []

    def lower() -> None:
        order.append("a")
        order.append("b")

    def upper() -> None:
        order.append("A")
        order.append("B")

    yield lower, upper
    orders.append("".join(order))


def two_locks() -> Acts:
    first, second = threading.Lock(), threading.Lock()

    def ada() -> None:
        with first:  # noqa: SIM117 - two lines, so two points
            with second:  # ada
                pass

    def bob() -> None:
        with second:  # noqa: SIM117
            with first:  # bob
                pass

    yield ada, bob


def lost_wake_up() -> Acts:
    condition = threading.Condition()
    ready: list[bool] = []

    def sleeper() -> None:
        if not ready:
            with condition:
                condition.wait()

    def waker() -> None:
        with condition:
            ready.append(True)
            condition.notify()

    yield sleeper, waker


def spinning() -> Acts:
    done: list[bool] = []

    def spinner() -> None:
        while not done:
            pass

    yield (spinner,)


def raising() -> Acts:
    def divide() -> None:
        1 / 0  # noqa: B018

    yield (divide,)


left_behind: list[int] = []


def forgetful() -> Acts:
    left_behind.append(1)

    def ada() -> None:
        for _ in range(10 * (len(left_behind) % 2 == 0)):
            pass

    def bob() -> None:
        pass

    yield ada, bob


def deadline_against_work() -> Acts:
    done = threading.Event()
    in_time = []

    def worker() -> None:
        done.set()

    def patient() -> None:
        in_time.append(done.wait(86_400))

    yield patient, worker
    assert in_time == [True], "gave up after a day"


kinds: list[type] = []


def looks_at_its_lock() -> Acts:
    kinds.append(type(threading.Lock()))
    yield ()


def semaphore() -> Acts:
    threading.Semaphore()
    yield ()


def behaving() -> Acts:
    yield (behave,)


def behave() -> None:
    """What holds of the real threading, queue and time, and must hold of those in their place."""
    lock = threading.Lock()
    assert lock.acquire()
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.001)
    assert lock.locked()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()

    again = threading.RLock()
    with again, again:
        pass

    event = threading.Event()
    assert not event.wait(0.001)
    event.set()
    assert event.wait()
    event.clear()
    assert not event.is_set()

    condition = threading.Condition(lock)
    with pytest.raises(RuntimeError):
        condition.notify()
    with condition:
        assert not condition.wait(0.001)
        assert not condition.wait_for(lambda: False, 0.001)
        assert condition.wait_for(lambda: "yes") == "yes"
        condition.notify_all()

    box: Any = queue.Queue(1)
    box.put("a")
    with pytest.raises(queue.Full):
        box.put_nowait("b")
    with pytest.raises(queue.Full):
        box.put("b", timeout=0.001)
    assert box.get() == "a"
    with pytest.raises(queue.Empty):
        box.get_nowait()
    simple: Any = queue.SimpleQueue()
    with pytest.raises(queue.Empty):
        simple.get(timeout=0.001)

    began = time.monotonic()
    time.sleep(0.002)
    time.sleep(0)
    assert time.monotonic() >= began + 0.002
    assert time.time() > 1_700_000_000

    ran: list[object] = []

    def work(*args: object, **kwargs: object) -> None:
        ran.append((args, kwargs, threading.current_thread().name))

    thread = threading.Thread(target=work, args=(1,), kwargs={"b": 2}, name="worker", daemon=True)
    assert not thread.is_alive()
    thread.start()
    thread.join()
    assert not thread.is_alive()
    assert ran == [((1,), {"b": 2}, "worker")]
    with pytest.raises(RuntimeError):
        thread.start()
