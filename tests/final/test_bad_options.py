"""An option that makes no sense is refused in a sentence that names it.

Without that a typo (``worker=8``) is silently ignored, and ``workers=0`` is a queue that
accepts jobs and never runs one.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import final
import improved
from final.options import LONGEST_DELAY
from tests.final.helpers import OpenQueue, nothing

both_stages = pytest.mark.parametrize(
    "package", [improved, final], ids=["improved", "final"]
)  # `stage` is taken by the shared suite

WHOLE_NUMBERS_FOR_BOTH = ["workers", "capacity", "max_retries"]
LEAST = {"workers": 1, "capacity": 1, "max_retries": 0, "fairness": 1, "max_payload": 1}
NOT_WHOLE = [1.5, 4.0, "4", True, math.nan]
NOT_NUMBERS = ["1", True, [1], 1j]
OUT_OF_RANGE = [
    *(math.nan, math.inf, -math.inf, -1, -0.001),
    pytest.param(2 * LONGEST_DELAY, id="longer than a thousand years"),
    pytest.param(10**400, id="longer than a float can say"),
]


def test_the_defaults_are_those_of_the_documents() -> None:
    options = inspect.signature(final.JobQueue).parameters.values()
    assert {o.name: o.default for o in options if o.default is not o.empty} == {
        "path": ":memory:",
        "workers": 4,
        "capacity": 1000,
        "max_retries": 3,
        "backoff": final.Backoff(),
        "fairness": 10,
        "overflow": "block",
        "rate_limit": None,
        "group_limit": None,
        "timeout": None,
        "executor": "thread",
        "middleware": (),
        "durability": "full",
        "history": 100_000,
        "memory": 64 * 1024 * 1024,
        "max_payload": 16 * 1024 * 1024,
        "periodic": (),
        "shutdown_timeout": 30.0,
    }


class TestBothStages:
    @both_stages
    @pytest.mark.parametrize("option", WHOLE_NUMBERS_FOR_BOTH)
    def test_one_less_than_the_least_is_refused(self, package: ModuleType, option: str) -> None:
        with pytest.raises(ValueError, match=rf"{option} must be at least {LEAST[option]}, not"):
            package.JobQueue(nothing, **{option: LEAST[option] - 1})

    @both_stages
    @pytest.mark.parametrize("option", WHOLE_NUMBERS_FOR_BOTH)
    @pytest.mark.parametrize("value", [*NOT_WHOLE, None], ids=repr)
    def test_what_is_no_whole_number_is_refused(
        self, package: ModuleType, option: str, value: object
    ) -> None:
        with pytest.raises(TypeError, match=rf"{option} must be a whole number, not "):
            package.JobQueue(nothing, **{option: value})

    @both_stages
    def test_an_unknown_option_is_refused(self, package: ModuleType) -> None:
        with pytest.raises(TypeError, match="worker"):
            package.JobQueue(nothing, worker=4)

    @both_stages
    @pytest.mark.parametrize("handler", [None, 5, "print"], ids=repr)
    def test_a_handler_that_cannot_be_called_is_refused(
        self, package: ModuleType, handler: object
    ) -> None:
        with pytest.raises(TypeError, match="handler must be callable"):
            package.JobQueue(handler)

    @both_stages
    @pytest.mark.parametrize("backoff", [None, 1.0, "fast"], ids=repr)
    def test_a_backoff_that_is_none_is_refused(self, package: ModuleType, backoff: object) -> None:
        with pytest.raises(TypeError, match="backoff must be a Backoff, not "):
            package.JobQueue(nothing, backoff=backoff)

    @both_stages
    @pytest.mark.parametrize("field", ["base", "maximum", "jitter"])
    @pytest.mark.parametrize("value", OUT_OF_RANGE, ids=repr)
    def test_a_backoff_out_of_range_is_refused(
        self, package: ModuleType, field: str, value: float
    ) -> None:
        with pytest.raises(ValueError, match=rf"Backoff.{field}"):
            package.Backoff(**{field: value})

    @both_stages
    @pytest.mark.parametrize("field", ["base", "maximum", "jitter"])
    @pytest.mark.parametrize("value", [*NOT_NUMBERS, None], ids=repr)
    def test_a_backoff_of_no_numbers_is_refused(
        self, package: ModuleType, field: str, value: object
    ) -> None:
        with pytest.raises(TypeError, match=rf"Backoff.{field} must be a number, not "):
            package.Backoff(**{field: value})

    @both_stages
    def test_a_jitter_of_more_than_all_is_refused(self, package: ModuleType) -> None:
        with pytest.raises(ValueError, match=r"Backoff.jitter"):
            package.Backoff(jitter=1.01)

    @both_stages
    @pytest.mark.parametrize("value", [*NOT_NUMBERS, *OUT_OF_RANGE], ids=repr)
    def test_a_timeout_that_makes_no_sense_is_refused(
        self, package: ModuleType, value: Any
    ) -> None:
        queue = package.JobQueue(nothing, workers=1)
        with pytest.raises((TypeError, ValueError), match="timeout must be a number"):
            queue.enqueue(package.Job(), timeout=value)
        assert queue.metrics().accepted == 0
        with pytest.raises((TypeError, ValueError), match="timeout must be a number"):
            queue.close(timeout=value)
        queue.enqueue(package.Job())  # the close that was refused has closed nothing
        assert queue.close()


class InBytes(os.PathLike[bytes]):
    def __fspath__(self) -> bytes:
        return b"jobs.db"

    def __str__(self) -> str:
        return "a path in bytes"


class TestFinal:
    @pytest.mark.parametrize("option", ["fairness", "max_payload"])
    def test_one_less_than_the_least_is_refused(self, option: str) -> None:
        with pytest.raises(ValueError, match=rf"{option} must be at least 1, not 0\."):
            final.JobQueue(nothing, **{option: 0})  # type: ignore[arg-type]

    @pytest.mark.parametrize("option", ["fairness", "max_payload", "history"])
    @pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
    def test_what_is_no_whole_number_is_refused(self, option: str, value: Any) -> None:
        with pytest.raises(TypeError, match=rf"{option} must be a whole number, not "):
            final.JobQueue(nothing, **{option: value})

    @pytest.mark.parametrize(
        ("option", "choices"),
        [
            ("durability", "full, normal"),
            ("overflow", "block, reject, drop-newest, drop-oldest"),
            ("executor", "thread, process"),
        ],
    )
    @pytest.mark.parametrize("value", ["fast", "FULL", "", None, 1, ["full"]], ids=repr)
    def test_an_unknown_choice_is_refused(self, option: str, choices: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{option} must be one of {choices}, not "):
            final.JobQueue(nothing, **{option: value})

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"history must be at least 0, not -1\."):
            final.JobQueue(nothing, history=-1)

    def test_a_time_that_is_too_long_is_refused_as_such(self) -> None:
        """Of infinity it is not true that it is not above 0."""
        with pytest.raises(ValueError, match=r"^timeout must be a number up to 3\.15.*, not inf\."):
            final.JobQueue(nothing, timeout=math.inf)

    @pytest.mark.parametrize("value", [*NOT_NUMBERS, *OUT_OF_RANGE, 0], ids=repr)
    def test_a_time_for_attempts_that_makes_no_sense_is_refused(self, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"^timeout must be a number"):
            final.JobQueue(nothing, timeout=value)
        with pytest.raises((TypeError, ValueError), match=r"^Job\.timeout must be a number"):
            final.Job(timeout=value)

    @pytest.mark.parametrize("value", [*NOT_NUMBERS, *OUT_OF_RANGE], ids=repr)
    def test_a_shutdown_timeout_that_makes_no_sense_is_refused(self, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="shutdown_timeout must be a number"):
            final.JobQueue(nothing, shutdown_timeout=value)

    @pytest.mark.parametrize("value", [*NOT_NUMBERS, *OUT_OF_RANGE], ids=repr)
    @pytest.mark.parametrize(
        "call",
        [
            lambda queue, timeout: queue.enqueue_many([final.Job()], timeout=timeout),
            lambda queue, timeout: queue.enqueue_many([], timeout=timeout),
            lambda queue, timeout: queue.wait("done", timeout=timeout),
            lambda queue, timeout: queue.join(timeout=timeout),
        ],
        ids=["enqueue_many", "enqueue_many of nothing", "wait", "join"],
    )
    def test_a_timeout_that_makes_no_sense_is_refused_everywhere(
        self, open_queue: OpenQueue, call: Callable[[final.JobQueue, Any], object], value: Any
    ) -> None:
        queue = open_queue(nothing, workers=1)
        queue.enqueue(final.Job("done"))
        with pytest.raises((TypeError, ValueError), match="timeout must be a number"):
            call(queue, value)
        assert queue.metrics().accepted == 1

    def test_a_mapping_without_handlers_is_refused(self) -> None:
        with pytest.raises(ValueError, match="handler is an empty mapping"):
            final.JobQueue({})

    @pytest.mark.parametrize("kind", [5, "", None, b"email"], ids=repr)
    def test_a_kind_that_is_no_text_is_refused(self, kind: Any) -> None:
        with pytest.raises(TypeError, match="The kinds of handlers are non-empty text, not "):
            final.JobQueue({kind: nothing})

    def test_a_mapping_with_something_that_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(TypeError, match="The handler of kind 'email' must be callable"):
            final.JobQueue({"thumbnail": nothing, "email": "send_email"})  # type: ignore[dict-item]

    @pytest.mark.parametrize("kind", ["emial", "Email", "", 5, None], ids=repr)
    def test_a_rate_limit_for_a_kind_that_nobody_handles_is_refused(self, kind: Any) -> None:
        limits = {"email": final.TokenBucket(1), kind: final.TokenBucket(1)}
        with pytest.raises(ValueError, match=rf"^rate_limit is for kinds .*; {kind!r} has none: "):
            final.JobQueue({"email": nothing}, rate_limit=limits)

    @pytest.mark.parametrize("kind", ["", 5, None], ids=repr)
    def test_one_for_what_is_no_kind_is_refused_even_if_one_handler_takes_all(
        self, kind: Any
    ) -> None:
        with pytest.raises(ValueError, match=rf"^rate_limit is for kinds .*; {kind!r} has none: "):
            final.JobQueue(nothing, rate_limit={kind: final.TokenBucket(1)})

    @pytest.mark.parametrize("path", [5, None, b"jobs.db", InBytes()], ids=str)
    def test_a_path_that_is_no_path_is_refused(self, path: Any) -> None:
        with pytest.raises(TypeError, match="path must be "):
            final.JobQueue(nothing, path=path)

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "5", True, None], ids=repr)
    def test_a_limit_that_makes_no_sense_is_refused(
        self, open_queue: OpenQueue, limit: Any
    ) -> None:
        with pytest.raises((TypeError, ValueError), match="limit must be "):
            open_queue(nothing).jobs(limit=limit)

    @pytest.mark.parametrize("option", ["workers", "durability", "shutdown_timeout"])
    def test_a_refused_option_leaves_no_file_and_no_thread(
        self, tmp_path: Path, option: str
    ) -> None:
        before = set(threading.enumerate())
        with pytest.raises(ValueError, match=option):
            final.JobQueue(nothing, path=tmp_path / "jobs.db", **{option: -1})  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
        assert set(threading.enumerate()) <= before

    def test_nor_does_a_rate_limit_that_is_refused(self, tmp_path: Path) -> None:
        """It is found out after the loop of the coroutines was started."""

        async def email(job: final.Job) -> None:
            pass

        before = set(threading.enumerate())
        with pytest.raises(ValueError, match="rate_limit"):
            final.JobQueue(
                {"email": email},
                path=tmp_path / "jobs.db",
                rate_limit={"emial": final.TokenBucket(1)},
            )
        assert list(tmp_path.iterdir()) == []
        assert set(threading.enumerate()) <= before


def test_more_than_a_database_can_count_is_refused() -> None:
    """Who takes over from a process that has crashed goes by its numbers."""
    for option in ("max_retries", "group_limit"):
        too_many: Any = {option: 2**31}
        with pytest.raises(ValueError, match=f"{option} must be at most 1,000,000,000, not"):
            final.JobQueue(nothing, **too_many)
    with pytest.raises(ValueError, match=r"Kind.max_retries must be at most"):
        final.Kind(nothing, max_retries=2**31)
