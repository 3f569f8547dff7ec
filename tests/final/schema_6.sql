-- A file of schema 6, as sqlite3's .dump tells it: its process was killed while it ran a job.
-- PRAGMA application_id and user_version are not part of a dump.
PRAGMA application_id = 1246708305;
PRAGMA user_version = 6;
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
INSERT INTO "dependency" VALUES(9,0,'parent','cancel',1);
INSERT INTO "dependency" VALUES(9,1,'processing','cancel',0);
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
INSERT INTO "failure" VALUES(2,4294967299,1,1.79595134367313408844e+09,1.79595134367391848564e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 83, in attempt
    value = context.run(handler, job_of(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 9, in fails
    def fails(job): raise ValueError(f"no luck with {job.id}")
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
INSERT INTO "failure" VALUES(2,4294967301,2,1795951343.68517,1.79595134368553948399e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 83, in attempt
    value = context.run(handler, job_of(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 9, in fails
    def fails(job): raise ValueError(f"no luck with {job.id}")
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
INSERT INTO "holder" VALUES('report',4,'later','ended',NULL);
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
    unique_key  TEXT,                  -- of its Unique
    snoozes     INTEGER NOT NULL DEFAULT 0  -- how often its handler has put it off
);
INSERT INTO "job" VALUES(1,'completed','default','medium',7,'completed',1,0,1,0,0,NULL,1.79595134366940903662e+09,1.79595134366940903662e+09,1.79595134367080855371e+09,NULL,NULL,NULL,'{"seen":"completed"}',NULL,NULL,0);
INSERT INTO "job" VALUES(2,'dead','fails','medium',6,'failed',2,0,1,0,0,3,1.79595134367234253881e+09,1.79595134368382239342e+09,1.79595134368553948399e+09,NULL,NULL,NULL,NULL,'ValueError: no luck with dead',NULL,0);
INSERT INTO "job" VALUES(4,'later','default','medium',9,'scheduled',0,0,0,0,0,NULL,1.79595134368701958658e+09,NULL,NULL,3.01783513436867408745e+10,NULL,NULL,NULL,NULL,'report',0);
INSERT INTO "job" VALUES(5,'parent','default','medium',4,'completed',1,0,1,0,0,NULL,1.7959513436885883808e+09,1.7959513436885883808e+09,1.79595134368943381304e+09,NULL,NULL,NULL,NULL,NULL,NULL,0);
INSERT INTO "job" VALUES(6,'processing','hangs','medium',4,'processing',1,4294967306,1,0,0,NULL,1.7959513436905539036e+09,1.7959513436905539036e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0);
INSERT INTO "job" VALUES(7,'queued','default','low',17,'queued',0,0,0,0,0,NULL,1.79595134369158816334e+09,NULL,NULL,NULL,NULL,'tenant-7',NULL,NULL,NULL,0);
INSERT INTO "job" VALUES(9,'child','default','medium',4,'waiting',0,0,0,0,0,NULL,1.7959513436927611828e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0);
CREATE TABLE meta (
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    seq         INTEGER NOT NULL,      -- of the job
    PRIMARY KEY (name, value, seq),
    CHECK (typeof(name) = 'text' AND typeof(value) = 'text')
) WITHOUT ROWID
;
INSERT INTO "meta" VALUES('user','7',4);
CREATE TABLE pause (
    sort        TEXT NOT NULL,         -- 'queue', 'kind', 'priority' or 'group'
    name        TEXT NOT NULL,         -- of which one
    PRIMARY KEY (sort, name)
) WITHOUT ROWID
;
INSERT INTO "pause" VALUES('group','tenant-8');
CREATE TABLE payload (seq INTEGER PRIMARY KEY, payload NOT NULL);
INSERT INTO "payload" VALUES(1,'{"n":1}');
INSERT INTO "payload" VALUES(2,X'006279746573');
INSERT INTO "payload" VALUES(4,'null');
INSERT INTO "payload" VALUES(5,'null');
INSERT INTO "payload" VALUES(6,'null');
INSERT INTO "payload" VALUES(7,'["café",1.5,null]');
INSERT INTO "payload" VALUES(9,'null');
CREATE TABLE periodic (
    name        TEXT PRIMARY KEY,
    schedule    TEXT NOT NULL,         -- cron text, or like 'every 60 s'
    timezone    TEXT NOT NULL,
    missed      TEXT NOT NULL,         -- 'once', 'all' or 'skip'
    job         TEXT NOT NULL,         -- JSON: all of it but its payload
    payload     NOT NULL,
    paused      INTEGER NOT NULL,
    last_tick   REAL,                  -- the latest that has counted
    next_tick   REAL                   -- NULL: it is paused, or none comes
) WITHOUT ROWID
;
CREATE TABLE progress (
    seq         INTEGER PRIMARY KEY,   -- of the job
    fraction    REAL NOT NULL,         -- 0 to 1
    message     TEXT NOT NULL,
    at          REAL NOT NULL
);
CREATE TABLE release (
    line        INTEGER PRIMARY KEY,
    parent      TEXT NOT NULL,
    became      TEXT NOT NULL,         -- the status that it ended with
    upto        INTEGER NOT NULL
);
CREATE TABLE setting (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX uncommon ON job (status, seq) WHERE status = 'scheduled' OR status = 'retrying'
    OR status = 'failed' OR status = 'cancelled' OR status = 'dropped' OR status = 'waiting'
;
CREATE INDEX holder_job ON holder (seq);
CREATE INDEX holder_time ON holder (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX children ON dependency (parent, state, child);
CREATE INDEX waits ON dependency (child) WHERE state = 0;
CREATE INDEX meta_job ON meta (seq);
COMMIT;
