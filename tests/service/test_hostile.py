"""What nobody should send: it is answered with 4xx, nothing is stored, and the service goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from final.service import jobs, routes, strict
from tests.helpers import DEADLINE, Background
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
    "1e+0999": in_payload("1e+0999"),
    "10E400": in_payload("10E400"),
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
    assert " at at " not in answer.text


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
    assert "Job." not in answer.text  # Python's words
    assert "constrained" not in answer.text
    assert "<script>" not in answer.text or answer.json()  # as JSON only, never as a page


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_form_could_send(live: Live, content_type: str) -> None:
    """A page of another site may send these without being asked about its origin."""
    answer = live.http.post(
        "/jobs", content=b'{"type": "work"}', headers={"Content-Type": content_type}
    )
    assert answer.status_code == 415
    assert answer.json()["type"] == "/problems#media-type"
    assert "Content-Type must be application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/Vnd.x+JSON"]
)
def test_other_names_of_json(live: Live, content_type: str) -> None:
    answer = live.http.post("/jobs", content=b"{}", headers={"Content-Type": content_type})
    assert answer.json()["errors"] == [{"field": "type", "message": "Field required"}]


@pytest.mark.parametrize("path", ["/jobs", "/pause", "/purge"])
@pytest.mark.parametrize("body", [b"", b"null", b"[]"])
def test_what_is_no_object_is_told_that_it_should_be_one(
    live: Live, path: str, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = live.http.post(path, content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "", "message": "Send a JSON object."}]


def test_a_body_that_is_packed(live: Live) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = live.http.post("/jobs", content=gzip.compress(b'{"type": "work"}'), headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["detail"]


LARGE_NAME = "x" * 500_000
LARGE = {
    "100,000 unknown fields": {f"f{n}": 1 for n in range(90_000)},
    "an unknown field with a long name": {LARGE_NAME: 1},
    "many unknown fields with long names": {f"{n}{'x' * 20_000}": 1 for n in range(50)},
    "a long type": {"type": LARGE_NAME},
    "a long id": {"id": LARGE_NAME},
    "a long time": {"run_at": LARGE_NAME},
    "a long priority": {"priority": LARGE_NAME},
    "a list for a time": {"run_at": [1] * 300_000},
}


@pytest.mark.parametrize("wrong", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_an_error_stays_small_and_repeats_names_alone(live: Live, path: str, wrong: object) -> None:
    job = {"type": "work"} | wrong  # type: ignore[operator]
    answer = live.post(path, job if path == "/jobs" else {"jobs": [job]})
    assert answer.status_code == 422
    assert len(answer.content) < 8_000
    assert 1 <= len(answer.json()["errors"]) <= 20
    assert "x" * 101 not in answer.text


@pytest.mark.parametrize("count", [1_000, 300_000])
def test_of_many_wrong_jobs_the_first_is_told(live: Live, count: int) -> None:
    answer = live.post("/jobs/batch", {"jobs": [{}] * count})
    assert answer.status_code == 422
    assert len(answer.content) < 1_000


def test_names_of_python_do_not_reach_clients(live: Live) -> None:
    answer = live.post("/jobs", {"type": "fax"})
    assert answer.json()["errors"] == [
        {"field": "type", "message": "'fax' has no handler here; there are: work."}
    ]
    for answer in (live.post("/jobs", {"type": "fax"}), live.http.get("/jobs/nobody")):
        assert not re.search(r"Job\.|status\(|history=|raise ", answer.json()["detail"])


@pytest.mark.parametrize(
    "address",
    [
        *("/jobs?x=1", "/jobs?limit=5&Limit=6", f"/jobs?limit=5&{'y' * 5_000}=1"),
        *("/events?type=email", "/stats?priority=low"),
    ],
)
def test_an_unknown_parameter(live: Live, address: str) -> None:
    with live.http.stream("GET", address) as answer:
        assert answer.status_code == 422
        answer.read()
    assert "No such parameter" in answer.json()["errors"][0]["message"]
    assert len(answer.content) < 1_000


def test_while_large_bodies_are_read_there_are_answers(live: Live) -> None:
    """What takes the event loop is counted: nothing of a large body is done there."""
    body = json.dumps({"type": "work"} | {f"f{n}": 1 for n in range(60_000)})
    headers = {"Content-Type": "application/json"}
    parsers: set[str] = set()

    def parse(text: bytes) -> object:
        parsers.add(threading.current_thread().name)
        return strict.parse(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "parse", parse)
        assert live.http.post("/jobs", content=body, headers=headers).status_code == 422
        assert live.post("/jobs", {}).status_code == 422
    large, small = sorted(parsers, key=lambda name: "final-parser" not in name)
    assert large.startswith("final-parser")
    assert not small.startswith("final-parser")


class TestLargePayloads:
    """Each keeps Python for a while, so only so many are written and read at a time."""

    @pytest.mark.parametrize(("size", "meet"), [(20_000, True), (200_000, False)])
    def test_a_lane_takes_one_at_a_time(
        self, open_service: OpenService, live: Live, size: int, meet: bool
    ) -> None:
        other = open_service()
        with meeting(2, meet):
            in_parallel(2, lambda: other.create(payload="x" * size))

    def test_an_urgent_one_does_not_wait_for_others(
        self, open_service: OpenService, live: Live
    ) -> None:
        other = open_service()
        lanes = iter(["high", "low"])
        with meeting(2, True):
            in_parallel(2, lambda: other.create(payload="x" * 200_000, priority=next(lanes)))

    @pytest.mark.parametrize(("count", "meet"), [(jobs.LOOKS, True), (jobs.LOOKS + 1, False)])
    def test_few_are_shown_at_a_time(
        self, open_service: OpenService, live: Live, count: int, meet: bool
    ) -> None:
        other = open_service()
        other.create(id="x")
        with meeting(count, meet):
            in_parallel(count, lambda: other.http.get("/jobs/x"))


@contextlib.contextmanager
def meeting(count: int, meet: bool) -> Iterator[None]:
    """Whether so many answers with a job are written at the same time: they wait for each other."""
    met = threading.Event()
    barrier = threading.Barrier(count, met.set)
    write = jobs._written

    def wait_for_others(*arguments: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(DEADLINE if meet else 0.5)
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_written", wait_for_others)
        yield
    assert met.is_set() is meet


def in_parallel(count: int, call: Callable[[], object]) -> None:
    for each in [Background(call) for _ in range(count)]:
        each.result()


def test_a_body_in_very_many_chunks_is_refused_early(live: Live) -> None:
    request = head("POST", "/jobs", Transfer_Encoding="chunked", Content_Type="application/json")
    with live.raw() as connection:
        connection.sendall(request)
        with contextlib.suppress(OSError):  # it hangs up before it has seen them all
            connection.sendall(b"1\r\nx\r\n" * 100_000)
        with contextlib.suppress(ConnectionResetError):
            assert status_of(connection) == 400


def test_a_body_in_chunks_of_a_decent_size(open_service: OpenService, live: Live) -> None:
    """Also the smallest that programs send which write one value after the other."""
    other = open_service()
    body = json.dumps({"type": "work", "payload": "x" * 100_000})
    for size in (200, 10_000):
        chunks = (body[start : start + size].encode() for start in range(0, len(body), size))
        headers = {"Content-Type": "application/json"}
        assert other.http.post("/jobs", content=chunks, headers=headers).status_code == 201


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
    before.create(id="half", run_at=3_600)
    before.create(id="odd", run_at=3_600)
    before.close()
    levels = "[" * 300 + "]" * 300
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE job SET due_at = 253402300800.0 WHERE id = 'never'")
        connection.execute(
            "UPDATE payload SET payload = ? WHERE seq = (SELECT seq FROM job WHERE id = 'deep')",
            (levels,),
        )
        connection.execute(
            "UPDATE payload SET payload = ? WHERE seq = (SELECT seq FROM job WHERE id = 'half')",
            ('"\\ud800"',),
        )
        connection.execute("UPDATE job SET error = x'ff', timeout = 9e999 WHERE id = 'odd'")
    http = open_service(path=path).http
    assert [job["id"] for job in http.get("/jobs").json()["jobs"]] == [
        *("odd", "half", "deep", "never", "good")
    ]
    assert http.get("/jobs/never").json()["due_at"] == "9999-12-31T23:59:59.999999Z"
    assert http.get("/jobs/deep").json()["payload"] == {"json": levels}
    assert http.get("/jobs/half").json()["payload"] == {"json": '"\\ud800"'}
    assert http.get("/jobs/odd").json()["timeout"] is None
