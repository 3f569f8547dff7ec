-- What operators have paused: by all processes, until somebody resumes it.
CREATE TABLE jobqueue.pause (
    sort        text COLLATE "C" NOT NULL,  -- 'queue', 'kind', 'priority' or 'group'
    name        text COLLATE "C" NOT NULL,  -- of which one
    PRIMARY KEY (sort, name)
);
