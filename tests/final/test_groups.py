"""Groups: who floods the queue is passed by the others, and no more than so many of one run."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import CallNext, GroupRecord, Job, JobQueue, Priority, Status
from final.job import Task
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.limits import Gate
from final.ledger.picking import Picker
from final.ledger.sqlite import SqliteFile
from final.options import LeakyBucket
from tests.final.helpers import HeldUp, OpenQueue, nothing
from tests.helpers import DEADLINE, Journal, eventually
from tests.helpers import Gate as Door

HIGH, MEDIUM, LOW = Priority


class Line:
    """Lanes with a picker, and jobs named after their group."""

    def __init__(self, limit: int | None = None, mail: float = 0, fairness: int = 10) -> None:
        self.numbers = itertools.count(1)
        gate = Gate({"mail": LeakyBucket(mail)} if mail else None, 0.0)
        self.lanes = GroupLanes(1_000, fairness, gate.kinds, lambda: next(self.numbers))
        self.picker = Picker(self.lanes, gate, Caps(limit, {}), lambda kind: True)

    def add(self, group: str, priority: Priority = MEDIUM, kind: str = "plain") -> Task:
        number = next(self.numbers)
        task = Task(f"{group}{number}", "null", priority, kind, seq=number, key=number)
        task.group = "" if group == "-" else group
        self.lanes.add(task)
        return task

    def pick(self, now: float = 0.0) -> Task | None:
        batches = self.picker.batches(1, {}, 1, now)
        return batches[0][0] if batches else None

    def order(self) -> str:
        """Of which groups jobs are picked, till there is none."""
        picked = ""
        while task := self.pick():
            picked += task.group or "-"
        return picked


def waiting(queue: JobQueue) -> list[str]:
    return sorted(record.id for record in queue.jobs(Status.QUEUED))


class TestTurns:
    def test_groups_take_turns_in_the_order_in_which_they_came(self) -> None:
        line = Line()
        for group in "aaaabbc":
            line.add(group)
        assert line.order() == "abcabaa"

    def test_within_a_group_the_order_is_that_of_the_jobs(self) -> None:
        line = Line()
        jobs = [line.add(group) for group in "aabab"]
        picked = [task for _ in jobs if (task := line.pick())]
        for group in "ab":
            assert [t for t in picked if t.group == group] == [t for t in jobs if t.group == group]

    def test_who_comes_last_waits_for_one_pick_of_each_other_group(self) -> None:
        line = Line()
        for group in "aaaaaaaaaabbbbbbbbbb":
            line.add(group)
        line.add("z")
        assert line.order().index("z") <= 2

    def test_one_that_comes_back_at_once_gains_nothing_by_it(self) -> None:
        line = Line()
        for group in "bbbcccc":
            line.add(group)
        picked = ""
        for _ in range(6):
            line.add("a")
            task = line.pick()
            assert task
            picked += task.group
        assert picked == "bcabca"

    def test_jobs_without_a_group_stand_as_they_came(self) -> None:
        line = Line()
        for group in "--aa-a":
            line.add(group)
        assert line.order() == "--a-aa"

    def test_one_that_is_taken_back_is_the_first_of_its_group_again(self) -> None:
        line = Line()
        first, second = line.add("a"), line.add("a")
        line.add("b")
        assert line.pick() is first
        line.lanes.add(first)
        assert [line.pick() for _ in range(3)].index(first) < 2
        assert second.key > first.key

    def test_a_removed_head_is_followed_by_the_next(self) -> None:
        line = Line()
        first, second, third = (line.add("a") for _ in range(3))
        line.lanes.remove(first)
        line.lanes.remove(third)
        assert line.pick() is second
        assert len(line.lanes) == 0
        assert line.lanes.room(MEDIUM) == 1_000

    def test_what_may_not_start_of_a_group_lets_the_rest_of_it_pass(self) -> None:
        line = Line(mail=1)
        for kind in ("mail", "mail", "plain"):
            line.add("a", kind=kind)
        picked = [task.kind for _ in range(3) if (task := line.pick())]
        assert picked == ["mail", "plain"]
        assert line.pick(1.0)

    def test_one_without_room_displaces_one_of_its_own_group(self) -> None:
        line = Line()
        old = line.add("a")
        line.add("b")
        assert line.lanes.displaced_by(line.add("a")) is old
        assert line.lanes.displaced_by(line.add("c")) is old  # it has no other: the lane's first


class TestLimit:
    def test_no_more_than_so_many_of_a_group_run(self) -> None:
        line = Line(limit=2)
        for group in "aaaab":
            line.add(group)
        running = [task for _ in range(5) if (task := line.pick())]
        assert [task.group for task in running] == ["a", "b", "a"]
        assert line.picker.ready(0.0) == 0
        line.picker.ended(running[:1], 0.0)
        assert line.pick()
        assert line.pick() is None

    def test_it_counts_over_all_lanes(self) -> None:
        line = Line(limit=1)
        line.add("a", HIGH)
        line.add("a", LOW)
        running = line.pick()
        assert running
        assert line.pick() is None
        assert line.lanes.head(LOW) is not None
        line.picker.ended([running], 0.0)
        assert line.pick()

    def test_a_lane_that_was_passed_over_does_not_lose_that_while_its_group_is_full(self) -> None:
        line = Line(limit=1, fairness=2)
        line.add("a", LOW)
        for _ in range(10):
            line.add("a", HIGH)
        picked = []
        for _ in range(4):
            task = line.pick()
            assert task
            picked.append(task.priority)
            line.picker.ended([task], 0.0)
        assert LOW in picked

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["arrives", "arrives", "starts", "ends", "leaves", "comes back"]),
                st.sampled_from("abc-"),
                st.sampled_from(Priority),
                st.integers(0, 99),
            ),
            max_size=200,
        ),
        st.sampled_from([None, 1, 2]),
    )
    def test_against_lists(
        self, history: list[tuple[str, str, Priority, int]], limit: int | None
    ) -> None:
        """Nobody is lost, none beyond the limit starts, and no head waits for a second turn."""
        line = Line(limit)
        waiting: list[Task] = []
        running: list[Task] = []
        passed: Counter[tuple[Task, str]] = Counter()  # picks of others while it was the head
        for what, group, priority, n in history:
            of_group = Counter(task.group for task in running if task.group)
            if what == "arrives":
                waiting.append(line.add(group, priority))
            elif what == "ends" and running:
                line.picker.ended([running.pop(n % len(running))], 0.0)
            elif what == "comes back" and running:
                task = running.pop(n % len(running))
                line.lanes.add(task)
                line.picker.ended([task], 0.0)
                waiting.append(task)
                passed.clear()
            elif what == "leaves" and waiting:
                task = waiting.pop(n % len(waiting))
                line.lanes.remove(task)
            elif what == "starts":
                able = [t for t in waiting if limit is None or of_group[t.group] < limit]
                assert (line.picker.ready(0.0) > 0) == bool(able)
                picked = line.pick()
                if picked is None:
                    assert able == []
                    continue
                lane = [t for t in able if t.priority is picked.priority]
                heads = {t.group: t for t in sorted(lane, key=lambda t: -t.key) if t.group}
                assert not picked.group or heads[picked.group] is picked
                for other in heads.values():
                    if other is not picked and picked.group and limit is None:
                        passed[other, picked.group] += 1
                        assert passed[other, picked.group] <= 1
                waiting.remove(picked)
                running.append(picked)
            assert len(line.lanes) == len(waiting)
            for lane_of in Priority:
                assert line.lanes.room(lane_of) == 1_000 - sum(
                    task.priority is lane_of for task in waiting
                )


class TestQueue:
    def test_one_tenant_floods_and_the_other_does_not_notice(
        self, held_up: HeldUp, gate: Door
    ) -> None:
        queue, started = held_up()
        queue.enqueue_many([Job(f"flood-{n}", group="big") for n in range(100)])
        queue.enqueue(Job("small", group="small"))
        gate.open()
        queue.wait("small", DEADLINE)
        assert started.entries.index("small") <= 2

    def test_a_limit_of_a_group_leaves_workers_to_the_others(
        self, open_queue: OpenQueue, gate: Door
    ) -> None:
        began = Journal()

        def handler(job: Job) -> None:
            began.write(job.id)
            gate.wait()

        with open_queue(handler, workers=4, group_limit=2) as queue:
            queue.enqueue_many([Job(f"big-{n}", group="big") for n in range(5)])
            queue.enqueue(Job("small", group="small"))
            began.wait_for_count(3)
            assert set(began.entries) == {"big-0", "big-1", "small"}
            assert queue.status("big-2") is Status.QUEUED
            gate.open()
            queue.join(DEADLINE)
        assert len(began.entries) == 6

    def test_who_floods_a_full_lane_drops_its_own(self, held_up: HeldUp) -> None:
        queue, _ = held_up(capacity=3, overflow="drop-oldest")
        for job in (Job("small", group="small"), Job("alone")):
            queue.enqueue(job)
        queue.enqueue_many([Job(f"big-{n}", group="big") for n in range(5)])
        assert waiting(queue) == ["alone", "big-4", "small"]
        queue.enqueue(Job("other", group="other"))  # it has nothing that could go
        assert waiting(queue) == ["alone", "big-4", "other"]
        queue.enqueue(Job("big-5", group="big"))
        assert waiting(queue) == ["alone", "big-5", "other"]
        assert queue.metrics().dropped == 6

    def test_who_comes_is_not_dropped_while_an_older_one_is_there(self, held_up: HeldUp) -> None:
        """A group's next one stands behind those that have just come."""
        queue, _ = held_up(capacity=2, overflow="drop-oldest")
        queue.enqueue_many([Job(f"big-{n}", group="big", run_at=0.01) for n in range(6)])
        eventually(lambda: queue.metrics().queued == 6, "all are due")
        queue.enqueue_many([Job("new"), Job("newer")])
        assert waiting(queue) == ["big-5", "newer"]

    def test_while_its_group_is_full_a_job_can_be_dropped(
        self, open_queue: OpenQueue, gate: Door
    ) -> None:
        began = Journal()

        def handler(job: Job) -> None:
            began.write(job.id)
            gate.wait()

        options: dict[str, Any] = {"workers": 3, "group_limit": 1, "overflow": "drop-oldest"}
        with open_queue(handler, capacity=2, **options) as queue:
            for n in range(5):
                queue.enqueue(Job(f"big-{n}", group="big"))
                began.wait_for("big-0")
            queue.enqueue(Job("small", group="small"))
            began.wait_for("small")
            assert waiting(queue) == ["big-4"] or waiting(queue) == ["big-3", "big-4"]
            gate.open()
            queue.join(DEADLINE)
        assert queue.status("small") is Status.COMPLETED

    def test_where_all_groups_are_full_a_lane_beyond_its_capacity_takes_one_more(
        self, open_queue: OpenQueue, gate: Door
    ) -> None:
        options: dict[str, Any] = {"workers": 2, "group_limit": 1, "overflow": "drop-oldest"}
        with open_queue(lambda job: gate.wait(), capacity=1, **options) as queue:
            queue.enqueue_many([Job(group="a"), Job(group="b", priority=HIGH)])
            eventually(lambda: queue.metrics().processing == 2, "both groups are full")
            queue.enqueue_many([Job(group=group, run_at=0.05) for group in "bbbaaa"])
            eventually(lambda: queue.metrics().queued == 6, "all are due")
            queue.enqueue(Job("new", group="b"))
            assert waiting(queue) == ["new"]
            gate.open()
            queue.join(DEADLINE)

    def test_it_is_kept_over_a_restart(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("one", group="tenant-7", run_at=3600))
        with open_queue(nothing, path=path) as queue:
            assert queue.get("one").group == "tenant-7"
            [record] = queue.jobs(Status.SCHEDULED)
            assert record.group == "tenant-7"

    def test_a_handler_sees_it(self, open_queue: OpenQueue) -> None:
        with open_queue(lambda job: job.group) as queue:
            for payload in (None, [1]):
                job_id = queue.enqueue(Job(payload=payload, group="tenant-7"))
                assert queue.wait(job_id, DEADLINE).result == "tenant-7"

    @pytest.mark.parametrize(("group", "error"), [("", ValueError), (7, TypeError)])
    def test_a_group_is_text(self, group: object, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"Job\.group must"):
            Job(group=group)  # type: ignore[arg-type]

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
    def test_a_limit_is_a_whole_number(self, limit: object) -> None:
        with pytest.raises((ValueError, TypeError), match="group_limit must be"):
            JobQueue(nothing, group_limit=limit)  # type: ignore[arg-type]


class TestLooking:
    """``JobQueue.groups``: whose jobs wait and run."""

    def test_who_has_most_waiting_comes_first(self, held_up: HeldUp) -> None:
        queue, _ = held_up()
        queue.enqueue_many([Job(group=group) for group in "bbaaccc"] + [Job()])
        queue.enqueue(Job(group="later", run_at=3600))
        found = [(group.name, group.queued, group.running) for group in queue.groups()]
        assert found == [("c", 3, 0), ("a", 2, 0), ("b", 2, 0)]
        assert [group.name for group in queue.groups(limit=2)] == ["c", "a"]

    def test_who_runs_is_counted_and_who_has_ended_is_not(
        self, open_queue: OpenQueue, gate: Door
    ) -> None:
        began = Journal()

        def handler(job: Job) -> None:
            began.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1)
        queue.enqueue_many([Job(group="a"), Job(group="a")])
        began.wait_for_count(1)
        [group] = queue.groups()
        assert (group.name, group.queued, group.running) == ("a", 1, 1)
        gate.open()
        queue.join(DEADLINE)
        assert queue.groups() == []

    def test_the_oldest_is_the_age_of_the_one_that_waits_longest(
        self, held_up: HeldUp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, _ = held_up()
        for job_id in ("first", "second"):
            queue.enqueue(Job(job_id, group="a"))
        first = queue.get("first").enqueued_at
        monkeypatch.setattr(queue, "_now", lambda: first + 60)
        assert queue.groups()[0].oldest_queued == pytest.approx(60, abs=1e-3)
        monkeypatch.setattr(queue, "_now", lambda: first - 60)  # somebody has set the clock
        assert queue.groups()[0].oldest_queued == 0

    def test_where_none_waits_none_is_old(self, open_queue: OpenQueue, gate: Door) -> None:
        began = Journal()

        def handler(job: Job) -> None:
            began.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("runs", group="a"))
        began.wait_for("runs")
        assert queue.groups() == [GroupRecord("a", 0, 1, 0.0)]

    def test_after_a_restart_they_wait_as_before(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.pause()
            queue.enqueue_many([Job(group=group) for group in "abb"])
            queue.close(drain=False)
            assert [group.name for group in queue.groups()] == ["b", "a"]  # also after the end
        with open_queue(nothing, path=path) as queue:
            assert [(group.name, group.queued) for group in queue.groups()] == [("b", 2), ("a", 1)]

    def test_a_row_that_makes_no_sense_is_of_no_group(self, held_up: HeldUp) -> None:
        queue, _ = held_up()
        queue.enqueue_many([Job("odd", group="a"), Job(group="b")])
        file = queue._ledger.look_ups
        assert isinstance(file, SqliteFile)
        file.execute("UPDATE job SET grp = x'ff' WHERE id = 'odd'")
        assert [group.name for group in queue.groups()] == ["b"]

    @pytest.mark.parametrize("limit", [0, 1.5, "2"])
    def test_a_limit_is_a_whole_number(self, open_queue: OpenQueue, limit: Any) -> None:
        queue = open_queue(nothing)
        with pytest.raises((ValueError, TypeError), match="limit must be"):
            queue.groups(limit)


class OfOneTenant:
    """As middleware: the jobs that come in are all of one group."""

    def __call__(self, job: Job, call_next: CallNext) -> object:
        return call_next(job)

    def before_enqueue(self, job: Job) -> Job:
        return dataclasses.replace(job, group="tenant")


class TestWaitingForAFullGroup:
    """Inside a handler of it: that would never end, though workers are idle."""

    def test_for_a_job_of_its_own_group(self, open_queue: OpenQueue) -> None:
        def parent(job: Job) -> object:
            return job.payload or queue.wait(queue.enqueue(Job(payload=1, group="a"))).result

        queue = open_queue(parent, workers=4, group_limit=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job(group="a")), DEADLINE)
        assert record.status is Status.FAILED
        assert "the jobs that run of group 'a' wait, too" in str(record.error)
        assert "(group_limit=1)" in str(record.error)

    def test_for_the_jobs_of_a_map_that_middleware_puts_into_it(
        self, open_queue: OpenQueue
    ) -> None:
        def parent(job: Job) -> object:
            return job.payload or list(queue.map([1]))

        queue = open_queue(
            parent, workers=4, group_limit=1, max_retries=0, middleware=[OfOneTenant()]
        )
        record = queue.wait(queue.enqueue(Job()), DEADLINE)
        assert record.status is Status.FAILED
        assert "the jobs that run of group 'tenant' wait, too" in str(record.error)

    def test_for_one_of_another_group_it_may_wait(self, open_queue: OpenQueue) -> None:
        def parent(job: Job) -> object:
            return job.payload or queue.wait(queue.enqueue(Job(payload=1, group="b"))).result

        queue = open_queue(parent, workers=4, group_limit=1)
        assert queue.wait(queue.enqueue(Job(group="a")), DEADLINE).result == 1

    def test_a_crawler_that_fills_its_own_lane(self, open_queue: OpenQueue) -> None:
        def crawl(job: Job) -> None:
            for n in range(3):
                queue.enqueue(Job(f"{job.id}.{n}", "page", group="site"))

        queue = open_queue(crawl, workers=4, capacity=2, group_limit=1, max_retries=0)
        record = queue.wait(queue.enqueue(Job("start", group="site")), DEADLINE)
        assert record.status is Status.FAILED
        assert "of kinds or groups of which no more may run" in str(record.error)
