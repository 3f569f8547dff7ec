"""Between SQLite and the disk: see every write, truncation, sync and deletion, or refuse it.

SQLite reaches the disk through a table of C functions, its "VFS". ``watching`` copies the
table of the very library that Python's own ``sqlite3`` uses, puts Python functions in the
place of five entries, and makes the copy the default. From then on every
``sqlite3.connect()`` of this process is watched; the code that is watched stays as it is.

A watcher is asked before each operation and told after it. The power lab writes down what
it is told (``Recording``); the bad disk refuses some of what it is asked.

But: nothing is decided here, and reading is not watched. Some Pythons carry a SQLite that
cannot be reached from outside; there ``watching`` raises ``CannotWatch``, a sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Write(NamedTuple):
    file: str  # its name, without the folder
    offset: int
    data: bytes


class Truncate(NamedTuple):
    file: str
    size: int


class Sync(NamedTuple):
    file: str


class Delete(NamedTuple):
    file: str
    synced: bool  # and the folder was synced, so that the file stays deleted


class Open(NamedTuple):
    file: str


Operation = Write | Truncate | Sync | Delete | Open


class Refusal(NamedTuple):
    """What the disk says instead: a result code of SQLite. Of a write, so many bytes are made."""

    code: int
    written: int = 0


class Watcher(Protocol):
    """Called in whichever thread uses SQLite. May not raise: C has no exceptions."""

    def before(self, operation: Operation) -> Refusal | None:
        """Asked before an operation: None lets it pass."""

    def after(self, operation: Operation) -> None:
        """Told of one that has succeeded."""


class CannotWatch(Exception):
    """The SQLite of this Python cannot be watched; the message says so in a sentence."""


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` see all that SQLite does to the disk, in connections opened from now on."""
    library = _library()
    usual = VFS.from_address(library.sqlite3_vfs_find(None))
    watched = _watched_vfs(usual, watcher)
    library.sqlite3_vfs_register(ctypes.byref(watched), True)
    try:
        yield
    finally:
        library.sqlite3_vfs_register(ctypes.byref(usual), True)
        library.sqlite3_vfs_unregister(ctypes.byref(watched))


def require_watching() -> None:
    """Raise CannotWatch where it would show nothing: write something, and see whether it shows."""
    with tempfile.TemporaryDirectory() as folder:
        seen: list[Operation] = []
        path = Path(folder) / "seen.db"
        with watching(Recording(seen)), contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE seen (it)")
        if not any(isinstance(operation, Write) for operation in seen):
            raise CannotWatch(_EXCUSE.format("what it writes does not pass through its VFS"))


class Recording:
    """A watcher that lets everything pass and keeps it, in order."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def before(self, operation: Operation) -> None:
        return None

    def after(self, operation: Operation) -> None:
        if not isinstance(operation, Open):
            self._log.append(operation)


# ---- SQLite's own structures, as its documentation of sqlite3_vfs lays them out --------------


class VFS(Structure):
    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        ("others", c_void_p * 14),
    )


class Methods(Structure):
    """sqlite3_io_methods: what can be done to an open file."""

    _fields_ = (
        ("version", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", c_void_p),
        ("xTruncate", c_void_p),
        ("xSync", c_void_p),
        ("others", c_void_p * 13),
    )


# File names are raw pointers here, not c_char_p: SQLite keeps the one that it gives to xOpen and
# finds more behind it, so it must get the same one back, and not a copy of the text.
X_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
X_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
X_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
X_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
X_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)

SQLITE_OK = 0

# What C still points to must not be collected, not even when nobody watches any more.
_alive: list[object] = []


def _watched_vfs(usual: VFS, watcher: Watcher) -> VFS:
    watched = VFS()
    ctypes.pointer(watched)[0] = usual
    really_open, really_delete = X_OPEN(usual.xOpen), X_DELETE(usual.xDelete)
    names: dict[int, str] = {}  # of open files, by their address
    tables: dict[int, int] = {}  # by the address of the table of methods that each replaces

    def open_(vfs: int, name: int | None, file: int, flags: int, flags_out: int | None) -> int:
        operation = Open(_file_name(name))
        if refusal := watcher.before(operation):
            c_void_p.from_address(file).value = None  # no methods: there is nothing to close
            return refusal.code
        result = int(really_open(vfs, name, file, flags, flags_out))
        methods = c_void_p.from_address(file)  # an open file begins with a pointer to its methods
        if result == SQLITE_OK and methods.value:
            names[file] = operation.file
            if methods.value not in tables:
                tables[methods.value] = _watched_methods(methods.value, names, watcher)
            methods.value = tables[methods.value]
            watcher.after(operation)
        return result

    def delete(vfs: int, name: int, sync: int) -> int:
        operation = Delete(_file_name(name), bool(sync))
        if refusal := watcher.before(operation):
            return refusal.code
        result = int(really_delete(vfs, name, sync))
        if result == SQLITE_OK:
            watcher.after(operation)
        return result

    watched.name = b"watched"
    watched.xOpen = _address(X_OPEN(open_))
    watched.xDelete = _address(X_DELETE(delete))
    _alive.append(watched)
    return watched


def _watched_methods(usual_address: int, names: dict[int, str], watcher: Watcher) -> int:
    """A copy of a table of methods, with three of them watched; returns its address."""
    usual = Methods.from_address(usual_address)
    watched = Methods()
    ctypes.pointer(watched)[0] = usual
    really_write = X_WRITE(usual.xWrite)
    really_truncate, really_sync = X_TRUNCATE(usual.xTruncate), X_SYNC(usual.xSync)

    def write(file: int, data: int, size: int, offset: int) -> int:
        operation = Write(names[file], offset, ctypes.string_at(data, size))
        if refusal := watcher.before(operation):
            if refusal.written:
                really_write(file, data, min(refusal.written, size), offset)
            return refusal.code
        result = int(really_write(file, data, size, offset))
        if result == SQLITE_OK:
            watcher.after(operation)
        return result

    def truncate(file: int, size: int) -> int:
        operation = Truncate(names[file], size)
        if refusal := watcher.before(operation):
            return refusal.code
        result = int(really_truncate(file, size))
        if result == SQLITE_OK:
            watcher.after(operation)
        return result

    def sync(file: int, flags: int) -> int:
        operation = Sync(names[file])
        if refusal := watcher.before(operation):
            return refusal.code
        result = int(really_sync(file, flags))
        if result == SQLITE_OK:
            watcher.after(operation)
        return result

    watched.xWrite = _address(X_WRITE(write))
    watched.xTruncate = _address(X_TRUNCATE(truncate))
    watched.xSync = _address(X_SYNC(sync))
    _alive.append(watched)
    return ctypes.addressof(watched)


def _address(function: Any) -> int | None:
    _alive.append(function)
    return ctypes.cast(function, c_void_p).value


def _file_name(address: int | None) -> str:
    return os.path.basename(ctypes.string_at(address).decode()) if address else "a temporary file"


def _library() -> ctypes.CDLL:
    """The library that this Python's sqlite3 uses: a machine may have several, and only its
    own knows its connections."""
    import _sqlite3

    # Elsewhere the extension module leads to what it is linked with, or contains it.
    place = "sqlite3.dll" if sys.platform == "win32" else getattr(_sqlite3, "__file__", None)
    try:
        library = ctypes.CDLL(place)
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [POINTER(VFS), c_int]
        library.sqlite3_vfs_unregister.argtypes = [POINTER(VFS)]
    except (OSError, AttributeError) as error:
        raise CannotWatch(_EXCUSE.format(error)) from None
    return library


_EXCUSE = "The SQLite of this Python cannot be watched at its work ({})."
