"""The stages behind one face: a test is written once and runs against each of them.

What a stage lacks because of a flaw is no obstacle, so that the flaw can show: options
of its queue, fields of its jobs and arguments of its methods are left out, and a method
fails as an assertion does. Whatever else it lacks raises NotInThisStage.

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

# What the suite asks of every stage. Where one lacks it, that is a flaw.
QUEUE_OPTIONS = {"path", "capacity", "max_retries", "backoff"}
JOB_FIELDS = {"priority"}
ARGUMENTS = {"timeout", "drain"}
METHODS = {"metrics", "status", "wait"}

# How to read that a stage lacks one of METHODS; `final` has them all.
WHY_MISSING = {
    "naive": "there is nothing to look at",
    "improved": "its totals say how many, not which",
    "final": "the suite asks for more than the contract promises",
}


class MissingMethodError(AssertionError):
    """A test called one of METHODS, and the stage does not have it."""


class NotInThisStage(Exception):
    """A test used what the stage lacks, and not because of a flaw; ``what`` is its name.

    It is no AssertionError, so that it cannot pass for a flaw.
    """

    def __init__(self, stage: str, what: str) -> None:
        super().__init__(f"{stage} has no {what}.")
        self.what = what


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
        self._new_queue = _adapted(name, "JobQueue", self._package.JobQueue, QUEUE_OPTIONS)
        self._new_job = _adapted(name, "Job", self._package.Job, JOB_FIELDS)
        self._queues: list[StageQueue] = []

    def queue(self, handler: Callable[[Any], object], **options: object) -> StageQueue:
        """A queue of this stage, with those of ``options`` that it knows.

        Raises NotInThisStage for one that is not among QUEUE_OPTIONS either.
        """
        if self._folder is not None:
            options.setdefault("path", str(self._folder / f"queue-{len(self._queues)}.db"))
        queue = StageQueue(self.name, self._new_queue(handler, **options))
        self._queues.append(queue)
        return queue

    def job(self, **fields: object) -> Any:
        """A job of this stage, with those of ``fields`` that it knows.

        Raises NotInThisStage for one that is not among JOB_FIELDS either.
        """
        return self._new_job(**fields)

    def backoff(self, **options: float) -> Any:
        """The stage's own ``Backoff``; None for a stage that never retries."""
        backoff = getattr(self._package, "Backoff", None)
        return backoff and backoff(**options)

    def token_bucket(self, rate: float, burst: int) -> Any:
        """The stage's own ``TokenBucket``; None for a stage without rate limits."""
        bucket = getattr(self._package, "TokenBucket", None)
        return bucket and bucket(rate, burst)

    @property
    def QueueFull(self) -> type[Exception]:
        """What the stage raises when a lane stays full."""
        return getattr(self._package, "QueueFull", NeverRaised)

    @property
    def QueueClosed(self) -> type[Exception]:
        """What the stage raises when a job comes after ``close``."""
        return getattr(self._package, "QueueClosed", NeverRaised)

    @property
    def DuplicateJob(self) -> type[Exception]:
        """What the stage raises for an id that is taken, if it looks at ids at all."""
        if not hasattr(self._package, "DuplicateJob"):
            raise NotInThisStage(self.name, "DuplicateJob")
        return self._package.DuplicateJob  # type: ignore[no-any-return]

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
        if method is None and name in METHODS:
            raise MissingMethodError(f"{self._stage} has no {name}(): {WHY_MISSING[self._stage]}.")
        if method is None:
            raise NotInThisStage(self._stage, f"{name}()")

        call = _adapted(self._stage, name, method, ARGUMENTS)
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


def _adapted(
    stage: str, name: str, function: Callable[..., Any], left_out: set[str]
) -> Callable[..., Any]:
    """``function``, but deaf to the keyword arguments in ``left_out`` that it does not know."""
    known = inspect.signature(function).parameters.keys()

    def call(*args: object, **options: object) -> Any:
        if missing := options.keys() - known - left_out:
            raise NotInThisStage(stage, f"{name}({min(missing)}=)")
        return function(*args, **{k: v for k, v in options.items() if k in known})

    return call
