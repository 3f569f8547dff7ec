-- A file of schema 5, as sqlite3's .dump tells it: its process was killed while it ran a job.
-- PRAGMA application_id and user_version are not part of a dump.
PRAGMA application_id = 1246708305;
PRAGMA user_version = 5;
BEGIN TRANSACTION;
CREATE TABLE dependency (
    child       INTEGER NOT NULL,      -- its seq
    number      INTEGER NOT NULL,      -- which of its parents
    parent      TEXT NOT NULL,         -- its id
    if_failed   TEXT NOT NULL,         -- "cancel" or "run"
    state       INTEGER NOT NULL DEFAULT 0,  -- 0: waits for it; 1: it has ended; 2: the child, too
    PRIMARY KEY (child, number)
) WITHOUT ROWID
;
INSERT INTO "dependency" VALUES(8,0,'parent','cancel',1);
INSERT INTO "dependency" VALUES(8,1,'processing','cancel',0);
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
INSERT INTO "failure" VALUES(2,4294967299,1,1.79591539690550518028e+09,1.79591539690627598766e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 74, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 5, in handler
    if job.kind=="fails": raise ValueError(f"no luck with {job.id}")
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
INSERT INTO "failure" VALUES(2,4294967301,2,1.79591539695754361148e+09,1.79591539695785212512e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 74, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 5, in handler
    if job.kind=="fails": raise ValueError(f"no luck with {job.id}")
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
CREATE TABLE fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    epoch       INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "fence" VALUES(1,1);
CREATE TABLE forgotten (
    priority    TEXT NOT NULL,
    status      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (priority, status)
) WITHOUT ROWID
;
CREATE TABLE holder (
    key         TEXT PRIMARY KEY,
    seq         INTEGER NOT NULL,
    id          TEXT NOT NULL,
    until       TEXT,                  -- 'started' or 'ended'; or else
    expires_at  REAL
) WITHOUT ROWID
;
INSERT INTO "holder" VALUES('report',6,'later','ended',NULL);
CREATE TABLE job (
    seq         INTEGER PRIMARY KEY,   -- the order of acceptance
    id          TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL,
    priority    TEXT NOT NULL,
    size        INTEGER NOT NULL,      -- bytes of the payload
    status      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,      -- started so far, the running one included
    token       INTEGER NOT NULL,      -- of the claim that it is with; 0 while with nobody
    alone       INTEGER NOT NULL,      -- in its latest claim, so a crash is charged to it
    interrupted INTEGER NOT NULL DEFAULT 0,  -- times in a row that a process ended meanwhile
    cancelled   INTEGER NOT NULL DEFAULT 0,  -- while it ran; it is not tried again
    place       INTEGER,               -- number in line of a job that came back; else seq
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,                  -- when it is or became ready to run; NULL: at once
    timeout     REAL,                  -- seconds per attempt
    grp         TEXT,                  -- its group
    result,
    error       TEXT,
    unique_key  TEXT                   -- of its Unique
);
INSERT INTO "job" VALUES(1,'completed','default','medium',12,'completed',1,0,1,0,0,NULL,1.79591539690191912652e+09,1.79591539690191912652e+09,1.79591539690339922902e+09,NULL,NULL,NULL,'{"seen":"completed"}',NULL,NULL);
INSERT INTO "job" VALUES(2,'dead','fails','high',6,'failed',2,0,1,0,0,3,1.79591539690444183352e+09,1.7959153969564146995e+09,1.79591539695785212512e+09,NULL,NULL,NULL,NULL,'ValueError: no luck with dead',NULL);
INSERT INTO "job" VALUES(4,'parent','default','medium',4,'completed',1,0,1,0,0,NULL,1.79591539695881104469e+09,1.79591539695881104469e+09,1.79591539695972013477e+09,NULL,NULL,'tenant-7','{"seen":"parent"}',NULL,NULL);
INSERT INTO "job" VALUES(6,'later','default','medium',4,'scheduled',0,0,0,0,0,NULL,1.79591539696042466157e+09,NULL,NULL,33329232000.0,5.0,NULL,NULL,NULL,'report');
INSERT INTO "job" VALUES(7,'processing','hangs','medium',4,'processing',1,4294967306,1,0,0,NULL,1.79591539696138954157e+09,1.79591539696138954157e+09,NULL,NULL,60.0,NULL,NULL,NULL,NULL);
INSERT INTO "job" VALUES(8,'child','default','medium',4,'waiting',0,0,0,0,0,NULL,1.79591539696475410462e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "job" VALUES(9,'queued','default','low',17,'queued',0,0,0,0,0,NULL,1.79591539696800589565e+09,NULL,NULL,NULL,NULL,'tenant-7',NULL,NULL,NULL);
CREATE TABLE payload (seq INTEGER PRIMARY KEY, payload NOT NULL);
INSERT INTO "payload" VALUES(1,'{"to":"ann"}');
INSERT INTO "payload" VALUES(2,X'006279746573');
INSERT INTO "payload" VALUES(4,'null');
INSERT INTO "payload" VALUES(6,'null');
INSERT INTO "payload" VALUES(7,'null');
INSERT INTO "payload" VALUES(8,'null');
INSERT INTO "payload" VALUES(9,'["café",1.5,null]');
CREATE TABLE release (
    line        INTEGER PRIMARY KEY,
    parent      TEXT NOT NULL,
    became      TEXT NOT NULL,         -- the status that it ended with
    upto        INTEGER NOT NULL
);
CREATE INDEX uncommon ON job (status, seq) WHERE status = 'scheduled' OR status = 'retrying'
    OR status = 'failed' OR status = 'cancelled' OR status = 'dropped' OR status = 'waiting'
;
CREATE INDEX holder_job ON holder (seq);
CREATE INDEX holder_time ON holder (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX children ON dependency (parent, state, child);
CREATE INDEX waits ON dependency (child) WHERE state = 0;
COMMIT;
