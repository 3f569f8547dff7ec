"""Run the service: open the queue, listen, and at the end let go of both in order.

SIGTERM or Ctrl-C: no more jobs are accepted (503), what is in flight is finished within the
timeout, the rest stays in the file, and the process ends with 0. A second signal ends it at
once; nothing durable is lost by that, and what ran runs again at the next start.

But: which address leads where is in app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from final import Handler, JobQueue, QueueClosed, StorageError
from final.service.app import create_app
from final.service.context import Service
from final.service.demo import demo_handlers
from final.service.events import Broadcast
from final.service.impatient import ImpatientProtocol

CONNECTIONS = 1_000
FAIRNESS = 10  # to begin with; the demo may change it
SHORTEST_TOKEN = 16


class ServiceError(Exception):
    """The service cannot start; the message says why, and what to do."""


def serve(
    handlers: str | None = None,
    *,
    db: str = "jobs.db",
    workers: int = 4,
    capacity: int = 1_000,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    names: Collection[str] = (),
    shutdown_timeout: float = 30.0,
    demo_seconds: float = 0.2,
) -> None:
    """Serve until a signal; returns when everything is closed.

    handlers: "module:name" of a mapping of types to handlers, or of one handler for all;
        None for demo handlers, whose jobs take ``demo_seconds``.
    port: by default that of the environment's PORT, or else 8080; 0 for any that is free.
    token: by default that of the environment's JOBQUEUE_TOKEN.
    names: host names by which the service may be called, besides addresses and localhost.

    Raises ServiceError, or what JobQueue raises for its options and its file.
    """
    port = _port() if port is None else port
    token = token or os.environ.get("JOBQUEUE_TOKEN") or None
    _check_exposure(host, token)
    chosen = demo_handlers(demo_seconds) if handlers is None else load_handlers(handlers)
    listener = listen(host, port)
    with listener:
        queue = JobQueue(chosen, path=db, workers=workers, capacity=capacity, fairness=FAIRNESS)
        service = Service(queue, workers, capacity, FAIRNESS, demo=handlers is None)
        try:
            asyncio.run(_run(service, listener, token, names, shutdown_timeout))
        finally:
            queue.close(drain=False, timeout=0)  # if not closed yet, something went wrong


def load_handlers(name: str) -> Handler | Mapping[str, Handler]:
    """What ``module:name`` stands for, with the current folder on the path."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ServiceError(f"--handlers is module:name, for example jobs:handlers, not {name!r}.")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ServiceError(f"--handlers {name}: {error}. Is it in this folder?") from error
    try:
        found: Any = getattr(module, attribute)
    except AttributeError:
        raise ServiceError(f"--handlers {name}: {module_name} has no {attribute}.") from None
    return found  # type: ignore[no-any-return]


def _port() -> int:
    text = os.environ.get("PORT", "8080")
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise ServiceError(f"PORT is {text!r}: give a number from 0 to 65535.")
    return int(text)


def _check_exposure(host: str, token: str | None) -> None:
    """Whoever reaches the service runs jobs: from elsewhere only with a token."""
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isprintable()):
        raise ServiceError(
            f"The token must have {SHORTEST_TOKEN} characters or more: "
            "make one with `openssl rand -hex 32`."
        )
    if token is None and not _is_loopback(host):
        raise ServiceError(
            f"{host} can be reached from other machines: give a token (--token, or "
            "JOBQUEUE_TOKEN in the environment), or stay on 127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise ServiceError(
            f"Cannot listen on {host}:{port} ({error.strerror}): choose another --port."
        ) from None
    # For the connections too, which inherit it: a small answer waits for nothing. (asyncio sets
    # this itself, but not on sockets that it does not know to be TCP, like these.)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return listener


async def _run(
    service: Service,
    listener: socket.socket,
    token: str | None,
    names: Collection[str],
    shutdown_timeout: float,
) -> None:
    broadcast = Broadcast(service.queue)
    server = HttpServer(create_app(service, broadcast, token=token, names=names))
    stop = asyncio.Event()
    with _signals(stop):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        host, port = listener.getsockname()[:2]
        print(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        await _first(stop.wait(), serving)
        service.stopping = True
        with contextlib.suppress(QueueClosed):  # nothing is in flight in a queue that has failed
            running = (await asyncio.to_thread(service.queue.metrics)).processing
            print(f"Stopping: {running} jobs in flight ...", flush=True)
        complete = await asyncio.to_thread(service.queue.close, False, shutdown_timeout)
        broadcast.close()
        server.should_exit = True
        await serving
    print("Stopped." if complete else "Stopped; what still ran starts again next time.")


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal sets ``stop``; the second does what signals do: ends the process."""
    loop = asyncio.get_running_loop()

    def on_signal(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    yield


class HttpServer(uvicorn.Server):
    """uvicorn, with bounds. It leaves signals to us, because the queue has to be closed first."""

    def __init__(self, app: ASGIApp, protocol: type[ImpatientProtocol] = ImpatientProtocol) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """``python -m final.service``: the demo, for want of a command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        serve()
    except (ServiceError, StorageError) as error:
        sys.exit(str(error))
