"""What nobody should send: it is answered with 4xx, nothing is stored, and the service goes on."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator

import pytest

from tests.service.conftest import OpenService
from tests.service.helpers import Live, head, status_of, work

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """One for all: that it goes on is part of what is shown."""
    live = Live({"work": work})
    yield live
    assert live.post("/jobs", {"type": "work"}).status_code == 201
    live.close()
    live.join()


@pytest.fixture(autouse=True)
def _nothing_is_stored(live: Live) -> Iterator[None]:
    yield
    assert live.stored() == 0


def in_payload(value: str) -> bytes:
    return b'{"type": "work", "payload": ' + value.encode() + b"}"


NO_JSON = {
    "nothing": b" ",
    "not closed": b'{"type": "work"',
    "more than one": b'{"type": "work"} {}',
    "a comment": b'{"type": "work"} // x',
    "NaN": in_payload("NaN"),
    "Infinity": in_payload("[1, -Infinity]"),
    "1e999": in_payload("1e999"),
    "2**63": in_payload(str(2**63)),
    "-2**63 - 1": in_payload(str(-(2**63) - 1)),
    "5,000 digits": in_payload("9" * 5_000),
    "a million digits": in_payload("9" * 1_000_000),
    "the same key twice": b'{"type": "work", "type": "fax"}',
    "the same key twice, further in": in_payload('[{"a": 1, "b": 2, "a": 3}]'),
    "101 levels": in_payload("[" * 100 + "]" * 100),
    "200,000 levels": in_payload("[" * 200_000 + "]" * 200_000),
    "150,000 objects": in_payload('{"a":' * 150_000 + "1" + "}" * 150_000),
    "200,000 levels, not closed": b"[" * 200_000,
    "UTF-16": '{"type": "work"}'.encode("utf-16"),
    "Latin-1": '{"type": "wörk"}'.encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf" + b'{"type": "work"}',
    "a control character": b'{"type": "wo\x00rk"}',
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_strict_json(live: Live, body: bytes) -> None:
    answer = live.http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems#json"
    assert len(answer.content) < 1_000  # nothing is sent back


WRONG = {
    "an empty object": {},
    "a list": [{"type": "work"}],
    "a text": "work",
    "null": None,
    "a type that is a number": {"type": 5},
    "an empty type": {"type": ""},
    "a type that is too long": {"type": "x" * 101},
    "a type with a lone surrogate": {"type": "\ud800"},
    "a type with a NUL": {"type": "a\0b"},
    "an unknown type": {"type": "<script>"},
    "a payload with a lone surrogate": {"type": "work", "payload": "a\udfffb"},
    "a key with a lone surrogate": {"type": "work", "payload": {"\ud800": 1}},
    "an unknown field": {"type": "work", "handler": "os.system"},
    "an unknown priority": {"type": "work", "priority": "urgent"},
    "a priority in a list": {"type": "work", "priority": ["high"]},
    "a priority in capitals": {"type": "work", "priority": "HIGH"},
    "an id that is a number": {"type": "work", "id": 1},
    "an empty id": {"type": "work", "id": ""},
    "an id with a slash": {"type": "work", "id": "../etc/passwd"},
    "an id with a line break": {"type": "work", "id": "a\nb"},
    "an id with a line break at its end": {"type": "work", "id": "a\n"},
    "an id that is too long": {"type": "work", "id": "x" * 201},
    "an id of half a million characters": {"type": "work", "id": "x" * 500_000},
    "a time that has no zone": {"type": "work", "run_at": "2030-01-01T00:00:00"},
    "a time that is none": {"type": "work", "run_at": "tomorrow"},
    "a time that is a number in text": {"type": "work", "run_at": "60"},
    "a time before the first year": {"type": "work", "run_at": "0001-01-01T00:00:00+14:00"},
    "a time after the last year": {"type": "work", "run_at": "9999-12-31T23:59:59-14:00"},
    "a time that rounds to the year 10000": {
        "type": "work",
        "run_at": "9999-12-31T23:59:59.999999Z",
    },
    "a delay below zero": {"type": "work", "run_at": -1},
    "a delay of a thousand years": {"type": "work", "run_at": 3e10},
    "a delay that is true": {"type": "work", "run_at": True},
    "a timeout of zero": {"type": "work", "timeout": 0},
    "a timeout that is text": {"type": "work", "timeout": "5"},
    "a timeout of a million years": {"type": "work", "timeout": 3e13},
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_what_is_no_job(live: Live, path: str, value: object) -> None:
    body = json.dumps(value if path == "/jobs" else {"jobs": [value]})
    answer = live.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems#invalid"
    assert len(answer.content) < 1_000
    assert "<script>" not in answer.text or answer.json()  # as JSON only, never as a page


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_form_could_send(live: Live, content_type: str) -> None:
    """A page of another site may send these without being asked about its origin."""
    answer = live.http.post(
        "/jobs", content=b'{"type": "work"}', headers={"Content-Type": content_type}
    )
    assert answer.status_code == 422


class TestSize:
    def test_a_body_that_says_that_it_is_too_large(self, live: Live) -> None:
        request = head("POST", "/jobs", Content_Length=str(MIB + 1))
        assert live.send(request) == 413  # before any of it was sent

    def test_a_body_that_is_too_large(self, live: Live) -> None:
        body = in_payload('"' + "x" * MIB + '"')
        answer = live.http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"

    def test_a_chunked_body_that_is_too_large_and_never_ends(self, live: Live) -> None:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with live.raw() as connection:
            connection.sendall(
                head("POST", "/jobs", Transfer_Encoding="chunked", Content_Type="application/json")
            )
            for _ in range(17):
                connection.sendall(chunk)
            assert status_of(connection) == 413

    def test_a_header_without_an_end(self, live: Live) -> None:
        assert live.send(head("GET", "/health", X="x" * 1_000_000)) == 400

    def test_a_length_that_is_none(self, live: Live) -> None:
        assert live.send(head("POST", "/jobs", Content_Length="-1")) == 400
        assert live.send(head("POST", "/jobs", Content_Length="9" * 5_000)) in (400, 413)


@pytest.mark.parametrize("job_id", ["%00", "%FF", "%ED%A0%80", "%0A", "x" * 10_000])
def test_addresses_of_no_job(live: Live, job_id: str) -> None:
    assert live.send(head("GET", f"/jobs/{job_id}")) == 404


def test_a_file_outside_of_the_page(live: Live) -> None:
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/docs/files/../core.py"):
        assert live.send(head("GET", path)) == 404


def test_what_is_no_http(live: Live) -> None:
    assert live.send(b"\x16\x03\x01 hello\r\n\r\n") == 400


def test_the_largest_that_is_allowed(open_service: OpenService, live: Live) -> None:
    """The other side of the bounds."""
    other = open_service()
    deep: object = 1
    for _ in range(98):
        deep = [deep]
    for payload in (2**63 - 1, -(2**63), 1.5e300, "\U0001f600", deep, "x" * (MIB - 100)):
        job = other.create(payload=payload)
        assert job["payload"] == payload
        assert other.http.get(f"/jobs/{job['id']}").json()["payload"] == payload


def test_what_an_earlier_release_took_and_cannot_be_shown(
    open_service: OpenService, path: str
) -> None:
    """It is shown as best it can, and takes nothing else with it."""
    before = open_service(path=path)
    before.create(id="good")
    before.create(id="never", run_at=3_600)
    before.create(id="deep", run_at=3_600)
    before.close()
    levels = "[" * 300 + "]" * 300
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE job SET due_at = 253402300800.0 WHERE id = 'never'")
        connection.execute(
            "UPDATE payload SET payload = ? WHERE seq = (SELECT seq FROM job WHERE id = 'deep')",
            (levels,),
        )
    http = open_service(path=path).http
    assert [job["id"] for job in http.get("/jobs").json()["jobs"]] == ["deep", "never", "good"]
    assert http.get("/jobs/never").json()["due_at"] == "9999-12-31T23:59:59.999999Z"
    assert http.get("/jobs/deep").json()["payload"] == {"json": levels}
