"""Where the jobs are: a service or a file. Which one a command means, and what can go wrong there.

But: how to talk to the one is in remote.py, how to read and write the other in local.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from final.job import Priority, Status

DB = "jobs.db"

Document = dict[str, Any]  # as the API of the service has it


class Trouble(Exception):
    """The command cannot do it; the message is for the user, ``code`` ends the process."""

    code: ClassVar[int]


class Refused(Trouble):
    """There is no such job, or its status does not allow this."""

    code = 1


class Misuse(Trouble):
    """What was asked for makes no sense."""

    code = 2


class Unreachable(Trouble):
    """No service answers or it takes nothing now, or the file is another's."""

    code = 3


class Place(Protocol):
    """Where jobs are. All methods raise ``Trouble``."""

    name: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def create(self, wishes: Document) -> Document:
        """A new job, by the fields of ``POST /jobs``."""

    def jobs(
        self, status: Status | None, kind: str | None, priority: Priority | None, limit: int
    ) -> Iterator[Document]:
        """The newest first, as a list of the API has them."""

    def job(self, job_id: str) -> Document:
        """All about one, as ``GET /jobs/{id}`` has it."""

    def retry(self, job_id: str) -> Document: ...

    def cancel(self, job_id: str) -> Document: ...

    def stats(self) -> Document:
        """As ``GET /stats`` has it; null where only a running service could know."""


def find(url: str | None, db: Path | None, token: str | None, create: bool = False) -> Place:
    """The place that a command line means; ``create``: whether --db may name a new file."""
    from final.cli.local import File
    from final.cli.remote import Remote, answers

    token = token or os.environ.get("JOBQUEUE_TOKEN") or None
    if url is not None and db is not None:
        raise Misuse("--url names a service and --db a file: give one of them.")
    if str(db) == ":memory:":
        raise Misuse("A database in memory ends with its process: give --db a file.")
    if db is not None:
        return File(os.fspath(db), create)
    url = url or os.environ.get("JOBQUEUE_URL") or None
    if url is not None:
        return Remote(url, token)
    here = f"http://127.0.0.1:{os.environ.get('PORT', '8080')}"
    if answers(here):
        return Remote(here, token)
    if not Path(DB).exists():
        raise Unreachable(
            f"No service answers at {here}, and there is no {DB} in this folder: "
            "start one with `python -m final serve`, or name the place with --url or --db."
        )
    return File(DB)
