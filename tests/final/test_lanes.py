"""The token rule: a rhythm with all lanes full, a bound for every job, and exact undoing."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from final.job import Priority, Task
from final.lanes import Lanes

HIGH, MEDIUM, LOW = Priority

fairness_values = st.integers(min_value=1, max_value=12)
# What happens to the lanes: a job arrives in one of them, or None: a worker picks.
histories = st.lists(st.sampled_from([HIGH, MEDIUM, LOW, None, None]), max_size=300)
# So many of each, in this order: bursts let lanes grow long, where single arrivals do not.
bursts = st.lists(
    st.tuples(st.sampled_from([HIGH, MEDIUM, LOW, None]), st.integers(1, 40)), max_size=20
).map(lambda runs: [what for what, times in runs for _ in range(times)])


def task(name: str, priority: Priority) -> Task:
    return Task(name, "null", priority, "default")


def filled(each: int, fairness: int | None = 10) -> Lanes:
    """Lanes with ``each`` jobs in each: high-0, high-1 ..."""
    lanes = Lanes(capacity=each, fairness=fairness)
    for n in range(each):
        for priority in Priority:
            lanes.append(task(f"{priority}-{n}", priority))
    return lanes


def pick_all(lanes: Lanes) -> list[Task]:
    return [picked for _ in range(len(lanes)) if (picked := lanes.pick())]


def state(lanes: Lanes) -> tuple[list[list[str]], list[int]]:
    """Everything that lanes remember."""
    waiting = [[task.id for task in lane.tasks] for lane in lanes._lanes]
    return waiting, [lane.passed_over for lane in lanes._lanes]


class TestRhythm:
    def test_with_all_lanes_full_ten_high_then_one_medium_then_one_low(self) -> None:
        lanes = filled(200)
        picks = [picked.priority for _ in range(120) if (picked := lanes.pick())]
        assert picks == ([HIGH] * 10 + [MEDIUM] + [LOW]) * 10

    @pytest.mark.parametrize("fairness", [1, 2, 5])
    def test_fairness_sets_how_many_high(self, fairness: int) -> None:
        lanes = filled(200, fairness)
        rhythm = [HIGH] * fairness + [MEDIUM] + [LOW]
        picks = [picked.priority for _ in range(5 * len(rhythm)) if (picked := lanes.pick())]
        assert picks == rhythm * 5

    def test_without_fairness_the_most_urgent_lane_always_goes_first(self) -> None:
        picks = [picked.priority for picked in pick_all(filled(100, fairness=None))]
        assert picks == [HIGH] * 100 + [MEDIUM] * 100 + [LOW] * 100

    def test_a_lane_alone_is_served_in_order(self) -> None:
        for priority in Priority:
            lanes = Lanes(capacity=5, fairness=10)
            for n in range(50):  # beyond the capacity, as retries and recovered jobs are
                lanes.append(task(str(n), priority))
            assert [picked.id for picked in pick_all(lanes)] == [str(n) for n in range(50)]

    def test_empty_lanes_have_nothing(self) -> None:
        lanes = Lanes(capacity=1, fairness=10)
        assert lanes.pick() is None
        assert len(lanes) == 0
        assert lanes.heads() == []

    def test_a_lane_has_room_below_its_capacity(self) -> None:
        lanes = Lanes(capacity=2, fairness=10)
        for _ in range(2):
            assert lanes.room(LOW)
            lanes.append(task("x", LOW))
        assert not lanes.room(LOW)
        assert lanes.room(HIGH)
        lanes.pick()
        assert lanes.room(LOW)


class TestBound:
    @given(histories | bursts, fairness_values)
    @settings(max_examples=200, deadline=None)
    def test_a_lanes_head_is_picked_within_two_more_picks_than_fairness(
        self, history: list[Priority | None], fairness: int
    ) -> None:
        lanes = Lanes(capacity=1_000, fairness=fairness)
        waited: Counter[str] = Counter()  # picks since the job came to the head of its lane
        names = map(str, range(1_000_000))
        for what in [*history, *[None] * len(history)]:
            if what is not None:
                lanes.append(task(next(names), what))
                continue
            for head in lanes.heads():
                waited[head.id] += 1
            picked = lanes.pick()
            if picked is not None:
                assert waited[picked.id] <= fairness + 2
        assert len(lanes) == 0

    def test_the_bound_is_reached(self) -> None:
        """So it is not a looser one than need be: LOW and MEDIUM can fall due together."""
        lanes = filled(20)
        picks = [picked.id for picked in pick_all(lanes)]
        assert picks.index("low-0") + 1 == 12

    def test_it_holds_when_a_lane_that_was_passed_over_is_cancelled_empty(self) -> None:
        lanes = Lanes(capacity=10, fairness=1)
        first = task("medium-0", MEDIUM)
        for waiting in (task("high-0", HIGH), task("high-1", HIGH), first, task("low-0", LOW)):
            lanes.append(waiting)
        assert [picked.id for picked in (lanes.pick(),) if picked] == ["high-0"]
        lanes.remove(first)
        lanes.append(task("low-1", LOW))
        lanes.append(task("medium-1", MEDIUM))
        assert [picked.id for picked in pick_all(lanes)][:2] == ["low-0", "high-1"]

    @given(histories | bursts, fairness_values | st.none())
    def test_a_lane_is_first_in_first_out(
        self, history: list[Priority | None], fairness: int | None
    ) -> None:
        lanes = Lanes(capacity=1_000, fairness=fairness)
        arrived: list[Task] = []
        picked: list[Task] = []
        for what in history:
            if what is not None:
                arrived.append(task(str(len(arrived)), what))
                lanes.append(arrived[-1])
            elif one := lanes.pick():
                picked.append(one)
        picked += pick_all(lanes)
        for priority in Priority:
            assert [t.id for t in picked if t.priority is priority] == [
                t.id for t in arrived if t.priority is priority
            ]

    @given(histories)
    def test_strict_priority_never_picks_past_a_more_urgent_job(
        self, history: list[Priority | None]
    ) -> None:
        lanes = Lanes(capacity=1_000, fairness=None)
        for what in history:
            if what is not None:
                lanes.append(task("x", what))
            elif heads := lanes.heads():
                assert lanes.pick() is heads[0]


class TestUndo:
    @given(
        histories | bursts,
        st.lists(st.sampled_from([HIGH, MEDIUM, LOW])),
        st.integers(min_value=0, max_value=50),
        fairness_values | st.none(),
    )
    @settings(max_examples=200)
    def test_a_turn_is_undone_exactly(
        self,
        history: list[Priority | None],
        arrivals: list[Priority],
        picks: int,
        fairness: int | None,
    ) -> None:
        """A turn appends new jobs, then picks some of them and of the others."""
        lanes = Lanes(capacity=1_000, fairness=fairness)
        for n, what in enumerate(history):
            if what is None:
                lanes.pick()
            else:
                lanes.append(task(str(n), what))
        before = state(lanes)

        lanes.begin()
        appended = [task(f"new-{n}", priority) for n, priority in enumerate(arrivals)]
        for new in appended:
            lanes.append(new)
        picked = [one for _ in range(picks) if (one := lanes.pick())]
        lanes.undo(appended)
        assert state(lanes) == before
        # So the same turn again has the same result.
        for new in appended:
            lanes.append(new)
        assert [lanes.pick() for _ in picked] == picked


class TestHeld:
    @given(
        st.lists(
            st.sampled_from(["arrive", "pick", "hold", "release", "remove", "begin", "undo"]),
            max_size=100,
        ),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=200)
    def test_the_kinds_that_are_held_are_those_of_the_jobs_that_are(
        self, history: list[str], random: Random
    ) -> None:
        """They are counted as they come and go, so each way of coming and going must count."""
        lanes = Lanes(capacity=1_000, fairness=10)
        appended: list[Task] = []  # since `begin`: nothing else may happen between it and `undo`
        planning = False
        for place, what in enumerate(history):
            match what:
                case "arrive":
                    kind, priority = random.choice("abc"), random.choice(list(Priority))
                    appended.append(Task(str(place), "null", priority, kind, place=place))
                    lanes.append(appended[-1])
                case "pick":
                    lanes.pick()
                case "hold":
                    if picked := lanes.pick():
                        lanes.hold(picked)
                case "release" if not planning:
                    lanes.release(random.choice("abc"), random.randrange(3))
                case "remove" if not planning and len(lanes):
                    lanes.remove(random.choice(list(lanes)))
                case "begin":
                    lanes.begin()
                    appended, planning = [], True
                case "undo" if planning:
                    lanes.undo(appended)
                    planning = False
            held = [task.kind for lane in lanes._lanes for task in lane.held]
            assert lanes._held == Counter(held)
            assert set(lanes.held_kinds()) == set(held)
