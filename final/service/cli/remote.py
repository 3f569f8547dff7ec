"""A running service, over HTTP. What it answers is checked: something else may be there.

But: a token goes only to a service that was named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import httpx
from pydantic import BaseModel

from final.beyond.filters import Filter
from final.engine.many import OnProgress
from final.service.cli.places import (
    Act,
    Document,
    Misuse,
    Refused,
    Trouble,
    Unreachable,
    checked,
    new_job,
    new_periodic,
)
from final.service.models import (
    SERVICE,
    Dealt,
    GroupList,
    JobDetails,
    JobPage,
    JobView,
    Part,
    Paused,
    PeriodicList,
    PeriodicView,
    Stats,
    Workers,
)

NO_ADDRESS = "{} is no address: write it as http://127.0.0.1:8080."
PATIENCE = 10.0  # seconds for an answer; the service itself lets nobody wait that long
PAGE = 100  # the most that the service puts on one


def answers(url: str) -> bool:
    """Whether a service of ours says that it is there. Nobody sends it a token because of that."""
    try:
        answer = httpx.get(f"{url}/health", timeout=PATIENCE, trust_env=False, verify=False)
        return bool(answer.json()["service"] == SERVICE)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, LookupError, RecursionError):
        return False


class Remote:
    """A ``Place``. The token goes to ``url`` alone: no proxy, no redirect.

    withheld: whether there was a token for it, had it been named.
    """

    def __init__(self, url: str, token: str | None, withheld: bool = False) -> None:
        url = url.strip().rstrip("/?#")  # a line of settings may end with more than it shows
        self.name = _checked(url)
        self._withheld = withheld
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Misuse("The token has characters that cannot be sent: only printable ASCII can.")
        headers = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        try:
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=PATIENCE,
                trust_env=False,
                # Nothing is encrypted else, and to load the world's certificates takes a while.
                verify=url.lower().startswith("https:"),
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise Misuse(NO_ADDRESS.format(self.name)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, wishes: Document) -> Document:
        new_job(wishes)  # what makes no sense is nobody's fault but the caller's
        return self._ask("POST", "/jobs", JobView, json=wishes)

    def jobs(self, wanted: Filter, limit: int) -> Iterator[Document]:
        query = [*_query(wanted), ("limit", str(min(limit, PAGE)))]
        while limit > 0:
            page = self._ask("GET", "/jobs", JobPage, params=query)
            yield from page["jobs"][:limit]
            limit -= len(page["jobs"])
            if page["next"] is None or not page["jobs"]:
                return
            query = parse_qsl(page["next"].partition("?")[2])

    def job(self, job_id: str) -> Document:
        return self._ask("GET", _path(job_id), JobDetails)

    def retry(self, job_id: str) -> Document:
        return self._ask("POST", f"{_path(job_id)}/retry", JobView)

    def cancel(self, job_id: str) -> Document:
        return self._ask("DELETE", _path(job_id), JobView)

    def pause(self, part: Document) -> Document:
        return self._ask("POST", "/pause", Paused, json=checked(Part, part))

    def resume(self, part: Document) -> Document:
        return self._ask("POST", "/resume", Paused, json=checked(Part, part))

    def set_workers(self, number: int | None) -> Document:
        wanted = checked(Workers, {"workers": number})
        return self._ask("PUT", "/workers", Workers, json=wanted)

    def periodic(self) -> list[Document]:
        entries: list[Document] = self._ask("GET", "/periodic", PeriodicList)["periodic"]
        return entries

    def add_periodic(self, wishes: Document) -> Document:
        new_periodic(wishes)
        return self._ask("POST", "/periodic", PeriodicView, json=wishes)

    def pause_periodic(self, name: str) -> Document:
        return self._ask("POST", f"{_path(name, 'periodic')}/pause", PeriodicView)

    def resume_periodic(self, name: str) -> Document:
        return self._ask("POST", f"{_path(name, 'periodic')}/resume", PeriodicView)

    def remove_periodic(self, name: str) -> Document:
        return self._ask("DELETE", _path(name, "periodic"), PeriodicView)

    def delete(self, job_id: str) -> Document:
        return self._ask("POST", f"{_path(job_id)}/delete", JobView)

    def deal(self, act: Act, wanted: Filter, dry_run: bool, progress: OnProgress) -> int:
        """The service says nothing before the end, which may take its time."""
        meant = {"status": next(iter(wanted.statuses), None), **wanted._asdict()}
        meant |= {"type": meant.pop("kind"), "meta": wanted.meta or None, "dry_run": dry_run}
        del meant["statuses"]
        given = {name: value for name, value in meant.items() if value is not None}
        answer = self._ask("POST", f"/{act}", Dealt, json=given, timeout=None)
        return int(answer["jobs"])

    def groups(self, limit: int) -> list[Document]:
        query = {"limit": str(limit)}
        groups: list[Document] = self._ask("GET", "/groups", GroupList, params=query)["groups"]
        return groups

    def stats(self) -> Document:
        return self._ask("GET", "/stats", Stats)

    def _ask(self, method: str, path: str, model: type[BaseModel], **content: Any) -> Document:
        try:
            request = self._http.build_request(method, path, **content)
        except UnicodeEncodeError as error:
            raise Misuse(f"This cannot be sent: {error.reason}.") from None
        except (httpx.InvalidURL, ValueError):
            raise Misuse(NO_ADDRESS.format(self.name)) from None
        try:
            answer = self._http.send(request)
        except httpx.TimeoutException:
            raise Unreachable(
                f"What is at {self.name} has not answered for {PATIENCE:.0f} s."
            ) from None
        except (httpx.HTTPError, UnicodeError) as error:  # that is of names like jobs..example.com
            raise Unreachable(
                f"No service answers at {self.name} ({str(error) or type(error).__name__}): start "
                "one with `python -m final serve`, or name another with --url."
            ) from None
        try:
            document = answer.json()
            if answer.is_success:
                return model.model_validate(document).model_dump(mode="json")
            trouble = _trouble(answer.status_code, document, self.name, self._withheld)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Unreachable(f"What answers at {self.name} is not this service.") from None
        raise trouble


def _query(wanted: Filter) -> list[tuple[str, str]]:
    """As an address has it."""
    named = {
        "status": next(iter(wanted.statuses), None),
        "type": wanted.kind,
        "priority": wanted.priority,
        "group": wanted.group,
    }
    given = [(name, str(value)) for name, value in named.items() if value is not None]
    return given + [("meta", f"{name}:{value}") for name, value in wanted.meta.items()]


def _path(job_id: str, place: str = "jobs") -> str:
    """Also of an id that is made of dots, which a client would take for a way up."""
    if not job_id:
        raise Refused("No job has an empty id, and no periodic entry an empty name.")
    return f"/{place}/{quote(job_id, safe='', errors='surrogatepass').replace('.', '%2E')}"


def _checked(url: str) -> str:
    """How it is called: without a password. Raises Misuse if it is no address of a service."""
    name = ""
    with suppress(ValueError):  # no port, or brackets around what is no address
        parts = urlsplit(url)
        name = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        leads_on = not (parts.query or parts.fragment)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and leads_on:
            return name
    raise Misuse(NO_ADDRESS.format(name or "That"))


def _trouble(status: int, problem: Document, place: str, withheld: bool) -> Trouble:
    """What the service says about it (RFC 9457), and whose fault it is."""
    kind, detail = problem["type"], str(problem["detail"])
    match status:
        case 401 if withheld:
            return Unreachable(
                f"The service at {place} wants a token. It goes only to a service that is named: "
                f"give --url {place}, or JOBQUEUE_URL, if that is yours."
            )
        case 401:
            return Unreachable("The service wants its token: give --token, or JOBQUEUE_TOKEN.")
        case 404 | 405 if kind == "about:blank":  # it knows no such address, whichever job it is
            return Unreachable(
                f"There is no job queue at {place}, or an older one: check its path."
            )
        case 404 | 409:
            return Refused(detail)
        case 400 | 413 | 415 | 422:
            fields = [f"{each['field']}: {each['message']}" for each in problem.get("errors", [])]
            return Misuse("; ".join(fields) or detail)
        case _:
            return Unreachable(detail)
