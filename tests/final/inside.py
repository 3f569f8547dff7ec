"""What nobody can see or do from outside, and a few tests must: all of it is here.

Everything else the tests do as a program would, through what ``final`` exports; so a change
inside of the queue changes this file and no test. (Tests of one part of it, as of its lanes,
make that part themselves.)
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from final import JobQueue
from final.engine.messages import GiveOrder
from final.ledger.base import Move
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from tests.helpers import DEADLINE


def cost(queue: JobQueue, kind: str = "default") -> float:
    """How many seconds a job of this kind takes, as far as ``queue`` knows."""
    return queue._dispatcher._flight.cost[kind]


def watched(queue: JobQueue) -> Mapping[str, Collection[object]]:
    """The jobs that somebody waits for, with ``wait`` or ``map``."""
    return queue._dispatcher._waits._by_id


def nobody_waits(queue: JobQueue) -> bool:
    return not (queue._dispatcher.unanswered or watched(queue) or producers_in_line(queue))


def producers_in_line(queue: JobQueue) -> int:
    """How many wait for room."""
    return len(list(queue._dispatcher._producers))


def messages(queue: JobQueue) -> int:
    """How many wait for the dispatcher's next turn."""
    return queue._dispatcher.inbox.qsize()


def long_look(queue: JobQueue) -> AbstractContextManager[object]:
    """As long as somebody looks at all jobs of a large file."""
    assert isinstance(queue._ledger, LocalLedger)
    return queue._ledger.look_ups._mutex


def is_told_of_changes(queue: JobQueue) -> bool:
    """Whether anybody has subscribed."""
    return bool(queue._events._subscribers)


def next_look_at_the_disk(queue: JobQueue) -> float:
    """When a queue that could not write will try again, as ``time.monotonic()`` tells it."""
    return queue._dispatcher._try_again_at


def dispatcher(queue: JobQueue) -> threading.Thread:
    return queue._thread


def is_on_loop(queue: JobQueue, job_id: str) -> bool:
    """Whether the coroutine of this job was handed to an event loop."""
    batches = list(queue._dispatcher._flight.batches)
    return any(each.on_loop and each.running and each.running.id == job_id for each in batches)


def workers(queue: JobQueue) -> list[threading.Thread]:
    """Without those that were abandoned."""
    return list(queue._pool._threads)


def processes(queue: JobQueue) -> Collection[object]:
    """Those for handlers that have not been seen to end: ``close`` waits for them."""
    return queue._handlers._processes._all


def ask_at_once(queue: JobQueue, orders: Sequence[GiveOrder[Any]]) -> None:
    """Let the dispatcher find all ``orders`` in one and the same turn; wait for the answers."""
    queue._dispatcher._orders += orders
    queue.metrics()
    assert all(order.wait(DEADLINE) for order in orders)


def before_each_turn(queue: JobQueue, act: Callable[[], None]) -> None:
    """Let the dispatcher call ``act`` whenever it has something to do."""
    turn = queue._dispatcher.turn

    def observed(*arguments: Any) -> None:
        act()
        turn(*arguments)

    queue._dispatcher.turn = observed  # type: ignore[assignment, method-assign]


def file(queue: JobQueue) -> SqliteFile:
    assert isinstance(queue._ledger, LocalLedger)
    return queue._ledger._file


def in_the_next_look(queue: JobQueue, act: Callable[[], object]) -> None:
    """As a signal handler or a finalizer: in the middle of a query, in the thread that asks it."""
    reader = file(queue)._reader

    def interrupt() -> int:
        reader.set_progress_handler(None, 0)
        act()
        return 0

    reader.set_progress_handler(interrupt, 1)


def before_each_commit(queue: JobQueue, act: Callable[[Sequence[Move]], None]) -> None:
    """Call ``act`` with what is to be written; what it raises is why that cannot be."""
    write = file(queue).write

    def observed(moves: Sequence[Move], wall: float) -> None:
        if moves:
            act(moves)
        write(moves, wall)

    file(queue).write = observed  # type: ignore[method-assign]


def count_exchanges(queue: JobQueue) -> Callable[[], int]:
    """Returns what says how many there have been since."""
    exchange, count = queue._ledger.exchange, itertools.count()

    def observed(*arguments: Any) -> Any:
        next(count)
        return exchange(*arguments)

    queue._ledger.exchange = observed  # type: ignore[assignment, method-assign]
    return lambda: next(count)


def called_for_a_job(queue: JobQueue, kind: str = "default") -> Any:
    """What a worker calls: the handler, or what stands around it."""
    return queue._handlers.of(kind)._handler


def pragma(queue: JobQueue, statement: str) -> Any:
    """Let SQLite's connection that writes obey ``PRAGMA statement``; its answer."""
    answer = file(queue)._writer.execute(f"PRAGMA {statement}").fetchone()
    return answer and answer[0]
