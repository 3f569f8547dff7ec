"""A kind's own policy: how often, how long, how fast, how many at a time, and where its jobs run.

``Kind`` is what a user writes in place of a handler. ``Policies`` says what holds for the jobs of
a kind, and everyone who needs to know asks it: what the kind has chosen, or else the queue.

A policy is the one of the process that runs the job, or finds it after a crash; none is kept with
the job.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

from final.job import Job
from final.options import (
    EXECUTORS,
    MOST,
    QUEUE,
    Backoff,
    Limit,
    Options,
    require_backoff,
    require_choice,
    require_int,
    require_limit,
    require_number,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A handler, and a policy for its jobs: ``JobQueue({"email": Kind(send, max_retries=5)})``.

    handler: ``handler(job)``, as ``JobQueue`` takes it. Of the rest, None is the queue's own.
    max_retries, backoff, executor: as in ``JobQueue``.
    timeout: seconds that an attempt may take, where the job names none.
    rate_limit: bounds how fast jobs of this kind start, beside the limit of the whole queue.
    workers: how many jobs of this kind are with workers at a time, at most; None for as many as
        there are workers. Others keep their places in line, and let those behind them pass.

    Raises TypeError or ValueError for a handler that cannot be called, and an option that makes
    no sense.
    """

    handler: Callable[[Job], object]
    _: KW_ONLY
    max_retries: int | None = None
    backoff: Backoff | None = None
    timeout: float | None = None
    rate_limit: Limit | None = None
    workers: int | None = None
    executor: Literal["thread", "process"] | None = None

    def __post_init__(self) -> None:
        if not callable(self.handler):
            raise TypeError(f"Kind takes a callable handler(job) first, not {self.handler!r}.")
        if self.max_retries is not None:
            require_int("Kind.max_retries", self.max_retries, 0, MOST)
        if self.backoff is not None:
            require_backoff("Kind.backoff", self.backoff)
        if self.timeout is not None:
            require_number("Kind.timeout", self.timeout, above=0)
        if self.rate_limit is not None:
            require_limit("Kind.rate_limit", self.rate_limit)
        if self.workers is not None:
            require_int("Kind.workers", self.workers, 1, MOST)
        if self.executor is not None:
            require_choice("Kind.executor", self.executor, EXECUTORS)


class Policy(NamedTuple):
    """What holds for the jobs of a kind. timeout: seconds; infinity for no limit."""

    max_retries: int
    backoff: Backoff
    timeout: float
    executor: str

    def retry_delay(self, attempt: int, permanent: bool, say: Callable[..., None]) -> float | None:
        """Seconds until a job is tried again whose ``attempt`` has failed; None for never.

        permanent: no other attempt would help. say: as ``Events.say``.
        """
        if permanent or attempt > self.max_retries:
            return None
        try:
            delay = self.backoff.delay(attempt)
            require_number("Backoff.delay", delay)
            return float(delay)
        except BaseException as error:  # a Backoff of one's own is code of others
            delay = Backoff().delay(attempt)
            text = "Backoff.delay(%d) is of no use; the job waits %.1f s, as by a plain Backoff()."
            say(logging.ERROR, text, attempt, delay, error=error)
            return delay


class Policies:
    """By kind. limits: its rate limit, the queue's under ``QUEUE``. caps: its ``workers``.

    Raises ValueError where a kind has two rate limits.
    """

    def __init__(self, options: Options, handlers: object = None) -> None:
        kinds = handlers if isinstance(handlers, Mapping) else {}
        own = {name: kind for name, kind in kinds.items() if isinstance(kind, Kind)}
        timeout = math.inf if options.timeout is None else float(options.timeout)
        self._queue = Policy(options.max_retries, options.backoff, timeout, options.executor)
        self._own = {name: _resolved(kind, self._queue) for name, kind in own.items()}
        self.caps: Mapping[str, int] = {
            name: kind.workers for name, kind in own.items() if kind.workers is not None
        }
        self.limits = _limits(options.rate_limit, own)

    def of(self, kind: str) -> Policy:
        """The queue's own for a kind that has chosen nothing, or has no handler here."""
        return self._own.get(kind, self._queue)

    def timeout(self, kind: str, timeout: float | None) -> float:
        """Seconds that an attempt may take of a job with this ``timeout``; infinity: no limit."""
        return self.of(kind).timeout if timeout is None else timeout

    def retry_delay(
        self, kind: str, attempt: int, permanent: bool, *, say: Callable[..., None]
    ) -> float | None:
        """See ``Policy``."""
        return self.of(kind).retry_delay(attempt, permanent, say)

    def own_retries(self) -> dict[str, int]:
        """``max_retries`` of the kinds that have their own."""
        return {name: policy.max_retries for name, policy in self._own.items()}


def _resolved(kind: Kind, queue: Policy) -> Policy:
    """Its own choices, and the queue's for the rest."""
    own = {name: getattr(kind, name) for name in Policy._fields}
    return queue._replace(**{name: value for name, value in own.items() if value is not None})


def _limits(
    queue: Limit | Mapping[str, Limit] | None, kinds: Mapping[str, Kind]
) -> dict[str, Limit]:
    limits: dict[str, Limit] = {}
    if isinstance(queue, Mapping):
        limits.update(queue)
    elif queue is not None:
        limits[QUEUE] = queue
    for name, kind in kinds.items():
        if kind.rate_limit is None:
            continue
        if name in limits:
            raise ValueError(
                f"Kind {name!r} has two rate limits, one in rate_limit= and one in its Kind: "
                "leave one out."
            )
        limits[name] = kind.rate_limit
    return limits
