"""The machine at hand: what every figure in the report has to be read with.

What ``make doctor`` measures of the disk is measured here with the same functions.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from tests import doctor
from tests.benchmarks.measure import scratch


class Machine(NamedTuple):
    """sync_seconds and commit_seconds: the median of 50 (4 KiB and fsync; a row in WAL, FULL)."""

    processor: str
    cores: int
    memory: str
    system: str
    python: str
    sqlite: str
    file_system: str
    sync_seconds: float
    commit_seconds: float
    load: float

    def lines(self) -> list[tuple[str, str]]:
        return [
            ("processor", f"{self.processor}, {self.cores} cores, {self.memory}"),
            ("system", self.system),
            ("Python", self.python),
            ("SQLite", self.sqlite),
            ("file system", self.file_system),
            ("a sync", f"{self.sync_seconds * 1000:.2f} ms (4 KiB and fsync, median of 50)"),
            ("a commit", f"{self.commit_seconds * 1000:.2f} ms (one row, WAL, synchronous=FULL)"),
            ("load before", f"{self.load:.1f} (should be near 0: an idle machine)"),
        ]


def look() -> Machine:
    with scratch() as folder:
        sync = doctor._median_time(doctor._syncs(folder / "sync"))
        commit = doctor._median_time(doctor._commits(folder / "commit.db"))
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory=f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {sys.version.split()[0]}",
        sqlite=sqlite3.sqlite_version,
        file_system=_file_system(),
        sync_seconds=sync,
        commit_seconds=commit,
        load=psutil.getloadavg()[0],
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux says the model here, and only "x86_64" elsewhere
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _file_system() -> str:
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    return doctor.file_system(os.path.realpath("."), mounts.read_text(errors="replace")).text
