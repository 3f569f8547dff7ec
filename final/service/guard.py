"""The guard: which requests are let in at all. Pure ASGI, so it also stands before streams.

1. Host: an address, ``localhost`` or a name that was allowed. A web page can point its own
   name at 127.0.0.1 (DNS rebinding), and its requests then carry that name.
2. Origin: a browser says which page sends a request; only our own may.
3. Size, where it is told.
4. Token, if there is one: ``Authorization: Bearer TOKEN``, or Basic with TOKEN as the password
   and any user name. The second is for browsers: they ask for it by themselves and send it
   with everything, event streams too.

On the way out it adds the headers that tell a browser to run nothing but our own files.

But: the token travels as it is. Beyond this machine put a proxy with TLS in front.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections import Counter
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from final.service.problems import LARGEST_BODY, TOO_LARGE, answer

# For probes, which bring no token; they tell nothing.
OPEN = {"/health", "/ready"}

BROWSER_RULES = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Wraps ``app``. token: None asks for none. names: host names of this service.

    refused: counts the requests that are not let in, by the name of their problem.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, names: Collection[str], refused: Counter[str]
    ) -> None:
        self._app = app
        self._refused = refused
        self._token = token
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_rules(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in BROWSER_RULES.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_with_rules)
        else:
            name, detail = refusal
            self._refused[name] += 1
            response = answer(name, detail)
            if name == "token":
                for challenge in ("Bearer", 'Basic realm="job queue", charset="UTF-8"'):
                    response.headers.append("WWW-Authenticate", challenge)
            await response(scope, receive, send_with_rules)

    def _refusal(self, path: str, headers: Headers) -> tuple[str, str] | None:
        """Why not: the name of a problem and its detail."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "host", "Use the address of this service, or start it with --allow-host NAME."
        ours = (f"http://{host}".lower(), f"https://{host}".lower())
        if any(origin.lower() not in ours for origin in headers.getlist("origin")):
            return "origin", "Requests from pages of other sites are refused."
        # Of a body that comes in chunks nobody knows the size yet: those are counted in app.py.
        if _length(headers) > LARGEST_BODY:
            return "too-large", TOO_LARGE
        if self._token is not None and path not in OPEN and not self._is_authorised(headers):
            return "token", (
                "Send 'Authorization: Bearer TOKEN'. In a browser: any user name, and the token "
                "as the password."
            )
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)

    def _is_authorised(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                decoded = base64.b64decode(credentials, validate=True).decode("utf-8", "replace")
            except binascii.Error:
                return False
            credentials = decoded.partition(":")[2]
        elif scheme.lower() != "bearer":
            return False
        assert self._token is not None
        # Takes as long for a nearly right token as for a wrong one.
        return hmac.compare_digest(credentials.strip().encode(), self._token.encode())


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
