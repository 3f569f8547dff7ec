"""The ladder: thirteen steps from a stub to a durable, fair queue in one file. ``make mine``

    steps.py      the one list: what each step asks, its story, its hints, what to read
    rows.py       what a row of the suite expects, and what to think about where it is not so
    solutions/    a worked solution of each step, as a whole file
    grading.py    runs the suite on somebody's file, in a copy and within limits
    inside.py     what goes along in that copy, and reports
    mine.py       the reader's file: made, hashed, remembered, and the hints for it
    showing.py    how it looks; card.py, teachers.py and progress.py show more of it

``__main__.py`` is the command line: ``python -m tests.ladder``.
"""
