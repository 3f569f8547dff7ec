"""Several processes on one queue: each queue object is one, with an owner's row of its own."""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import psycopg
import pytest

from final import (
    Backoff,
    DuplicateJob,
    Every,
    Job,
    JobQueue,
    LeakyBucket,
    QueueFull,
    SharedFigures,
    Status,
    StorageError,
    TokenBucket,
    Unique,
    UnknownJob,
    current_job,
)
from final.ledger.postgres import housekeeping
from final.ledger.postgres.address import parse
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.notices import Notices
from final.ledger.postgres.statements import CLASS
from tests.final.helpers import comes_true, is_closing
from tests.final.test_foreign_code import Notes, log  # noqa: F401  (a fixture)
from tests.helpers import DEADLINE, Background, Broken, Gate, Journal
from tests.host import Host
from tests.postgres.conftest import OpenQueue


def ledger(queue: JobQueue) -> PostgresLedger:
    assert isinstance(queue._ledger, PostgresLedger)
    return queue._ledger


def sql(address: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    place = parse(address)
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        cursor = connection.execute(
            statement.replace("jobqueue.", f"{place.schema}.").encode(), values
        )
        return cursor.fetchall() if cursor.description else []


def becomes(condition: Callable[[], object]) -> None:
    """Wait for what nobody tells: another process does it."""
    pause, until = threading.Event(), time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until
        pause.wait(0.02)


def poll_again(queues: Sequence[JobQueue]) -> None:
    polls = [ledger(queue)._housekeeping.poll_at for queue in queues]
    becomes(
        lambda: all(ledger(q)._housekeeping.poll_at > p for q, p in zip(queues, polls, strict=True))
    )


# ---- who waits for what others do


def test_wait_and_join_see_what_ran_elsewhere(open_queue: OpenQueue) -> None:
    bringer, _ = open_queue(workers=0), open_queue()
    ids = [bringer.enqueue(Job(payload=n)) for n in range(20)]
    assert [bringer.wait(job_id, DEADLINE).result for job_id in ids] == list(range(20))
    bringer.join(DEADLINE)
    assert list(bringer.map(range(50), timeout=DEADLINE)) == list(range(50))
    assert bringer.metrics().completed >= 20


def test_what_others_have_brought_makes_no_count_negative(open_queue: OpenQueue) -> None:
    """Between two looks at the whole table a process counts its own steps alone."""
    gate, began = Gate(), Journal()

    def handle(job: Job) -> None:
        began.write(job.id)
        gate.wait()

    bringer, runner = open_queue(workers=0), open_queue(handle, workers=4)
    runner.metrics()  # it looks: not again for a second
    bringer.enqueue_many([Job() for _ in range(4)])
    began.wait_for_count(4)
    metrics = runner.metrics()
    gate.open()
    assert (metrics.queued, metrics.processing, metrics.accepted) == (0, 4, 4)


def test_wait_returns_where_a_job_is_gone(address: str, open_queue: OpenQueue) -> None:
    """It has ended elsewhere, nobody has told, and the history has let go of it."""
    queue = open_queue(workers=0)
    queue.enqueue(Job(id="a"))
    waiting = Background(queue.wait, "a", 2 * DEADLINE)
    becomes(lambda: queue._dispatcher._waits)
    sql(address, "DELETE FROM jobqueue.job")
    with pytest.raises(UnknownJob):
        waiting.result()


def test_a_look_up_that_takes_long_holds_up_neither_turns_nor_the_end(
    open_queue: OpenQueue, address: str, gate: Gate
) -> None:
    queue = open_queue(lambda job: gate.wait(), path=address.replace("lease=1", "lease=600"))
    queue.enqueue(Job(id="a"))
    waiting = Background(queue.wait, "a")
    becomes(lambda: queue._dispatcher._waits)
    with closing(psycopg.connect(parse(address).dsn)) as other:
        other.execute(f"LOCK TABLE {parse(address).schema}.failure".encode())
        looking = Background(queue.attempts, "a")
        becomes(lambda: ledger(queue).look_ups._asked)
        gate.open()
        assert waiting.result().status is Status.COMPLETED
        assert queue.metrics().completed == 1
        assert Background(queue.close).result()
    assert looking.result() == []


def test_join_waits_for_jobs_of_others(open_queue: OpenQueue, gate: Gate) -> None:
    bringer, _ = open_queue(workers=0), open_queue(lambda job: gate.wait())
    bringer.enqueue(Job())
    with pytest.raises(TimeoutError):
        bringer.join(0.2)
    gate.open()
    bringer.join(DEADLINE)


def test_a_notification_that_is_lost_costs_half_a_second(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notices, "send", lambda self: None)
    bringer, _ = open_queue(workers=0), open_queue()
    assert bringer.wait(bringer.enqueue(Job(payload="told by nobody")), DEADLINE).result


def test_subscribers_hear_of_moves_elsewhere(open_queue: OpenQueue, journal: Journal) -> None:
    watcher = open_queue(workers=0)
    watcher.subscribe(lambda change: journal.write((change.job_id, str(change.status))))
    worker = open_queue()
    comes_true(worker, lambda: _is_curious(worker, watcher), "the watcher to be known")
    worker.enqueue(Job(id="a"))
    for status in ("queued", "processing", "completed"):
        journal.wait_for(("a", status))


def _is_curious(worker: JobQueue, watcher: JobQueue) -> bool:
    watcher.enqueue(Job())  # a turn, in which it says so
    curious = ledger(worker).look_ups._read("SELECT bool_or(curious) FROM jobqueue.owner")
    return curious == [(True,)]


def test_a_job_that_runs_elsewhere_can_be_cancelled(open_queue: OpenQueue) -> None:
    runs, told = threading.Event(), threading.Event()

    def handler(job: Job) -> None:
        runs.set()
        while not current_job().cancelled:
            time.sleep(0.01)
        told.set()
        raise Broken

    bringer, _ = open_queue(workers=0), open_queue(handler)
    job_id = bringer.enqueue(Job())
    assert runs.wait(DEADLINE)  # one that is claimed, and has not begun, just ends
    assert bringer.cancel(job_id)
    assert told.wait(DEADLINE)
    assert bringer.wait(job_id, DEADLINE).status is Status.CANCELLED
    assert not bringer.cancel(job_id)
    with pytest.raises(UnknownJob):
        bringer.cancel("unknown")


# ---- what holds for all together


def test_an_id_is_taken_for_all(open_queue: OpenQueue) -> None:
    one, other = open_queue(workers=0), open_queue(workers=0)
    one.enqueue_many([Job(id="a"), Job(id="b")])
    with pytest.raises(DuplicateJob) as told:
        other.enqueue_many([Job(id="c"), Job(id="b"), Job(id="d")])
    assert (told.value.accepted, told.value.ids) == (["c"], ["b"])


def test_capacity_is_of_the_queue_and_room_made_elsewhere_wakes(open_queue: OpenQueue) -> None:
    one, other = open_queue(workers=0, capacity=5), open_queue(workers=0, capacity=5)
    for _ in range(5):
        one.enqueue(Job())
    with pytest.raises(QueueFull):
        other.enqueue(Job(), timeout=0)
    blocked = Background(other.enqueue, Job(id="blocked"))
    worker = open_queue()
    assert blocked.result() == "blocked"
    assert worker.wait("blocked", DEADLINE).status is Status.COMPLETED


def test_a_leaky_bucket_is_one_for_all(open_queue: OpenQueue, journal: Journal) -> None:
    def handler(job: Job) -> None:
        journal.write(time.monotonic())

    limit = {"mail": LeakyBucket(50)}
    queues = [
        open_queue({"mail": handler, "free": lambda job: None}, rate_limit=limit) for _ in "ab"
    ]
    for n in range(10):
        queues[n % 2].enqueue(Job(kind="mail"))
    assert queues[0].wait(queues[0].enqueue(Job(kind="free")), DEADLINE)
    journal.wait_for_count(10)
    assert max(journal.entries) - min(journal.entries) >= 0.9 * 9 / 50


def test_a_burst_is_one_for_all_when_all_begin_at_once(open_queue: OpenQueue) -> None:
    started = Journal()
    limit = TokenBucket(0.001, 3)
    queues = [
        open_queue(lambda job: started.write(job.id), workers=4, rate_limit=limit) for _ in range(4)
    ]
    together = threading.Barrier(4)

    def bring(queue: JobQueue) -> None:
        together.wait(DEADLINE)
        queue.enqueue_many([Job() for _ in range(6)])

    for producer in [Background(bring, queue) for queue in queues]:
        producer.result()
    started.wait_for_count(3)
    poll_again(queues)
    assert len(started.entries) == 3


def test_a_faster_limit_does_not_wait_for_what_a_slower_one_has_written(
    open_queue: OpenQueue,
) -> None:
    slow = open_queue(rate_limit=LeakyBucket(1 / 3600))
    slow.wait(slow.enqueue(Job()), DEADLINE)
    slow.close()
    fast = open_queue(rate_limit=LeakyBucket(50))
    assert fast.wait(fast.enqueue(Job()), DEADLINE)


def test_kinds_go_to_those_who_handle_them(open_queue: OpenQueue) -> None:
    bringer = open_queue(None, workers=0)
    mails = open_queue({"mail": lambda job: "mailed"})
    job = bringer.enqueue(Job(kind="report"))
    assert bringer.wait(bringer.enqueue(Job(kind="mail")), DEADLINE).result == "mailed"
    mails.join(DEADLINE)  # not for what it does not handle
    assert bringer.status(job) is Status.QUEUED
    open_queue({"report": lambda job: "reported"})
    assert bringer.wait(job, DEADLINE).result == "reported"


def test_low_is_not_starved_by_several(open_queue: OpenQueue) -> None:
    """A lane's head starts within P x (fairness + 2) picks."""
    bringer = open_queue(workers=0)
    for _ in range(100):
        bringer.enqueue(Job(priority="high"))
    low = bringer.enqueue(Job(priority="low"))
    for _ in range(3):
        open_queue(lambda job: time.sleep(0.002), workers=1)
    picked_at = bringer.wait(low, DEADLINE).started_at
    assert picked_at is not None
    # By the clock of the database, and not in the order in which they run: a process may be slow
    # to begin what it has picked. One of each may be under way.
    others = [record.started_at for record in bringer.jobs(limit=101) if record.id != low]
    assert sum(at is not None and at < picked_at for at in others) <= 3 * (10 + 2) + 3


def test_draining_is_left_to_others_while_there_are_some(open_queue: OpenQueue, gate: Gate) -> None:
    one, other = open_queue(lambda job: gate.wait(), workers=1), open_queue(lambda job: "b")
    other.close()
    for n in range(3):
        one.enqueue(Job(id=f"job-{n}"))
    open_queue(lambda job: "helped", workers=1)
    becomes(lambda: one.status("job-2") is Status.COMPLETED)
    gate.open()
    assert one.close()


def test_close_says_whether_a_handler_that_it_has_turned_away_left_its_job(
    open_queue: OpenQueue, gate: Gate
) -> None:
    def handler(job: Job) -> None:
        gate.wait()
        Background(queue.enqueue, Job()).result()  # in a thread of which nobody knows whose it is

    queue = open_queue(handler)
    queue.enqueue(Job(id="a"))
    becomes(lambda: queue.status("a") is Status.PROCESSING)
    end = Background(queue.close)
    becomes(lambda: is_closing(queue))
    gate.open()
    assert end.result() is False
    assert open_queue(lambda job: None, workers=0).status("a") is Status.QUEUED


# ---- leases


def test_who_has_no_workers_drains_nothing(open_queue: OpenQueue) -> None:
    queue = open_queue(None, workers=0)
    queue.enqueue(Job())
    assert Background(queue.close).result() is False  # at once, and not when its time is up


def test_who_is_gone_for_longer_than_the_lease_loses_its_jobs(
    address: str, open_queue: OpenQueue, gate: Gate
) -> None:
    slow = open_queue(lambda job: gate.wait(), workers=1)
    slow.enqueue(Job(id="a"))
    becomes(lambda: slow.status("a") is Status.PROCESSING)
    quick = open_queue(lambda job: "quick")

    def is_taken_over() -> bool:
        # As if nothing had been heard of it: the lease is over, and it is not told. (Again and
        # again, for it renews it.)
        expire = "UPDATE jobqueue.owner SET expires_at = '-infinity', witness = NULL WHERE id = 1"
        sql(address, expire)
        return quick.status("a") is Status.COMPLETED

    becomes(is_taken_over)
    gate.open()
    assert slow.wait(slow.enqueue(Job(id="b")), DEADLINE)  # it goes on, as a new owner
    assert slow.get("a").result == "quick"
    assert slow.get("a").attempts == 2


def test_what_cannot_be_given_back_at_the_end_is_taken_over(
    address: str, open_queue: OpenQueue, gate: Gate
) -> None:
    queue = open_queue(lambda job: gate.wait(), workers=1)
    queue.enqueue(Job(id="a"))
    becomes(lambda: queue.status("a") is Status.PROCESSING)
    with closing(psycopg.connect(parse(address).dsn)) as other:
        other.execute(f"SELECT FROM {parse(address).schema}.job FOR UPDATE".encode())
        assert queue.close(drain=False, timeout=0) is False
    gate.open()
    assert open_queue(lambda job: "taken over").wait("a", DEADLINE).result == "taken over"


def test_a_log_handler_that_raises_on_it_ends_nothing(
    address: str,
    open_queue: OpenQueue,
    log: logging.Logger,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither for the one that takes over, nor for the one that is taken over."""
    said = Journal()

    def broken(message: str) -> None:
        said.write(message.partition(" ")[0])
        raise ValueError("the log server is away")

    queues = [open_queue(workers=1) for _ in range(2)]
    queues[0].add_periodic(Every("0 3 * * *", Job(), name="cron"))
    log.addHandler(Notes(broken))
    monkeypatch.setitem(sys.modules, "cronsim", None)  # as if it were not installed
    sql(address, "UPDATE jobqueue.periodic SET next_tick = now()")
    expire = "UPDATE jobqueue.owner SET expires_at = '-infinity', witness = NULL WHERE id = 1"
    becomes(lambda: {"Owners", "The", "Periodic"} <= set(said.entries) or sql(address, expire))
    for queue in queues:
        assert queue.wait(queue.enqueue(Job()), DEADLINE).status is Status.COMPLETED


def test_a_crash_on_this_host_is_noticed_before_the_lease_is_over(
    address: str, open_queue: OpenQueue
) -> None:
    import socket

    with Host(address.replace("lease=1", "lease=600"), name=socket.gethostname()) as host:
        host.wait_for("ready")
        bringer = open_queue(workers=0)
        bringer.enqueue(Job(id="a", payload="held"))
        host.wait_for("started a")
        host.kill()
    queue = open_queue()
    assert queue.wait("a", DEADLINE).attempts == 2


def test_one_that_crashes_its_process_ends_as_a_dead_letter(
    address: str, open_queue: OpenQueue
) -> None:
    bringer = open_queue(workers=0)
    bringer.enqueue(Job(id="bad", payload="held", kind="mine"))
    for attempt in (1, 2):
        with Host(address, kind={"max_retries": 1}) as host:
            host.wait_for("started bad")
        sql(address, "UPDATE jobqueue.owner SET expires_at = '-infinity' WHERE workers > 0")
        wanted = Status.FAILED if attempt == 2 else Status.QUEUED
        becomes(lambda wanted=wanted: bringer.status("bad") is wanted)  # type: ignore[misc]
    errors = [record.error for record in bringer.attempts("bad")]
    assert errors[-1] == "The process ended during attempt 2, the last one."


# ---- what is worth watching


def figures(queue: JobQueue) -> SharedFigures:
    found = queue.shared_figures()
    assert found is not None
    return found


def test_it_is_counted_what_went_wrong_with_leases(
    address: str, open_queue: OpenQueue, gate: Gate
) -> None:
    slow = open_queue(lambda job: gate.wait(), workers=1)
    slow.enqueue(Job(id="a"))
    becomes(lambda: figures(slow).processes[0].running == {"default": 1})
    quick = open_queue(lambda job: "quick")
    expire = "UPDATE jobqueue.owner SET expires_at = '-infinity', witness = NULL WHERE workers = 1"
    # Slow may renew its lease before quick looks: then it runs out once more.
    becomes(lambda: figures(quick).leases_expired > 0 or sql(address, expire))
    quick.wait("a", DEADLINE)
    gate.open()
    becomes(lambda: figures(slow).fenced > 0)
    assert figures(quick).fenced == 0


def test_polls_that_find_what_nobody_told_are_counted(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    bringer, worker = open_queue(workers=0), open_queue()
    for _ in range(20):
        worker.wait(bringer.enqueue(Job()), DEADLINE)
    told = figures(worker).found_untold
    assert told < 10  # a poll may come between a commit and its notification
    monkeypatch.setattr(Notices, "send", lambda self: None)
    worker.wait(bringer.enqueue(Job()), DEADLINE)
    becomes(lambda: figures(worker).found_untold > told)


def test_who_holds_a_transaction_open_is_named(address: str, open_queue: OpenQueue) -> None:
    queue, place = open_queue(), parse(address)
    with psycopg.connect(place.dsn, application_name="a long report") as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        queue.enqueue_many([Job() for _ in range(20)])
        queue.join(DEADLINE)
        becomes(lambda: "a long report" in figures(queue).oldest_holder)
        assert figures(queue).oldest_age > 0
    becomes(lambda: "a long report" not in figures(queue).oldest_holder)
    assert set(figures(queue).dead_rows) == {"job", "owner", "failure", "meter"}


# ---- odd corners


def test_nul_and_surrogates_in_an_error_hurt_nobody(open_queue: OpenQueue) -> None:
    def handler(job: Job) -> None:
        raise Broken("a\0b\udc00")

    queue = open_queue(handler, max_retries=0)
    job_id = queue.enqueue(Job(payload=b"\0\xff"))
    record = queue.wait(job_id, DEADLINE)
    assert record.status is Status.FAILED
    assert record.payload == b"\0\xff"
    assert "a\\0b" in str(record.error)


def test_the_longest_names_fit_into_the_indexes(open_queue: OpenQueue) -> None:
    chance = random.Random(1)  # what repeats itself would be compressed

    def name(characters: int) -> str:
        return "".join(chr(chance.randrange(0x20000, 0x2A000)) for _ in range(characters))

    longest = 2_600 // 4
    queue = open_queue()
    queue.add_periodic(Every(3600, Job(kind=name(longest)), name=name(200)))
    queue.pause(group=name(longest))
    parent = Job(name(longest), run_at=0.1, group=name(longest), kind=name(longest))
    key = Unique(name(longest))
    meta = {name(100): name(500)}
    for job in (parent, Job(after=[parent.id]), Job(unique=key, meta=meta)):
        assert queue.wait(queue.enqueue(job), DEADLINE).status is Status.COMPLETED
    with pytest.raises(ValueError, match=r"Job.id has 2,604 bytes as UTF-8, more than 2,600"):
        Job(name(longest + 1))


def test_the_history_is_bounded_and_counts_stay(open_queue: OpenQueue) -> None:
    queue = open_queue(history=5)
    for n in range(40):
        queue.enqueue(Job(id=f"job-{n}"))
    queue.join(DEADLINE)
    ledger(queue)._housekeeping._count_ended_at = 0.0
    becomes(lambda: len(queue.jobs(limit=100)) == 5)
    assert queue._ledger.look_ups.counts()[_medium(), Status.COMPLETED] == 40


def ended_before(address: str, number: int) -> None:
    """So many jobs, by somebody else, and so long ago that all processes have heard of it."""
    sql(
        address,
        """INSERT INTO jobqueue.job
            (place, id, kind, lane, size, status, attempts, payload, ended_at)
        SELECT number, number, 'default', 1, 4, 'completed', 1, 'null', now() - interval '1 minute'
        FROM generate_series(1, %s) AS number""",
        number,
    )


def test_what_one_process_has_pruned_the_others_do_not_prune_once_more(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "AT_ONCE", 10)
    monkeypatch.setattr(housekeeping, "PRUNED_AT_ONCE", 10)
    monkeypatch.setattr(housekeeping, "COUNTED_AT_ONCE", 25)  # in the midst of a count, too
    open_queue(None, workers=0).close()  # makes the tables
    ended_before(address, 100)
    queues = [open_queue(history=50) for _ in range(3)]
    becomes(lambda: len(queues[0].jobs(limit=100)) <= 50)
    for _ in range(4):
        poll_again(queues)
    assert len(queues[0].jobs(limit=100)) == 50


def test_what_was_purged_the_history_does_not_let_go_of_once_more(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "AT_ONCE", 10)
    monkeypatch.setattr(housekeeping, "PRUNED_AT_ONCE", 10)
    open_queue(None, workers=0).close()  # makes the tables
    ended_before(address, 100)
    queue = open_queue(history=90)  # it has counted them, and let go of ten
    becomes(lambda: len(queue.jobs(limit=100)) == 90)
    for number in range(81, 101):
        queue.delete(str(number))
    ledger(queue)._housekeeping._history = 50  # not before: it is at it all the time
    becomes(lambda: len(queue.jobs(limit=100)) <= 50)
    for _ in range(3):
        poll_again([queue])
    assert len(queue.jobs(limit=100)) == 50


def test_jobs_that_take_long_to_delete_are_let_go_of_a_few_at_a_time(
    open_queue: OpenQueue, address: str
) -> None:
    """As large ones do: whoever gets no answer for a third of the lease is broken off."""
    open_queue(None, workers=0).close()  # makes the tables
    ended_before(address, 100)
    sql(
        address,
        """CREATE FUNCTION jobqueue.linger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END $$""",
    )
    sql(
        address,
        """CREATE TRIGGER linger BEFORE DELETE ON jobqueue.job FOR EACH ROW
        EXECUTE FUNCTION jobqueue.linger()""",
    )
    queue = open_queue(history=1000)
    assert len(queue.jobs(limit=200)) == 100
    # From now on somebody looks whether an answer comes.
    ledger(queue)._housekeeping._history = 10
    becomes(lambda: len(queue.jobs(limit=200)) == 10)


def test_as_many_as_went_well_are_let_go_of_again(
    open_queue: OpenQueue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "AT_ONCE", 10)
    monkeypatch.setattr(housekeeping, "QUICK_SECONDS", 0.0)  # each time it takes long
    open_queue(None, workers=0).close()  # makes the tables
    ended_before(address, 100)
    # Long enough for none to be broken off, which is what fewer go for.
    queue = open_queue(history=50, path=address.replace("lease=1", "lease=30"))
    becomes(lambda: len(queue.jobs(limit=100)) == 50)
    assert ledger(queue)._housekeeping._prune_at_once == 10


def _medium() -> Any:
    return Job().priority


def test_scheduled_jobs_come_when_they_are_due_wherever(open_queue: OpenQueue) -> None:
    bringer = open_queue(workers=0)
    began = time.monotonic()
    job_id = bringer.enqueue(Job(run_at=0.3))
    open_queue()
    bringer.wait(job_id, DEADLINE)
    assert time.monotonic() - began >= 0.29


@pytest.mark.slow
def test_dead_letters_are_retried_and_purged_in_lots(open_queue: OpenQueue) -> None:
    is_mended = threading.Event()

    def handler(job: Job) -> None:
        if not is_mended.is_set():
            raise Broken

    queue = open_queue(handler, max_retries=0, backoff=Backoff(base=0), capacity=2000)
    queue.enqueue_many([Job() for _ in range(1200)])
    queue.join(30)
    assert len(queue.dead_letters()) == 1200
    is_mended.set()
    assert queue.retry_all() == 1200
    queue.join(30)
    assert queue.dead_letters() == []
    is_mended.clear()
    queue.enqueue_many([Job() for _ in range(600)])
    queue.join(30)
    assert queue.purge() == 600


@pytest.mark.parametrize("lease", [30, 1], ids=["is at work", "hangs"])
def test_who_takes_over_is_ended_by_others_only_if_it_hangs(
    open_queue: OpenQueue, address: str, lease: int
) -> None:
    """Of a process that is known to be gone the lease is over at once, and two see it at once."""
    address = address.replace("lease=1", f"lease={lease}")
    open_queue(path=address, workers=0).close()  # makes the tables
    ((gone,),) = sql(
        address,
        """INSERT INTO jobqueue.owner (name, workers, max_retries, own_retries, expires_at)
        VALUES ('gone', 1, 3, '{}', '-infinity') RETURNING id""",
    )
    ((table,),) = sql(address, CLASS)
    with closing(psycopg.connect(parse(address).dsn)) as taker:
        taker.execute("SELECT pg_advisory_xact_lock(%s, %s)", (table, gone))
        open_queue(path=address, workers=0)
        if lease == 1:
            becomes(lambda: not sql(address, "SELECT id FROM jobqueue.owner WHERE id = %s", gone))
            with pytest.raises(psycopg.OperationalError):
                taker.execute("SELECT")
        else:
            taker.execute("SELECT")


def test_a_job_that_is_refused_pushes_out_nobody(open_queue: OpenQueue) -> None:
    queue = open_queue(workers=0, capacity=2, overflow="drop-oldest")
    queue.enqueue_many([Job("a"), Job("b")])
    unique = Unique("key")
    queue.enqueue(Job("scheduled", run_at=1_000, unique=unique))
    for job_id in ("b", "a"):
        with pytest.raises(DuplicateJob):
            queue.enqueue(Job(job_id))
    with pytest.raises(UnknownJob):
        queue.enqueue_many([Job("child", after=["nobody"]), Job("behind")])
    assert queue.enqueue(Job(unique=unique)) == "scheduled"
    assert {queue.status(job_id) for job_id in "ab"} == {Status.QUEUED}
    with pytest.raises(DuplicateJob):
        queue.enqueue_many([Job("c"), Job("a"), Job("d")])
    assert [str(queue.status(job_id)) for job_id in "abc"] == ["dropped", "queued", "queued"]


def test_a_dead_letter_that_is_retried_is_under_no_suspicion(
    address: str, open_queue: OpenQueue
) -> None:
    def fails(job: Job) -> None:
        raise Broken

    queue = open_queue(fails, max_retries=0)
    letter = queue.enqueue(Job())
    queue.wait(letter, DEADLINE)
    sql(address, "UPDATE jobqueue.job SET interrupted = 2, suspect = true")  # it was, by then
    queue.pause()
    queue.retry(letter)
    assert sql(address, "SELECT interrupted, suspect FROM jobqueue.job") == [(0, False)]


def test_tables_that_somebody_has_emptied_do_not_end_the_queue(
    open_queue: OpenQueue, address: str
) -> None:
    """As between two tests of a program: all but the owners."""
    queue = open_queue()
    queue.wait(queue.enqueue(Job()), DEADLINE)
    sql(address, "TRUNCATE jobqueue.job, jobqueue.purged, jobqueue.forgotten CASCADE")
    poll_again([queue])
    assert queue.wait(queue.enqueue(Job(payload=1)), DEADLINE).result == 1


def test_a_dead_letter_that_somebody_has_for_a_moment_is_retried(
    open_queue: OpenQueue, address: str
) -> None:
    """And who has it for longer is named as what it is."""
    path = address.replace("lease=1", "lease=60")
    queue = open_queue(lambda job: 1 / 0, max_retries=0, path=path)
    job_id = queue.enqueue(Job())
    queue.wait(job_id, DEADLINE)
    place = parse(address)
    with psycopg.connect(place.dsn) as connection:
        lock = f"SELECT FROM {place.schema}.job WHERE id = %s FOR SHARE"
        connection.execute(lock.encode(), (job_id,))
        with pytest.raises(StorageError, match="open elsewhere"):
            queue.retry(job_id)
        retrying = Background(queue.retry, job_id)
        becomes(lambda: sql(address, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        connection.rollback()
        retrying.result()
