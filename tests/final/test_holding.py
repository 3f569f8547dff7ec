"""Jobs that were picked and may not start yet, and what else happens to jobs inside a lane.

Found by mutants: lines of ``lanes.py`` and ``limits.py`` that could be changed unnoticed.
"""

from __future__ import annotations

import pytest

from final import LeakyBucket, Priority
from final.job import Task
from final.lanes import Lanes

HIGH, MEDIUM, LOW = Priority


def filled(count: int) -> Lanes:
    """Jobs 0, 1, 2 ... in the MEDIUM lane."""
    lanes = Lanes(1000, fairness=10)
    for n in range(count):
        lanes.append(Task(str(n), "null", MEDIUM, "limited", place=n))
    return lanes


def hold(lanes: Lanes, count: int) -> list[Task]:
    """Pick so many jobs and hold them."""
    held = [task for _ in range(count) if (task := lanes.pick())]
    for task in held:
        lanes.hold(task)
    return held


def places(lanes: Lanes) -> list[int]:
    """The jobs that can be picked, in this order."""
    return [task.place for _ in range(lanes.ready()) if (task := lanes.pick())]


class TestRemoving:
    def test_one_in_the_middle_of_its_lane(self) -> None:
        lanes = filled(3)
        [_, middle, _] = lanes
        lanes.remove(middle)
        assert places(lanes) == [0, 2]

    def test_one_that_is_held(self) -> None:
        lanes = filled(3)
        [first, second] = hold(lanes, 2)
        lanes.remove(first)
        assert next(iter(lanes)) is second
        lanes.release("limited", at_most=5)
        assert places(lanes) == [1, 2]

    def test_one_behind_those_that_are_held(self) -> None:
        lanes = filled(3)
        hold(lanes, 2)
        lanes.remove(list(lanes)[2])
        assert lanes.ready() == 0
        assert len(lanes) == 2


class TestUndo:
    def test_a_job_that_was_picked_and_held_waits_again(self) -> None:
        lanes = filled(4)
        lanes.begin()
        hold(lanes, 2)
        lanes.undo([])
        assert lanes.ready() == len(lanes) == 4
        assert list(lanes.held_kinds()) == []
        assert places(lanes) == [0, 1, 2, 3]


class TestPuttingBack:
    @pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]])
    def test_in_whatever_order_jobs_come_back_they_stand_in_order(self, order: list[int]) -> None:
        lanes = filled(4)
        picked = [task for _ in range(3) if (task := lanes.pick())]
        for n in order:  # one by one, as from three workers
            lanes.put_back([picked[n]])
        assert places(lanes) == [0, 1, 2, 3]

    def test_two_alone_in_their_lane_too(self) -> None:
        lanes = filled(2)
        [first, second] = [task for _ in range(2) if (task := lanes.pick())]
        lanes.put_back([first])
        lanes.put_back([second])
        assert places(lanes) == [0, 1]


class TestReleasing:
    def test_nothing_may_start_and_nothing_is_released(self) -> None:
        lanes = filled(3)
        hold(lanes, 3)
        lanes.release("limited", at_most=0)
        assert lanes.ready() == 0

    def test_another_kind_stays_held(self) -> None:
        lanes = filled(2)
        hold(lanes, 2)
        lanes.release("other", at_most=2)
        assert lanes.ready() == 0


def test_a_leaky_bucket_allows_a_start_at_the_very_moment_that_it_named() -> None:
    meter = LeakyBucket(2).meter(0.0)
    meter.take(0.0)
    due = meter.next_at(0.0)
    assert meter.allowance(due) == 1
    assert meter.allowance(due - 0.001) == 0
