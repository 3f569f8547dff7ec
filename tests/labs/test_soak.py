"""The soak, for a few seconds: nothing is wrong with final, and planted faults are caught."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from final import Job, JobQueue, Metrics, Priority, Status
from final.engine.metrics import Counts
from tests.benchmarks.report import terminal
from tests.final.helpers import nothing
from tests.labs import soak
from tests.labs.soak import FAULTS, Soak
from tests.labs.soak_books import BOUNDS, Gauges, Ledger, miscounts, trend, trends
from tests.labs.soak_load import Wire, listen
from tests.labs.soak_report import report

# The machine may be busy with other things: this is for all that a test waits for.
pytestmark = pytest.mark.timeout(200)

SEED = "5"


def run(seconds: float, folder: Path) -> Soak:
    one = Soak(seconds, SEED, folder)
    with soak.quiet():
        one.run(lambda _: None)
    return one


@pytest.mark.slow
def test_final_loses_nothing_miscounts_nothing_and_does_not_grow(tmp_path: Path) -> None:
    one = run(5.0, tmp_path)
    assert one.wrong == []
    counts = one.ledger.counts
    # It did what it says: jobs failed and ended, the process was killed, the metrics checked.
    for what in ("completed", "retrying", "failed", "duplicates refused", "squares"):
        assert counts[what] > 0, what
    assert counts["epochs killed"] > 0
    assert one.checks > 10
    shown_to = io.StringIO()
    report(terminal(shown_to, width=80), one)
    assert "Every accepted job is accounted for" in shown_to.getvalue()


PLANTS = {
    # Much, for it is seen within 3 seconds; and cheap, for whoever cannot keep up does not end.
    "memory": lambda: soak.hoard(lambda: bytearray(b"x") * 1_000_000, a_second=150),
    "miscount": FAULTS["miscount"],
    "lost": FAULTS["lost"],
}
COMPLAINTS = {"memory": "memory grew by", "miscount": "metrics", "lost": "close ran all that"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTS)
def test_a_planted_fault_is_caught(fault: str, tmp_path: Path) -> None:
    with PLANTS[fault]():
        one = run(3.0, tmp_path)
    assert any(COMPLAINTS[fault] in sentence for sentence in one.wrong), one.wrong
    shown_to = io.StringIO()
    report(terminal(shown_to, width=80), one)
    assert one.wrong[0] in shown_to.getvalue()
    assert "accounted for" not in shown_to.getvalue()


class TestTrends:
    def test_only_the_second_half_counts(self) -> None:
        warming_up = [*range(50), *[50.0] * 50]
        assert trend("memory", warming_up, 0.0, 1.0).flat

    def test_a_leak_is_seen_through_the_noise(self) -> None:
        """Threads come and go by ten; one in twenty stays."""
        values = [20.0 + 10 * (second % 2) + second / 20 for second in range(400)]
        leak = trend("threads", values, 0.0, 4.0)
        assert (leak.flat, round(leak.growth)) == (False, 5)

    def test_every_gauge_is_watched(self) -> None:
        level = Gauges(memory=80.0, threads=20, handles=30, children=2, file=8.0)
        for name in BOUNDS:
            grown = [replace(level, **{name: getattr(level, name) + n}) for n in range(80)]
            assert [each.what for each in trends(grown) if not each.flat] == [name]

    def test_too_few_values_are_refused(self) -> None:
        with pytest.raises(ValueError, match="run for longer"):
            trend("memory", [1.0, 2.0, 3.0], 0.1, 1.0)


class TestMiscounts:
    def metrics(self, accepted: int = 0, queued: int = 0, completed: int = 0) -> Metrics:
        """Of a queue whose jobs are all HIGH."""
        high = Counts(accepted, queued, completed=completed)
        return Metrics(accepted, queued, completed=completed, by_priority={Priority.HIGH: high})

    def test_a_real_queue_has_none(self) -> None:
        with JobQueue(nothing) as queue:
            queue.enqueue_many([Job() for _ in range(10)])
            assert miscounts(queue.metrics(), None) == []
        assert miscounts(queue.metrics(), None) == []

    def test_a_sum_that_is_not_what_was_accepted(self) -> None:
        assert miscounts(self.metrics(accepted=3, queued=1, completed=1), None) == [
            "metrics, all lanes: 1 queued + 1 completed is not 3 accepted.",
            "metrics, HIGH: 1 queued + 1 completed is not 3 accepted.",
        ]

    def test_less_than_nothing(self) -> None:
        wrong = miscounts(self.metrics(queued=-1, completed=1), None)
        assert "metrics, HIGH: queued is -1." in wrong

    def test_lanes_that_are_not_the_whole(self) -> None:
        wrong = miscounts(replace(self.metrics(accepted=1, queued=1), accepted=2, queued=2), None)
        assert "metrics: 2 queued in all, but 1 in the lanes." in wrong

    def test_a_count_that_goes_back(self) -> None:
        before = self.metrics(accepted=2, completed=2)
        now = self.metrics(accepted=2, completed=1, queued=1)
        assert miscounts(now, before) == ["metrics: completed went back to 1."]


class TestLedger:
    def ledger(self, *accepted: str) -> Ledger:
        ledger = Ledger()
        ledger.offer(*accepted)
        ledger.accept(*accepted)
        return ledger

    def test_a_job_that_is_not_in_the_file_is_lost(self) -> None:
        ledger = self.ledger("a", "b")
        ledger.heard("b", "completed")
        ledger.compare({"b": Status.COMPLETED}, killed=False)
        assert ledger.wrong == ["Job a was accepted, was queued, and is lost."]

    def test_after_a_kill_it_is_lost_too(self) -> None:
        ledger = self.ledger("a")
        ledger.compare({}, killed=True)
        assert ledger.wrong == ["Job a was accepted, was queued, and is lost."]

    def test_after_a_kill_whoever_was_not_acknowledged_may_be_in_the_file_or_not(self) -> None:
        ledger = Ledger()
        ledger.offer("in", "not")
        ledger.compare({"in": Status.QUEUED}, killed=True)
        assert ledger.wrong == []
        assert ledger.unfinished() == ["in"]

    def test_a_job_that_ends_before_enqueue_returns_is_no_surprise(self) -> None:
        ledger = Ledger()
        ledger.offer("a")
        ledger.heard("a", "completed")
        ledger.accept("a")
        assert (ledger.wrong, ledger.unfinished()) == ([], [])

    def test_a_job_that_ends_twice(self) -> None:
        ledger = self.ledger("a")
        ledger.heard("a", "completed")
        ledger.heard("a", "completed")
        assert ledger.wrong == ["Job a is completed, although it had ended before."]

    def test_a_refused_job_that_runs(self) -> None:
        ledger = Ledger()
        ledger.offer("a")
        ledger.heard("a", "processing")
        ledger.refuse("a")
        assert ledger.wrong == ["Job a was refused, and is processing."]

    def test_a_file_that_says_something_else(self) -> None:
        ledger = self.ledger("a")
        ledger.compare({"a": Status.COMPLETED}, killed=False)
        assert "Job a is completed in the file; last heard of as queued" in ledger.wrong[0]

    def test_a_dead_letter_may_be_purged_or_revived(self) -> None:
        ledger = self.ledger("purged", "revived")
        for job_id in ("purged", "revived"):
            ledger.heard(job_id, "failed")
        ledger.heard("revived", "queued")
        ledger.compare({"revived": Status.QUEUED}, killed=False)
        assert (ledger.wrong, ledger.counts["purged"]) == ([], 1)
        assert ledger.unfinished() == ["revived"]


def test_what_a_killed_process_said_is_entered(capsys: pytest.CaptureFixture[str]) -> None:
    wire, ledger = Wire(), Ledger()
    wire.offer("a", "b")
    wire.accept("a")
    wire.complain("Two words.")
    said = capsys.readouterr().out.splitlines(keepends=True)
    for line in [*said, "accept b"]:  # the kill came before the end of the last one
        listen(line, ledger)
    assert ledger.counts["accepted"] == 1
    assert ledger.wrong == ["Two words."]


@pytest.mark.parametrize("minutes", ["0", "-1", "soon", "nan", "inf"])
def test_minutes_that_make_no_sense_are_refused(
    minutes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINUTES", minutes)
    with pytest.raises(SystemExit, match="MINUTES is a number of at least"):
        soak.main()


def test_a_fault_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "typo")
    with pytest.raises(SystemExit, match="FAULT is one of memory, threads, handles"):
        soak.main()
