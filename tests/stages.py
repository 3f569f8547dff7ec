"""The stages behind one face: a test is written once and runs against each of them.

What a stage does not know is left out: options of its queue, fields of its jobs,
arguments of its methods. A method that it does not have fails with a sentence.

But: it helps nobody. What a stage gets wrong on purpose stays wrong in here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.expectations import STAGES

# How a stage's missing methods are to be read; `final` misses none that the suite calls.
WHY_MISSING = {
    "naive": "there is nothing to look at",
    "improved": "its totals say how many, not which",
    "final": "the suite asks for more than the contract promises",
}


class MissingMethodError(AssertionError):
    """A test called a method that the stage does not have."""


class NeverRaised(Exception):
    """Stands for an exception that the stage does not have, so nothing ever raises it."""


class Stage:
    """One implementation of the job queue, imported when it is first asked for.

    ``folder`` is where its queues keep their files: a fresh one each, unless the test
    names a ``path``. Without a folder a queue lives where the stage puts it by default.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        if name not in STAGES:
            raise ValueError(f"No stage is called {name!r}; the stages are {', '.join(STAGES)}.")
        self.name = name
        self._folder = folder
        self._package = importlib.import_module(name)
        self._new_queue = _leaving_out_unknown_options(self._package.JobQueue)
        self._new_job = _leaving_out_unknown_options(self._package.Job)
        self._queues: list[StageQueue] = []

    def queue(self, handler: Callable[[Any], object], **options: object) -> StageQueue:
        """A queue of this stage, with those of ``options`` that it knows."""
        if self._folder is not None:
            options.setdefault("path", str(self._folder / f"queue-{len(self._queues)}.db"))
        queue = StageQueue(self.name, self._new_queue(handler, **options))
        self._queues.append(queue)
        return queue

    def job(self, **fields: object) -> Any:
        """A job of this stage, with those of ``fields`` that it knows."""
        return self._new_job(**fields)

    def backoff(self, **options: float) -> Any:
        """The stage's own ``Backoff``; None for a stage that never retries."""
        backoff = getattr(self._package, "Backoff", None)
        return backoff and backoff(**options)

    @property
    def QueueFull(self) -> type[Exception]:
        """What the stage raises when a lane stays full."""
        return getattr(self._package, "QueueFull", NeverRaised)

    @property
    def QueueClosed(self) -> type[Exception]:
        """What the stage raises when a job comes after ``close``."""
        return getattr(self._package, "QueueClosed", NeverRaised)

    def close_all(self) -> None:
        """Close every queue that was made here, at once: what they still hold does not run."""
        while self._queues:
            self._queues.pop().close(drain=False, timeout=0)


class StageQueue:
    """A stage's queue: its own methods, minus the arguments that it does not know."""

    def __init__(self, stage: str, queue: Any) -> None:
        self._stage = stage
        self._queue = queue

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):  # Python's own questions deserve Python's own answer
            raise AttributeError(name)
        method = getattr(self._queue, name, None)
        if method is None:
            raise MissingMethodError(f"{self._stage} has no {name}(): {WHY_MISSING[self._stage]}.")

        call = _leaving_out_unknown_options(method)
        self.__dict__[name] = call  # found there from now on: the next call costs nothing more
        return call

    def __enter__(self) -> StageQueue:
        self._queue.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.__exit__(exc_type, exc, traceback)


def _leaving_out_unknown_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, but deaf to keyword arguments that it has no parameter for."""
    known = inspect.signature(function).parameters

    def call(*args: object, **options: object) -> Any:
        return function(*args, **{k: v for k, v in options.items() if k in known})

    return call
