"""Labs: each claim of the queue as an experiment, with a planted fault that it must catch."""
