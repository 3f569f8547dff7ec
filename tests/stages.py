"""The stages behind one face: a test is written once and runs against each of them.

What a stage lacks because of a flaw is no obstacle, so that the flaw can show: options
of its queue, fields of its jobs and arguments of its methods are left out, and a method
fails as an assertion does. Whatever else it lacks raises NotInThisStage.

A queue that a reader wrote (``mine``) is judged by what it does and not by its names: where it has
no exception of its own, the standard library's will do.

But: it helps nobody. What a stage gets wrong on purpose stays wrong in here.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import queue as standard_library
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import postgres_server
from tests.expectations import CANDIDATE, COLUMNS, POSTGRES

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
    "postgres": "the suite asks for more than the contract promises",
    CANDIDATE: "it is for you to write",
}


Handler = Callable[[Any], object]


class MissingMethodError(AssertionError):
    """A test called one of METHODS, and the stage does not have it."""


class NotInThisStage(Exception):
    """A test used what the stage lacks, and not because of a flaw; ``what`` is its name.

    It is no AssertionError, so that it cannot pass for a flaw.
    """

    def __init__(self, stage: str, what: str) -> None:
        super().__init__(f"{stage} has no {what}.")
        self.what = what


class NotWritten(AssertionError):
    """A method of the candidate raised NotImplementedError."""


class NeverRaised(Exception):
    """Stands for an exception that the stage does not have, so nothing ever raises it."""


# What a candidate may raise in place of an exception of its own. Behaviour counts, names do not.
STANDARD = {
    "QueueFull": standard_library.Full,
    "QueueClosed": RuntimeError,
    "DuplicateJob": ValueError,
}


class Stage:
    """One implementation of the job queue, imported when it is first asked for.

    ``folder`` is where its queues keep their files: a fresh one each, unless the test
    names a ``path``. Without a folder a queue lives where the stage puts it by default.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        if name not in (*COLUMNS, CANDIDATE):
            raise ValueError(f"No stage is called {name!r}; the stages are {', '.join(COLUMNS)}.")
        self.name = name
        self.left_out: set[str] = set()  # "JobQueue(capacity=)": what the tests gave in vain
        self._folder = folder
        packages = {CANDIDATE: "mine.job_queue", POSTGRES: "final"}
        self._package = importlib.import_module(packages.get(name, name))
        # What errors call it: a reader's queue is graded in words that speak to the reader.
        self.called = "Your queue" if name == CANDIDATE else name
        if name == POSTGRES:  # children are to find the same server
            os.environ[postgres_server.DSN] = postgres_server.dsn()
        self._new_queue = self._adapted("JobQueue", self._its("JobQueue"), QUEUE_OPTIONS)
        self._new_job = self._adapted("Job", self._its("Job"), JOB_FIELDS)
        self._queues: list[StageQueue] = []

    def queue(self, handler: Handler | Mapping[str, Any], **options: object) -> StageQueue:
        """A queue of this stage, with those of ``options`` that it knows.

        Raises NotInThisStage for one that is not among QUEUE_OPTIONS either.
        """
        if self._folder is not None:
            options.setdefault("path", str(self._folder / f"queue-{len(self._queues)}.db"))
        if self.name == POSTGRES and "://" not in str(options.get("path", "://")):
            options["path"] = _address(str(options["path"]))
        queue = StageQueue(self, self._new_queue(handler, **options))
        self._queues.append(queue)
        return queue

    def job(self, **fields: object) -> Any:
        """A job of this stage, with those of ``fields`` that it knows.

        Raises NotInThisStage for one that is not among JOB_FIELDS either.
        """
        return self._new_job(**fields)

    def shared(self, path: str, lease: float = 10.0) -> str:
        """The address of a queue that several processes may open at the same time.

        lease: seconds after which one that says nothing counts as gone.
        """
        if self.name != POSTGRES:
            raise NotInThisStage(self.called, 'JobQueue(path="postgresql://...")')
        return f"{_address(path)}&lease={lease}"

    def backoff(self, **options: float) -> Any:
        """The stage's own ``Backoff``; None for a stage that never retries."""
        backoff = getattr(self._package, "Backoff", None)
        return backoff and backoff(**options)

    def token_bucket(self, rate: float, burst: int) -> Any:
        """The stage's own ``TokenBucket``; None for a stage without rate limits."""
        bucket = getattr(self._package, "TokenBucket", None)
        return bucket and bucket(rate, burst)

    def unique(self, key: str, **options: object) -> Any:
        """The stage's own ``Unique``; None for a stage without unique jobs."""
        unique = getattr(self._package, "Unique", None)
        return unique and unique(key, **options)

    def async_queue(self, handler: Handler, **options: object) -> Any:
        """The stage's own ``AsyncJobQueue``, not open yet."""
        name = "AsyncJobQueue"
        if not hasattr(self._package, name):
            raise NotInThisStage(self.called, name)
        if self._folder is not None:
            options["path"] = str(self._folder / "async.db")
        if self.name == POSTGRES:
            options["path"] = _address(str(options["path"]))
        return self._its(name)(handler, **options)

    def every(self, schedule: object, job: object, **options: object) -> Any:
        """The stage's own ``Every``; None for a stage without periodic jobs."""
        every = getattr(self._package, "Every", None)
        return every and every(schedule, job, **options)

    def current_job(self) -> Any:
        """What the stage tells a handler of the job that it runs."""
        return self._its("current_job")()

    @property
    def progress(self) -> Callable[..., None]:
        """How a handler says how far its job is."""
        if not hasattr(getattr(self._package, "CurrentJob", None), "progress"):
            raise NotInThisStage(self.called, "current_job().progress()")
        return lambda *said: self.current_job().progress(*said)

    def kind(self, handler: Handler, **options: object) -> Any:
        """The stage's own ``Kind``: a handler with options of its own."""
        kind = getattr(self._package, "Kind", None)
        if kind is None:
            raise NotInThisStage(self.name, "Kind")
        return kind(handler, **options)

    @property
    def QueueFull(self) -> type[Exception]:
        """What the stage raises when a lane stays full."""
        return self._exception("QueueFull") or NeverRaised

    @property
    def QueueClosed(self) -> type[Exception]:
        """What the stage raises when a job comes after ``close``."""
        return self._exception("QueueClosed") or NeverRaised

    @property
    def DuplicateJob(self) -> type[Exception]:
        """What the stage raises for an id that is taken, if it looks at ids at all."""
        exception = self._exception("DuplicateJob")
        if exception is None:
            raise NotInThisStage(self.called, "DuplicateJob")
        return exception

    @property
    def Snooze(self) -> type[Exception]:
        """What a handler raises to be run again later."""
        exception: type[Exception] | None = getattr(self._package, "Snooze", None)
        if exception is None:
            raise NotInThisStage(self.called, "Snooze")
        return exception

    @property
    def closes_in_time(self) -> bool:
        """Whether its ``close`` takes a timeout."""
        close = getattr(self._package.JobQueue, "close", None)
        return close is None or "timeout" in inspect.signature(close).parameters

    def close_all(self) -> None:
        """Close every queue that was made here, at once: what they still hold does not run."""
        while self._queues:
            self._queues.pop().close(drain=False, timeout=0)

    def _its(self, name: str) -> Callable[..., Any]:
        found = getattr(self._package, name, None)
        if not callable(found):
            raise MissingMethodError(f"{self.called} has no class {name}.")
        return found  # type: ignore[no-any-return]

    def _exception(self, name: str) -> type[Exception] | None:
        """Its exception of this name; of a candidate without one, the standard library's."""
        standard = STANDARD[name] if self.name == CANDIDATE else None
        own: type[Exception] | None = getattr(self._package, name, standard)
        # queue.Full says one thing only, so it will do beside a QueueFull as well. RuntimeError
        # and ValueError are raised for other reasons, too.
        if standard is standard_library.Full and own and issubclass(own, standard):
            return standard
        return own

    def _adapted(
        self, name: str, function: Callable[..., Any], left_out: set[str]
    ) -> Callable[..., Any]:
        """``function``, but deaf to the keyword arguments in ``left_out`` it does not know."""
        if inspect.iscoroutinefunction(function):
            raise NotWritten(
                f"{name}() is a coroutine function, and nobody awaits it: write `def`."
            )
        parameters = inspect.signature(function).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

        def call(*args: object, **options: object) -> Any:
            known = options.keys() if takes_any else parameters.keys()
            unknown = options.keys() - known
            if missing := unknown - left_out:
                raise NotInThisStage(self.called, f"{name}({min(missing)}=)")
            self.left_out |= {f"{name}({option}=)" for option in unknown}
            try:
                return function(*args, **{k: v for k, v in options.items() if k in known})
            except NotImplementedError as error:  # a RuntimeError, so it could pass for QueueClosed
                raise NotWritten(f"{name} is not written yet: {error}") from error

        return call


class StageQueue:
    """A stage's queue: its own methods, minus the arguments that it does not know."""

    def __init__(self, stage: Stage, queue: Any) -> None:
        self._stage = stage
        self._queue = queue

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):  # Python's own questions deserve Python's own answer
            raise AttributeError(name)
        method = getattr(self._queue, name, None)
        if method is None and name in METHODS:
            stage = self._stage.name
            raise MissingMethodError(f"{self._stage.called} has no {name}(): {WHY_MISSING[stage]}.")
        if method is None:
            raise NotInThisStage(self._stage.called, f"{name}()")

        call = self._stage._adapted(name, method, ARGUMENTS)
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


def _address(path: str) -> str:
    """A queue of its own in the database of the tests, always the same for a path."""
    dsn = postgres_server.dsn()
    name = hashlib.sha256(path.encode()).hexdigest()[:20]
    return f"{dsn}{'&' if '?' in dsn else '?'}queue=t{name}"
