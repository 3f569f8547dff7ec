"""The pytest plugin that holds the suite to expectations.py, and shows the outcome.

Every test in tests/suite/ names its capability. Where expectations.py says that the
stage passes, the test must pass; where it names a flaw, every test of the capability
must fail there, by a failed assertion; where it says that the stage never had this, the
test must fail for want of just that. All else is a surprise, and turns the run red:
a flaw that does not show, a test that breaks before it could show it, a skip, a
feature that a stage has after all.

    --scoreboard   draw the matrix of capabilities and stages instead of pytest's report
    --hard         let the known flaws fail; each failure ends with why, where and the fix
                   (what a stage was never meant to have is no flaw, and stays expected)
    --write-docs   after a full run without surprises, write it into README.md and docs/

How things look is decided in matrix.py (terminal) and pages.py (Markdown).
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests import ledger, pages
from tests.expectations import CANDIDATE, CAPABILITIES, COLUMNS, FLAWS, Flaw
from tests.results import CASE, Case, Outcome, Results, Surprise
from tests.screen import Scoreboard
from tests.stages import NotInThisStage

# What a test raises to say "this is not so": a failed assert, or pytest.fail("sentence").
SHOWS_A_FLAW = (AssertionError, pytest.fail.Exception)

# The exit code of --hard where all that failed was a known flaw: make goes on.
ON_PURPOSE = 10

RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("three stages")
    group.addoption(
        "--scoreboard", action="store_true", help="show the matrix of capabilities and stages"
    )
    group.addoption(
        "--hard",
        action="store_true",
        help="let the known flaws fail: why, where, the fix (turns --scoreboard off)",
    )
    group.addoption(
        "--write-docs",
        action="store_true",
        help="after a full run without surprises, update README.md and docs/",
    )


@pytest.hookimpl(trylast=True)  # after pytest made the reporter that the scoreboard replaces
def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()
    option = config.option
    if option.scoreboard and not (option.hard or option.collectonly):
        config.pluginmanager.register(Scoreboard(config, config.stash[RESULTS]), "scoreboard")


# The rules, at collection


@pytest.hookimpl(tryfirst=True)  # before -k picks: the rules hold for the tests it leaves out, too
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    suite = config.rootpath / "tests" / "suite"
    stages = set()
    for item in items:
        if item.path.is_relative_to(suite):
            case = _case(item)
            if case.stage == CANDIDATE:
                continue  # it passes or fails, and that is all: see tests/ladder/
            item.stash[CASE] = case
            stages.add(case.stage)
            if case.is_absent:
                reason = f"{case.stage} has no {case.capability.needs}"
                _expect_failure(item, NotInThisStage, reason)
            elif case.flaw and not config.option.hard:
                _expect_failure(item, SHOWS_A_FLAW, f"{case.flaw.id}: {case.flaw.what}")
    config.stash[RESULTS].stages = [stage for stage in COLUMNS if stage in stages]
    if config.option.hard:
        items.sort(key=_by_flaw)


def _expect_failure(
    item: pytest.Item,
    raises: type[BaseException] | tuple[type[BaseException], ...],
    reason: str,
) -> None:
    item.add_marker(pytest.mark.xfail(strict=True, raises=raises, reason=reason))


def _case(item: pytest.Item) -> Case:
    """What the test is about; a UsageError if it does not say so, or says what is unknown."""
    marks = list(item.iter_markers("capability"))
    if len(marks) != 1 or len(marks[0].args) != 1:
        raise pytest.UsageError(
            f"{item.nodeid} must name the one capability it shows, and names {len(marks)}; "
            'put pytestmark = pytest.mark.capability("<name>") at the top of its file.'
        )
    name = marks[0].args[0]
    if name not in CAPABILITIES:
        raise pytest.UsageError(
            f"{item.nodeid} shows the capability {name!r}, which has no row in "
            f"tests/expectations.py; add the row, or use one of: {', '.join(CAPABILITIES)}."
        )
    callspec = getattr(item, "callspec", None)  # only parametrised tests have one
    stage = callspec.params.get("stage") if callspec else None
    if stage not in (*COLUMNS, CANDIDATE):
        raise pytest.UsageError(
            f"{item.nodeid} runs on the stage {stage!r}, which has no column in "
            f"tests/expectations.py; let the test use the fixture `stage` ({', '.join(COLUMNS)})."
        )
    return Case(CAPABILITIES[name], stage)


def _by_flaw(item: pytest.Item) -> int:
    """The flaws in the order in which they are told, after what passes."""
    case = item.stash.get(CASE, None)
    return list(FLAWS).index(case.flaw.id) if case and case.flaw else -1


# The verdict, test by test


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: sees what xfail made of the report
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    results = item.config.stash[RESULTS]
    results.tests += call.when == "setup"
    case = item.stash.get(CASE, None)
    if case is None:
        if report.failed:
            results.surprises.append(_explained(report, "A test outside tests/suite/ failed."))
    elif call.when == "call" or call.excinfo:
        evidence = _evidence(call, report)
        if meaning := _surprise(case, call):
            results.record(case, Outcome.SURPRISE, evidence)
            results.surprises.append(_explained(report, meaning))
            _turn_red(report, meaning)
        elif case.is_absent:
            results.record(case, Outcome.ABSENT, evidence)
        elif case.flaw:
            results.record(case, Outcome.FLAW, evidence)
            if item.config.option.hard:
                report.sections.append(_lesson(case, case.flaw, evidence))
        else:
            results.record(case, Outcome.PASS, evidence)
    return report


def _evidence(call: pytest.CallInfo[None], report: pytest.TestReport) -> list[str]:
    """What the test measured; if it left no evidence, what its failed assertion says."""
    left = [str(value) for name, value in report.user_properties if name == "evidence"]
    return left or (str(call.excinfo.value).splitlines()[:1] if call.excinfo else [])


def _surprise(case: Case, call: pytest.CallInfo[None]) -> str:
    """What it means that the test ended so; empty if it ended as expectations.py says."""
    flaw, stage, needs = case.flaw, case.stage, case.capability.needs
    raised = call.excinfo.value if call.excinfo else None
    if call.when != "call":
        return f"The {call.when} of this test failed, so it proves nothing about {stage}."
    if isinstance(raised, (pytest.skip.Exception, pytest.xfail.Exception)):
        return "A test of the suite does not skip or give up: it passes, or it shows a known flaw."
    if case.is_absent:
        if isinstance(raised, NotInThisStage) and raised.what == needs:
            return ""
        return (
            f"{stage} was never meant to have {needs}, and this test did not fail for want of it. "
            "If the stage has it now, write PASSES in tests/expectations.py; if not, the test must "
            f"fail because it uses {needs}, and for no other reason."
        )
    if flaw is None:
        return f"{stage} should pass here ({case.capability.title}) and does not." if raised else ""
    if raised is None:
        return (
            f"Known flaw {flaw.id} of {stage} did not show ({flaw.what}). If it is mended, write "
            "PASSES in tests/expectations.py; if it is still there, this test does not see it."
        )
    if not isinstance(raised, SHOWS_A_FLAW) or "from pytest-timeout" in str(raised):
        return (
            f"Known flaw {flaw.id} of {stage} must show as a failed assertion, and this is a "
            f"{type(raised).__name__}: the test broke before it could show the flaw."
        )
    return ""


def _explained(report: pytest.TestReport, meaning: str) -> Surprise:
    traceback = [report.longreprtext] if hasattr(report.longrepr, "toterminal") else []
    captured = [f"--- {name} ---\n{text.rstrip()}" for name, text in report.sections]
    return Surprise(report.nodeid, meaning, "\n".join(traceback + captured))


def _turn_red(report: pytest.TestReport, meaning: str) -> None:
    """Make a failure of the report, also where pytest saw an expected failure or a skip."""
    report.outcome = "failed"
    vars(report).pop("wasxfail", None)
    if not hasattr(report.longrepr, "toterminal"):  # no traceback: it passed, or skipped
        report.longrepr = meaning
    else:
        report.sections.append(("what this means", meaning))


# --hard: the flaws as failures


def _lesson(case: Case, flaw: Flaw, evidence: list[str]) -> tuple[str, str]:
    """The last section of the report of a test that failed on purpose."""
    stage = case.capability.fixed_in(case.stage)
    lines = [
        f"why    {flaw.id}: {flaw.what}",
        *(f"seen   {sentence}" for sentence in evidence),
        f"where  {ledger.where(flaw)}",
        f"fix    {stage} has it: read {ledger.fix(case.capability)}",
    ]
    return f"known flaw {flaw.id} of {case.stage}: fails on purpose", "\n".join(lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[RESULTS]
    if config.option.hard and results.cells:
        terminalreporter.section("the flaws as failures")
        for stage in results.stages:
            terminalreporter.write_line(results.summary(stage))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last word, below pytest's own: what fails on purpose does not look like an accident."""
    results = config.stash.get(RESULTS, Results())
    if config.option.hard and results.surprises:
        print("A surprise is not meant to fail: see it above.")
    elif config.option.hard and any(c.outcome is Outcome.FLAW for c in results.cells.values()):
        print(
            "All that failed did so on purpose: above, each says why, where, and where the fix is."
        )


# --write-docs


def pytest_sessionfinish(session: pytest.Session) -> None:
    results = session.config.stash[RESULTS]
    if session.config.option.hard and session.exitstatus == pytest.ExitCode.TESTS_FAILED:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if results.surprises else ON_PURPOSE
    if not session.config.option.write_docs:
        return
    if not results.is_complete():
        results.notes.append("Wrote no docs: that takes a full run without surprises.")
    elif written := pages.write(results, session.config.rootpath):
        results.notes.append(
            f"Updated {', '.join(written)}. Figures that other pages quote: python -m tests.docs."
        )
