"""What stands in the way of a goal that is not met, as far as the tables of the report show it."""

from __future__ import annotations

# By how the goal begins; the first that fits.
REASONS = {
    "in bulk, against raw": "what a job takes beside its statements is Python, which has one lock: "
    "see *Where the time of a bulk job goes*",
    "in bulk, against": "where a sync is quick, a peer loses little by one for each job",
    "in bulk, CPU": "see *Where the time of a bulk job goes*: making, checking and encoding a job "
    "takes more than its statements do",
    "in bulk, where": "see *Where the time of a bulk job goes*: what needs the interpreter's lock "
    "is the least that a job can take",
    "in bulk, time that the file adds": "a commit writes each change twice, to the log and later "
    "to its place",
    "one at a time": "where a sync is quick, two hand-overs between threads are what a call waits "
    "for; a peer that writes in the caller's thread has none",
    "enqueue to start": "producers, dispatcher and workers share the interpreter's lock, and who "
    "wants it waits up to `sys.getswitchinterval()`, 5 ms: with a shorter one the slowest are "
    "quicker, and the program that uses the queue has to say so, not the queue",
    "100 workers": "a turn, a hand-over and a report for each job, under the lock that a hundred "
    "threads want",
    "computing": "two processes that compute leave no core to the one that hands out",
    "On PostgreSQL in bulk": "each process has turns of its own, and looks past the jobs that the "
    "others have locked: compare the server's CPU with that of one process",
    "On PostgreSQL, one job": "a turn is a trip of six statements, each put together and read by "
    "psycopg in Python: it is the clients' CPU, not the server's",
    "PostgreSQL, 1,000": "others are told at most once in 10 ms, and then take two trips",
}


def reason(what: str) -> str:
    """For the goal of this name; the empty string where nothing is known."""
    return next((why for begins, why in REASONS.items() if what.startswith(begins)), "")
