"""Queues on PostgreSQL as contenders: each is opened in several processes at once.

Each is set up as its own docs advise: pgqueuer with asyncpg, batches of 100 and a connection of its
own for its workers; procrastinate with ten jobs at a time. Where they have a bulk call it is used.
The floor is final's ledger called in a loop, with one connection: the same SQL, and neither threads
nor messages nor handlers.

But: none of them is asked for what final does beside it (lanes, attempts, limits, history).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import final
from final.job import Outcome, Task
from final.ledger.base import Offer
from tests.benchmarks.measure import WORKERS, run_side_by_side, why_missing
from tests.benchmarks.ours import PRIORITIES, task

Ran = Callable[[str], None]  # a job has run, with this payload
CAPACITY = 10_000_000  # nobody is to wait for room
CONNECTIONS = 16  # of a peer's producers, at most


class SharedQueue(ABC):
    """name: as in the tables. package: to install. share: of the jobs of a round, where it is slow.

    alone: whether it only takes part with one process.
    """

    name = package = ""
    share = 1.0
    alone = False

    def missing(self) -> str:
        return why_missing(self.package)

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)

    @abstractmethod
    def prepare(self, dsn: str) -> None:
        """Make its tables."""

    @abstractmethod
    def open(self, dsn: str, workers: int, ran: Ran) -> None:
        """In one of the processes: open it and start its workers, if any."""

    @abstractmethod
    def produce(self, payloads: Sequence[str], batch: int, producers: int) -> None:
        """Put jobs in; returns when they are committed."""

    @abstractmethod
    def close(self) -> None:
        """Let go of threads and connections."""


class Final(SharedQueue):
    name = "final"
    package = "psycopg"

    def prepare(self, dsn: str) -> None:
        final.JobQueue(None, path=dsn, workers=0).close()

    def open(self, dsn: str, workers: int, ran: Ran) -> None:
        self._queue = final.JobQueue(
            lambda job: ran(job.payload),
            path=dsn,
            workers=workers,
            capacity=CAPACITY,
            history=100_000_000,
        )

    def produce(self, payloads: Sequence[str], batch: int, producers: int) -> None:
        priorities = itertools.cycle(PRIORITIES)

        def put(share: Sequence[str]) -> None:
            for start in range(0, len(share), batch):
                some = share[start : start + batch]
                jobs = [final.Job(payload=p, priority=next(priorities)) for p in some]
                if len(jobs) == 1:
                    self._queue.enqueue(jobs[0])
                else:
                    self._queue.enqueue_many(jobs)

        run_side_by_side(put, [payloads[number::producers] for number in range(producers)])

    def close(self) -> None:
        self._queue.close(drain=False)


class LedgerAlone(SharedQueue):
    """The floor: everything happens in ``produce``."""

    name = "final's ledger alone"
    package = "psycopg"
    alone = True

    def prepare(self, dsn: str) -> None:
        Final().prepare(dsn)

    def open(self, dsn: str, workers: int, ran: Ran) -> None:
        from final.beyond.kinds import Policies
        from final.ledger.postgres.address import parse
        from final.ledger.postgres.ledger import PostgresLedger

        # Its options are a queue's; that one is closed again.
        with final.JobQueue(None, path=dsn, workers=0, capacity=CAPACITY) as queue:
            options = queue._ledger._options  # type: ignore[attr-defined]
        self._ledger = PostgresLedger(
            parse(dsn), options, Policies(options), None, lambda kind: True, print
        )
        self._ledger.open(time.monotonic(), time.time())
        self._ran = ran

    def produce(self, payloads: Sequence[str], batch: int, producers: int) -> None:
        tasks = [task(number) for number in range(len(payloads))]
        for start in range(0, len(tasks), batch):
            self._work_through(tasks[start : start + batch])

    def _work_through(self, new: Sequence[Task]) -> None:
        """Insert, claim and complete."""
        outcomes: list[tuple[int, list[Outcome]]] = []
        left = len(new)
        while new or outcomes:
            offer = Offer(
                time.monotonic(), time.time(), outcomes, new=[new] if new else [], idle=WORKERS
            )
            offer.cost = {"default": 1e-6}
            given = self._ledger.exchange(offer)
            assert given.error is None, given.error
            new = ()
            outcomes = [(b[0].token, [Outcome(each, 0.0) for each in b]) for b in given.claims]
            for batch in given.claims:
                left -= len(batch)
                for _ in batch:
                    self._ran("")
            assert outcomes or not left, "it takes all that it gave"

    def close(self) -> None:
        self._ledger.close()


# ---- peers, all of them on asyncio ------------------------------------------------------------


class OnALoop(SharedQueue):
    """A queue with a loop in a thread of its own."""

    def open(self, dsn: str, workers: int, ran: Ran) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._await(self.start(dsn, workers, ran))

    def produce(self, payloads: Sequence[str], batch: int, producers: int) -> None:
        async def put(share: Sequence[str]) -> None:
            for start in range(0, len(share), batch):
                await self.put(share[start : start + batch])

        async def put_all() -> None:
            await asyncio.gather(*(put(payloads[n::producers]) for n in range(producers)))

        self._await(put_all())

    def close(self) -> None:
        self._await(self.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _await(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    @abstractmethod
    async def start(self, dsn: str, workers: int, ran: Ran) -> None: ...

    @abstractmethod
    def put(self, payloads: Sequence[str]) -> Awaitable[object]: ...

    @abstractmethod
    async def stop(self) -> None: ...


class PgQueuer(OnALoop):
    name = package = "pgqueuer"

    def prepare(self, dsn: str) -> None:
        async def install() -> None:
            asyncpg, pgqueuer = _modules("asyncpg", "pgqueuer")
            connection = await asyncpg.connect(dsn)
            await pgqueuer.Queries(pgqueuer.AsyncpgDriver(connection)).install()
            await connection.close()

        asyncio.run(install())

    async def start(self, dsn: str, workers: int, ran: Ran) -> None:
        asyncpg, pgqueuer = _modules("asyncpg", "pgqueuer")
        self._pool = await asyncpg.create_pool(dsn, min_size=1, max_size=CONNECTIONS)
        self._queries = pgqueuer.Queries(pgqueuer.AsyncpgPoolDriver(self._pool))
        self._connection = await asyncpg.connect(dsn)
        self._runs: asyncio.Task[None] | None = None
        if not workers:
            return
        queue = self._queue = pgqueuer.PgQueuer(pgqueuer.AsyncpgDriver(self._connection))

        @queue.entrypoint("default")  # type: ignore[untyped-decorator]
        async def handle(job: Any) -> None:
            ran(job.payload.decode())

        self._runs = asyncio.create_task(
            queue.run(batch_size=100, dequeue_timeout=timedelta(seconds=0.5))
        )

    def put(self, payloads: Sequence[str]) -> Awaitable[object]:
        count = len(payloads)
        if count == 1:
            return self._queries.enqueue("default", payloads[0].encode())  # type: ignore[no-any-return]
        encoded = [payload.encode() for payload in payloads]
        return self._queries.enqueue(["default"] * count, encoded, [0] * count)  # type: ignore[no-any-return]

    async def stop(self) -> None:
        if self._runs is not None:
            self._queue.shutdown.set()
            await asyncio.wait([self._runs], timeout=10)
        await self._pool.close()
        await self._connection.close()


class Procrastinate(OnALoop):
    name = package = "procrastinate"
    share = 0.05

    def prepare(self, dsn: str) -> None:
        async def install() -> None:
            async with self._app(dsn).open_async() as app:
                await app.schema_manager.apply_schema_async()

        asyncio.run(install())

    def _app(self, dsn: str) -> Any:
        (procrastinate,) = _modules("procrastinate")
        connector = procrastinate.PsycopgConnector(conninfo=dsn, max_size=CONNECTIONS)
        return procrastinate.App(connector=connector)

    async def start(self, dsn: str, workers: int, ran: Ran) -> None:
        app = self._open = self._app(dsn)

        @app.task(name="default")  # type: ignore[untyped-decorator]
        async def handle(payload: str) -> None:
            ran(payload)

        self._task = handle
        await app.open_async()
        self._runs = None
        if workers:
            runs = app.run_worker_async(concurrency=10, install_signal_handlers=False)
            self._runs = asyncio.create_task(runs)

    def put(self, payloads: Sequence[str]) -> Awaitable[object]:
        if len(payloads) == 1:
            return self._task.defer_async(payload=payloads[0])  # type: ignore[no-any-return]
        rows = [{"payload": payload} for payload in payloads]
        return self._task.batch_defer_async(*rows)  # type: ignore[no-any-return]

    async def stop(self) -> None:
        if self._runs is not None:
            self._runs.cancel()
            await asyncio.wait([self._runs], timeout=10)
        await self._open.close_async()


def _modules(*names: str) -> list[Any]:
    return [importlib.import_module(name) for name in names]


def shared_queues() -> list[SharedQueue]:
    return [Final(), LedgerAlone(), PgQueuer(), Procrastinate()]
