"""An operation on many jobs, in turns: look which are meant, and order it for so many at a time.

The caller looks, in its own thread, so a long search holds up nobody. An order names at most
``AT_ONCE`` jobs, and the exchange looks again whether each still is what was asked for. So others
get in between, and the caller knows how far it is.

But: jobs that come in meanwhile are not meant, and none is dealt with twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from final.beyond.filters import Filter
from final.ledger.base import AT_ONCE, Lookups

SPAN = 100_000  # a look passes over so many numbers at most

OnProgress = Callable[[int], object]


def in_turns(
    look_ups: Lookups,
    wanted: Filter,
    order: Callable[[Sequence[int]], int],
    progress: OnProgress | None = None,
) -> int:
    """How many jobs it was in all. order: deals with those of these numbers; returns how many.

    It is called once at least. progress: called with how many it was so far, after each turn.
    """
    done = 0
    for numbers in _pages(look_ups, wanted):
        done += order(numbers)
        if progress is not None:
            progress(done)
    return done


def _pages(look_ups: Lookups, wanted: Filter) -> Iterator[Sequence[int]]:
    """The numbers of the jobs that are meant, of those that are there now; at least one page."""
    first, last = look_ups.first_and_last()
    after = first - 1
    while True:
        upto = min(last, after + SPAN)
        numbers = look_ups.numbers(wanted, after, upto, AT_ONCE)
        after = numbers[-1] if len(numbers) == AT_ONCE else upto
        if numbers or after >= last:
            yield numbers
        if after >= last:
            return
