-- What a process runs, as it said when it last renewed its lease: JSON, how many jobs of each kind.
ALTER TABLE jobqueue.owner ADD COLUMN running text NOT NULL DEFAULT '{}';
