"""What jobs are about (``final/beyond/meta.py``): the rows of ``meta`` in a file.

But: a file without such jobs is asked once, when it is opened. How one of them is found by its meta
is in ``matching.py``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from final.beyond.meta import Meta
from final.job import Task
from final.ledger.base import Move
from final.ledger.sqlite import SqliteFile

THESE = "seq IN (SELECT value FROM json_each(?))"
# {seq: {name: value, ...}, ...}
INSERT = """INSERT INTO meta SELECT pair.key, pair.value, CAST(job.key AS INTEGER)
    FROM json_each(?) AS job, json_each(job.value) AS pair"""
LOAD = f"SELECT seq, name, value FROM meta WHERE {THESE}"
FORGET = f"DELETE FROM meta WHERE {THESE}"


class Metas:
    """Those of a file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._in_use = False  # there may be rows

    def open(self) -> None:
        ((found,),) = self._file.execute("SELECT EXISTS (SELECT 1 FROM meta)")
        self._in_use = bool(found)

    def write(self, moves: Iterable[Move], replaced: Collection[Task] = ()) -> None:
        """When the jobs are written. replaced: they are about what has come in their place."""
        come: list[Task] = []
        gone: list[Task] = list(replaced)
        for move in moves:
            if move.source is None:
                come += [task for task in move.tasks if task.meta]
            elif move.target is None:
                gone += move.tasks
        self.forget([task.seq for task in gone])
        if metas := {task.seq: task.meta for task in (*come, *replaced) if task.meta}:
            self._file.execute(INSERT, (json.dumps(metas),))
            self._in_use = True

    def load(self, tasks: Iterable[Task]) -> None:
        """They come with what the file has."""
        if not self._in_use:
            return
        by_seq = {task.seq: task for task in tasks}
        found: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for seq, name, value in self._file.execute(LOAD, (json.dumps(list(by_seq)),)):
            found[seq][name] = value
        for seq, meta in found.items():
            by_seq[seq].meta = Meta(meta)

    def forget(self, seqs: Sequence[int]) -> None:
        """They are not there any more."""
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs),))
