-- How many ended jobs were deleted because somebody wanted it. (Dead letters, which the history does
-- not bound, are not counted.)
CREATE TABLE jobqueue.purged (count bigint NOT NULL);
INSERT INTO jobqueue.purged VALUES (0);
