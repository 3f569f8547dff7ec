"""The demos, as their readers run them: real processes, interrupted and killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.expectations import STAGES
from tests.final.helpers import eventually
from tests.helpers import DEADLINE
from tests.processes import ROOT, Program, needs_signals, said_to_nobody

EVENT = re.compile(r"^ +\d+\.\d\d s  (\w+) +(\w+-\d+) +(high|medium|low) +([\w-]+)( .*)?$", re.M)


class Demo(Program):
    """``python -m STAGE`` in the folder ``place``.

    seconds: how long a job takes; who would do something meanwhile may be late on a busy machine.
    """

    def __init__(self, stage: str, place: Path, seconds: float = 0.4) -> None:
        super().__init__(place, stage, JOB_SECONDS=str(seconds))

    def finish(self) -> str:
        """All the output; the demo must end by itself, with exit code 0."""
        assert self.read_to_the_end() == 0, self.output
        return self.output

    def ids(self, event: str) -> list[str]:
        return [match[2] for match in EVENT.finditer(self.output) if match[1] == event]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Demo]]:
    """The three demos, left alone until they end (all at once, to save time)."""
    place = tmp_path_factory.mktemp("demos")
    with contextlib.ExitStack() as stack:
        demos = {name: stack.enter_context(Demo(name, place)) for name in STAGES}
        for demo in demos.values():
            demo.finish()
        yield demos


@pytest.mark.parametrize("name", STAGES)
def test_it_says_how_to_kill_it(name: str, finished: dict[str, Demo]) -> None:
    demo = finished[name]
    assert re.search(rf"(kill -9|taskkill /F /PID) {demo.pid} at once", demo.output)


def test_naive_loses_jobs_and_a_worker_and_says_which(finished: dict[str, Demo]) -> None:
    naive = finished["naive"]
    assert len(naive.ids("queued")) == 12
    assert naive.ids("lost") == ["photo-2"]
    dies = r"failed; nobody tries again\n(.*\n)*? {10}and its worker dies\n"  # others speak as well
    assert re.search(dies, naive.output)
    counted = re.findall(r"^ +(\d+) of 12 (\w+)", naive.output, re.M)
    assert sum(int(count) for count, _ in counted) == 12
    assert {"completed", "lost"} == {ending for _, ending in counted}


@pytest.mark.parametrize("name", ["improved", "final"])
def test_improved_and_final_complete_every_job(name: str, finished: dict[str, Demo]) -> None:
    demo = finished[name]
    assert len(set(demo.ids("queued"))) == 12
    assert set(demo.ids("processing")) == set(demo.ids("queued"))
    assert sorted(demo.ids("completed")) == sorted(demo.ids("queued"))
    assert demo.ids("retrying") == ["photo-2"]
    assert "failed; due again in 0.4 s" in demo.output
    assert demo.ids("processing").count("photo-2") == 2
    assert re.search(r"processing  photo-2 .* attempt 2$", demo.output, re.M)
    assert "all workers stopped" in demo.output
    assert "12 of 12 completed" in demo.output


@pytest.mark.parametrize("name", STAGES)
def test_the_columns_are_aligned_and_fit_80_characters(
    name: str, finished: dict[str, Demo]
) -> None:
    columns = {
        tuple(match.start(group) - match.start() for group in range(1, 5))
        for match in EVENT.finditer(finished[name].output)
    }
    assert len(columns) == 1
    assert max(map(len, finished[name].output.splitlines())) <= 80
    assert "\033[" not in finished[name].output, "colour codes in a pipe"


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "99999999999"])
@pytest.mark.parametrize("name", STAGES)
def test_what_is_no_number_of_seconds_is_said(name: str, text: str, tmp_path: Path) -> None:
    with started(name, tmp_path, text) as demo:
        out, error = demo.communicate(timeout=3 * DEADLINE)
    assert (demo.returncode, out) == (1, "")
    assert error == f"JOB_SECONDS is {text!r}: give a number of seconds, for example 0.5.\n"


@needs_signals
@pytest.mark.parametrize("name", STAGES)
def test_it_ends_without_a_word_when_nobody_reads_it(name: str, tmp_path: Path) -> None:
    with started(name, tmp_path, "0.1") as demo:
        assert said_to_nobody(demo) == ""


@needs_signals
@pytest.mark.parametrize("name", STAGES)
def test_it_runs_to_its_end_where_its_output_is_closed(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" -m "$1" >&-', sys.executable, name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JOB_SECONDS": "0.01"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def started(name: str, place: Path, seconds: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", name],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JOB_SECONDS": seconds},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_signals
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param("processing", signal.SIGTERM, id="SIGTERM while the producer is at work"),
        pytest.param("processing  payment-12", signal.SIGINT, id="Ctrl-C while it drains"),
    ],
)
@pytest.mark.parametrize("name", ["improved", "final"])
def test_a_signal_ends_improved_and_final_in_order(
    name: str, moment: str, number: int, tmp_path: Path
) -> None:
    with Demo(name, tmp_path, seconds=1) as demo:
        demo.read_until(moment)
        demo.signal(number)
        output = demo.finish()
    assert re.search(r"^finishing \d in-flight jobs", output, re.M)
    assert "all workers stopped" in output
    assert "Traceback" not in output
    started = set(demo.ids("processing"))
    ended = set(demo.ids("completed")) | set(demo.ids("retrying"))
    assert started == ended, "a job that had started was not finished"
    if name == "improved":
        assert sorted(demo.ids("completed")) == sorted(demo.ids("queued"))
    else:
        assert sorted(stored(tmp_path)) == sorted(demo.ids("queued"))


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["improved", "final"])
def test_a_second_signal_ends_it_at_once(name: str, number: int, tmp_path: Path) -> None:
    with Demo(name, tmp_path, seconds=10) as demo:
        demo.read_until("processing")
        demo.signal(number)
        demo.read_until("finishing")
        demo.signal(number)
        assert demo.read_to_the_end() == -number
    assert "Traceback" not in demo.output


@needs_signals
def test_a_signal_ends_naive_and_the_lost_jobs_are_counted(tmp_path: Path) -> None:
    with Demo("naive", tmp_path, seconds=10) as demo:
        demo.read_until("processing")
        demo.signal(signal.SIGTERM)
        output = demo.finish()
    assert re.search(r"\d of \d+ lost: in flight when the process ended", output)


def test_final_continues_after_kill_9(tmp_path: Path) -> None:
    with Demo("final", tmp_path) as first:
        first.read_until("completed")
        eventually(lambda: "completed" in stored(tmp_path).values(), "an outcome in the file")
        first.kill()
    status = stored(tmp_path)
    left = [job_id for job_id in status if status[job_id] != "completed"]
    done = len(status) - len(left)
    assert left

    with Demo("final", tmp_path) as second:
        second.read_until("come back")
        assert f"\n{done} done in earlier runs; {len(left)} come back:\n" in second.output
        second.read_until(left[-1])
        assert set(re.findall(r"[a-z]+-\d+", second.output)) == set(left)
        second.finish()
    ends = second.output.partition("all workers stopped:")[2]
    assert f"{done:4} of 12 completed in earlier runs\n" in ends
    assert f"{12 - done:4} of 12 completed in this run\n" in ends
    assert set(second.ids("completed")) >= set(left)
    assert len(stored(tmp_path)) == 12, "the round was not made complete"
    assert set(stored(tmp_path).values()) == {"completed"}

    with Demo("final", tmp_path) as third:
        third.read_until("queued")
        assert third.ids("queued") == ["report-13"], "a complete file starts the next round"


def stored(place: Path) -> dict[str, str]:
    """The id and status of every job in the demo's file: it is SQLite, so anybody may look."""
    with contextlib.closing(sqlite3.connect(place / "demo.db")) as connection:
        return dict(connection.execute("SELECT id, status FROM job").fetchall())
