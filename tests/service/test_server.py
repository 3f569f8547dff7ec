"""The service as a process: started, addressed, and stopped with real signals."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from final import Kind, StorageError, TokenBucket
from final.service.server import ServiceError, load_handlers, serve
from tests.final.helpers import eventually, in_file, nothing
from tests.helpers import Background
from tests.processes import ROOT, Program, needs_signals
from tests.service.conftest import OpenService
from tests.service.helpers import client, head, status_of

TOKEN = "correct-horse-battery"


@contextlib.contextmanager
def serving(folder: Path, module: str = "tests.service.child", **options: Any) -> Iterator[Served]:
    """A process that serves on a free port, until the end of the ``with`` block at the latest."""
    given = json.dumps({"port": 0, "workers": 1} | options)
    with Program(folder, module, *([] if module == "final.service" else [given])) as program:
        program.read_until("Serving on ")
        [url] = re.findall(r"http://\S+:\d+", program.output)
        with client(url) as http:
            yield Served(program, http, folder)


class Served:
    def __init__(self, program: Program, http: httpx.Client, folder: Path) -> None:
        self.program = program
        self.http = http
        self._folder = folder

    def start_job(self, job_id: str) -> None:
        """Create a job that works until ``let_go``, and wait for its start."""
        assert self.http.post("/jobs", json={"type": "held", "id": job_id}).status_code == 201
        eventually((self._folder / f"began-{job_id}").exists, "its start")

    def status(self, job_id: str) -> str:
        return str(self.http.get(f"/jobs/{job_id}").json()["status"])

    def let_go(self) -> None:
        (self._folder / "go").touch()


class TestStopping:
    pytestmark = needs_signals

    @pytest.mark.parametrize(
        "number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", 0)], ids=str
    )
    def test_what_runs_is_finished_and_nothing_more_is_taken(
        self, tmp_path: Path, number: int
    ) -> None:
        with child_starts_with(number, signal.SIG_DFL), serving(tmp_path) as served:
            served.start_job("in-flight")
            served.http.post("/jobs", json={"type": "held", "id": "queued"})
            served.program.signal(number)
            served.program.read_until("Stopping: 1 jobs in flight")
            answer = served.http.post("/jobs", json={"type": "held", "id": "late"})
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems#stopping"
            ready = served.http.get("/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            assert served.status("in-flight") == "processing"
            served.let_go()
            assert served.program.read_to_the_end() == 0
            assert served.program.output.endswith("Stopped.\n")
        assert in_file(str(tmp_path / "jobs.db"), "id, status, attempts") == [
            ("in-flight", "completed", 1),
            ("queued", "queued", 0),
        ]

    def test_what_runs_is_finished_also_where_nobody_reads_what_it_says(
        self, tmp_path: Path
    ) -> None:
        """``serve | tee log``: Ctrl-C ends both, and the one that reads at once."""
        with serving(tmp_path) as served:
            served.start_job("in-flight")
            served.program.stop_reading()
            served.program.signal(signal.SIGINT)
            eventually(lambda: served.http.get("/ready").status_code == 503, "its stopping")
            assert served.status("in-flight") == "processing"
            served.let_go()
            database = str(tmp_path / "jobs.db")
            ended = [("in-flight", "completed", 1)]
            eventually(lambda: in_file(database, "id, status, attempts") == ended, "its end")

    def test_what_takes_too_long_runs_at_the_next_start(self, tmp_path: Path) -> None:
        with serving(tmp_path, shutdown_timeout=0.1) as served:
            served.start_job("long")
            served.program.signal(signal.SIGTERM)
            assert served.program.read_to_the_end() == 0
            assert "starts again next time" in served.program.output
        assert in_file(str(tmp_path / "jobs.db"), "id, status, attempts") == [("long", "queued", 0)]
        with serving(tmp_path) as served:
            served.let_go()
            eventually(lambda: served.status("long") == "completed", "its end")

    def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(self, tmp_path: Path) -> None:
        with serving(tmp_path) as served:
            served.start_job("running")
            served.http.post("/jobs", json={"type": "held", "id": "queued"})
            served.program.signal(signal.SIGTERM)
            served.program.read_until("Stopping")
            served.program.signal(signal.SIGTERM)
            assert served.program.read_to_the_end() == -signal.SIGTERM
        with serving(tmp_path) as served:
            served.let_go()
            for job_id in ("running", "queued"):
                eventually(lambda: served.status(job_id) == "completed", "its end")  # noqa: B023

    def test_open_streams_and_idle_connections_do_not_hold_it_up(self, tmp_path: Path) -> None:
        with serving(tmp_path) as served, served.http.stream("GET", "/events") as events:
            address = (served.http.base_url.host, served.http.base_url.port)
            with socket.create_connection(address) as idle:
                idle.sendall(head("GET", "/health"))
                assert status_of(idle) == 200
                served.program.signal(signal.SIGTERM)
                assert served.program.read_to_the_end() == 0
            assert Background(events.read).result() == b""

    def test_connections_that_come_at_the_end_hear_no_500_and_do_not_keep_it(
        self, tmp_path: Path
    ) -> None:
        """Clients that connect and ask all the time, until nobody listens any more."""
        answers: list[str] = []

        def ask(address: tuple[str, int]) -> None:
            with contextlib.suppress(OSError):  # at the end there is nobody
                while True:
                    with socket.create_connection(address, timeout=10) as connection:
                        connection.sendall(head("GET", "/ready"))
                        answers.append(connection.makefile("rb").readline().decode())

        with serving(tmp_path, patience=3_600) as served:  # it is not worn out, either
            address = ("127.0.0.1", served.http.base_url.port or 0)
            clients = [Background(ask, address) for _ in range(8)]
            eventually(lambda: len(answers) > 50, "their first answers")
            served.program.signal(signal.SIGTERM)
            assert served.program.read_to_the_end() == 0
            for each in clients:
                each.result()
        assert {line.split()[1] for line in answers if line} <= {"200", "503"}
        assert "Traceback" not in served.program.output

    def test_who_started_it_with_nohup_wants_it_to_go_on(self, tmp_path: Path) -> None:
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is None:
            return
        with child_starts_with(hangup, signal.SIG_IGN), serving(tmp_path) as served:
            served.program.signal(hangup)
            assert served.http.get("/ready").status_code == 200


@contextlib.contextmanager
def child_starts_with(number: int, action: signal.Handlers) -> Iterator[None]:
    """It takes over what this process does on the signal: with nohup, nothing on a hangup."""
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


class TestLog:
    pytestmark = needs_signals

    def test_errors_do_not_steer_the_terminal_and_are_cut(self, tmp_path: Path) -> None:
        (tmp_path / "loud.py").write_text(
            "def handlers(job):\n    raise RuntimeError('\\033[31m\\0' + 'x' * 3_000_000)"
        )
        options = ("serve", "--port", "0", "--handlers", "loud:handlers", "--max-retries", "0")
        with Program(tmp_path, "final", *options) as program:
            program.read_until("Serving on ")
            [url] = re.findall(r"http://\S+:\d+", program.output)
            with client(url) as http:
                http.post("/jobs", json={"type": "x", "id": "loud"})
                program.read_until("failed, attempt 1")
                assert len(http.get("/jobs/loud").content) < 64_000
                assert len(http.get("/dead-letters").content) < 8_000
            assert len(program.output) < 8_000
            assert not re.search(r"[\x00-\x08\x0b-\x1f]", program.output)


class TestAddress:
    def test_the_port_may_come_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        with serving(tmp_path, "final.service") as served:
            assert served.http.base_url.port == port
            assert served.http.get("/stats").json()["demo"] is True

    @pytest.mark.parametrize("value", ["", "http", "-1", "70000", "٣"])
    def test_a_port_that_is_none(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("PORT", value)
        with pytest.raises(ServiceError, match="PORT is"):
            serve()

    def test_a_port_that_is_taken(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(ServiceError, match="choose another --port"),
        ):
            serve(port=taken.getsockname()[1])

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(ServiceError, match="or --host"):
            serve(host="192.0.2.1", port=0, token=TOKEN)  # which nobody has

    @pytest.mark.parametrize(
        "name", ["https://jobs.example", "jobs.example:443", "jobs.example/", "*.example", ""]
    )
    def test_what_no_host_header_can_be_is_no_name_to_allow(self, name: str) -> None:
        """Else all who come by that name are told to start it with --allow-host."""
        with pytest.raises(ServiceError, match="--allow-host is a name like"):
            serve(port=0, names=["jobs.example", name])

    @pytest.mark.parametrize("path", ["/queue", "queue", "queue/", "/queue/"])
    def test_the_path_of_a_proxy_may_come_with_any_slashes(self, tmp_path: Path, path: str) -> None:
        with serving(tmp_path, root_path=path) as served:
            assert served.http.get("/queue/static/dashboard.js").status_code == 200
            assert served.http.get("/openapi.json").json()["servers"] == [{"url": "/queue"}]
            job = served.http.post("/jobs", json={"type": "held"})
            assert job.headers["location"].startswith("/queue/jobs/")

    @pytest.mark.parametrize(
        "path", ["http://jobs.example/queue", "/a b", "/a?b", "/a//b", "/ä", "/a#b", "/%20"]
    )
    def test_what_is_no_path(self, path: str) -> None:
        with pytest.raises(ServiceError, match="--root-path is a path like /queue"):
            serve(port=0, root_path=path)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "jobs.example"])
    def test_other_machines_need_a_token(self, host: str) -> None:
        with pytest.raises(ServiceError, match="give a token"):
            serve(host=host, port=0)

    @pytest.mark.parametrize(
        "token",
        [
            "short",
            "x" * 15,
            "with a \n line break",
            "correct hörse battery",
            " spaces at its ends ",
        ],
    )
    def test_a_token_has_to_be_one(self, token: str) -> None:
        with pytest.raises(ServiceError, match="openssl rand -hex 32"):
            serve(port=0, token=token)

    @pytest.mark.parametrize("from_environment", [False, True])
    def test_with_a_token_it_may_be_reached_from_anywhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_environment: bool
    ) -> None:
        options = {} if from_environment else {"token": TOKEN}
        if from_environment:
            monkeypatch.setenv("JOBQUEUE_TOKEN", TOKEN)
        with serving(tmp_path, host="0.0.0.0", **options) as served:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with client(f"http://127.0.0.1:{served.http.base_url.port}") as http:
                assert http.get("/stats").status_code == 401
                assert http.get("/stats", headers=headers).status_code == 200
            assert TOKEN not in served.program.output


class TestHandlers:
    def test_a_mapping_in_a_module(self) -> None:
        assert list(load_handlers("tests.service.child:handlers")) == ["held", "opens"]  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "name", ["handlers", ":handlers", "tests.service.child:", "", "../jobs:handlers"]
    )
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(ServiceError, match="--handlers is module:name"):
            load_handlers(name)

    def test_a_module_that_is_not_there(self) -> None:
        with pytest.raises(ServiceError, match="No module named 'nowhere'"):
            load_handlers("nowhere:handlers")

    def test_a_module_that_is_no_python(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The line is told, and not that of the importing code."""
        (tmp_path / "half_written.py").write_text("\ndef handle(job:\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ServiceError, match=r"\(half_written\.py, line 2\)\.$"):
            load_handlers("half_written:handle")

    def test_a_name_that_is_not_there(self) -> None:
        with pytest.raises(ServiceError, match=r"tests\.service\.child has no nothing"):
            load_handlers("tests.service.child:nothing")


@pytest.mark.parametrize(
    ("handlers", "options", "limited"),
    [
        (nothing, {}, False),
        ({"a": nothing, "b": Kind(nothing, max_retries=1)}, {"rate_limit": TokenBucket(1)}, False),
        ({"a": nothing}, {"rate_limit": {"a": TokenBucket(1)}}, True),
        ({"a": Kind(nothing, rate_limit=TokenBucket(1))}, {}, True),
        ({"a": Kind(nothing, workers=1)}, {}, True),
        (nothing, {"group_limit": 1}, True),
    ],
)
def test_whether_jobs_may_wait_for_a_limit(
    open_service: OpenService, handlers: Any, options: dict[str, Any], limited: bool
) -> None:
    """Of the whole queue it is none: there the lanes take turns."""
    live = open_service(handlers, **options)
    assert live.http.get("/stats").json()["limited"] is limited


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    with serving(tmp_path), pytest.raises(StorageError, match="is in use by process"):
        serve(port=0, db=str(tmp_path / "jobs.db"))


def test_the_curl_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From creation over processing to completed, as a reader types them."""
    monkeypatch.setenv("PORT", "0")
    pages = [ROOT / "README.md", ROOT / "docs" / "service.md"]
    [block] = {
        found
        for page in pages
        for found in re.findall(
            r"```sh\n(curl -s localhost:8080/health\n.*?)```",
            page.read_text(encoding="utf-8"),
            re.DOTALL,
        )
    }
    commands = block.replace("\\\n", " ").strip().splitlines()
    with serving(tmp_path, "final.service") as served:
        port = served.http.base_url.port

        def run(command: str) -> dict[str, Any]:
            command = command.replace("localhost:8080", f"127.0.0.1:{port}")
            done = subprocess.run(
                shlex.split(command, comments=True), stdout=subprocess.PIPE, check=True
            )
            answer = json.loads(done.stdout)
            assert isinstance(answer, dict)
            return answer

        health, create, look, look_again = commands
        assert run(health)["status"] == "ok"
        assert run(create)["status"] in ("queued", "processing")
        eventually(lambda: run(look)["status"] == "processing", "its start")
        eventually(lambda: run(look_again)["status"] == "completed", "its end")
