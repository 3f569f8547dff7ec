"""A place: where the jobs are, a service or a file, and what can go wrong there.

But: how to talk to the one is in remote.py, how to read and write the other in local.py, and
which one a command line means in finding.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from final.job import Priority, Status

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
