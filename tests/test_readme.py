"""The README keeps its word: its code runs as it stands, and what it links to is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs import moving_picture

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_example_runs_as_it_stands(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.stderr == ""
    assert run.stdout == "to ada@example.com\ncompleted\n"
    assert (tmp_path / "jobs.db").exists()


def test_its_example_has_the_types_that_it_says(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    as_text = code.replace("})", '}, priority="high")')
    assert as_text != code
    (tmp_path / "example.py").write_text(code)
    (tmp_path / "as_text.py").write_text(as_text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    run = subprocess.run(
        [*command, "--config-file=", *map(str, tmp_path.glob("*.py"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.stdout + run.stderr == ""
    assert (ROOT / "final" / "py.typed").exists()  # without it mypy would look at no installed one


def test_it_is_read_in_five_minutes() -> None:
    assert len(README.splitlines()) <= 100


def test_the_moving_picture_is_what_the_lanes_do() -> None:
    for file, picture in moving_picture.pictures().items():
        assert file.read_text(encoding="utf-8") == picture, (
            "run python -m tests.docs.moving_picture"
        )
        assert file.name in README
        assert "<script" not in picture


def test_what_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
