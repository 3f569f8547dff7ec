"""The command line: ``python -m final COMMAND``. Read ``app.py`` first.

Needs the extra: ``pip install '.[service]'``. Nothing outside of this package needs it.
"""
