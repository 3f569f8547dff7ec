"""Lists as PostgreSQL reads them back."""

from __future__ import annotations

import math
from typing import Any

import psycopg
import pytest

from final.ledger.postgres.arrays import array, with_arrays
from tests import postgres_server


@pytest.mark.parametrize(
    ("kind", "elements"),
    [
        (
            "text",
            ["", "NULL", "null", "a,b", "{}", '"', "\\", '\\"', " x ", "line\nline\t", "é 🙂"],
        ),
        ("text", [None, "x", None]),
        ("bytea", [b"", b"\x00\xff\\", None]),
        ("bigint", [0, -1, 2**63 - 1, None]),
        ("integer", [True + 1, 7]),
        ("float8", [0.1, -1e300, 1e-300, math.inf, -math.inf, 3, None]),
        ("boolean", [True, False, None]),
        ("text", []),
    ],
)
def test_what_comes_back_is_what_was_written(kind: str, elements: list[Any]) -> None:
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        cursor = connection.cursor(binary=True)
        row = cursor.execute(f"SELECT %s::{kind}[]".encode(), (array(elements),)).fetchone()
    assert row == (elements,)


def test_only_lists_are_written_so() -> None:
    assert with_arrays((1, "x", [1, 2], None)) == [1, "x", "{1,2}", None]
    assert with_arrays({"n": 1, "all": ["x"]}) == {"n": 1, "all": '{"x"}'}
