"""The adapter that the shared suite looks through: what it leaves out, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.stages import MissingMethodError, NotInThisStage, Stage


def test_options_and_fields_that_a_stage_lacks_by_a_flaw_are_left_out() -> None:
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


def test_what_a_stage_was_never_meant_to_have_is_named() -> None:
    naive, final = Stage("naive"), Stage("final")
    queue = naive.queue(print)
    uses: dict[str, Callable[[Stage], object]] = {
        "JobQueue(overflow=)": lambda stage: stage.queue(print, capacity=1, overflow="reject"),
        "Job(run_at=)": lambda stage: stage.job(priority="low", run_at=60),
        "enqueue(colour=)": lambda stage: queue.enqueue(stage.job(), timeout=1, colour="red"),
        "cancel()": lambda stage: queue.cancel("a"),
        "DuplicateJob": lambda stage: stage.DuplicateJob,
    }

    for what, use in uses.items():
        with pytest.raises(NotInThisStage, match=rf"^naive has no {re.escape(what)}\.$") as caught:
            use(naive)
        assert caught.value.what == what
        assert not isinstance(caught.value, AssertionError)  # or it could pass for a flaw
    queue.close()

    assert final.job(run_at=60).run_at == 60
    assert issubclass(final.DuplicateJob, ValueError)
    assert naive.token_bucket(1, 1) is None
    assert final.token_bucket(1, 1).rate == 1


def test_an_exception_that_a_stage_does_not_have_is_never_raised() -> None:
    naive, improved = Stage("naive"), Stage("improved")

    assert issubclass(naive.QueueFull, Exception)
    assert naive.backoff(base=1) is None
    assert improved.QueueFull is not naive.QueueFull
    assert improved.backoff(base=1).base == 1


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(ValueError, match="No stage is called 'native'; the stages are naive"):
        Stage("native")
