"""The commands, what they take and how they end. Read this first.

Every command but ``serve`` and ``bench`` asks a *place* where the jobs are (places.py): a running
service (remote.py) or a file that no service runs (local.py); finding.py says which. Both answer
in the documents of the service's API, so what a command prints (showing.py) does not depend on
which it was.

But: no rules of the queue, and no waiting for the end of a job: ``/events`` tells of those.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from final.cli import showing
from final.cli.finding import DB, find
from final.cli.places import Misuse, Place, Refused, Trouble, Unreachable
from final.errors import StorageError
from final.job import Priority, Status

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

app = typer.Typer(help=HELP, pretty_exceptions_enable=False)

# Every command line that typer does not understand; it has no public name for them all.
UsageError: Any = typer.BadParameter.__base__

Url = Annotated[str | None, typer.Option(help="The service, as http://127.0.0.1:8080.")]
Db = Annotated[Path | None, typer.Option(help="The file, instead of a service.")]
Token = Annotated[str | None, typer.Option(help="The service's token (better: JOBQUEUE_TOKEN).")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, a line for each job.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Which jobs.")]
Kind = Annotated[str | None, typer.Option("--type", help="Of this type only.")]
Lane = Annotated[Priority | None, typer.Option(help="Of this priority only.")]
Limit = Annotated[int, typer.Option(min=1, help="So many at most.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments or ["--help"], prog_name="jobqueue", standalone_mode=False)
    except UsageError as error:
        _end(Misuse.code, f"{error.format_message().rstrip('.')}. See --help.")
    except Trouble as trouble:
        _end(trouble.code, str(trouble))
    except StorageError as error:
        _end(Unreachable.code, str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _end(code: int, sentence: str) -> None:
    _complain(sentence)
    sys.exit(code)


def _complain(sentence: str) -> None:
    print(showing.plain(" ".join(sentence.split())), file=sys.stderr)


# ---- the service ---------------------------------------------------------------------------


@app.command()
def serve(
    handlers: Annotated[
        str | None,
        typer.Option(help="module:name of the handlers; without it a demo set runs."),
    ] = None,
    db: Annotated[Path, typer.Option(help="The file.")] = Path(DB),
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
    shutdown_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for what is in flight at the end.")
    ] = 30.0,
    demo_seconds: Annotated[
        float, typer.Option(min=0, help="How long a job of the demo set takes.")
    ] = 0.2,
) -> None:
    """Serve a file over HTTP, with a dashboard, until Ctrl-C or SIGTERM."""
    import logging

    from final.service import server  # here, because it takes longer than all other commands

    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        server.serve(
            handlers,
            db=os.fspath(db),
            workers=workers,
            capacity=capacity,
            host=host,
            port=port,
            token=token,
            names=allow_host or (),
            shutdown_timeout=shutdown_timeout,
            demo_seconds=demo_seconds,
        )
    except (server.ServiceError, TypeError, ValueError) as error:
        raise Misuse(str(error)) from error


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
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create a job; returns when it is durable. In a file it waits for the next start."""
    wishes = {
        "type": kind,
        "payload": _json(sys.stdin.read() if payload == "-" else payload),
        "priority": priority.value,
        "id": job_id,
        "run_at": _run_at(run_at),
        "timeout": timeout,
    }
    with find(url, db, token, create=True) as place:
        job = place.create({name: value for name, value in wishes.items() if value is not None})
        showing.job_line(job, place.name, as_json)


@app.command()
def jobs(
    status: Annotated[Status | None, typer.Option(help="In this status only.")] = None,
    kind: Kind = None,
    priority: Lane = None,
    limit: Limit = 20,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The newest jobs."""
    with find(url, db, token) as place:
        showing.job_list(place.jobs(status, kind, priority, limit), place.name, as_json)


@app.command()
def dead_letters(
    kind: Kind = None,
    priority: Lane = None,
    limit: Limit = 20,
    url: Url = None,
    db: Db = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The newest jobs that have failed for good, with their errors."""
    with find(url, db, token) as place:
        found = place.jobs(Status.FAILED, kind, priority, limit)
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


# ---- figures -------------------------------------------------------------------------------


@app.command()
def stats(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
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
def bench(
    seconds: Annotated[
        float, typer.Option(min=0.05, help="For each of the four measurements.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """How fast this disk takes durable jobs: a few seconds, on a scratch file in this folder."""
    from final.cli import bench

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


def _json(text: str) -> object:
    def refuse(name: str) -> Iterator[object]:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Misuse(
            f"""The payload is no JSON ({error}): write '{{"to": "ada"}}', or '"ada"' for text."""
        ) from None


def _run_at(text: str | None) -> str | float | None:
    """Seconds if it is a number; else the text of a time, which the place reads."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
