-- What is enqueued again and again: the row of an entry says which tick is next.
CREATE TABLE jobqueue.periodic (
    name        text COLLATE "C" PRIMARY KEY,
    schedule    text COLLATE "C" NOT NULL,  -- cron text, or like 'every 60 s'
    timezone    text COLLATE "C" NOT NULL,
    missed      text COLLATE "C" NOT NULL,  -- 'once', 'all' or 'skip'
    job         text NOT NULL,              -- JSON: all of it but its payload, which is
    payload         text,                   -- JSON; or else
    payload_bytes   bytea,
    paused      boolean NOT NULL DEFAULT false,
    last_tick   timestamptz,                -- the latest that has counted
    next_tick   timestamptz                 -- NULL: it is paused, or none comes
);
