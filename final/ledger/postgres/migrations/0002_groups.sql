-- Jobs of groups, which take turns: of each group one job stands in its lane, and the others wait
-- behind it.

ALTER TABLE jobqueue.job ADD COLUMN grp text COLLATE "C";  -- whose it is; NULL for nobody's
ALTER TABLE jobqueue.job ADD COLUMN behind boolean NOT NULL DEFAULT false;

-- What stands in a lane or runs; what waits behind; and of a group what stands or runs.
DROP INDEX jobqueue.job_live;
CREATE INDEX job_live ON jobqueue.job (lane, place)
    WHERE ended_at IS NULL AND due_at IS NULL AND NOT behind;
CREATE INDEX job_behind ON jobqueue.job (grp, lane, place)
    WHERE ended_at IS NULL AND due_at IS NULL AND behind;
CREATE INDEX job_of_group ON jobqueue.job (grp)
    WHERE ended_at IS NULL AND due_at IS NULL AND NOT behind AND grp IS NOT NULL;
