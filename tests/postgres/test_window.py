"""What a look finds, and what of it is known afterwards, exchange by exchange."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from final import LeakyBucket, TokenBucket
from final.job import Outcome, Priority, Task
from final.ledger.base import Given
from final.ledger.postgres import statements as sql
from final.ledger.postgres import window
from final.ledger.postgres.ledger import PostgresLedger
from final.ledger.postgres.window import Window
from tests.helpers import DEADLINE
from tests.postgres.test_processes import sql as ask_server
from tests.postgres.test_returned import (  # noqa: F401  (two are fixtures)
    claimed,
    elsewhere,
    exchange,
    ledger,
    new,
    opened,
)


def ids(given: Given) -> list[str]:
    return [task.id for batch in given.claims for task in batch]


def test_a_turn_that_has_waited_since_it_read_the_clock_gives_no_second_burst(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = f"extract(epoch FROM {sql.NOW})"
    with opened(address, rate_limit=TokenBucket(0.001, 2)) as limited:
        exchange(limited, new=[new(name) for name in "abcd"])
        assert ids(exchange(limited, idle=4)) == ["a", "b"]
        monkeypatch.setattr(sql, "BEGIN_TURN", sql.BEGIN_TURN.replace(clock, f"{clock} - 2"))
        limited._memory.more = True
        assert ids(exchange(limited, idle=4)) == []


def test_what_is_set_aside_stands_in_the_way_of_nobody(ledger: PostgresLedger) -> None:  # noqa: F811
    ((first,),) = exchange(ledger, new=[new("first")], idle=1).claims
    exchange(ledger, new=[new("next")])
    assert ids(exchange(ledger, aside=[(first.token, [first])], idle=1)) == ["next"]


def test_what_came_in_beside_a_look_and_may_not_be_next_is_looked_for(
    ledger: PostgresLedger,  # noqa: F811
) -> None:
    of_a_group = new("a")
    of_a_group[0].group = "g"
    ledger._memory.more = True
    assert exchange(ledger, new=[of_a_group], idle=1).ready
    assert ids(exchange(ledger, idle=1)) == ["a"]


def test_what_is_told_between_a_look_and_its_answer_is_not_forgotten(
    ledger: PostgresLedger,  # noqa: F811
    elsewhere: PostgresLedger,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = threading.Event()
    ledger.listen(lambda told: heard.set())
    pick = Window.pick

    def meanwhile(window: Window, *answers: Any) -> Sequence[Sequence[Task]]:
        exchange(elsewhere, new=[new("a")])
        elsewhere._notices.send_at_once()
        assert heard.wait(DEADLINE)
        return pick(window, *answers)

    with monkeypatch.context() as patch:
        patch.setattr(Window, "pick", meanwhile)
        ledger._memory.more = True
        exchange(ledger, idle=1)
    ledger._housekeeping.poll_at = ledger._memory.now + DEADLINE
    assert ids(exchange(ledger, idle=1)) == ["a"]


def test_who_never_looks_does_not_pass_over_what_has_ended(
    ledger: PostgresLedger,  # noqa: F811
    elsewhere: PostgresLedger,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "MARGIN", 0)
    ended = [Outcome(task, 0.0) for task in claimed(ledger, 5)]
    exchange(ledger, outcomes=[(each.task.token, [each]) for each in ended])
    elsewhere._housekeeping._look_back_at = 0.0
    elsewhere._housekeeping.poll()
    assert min(elsewhere._memory.low) == 5


def test_a_look_past_too_many_ended_jobs_ends_by_itself_and_is_told(
    ledger: PostgresLedger,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sql, "FIRST", "SELECT 0, 0, 0 FROM pg_sleep(60)")
    ledger._housekeeping._look_back_at = 0.0
    ledger._housekeeping.poll()
    assert "is a transaction held open there?" in caplog.text
    assert not ledger._session.is_lost


def of_two_kinds(ledger: PostgresLedger) -> None:  # noqa: F811
    """Five of a kind with a limit, and one of another behind them."""
    tasks = [new(name)[0] for name in ("l1", "l2", "l3", "l4", "l5", "other")]
    for task in tasks[:-1]:
        task.kind = "limited"
    exchange(ledger, new=[tasks])


def test_a_limit_that_opens_between_looks_does_not_hide_those_behind(address: str) -> None:
    """As where a turn takes longer than it takes a limit to let the next one start."""
    with opened(address, rate_limit={"limited": LeakyBucket(10**6)}) as limited:
        of_two_kinds(limited)
        first = ids(exchange(limited, idle=2))
        assert first == ["l1"], "one at a time"
        assert sorted(ids(exchange(limited, idle=2))) == ["l2", "other"]
        assert ids(exchange(limited, idle=2)) == ["l3"]


def test_a_look_past_those_of_a_full_kind_begins_where_the_one_before_came_to(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MARGIN", 0)
    with opened(address, rate_limit={"limited": LeakyBucket(0.001)}) as limited:
        of_two_kinds(limited)
        assert ids(exchange(limited, idle=2)) == ["l1"]
        assert ids(exchange(limited, idle=2)) == ["other"]
        assert limited._memory.beyond[frozenset({"limited"})][1] == 6
        assert limited._memory.low[1] == 2, "a look that leaves out nothing begins at the first"
        exchange(limited, new=[new("later")])
        exchange(limited, idle=2)  # finds those of the full kind
        assert ids(exchange(limited, idle=2)) == ["later"]


def test_the_next_of_a_group_moves_no_mark_past_those_before_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked for by itself: between it and the heads of the lane nobody was seen."""
    monkeypatch.setattr(window, "MARGIN", 0)
    a1, a2, *others = [new(name)[0] for name in ("a1", "a2", "b", "c", "d")]
    a1.group = a2.group = "a"
    with opened(address, group_limit=1) as limited:
        exchange(limited, new=[[a1, a2]])
        exchange(limited, new=[others])
        ((first,),) = exchange(limited, idle=1).claims
        assert first.id == "a1", "then a2 goes to the end of the lane"
        ended = [(first.token, [Outcome(first, 0.0)])]
        assert ids(exchange(limited, outcomes=ended, idle=1)) == ["b"]
        assert [*ids(exchange(limited, idle=1)), *ids(exchange(limited, idle=1))] == ["c", "d"]
        assert ids(exchange(limited, idle=1)) == ["a2"]


def test_one_of_a_freed_group_that_does_not_start_yet_keeps_its_place(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its group was full, the mark has passed it."""
    monkeypatch.setattr(window, "MARGIN", 0)
    a1, a2, *others = [new(name)[0] for name in ("a1", "a2", "b", "c", "d", "e")]
    a1.group = a2.group = "a"
    with opened(address, group_limit=1) as limited:
        exchange(limited, new=[[a1, a2]])
        ((first,),) = exchange(limited, idle=1).claims
        exchange(limited, new=[others])
        assert [*ids(exchange(limited, idle=1)), *ids(exchange(limited, idle=1))] == ["b", "c"]
        [urgent] = new("urgent")
        urgent.priority = Priority.HIGH
        exchange(limited, new=[[urgent]])
        ended = [(first.token, [Outcome(first, 0.0)])]
        assert ids(exchange(limited, outcomes=ended, idle=1)) == ["urgent"]
        assert ids(exchange(limited, idle=1)) == ["a2"], "it has waited for longer than the others"
        assert ids(exchange(limited, idle=1)) == ["d"]


def test_nor_does_one_of_a_kind_that_is_left_out_lose_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MARGIN", 0)
    a1, a2, *others = [new(name)[0] for name in ("a1", "a2", "l1", "l2", "b", "c")]
    a1.group = a2.group = "a"
    for task in (a1, a2, *others[:2]):
        task.kind = "limited"
    with opened(address, group_limit=1, rate_limit={"limited": LeakyBucket(0.001)}) as limited:
        exchange(limited, new=[[a1, a2]])
        ((first,),) = exchange(limited, idle=1).claims
        exchange(limited, new=[others])
        assert ids(exchange(limited, idle=2)) == []
        ended = [(first.token, [Outcome(first, 0.0)])]
        assert ids(exchange(limited, outcomes=ended, idle=2)) == ["b", "c"]
        ask_server(address, "UPDATE jobqueue.meter SET first = 0")  # as after some time
        assert ids(exchange(limited, idle=1)) == ["a2"]


def test_of_a_group_of_which_several_stand_the_oldest_is_next(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where callers' transactions have brought them. The mark has passed some of them."""
    monkeypatch.setattr(window, "MARGIN", 0)
    tasks = [new(name)[0] for name in ("a1", "a2", "a3", "a4")]
    for task in tasks:
        task.group = "a"
    with opened(address, group_limit=1) as limited:
        exchange(limited, new=[tasks])
        ask_server(address, "UPDATE jobqueue.job SET behind = false, place = seq")
        ((first,),) = exchange(limited, idle=1).claims
        limited._memory.low[1] = 3
        ended = [(first.token, [Outcome(first, 0.0)])]
        assert ids(exchange(limited, outcomes=ended, idle=1)) == ["a2"]
