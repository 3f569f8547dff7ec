"""Who owns a file: one process, which notices before each commit if it does so no longer.

Three things keep a second owner out, since each alone can fail:

- a lock file beside the database, on every platform; but a tidy-up may remove it;
- a lock on the database itself, by whatever name it is opened; but a process loses that when
  anything in it opens and closes the file (so POSIX says), and Windows has none;
- the epoch in the file: each owner adds one, and every commit compares it (``database.py``).

But: it only notices. What is done about files that were removed or cut off is in ``database.py``.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import filelock

from final.errors import StorageError

if sys.platform != "win32":
    import fcntl

# A journal that grew while somebody read for long gives its space back, down to this.
WAL_LIMIT = 8 * 1024 * 1024
# Nothing is lost with the lock file, nor with the index of the journal ("-shm"), as long as nobody
# else opens the database. So these two are not looked at before each commit, but this often.
LOOK_SECONDS = 0.25
# The byte before those that SQLite locks. (Locked bytes need not exist.)
LOCKED_BYTE = 0x40000000 - 1

# Device and inode of each file that a queue of this process owns: POSIX locks do not keep a
# process from itself. With its pid, because a forked child has the list and owns nothing.
_owned_here: set[tuple[int, int, int]] = set()


class InUse(StorageError):
    """The file has an owner."""


class Files(NamedTuple):
    """The database and the two files of its journal, as they were when last looked at."""

    database: os.stat_result
    wal: os.stat_result
    shm: os.stat_result


class Owner:
    """This process as the owner of the database at ``path``, which is made if it is not there.

    Raises InUse, or StorageError where ``path`` cannot be used.
    """

    def __init__(self, path: str) -> None:
        _require_place(path)
        self._path = path  # as the caller knows it, for errors
        # Absolute, since a program may change its working directory.
        self.place = os.path.abspath(path)
        # The real path: a symbolic link does not lead around the lock, nor does SQLite put the
        # journal beside it.
        real = os.path.realpath(path)
        self._lock_path, self._wal_path, self._shm_path = (
            real + end for end in (".lock", "-wal", "-shm")
        )
        self._identity: tuple[int, int, int] | None = None
        self._database: FileIO | None = None
        self._lock = self._take_lock_file()
        try:
            self._take_database()
        except BaseException:
            self.release()
            raise

    def remember(self) -> None:
        """SQLite has opened the files: these are the ones."""
        self._hold_database()
        paths = (self.place, self._wal_path, self._shm_path)
        try:
            self._files = Files(*map(os.stat, paths))
        except OSError as error:  # SQLite goes on without a journal if it cannot make one
            raise StorageError(
                f"Cannot open {self._path}: its journal is not there ({error.strerror}). Check "
                "the disk, and that files can be made beside it."
            ) from None
        self._look_again_at = time.monotonic() + LOOK_SECONDS

    def release(self) -> None:
        """Another process may own it now. For after SQLite has closed it: see ``_database``."""
        if self._identity is not None:
            _owned_here.discard(self._identity)
        if self._database is not None:
            self._database.close()
        self._lock.release()

    # ---- before each commit ------------------------------------------------------------------

    def require_database(self) -> os.stat_result:
        """What is at the path, if it is the file that was opened and has no other name.

        A deleted file takes all that is written to it, and is gone when it is closed. One that
        is opened under another name has another journal.
        """
        status = _stat(self.place)
        if status is None or not os.path.samestat(status, self._files.database):
            raise StorageError(
                f"{self._path} was deleted, moved or replaced in the meantime. Put it back; the "
                "queue goes on by itself."
            )
        if status.st_nlink > 1:
            raise StorageError(f"{_SECOND_NAME.format(self._path)} the queue goes on by itself.")
        return status

    def finds_all(self) -> bool:
        """Whether database and journal are what SQLite has open, and nobody has cut them off.

        Raises StorageError as ``require_database`` does.
        """
        before = self._files
        database, wal = self.require_database(), _stat(self._wal_path)
        shm: os.stat_result | None = before.shm
        now = time.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + LOOK_SECONDS
            shm = _stat(self._shm_path)
            self.keeps_lock_file()  # where another owner does, the epoch says so
        if (
            wal is None
            or shm is None
            or not os.path.samestat(wal, before.wal)
            or not os.path.samestat(shm, before.shm)
            or wal.st_size < min(before.wal.st_size, WAL_LIMIT)
            or database.st_size < before.database.st_size
        ):
            return False
        self._files = Files(database, wal, shm)
        return True

    def keeps_lock_file(self) -> bool:
        """Whether the lock file is ours; one that was removed is made again, if nobody else has."""
        status = _stat(self._lock_path)
        if status is None or not os.path.samestat(status, self._lock_status):
            self._lock.release()
            try:
                self._lock = self._take_lock_file()
            except StorageError:
                return False
        return True

    # ---- the locks ---------------------------------------------------------------------------

    def _take_lock_file(self) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self._lock_path, thread_local=False)
        try:
            lock.acquire(blocking=False)
            self._lock_status = os.stat(self._lock_path)
        except filelock.Timeout:
            raise self._in_use(_pid(self._lock_path)) from None
        except OSError as error:
            lock.release()
            raise StorageError(
                f"Cannot write next to {self._path}: {error.strerror}. Choose a path you may "
                "write to."
            ) from None
        with contextlib.suppress(OSError):  # Windows lets nobody write a locked file, not even us
            Path(self._lock_path).write_text(str(os.getpid()), encoding="ascii")
        return lock

    def _take_database(self) -> None:
        if os.path.exists(self.place) and not os.access(self.place, os.W_OK):
            # Found out here, or SQLite leaves a journal beside it that nobody may write either.
            raise StorageError(
                f"Cannot open {self._path}: it is read-only. Make the file and its folder writable."
            )
        if sys.platform == "win32":
            return  # where nobody can remove a lock file that is in use
        if (status := _stat(self.place)) is not None:
            if status.st_nlink > 1:
                raise StorageError(f"{_SECOND_NAME.format(self._path)} or choose another path.")
            if (os.getpid(), status.st_dev, status.st_ino) in _owned_here:
                raise self._in_use(str(os.getpid()))  # before it is opened: see below
            if not stat.S_ISREG(status.st_mode):
                return  # SQLite will say what is wrong with it
        try:
            # It stays open for as long as SQLite has it open: whoever closes a file gives up the
            # locks of the whole process on it.
            self._database = FileIO(self.place, "a")
        except OSError:
            return  # the same
        status = os.fstat(self._database.fileno())
        self._identity = (os.getpid(), status.st_dev, status.st_ino)
        self._hold_database()
        _owned_here.add(self._identity)

    def _hold_database(self) -> None:
        """Lock it, if it is not locked; SQLite gives that up, too, when it closes its last file."""
        if sys.platform == "win32" or self._database is None:
            return
        try:
            fcntl.lockf(self._database, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)
        except (
            BlockingIOError,
            PermissionError,
        ):  # the two that POSIX has for a lock that is taken
            self._identity = None
            raise self._in_use("") from None
        except OSError:
            pass  # a file system without locks

    def _in_use(self, pid: str) -> InUse:
        owner = f"process {pid}" if pid else "another process"
        owner += " (this one)" if pid == str(os.getpid()) else ""
        return InUse(
            f"{self._path} is in use by {owner}: one process owns a file. Close it there "
            "first, or choose another path. Where several processes have jobs for it, let "
            "one serve the others: python -m final serve (docs/service.md)."
        )


_SECOND_NAME = "{} has a second name, a hard link, and a database may have one alone. Remove that;"


def _require_place(path: str) -> None:
    if not path:
        raise StorageError("path is empty: give the path of a file.")
    if "\0" in path:
        raise StorageError(f"{path!r} has a null character: no file can have that name.")
    try:
        os.fsencode(path)
        os.path.abspath(path)
    except UnicodeEncodeError as error:
        raise StorageError(f"{path!r}: no file can have that name ({error.reason}).") from None
    except OSError:
        raise StorageError(
            f"{path} is within the current folder, which was removed: give a path that begins "
            "with /, or go to another folder."
        ) from None
    if os.path.isdir(path):  # (``Path`` raises for a name that is too long)
        raise StorageError(f"{path} is a folder: give the path of a file in it.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StorageError(f"{path} is no regular file: what is written there is not kept.")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise StorageError(f"The folder of {path} does not exist: create it first.")


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _pid(lock_path: str) -> str:
    """Of the owner; empty where it is not to be found out, as on Windows."""
    try:
        return Path(lock_path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
