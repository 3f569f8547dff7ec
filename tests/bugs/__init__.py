"""The bug zoo: small bugs that real job queues had, to be hunted one at a time. ``make hunt``

Each is a page in ``zoo/``: a story, a symptom, hints, the lines that are wrong, and what is to
be learned. ``bug.py`` reads the pages, ``hunt.py`` keeps the copy that a student works on, and
``test_zoo.py`` proves that the test which a page names catches its bug.

But: the pages hold the solutions. Hunt first, read later.
"""
