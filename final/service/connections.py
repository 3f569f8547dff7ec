"""Connections: how many there may be, how long a client may take, and what is no HTTP.

uvicorn counts a connection once the head of a request has come. One that says nothing takes a file
descriptor all the same, and when those are used up no handler can open a file any more. So here
a connection counts from the moment that it is made. Beyond the limit a few are let into a foyer:
they have a second to send their request, and are told to come back. The rest are closed at once.

Who sends or reads nothing cannot stay for ever: every connection is looked at from time to time,
and ended if the client has not got a step further since the last look: to the end of the head, to
the end of the body, or to the next byte of the answer. A client that waits for our answer is
never slow.

But: whoever opens connections fast enough keeps the others out, as long as that goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from final.service import problems

log = logging.getLogger("final.service")

CONNECTIONS = 1_000
FOYER = 16
# What is left for the store, the listener, threads that read a file, and what is just coming in.
RESERVED_FILES = 128
FILES_OF_A_WORKER = 8
FEWEST_CONNECTIONS = 16

LARGEST_HEAD = 64 * 1024
# Chunks cost more than their bytes. So many are always fine, and more where they are large.
MOST_CHUNKS = 1_000
SMALL_CHUNK = 512


def files_needed(workers: int, connections: int = FEWEST_CONNECTIONS) -> int:
    """How many file descriptors the process needs."""
    return RESERVED_FILES + FOYER + FILES_OF_A_WORKER * workers + connections


def file_limit() -> int | None:
    """How many file descriptors this process may have; None where nobody counts them."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Rarely:
    """A log line that could come in floods: one in ten seconds, with how many it stands for."""

    def __init__(self, text: str, seconds: float = 10.0) -> None:
        self._text = text
        self._seconds = seconds
        self._count = 0
        self._next = 0.0

    def say(self, *args: object) -> None:
        self._count += 1
        now = time.monotonic()
        if now >= self._next:
            log.warning(self._text, self._count, *args)
            self._count, self._next = 0, now + self._seconds


@dataclass
class Door:
    """What the connections of a service share.

    limit: how many there may be at a time, besides those in the foyer. refused: counts those that
    were refused, by the name of the problem. closed: the service ends, nobody comes in any more.
    """

    limit: int = CONNECTIONS
    refused: Counter[str] = field(default_factory=Counter)
    closed: bool = False
    full: Rarely = field(
        default_factory=lambda: Rarely("%d connections refused: there are %d, which is the limit.")
    )

    def refusal(self, name: str, detail: str) -> Response:
        """A problem as the last answer on a connection."""
        self.refused[name] += 1
        response = problems.answer(name, detail)
        response.headers.update(problems.HEADERS | {"Connection": "close"})
        return response


class BoundedProtocol(H11Protocol):
    """door: of the service. Seconds that a client has:

    silence: from connecting to the end of the head.
    foyer: the same where it will only be told to come back.
    patience: for every step after that, and at most twice as much.
    """

    silence = 5.0
    foyer = 1.0
    patience = 10.0

    def __init__(self, *args: Any, door: Door, **options: Any) -> None:
        super().__init__(*args, **options)
        self._door = door
        self.conn = FewChunks(h11.SERVER, LARGEST_HEAD)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_seen: object = (None, h11.IDLE, 0)  # so the first look wants more than that
        too_many = len(self.connections) - self._door.limit
        if too_many > 0:
            self.app = self._come_back
            self._door.full.say(self._door.limit)
        self._timer = self.loop.call_later(self.foyer if too_many > 0 else self.silence, self._look)
        if self._door.closed or too_many > FOYER:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unread = self.transport.get_write_buffer_size()
        seen = (self.cycle, self.conn.their_state, unread)
        waits_for_client = unread or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if waits_for_client and seen == self._last_seen:
            self.transport.abort()  # close() would wait for the reader
            return
        self._last_seen = seen
        self._timer = self.loop.call_later(self.patience, self._look)

    async def _come_back(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"There are {self._door.limit} connections, which is the limit."
        await self._door.refusal("busy", detail)(scope, receive, send)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. uvicorn would say so in plain text."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is on its way already
            return
        response = self._door.refusal("http", "Send HTTP/1.1, with at most 64 kB of headers.")
        events = (
            h11.Response(status_code=response.status_code, headers=response.raw_headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class FewChunks(h11.Connection):
    """Refuses a body in very many very small chunks: each keeps the event loop for a moment."""

    _chunks = 0
    _size = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._size = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._size += len(event.data)
            if self._chunks > MOST_CHUNKS + self._size // SMALL_CHUNK:
                raise h11.RemoteProtocolError("too many small chunks")
        return event
