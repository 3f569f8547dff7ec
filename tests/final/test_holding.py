"""Kinds with a limit of their own: their jobs keep their places, and let the others pass meanwhile.

``Lanes`` here, alone; in a whole engine they are in ``test_rate_limits.py``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import LeakyBucket, Priority
from final.job import Task
from final.ledger.lanes import Lanes
from final.ledger.limits import meter_of

HIGH, MEDIUM, LOW = LANES = tuple(Priority)
LIMITED = ("mail", "sms")


def filled(*kinds: str) -> Lanes:
    """Jobs 0, 1, 2 ... of these kinds in the MEDIUM lane."""
    lanes = Lanes(1000, 10, LIMITED)
    for n, kind in enumerate(kinds):
        lanes.add(Task(str(n), "null", MEDIUM, kind, seq=n, key=n))
    return lanes


def allow(lanes: Lanes, *open_kinds: str) -> None:
    """These of LIMITED may start, and the others may not."""
    for kind in LIMITED:
        (lanes.release if kind in open_kinds else lanes.hold)(kind)


def picks(lanes: Lanes, *open_kinds: str) -> list[str]:
    """The jobs that can be picked while these kinds may start, in this order."""
    allow(lanes, *open_kinds)
    return [task.id for _ in range(len(lanes)) if (task := lanes.pick())]


class TestPlaces:
    def test_others_pass_those_that_may_not_start(self) -> None:
        lanes = filled("mail", "free", "sms", "mail", "free")
        allow(lanes, "sms")
        assert lanes.ready() == 3
        assert picks(lanes, "sms") == ["1", "2", "4"]
        assert picks(lanes, *LIMITED) == ["0", "3"]

    def test_and_they_are_first_when_they_may(self) -> None:
        lanes = filled("mail", "free", "sms", "mail", "free")
        assert picks(lanes, *LIMITED) == ["0", "1", "2", "3", "4"]

    def test_they_count_for_the_capacity(self) -> None:
        lanes = filled("mail", "mail", "free")
        assert (len(lanes), lanes.room(MEDIUM)) == (3, 997)
        assert lanes.waiting == Counter(mail=2)

    def test_the_one_that_has_waited_for_longest_is_the_head_all_the_same(self) -> None:
        head = filled("mail", "free").head(MEDIUM)
        assert head
        assert head.id == "0"

    @pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
    def test_in_whatever_order_jobs_come_back_they_stand_in_order(
        self, order: tuple[int, ...]
    ) -> None:
        lanes = filled("mail", "mail", "mail", "mail")
        allow(lanes, *LIMITED)
        picked = [task for _ in range(3) if (task := lanes.pick())]
        for n in order:  # one by one, as from three workers
            lanes.add(picked[n])
        assert picks(lanes, *LIMITED) == ["0", "1", "2", "3"]

    def test_a_lane_of_which_none_may_start_is_not_passed_over(self) -> None:
        """It is not its turn that is taken from it: its own limit holds it."""
        lanes = Lanes(1000, 1, LIMITED)
        for n, (priority, kind) in enumerate(
            [(HIGH, "free"), (HIGH, "free"), (HIGH, "free"), (MEDIUM, "mail"), (LOW, "free")]
        ):
            lanes.add(Task(str(n), "null", priority, kind, seq=n, key=n))
        assert [picks_one(lanes) for _ in range(3)] == ["0", "4", "1"]
        assert [passed_over for passed_over, _ in lanes.standings()] == [0, 0, 0]

    def test_one_that_is_removed_is_not_picked(self) -> None:
        lanes = filled("mail", "mail", "free")
        head = lanes.head(MEDIUM)
        assert head
        lanes.remove(head)
        assert lanes.waiting == Counter(mail=1)
        assert picks(lanes, *LIMITED) == ["1", "2"]
        assert lanes.waiting == Counter()


def picks_one(lanes: Lanes) -> str | None:
    task = lanes.pick()
    return None if task is None else task.id


class TestAgainstLists:
    @given(
        st.lists(st.sampled_from(["arrive", "arrive", "pick", "pick", "remove", "come back"])),
        st.sampled_from([1, 2, 10]),
        st.randoms(use_true_random=False),
    )
    def test_lanes_pick_what_lists_would(
        self, history: list[str], fairness: int, random: Random
    ) -> None:
        lanes, model = Lanes(1000, fairness, LIMITED), InLists(fairness)
        out: list[Task] = []
        for n, what in enumerate(history):
            open_kinds = [kind for kind in LIMITED if random.random() < 0.5]
            if what == "arrive":
                kind = random.choice(["free", *LIMITED])
                out.append(Task(str(n), "null", random.choice([*Priority]), kind, seq=n, key=n))
            if what == "arrive" or (what == "come back" and out):
                task = out.pop()
                lanes.add(task)
                model.waiting.append(task)
            elif what == "remove" and model.waiting:
                task = random.choice(model.waiting)
                lanes.remove(task)
                model.remove(task)
            elif what == "pick":
                allow(lanes, *open_kinds)
                assert lanes.ready() == len(model.ready(open_kinds))
                picked = lanes.pick()
                assert picked is model.pick(open_kinds)
                out += [picked] if picked else []
            kinds = Counter(task.kind for task in model.waiting)
            assert all(lanes.waiting[kind] == kinds[kind] for kind in LIMITED)
            for priority in Priority:
                lane = [task for task in model.waiting if task.priority is priority]
                assert lanes.head(priority) is min(lane, key=lambda t: t.key, default=None)
            expected = [(model.passed_over[p], model.overtaken[p]) for p in Priority]
            assert lanes.standings() == expected


class InLists:
    """The same rule, with a look at every job."""

    def __init__(self, fairness: int) -> None:
        self.waiting: list[Task] = []
        self.passed_over = dict.fromkeys(Priority, 0)
        self.overtaken: dict[Priority, frozenset[int]] = dict.fromkeys(Priority, frozenset())
        self._fairness = fairness

    def ready(self, open_kinds: list[str]) -> list[Task]:
        ready = [t for t in self.waiting if t.kind not in LIMITED or t.kind in open_kinds]
        return sorted(ready, key=lambda task: task.key)

    def pick(self, open_kinds: list[str]) -> Task | None:
        ready = self.ready(open_kinds)
        lanes = [p for p in Priority if any(task.priority is p for task in ready)]
        if not lanes:
            return None
        chosen = max(lanes, key=lambda p: self.passed_over[p])  # of several the most urgent
        if self.passed_over[chosen] < self._fairness:
            chosen = lanes[0]
        for priority in lanes:
            if LANES.index(chosen) in self.overtaken[priority]:
                chosen = priority
                break
        for priority in lanes:
            if LANES.index(priority) > LANES.index(chosen):
                self.passed_over[priority] += 1
            elif priority is not chosen:
                self.overtaken[priority] |= {LANES.index(chosen)}
        self.start_anew(chosen)
        picked = next(task for task in ready if task.priority is chosen)
        self.waiting.remove(picked)
        return picked

    def remove(self, task: Task) -> None:
        self.waiting.remove(task)
        if all(other.priority is not task.priority for other in self.waiting):
            self.start_anew(task.priority)

    def start_anew(self, priority: Priority) -> None:
        self.passed_over[priority] = 0
        self.overtaken[priority] = frozenset()


def test_a_leaky_bucket_allows_a_start_at_the_very_moment_that_it_named() -> None:
    meter = meter_of(LeakyBucket(2), 0.0)
    meter.take(0.0)
    due = meter.next_at(0.0)
    assert meter.next_at(due) <= due
    assert meter.next_at(due - 0.001) > due - 0.001
