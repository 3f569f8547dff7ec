-- A file of schema 2, as sqlite3's .dump tells it: its process was killed while it ran a job.
-- PRAGMA application_id and user_version are not part of a dump.
PRAGMA application_id = 1246708305;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE failure (
    seq         INTEGER NOT NULL,      -- of the job
    token       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    started_at  REAL NOT NULL,
    ended_at    REAL NOT NULL,
    error       TEXT NOT NULL,
    traceback   TEXT NOT NULL,
    PRIMARY KEY (seq, token)
) WITHOUT ROWID
;
INSERT INTO "failure" VALUES(2,3,1,1.79588814054737925529e+09,1.79588814054844474795e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 76, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 6, in handler
    if job.kind=="fails": raise ValueError(f"no luck with {job.id}")
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
INSERT INTO "failure" VALUES(2,6,2,1.79588814068953466418e+09,1.79588814069000911712e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 76, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 6, in handler
    if job.kind=="fails": raise ValueError(f"no luck with {job.id}")
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
CREATE TABLE fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    token       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "fence" VALUES(1,0,1);
CREATE TABLE forgotten (
    priority    TEXT NOT NULL,
    status      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (priority, status)
) WITHOUT ROWID
;
CREATE TABLE job (
    seq         INTEGER PRIMARY KEY,   -- the order of acceptance
    id          TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL,
    priority    TEXT NOT NULL,
    payload     NOT NULL,
    status      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,      -- started so far, the running one included
    token       INTEGER NOT NULL,      -- fencing token of the latest attempt
    place       INTEGER,               -- number in line of a job that came back; else seq
    interrupted INTEGER NOT NULL,      -- times in a row that the process ended while it ran;
                                       -- -1: it was cancelled while it ran, so it is not to again
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,                  -- when it is or became ready to run; NULL: at once
    timeout     REAL,                  -- seconds per attempt
    result,
    error       TEXT,
    alone       INTEGER NOT NULL DEFAULT 1  -- in its latest claim, so a crash is charged to it
);
INSERT INTO "job" VALUES(1,'completed','default','medium','{"to":"ann"}','completed',1,1,NULL,0,1.79588814051482152937e+09,1.79588814051482152937e+09,1.79588814051743674276e+09,NULL,NULL,'{"seen":"completed"}',NULL,1);
INSERT INTO "job" VALUES(2,'dead','fails','high',X'006279746573','failed',2,6,3,0,1.79588814051865148548e+09,1.79588814068354701999e+09,1.79588814069000911712e+09,NULL,NULL,NULL,'ValueError: no luck with dead',1);
INSERT INTO "job" VALUES(4,'later','default','medium','null','scheduled',0,0,NULL,0,1.79588814069782900812e+09,NULL,NULL,33331888140.6977,5.0,NULL,NULL,1);
INSERT INTO "job" VALUES(5,'processing','hangs','medium','null','processing',1,9,NULL,0,1.79588814070383548738e+09,1.79588814070383548738e+09,NULL,NULL,60.0,NULL,NULL,1);
INSERT INTO "job" VALUES(6,'queued','default','low','["café",1.5,null]','queued',0,0,NULL,0,1.79588814073861527441e+09,NULL,NULL,NULL,NULL,NULL,NULL,1);
COMMIT;
