"""Strict JSON: what two readers could understand differently, or one choke on, is refused.

Python's own parser takes NaN, keeps the last of two equal keys, guesses at UTF-16 and raises
RecursionError for deep nesting. None of that may reach the queue, or decide what it means.
"""

from __future__ import annotations

import json
import math
from typing import Any

from final.payload import LEVELS, is_deeper

# A text in which every digit is a 0, and every e small, shows at a glance (a regular expression
# takes twenty times as long) whether it may have a number that is too large.
SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
LARGE = (b"0" * 19, b"0e000")
LARGEST = 2**63 - 1  # what other languages and databases call an integer ends here


def parse(body: bytes) -> object:
    """The value; raises ValueError, in a sentence, for what is not strict JSON."""
    try:
        text = body.decode("utf-8")  # loads() would take bytes, and UTF-16 and UTF-32 too
        checks: dict[str, Any] = {}
        shape = body.translate(SHAPE, b"+")
        if any(large in shape for large in LARGE):
            # Not always: a call for each number takes ten times as long as the rest.
            checks = {"parse_int": _integer, "parse_float": _number}
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, **checks)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8: {error.reason} at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"{what} at character {error.pos}.") from None
    if is_deeper(value, LEVELS):
        raise ValueError(TOO_DEEP)
    return value


TOO_DEEP = f"It is nested more than {LEVELS} levels deep."


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("An object has the same key twice.")
    return members


def _integer(digits: str) -> int:
    # Counted first: Python refuses to convert thousands of digits, and 20 are too many here.
    if len(digits) > 20 or not -LARGEST - 1 <= int(digits) <= LARGEST:
        raise ValueError("An integer needs more than 64 bits: send it as text.")
    return int(digits)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("A number is too large.")
    return number


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON.")
