-- A file of schema 4, as sqlite3's .dump tells it: its process was killed while it ran a job.
-- PRAGMA application_id and user_version are not part of a dump.
PRAGMA application_id = 1246708305;
PRAGMA user_version = 4;
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
INSERT INTO "failure" VALUES(2,4294967299,1,1.79590344830935215946e+09,1.79590344831019759182e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 74, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 6, in handler
    if job.kind=="fails": raise ValueError(f"no luck with {job.id}")
                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: no luck with dead
');
INSERT INTO "failure" VALUES(2,4294967301,2,1.79590344835655093191e+09,1.79590344835711431502e+09,'ValueError: no luck with dead','Traceback (most recent call last):
  File "final/workers/attempts.py", line 74, in attempt
    value = context.run(handler, _job(task))
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "handlers.py", line 6, in handler
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
    result,
    error       TEXT
);
INSERT INTO "job" VALUES(1,'completed','default','medium',12,'completed',1,0,1,0,0,NULL,1.79590344826133012767e+09,1.79590344826133012767e+09,1.79590344827752780914e+09,NULL,NULL,'{"seen":"completed"}',NULL);
INSERT INTO "job" VALUES(2,'dead','fails','high',6,'failed',2,0,1,0,0,3,1.79590344828224658963e+09,1.7959034483358616829e+09,1.79590344835711431502e+09,NULL,NULL,NULL,'ValueError: no luck with dead');
INSERT INTO "job" VALUES(4,'later','default','medium',4,'scheduled',0,0,0,0,0,NULL,1.79590344836886191366e+09,NULL,NULL,33329232000.0,5.0,NULL,NULL);
INSERT INTO "job" VALUES(5,'processing','hangs','medium',4,'processing',1,4294967304,1,0,0,NULL,1.79590344837301301959e+09,1.79590344837301301959e+09,NULL,NULL,60.0,NULL,NULL);
INSERT INTO "job" VALUES(6,'queued','default','low',17,'queued',0,0,0,0,0,NULL,1.79590344838102912907e+09,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE payload (seq INTEGER PRIMARY KEY, payload NOT NULL);
INSERT INTO "payload" VALUES(1,'{"to":"ann"}');
INSERT INTO "payload" VALUES(2,X'006279746573');
INSERT INTO "payload" VALUES(4,'null');
INSERT INTO "payload" VALUES(5,'null');
INSERT INTO "payload" VALUES(6,'["café",1.5,null]');
CREATE INDEX uncommon ON job (status, seq) WHERE status = 'scheduled' OR status = 'retrying'
    OR status = 'failed' OR status = 'cancelled' OR status = 'dropped'
;
COMMIT;
