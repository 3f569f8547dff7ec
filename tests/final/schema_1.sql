-- A file of release 1 (schema 1), as sqlite3's .dump tells it: its process was killed while it ran
-- a job. PRAGMA application_id and user_version are not part of a dump.
PRAGMA application_id = 1246708305;
PRAGMA user_version = 1;
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
) WITHOUT ROWID;
INSERT INTO "failure" VALUES(3,6,1,1795873301.348,1795873301.349,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/runners.py", line 148, in attempt
    value = handler(_job(task))
  File "handlers.py", line 10, in handler
    if job.kind == "fails": raise ValueError(f"no luck with {job.id}")
ValueError: no luck with dead
');
INSERT INTO "failure" VALUES(3,9,2,1795873301.361,1795873301.361,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/runners.py", line 148, in attempt
    value = handler(_job(task))
  File "handlers.py", line 10, in handler
    if job.kind == "fails": raise ValueError(f"no luck with {job.id}")
ValueError: no luck with dead
');
CREATE TABLE fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    token       INTEGER NOT NULL
);
INSERT INTO "fence" VALUES(1,5);
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
    interrupted INTEGER NOT NULL,      -- times in a row that the process ended while it ran
    enqueued_at REAL NOT NULL,         -- all times are Unix seconds
    started_at  REAL,
    ended_at    REAL,
    due_at      REAL,
    timeout     REAL,                  -- seconds per attempt
    result,
    error       TEXT
);
INSERT INTO "job" VALUES(2,'completed','default','medium','{"to":"ann"}','completed',1,3,NULL,0,1795873301.340,1795873301.340,1795873301.345,NULL,NULL,'{"seen":"completed"}',NULL);
INSERT INTO "job" VALUES(3,'dead','fails','high',X'006279746573','failed',2,9,4,0,1795873301.347,1795873301.360,1795873301.361,NULL,NULL,NULL,'ValueError: no luck with dead');
INSERT INTO "job" VALUES(5,'later','default','medium','null','scheduled',0,0,NULL,0,1795873301.362,NULL,NULL,221845392000.0,5.0,NULL,NULL);
INSERT INTO "job" VALUES(6,'processing','hangs','medium','null','processing',1,12,NULL,0,1795873301.363,1795873301.363,NULL,NULL,60.0,NULL,NULL);
INSERT INTO "job" VALUES(7,'queued','default','low','["café",1.5,null]','queued',0,0,NULL,0,1795873301.365,NULL,NULL,NULL,NULL,NULL,NULL);
COMMIT;
