"""What of these tests can run here."""

from __future__ import annotations

from importlib.util import find_spec

# It works with the helpers of notebook 9, which need what `make test-notebooks` installs; that
# runs it, too.
collect_ignore = [] if find_spec("IPython") and find_spec("matplotlib") else ["test_interview.py"]
