-- What kinds of jobs have chosen for themselves.

-- By these numbers the jobs of this process are judged if it is lost. NULL: by those of whoever does.
ALTER TABLE jobqueue.owner ADD COLUMN max_retries integer;
ALTER TABLE jobqueue.owner ADD COLUMN own_retries jsonb;  -- by kind

-- The claims of kinds of which only so many may run at a time. One counts only while it stands in
-- its job, so nobody needs to take it away at an end or after a crash; the next look does.
CREATE TABLE jobqueue.slot (
    seq         bigint NOT NULL,            -- of the job
    token       bigint NOT NULL,            -- of its claim
    kind        text COLLATE "C" NOT NULL,
    PRIMARY KEY (seq, token)
);
