-- Unique jobs: which job had a key last. Whether it still holds it follows from what has become of it.
ALTER TABLE jobqueue.job ADD COLUMN unique_key text COLLATE "C";

CREATE TABLE jobqueue.holder (
    key         text COLLATE "C" PRIMARY KEY,
    seq         bigint NOT NULL,            -- of the job, which may be gone
    id          text COLLATE "C" NOT NULL,
    until       text COLLATE "C",           -- 'started' or 'ended'; or else
    expires_at  timestamptz
);
CREATE INDEX holder_job ON jobqueue.holder (seq);
CREATE INDEX holder_time ON jobqueue.holder (expires_at) WHERE expires_at IS NOT NULL;
