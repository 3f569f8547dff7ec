"""The command line: over real sockets, on real files, and as processes where that is the point."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from final import Job, JobQueue, Status
from final.cli.app import main
from tests.final.helpers import eventually, nothing, reaches
from tests.helpers import DEADLINE, Background
from tests.processes import ROOT, Program, needs_signals
from tests.service.conftest import OpenService
from tests.service.helpers import Live

TOKEN = "correct-horse-battery"


class Ended(NamedTuple):
    code: int
    out: str
    error: str

    @property
    def documents(self) -> list[Any]:
        """With --json every line is one."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        [document] = self.documents
        return document


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command in an empty folder, with nothing on the default port."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", str(_free_port()))
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("JOBQUEUE_URL", "JOBQUEUE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        assert (captured.err == "") == (code == 0) or arguments[0] == "show"
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(params=["service", "file"])
def anywhere(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Iterator[Run]:
    """A command with --json on a service, and the same on a file; "dead" has failed in both."""
    path = tmp_path / "anywhere.db"
    with JobQueue(_fails, path=path, max_retries=0) as queue:
        queue.enqueue(Job("dead", kind="work"))
        queue.join(DEADLINE)
    if request.param == "file":
        yield lambda *arguments: run(*arguments, "--json", "--db", str(path))
        return
    live: Live = request.getfixturevalue("open_service")({"work": nothing}, path=path)
    yield lambda *arguments: run(*arguments, "--json", "--url", _url(live))


def _fails(job: Job) -> None:
    raise RuntimeError("it went \033[31mwrong")


def _url(live: Live) -> str:
    return f"http://127.0.0.1:{live.port}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class TestEitherPlace:
    """What a command answers does not depend on where the jobs are."""

    def test_a_job_is_what_the_service_says_it_is(self, anywhere: Run, live: Live) -> None:
        wishes = ["--priority", "high", "--id", "a-1", "--run-at", "3600", "--timeout", "2.5"]
        job = anywhere("enqueue", "work", '{"to": ["ada"]}', *wishes).document
        assert list(job) == list(live.create())
        assert job["payload"] == {"to": ["ada"]}
        assert (job["id"], job["type"], job["priority"]) == ("a-1", "work", "high")
        assert (job["status"], job["timeout"]) == ("scheduled", 2.5)
        shown = anywhere("show", "a-1").document
        assert shown == job | {"failures": []}

    def test_a_time_and_a_payload_that_is_text(self, anywhere: Run) -> None:
        job = anywhere("enqueue", "work", '"hello"', "--run-at", "2100-01-31T08:00:00+01:00")
        assert job.document["payload"] == "hello"
        assert job.document["due_at"] == "2100-01-31T07:00:00Z"

    def test_an_id_that_is_taken(self, anywhere: Run) -> None:
        again = anywhere("enqueue", "work", "--id", "dead")
        assert (again.code, again.out) == (1, "")
        assert "Already in the queue: dead" in again.error

    def test_a_dead_letter_says_why_and_can_be_retried(self, anywhere: Run) -> None:
        [letter] = anywhere("dead-letters").documents
        assert letter["error"] == "RuntimeError: it went \033[31mwrong"
        shown = anywhere("show", "dead")
        assert shown.code == 1
        [failure] = shown.document["failures"]
        assert "in _fails" in failure["traceback"]
        assert anywhere("retry", "dead").document["status"] != "failed"
        assert anywhere("dead-letters").documents == []

    def test_a_waiting_job_is_cancelled(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "late", "--run-at", "3600")
        assert anywhere("cancel", "late").document["status"] == "cancelled"
        assert anywhere("cancel", "late").code == 0
        refused = anywhere("retry", "late")
        assert refused.code == 1
        assert refused.error == "Job late is cancelled: only a failed job can be retried.\n"

    def test_one_refusal_does_not_stop_the_rest(self, anywhere: Run) -> None:
        anywhere("enqueue", "work", "--id", "late", "--run-at", "3600")
        ended = anywhere("cancel", "nobody", "dead", "late")
        assert ended.code == 1
        assert ended.document["id"] == "late"
        assert [line.split(":")[0] for line in ended.error.splitlines()] == [
            "No job 'nobody' in this queue",
            "Job dead is failed" if "Job dead" in ended.error else "The job is failed",
        ]

    def test_lists_are_chosen_from_and_longer_than_a_page(self, anywhere: Run) -> None:
        for number in range(3):
            anywhere("enqueue", "work", "--id", f"j{number}", "--run-at", "99", "--priority", "low")
        assert [job["id"] for job in anywhere("jobs").documents] == ["j2", "j1", "j0", "dead"]
        wanted = ("--status", "scheduled", "--type", "work", "--priority", "low", "--limit", "2")
        assert [job["id"] for job in anywhere("jobs", *wanted).documents] == ["j2", "j1"]
        assert anywhere("jobs", "--type", "other").documents == []

    def test_figures_have_the_same_keys(self, anywhere: Run, live: Live) -> None:
        figures, other = anywhere("stats").document, live.http.get("/stats").json()
        assert figures.keys() == other.keys()
        assert figures["totals"].keys() == other["totals"].keys()
        assert list(figures["lanes"]) == ["high", "medium", "low"]
        assert figures["lanes"]["medium"]["failed"] == figures["totals"]["failed"] == 1

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["enqueue", "work", "{to: ada}"], "no JSON"),
            (["enqueue", "work", "NaN"], "NaN is not JSON"),
            (["enqueue", "work", "--id", "a b"], "id: "),
            (["enqueue", "work", "--run-at", "tomorrow"], "run_at"),
            (["enqueue", "work", "--timeout", "0"], "timeout: "),
            (["enqueue"], "Missing argument 'TYPE'"),
            (["jobs", "--status", "lost"], "'lost' is not one of"),
            (["jobs", "--limit", "0"], "'--limit'"),
            (["tidy"], "No such command 'tidy'"),
        ],
    )
    def test_what_makes_no_sense(self, anywhere: Run, arguments: list[str], complaint: str) -> None:
        ended = anywhere(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert complaint in ended.error
        assert ended.error.count("\n") == 1


class TestService:
    def test_pages_are_put_together(self, run: Run, live: Live) -> None:
        ids = live.queue.enqueue_many([Job(kind="work") for _ in range(230)])
        found = run("jobs", "--json", "--limit", "215", "--url", _url(live)).documents
        assert [job["id"] for job in found] == ids[:14:-1]

    def test_a_full_lane_stores_nothing(self, run: Run, held: Live) -> None:
        ended = [run("enqueue", "work", "--url", _url(held)) for _ in range(3)]
        assert [each.code for each in ended] == [0, 0, 3]
        assert "no room in time" in ended[-1].error
        assert held.stored() == 3

    def test_a_type_without_a_handler(self, run: Run, live: Live) -> None:
        ended = run("enqueue", "other", "--url", _url(live))
        assert ended.code == 2
        assert "'other' has no handler here" in ended.error

    def test_the_token(
        self, run: Run, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = _url(open_service(token=TOKEN))
        ended = run("jobs", "--url", url)
        assert ended.code == 3
        assert "JOBQUEUE_TOKEN" in ended.error
        assert run("jobs", "--url", url, "--token", TOKEN).code == 0
        monkeypatch.setenv("JOBQUEUE_TOKEN", TOKEN)
        assert run("jobs", "--url", url).code == 0

    def test_no_proxy_gets_to_see_the_token(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{_free_port()}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        assert run("jobs", "--url", _url(live), "--token", TOKEN).code == 0

    def test_nobody_answers(self, run: Run) -> None:
        ended = run("jobs", "--url", f"http://127.0.0.1:{_free_port()}")
        assert ended.code == 3
        assert "start one with `python -m final serve`" in ended.error

    @pytest.mark.parametrize("url", ["localhost:8080", "http://", "http://x:y", "ftp://x"])
    def test_what_is_no_address(self, run: Run, url: str) -> None:
        assert run("jobs", "--url", url).code in (2, 3)

    def test_somebody_else_answers(self, run: Run) -> None:
        with HTTPServer(("127.0.0.1", 0), SomebodyElse) as other:
            serving = Background(other.serve_forever)
            ended = run("jobs", "--url", f"http://127.0.0.1:{other.server_port}")
            other.shutdown()
            serving.result()
        assert ended.code == 3
        assert "is not this service" in ended.error


class SomebodyElse(BaseHTTPRequestHandler):
    """Knows no method at all."""

    def log_message(self, *_: object) -> None:
        pass


class TestWhichPlace:
    def test_the_service_on_the_default_port_comes_first(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("enqueue", "work", "--id", "in-file", "--db", "jobs.db")
        assert run("jobs", "--json").document["id"] == "in-file"
        monkeypatch.setenv("PORT", str(live.port))
        live.create(id="in-service")
        assert run("jobs", "--json").document["id"] == "in-service"
        assert run("jobs", "--json", "--db", "jobs.db").document["id"] == "in-file"

    def test_the_environment_names_a_service(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live.create(id="in-service")
        monkeypatch.setenv("JOBQUEUE_URL", _url(live))
        assert run("jobs", "--json").document["id"] == "in-service"
        ended = run("jobs", "--db", "nowhere.db")
        assert ended.code == 3
        assert "There is no file nowhere.db" in ended.error

    def test_nothing_is_there(self, run: Run, tmp_path: Path) -> None:
        for command in (["jobs"], ["enqueue", "work"], ["stats"]):
            ended = run(*command)
            assert ended.code == 3
            assert "there is no jobs.db in this folder" in ended.error
        assert list(tmp_path.iterdir()) == []

    def test_both_are_one_too_many(self, run: Run) -> None:
        assert run("jobs", "--url", "http://127.0.0.1", "--db", "jobs.db").code == 2

    def test_memory_is_no_place(self, run: Run) -> None:
        ended = run("enqueue", "work", "--db", ":memory:")
        assert ended.code == 2
        assert "ends with its process" in ended.error


class TestFile:
    def test_a_job_waits_for_a_process_with_handlers(self, run: Run) -> None:
        for number in range(3):
            run("enqueue", "later", str(number), "--id", f"j{number}", "--db", "new.db")
        assert [job["status"] for job in run("jobs", "--json", "--db", "new.db").documents] == [
            "queued"
        ] * 3
        ran: list[object] = []
        with JobQueue({"later": lambda job: ran.append(job.payload)}, path="new.db", workers=1):
            pass
        assert ran == [0, 1, 2]
        shown = run("show", "j0", "--json", "--db", "new.db")
        assert (shown.code, shown.document["status"]) == (0, "completed")

    def test_an_owned_file_is_looked_at_and_not_changed(self, run: Run) -> None:
        with JobQueue({"work": nothing}, path="owned.db") as queue:
            queue.wait(queue.enqueue(Job("here", kind="work")), DEADLINE)
            assert run("show", "here", "--json", "--db", "owned.db").document["attempts"] == 1
            assert run("stats", "--json", "--db", "owned.db").document["totals"]["completed"] == 1
            for command in (["enqueue", "work"], ["cancel", "here"], ["retry", "here"]):
                ended = run(*command, "--db", "owned.db")
                assert ended.code == 3
                assert "is in use by process" in ended.error
                assert "give its --url" in ended.error
            assert len(queue.jobs()) == 1

    def test_a_killed_process_leaves_a_file_to_look_at_and_change(
        self, run: Run, tmp_path: Path
    ) -> None:
        options = json.dumps({"port": 0, "workers": 1, "db": "killed.db"})
        with Program(tmp_path, "tests.service.child", options) as service:
            service.read_until("Serving on ")
            [url] = re.findall(r"http://\S+:\d+", service.output)
            run("enqueue", "held", "--id", "in-flight", "--url", url)

            def status() -> str:
                shown = run("show", "in-flight", "--json", "--db", "killed.db")
                return str(shown.document["status"])

            eventually(lambda: status() == "processing", "its start")
            service.kill()
        left = [(tmp_path / name).read_bytes() for name in ("killed.db", "killed.db-wal")]
        assert status() == "processing"
        # Looking tidies nothing up: that is for the next owner.
        assert left == [(tmp_path / name).read_bytes() for name in ("killed.db", "killed.db-wal")]
        assert run("cancel", "in-flight", "--db", "killed.db").code == 0
        with JobQueue(_fails, path="killed.db") as queue:
            assert queue.status("in-flight") is Status.CANCELLED

    def test_files_of_something_else(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "text.db").write_text("not a database, and long enough to see it" * 20)
        with sqlite3.connect(tmp_path / "other.db") as other:
            other.execute("CREATE TABLE job (id)")
        other.close()
        for path in ("text.db", "other.db"):
            for command in (["jobs"], ["enqueue", "work"]):
                ended = run(*command, "--db", path)
                assert ended.code == 3
                assert path in ended.error
                assert ended.error.count("\n") == 1
        assert "is not a file of this queue" in run("jobs", "--db", "other.db").error


class TestForPeople:
    def test_tables_fit_and_ids_are_whole(
        self, run: Run, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        job_id = live.create(payload="fails")["id"]
        reaches(live.queue, job_id, Status.FAILED)
        for command in (["jobs"], ["dead-letters"], ["show", job_id], ["stats"]):
            shown = run(*command, "--url", _url(live)).out
            assert max(map(len, shown.splitlines())) <= 80
            assert "\033[" not in shown
            assert _url(live) in shown
            assert job_id in shown or command == ["stats"]

    def test_what_jobs_bring_along_does_not_steer_the_terminal(
        self, run: Run, tmp_path: Path
    ) -> None:
        with JobQueue(_fails, path="hostile.db", max_retries=0) as queue:
            queue.enqueue(Job("\033[2J", "\033]0;", kind="\x9b31m"))
            queue.join(DEADLINE)
        for command in (["jobs"], ["dead-letters"], ["show", "\033[2J"], ["retry", "\033[2J\x07"]):
            ended = run(*command, "--db", "hostile.db")
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", ended.out + ended.error)


def process(folder: Path, *arguments: str, **options: Any) -> Ended:
    """``python ARGUMENTS`` as a process."""
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | options.pop("env", {})
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
        **options,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class TestProcess:
    @needs_signals
    def test_a_service_from_start_to_end(self, tmp_path: Path, run: Run) -> None:
        with Program(tmp_path, "final", "serve", "--port", "0", "--demo-seconds", "0") as service:
            service.read_until("Serving on ")
            [url] = re.findall(r"http://\S+:\d+", service.output)
            enqueue = ("-m", "final", "enqueue", "email", "-", "--json", "--url", url)
            created = process(tmp_path, *enqueue, input='{"to": "ada"}')
            assert created.code == 0, created.error
            job_id = created.document["id"]
            eventually(
                lambda: (
                    run("show", job_id, "--json", "--url", url).document["status"] == "completed"
                ),
                "its end",
            )
            second = process(tmp_path, "-m", "final", "serve", "--port", "0")
            assert second.code == 3
            assert re.fullmatch(r"jobs\.db is in use by process \d+: .*\n", second.error)
            with Program(tmp_path, "final", "stats", "--watch", "--json", "--url", url) as watching:
                watching.read_until('"completed": 1')
                watching.read_until('"completed": 1')
                watching.signal(signal.SIGINT)
                assert watching.read_to_the_end() == 0
            service.signal(signal.SIGTERM)
            assert service.read_to_the_end() == 0

    def test_a_service_that_cannot_be_started(self, run: Run) -> None:
        for arguments in (["--host", "0.0.0.0"], ["--handlers", "x"], ["--workers", "0"]):
            ended = run("serve", "--port", "0", *arguments)
            assert (ended.code, ended.out) == (2, "")
            assert ended.error.count("\n") == 1

    def test_without_the_extra_it_says_what_to_install(self, tmp_path: Path) -> None:
        absent = "raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')"
        (tmp_path / "typer.py").write_text(absent)
        ended = process(tmp_path, "-m", "final", "jobs")
        assert ended == (2, "", "Commands need typer: pip install '.[service]'\n")

    def test_the_core_does_not_load_it(self, tmp_path: Path) -> None:
        extra = "typer|rich|httpx|pydantic|fastapi|uvicorn|final.cli|final.service"
        code = f"import sys, final; print([m for m in sys.modules if m in '{extra}'.split('|')])"
        assert process(tmp_path, "-c", code).out == "[]\n"

    def test_the_shell_completes_commands(self, tmp_path: Path) -> None:
        words = {"COMP_WORDS": "jobqueue dead", "COMP_CWORD": "1"}
        ended = process(
            tmp_path,
            "-c",
            "from final.cli.app import main; main()",
            env={"_JOBQUEUE_COMPLETE": "complete_bash", **words},
        )
        assert ended.out.split() == ["dead-letters"]

    def test_the_help_names_the_exit_codes(self, tmp_path: Path) -> None:
        ended = process(tmp_path, "-m", "final", "--help")
        assert ended.code == 0
        assert "Ends with 0 if all went well" in ended.out

    def test_a_short_measurement(self, run: Run, tmp_path: Path) -> None:
        found = run("bench", "--seconds", "0.05", "--json").documents
        assert [list(each) for each in found] == [["ratio", "what", "jobs_per_second"]] * 4
        assert found[0]["ratio"] == 1
        assert list(tmp_path.iterdir()) == []
        assert "durable enqueues" in run("bench", "--seconds", "0.05").out
