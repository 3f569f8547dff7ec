"""Whether this machine has what the three stages need: `make doctor`.

Looks at Python, its SQLite, the disk under the current folder and the packages, and says
how to get what is missing. Without make: `python -m tests.doctor`. Ends with 0 when
everything is there, else with 1.

But: it is no benchmark. It tells what one sync costs here, not how fast a queue is.

It imports the standard library alone and runs on Python 3.8 too: a machine that lacks
something is where it is needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

with contextlib.suppress(ImportError):  # some builds of Python lack it: sqlite() says so
    import sqlite3

NEEDED_PYTHON = (3, 11)
INSTALL = "python -m tests.environment"

# What to install, and the module that it brings.
NEEDED_PACKAGES = {
    "queues": {"filelock": "filelock"},
    "suite": {
        "pytest": "pytest",
        "pytest-timeout": "pytest_timeout",
        "hypothesis": "hypothesis",
        "psutil": "psutil",
        "rich": "rich",
    },
    "checks": {"mypy": "mypy", "ruff": "ruff"},
    "examples": {
        "aiosmtpd": "aiosmtpd",
        "pillow": "PIL",
        "basemap-data": "mpl_toolkits.basemap_data",
    },
}

# What final's statements are made of; each is tried by running it.
NEEDED_SQL = {
    "multi-row VALUES": "INSERT INTO job (seq, id) VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    # 512 new jobs are one INSERT with ten values each. SQLite before 3.32 stops at 999.
    "5,120 values": f"SELECT 1 WHERE 0 IN ({', '.join(['0 + ?'] * 5120)})",
    "json_each": "UPDATE job SET id = 'd' WHERE seq IN (SELECT value FROM json_each('[1, 3]'))",
}

# On these a sync returns before anything is safe, or WAL mode does not work at all.
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
    *("fuse.sshfs", "vboxsf", "virtiofs"),
}

OK, NOTE, MISSING = "ok", "note", "MISSING"
COLOURS = {OK: "32", NOTE: "33", MISSING: "31"}


class Finding(NamedTuple):
    mark: str
    name: str
    text: str


def main() -> int:
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": python,
        "SQLite": sqlite,
        "Disk, under the current folder": disk,
        "Packages": packages,
        "Machine": machine,
    }
    missing = 0
    print("What this machine has for the three job queues")
    for title, look in sections.items():
        print(f"\n{_painted('1', title)}")
        for finding in look():
            missing += finding.mark == MISSING
            _show(finding)
    if missing:
        print("\nSomething that is needed is missing: see the lines marked above. Packages come")
        print(f"with make setup, or {INSTALL}")
        return 1
    print("\nEverything that is needed is here.")
    return 0


def python() -> Iterator[Finding]:
    yield python_version(sys.version_info[:3])
    if not _is_installed("ensurepip"):
        yield Finding(MISSING, "venv", "On Debian and Ubuntu: sudo apt install python3-venv")
    elif sys.prefix == sys.base_prefix:
        yield Finding(OK, "venv", "can be made; this Python is not in one")
    else:
        yield Finding(OK, "venv", f"this Python is in {sys.prefix}")


def python_version(version: tuple[int, ...]) -> Finding:
    found, needed = _dotted(version), _dotted(NEEDED_PYTHON)
    if version >= NEEDED_PYTHON:
        return Finding(OK, "version", found)
    return Finding(
        MISSING,
        "version",
        f"{found} is too old: the stages need {needed} or newer. Install one, and if it is not "
        f"called python3 name it: make BASE_PYTHON=/path/to/python{needed}",
    )


def sqlite() -> Iterator[Finding]:
    if not _is_installed("_sqlite3"):
        yield Finding(
            MISSING,
            "version",
            "This Python was built without SQLite, which final keeps its jobs in. Use another "
            "Python, or build this one again after installing libsqlite3-dev (or sqlite-devel).",
        )
        return
    yield Finding(OK, "version", sqlite3.sqlite_version)
    for name, statement in NEEDED_SQL.items():
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE job (seq INTEGER PRIMARY KEY, id TEXT)")
            try:
                connection.execute(statement, [1] * statement.count("?"))
                yield Finding(OK, name, "works")
            except sqlite3.Error as error:
                yield Finding(MISSING, name, f"{error}. A newer Python brings a newer SQLite.")
    yield wal_reset_bug(sqlite3.sqlite_version_info)


def wal_reset_bug(version: tuple[int, ...]) -> Finding:
    """By SQLite's page on WAL: in 3.7.0 to 3.51.2, and mended in two older branches."""
    mended_at = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}.get((version[0], version[1]), (3, 51, 3))
    if not (3, 7, 0) <= version < mended_at:
        return Finding(OK, "WAL-reset bug", "not in this release")
    return Finding(
        NOTE,
        "WAL-reset bug",
        "in this release; mended in 3.51.3, 3.50.7 and 3.44.6. Two connections that write or "
        "checkpoint at the same instant can damage the file. final is not exposed: one "
        "connection alone writes and checkpoints, and a lock file keeps other processes out. "
        "Read more at sqlite.org/wal.html#walresetbug",
    )


def disk(folder: str = ".") -> Iterator[Finding]:
    try:
        mounts = Path("/proc/mounts")  # Linux has it; elsewhere nothing is said
        if mounts.exists():
            yield file_system(os.path.realpath(folder), mounts.read_text(errors="replace"))
        yield free_space(shutil.disk_usage(folder).free)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield sync_cost(_median_time(_syncs(Path(scratch, "sync"))))
            if _is_installed("_sqlite3"):
                yield commit_cost(_median_time(_commits(Path(scratch, "commit.db"))))
    except Exception as error:  # OSError, or sqlite3.Error if there is a sqlite3
        yield Finding(MISSING, "sync", f"{error}. Run this in a folder that you may write to.")


def file_system(folder: str, mounts: str) -> Finding:
    """What ``folder`` lies on, by the text of /proc/mounts."""
    kind, mounted_at = "unknown", ""
    for line in mounts.splitlines():
        _, place, its_kind, *_ = line.split()
        place = place.replace("\\040", " ")
        if (folder + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(mounted_at):
            kind, mounted_at = its_kind, place
    if kind in MEMORY_FILE_SYSTEMS:
        return Finding(NOTE, "file system", f"{kind}: memory only, a sync saves nothing here")
    if kind in NETWORK_FILE_SYSTEMS:
        return Finding(
            NOTE,
            "file system",
            f"{kind}: a network or shared folder. SQLite's WAL mode, which final uses, needs a "
            f"local disk: keep its file elsewhere.",
        )
    return Finding(OK, "file system", kind)


def free_space(size: int) -> Finding:
    if size >= 1e9:
        return Finding(OK, "free space", f"{size / 1e9:,.0f} GB")
    return Finding(NOTE, "free space", f"{size / 1e9:.1f} GB: .venv and a run take 1 GB")


def sync_cost(seconds: float) -> Finding:
    text = f"{_ms(seconds)} to write 4 KiB and fsync (the median of 50)"
    if sys.platform == "darwin":
        return Finding(NOTE, "sync", f"{text}; on macOS that reaches the drive's cache only")
    if seconds < 20e-6:
        # No drive answers that fast; something that forgets at a power cut does.
        return Finding(NOTE, "sync", f"{text}: too fast for a disk. A power cut may undo commits.")
    return Finding(OK, "sync", text)


def commit_cost(seconds: float) -> Finding:
    per_second = f"{1 / seconds:,.0f} jobs a second if each had its own"
    return Finding(OK, "SQLite commit", f"{_ms(seconds)} (WAL, FULL): {per_second}")


def packages() -> Iterator[Finding]:
    for purpose, modules in NEEDED_PACKAGES.items():
        absent = [name for name, module in modules.items() if not _is_installed(module)]
        if absent:
            yield Finding(MISSING, purpose, f"{', '.join(absent)} (run make setup)")
        else:
            yield Finding(OK, purpose, ", ".join(modules))


def machine() -> Iterator[Finding]:
    yield Finding(OK, "system", f"{platform.system()} {platform.machine()}")
    yield Finding(OK, "cores", str(os.cpu_count()))


def _syncs(path: Path) -> Iterator[None]:
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            yield


def _commits(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("SQLite's WAL mode does not work in this folder")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE job (payload)")
        for _ in range(50):
            connection.execute("INSERT INTO job VALUES (?)", (b"x" * 100,))
            yield


def _median_time(steps: Iterator[None]) -> float:
    """How long one step of the generator takes, in seconds."""
    times = []
    before = time.perf_counter()
    for _ in steps:
        now = time.perf_counter()
        times.append(now - before)
        before = now
    return statistics.median(times)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _show(finding: Finding) -> None:
    indent = " " * 28
    text = textwrap.fill(
        finding.text,
        width=min(shutil.get_terminal_size().columns, 100),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    mark = _painted(COLOURS[finding.mark], f"{finding.mark:<8}")
    print(f"  {mark} {finding.name:<17}{text.lstrip()}")


def _painted(code: str, text: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"


if __name__ == "__main__":
    os.system("")  # a quirk: after this, the Windows console understands colours
    if hasattr(signal, "SIGPIPE"):  # nobody reads on, as with | head: that ends it without a word
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
