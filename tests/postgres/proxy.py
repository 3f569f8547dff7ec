"""A proxy in front of PostgreSQL that cuts connections at the worst moment, or goes silent.

The moments: ``before`` a transaction has arrived, ``in`` the middle of what is sent, ``half-way``
between its two round trips, ``after`` the commit and before its answer; or all goes ``silent``.
``unplugged`` is half-way, and the server is not told.
Or it stops whoever sends something next between two statements (``stops``).

But: it knows the protocol only as far as the tags of BEGIN and COMMIT in what the server answers,
and where in what is sent a statement ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import socket
import tempfile
import threading
from collections import deque
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

Moment = Literal["before", "in", "half-way", "unplugged", "after", "silent"]
MOMENTS: tuple[Moment, ...] = ("before", "in", "half-way", "unplugged", "after", "silent")
TRIP = 200  # bytes: what is longer is no single question
# What a message begins with that runs a statement, or ends a trip. Its length follows.
STATEMENT, TRIP_ENDS = b"EQ", b"SQ"
LONGEST_STOP = 60.0  # seconds


class Stop:
    """For one connection: of what it sends, all after so many statements, or trips, is kept back.

    reached: so far it has come. go_on: set it to let it; after ``LONGEST_STOP`` it goes by itself.
    """

    def __init__(self, after: int, counts: bytes = STATEMENT) -> None:
        self._left = after
        self._counts = counts
        self._data = b""
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def send(self, data: bytes, server: socket.socket) -> None:
        """Whole messages; of the last one the rest may be still to come."""
        self._data += data
        while not self.go_on.is_set() and len(self._data) >= 5:
            if self._left == 0:
                self.reached.set()
                self.go_on.wait(LONGEST_STOP)
                self.go_on.set()
                break
            end = 1 + int.from_bytes(self._data[1:5], "big")
            if len(self._data) < end:
                return
            self._left -= self._data[0] in self._counts
            server.sendall(self._data[:end])
            self._data = self._data[end:]
        if self.go_on.is_set():
            server.sendall(self._data)
            self._data = b""


class Proxy:
    """dsn: of the server. ``cuts`` is what happens to the next transactions, one after the other;
    ``stops`` to whoever sends anything next.

    rate: how likely any other transaction is cut, by ``seed``.
    """

    def __init__(self, dsn: str, rate: float = 0.0, seed: int = 0) -> None:
        query = parse_qs(urlsplit(dsn).query)
        self._server = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
        self.folder = tempfile.mkdtemp(prefix="jobqueue-proxy-")
        os.chmod(self.folder, 0o755)
        self.dsn = f"postgresql://postgres@/postgres?host={self.folder}"
        self.cuts: list[Moment] = []
        self.done: list[Moment] = []
        self.rate = rate  # may be set at any time
        self.stops: list[Stop] = []
        self._random = random.Random(seed)
        self._mutex = threading.Lock()  # guards the five above
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen(50)
        os.chmod(f"{self.folder}/.s.PGSQL.5432", 0o777)
        self._open: list[socket.socket] = []
        # The server is not told for long enough; in a long run they would be more than can be.
        self._unplugged: deque[socket.socket] = deque(maxlen=50)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for one in (*self._open, *self._unplugged):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self) -> Stop | None:
        with self._mutex:
            return self.stops.pop() if self.stops else None

    def _next(self, moments: tuple[Moment, ...]) -> Moment | None:
        with self._mutex:
            if self.cuts:
                moment = self.cuts[0] if self.cuts[0] in moments else None
                if moment:
                    self.cuts.pop(0)
            else:
                hit = self._random.random() < self.rate
                moment = self._random.choice(moments) if hit else None
            if moment is not None:
                self.done.append(moment)
            return moment

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._server)
            server.sendall(client.recv(1 << 16))  # who it is; not a message like the others
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        stop: Stop | None = None
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                if ready is server:
                    has_committed = b"COMMIT\0" in data
                    if has_committed and self._next(("after",)):
                        return
                    is_half_way = b"BEGIN\0" in data and not has_committed
                    if is_half_way and self._next(("unplugged",)):
                        self._unplugged.append(server.dup())
                        return
                    client.sendall(data)
                    if is_half_way and self._next(("half-way",)):
                        return
                    continue
                cut = self._next(("before", "in", "silent")) if len(data) >= TRIP else None
                if cut == "before":
                    return
                if cut == "in":
                    server.sendall(data[: len(data) // 2])
                    return
                if cut == "silent":
                    while client.recv(1 << 16):
                        pass
                    return
                stop = self._stop() or stop
                if stop is None:
                    server.sendall(data)
                else:
                    stop.send(data, server)
