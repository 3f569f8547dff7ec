"""A release builds, and what it installs works: the wheel has all files, and runs the README."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("naive", "improved", "final")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, in a folder of their own; what it needs comes from here."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(source)]
    subprocess.run(pip, check=True, timeout=200)
    [wheel] = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(target)
    return target


@pytest.mark.slow
@pytest.mark.timeout(240)  # pip fetches what it builds with
def test_the_wheel_has_every_file_of_the_packages(installed: Path) -> None:
    expected = {
        file.relative_to(ROOT)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.*")
        if "__pycache__" not in file.parts
    }
    there = {file.relative_to(installed) for file in installed.rglob("*.*")}
    assert Path("final/py.typed") in expected
    assert sorted(expected - there) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_readme_s_example_runs_from_there(installed: Path, tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n    import final; print(final.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.stdout.splitlines()[-2:] == ["completed", str(installed / "final" / "__init__.py")]
