"""Errors as problem details (RFC 9457): which one, in a sentence, and how the client goes on.

But: what a client sent is never repeated in an answer.
"""

from __future__ import annotations

import http
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from final import DuplicateJob, QueueClosed, QueueFull, StorageError, UnknownJob

# name -> status, title. The address of each type is /problems#name.
PROBLEMS = {
    "queue-full": (503, "The lane is full"),
    "stopping": (503, "The service is stopping"),
    "storage": (503, "The disk cannot be written"),
    "failed": (503, "The queue has failed: start the service again"),
    "busy": (503, "Too many clients"),
    "duplicate": (409, "A job with this id is there already"),
    "wrong-state": (409, "The job's status does not allow this"),
    "unknown-job": (404, "No such job"),
    "too-large": (413, "The body is too large"),
    "invalid": (422, "The request makes no sense"),
    "json": (400, "The body is not strict JSON"),
    "host": (421, "Not a name of this service"),
    "origin": (403, "Another site may not do this"),
    "token": (401, "A token is needed"),
}
LARGEST_BODY = 1024 * 1024
TOO_LARGE = f"A request may have {LARGEST_BODY:,} bytes: store the rest, and send where it is."
RETRY_AFTER = {"queue-full": "1", "stopping": "5", "storage": "5", "busy": "5"}


class Problem(HTTPException):
    """To be raised by an endpoint; ``members`` go into the answer beside the detail.

    An HTTPException, because FastAPI lets only these through while it reads a body.
    """

    def __init__(self, name: str, detail: str, **members: object) -> None:
        super().__init__(PROBLEMS[name][0], detail)
        self.name = name
        self.members = members


def answer(name: str, detail: str, **members: object) -> Response:
    status, title = PROBLEMS[name]
    retry = {"Retry-After": RETRY_AFTER[name]} if name in RETRY_AFTER else {}
    return _details(f"/problems#{name}", title, status, detail, retry, members)


def install(app: FastAPI, refused: Counter[str]) -> None:
    """Every error that leaves ``app`` is a problem; ``refused`` counts those with a name."""

    async def answer_problem(_: Request, error: Exception) -> Response:
        problem = _named(error)
        refused[problem.name] += 1
        return answer(problem.name, problem.detail, **problem.members)

    async def answer_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        too_large = error.status_code == 413
        return await (answer_problem(request, error) if too_large else _http_error(error))

    named = (Problem, UnknownJob, QueueFull, QueueClosed, StorageError, DuplicateJob)
    for kind in (*named, RequestValidationError):
        app.add_exception_handler(kind, answer_problem)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, _internal_error)


def _details(
    kind: str,
    title: str,
    status: int,
    detail: str,
    headers: dict[str, str],
    members: dict[str, Any],
) -> Response:
    content = {"type": kind, "title": title, "status": status, "detail": detail, **members}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def _named(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case QueueFull():
            return Problem("queue-full", str(error), accepted=error.accepted)
        case QueueClosed():
            return Problem("stopping", str(error), accepted=error.accepted)
        case StorageError():
            return Problem("storage", str(error), accepted=error.accepted)
        case DuplicateJob():
            return Problem("duplicate", str(error), accepted=error.accepted, ids=error.ids)
        case RequestValidationError():
            errors = [
                {"field": ".".join(str(part) for part in each["loc"][1:]), "message": each["msg"]}
                for each in error.errors()
            ]
            return Problem("invalid", "Some fields cannot be accepted: see errors.", errors=errors)
        case HTTPException():  # a body that turned out to be too long while it was read
            return Problem("too-large", TOO_LARGE)
        case _:
            return Problem("unknown-job", str(error))


async def _http_error(error: HTTPException) -> Response:
    title = http.HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    return _details("about:blank", title, error.status_code, error.detail, headers, {})


async def _internal_error(_: Request, __: Exception) -> Response:
    detail = "Something is wrong inside the service; its log says what."
    return _details("about:blank", "Internal Server Error", 500, detail, {}, {})
