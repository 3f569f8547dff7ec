-- How often its handler has put a job off; NULL for never, so that most rows pay nothing.
ALTER TABLE jobqueue.job ADD COLUMN snoozes integer;
