"""What is alive: who waits for an answer, what is with a worker. Read ``dispatcher.py`` first."""
