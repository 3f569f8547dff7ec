-- What a handler has said last of how far its job is.
CREATE TABLE jobqueue.progress (
    seq         bigint PRIMARY KEY,         -- of the job; deleted with it
    fraction    float8 NOT NULL,            -- 0 to 1
    message     text NOT NULL,
    at          timestamptz NOT NULL
) WITH (fillfactor = 50);
