"""A filter (``final/beyond/filters.py``) as SQL for a database; see ``ledger/matching.py``.

The plan is in the text (``OFFSET 0``), and does not depend on what the statistics know: the jobs
that have a pair, one after the other in the order of their numbers, and each of them by its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from final.beyond.filters import Filter
from final.job import Status
from final.ledger.matching import MANY, Matching, rarest_first
from final.ledger.postgres.rows import LANES

HOW_MANY = f"""SELECT count(*) FROM (SELECT FROM jobqueue.meta WHERE name = %s AND value = %s
    LIMIT {MANY}) AS first"""
FROM_META = """(SELECT seq AS found_seq FROM jobqueue.meta WHERE name = %s AND value = %s AND {}
        ORDER BY seq {} OFFSET 0) AS found,
    LATERAL (SELECT * FROM jobqueue.job WHERE job.seq = found_seq OFFSET 0) AS job"""
HAS_PAIR = """EXISTS (SELECT FROM jobqueue.meta AS m
    WHERE m.name = %s AND m.value = %s AND m.seq = job.seq)"""


def matching(
    wanted: Filter,
    how_many: Callable[[str, str], int],
    bound: str = "true",
    bounds: Sequence[object] = (),
    direction: str = "DESC",
) -> Matching:
    """bound: a condition for ``seq``, with the values ``bounds``. direction: of its order."""
    lane = None if wanted.priority is None else LANES.index(wanted.priority)
    columns = {
        "kind = %s": wanted.kind,
        "lane = %s": lane,
        "grp = %s": wanted.group,
        "enqueued_at >= to_timestamp(%s)": wanted.enqueued_after,
        "enqueued_at < to_timestamp(%s)": wanted.enqueued_before,
        "ended_at >= to_timestamp(%s)": wanted.ended_after,
        "ended_at < to_timestamp(%s)": wanted.ended_before,
    }
    given = {condition: value for condition, value in columns.items() if value is not None}
    conditions, values = list(given), list[object](given.values())
    if wanted.statuses:
        conditions.append("status = ANY (%s)")
        values.append([status.value for status in wanted.statuses])
    if wanted.statuses == (Status.FAILED,):
        conditions.append("dead")  # by its index
    if not wanted.meta:
        where = " AND ".join([bound, *conditions])
        return Matching("jobqueue.job", f"{where} ORDER BY seq {direction}", [*bounds, *values])
    leading, *others = rarest_first(wanted.meta, how_many)
    conditions += [HAS_PAIR] * len(others)
    values += [text for pair in others for text in pair]
    where = " AND ".join(["true", *conditions])
    source = FROM_META.format(bound, direction)
    return Matching(source, f"{where} ORDER BY found_seq {direction}", [*leading, *bounds, *values])
