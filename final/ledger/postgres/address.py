"""Where a queue is: ``postgresql://host/database?queue=name``, and what else the address says.

But: what is not ours there is libpq's (``sslmode``, ``host``, ``application_name`` ...).
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote

SCHEMES = ("postgresql://", "postgres://")
LEASE_SECONDS = 10.0


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it names a database and not a file."""
    return os.fspath(path).startswith(SCHEMES)


class Address(NamedTuple):
    """dsn: for libpq. schema: where the tables of this queue are.

    lease: seconds after which a silent process counts as gone.
    pooler: whether a transaction pooler stands between: then nothing outlives a transaction.
    listen: another address, past the pooler, on which notifications come; None for ``dsn``.
    """

    dsn: str
    schema: str
    lease: float = LEASE_SECONDS
    pooler: bool = False
    listen: str | None = None

    @property
    def shown(self) -> str:
        """For people: without a password."""
        return re.sub(r"://.*@", "://", self.dsn.partition("?")[0]) + f" ({self.schema})"


def parse(url: str) -> Address:
    """Raises ValueError, in a sentence, for what is ours there and makes no sense."""
    place, _, query = url.partition("?")
    ours: dict[str, str] = {}
    others = []  # as they are written: libpq reads them by rules of its own
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name in ("queue", "lease", "pooler", "listen"):
            ours[name] = unquote(value)
        else:
            others.append(pair)
    queue = ours.get("queue")
    if queue is not None and not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", queue):
        raise ValueError(
            f"?queue={queue}: the name of a queue is up to 40 lower-case letters, digits and "
            "underscores, and begins with a letter."
        )
    return Address(
        place + ("?" + "&".join(others) if others else ""),
        "jobqueue" if queue is None else f"jobqueue_{queue}",
        _lease(ours.get("lease")),
        ours.get("pooler", "0") not in ("", "0", "false", "no"),
        _listen(ours.get("listen")),
    )


def _listen(url: str | None) -> str | None:
    if url and not is_address(url):
        raise ValueError(f"?listen={url}: it is another address, as postgresql://host/database.")
    return parse(url).dsn if url else None


def _lease(text: str | None) -> float:
    if text is None:
        return LEASE_SECONDS
    try:
        lease = float(text)
    except ValueError:
        lease = 0.0
    if not 0.5 <= lease <= 3600:
        raise ValueError(f"?lease={text}: the lease is a number of seconds from 0.5 to 3600.")
    return lease
