"""What notebooks do where something is missing."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests import postgres_server
from tests.notebooks import pairs


@pytest.fixture
def toolbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(pairs.NOTEBOOKS))
    return importlib.import_module("toolbox")


def test_without_a_server_one_line_says_so_and_the_rest_is_left_out(
    toolbox: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    monkeypatch.setattr(toolbox, "get_ipython", lambda: shell)
    monkeypatch.setattr(postgres_server, "programs", lambda: None)
    assert toolbox.postgres() == ""
    assert capsys.readouterr().out.count("\n") == 1
    assert shell.run_cell("1 / 0").success
