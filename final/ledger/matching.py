"""A filter (``final/beyond/filters.py``) as SQL for a file.

Jobs with a meta are looked for in its table: the pair that fewest jobs have leads, in the order of
their numbers. So it takes as many steps as jobs have that pair, however many there are in all.

Who reads, and what, is in ``lookups.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from final.beyond.filters import Filter
from final.beyond.meta import Meta
from final.ledger.rows import PLAIN
from final.ledger.schema import COMMON, IS_UNCOMMON

# Beyond so many it makes no difference which pair is the rarest.
MANY = 1_000
HOW_MANY = f"SELECT count(*) FROM (SELECT 1 FROM meta WHERE name = ? AND value = ? LIMIT {MANY})"
# (CROSS JOIN: in this order, whatever SQLite thinks of how many there are.)
FROM_META = "meta CROSS JOIN job USING (seq)"
HAS_PAIR = "EXISTS (SELECT 1 FROM meta AS m WHERE m.name = ? AND m.value = ? AND m.seq = job.seq)"


class Matching(NamedTuple):
    """source: what stands behind FROM, with the columns of ``job``. where: with these values."""

    source: str
    where: str
    values: list[object]


def matching(wanted: Filter, how_many: Callable[[str, str], int]) -> Matching:
    """To look for them. how_many: jobs have this name and value, so far as is worth counting."""
    conditions, values = _conditions(wanted)
    source = "job"
    for pair in rarest_first(wanted.meta, how_many):
        conditions.append("meta.name = ? AND meta.value = ?" if source == "job" else HAS_PAIR)
        values += pair
        source = FROM_META
    return Matching(source, " AND ".join(["true", *conditions]), values)


def still_meant(wanted: Filter) -> tuple[str, list[object]]:
    """For jobs that were found: a condition, and its values."""
    conditions, values = _conditions(wanted)
    conditions += [HAS_PAIR] * len(wanted.meta)
    values += [text for pair in wanted.meta.items() for text in pair]
    return " AND ".join(["true", *conditions]), values


def _conditions(wanted: Filter) -> tuple[list[str], list[object]]:
    """Of all but the meta."""
    columns = {
        "kind = ?": wanted.kind,
        "priority = ?": wanted.priority,
        "grp = ?": wanted.group,
        "enqueued_at >= ?": wanted.enqueued_after,
        "enqueued_at < ?": wanted.enqueued_before,
        "ended_at >= ?": wanted.ended_after,
        "ended_at < ?": wanted.ended_before,
    }
    given = {condition: value for condition, value in columns.items() if value is not None}
    conditions, values = list(given), list[object](given.values())
    if wanted.statuses:
        names = [PLAIN[status] for status in wanted.statuses]
        conditions.append(f"status IN ({', '.join(map(repr, names))})")
        if not {*names} & {*COMMON}:
            conditions.append(IS_UNCOMMON)  # so that SQLite knows that the index has them all
    return conditions, values


def rarest_first(meta: Meta, how_many: Callable[[str, str], int]) -> list[tuple[str, str]]:
    if len(meta) < 2:
        return [*meta.items()]
    return sorted(meta.items(), key=lambda pair: how_many(*pair))
