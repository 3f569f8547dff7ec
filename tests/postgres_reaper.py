"""Ends a server of the tests when the process that started it is gone, however that ended.

    python tests/postgres_reaper.py FOLDER      with a pipe as standard input, which nobody writes

The pipe closes with the process at its other end: then the server in FOLDER ends, and the folder is
removed. On its own it takes nothing but the standard library, so that it starts at once.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

DEADLINE = 30.0  # seconds for the server to end


def main(folder: Path) -> None:
    sys.stdin.read()
    until = time.monotonic() + DEADLINE
    pid_file = folder / "data" / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError):  # it has ended before
        pid = int(pid_file.read_text().split()[0])
        os.kill(pid, getattr(signal, "SIGQUIT", signal.SIGTERM))
        while pid_file.exists() and time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
