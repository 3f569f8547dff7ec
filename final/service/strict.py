"""Strict JSON: what two readers could understand differently, or one choke on, is refused.

Python's own parser takes NaN, keeps the last of two equal keys, guesses at UTF-16 and raises
RecursionError for deep nesting. None of that may reach the queue, or decide what it means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from final.payload import LEVELS, is_deeper
from final.service.problems import Problem

LARGEST = 2**63 - 1  # what other languages and databases call an integer ends here


def parse(body: bytes) -> object:
    """The value; raises ValueError, in a sentence, for what is not strict JSON."""
    try:
        value = json.loads(
            body.decode("utf-8"),  # loads() would take bytes, and UTF-16 and UTF-32 too
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8: {error.reason} at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}.") from None
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


class StrictRequest(Request):
    """A request whose body is strict JSON."""

    async def json(self) -> Any:
        try:
            return parse(await self.body())
        except ValueError as error:
            raise Problem("json", str(error)) from None


class StrictRoute(APIRoute):
    """A route that reads its bodies so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
