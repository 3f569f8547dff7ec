"""The disk as a power cut leaves it, from what was asked of it before.

A write is only a wish until a sync of its file has returned. Until then each of its
sectors may have arrived or not, in any order: the system and the drive have caches, and
flush them as they like. A sync settles what was written to that file before it. A file
that was deleted may be back, unless its folder was synced too.

But: a sector is written or not, never half, and one that is not written to stays as it is
(SQLite counts on the latter and calls it "powersafe overwrite"). A drive that says "synced"
and lies is beyond this model, and beyond any database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.labs.disk_watch import Delete, Operation, Sync, Truncate, Write

SECTOR = 512


class Found(NamedTuple):
    """A file that is there, and settled, when the recording begins."""

    file: str
    content: bytes


class Disk:
    """Follows the operations; ``image`` is what may be found if the power fails now."""

    def __init__(self) -> None:
        self._durable: dict[str, bytearray] = {}
        self._unsynced: dict[str, list[Write | Truncate]] = {}
        self._ghosts: dict[str, bytearray] = {}  # deleted, but the folder is not synced

    def follow(self, operation: Operation | Found) -> None:
        match operation:
            case Found(file, content):
                self._durable[file] = bytearray(content)
            case Write() | Truncate():
                self._unsynced.setdefault(operation.file, []).append(operation)
            case Sync(file):
                if file not in self._durable:
                    self._ghosts.clear()  # SQLite syncs the folder along with a new file
                settled = self._durable.setdefault(file, bytearray())
                for wish in self._unsynced.pop(file, []):
                    _carry_out(wish, settled, always)
            case Delete(file, synced):
                self._unsynced.pop(file, None)
                ghost = self._durable.pop(file, None)
                if synced:
                    self._ghosts.clear()
                elif ghost is not None:
                    self._ghosts[file] = ghost

    def forget(self, file: str) -> None:
        """A sync has failed: what it should have settled counts as clean, and stays unwritten."""
        self._unsynced.pop(file, None)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to chance."""
        return not self._unsynced and not self._ghosts

    def image(self, arrives: Callable[[], bool]) -> dict[str, bytearray]:
        """The files after a power cut; ``arrives`` decides about each unsynced sector."""
        files = {file: bytearray(content) for file, content in self._durable.items()}
        for file, ghost in self._ghosts.items():
            if arrives():
                files.setdefault(file, bytearray(ghost))
        for file, wishes in self._unsynced.items():
            if file not in self._durable:
                if not arrives():  # a new file: its very name may be missing
                    continue
                files[file] = bytearray()
            for wish in wishes:
                _carry_out(wish, files[file], arrives)
        return files


def always() -> bool:
    return True


def never() -> bool:
    return False


def _carry_out(wish: Write | Truncate, content: bytearray, arrives: Callable[[], bool]) -> None:
    if isinstance(wish, Truncate):
        if arrives():
            _resize(content, wish.size)
        return
    if arrives is always:
        _put(content, wish.offset, wish.data)
        return
    for start in range(0, len(wish.data), SECTOR):
        if arrives():
            _put(content, wish.offset + start, wish.data[start : start + SECTOR])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
