"""What ``serve`` needs besides its options: rate limits from text, and a log that stays one.

What the options mean is described in ``JobQueue``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from final.options import LeakyBucket, Limit, TokenBucket
from final.service.cli.places import Misuse


def limits(texts: Sequence[str]) -> Limit | Mapping[str, Limit] | None:
    """``50`` for all jobs, or ``email=10`` and more of such; ``10/20`` is a rate and a burst.

    Raises Misuse, or ValueError for a rate that makes no sense.
    """
    by_kind = {}
    for text in texts:
        kind, equals, rate = text.rpartition("=")
        if not equals and len(texts) > 1:
            raise Misuse("--rate-limit is one for all, or type=rate for each type.")
        if kind in by_kind:
            raise Misuse(f"--rate-limit is there twice for {kind}.")
        by_kind[kind] = _limit(text, rate)
    return by_kind.get("", by_kind) or None


def _limit(text: str, rate: str) -> Limit:
    per_second, slash, burst = rate.partition("/")
    try:
        if slash:
            return TokenBucket(float(per_second), int(burst))
        return LeakyBucket(float(per_second))
    except ValueError as error:
        reason = f" ({error})" if "Bucket" in str(error) else ""
        raise Misuse(
            f"--rate-limit {text!r} is not like 50, email=10 or email=10/20{reason}."
        ) from None


def keep_log() -> None:
    """The log on standard error, in which nothing steers a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(Plain("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    # It warns of each statement that is refused, as of a known id: clients must not fill our log.
    logging.getLogger("psycopg").setLevel(logging.ERROR)


class Plain(logging.Formatter):
    """Errors bring along what others wrote: no escape sequences and no NUL come out of here."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
