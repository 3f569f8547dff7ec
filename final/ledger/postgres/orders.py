"""Orders: cancel, retry, purge, pause, scale. Asked, and then answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from final.beyond.filters import Filter
from final.beyond.meta import pairs
from final.errors import UnknownJob
from final.job import Status, Task
from final.ledger.base import (
    Cancel,
    CancelAll,
    ChangePeriodic,
    Move,
    Order,
    Purge,
    Retry,
    RetryAll,
    SetFairness,
    SetPaused,
    SetWorkers,
)
from final.ledger.features.controls import changed
from final.ledger.features.keys import KEY_IS_TAKEN
from final.ledger.postgres import periodic
from final.ledger.postgres import statements as sql
from final.ledger.postgres.lease import Lease
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.rows import LANES, storable
from final.ledger.postgres.session import Session
from final.ledger.postgres.window import Window


class PostgresOrders:
    """Of one offer."""

    def __init__(
        self, session: Session, memory: Memory, window: Window, notices: Notices, lease: Lease
    ) -> None:
        self._session = session
        self._lease = lease
        self._memory = memory
        self._window = window
        self._notices = notices

    def ask(self, orders: Sequence[Order], busy: list[str]) -> None:
        """busy: keys whose dead letters stay what they are."""
        self._busy = busy
        if letters := [order.job_id for order in orders if isinstance(order, Retry)]:
            # Who has one for a moment is waited for; all in one order, or two wait for each other.
            self._session.ask(sql.LOCK_LETTERS, (letters,))
        self._asked = [(order, self._ask(order)) for order in orders]

    def answers(self, moves: list[Move]) -> list[object]:
        return [self._answer(order, cursors, moves) for order, cursors in self._asked]

    def _ask(self, order: Order) -> Any:
        ask = self._session.ask
        match order:
            case Cancel(job_id):
                return ask(sql.CANCEL, (job_id,)), ask(sql.EXISTS, (job_id,))
            case Retry(job_id):
                about = ask(sql.KIND_OF_LETTER, (job_id,))
                return ask(sql.RETRY, self._starting(order)), about
            case CancelAll():
                return ask(sql.CANCEL_ALL, meant(order))
            case RetryAll():
                return ask(sql.RETRY, self._starting(order))
            case Purge():
                ask(sql.LOCK_ENDED, meant(order))
                return ask(sql.PURGE)
            case SetFairness():
                return ()
            case SetPaused(pause, paused):
                return (ask(sql.PAUSE if paused else sql.RESUME, pause.row),)
            case SetWorkers(number):
                return (ask(sql.SET_WORKERS, (self._lease.workers_of(number), self._lease.owner)),)
            case ChangePeriodic():
                return periodic.ask(ask, order)

    def _starting(self, order: Retry | RetryAll) -> dict[str, Any]:
        return meant(order) | {"kinds": self._window.kinds, "busy": self._busy}

    def _answer(self, order: Order, cursors: Any, moves: list[Move]) -> object:
        match order:
            case SetFairness(fairness):
                self._window.fairness = fairness
                return None
            case SetPaused():
                self._memory.hear(changed(self._memory.paused, order))
                self._notices.work = True  # others read it in their next turn
                return None
            case SetWorkers(number):
                self._lease.workers = self._lease.workers_of(number)
                return self._lease.workers
            case ChangePeriodic(_, entries):
                self._memory.tick_at = -math.inf
                for entry in entries:
                    self._memory.unreadable.pop(entry.name, None)
                return all(cursor.fetchone() is not None for cursor in cursors)
            case Cancel(job_id):
                moved, exists = cursors
                tasks = self._cancelled(moved, moves)
                return bool(tasks) or (False if exists.rowcount else UnknownJob(job_id))
            case Retry(job_id):
                moved, about = cursors
                if self._memory.moved(moved, moves):
                    return 1
                kind = about.fetchone()
                if kind is not None and not self._window.runs(kind[0]):
                    return ValueError(f"No handler for kind {kind[0]!r} of job {job_id}.")
                if kind is not None and kind[1] is not None:
                    return ValueError(KEY_IS_TAKEN.format(job_id))
                return ValueError(f"Job {job_id} is not a dead letter (any more).")
            case CancelAll():
                return len(self._cancelled(cursors, moves))
            case RetryAll() | Purge():
                return len(self._memory.moved(cursors, moves))

    def _cancelled(self, cursor: Any, moves: list[Move]) -> list[Task]:
        """Also those that run, and are told."""
        tasks = self._memory.moved(cursor, moves)
        for task in tasks:
            if task.status is Status.PROCESSING:
                self._notices.stop |= not self._memory.stops_here(task.seq)
        return tasks


def meant(order: Retry | CancelAll | RetryAll | Purge) -> dict[str, Any]:
    """The values that say for which jobs it is."""
    job_id, numbers, wanted = None, list[int](), Filter()
    if isinstance(order, Retry):
        job_id = order.job_id
    else:
        numbers, wanted = list(order.numbers), order.wanted
    return wanted._asdict() | {
        "job_id": job_id,
        "numbers": numbers,
        "statuses": [status.value for status in wanted.statuses] or None,
        "kind": storable(wanted.kind),
        "group": storable(wanted.group),
        "lane": None if wanted.priority is None else LANES.index(wanted.priority),
        "meta": pairs(wanted.meta),
    }
