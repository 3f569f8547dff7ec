"""Periodic entries in a database that many processes share: how they come, change and go.

What becomes of a tick is in ``ticks.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from final.beyond.periodic import Entry
from final.ledger.base import ChangePeriodic
from final.ledger.postgres.rows import halves

_TIMES = ", ".join(f"extract(epoch FROM {tick})::float8" for tick in ("last_tick", "next_tick"))
COLUMNS = f"name, schedule, timezone, missed, job, payload, payload_bytes, paused, {_TIMES}"
ENTRIES = f"SELECT {COLUMNS} FROM jobqueue.periodic ORDER BY name"
_SET = """schedule = new.schedule, timezone = new.timezone, missed = new.missed, job = new.job,
    payload = new.payload, payload_bytes = new.payload_bytes, next_tick = CASE
        WHEN old.paused THEN NULL
        WHEN old.schedule = new.schedule AND old.timezone = new.timezone THEN old.next_tick
        ELSE new.next_tick END"""
_NAMES = "name, schedule, timezone, missed, job, payload, payload_bytes, next_tick"
_VALUES = "(%s, %s, %s, %s, %s, %s::text, %s::bytea, to_timestamp(%s::float8))"
ADD = f"""INSERT INTO jobqueue.periodic ({_NAMES}) VALUES {_VALUES}
    ON CONFLICT (name) DO NOTHING RETURNING true"""
DECLARE = f"""INSERT INTO jobqueue.periodic AS old ({_NAMES}) VALUES {_VALUES}
    ON CONFLICT (name) DO UPDATE SET {_SET.replace("new.", "excluded.")} RETURNING true"""
CHANGE = f"""UPDATE jobqueue.periodic AS old SET {_SET} FROM (VALUES {_VALUES}) AS new ({_NAMES})
    WHERE old.name = new.name RETURNING true"""
PAUSE = """UPDATE jobqueue.periodic SET paused = true, next_tick = NULL WHERE name = %s
    RETURNING true"""
RESUME = """UPDATE jobqueue.periodic SET paused = false,
        next_tick = CASE WHEN paused THEN to_timestamp(%s::float8) ELSE next_tick END
    WHERE name = %s AND schedule = %s AND timezone = %s RETURNING true"""
REMOVE = "DELETE FROM jobqueue.periodic WHERE name = %s RETURNING true"


def ask(ask: Callable[..., Any], order: ChangePeriodic) -> list[Any]:
    """An answer for each entry: a row where there was anything to change."""
    return [ask(*_statement(order.how, entry)) for entry in order.entries]


def _statement(how: str, entry: Entry) -> tuple[str, Sequence[Any]]:
    match how:
        case "pause":
            return PAUSE, (entry.name,)
        case "resume":
            return RESUME, (entry.next, entry.name, entry.schedule, entry.timezone)
        case "remove":
            return REMOVE, (entry.name,)
    names = (entry.name, entry.schedule, entry.timezone, entry.missed)
    values = (*names, entry.job, *halves(entry.payload), entry.next)
    return {"add": ADD, "change": CHANGE, "declare": DECLARE}[how], values


def entry_of(row: Sequence[Any]) -> Entry:
    """From ``ENTRIES``."""
    name, schedule, timezone, missed, job, payload, payload_bytes, paused, last, following = row
    stored = payload_bytes if payload is None else payload
    return Entry(name, schedule, timezone, missed, job, stored, paused, last, following)
