"""A running service, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import quote

import httpx

from final.cli.places import Document, Misuse, Refused, Trouble, Unreachable
from final.job import Priority, Status

PATIENCE = 10.0  # seconds for an answer; the service itself lets nobody wait that long
PAGE = 100  # the most that the service puts on one


def answers(url: str) -> bool:
    """Whether a service is there. The token stays here: it may be somebody else's."""
    try:
        answer = httpx.get(f"{url}/health", timeout=PATIENCE, trust_env=False)
        return bool(answer.json() == {"status": "ok"})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


class Remote:
    """A ``Place``. The token goes to ``url`` alone: no proxy, no redirect."""

    def __init__(self, url: str, token: str | None) -> None:
        self.name = url.rstrip("/")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            self._http = httpx.Client(
                base_url=self.name, headers=headers, timeout=PATIENCE, trust_env=False
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Misuse(f"{url} or its token cannot be used: {error}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, wishes: Document) -> Document:
        return self._ask("POST", "/jobs", json=wishes)

    def jobs(
        self, status: Status | None, kind: str | None, priority: Priority | None, limit: int
    ) -> Iterator[Document]:
        wanted = {"status": status, "type": kind, "priority": priority, "limit": min(limit, PAGE)}
        query = {name: value for name, value in wanted.items() if value is not None}
        page = self._ask("GET", "/jobs", params=query)
        while True:
            yield from page["jobs"][:limit]
            limit -= len(page["jobs"])
            if limit <= 0 or page["next"] is None:
                return
            page = self._ask("GET", page["next"])

    def job(self, job_id: str) -> Document:
        return self._ask("GET", _path(job_id))

    def retry(self, job_id: str) -> Document:
        return self._ask("POST", f"{_path(job_id)}/retry")

    def cancel(self, job_id: str) -> Document:
        return self._ask("DELETE", _path(job_id))

    def stats(self) -> Document:
        return self._ask("GET", "/stats")

    def _ask(self, method: str, path: str, **content: Any) -> Document:
        try:
            answer = self._http.request(method, path, **content)
            document: Document = answer.json()
            if answer.is_success:
                return document
            raise _trouble(answer.status_code, document)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"No service answers at {self.name} ({error}): start one with "
                "`python -m final serve`, or name another with --url."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise Unreachable(f"What answers at {self.name} is not this service.") from None


def _path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _trouble(status: int, problem: Document) -> Trouble:
    """What the service says about it (RFC 9457), and whose fault it is."""
    detail = str(problem["detail"])
    match status:
        case 401:
            return Unreachable("The service wants its token: give --token, or JOBQUEUE_TOKEN.")
        case 404 | 409:
            return Refused(detail)
        case 400 | 413 | 422:
            fields = [f"{each['field']}: {each['message']}" for each in problem.get("errors", [])]
            return Misuse("; ".join(fields) or detail)
        case _:
            return Unreachable(detail)
