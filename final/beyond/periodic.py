"""Periodic jobs: ``Every`` says when, by cron text or an interval, and what is enqueued then.

A *tick* is a moment at which a job is due. Each one is a Unix time, the same for all processes:
they follow from the schedule and from the tick before, and not from who looks when. The job of a
tick is called after it, so nobody can bring it in twice.

Which tick is next is kept in the file (``ledger/features/periodic.py``) or the database
(``ledger/postgres/periodic.py``).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from final.beyond.meta import frozen
from final.beyond.unique import Unique
from final.job import Job, Priority, Task
from final.options import require_choice, require_number, require_text
from final.payload import Stored, decode, encode

LONGEST_NAME = 200  # characters: it begins the ids of its jobs
SHORTEST_INTERVAL = 0.01  # seconds
# With missed="skip": who is no later than this has not missed a tick. Cron knows no seconds.
ON_TIME = 60.0
# What a row raises that makes no sense here: without cronsim or its time zone, or of another
# program.
UNREADABLE = (ImportError, ValueError, LookupError, TypeError, OverflowError, OSError)

# What of a Job each tick's job has. The rest is an error, and is not forgotten silently.
CARRIED = ("priority", "kind", "timeout", "group", "unique", "meta")
INTERVAL = re.compile(r"every ([0-9]+(?:\.[0-9]+)?) s")


@dataclass(frozen=True, slots=True)
class Every:
    """A job that is enqueued again and again: ``Every("0 3 * * *", Job(kind="report"))``.

    schedule: cron text (minute, hour, day of month, month, day of week; a sixth field in front is
        seconds), which needs the cronsim library; or an interval, in seconds or as a timedelta,
        kept as text ("every 60 s"). The first tick of an interval is one interval from now.
    job: what is enqueued. Its id does not count: that of a tick's job is made of name and tick, as
        "nightly@2026-03-29T01:00:00Z", so a handler knows its tick.
    name: which entry it is, also after a restart; at most 200 characters. By default the job's kind
        and the schedule, as "report 0 3 * * *".
    timezone: of cron text, as "Europe/Berlin".
    missed: what comes of ticks at which no process was there. "once": one job for all of them, that
        of the latest tick. "all": one for each. "skip": none, if the latest is over a minute late.

    Raises TypeError or ValueError, naming the field, for cron text that makes no sense or never
    comes, an unknown time zone, an interval below 0.01 s, and a job with ``run_at`` or ``after``.
    Raises ImportError for cron text without cronsim.
    """

    schedule: str
    job: Job
    _: KW_ONLY
    name: str = ""
    timezone: str = "UTC"
    missed: Literal["once", "all", "skip"] = "once"

    if TYPE_CHECKING:  # what goes in as a number comes out as text

        def __init__(
            self,
            schedule: str | float | timedelta,
            job: Job,
            *,
            name: str = "",
            timezone: str = "UTC",
            missed: Literal["once", "all", "skip"] = "once",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", _text_of(self.schedule))
        require_text("Every.timezone", self.timezone)
        if schedule_of(self.schedule, self.timezone).after(datetime.now(UTC).timestamp()) is None:
            raise ValueError(f"Every.schedule {self.schedule!r} never comes: look at its days.")
        _require_job(self.job)
        require_choice("Every.missed", self.missed, ("once", "all", "skip"))
        if self.name == "":
            object.__setattr__(self, "name", f"{self.job.kind} {self.schedule}")
        require_text("Every.name", self.name)
        if len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"Every.name may have {LONGEST_NAME} characters, not {len(self.name):,}: give one "
                "with name=."
            )


class PeriodicRecord(NamedTuple):
    """What the queue knows of a periodic entry.

    schedule: as text, "0 3 * * *" or "every 60 s". kind, priority and payload: of its jobs. last:
    the latest tick that has counted; next: the one to come; Unix seconds, None for none.
    """

    name: str
    schedule: str
    timezone: str
    missed: str
    kind: str
    priority: Priority
    payload: Any
    paused: bool
    last: float | None
    next: float | None


class Entry(NamedTuple):
    """A periodic entry as it is stored. Times are Unix seconds. job: as JSON, but its payload."""

    name: str
    schedule: str
    timezone: str
    missed: str
    job: str
    payload: Stored
    paused: bool = False
    last: float | None = None
    next: float | None = None

    @classmethod
    def of(cls, every: Every, now: float, max_payload: int) -> Entry:
        """Its first tick is the first one after ``now``. Raises as ``encode``."""
        payload = encode("Job.payload", every.job.payload, max_payload)
        names = (every.name, every.schedule, every.timezone, every.missed)
        return cls(*names, _carried(every.job), payload).from_(now)

    def from_(self, now: float) -> Entry:
        """The same, with ``now`` as its beginning."""
        return self._replace(next=schedule_of(self.schedule, self.timezone).after(now))

    def record(self) -> PeriodicRecord:
        job = json.loads(self.job)
        payload = decode(self.payload)
        what = (job["kind"], Priority(job["priority"]), payload)
        when = (self.name, self.schedule, self.timezone, self.missed)
        return PeriodicRecord(*when, *what, bool(self.paused), self.last, self.next)

    def kind(self) -> str:
        return str(json.loads(self.job)["kind"])

    def due(self, now: float, most: int) -> tuple[list[float], float | None]:
        """The ticks to make jobs of, of those up to ``now``; and the tick after these.

        most: so many of a long row; then that tick may have come, too.
        """
        schedule = schedule_of(self.schedule, self.timezone)
        assert self.next is not None, "it is due"
        if self.missed != "all":
            latest = schedule.latest(self.next, now)
            is_too_late = self.missed == "skip" and now - latest > ON_TIME
            return ([] if is_too_late else [latest]), schedule.after(latest)
        ticks: list[float] = []
        following: float | None = self.next
        while following is not None and following <= now and len(ticks) < most:
            ticks.append(following)
            following = schedule.after(following)
        return ticks, following

    def task(self, tick: float) -> Task:
        """The job of a tick: a scheduled one, whose time has come, so it needs no room.

        Raises as ``Job`` does, where a row of another program makes no sense.
        """
        stored = json.loads(self.job)
        unique = None if stored["unique"] is None else Unique(**stored["unique"])
        carried = {name: stored[name] for name in CARRIED if name in stored} | {"unique": unique}
        job = Job(f"{self.name}@{iso(tick)}", **carried)
        task = Task(job.id, self.payload, job.priority, job.kind)
        task.timeout, task.group, task.unique = job.timeout, job.group or "", job.unique
        task.meta = frozen("Job.meta", job.meta)
        task.size = len(self.payload) + task.meta.size()
        task.due_at, task.by_clock = tick, True
        return task


class Interval(NamedTuple):
    """A tick every so many seconds, on a grid that begins when the entry comes in."""

    seconds: float

    def after(self, tick: float) -> float:
        return round(tick + self.seconds, 6)

    def latest(self, first: float, now: float) -> float:
        """The last tick up to ``now``, of those from ``first`` on, which has come."""
        latest = round(first + (now - first) // self.seconds * self.seconds, 6)
        following = self.after(latest)  # where numbers are rounded, that may have come, too
        return following if following <= now else latest


class Cron(NamedTuple):
    """The ticks of cron text, as Debian's cron has them, also when the clocks are changed.

    At an hour that does not exist a job with a fixed time runs just after; of an hour that comes
    twice it takes the first. Where minute or hour begin with ``*`` all goes on evenly.
    """

    text: str
    zone: tzinfo

    def after(self, tick: float) -> float | None:
        """The next one; None if there is none within fifty years."""
        for moment in self._from(tick):
            # In an hour that comes twice it may look back into the first one.
            if (found := moment.timestamp()) > tick:
                return float(found)
        return None

    def latest(self, first: float, now: float) -> float:
        """The last tick up to ``now``, of those from ``first`` on, which has come.

        A short way back, and then forward: what counts is where that leads.
        """
        before = next(self._from(now, reverse=True), None)
        latest = first
        if before is not None and first < before.timestamp() <= now:
            latest = before.timestamp()
        while (following := self.after(latest)) is not None and following <= now:
            latest = following
        return latest

    def _from(self, moment: float, reverse: bool = False) -> Any:
        return _cronsim().CronSim(self.text, datetime.fromtimestamp(moment, self.zone), reverse)


def schedule_of(text: str, timezone: str) -> Interval | Cron:
    """Raises ValueError or ImportError, as ``Every``."""
    if text.startswith("every"):
        found = INTERVAL.fullmatch(text)
        if found is None:
            raise ValueError(f"Every.schedule {text!r} is not like 'every 60 s', nor cron text.")
        if timezone != "UTC":
            raise ValueError("Every.timezone is for cron text: an interval is the same everywhere.")
        seconds = float(found[1])
        require_number("Every.schedule", seconds, SHORTEST_INTERVAL)
        return Interval(seconds)
    cronsim = _cronsim()
    try:
        cronsim.CronSim(text, datetime.now(UTC))
    except cronsim.CronSimError as error:
        raise ValueError(
            f"Every.schedule {text!r} is no cron text ({error}): write it like '0 3 * * *', or an "
            "interval in seconds."
        ) from None
    return Cron(text, _zone(timezone))


def iso(tick: float) -> str:
    """As it stands in a job's id."""
    return datetime.fromtimestamp(tick, UTC).isoformat().replace("+00:00", "Z")


def require_names(entries: Sequence[Entry]) -> None:
    """Raise where two have one name."""
    for name, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            raise ValueError(
                f"Two periodic entries are called {name!r}: tell them apart with Every(name=)."
            )


def _text_of(schedule: object) -> str:
    if isinstance(schedule, str):
        require_text("Every.schedule", schedule)
        return " ".join(schedule.split())
    seconds = schedule.total_seconds() if isinstance(schedule, timedelta) else schedule
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"Every.schedule must be cron text, seconds or a timedelta, not {schedule!r}."
        )
    require_number("Every.schedule, an interval in seconds,", seconds, SHORTEST_INTERVAL)
    return f"every {f'{seconds:.6f}'.rstrip('0').rstrip('.')} s"


def _require_job(job: object) -> None:
    if not isinstance(job, Job):
        raise TypeError(f"Every.job must be a Job, not {type(job).__name__}.")
    for each in dataclasses.fields(Job):
        if each.name in (*CARRIED, "id", "payload"):
            continue
        if getattr(job, each.name) != each.default:
            raise ValueError(f"Every.job has {each.name}=, which a periodic job cannot have.")


def _carried(job: Job) -> str:
    values: dict[str, object] = {name: getattr(job, name) for name in CARRIED}
    if job.unique is not None:
        values["unique"] = dataclasses.asdict(job.unique)
    return json.dumps(values)


def _cronsim() -> Any:
    try:
        import cronsim
    except ImportError as error:
        raise ImportError(
            "Cron text needs cronsim: pip install 'three-stage-job-queue[cron]'. (An interval in "
            "seconds does not.)"
        ) from error
    return cronsim


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError) as error:  # also ZoneInfoNotFoundError, which is a KeyError
        raise ValueError(f"Every.timezone {name!r} is no time zone: {error}.") from None
    except KeyError:
        raise ValueError(
            f"Every.timezone {name!r} is not known here: write it like 'Europe/Berlin', or install "
            "tzdata where the system has no time zones."
        ) from None
