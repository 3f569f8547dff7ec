"""Where SQLite cannot be watched: what it wrote, from copies of its files.

After every commit the files are compared with how they were after the one before. The
sectors that differ are what was written; when they were synced is taken on the word of
SQLite's documentation: with FULL the journal at every commit, with NORMAL only before a
checkpoint, and the database at the end of a checkpoint.

But: it is the coarser way. A sync that SQLite should have made and did not is not noticed,
nor is how the file was created: the recording begins when it is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from final.ledger.sqlite import SqliteFile
from tests.labs.disk_watch import Delete, Operation, Sync, Truncate, Write
from tests.labs.power_disk import SECTOR, Found


def copying(file: type[SqliteFile], path: Path, log: list[Any]) -> type[SqliteFile]:
    """Such a file, but one that compares copies of its files after each commit, into ``log``."""
    copies = Copies(path, log)

    class Copying(file):  # type: ignore[misc,valid-type]
        def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
            super().__init__(path, durability)
            (copies.level,) = self._writer.execute("PRAGMA synchronous").fetchone()
            copies.compare()

        @contextlib.contextmanager
        def transaction(self) -> Iterator[None]:
            with super().transaction():
                yield
            copies.compare()

        def close(self) -> None:
            super().close()
            copies.compare()

    return Copying


OFF, FULL = 0, 2  # what PRAGMA synchronous calls them


class Copies:
    """The files as they were the last time; ``level`` is what PRAGMA synchronous says."""

    def __init__(self, path: Path, log: list[Any]) -> None:
        self.level = FULL
        self._database = path
        self._journal = path.with_name(path.name + "-wal")
        self._last: dict[Path, bytes] = {}
        self._log = log

    def compare(self) -> None:
        """Log what was written since the last time, in the order in which SQLite does it."""
        if not self._last:
            for file in (self._database, self._journal):
                self._last[file] = file.read_bytes()
                self._log.append(Found(file.name, self._last[file]))
            return
        database, journal = self._changes(self._database), self._changes(self._journal)
        self._log += journal
        if (journal and self.level == FULL) or (database and self.level > OFF):
            self._log.append(Sync(self._journal.name))
        self._log += database
        if database and self.level > OFF:
            self._log.append(Sync(self._database.name))
        if self._last[self._journal] and not self._journal.exists():  # closed, by the last one
            self._last[self._journal] = b""
            self._log.append(Delete(self._journal.name, synced=False))

    def _changes(self, file: Path) -> list[Operation]:
        if not file.exists():
            return []
        before, now = self._last[file], file.read_bytes()
        self._last[file] = now
        changes: list[Operation] = [
            Write(file.name, start, now[start : start + SECTOR])
            for start in range(0, len(now), SECTOR)
            if now[start : start + SECTOR] != before[start : start + SECTOR]
        ]
        if len(now) < len(before):
            changes.append(Truncate(file.name, len(now)))
        return changes
