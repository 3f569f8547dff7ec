"""A service to talk to over real sockets, in a thread of the test's own process.

Signals, the environment and exit codes need a process of their own: see ``Program`` in
``tests/processes.py``.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from final import Handler, Job, JobQueue
from final.service.app import create_app
from final.service.connections import CONNECTIONS, BoundedProtocol, Door
from final.service.context import Service
from final.service.events import Broadcast
from final.service.server import HttpServer, is_limited, listen
from tests.final.helpers import eventually
from tests.helpers import DEADLINE


def client(url: str) -> httpx.Client:
    """Nothing is encrypted here, and to load the world's certificates takes longer than a test."""
    return httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False, verify=False)


class Live:
    """A queue behind HTTP. ``http`` is a client for it; ``queue`` the queue itself."""

    def __init__(
        self,
        handlers: Handler | Mapping[str, Handler],
        *,
        demo: bool = False,
        token: str | None = None,
        names: Collection[str] = (),
        protocol: type[BoundedProtocol] = BoundedProtocol,
        connections: int = CONNECTIONS,
        root_path: str = "",
        workers: int = 2,
        capacity: int = 1_000,
        **options: Any,
    ) -> None:
        self.queue = JobQueue(handlers, workers=workers, capacity=capacity, **options)
        self.service = Service(self.queue, capacity, fairness=10, demo=demo)
        self.service.root_path = root_path
        self.service.limited = is_limited(handlers, options)
        self.broadcast = Broadcast(self.queue)
        self.guard = app = create_app(self.service, self.broadcast, token=token, names=names)
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self._server = HttpServer(app, Door(connections, self.service.refused), protocol)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()
        self.http = client(f"http://127.0.0.1:{self.port}")

    def close(self) -> None:
        """Close the queue; the server ends soon, and nobody waits for it here."""
        self.http.close()
        self.queue.close(drain=False, timeout=1.0)
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "The server does not end."

    def post(self, path: str, body: object) -> httpx.Response:
        return self.http.post(path, json=body)

    def create(self, **fields: Any) -> dict[str, Any]:
        """A job that is accepted, as the service answers it."""
        answer = self.post("/jobs", {"type": "work"} | fields)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def wait_for_connections(self, count: int) -> None:
        connections = self._server.server_state.connections
        eventually(lambda: len(connections) == count, f"{count} connections")

    def wait_for_requests(self, count: int) -> None:
        tasks = self._server.server_state.tasks
        eventually(lambda: len(tasks) == count, f"{count} requests")

    def wait_for_listeners(self, count: int) -> None:
        eventually(lambda: len(self.broadcast._clients) == count, f"{count} listeners")

    def end_events(self) -> None:
        """What the service does when it stops."""
        self._server.servers[0].get_loop().call_soon_threadsafe(self.broadcast.close)

    def stored(self) -> int:
        """How many jobs the queue has ever accepted."""
        return self.queue.metrics().accepted

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A bare connection, for what no decent client would send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            yield connection

    def send(self, data: bytes) -> int:
        """Send a whole request of bytes; the status of the answer."""
        with self.raw() as connection:
            connection.sendall(data)
            return status_of(connection)

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """Server-sent events, as pairs of a name and its data."""
        with self.http.stream("GET", "/events") as answer:
            assert answer.status_code == 200, answer.read()
            yield parse_events(answer.iter_lines())


def forget(live: Live, job_id: str) -> None:
    """Where the history has room for one: complete others."""
    while live.http.get(f"/jobs/{job_id}").status_code != 404:
        live.queue.wait(live.create()["id"], DEADLINE)


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes."""
    with connection.makefile("rb") as answer:
        line = answer.readline()
    assert line, "The service has hung up."
    return int(line.split()[1])


def head(method: str, path: str, **headers: str) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def work(job: Job) -> object:
    """Returns its payload; raises where that says so."""
    if job.payload == "fails":
        raise RuntimeError("it went wrong")
    return job.payload
