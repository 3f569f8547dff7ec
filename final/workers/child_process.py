"""One process of a worker, as the worker sees it: a pipe to talk, and ways to end it."""

from __future__ import annotations

import contextlib
import multiprocessing

# This waits for all processes when the program ends. The queues must have closed by then, and
# of what is registered with atexit the latest is called first: so its import comes before theirs.
import multiprocessing.util
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from final.workers.attempts import Ending
from final.workers.child import LEAVE, READY, serve, signals_blocked

START_SECONDS = 60.0  # to start, and to import the handlers; no attempt's time runs meanwhile
ANSWER_SECONDS = 5.0  # to answer that it lives; a process that does not is replaced
GRACE_SECONDS = 5.0  # to leave: its atexit functions, its threads that are no daemons

SPAWN = multiprocessing.get_context("spawn")


class ProcessEnded(Exception):
    """There is nobody at the other end of the pipe, or half a message or none, which is as good."""


class Process:
    """A process that runs handlers, one job at a time.

    Its worker alone talks to it and waits for its end. Others may kill it, or end an attempt.

    Invariants, kept by ``_lock``: it is killed at most once, and before its worker waits for its
    end, so that its number is not a stranger's by then. What ``enter_attempt`` returns kills it
    only while that attempt is under way. A process that was killed serves nobody else.
    """

    def __init__(self, max_result: int) -> None:
        # The dispatcher may wait for it: held for an instant. Reentrant for a signal handler, which
        # may close the queue in the middle of a close.
        self._lock = threading.RLock()
        self._attempt: object | None = None  # the one under way
        self._killed = False
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(theirs, max_result))
        try:
            with signals_blocked():
                self._process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        # A program closes its queues when it ends, and this is not called. But a process of its
        # own multiprocessing would wait for this one first, for ever.
        self._last_resort = multiprocessing.util.Finalize(None, self.kill, exitpriority=0)

    # ---- for its worker --------------------------------------------------------------------

    def meet(self, handlers: bytes) -> Ending | None:
        """Wait until it has imported the handlers; an Ending where it cannot.

        Raises TimeoutError where that takes too long, ProcessEnded where it ended instead.
        """
        deadline = time.monotonic() + START_SECONDS
        try:
            self.receive(START_SECONDS)
            self._write(self._pipe.send_bytes, handlers)
            answer = self.receive(deadline - time.monotonic())
        except TimeoutError:
            raise TimeoutError(
                f"the process for the handler was not ready after {START_SECONDS:g} s: does the "
                "program, or a module with handlers, do more than define things at its import?"
            ) from None
        return None if answer == READY else answer

    def answers(self) -> bool:
        """Whether it lives and is ready for a job."""
        try:
            self.send(READY)
            self.receive(ANSWER_SECONDS)
        except (ProcessEnded, TimeoutError):
            return False
        return True

    def enter_attempt(self) -> Callable[[], None]:
        """An attempt begins; returns what ends it, and with it the process."""
        with self._lock:
            self._attempt = attempt = object()
        return partial(self._end_attempt, attempt)

    def leave_attempt(self) -> bool:
        """The attempt has ended; returns whether the process is there for another one."""
        with self._lock:
            self._attempt = None
            return not self._killed

    def send(self, message: object) -> None:
        self._write(self._pipe.send, message)

    def _write(self, write: Callable[[Any], None], message: object) -> None:
        try:
            write(message)
        except (OSError, MemoryError):
            raise ProcessEnded from None

    def receive(self, timeout: float | None = None) -> Any:
        try:
            if timeout is None or self._pipe.poll(max(0.0, timeout)):
                return self._pipe.recv()
        except Exception:  # the end, or what no process of ours says: a handler wrote there
            raise ProcessEnded from None
        raise TimeoutError

    def ask_to_leave(self) -> None:
        """Let it end by itself, if it does so in time."""
        with contextlib.suppress(ProcessEnded, TimeoutError):
            self.send(LEAVE)
            self.receive(GRACE_SECONDS)  # until the pipe ends

    def end(self) -> int | None:
        """Kill it, if it still lives, and wait for its end; returns its exit code.

        Negative for a signal; None if the program has taken it from multiprocessing.
        """
        self.kill()
        self._process.join()
        self._pipe.close()
        self._last_resort.cancel()
        return self._process.exitcode

    # ---- for everybody ---------------------------------------------------------------------

    def kill(self) -> None:
        with self._lock:
            self._kill()

    def _end_attempt(self, attempt: object) -> None:
        with self._lock:
            if self._attempt is attempt:
                self._kill()

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._process.kill()


def _forget_processes() -> None:
    """A fork of the program has none; multiprocessing would wait for them at its end."""
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_processes)
