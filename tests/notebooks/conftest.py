"""What of these tests can run here."""

from __future__ import annotations

from importlib.util import find_spec

# They work with the helpers of the notebooks, which need what `make test-notebooks` installs; that
# runs them, too.
_THERE = find_spec("IPython") and find_spec("matplotlib")
collect_ignore = [] if _THERE else ["test_interview.py", "test_toolbox.py"]
