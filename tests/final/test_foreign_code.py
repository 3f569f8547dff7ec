"""Code that the queue calls and that is not its own: log handlers, filters, finalizers, a Backoff.

Whatever it raises, however long it takes, and also when it uses the queue: it harms no job.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from final import Backoff, Every, Job, JobQueue, Status, StorageError, current_job
from final.engine import courier
from final.engine.messages import Woken
from tests.final import inside
from tests.final.helpers import HeldUp, OpenQueue, completes, eventually, nothing
from tests.helpers import DEADLINE, Background, Gate, Journal


def fails(job: Job) -> None:
    raise ValueError("no")


class Notes(logging.Handler):
    """Calls ``handle`` with each message of the queue's log."""

    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The log of the package; what a test does to it is undone."""
    log = logging.getLogger("final")
    before = log.level, log.handlers[:], log.filters[:], log.propagate
    log.propagate = False
    yield log
    log.level, log.handlers[:], log.filters[:], log.propagate = before


class TestTheLog:
    def test_a_handler_that_takes_its_time_holds_up_nothing(
        self, open_queue: OpenQueue, log: logging.Logger, gate: Gate
    ) -> None:
        said, reached = Journal(), Journal()

        def slow(message: str) -> None:
            reached.write("reached")
            gate.wait()
            said.write(message)

        log.addHandler(Notes(slow))
        queue = open_queue({"fails": fails, "works": nothing}, max_retries=0)
        ids = queue.enqueue_many([Job(f"x{n}", kind="fails") for n in range(3)])
        reached.wait_for("reached")
        assert [queue.wait(job_id, DEADLINE).status for job_id in ids] == [Status.FAILED] * 3
        assert completes(queue, Job(kind="works"))
        assert queue.metrics().failed == 3
        assert said.entries == []
        gate.open()
        assert Background(queue.close).result() is True
        assert sorted(said.entries) == [
            f"job x{n} failed, attempt 1, no attempts left: ValueError: no" for n in range(3)
        ]

    @pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(1)], ids=repr)
    def test_a_filter_that_raises_ends_nothing(
        self, open_queue: OpenQueue, log: logging.Logger, error: BaseException
    ) -> None:
        asked = Journal()

        def broken(record: logging.LogRecord) -> bool:
            asked.write(record.levelname)
            raise error

        log.addFilter(broken)
        queue = open_queue({"fails": fails, "odd": lambda job: object()}, max_retries=0)
        assert queue.wait(queue.enqueue(Job(kind="fails")), DEADLINE).status is Status.FAILED
        assert completes(queue, Job(kind="odd"))  # whose result cannot be kept, as a warning says
        assert completes(queue, Job(kind="odd"))
        assert Background(queue.close).result() is True
        assert asked.entries == ["WARNING"] * 3

    def test_nor_does_a_handler_that_raises_on_what_the_ledger_says(
        self, open_queue: OpenQueue, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said, failures = Journal(), [StorageError("The disk is full.")]

        def broken(message: str) -> None:
            said.write(message)
            raise ValueError("the log server is away")

        def fail_once(moves: object) -> None:
            if failures:
                raise failures.pop()

        queue = open_queue(nothing, periodic=[Every("0 3 * * *", Job(), name="cron")])
        log.addHandler(Notes(broken))
        monkeypatch.setitem(sys.modules, "cronsim", None)  # as if it were not installed
        inside.before_each_commit(queue, fail_once)
        with pytest.raises(StorageError):
            queue.enqueue(Job())
        assert completes(queue)  # now all entries have been read again
        eventually(lambda: any("'cron' is left alone" in line for line in said.entries), "the log")

    def test_a_handler_may_use_the_queue(self, open_queue: OpenQueue, log: logging.Logger) -> None:
        """As one does who wants to be sent a mail when something fails."""
        mailed = Journal()
        log.addHandler(Notes(lambda text: queue.enqueue(Job(kind="mail", payload=text))))
        log.addHandler(Notes(lambda text: mailed.write(queue.metrics().failed)))
        mail: Callable[[Job], object] = lambda job: mailed.write(job.payload)  # noqa: E731
        queue = open_queue({"fails": fails, "mail": mail}, max_retries=0)
        queue.enqueue(Job("x", kind="fails"))
        mailed.wait_for("job x failed, attempt 1, no attempts left: ValueError: no")
        mailed.wait_for(1)

    def test_a_handler_may_even_close_the_queue(
        self, open_queue: OpenQueue, log: logging.Logger
    ) -> None:
        closed = Journal()
        log.addHandler(Notes(lambda text: closed.write(queue.close())))
        queue = open_queue(fails, max_retries=0)
        queue.enqueue(Job())
        closed.wait_for(True)

    def test_what_a_handler_was_too_slow_for_is_counted_in_the_log(
        self,
        open_queue: OpenQueue,
        log: logging.Logger,
        gate: Gate,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(courier, "BACKLOG", 2)
        said, reached = Journal(), Journal()

        def slow(message: str) -> None:
            reached.write("reached")
            gate.wait()
            said.write(message)

        def fail(name: str) -> None:
            queue.wait(queue.enqueue(Job(name)), DEADLINE)

        log.addHandler(Notes(slow))
        queue = open_queue(fails, max_retries=0, workers=1)
        fail("first")
        reached.wait_for("reached")  # it is taken; from here on they pile up
        for name in ("second", "third", "lost", "lost too"):
            fail(name)
        gate.open()
        said.wait_for_count(3)
        fail("last")
        assert Background(queue.close).result() is True
        assert [line.split(" failed, ")[0] for line in said.entries] == [
            *("job first", "job second", "job third"),
            "2 log lines are missing here: the log is too slow.",
            "job last",
        ]


CALLS: dict[str, Callable[[JobQueue], object]] = {
    "enqueue": lambda queue: queue.enqueue(Job(), timeout=DEADLINE),
    "cancel": lambda queue: queue.cancel("holder"),
    "wait": lambda queue: queue.wait("holder", DEADLINE),
    "join": lambda queue: queue.join(DEADLINE),
    "metrics": lambda queue: queue.metrics(),
    "status": lambda queue: queue.status("holder"),
    "jobs": lambda queue: queue.jobs(),
    "attempts": lambda queue: queue.attempts("holder"),
    "dead_letters": lambda queue: queue.dead_letters(),
    "retry_all": lambda queue: queue.retry_all(),
    "purge": lambda queue: queue.purge(),
    "set_fairness": lambda queue: queue.set_fairness(1),
    "map": lambda queue: next(queue.map([1])),
    "close": lambda queue: queue.close(timeout=0),
}


class TestFinalizers:
    """Python collects garbage in whatever thread it likes, the dispatcher's included."""

    @pytest.fixture
    def run_in_its_thread(self) -> Callable[[JobQueue, Callable[[], object]], object]:
        """Calls something where the queue drops its last reference to a message: in its own thread.

        Returns what it raised, or else returned.
        """

        def run(queue: JobQueue, call: Callable[[], object]) -> object:
            happened = Journal()

            class Mortal(Woken):
                def __del__(self) -> None:
                    try:
                        happened.write((threading.current_thread().name, call()))
                    except BaseException as error:
                        happened.write((threading.current_thread().name, error))

            queue._dispatcher.inbox.put(Mortal())
            happened.wait_for_count(1)
            thread, result = happened.entries[0]
            assert thread == "final-dispatcher"
            return result

        return run

    @pytest.mark.parametrize("name", CALLS)
    def test_one_that_asks_the_queue_there_is_refused_at_once(
        self,
        held_up: HeldUp,
        gate: Gate,
        name: str,
        run_in_its_thread: Callable[[JobQueue, Callable[[], object]], object],
    ) -> None:
        queue, _ = held_up()
        error = run_in_its_thread(queue, lambda: CALLS[name](queue))
        assert isinstance(error, RuntimeError)
        assert str(error).startswith("This is the queue's own thread, which would wait for itself")
        gate.open()
        assert completes(queue)

    def test_an_abandoned_map_cancels_its_jobs_there_without_waiting(
        self,
        open_queue: OpenQueue,
        gate: Gate,
        run_in_its_thread: Callable[[JobQueue, Callable[[], object]], object],
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            if started.write(job.id) and job.payload != 0:
                gate.wait()

        queue = open_queue(handler, workers=1)
        results = queue.map(range(16), timeout=DEADLINE)
        next(results)
        started.wait_for_count(2)
        assert run_in_its_thread(queue, results.close) is None  # type: ignore[attr-defined]
        queue.metrics()  # what was sent before is done before
        gate.open()
        queue.join(DEADLINE)
        assert len(started.entries) == 2
        assert queue.metrics().cancelled == 14


class Own(Backoff):
    """A Backoff whose delay is whatever comes of a call."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        object.__setattr__(self, "call", call)

    def delay(self, retry: int) -> float:
        return self.call()  # type: ignore[attr-defined,no-any-return]


def raises(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


NO_DELAYS: dict[str, Callable[[], object]] = {
    **{
        repr(value): lambda value=value: value  # type: ignore[misc]
        for value in (math.nan, math.inf, -math.inf, -0.1, "2", None, True, 1j)
    },
    "a huge one": lambda: 10**400,
    "an error": raises(ZeroDivisionError("a bug")),
    "an exit": raises(SystemExit(1)),
}


class TestBackoff:
    @pytest.mark.parametrize("name", NO_DELAYS)
    def test_where_it_is_no_delay_a_plain_one_is_asked_and_the_log_says_so(
        self, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        retrying = Journal()

        def handler(job: Job) -> None:
            if job.id == "x" and current_job().attempt == 1:
                fails(job)

        queue = open_queue(handler, backoff=Own(NO_DELAYS[name]))
        queue.subscribe(lambda t: retrying.write(t) if t.status is Status.RETRYING else None)
        queue.enqueue(Job("x"))
        retrying.wait_for_count(1)
        assert completes(queue)
        Background(queue.close, False).result()
        # In the log, for the time itself may be over before anybody looks.
        [delay] = re.findall(r"job x failed, attempt 1, again in ([\d.]+) s: ", caplog.text)
        assert 0.9 <= float(delay) <= 1.0
        [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert line.startswith("Backoff.delay(1) is of no use; the job waits ")

    def test_one_that_takes_its_time_holds_up_its_worker_alone(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        asked = Journal()

        def slow() -> float:
            asked.write("asked")
            gate.wait()
            return 0.0

        def handler(job: Job) -> None:
            if job.id == "x" and current_job().attempt == 1:
                raise ValueError("no")

        queue = open_queue(handler, workers=2, backoff=Own(slow))
        queue.enqueue(Job("x"))
        asked.wait_for("asked")
        assert completes(queue)
        assert queue.status("x") is Status.PROCESSING
        gate.open()
        assert queue.wait("x", DEADLINE).status is Status.COMPLETED

    def test_one_that_asks_the_queue_does_not_make_it_wait_for_itself(
        self, open_queue: OpenQueue, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The queue's own thread asks when it has ended an attempt that took too long."""
        retrying = Journal()
        queue = open_queue(
            lambda job: gate.wait() if job.id == "x" else None,
            backoff=Own(lambda: queue.metrics().queued),
        )
        queue.subscribe(lambda t: retrying.write(t.status))
        queue.enqueue(Job("x", timeout=0.01))
        retrying.wait_for(Status.RETRYING)
        assert completes(queue)
        gate.open()
        Background(queue.close, False).result()
        lines = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert lines  # one, unless the machine is so busy that the next attempt is late as well
        for line in lines:
            assert line.exc_info
            assert str(line.exc_info[1]).startswith("This is the queue's own thread")


class TestInTheMiddleOfALook:
    """A signal handler, or a finalizer, in the thread that looks."""

    def test_in_memory_it_is_refused_what_would_wait_for_the_look(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(nothing)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        refused: list[str] = []

        def interrupt() -> None:
            for ask in (lambda: queue.enqueue(Job()), queue.close):
                with pytest.raises(RuntimeError) as error:
                    ask()
                refused.append(str(error.value))

        inside.in_the_next_look(queue, interrupt)
        assert Background(queue.get, "x").result().status is Status.COMPLETED
        assert len(refused) == 2
        assert all("interrupted a look at the queue" in sentence for sentence in refused)
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED

    def test_so_it_is_after_a_look_of_its_own(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        refused: list[str] = []

        def interrupt() -> None:
            with pytest.raises(RuntimeError) as error:
                queue.cancel("x")  # which looks first
            refused.append(str(error.value))

        inside.in_the_next_look(queue, interrupt)
        assert Background(queue.get, "x").result().status is Status.COMPLETED
        assert "interrupted a look at the queue" in refused[0]

    def test_of_a_file_it_may_close_the_queue(
        self, open_queue: OpenQueue, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("final.ledger.database.PATIENCE", 0.01)
        queue = open_queue(nothing, path=path)
        queue.wait(queue.enqueue(Job("x")), DEADLINE)
        closed: list[bool] = []
        inside.in_the_next_look(queue, lambda: closed.append(queue.close()))
        assert Background(queue.get, "x").result().status is Status.COMPLETED
        assert closed == [True]
        assert open_queue(nothing, path=path).get("x").status is Status.COMPLETED
