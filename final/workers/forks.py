"""A fork that comes back from a handler or a subscriber is ended, as Python ends a program.

It has this one thread, and nothing else of the queue: it would wait for its next job for ever, and
the handler that waits for it, too. (One that ends itself, or becomes another program, as those of
``subprocess`` do, never comes back.)
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

# How many forks lead to this process: one more in a fork than in what it is one of. It is no
# function, and ``attempt`` looks at it without ``ended``, since quick jobs would pay for those.
depth = 0


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Whoever comes back from this block as a fork is ended. It takes a microsecond."""
    before = depth
    try:
        yield
    except BaseException as error:
        if depth != before:
            end(error)
        raise
    if depth != before:
        end()


def end(error: BaseException | None = None) -> NoReturn:
    """This is a fork, and comes back from code of others. error: what that has raised."""
    with contextlib.suppress(BaseException):  # whatever it raises when it is looked at
        code = _tell(error)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as of a daemon
                stream.flush()
        os._exit(code)
    os._exit(1)


def _tell(error: BaseException | None) -> int:
    """As Python does at the end of a program; returns what that ends with."""
    match error:
        case None | SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case SystemExit():
            print(error.code, file=sys.stderr)
        case _:
            traceback.print_exception(error)
    return 1


def _count() -> None:
    global depth
    depth += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
