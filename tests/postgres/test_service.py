"""Several services on one database: each takes jobs for all, and shows those of all."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from final import Job, UnknownJob
from tests.final.helpers import nothing
from tests.helpers import DEADLINE
from tests.host import Host
from tests.postgres.conftest import OpenQueue
from tests.postgres.test_processes import becomes
from tests.processes import Program, needs_signals


def test_what_one_accepts_another_shows_and_finishes(address: str, tmp_path: Path) -> None:
    serve = ("serve", "--db", address, "--port", "0", "--demo-seconds", "0.01")
    with (
        Program(tmp_path, "final", *serve) as one,
        Program(tmp_path, "final", *serve) as other,
        httpx.Client(timeout=DEADLINE) as client,
    ):
        here, there = (url_of(program) for program in (one, other))
        ids = []
        for n in range(20):
            answer = client.post(f"{here}/jobs", json={"type": "email", "payload": n})
            assert answer.status_code in (201, 202)
            ids.append(answer.json()["id"])
        one.kill()  # the other one finishes what it had, and shows it
        becomes(
            lambda: all(
                client.get(f"{there}/jobs/{job_id}").json()["status"] == "completed"
                for job_id in ids
            )
        )
        becomes(lambda: client.get(f"{there}/stats").json()["totals"]["completed"] == 20)


@needs_signals
def test_what_is_refused_does_not_fill_the_log(address: str, tmp_path: Path) -> None:
    with Program(tmp_path, "final", "serve", "--db", address, "--port", "0") as program:
        here = url_of(program)
        for status in (201, 409, 409):
            answer = httpx.post(f"{here}/jobs", json={"type": "email", "id": "x"}, timeout=DEADLINE)
            assert answer.status_code == status
        program.signal(signal.SIGINT)
        assert program.read_to_the_end() == 0
        assert "pipeline" not in program.output


def test_each_process_has_a_row_until_it_is_gone(address: str, tmp_path: Path) -> None:
    serve = ("serve", "--db", address, "--port", "0", "--workers", "3")
    with (
        Program(tmp_path, "final", *serve) as program,
        httpx.Client(timeout=DEADLINE) as client,
        Host(address, workers=0) as host,
        Host(address, workers=0, name="nowhere") as killed,
    ):
        here = url_of(program)
        host.wait_for("ready")
        killed.wait_for("ready")

        def rows() -> dict[str, Any]:
            found = client.get(f"{here}/stats").json()["processes"]
            return {each["name"]: each for each in found}

        ours, theirs = f"{socket.gethostname()}:{program.pid}", f"nowhere:{killed.pid}"
        becomes(lambda: len(rows()) == 3)
        assert (rows()[ours]["here"], rows()[ours]["workers"]) == (True, 3)
        assert (rows()[theirs]["here"], rows()[theirs]["alive"]) == (False, True)
        job = {"type": "email", "id": "long", "payload": {"seconds": 60}}
        client.post(f"{here}/jobs", json=job)
        becomes(lambda: any(row["running"] == {"email": 1} for row in rows().values()))
        killed.kill()
        becomes(lambda: theirs not in rows())
        assert set(rows()) == {ours, f"another-host:{host.pid}"}
        figures = client.get(f"{here}/metrics").text
        assert "jobqueue_processes 2.0" in figures
        assert re.search(r'jobqueue_dead_rows{table="job"} \d', figures)
        assert re.search(r"jobqueue_oldest_view_age_transactions{holder=.*} \d", figures)


def test_a_list_goes_on_where_the_last_of_a_page_has_been_let_go_of(open_queue: OpenQueue) -> None:
    queue = open_queue({"works": nothing, "fails": lambda job: 1 / 0}, max_retries=0)
    ids = queue.enqueue_many([Job(kind="works"), Job(kind="fails"), Job(kind="works")])
    queue.join(DEADLINE)
    last = queue.jobs(limit=2)[-1]
    queue.purge()
    assert [job.id for job in queue.jobs(before=last.seq)] == ids[:1]
    with pytest.raises(UnknownJob):
        queue.jobs(before=last.id)


def url_of(program: Program) -> str:
    program.read_until("Serving on")
    (url,) = re.findall(r"Serving on (http://\S+?)/?\s", program.output)
    return str(url)
