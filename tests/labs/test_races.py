"""The race lab: every schedule is tried, what breaks is found, and nothing is found that is not.

Every scenario of the catalogue is played here with one forced switch, in every third place;
planted bugs in all, with up to two, until they are found. ``make lab-race`` leaves out nothing.
"""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.labs import race_report, races, small_races, stand_ins
from tests.labs.exploration import Verdict, explore, forced_switches, only
from tests.labs.race_catalogue import CATALOGUE, IMPROVED, Entry
from tests.labs.race_scenarios import two_workers_claiming
from tests.labs.scheduler import NotRepeatable, Scenario

# The machine may be busy with other things: this is for all that a test waits for.
pytestmark = pytest.mark.timeout(200)

ROOT = Path(__file__).parents[2]


def play(scenario: Scenario, switches: int = 2) -> Verdict:
    """Explore a small scenario; its lines are the code under test."""
    return explore(scenario, small_races, switches=switches)


class TestCatalogue:
    @pytest.mark.slow
    @pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
    def test_what_holds_and_what_breaks(self, entry: Entry) -> None:
        verdict = entry.explore(races.FOR_BUGS) if entry.breaks else entry.explore(1, every=3)
        assert verdict.holds is not entry.breaks, str(verdict)
        assert NotRepeatable.__name__ not in verdict.failure

    def test_every_planted_bug_is_in_it(self) -> None:
        planted = {entry.subject.name for entry in CATALOGUE if entry.is_planted}
        assert len(planted) >= 10
        assert all(entry.breaks for entry in CATALOGUE if entry.is_planted)

    def test_the_scenarios_that_break_hold_on_the_sound_stage(self) -> None:
        sound = {entry.title for entry in CATALOGUE if not entry.breaks}
        assert {entry.title for entry in CATALOGUE} == sound


class TestExploration:
    def test_a_lost_update_is_found_with_one_switch_and_not_without(self) -> None:
        assert play(small_races.lost_update, switches=0).holds
        verdict = play(small_races.lost_update)
        assert verdict.failure == "counted 1 of 2"
        assert len(verdict.schedule) == 1

    def test_the_story_is_the_order_in_which_the_lines_ran(self) -> None:
        story = play(small_races.lost_update).story
        assert [(event.thread, event.kind) for event in story] == [
            ("ada", "line"),  # reads, and is stopped before the line that writes
            ("bob", "switch"),
            ("bob", "line"),
            ("bob", "line"),
            ("bob", "ends"),
            ("ada", "line"),
            ("ada", "ends"),
        ]

    def test_every_order_of_two_threads_comes_once(self) -> None:
        small_races.orders.clear()
        verdict = play(small_races.two_times_two_steps, switches=4)
        assert verdict.holds
        # Four letters of which two are of each thread, each thread's in order: 4! / (2! 2!).
        assert len(set(small_races.orders)) == 6
        assert set(small_races.orders) == {"abAB", "aAbB", "aABb", "AabB", "AaBb", "ABab"}

    def test_the_simplest_schedules_come_first(self) -> None:
        # With one switch: bob begins; he does so before ada's first line; before her second.
        assert play(small_races.lost_update).tried == [1, 3]

    def test_a_deadlock_is_told_with_both_stacks(self) -> None:
        verdict = play(small_races.two_locks)
        assert verdict.failure.startswith("Deadlock: ada waits for a lock that bob has taken;")
        assert [stuck.thread for stuck in verdict.stuck] == ["ada", "bob"]
        code = [race_report._code(*stuck.stack[-1]) for stuck in verdict.stuck]
        assert code == ["with second:  # ada", "with first:  # bob"]

    def test_a_notify_that_nobody_hears_is_a_deadlock(self) -> None:
        assert "sleeper waits for a notify" in play(small_races.lost_wake_up).failure

    def test_threads_that_go_round_in_circles_are_told(self) -> None:
        assert play(small_races.spinning).failure == "Still running after 20,000 decisions."

    def test_an_exception_in_a_thread_is_a_failure(self) -> None:
        assert play(small_races.raising).failure == "ZeroDivisionError: division by zero"

    def test_a_scenario_that_depends_on_earlier_runs_is_refused_in_a_sentence(self) -> None:
        small_races.left_behind.clear()
        assert "something that an earlier run left behind" in play(small_races.forgetful).failure

    def test_time_is_virtual_and_a_switch_can_make_it_pass(self) -> None:
        began = time.monotonic()
        verdict = play(small_races.deadline_against_work)
        assert verdict.failure == "gave up after a day"
        assert len(verdict.schedule) == 1
        assert time.monotonic() - began < 3_600
        assert ("time", "86400 s") in [(event.kind, event.text) for event in verdict.story]

    def test_no_switch_is_forced_outside_of_the_chosen_code(self) -> None:
        elsewhere = only(small_races.lost_wake_up)
        assert explore(small_races.lost_update, small_races, where=elsewhere).holds

    def test_operations_are_points_wherever_they_are(self) -> None:
        elsewhere = only(small_races.lost_update)
        assert not explore(small_races.two_locks, small_races, where=elsewhere).holds


class TestStandIns:
    def test_they_are_in_place_for_the_exploration_only(self) -> None:
        small_races.kinds.clear()
        play(small_races.looks_at_its_lock, switches=0)
        assert small_races.kinds == [stand_ins.Lock]
        assert vars(small_races)["threading"] is threading

    def test_what_they_do_not_have_is_refused_in_a_sentence(self) -> None:
        assert (
            "has no threading.Semaphore: build the scenario with Lock"
            in play(small_races.semaphore).failure
        )

    @pytest.mark.parametrize("manner", ["real", "stand-in"])
    def test_they_behave_as_the_real_ones(self, manner: str) -> None:
        if manner == "real":
            small_races.behave()
        else:
            assert play(small_races.behaving, switches=0).failure == ""


class TestReport:
    @pytest.mark.parametrize("width", [80, 120])
    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_a_failing_schedule_fits_the_terminal(self, width: int, encoding: str) -> None:
        text = printed(find("TwoLocksTwoOrders").explore(2), width, encoding)
        assert "forced switch: observer goes on" in text
        assert "248 with self._mutex:" in text
        assert "Deadlock: improved-worker-0 waits for a lock that observer has taken" in " ".join(
            text.split()
        )
        assert max(map(len, text.splitlines())) <= width

    def test_each_thread_has_its_column(self) -> None:
        rows = printed(play(small_races.lost_update), 80, "utf-8").splitlines()
        (header,) = (row for row in rows if row.split() == ["ada", "bob"])
        reads = [row.index("before = count") for row in rows if "before = count" in row]
        assert [header.index(name) for name in ("ada", "bob")] == [start - 5 for start in reads]

    def test_what_fails_before_the_race_has_no_columns(self) -> None:
        text = printed(play(small_races.semaphore), 80, "utf-8")
        assert "The race lab has no threading.Semaphore" in text

    def test_what_holds_is_one_line(self) -> None:
        text = printed(Verdict("a scenario", tried=[1, 20], seconds=0.1), 80, "utf-8")
        assert "holds in 21 schedules, up to 1 forced switch." in text

    def test_a_surprise_is_marked(self) -> None:
        entry = Entry(two_workers_claiming, IMPROVED)
        found = [(entry, Verdict("", tried=[1], failure="two at once"))]
        console = recorder(80, "utf-8")
        console.print(race_report.table(found))
        console.print(race_report.summary(found, [entry]))
        assert "breaks: a surprise" in console.export_text()

    def test_numbers_of_switches_read_well(self) -> None:
        assert [forced_switches(n) for n in (0, 1, 2)] == [
            "no forced switch",
            "1 forced switch",
            "2 forced switches",
        ]


class TestProgram:
    def test_it_says_what_broke_and_that_it_should(self) -> None:
        result = lab("naive")
        assert result.returncode == 0, result.stderr
        assert "breaks, 1 switch" in result.stdout
        assert "accepted ['a', 'b'], but ran []" in result.stdout
        assert "1 hold, 1 break as they should." in result.stdout

    def test_a_word_that_is_in_no_name_is_refused(self) -> None:
        result = lab("no-such-race")
        assert result.returncode == 2
        assert "no scenario has 'no-such-race' in its name; these there are: " in result.stderr

    def test_a_number_of_switches_that_is_none_is_refused(self) -> None:
        assert "SWITCHES is a whole number of at least 0" in lab("naive", SWITCHES="many").stderr

    def test_of_those_with_the_most_switches_only_some_are_tried(self) -> None:
        (entry,) = (entry for entry in CATALOGUE if entry.name == "two workers claiming on naive")
        one, all_two = entry.explore(1).tried, entry.explore(2).tried
        assert entry.explore(2, every=50).tried == [*one, -(-all_two[2] // 50)]

    def test_the_names_can_be_listed(self) -> None:
        assert lab("--list").stdout.splitlines() == [entry.name for entry in CATALOGUE]

    def test_the_scenario_in_the_docstring_runs_as_it_stands_there(self) -> None:
        results = doctest.testmod(races, optionflags=doctest.ELLIPSIS)
        assert results.attempted == 4
        assert results.failed == 0


def find(bug: str) -> Entry:
    (entry,) = (entry for entry in CATALOGUE if entry.subject.name == bug)
    return entry


def recorder(width: int, encoding: str) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    return Console(width=width, file=file, record=True, highlight=False, markup=False)


def printed(verdict: Verdict, width: int, encoding: str) -> str:
    console = recorder(width, encoding)
    races.show(verdict, console)
    return console.export_text()


def lab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.labs.races", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        capture_output=True,
        timeout=90,
    )
