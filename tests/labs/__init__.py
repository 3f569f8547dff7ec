"""The labs: each tries to break a promise that the queues make, and says what it found."""
