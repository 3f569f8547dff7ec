"""Which jobs are meant: those of which all that is given holds.

How such jobs are found is in ``ledger/matching.py``, and the one in ``postgres/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, TypedDict

from final.beyond.meta import NO_META, Meta, frozen
from final.job import Priority, Status
from final.options import YEAR_10000, require_number


class Filter(NamedTuple):
    """None, or empty, for any. statuses: one of these. meta: each of these pairs.

    The times are Unix seconds: from ``after`` on, and earlier than ``before``.
    """

    statuses: tuple[Status, ...] = ()
    kind: str | None = None
    priority: Priority | None = None
    group: str | None = None
    meta: Meta = NO_META
    enqueued_after: float | None = None
    enqueued_before: float | None = None
    ended_after: float | None = None
    ended_before: float | None = None


class Which(TypedDict, total=False):
    """What ``jobs``, ``cancel_all``, ``retry_all`` and ``purge`` take, beside a kind and a status.

    priority, group: of these. meta: with each of these names and values. Those that were
    accepted (enqueued) or have ended at ``after`` or later, or earlier than ``before``: an aware
    datetime, or Unix seconds. What is left out, or None, is not looked at.
    """

    priority: Priority | str | None
    group: str | None
    meta: Mapping[str, str] | None
    enqueued_after: datetime | float | None
    enqueued_before: datetime | float | None
    ended_after: datetime | float | None
    ended_before: datetime | float | None


def filter_of(
    status: Status | str | None = None,
    kind: str | None = None,
    priority: Priority | str | None = None,
    group: str | None = None,
    meta: Mapping[str, str] | None = None,
    enqueued_after: datetime | float | None = None,
    enqueued_before: datetime | float | None = None,
    ended_after: datetime | float | None = None,
    ended_before: datetime | float | None = None,
) -> Filter:
    """Raises TypeError or ValueError, naming the argument, for what no job can have."""
    return Filter(
        () if status is None else (Status(status),),
        None if kind is None else plain_text("kind", kind),
        None if priority is None else Priority(priority),
        None if group is None else plain_text("group", group),
        frozen("meta", meta),
        _seconds("enqueued_after", enqueued_after),
        _seconds("enqueued_before", enqueued_before),
        _seconds("ended_after", ended_after),
        _seconds("ended_before", ended_before),
    )


def plain_text(name: str, value: object) -> str:
    """Not a subclass of ``str``: the dispatcher would run the ``==`` of that."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is text (str), not {type(value).__name__}.")
    return str.__str__(value)


def _seconds(name: str, moment: datetime | float | None) -> float | None:
    """Unix seconds."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(f"{name} must say which time zone: datetime.now(timezone.utc), say.")
        moment = moment.timestamp()
    require_number(f"{name}, an aware datetime or Unix seconds,", moment, most=YEAR_10000)
    return float(moment)
