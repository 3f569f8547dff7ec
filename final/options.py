"""Checks for options: each raises TypeError or ValueError in a sentence that names the option."""

from __future__ import annotations

import enum
import threading


class ByOption(enum.Enum):
    """The default of an argument for which None has a meaning of its own."""

    SHUTDOWN_TIMEOUT = "shutdown_timeout"


def require_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {_short(value)}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, not {_short(value)}.")


def require_number(
    name: str,
    value: object,
    least: float = 0,
    most: float = threading.TIMEOUT_MAX,
    above: float | None = None,
) -> None:
    """From ``least`` to ``most`` (by default what a lock can wait), or above ``above``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not least <= value <= most or (above is not None and value <= above):  # also for NaN
        bounds = f"from {least} to {most:g}" if above is None else f"above {above}"
        raise ValueError(f"{name} must be a number {bounds}, not {_short(value)}.")


def _short(value: float) -> str:
    """Some integers are too long to be written."""
    return repr(value) if isinstance(value, float) or abs(value) < 10**18 else "one so large"


def require_timeout(value: object) -> None:
    """None (wait as long as it takes) or a number of seconds, 0 or more."""
    if value is not None:
        require_number("timeout", value)


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
