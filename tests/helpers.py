"""What the tests wait with: a gate, a journal, a call in the background, rounds of a worker.

Nothing here sleeps, and nothing waits for ever: whoever waits longer than ``DEADLINE``
fails with a sentence that says for what.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tests.stages import Stage, StageQueue

# Leaves a sentence with a measured number for the scoreboard.
Evidence = Callable[[str], None]

# Seconds. Far beyond what anything takes on a busy machine: reaching it is a failure. Shorter where
# failures are what is to be seen, as on the ladder.
DEADLINE = float(os.environ.get("SUITE_DEADLINE", "15"))

# The line that a journal holds for every thread that an exception ended.
WORKER_DIED = "a worker died"

# What a producer has seen that found no room, and then no end either.
LET_IN = "close() had begun, and a producer that waited for room was still accepted"


class Broken(Exception):
    """What a handler raises when a test wants its job to fail."""


class Gate:
    """Shut until the test opens it: handlers that wait here hold their workers."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        assert self._opened.wait(DEADLINE), f"Nobody opened the gate within {DEADLINE:.0f} s."


class Journal:
    """What happened, in order, written by any thread; a test waits until it says enough."""

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._written = threading.Condition()

    @property
    def entries(self) -> list[Any]:
        with self._written:
            return list(self._entries)

    def write(self, entry: object) -> int:
        """Add ``entry`` and return how often it is there now."""
        with self._written:
            self._entries.append(entry)
            self._written.notify_all()
            return self._entries.count(entry)

    def wait_for(self, *entries: object) -> None:
        """Wait until any of ``entries`` is there."""
        self._wait(
            lambda: any(e in self._entries for e in entries), " or ".join(map(repr, entries))
        )

    def wait_for_count(self, count: int) -> None:
        """Wait until there are ``count`` entries, whatever they are."""
        self._wait(lambda: len(self._entries) >= count, f"{count} entries")

    def _wait(self, enough: Callable[[], bool], what: str) -> None:
        with self._written:
            found = self._written.wait_for(enough, DEADLINE)
            assert found, (
                f"Waited {DEADLINE:.0f} s for {what}; the journal holds {len(self._entries)} "
                f"entries and ends with {self._entries[-10:]}."
            )


class Background:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[..., Any], *args: object) -> None:
        self._future: Future[Any] = Future()
        self._call = call
        self._args = args
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, deadline: float = DEADLINE) -> Any:
        """What the call returned, or the exception that it raised.

        Its thread has ended by then: some tests count what threads are left.
        """
        try:
            return self._future.result(deadline)
        except TimeoutError:
            name = getattr(self._call, "__name__", self._call)
            raise AssertionError(f"{name}() had not returned after {deadline:.0f} s.") from None
        finally:
            if self._future.done():
                self._thread.join(DEADLINE)

    def _run(self) -> None:
        try:
            self._future.set_result(self._call(*self._args))
        except BaseException as error:
            self._future.set_exception(error)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until ``condition`` holds, ever more seldom.

    For what nobody is told of: the tests of final have ``comes_true`` for all that jobs do.
    """
    deadline = time.monotonic() + DEADLINE
    pause = 0.001
    while not condition():
        assert time.monotonic() < deadline, f"Waited {DEADLINE:.0f} s for {what}."
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def interrupt_once(number: int, condition: Callable[[], bool]) -> Background:
    """Press Ctrl-C when ``condition`` holds and the main thread waits: a signal that a thread sends
    to itself, or just before the wait begins, does not wake it."""
    main = threading.main_thread()
    assert main is threading.current_thread()
    assert main.ident is not None
    ident = main.ident

    def waits() -> bool:  # in one of threading or of final: each is called so
        return sys._current_frames()[ident].f_code.co_name == "wait"

    def press() -> None:
        eventually(lambda: condition() and waits(), "the main thread to wait")
        signal.pthread_kill(ident, number)

    return Background(press)


def rounds(stage: Stage, queue: StageQueue, journal: Journal, count: int) -> None:
    """Let the only worker of ``queue`` come round ``count`` times, or die on the way.

    A round is a job of its own, enqueued when the one before has run. So whatever was
    runnable when the first round began has had a turn by the second, or is gone.
    The handler must write ``job.id`` to ``journal``.
    """
    for _ in range(count):
        job = stage.job(payload="round")
        queue.enqueue(job)
        journal.wait_for(job.id, WORKER_DIED)


def open_when_closing(stage: Stage, queue: StageQueue, gate: Gate, room: int) -> None:
    """Open ``gate`` as soon as ``queue`` refuses jobs: then its closing has begun.

    A producer in the background adds LOW jobs (payload "filler") until it is refused:
    ``room`` jobs fit while the gate is shut, and the next blocks. A queue that never
    refuses a job leaves the gate shut, and its producer ends with LET_IN.
    """

    def produce() -> None:
        try:
            for _ in range(room + 1):
                queue.enqueue(stage.job(payload="filler", priority="low"))
        except stage.QueueClosed:
            gate.open()
        else:
            raise AssertionError(LET_IN)

    Background(produce)
