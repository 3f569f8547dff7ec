"""The peers: what else pip installs. One small class each, set up as its own docs advise.

Each says how its file is synced, gets its own bulk calls where it has them, and does
what a user of it would: put jobs in, run a handler in four threads, mark each job done.
``huey`` and the file queue of ``persist-queue`` forget a job when they hand it out, so what
runs when the process dies is lost; the others, like final, keep it until it is done.

But: none of them is asked for what final does beside it (lanes, attempts, history, limits).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.measure import WORKERS, Contender, Countdown, why_missing

# How often an idle worker of a peer looks whether there is work, where it has to ask.
POLL_SECONDS = 0.001

Sync = Literal["full", "normal", "off"]
Handler = Callable[[Any], object]


class Peer(Contender):
    """What the peers have in common: ``package`` to install, and ``module`` to import.

    acknowledges: whether it keeps a job until its handler is through.
    """

    package = ""
    module = ""
    setup = ""
    acknowledges = True

    def __init__(self, sync: Sync) -> None:
        self.sync = sync
        what = f"{self.package} {self.setup}".strip()
        self.name = f"{what}, {sync}" + (", no ack" if not self.acknowledges else "")

    def missing(self) -> str:
        return why_missing(self.module)

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def start(self, folder: Path, jobs: int) -> None:
        self.done = Countdown(jobs)
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self.open(folder, importlib.import_module(self.module))

    @abstractmethod
    def open(self, folder: Path, module: Any) -> None:
        """Open its file in this folder and start its workers; ``module`` is the peer's own."""

    def start_workers(self, work: Callable[[], None]) -> None:
        self.threads = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> None:
        self.done.wait()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        self.close()

    def close(self) -> None:
        """Let go of the file."""


class Huey(Peer):
    """Its consumer with four threads; results off, since no-op jobs have none to keep."""

    package = module = "huey"
    acknowledges = False

    def open(self, folder: Path, module: Any) -> None:
        self._huey = module.SqliteHuey(
            filename=str(folder / "huey.db"), fsync=self.sync == "full", results=False
        )
        self._task = self._huey.task()(lambda payload: self.done())
        self._consumer = self._huey.create_consumer(
            workers=WORKERS, periodic=False, initial_delay=POLL_SECONDS, max_delay=POLL_SECONDS
        )
        # Started as a program it would take over Ctrl-C; here that is ours.
        self._consumer._set_signal_handlers = lambda: None
        self._consumer.start()

    def put(self, payloads: Sequence[str]) -> None:
        for payload in payloads:  # its `map` does the same
            self._task(payload)

    def close(self) -> None:
        self._consumer.stop(graceful=True)
        self._huey.storage.close()


class LiteQueue(Peer):
    """One connection for all threads, which take turns. With one for each thread it is about as
    fast in bulk, and slower with many producers.

    A transaction around its ``put`` is its bulk call. It sets NORMAL itself; FULL is set here.
    """

    package = module = "litequeue"

    def open(self, folder: Path, module: Any) -> None:
        self._queue = module.LiteQueue(str(folder / "lite.db"))
        self._queue.conn.execute(f"PRAGMA synchronous = {self.sync}")
        self._mutex = threading.Lock()
        self.start_workers(self._work)

    def put(self, payloads: Sequence[str]) -> None:
        with self._mutex:
            if len(payloads) == 1:
                self._queue.put(payloads[0])
                return
            with self._queue.transaction():
                for payload in payloads:
                    self._queue.put(payload)

    def _work(self) -> None:
        while not self.stopping.is_set():
            with self._mutex:
                message = self._queue.pop()
            if message is None:
                self.stopping.wait(POLL_SECONDS)
                continue
            with self._mutex:
                self._queue.done(message.message_id)
            self.done()

    def close(self) -> None:
        self._queue.conn.close()


class PersistAckQueue(Peer):
    """At least once: ``get``, then ``ack``. It has no bulk calls. SQLite's default sync is FULL."""

    package, module, setup = "persist-queue", "persistqueue", "ack"

    def open(self, folder: Path, module: Any) -> None:
        self._empty = module.Empty
        self._queue = module.SQLiteAckQueue(str(folder), multithreading=True)
        self.start_workers(self._work)

    def put(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._queue.put(payload)

    def _work(self) -> None:
        while not self.stopping.is_set():
            try:
                item = self._queue.get(timeout=POLL_SECONDS, raw=True)
            except self._empty:
                continue
            self._queue.ack(id=item["pqid"])
            self.done()

    def close(self) -> None:
        self._queue.close()


class PersistFifoQueue(Peer):
    """auto_commit off, its docs' advice for batches: ``task_done`` forgets many jobs at once.

    It forgets all that were handed out, those of other workers too: at most once.
    """

    package, module, setup = "persist-queue", "persistqueue", "fifo"
    acknowledges = False

    def open(self, folder: Path, module: Any) -> None:
        self._empty = module.Empty
        self._queue = module.FIFOSQLiteQueue(str(folder), multithreading=True, auto_commit=False)
        self.start_workers(self._work)

    def put(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._queue.put(payload)

    def _work(self) -> None:
        undone = 0
        while not self.stopping.is_set():
            try:
                self._queue.get(timeout=POLL_SECONDS)
                undone += 1
            except self._empty:
                if not undone:
                    continue
            if undone == 100 or self._queue.empty():
                self._queue.task_done()
                for _ in range(undone):
                    self.done()
                undone = 0

    def close(self) -> None:
        self._queue.close()


class LocalQueue(Peer):
    """A core in Rust; ``put_many`` is its bulk call, and its ``Worker`` runs the handler."""

    package = module = "localqueue"

    def open(self, folder: Path, module: Any) -> None:
        mode = module.DurabilityMode
        self._queue = module.SimpleQueue(
            str(folder), durability=mode.DURABLE if self.sync == "full" else mode.RELAXED
        )
        self._empty = module.Empty
        self.start_workers(self._work)

    def put(self, payloads: Sequence[str]) -> None:
        if len(payloads) == 1:
            self._queue.put(payloads[0])
        else:
            self._queue.put_many(payloads)

    def _work(self) -> None:
        """As its ``Worker.run``, but counting a job when it is acknowledged, not before."""
        while not self.stopping.is_set():
            try:
                job = self._queue.get(timeout=POLL_SECONDS)
            except self._empty:
                continue
            self._queue.ack(job)
            self.done()

    def close(self) -> None:
        self._queue.close()


def peers() -> list[Peer]:
    return [
        Huey("full"),
        Huey("off"),
        LiteQueue("full"),
        LiteQueue("normal"),
        PersistAckQueue("full"),
        PersistFifoQueue("full"),
        LocalQueue("full"),
        LocalQueue("normal"),
    ]


# ---- in memory -----------------------------------------------------------------------------


class ThreadPool(Contender):
    """concurrent.futures: what most programs reach for. Unbounded, nothing survives."""

    def __init__(self, workers: int = WORKERS, handler: Handler = lambda payload: None) -> None:
        self.name = f"ThreadPoolExecutor({workers})"
        self._workers = workers
        self._handler = handler

    def start(self, folder: Path, jobs: int) -> None:
        self._pool = self._new_pool()
        self._futures: list[Future[object]] = []

    def _new_pool(self) -> Executor:
        return ThreadPoolExecutor(self._workers)

    def put(self, payloads: Sequence[str]) -> None:
        self._futures += [self._pool.submit(self._handler, payload) for payload in payloads]

    def wait(self) -> None:
        for future in self._futures:
            future.result()

    def stop(self) -> None:
        self._pool.shutdown()


class ProcessPool(ThreadPool):
    """The same with processes, which are all there before the clock runs."""

    def _new_pool(self) -> Executor:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._workers, mp_context=spawn)
        list(pool.map(self._handler, ["0"] * 4 * self._workers))
        return pool


class PlainQueue(Contender):
    """queue.Queue(1000) and threads: the textbook's example. Nothing survives."""

    name = f"queue.Queue(1000), {WORKERS} threads"

    def start(self, folder: Path, jobs: int) -> None:
        self._queue: queue.Queue[str | None] = queue.Queue(1000)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def put(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._queue.put(payload)

    def _work(self) -> None:
        while self._queue.get() is not None:  # and the handler does nothing
            self._queue.task_done()

    def wait(self) -> None:
        self._queue.join()

    def stop(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
