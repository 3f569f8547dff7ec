"""Periodic jobs: each tick is one job, over restarts, crashes and whatever is done to the clock."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import sys
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import (
    AsyncJobQueue,
    Every,
    Job,
    JobQueue,
    PeriodicExists,
    Priority,
    Status,
    StorageError,
    Unique,
    UnknownPeriodic,
)
from final.beyond.filters import Filter
from final.beyond.periodic import ON_TIME, Cron, Entry, Interval, iso
from final.engine.messages import Close, GiveOrder
from final.ledger import base
from final.ledger.base import AT_ONCE
from final.testing import InlineQueue
from tests.final.engine import Engine, ask, jobs, report
from tests.final.helpers import OpenQueue, child, completes, in_file, next_line, nothing
from tests.final.test_bad_files import make_old_file
from tests.helpers import DEADLINE, Gate, Journal

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = 60.0
HOUR = 3600.0
DAY = 86_400.0
FAR = Every(DAY, Job(), name="far")


# ---- the words ---------------------------------------------------------------------------------


class TestEvery:
    @pytest.mark.parametrize(
        ("schedule", "text"),
        [
            ("0  3 * * *", "0 3 * * *"),
            ("0 0 3 * * *", "0 0 3 * * *"),
            (60, "every 60 s"),
            (0.25, "every 0.25 s"),
            (timedelta(minutes=5), "every 300 s"),
            ("every 7 s", "every 7 s"),
        ],
    )
    def test_a_schedule_is_kept_as_text(self, schedule: Any, text: str) -> None:
        every = Every(schedule, Job(kind="report"))
        assert (every.schedule, every.name) == (text, f"report {text}")
        assert dataclasses.replace(every, name="mine").schedule == text

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (
                {"schedule": "61 * * * *"},
                r"Every.schedule '61 \* .* is no cron text \(Bad minute\)",
            ),
            ({"schedule": "* * *"}, r"is no cron text \(Wrong number of fields\)"),
            ({"schedule": "0 0 30 2 *"}, r"Every.schedule '0 0 30 2 \*' is no cron text"),
            ({"schedule": ""}, "Every.schedule must not be empty"),
            ({"schedule": "every now and then"}, "Every.schedule 'every now and then' is not like"),
            ({"schedule": "every 0 s"}, "Every.schedule must be a number from 0.01"),
            ({"schedule": 0}, "Every.schedule, an interval in seconds, must be a number from 0.01"),
            (
                {"schedule": -5},
                "Every.schedule, an interval in seconds, must be a number from 0.01",
            ),
            ({"schedule": float("nan")}, "Every.schedule, an interval in seconds, must be"),
            ({"schedule": timedelta(0)}, "Every.schedule, an interval in seconds, must be"),
            ({"timezone": "Mars/Olympus"}, "Every.timezone 'Mars/Olympus' is not known here"),
            ({"timezone": "../etc/passwd"}, "Every.timezone '../etc/passwd' is no time zone"),
            ({"timezone": ""}, "Every.timezone must not be empty"),
            ({"schedule": 5, "timezone": "Europe/Berlin"}, "Every.timezone is for cron text"),
            ({"missed": "never"}, "Every.missed must be one of once, all, skip, not 'never'"),
            ({"name": "n" * 201}, "Every.name may have 200 characters, not 201"),
            ({"job": Job(run_at=5)}, "Every.job has run_at=, which a periodic job cannot have"),
            ({"job": Job(after=["x"])}, "Every.job has after="),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            Every(**{"schedule": "0 3 * * *", "job": Job(), **wrong})

    @pytest.mark.parametrize(
        "wrong", [{"schedule": None}, {"schedule": True}, {"job": "report"}, {"name": 5}], ids=str
    )
    def test_and_what_is_of_another_type(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match="Every"):
            Every(**{"schedule": "0 3 * * *", "job": Job(), **wrong})

    def test_without_cronsim_an_interval_will_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cronsim", None)
        Every(60, Job())
        with pytest.raises(ImportError, match=r"pip install 'three-stage-job-queue\[cron\]'"):
            Every("0 3 * * *", Job())

    def test_a_job_comes_back_as_it_was(self) -> None:
        job = Job(
            payload={"to": ["ann"]},
            kind="mail",
            priority=Priority.HIGH,
            timeout=5,
            group="tenant",
            unique=Unique("k", within=60),
            meta={"user": "7"},
        )
        task = Entry.of(Every(60, job, name="mails"), 1_000.0, 1_000).task(1_060.0)
        assert task.id == "mails@1970-01-01T00:17:40Z"
        assert (task.kind, task.priority, task.timeout) == ("mail", Priority.HIGH, 5)
        assert (task.group, task.unique, task.meta) == ("tenant", job.unique, {"user": "7"})
        assert task.payload is not None
        assert json.loads(task.payload) == {"to": ["ann"]}


# ---- when --------------------------------------------------------------------------------------


def ticks(text: str, after: datetime, until: datetime) -> list[str]:
    cron, tick, found = Cron(text, BERLIN), after.timestamp(), []
    while (tick := cron.after(tick) or 0.0) < until.timestamp():
        found.append(f"{datetime.fromtimestamp(tick, BERLIN):%d. %H:%M %Z}")
    return found


SPRING = (datetime(2026, 3, 29, 0, 55, tzinfo=BERLIN), datetime(2026, 3, 29, 4, 5, tzinfo=BERLIN))
AUTUMN = (datetime(2026, 10, 25, 0, 55, tzinfo=BERLIN), datetime(2026, 10, 25, 4, 5, tzinfo=BERLIN))
DAYLIGHT = [
    ("30 2 * * *", SPRING, ["29. 03:00 CEST"]),
    ("30 2 * * *", AUTUMN, ["25. 02:30 CEST"]),
    ("15,45 2 * * *", SPRING, ["29. 03:00 CEST"]),
    ("15,45 2 * * *", AUTUMN, ["25. 02:15 CEST", "25. 02:45 CEST"]),
    ("0 * * * *", SPRING, ["29. 01:00 CET", "29. 03:00 CEST", "29. 04:00 CEST"]),
    (
        "0 * * * *",
        AUTUMN,
        ["25. 01:00 CEST", "25. 02:00 CEST", "25. 02:00 CET", "25. 03:00 CET", "25. 04:00 CET"],
    ),
    ("0 1-4 * * *", SPRING, ["29. 01:00 CET", "29. 03:00 CEST", "29. 04:00 CEST"]),
    (
        "0 1-4 * * *",
        AUTUMN,
        ["25. 01:00 CEST", "25. 02:00 CEST", "25. 03:00 CET", "25. 04:00 CET"],
    ),
]


class TestDaylightSaving:
    """What cronsim does, which does what Debian's cron does. A new version may not change it."""

    @pytest.mark.parametrize(("text", "night", "expected"), DAYLIGHT)
    def test_a_night_in_which_the_clocks_are_changed(
        self, text: str, night: tuple[datetime, datetime], expected: list[str]
    ) -> None:
        assert ticks(text, *night) == expected

    @pytest.mark.parametrize(("night", "hours"), [(SPRING, 2), (AUTUMN, 4)])
    def test_every_ten_minutes_goes_on_evenly(
        self, night: tuple[datetime, datetime], hours: int
    ) -> None:
        cron, tick = Cron("*/10 * * * *", BERLIN), night[0].timestamp()
        for _ in range(6 * hours):
            before, tick = tick, cron.after(tick) or 0.0
            assert tick - before == (600 if before % 600 == 0 else 300)

    @pytest.mark.parametrize("night", [SPRING, AUTUMN])
    def test_a_daily_job_runs_once_on_each_day(self, night: tuple[datetime, datetime]) -> None:
        first = night[0] - timedelta(days=3)
        found = ticks("30 2 * * *", first, first + timedelta(days=7))
        assert len(found) == len({text[:3] for text in found}) == 7

    @given(
        text=st.sampled_from(
            [
                "30 2 * * *",
                "*/7 * * * *",
                "5 1-3 * * *",
                "0 */2 * * *",
                "59 1 29 * *",
                "1,2 2,3 * * *",
            ]
        ),
        night=st.sampled_from([SPRING, AUTUMN]),
        minutes=st.integers(0, 400),
        seconds=st.floats(0, 59.9),
    )
    def test_the_latest_tick_is_where_a_step_at_a_time_would_lead(
        self, text: str, night: tuple[datetime, datetime], minutes: int, seconds: float
    ) -> None:
        cron = Cron(text, BERLIN)
        first = cron.after(night[0].timestamp() - 2 * HOUR)
        now = night[0].timestamp() + minutes * MINUTE + seconds
        if first is None or first > now:
            return
        latest: float = first
        while (following := cron.after(latest)) is not None and following <= now:
            latest = following
        assert cron.latest(first, now) == latest


class TestIntervals:
    @given(seconds=st.sampled_from([0.01, 0.3, 1.0, 7.0, 3600.0]), count=st.floats(0, 1000))
    def test_the_latest_is_on_the_grid_and_not_after_now(
        self, seconds: float, count: float
    ) -> None:
        interval, first = Interval(seconds), 1_790_000_000.123456
        now = first + count * seconds
        latest = interval.latest(first, now)
        assert now - seconds - 1e-5 <= latest <= now + 1e-5
        steps = (latest - first) / seconds
        assert steps == pytest.approx(round(steps), abs=0.01)

    @given(seconds=st.sampled_from([0.01, 0.1, 0.3, 1.1]), count=st.integers(0, 1000))
    def test_on_a_tick_that_is_the_latest(self, seconds: float, count: int) -> None:
        """Or the next turn would make another job of it, where missed="once" means one."""
        interval, first = Interval(seconds), 1_790_000_000.123456
        now = first
        for _ in range(count):
            now = interval.after(now)
        assert interval.latest(first, now) == now


# ---- in an engine without threads, and with clocks of its own ----------------------------------


def change(engine: Engine, how: Any, *every: Every) -> bool:
    entries = [Entry.of(each, engine.wall, 1_000_000) for each in every]
    return bool(ask(engine, GiveOrder[bool](base.ChangePeriodic(how, entries))))


def made(engine: Engine) -> list[str]:
    """The jobs that there are, in the order of acceptance."""
    return [record.id for record in reversed(engine.ledger.look_ups.jobs(Filter(), -1))]


def minute_passes(engine: Engine) -> None:
    """A turn makes the job of a tick, and the next one queues it: it is due."""
    engine.now += MINUTE
    engine.settle()
    engine.settle()


class TestTicks:
    def test_a_tick_is_one_job_and_is_slept_for(self) -> None:
        engine = Engine(workers=1)
        assert engine.sleeps() is None
        change(engine, "add", Every(MINUTE, Job(payload="x"), name="m"))
        assert engine.sleeps() == pytest.approx(1.0)  # the wall clock may be set
        engine.now += 59.5
        assert engine.sleeps() == 0
        engine.settle()
        assert made(engine) == []
        assert engine.sleeps() == pytest.approx(0.5)
        engine.now += 0.5
        engine.settle()
        assert engine.sleeps() == 0
        engine.settle()
        assert engine.handed_out == [[f"m@{iso(engine.wall)}"]]
        engine.settle(report(engine.batches[0]))
        engine.turn(later=59.0)
        assert len(made(engine)) == 1

    def test_ticks_are_on_a_grid_however_late_somebody_looks(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(10, Job(), name="m", missed="all"))
        for seconds in (13.0, 9.0, 8.0):
            engine.turn(later=seconds)
        assert made(engine) == [f"m@{iso(began + n * 10)}" for n in (1, 2, 3)]

    @pytest.mark.parametrize(
        ("missed", "late", "ticks"),
        [
            ("once", 1, [6]),
            ("all", 1, [1, 2, 3, 4, 5, 6]),
            ("skip", 1, [6]),
            ("once", ON_TIME + 1, [6]),
            ("skip", ON_TIME + 1, []),
        ],
    )
    def test_of_those_that_nobody_was_there_for(
        self, tmp_path: Any, missed: Any, late: float, ticks: list[int]
    ) -> None:
        engine = Engine(str(tmp_path / "jobs.db"))
        began = engine.wall
        change(engine, "add", Every(HOUR, Job(), name="m", missed=missed))
        engine.crash()
        engine.now += 6 * HOUR + late
        engine.open()
        engine.settle()
        assert made(engine) == [f"m@{iso(began + n * HOUR)}" for n in ticks]
        engine.settle()
        assert len(made(engine)) == len(ticks)
        engine.now += HOUR - late
        engine.settle()
        assert made(engine)[-1] == f"m@{iso(began + 7 * HOUR)}"

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM periodic WHERE name = 'm'",
            "UPDATE periodic SET next_tick = NULL WHERE name = 'm'",
            "UPDATE periodic SET schedule = 'at times' WHERE name = 'm'",
        ],
    )
    def test_a_row_that_another_program_changes_ends_nothing(
        self, tmp_path: Any, statement: str
    ) -> None:
        path = str(tmp_path / "jobs.db")
        engine = Engine(path)
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(), name="m"), Every(MINUTE, Job(), name="other"))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        minute_passes(engine)
        assert made(engine) == [f"other@{iso(began + MINUTE)}"]
        assert engine.sleeps() != 0

    def test_of_very_many_an_exchange_makes_only_some(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(1, Job(), name="m", missed="all"))
        engine.turn(later=2.5 * AT_ONCE)
        assert made(engine) == [f"m@{iso(began + n)}" for n in range(1, AT_ONCE + 1)]
        assert engine.sleeps() == 0
        for _ in range(3):
            engine.turn()
        assert made(engine) == [f"m@{iso(began + n)}" for n in range(1, 5 * AT_ONCE // 2 + 1)]

    def test_the_clock_is_set_forward(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(HOUR, Job(), name="m"))
        engine.ahead += DAY + 1
        engine.turn(later=1.0)
        assert made(engine) == [f"m@{iso(began + DAY)}"]

    def test_the_clock_is_set_back_and_no_tick_comes_twice(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(), name="m", missed="all"))
        engine.turn(later=MINUTE)
        engine.ahead -= HOUR
        for _ in range(60):
            engine.turn(later=MINUTE)
        assert len(made(engine)) == 1
        engine.turn(later=MINUTE)
        assert made(engine) == [f"m@{iso(began + n * MINUTE)}" for n in (1, 2)]

    def test_what_cannot_be_written_is_made_later_and_once(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(), name="m", missed="all"))
        engine.file.failures = 2
        engine.turn(later=MINUTE)
        assert made(engine) == []
        for _ in range(3):
            engine.turn(later=1.0)
        assert made(engine) == [f"m@{iso(began + MINUTE)}"]
        engine.turn(later=MINUTE)
        assert made(engine) == [f"m@{iso(began + n * MINUTE)}" for n in (1, 2)]

    def test_an_order_that_cannot_be_written_has_changed_nothing(self) -> None:
        engine = Engine()
        engine.file.failures = 1
        with pytest.raises(StorageError):
            change(engine, "add", Every(MINUTE, Job(), name="m"))
        engine.turn(later=1.0)
        assert engine.file.periodic() == []
        assert engine.sleeps() is None

    def test_a_full_lane_holds_up_no_tick_and_others_are_told_what_is_theirs(self) -> None:
        engine = Engine(workers=1, capacity=1)
        change(engine, "add", Every(MINUTE, Job(), name="m"))
        engine.settle(jobs("runs"))
        engine.settle(jobs("waits"))
        engine.now += MINUTE
        request = jobs("later")
        engine.settle(request)
        assert made(engine) == ["runs", "waits", f"m@{iso(engine.wall)}"]
        assert not request.answered
        engine.settle()
        assert engine.waiting() == ["waits", f"m@{iso(engine.wall)}"]

    def test_of_a_unique_job_there_is_one_that_has_not_ended(self) -> None:
        engine = Engine(workers=1)
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(unique=Unique("k")), name="m"))
        for _ in range(3):
            minute_passes(engine)
        assert made(engine) == [f"m@{iso(began + MINUTE)}"]
        engine.settle(report(engine.batches[0]))
        minute_passes(engine)
        assert made(engine) == [f"m@{iso(began + n * MINUTE)}" for n in (1, 4)]

    def test_of_others_one_comes_beside_that_which_runs(self) -> None:
        engine = Engine(workers=2)
        change(engine, "add", Every(MINUTE, Job(), name="m"))
        minute_passes(engine)
        minute_passes(engine)
        assert len(engine.handed_out) == 2

    def test_an_id_that_is_taken_is_passed_over(self) -> None:
        engine = Engine()
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(), name="m"))
        engine.turn(jobs(f"m@{iso(began + MINUTE)}"))
        engine.turn(later=MINUTE)
        engine.turn(later=MINUTE)
        assert made(engine) == [f"m@{iso(began + n * MINUTE)}" for n in (1, 2)]

    def test_while_the_queue_closes_no_tick_comes_and_it_closes(self) -> None:
        engine = Engine(workers=1)
        change(engine, "add", Every(MINUTE, Job(), name="m"))
        engine.settle(jobs("long"))
        engine.turn(Close(drain=True))
        engine.now += 2 * MINUTE
        engine.settle()
        assert engine.sleeps() is None
        engine.settle(report(engine.batches[0]))
        assert engine.dispatcher.done
        assert made(engine) == ["long"]

    def test_a_kind_that_nobody_handles_waits_for_who_does(self, tmp_path: Any) -> None:
        engine = Engine(str(tmp_path / "jobs.db"))
        began = engine.wall
        change(engine, "add", Every(MINUTE, Job(kind="other"), name="m", missed="all"))
        engine.crash()
        handles, shares = engine._kinds
        engine._kinds = (lambda kind: kind != "other"), shares
        engine.open()
        engine.turn(later=2 * MINUTE)
        assert (made(engine), engine.sleeps()) == ([], None)
        engine.crash()
        engine._kinds = handles, shares
        engine.open()
        engine.settle()
        assert made(engine) == [f"m@{iso(began + n * MINUTE)}" for n in (1, 2)]

    def test_what_cannot_be_read_here_is_left_alone(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        engine = Engine(str(tmp_path / "jobs.db"))
        change(
            engine, "add", Every("* * * * *", Job(), name="cron"), Every(MINUTE, Job(), name="m")
        )
        engine.crash()
        monkeypatch.setitem(sys.modules, "cronsim", None)
        engine.open()
        engine.turn(later=MINUTE)
        assert [job_id[:2] for job_id in made(engine)] == ["m@"]
        assert "Periodic entry 'cron' is left alone: Cron text needs cronsim" in caplog.text
        assert [entry.name for entry in engine.file.periodic()] == ["cron", "m"]


# ---- a queue -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Any) -> str:
    return str(tmp_path / "jobs.db")


def names(queue: JobQueue) -> list[str]:
    return [record.name for record in queue.periodic()]


class TestAQueue:
    """Here on a file, in tests/postgres on a database."""

    def test_runs_its_jobs_whose_ids_say_which_tick(
        self, open_queue: OpenQueue, path: str, journal: Journal
    ) -> None:
        every = Every(0.05, Job(payload={"n": 1}), name="often")
        queue = open_queue(
            lambda job: journal.write((job.id, job.payload)), path=path, periodic=[every]
        )
        journal.wait_for_count(3)
        ids = [job_id for job_id, payload in journal.entries if payload == {"n": 1}]
        moments = [datetime.fromisoformat(job_id.removeprefix("often@")) for job_id in ids]
        assert moments == sorted(set(moments))
        [record] = queue.periodic()
        assert record.last is not None
        assert record.next is not None
        assert record[:5] == ("often", "every 0.05 s", "UTC", "once", "default")
        assert (record.payload, record.paused) == ({"n": 1}, False)
        assert record.last >= moments[2].timestamp() - 0.001

    def test_entries_come_change_and_go(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue(nothing, path=path)
        queue.add_periodic(FAR)
        queue.add_periodic(Every("0 3 * * *", Job(priority="high"), timezone="Europe/Berlin"))
        first, second = queue.periodic()
        assert (first.name, first.priority, first.timezone) == (
            "default 0 3 * * *",
            Priority.HIGH,
            "Europe/Berlin",
        )
        assert datetime.fromtimestamp(first.next or 0, BERLIN).hour == 3
        with pytest.raises(PeriodicExists, match="There is a periodic entry called 'far': change"):
            queue.add_periodic(FAR)
        queue.change_periodic(Every(DAY, Job(payload=b"new"), name="far", missed="all"))
        changed = queue.periodic()[1]
        assert (changed.payload, changed.missed, changed.next) == (b"new", "all", second.next)
        queue.change_periodic(Every(2 * DAY, Job(), name="far"))
        assert queue.periodic()[1].schedule == "every 172800 s"
        assert (queue.periodic()[1].next or 0) > (second.next or 0)
        queue.remove_periodic("far")
        assert names(queue) == ["default 0 3 * * *"]
        for act in (queue.pause_periodic, queue.resume_periodic, queue.remove_periodic):
            with pytest.raises(UnknownPeriodic, match="No periodic entry is called 'far'"):
                act("far")
        with pytest.raises(UnknownPeriodic):
            queue.change_periodic(FAR)
        assert completes(queue)

    def test_a_pause_ends_with_the_next_tick(
        self, open_queue: OpenQueue, path: str, journal: Journal
    ) -> None:
        queue = open_queue(lambda job: journal.write(job.id), path=path)
        queue.add_periodic(FAR)
        before = queue.periodic()[0].next
        queue.pause_periodic("far")
        queue.pause_periodic("far")
        assert (queue.periodic()[0].paused, queue.periodic()[0].next) == (True, None)
        queue.change_periodic(Every(0.05, Job(), name="far"))
        assert (queue.periodic()[0].paused, queue.periodic()[0].next) == (True, None)
        queue.change_periodic(FAR)
        queue.resume_periodic("far")
        [record] = queue.periodic()
        assert not record.paused
        assert (record.next or 0) >= (before or 0)
        queue.resume_periodic("far")
        assert queue.periodic() == [record]
        assert journal.entries == []

    def test_what_is_declared_is_stored_and_what_is_not_stays(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        with open_queue(nothing, path=path, periodic=[FAR]) as queue:
            queue.add_periodic(Every(DAY, Job(), name="by hand"))
            [_, before] = queue.periodic()
            queue.pause_periodic("by hand")
        again = [Every(DAY, Job(payload=2), name="far"), Every(HOUR, Job(), name="more")]
        with open_queue(nothing, path=path, periodic=again) as queue:
            by_hand, far, more = queue.periodic()
            assert (by_hand.name, by_hand.paused) == ("by hand", True)
            assert (far.payload, far.next) == (2, before.next)
            assert more.name == "more"
        with open_queue(nothing, path=path) as queue:
            assert names(queue) == ["by hand", "far", "more"]
            later = [Every(2 * DAY, Job(), name="far"), Every(HOUR, Job(), name="by hand")]
        with open_queue(nothing, path=path, periodic=later) as queue:
            by_hand, far, _ = queue.periodic()
            assert (far.schedule, by_hand.paused) == ("every 172800 s", True)
            assert (far.next or 0) > (before.next or 0)

    def test_what_was_missed_is_made_up_for_at_the_next_start(
        self, open_queue: OpenQueue, path: str, journal: Journal
    ) -> None:
        every = Every(0.05, Job(), name="often", missed="all")
        open_queue(nothing, path=path, periodic=[every]).close()
        queue = open_queue(lambda job: journal.write(job.id), path=path, history=100_000)
        journal.wait_for_count(5)
        queue.pause_periodic("often")
        queue.join(DEADLINE)
        found = sorted(r.id for r in queue.jobs(limit=10_000))
        first = datetime.fromisoformat(found[0].removeprefix("often@")).timestamp()
        assert found == [f"often@{iso(round(first + n * 0.05, 6))}" for n in range(len(found))]

    def test_names_are_for_one_entry(self, open_queue: OpenQueue, path: str) -> None:
        twice = [Every(DAY, Job()), Every(DAY, Job(payload=2))]
        with pytest.raises(
            ValueError, match="Two periodic entries are called 'default every 86400 s'"
        ):
            open_queue(nothing, path=path, periodic=twice)

    def test_what_could_not_be_enqueued_is_refused(self, open_queue: OpenQueue, path: str) -> None:
        queue = open_queue({"known": nothing}, path=path, max_payload=100)
        with pytest.raises(ValueError, match=r"Job.kind 'typo' has no handler here"):
            queue.add_periodic(Every(DAY, Job(kind="typo")))
        with pytest.raises(ValueError, match=r"Job.payload takes"):
            queue.add_periodic(Every(DAY, Job(kind="known", payload="x" * 1_000)))
        wrong: Any = Job(kind="known")
        with pytest.raises(TypeError, match="A periodic entry is an Every, not Job"):
            queue.add_periodic(wrong)
        with pytest.raises(TypeError, match="A periodic entry's name is text"):
            queue.pause_periodic(wrong)
        assert queue.periodic() == []

    @pytest.mark.parametrize("periodic", [5, [Job()]])
    def test_and_so_at_the_start(self, open_queue: OpenQueue, path: str, periodic: Any) -> None:
        with pytest.raises(TypeError, match="Every"):
            open_queue(nothing, path=path, periodic=periodic)
        assert completes(open_queue(nothing, path=path))

    def test_a_queue_with_a_fast_entry_closes(
        self, open_queue: OpenQueue, path: str, journal: Journal
    ) -> None:
        gate = Gate()

        def handler(job: Job) -> None:
            journal.write(job.id)
            gate.wait()

        queue = open_queue(
            handler, path=path, workers=1, periodic=[Every(0.01, Job(), name="fast")]
        )
        journal.wait_for_count(1)
        gate.open()
        assert queue.close(timeout=DEADLINE)

    def test_one_of_many_does_not_take_part_in_what_another_entry_is(
        self, open_queue: OpenQueue, path: str
    ) -> None:
        queue = open_queue(nothing, path=path)
        for n in range(20):
            queue.add_periodic(Every(DAY, Job(payload=n), name=str(n)))
        queue.pause_periodic("7")
        queue.remove_periodic("8")
        found = {record.name: (record.payload, record.paused) for record in queue.periodic()}
        assert found == {str(n): (n, n == 7) for n in range(20) if n != 8}


def test_to_change_one_of_many_looks_at_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of them each change would hold up everybody else for a while."""
    looks, due = Journal(), Entry.due

    def noted(entry: Entry, now: float, most: int) -> Any:
        looks.write(entry.name)
        return due(entry, now, most)

    periodic = [Every(HOUR, Job(), name=f"entry {number}") for number in range(100)]
    with InlineQueue(nothing, periodic=periodic) as queue:
        monkeypatch.setattr(Entry, "due", noted)
        queue.add_periodic(Every(MINUTE, Job(), name="new"))
        queue.pause_periodic("entry 7")
        queue.resume_periodic("entry 7")
        queue.remove_periodic("entry 8")
        assert set(looks.entries) == {"new", "entry 7"}
        queue.clock.advance(MINUTE)
        assert len(queue.drain()) == 1
        queue.clock.advance(HOUR)
        assert len(queue.drain()) == 100


def test_in_tests_of_others_ticks_come_when_the_clock_says_so() -> None:
    ran: list[str] = []
    every = Every(HOUR, Job(), name="hourly", missed="all")
    with InlineQueue(lambda job: ran.append(job.id[:6]), periodic=[every]) as queue:
        assert queue.drain() == []
        queue.clock.advance(3 * HOUR + 1)
        assert len(queue.drain()) == 3
        queue.add_periodic(Every("0 0 * * *", Job(), name="daily"))
        queue.pause_periodic("hourly")
        queue.clock.advance(DAY)
        assert [record.id[:6] for record in queue.drain()] == ["daily@"]
    assert ran == ["hourly"] * 3 + ["daily@"]


def test_a_queue_to_await_has_them_too(path: str) -> None:
    async def program() -> list[str]:
        async with AsyncJobQueue(nothing, path=path, periodic=[FAR]) as queue:
            await queue.add_periodic(Every(HOUR, Job(), name="more"))
            await queue.change_periodic(Every(2 * HOUR, Job(), name="more"))
            await queue.pause_periodic("more")
            await queue.resume_periodic("more")
            await queue.remove_periodic("far")
            return [record.schedule for record in await queue.periodic()]

    assert asyncio.run(program()) == ["every 7200 s"]


# ---- a process that is killed ------------------------------------------------------------------


def test_kill_9_costs_no_tick_and_doubles_none(path: str) -> None:
    said: set[str] = set()  # a job that a kill interrupts says so again in the next life
    for _ in range(3):
        with child("periodic", path) as process:
            said.update(next_line(process) for _ in range(3))
    with closing(sqlite3.connect(path)) as connection:
        ((last,),) = connection.execute("SELECT last_tick FROM periodic").fetchall()
    ids = in_file(path, "id")
    first = datetime.fromisoformat(ids[0].removeprefix("often@")).timestamp()
    assert said <= set(ids)
    assert ids == [f"often@{iso(round(first + n * 0.05, 6))}" for n in range(len(ids))]
    assert ids[-1] == f"often@{iso(last)}"


@pytest.fixture
def old_file(path: str) -> str:
    make_old_file(path, 5)
    return path


def test_a_file_of_an_older_release_can_have_periodic_jobs(
    open_queue: OpenQueue, old_file: str, journal: Journal
) -> None:
    queue = open_queue(lambda job: journal.write(job.id[:6]), path=old_file)
    queue.add_periodic(Every(0.05, Job(), name="often"))
    journal.wait_for("often@")
    assert queue.status("later") is Status.SCHEDULED
