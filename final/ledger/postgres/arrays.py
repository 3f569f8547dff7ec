"""Lists on their way into the database: an array as PostgreSQL reads it from text.

psycopg looks at each element for its type first: a list of ten thousand takes it five times as
long, and numbers of another size make it another statement to prepare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def with_arrays(values: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any] | Mapping[str, Any]:
    """What goes with a statement, where each list is for a parameter that is cast to an array."""
    if isinstance(values, Mapping):
        return {name: _written(value) for name, value in values.items()}
    return [_written(value) for value in values]


def _written(value: Any) -> Any:
    return array(value) if isinstance(value, list) else value


def array(elements: Sequence[Any]) -> str:
    """Of text, bytes, numbers, truth values and None."""
    return f"{{{','.join(map(_element, elements))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    return str(value)
