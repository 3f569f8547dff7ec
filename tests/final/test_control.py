"""Pause and scale: nothing paused starts, nothing is lost by it, and workers come and go."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from final import Job, JobQueue, Kind, Pause, Priority, QueueClosed, Status, StorageError
from final.engine.messages import GiveOrder
from final.job import Task
from final.ledger.base import Cancel, SetFairness, SetPaused, SetWorkers
from final.ledger.caps import Caps
from final.ledger.groups import GroupLanes
from final.ledger.limits import Gate as Limits
from final.ledger.picking import Picker
from tests.final import inside
from tests.final.engine import Engine, ask, jobs, report
from tests.final.helpers import (
    AT_ONCE,
    POSIX,
    ROOT,
    HeldUp,
    OpenQueue,
    eventually,
    is_closing,
    reaches,
)
from tests.final.process_handlers import ReadyBy
from tests.helpers import DEADLINE, Background, Gate, Journal

HIGH, MEDIUM, LOW = Priority
QUEUE = Pause()


class Line:
    """Lanes and a picker, without anything around them."""

    def __init__(self, fairness: int | None = 10, group_limit: int | None = None) -> None:
        self.numbers = itertools.count(1)
        self.lanes = GroupLanes(1_000, fairness, (), lambda: next(self.numbers))
        self.caps = Caps(group_limit, {})
        self.picker = Picker(self.lanes, Limits(None, 0.0), self.caps, lambda kind: True)

    def add(self, kind: str = "plain", priority: Priority = MEDIUM, group: str = "") -> Task:
        number = next(self.numbers)
        task = Task(f"{kind}{number}", "null", priority, kind, seq=number, key=number)
        task.group = group
        self.lanes.add(task)
        return task

    def pause(self, *paused: Pause) -> None:
        """These and no others."""
        self.picker.pause(frozenset(paused), 0.0)

    def pick(self) -> Task | None:
        batches = self.picker.batches(1, {}, 1, 0.0)
        return batches[0][0] if batches else None

    def all(self) -> list[Task]:
        return list(iter(self.pick, None))


class TestPicks:
    @pytest.mark.parametrize("come_first", [True, False])
    def test_a_paused_kind_lets_others_pass_and_keeps_its_place(self, come_first: bool) -> None:
        line = Line()
        if not come_first:
            line.pause(Pause(kind="mail"))
        first, second, third = line.add("mail"), line.add(), line.add("mail")
        line.pause(Pause(kind="mail"))
        assert line.all() == [second]
        last = line.add()
        line.pause()
        assert line.all() == [first, third, last]

    def test_a_paused_lane_is_not_passed_over(self) -> None:
        line = Line(fairness=2)
        low = [line.add(priority=LOW) for _ in range(2)]
        for _ in range(9):
            line.add(priority=HIGH)
        line.pause(Pause(priority=LOW))
        assert [task.priority for task in (line.pick(), line.pick(), line.pick()) if task] == [
            HIGH
        ] * 3
        line.pause()
        picked = line.all()
        assert [picked.index(task) for task in low] == [2, 5]  # as if it had just come

    def test_the_rhythm_of_the_other_lanes_is_that_of_two_lanes(self) -> None:
        def rhythm(line: Line) -> list[Priority]:
            for _ in range(8):
                line.add(priority=HIGH)
                line.add(priority=MEDIUM)
            return [task.priority for task in line.all()]

        paused = Line(fairness=3)
        paused.add(priority=LOW)
        paused.pause(Pause(priority=LOW))
        assert rhythm(paused) == rhythm(Line(fairness=3))

    def test_a_paused_group_lets_others_pass(self) -> None:
        line = Line()
        a, b, a2, none = (line.add(group=group) for group in ("a", "b", "a", ""))
        line.pause(Pause(group="a"))
        assert line.all() == [b, none]
        line.pause()
        assert line.all() == [a, a2]

    def test_of_a_group_a_paused_kind_waits_and_the_rest_goes_on(self) -> None:
        line = Line()
        mail, plain = line.add("mail", group="a"), line.add(group="a")
        line.pause(Pause(kind="mail"))
        assert line.all() == [plain]
        line.pause()
        assert line.all() == [mail]

    def test_of_a_kind_that_was_paused_a_groups_next_job_is_there_at_once(self) -> None:
        line = Line(fairness=None)
        urgent = [line.add("mail", HIGH, "a") for _ in range(2)]
        line.add(priority=LOW)
        line.pause(Pause(kind="mail"))
        line.pause()
        assert [task for [task] in line.picker.batches(2, {}, 1, 0.0)] == urgent

    def test_a_full_group_that_is_resumed_stays_full(self) -> None:
        line = Line(group_limit=1)
        first, second = line.add(group="a"), line.add(group="a")
        assert line.pick() is first
        line.pause(Pause(group="a"))
        line.pause()
        assert line.pick() is None
        line.picker.ended([first], 0.0)
        assert line.pick() is second

    def test_each_resume_undoes_its_own_pause(self) -> None:
        line = Line()
        task = line.add("mail", LOW, "a")
        pauses = [QUEUE, Pause(kind="mail"), Pause(priority=LOW), Pause(group="a")]
        for count in range(len(pauses), 0, -1):
            for some in itertools.combinations(pauses, count):
                line.pause(*some)
                assert line.pick() is None
        line.pause()
        assert line.pick() is task

    def test_the_count_of_a_lane_survives_that_its_jobs_are_set_apart(self) -> None:
        line = Line(fairness=3)
        line.add("mail", LOW, "a")
        for _ in range(3):
            line.add(priority=HIGH)
            line.pick()
        line.add(priority=HIGH)
        line.pause(Pause(kind="mail"))
        line.pause()
        due = line.pick()
        assert due
        assert due.priority is LOW

    @given(
        st.lists(
            st.one_of(
                st.tuples(
                    st.just("add"),
                    st.sampled_from(("mail", "plain")),
                    st.sampled_from(Priority),
                    st.sampled_from(("", "a", "b")),
                ),
                st.tuples(st.just("pick")),
                st.tuples(st.just("remove"), st.integers(0, 5)),
                st.tuples(
                    st.just("pause"),
                    st.frozensets(
                        st.sampled_from(
                            [
                                QUEUE,
                                Pause(kind="mail"),
                                Pause(kind="plain"),
                                *(Pause(priority=priority) for priority in Priority),
                                Pause(group="a"),
                            ]
                        ),
                        max_size=3,
                    ),
                ),
            ),
            max_size=40,
        ),
        st.sampled_from((1, 2, None)),
        st.sampled_from((None, 1)),
    )
    def test_whatever_comes_nothing_paused_is_picked_and_nothing_is_forgotten(
        self, steps: list[tuple[object, ...]], fairness: int | None, group_limit: int | None
    ) -> None:
        line = Line(fairness, group_limit)
        waiting: list[Task] = []
        paused: frozenset[Pause] = frozenset()
        for step, *values in steps:
            match step, values:
                case "add", [str(kind), Priority() as priority, str(group)]:
                    waiting.append(line.add(kind, priority, group))
                case "remove", [int(number)] if number < len(waiting):
                    line.lanes.remove(waiting.pop(number))
                case "pause", [frozenset() as paused]:
                    line.pause(*paused)
                case "pick", []:
                    free = [task for task in waiting if not _is_paused(task, paused)]
                    assert bool(line.picker.ready(0.0)) == bool(free)
                    task = line.pick()
                    assert (task in free) if free else task is None
                    if task is not None:
                        line.picker.ended([task], 0.0)
                        waiting.remove(task)
        line.pause()
        left = []
        while task := line.pick():
            line.picker.ended([task], 0.0)
            left.append(task)
        assert sorted(left, key=lambda t: t.seq) == waiting
        for priority in Priority:
            plain = [task for task in left if task.priority is priority and not task.group]
            assert plain == sorted(plain, key=lambda task: task.seq)


def _is_paused(task: Task, paused: frozenset[Pause]) -> bool:
    """Said once more, in other words."""
    return any(
        pause.kind in (None, task.kind)
        and pause.priority in (None, task.priority)
        and pause.group in (None, task.group)
        for pause in paused
    )


# ---- the turns of the dispatcher ----------------------------------------------------------------


def order(pause: Pause = QUEUE, paused: bool = True) -> GiveOrder[None]:
    return GiveOrder(SetPaused(pause, paused))


class TestTurns:
    def test_what_has_been_claimed_and_not_begun_goes_back_uncharged(self) -> None:
        engine = Engine(workers=1)
        engine.dispatcher._flight.cost["default"] = 1e-6  # so that a worker gets all of them
        engine.settle(jobs("a", "b", "c"))
        [batch] = engine.batches
        batch.running = batch.tasks.popleft()  # its worker is quick
        ask(engine, order())
        assert not batch.tasks
        engine.settle()
        assert [engine.status(job_id) for job_id in "abc"] == [
            ("processing", 1),
            ("queued", 0),
            ("queued", 0),
        ]
        assert engine.waiting() == ["b", "c"]
        engine.settle(report(batch))
        ask(engine, order(paused=False))
        assert engine.work_off(1) == ["b", "c"]

    def test_nor_is_one_charged_that_was_cancelled_meanwhile(self) -> None:
        engine = Engine(workers=1)
        engine.dispatcher._flight.cost["default"] = 1e-6
        engine.settle(jobs("a", "b", "c"))
        [batch] = engine.batches
        batch.running = batch.tasks.popleft()
        engine.settle(GiveOrder[bool](Cancel("b")))
        ask(engine, order())
        engine.settle()
        assert engine.status("b") == ("cancelled", 0)
        assert engine.waiting() == ["c"]
        counts = engine.metrics()
        assert (counts.accepted, counts.queued, counts.processing, counts.cancelled) == (3, 1, 1, 1)

    def test_what_cannot_be_written_is_not_paused(self) -> None:
        engine = Engine()
        engine.file.failures = 1
        with pytest.raises(StorageError):
            ask(engine, order())
        assert not engine.ledger.paused()
        engine.turn(later=1.0)
        engine.settle(jobs("a"))
        assert engine.handed_out == [["a"]]

    def test_nor_is_the_fairness_changed(self) -> None:
        engine = Engine(fairness=7)
        engine.file.failures = 1
        with pytest.raises(StorageError):
            ask(engine, GiveOrder[None](SetFairness(1)))
        assert engine.ledger._lanes.fairness == 7

    def test_nor_is_it_resumed(self) -> None:
        engine = Engine()
        ask(engine, order(Pause(kind="default")))
        engine.settle(jobs("a"))
        engine.file.failures = 1
        with pytest.raises(StorageError):
            ask(engine, order(Pause(kind="default"), paused=False))
        engine.turn(later=1.0)
        assert engine.handed_out == []
        assert engine.metrics().paused == [Pause(kind="default")]

    def test_a_queue_that_is_paused_sleeps(self) -> None:
        engine = Engine(workers=2)
        engine.settle(order(), jobs("a"))
        assert engine.sleeps() is None
        engine.settle(order(paused=False))
        assert engine.handed_out == [["a"]]

    def test_an_order_and_its_contrary_in_one_turn_have_an_order(self) -> None:
        engine = Engine()
        engine.settle(order(), order(paused=False), jobs("a"))
        assert engine.handed_out == [["a"]]

    def test_turns_that_pause_nothing_write_nothing_for_it(self) -> None:
        engine = Engine()
        statements: list[str] = []
        engine.file._writer.set_trace_callback(statements.append)
        engine.settle(jobs("a"))
        engine.settle(report(engine.batches[0]))
        assert not [s for s in statements if "pause" in s or "setting" in s]

    def test_a_paused_suspect_lets_the_next_one_go(self, tmp_path: Path) -> None:
        """Of jobs that may have ended the process one runs at a time: not for ever none."""
        engine = Engine(str(tmp_path / "jobs.db"), workers=3, max_retries=0)
        for job_id, priority in (("a", HIGH), ("b", LOW)):
            engine.settle(jobs(job_id, priority=priority))
        engine.crash()
        engine.open()
        ask(engine, order(Pause(priority=HIGH)))
        engine.settle()
        assert engine.work_off() == ["b"]
        engine.settle(order(Pause(priority=HIGH), paused=False))
        assert engine.work_off(1) == ["a"]


# ---- the queue ----------------------------------------------------------------------------------


class TestPause:
    def test_what_runs_goes_on_and_nothing_new_starts(
        self, open_queue: OpenQueue, gate: Gate
    ) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=2)
        queue.enqueue(Job("runs"))
        started.wait_for("runs")
        queue.pause()
        queue.enqueue(Job("waits"))
        gate.open()
        assert queue.wait("runs", DEADLINE).status is Status.COMPLETED
        assert (queue.status("waits"), started.entries) == (Status.QUEUED, ["runs"])
        queue.resume()
        assert queue.wait("waits", DEADLINE).status is Status.COMPLETED

    @pytest.mark.parametrize(
        "what", [{"kind": "mail"}, {"priority": "low"}, {"priority": LOW}, {"group": "a"}]
    )
    def test_one_argument_pauses_that_alone(
        self, open_queue: OpenQueue, what: dict[str, str]
    ) -> None:
        queue = open_queue(lambda job: None)
        queue.pause(**what)
        held = queue.enqueue(Job(kind="mail", priority=LOW, group="a"))
        other = queue.enqueue(Job())
        assert queue.wait(other, DEADLINE).status is Status.COMPLETED
        assert queue.status(held) is Status.QUEUED
        queue.resume(**what)
        assert queue.wait(held, DEADLINE).status is Status.COMPLETED

    def test_it_says_what_is_paused_in_order(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        assert queue.paused() == queue.metrics().paused == []
        for _ in range(2):  # the second time changes nothing
            queue.pause(group="a")
            queue.pause(kind="mail")
            queue.pause(priority="low")
            queue.pause()
        everything = [QUEUE, Pause(priority=LOW), Pause(kind="mail"), Pause(group="a")]
        assert queue.paused() == queue.metrics().paused == everything
        for _ in range(2):
            queue.resume()
        assert queue.paused() == everything[1:]
        queue.close()
        assert queue.paused() == everything[1:]

    def test_a_full_lane_is_as_full_as_ever(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None, capacity=2, overflow="reject")
        queue.pause(kind="default")
        queue.enqueue_many([Job(), Job()])
        with pytest.raises(Exception, match="no room"):
            queue.enqueue(Job())
        queue.resume(kind="default")
        queue.join(DEADLINE)

    def test_a_producer_that_waits_is_let_in_by_the_resume(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None, capacity=1)
        queue.pause()
        queue.enqueue(Job())
        call = Background(queue.enqueue, Job("second"))
        queue.resume()
        assert call.result() == "second"
        queue.join(DEADLINE)

    def test_what_waits_for_its_process_does_not_begin(self, open_queue: OpenQueue) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            handler = ReadyBy(server.getsockname())
            queue = open_queue(handler, executor="process", workers=1)
            queue.enqueue(Job("a"))
            server.settimeout(3 * DEADLINE)  # a process takes its time to start
            line, _ = server.accept()
            queue.pause()
            reaches(queue, "a", Status.QUEUED)
            line.close()
        queue.resume()
        assert queue.wait("a", DEADLINE).attempts == 1

    def test_retries_of_a_paused_kind_wait_too(self, open_queue: OpenQueue) -> None:
        attempts = Journal()

        def handler(job: Job) -> None:
            attempts.write("attempt")
            queue.pause(kind="mail")
            raise ValueError("no")

        queue = open_queue({"mail": handler}, max_retries=1, backoff=AT_ONCE)
        job_id = queue.enqueue(Job(kind="mail"))
        reaches(queue, job_id, Status.QUEUED)
        assert len(attempts.entries) == 1
        queue.resume(kind="mail")
        assert queue.wait(job_id, DEADLINE).status is Status.FAILED
        assert len(attempts.entries) == 2

    def test_jobs_can_be_called_off_while_they_are_paused(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        queue.pause(kind="default")
        job_id = queue.enqueue(Job())
        assert queue.cancel(job_id)
        assert queue.status(job_id) is Status.CANCELLED

    @pytest.mark.parametrize(
        ("what", "sentence"),
        [
            ({"kind": "a", "group": "b"}, "one kind=, one priority= or one group="),
            ({"kind": ""}, "kind must not be empty"),
            ({"kind": 7}, "kind must be text"),
            ({"group": b"a"}, "group must be text"),
            ({"priority": "urgent"}, "urgent"),
        ],
    )
    @pytest.mark.parametrize("act", [JobQueue.pause, JobQueue.resume])
    def test_bad_questions_are_answered(
        self,
        open_queue: OpenQueue,
        what: dict[str, object],
        sentence: str,
        act: Callable[..., None],
    ) -> None:
        with pytest.raises((TypeError, ValueError), match=sentence):
            act(open_queue(lambda job: None), **what)


class TestKept:
    def test_over_a_restart(self, open_queue: OpenQueue, tmp_path: Path) -> None:
        path = tmp_path / "jobs.db"
        with open_queue(lambda job: None, path=path) as queue:
            queue.pause(kind="mail")
            queue.pause(group="a")
            ids = queue.enqueue_many([Job(kind="mail"), Job(group="a"), Job()])
            assert queue.close() is False
        queue = open_queue(lambda job: None, path=path)
        assert queue.paused() == [Pause(kind="mail"), Pause(group="a")]
        assert [str(queue.status(job_id)) for job_id in ids] == ["queued", "queued", "completed"]
        queue.resume(kind="mail")
        queue.resume(group="a")
        queue.join(DEADLINE)

    @pytest.mark.skipif(not POSIX, reason="there is no kill -9")
    def test_over_kill_9(self, open_queue: OpenQueue, tmp_path: Path) -> None:
        path = tmp_path / "jobs.db"
        program = (
            "import os, signal, sys; from final import Job, JobQueue\n"
            "queue = JobQueue(lambda job: None, path=sys.argv[1], workers=2)\n"
            "queue.pause(); queue.set_workers(3); queue.enqueue(Job('waits'))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
        queue = open_queue(lambda job: None, path=path)
        assert (queue.paused(), queue.status("waits")) == ([QUEUE], Status.QUEUED)
        assert queue.metrics().workers == 3
        queue.resume()
        assert queue.wait("waits", DEADLINE).status is Status.COMPLETED


class TestWaitingFor:
    def test_join_waits_for_what_is_paused(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        queue.pause()
        queue.enqueue(Job())
        with pytest.raises(TimeoutError):
            queue.join(timeout=0.01)
        call = Background(queue.join, DEADLINE)
        queue.resume()
        call.result()

    @pytest.mark.parametrize("kinds", [False, True])
    def test_a_handler_may_wait_for_a_paused_job(self, open_queue: OpenQueue, kinds: bool) -> None:
        """Somebody may resume it, so that is not refused as hopeless."""
        waits = Journal()

        def ask_other(job: Job) -> str:
            waits.write("waits")
            return str(queue.wait("other", DEADLINE).status)

        asks = Kind(ask_other, workers=1) if kinds else ask_other
        queue = open_queue({"asks": asks, "mail": lambda job: None}, workers=2)
        queue.pause(kind="mail")
        queue.enqueue_many([Job("other", kind="mail"), Job("asker", kind="asks")])
        waits.wait_for("waits")
        queue.metrics()  # a turn later it still does
        queue.resume(kind="mail")
        record = queue.wait("asker", DEADLINE)
        assert (record.result, record.attempts) == ("completed", 1)

    def test_a_handler_may_wait_for_room_in_a_paused_lane(self, open_queue: OpenQueue) -> None:
        tries = Journal()

        def bring(job: Job) -> str:
            tries.write("tries")
            return queue.enqueue(Job("late", priority=LOW))

        kinds = {"brings": Kind(bring, workers=1), "default": lambda job: None}
        queue = open_queue(kinds, workers=2, capacity=1)
        queue.pause(priority=LOW)
        queue.enqueue_many([Job("fills", priority=LOW), Job("brings", kind="brings")])
        tries.wait_for("tries")
        queue.metrics()
        queue.resume(priority=LOW)
        record = queue.wait("brings", DEADLINE)
        assert (record.status, record.attempts) == (Status.COMPLETED, 1)


class TestClosing:
    @pytest.mark.parametrize("what", [{}, {"kind": "default"}, {"priority": "medium"}])
    def test_what_is_paused_stays_for_the_next_start(
        self, open_queue: OpenQueue, tmp_path: Path, what: dict[str, str]
    ) -> None:
        path = tmp_path / "jobs.db"
        queue = open_queue(lambda job: None, path=path)
        queue.pause(**what)
        job_id = queue.enqueue(Job())
        assert Background(queue.close, True, None).result() is False
        queue = open_queue(lambda job: None, path=path)
        assert queue.status(job_id) is Status.QUEUED
        queue.resume(**what)
        assert queue.wait(job_id, DEADLINE).status is Status.COMPLETED

    def test_all_others_run_before(self, open_queue: OpenQueue, gate: Gate) -> None:
        done = Journal()

        def handler(job: Job) -> None:
            gate.wait()
            done.write(job.id)

        queue = open_queue(handler, workers=1, path=":memory:")
        queue.pause(group="a")
        queue.enqueue_many([Job(group="a"), *(Job(str(n), group="b") for n in range(3))])
        call = Background(queue.close, True, None)
        eventually(lambda: is_closing(queue), "the closing to begin")
        gate.open()
        assert call.result() is False
        assert sorted(done.entries) == ["0", "1", "2"]

    def test_with_nothing_paused_left_it_has_all_come_about(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        queue.pause(kind="mail")
        queue.enqueue(Job())
        assert Background(queue.close, True, None).result() is True

    def test_a_resume_while_it_closes_still_counts(self, open_queue: OpenQueue, gate: Gate) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()

        queue = open_queue(handler, workers=1)
        queue.enqueue(Job("runs"))
        started.wait_for("runs")
        queue.pause()
        queue.enqueue(Job("waits"))
        call = Background(queue.close, True, None)
        eventually(lambda: is_closing(queue), "the closing to begin")
        queue.resume()
        gate.open()
        assert call.result() is True

    @pytest.mark.parametrize("wants", ["an end", "room"])
    def test_a_handler_that_waits_for_what_is_paused_is_turned_away(
        self, open_queue: OpenQueue, tmp_path: Path, wants: str
    ) -> None:
        """It is not charged, and runs at the next start."""
        path = tmp_path / "jobs.db"
        tries = Journal()

        def handler(job: Job) -> None:
            tries.write(job.id)
            if wants == "room":
                queue.enqueue(Job("late", priority=LOW))
            else:
                queue.wait("held")

        queue = open_queue({"asks": handler, "default": lambda job: None}, path=path, capacity=1)
        queue.pause(priority=LOW)
        queue.enqueue_many([Job("held", priority=LOW), Job("asker", kind="asks")])
        tries.wait_for("asker")
        assert Background(queue.close, True, None).result() is False
        queue = open_queue({"asks": handler, "default": lambda job: None}, path=path, capacity=2)
        queue.resume(priority=LOW)
        record = queue.wait("asker", DEADLINE)
        assert (record.status, record.attempts) == (Status.COMPLETED, 1)


# ---- workers ------------------------------------------------------------------------------------


class TestWorkers:
    def test_more_start_at_once(self, held_up: HeldUp) -> None:
        queue, started = held_up()
        queue.enqueue_many([Job("a"), Job("b")])
        assert queue.set_workers(3) == 3
        started.wait_for_count(3)
        assert (queue.metrics().workers, queue.metrics().processing) == (3, 3)

    def test_fewer_interrupt_nothing(self, open_queue: OpenQueue, gate: Gate) -> None:
        started, ended = Journal(), Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            gate.wait()
            ended.write(threading.current_thread().name)

        queue = open_queue(handler, workers=4)
        queue.enqueue_many([Job() for _ in range(4)])
        started.wait_for_count(4)
        assert queue.set_workers(1) == 1
        assert queue.metrics().processing == 4
        gate.open()
        queue.join(DEADLINE)
        assert len(set(ended.entries)) == 4
        _has_threads(queue, 1)
        queue.enqueue_many([Job() for _ in range(20)])
        queue.join(DEADLINE)
        assert len(set(ended.entries[4:])) == 1

    def test_idle_ones_leave_and_come_again(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None, workers=2)
        for count in (8, 1, 5, 2):
            assert queue.set_workers(count) == count
            _has_threads(queue, count)
            queue.enqueue_many([Job() for _ in range(50)])
            queue.join(DEADLINE)
        assert queue.close() is True

    def test_processes_leave_with_their_workers(
        self, open_queue: OpenQueue, tmp_path: Path
    ) -> None:
        queue = open_queue(_pid, workers=2, executor="process")
        pids = set(queue.map(range(2)))
        queue.set_workers(1)
        eventually(lambda: sum(map(_lives, pids)) <= 1, "a process to leave")
        assert len(list(queue.map(range(3)))) == 3

    def test_the_file_keeps_the_number(
        self, open_queue: OpenQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "jobs.db"
        with open_queue(lambda job: None, path=path, workers=2) as queue:
            queue.set_workers(3)
        with open_queue(lambda job: None, path=path, workers=2) as queue:
            assert queue.metrics().workers == _threads(queue) == 3
            assert "3 workers, as by set_workers, and not 2 as the option says." in caplog.text
            assert queue.set_workers(None) == 2
        caplog.clear()
        with open_queue(lambda job: None, path=path, workers=5) as queue:
            assert queue.metrics().workers == 5
        assert "set_workers" not in caplog.text

    def test_what_cannot_be_written_changes_nothing(self) -> None:
        engine = Engine(workers=1)
        engine.file.failures = 1
        with pytest.raises(StorageError):
            ask(engine, GiveOrder[int](SetWorkers(2)))
        assert engine.metrics().workers == 1
        assert engine.ledger.workers is None

    @pytest.mark.parametrize(
        ("number", "sentence"),
        [
            *[(0, r"pause\(\)"), (-1, "at least 1"), (True, "whole number"), ("2", "whole number")],
            *[(100_001, "at most 100,000"), (2**63, "at most 100,000, not one so large")],
        ],
    )
    def test_bad_numbers_are_refused(
        self, open_queue: OpenQueue, number: object, sentence: str
    ) -> None:
        queue = open_queue(lambda job: None, workers=2)
        with pytest.raises((TypeError, ValueError), match=sentence):
            queue.set_workers(number)  # type: ignore[arg-type]
        assert queue.metrics().workers == 2

    def test_with_fewer_a_deadlock_is_seen_sooner(self, open_queue: OpenQueue, gate: Gate) -> None:
        started = Journal()

        def handler(job: Job) -> None:
            started.write(job.id)
            if job.payload:
                gate.wait()
                queue.wait("other")

        queue = open_queue(handler, workers=2, max_retries=0)
        queue.enqueue(Job("asker", payload=True))
        started.wait_for("asker")
        queue.pause()
        queue.enqueue(Job("other"))
        queue.set_workers(1)
        queue.resume()
        gate.open()
        assert queue.wait("asker", DEADLINE).status is Status.FAILED

    def test_a_closed_queue_says_so(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lambda job: None)
        queue.close()
        for call in (queue.pause, queue.resume, lambda: queue.set_workers(2)):
            with pytest.raises(QueueClosed):
                call()


def _threads(queue: JobQueue) -> int:
    return sum(thread.is_alive() for thread in inside.workers(queue))


def _has_threads(queue: JobQueue, count: int) -> None:
    eventually(lambda: _threads(queue) == count, f"{count} workers")


def _pid(job: Job) -> int:
    return os.getpid()


def _lives(pid: object) -> bool:
    return psutil.pid_exists(int(str(pid)))
