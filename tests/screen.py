"""What --scoreboard does with the terminal: progress while the tests run, then the matrix.

How the matrix looks is decided in matrix.py.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Generator

import pytest
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests import matrix
from tests.expectations import CAPABILITIES
from tests.results import CASE, Results

# Where the scoreboard says it all; in the case of USAGE_ERROR pytest does, after the session.
EXPLAINED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR)

DOTS_A_LINE = 76  # where there is no terminal to draw a bar in


class Scoreboard:
    """A pytest plugin that has the terminal in place of pytest's own reporter."""

    def __init__(self, config: pytest.Config, results: Results) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # evidence may hold any character
        self._results = results
        self._console = Console(highlight=False, markup=False, emoji=False)
        utf8 = self._console.encoding.startswith("utf")
        self._signs = matrix.UNICODE if utf8 else matrix.ASCII
        self._progress = Progress(self._console, self._signs, results)
        self._aside = Aside(before_giving_way=self._progress.out_of_time)
        self._started = time.monotonic()
        plugins = config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(pytest.TerminalReporter(config, self._aside), "terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run the tests in the order of the matrix, so that it fills from top to bottom."""
        rows = list(CAPABILITIES)
        items.sort(
            key=lambda item: (
                rows.index(item.stash[CASE].capability.name) if CASE in item.stash else len(rows)
            )
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._progress.begin(item)
        result = yield
        self._progress.end()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: after all that others have to say
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        self._progress.stop()
        self._report(session.exitstatus)
        return result

    def _report(self, exitstatus: int) -> None:
        if self._results.cells:
            seconds = time.monotonic() - self._started
            self._console.print(matrix.report(self._results, self._signs, seconds))
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR):
            pass  # all is said, or pytest itself will say what is wrong
        elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            names = ", ".join(row.test_file[5:-3] for row in CAPABILITIES.values())
            self._console.print(f"No test matches. Their names hold one of these: {names}.")
        elif exitstatus == pytest.ExitCode.INTERRUPTED and self._results.cells:
            self._console.print(f"Stopped by Ctrl-C: where it says {self._signs.not_run} none ran.")
        elif not self._results.surprises:
            self._console.print(Text(self._aside.getvalue().strip()), soft_wrap=True)


class Progress:
    """How far the run is: a bar and, where the terminal is tall enough, the matrix filling up.

    It draws between tests only. A thread that redraws during a test would take time
    from what the test measures, and write into the output that pytest captures.
    """

    def __init__(self, console: Console, signs: matrix.Signs, results: Results) -> None:
        self._console = console
        self._signs = signs
        self._results = results
        self._total = 0
        self._done = 0
        self._running = ""
        self._live = Live(
            get_renderable=self._picture,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self, item: pytest.Item) -> None:
        if not self._done:
            self._start(item.session.testscollected)
        case = item.stash.get(CASE, None)
        self._running = f"{case.stage}: {case.capability.title}" if case else item.nodeid
        self._live.refresh()

    def end(self) -> None:
        self._done += 1
        if self._console.is_terminal:
            self._live.refresh()
        else:
            end_of_line = self._done % DOTS_A_LINE == 0 or self._done == self._total
            self._console.print(".", end="\n" if end_of_line else "")

    def stop(self) -> None:
        self._live.stop()

    def out_of_time(self) -> None:
        self.stop()
        self._console.print(f"\nOut of time, so the run ends here. {self._running}", soft_wrap=True)

    def _start(self, total: int) -> None:
        self._total = total
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(f"Running {total} tests")

    def _picture(self) -> RenderableType:
        board = matrix.matrix(self._results, self._signs)
        if self._console.height > len(board.split()) + 3:
            return Group(board, Text(), self._bar())
        return self._bar()

    def _bar(self) -> Table:
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(
            " " * (matrix.MARGIN - 2),
            ProgressBar(self._total, self._done, width=24),
            f"{self._done}/{self._total}",
            Text(self._running, "dim", no_wrap=True, overflow="ellipsis"),
        )
        return line


class Aside(io.StringIO):
    """Where pytest's own report goes: kept, and shown only if the run breaks down.

    Whatever another thread writes is shown at once. Only pytest-timeout does that, when
    a test hangs: it writes every thread's stack, and ends the process.
    """

    def __init__(self, before_giving_way: Callable[[], None]) -> None:
        super().__init__()
        self._before_giving_way = before_giving_way
        self._gave_way = False

    def write(self, text: str) -> int:
        if threading.current_thread() is threading.main_thread():
            return super().write(text)
        if not self._gave_way:
            self._gave_way = True
            self._before_giving_way()
        return sys.stdout.write(text)
