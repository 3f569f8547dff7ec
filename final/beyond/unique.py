"""Unique: what makes a job the only one of its kind for a while, by a key of the caller's choice.

Who holds which key is in ``ledger/features/keys.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from final.options import require_choice, require_number, require_text


@dataclass(frozen=True, slots=True)
class Unique:
    """The job with this key holds it; another one with the same key does not come in beside it.

    key: text; one name space for the whole queue, whatever the kinds.
    within: seconds from its acceptance for which the job holds its key, even if it has completed or
        failed meanwhile; or else
    until: "ended": until it has completed, failed for good, or was called off. "started": until its
        first attempt. By default "ended", and "started" for ``then="replace"``.
    then: what comes of a job whose key is held. "skip": nothing. "replace": the one that is there
        gets its payload, meta, kind, priority, timeout and run_at, if it still waits; else nothing.
        (One that waits for another attempt keeps its backoff.) Either way ``enqueue`` returns the
        id of the one that is there.
    max_wait: with "replace" and ``Job.run_at``: seconds after which the first of them was
        enqueued that it runs at the latest, however often it is put off. None for no limit.

    A job that was cancelled or dropped holds nothing.

    Raises TypeError or ValueError, naming the field, for a key that is not text or is empty, for
    both ``within`` and ``until``, and for what makes no sense.
    """

    key: str
    within: float | None = None
    until: Literal["started", "ended"] | None = None
    then: Literal["skip", "replace"] = "skip"
    max_wait: float | None = None

    def __post_init__(self) -> None:
        require_text("Unique.key", self.key)
        require_choice("Unique.then", self.then, ("skip", "replace"))
        if self.within is not None:
            require_number("Unique.within", self.within, above=0)
            if self.until is not None:
                raise ValueError(
                    "Unique takes within= or until=, not both: is the key held for a time, or "
                    "until something has come about?"
                )
        elif self.until is None:
            until = "ended" if self.then == "skip" else "started"
            object.__setattr__(self, "until", until)
        else:
            require_choice("Unique.until", self.until, ("started", "ended"))
        if self.max_wait is not None:
            require_number("Unique.max_wait", self.max_wait, above=0)
            if self.then != "replace":
                raise ValueError(
                    'Unique.max_wait is for then="replace": what is skipped puts nothing off.'
                )
        for name in ("within", "max_wait"):
            value = getattr(self, name)
            if type(value) not in (int, float, type(None)):  # the dispatcher would run its ``+``
                object.__setattr__(self, name, float(value))
