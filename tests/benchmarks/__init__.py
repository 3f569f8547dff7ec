"""How fast the queues are, side by side: ``make bench``, or ``python -m tests.benchmarks``.

Read ``__main__.py`` first: it says what is measured, in which order, and against which goal.
"""
