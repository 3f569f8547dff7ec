"""A card is charged once, though its job runs twice: the provider knows the charge by its key.

The provider is a real HTTP server, which keeps the keys in SQLite. The shop is a process, and is
killed at the worst moment: after the charge, before the answer.
"""

from __future__ import annotations

import http.client
import sqlite3
import sys
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from final import DuplicateJob, Job, JobQueue, current_job
from tests.helpers import DEADLINE
from tests.processes import Program


class Provider(ThreadingHTTPServer):
    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), Charge)
        self.path, self.charged, self.may_answer = path, threading.Event(), threading.Event()
        self.sql("CREATE TABLE charge (key TEXT PRIMARY KEY, cents INTEGER)")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def sql(self, statement: str, *values: object) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()


class Charge(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        cents = int(self.rfile.read(int(self.headers["Content-Length"])))
        # Not looked for first: where two requests with one key meet, the unique key decides.
        self.server.sql("INSERT OR IGNORE INTO charge (key, cents) VALUES (?, ?)", key, cents)
        ((receipt,),) = self.server.sql("SELECT rowid FROM charge WHERE key = ?", key)
        self.server.charged.set()
        self.server.may_answer.wait(DEADLINE)
        with suppress(ConnectionError):  # who asked may be dead
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str(receipt).encode())


def shop(port: str, key: str) -> None:
    def charge(job: Job) -> str:
        headers = {"Idempotency-Key": key.format(order=job.id, attempt=current_job().attempt)}
        with closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)) as provider:
            provider.request("POST", "/charges", str(job.payload), headers)
            return provider.getresponse().read().decode()

    with JobQueue(charge, path="shop.db") as queue:
        with suppress(DuplicateJob):  # the process before us has enqueued it
            queue.enqueue(Job("4711", 500))
        record = queue.wait("4711", DEADLINE)
        print(record.status, "in attempt", record.attempts, "with receipt", record.result)


@pytest.mark.parametrize(
    ("key", "charges"), [("charge-{order}", 1), ("charge-{order}-{attempt}", 2)]
)
def test_a_kill_between_charge_and_outcome(key: str, charges: int, tmp_path: Path) -> None:
    with Provider(tmp_path / "provider.db") as provider:
        arguments = ("tests.final.test_charged_once", str(provider.server_port), key)
        with Program(tmp_path, *arguments) as first:
            assert provider.charged.wait(3 * DEADLINE)
            first.kill()
        provider.may_answer.set()
        with Program(tmp_path, *arguments) as second:
            assert second.read_to_the_end() == 0, second.output
        provider.shutdown()
    assert f"completed in attempt 2 with receipt {charges}" in second.output
    assert provider.sql("SELECT count(*), sum(cents) FROM charge") == [(charges, 500 * charges)]


if __name__ == "__main__":
    shop(*sys.argv[1:])
