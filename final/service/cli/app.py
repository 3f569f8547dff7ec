"""The commands, what they take and how they end. Read this first.

Every command but ``serve`` and ``bench`` asks a *place* where the jobs are (places.py): a running
service (remote.py) or a file that no service runs (local.py); finding.py says which. Both answer
in the documents of the service's API, so what a command prints (showing.py) does not depend on
which it was.

But: no rules of the queue, and no waiting for the end of a job: ``/events`` tells of those.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from final.beyond.filters import Filter, filter_of
from final.engine import loading
from final.errors import StorageError
from final.job import Priority, Status
from final.service.cli import showing
from final.service.cli.finding import DB, find
from final.service.cli.places import Act, Misuse, Place, Refused, Trouble, Unreachable
from final.service.models import read_time
from final.service.strict import parse

# A line for each paragraph: the terminal wraps them.
HELP = "\n\n".join(
    [
        "Jobs of a running service, or of a file.",
        "Without --url and --db that is the service on this machine, where one answers (port 8080, "
        f"or PORT), and else {DB} in this folder. JOBQUEUE_URL and JOBQUEUE_TOKEN stand in for "
        "--url and --token. --db always means the file itself: it can be looked at while a process "
        "has it, but not changed.",
        "Ends with 0 if all went well. 1: there is no such job, it has failed, or its status does "
        "not allow this. 2: the command line makes no sense. 3: no service answers, or it takes no "
        "jobs now; or another process has the file, or it cannot be used. Errors are one sentence "
        "on stderr.",
    ]
)

# Columns. A terminal that has fewer breaks the lines, and nothing is cut off; but what draws over
# itself (--watch) has to fit.
NARROWEST = 50

app = typer.Typer(help=HELP, pretty_exceptions_enable=False)

# Every command line that typer does not understand; it has no public name for them all.
UsageError: Any = typer.BadParameter.__base__

Url = Annotated[str | None, typer.Option(help="The service, as http://127.0.0.1:8080.")]
Db = Annotated[str | None, typer.Option(help="The file or postgresql://..., and no service.")]
Token = Annotated[str | None, typer.Option(help="The service's token (better: JOBQUEUE_TOKEN).")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, a line for each job.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Which jobs.")]
Kind = Annotated[str | None, typer.Option("--type", help="Of this type only.")]
Lane = Annotated[Priority | None, typer.Option(help="Of this priority only.")]
OfGroup = Annotated[str | None, typer.Option("--group", help="Of this group only.")]
WithMeta = Annotated[
    list[str] | None,
    typer.Option("--meta", metavar="NAME=VALUE", help="Only with this meta; repeatable."),
]
PausedKind = Annotated[str | None, typer.Option("--type", "--kind", help="Jobs of this type.")]
PausedLane = Annotated[Priority | None, typer.Option(help="Or of this priority.")]
PausedGroup = Annotated[str | None, typer.Option(help="Or of this group.")]

A_TIME = "2030-01-31T08:00:00Z, or Unix seconds"
EnqueuedAfter = Annotated[str | None, typer.Option(help=f"Accepted since {A_TIME}.")]
EnqueuedBefore = Annotated[str | None, typer.Option(help=f"Accepted before {A_TIME}.")]
EndedAfter = Annotated[str | None, typer.Option(help=f"Ended since {A_TIME}.")]
EndedBefore = Annotated[str | None, typer.Option(help=f"Ended before {A_TIME}.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]


def _finite(seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("It is a number of seconds.")
    return seconds


Limit = Annotated[int, typer.Option(min=1, max=2**63 - 1, help="So many at most.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _reopen_what_is_closed()
    if os.environ.get("COLUMNS") == "0":  # so says a terminal that does not know
        del os.environ["COLUMNS"]
    if shutil.get_terminal_size().columns < NARROWEST and "--watch" not in arguments:
        os.environ["COLUMNS"] = str(NARROWEST)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # it may not know every character of a job
    try:
        loading.done()
        code = app(arguments or ["--help"], prog_name="jobqueue", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        said = error.format_message().replace("Value error, ", "").rstrip(".")
        stop = "" if said.endswith("?") else "."
        _end(Misuse.code, f"{said}{stop} See --help.")
    except Trouble as trouble:
        _end(trouble.code, str(trouble))
    except StorageError as error:
        _end(Unreachable.code, str(error))
    except KeyboardInterrupt:
        sys.exit(loading.INTERRUPTED)
    except BrokenPipeError:
        _end_without_output(0)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer takes that for a failure
            _end_without_output(0)
        raise
    except OSError as error:
        if error.filename:  # the scratch file of `bench`
            _end(Unreachable.code, f"{error.filename} cannot be written: {error.strerror}.")
        _complain(f"The output cannot be written: {error.strerror or error}.")
        _end_without_output(Unreachable.code)
    sys.exit(code if isinstance(code, int) else 0)


def _reopen_what_is_closed() -> None:
    """As nothing, or the next file that is opened would be what a stray line is written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # so says Python
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (as long as we live)


def _end(code: int, sentence: str) -> None:
    _complain(sentence)
    sys.exit(code)


def _end_without_output(code: int) -> None:
    """Nobody reads it, or it cannot be written; Python would try once more, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _complain(sentence: str) -> None:
    line = showing.plain(" ".join(sentence.split()))
    with contextlib.suppress(OSError):
        print(line.encode("utf-8", "replace").decode(), file=sys.stderr, flush=True)


# ---- the service ---------------------------------------------------------------------------


@app.command()
def serve(
    handlers: Annotated[
        str | None,
        typer.Option(help="module:name of the handlers; without it a demo set runs."),
    ] = None,
    db: Annotated[str, typer.Option(help="The file, or postgresql://...")] = DB,
    workers: Annotated[int, typer.Option(help="How many jobs run at a time.")] = 4,
    capacity: Annotated[int, typer.Option(help="How many may wait in each lane.")] = 1_000,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Or PORT; 8080 by default, 0 for any free one."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="What clients must send (better: JOBQUEUE_TOKEN).")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients may call it; repeatable.")
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Under which a proxy offers it, for example /queue.")
    ] = "",
    max_retries: Annotated[int, typer.Option(help="Further attempts after the first fails.")] = 3,
    backoff: Annotated[
        float, typer.Option(help="Seconds before the first of them; doubled each time.")
    ] = 1.0,
    backoff_maximum: Annotated[float, typer.Option(help="Seconds, at most.")] = 60.0,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that an attempt may take, if a job has no own.")
    ] = None,
    rate_limit: Annotated[
        list[str] | None,
        typer.Option(
            help="Starts per second: 50 for all, or email=10 for a type; 10/20 lets 20 start at "
            "once after a pause. Repeatable."
        ),
    ] = None,
    group_limit: Annotated[
        int | None, typer.Option(help="How many jobs of a group run at a time.")
    ] = None,
    fairness: Annotated[
        int, typer.Option(min=0, help="How often a waiting lane is passed over; 0: always.")
    ] = 10,
    overflow: Annotated[
        str, typer.Option(help="A full lane: block, reject, drop-newest or drop-oldest.")
    ] = "block",
    executor: Annotated[str, typer.Option(help="Handlers in a thread or a process.")] = "thread",
    durability: Annotated[str, typer.Option(help="full, or normal (not over a power cut).")] = (
        "full"
    ),
    history: Annotated[int, typer.Option(help="How many ended jobs the file keeps.")] = 100_000,
    shutdown_timeout: Annotated[
        float, typer.Option(callback=_finite, help="Seconds for what is in flight at the end.")
    ] = 30.0,
    demo_seconds: Annotated[
        float, typer.Option(min=0, callback=_finite, help="How long a job of the demo set takes.")
    ] = 0.2,
) -> None:
    """Serve a file over HTTP, with a dashboard, until Ctrl-C, SIGTERM or SIGHUP."""
    from final.options import Backoff
    from final.service import server  # here, because it takes longer than all other commands
    from final.service.cli.running import keep_log, limits

    keep_log()
    try:
        server.serve(
            handlers,
            db=db,
            workers=workers,
            capacity=capacity,
            host=host,
            port=port,
            token=token,
            names=allow_host or (),
            root_path=root_path,
            max_retries=max_retries,
            backoff=Backoff(backoff, backoff_maximum),
            timeout=timeout,
            rate_limit=limits(rate_limit or []),
            group_limit=group_limit,
            fairness=fairness or None,
            overflow=overflow,
            executor=executor,
            durability=durability,
            history=history,
            shutdown_timeout=shutdown_timeout,
            demo_seconds=demo_seconds,
        )
    except (server.ServiceError, TypeError, ValueError) as error:
        raise Misuse(str(error)) from error


@app.command()
def migrate(
    db: Annotated[str, typer.Option(help="postgresql://...?queue=name")],
) -> None:
    """Make the tables of a queue in PostgreSQL, or bring them up to date."""
    from final.ledger.postgres.address import is_address, parse

    if not is_address(db):
        raise Misuse(
            "--db is postgresql://... here: a file is brought up to date when it is opened."
        )
    try:
        address = parse(db)
    except ValueError as error:
        raise Misuse(str(error)) from error
    try:
        import psycopg

        from final.ledger.postgres.migrate import migrate
        from final.ledger.postgres.session import connect, explained
    except ImportError as error:
        raise Unreachable(f"It takes psycopg: pip install 'psycopg[binary]' ({error}).") from error
    try:
        with connect(address) as connection:
            done = migrate(connection, address)
    except psycopg.Error as error:
        raise Unreachable(str(explained(address, error))) from error
    for name in done:
        typer.echo(f"{address.schema}: {name}")
    if not done:
        typer.echo(f"{address.schema} is up to date.")


# ---- jobs ----------------------------------------------------------------------------------


@app.command()
def enqueue(
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs it.")],
    payload: Annotated[
        str,
        typer.Argument(
            metavar="[PAYLOAD]", help="JSON; - reads it from standard input.", show_default=False
        ),
    ] = "null",
    priority: Annotated[Priority, typer.Option(help="Its lane.")] = Priority.MEDIUM,
    job_id: Annotated[
        str | None, typer.Option("--id", help="A name of your own: to send it again is safe.")
    ] = None,
    run_at: Annotated[
        str | None, typer.Option(help="2030-01-31T08:00:00Z, or seconds from now.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that an attempt may take.")] = None,
    group: Annotated[str | None, typer.Option(help="Whose it is: groups take turns.")] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A job that has to end first; may be given several times."),
    ] = None,
    if_failed: Annotated[
        str | None, typer.Option(help="What if one of these fails: cancel (the default), or run.")
    ] = None,
    unique: Annotated[
        str | None, typer.Option(metavar="KEY", help="Not beside another job with this key.")
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="Seconds for which it holds its key; else until its end.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Or until it has 'started' or 'ended'.")] = None,
    then: Annotated[
        str | None, typer.Option(help="If the key is held: 'skip', or 'replace' what waits.")
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(help="Seconds that 'replace' may put it off in all.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What it is about, to be found by; repeatable."),
    ] = None,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create a job; returns when it is durable. In a file it waits for the next start."""
    rules = {"within": within, "until": until, "then": then, "max_wait": max_wait}
    given = {name: value for name, value in rules.items() if value is not None}
    if given and unique is None:
        raise Misuse(f"--{min(given).replace('_', '-')} is about --unique KEY: give that, too.")
    wishes = {
        "type": kind,
        "payload": _json(_input() if payload == "-" else payload),
        "priority": priority.value,
        "id": job_id,
        "run_at": _run_at(run_at),
        "timeout": timeout,
        "group": group,
        "after": after or None,
        "if_failed": if_failed,
        "unique": None if unique is None else {"key": unique, **given},
        "meta": _meta(meta) or None,
    }
    with find(url, db, token, create=True) as place:
        job = place.create({name: value for name, value in wishes.items() if value is not None})
        showing.job_line(job, place.name, as_json)


@app.command()
def jobs(
    status: Annotated[Status | None, typer.Option(help="In this status only.")] = None,
    kind: Kind = None,
    priority: Lane = None,
    group: OfGroup = None,
    meta: WithMeta = None,
    limit: Limit = 20,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The newest jobs."""
    wanted = _wanted(status, kind, priority, group, meta)
    with find(url, db, token) as place:
        showing.job_list(place.jobs(wanted, limit), place.name, as_json)


@app.command()
def dead_letters(
    kind: Kind = None,
    priority: Lane = None,
    group: OfGroup = None,
    meta: WithMeta = None,
    limit: Limit = 20,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The newest jobs that have failed for good, with their errors."""
    wanted = _wanted(Status.FAILED, kind, priority, group, meta)
    with find(url, db, token) as place:
        found = place.jobs(wanted, limit)
        showing.job_list(found, place.name, as_json, errors=True)


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Which job.")],
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """All about a job, with its failed attempts. Ends with 1 if it has failed for good."""
    with find(url, db, token) as place:
        job = place.job(job_id)
        showing.job_details(job, place.name, as_json)
    if job["status"] == Status.FAILED:
        raise typer.Exit(Refused.code)


@app.command()
def retry(
    ids: Ids, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """Put dead letters back into their lanes, with all their attempts."""
    with find(url, db, token) as place:
        _each(ids, place.retry, place, as_json)


@app.command()
def cancel(
    ids: Ids, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """Keep jobs from running, or tell their handlers to stop."""
    with find(url, db, token) as place:
        _each(ids, place.cancel, place, as_json)


@app.command()
def delete(
    ids: Ids, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """Delete jobs that have ended."""
    with find(url, db, token) as place:
        _each(ids, place.delete, place, as_json)


# ---- many jobs at once ---------------------------------------------------------------------


@app.command()
def cancel_all(
    status: Annotated[Status | None, typer.Option(help="In this status only.")] = None,
    kind: Kind = None,
    priority: Lane = None,
    group: OfGroup = None,
    meta: WithMeta = None,
    enqueued_after: EnqueuedAfter = None,
    enqueued_before: EnqueuedBefore = None,
    dry_run: DryRun = False,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Cancel all jobs that have not ended, or those that are meant."""
    times = {"enqueued_after": enqueued_after, "enqueued_before": enqueued_before}
    wanted = _wanted(status, kind, priority, group, meta, **times)
    if status is not None and status.ended:
        raise Misuse(f"--status {status} is of jobs that have ended: these are not cancelled.")
    with find(url, db, token) as place:
        _deal(place, "cancel-all", wanted, dry_run, as_json)


@app.command()
def retry_all(
    kind: Kind = None,
    priority: Lane = None,
    group: OfGroup = None,
    meta: WithMeta = None,
    enqueued_after: EnqueuedAfter = None,
    enqueued_before: EnqueuedBefore = None,
    ended_after: EndedAfter = None,
    ended_before: EndedBefore = None,
    dry_run: DryRun = False,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Put all dead letters back into their lanes, or those that are meant."""
    times = {"enqueued_after": enqueued_after, "enqueued_before": enqueued_before}
    times |= {"ended_after": ended_after, "ended_before": ended_before}
    wanted = _wanted(None, kind, priority, group, meta, **times)
    with find(url, db, token) as place:
        _deal(place, "retry-all", wanted, dry_run, as_json)


@app.command()
def purge(
    status: Annotated[
        Status | None, typer.Option(help="In this status; without it, dead letters.")
    ] = None,
    kind: Kind = None,
    priority: Lane = None,
    group: OfGroup = None,
    meta: WithMeta = None,
    enqueued_after: EnqueuedAfter = None,
    enqueued_before: EnqueuedBefore = None,
    ended_after: EndedAfter = None,
    ended_before: EndedBefore = None,
    dry_run: DryRun = False,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Delete all dead letters, or other jobs that have ended, or those that are meant."""
    times = {"enqueued_after": enqueued_after, "enqueued_before": enqueued_before}
    times |= {"ended_after": ended_after, "ended_before": ended_before}
    wanted = _wanted(status, kind, priority, group, meta, **times)
    if status is not None and not status.ended:
        raise Misuse(f"--status {status} is of jobs that have not ended: cancel them first.")
    with find(url, db, token) as place:
        _deal(place, "purge", wanted, dry_run, as_json)


# ---- pause and scale -----------------------------------------------------------------------


@app.command()
def pause(
    kind: PausedKind = None,
    priority: PausedLane = None,
    group: PausedGroup = None,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Start no more jobs: of a type, a priority or a group, or none at all. What runs goes on.

    It holds until `resume`, over restarts too, and for all processes of a database.
    """
    with find(url, db, token) as place:
        showing.paused(place.pause(_part(kind, priority, group)), place.name, as_json)


@app.command()
def resume(
    kind: PausedKind = None,
    priority: PausedLane = None,
    group: PausedGroup = None,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Take back the pause with the same options, and no other one."""
    with find(url, db, token) as place:
        showing.paused(place.resume(_part(kind, priority, group)), place.name, as_json)


@app.command()
def workers(
    number: Annotated[
        str, typer.Argument(metavar="NUMBER|default", help="default: what its start says.")
    ],
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """How many jobs run at a time, also after a restart. Surplus workers end what they have."""
    if number != "default" and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Misuse(f"{number!r} is no number of workers: write it as 8, or default.")
    with find(url, db, token) as place:
        answer = place.set_workers(None if number == "default" else int(number))
        showing.workers(answer, place.name, as_json)


# ---- periodic jobs -------------------------------------------------------------------------

periodic = typer.Typer(
    help="What is enqueued again and again: cron text, or every so many seconds."
)
app.add_typer(periodic, name="periodic")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Which entry.")]


@periodic.command("list")
def list_periodic(
    url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """The entries, with their next ticks."""
    with find(url, db, token) as place:
        showing.periodic(place.periodic(), place.name, as_json)


@periodic.command("add")
def add_periodic(
    schedule: Annotated[
        str, typer.Argument(metavar="SCHEDULE", help="'0 3 * * *', or seconds, as 300.")
    ],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs its jobs.")],
    payload: Annotated[
        str,
        typer.Argument(
            metavar="[PAYLOAD]", help="JSON; - reads it from standard input.", show_default=False
        ),
    ] = "null",
    priority: Annotated[Priority, typer.Option(help="The lane of its jobs.")] = Priority.MEDIUM,
    name: Annotated[
        str | None, typer.Option(help="What it is called; by default the type and the schedule.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of cron text, as Europe/Berlin.")] = "UTC",
    missed: Annotated[
        str, typer.Option(help="Ticks that nobody saw: 'once' for them all, 'all', or 'skip'.")
    ] = "once",
    unique: Annotated[
        str | None, typer.Option(metavar="KEY", help="Not beside another job with this key.")
    ] = None,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Enqueue a job again and again from now on."""
    job = {
        "type": kind,
        "payload": _json(_input() if payload == "-" else payload),
        "priority": priority.value,
        "unique": None if unique is None else {"key": unique},
    }
    wishes = {
        "schedule": _run_at(schedule),
        "job": {key: value for key, value in job.items() if value is not None},
        "name": name,
        "timezone": timezone,
        "missed": missed,
    }
    with find(url, db, token, create=True) as place:
        entry = place.add_periodic({k: value for k, value in wishes.items() if value is not None})
        showing.periodic([entry], place.name, as_json)


@periodic.command("pause")
def pause_periodic(
    name: Name, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """No jobs of an entry until it is resumed."""
    with find(url, db, token) as place:
        showing.periodic([place.pause_periodic(name)], place.name, as_json)


@periodic.command("resume")
def resume_periodic(
    name: Name, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """Its next tick is the first one from now on."""
    with find(url, db, token) as place:
        showing.periodic([place.resume_periodic(name)], place.name, as_json)


@periodic.command("remove")
def remove_periodic(
    name: Name, url: Url = None, db: Db = None, token: Token = None, as_json: Json = False
) -> None:
    """No more jobs of an entry; those that are enqueued stay."""
    with find(url, db, token) as place:
        showing.periodic([place.remove_periodic(name)], place.name, as_json)


# ---- figures -------------------------------------------------------------------------------


@app.command()
def stats(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(min=0.1, max=86_400, callback=_finite, help="Seconds between two looks."),
    ] = 1.0,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """How many jobs wait, run and have ended, by priority; of a service also how fast."""
    with find(url, db, token) as place:
        if watch:
            with contextlib.suppress(KeyboardInterrupt):
                showing.watch(place.stats, place.name, as_json, interval)
        else:
            showing.stats(place.stats(), place.name, as_json)


@app.command()
def groups(
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many at most.")] = 10,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Whose jobs wait: the groups with most of them, and for how long."""
    with find(url, db, token) as place:
        showing.groups(place.groups(limit), place.name, as_json)


@app.command()
def bench(
    seconds: Annotated[
        float,
        typer.Option(
            min=0.05, max=3_600, callback=_finite, help="For each of the four measurements."
        ),
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """How fast this disk takes durable jobs: a few seconds, on a scratch file in this folder."""
    from final.service.cli import bench

    showing.measurements(bench.measure(seconds), as_json)


# ---- inside --------------------------------------------------------------------------------


def _each(
    ids: list[str], act: Callable[[str], dict[str, Any]], place: Place, as_json: bool
) -> None:
    """Do it to all of them; one that is refused does not keep the next from its turn."""
    refused = False
    for job_id in ids:
        try:
            showing.job_line(act(job_id), place.name, as_json)
        except Refused as trouble:
            _complain(str(trouble))
            refused = True
    if refused:
        raise typer.Exit(Refused.code)


def _wanted(
    status: Status | None,
    kind: str | None,
    priority: Priority | None,
    group: str | None,
    meta: list[str] | None,
    **times: str | None,
) -> Filter:
    try:
        moments = {name: _moment(text) for name, text in times.items()}
        return filter_of(status, kind, priority, group, _meta(meta), **moments)
    except ValueError as error:
        raise Misuse(str(error)) from None


def _moment(text: str | None) -> datetime | float | None:
    """A time, or Unix seconds."""
    number = _run_at(text)
    return read_time(number) if isinstance(number, str) else number


def _deal(place: Place, act: Act, wanted: Filter, dry_run: bool, as_json: bool) -> None:
    """With all that is meant, and a bar where that takes a while."""
    jobs = place.deal(act, wanted, True, lambda _: None)
    if not dry_run and jobs:
        with showing.progress(act, jobs) as progress:
            jobs = place.deal(act, wanted, False, progress)
    showing.dealt(act, jobs, dry_run, place.name, as_json)


def _meta(pairs: list[str] | None) -> dict[str, str]:
    meta: dict[str, str] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign or meta.setdefault(name, value) != value:
            raise Misuse(f"--meta is NAME=VALUE, as user=7, each name once: not {pair!r}.")
    return meta


def _part(kind: str | None, priority: Priority | None, group: str | None) -> dict[str, Any]:
    named = {"type": kind, "priority": priority and priority.value, "group": group}
    return {name: value for name, value in named.items() if value is not None}


def _input() -> str:
    try:
        return sys.stdin.read()
    except (UnicodeDecodeError, OSError) as error:
        raise Misuse(f"The payload cannot be read from standard input: {error}.") from None


def _json(text: str) -> object:
    """As strictly as the service takes it."""
    try:
        return parse(text.encode())
    except UnicodeEncodeError:
        raise Misuse("The payload is no UTF-8.") from None
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise Misuse(
            f"""The payload is no JSON ({reason}): write '{{"to": "ada"}}', or '"ada"' for text."""
        ) from None


def _run_at(text: str | None) -> str | float | None:
    """Seconds if it is a number; else the text of a time, which the place reads."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
