"""Hanging up on slow clients: who sends or reads nothing cannot hold a connection for ever.

uvicorn ends connections that are idle between requests, but waits for a request that comes byte
by byte, or for a reader that never reads, as long as it takes. Here every connection is looked
at from time to time, and ended if the client has not got a step further since the last look: to
the end of the head, to the end of the body, or to the next byte of the answer.

But: a client that waits for our answer is never slow.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class ImpatientProtocol(H11Protocol):
    """patience: seconds from one look to the next; a client has at most twice that."""

    patience = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_seen: object = None
        self._look()

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
