"""Those who are there beside the ones that create jobs: ``python -m tests.load.company PORT``.

READERS follow ``/events`` and read all of it; IDLE have a connection and say nothing. In a process
of their own, so that what they cost is not taken for the price of creating jobs. It says when they
are there, and goes on until it is ended.

But: the service ends silent connections after some seconds; each is made again at once.
"""

from __future__ import annotations

import asyncio
import sys

READERS = 50
IDLE = 500
PART = 64 * 1024


async def keep_company(port: int) -> None:
    there = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(
                _stay(port, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", there)
            )
        for _ in range(IDLE):
            group.create_task(_stay(port, b"", there))
        for _ in range(READERS + IDLE):
            await there.acquire()
        print("All are there.", flush=True)


async def _stay(port: int, request: bytes, there: asyncio.Semaphore) -> None:
    """Connect, read whatever comes, and connect again when it is over."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            if request:
                await reader.readuntil(b"\r\n\r\n")
            there.release()
            while await reader.read(PART):
                pass
            writer.close()
        except OSError:  # the service ends a silent connection without a farewell
            pass


if __name__ == "__main__":
    asyncio.run(keep_company(int(sys.argv[1])))
