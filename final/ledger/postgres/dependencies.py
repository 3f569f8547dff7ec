"""Jobs that come after others, in a database that many processes share.

The rules are those of ``features/dependencies.py``: an end is noted as a row of ``release`` by
the transaction that writes it (a trigger does that, for jobs that have children), and children go
on afterwards, so many at a time.

A parent may end while a child comes in. So the child's transaction first locks its parents: either
it finds that one has ended, and notes that itself, or the end waits, and finds the child.

But: one process at a time lets children go on. What nobody has told is found by the next poll.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from final.job import Status, Task
from final.ledger.base import AT_ONCE, Move
from final.ledger.features.dependencies import why
from final.ledger.postgres import statements as sql
from final.ledger.postgres.memory import Memory
from final.ledger.postgres.session import Session

# Each parent by its id, locked until the end of the transaction. The flag is set first: of two that
# share a lock, neither could.
SET_FLAG = """UPDATE jobqueue.job SET has_children = true FROM (SELECT seq FROM jobqueue.job
        WHERE id = ANY (%s::text[]) AND NOT has_children ORDER BY seq FOR NO KEY UPDATE) AS o
    WHERE job.seq = o.seq"""
LOCK = "SELECT id FROM jobqueue.job WHERE id = ANY (%s::text[]) ORDER BY seq FOR SHARE"
INSERT = """INSERT INTO jobqueue.dependency (child, number, parent, runs)
    SELECT job.seq, number, parent, runs FROM unnest(%s::text[], %s::integer[], %s::text[],
        %s::boolean[]) AS new (id, number, parent, runs) JOIN jobqueue.job USING (id)"""
SET_RUN_AT = f"""UPDATE jobqueue.job SET run_at = {sql.NOW} + make_interval(secs => delay)
    FROM unnest(%s::text[], %s::float8[]) AS new (id, delay) WHERE job.id = new.id"""
HAD_ENDED = """INSERT INTO jobqueue.release (parent, became, upto)
    SELECT id, status, last_value FROM jobqueue.job, jobqueue.job_seq_seq
    WHERE id = ANY (%s::text[]) AND ended_at IS NOT NULL"""

RELEASER = "SELECT pg_try_advisory_xact_lock(%s, -2)"
NEXT = """SELECT line, number, release.parent, became, runs, child
    FROM jobqueue.release JOIN jobqueue.dependency ON dependency.parent = release.parent
    WHERE line = ANY (%s::bigint[]) AND open AND child <= upto ORDER BY line, child LIMIT %s"""
# Those that were seen: one with a lower number may be committed at any moment.
LINES = "SELECT line FROM jobqueue.release ORDER BY line LIMIT %s"
WORKED_OFF = "DELETE FROM jobqueue.release WHERE line = ANY (%s::bigint[])"
COUNT = """UPDATE jobqueue.dependency SET open = false
    FROM unnest(%s::bigint[], %s::integer[]) AS o (child, number)
    WHERE dependency.child = o.child AND dependency.number = o.number"""
CANCEL = f"""UPDATE jobqueue.job SET status = 'cancelled', ended_at = {sql.NOW}, due_at = NULL,
        error = o.error
    FROM unnest(%s::bigint[], %s::text[]) AS o (seq, error)
    WHERE job.seq = o.seq AND status = 'waiting' RETURNING {sql.MOVED}, 'waiting', status, NULL"""
CLOSE = "UPDATE jobqueue.dependency SET open = false WHERE open AND child = ANY (%s::bigint[])"
GO_ON = f"""UPDATE jobqueue.job SET ready_at = {sql.NOW},
        status = CASE WHEN run_at > {sql.NOW} THEN 'scheduled' ELSE 'queued' END,
        due_at = CASE WHEN run_at > {sql.NOW} THEN run_at END,
        behind = job.grp IS NOT NULL, place = nextval('jobqueue.job_seq_seq')
    FROM (SELECT seq FROM jobqueue.job WHERE seq = ANY (%s::bigint[]) AND status = 'waiting'
        AND NOT EXISTS (SELECT FROM jobqueue.dependency WHERE open AND child = job.seq)
        ORDER BY seq FOR NO KEY UPDATE) AS o
    WHERE job.seq = o.seq RETURNING {sql.MOVED}, 'waiting', status, NULL"""
ANY_WAIT = """SELECT EXISTS (SELECT FROM jobqueue.dependency WHERE open)
    OR EXISTS (SELECT FROM jobqueue.release)"""


class PostgresDependencies:
    """table: the first half of the keys of advisory locks.

    releasing: parents have ended, and their children do not all know. A hint, as are all here.
    """

    def __init__(self, session: Session, memory: Memory, table: int) -> None:
        self._session = session
        self._memory = memory
        self._table = table
        self._in_use = False  # some job waits for others
        self.releasing = False

    def poll(self) -> None:
        (self._in_use,) = self._session.one(ANY_WAIT)
        self.releasing = self._in_use

    # ---- in a turn ---------------------------------------------------------------------------

    def lock_parents(self, new: Iterable[Sequence[Task]]) -> Any:
        """Before anything is inserted; returns what will name those that are there."""
        parents = sorted({parent for tasks in new for task in tasks for parent in task.after})
        if not parents:
            return ()
        self._session.ask(SET_FLAG, (parents,))
        return self._session.ask(LOCK, (parents,))

    def insert(self, new: Iterable[Task], wall: float) -> None:
        """After the jobs themselves, of which some are parents of others."""
        children = [task for task in new if task.after]
        if not children:
            return
        rows = [
            (task.id, number, parent, task.if_failed == "run")
            for task in children
            for number, parent in enumerate(task.after)
        ]
        self._session.ask(INSERT, [list(column) for column in zip(*rows, strict=True)])
        if later := [(t.id, t.due_at - wall) for t in children if t.due_at is not None]:
            self._session.ask(SET_RUN_AT, [list(column) for column in zip(*later, strict=True)])
        parents = sorted({parent for _, _, parent, _ in rows})
        self._session.ask(SET_FLAG, (parents,))
        self._session.ask(HAD_ENDED, (parents,))
        self._in_use = self.releasing = True

    # ---- after a turn ------------------------------------------------------------------------

    def release(self, moves: list[Move]) -> bool:
        """If the turn has ended jobs, let children go on; whether any has. Adds to ``moves``.

        Raises psycopg.Error; then the next poll finds what is left.
        """
        self.releasing |= self._in_use and any(m.target is None or m.target.ended for m in moves)
        if not self.releasing:
            return False
        self.releasing = False
        left, before = AT_ONCE, len(moves)
        while left > 0:
            with self._session.transaction():
                if self._session.one(RELEASER, (self._table,)) != (True,):
                    break  # another process is at it
                lines = [line for (line,) in self._session.ask(LINES, (AT_ONCE,))]
                rows = self._session.ask(NEXT, (lines, left)).fetchall()
                done = lines if len(rows) < left else [n for n in lines if n < rows[-1][0]]
                self._session.ask(WORKED_OFF, (done,))
                self._count(rows, moves)
            left -= len(rows)
            if not rows and len(lines) < AT_ONCE:
                break
        else:
            self.releasing = True
        return len(moves) > before

    def _count(self, rows: Sequence[tuple[Any, ...]], moves: list[Move]) -> None:
        """The end of a parent counts for these children."""
        ask, children = self._session.ask, sorted({row[-1] for row in rows})
        ask(COUNT, ([row[-1] for row in rows], [row[1] for row in rows]))
        doomed = {
            child: why(parent, Status(became))
            for _, _, parent, became, runs, child in rows
            if not runs and became != Status.COMPLETED
        }
        if doomed:
            moved = ask(CANCEL, (list(doomed), list(doomed.values())))
            self._memory.moved(moved, moves)
            ask(CLOSE, (list(doomed),))
        went_on = self._memory.moved(ask(GO_ON, (children,)), moves)
        if groups := sorted({task.group for task in went_on if task.group}):
            ask(sql.LOCK_GROUPS, (groups,))
            ask(sql.COME_FORWARD, {"groups": groups, **self._memory.may_start()})
