"""The lab for a few seconds: a database that fails over (with FAULT=async it loses jobs), a host
whose cable is pulled out.
"""

from __future__ import annotations

import pytest

from tests import postgres_server
from tests.labs import hosts, network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        postgres_server.programs() is None or postgres_server.WINDOWS,
        reason=postgres_server.MISSING,
    ),
]


def test_what_was_acknowledged_survives_a_failover() -> None:
    verdict = hosts.attack("failover", seconds=4)
    assert verdict.holds, verdict


@pytest.mark.skipif(not network.is_possible(), reason=network.MISSING)
def test_a_host_that_nobody_reaches_for_a_while_costs_nothing() -> None:
    verdict = hosts.attack("partition", seconds=6)
    assert verdict.holds, verdict
    assert verdict.attacks > 0


@pytest.mark.skipif(not network.is_possible(), reason=network.MISSING)
def test_hosts_can_be_built_again_at_once() -> None:
    """As by the run after one that was killed: the kernel clears a host away when it has time."""
    for _ in range(10):
        with network.Network(count=3):
            pass
