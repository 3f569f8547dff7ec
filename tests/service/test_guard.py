"""Who is let in: by which name, from which page, with which token. And what browsers are told."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.conftest import OpenService, opener
from tests.service.helpers import Live, head, status_of

TOKEN = "correct-horse-battery"
EVERYTHING = (
    *("/", "/jobs", "/jobs/x", "/dead-letters", "/stats", "/events", "/metrics", "/docs"),
    *("/openapi.json", "/static/index.html", "/docs/files/swagger-ui.css", "/nowhere"),
)


@pytest.fixture(scope="module")
def live(closed: list[Live]) -> Iterator[Live]:
    """One for all: a guard remembers nothing, and to start one takes longer than a test."""
    with opener(closed) as open_service:
        yield open_service()


@pytest.fixture(scope="module")
def locked(closed: list[Live]) -> Iterator[Live]:
    with opener(closed) as open_service:
        yield open_service(token=TOKEN, demo=True)


def status(live: Live, path: str = "/health", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return live.http.get(path, headers=named).status_code


class TestHost:
    """A page can point its own name at 127.0.0.1; its requests then carry that name."""

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080", "10.1.2.3"]
    )
    def test_addresses_and_localhost_are_ours(self, live: Live, host: str) -> None:
        assert status(live, Host=host) == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "evil.example:80",
            "",
            "[",
            "evil.example@127.0.0.1",
            "127.0.0.1:abc",
            "127.0.0.1:99999",
            "127.0.0.1/x",
            "127.0.0.1#",
            "127.0.0.1 evil.example",
            "[::1",
            "[::1]x",
        ],
    )
    def test_other_names_are_not(self, live: Live, host: str) -> None:
        answer = live.http.get("/jobs", headers={"Host": host})
        assert answer.status_code == 421
        assert answer.json()["type"] == "/problems#host"

    @pytest.mark.parametrize("path", ["/health", "/ready"])
    def test_a_probe_in_http_1_0_has_none(self, live: Live, path: str) -> None:
        assert live.send(f"GET {path} HTTP/1.0\r\n\r\n".encode()) == 200
        assert live.send(f"GET {path} HTTP/1.1\r\n\r\n".encode()) == 400

    def test_a_name_can_be_allowed(self, open_service: OpenService) -> None:
        live = open_service(names=["Jobs.internal"])
        assert status(live, Host="jobs.internal:8080") == 200
        assert status(live, Host="other.internal") == 421


class TestOrigin:
    def test_our_own_page_may(self, live: Live) -> None:
        ours = f"http://127.0.0.1:{live.port}"
        answer = live.http.post("/jobs", json={"type": "work"}, headers={"Origin": ours})
        assert answer.status_code == 201

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:80", "http://localhost"),
            ("localhost", "http://localhost:80"),
            ("localhost", "https://localhost:443"),
            ("localhost:443", "https://localhost"),
            ("[::1]:80", "http://[::1]"),
        ],
    )
    def test_the_usual_port_may_be_left_out(self, live: Live, host: str, origin: str) -> None:
        assert status(live, "/jobs", Host=host, Origin=origin) == 200

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "http://127.0.0.1:80",
            "null",
            "http://127.0.0.1:1",
            "http://localhost",
            "",
            "http://[",
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
    def test_other_pages_may_not(self, live: Live, method: str, origin: str) -> None:
        before = live.stored()
        answer = live.http.request(
            method, "/jobs", json={"type": "work"}, headers={"Origin": origin}
        )
        assert answer.status_code == 403
        assert live.stored() == before

    def test_a_proxy_that_hides_its_name_is_told(self, live: Live) -> None:
        """As nginx does without `proxy_set_header Host $host`."""
        answer = live.http.post("/resume", json={}, headers={"Origin": "https://jobs.example.com"})
        assert (
            f"sent this to 127.0.0.1:{live.port}, which is refused. A proxy"
            in answer.json()["detail"]
        )

    def test_no_other_page_may_read_the_answers(self, live: Live) -> None:
        answer = live.http.options("/jobs", headers={"Access-Control-Request-Method": "POST"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


class TestToken:
    @staticmethod
    def basic(user: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/jobs",
            "/jobs/x",
            "/dead-letters",
            "/stats",
            "/events",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/nowhere",
            "/static/index.html",
            "/docs/files/swagger-ui.css",
        ],
    )
    def test_nothing_is_told_without_it(self, locked: Live, path: str) -> None:
        answer = locked.http.get(path)
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == [
            "Bearer",
            'Basic realm="job queue", charset="UTF-8"',
        ]

    def test_nothing_is_done_without_it(self, locked: Live) -> None:
        locked.queue.enqueue_many([])
        for method, path in (
            ("POST", "/jobs"),
            ("POST", "/jobs/batch"),
            ("POST", "/jobs/x/retry"),
            ("DELETE", "/jobs/x"),
            ("POST", "/demo/flood"),
            ("PUT", "/demo/fairness"),
        ):
            assert locked.http.request(method, path, json={"type": "work"}).status_code == 401
        assert locked.stored() == 0

    @pytest.mark.parametrize("path", ["/health", "/ready"])
    def test_probes_need_none(self, locked: Live, path: str) -> None:
        assert locked.http.get(path).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/stats", "/metrics"])
    def test_programs_send_it_as_bearer(self, locked: Live, path: str) -> None:
        assert status(locked, path, Authorization=f"Bearer {TOKEN}") == 200

    @pytest.mark.parametrize("user", ["", "ada", "a b"])
    def test_browsers_send_it_as_the_password(self, locked: Live, user: str) -> None:
        assert status(locked, "/", Authorization=self.basic(user, TOKEN)) == 200

    def test_event_streams_too(self, locked: Live) -> None:
        headers = {"Authorization": self.basic("", TOKEN)}
        with locked.http.stream("GET", "/events", headers=headers) as answer:
            assert answer.status_code == 200

    @pytest.mark.parametrize(
        "value",
        [
            "Bearer",
            "Bearer correct-horse-batter",
            "Bearer correct-horse-batteryy",
            "Bearer CORRECT-HORSE-BATTERY",
            "correct-horse-battery",
            "Digest correct-horse-battery",
            "Basic correct-horse-battery",
            "Basic ====",
            "Basic " + base64.b64encode(b"correct-horse-battery").decode(),
            "Basic " + base64.b64encode(b"correct-horse-battery:").decode(),
            "Basic " + base64.b64encode(b"a:\xff\xfe").decode(),
            "Bearer " + "x" * 10_000,
            "Basic \xff\xfe",
            "Basic \xe4bc=",
            "Bearer \xff",
            "\xff",
        ],
    )
    def test_anything_else_is_refused(self, locked: Live, value: str) -> None:
        with locked.raw() as connection:
            connection.sendall(head("GET", "/jobs", Authorization=value))
            assert status_of(connection) == 401

    def test_it_is_no_good_in_an_address(self, locked: Live) -> None:
        """There it would end in logs and histories."""
        assert status(locked, f"/jobs?token={TOKEN}") == 401

    def test_it_is_compared_in_constant_time(
        self, locked: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[Any] = []

        def compare(left: bytes, right: bytes) -> bool:
            compared.append((left, right))
            return compare_digest(left, right)

        compare_digest = hmac.compare_digest
        monkeypatch.setattr(hmac, "compare_digest", compare)
        assert status(locked, "/jobs", Authorization="Bearer wrong") == 401
        assert compared == [(b"wrong", TOKEN.encode())]


class TestBrowserRules:
    @pytest.mark.parametrize("path", ["/", "/docs", "/jobs", "/nowhere", "/static/index.html"])
    def test_only_our_own_files_run(self, live: Live, path: str) -> None:
        headers = live.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    def test_refusals_too(self, live: Live) -> None:
        for path, headers in (("/", {"Host": "evil.example"}), ("/jobs?limit=0", {})):
            answer = live.http.get(path, headers=headers)
            assert answer.status_code in (421, 422)
            assert "default-src 'none'" in answer.headers["content-security-policy"]

    def test_what_jobs_say_is_never_a_page(self, open_service: OpenService) -> None:
        """Markup in ids, types, payloads and errors arrives as JSON text."""
        markup = "<img src=x onerror=alert(1)>"

        def fails(job: object) -> None:
            raise RuntimeError(markup)

        live = open_service({markup: fails}, max_retries=0)
        live.create(type=markup, payload=markup)
        live.queue.join()
        for path in ("/jobs", "/dead-letters", f"/jobs/{live.queue.jobs()[0].id}"):
            answer = live.http.get(path)
            assert answer.headers["content-type"] == "application/json"
            assert markup in answer.text
        assert markup not in live.http.get("/metrics").text


class TestWhateverGoesWrong:
    """Whatever it is, it leaves as a problem, with the rules for browsers, and is logged."""

    @pytest.mark.parametrize("where", ["_refusal", "_app"])
    def test_it_is_a_problem(
        self,
        open_service: OpenService,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        where: str,
    ) -> None:
        live = open_service()

        def broken(*_: object) -> Any:
            raise RuntimeError("a bug in /secret/place")

        monkeypatch.setattr(live.guard, where, broken)
        answer = live.http.get("/health")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "secret" not in answer.text
        assert "a bug in /secret/place" in caplog.text


@pytest.mark.parametrize("left", ["/queue", ""], ids=["as it came", "without its path"])
@pytest.mark.parametrize(
    "path", ["/", "/health", "/jobs", "/static/dashboard.js", "/docs/files/swagger-ui.css"]
)
def test_a_proxy_may_send_its_path_or_leave_it_out(
    open_service: OpenService, left: str, path: str
) -> None:
    live = open_service(root_path="/queue")
    assert live.http.get(left + path).status_code == 200
    assert live.http.get(f"/queue{left}{path}").status_code == (404 if left else 200)


def test_the_path_of_a_proxy_without_its_last_slash_leads_to_the_page(
    open_service: OpenService,
) -> None:
    """There the links of the page, which are relative, would miss the path."""
    live = open_service(root_path="/queue")
    answer = live.http.get("/queue")
    assert (answer.status_code, answer.headers["location"]) == (308, "/queue/")
    assert live.http.get("/queue", follow_redirects=True).text == live.http.get("/queue/").text
    assert live.http.get("/queues").status_code == 404


@pytest.mark.parametrize("path", ["/", "/static/dashboard.js", "/docs/files/swagger-ui.css"])
@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=99999999-", "lines=1-2", "bytes=5-1"])
def test_a_file_comes_as_a_whole(live: Live, path: str, wanted: str) -> None:
    """No answer is plain text then, because nothing can be wrong with a range."""
    answer = live.http.get(path, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, live.http.get(path).content)


class TestHead:
    @pytest.mark.parametrize(
        "path", ["/", "/health", "/ready", "/jobs", "/stats", "/metrics", "/events", "/docs"]
    )
    def test_it_is_get_without_the_body(self, live: Live, path: str) -> None:
        with live.raw() as connection:  # which may go on after it
            for method in ("HEAD", "HEAD", "OPTIONS"):
                connection.sendall(head(method, path))
                with connection.makefile("rb", buffering=0) as answer:
                    status_line = answer.readline()
                    while (line := answer.readline()) not in (b"\r\n", b""):
                        if method == "HEAD" and line.lower().startswith(b"content-security-policy"):
                            assert b"default-src 'none'" in line
                assert (b" 200 " in status_line) == (method == "HEAD")
        live.wait_for_listeners(0)

    def test_where_there_is_no_get_there_is_no_head(self, live: Live) -> None:
        assert live.http.head("/jobs/batch").status_code == 404  # no job has this id
        assert live.http.head("/nowhere").status_code == 404
