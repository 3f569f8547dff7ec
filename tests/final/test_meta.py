"""Meta: what a job is about, for its handler, in its record, and to be found by."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sqlite3
from typing import Any

import pytest

from final import Job, JobQueue, Status, Unique
from final.beyond.meta import NO_META, Meta
from final.ledger.features import metas
from tests.final import process_handlers
from tests.final.engine import Engine, jobs
from tests.final.helpers import (
    AT_ONCE,
    NOT_TODAY,
    HeldUp,
    OpenQueue,
    eventually,
    fall_due,
    nothing,
    reaches,
)
from tests.helpers import DEADLINE, Gate, Journal

WEB_7 = {"user": "7", "source": "web"}


def ids(queue: JobQueue, **wanted: Any) -> list[str]:
    """The oldest first."""
    return [record.id for record in reversed(queue.jobs(**wanted))]


class TestOfAJob:
    def test_it_is_a_copy_that_cannot_be_changed(self) -> None:
        given = {"user": "7"}
        job = Job(meta=given)
        given["user"] = "8"
        assert job.meta == {"user": "7"}
        assert job == Job(job.id, meta={"user": "7"})
        for change in (
            lambda meta: meta.update(user="8"),
            lambda meta: meta.pop("user"),
            lambda meta: meta.clear(),
            lambda meta: meta.setdefault("more", "1"),
            lambda meta: meta.__setitem__("user", "8"),
            lambda meta: meta.__delitem__("user"),
            lambda meta: meta.__ior__({"user": "8"}),
            lambda meta: meta.popitem(),
        ):
            with pytest.raises(TypeError, match="does not change: make a dict of it"):
                change(job.meta)  # type: ignore[no-untyped-call]
        assert job.meta == {"user": "7"}

    def test_it_is_empty_where_there_is_none(self) -> None:
        assert Job().meta == Job(meta=None).meta == Job(meta={}).meta == {}
        assert Job().meta is NO_META

    def test_it_goes_where_a_dict_goes(self) -> None:
        meta = Job(meta=WEB_7).meta
        assert json.loads(json.dumps(meta)) == WEB_7
        for other in (pickle.loads(pickle.dumps(meta)), copy.deepcopy(meta)):
            assert type(other) is Meta
            assert other == WEB_7
        assert hash(meta) == hash(Job(meta=dict(reversed(WEB_7.items()))).meta)
        assert {**meta, "more": "1"} == {**WEB_7, "more": "1"}

    @pytest.mark.parametrize(
        ("meta", "told"),
        [
            ("user=7", r"Job\.meta is names with values, as meta=.*, not str\."),
            ([("user", "7")], r"Job\.meta is names with values, .* not list\."),
            ({"user": 7}, r"Job\.meta value of 'user' must be text \(str\), not int\."),
            ({7: "user"}, r"Job\.meta name must be text \(str\), not int\."),
            ({"": "7"}, r"Job\.meta name must not be empty\."),
            ({"user": ""}, r"Job\.meta value of 'user' must not be empty\."),
            ({"a:b": "7"}, r"Job\.meta name 'a:b' has a ':' or a '='"),
            ({"a=b": "7"}, r"Job\.meta name 'a=b' has a ':' or a '='"),
            ({"a" * 101: "7"}, r"Job\.meta name has 101 characters, more than 100\."),
            ({"user": "7" * 501}, r"Job\.meta value of 'user' has 501 characters, more than 500\."),
            ({"user": "\0"}, r"Job\.meta value of 'user' must not contain a NUL character\."),
            ({"user": "\ud800"}, r"Job\.meta value of 'user' cannot be stored as UTF-8"),
            ({str(n): "7" for n in range(21)}, r"Job\.meta has 21 entries, more than 20\."),
        ],
    )
    def test_what_cannot_be_kept_is_refused(self, meta: Any, told: str) -> None:
        with pytest.raises((TypeError, ValueError), match=told):
            Job(meta=meta)

    def test_the_longest_there_is(self, open_queue: OpenQueue) -> None:
        """In four bytes a character, and no two alike: an index has to take it."""
        names = [chr(0x1F600 + n) * 100 for n in range(20)]
        meta = {
            name: "".join(chr(0x20000 + (n * 7919 + k * 104_729) % 40_000) for k in range(500))
            for n, name in enumerate(names)
        }
        queue = open_queue(lambda job: job.meta == meta)
        job_id = queue.enqueue(Job(meta=meta))
        assert queue.wait(job_id, DEADLINE).result is True
        assert ids(queue, meta=meta) == [job_id]


class TestForTheHandler:
    def test_in_a_thread_and_in_a_coroutine(self, open_queue: OpenQueue) -> None:
        async def coroutine(job: Job) -> object:
            return dict(job.meta)

        queue = open_queue({"thread": lambda job: dict(job.meta), "coroutine": coroutine})
        for kind in ("thread", "coroutine"):
            for payload in (None, {"a": 1}):
                job_id = queue.enqueue(Job(kind=kind, payload=payload, meta=WEB_7))
                record = queue.wait(job_id, DEADLINE)
                assert record.result == WEB_7
                assert record.meta == WEB_7
            job_id = queue.enqueue(Job(kind=kind))
            assert queue.wait(job_id, DEADLINE).result == {}
            assert queue.get(job_id).meta == {}

    def test_in_a_process_of_its_own(self, open_queue: OpenQueue) -> None:
        queue = open_queue(process_handlers.meta, executor="process", workers=1)
        for meta in (WEB_7, {}):
            assert queue.wait(queue.enqueue(Job(meta=meta)), DEADLINE).result == meta

    def test_at_each_attempt(self, open_queue: OpenQueue) -> None:
        seen = Journal()

        def handler(job: Job) -> None:
            seen.write(dict(job.meta))
            if len(seen.entries) < 3:
                raise ValueError("once more")

        queue = open_queue(handler, backoff=AT_ONCE)
        queue.wait(queue.enqueue(Job(meta=WEB_7)), DEADLINE)
        assert seen.entries == [WEB_7] * 3

    def test_after_a_restart(self, open_queue: OpenQueue, path: str) -> None:
        with open_queue(nothing, path=path) as queue:
            queue.enqueue(Job("later", payload=[1], run_at=3600, meta=WEB_7))
            queue.enqueue(Job("plain", run_at=3600))
        fall_due(path)
        again = open_queue(lambda job: dict(job.meta), path=path)
        assert again.wait("later", DEADLINE).result == WEB_7
        assert again.wait("plain", DEADLINE).result == {}
        assert ids(again, meta=WEB_7) == ["later"]

    def test_where_there_is_no_memory_for_payloads(self, held_up: HeldUp, gate: Gate) -> None:
        queue, started = held_up(memory=0)
        queue.enqueue(Job("a", meta=WEB_7))
        queue.enqueue(Job("b"))
        queue.enqueue(Job("c", meta={"user": "8"}))
        gate.open()
        queue.join(DEADLINE)
        assert started.entries == ["holder", "a", "b", "c"]
        assert [queue.get(job_id).meta for job_id in "abc"] == [WEB_7, {}, {"user": "8"}]


class TestToBeFoundBy:
    @pytest.fixture
    def queue(self, open_queue: OpenQueue) -> JobQueue:
        queue: JobQueue = open_queue({"mail": nothing, "sms": nothing}, backoff=NOT_TODAY)
        queue.enqueue_many(
            [
                Job("a", kind="mail", meta=WEB_7, group="t1"),
                Job("b", kind="sms", meta={"user": "7", "source": "app"}, priority="high"),
                Job("c", kind="mail", meta={"user": "8", "source": "web"}, run_at=3_600),
                Job("d", kind="mail", group="t1"),
            ]
        )
        queue.wait("d", DEADLINE)
        queue.wait("a", DEADLINE)
        queue.wait("b", DEADLINE)
        return queue

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"meta": {"user": "7"}}, ["a", "b"]),
            ({"meta": {"source": "web"}}, ["a", "c"]),
            ({"meta": WEB_7}, ["a"]),
            ({"meta": {"source": "web", "user": "9"}}, []),
            ({"meta": {"user": "web"}}, []),
            ({"meta": {}}, ["a", "b", "c", "d"]),
            ({"meta": {"user": "7"}, "kind": "sms"}, ["b"]),
            ({"meta": {"user": "7"}, "priority": "high"}, ["b"]),
            ({"meta": {"source": "web"}, "status": "scheduled"}, ["c"]),
            ({"meta": {"source": "web"}, "group": "t1"}, ["a"]),
            ({"group": "t1"}, ["a", "d"]),
            ({"group": "t2"}, []),
        ],
    )
    def test_all_that_is_given_has_to_match(
        self, queue: JobQueue, wanted: Any, found: list[str]
    ) -> None:
        assert ids(queue, **wanted) == found
        assert ids(queue, payloads=False, **wanted) == found

    def test_page_by_page(self, queue: JobQueue) -> None:
        last = queue.jobs(limit=1, meta={"user": "7"})[0]
        assert last.id == "b"
        assert ids(queue, meta={"user": "7"}, before=last.id) == ["a"]
        assert ids(queue, meta={"user": "7"}, before=last.seq) == ["a"]
        assert ids(queue, meta={"user": "7"}, before="a") == []

    def test_the_rarest_pair_leads_among_many(self, queue: JobQueue) -> None:
        many = [Job(kind="mail", meta={"source": "web", "n": str(n)}) for n in range(1_100)]
        queue.enqueue_many(many)
        queue.join(DEADLINE)
        assert ids(queue, meta={"source": "web", "n": "700"}) == [many[700].id]
        assert len(queue.jobs(meta={"source": "web"}, limit=2_000)) == 1_102

    @pytest.mark.parametrize(
        "wanted", [{"meta": "user:7"}, {"meta": {"user": 7}}, {"meta": {"a:b": "7"}}, {"group": 7}]
    )
    def test_what_no_job_can_have_is_refused(self, queue: JobQueue, wanted: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wanted))} "):
            queue.jobs(**wanted)


class TestItsEnd:
    def test_it_is_forgotten_with_its_job(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing, history=1)
        for number in range(3):
            queue.wait(queue.enqueue(Job(str(number), meta={"user": "7"})), DEADLINE)
        eventually(lambda: ids(queue, meta={"user": "7"}) == ["2"], "the others to be forgotten")

    def test_a_purged_letter_takes_it_along(self, open_queue: OpenQueue) -> None:
        def handler(job: Job) -> None:
            raise ValueError("no")

        queue = open_queue(handler, max_retries=0)
        queue.wait(queue.enqueue(Job("dead", meta=WEB_7)), DEADLINE)
        assert ids(queue, meta=WEB_7, status="failed") == ["dead"]
        assert queue.purge() == 1
        assert ids(queue, meta=WEB_7) == []

    def test_one_that_is_replaced_is_about_what_the_new_one_is(
        self, held_up: HeldUp, gate: Gate
    ) -> None:
        queue, _ = held_up()
        page = Unique("page", then="replace")
        queue.enqueue(Job("first", meta={"user": "7", "old": "1"}, unique=page))
        for meta in ({"user": "8"}, {}, {"user": "9"}):
            assert queue.enqueue(Job(meta=meta, unique=page)) == "first"
            assert queue.get("first").meta == meta
        assert ids(queue, meta={"user": "7"}) == []
        assert ids(queue, meta={"user": "9"}) == ["first"]
        one, other = (Job(meta={"n": n}, unique=Unique("both", then="replace")) for n in "12")
        queue.enqueue_many([one, other])
        assert queue.get(one.id).meta == {"n": "2"}
        assert ids(queue, meta={"n": "1"}) == []
        gate.open()

    def test_one_that_does_not_come_in_leaves_nothing(self, open_queue: OpenQueue) -> None:
        queue = open_queue(nothing)
        queue.enqueue(Job("first", run_at=3_600, unique=Unique("k")))
        queue.enqueue(Job("second", run_at=3_600, meta=WEB_7, unique=Unique("k")))
        with pytest.raises(ValueError, match="first"):
            queue.enqueue(Job("first", meta=WEB_7))
        assert ids(queue, meta=WEB_7) == []


def test_in_a_file_no_row_is_left(open_queue: OpenQueue, path: str) -> None:
    with open_queue(nothing, path=path, history=0) as queue:
        queue.enqueue_many([Job(meta=WEB_7), Job("off", meta=WEB_7, run_at=3_600)])
        queue.cancel("off")
        queue.join(DEADLINE)
        eventually(lambda: queue.jobs() == [], "all to be forgotten")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (0,)
    connection.close()


def test_in_a_file_that_could_not_be_read_at_first(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payload had been: so the job was handed out without its meta."""
    engine, request = Engine(path), jobs("holder", "x")
    request.tasks[1].meta = Meta(WEB_7)
    engine.turn(request)
    engine.crash()
    engine = Engine(path, workers=2)
    with monkeypatch.context() as broken:
        broken.setattr(metas, "LOAD", "SELECT what the disk does not give")
        engine.turn()
    assert not engine.batches
    engine.settle()
    assert [task.meta for batch in engine.batches for task in batch.claimed] == [{}, WEB_7]


def test_jobs_without_meta_cost_no_statement(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    queue = open_queue(nothing, history=0)
    queue._ledger._file._writer.set_trace_callback(statements.append)  # type: ignore[attr-defined]
    queue.enqueue_many([Job() for _ in range(10)])
    queue.join(DEADLINE)
    eventually(lambda: queue.jobs() == [], "all to be forgotten")
    written = [s for s in list(statements) if "meta" in s and not s.startswith("SELECT id")]
    assert written == []


def test_log_lines_about_a_job_say_so_for_programs(
    open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "final")

    def handler(job: Job) -> None:
        raise ValueError("no")

    queue = open_queue({"mail": handler}, max_retries=1, backoff=AT_ONCE)
    queue.enqueue(Job("x", kind="mail", priority="low", group="t1"))
    reaches(queue, "x", Status.FAILED)
    queue.close()
    told = [
        (r.levelname, r.status, r.attempt)  # type: ignore[attr-defined]
        for r in caplog.records
        if getattr(r, "job_id", None) == "x"
    ]
    assert [status for level, status, _ in told if level == "WARNING"] == ["retrying", "failed"]
    moved = [
        (r.status, r.attempt)  # type: ignore[attr-defined]
        for r in caplog.records
        if r.levelname == "DEBUG" and "traceback" not in r.msg
    ]
    assert moved == [
        *(("queued", 0), ("processing", 1), ("retrying", 1)),
        *(("queued", 1), ("processing", 2), ("failed", 2)),
    ]
    for record in caplog.records:
        about = vars(record)
        assert [about[name] for name in ("kind", "priority", "group")] == ["mail", "low", "t1"]
