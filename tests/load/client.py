"""A client that creates jobs as fast as it gets answers, or at a given pace, and keeps the books.

Our own, because wrk and oha throw away what they get: here every id that was answered with 201
is kept, and looked for in the file at the end. Plain sockets on one event loop; how much of a
core that takes is part of the result, because a client that takes all of one measures itself.

But: it shares the machine with the service. From another one, over a network, there would be more
for the service and a longer way.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field


@dataclass
class Answers:
    """What came back. created and refused: the ids, and the seconds that each answer took."""

    created: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # from the first request to the last answer
    client_seconds: float = 0.0  # of a processor, which that took here
    filled: asyncio.Event = field(default_factory=asyncio.Event)  # at the first 503


@dataclass(frozen=True)
class Load:
    """name: what the ids begin with. seconds: how long. work: seconds that each job takes.

    rate: requests per second, of all connections; None for as many as are answered.
    """

    name: str
    connections: int
    seconds: float
    work: float = 0.0
    rate: float | None = None


async def create_jobs(port: int, load: Load, answers: Answers) -> None:
    """Apply ``load`` and fill ``answers``; raises for any answer but 201 and 503."""
    connections = [await _connect(port) for _ in range(load.connections)]
    began, computed = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for number, connection in enumerate(connections):
            group.create_task(_use(connection, number, load, began, answers))
    answers.seconds = time.perf_counter() - began
    answers.client_seconds = time.process_time() - computed


async def _use(
    connection: Connection, number: int, load: Load, began: float, answers: Answers
) -> None:
    """Send one request after the other."""
    for count in itertools.count():
        due = time.perf_counter()
        if load.rate is not None:
            # The connections take turns. A late request counts from when it was due: a client
            # that waits for a slow service must not make it look fast.
            due = began + (number + count * load.connections) / load.rate
        if due - began >= load.seconds:
            break
        await asyncio.sleep(due - time.perf_counter())
        job_id = f"{load.name}-{number}-{count}"
        status = await connection.create(job_id, load.work)
        taken = time.perf_counter() - due
        if status == 201:
            answers.created[job_id] = taken
        else:
            answers.refused[job_id] = taken
            answers.filled.set()
    connection.close()


class Connection:
    """A connection that is kept alive, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def create(self, job_id: str, work: float) -> int:
        """Create a job; 201 or 503."""
        payload = {"to": "ada@example.com", "template": "welcome", "seconds": work}
        body = json.dumps({"type": "work", "id": job_id, "payload": payload}).encode()
        self._writer.write(HEAD % len(body) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        answer = await self._reader.readexactly(length)
        status = int(head[9:12])
        if status not in (201, 503):
            raise RuntimeError(f"{job_id} was answered with {status}: {answer.decode()}")
        return status

    def close(self) -> None:
        self._writer.close()


HEAD = (
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


async def _connect(port: int) -> Connection:
    return Connection(*await asyncio.open_connection("127.0.0.1", port))
