"""Labs: programs that try to break the queues in ways that a test alone cannot."""
