"""Jobs that come in within the caller's own transaction: they commit and roll back with its rows.

The transactional outbox, for free: whoever writes the order and the job into one database needs no
relay between the two. The notification goes out with the caller's commit, too.

But: a lane that is full refuses at once. Nobody waits inside somebody's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from final.errors import DuplicateJob, QueueFull, StorageError
from final.job import Status, Task
from final.ledger.admission import Admission, admit
from final.ledger.features.keys import Holder, Keys
from final.ledger.postgres import holders, metas, notices
from final.ledger.postgres import statements as sql
from final.ledger.postgres.address import Address
from final.ledger.postgres.migrate import in_schema
from final.ledger.postgres.room import drop_oldest
from final.ledger.postgres.rows import LANES, new_columns
from final.ledger.postgres.session import explained
from final.options import Options

Ask = Callable[[str, Any], psycopg.Cursor[tuple[Any, ...]]]


def enqueue_within(
    connection: object,
    place: tuple[Address, Options, int],
    tasks: Sequence[Task],
    wall: float,
) -> list[str]:
    """All of them or none; in a savepoint, so that the caller may go on after a refusal.

    place: where the queue is, its options, and the number of its table.

    Returns their ids. Raises TypeError, DuplicateJob, QueueFull, StorageError.
    """
    address, options, table = place
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(
            "connection must be a psycopg.Connection to the database of this queue, not "
            f"{type(connection).__name__}. (SQLAlchemy has it as .connection.driver_connection.)"
        )

    if connection.closed or connection.info.encoding != "utf-8":
        raise StorageError(
            "connection is closed: give one that is open, with your transaction."
            if connection.closed
            else f"connection sends text as {connection.info.encoding}, which not all text fits "
            "in: open it with client_encoding='utf8'."
        )

    def ask(statement: str, values: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        query = in_schema(statement, address.schema)
        # Not what the connection makes: that may be of another sort (Django's are).
        cursor = psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row)
        return cursor.execute(query, values, binary=True)

    if not tasks:
        return []
    try:
        if not connection.autocommit:
            connection.execute("SELECT")  # the caller's transaction begins, if it has not yet
        with connection.transaction():
            known, keys = _who_is_there(connection, ask, table, tasks, wall)
            room = dict.fromkeys(LANES, len(tasks))  # all come in where the oldest are dropped
            if options.overflow != "drop-oldest":
                limits = [value for _ in LANES for value in (options.capacity, 0, options.capacity)]
                counts = ask(sql.FILLED, limits).fetchone() or ()
                room = {
                    n: options.capacity - count for n, (count, _) in zip(LANES, counts, strict=True)
                }
            admission = admit([tasks], known, room, options.overflow, keys)
            if admission.taken:
                raise DuplicateJob(admission.taken[0])
            if admission.accepted[0] < len(tasks):
                lane = tasks[admission.accepted[0]].priority
                raise QueueFull(
                    f"The {lane} lane is full (capacity {options.capacity}), and nobody waits for "
                    "room inside a transaction: enqueue again later, or raise capacity."
                )
            missing = put(ask, admission, keys, wall)
            if missing:
                raise DuplicateJob(missing)
            if options.overflow == "drop-oldest":
                for lane in LANES:
                    coming = sum(task.priority is lane for task in admission.of(Status.QUEUED))
                    drop_oldest(ask, lane, 0, coming, options.capacity)
            if keys.replaced or any(status is Status.QUEUED for _, status in admission.coming):
                ask(sql.NOTIFY, (address.schema, notices.work(0)))
            instead = admission.instead.get(0, {})
            return [instead.get(number, task.id) for number, task in enumerate(tasks)]
    except psycopg.Error as error:
        raise explained(address, error) from error


def _who_is_there(
    connection: psycopg.Connection[Any], ask: Ask, table: int, tasks: Sequence[Task], wall: float
) -> tuple[set[str], Keys]:
    """Of unique jobs: which of their ids are in, and who holds their keys.

    The caller's transaction may last. So of the holders those stay locked that wait for its end: to
    be replaced, or to start when what the caller changes can be seen. One that runs does not, or
    else nobody could write its end.
    """
    unique = [task for task in tasks if task.unique is not None]
    if not unique:
        return set(), Keys({}, wall)
    wanted = holders.keys_of(unique)
    ask(sql.LOCK_KEYS, (table, wanted))
    known = ask(sql.TAKEN, ([task.id for task in unique],)).fetchall()
    replaceable, kept = holders.to_replace(unique), dict[str, Holder]()

    def is_to_wait(key: str, holder: Holder) -> bool:
        return holder.waits and (key in replaceable or holder.until == "started")

    to_lock = wanted
    while True:
        with connection.transaction() as savepoint:
            found = ask(sql.KEY_HOLDERS, (to_lock, table, wanted))
            there = holders.holders_of(found, wall) | kept
            kept |= {
                key: there[key]
                for key in to_lock
                if key in there and not is_to_wait(key, there[key])
            }
            if kept.keys().isdisjoint(to_lock):
                return {job_id for (job_id,) in known}, Keys(there, wall)
            raise psycopg.Rollback(savepoint)  # which lets go of the locks
        to_lock = [key for key in to_lock if key not in kept]


def put(ask: Ask, admission: Admission, keys: Keys, wall: float) -> list[str]:
    """Write what was admitted; returns the ids that are taken, whose jobs are not in."""
    tasks = [task for task, _ in admission.coming]
    for task in tasks:
        task.attempts, task.alone = 0, False
    there = set()
    if tasks:
        coming = [(task, status, wall) for task, status in admission.coming]
        columns = new_columns(coming, wait_behind=False)  # no lock in the caller's transaction
        there = {job_id for job_id, _ in ask(sql.INSERT + sql.UNLESS_TAKEN, (0, *columns))}
        metas.write(ask, [task for task in tasks if task.id in there])
    holders.write(ask, keys, wall, wait_behind=False)
    if groups := [holder.group for holder, _ in keys.replaced if holder.group]:
        ask(sql.COME_FORWARD, {"groups": groups, "kinds": None, "closed": [], "aside": []})
    return [task.id for task in tasks if task.id not in there]
