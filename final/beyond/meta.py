"""Meta: what a job is about, as names with values, to be found by: ``jobs(meta={"user": "7"})``.

``ledger/features/metas.py`` keeps it, ``ledger/matching.py`` looks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from final.options import require_text

MOST_ENTRIES = 20
# In characters. Both stand in an index, where PostgreSQL takes some 2,700 bytes for an entry.
LONGEST_NAME = 100
LONGEST_VALUE = 500


class Meta(dict[str, str]):
    """A dict that cannot be changed."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("The meta of a job does not change: make a dict of it, and change that.")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[Meta], tuple[dict[str, str]]]:
        return Meta, (dict(self),)

    def size(self) -> int:
        """Characters, in all."""
        return sum(len(name) + len(value) for name, value in self.items())


NO_META = Meta()


def frozen(field: str, meta: object) -> Meta:
    """A copy, checked; raises TypeError or ValueError naming ``field``. None is as good as none."""
    if meta is None:
        return NO_META
    if type(meta) is Meta:
        return meta
    if not isinstance(meta, Mapping):
        raise TypeError(
            f'{field} is names with values, as meta={{"user": "7"}}, not {type(meta).__name__}.'
        )
    copy: dict[Any, Any] = dict(meta)
    if len(copy) > MOST_ENTRIES:
        raise ValueError(f"{field} has {len(copy):,} entries, more than {MOST_ENTRIES}.")
    for name, value in copy.items():
        require_text(f"{field} name", name, LONGEST_NAME)
        if ":" in name or "=" in name:
            raise ValueError(
                f"{field} name {name!r} has a ':' or a '=': in addresses and on command lines "
                "that is where a name ends."
            )
        require_text(f"{field} value of {name!r}", value, LONGEST_VALUE)
    return Meta(sorted(copy.items()))  # in the order in which a file tells them


def pairs(meta: Meta) -> str | None:
    """As JSON; None for none."""
    return json.dumps(meta) if meta else None


def from_pairs(text: str | None) -> Meta:
    """What ``pairs`` was given."""
    return Meta(json.loads(text)) if text else NO_META
