"""For the tests of programs that use final: a queue without threads, and a clock to set.

``InlineQueue`` is a JobQueue to whoever gets one, with the real engine and a real ledger in memory:
retries, limits, keys and parents are those of production. What is missing are the threads. A job
runs in the thread that calls ``drain()`` (or waits for it), one at a time, and never by itself; a
time comes when ``clock.advance(seconds)`` says so.

But: an attempt cannot be interrupted, so a plain handler that takes longer than its time-out has
failed once it returns. ``executor="process"`` runs in the thread, too. And nothing survives: what
a test of a restart or a crash needs is a JobQueue with a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import Any

from final.beyond.kinds import Kind, Policies
from final.engine.courier import Courier, News
from final.engine.dispatcher import Dispatcher
from final.engine.events import Events
from final.engine.flight import Flight
from final.engine.messages import Close, GiveOrder, Message, Request, Wait, Withdraw
from final.engine.metrics import Recorder
from final.engine.sayings import Sayings
from final.engine.uninterrupted import uninterrupted
from final.errors import PermanentFailure, QueueClosed
from final.job import Job, JobRecord, Task
from final.job_queue import LARGEST_LIMIT, Answer, JobQueue
from final.ledger import base
from final.ledger.local import LocalLedger
from final.ledger.sqlite import SqliteFile
from final.options import Options, require_int, require_limits, require_number
from final.workers.attempts import Handler, Runner
from final.workers.batch import Batch
from final.workers.coroutines import awaited
from final.workers.current import Ways, current_batch, current_job
from final.workers.handlers import Handlers
from final.workers.middleware import Middleware, around
from final.workers.pool import WorkerPool
from final.workers.undone import discard

ANY: Any = object()  # whatever the payload is


class Clock:
    """The time of an InlineQueue: that of the machine, and what it was set forward by."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def advance(self, seconds: float) -> None:
        """Let so much time pass. What is due by then runs at the next ``drain``, not here."""
        require_number("seconds", seconds)
        self._ahead += seconds

    def monotonic(self) -> float:
        """Seconds, as of time.monotonic()."""
        return time.monotonic() + self._ahead

    def time(self) -> float:
        """Unix seconds."""
        return time.time() + self._ahead

    def left(self, seconds: float) -> float:
        """Seconds from a start by this clock, for who goes by that of the machine."""
        return seconds - self._ahead


class InlineQueue(JobQueue):
    """A queue in memory whose jobs run in the calling thread, when it says so.

    handler and options: those of ``JobQueue``, without ``path``. clock: its time, to set forward.

    ``enqueue`` accepts, and runs nothing. ``drain`` runs what is due. What waits for something
    (``wait``, ``join``, ``map``, ``enqueue`` into a full lane) runs jobs until it has come about,
    and raises TimeoutError or QueueFull as soon as no job is due that could help: it never sleeps,
    but where another thread (a task of ``AsyncJobQueue.of``) runs a job, until that has ended.
    A handler that waits runs others inside of itself, as many as there are ``workers``. Leaving
    the ``with`` block runs nothing: what is left is gone. ``close()`` drains, as ever.

    Raises TypeError or ValueError for an option that makes no sense.
    """

    _has_thread = False

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler | Kind],
        *,
        middleware: Iterable[Middleware] = (),
        **options: Any,
    ) -> None:
        if "path" in options:
            raise TypeError("An InlineQueue is in memory and takes no path: use a JobQueue for it.")
        self.clock = Clock()
        periodic = options.pop("periodic", ())
        if unknown := options.keys() - _defaults().keys():
            raise TypeError(f"JobQueue has no option {min(unknown)!r}, nor has an InlineQueue.")
        self._options = chosen = Options(**{**_defaults(), **options})
        policies = Policies(chosen, handler)
        self._process = os.getpid()
        self._thread = _NoThread()
        self._mutex = threading.Lock()  # guards turns; no handler runs under it
        self._in_turn: int | None = None  # the thread that takes one
        self._ran: list[str] = []  # jobs, as often as they have run
        now = self.clock.monotonic()
        self._handlers = self._own_handlers = _Handlers(
            handler, policies, chosen.max_payload, middleware
        )
        require_limits(chosen.rate_limit, self._handlers.handles)
        self._events = self._outbox = _Outbox()
        say = self._events.say
        delay = functools.partial(policies.retry_delay, say=say)
        self._ledger = LocalLedger(
            SqliteFile(":memory:", "normal"),
            chosen,
            policies,
            self._handlers.handles,
            self._handlers.share_batches,
            now,
            say,
        )
        sayings = Sayings()
        ways = Ways(
            lambda kind, timeout: self.clock.left(policies.timeout(kind, timeout)),
            self._ledger.look_ups.parents,
            sayings.say,
        )
        self._pool = self._here = _Here(
            self._handlers, self._report, delay, say, ways, self.clock.monotonic
        )
        self._workers = chosen.workers
        self._dispatcher = self._turns = _Dispatcher(
            self._ledger,
            Flight(self._pool, self._workers, policies.timeout, delay, sayings),
            Recorder(now),
            self._events,
        )
        self._dispatcher.open(now, self.clock.time())
        if entries := self._entries(periodic):
            self._ask(GiveOrder[bool](base.ChangePeriodic("declare", entries)), None)

    def drain(self, most: int = 10_000) -> list[JobRecord]:
        """Run everything that is due, what that enqueues, too, until nothing is.

        Returns the records of the jobs that ran, each once, in the order of their first start. A
        retry is due after its backoff: ``clock.advance``, and drain again. Raises RuntimeError
        after ``most`` jobs: one that enqueues itself would have no end.
        """
        require_int("most", most, 1)
        self._refuse_out_of_place()
        if self._dispatcher.finished:
            raise QueueClosed(self._dispatcher.why_closed)
        begun = len(self._ran)
        while self._run_next():
            if len(self._ran) - begun > most:
                raise RuntimeError(
                    f"More than {most:,} jobs have run, and more are due: does a job enqueue "
                    "itself? Give it a run_at, or drain(most=...) a larger number."
                )
        records = map(self._ledger.look_ups.get, dict.fromkeys(self._ran[begun:]))
        return [record for record in records if record is not None]

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)

    # ---- turns -----------------------------------------------------------------------------

    def _now(self) -> float:
        return self.clock.time()

    def _turn(self, claims: bool = False) -> None:
        """Take the turns that there are to take; ``claims``: a job may be given to ``_here``."""
        dispatcher = self._turns
        with uninterrupted(), self._mutex:  # or it would be left half done
            self._in_turn = threading.get_ident()
            try:
                dispatcher.claims = claims
                dispatcher.take_turns(self.clock)
            finally:
                self._in_turn = None
        self._outbox.deliver()

    def _run_next(self) -> bool:
        """Run the next job that is due; False if there is none."""
        self._turn()  # in which the job of a tick comes in: it is due in the next one
        self._turn(claims=True)
        batch = self._here.take()
        if batch is None:
            return False
        self._ran += [task.id for task in batch.claimed]
        # In a context of its own: behind this handler may be another one, which waits.
        copy_context().run(self._here.run, batch)
        self._turn()
        self._own_handlers.raise_ctrl_c()
        return True

    def _await(self, request: Request[Answer], timeout: float | None) -> Answer:
        """Instead of waiting, run jobs until the answer is there, or none is due."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        try:
            self._turn()
            while not request.answered and time.monotonic() < until:
                ended = self._here.ended
                if not self._run_next() and not self._here.wait_for_another(ended, until):
                    break
        except BaseException:  # Ctrl-C
            if not isinstance(request, Close):  # a shutdown goes on; ask again to wait for it
                self._dispatcher.inbox.put(Withdraw(request, gone=True))
            self._dispatcher.unanswered.discard(request)
            raise
        if not request.answered:
            self._dispatcher.inbox.put(Withdraw(request))
            self._turn()
        self._dispatcher.unanswered.discard(request)
        request.refuse(QueueClosed(self._dispatcher.why_closed))  # if nobody has answered it
        try:
            return request.result()
        except TimeoutError as error:
            raise TimeoutError(
                f"{error} (Nothing that is due is left to run: queue.clock.advance(seconds).)"
            ) from None

    def _give_up(self, waits: Iterable[Wait], patience: float = 0) -> None:
        super()._give_up(waits, patience=0)
        if self._in_turn != threading.get_ident():
            self._turn()

    def _refuse_out_of_place(self) -> None:
        super()._refuse_out_of_place()
        if self._in_turn == threading.get_ident():
            raise RuntimeError("What a finalizer wants of the queue must be done elsewhere.")


def queue_fixture(handler: Handler | Mapping[str, Handler | Kind], **options: Any) -> Any:
    """A fixture for pytest, an InlineQueue for each test: ``job_queue = queue_fixture(handlers)``.

    In a ``conftest.py``; the name on the left is what tests ask for.
    """
    import pytest

    @pytest.fixture
    def an_inline_queue() -> Iterator[InlineQueue]:
        with InlineQueue(handler, **options) as queue:
            yield queue

    return an_inline_queue


def enqueued(queue: JobQueue, kind: str | None = None, payload: object = ANY) -> list[JobRecord]:
    """The jobs that were enqueued, whatever has become of them, oldest first.

    kind, payload: only those of that kind, and with a payload that is equal.
    """
    return [
        record
        for record in reversed(queue.jobs(limit=LARGEST_LIMIT, kind=kind))
        if payload is ANY or record.payload == payload
    ]


def assert_enqueued(
    queue: JobQueue, kind: str | None = None, payload: object = ANY, count: int = 1
) -> list[JobRecord]:
    """Fail unless exactly ``count`` jobs like this were enqueued; returns them, oldest first.

    Raises AssertionError, which lists what was enqueued instead.
    """
    __tracebackhide__ = True  # pytest then points at the line that calls
    require_int("count", count, 0)
    found = enqueued(queue, kind, payload)
    if len(found) == count:
        return found
    wanted = "" if kind is None else f" of kind {kind!r}"
    wanted += "" if payload is ANY else f" with payload {payload!r}"
    there = [f"  {r.kind!r} {r.payload!r} ({r.status})" for r in enqueued(queue)]
    raise AssertionError(
        "\n".join(
            [
                f"{len(found)} jobs{wanted} were enqueued, not {count}.",
                "All that were enqueued:" if there else "None was enqueued at all.",
                *there,
            ]
        )
    )


# ---- the engine without threads ------------------------------------------------------------------


def _defaults() -> dict[str, Any]:
    """Those of a JobQueue, as far as the engine goes by them."""
    parameters = inspect.signature(JobQueue.__init__).parameters.values()
    options = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    others = ("path", "middleware", "periodic")
    return {option.name: option.default for option in options if option.name not in others}


class _NoThread(threading.Thread):
    """Where a JobQueue has the dispatcher's."""

    def join(self, timeout: float | None = None) -> None:
        """There is nothing to wait for."""


class _Dispatcher(Dispatcher):
    """Takes its turns when told to, and claims one job at a time, and only where ``claims``."""

    claims = False

    def take_turns(self, clock: Clock) -> None:
        if self.finished:
            return
        self.turn(self._waiting_messages(), clock.monotonic(), clock.time())
        self.claims = False
        while self._again and not self.done:
            self.turn(self._waiting_messages(), clock.monotonic(), clock.time())
        if self.done:
            self.run()  # no more turns, but the end

    def _waiting_messages(self) -> list[Message]:
        return [self.inbox.get_nowait() for _ in range(self.inbox.qsize())]

    def _idle(self) -> int:
        return min(1, super()._idle()) if self.claims else 0

    def _refuse_a_deadlock(self) -> None:
        self.claims, before = True, self.claims  # a handler that waits may run another job
        super()._refuse_a_deadlock()
        self.claims = before


# The batches that the caller is inside of: of its handler, and of those that wait for that.
_inside: ContextVar[tuple[Batch, ...]] = ContextVar("final.testing.inside", default=())


class _Here(WorkerPool):
    """The calling thread, as the only worker."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Guards the next four, where several threads use the queue: what is to run, what runs, what
        # of that waits for the end of another job, and how many have ended.
        self._changed = threading.Condition()
        self._claimed: deque[Batch] = deque()
        self._out: set[Batch] = set()
        self._stuck: set[Batch] = set()
        self.ended = 0

    def deliver(self, batch: Batch) -> None:
        with self._changed:
            self._claimed.append(batch)
            self._changed.notify_all()

    def hire(self, count: int) -> int:
        """They are a number: how many handlers may run inside of each other."""
        return count

    def retire(self) -> None:
        """There is no thread to leave."""

    def take(self) -> Batch | None:
        """What was claimed, if anything was."""
        with self._changed:
            if not self._claimed:
                return None
            batch = self._claimed.popleft()
            self._out.add(batch)
            return batch

    def run(self, batch: Batch) -> None:
        _inside.set((*_inside.get(), batch))
        try:
            self._work_off(batch)
        finally:
            with self._changed:
                self._out.discard(batch)
                self.ended += 1
                self._changed.notify_all()

    def wait_for_another(self, ended: int, until: float) -> bool:
        """Until more have ended in other threads, or are to run; False if none runs that could end.

        Where all handlers that run wait so, none could: they are told, and who waits for them is
        not, since they end by that.
        """
        mine = set(_inside.get())
        with self._changed:
            self._stuck |= mine
            self._changed.notify_all()
            hopeless = self._stuck if mine else mine

            def goes_on() -> bool:
                return self.ended != ended or bool(self._claimed)

            self._changed.wait_for(
                lambda: goes_on() or self._out - mine <= hopeless,
                min(until - time.monotonic(), threading.TIMEOUT_MAX),
            )
            self._stuck -= mine
            return goes_on()

    def obeys(self, batch: Batch, task: Task) -> bool:
        """It returns in the end: nobody goes on before."""
        return True

    def is_calling(self) -> bool:
        batch = current_batch()
        in_handler = batch is not None and batch in self._out and batch.running is not None
        return in_handler or self._handlers.is_current_thread()


class _Handlers(Handlers):
    """All in the calling thread, one job at a time."""

    def __init__(self, *arguments: Any) -> None:
        self._runners_idle: list[asyncio.Runner] = []
        self._in_coroutine: set[int] = set()  # threads
        self._ctrl_c: KeyboardInterrupt | None = None
        super().__init__(*arguments)

    def _runner(self, kind: str, handler: Handler, in_process: bool) -> Runner:
        wait_for = None if in_process else self._wait_for
        called = around(self.middleware, handler, wait_for)

        def call(job: Job) -> object:
            with self._noting_ctrl_c():
                return called(job)

        return Runner(call, self._max_result, wait_for)

    def share_batches(self, kind: str) -> bool:
        return False

    def is_current_thread(self) -> bool:
        return threading.get_ident() in self._in_coroutine

    def close(self) -> None:
        super().close()
        while self._runners_idle:  # in a thread, since here another loop may run
            closing = threading.Thread(target=self._runners_idle.pop().close)
            closing.start()
            closing.join()

    def raise_ctrl_c(self) -> None:
        """For the program, and not a failure of the job that it hit."""
        pressed, self._ctrl_c = self._ctrl_c, None
        if pressed is not None:
            raise pressed

    @contextlib.contextmanager
    def _noting_ctrl_c(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as pressed:
            self._ctrl_c = pressed
            raise

    def _wait_for(self, awaitable: Any) -> object:
        """Run it on an event loop here; on the same one, unless that is taken."""
        if _in_event_loop():
            discard(awaitable)
            raise PermanentFailure(
                "A coroutine handler cannot run inside another event loop: "
                "await asyncio.to_thread(queue.drain)."
            )
        runner = self._runners_idle.pop() if self._runners_idle else _new_runner()
        thread = threading.get_ident()
        self._in_coroutine.add(thread)
        try:
            with self._noting_ctrl_c():
                runner.get_loop().set_task_factory(None)  # one that a handler has set
                end: Future[object] = Future()
                runner.run(_into(end, _in_time(awaitable)), context=copy_context())
                return end.result()
        finally:
            self._in_coroutine.discard(thread)
            self._runners_idle.append(runner)


def _new_runner() -> asyncio.Runner:
    # With a factory, so that this thread's own event loop, if it has one, stays what it is.
    return asyncio.Runner(loop_factory=asyncio.new_event_loop)


async def _into(end: Future[object], coroutine: Coroutine[Any, Any, object]) -> None:
    """What comes of it stands beside its task, and not in it.

    Where Python puts Ctrl-C back it makes a ``repr`` of the task, and so of what that returns or
    raises; if this fails, no coroutine can run in the program any more.
    """
    try:
        end.set_result(await coroutine)
    except asyncio.CancelledError:
        raise  # if it was Ctrl-C, the runner says so
    except BaseException as error:
        end.set_exception(error)


async def _in_time(awaitable: Any) -> object:
    deadline = current_job().deadline
    async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
        return await awaited(awaitable)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Outbox(Events):
    """Without couriers: the log and the subscribers hear after the turn, in the same thread."""

    def __init__(self) -> None:
        super().__init__()
        self._log = self._lines = _Later(self._log)
        self._courier = self._news = _Later(Courier("", self._tell))

    def deliver(self) -> None:
        """To be called outside of turns, since subscribers may use the queue."""
        self._news.deliver()
        self._lines.deliver()


class _Later(Courier[News]):
    """Delivers when it is told to, in place of the courier that is given."""

    def __init__(self, courier: Courier[News]) -> None:
        super().__init__("", courier._deliver)
        self._waiting: deque[News] = deque()

    def send(self, news: list[News]) -> bool:
        self._waiting.extend(news)
        return True

    def close(self, timeout: float) -> None:
        self.deliver()

    def deliver(self) -> None:
        while self._waiting:
            try:
                news = self._waiting.popleft()
            except IndexError:
                return  # another thread has it
            self._hand_over(news)
