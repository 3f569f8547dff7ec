"""The list of what is mutated, and by which tests that has to be noticed, is complete."""

from __future__ import annotations

from tests import mutants

FINAL = mutants.ROOT / "final"
ON_TOP = ("service", "examples")  # what uses the queue


def test_every_file_of_the_queue_is_in_it() -> None:
    files = [file.relative_to(FINAL).with_suffix("") for file in FINAL.rglob("*.py")]
    core = {file.as_posix() for file in files if file.parts[0] not in ON_TOP}
    core = {file for file in core if not file.endswith("__")}  # __init__, __main__
    assert set(mutants.TESTS) == core - {"ledger/base"}  # which is a protocol


def test_every_test_that_it_names_is_there() -> None:
    named = {mutants.path_of(test) for tests in mutants.TESTS.values() for test in tests}
    assert [test for test in sorted(named) if not (mutants.ROOT / test).exists()] == []
