"""Slow clients: who sends or reads nothing is hung up on, and takes nothing with it."""

from __future__ import annotations

import contextlib
import http.client
import socket

import pytest

from final.service.connections import BoundedProtocol
from tests.final.helpers import eventually
from tests.service.conftest import OpenService
from tests.service.helpers import Live, head


class Hasty(BoundedProtocol):
    # This test may be slow, too: it must not be hung up on itself.
    silence = 0.4
    patience = 0.4


@pytest.fixture
def hasty(open_service: OpenService) -> Live:
    return open_service(protocol=Hasty)


def hangs_up(connection: socket.socket) -> bool:
    """Whether the service ends the connection by itself."""
    try:
        return connection.recv(1) == b""  # waits at most for the connection's own timeout
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"POST /jobs HT",
        head("POST", "/jobs")[:-2],
        head("POST", "/jobs", Content_Length="100", Content_Type="application/json") + b"{",
        head("POST", "/jobs", Transfer_Encoding="chunked", Content_Type="application/json")
        + b"5\r\n{",
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
def test_who_does_not_go_on(hasty: Live, start: bytes) -> None:
    with hasty.raw() as connection:
        connection.sendall(start)
        assert hangs_up(connection)
    assert hasty.stored() == 0
    hasty.create()


def test_who_goes_on_byte_by_byte(hasty: Live) -> None:
    """Each byte is a sign of life, and still there is an end."""
    with hasty.raw() as connection:
        connection.sendall(head("POST", "/jobs")[:-2] + b"X: ")
        connection.settimeout(0.01)
        eventually(lambda: not takes_another_byte(connection), "the service to hang up")


def takes_another_byte(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_who_never_reads(open_service: OpenService) -> None:
    """More answers than the system keeps for a client: the service keeps the rest, for a while."""
    live = open_service(protocol=Hasty)
    live.create(id="large", payload="x" * 1_000_000)
    with live.raw() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.sendall(head("GET", "/jobs/large") * 50)
        assert connection.recv(1)  # it has begun to answer; no more is read
        live.http.close()  # our own
        live.wait_for_connections(0)


def test_a_client_that_waits_for_us_is_not_slow(hasty: Live) -> None:
    with hasty.events() as events:
        for _ in range(3):  # others lose patience with these, one after the other
            with hasty.raw() as connection:
                assert hangs_up(connection)
        hasty.create(id="x")
        assert next(events)[1]["id"] == "x"


def test_a_request_may_follow_another(live: Live) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", live.port)) as client:
        client.connect()
        connection = client.sock
        for _ in range(3):
            client.request("GET", "/health")
            with client.getresponse() as answer:
                assert answer.status == 200
                assert answer.read().startswith(b'{"status":"ok"')
            assert client.sock is connection
