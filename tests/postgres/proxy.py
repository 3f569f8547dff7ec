"""A proxy in front of PostgreSQL that cuts connections at the worst moment, or goes silent.

The moments: ``before`` a transaction has arrived, ``in`` the middle of what is sent, ``half-way``
between its two round trips, ``after`` the commit and before its answer; or all goes ``silent``.

But: it knows the protocol only as far as the tags of BEGIN and COMMIT in what the server answers.
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
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

Moment = Literal["before", "in", "half-way", "after", "silent"]
MOMENTS: tuple[Moment, ...] = ("before", "in", "half-way", "after", "silent")
TRIP = 200  # bytes: what is longer is no single question


class Proxy:
    """dsn: of the server. ``cuts`` is what happens to the next transactions, one after the other.

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
        self._random = random.Random(seed)
        self._mutex = threading.Lock()  # guards the three above
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen(50)
        os.chmod(f"{self.folder}/.s.PGSQL.5432", 0o777)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self.folder, ignore_errors=True)

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
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                if ready is server:
                    has_committed = b"COMMIT\0" in data
                    if has_committed and self._next(("after",)):
                        return
                    client.sendall(data)
                    if b"BEGIN\0" in data and not has_committed and self._next(("half-way",)):
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
                server.sendall(data)
