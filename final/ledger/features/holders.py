"""Who holds which key: the rows of ``holder`` in a file.

But: a plain reader of rows: what follows from them is in ``keys.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy

from final.job import Status, Task
from final.ledger.base import Move
from final.ledger.features.base import Feature, deleted
from final.ledger.features.keys import Holder, Keys, become, place_of
from final.ledger.index import Index
from final.ledger.rows import PLAIN
from final.ledger.sqlite import SqliteFile

KEYS_AT_ONCE = 500  # keys whose time is over that an exchange deletes, at most

THESE = "IN (SELECT value FROM json_each(?))"
HOLDERS = f"""SELECT holder.key, holder.id, holder.seq, until, expires_at, status, attempts,
    coalesce(enqueued_at, 0)
    FROM holder LEFT JOIN job ON job.seq = holder.seq AND job.id = holder.id
    WHERE holder.key {THESE}"""
TAKE = "INSERT OR REPLACE INTO holder VALUES (?, ?, ?, ?, ?)"
NAME = "UPDATE job SET unique_key = ? WHERE seq = ?"
REPLACE = """UPDATE job SET priority = ?, kind = ?, size = ?, timeout = ?, grp = ?,
    due_at = coalesce(?, min(due_at, ?)) WHERE seq = ?"""
# It stands in no lane any more; a move that was written before may have named a place in one.
WAITS = "UPDATE job SET status = 'scheduled', place = NULL WHERE seq = ?"
REPLACE_PAYLOAD = "UPDATE payload SET payload = ? WHERE seq = ?"
KEYS_OF = f"SELECT seq, unique_key FROM job WHERE unique_key IS NOT NULL AND seq {THESE}"
TAKE_AGAIN = """INSERT INTO holder VALUES (?, ?, ?, 'ended', NULL)
    ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, id = excluded.id,
    until = coalesce(until, 'ended'), expires_at = NULL WHERE coalesce(expires_at, 0) <= ?"""
LET_GO = f"DELETE FROM holder WHERE seq {THESE} AND id {THESE}"
FORGET = f"DELETE FROM holder WHERE seq {THESE} AND coalesce(expires_at, 0) <= ?"
EXPIRED = """DELETE FROM holder WHERE key IN
    (SELECT key FROM holder WHERE expires_at <= ? LIMIT ?)"""


class Holders(Feature):
    """Those of a file. live: the jobs that are in the index, by id, as they are by now."""

    def __init__(self, file: SqliteFile, live: Mapping[str, Task]) -> None:
        super().__init__(file)
        self._live = live
        self._sweep_at = 0.0  # Unix seconds
        self.begin(0.0)

    def open(self) -> None:
        self._in_use = self._has_any("holder")

    def begin(self, wall: float) -> None:
        self._wall = wall
        self._keys = Keys({}, wall)
        # By this exchange, and what each was before.
        self.replaced: dict[Task, Task] = {}

    def of(self, new: Sequence[Sequence[Task]], moves: Sequence[Move]) -> Keys:
        """Who has the keys of these jobs, after the ``moves`` that the exchange has made so far."""
        wanted = {task.unique.key for tasks in new for task in tasks if task.unique is not None}
        if wanted:
            self._keys = Keys(self._holders(wanted, moves), self._wall)
            self._in_use = True
        return self._keys

    def _holders(self, keys: Iterable[str], moves: Sequence[Move]) -> dict[str, Holder]:
        rows = self._file.execute(HOLDERS, (json.dumps(list(keys)),)).fetchall()
        now = {task.id: move.target for move in moves for task in move.tasks}  # the last one counts
        holders = {}
        for key, job_id, seq, until, expires_at, status, *others in rows:
            known = None if status is None else Status(status)
            holder = Holder(job_id, seq, until, expires_at, known, *others)
            task = self._live.get(holder.id)
            if task is not None and task.seq == holder.seq:
                holder.status, holder.attempts = task.status, task.attempts
            elif holder.status is not None:
                holder.status = now.get(holder.id, holder.status)
            holders[key] = holder
        return holders

    def find(self, holder: Holder, moves: Sequence[Move]) -> Task:
        """The job itself, to be replaced. (What was just set aside, the file does not say yet.)"""
        aside = (t for move in moves for t in move.tasks if t.id == holder.id and not t.status)
        task = self._live.get(holder.id) or next(aside, None) or self._file.find(holder.id)
        assert task is not None, "it waits"
        task.status = task.status or holder.status
        return task

    def replace(self, task: Task, new: Task) -> None:
        """It becomes the new one."""
        self.replaced.setdefault(task, copy(task))
        become(task, new)

    def replace_waiting(self, holder: Holder, new: Task, index: Index) -> None:
        """The job becomes the new one, under its own id, and at its place if it can."""
        task = self.find(holder, index.moves)
        if task.id not in index.live:  # nobody handled its kind
            task.by_clock = True
            index.put_in(task)
        is_queued = task.status is Status.QUEUED
        if is_queued and new.due_at is None and place_of(task) == place_of(new):
            index.count_out([task])
            self.replace(task, new)
            index.count_in([task])  # it stands where it stood
            return
        index.leave(task)
        self.replace(task, new)
        if task.status is Status.RETRYING:
            index.arrive([task])
        else:
            source, task.due_at, task.by_clock = task.status, new.due_at, new.by_clock
            task.key, task.queued_at = index.next_number(), index.now
            index.set_timer(task)
            target = Status.QUEUED if task.due_at is None else Status.SCHEDULED
            index.move([task], source, target)

    def recount(self, moves: Sequence[Move]) -> list[Move]:
        """What counts before these moves: who was replaced is counted in the lane it is in.

        (One that goes from lane to lane several times is in the last one all the while.)
        """
        was = {task: move.source for move in reversed(moves) for task in move.tasks}
        told = []
        for task, there in self.replaced.items():
            if task.priority is not there.priority:
                before = was.get(task, task.status)
                told += [Move([there], before, None), Move([task], None, before)]
        return told

    def retryable(self, letters: list[Task], moves: Sequence[Move]) -> list[Task]:
        """Those dead letters whose keys no other job has that is still to run. They have them."""
        key_of = dict(self._file.execute(KEYS_OF, (_seqs(letters),)).fetchall())
        self._in_use |= bool(key_of)
        holders = self._holders(set(key_of.values()), moves)
        mine = []
        for task in letters:
            if (key := key_of.get(task.seq)) is not None:
                holder = holders.get(key)
                if holder and holder.seq != task.seq and holder.lives and holder.holds(self._wall):
                    continue
                self._file.execute(TAKE_AGAIN, (key, task.seq, task.id, self._wall))
                holders[key] = Holder(
                    task.id, task.seq, "ended", None, Status.QUEUED, 0, self._wall
                )
            mine.append(task)
        return mine

    def write(self, moves: Sequence[Move]) -> None:
        if not self._in_use:
            return
        for key, holder, task in self._keys.taken():
            row = (key, task.seq, holder.id, holder.until, holder.expires_at)
            self._file.execute(TAKE, row)
            self._file.execute(NAME, (key, task.seq))
        for task in self.replaced:
            self._write_replaced(task)
        off = [t for m in moves if m.target in (Status.CANCELLED, Status.DROPPED) for t in m.tasks]
        if off:
            self._file.execute(LET_GO, (_seqs(off), json.dumps([task.id for task in off])))
        self.forget(deleted(moves))
        if not self._sweep_at - 1.0 <= self._wall < self._sweep_at:  # the clock may be set back
            gone = self._file.execute(EXPIRED, (self._wall, KEYS_AT_ONCE)).rowcount
            self._sweep_at = self._wall if gone == KEYS_AT_ONCE else self._wall + 1.0

    def _write_replaced(self, task: Task) -> None:
        values = (PLAIN[task.priority], task.kind, task.size, task.timeout, task.group or None)
        self._file.execute(REPLACE, (*values, task.due_at, self._wall, task.seq))
        if task.status is Status.SCHEDULED:
            self._file.execute(WAITS, (task.seq,))
        self._file.execute(REPLACE_PAYLOAD, (task.payload, task.seq))

    def forget(self, seqs: Sequence[int]) -> None:
        """A key that is held for a time outlives its job."""
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs), self._wall))


def _seqs(tasks: Iterable[Task]) -> str:
    return json.dumps([task.seq for task in tasks])
