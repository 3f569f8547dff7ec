-- What jobs are about: as JSON with the job, for whoever reads that; and by name and value, to find it.
-- (Not by a foreign key: whoever deletes a job deletes these, and one without any pays nothing for it.)
ALTER TABLE jobqueue.job ADD COLUMN meta text;

CREATE TABLE jobqueue.meta (
    name        text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    seq         bigint NOT NULL,            -- of the job
    PRIMARY KEY (name, value, seq)
);
CREATE INDEX meta_job ON jobqueue.meta (seq);
