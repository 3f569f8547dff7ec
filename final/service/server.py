"""Run the service: open the queue, listen, and at the end let go of both in order.

SIGTERM, SIGHUP or Ctrl-C: no more jobs are accepted (503), what is in flight is finished within the
timeout, the rest stays in the file, and the process ends with 0. A second signal ends it at
once; nothing durable is lost by that, and what ran runs again at the next start.

Which address leads where is in app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import importlib
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from final import Handler, JobQueue, Kind, QueueClosed
from final.service.app import create_app
from final.service.connections import (
    CONNECTIONS,
    FEWEST_CONNECTIONS,
    BoundedProtocol,
    Door,
    Rarely,
    file_limit,
    files_needed,
)
from final.service.context import Service
from final.service.demo import demo_handlers
from final.service.events import Broadcast
from final.service.figures import Figures
from final.service.guard import NAME
from final.service.problems import Problem

FAIRNESS = 10  # to begin with; the demo may change it
SHORTEST_TOKEN = 16
ROOT_PATH = re.compile(r"([\w.~-]+(/[\w.~-]+)*)?", re.ASCII)
BACKLOG = 2_048  # connections that the system keeps until they are accepted
# New objects after which Python looks for cycles among them. By default it looks so often that
# a large payload keeps it, and all threads with it, several times as long.
GARBAGE = 10_000
ACCEPTED_AT_ONCE = 16  # so that many that come together are counted before the next are accepted


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
    root_path: str = "",
    demo_seconds: float = 0.2,
    **options: Any,
) -> None:
    """Serve until a signal; returns when everything is closed.

    handlers: "module:name" of a mapping of types to handlers or ``Kind``, or one handler for all;
        None for demo handlers, whose jobs take ``demo_seconds``.
    port: by default that of the environment's PORT, or else 8080; 0 for any that is free.
    token: by default that of the environment's JOBQUEUE_TOKEN.
    names: host names by which the service may be called, besides addresses and localhost.
    root_path: under which a proxy offers the service, for example "/queue".
    options: as JobQueue has them; fairness may be changed by the demo.

    Raises ServiceError, or what JobQueue raises for its options and its file.
    """
    port = _port() if port is None else port
    token = token or os.environ.get("JOBQUEUE_TOKEN") or None
    _check_exposure(host, token)
    _check_names(names)
    root_path = _checked_path(root_path)
    limit = _connection_limit(workers)
    chosen = demo_handlers(demo_seconds) if handlers is None else load_handlers(handlers)
    gc.set_threshold(GARBAGE)
    options = {"fairness": FAIRNESS} | options
    with listen(host, port) as listener:
        try:
            queue = JobQueue(chosen, path=db, workers=workers, capacity=capacity, **options)
        except RuntimeError as error:  # no more threads
            raise ServiceError(str(error)) from error
        demo = handlers is None
        limited = is_limited(chosen, options)
        service = Service(queue, capacity, options["fairness"], demo, limited, root_path)
        door = Door(limit, service.refused)
        try:
            asyncio.run(_run(service, door, listener, token, names))
        finally:
            queue.close(drain=False, timeout=0)  # if not closed yet, something went wrong


def load_handlers(name: str) -> Handler | Mapping[str, Handler | Kind]:
    """What ``module:name`` stands for, with the current folder on the path."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ServiceError(f"--handlers is module:name, for example jobs:handlers, not {name!r}.")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise ServiceError(f"--handlers {name}: {error}. Is it in this folder?") from error
    except AttributeError as error:
        if error.name != attribute:
            raise ServiceError(_cannot_import(name, error)) from error
        raise ServiceError(f"--handlers {name}: {module_name} has no {attribute}.") from None
    except (Exception, SystemExit) as error:  # code of others, which may raise anything
        raise ServiceError(_cannot_import(name, error)) from error
    return found  # type: ignore[no-any-return]


def is_limited(handlers: object, options: Mapping[str, Any]) -> bool:
    """Whether a job may have to wait for others of its type or group, and not of its lane."""
    kinds = handlers.values() if isinstance(handlers, Mapping) else ()
    own = any(isinstance(kind, Kind) and (kind.rate_limit or kind.workers) for kind in kinds)
    by_type = isinstance(options.get("rate_limit"), Mapping)
    return own or by_type or options.get("group_limit") is not None


def _cannot_import(name: str, error: BaseException) -> str:
    place = ""
    if not isinstance(error, SyntaxError):  # which names its own
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({last.filename}, line {last.lineno})"
    return f"--handlers {name} cannot be imported: {type(error).__name__}: {error}{place}."


def _port() -> int:
    text = os.environ.get("PORT", "8080")
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise ServiceError(f"PORT is {text!r}: give a number from 0 to 65535.")
    return int(text)


def _checked_path(path: str) -> str:
    """As "/queue", whichever slashes it came with."""
    path = path.strip("/")
    if not ROOT_PATH.fullmatch(path):
        raise ServiceError(f"--root-path is a path like /queue, not {path!r}.")
    return f"/{path}" if path else ""


def _check_names(names: Collection[str]) -> None:
    """Each is compared with what a client calls us, without its port."""
    for name in names:
        if not NAME.fullmatch(name):
            raise ServiceError(
                f"--allow-host is a name like jobs.example.com, with no http:// and no port, not "
                f"{name!r}."
            )


def _connection_limit(workers: int) -> int:
    """As many as leave enough files for jobs and store. Raises ServiceError for none."""
    files = file_limit()
    if files is None:
        return CONNECTIONS
    if files < files_needed(workers):
        raise ServiceError(
            f"This process may open {files} files, and {workers} workers with "
            f"{FEWEST_CONNECTIONS} connections need {files_needed(workers)}: raise the limit "
            "(ulimit -n), or use fewer --workers."
        )
    return min(CONNECTIONS, files - files_needed(workers, connections=0))


def _check_exposure(host: str, token: str | None) -> None:
    """Whoever reaches the service runs jobs: from elsewhere only with a token."""
    if token is not None and not is_token(token):
        raise ServiceError(
            f"The token must be {SHORTEST_TOKEN} or more ASCII characters, without spaces at its "
            "ends: make one with `openssl rand -hex 32`."
        )
    if token is None and not _is_loopback(host):
        raise ServiceError(
            f"{host} can be reached from other machines: give a token (--token, or "
            "JOBQUEUE_TOKEN in the environment), or stay on 127.0.0.1."
        )


def is_token(text: str) -> bool:
    """Whether it is long enough, and can be sent in a header."""
    fits = text.isascii() and text.isprintable() and text == text.strip()
    return fits and len(text) >= SHORTEST_TOKEN


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
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServiceError(
            f"Cannot listen on {host}:{port} ({error.strerror}): choose another --port or --host."
        ) from None
    # For the connections too, which inherit it: a small answer waits for nothing. (asyncio sets
    # this itself, but not on sockets that it does not know to be TCP, like these.)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return listener


async def _run(
    service: Service,
    door: Door,
    listener: socket.socket,
    token: str | None,
    names: Collection[str],
) -> None:
    asyncio.get_running_loop().set_exception_handler(_without_floods())
    broadcast = Broadcast(service.queue)
    server = HttpServer(create_app(service, broadcast, token=token, names=names), door)
    stop = asyncio.Event()
    with _signals(stop):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await _first(server.accepts.wait(), serving)
        host, port = listener.getsockname()[:2]
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}{service.root_path}/"
        _say(f"Serving on {place}")
        await _first(stop.wait(), serving)
        service.stopping = True
        _say(f"Stopping: {await _in_flight(service)} ...")
        complete = await asyncio.to_thread(service.queue.close, False)
        broadcast.close()
        server.should_exit = True
        await serving
    _say("Stopped." if complete else "Stopped; what still ran starts again next time.")


def _say(sentence: str) -> None:
    """What reads it may be gone, as after Ctrl-C all of a pipe is: that ends no job."""
    with contextlib.suppress(OSError):
        print(sentence, flush=True)


async def _in_flight(service: Service) -> str:
    """How many jobs; the end does not wait for the answer."""
    try:
        running = (await Figures(service.queue.metrics).now()).processing
    except (Problem, QueueClosed):  # its file is locked, or it has failed
        return "jobs in flight"
    return f"{running} jobs in flight"


def _without_floods() -> Any:
    """What asyncio cannot raise anywhere goes to the log; that no file is left, rarely.

    It would say so for each connection that waits, again every second.
    """
    no_files = Rarely("%d times no connection could be accepted: %s.")
    shortages = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in shortages:
            no_files.say(error.strerror)
        else:
            loop.default_exception_handler(context)

    return handle


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal sets ``stop``; the second does what signals do: ends the process."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # The terminal is closed. Whoever started it with nohup wants it to go on.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)

    def on_signal(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    for number in numbers:
        signal.signal(number, on_signal)
    yield


class HttpServer(uvicorn.Server):
    """uvicorn, with bounds. It leaves signals to us, because the queue has to be closed first."""

    def __init__(
        self, app: ASGIApp, door: Door, protocol: type[BoundedProtocol] = BoundedProtocol
    ) -> None:
        self._door = door
        self.accepts = asyncio.Event()
        config = uvicorn.Config(
            app,
            http=functools.partial(protocol, door=door),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=ACCEPTED_AT_ONCE,  # that is what asyncio takes it for, too
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        # It has a line for each request that is no HTTP: clients must not fill our log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)
        self.accepts.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._door.closed = True
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
