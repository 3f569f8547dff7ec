"""How many clients there may be: counted when they connect, and never at the cost of jobs."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from final.service import connections
from final.service.connections import FOYER, BoundedProtocol, files_needed
from tests.final.helpers import eventually
from tests.processes import needs_signals
from tests.service.conftest import OpenService
from tests.service.helpers import Live, head, status_of
from tests.service.test_server import serving
from tests.service.test_slow_clients import hangs_up


@contextlib.contextmanager
def idle(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections on which nothing is sent."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(count)
        ]


def ask(port: int, path: str) -> http.client.HTTPResponse:
    """One question on a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", path)
    return client.getresponse()


class Patient(BoundedProtocol):
    """These tests decide themselves when a client has been silent for too long."""

    silence = foyer = 30.0


@pytest.fixture
def small(open_service: OpenService) -> Live:
    """A service that has room for four connections."""
    return open_service(protocol=Patient, connections=4)


class TestTheLimit:
    def test_silent_connections_count_and_the_next_is_told_to_come_back(self, small: Live) -> None:
        with idle(small.port, 4):
            small.wait_for_connections(4)
            answer = ask(small.port, "/stats")
            assert answer.status == 503
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert json.load(answer)["type"] == "/problems#busy"
            small.wait_for_connections(4)
        small.wait_for_connections(0)
        assert ask(small.port, "/stats").status == 200
        assert small.service.refused["busy"] == 1

    def test_beyond_the_foyer_they_are_closed_at_once(self, small: Live) -> None:
        with idle(small.port, 4 + FOYER):
            small.wait_for_connections(4 + FOYER)
            with small.raw() as connection:
                assert hangs_up(connection)

    def test_who_was_let_in_may_go_on(self, small: Live) -> None:
        with small.raw() as early, idle(small.port, 10):
            small.wait_for_connections(11)
            early.sendall(head("GET", "/health"))
            assert status_of(early) == 200

    def test_the_log_has_one_line_for_them_all(
        self, small: Live, caplog: pytest.LogCaptureFixture
    ) -> None:
        with idle(small.port, 40) as clients:
            for client in clients[4 + FOYER :]:
                assert hangs_up(client)
        assert len([line for line in caplog.messages if "connections refused" in line]) == 1


def test_silence_lasts_some_seconds_at_most() -> None:
    assert BoundedProtocol.silence <= 5
    assert BoundedProtocol.foyer <= 1


class TestFiles:
    pytestmark = needs_signals

    def test_more_connections_than_files_cost_no_job_and_no_log(self, tmp_path: Path) -> None:
        """Nobody sends a byte; the process may have fewer files than there are connections."""
        files = files_needed(1) + 20
        with serving(tmp_path, files=files) as served:
            port = served.http.base_url.port
            assert port is not None
            for n in range(30):
                job = {"type": "opens", "id": f"j{n}", "run_at": n / 20}
                assert served.http.post("/jobs", json=job).status_code == 201
            began = time.monotonic()
            with idle(port, 400):
                with contextlib.suppress(OSError):  # it may be closed at once
                    assert ask(port, "/health").status in (200, 503)
                assert time.monotonic() - began < 5
                # From the first to the last job all is full: closed ones are opened again.
                while time.monotonic() - began < 1.5:
                    with idle(port, 20):
                        pass

            def has_room() -> bool:
                with contextlib.suppress(OSError):  # while there is none it is closed at once
                    return ask(port, "/health").status == 200
                return False

            eventually(has_room, "room")
            for n in range(30):
                eventually(lambda: served.status(f"j{n}") != "scheduled", "its turn")  # noqa: B023
                eventually(lambda: served.status(f"j{n}") == "completed", "its end")  # noqa: B023
            served.program.kill()
        lines = served.program.output.splitlines()
        assert len(lines) < 6, lines[:10]
        assert "Traceback" not in served.program.output

    def test_too_few_for_its_workers_are_said_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"raise the limit \(ulimit -n\)"):
            serving(tmp_path, files=100).__enter__()

    @pytest.mark.parametrize(("files", "room"), [(1_024, 848), (65_536, connections.CONNECTIONS)])
    def test_the_limit_leaves_files_for_the_jobs(
        self, monkeypatch: pytest.MonkeyPatch, files: int, room: int
    ) -> None:
        monkeypatch.setattr("final.service.server.file_limit", lambda: files)
        from final.service.server import _connection_limit

        assert _connection_limit(workers=4) == room


class TestWhatIsNoHttp:
    def test_it_is_answered_with_a_problem(self, live: Live) -> None:
        with live.raw() as connection, connection.makefile("rb") as answer:
            connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            text = answer.read().decode()
        assert text.startswith("HTTP/1.1 400 ")
        assert "application/problem+json" in text
        assert "nosniff" in text
        assert "/problems#http" in text

    def test_in_the_middle_of_an_answer_it_ends_the_connection(
        self, live: Live, caplog: pytest.LogCaptureFixture
    ) -> None:
        with live.raw() as connection:
            request = head("POST", "/jobs", Transfer_Encoding="chunked", Host="evil.example")
            connection.sendall(request.replace(b"Host: localhost\r\n", b"") + b"2\r\n{}\r\n")
            assert status_of(connection) == 421
            connection.sendall(b"no chunk\r\n")
            eventually(lambda: hangs_up(connection), "it to hang up")
        assert "Traceback" not in caplog.text
        assert live.http.get("/health").status_code == 200
