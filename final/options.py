"""Checks for options: each raises TypeError or ValueError in a sentence that names the option."""

from __future__ import annotations

import math


def require_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def require_number(
    name: str, value: object, least: float = 0, most: float = math.inf, above: float = -math.inf
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not math.isfinite(value) or not least <= value <= most or value <= above:
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        if above > -math.inf:
            bounds = f"above {above}"
        raise ValueError(f"{name} must be a number {bounds}, not {value!r}.")


def require_timeout(value: object) -> None:
    """None (wait as long as it takes) or a number of seconds, 0 or more."""
    if value is not None:
        require_number("timeout", value)


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
