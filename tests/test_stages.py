"""The adapter that the shared suite looks through: what it leaves out, and what it says."""

from __future__ import annotations

import pytest

from tests.stages import MissingMethodError, Stage


def test_options_and_fields_that_a_stage_does_not_know_are_left_out() -> None:
    naive = Stage("naive")
    queue = naive.queue(print, workers=1, capacity=5, path="nowhere/jobs.db")

    job = naive.job(id="a", payload=1, priority="high")
    queue.close(drain=False, timeout=1)

    assert (job.id, job.payload) == ("a", 1)
    assert not hasattr(job, "priority")


def test_those_that_it_knows_get_through() -> None:
    improved = Stage("improved")

    with pytest.raises(ValueError, match="capacity must be at least 1"):
        improved.queue(print, capacity=0)
    with pytest.raises(ValueError, match="urgent"):
        improved.job(priority="urgent")


def test_a_missing_method_fails_with_a_sentence() -> None:
    queue = Stage("naive").queue(print)

    with pytest.raises(MissingMethodError, match=r"^naive has no metrics\(\): there is nothing"):
        queue.metrics()
    with pytest.raises(AttributeError):
        queue._no_such_thing()
    queue.close()


def test_an_exception_that_a_stage_does_not_have_is_never_raised() -> None:
    naive, improved = Stage("naive"), Stage("improved")

    assert issubclass(naive.QueueFull, Exception)
    assert naive.backoff(base=1) is None
    assert improved.QueueFull is not naive.QueueFull
    assert improved.backoff(base=1).base == 1


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(ValueError, match="No stage is called 'native'; the stages are naive"):
        Stage("native")
