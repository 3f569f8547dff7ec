"""What the code under test gets in place of ``threading``, ``queue`` and ``time``.

Each of these waits through the current ``Run``, which then lets another thread go on. They
behave as the real ones do, in the liberties too: a free lock goes to whoever comes first,
and whoever was notified still has to get the lock back.

``in_place(modules)`` puts them into the modules under test, and into no others, for as long
as the exploration takes. The code itself is not touched.

But: they do what these queues need. A Semaphore, a Barrier or a Timer is refused in a
sentence, for the real one would block the only thread that runs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, TracebackType
from typing import Any

from tests.labs.scheduler import Thread, current_run

REFUSED = ("Semaphore", "BoundedSemaphore", "Barrier", "Timer", "LifoQueue", "PriorityQueue")
WALL_CLOCK = 1_800_000_000.0  # what time.time() says when a run begins, Unix seconds


class Lock:
    def __init__(self) -> None:
        self._run = current_run()
        self._owner: Thread | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._run.operation()
        limit = None if timeout < 0 else timeout
        if not self._run.wait(self._is_free, limit if blocking else 0, self):
            return False
        self._owner = self._run.current()
        return True

    def release(self) -> None:
        if self._run.is_over:
            return  # its owner is being ended, maybe in the middle of a Condition.wait
        self._run.operation()
        if self._owner is None:
            raise RuntimeError("release unlocked lock")
        self._owner = None

    def locked(self) -> bool:
        return self._owner is not None

    def _is_free(self) -> bool:
        return self._owner is None

    def __str__(self) -> str:
        if self._owner is None:
            return "a lock"
        if self._owner.waits_for is self:
            return "a lock that it has taken itself"
        return f"a lock that {self._owner.name} has taken"

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class RLock(Lock):
    """A lock that its owner may take again."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._owner is not self._run.current() and not super().acquire(blocking, timeout):
            return False
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().release()

    def _is_owned(self) -> bool:
        return self._owner is self._run.current()


class Condition:
    def __init__(self, lock: Lock | None = None) -> None:
        self._run = current_run()
        self._lock = lock or RLock()
        self._waiters: deque[_Waiter] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        self._check_owned()
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._lock.release()
        if not self._run.wait(waiter.was_notified, timeout, "a notify"):
            # As with the real one: a notify that comes just now is still spent on this waiter.
            self._run.point()
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        self._lock.acquire()
        return waiter.notified

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._run.now + timeout
        while not (result := predicate()):
            if until is not None and until <= self._run.now:
                break
            self.wait(None if until is None else until - self._run.now)
        return result

    def notify(self, n: int = 1) -> None:
        self._check_owned()
        for _ in range(min(n, len(self._waiters))):
            self._waiters.popleft().notified = True

    def notify_all(self) -> None:
        self.notify(len(self._waiters))

    def _check_owned(self) -> None:
        self._run.operation()
        if self._lock._owner is not self._run.current():
            raise RuntimeError("cannot wait or notify on un-acquired lock")

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class _Waiter:
    """One call of Condition.wait."""

    notified = False

    def was_notified(self) -> bool:
        return self.notified


class Event:
    def __init__(self) -> None:
        self._run = current_run()
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._run.operation()
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        self._run.operation()
        return self._run.wait(self.is_set, timeout, "an event")


class Queue:
    """queue.Queue, and with ``maxsize=0`` also queue.SimpleQueue."""

    def __init__(self, maxsize: int = 0) -> None:
        self._run = current_run()
        self._maxsize = maxsize
        self._items: deque[Any] = deque()

    def qsize(self) -> int:
        self._run.operation()
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        self._run.operation()
        if not self._run.wait(self._has_room, timeout if block else 0, "room in a queue"):
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._run.operation()
        if not self._run.wait(self._has_items, timeout if block else 0, "an item in a queue"):
            raise queue.Empty
        return self._items.popleft()

    def put_nowait(self, item: object) -> None:
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def _has_room(self) -> bool:
        return self._maxsize <= 0 or len(self._items) < self._maxsize

    def _has_items(self) -> bool:
        return bool(self._items)


class SimpleQueue(Queue):
    def __init__(self) -> None:
        super().__init__()


def current_thread() -> Thread:
    return current_run().current()


def monotonic() -> float:
    return current_run().now


def wall_clock() -> float:
    return WALL_CLOCK + current_run().now


def sleep(seconds: float) -> None:
    run = current_run()
    if seconds > 0:
        run.wait(lambda: False, seconds, f"{seconds:g} s to pass")
    else:
        run.point()


STAND_INS: dict[Any, Any] = {
    threading.Thread: Thread,
    threading.Lock: Lock,
    threading.RLock: RLock,
    threading.Condition: Condition,
    threading.Event: Event,
    threading.current_thread: current_thread,
    queue.SimpleQueue: SimpleQueue,
    queue.Queue: Queue,
    time.monotonic: monotonic,
    time.perf_counter: monotonic,
    time.time: wall_clock,
    time.sleep: sleep,
}


class StandIn:
    """A module with the stand-ins in it; for the rest it asks the real one."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise NotImplementedError(
                f"The race lab has no {self._module.__name__}.{name}: build the scenario with "
                "Lock, Condition, Event or Queue, or add it to tests/labs/stand_ins.py."
            )
        return _stand_in(getattr(self._module, name))


MODULES = {id(module): StandIn(module) for module in (threading, queue, time)}


def _stand_in(value: Any) -> Any:
    """What stands in for this, if anything does."""
    if isinstance(value, ModuleType):
        return MODULES.get(id(value), value)
    try:
        return STAND_INS.get(value, value)
    except TypeError:  # not hashable, so none of ours
        return value


@contextlib.contextmanager
def in_place(modules: Sequence[ModuleType]) -> Iterator[None]:
    """Within the block the globals of these modules are the stand-ins, and nothing is logged."""
    replaced = [
        (vars(module), name, value)
        for module in modules
        for name, value in vars(module).items()
        if _stand_in(value) is not value
    ]
    was_disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for names, name, value in replaced:
            names[name] = _stand_in(value)
        yield
    finally:
        for names, name, value in replaced:
            names[name] = value
        logging.disable(was_disabled)
