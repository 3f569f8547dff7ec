"""What only the queue on PostgreSQL has. Without a server these tests are left out, in one line."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from final import JobQueue
from tests import postgres_server
from tests.final.helpers import AT_ONCE

OpenQueue = Callable[..., JobQueue]


@pytest.fixture(autouse=True)
def _server() -> None:
    if not postgres_server.is_there():
        pytest.skip(postgres_server.MISSING)


@pytest.fixture
def address() -> str:
    """A queue of its own, with a short lease."""
    dsn = postgres_server.dsn()
    return f"{dsn}{'&' if '?' in dsn else '?'}lease=1&queue=t{uuid.uuid4().hex[:20]}"


@pytest.fixture
def open_queue(address: str) -> Iterator[OpenQueue]:
    """Opens queues on one address, each as a process of its own would; closed after the test."""
    with ExitStack() as stack:

        def open_queue(handler: Any = lambda job: job.payload, **options: Any) -> JobQueue:
            options.setdefault("path", address)
            options.setdefault("backoff", AT_ONCE)
            queue = JobQueue(handler, **options)
            stack.callback(queue.close, drain=False, timeout=0)
            return queue

        yield open_queue
