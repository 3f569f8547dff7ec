"""``make diff-improved`` shows every changed line, under the name of its method."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import diff_stages

REPOSITORY = Path(__file__).parents[1]


def test_it_names_what_changed_and_where_the_flaws_are() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.diff_stages", "naive", "improved"],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": ""},  # no git, no diff
        capture_output=True,
        text=True,
        check=True,
    )
    overview, *changes = run.stdout.split("\n----")
    (close,) = [
        line for line in overview.splitlines() if line.lstrip().startswith("JobQueue.close")
    ]
    assert close.endswith("N4 -> none")
    (shown,) = [change for change in changes if change.startswith(" JobQueue.close -")]
    assert "-     def close(self) -> None:" in shown
    assert "+     def close(self, timeout: float | None = None) -> bool:" in shown


@pytest.mark.parametrize("stages", [(), ("naive",), ("naive", "nothing"), ("naive",) * 3])
def test_what_is_no_pair_of_stages_is_said(
    stages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["diff_stages", *stages])
    with pytest.raises(SystemExit) as end:
        diff_stages.main()
    assert end.value.code == 2
    assert "usage: python -m tests.diff_stages" in capsys.readouterr().err


def test_no_line_is_left_out() -> None:
    for stage in ("naive", "improved"):
        source = diff_stages.read(stage)
        in_sections = [line for lines in diff_stages.sections(source).values() for line in lines]
        assert [line for line in in_sections if line] == [line for line in source if line]
