"""What a handler may return in place of its work: a coroutine, a future, a generator, a function.

Only the result of the call tells. A lambda, a decorator, a partial or an object with a
``__call__`` is no coroutine function to look at, and returns a coroutine all the same.
What can be awaited is awaited. Of the rest nobody knows what was meant, so it is refused:
a job must not count as completed though nothing ran.

But: only what is returned is looked at, and the members of a list, tuple, set or dict.
"""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator, Iterable

from final.errors import PermanentFailure
from final.payload import IMMUTABLE

# Waits for an awaitable, in the worker's thread, and returns its value.
WaitFor = Callable[[object], object]

# The types of everyday results, which need no look.
PLAIN = IMMUTABLE | {list, dict}
# What runs only when somebody asks for its items, or calls it.
_LAZY = (
    Generator,
    AsyncGenerator,
    map,
    filter,
    types.FunctionType,
    types.MethodType,
    functools.partial,
)


def finish(value: object, wait_for: WaitFor | None) -> object:
    """The value that comes of ``value`` in the end. wait_for: None where nothing is awaited."""
    while is_awaitable(value):  # it may return another one: `async def f(job): return g(job)`
        if wait_for is None:
            raise _refusal(value, "use executor='thread', which awaits it")
        value = wait_for(value)
    if isinstance(value, _LAZY):
        raise _refusal(value, "run it inside the handler, and return its value")
    return value


def refuse_members(value: object) -> None:
    """Raise PermanentFailure if there is work to be done inside a container."""
    members: Iterable[object] = ()
    if isinstance(value, dict):
        members = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        members = value
    undone = [one for one in members if is_awaitable(one) or isinstance(one, _LAZY)]
    refusals = [_refusal(one, "await or run each inside the handler") for one in undone]
    if refusals:
        raise refusals[0]


def is_awaitable(value: object) -> bool:
    return inspect.isawaitable(value) or isinstance(value, concurrent.futures.Future)


def discard(value: object) -> None:
    """Nobody waits for it any more: whoever works on a future need not begin."""
    if isinstance(value, concurrent.futures.Future):
        value.cancel()
    if inspect.iscoroutine(value):
        value.close()  # or Python would warn that it was never awaited


def _refusal(value: object, way_out: str) -> PermanentFailure:
    discard(value)
    return PermanentFailure(
        f"The handler returned work that is not done ({type(value).__name__}): {way_out}."
    )
