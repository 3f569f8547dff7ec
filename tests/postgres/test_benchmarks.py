"""The benchmarks on PostgreSQL run, in a size that takes seconds; no figure counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.benchmarks.measure import SIZES
from tests.benchmarks.on_postgres import PostgresMeasures
from tests.benchmarks.postgres_queues import Final, PgQueuer, Procrastinate
from tests.benchmarks.report import Findings
from tests.benchmarks.several import Crew, server

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def measures() -> PostgresMeasures:
    measures = PostgresMeasures(SIZES["tiny"])
    measures.counts = (2,)
    return measures


@pytest.mark.slow
@pytest.mark.parametrize("measure", [PostgresMeasures.elsewhere, PostgresMeasures.held])
def test_a_table_has_all_its_rows(
    measures: PostgresMeasures, measure: Callable[[PostgresMeasures], Findings]
) -> None:
    (table,) = measure(measures).tables
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert len(table.rows) >= 2


@pytest.mark.slow
def test_all_take_turns_and_those_that_are_absent_say_so(measures: PostgresMeasures) -> None:
    (table,) = measures.processes().tables
    names = ["final", "final's ledger alone", "pgqueuer", "procrastinate"]
    assert [row[1] for row in table.rows] == names
    for peer, row in zip((PgQueuer(), Procrastinate()), table.rows[2:], strict=True):
        assert (row[0] == "") is bool(peer.missing())


def test_a_process_that_fails_ends_the_round() -> None:
    with server() as fresh, fresh() as database:
        Final().prepare(database.dsn)
        with Crew(Final(), database, 1) as crew:
            database.ask("DROP SCHEMA jobqueue CASCADE")
            with pytest.raises(RuntimeError, match="StorageError"):
                crew.run(10)
