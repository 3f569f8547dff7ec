"""Whatever a file does, the verdict comes within its limits, and in words.

``LADDER=full`` (``make ladder``) tries more of it than ``make test-slow``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.final.helpers import eventually
from tests.ladder.grading import MEGABYTE, Candidate, Limits, climb, grade
from tests.ladder.steps import SOLUTIONS, STEPS
from tests.processes import Program, needs_signals

# The machine may be busy with other things.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FULL = os.environ.get("LADDER") == "full"
NAIVE = (SOLUTIONS / "step01_naive.py").read_text(encoding="utf-8")
TIGHT = Limits(deadline=1.0, test=2.0, output=1 * MEGABYTE)
# What is to reach another limit than that of its time may be slow on a busy machine.
PATIENT = replace(TIGHT, test=30.0, memory=200 * MEGABYTE)
IN_ENQUEUE = "        self._jobs.put(job)\n"


def written(folder: Path, enqueue: str = IN_ENQUEUE, at_the_end: str = "") -> Candidate:
    """``naive`` with another body of ``enqueue``, or with more at its end."""
    body = "".join(f"        {line}\n" for line in enqueue.splitlines())
    source = NAIVE.replace(IN_ENQUEUE, body if enqueue != IN_ENQUEUE else enqueue) + at_the_end
    file = folder / "my queue.py"
    file.write_text(source, encoding="utf-8")
    return Candidate(file)


def first_failure(candidate: Candidate, limits: Limits = TIGHT) -> str:
    verdict = grade(candidate, ["enqueue"], limits=limits)
    assert verdict.failed
    return "\n".join(verdict.failed.seen)


class TestLimits:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("import re\nre.match('(a+)+b', 'a' * 40)", "It hung: after 2 s"),  # holds the GIL
            ("while True:\n    print('hello ' * 1000)", "It printed more than 1 MB"),
            ("hoard = []\nwhile True:\n    hoard.append('x' * 10**7)", "memory"),
            ("import os\nos._exit(0)", "The process ended in the middle of the test"),
            ("hoard = []\nwhile True:\n    hoard.append(open(__file__))", "many open files"),
            ("raise ValueError('x' * 10**6)", f"ValueError: {'x' * 990}"),
            ("import os\nos.fork()", "starts a process (os.fork)"),
            ("while True:\n    pass", "It hung: after 2 s"),
            ("import sys\nsys.exit(3)", "SystemExit: 3 (line 59, in enqueue)"),
            ("raise KeyboardInterrupt", "It raised KeyboardInterrupt (line 58, in enqueue)"),
            ("import subprocess\nsubprocess.Popen(['true'])", "starts a process"),
        ][: None if FULL else 7],
    )
    def test_what_enqueue_does(self, body: str, said: str, tmp_path: Path) -> None:
        if "fork" in body and sys.platform == "win32":
            pytest.skip("Windows cannot fork.")
        limits = TIGHT if "hung" in said else PATIENT
        seen = first_failure(written(tmp_path, body), limits)
        assert said.lower() in seen.lower()
        assert len(seen) < 2_000

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("raise ValueError('half done')\n", "ValueError: half done (line 84"),
            ("def half(:\n", "SyntaxError: invalid syntax (line 84).\n    def half(:"),
            ("import sys\nsys.exit(0)\n", "SystemExit: 0 (line 85"),
            ("del JobQueue\n", "Your queue has no class JobQueue"),
        ][: None if FULL else 2],
    )
    def test_what_a_module_does_when_it_is_imported(
        self, source: str, said: str, tmp_path: Path
    ) -> None:
        seen = first_failure(written(tmp_path, at_the_end=source))
        assert said in seen

    @pytest.mark.parametrize("name", ["PYTHONOPTIMIZE", "PYTEST_ADDOPTS"])
    def test_what_is_in_the_environment_changes_no_verdict(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one takes away the suite's asserts, the other may be for another project."""
        monkeypatch.setenv(name, {"PYTHONOPTIMIZE": "1"}.get(name, "--no-such-option"))
        assert grade(written(tmp_path), STEPS[1].rows, limits=TIGHT).failed

    def test_a_line_without_an_end_costs_no_more_than_others(self, tmp_path: Path) -> None:
        dots = "for _ in range(300_000):\n    __import__('sys').stdout.write('.')\n"
        assert grade(written(tmp_path, at_the_end=dots), ["enqueue"]).passes(["enqueue"])

    def test_a_hang_shows_where_each_thread_stands(self, tmp_path: Path) -> None:
        gate = "gate = threading.Lock()\nwith gate:\n    gate.acquire()"
        seen = first_failure(written(tmp_path, gate))
        assert "1 thread at line 60, in enqueue: gate.acquire()" in seen
        assert "in _work: job = self._jobs.get()" in seen

    @pytest.mark.skipif(sys.platform == "win32", reason="This way of starting one is POSIX's.")
    def test_what_it_started_ends_with_it(self, tmp_path: Path) -> None:
        """Unseen by the watch over what starts a process; it would outlive us by a minute."""
        sleeper = f"import time; time.sleep({60 + time.time() % 1})"
        body = (
            "import multiprocessing.util as m\n"
            f"m.spawnv_passfds({os.fsencode(sys.executable)!r}, ['x', '-c', {sleeper!r}], ())\n"
            "self._jobs.put(job)"
        )
        # A process that is just being started has all memory of its parent, and counts twice.
        limits = replace(PATIENT, processes=100, memory=400 * MEGABYTE)
        assert grade(written(tmp_path, body), ["enqueue"], limits=limits).passes(["enqueue"])
        assert not [p for p in psutil.process_iter() if sleeper in _command(p)]

    def test_what_its_watcher_raises_ends_it(self, tmp_path: Path) -> None:
        def look(row: str) -> None:
            if row:
                raise TimeoutError

        sleeper = f"import time\ntime.sleep({60 + time.time() % 1})"
        with pytest.raises(TimeoutError):
            grade(written(tmp_path, sleeper), ["enqueue"], limits=PATIENT, watcher=look)

    @needs_signals
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
    def test_a_signal_leaves_nothing_behind(self, name: str, tmp_path: Path) -> None:
        told = tmp_path / "told"
        source = f"import os, time\nopen({str(told)!r}, 'w').write(os.getcwd() + '!')\n"
        file = tmp_path / "job_queue.py"
        file.write_text(f"{source}time.sleep(60)\n")
        with Program(tmp_path, "tests.ladder", "mine", "--file", str(file)) as program:
            eventually(lambda: told.exists() and told.read_text()[-1:] == "!", "its import")
            program.signal(getattr(signal, name))
            assert program.read_to_the_end() == 130
        assert not Path(told.read_text()[:-1]).exists()

    def test_who_deletes_the_folder_that_it_is_tested_in_is_graded(self, tmp_path: Path) -> None:
        source = "import os, shutil\nshutil.rmtree(os.getcwd())\nos._exit(0)\n"
        candidate = written(tmp_path, at_the_end=source)
        verdict = grade(candidate, ["enqueue", "fifo"], to_the_end=True, limits=TIGHT)
        assert [row.passed for row in verdict.rows.values()] == [False, False]
        assert all("os._exit" in row.seen[0] for row in verdict.rows.values())

    @pytest.mark.parametrize("source", [b"x = 1\0\n", "x = 1\n".encode("utf-16")])
    def test_what_is_no_text_is_said(self, source: bytes, tmp_path: Path) -> None:
        file = tmp_path / "queue.py"
        file.write_bytes(source)
        assert first_failure(Candidate(file)).endswith(": save it as UTF-8.")

    def test_after_one_that_was_ended_the_others_go_on(self, tmp_path: Path) -> None:
        body = "if job.payload is True:\n    import os\n    os._exit(0)\nself._jobs.put(job)"
        verdict = grade(written(tmp_path, body), ["enqueue", "fifo"], to_the_end=True)
        assert {name: row.passed for name, row in verdict.rows.items()} == {
            "enqueue": False,
            "fifo": True,
        }


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_who_reaches_for_the_tests_or_a_stage_is_told_apart(tmp_path: Path) -> None:
    source = """
import sys, socket
try:
    from improved import *
except ImportError:
    import tests.helpers
try:
    __import__("importlib").import_module("na" + "ive")
except ImportError:
    sys.modules["pytest"]
"""
    verdict = climb(written(tmp_path, at_the_end=source), STEPS[1], limits=TIGHT)
    lines = {"socket": 85, "improved": 87, "tests.helpers": 89, "naive": 91, "sys.modules": 93}
    for name, line in lines.items():
        assert f"{name} (line {line})" in verdict.reaches


ENQUEUE = "        self._jobs.put(job)\n"
CALL = "self._handler(job)\n"


class TestWords:
    """What beginners write, and what they are told."""

    @pytest.mark.parametrize(
        ("right", "wrong", "said"),
        [
            (ENQUEUE, "        self._handler(job)\n", "waited for each other in vain (line 58"),
            (CALL, "self._handler(job.payload)\n", "it should get the Job itself"),
            (
                "        self._closed = True\n",
                "        for worker in self._workers:\n            worker.join()\n",
                "closed your queue, and close() had not returned after 1 s",
            ),
            (ENQUEUE, "        threading.Condition().notify()\n", "un-acquired lock (line 58"),
            (CALL, "self._handler(jobb)\n", "A thread was ended by NameError: name 'jobb'"),
        ][: None if FULL else 2],
    )
    def test_a_beginners_mistake(self, right: str, wrong: str, said: str, tmp_path: Path) -> None:
        file = tmp_path / "job_queue.py"
        assert right in NAIVE
        file.write_text(NAIVE.replace(right, wrong), encoding="utf-8")
        verdict = climb(Candidate(file), limits=TIGHT)
        assert verdict.failed
        assert said in " ".join(verdict.failed.seen)

    @pytest.mark.parametrize(
        ("right", "wrong", "said"),
        [
            (ENQUEUE, "        assert not job, 'no'\n", "AssertionError: no (line 58, in enqueue)"),
            ("target=self._work, ", "self._work, ", "AssertionError: group argument must be None"),
            (CALL, "assert not job\n", "A thread was ended by AssertionError (line 8"),
        ],
    )
    def test_an_assert_of_its_own_is_an_error_and_no_verdict_of_the_suite(
        self, right: str, wrong: str, said: str, tmp_path: Path
    ) -> None:
        """Thread(self._work) fails in one, too, of the standard library."""
        file = tmp_path / "job_queue.py"
        assert right in NAIVE
        file.write_text(NAIVE.replace(right, wrong), encoding="utf-8")
        assert said in first_failure(Candidate(file))


class TestJudging:
    """Behaviour counts, names do not."""

    def test_exceptions_of_the_standard_library_will_do(self, tmp_path: Path) -> None:
        source = (SOLUTIONS / "step07_improved.py").read_text(encoding="utf-8")
        source = source.replace("class QueueFull(queue.Full)", "class _Full(queue.Full)")
        source = source.replace("class QueueClosed(RuntimeError)", "class _Closed(RuntimeError)")
        source = source.replace("raise QueueFull(", "raise _Full(")
        source = source.replace("raise QueueClosed(", "raise _Closed(")
        file = tmp_path / "job_queue.py"
        file.write_text(source, encoding="utf-8")
        rows = ["backpressure-timeout", "enqueue-after-close", "close-wakes-producer"]
        assert grade(Candidate(file), rows).passes(rows)

    def test_queue_full_of_the_standard_library_will_do_beside_a_class_of_that_name(
        self, tmp_path: Path
    ) -> None:
        source = (SOLUTIONS / "step03_bounded.py").read_text(encoding="utf-8")
        file = tmp_path / "job_queue.py"
        file.write_text(source.replace("raise QueueFull(", "raise queue.Full("), encoding="utf-8")
        assert climb(Candidate(file)).step == 3

    def test_not_written_is_no_refusal(self) -> None:
        """NotImplementedError is a RuntimeError, as QueueClosed is."""
        verdict = grade(Candidate(SOLUTIONS / "step00_stub.py"), ["enqueue-after-close"])
        assert verdict.failed

    def test_an_option_that_it_lacks_is_named_from_its_step_on(self, tmp_path: Path) -> None:
        naive = Candidate(SOLUTIONS / "step01_naive.py")
        verdict = grade(naive, ["worker-survival", "backpressure"], to_the_end=True)
        early, late = verdict.rows["worker-survival"], verdict.rows["backpressure"]
        assert not any("takes no" in line for line in early.seen)
        assert any("Your JobQueue takes no capacity" in line for line in late.seen)

    @pytest.mark.parametrize(
        ("folder", "files"),
        [
            ("my_queue", {"__init__": "from my_queue.q import *\n", "q": NAIVE}),
            ("mine", {"__init__": "from .q import *\n", "q": NAIVE}),
            ("ada", {"__init__": "", "job_queue": NAIVE}),  # what an editor makes of a folder
            ("ada-2", {"__init__": "", "job_queue": NAIVE}),  # which Python could not import
            ("ada-2", {"job_queue": "from q import *\n", "q": NAIVE}),  # no package
            ("ada-2", {"job_queue": "from mine.q import *\n", "q": NAIVE}),
        ],
    )
    def test_a_folder_is_graded_too(
        self, folder: str, files: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.py").write_text(text, encoding="utf-8")
        assert grade(Candidate(tmp_path / folder), ["enqueue"]).passes(["enqueue"])

    def test_notes_beside_it_may_be_no_python(self, tmp_path: Path) -> None:
        (tmp_path / "job_queue.py").write_text(NAIVE, encoding="utf-8")
        (tmp_path / "notes.py").write_text("def broken(:\n", encoding="utf-8")
        assert climb(Candidate(tmp_path), STEPS[0]).failed is None

    @pytest.mark.parametrize("init", ["from my_queue.q import *\n", None])
    def test_what_goes_wrong_in_another_file_is_told_with_its_name(
        self, init: str | None, tmp_path: Path
    ) -> None:
        folder = tmp_path / "my_queue"
        folder.mkdir()
        if init:
            (folder / "__init__.py").write_text(init, encoding="utf-8")
        else:
            (folder / "job_queue.py").write_text("from .q import *\n", encoding="utf-8")
        body = "import subprocess\nsubprocess.Popen(['true'])"
        written(folder, body).path.rename(folder / "q.py")
        verdict = climb(Candidate(folder), STEPS[0], limits=TIGHT)
        assert verdict.failed
        assert "(q.py, line 59, in enqueue)" in verdict.failed.seen[-1]
        assert verdict.reaches == [
            "starts a process (subprocess.Popen, q.py, line 59)",
            "subprocess (q.py, line 58)",
        ]
