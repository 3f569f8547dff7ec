-- Jobs that come after others. While one waits for them it is due at "infinity".

ALTER TABLE jobqueue.job ADD COLUMN has_children boolean NOT NULL DEFAULT false;  -- or had some
ALTER TABLE jobqueue.job ADD COLUMN run_at timestamptz;  -- of a child, to be due then

-- Each parent of a child.
CREATE TABLE jobqueue.dependency (
    child       bigint NOT NULL REFERENCES jobqueue.job ON DELETE CASCADE,
    number      integer NOT NULL,           -- which of its parents
    parent      text COLLATE "C" NOT NULL,  -- its id
    runs        boolean NOT NULL,           -- the child, if the parent fails
    open        boolean NOT NULL DEFAULT true,  -- the parent's end has not counted yet
    PRIMARY KEY (child, number)
);
CREATE INDEX dependency_parent ON jobqueue.dependency (parent, open, child);
CREATE INDEX dependency_open ON jobqueue.dependency (child) WHERE open;

-- Parents whose end has to count, for children up to the one with the seq "upto".
CREATE TABLE jobqueue.release (
    line        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent      text COLLATE "C" NOT NULL,
    became      text COLLATE "C" NOT NULL,
    upto        bigint NOT NULL
);

-- Whatever statement ends a parent, its end is noted with it. Who has no children pays a comparison.
CREATE FUNCTION jobqueue.note_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO jobqueue.release (parent, became, upto)
        SELECT NEW.id, NEW.status, last_value FROM jobqueue.job_seq_seq;
    RETURN NULL;
END $$;
CREATE TRIGGER note_end AFTER UPDATE OF ended_at ON jobqueue.job FOR EACH ROW
    WHEN (NEW.has_children AND NEW.ended_at IS NOT NULL AND OLD.ended_at IS NULL)
    EXECUTE FUNCTION jobqueue.note_end();
