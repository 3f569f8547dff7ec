"""Errors as problem details (RFC 9457): which one, in a sentence, and how the client goes on.

An answer stays small whatever was sent: what is wrong with the first fields, and of what was sent
only names (of fields, types and ids), cut to 100 characters.

When which of them is raised is decided elsewhere.
"""

from __future__ import annotations

import http
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from final import (
    DuplicateJob,
    PeriodicExists,
    QueueClosed,
    QueueFull,
    StorageError,
    UnknownJob,
    UnknownPeriodic,
)

# name -> status, title. The address of each type is /problems#name.
PROBLEMS = {
    "queue-full": (503, "The lane is full"),
    "stopping": (503, "The service is stopping"),
    "storage": (503, "The disk cannot be written"),
    "slow": (503, "The queue does not answer in time"),
    "failed": (503, "The queue has failed: start the service again"),
    "busy": (503, "Too many clients"),
    "duplicate": (409, "A job with this id is there already"),
    "unknown-parent": (409, "A job is to come after one that is not there"),
    "periodic-exists": (409, "A periodic entry has this name already"),
    "wrong-state": (409, "The job's status does not allow this"),
    "unknown-job": (404, "No such job"),
    "unknown-periodic": (404, "No such periodic entry"),
    "too-large": (413, "The body is too large"),
    "media-type": (415, "The body is not declared as JSON"),
    "invalid": (422, "The request makes no sense"),
    "json": (400, "The body is not strict JSON"),
    "http": (400, "This is not HTTP as it should be"),
    "host": (421, "Not a name of this service"),
    "origin": (403, "Another site may not do this"),
    "token": (401, "A token is needed"),
}
LARGEST_BODY = 1024 * 1024
TOO_LARGE = f"A request may have {LARGEST_BODY:,} bytes: store the rest, and send where it is."
RETRY_AFTER = {"queue-full": "1", "stopping": "5", "storage": "5", "slow": "5", "busy": "5"}

# What every answer tells a browser: to run nothing but our own files, and to keep nothing.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

FIELDS = {"kind": "type"}  # what the queue calls the fields of a job, and this API does not
# How a sentence of the queue begins, if it is about a field: "Job.kind 'x' has no handler here", or
# "ended_after, an aware datetime or Unix seconds, must be ...".
ABOUT = re.compile(r"(?:Job\.|Every\.)?([a-z][a-z_.]*)(?:,.*?,)? ")
MOST_ERRORS = 20
MOST_IDS = 100
LARGEST_LIST = 40_000  # bytes of ids in an answer: room for a thousand that the queue has made
LONGEST_NAME = 100
LONGEST_DETAIL = 1_000


class Problem(HTTPException):
    """To be raised by an endpoint; ``members`` go into the answer beside the detail.

    An HTTPException, because FastAPI lets only these through while it reads a body.
    """

    def __init__(self, name: str, detail: str, **members: object) -> None:
        super().__init__(PROBLEMS[name][0], detail)
        self.name = name
        self.members = members


def invalid(*errors: tuple[str, str], detail: str = "") -> Problem:
    """Each error is a field and what is wrong with it."""
    listed = [{"field": cut(field), "message": cut(text, 300)} for field, text in errors]
    return Problem(
        "invalid",
        detail or "Some fields cannot be accepted: see errors.",
        errors=listed[:MOST_ERRORS],
    )


def refused_value(error: Exception, within: str = "") -> Problem:
    """The queue has the last word on a value. within: where the field is, as ``job.``"""
    field, rest = named_field(str(error))
    return invalid((f"{within}{field}" if field else "", rest))


def named_field(sentence: str) -> tuple[str, str]:
    """The field that a sentence of the queue begins with, empty for none; and what it says."""
    about = ABOUT.match(sentence)
    if about is None:
        return "", sentence
    return FIELDS.get(about[1], about[1]), sentence[about.end() :]


def cut(text: str, longest: int = LONGEST_NAME) -> str:
    """What somebody sent, or what may hold it, at a bounded length."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def answer(name: str, detail: str, **members: object) -> Response:
    status, title = PROBLEMS[name]
    retry = {"Retry-After": RETRY_AFTER[name]} if name in RETRY_AFTER else {}
    return _details(f"/problems#{name}", title, status, detail, retry, members)


def internal_error() -> Response:
    detail = "Something is wrong inside the service; its log says what."
    return _details("about:blank", "Internal Server Error", 500, detail, {}, {})


def install(app: FastAPI, refused: Counter[str]) -> None:
    """Every error that leaves ``app`` is a problem; ``refused`` counts those with a name."""

    async def answer_problem(_: Request, error: Exception) -> Response:
        problem = _named(error)
        refused[problem.name] += 1
        return answer(problem.name, problem.detail, **problem.members)

    async def answer_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        too_large = error.status_code == 413
        return await (answer_problem(request, error) if too_large else _http_error(request, error))

    async def answer_internal_error(_: Request, __: Exception) -> Response:
        return internal_error()

    named = (Problem, UnknownJob, QueueFull, QueueClosed, StorageError, DuplicateJob)
    periodic = (PeriodicExists, UnknownPeriodic)
    for kind in (*named, *periodic, RequestValidationError):
        app.add_exception_handler(kind, answer_problem)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_internal_error)


def _details(
    kind: str,
    title: str,
    status: int,
    detail: str,
    headers: dict[str, str],
    members: dict[str, Any],
) -> Response:
    detail = cut(detail, LONGEST_DETAIL)
    content = {"type": kind, "title": title, "status": status, "detail": detail, **members}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def _named(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case QueueFull():
            return Problem("queue-full", str(error), **accepted(error.accepted))
        case QueueClosed():
            return Problem("stopping", str(error), **accepted(error.accepted))
        case StorageError():
            return Problem("storage", str(error), **accepted(error.accepted))
        case DuplicateJob():
            return duplicate(error.ids, **accepted(error.accepted))
        case UnknownJob():
            return Problem(
                "unknown-job",
                f"No job {cut(error.id)!r} in this queue: check the id, or the history has let go "
                "of it.",
            )
        case PeriodicExists():
            return Problem("periodic-exists", f"{cut(error.name)!r} is there: choose another name.")
        case UnknownPeriodic():
            detail = f"No periodic entry is called {cut(error.name)!r}: GET /periodic lists them."
            return Problem("unknown-periodic", detail)
        case RequestValidationError():
            return invalid(*(_field_and_message(each) for each in error.errors()[:MOST_ERRORS]))
        case _:  # an HTTPException: a body that turned out to be too long while it was read
            return Problem("too-large", TOO_LARGE)


def accepted(ids: Sequence[str]) -> dict[str, object]:
    """What of a request is durable, as members of a problem: how many, and as many ids as fit."""
    sizes = itertools.accumulate(len(each) + 3 for each in ids)
    listed = [each for each, size in zip(ids, sizes, strict=True) if size <= LARGEST_LIST]
    return {"accepted": listed, "accepted_count": len(ids)}


def duplicate(ids: Sequence[str], **members: object) -> Problem:
    """ids: those that are taken."""
    names = ", ".join(map(cut, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    detail = f"Already in the queue: {names}. Nothing more of this request was stored."
    return Problem("duplicate", detail, ids=list(ids[:MOST_IDS]), **members)


def _field_and_message(error: dict[str, Any]) -> tuple[str, str]:
    """What pydantic says of one field."""
    field = ".".join(cut(str(part)) for part in error["loc"][1:])
    message = str(error["msg"]).removeprefix("Value error, ")
    if field:
        return field, message
    if error["type"] in ("missing", "model_attributes_type"):
        return "", "Send a JSON object."
    return named_field(message)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Of the framework, whose words are only the name of the status."""
    title = http.HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == 404:
        detail = "Nothing has this address: GET /docs shows those that there are."
    elif error.status_code == 405:
        detail = f"{cut(request.method)} is not for this address: GET /docs shows what is."
    return _details("about:blank", title, error.status_code, detail, headers, {})
