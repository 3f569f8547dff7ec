"""Jobs that come after others, in a file: who waits for whom, and what the end of a parent does.

A row of ``dependency`` is one parent of one child. It is open until the parent has ended and that
has counted; a child without an open row may run.

An end is noted in the transaction that writes it, as a row of ``release``, and nothing more: a
parent may have a hundred thousand children. The exchanges that follow work through these rows, so
many children at a time. As both are in the file, a crash in the middle changes nothing.

The history keeps a parent until its children have ended, since they may want its result. (A dead
letter may want it, too, when it is retried.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from final.job import Status, Task
from final.ledger.base import AT_ONCE, Move
from final.ledger.features.base import Feature
from final.ledger.index import Index
from final.ledger.rows import PLAIN, TASK_COLUMNS, task_of
from final.ledger.sqlite import SqliteFile

# The states of a row. OVER: the child has ended.
OPEN, COUNTED, OVER = 0, 1, 2

ENDED = ", ".join(f"'{status.value}'" for status in Status if status.ended)
THESE = "IN (SELECT value FROM json_each(?))"
INSERT = "INSERT INTO dependency (child, number, parent, if_failed) VALUES (?, ?, ?, ?)"
# Notes that parents have ended: those of new children, and those of this exchange.
HAD_ENDED = f"""INSERT INTO release (parent, became, upto) SELECT id, status, ? FROM job
    WHERE id {THESE} AND status IN ({ENDED})"""
HAVE_ENDED = f"""INSERT INTO release (parent, became, upto) SELECT value, ?, ? FROM json_each(?)
    WHERE EXISTS (SELECT 1 FROM dependency WHERE parent = value AND state = {OPEN})"""
UNNOTED = f"""INSERT INTO release (parent, became, upto)
    SELECT DISTINCT dependency.parent, coalesce(status, 'failed'), ?
    FROM dependency LEFT JOIN job ON id = dependency.parent
    WHERE state = {OPEN} AND (status IS NULL OR status IN ({ENDED}))
    AND NOT EXISTS (SELECT 1 FROM release WHERE release.parent = dependency.parent)"""
# (CROSS JOIN: in this order, whatever SQLite thinks of how many there are.)
NEXT = f"""SELECT line, number, parent, became, if_failed, {TASK_COLUMNS}
    FROM (SELECT line, number, release.parent, became, if_failed, child
        FROM release CROSS JOIN dependency ON dependency.parent = release.parent
        WHERE state = {OPEN} AND child <= upto ORDER BY line, child LIMIT ?)
    CROSS JOIN job ON seq = child ORDER BY line, child"""
WORKED_OFF = "DELETE FROM release WHERE line < ?"
LAST_LINE = 2**63 - 1
COUNT = f"UPDATE dependency SET state = {COUNTED} WHERE child = ? AND number = ?"
STILL_OPEN = f"SELECT DISTINCT child FROM dependency WHERE state = {OPEN} AND child {THESE}"
WHY = "UPDATE job SET error = ? WHERE seq = ?"
CHILDREN_ENDED = f"""UPDATE dependency SET state = {OVER} WHERE state < {OVER} AND child {THESE}
    RETURNING parent"""
NEEDED = f"""SELECT id, seq FROM job WHERE seq {THESE}
    AND EXISTS (SELECT 1 FROM dependency WHERE parent = id AND state < {OVER})"""
HAVE_CHILDREN = f"""SELECT value FROM json_each(?)
    WHERE EXISTS (SELECT 1 FROM dependency WHERE parent = value AND state < {OVER})"""
FORGET = f"DELETE FROM dependency WHERE child {THESE}"

BAD = {Status.FAILED: "failed", Status.CANCELLED: "was cancelled", Status.DROPPED: "was dropped"}


class Dependencies(Feature):
    """Those of a file. last_number: the highest that a job was given."""

    def __init__(self, file: SqliteFile, last_number: Callable[[], int]) -> None:
        super().__init__(file)
        self._last_number = last_number
        self.releasing = False  # there may be rows of ``release``
        # Ended parents that are kept from the history, by id: what they were called there.
        self._held: dict[str, int] = {}
        # What this exchange makes of these, once it is written.
        self._to_hold: dict[str, int] = {}
        self._to_let_go: set[str] = set()

    def open(self) -> None:
        """Also finds the ends that another program has written, and noted nowhere."""
        self._in_use = self.releasing = self._has_any("dependency")
        if self._in_use:
            self._file.execute(UNNOTED, (self._last_number(),))

    # ---- in an exchange ----------------------------------------------------------------------

    def release(self, index: Index) -> None:
        """Children of parents that have ended wait no longer, a bounded number of them."""
        left = AT_ONCE
        while self.releasing and left > 0:
            rows = self._file.execute(NEXT, (left,)).fetchall()
            is_all = len(rows) < left  # else there may be more of the last line
            self._file.execute(WORKED_OFF, (LAST_LINE if is_all else rows[-1][0],))
            self.releasing = not is_all
            left -= len(rows)
            ready, doomed = self._count(rows, index.live)
            self._note(Status.CANCELLED, doomed)
            for task in ready:
                if task.due_at is None or task.due_at <= index.wall:
                    task.due_at, task.key, task.queued_at = None, index.next_number(), index.now
                else:
                    index.set_timer(task)
            _let_go([task for task in ready if task.due_at is None], Status.QUEUED, index)
            _let_go([task for task in ready if task.due_at is not None], Status.SCHEDULED, index)
            _let_go(doomed, Status.CANCELLED, index)

    def _count(
        self, rows: Sequence[Sequence[Any]], live: Mapping[str, Task]
    ) -> tuple[list[Task], list[Task]]:
        """The end of a parent counts for these children. Which may run now, which never?"""
        children: dict[int, Task] = {}
        errors: dict[int, str] = {}
        for _, number, parent, became, if_failed, *columns in rows:
            task = task_of(columns)
            children[task.seq] = live.get(task.id, task)
            self._file.execute(COUNT, (task.seq, number))
            if became != Status.COMPLETED and if_failed == "cancel":
                errors[task.seq] = why(parent, Status(became))
        for seq, error in errors.items():
            self._file.execute(WHY, (error, seq))
        doomed = [children.pop(seq) for seq in errors]
        self._children_ended(doomed)
        open_rows = self._file.execute(STILL_OPEN, (json.dumps(list(children)),))
        still_open = {seq for (seq,) in open_rows}
        return [t for seq, t in children.items() if seq not in still_open], doomed

    def admit(self, new: Iterable[Task]) -> None:
        """These come in. All of their parents are there."""
        children = [task for task in new if task.after]
        for task in children:
            for number, parent in enumerate(task.after):
                self._file.execute(INSERT, (task.seq, number, parent, task.if_failed))
        if children:
            parents = json.dumps(sorted({parent for task in children for parent in task.after}))
            self._in_use = True
            noted = self._file.execute(HAD_ENDED, (self._last_number(), parents))
            self.releasing |= noted.rowcount > 0

    def write(self, moves: Sequence[Move]) -> None:
        """Note those ends of an exchange that somebody waits for."""
        if not self._in_use:
            return
        for move in moves:
            if move.target is None:
                self._children_ended(move.tasks)
                self.forget([task.seq for task in move.tasks])
            elif move.target.ended:
                self._note(move.target, move.tasks)
                if move.target is not Status.FAILED:  # a dead letter may start over
                    self._children_ended(move.tasks)
        if self._to_let_go:
            needed = self._file.execute(HAVE_CHILDREN, (json.dumps(sorted(self._to_let_go)),))
            self._to_let_go.difference_update(parent for (parent,) in needed)

    def _note(self, status: Status, tasks: Sequence[Task]) -> None:
        """For the children that are there: those that come later are noted for themselves."""
        values = (PLAIN[status], self._last_number(), json.dumps([task.id for task in tasks]))
        self.releasing |= self._file.execute(HAVE_ENDED, values).rowcount > 0

    def _children_ended(self, tasks: Sequence[Task]) -> None:
        rows = self._file.execute(CHILDREN_ENDED, (_seqs(tasks),)).fetchall()
        self._to_let_go.update(parent for (parent,) in rows if parent in self._held)

    # ---- the history ---------------------------------------------------------------------------

    def needed(self, tasks: Sequence[Task]) -> set[int]:
        """The numbers of those of these ended jobs whose results children still read."""
        if not self._in_use:
            return set()
        seqs = [task.seq for task in tasks if task.status is not Status.FAILED]  # it has none
        return {seq for _, seq in self._file.execute(NEEDED, (json.dumps(seqs),))}

    def forgettable(self, seqs: Sequence[int]) -> Sequence[int]:
        """Of these ended jobs those that no child needs any more. The others are held."""
        if not self._in_use:
            return seqs
        self._to_hold = dict(self._file.execute(NEEDED, (json.dumps(seqs),)))
        needed = set(self._to_hold.values())
        return [seq for seq in seqs if seq not in needed]

    def forget(self, seqs: Sequence[int]) -> None:
        if seqs and self._in_use:
            self._file.execute(FORGET, (json.dumps(seqs),))

    def written(self) -> list[int]:
        """The exchange is in the file. Returns held jobs that the history may let go of now."""
        let_go = [self._held.pop(job_id) for job_id in self._to_let_go]
        self._held.update(self._to_hold)
        self._to_hold.clear()
        self._to_let_go.clear()
        return let_go

    def undo(self) -> None:
        """What there is to do is found in the file again."""
        self.releasing = self._in_use
        self._to_hold.clear()
        self._to_let_go.clear()


def _let_go(children: list[Task], target: Status, index: Index) -> None:
    """Those that are not indexed here, as nobody handles their kind, in the file alone."""
    mine = [task for task in children if task.id in index.live]
    if aside := [task for task in children if task.id not in index.live]:
        index.moves.append(Move(aside, Status.WAITING, target))
    for task in mine:
        index.leave(task)
    index.move(mine, Status.WAITING, target)


def why(parent: str, became: Status) -> str:
    """The error of a child that is cancelled."""
    return f"Job {parent}, which it comes after, {BAD[became]}."


def _seqs(tasks: Iterable[Task]) -> str:
    return json.dumps([task.seq for task in tasks])
