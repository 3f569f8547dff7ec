"""A witness: a locked file on this host, by which others on it see at once that a process is gone.

The system lets go of the lock when the process ends, however it ends. So a restart after a crash
need not wait for the lease. On other hosts only the lease says it.

But: a witness only ever says that somebody is gone. One that cannot be found says nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import uuid

import filelock


def host() -> str:
    """This host; JOBQUEUE_HOST where several have the same name, as containers may."""
    return os.environ.get("JOBQUEUE_HOST") or socket.gethostname()


class Witness:
    """Says that this process is alive, until ``close``, or its end.

    name: for the others; None where there is no place for a file.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._lock = filelock.FileLock(f"jobqueue-{uuid.uuid4().hex}.lock", thread_local=False)
        with contextlib.suppress(OSError):
            path = os.path.join(tempfile.gettempdir(), self._lock.lock_file)
            self._lock = filelock.FileLock(path, thread_local=False)
            self._lock.acquire(timeout=0)
            self.name = f"{host()}:{path}"

    def close(self) -> None:
        self._lock.release()
        _remove(self._lock.lock_file)


def is_gone(name: str) -> bool:
    """Whether the process of this witness has ended, for certain."""
    path = name.removeprefix(f"{host()}:")
    if path == name or not os.path.exists(path):
        return False
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return False
    lock.release()
    _remove(path)
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
