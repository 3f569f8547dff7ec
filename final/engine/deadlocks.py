"""Handlers that wait for what only another handler could do: one of them is turned away.

A handler may wait, for a job or for room, and holds its worker meanwhile. When all of them do, or
all that may run, nobody is left to bring about what they wait for, and nothing would ever move. So
the one that came last gets an error, and its worker goes on.

But: only what is certain. What other processes may run, what may be resumed and what a limit lets
start later is waited for. A handler that waits for itself is refused when it asks (``waits.py``).
"""

from __future__ import annotations

import math

from final.engine.flight import Flight
from final.engine.messages import Enqueue, closed
from final.engine.producers import Producers
from final.engine.waits import Waits
from final.errors import QueueFull
from final.ledger.base import Given, Ledger
from final.workers.batch import Batch


class Deadlocks:
    """Among the handlers in ``flight``; those who wait for room are ``producers``."""

    def __init__(self, ledger: Ledger, flight: Flight, producers: Producers, waits: Waits) -> None:
        self._ledger = ledger
        self._flight = flight
        self._producers = producers
        self._waits = waits
        self._inside: list[Enqueue] = []  # those of handlers that wait for room, at this moment

    def refuse(self, given: Given, idle: int, claiming: bool, closing: bool) -> None:
        """If every handler waits for what only another one could do, turn one away.

        idle: how many workers may get jobs. claiming: whether any may start still.
        """
        if not self._flight.batches:
            return  # nobody waits in a handler
        self._inside = self._producers.inside(given.room)
        if closing and given.stalled:
            self._refuse_what_is_paused()
        elif given.helped:
            pass  # other processes run what it waits for
        elif idle:
            self._refuse_beside_idle_workers(given)
        elif self._all_wait():
            self._refuse_one_of_all(claiming)

    def _all_wait(self) -> bool:
        return (self._waits.senders() | self._wait_for_room()).issuperset(self._flight.batches)

    def _wait_for_room(self) -> set[Batch | None]:
        return {request.sender for request in self._inside}

    def _refuse_one_of_all(self, claiming: bool) -> None:
        workers = self._flight.workers
        error = RuntimeError(
            f"All {workers} workers wait for room or for other jobs, and none is left to run "
            "these: use more workers, or do not wait inside handlers."
        )
        if not self._waits.refuse_last(error if claiming else closed()):
            self._refuse_room(
                f"All {workers} workers wait to enqueue into full lanes, so no room would ever "
                "come: raise capacity, or enqueue less inside handlers."
            )

    def _refuse_what_is_paused(self) -> None:
        """A queue that closes waits for nobody to resume it; nor do its handlers."""
        if self._all_wait() and not self._waits.refuse_last(closed()):
            request = self._last_for_room()
            request.refuse(closed(request.accepted()))

    def _refuse_beside_idle_workers(self, given: Given) -> None:
        """A worker is free, and may take nothing of what waits.

        What is paused may be resumed: that is waited for.
        """
        caps, group_limit = self._ledger.caps, self._ledger.group_limit
        if not caps and group_limit is None:
            return
        self._waits.refuse_hopeless(caps, group_limit)
        may_start = given.ready or given.next_start < math.inf or given.paused
        if not may_start and self._wait_for_room().issuperset(self._flight.batches):
            self._refuse_room(
                "All handlers that run wait to enqueue into full lanes, and what waits there is of "
                "kinds or groups of which no more may run, so no room would ever come: raise "
                "capacity, Kind.workers or group_limit, or enqueue less inside handlers."
            )

    def _refuse_room(self, message: str) -> None:
        request = self._last_for_room()
        request.refuse(QueueFull(message, request.accepted()))

    def _last_for_room(self) -> Enqueue:
        """Of the handlers that wait for room the one that came last; it waits no more."""
        # (One that was given up may still wait: that is none of those in flight.)
        request = [r for r in self._inside if r.sender in self._flight.batches][-1]
        self._producers.leave(request)
        return request
