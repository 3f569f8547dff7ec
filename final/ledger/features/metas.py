"""What jobs are about (``final/beyond/meta.py``): the rows of ``meta`` in a file.

But: how a job is found by its meta is in ``matching.py``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence

from final.beyond.meta import Meta
from final.job import Task
from final.ledger.base import Move
from final.ledger.features.base import Feature, deleted
from final.ledger.features.holders import Holders
from final.ledger.sqlite import SqliteFile

THESE = "seq IN (SELECT value FROM json_each(?))"
# {seq: {name: value, ...}, ...}
INSERT = """INSERT INTO meta SELECT pair.key, pair.value, CAST(job.key AS INTEGER)
    FROM json_each(?) AS job, json_each(job.value) AS pair"""
LOAD = f"SELECT seq, name, value FROM meta WHERE {THESE}"
FORGET = f"DELETE FROM meta WHERE {THESE}"


class Metas(Feature):
    """Those of a file. keys: who was replaced there is about what has come in its place."""

    def __init__(self, file: SqliteFile, keys: Holders) -> None:
        super().__init__(file)
        self._keys = keys

    def open(self) -> None:
        self._in_use = self._has_any("meta")

    def write(self, moves: Sequence[Move]) -> None:
        replaced = self._keys.replaced
        if self._in_use:
            self.forget([*deleted(moves), *(task.seq for task in replaced)])
        new = [t for move in moves if move.source is None for t in move.tasks if t.meta]
        if metas := {task.seq: task.meta for task in (*new, *replaced) if task.meta}:
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
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs),))
