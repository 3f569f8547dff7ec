"""Beyond the basics: what a job or a kind may ask for. A file is one feature, for when you need it.

What they say here is done elsewhere, mostly in ``ledger/``; each file says where.
"""
