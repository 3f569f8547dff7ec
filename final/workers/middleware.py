"""Middleware: code of the program's own around every attempt, ``JobQueue(middleware=[timed])``.

A middleware is a plain function ``m(job, call_next)``: what it returns is the result, so it returns
what ``call_next(job)`` does. The first one of a queue is the outermost. It runs where the handler
is called, in the context of that attempt: in the worker's thread, which then waits for a coroutine,
or in the handler's process. What it raises, the attempt ends with.

One that has a method ``before_enqueue(job)`` also sees the jobs on their way in, in the thread and
the context of who enqueues them: what that returns is enqueued.

But: no coroutine function, since there is none that a handler in a thread could be called by.
Without middleware nothing of this is in the way.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NoReturn

from final.errors import PermanentFailure
from final.job import Job
from final.workers.attempts import Handler
from final.workers.undone import PLAIN, WaitFor, discard, finish

CallNext = Callable[[Job], object]
Middleware = Callable[[Job, CallNext], object]


def checked(middleware: Iterable[Middleware], in_process: bool) -> tuple[Middleware, ...]:
    """in_process: whether some of the handlers run in processes, and so does this.

    Raises TypeError or ValueError for what is none.
    """
    if not isinstance(middleware, Iterable):
        raise TypeError(
            "middleware is a list of functions m(job, call_next), as middleware=[timed], not "
            f"{middleware!r}."
        )
    each = tuple(middleware)
    for number, one in enumerate(each):
        name = f"middleware[{number}]"
        if not callable(one):
            raise TypeError(f"{name} must be callable as m(job, call_next), not {one!r}.")
        if any(map(inspect.iscoroutinefunction, (one, type(one).__call__))):
            raise TypeError(
                f"{name} is a coroutine function: write it with def. Around a coroutine, too, it "
                "runs in the worker's thread, and call_next(job) returns when that has ended."
            )
        if in_process:
            _require_importable(name, one)
    return each


def before_enqueue(middleware: Iterable[object], job: Job) -> Job:
    """What these make of a job that is on its way in."""
    for one in middleware:
        if (see := getattr(one, "before_enqueue", None)) is not None:
            job = see(job)
            if not isinstance(job, Job):
                raise TypeError(f"before_enqueue(job) of {one!r} returned {job!r} and no Job.")
    return job


def _require_importable(name: str, middleware: Middleware) -> None:
    try:
        pickle.dumps(middleware)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be sent to another process ({error}), where executor='process' needs "
            "it: define it with def at the top level of a module."
        ) from None


def around(
    middleware: Sequence[Middleware], handler: Handler, wait_for: WaitFor | None = None
) -> Handler:
    """The handler with these around it; itself if there are none."""
    return Around(middleware, handler, wait_for) if middleware else handler


class Around:
    """Called in place of the handler. It can be sent to a process if its parts can.

    wait_for: waits for what the handler returns to be awaited; None where that is refused.
    """

    def __init__(
        self, middleware: Sequence[Middleware], handler: Handler, wait_for: WaitFor | None
    ) -> None:
        self._middleware = middleware
        self._handler = handler
        self._wait_for = wait_for

    def __call__(self, job: Job) -> object:
        value = self._call(0, job)
        return value if type(value) in PLAIN else finish(value, _refuse_to_wait)

    def _call(self, number: int, job: Job) -> object:
        """From this middleware on inwards."""
        if number < len(self._middleware):
            return self._middleware[number](job, partial(self._call, number + 1))
        value = self._handler(job)
        return value if type(value) in PLAIN else finish(value, self._wait_for)


def _refuse_to_wait(value: object) -> NoReturn:
    """Awaited on the event loop it would call the handler there, and wait for that loop."""
    discard(value)
    raise PermanentFailure(
        f"A middleware returned work that is not done ({type(value).__name__}): it is a plain "
        "function, and returns what call_next(job) returns."
    )
