"""A place: where the jobs are, a service or a file, and what can go wrong there.

How to talk to the one is in remote.py, how to read and write the other in local.py, and which one
a command line means in finding.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import ValidationError

from final.beyond.control import Pause, pause_of
from final.beyond.filters import Filter
from final.beyond.periodic import Every
from final.engine.many import OnProgress
from final.job import Job
from final.payload import encode
from final.service.models import Body, NewJob, NewPeriodic, Part

LARGEST_PAYLOAD = 1024 * 1024  # bytes; as much as the service takes

Document = dict[str, Any]  # as the API of the service has it
Act = Literal["cancel-all", "retry-all", "purge"]


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

    def jobs(self, wanted: Filter, limit: int) -> Iterator[Document]:
        """The newest first, as a list of the API has them."""

    def job(self, job_id: str) -> Document:
        """All about one, as ``GET /jobs/{id}`` has it."""

    def retry(self, job_id: str) -> Document: ...

    def cancel(self, job_id: str) -> Document: ...

    def pause(self, part: Document) -> Document:
        """By the fields of ``POST /pause``, and answered as that: all that is paused."""

    def resume(self, part: Document) -> Document: ...

    def set_workers(self, number: int | None) -> Document:
        """As ``PUT /workers``; None is what the option says."""

    def periodic(self) -> list[Document]:
        """The periodic entries, as ``GET /periodic`` has them."""

    def add_periodic(self, wishes: Document) -> Document:
        """Another one, by the fields of ``POST /periodic``."""

    def pause_periodic(self, name: str) -> Document: ...

    def resume_periodic(self, name: str) -> Document: ...

    def remove_periodic(self, name: str) -> Document: ...

    def delete(self, job_id: str) -> Document:
        """One that has ended; what it was."""

    def deal(self, act: Act, wanted: Filter, dry_run: bool, progress: OnProgress) -> int:
        """With all that is meant; how many jobs it was. A dry run only counts them."""

    def groups(self, limit: int) -> list[Document]:
        """Whose jobs wait or run, as ``GET /groups`` has them."""

    def stats(self) -> Document:
        """As ``GET /stats`` has it; null where only a running service could know."""


def new_job(wishes: Document) -> Job:
    """The job of these fields, checked as the service does. Raises Misuse, naming the field."""
    try:
        job = NewJob.model_validate(wishes).job()
        encode("payload", job.payload, LARGEST_PAYLOAD)
    except ValidationError as error:
        raise Misuse("; ".join(map(_sentence, error.errors()))) from None
    except (TypeError, ValueError) as error:
        raise Misuse(str(error)) from None
    return job


def checked(model: type[Body], wishes: Document) -> Document:
    """The same, checked as the service does. Raises Misuse, naming the field."""
    try:
        return model.model_validate(wishes).model_dump()
    except ValidationError as error:
        raise Misuse("; ".join(map(_sentence, error.errors()))) from None


def pause_in(part: Document) -> Pause:
    """The pause of these fields, checked as the service does. Raises Misuse, naming the field."""
    checked(Part, part)
    try:
        return pause_of(part.get("type"), part.get("priority"), part.get("group"))
    except ValueError as error:
        raise Misuse(str(error)) from None


def new_periodic(wishes: Document) -> Every:
    """The entry of these fields, checked as the service does. Raises Misuse, naming the field."""
    try:
        every = NewPeriodic.model_validate(wishes).every()
        encode("payload", every.job.payload, LARGEST_PAYLOAD)
    except ValidationError as error:
        raise Misuse("; ".join(map(_sentence, error.errors()))) from None
    except (TypeError, ValueError) as error:
        raise Misuse(str(error)) from None
    return every


def _sentence(error: Any) -> str:
    """What pydantic says of one field."""
    field = ".".join(map(str, error["loc"]))
    return f"{field}: ".removeprefix(": ") + str(error["msg"]).removeprefix("Value error, ")
