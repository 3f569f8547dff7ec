"""Live events: every change of a job's status, as server-sent events.

The queue calls ``_publish`` in a thread of its own. From there one wake-up, however many
changes it stands for, carries them into the event loop and to each client's own backlog.

But: a backlog is bounded. A client that reads too slowly is told how many it missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from final import JobQueue, Transition
from final.service.models import TransitionView
from final.service.problems import Problem

BACKLOG = 1_000  # transitions that wait for one client
CLIENTS = 50


class Client:
    """What waits for one listener."""

    def __init__(self) -> None:
        self._waiting: deque[Transition] = deque()
        self._missed = 0
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, transitions: list[Transition]) -> int:
        """Take what there is room for; returns how many are missed."""
        room = BACKLOG - len(self._waiting)
        self._waiting.extend(transitions[:room])
        missed = len(transitions[room:])
        self._missed += missed
        self._news.set()
        return missed

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                transition = TransitionView.of(self._waiting.popleft())
                yield ServerSentEvent(event="transition", data=transition)
            if self._missed:
                count, self._missed = self._missed, 0
                yield ServerSentEvent(event="missed", data={"count": count})
            if self._closed:
                return


class Broadcast:
    """Listens to the queue while there are clients. For the event loop's thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._clients: set[Client] = set()
        self._unsubscribe: Callable[[], None] | None = None
        self._news: deque[Transition] = deque()  # on its way into the loop
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
        """End all streams; their clients come back to the next process."""
        self._closed = True
        for client in self._clients:
            client.close()

    def _publish(self, loop: asyncio.AbstractEventLoop, transition: Transition) -> None:
        """In the queue's thread. Only the first of many wakes the loop."""
        self._news.append(transition)
        if len(self._news) == 1:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        transitions = []
        while self._news:  # until it is empty: only then the next one wakes the loop again
            transitions.append(self._news.popleft())
        for client in self._clients:
            self.missed += client.offer(transitions)


def event_routes(broadcast: Broadcast) -> APIRouter:
    router = APIRouter(tags=["watching"])

    async def listening() -> AsyncIterator[Client]:
        """Before the answer begins, so that a refusal is still a problem with its status."""
        client = broadcast.join()
        try:
            yield client
        finally:
            broadcast.leave(client)

    @router.get("/events", response_class=EventSourceResponse)
    async def events(client: Client = Depends(listening)) -> AsyncIterator[ServerSentEvent]:
        """Every change of a job's status from now on: `transition`, and `missed`."""
        async for event in client.events():
            yield event

    return router
