"""The queue behind HTTP: an API, live events, metrics, a dashboard. Read ``app.py`` first.

Needs the extra: ``pip install '.[service]'``. Nothing outside of this package needs it.
"""
