"""Live events: every change of a job's status, as server-sent events.

The queue calls ``_publish`` in a thread of its own. From there one wake-up, however many
changes it stands for, carries them into the event loop. Each is written once, for all clients, and
goes into the backlog of each, which is sent as one piece.

A sending costs much more than what is in it. So after one, the next waits for the beat, and fifty
clients cost a busy queue little more than one does.

But: a backlog is bounded. A client that reads too slowly is told how many it missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse

from final import JobQueue, Transition
from final.service.models import TransitionView
from final.service.problems import Problem
from final.service.routes import StrictRoute

BACKLOG = 1_000  # transitions that wait for one client
CLIENTS = 50
BEAT = 0.1  # seconds from one delivery to the next
MANY = BACKLOG // 4  # transitions that do not wait for it
# Seconds between two signs of life, without which proxies take a quiet stream for a dead one.
PULSE = 15.0


class Client:
    """What waits for one listener: events as they are sent."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._missed = 0
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, events: Sequence[bytes]) -> int:
        """Take what there is room for; returns how many are missed."""
        room = BACKLOG - len(self._waiting)
        self._waiting.extend(events[:room])
        missed = len(events[room:])
        self._missed += missed
        self._news.set()
        return missed

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def stream(self) -> AsyncIterator[bytes]:
        while not self._closed or self._waiting or self._missed:
            try:
                async with asyncio.timeout(PULSE):
                    await self._news.wait()
            except TimeoutError:
                yield b": ping\n\n"
                continue
            self._news.clear()
            if self._waiting:
                waiting, self._waiting = self._waiting, deque()
                yield b"".join(waiting)
            if self._missed:
                missed, self._missed = self._missed, 0
                yield _event("missed", f'{{"count":{missed}}}')


class Broadcast:
    """Listens to the queue while there are clients. For the event loop's thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._clients: set[Client] = set()
        self._unsubscribe: Callable[[], None] | None = None
        self._news: deque[Transition] = deque()  # on its way into the loop
        self._beat = 0.0  # the loop's time from which on a delivery is due again
        self.missed = 0  # by all clients together
        self._closed = False

    def join(self) -> Client:
        if self._closed:
            raise Problem("stopping", "The service is stopping: no more events.")
        if len(self._clients) >= CLIENTS:
            raise Problem("busy", f"{CLIENTS} clients listen already.")
        if self._unsubscribe is None:
            loop = asyncio.get_running_loop()
            self._unsubscribe = self._queue.subscribe(lambda news: self._publish(loop, news))
        client = Client()
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        self._clients.discard(client)
        if not self._clients and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def close(self) -> None:
        """End all streams, with what is on its way; their clients come back to the next process."""
        self._closed = True
        self._deliver(asyncio.get_running_loop())
        for client in self._clients:
            client.close()

    def _publish(self, loop: asyncio.AbstractEventLoop, transition: Transition) -> None:
        """In the queue's thread. Only the first, and one that makes it many, wake the loop."""
        self._news.append(transition)
        if len(self._news) in (1, MANY):
            loop.call_soon_threadsafe(self._schedule, loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._news) >= MANY or self._beat <= loop.time():
            self._deliver(loop)
        else:
            loop.call_at(self._beat, self._deliver, loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat = loop.time() + BEAT
        transitions = []
        while self._news:  # until it is empty: only then the next one wakes the loop again
            transitions.append(self._news.popleft())
        events = [
            _event("transition", TransitionView.of(each).model_dump_json()) for each in transitions
        ]
        for client in self._clients:
            self.missed += client.offer(events)


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


def event_routes(broadcast: Broadcast) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["watching"])

    async def listening() -> AsyncIterator[Client]:
        """Before the answer begins, so that a refusal is still a problem with its status."""
        client = broadcast.join()
        try:
            yield client
        finally:
            broadcast.leave(client)

    @router.get("/events", response_class=EventStream)
    async def events(client: Client = Depends(listening)) -> Response:
        """Every change of a job's status from now on: `transition`, and `missed`."""
        return EventStream(client.stream())

    return router


class EventStream(StreamingResponse):
    media_type = "text/event-stream"
