"""Attempts: call a handler, and turn whatever it does into an ``Ending``.

An exception, also SystemExit or KeyboardInterrupt, ends the attempt and not the worker.
``Runner`` does it in the worker's thread, ``coroutines.py`` and ``processes.py`` elsewhere.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import NamedTuple

from final.beyond.snooze import Again, Snooze
from final.errors import PermanentFailure, QueueClosed
from final.job import Job, Task
from final.payload import Stored, decode, encode
from final.workers import forks
from final.workers.batch import Batch
from final.workers.undone import PLAIN, WaitFor, finish, refuse_members

Handler = Callable[[Job], object]

# What is kept of a failure stays some kB, whatever a handler raises. In characters.
LONGEST_LINE = 2_000
LONGEST_TRACEBACK = 16_000


class Ending(NamedTuple):
    """How an attempt ended; the fields are those of ``Outcome``."""

    result: Stored | None = None
    note: str | None = None
    error: str | None = None
    traceback: str = ""
    permanent: bool = False
    closed: bool = False
    again: Again | None = None


class Runner:
    """Runs the handler in the worker's thread. ``max_result``: bytes that a result may take.

    wait_for: waits for what a handler returns to be awaited; None where that is refused.
    can_stop: whether ``batch.stop()`` frees the worker, whatever the handler does.
    """

    can_stop = False

    def __init__(self, handler: Handler, max_result: int, wait_for: WaitFor | None = None) -> None:
        self._handler = handler
        self._max_result = max_result
        self._wait_for = wait_for

    def prepare(self) -> Ending | None:
        """Get ready: the attempt's time has not begun. Returns an Ending if that is impossible."""
        return None

    def run(self, batch: Batch, task: Task) -> Ending | None:
        """Make the attempt. None: the handler has not begun; ``prepare`` and try again.

        LATER: it is under way elsewhere, and the batch comes back to the pool with its end.
        """
        return attempt(self._handler, task, self._max_result, self._wait_for)

    def go_on(self, batch: Batch) -> Ending | None:
        """The batch has come back: what has become of the attempt? It may be LATER again.

        None: it was taken back before its handler began.
        """
        raise AssertionError("who has said LATER can go on")

    def leave(self) -> None:
        """The calling worker leaves, and runs no more."""

    def close(self) -> None:
        """The queue has closed."""


def attempt(
    handler: Handler, task: Task, max_result: int, wait_for: WaitFor | None = None
) -> Ending:
    """Call the handler, and turn whatever comes of it into an Ending."""
    context = copy_context()  # what a handler sets there, the next one must not find
    depth = forks.depth
    try:
        value = context.run(handler, job_of(task))
        if type(value) not in PLAIN:
            value = context.run(finish, value, wait_for)
    except BaseException as error:
        if forks.depth != depth:
            forks.end(error)
        return failure(error)
    if forks.depth != depth:
        forks.end()
    return NOTHING_TO_KEEP if value is None else success(value, max_result)


def success(value: object, max_result: int) -> Ending:
    """What was returned."""
    if value is None:
        return NOTHING_TO_KEEP
    try:
        return Ending(result=encode("The result", value, max_result))
    except BaseException as error:
        return _without_result(value, _why_not(error))


def _why_not(error: BaseException) -> str:
    """In the words of ``encode``, unless code of the value's own has raised, which ran to look."""
    if type(error) in (TypeError, ValueError) and all(type(text) is str for text in error.args):
        return str(error)
    return f"The result cannot be looked at: {failure(error).error}."


def _without_result(value: object, why: str) -> Ending:
    """The work is done and must not be done again, so the job completes without its result."""
    try:
        refuse_members(value)
    except PermanentFailure as refusal:  # it is not done after all
        return failure(refusal)
    except BaseException as error:  # again code of its own
        why = f"The result cannot be looked at: {failure(error).error}."
    return Ending(note=_line(f"{why} The job completed; its result is not kept."))


NOTHING_TO_KEEP = Ending()
LATER = Ending()  # no end: a coroutine is under way


def job_of(task: Task) -> Job:
    """What the handler gets: the very Job that was enqueued, if nobody can have changed it."""
    if task.job is not None:
        return task.job
    assert task.payload is not None, "a claim reads it"
    return _of_the_file(
        id=task.id,
        payload=decode(task.payload),
        priority=task.priority,
        kind=task.kind,
        timeout=task.timeout,
        group=task.group or None,
        meta=task.meta,
    )


def _of_the_file(**fields: object) -> Job:
    """A Job with these fields, the others None.

    It was checked when it came in, and is not again: what an older release let in runs under
    stricter rules, too.
    """
    job = object.__new__(Job)
    for name in Job.__slots__:
        object.__setattr__(job, name, fields.get(name))
    return job


def failure(error: BaseException) -> Ending:
    """What was raised; a Snooze, which is raised like a failure, is none."""
    permanent = closed = False
    try:
        raised = _raised(error)
        if all(isinstance(each, Snooze) for each in raised):
            moments = [each.again for each in raised if isinstance(each, Snooze)]
            return Ending(again=_latest(moments))
        permanent = any(isinstance(each, PermanentFailure) for each in raised)
        closed = all(isinstance(each, QueueClosed) for each in raised)
        # The first of these is the error itself, also one whose text cannot be had; after it
        # come its notes. (A SyntaxError has its message last.)
        lines = traceback.format_exception_only(error)
        line = lines[-1 if isinstance(error, SyntaxError) else 0]
        trace = "".join(traceback.format_exception(error))
    except BaseException as trouble:  # code of the error's own, or it is a group of great depth
        line, trace = f"{_name(type(error))}: {_name(type(trouble))} in describing it", ""
    return Ending(
        error=_line(line),
        traceback=_storable(_shortened(trace, LONGEST_TRACEBACK)),
        permanent=permanent,
        closed=closed,
    )


_name = type.__dict__["__name__"].__get__  # of a class, whatever its metaclass says


def _line(text: str) -> str:
    return _storable(" ".join(_shortened(text, LONGEST_LINE).split()))


def _shortened(text: str, limit: int) -> str:
    """Without its middle: a traceback has the caller at its head and the error at its tail."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters cut ...] {text[-half:]}"


def _raised(error: BaseException) -> list[BaseException]:
    """The error itself; of a TaskGroup all that its tasks have raised."""
    if isinstance(error, BaseExceptionGroup):
        return [inner for each in error.exceptions for inner in _raised(each)]
    return [error]


def _latest(moments: Sequence[Again]) -> Again:
    now = time.time()
    return max(moments, key=lambda again: again.due_at(now))


def _storable(text: str) -> str:
    """Without the lone surrogates that a file name may bring along."""
    return text.encode("utf-8", "backslashreplace").decode()
