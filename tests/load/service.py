"""The service as a process of its own, and what became of its jobs."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

PATIENCE = 60.0  # seconds without any news


class Service:
    """``python -m final serve`` on a new file in ``folder``; ends with the ``with`` block."""

    def __init__(self, folder: Path, *, workers: int, capacity: int) -> None:
        self._path = folder / "load.db"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "final", "serve", "--port", "0", "--db", str(self._path)),
                *("--handlers", "tests.load.handlers:work"),
                *("--workers", str(workers), "--capacity", str(capacity)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", line)
        if found is None:
            raise RuntimeError(f"The service has not started: see above. {line}")
        self.port = int(found[1])
        self._http = httpx.Client(base_url=found[0], timeout=PATIENCE, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.terminate()
        self._process.__exit__(None, None, None)  # closes the pipe, waits for the end

    @contextlib.contextmanager
    def in_company(self) -> Iterator[None]:
        """While others are there, too."""
        with subprocess.Popen(
            [sys.executable, "-m", "tests.load.company", str(self.port)], stdout=subprocess.PIPE
        ) as company:
            assert company.stdout
            if not company.stdout.readline():
                raise RuntimeError("Not all the others are there: see above.")
            try:
                yield
            finally:
                company.kill()

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def finish(self) -> dict[str, str]:
        """Wait until no job waits or runs; then what the file says of each: id -> status."""
        with self._events() as events:
            # Asked at once, and again whenever something has happened.
            for _ in itertools.chain([b""], events.iter_raw()):
                if self._is_idle():
                    break
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            return dict(connection.execute("SELECT id, status FROM job"))

    @contextlib.contextmanager
    def _events(self) -> Iterator[httpx.Response]:
        """Other readers may have had all the places until just now."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with self._http.stream("GET", "/events") as events:
                if events.status_code == 200:
                    yield events
                    return
                events.read()
        raise RuntimeError(f"Nobody may listen to the service: {events.text}")

    def _is_idle(self) -> bool:
        totals: dict[str, Any] = self._http.get("/stats").json()["totals"]
        return not any(totals[status] for status in ("queued", "processing", "retrying"))
