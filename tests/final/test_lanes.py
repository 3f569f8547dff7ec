"""The token rule: a rhythm with all lanes full, a bound for every job; and lanes in order."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final.job import Priority, Task
from final.ledger.lanes import Lanes, Standing
from final.ledger.ordered import Ordered

HIGH, MEDIUM, LOW = Priority

fairness_values = st.integers(min_value=1, max_value=12)
# What happens to the lanes: a job arrives in one of them, or None: a worker picks.
histories = st.lists(st.sampled_from([HIGH, MEDIUM, LOW, None, None]), max_size=300)
# So many of each, in this order: bursts let lanes grow long, where single arrivals do not.
bursts = st.lists(
    st.tuples(st.sampled_from([HIGH, MEDIUM, LOW, None]), st.integers(1, 40)), max_size=20
).map(lambda runs: [what for what, times in runs for _ in range(times)])

numbers = itertools.count(1)


def task(name: str, priority: Priority = MEDIUM, kind: str = "default") -> Task:
    """A job that stands behind those that were made before it."""
    number = next(numbers)
    return Task(name, "null", priority, kind, seq=number, key=number)


def filled(each: int, fairness: int | None = 10) -> Lanes:
    """Lanes with ``each`` jobs in each: high-0, high-1 ..."""
    lanes = Lanes(capacity=each, fairness=fairness)
    for n in range(each):
        for priority in Priority:
            lanes.add(task(f"{priority}-{n}", priority))
    return lanes


def pick_all(lanes: Lanes) -> list[Task]:
    return [picked for _ in range(len(lanes)) if (picked := lanes.pick())]


def heads(lanes: Lanes) -> list[Task]:
    return [head for priority in Priority if (head := lanes.head(priority))]


def state(lanes: Lanes) -> tuple[list[list[str]], list[Standing]]:
    """Everything that lanes remember."""
    return [[task.id for task in lane.free] for lane in lanes._lanes], lanes.standings()


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
                lanes.add(task(str(n), priority))
            assert [picked.id for picked in pick_all(lanes)] == [str(n) for n in range(50)]

    def test_empty_lanes_have_nothing(self) -> None:
        lanes = Lanes(capacity=1, fairness=10)
        assert lanes.pick() is None
        assert len(lanes) == 0
        assert heads(lanes) == []

    def test_a_lane_has_room_below_its_capacity(self) -> None:
        lanes = Lanes(capacity=2, fairness=10)
        for left in (2, 1):
            assert lanes.room(LOW) == left
            lanes.add(task("x", LOW))
        assert lanes.room(LOW) == 0
        assert lanes.room(HIGH) == 2
        lanes.pick()
        assert lanes.room(LOW) == 1

    def test_what_does_not_suit_stays_next(self) -> None:
        lanes = filled(2)
        before = state(lanes)
        assert lanes.pick(suits=lambda task: task.priority is LOW) is None
        assert state(lanes) == before
        assert [picked.id for picked in (lanes.pick(suits=lambda task: True),) if picked] == [
            "high-0"
        ]


class TestBound:
    @given(histories | bursts, fairness_values)
    def test_a_lanes_head_is_picked_within_two_more_picks_than_fairness(
        self, history: list[Priority | None], fairness: int
    ) -> None:
        lanes = Lanes(capacity=1_000, fairness=fairness)
        waited: Counter[str] = Counter()  # picks since the job came to the head of its lane
        names = map(str, range(1_000_000))
        for what in [*history, *[None] * len(history)]:
            if what is not None:
                lanes.add(task(next(names), what))
                continue
            for head in heads(lanes):
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

    def test_it_counts_the_picks_at_which_the_job_may_start(self) -> None:
        """LOW's kind may start only when MEDIUM is due as well: who was passed over more often?"""
        lanes = Lanes(capacity=100, fairness=2, limited={"rare"})
        for n in range(60):
            lanes.add(task(f"high-{n}", HIGH))
            lanes.add(task(f"medium-{n}", MEDIUM))
        rare = task("low", LOW, "rare")
        lanes.add(rare)
        for _ in range(2 + 2):
            lanes.hold("rare")
            while lanes.standings()[1][0] < 2:
                lanes.pick()
            lanes.release("rare")
            if lanes.pick() is rare:
                return
        raise AssertionError("LOW waited beyond its bound")

    @given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 3]))
    def test_whatever_may_start_when_it_holds_for_the_lanes(
        self, random: Random, fairness: int
    ) -> None:
        kinds = ("rare", "scarce")
        lanes = Lanes(capacity=1_000, fairness=fairness, limited=set(kinds))
        held_in_turn = [random.sample(kinds, random.randint(0, 2)) for _ in range(5)]
        chances: Counter[Priority] = Counter()  # of each lane, since it was served or had none
        for step in range(100):
            for number in range(random.choice((0, 1, 1, 2))):
                priority, kind = random.choice(list(Priority)), random.choice(("default", *kinds))
                lanes.add(task(f"{step}-{number}", priority, kind))
            for kind in kinds:
                (lanes.hold if kind in held_in_turn[step % 5] else lanes.release)(kind)
            for priority, lane in zip(Priority, lanes._lanes, strict=True):
                chances[priority] += lane.size > lane.held_jobs
                if not lane.size:
                    chances[priority] = 0
            picked = lanes.pick()
            assert all(count <= fairness + 2 for count in chances.values())
            if picked is not None:
                chances[picked.priority] = 0

    @pytest.mark.parametrize("lane", [HIGH, MEDIUM])
    def test_a_less_urgent_lane_takes_the_chance_of_a_rare_job_only_once(
        self, lane: Priority
    ) -> None:
        """LOW falls due by a pick at which the kind may not start, again and again."""
        lanes = Lanes(capacity=100, fairness=1, limited={"rare"})
        rare = task("rare", lane, "rare")
        lanes.add(rare)
        for n in range(10):
            lanes.add(task(f"urgent-{n}", HIGH if lane is MEDIUM else MEDIUM))
            lanes.add(task(f"low-rare-{n}", LOW, "rare"))
            lanes.add(task(f"low-{n}", LOW))
        chances = 0
        while True:
            lanes.hold("rare")
            while lanes.standings()[2][0] < 1:
                lanes.pick()
            lanes.release("rare")
            chances += 1
            if lanes.pick() is rare:
                break
        assert chances == 2

    def test_it_holds_when_a_lane_that_was_passed_over_is_cancelled_empty(self) -> None:
        lanes = Lanes(capacity=10, fairness=1)
        first = task("medium-0", MEDIUM)
        for waiting in (task("high-0", HIGH), task("high-1", HIGH), first, task("low-0", LOW)):
            lanes.add(waiting)
        assert [picked.id for picked in (lanes.pick(),) if picked] == ["high-0"]
        lanes.remove(first)
        lanes.add(task("low-1", LOW))
        lanes.add(task("medium-1", MEDIUM))
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
                lanes.add(arrived[-1])
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
                lanes.add(task("x", what))
            elif first := heads(lanes):
                assert lanes.pick() is first[0]


class TestInVain:
    @given(
        histories | bursts,
        st.lists(st.sampled_from([HIGH, MEDIUM, LOW])),
        st.integers(min_value=0, max_value=50),
        fairness_values | st.none(),
    )
    def test_picks_that_came_to_nothing_leave_no_trace(
        self,
        history: list[Priority | None],
        arrivals: list[Priority],
        picks: int,
        fairness: int | None,
    ) -> None:
        """An exchange adds new jobs, then picks some of them and of the others, and fails."""
        lanes = Lanes(capacity=1_000, fairness=fairness)
        for n, what in enumerate(history):
            if what is None:
                lanes.pick()
            else:
                lanes.add(task(str(n), what))
        before = state(lanes)

        added = [task(f"new-{n}", priority) for n, priority in enumerate(arrivals)]
        for new in added:
            lanes.add(new)
        picked = [one for _ in range(picks) if (one := lanes.pick())]
        for new in added:
            if new not in picked:
                lanes.remove(new)
        for one in picked:
            if one not in added:
                lanes.add(one)
        lanes.restore(before[1])
        assert state(lanes) == before
        # So the same exchange again has the same result.
        for new in added:
            lanes.add(new)
        assert [lanes.pick() for _ in picked] == picked


class TestOrdered:
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("add"), st.integers(0, 9) | st.just(math.inf)),
                st.tuples(st.sampled_from(["pop", "remove", "add again"]), st.integers(0, 99)),
            ),
            max_size=200,
        )
    )
    def test_it_is_a_list_that_is_always_sorted(self, history: list[tuple[str, float]]) -> None:
        ordered, model, out = Ordered(), list[Task](), list[Task]()
        for what, number in history:
            if what == "add":
                new = task("x")
                new.key = new.seq if number == math.inf else number  # in order, or anywhere
                ordered.add(new)
                model.append(new)
            elif what == "add again" and out:
                again = out.pop(int(number) % len(out))
                ordered.add(again)
                model.append(again)
            elif what == "pop" and model:
                out.append(ordered.pop())
                assert out[-1] is model.pop(0)
            elif what == "remove" and model:
                out.append(model.pop(int(number) % len(model)))
                ordered.remove(out[-1])
            model.sort(key=lambda task: (task.key, task.seq))
            assert list(ordered) == model
            assert ordered.size == len(model)
            if model:
                assert ordered.head() is model[0]

    def test_a_job_may_come_back_as_another_task(self) -> None:
        """Read from the file anew, to stand where it stood."""
        ordered = Ordered()
        gone, new = task("x"), task("x")
        gone.seq = gone.key = new.seq = new.key = 1
        ordered.add(gone)
        ordered.remove(gone)
        ordered.add(new)
        assert [*ordered] == [ordered.head()] == [ordered.pop()] == [new]

    def test_what_was_removed_does_not_pile_up(self) -> None:
        """A queue may schedule and cancel a million jobs, and never run one."""
        ordered, last = Ordered(), task("stays")
        last.key = math.inf
        ordered.add(last)
        for _ in range(1_000):
            gone = task("x")
            ordered.add(gone)
            ordered.remove(gone)
        assert len(ordered._run) + len(ordered._heap) + len(ordered._gone) < 100
        assert list(ordered) == [last]
