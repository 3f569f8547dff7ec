"""Who runs the jobs: threads, coroutines, processes. Read ``pool.py`` first."""
