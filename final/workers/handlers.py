"""Handlers by kind of job: what was handed to JobQueue, checked, each with its runner."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from final.beyond.kinds import Kind, Policies
from final.workers.attempts import Handler, Runner
from final.workers.child import refuse_in_a_starting_process
from final.workers.coroutines import CoroutineRunner, EventLoops
from final.workers.middleware import Middleware, around, checked
from final.workers.processes import Processes, ProcessRunner

# Where one handler runs all kinds. No job is of this kind: that must not be empty.
FOR_ALL = ""


class Handlers:
    """The runners by kind of job: one handler for all kinds, or one for each.

    Raises TypeError or ValueError for what cannot be called, or cannot be sent to a process.
    """

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler | Kind] | None,
        policies: Policies,
        max_result: int,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        if isinstance(handler, Kind):
            raise TypeError(
                "handler is a Kind, which is for one of several: JobQueue({'email': Kind(...)}). "
                "The options of a queue with one handler are those of JobQueue."
            )
        if isinstance(handler, Mapping) and FOR_ALL in handler:
            raise TypeError("The kinds of handlers are non-empty text, not ''.")
        given: Mapping[str, Any] = handler if isinstance(handler, Mapping) else {FOR_ALL: handler}
        if not given:
            raise ValueError("handler is an empty mapping: give at least one kind a handler.")
        by_kind = {k: one.handler if isinstance(one, Kind) else one for k, one in given.items()}
        for kind, one in by_kind.items():
            _check(kind, one, policies.of(kind).executor)
        in_process = [kind for kind in by_kind if policies.of(kind).executor == "process"]
        if in_process:
            refuse_in_a_starting_process()
        self.middleware = checked(middleware, bool(in_process))
        self._max_result = max_result
        there = {kind: around(self.middleware, by_kind[kind]) for kind in in_process}
        self._processes = Processes(there, max_result)
        self._loops = EventLoops()
        self._runners = {k: self._runner(k, one, k in in_process) for k, one in by_kind.items()}
        self._for_all = self._runners.get(FOR_ALL)
        holding = {k for k, one in self._runners.items() if not isinstance(one, CoroutineRunner)}
        in_threads = sum(policies.caps.get(kind, math.inf) for kind in holding)
        self._most_threads = in_threads + (len(holding) < len(self._runners))
        self._stoppable = {kind for kind, runner in self._runners.items() if runner.can_stop}

    def _runner(self, kind: str, handler: Handler, in_process: bool) -> Runner:
        if in_process:
            return ProcessRunner(kind, handler, self._max_result, self._processes)
        wait_for = self._loops.wait_for
        if _is_coroutine_function(handler):
            self._loops.start()
            # What middleware does around it holds the worker's thread, and nothing can stop that.
            if not self.middleware:
                return CoroutineRunner(handler, self._max_result, self._loops)
        return Runner(around(self.middleware, handler, wait_for), self._max_result, wait_for)

    def threads(self, workers: int) -> int:
        """How many threads so many workers can hold, and one more for all coroutines."""
        return int(min(workers, self._most_threads))

    def is_current_thread(self) -> bool:
        """Whether the caller is a coroutine of these."""
        return self._loops.is_current_thread()

    @property
    def handles_all(self) -> bool:
        """Whether one handler runs all kinds."""
        return self._for_all is not None

    def handles(self, kind: str) -> bool:
        return self._for_all is not None or kind in self._runners

    def share_batches(self, kind: str) -> bool:
        """Whether jobs of this kind may be several in a batch.

        A batch is told to stop as a whole, so where that ends a handler it holds one job.
        """
        return not self._stoppable or self._stoppable.isdisjoint((kind, FOR_ALL))

    def of(self, kind: str) -> Runner:
        return self._for_all or self._runners[kind]

    def kinds(self) -> list[str]:
        return sorted(kind for kind in self._runners if kind != FOR_ALL)

    def leave(self) -> None:
        """The calling worker leaves."""
        for runner in self._runners.values():
            runner.leave()

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._loops.close()


def _check(kind: object, handler: object, executor: str) -> None:
    name = "handler" if kind is FOR_ALL else f"The handler of kind {kind!r}"
    if not isinstance(kind, str):
        raise TypeError(f"The kinds of handlers are non-empty text, not {kind!r}.")
    if not callable(handler):
        choice = ", or a mapping of kinds to such" if kind is FOR_ALL else ", or a Kind"
        raise TypeError(f"{name} must be callable as handler(job){choice}, not {handler!r}.")
    if executor == "process":
        if _is_coroutine_function(handler):
            raise ValueError(f"{name} is a coroutine function: use executor='thread' for it.")
        try:
            pickle.dumps(handler)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to another process ({error}): define it with def at the "
                "top level of a module, or use executor='thread'."
            ) from None


def _is_coroutine_function(handler: object) -> bool:
    # The second for an object with an async __call__.
    return any(map(inspect.iscoroutinefunction, (handler, type(handler).__call__)))
