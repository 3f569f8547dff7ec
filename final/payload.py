"""Payloads and results in stored form: bytes stay bytes, any other JSON value becomes text.

SQLite keeps a column's BLOB and TEXT apart, so the type itself says which of the two
it was. What comes out equals what went in, or it is refused on the way in.

But: no pickle. Unpickling a file that somebody else wrote runs their code.
"""

from __future__ import annotations

import json

Stored = str | bytes

# How deep lists and dicts may be nested. Every reader of JSON has such a limit, some by the depth
# of the stack that is left: well below them all, what was accepted can be read anywhere.
LEVELS = 100


def encode(name: str, value: object, limit: int) -> Stored:
    """The stored form of ``value``; raises TypeError or ValueError naming ``name``.

    limit: the most bytes the stored form may have.
    """
    if value is None:  # the commonest payload of all
        return "null"
    stored = value if type(value) is bytes else _encode_json(name, value)
    # A character is at most four bytes, so only long text has to be counted exactly.
    if len(stored) * 4 > limit:
        size = len(stored) if isinstance(stored, bytes) else len(stored.encode())
        if size > limit:
            raise ValueError(
                f"{name} takes {size:,} bytes, more than the limit of {limit:,}: store it "
                f"elsewhere and enqueue a reference, or raise max_payload."
            )
    return stored


def decode(stored: Stored) -> object:
    """The value that ``encode`` was given."""
    return stored if isinstance(stored, bytes) else json.loads(stored)


def is_deeper(value: object, levels: int) -> bool:
    """Whether ``value``, a JSON value, is nested deeper. Level by level, so without recursion."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, _NESTING)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return any(isinstance(each, _NESTING) for each in layer)


_NESTING = (dict, list, tuple)  # a tuple is written as a list


def _encode_json(name: str, value: object) -> str:
    try:
        text = repr(value) if type(value) is int else _dumps(value)  # 4 times as fast
        text.isascii() or text.encode()
        if type(value) in IMMUTABLE:
            return text
        if text.count("[") + text.count("{") > LEVELS and is_deeper(value, LEVELS):
            raise RecursionError
        # json.dumps is forgiving: (1, 2) becomes [1, 2] and {1: 2} becomes {"1": 2}. The
        # round trip is the contract, so it is the check.
        if json.loads(text) != value:
            raise TypeError(f"{name} {_what_json_changes(value)}")
    except UnicodeEncodeError:
        raise ValueError(f"{name} has text with a lone surrogate: no UTF-8 for it.") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply: {LEVELS} levels are the limit.") from None
    except TypeError as error:
        reason = str(error)
        if not reason.startswith(name):
            reason = f"{name} must be bytes or a JSON value: {reason}."
        raise TypeError(reason) from None
    except ValueError as error:  # NaN and infinities, a circle, an integer of 5,000 digits
        raise ValueError(f"{name} must be bytes or a JSON value: {error}.") from None
    except Exception as error:  # raised by the value itself, when it was looked at
        raise TypeError(f"{name} must be bytes or a JSON value: {error!r}.") from None
    return text


IMMUTABLE = frozenset({bytes, str, int, float, bool, type(None)})
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _what_json_changes(value: object, path: str = "") -> str:
    """Say where ``value`` would come back as something else, and what to use instead."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is not str:
                return f"has the key {key!r}{_at(path)}: the keys of a JSON object are text."
            if json.loads(_dumps(inner)) != inner:
                return _what_json_changes(inner, f"{path}[{key!r}]")
    if isinstance(value, list):
        for index, inner in enumerate(value):
            if json.loads(_dumps(inner)) != inner:
                return _what_json_changes(inner, f"{path}[{index}]")
    return f"has a {type(value).__name__}{_at(path)}: JSON would change it; use a list or a dict."


def _at(path: str) -> str:
    return f" at {path}" if path else ""
