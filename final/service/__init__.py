"""The queue behind HTTP: an API, live events, metrics, a dashboard. Read ``app.py`` first.

The command line, which asks a service or a file, is in ``cli/``.

Needs the extra: ``pip install '.[service]'``. Nothing outside of this package needs it.
"""
