"""Handlers by kind of job: what was handed to JobQueue, checked, each with its runner."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from typing import Literal

from final.workers.attempts import Handler, Runner
from final.workers.child import refuse_in_a_starting_process
from final.workers.coroutines import CoroutineRunner, EventLoops
from final.workers.processes import Processes, ProcessRunner

# Where one handler runs all kinds. No job is of this kind: that must not be empty.
FOR_ALL = ""


class Handlers:
    """The runners by kind of job: one handler for all kinds, or one for each.

    Raises TypeError or ValueError for what cannot be called, or cannot be sent to a process.
    """

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler],
        executor: Literal["thread", "process"],
        max_result: int,
    ) -> None:
        by_kind = handler if isinstance(handler, Mapping) else {FOR_ALL: handler}
        if isinstance(handler, Mapping) and FOR_ALL in handler:
            raise TypeError("The kinds of handlers are non-empty text, not ''.")
        if not by_kind:
            raise ValueError("handler is an empty mapping: give at least one kind a handler.")
        for kind, one in by_kind.items():
            _check(kind, one, executor)
        self._runners: dict[str, Runner] = {}
        self._loops = EventLoops()
        if executor == "process":
            refuse_in_a_starting_process()
        processes = Processes(by_kind, max_result)
        for kind, one in by_kind.items():
            if executor == "process":
                self._runners[kind] = ProcessRunner(kind, one, max_result, processes)
            elif _is_coroutine_function(one):
                self._loops.start()
                self._runners[kind] = CoroutineRunner(one, max_result, self._loops.wait_for)
            else:
                self._runners[kind] = Runner(one, max_result, self._loops.wait_for)
        self._for_all = self._runners.get(FOR_ALL)
        self._stoppable = {kind for kind, runner in self._runners.items() if runner.can_stop}

    def is_current_thread(self) -> bool:
        """Whether the caller is a coroutine of these."""
        return self._loops.is_current_thread()

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
        choice = ", or a mapping of kinds to such" if kind is FOR_ALL else ""
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
