"""The guard: which requests are let in at all. Pure ASGI, so it also stands before streams.

1. Host: an address, ``localhost`` or a name that was allowed. A web page can point its own
   name at 127.0.0.1 (DNS rebinding), and its requests then carry that name. A probe in HTTP/1.0
   may come without one; no browser does.
2. Origin: a browser says which page sends a request; only our own may.
3. Size, where it is told.
4. Token, if there is one: ``Authorization: Bearer TOKEN``, or Basic with TOKEN as the password
   and any user name. The second is for browsers: they ask for it by themselves and send it
   with everything, event streams too.

On the way out it adds the headers that tell a browser to run nothing but our own files, and, once
the service is stopping, that the connection ends. HEAD is GET without the body. Whatever goes
wrong further in leaves as a problem.

But: the token travels as it is. Beyond this machine put a proxy with TLS in front.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import logging
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from final.service.context import Service
from final.service.problems import HEADERS, LARGEST_BODY, TOO_LARGE, answer, internal_error

log = logging.getLogger("final.service")

# For probes, which bring no token; they tell nothing.
OPEN = {"/health", "/ready"}

# A name or an address, and maybe a port: no user, no path, nothing that two readers could read
# in two ways.
NAME = re.compile(r"[A-Za-z0-9._-]+")
HOST = re.compile(rf"({NAME.pattern}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Guard:
    """Wraps ``app``. token: None asks for none. names: host names of this service.

    service: what it refuses is counted there, and there stands whether it is stopping.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, names: Collection[str], service: Service
    ) -> None:
        self._app = app
        self._service = service
        self._token = token
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = Answering(send, scope["method"] == "HEAD", self._service)
        # A file comes as a whole: what is wrong with a range, Starlette says in plain text.
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        scope = {**scope, **_path(scope["path"], self._service.root_path), "headers": headers}
        if answering.without_body:
            scope["method"] = "GET"
        try:
            refusal = self._refusal(scope, Headers(scope=scope))
            app = self._app if refusal is None else self._refuse(*refusal)
            if refusal is None and scope["path"] == self._service.root_path != "":
                app = RedirectResponse(f"{scope['path']}/", 308)  # so that the page's links lead on
            await app(scope, receive, answering.send)
        except asyncio.CancelledError:  # the service ends and cannot wait any longer
            if answering.has_begun:
                raise
            await answer("stopping", "The service has stopped.")(scope, receive, answering.send)
        except Exception as error:
            path = scope["path"]
            log.error("%s %.100s has failed: see below.", scope["method"], path, exc_info=error)
            if not answering.has_begun:
                await internal_error()(scope, receive, answering.send)

    def _refuse(self, name: str, detail: str) -> Response:
        self._service.refused[name] += 1
        response = answer(name, detail)
        if name == "token":
            for challenge in ("Bearer", 'Basic realm="job queue", charset="UTF-8"'):
                response.headers.append("WWW-Authenticate", challenge)
        return response

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[str, str] | None:
        """Why not: the name of a problem and its detail."""
        host = headers.get("host")
        if host is None and scope["http_version"] == "1.0":
            host = "localhost"
        if host is None or not self._is_ours(host):
            return "host", "Use the address of this service, or start it with --allow-host NAME."
        if any(not _is_same_site(origin, host) for origin in headers.getlist("origin")):
            return "origin", (
                f"A page of another site has sent this to {host}, which is refused. A proxy in "
                "between has to pass on the Host that the browser has used."
            )
        # Of a body that comes in chunks nobody knows the size yet: those are counted in app.py.
        if _length(headers) > LARGEST_BODY:
            return "too-large", TOO_LARGE
        is_open = scope["path"].removeprefix(self._service.root_path) in OPEN
        if self._token is not None and not is_open and not self._is_authorised(headers):
            return "token", (
                "Send 'Authorization: Bearer TOKEN'. In a browser: any user name, and the token "
                "as the password."
            )
        return None

    def _is_ours(self, host: str) -> bool:
        if not HOST.fullmatch(host):
            return False
        try:
            name, _ = (parts := urlsplit(f"//{host}")).hostname or "", parts.port
        except ValueError:  # no address in brackets, or no port
            return False
        return name in self._names or _is_address(name)

    def _is_authorised(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                decoded = base64.b64decode(credentials, validate=True).decode("utf-8", "replace")
            except ValueError:  # no base64, or not even ASCII
                return False
            credentials = decoded.partition(":")[2]
        elif scheme.lower() != "bearer":
            return False
        assert self._token is not None
        # Takes as long for a nearly right token as for a wrong one.
        return hmac.compare_digest(credentials.strip().encode(), self._token.encode())


class Answering:
    """Sends an answer on, with what has to be on every one.

    without_body: of what follows the head nothing is sent, and a stream is told that it is over.
    """

    def __init__(self, send: Send, without_body: bool, service: Service) -> None:
        self._send = send
        self._service = service
        self.without_body = without_body
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._service.stopping:
                headers["Connection"] = "close"
            await self._send(message)
            if self.without_body:
                await self._send({"type": "http.response.body", "body": b""})
        elif not self.without_body:
            await self._send(message)


def _path(path: str, root_path: str) -> dict[str, str]:
    """As ASGI has it, with the proxy's path in front; of proxies some send that, others do not."""
    if path != root_path and not path.startswith(f"{root_path}/"):
        path = root_path + path
    return {"path": path, "root_path": root_path}


def _is_same_site(origin: str, host: str) -> bool:
    """A browser leaves the usual port out of both, and others may not."""
    scheme, _, rest = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS:
        return False
    port = DEFAULT_PORTS[scheme]
    return rest.removesuffix(port) == host.lower().removesuffix(port)


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if len(length) < 20 and length.isdigit() else LARGEST_BODY + 1


def _is_address(name: str) -> bool:
    """An IP address cannot be rebound: it is no name that somebody could point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
