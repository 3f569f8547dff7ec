"""The SQL of this ledger: that of a turn, of what is around it, and of look-ups.

Rows travel as arrays (``unnest``), so that each statement is the same text whatever their number.
All times are the database's clock. The fence is ``FENCE``: what ends an attempt counts only where
the token of its claim still stands.

Which of these a turn needs, and what their answers mean, is in ``turn.py`` and its parts.
"""

from __future__ import annotations

from final.ledger.base import AT_ONCE

NOW = "clock_timestamp()"
SOON = f"{NOW} + make_interval(secs => %s)"
LIVE = "ended_at IS NULL AND due_at IS NULL AND NOT behind"  # in a lane, or with a worker
IN_LANE = f"{LIVE} AND status = 'queued'"
QUEUED = "ended_at IS NULL AND due_at IS NULL AND status = 'queued'"
BEHIND = "ended_at IS NULL AND due_at IS NULL AND behind"  # another one of its group
FENCE = "job.seq = o.seq AND job.token = o.token AND job.status = 'processing'"
LANE_COUNT = 3
TOKEN = "currval('jobqueue.token')"  # the one of this transaction

# ---- unique jobs: the rules of ledger/features/keys.py

# Whether the job ``other`` still has the key of ``holder``, the row of it.
HOLDS = f"""CASE WHEN other.status IN ('cancelled', 'dropped') THEN false
        WHEN expires_at IS NOT NULL THEN expires_at > {NOW}
        WHEN until = 'ended' THEN other.ended_at IS NULL
        ELSE other.ended_at IS NULL AND other.status <> 'processing' AND other.attempts = 0 END"""

# ---- the beginning of a transaction

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# For a row or an id. Another turn has it until it has committed; a caller's transaction may last.
LOCK_MILLISECONDS = 200
HEARD_SECONDS = 3  # after its end everybody has heard of a job, also by a poll
# The plans do not depend on statistics, which may have been taken while the table was empty. Before
# PostgreSQL 18 a sequential scan of a small table then seems so dear that it would be compiled. And
# to sort all that waits never takes less than to read the first of it by an index.
PLANS = """set_config('plan_cache_mode', 'force_generic_plan', true),
    set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('jit', 'off', true)"""
END_IF_IDLE = f"SELECT set_config('idle_in_transaction_session_timeout', %s, true), {PLANS}"
# Held until its end: who takes over this owner's jobs waits for it, or finds who holds it.
GUARD = f"""SELECT pg_advisory_xact_lock_shared(%s, %s),
    set_config('statement_timeout', %s, true),
    set_config('lock_timeout', '{LOCK_MILLISECONDS}', true),
    set_config('idle_in_transaction_session_timeout', %s, true),
    set_config('synchronous_commit', %s, true), {PLANS}"""
# PostgreSQL 17 has a limit for the transaction as a whole.
GUARD_17 = f"{GUARD}, set_config('transaction_timeout', %s, true)"
# A division by zero, and with it no transaction, where the lease ran out and somebody took over.
BEGIN_TURN = f"""SELECT nextval('jobqueue.token'), extract(epoch FROM {NOW})::float8,
    (SELECT last_value - (NOT is_called)::integer FROM jobqueue.job_seq_seq),
    coalesce(bool_or(workers > 0), false),
    coalesce(bool_or(curious), false), count(*),
    1 / (SELECT count(*) FROM jobqueue.owner WHERE id = %s),
    (SELECT json_agg(json_build_array(sort, name))::text FROM jobqueue.pause)
    FROM jobqueue.owner WHERE id <> %s AND expires_at > {NOW}"""
# Nor for a standby: that is why a turn may have failed.
WAIT_FOR_NO_DISK = "SELECT set_config('synchronous_commit', 'off', true)"
BEAT = f"""UPDATE jobqueue.owner SET expires_at = {SOON}, curious = %s, running = %s
    WHERE id = %s RETURNING expires_at::text"""

# ---- owners

# The first half of the keys of advisory locks: one number for each queue of a database.
CLASS = "SELECT ('jobqueue.owner'::regclass::oid::bigint & 2147483647)::integer"

REGISTER = f"""INSERT INTO jobqueue.owner (name, witness, workers, max_retries, own_retries,
        expires_at)
    VALUES (%s, %s, %s, %s, %s::jsonb, {SOON}) RETURNING id"""
# Who could not give back its jobs stays, until its lease is over and others take them.
LEAVE = f"""DELETE FROM jobqueue.owner WHERE id = %s AND NOT EXISTS (SELECT FROM jobqueue.job
    WHERE {LIVE} AND status = 'processing' AND job.owner = owner.id)"""
WITNESSES = "SELECT id, witness FROM jobqueue.owner WHERE id <> %s AND witness LIKE %s"
EXPIRE = "UPDATE jobqueue.owner SET expires_at = '-infinity' WHERE id = ANY (%s::integer[])"
EXPIRED = f"""SELECT id, pg_try_advisory_xact_lock(%s, id),
        expires_at < {NOW} - make_interval(secs => %s)
    FROM jobqueue.owner WHERE expires_at < {NOW} AND id <> %s"""
# A process that was stopped inside a transaction holds up whoever wants to take over. (One whose
# transaction has just begun is at work: it may be taking over itself.)
HOLDERS = f"""SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
        WHERE datname = current_database())
    AND classid = %s::bigint::oid AND objid = %s::bigint::oid AND objsubid = 2 AND granted
        AND pid <> pg_backend_pid() AND xact_start < {NOW} - make_interval(secs => %s)"""
FORGET_OWNERS = "DELETE FROM jobqueue.owner WHERE id = ANY (%s::integer[])"
# The rule of ledger/recovery.py: nobody becomes a dead letter that has not been alone with its
# worker. It goes by the numbers of the process that ran it, since whoever takes over may not know
# the kind.
TAKE_OVER = f"""WITH left_behind AS (
        SELECT seq, status, retries,
            CASE WHEN cancelled THEN 'cancelled'
                WHEN attempts > retries AND interrupted > 0 THEN 'failed'
                ELSE 'queued' END AS fate,
            alone AND attempts <= retries AS charged
        FROM jobqueue.job JOIN jobqueue.owner ON owner.id = job.owner, LATERAL (SELECT
            coalesce((own_retries ->> kind)::integer, max_retries, %(max_retries)s) AS retries) AS n
        WHERE {LIVE} AND status = 'processing'
        AND owner.id = ANY (%(dead)s::integer[]) FOR UPDATE OF job),
    told AS (
        INSERT INTO jobqueue.failure SELECT job.seq, token, attempts, coalesce(started_at,
        {NOW}), {NOW},
            'The process ended during attempt ' || attempts
                || CASE WHEN fate = 'failed' THEN ', the last one.' ELSE '.' END, ''
        FROM jobqueue.job JOIN left_behind USING (seq) WHERE charged OR fate = 'failed'
        ON CONFLICT DO NOTHING RETURNING seq, error)
    UPDATE jobqueue.job SET status = fate, owner = NULL,
        ended_at = CASE WHEN fate <> 'queued' THEN {NOW} END, dead = fate = 'failed',
        error = coalesce((SELECT told.error FROM told WHERE told.seq = job.seq), job.error),
        attempts = job.attempts - (fate = 'queued' AND NOT charged)::integer,
        interrupted = job.interrupted + (fate = 'queued')::integer,
        suspect = job.interrupted > 0 OR job.attempts - (NOT charged)::integer >= retries,
        started_at = CASE WHEN fate = 'queued' THEN NULL ELSE job.started_at END,
        ready_at = CASE WHEN fate = 'queued' THEN {NOW} ELSE job.ready_at END
    FROM left_behind WHERE job.seq = left_behind.seq
    RETURNING job.seq, job.id, job.lane, job.kind, job.attempts, job.place, job.grp, 'processing',
        job.status, job.error"""

# ---- what is due, and what has come back from workers

MOVED = "job.seq, job.id, job.lane, job.kind, job.attempts, job.place, job.grp"
# The limit stands there as a number: a parameter is taken for a tenth of all rows, and the whole
# table is read to join those. And no index finds a time that is another one at each row.
DUE = f"""UPDATE jobqueue.job SET status = 'queued', ready_at = job.due_at, due_at = NULL,
        behind = job.grp IS NOT NULL, place = due.number
    FROM (SELECT seq, status, nextval('jobqueue.job_seq_seq') AS number FROM (
        SELECT seq, status FROM jobqueue.job WHERE due_at <= (SELECT {NOW}) ORDER BY due_at
        LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED) AS in_order) AS due
    WHERE job.seq = due.seq RETURNING {MOVED}, due.status, job.status, NULL"""
NEXT_DUE = f"""SELECT extract(epoch FROM due_at - {NOW})::float8
    FROM jobqueue.job WHERE due_at < 'infinity' ORDER BY due_at LIMIT 1"""
RETURNED = "RETURNING job.seq, job.token, job.status"
# Before the end of an attempt, which takes the fence away.
PROGRESS = f"""INSERT INTO jobqueue.progress
    SELECT o.seq, fraction, message, {NOW} - make_interval(secs => ago)
    FROM unnest(%s::bigint[], %s::bigint[], %s::float8[], %s::text[], %s::float8[])
        AS o (seq, token, fraction, message, ago) JOIN jobqueue.job ON {FENCE}
    ON CONFLICT (seq) DO UPDATE SET fraction = excluded.fraction, message = excluded.message,
        at = excluded.at"""
COMPLETED = f"""UPDATE jobqueue.job SET status = 'completed', ended_at = {NOW}, error = NULL
    FROM unnest(%s::bigint[], %s::bigint[]) AS o (seq, token) WHERE {FENCE}
    {RETURNED}"""
KEPT = f"""UPDATE jobqueue.job SET status = 'completed', ended_at = {NOW}, error = o.note,
        result = o.result, result_bytes = o.bytes
    FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bytea[], %s::text[])
        AS o (seq, token, result, bytes, note) WHERE {FENCE}
    {RETURNED}"""
FAILED = f"""WITH o AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::float8[], %s::text[],
        %s::text[], %s::float8[], %s::float8[]) AS o (seq, token, delay, error, traceback, ago,
        seconds)),
    ended AS (UPDATE jobqueue.job SET error = o.error, interrupted = 0, suspect = false,
        status = CASE WHEN cancelled THEN 'cancelled' WHEN delay IS NULL
        THEN 'failed' ELSE 'retrying' END,
        dead = NOT cancelled AND delay IS NULL,
        ended_at = CASE WHEN cancelled OR delay IS NULL THEN {NOW} END,
        due_at = CASE WHEN NOT cancelled THEN {NOW} + make_interval(secs => delay) END
        FROM o WHERE {FENCE} RETURNING job.seq, job.token, job.attempts, job.status),
    told AS (INSERT INTO jobqueue.failure SELECT seq, token, attempts,
        {NOW} - make_interval(secs => ago + seconds), {NOW} - make_interval(secs => ago), error,
        traceback
        FROM ended JOIN o USING (seq, token) WHERE status <> 'cancelled')
    SELECT seq, token, status FROM ended"""
SNOOZED = f"""UPDATE jobqueue.job SET interrupted = 0, suspect = false,
        attempts = attempts - (NOT cancelled)::integer,
        snoozes = coalesce(snoozes, 0) + (NOT cancelled)::integer,
        status = CASE WHEN cancelled THEN 'cancelled' ELSE 'scheduled' END,
        ended_at = CASE WHEN cancelled THEN {NOW} END,
        due_at = CASE WHEN NOT cancelled
            THEN coalesce({NOW} + make_interval(secs => o.delay), to_timestamp(o.due)) END
    FROM unnest(%s::bigint[], %s::bigint[], %s::float8[], %s::float8[])
        AS o (seq, token, delay, due) WHERE {FENCE}
    {RETURNED}"""
GIVE_BACK = f"""UPDATE jobqueue.job SET owner = NULL, started_at = NULL, attempts = attempts - 1,
        status = CASE WHEN cancelled THEN 'cancelled' ELSE 'queued' END,
        ended_at = CASE WHEN cancelled THEN {NOW} END"""
GIVEN_BACK = f"""{GIVE_BACK}
    FROM unnest(%s::bigint[], %s::bigint[]) AS o (seq, token) WHERE {FENCE}
    {RETURNED}"""

# ---- orders

# Children that have not ended, or may be retried, come after it, and read its result.
_NEEDED = """EXISTS (SELECT FROM jobqueue.dependency JOIN jobqueue.job AS c
            ON c.seq = child WHERE parent = job.id AND (c.ended_at IS NULL OR c.dead))"""
_WITHOUT_META = """no_meta AS (DELETE FROM jobqueue.meta
        WHERE seq = ANY (ARRAY(SELECT seq FROM gone)))"""
# Of ``ended`` jobs all but those whose key another transaction is about to take. It may last, and
# if it rolls back, only that job says that it did not hold the key any more.
_FREE = """held AS (SELECT holder.seq FROM jobqueue.holder JOIN ended USING (seq)
        FOR UPDATE OF holder SKIP LOCKED),
    free AS (SELECT * FROM ended WHERE seq IN (SELECT seq FROM held)
        OR NOT EXISTS (SELECT FROM jobqueue.holder WHERE holder.seq = ended.seq))"""
_LET_GO = f"""let_go AS (DELETE FROM jobqueue.holder USING gone WHERE holder.seq = gone.seq
        AND (coalesce(expires_at, '-infinity') <= {NOW}
        OR gone.status IN ('cancelled', 'dropped')))"""
# Of some jobs those that are what is wanted (``filters.py``).
_WANTED = """(%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
    AND (%(kind)s::text IS NULL OR kind = %(kind)s::text)
    AND (%(lane)s::integer IS NULL OR lane = %(lane)s::integer)
    AND (%(group)s::text IS NULL OR grp = %(group)s::text)
    AND (%(meta)s::text IS NULL OR meta::jsonb @> %(meta)s::jsonb)
    AND (%(enqueued_after)s::float8 IS NULL OR enqueued_at >= to_timestamp(%(enqueued_after)s))
    AND (%(enqueued_before)s::float8 IS NULL OR enqueued_at < to_timestamp(%(enqueued_before)s))
    AND (%(ended_after)s::float8 IS NULL OR ended_at >= to_timestamp(%(ended_after)s))
    AND (%(ended_before)s::float8 IS NULL OR ended_at < to_timestamp(%(ended_before)s))"""
_MEANT = f"job.seq = ANY (%(numbers)s::bigint[]) AND {_WANTED}"
_CANCEL = f"""UPDATE jobqueue.job SET cancelled = o.status = 'processing', due_at = NULL,
        status = CASE WHEN o.status = 'processing' THEN o.status ELSE 'cancelled' END,
        ended_at = CASE WHEN o.status <> 'processing' THEN {NOW} END
    FROM (SELECT seq, status FROM jobqueue.job WHERE {{}} AND ended_at IS NULL
        ORDER BY seq FOR UPDATE) AS o
    WHERE job.seq = o.seq RETURNING {MOVED}, o.status, job.status, NULL"""
CANCEL = _CANCEL.format("id = %s")
CANCEL_ALL = _CANCEL.format(_MEANT)
EXISTS = "SELECT FROM jobqueue.job WHERE id = %s"
STOP = """SELECT seq FROM jobqueue.job WHERE seq = ANY (%s::bigint[]) AND cancelled
        AND status = 'processing'"""
# (Found by their numbers, the one with an id, too: with OR all dead letters would be read.)
_LETTERS = f"""SELECT seq, unique_key FROM jobqueue.job
    WHERE dead AND {_WANTED} AND seq = ANY (%(numbers)s::bigint[]
        || ARRAY(SELECT seq FROM jobqueue.job WHERE id = %(job_id)s::text))"""
_OF_FREE_KEYS = "(unique_key IS NULL OR unique_key <> ALL (%(busy)s::text[]))"
_SOME = "ORDER BY seq FOR UPDATE SKIP LOCKED"
_WAS_CANCELLED = """EXISTS (SELECT FROM jobqueue.job AS other
            WHERE other.seq = holder.seq AND other.status IN ('cancelled', 'dropped'))"""
# Whose unique key another job has that is still to run, and of several with one key all but the
# first, stay dead letters. The others have their keys again.
RETRY = f"""WITH letters AS ({_LETTERS} AND {_OF_FREE_KEYS}
            AND NOT EXISTS (SELECT FROM jobqueue.holder
            JOIN jobqueue.job AS other ON other.seq = holder.seq
            WHERE holder.key = job.unique_key AND holder.seq <> job.seq AND {HOLDS}
            AND other.ended_at IS NULL) {_SOME}),
    alone AS (SELECT DISTINCT ON (unique_key, CASE WHEN unique_key IS NULL THEN seq END) seq
        FROM letters ORDER BY unique_key, CASE WHEN unique_key IS NULL THEN seq END, seq),
    moved AS (UPDATE jobqueue.job SET status = 'queued', dead = false, attempts = 0,
        ended_at = NULL, interrupted = 0, suspect = false,
        ready_at = {NOW}, owner = NULL, behind = grp IS NOT NULL,
        place = nextval('jobqueue.job_seq_seq')
        FROM alone WHERE job.seq = alone.seq
            AND (%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s::text[]))
        RETURNING {MOVED}, job.status, job.unique_key),
    again AS (INSERT INTO jobqueue.holder
        SELECT unique_key, seq, id, 'ended', NULL FROM moved WHERE unique_key IS NOT NULL
        ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, id = excluded.id,
            expires_at = NULL,
            until = CASE WHEN {_WAS_CANCELLED} THEN 'ended' ELSE coalesce(holder.until, 'ended') END
        WHERE coalesce(holder.expires_at, '-infinity') <= {NOW} OR {_WAS_CANCELLED})
    SELECT seq, id, lane, kind, attempts, place, grp, 'failed', status, NULL FROM moved"""
LOCK_ENDED = f"""SELECT set_config('jobqueue.ended', coalesce(array_agg(seq), '{{}}')::text, true)
    FROM (SELECT seq FROM jobqueue.job WHERE {_MEANT} AND ended_at IS NOT NULL {_SOME}) AS ended"""
# Of those, as they are seen since they are locked: a child may have come in just before. One whose
# result children still read stays.
PURGE = f"""WITH ended AS (SELECT seq FROM jobqueue.job
        WHERE seq = ANY (current_setting('jobqueue.ended')::bigint[]) AND (dead OR NOT {_NEEDED})),
    {_FREE},
    gone AS (DELETE FROM jobqueue.job USING free
        WHERE job.seq = free.seq RETURNING {MOVED}, job.status),
    counted AS (UPDATE jobqueue.purged SET count = count + few
        FROM (SELECT count(*) AS few FROM gone WHERE status <> 'failed') AS ended WHERE few > 0),
    unsaid AS (DELETE FROM jobqueue.progress USING gone WHERE progress.seq = gone.seq),
    {_LET_GO},
    {_WITHOUT_META}
    SELECT gone.*, NULL, NULL FROM gone"""
PAUSE = "INSERT INTO jobqueue.pause VALUES (%s, %s) ON CONFLICT DO NOTHING"
RESUME = "DELETE FROM jobqueue.pause WHERE sort = %s AND name = %s"
SET_WORKERS = "UPDATE jobqueue.owner SET workers = %s WHERE id = %s"
LOCK_LETTERS = """SELECT FROM jobqueue.job
    WHERE dead AND id = ANY (%s::text[]) ORDER BY seq FOR UPDATE"""
KIND_OF_LETTER = "SELECT kind, unique_key FROM jobqueue.job WHERE dead AND id = %s"
_KEYS_OF_LETTERS = f"""SELECT DISTINCT (%(table)s::bigint << 32) | (hashtext(unique_key) & 255)
        AS number FROM ({_LETTERS}) AS letters WHERE unique_key IS NOT NULL ORDER BY number"""
LOCK_KEYS_OF_LETTERS = f"""SELECT pg_advisory_xact_lock(number)
    FROM ({_KEYS_OF_LETTERS}) AS buckets"""
# Those that another transaction has.
TRY_KEYS_OF_LETTERS = f"""WITH buckets AS MATERIALIZED (
        SELECT number, pg_try_advisory_xact_lock(number) AS ours
        FROM ({_KEYS_OF_LETTERS}) AS buckets)
    SELECT unique_key FROM ({_LETTERS}) AS letters JOIN buckets
        ON number = (%(table)s::bigint << 32) | (hashtext(unique_key) & 255) WHERE NOT ours"""

# ---- who comes in

TAKEN = "SELECT id FROM jobqueue.job WHERE id = ANY (%s::text[])"
# Jobs before the mark are not counted: they are few, and dead entries there may be many.
FILLED = "SELECT " + ", ".join(
    f"""(SELECT ARRAY[count(*) + (SELECT count(*) FROM (SELECT FROM jobqueue.job
            WHERE lane = {n} AND {BEHIND} LIMIT %s) AS behind), min(place)]
        FROM (SELECT place FROM jobqueue.job WHERE lane = {n} AND {IN_LANE} AND place >= %s
            ORDER BY place LIMIT %s) AS waiting)"""
    for n in range(LANE_COUNT)
)
# Those in the lane and those behind, each by its index. (One that is locked is about to leave.)
DROP_OLDEST = f"""WITH waiting AS MATERIALIZED (
        (SELECT seq, place FROM jobqueue.job WHERE lane = %(lane)s AND {IN_LANE}
            ORDER BY place LIMIT %(capacity)s::bigint + %(most)s)
        UNION ALL (SELECT seq, place FROM jobqueue.job WHERE lane = %(lane)s AND {BEHIND}
            ORDER BY place LIMIT %(capacity)s::bigint + %(most)s)),
    oldest AS (SELECT seq FROM waiting WHERE seq <> ALL (%(kept)s::bigint[])
        ORDER BY place LIMIT (SELECT greatest(0, least(
        count(*) - %(capacity)s::bigint, %(most)s) + %(coming)s) FROM waiting))
    UPDATE jobqueue.job SET status = 'dropped', ended_at = {NOW}
    WHERE seq = ANY (ARRAY(SELECT seq FROM jobqueue.job
        WHERE seq = ANY (ARRAY(SELECT seq FROM oldest)) AND {QUEUED} FOR UPDATE SKIP LOCKED))
    RETURNING {MOVED}, 'queued', job.status, NULL"""
_NEW = (
    "id text, kind text, lane smallint, size integer, timeout float8, payload text, bytes bytea,"
    " status text, alone boolean, delay float8, due float8, grp text, behind boolean"
)
_ARRAYS = ", ".join(f"%s::{column.split()[-1]}[]" for column in _NEW.split(", "))
_NAMES = ", ".join(column.split()[0] for column in _NEW.split(", "))
_MINE = "status = 'processing'"
INSERT = f"""INSERT INTO jobqueue.job (seq, place, id, kind, lane, size, timeout, payload,
        payload_bytes,
        status, alone, grp, behind, attempts, token, owner, started_at, due_at, ended_at)
    SELECT number, number, id, kind, lane, size, timeout, payload, bytes, status, alone,
        grp, behind, ({_MINE})::integer, CASE WHEN {_MINE} THEN {TOKEN} ELSE 0 END,
        CASE WHEN {_MINE} THEN %s::integer END,
        CASE WHEN {_MINE} THEN {NOW} END,
        coalesce({NOW} + make_interval(secs => delay), to_timestamp(due)),
        CASE WHEN status = 'dropped' THEN {NOW} END
    FROM (SELECT nextval('jobqueue.job_seq_seq') AS number, new.*
        FROM unnest({_ARRAYS}) AS new ({_NAMES})) AS new"""
UNLESS_TAKEN = " ON CONFLICT (id) DO NOTHING RETURNING id, seq"
OR_FAIL = " RETURNING id, seq"

# Two with one key at a time: one waits for the other. Of many keys some share a lock, so that no
# turn holds more than 256; always in the same order, and before anything else is locked.
_BUCKETS = """SELECT DISTINCT (%s::bigint << 32) | (hashtext(key) & 255) AS number
        FROM unnest(%s::text[]) AS key ORDER BY number"""
LOCK_KEYS = f"SELECT pg_advisory_xact_lock(number) FROM ({_BUCKETS}) AS buckets"
WAIT_FOR_LOCKS = "SELECT set_config('lock_timeout', %s, true)"
# The keys that another transaction does not have.
TRY_KEYS = f"""WITH buckets AS MATERIALIZED (
        SELECT number, pg_try_advisory_xact_lock(number) AS ours
        FROM ({_BUCKETS}) AS buckets)
    SELECT key FROM unnest(%s::text[]) AS key
        JOIN buckets ON number = (%s::bigint << 32) | (hashtext(key) & 255) WHERE ours"""
# Those that may be replaced are locked: nobody claims them meanwhile. Not where another transaction
# has the key: it may hold the job, too, and last.
KEY_HOLDERS = f"""WITH ours AS MATERIALIZED (SELECT key FROM unnest(%s::text[]) AS key
        WHERE pg_try_advisory_xact_lock((%s::bigint << 32) | (hashtext(key) & 255))),
    locked AS MATERIALIZED (SELECT seq, status, attempts, grp FROM jobqueue.job
        WHERE seq IN (SELECT seq FROM jobqueue.holder JOIN ours USING (key)) FOR UPDATE)
    SELECT holder.key, holder.id, holder.seq, until, extract(epoch FROM expires_at - {NOW})::float8,
        coalesce(locked.status, job.status), coalesce(locked.attempts, job.attempts, 0),
        coalesce(extract(epoch FROM {NOW} - enqueued_at), 0)::float8, coalesce(locked.grp, '')
    FROM jobqueue.holder LEFT JOIN jobqueue.job ON job.seq = holder.seq
        LEFT JOIN locked ON locked.seq = holder.seq
    WHERE holder.key = ANY (%s::text[])"""
REPLACE = f"""WITH gone AS (SELECT seq FROM jobqueue.job WHERE id = ANY (%s::text[])),
    {_WITHOUT_META}
    UPDATE jobqueue.job SET lane = new.lane, kind = new.kind, size = new.size,
        timeout = new.timeout, payload = new.payload, payload_bytes = new.bytes, grp = new.grp,
        meta = NULL,
        behind = CASE WHEN old.status = 'queued' AND old.lane = new.lane
            AND old.grp IS NOT DISTINCT FROM new.grp AND new.status = 'queued'
            THEN job.behind ELSE new.behind END,
        status = CASE WHEN old.status = 'retrying' THEN old.status ELSE new.status END,
        due_at = CASE WHEN old.status = 'retrying' THEN job.due_at
            ELSE coalesce({NOW} + make_interval(secs => new.delay), to_timestamp(new.due)) END,
        ready_at = CASE WHEN old.status = 'scheduled' THEN {NOW} ELSE job.ready_at END,
        place = CASE WHEN old.status = 'retrying' OR (old.status = 'queued' AND old.lane = new.lane)
            THEN job.place ELSE nextval('jobqueue.job_seq_seq') END
    FROM unnest({_ARRAYS}) AS new ({_NAMES})
    JOIN jobqueue.job AS old USING (id) WHERE job.seq = old.seq
    RETURNING {MOVED}, old.status, job.status, NULL, old.lane"""
TAKE_KEYS = f"""WITH new AS (UPDATE jobqueue.job SET unique_key = o.key
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[]) AS o (id, key, until, within)
        WHERE job.id = o.id RETURNING o.key, job.seq, job.id, o.until, o.within)
    INSERT INTO jobqueue.holder
    SELECT key, seq, id, until, {NOW} + make_interval(secs => within) FROM new
    ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, id = excluded.id, until = excluded.until,
        expires_at = excluded.expires_at"""
EXPIRED_KEYS = f"""DELETE FROM jobqueue.holder WHERE key = ANY (ARRAY(SELECT key
        FROM jobqueue.holder WHERE expires_at <= (SELECT {NOW}) ORDER BY expires_at LIMIT %s
        FOR UPDATE SKIP LOCKED))"""

# ---- claiming

# Of each lane its head, as long as it may be needed: a lane that others stand in front of can give
# a share of the picks at most, plus what those lack. Then, if those are not enough, what waits
# behind those of groups.
# (Up to the limit: those that run are the oldest of a group, and are found first, however many
# stand there.)
_RUNNING = f"""(SELECT count(*) FROM (SELECT FROM jobqueue.job AS other WHERE other.grp = job.grp
            AND {LIVE} AND status = 'processing' LIMIT %(limit)s::integer) AS running)"""
_MAY_START = """(%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s::text[]))
        AND kind <> ALL (%(closed)s::text[]) AND seq <> ALL (%(aside)s::bigint[])"""
_SUITS = f" AND NOT suspect AND {_MAY_START}"
_NOT_FULL = f""" AND (%(limit)s::integer IS NULL OR grp IS NULL OR {_RUNNING} < %(limit)s)
        AND (grp IS NULL OR grp <> ALL (%(groups)s::text[]))"""
_RUNNING_IF_LIMITED = f"""CASE WHEN %(limit)s::integer IS NOT NULL AND grp IS NOT NULL
        THEN {_RUNNING} END"""
_SEEN = "seq, lane, kind, attempts, place, interrupted, size, timeout, suspect, grp, behind"
LOOK = (
    "WITH "
    + ", ".join(
        f"""lane{n} AS (SELECT {_SEEN},
        {_RUNNING_IF_LIMITED} AS running
        FROM jobqueue.job WHERE lane = {n} AND {IN_LANE} AND place >= %(low{n})s{_SUITS}{_NOT_FULL}
        ORDER BY place LIMIT {limit} FOR UPDATE SKIP LOCKED)"""
        for n, limit in enumerate(
            (
                "%(n)s",
                "greatest(%(n)s - (SELECT count(*) FROM lane0), %(share)s)",
                "greatest(%(n)s - (SELECT count(*) FROM lane0)"
                " - (SELECT count(*) FROM lane1), %(share)s)",
            )
        )
    )
    + f""", heads AS (TABLE lane0 UNION ALL TABLE lane1 UNION ALL TABLE lane2),
    enough AS (SELECT CASE WHEN count(*) < %(n)s THEN %(n)s / greatest(1, count(*)) ELSE 0 END
        AS number FROM heads)
    TABLE heads UNION ALL SELECT next.* FROM (SELECT DISTINCT grp, lane, running FROM heads
        WHERE grp IS NOT NULL) AS line, LATERAL (SELECT {_SEEN}, line.running
        FROM jobqueue.job WHERE grp = line.grp AND lane = line.lane AND {BEHIND}{_SUITS}
        ORDER BY place LIMIT (SELECT number FROM enough) FOR UPDATE SKIP LOCKED) AS next"""
)
# One that is likely the cause of a crash, if none runs or is being claimed anywhere.
LOOK_FOR_SUSPECT = f"""SELECT {_SEEN}, {_RUNNING_IF_LIMITED}
    FROM jobqueue.job WHERE {IN_LANE} AND suspect{_NOT_FULL}
        AND {_MAY_START} AND lane <> ALL (%(lanes)s::smallint[])
        AND pg_try_advisory_xact_lock(%(table)s, 0)
        AND NOT EXISTS (SELECT FROM jobqueue.job WHERE suspect AND ended_at IS NULL
        AND status = 'processing')
    ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED"""
# Who stands in line of groups that were full: the low mark of the lane may have passed them by. How
# many run is counted once for each group: thousands of one may stand there.
LOOK_AT_FREED = f"""SELECT {_SEEN}, running FROM unnest(%(freed)s::text[]) AS freed (name),
    LATERAL (SELECT count(*) AS running FROM (SELECT FROM jobqueue.job WHERE grp = name AND {LIVE}
        AND status = 'processing' LIMIT %(limit)s::integer) AS those) AS counted,
    LATERAL (SELECT {_SEEN} FROM jobqueue.job WHERE grp = name AND {IN_LANE}{_SUITS}
        AND grp <> ALL (%(groups)s::text[]) AND lane <> ALL (%(lanes)s::smallint[])
        ORDER BY place LIMIT %(n)s FOR UPDATE SKIP LOCKED) AS next
    WHERE running < %(limit)s ORDER BY place LIMIT %(n)s"""
CLAIM = f"""UPDATE jobqueue.job SET status = 'processing', owner = %(owner)s, token = {TOKEN},
        attempts = attempts + 1, started_at = {NOW}, alone = job.seq = ANY (%(alone)s::bigint[]),
        behind = false
    WHERE seq = ANY (%(claimed)s::bigint[])"""
READ = f""" RETURNING seq, id, payload, payload_bytes, meta,
    extract(epoch FROM {NOW} - ready_at)::float8"""
# Others may have started jobs of these groups meanwhile: who holds their locks knows.
UNLESS_FULL = f""" AND NOT EXISTS (SELECT FROM unnest(%(groups)s::text[], %(numbers)s::integer[])
        AS mine (grp, number) WHERE mine.grp = job.grp AND number + {_RUNNING} > %(limit)s)"""
# Who says which job of a group stands in its lane holds this lock, all that it needs at once and
# in order; of many groups some share one, as of many keys. (A row is locked without waiting,
# everywhere.)
LOCK_GROUPS = """SELECT pg_advisory_xact_lock(
        ('jobqueue.job'::regclass::oid::bigint & 2147483647)::integer, number)
    FROM (SELECT DISTINCT hashtext(name) & 255 AS number FROM unnest(%s::text[]) AS name
        ORDER BY number) AS numbers"""
# Where none of a group stands in a lane that may start here, the next one that may goes to the end
# of it. (It may be the last one: the lane's capacity bounds how many are passed over.) Where none
# may, and none stands there at all, the next one of any: it is seen once its kind may start again,
# and by those who run that.
_NEXT = f"""(SELECT seq FROM jobqueue.job WHERE grp = name AND lane = line AND {BEHIND}
            AND status = 'queued' AND {{}} ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED)"""
_NONE_STANDS = f"""(SELECT true FROM jobqueue.job WHERE grp = name AND lane = line
            AND {IN_LANE}{{}} LIMIT 1) IS NULL"""
COME_FORWARD = f"""WITH next AS MATERIALIZED (SELECT coalesce({_NEXT.format(_MAY_START)},
            CASE WHEN {_NONE_STANDS.format("")} THEN {_NEXT.format("true")} END) AS seq
        FROM unnest(%(groups)s::text[]) AS name, generate_series(0, {LANE_COUNT - 1}) AS line
        WHERE {_NONE_STANDS.format(_SUITS)})
    UPDATE jobqueue.job SET behind = false, place = nextval('jobqueue.job_seq_seq')
    FROM next WHERE job.seq = next.seq"""
# The groups that wait behind, each found by the index; and whether one of each is to come forward.
_ANY_BEHIND = f"""(SELECT true FROM jobqueue.job WHERE grp = name AND lane = line AND {BEHIND}
            AND status = 'queued' AND {{}} LIMIT 1)"""
BEHIND_NOBODY = f"""WITH RECURSIVE waits AS (
        (SELECT grp FROM jobqueue.job WHERE {BEHIND} AND grp > %(after)s ORDER BY grp LIMIT 1)
        UNION ALL SELECT (SELECT grp FROM jobqueue.job WHERE {BEHIND} AND grp > waits.grp
            ORDER BY grp LIMIT 1) FROM waits WHERE waits.grp IS NOT NULL)
    SELECT name, EXISTS (SELECT FROM generate_series(0, {LANE_COUNT - 1}) AS line
        WHERE {_NONE_STANDS.format(_SUITS)} AND coalesce({_ANY_BEHIND.format(_MAY_START)},
            CASE WHEN {_NONE_STANDS.format("")} THEN {_ANY_BEHIND.format("true")} END))
    FROM waits AS found (name) WHERE name IS NOT NULL LIMIT %(most)s"""
METERS = """SELECT kind, first, second FROM jobqueue.meter
    WHERE kind = ANY (%s::text[]) ORDER BY kind FOR UPDATE"""
CLOCK = f"SELECT extract(epoch FROM {NOW})::float8"
ADD_METERS = """INSERT INTO jobqueue.meter SELECT *
        FROM unnest(%s::text[], %s::float8[], %s::float8[])
    ON CONFLICT DO NOTHING"""
SET_METERS = """UPDATE jobqueue.meter SET first = o.first, second = o.second
    FROM unnest(%s::text[], %s::float8[], %s::float8[]) AS o (kind, first, second)
    WHERE meter.kind = o.kind"""

# Of the kinds of which only so many may run at a time, how many do, by all processes.
_RUNS = """EXISTS (SELECT FROM jobqueue.job WHERE job.seq = slot.seq AND job.token = slot.token
        AND job.status = 'processing')"""
SLOTS = f"""WITH ended AS (DELETE FROM jobqueue.slot
        WHERE kind = ANY (%s::text[]) AND NOT {_RUNS})
    SELECT kind, count(*) FROM jobqueue.slot WHERE kind = ANY (%s::text[]) AND {_RUNS}
    GROUP BY kind"""
ADD_SLOTS = """INSERT INTO jobqueue.slot
    SELECT seq, token, kind FROM jobqueue.job WHERE seq = ANY (%s::bigint[])
    UNION ALL SELECT seq, token, kind FROM jobqueue.job WHERE id = ANY (%s::text[])"""

IS_CLAIMED = """SELECT EXISTS (SELECT FROM jobqueue.job
    WHERE seq = ANY (%s::bigint[]) AND token = %s)"""
# What came of attempts whose end was written; of those that nobody has claimed since.
FATES = """SELECT job.seq, job.token, job.status FROM jobqueue.job
    JOIN unnest(%s::bigint[], %s::bigint[]) AS o (seq, token) USING (seq, token)
    WHERE job.status <> 'processing'"""
HAS_BEATEN = "SELECT EXISTS (SELECT FROM jobqueue.owner WHERE id = %s AND expires_at = %s)"
# All of it: an end may be written by another process, and an id have been there before. (That of a
# job which another process has brought a moment ago may pass for ours.)
IS_WRITTEN = """SELECT NOT EXISTS (SELECT FROM unnest(%s::text[]) AS new (id)
        WHERE NOT EXISTS (SELECT FROM jobqueue.job WHERE job.id = new.id AND job.seq > %s))
    AND NOT EXISTS (SELECT FROM jobqueue.job
        JOIN unnest(%s::bigint[], %s::bigint[]) AS o (seq, token) USING (seq, token)
        WHERE job.status = 'processing')"""

# ---- around it

NOTIFY = "SELECT pg_notify(%s, %s)"
OLD_SESSION_IS_OVER = "SELECT pg_advisory_xact_lock(%s, %s)"
# In no table: so that a commit has something to wait for.
WRITE_SOMETHING = """SELECT set_config('synchronous_commit', %s, true),
    pg_logical_emit_message(true, 'jobqueue', '')"""
# Of claims whose transaction was in doubt nobody here knows: those that are not in hand.
GIVE_BACK_CLAIMS = f"""{GIVE_BACK}
    WHERE {LIVE} AND status = 'processing' AND owner = %s AND seq <> ALL (%s::bigint[])"""
TIMEOUT = "SELECT set_config('statement_timeout', %s, true)"
# Where the first that waits stands.
FIRST = "SELECT " + ", ".join(
    f"""coalesce((SELECT place FROM jobqueue.job WHERE lane = {n} AND {IN_LANE}
        ORDER BY place LIMIT 1), (SELECT last_value FROM jobqueue.job_seq_seq))"""
    for n in range(LANE_COUNT)
)
SUSPECTS = """SELECT EXISTS (SELECT FROM jobqueue.job
    WHERE suspect AND ended_at IS NULL AND status = 'queued')"""
_RUNS_HERE = "(%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s::text[]))"
_OF_NO_PAUSE = """kind <> ALL (%(paused)s::text[]) AND lane <> ALL (%(lanes)s::smallint[])
        AND (grp IS NULL OR grp <> ALL (%(groups)s::text[]))"""
# In this order: where jobs wait, nothing else is looked at. What was set aside here is for others.
BUSY = f"""SELECT EXISTS (SELECT FROM jobqueue.job
        WHERE {IN_LANE} AND {_RUNS_HERE} AND seq <> ALL (%(aside)s::bigint[]))
    OR EXISTS (SELECT FROM jobqueue.job
        WHERE {BEHIND} AND status = 'queued' AND {_RUNS_HERE} AND seq <> ALL (%(aside)s::bigint[]))
    OR EXISTS (SELECT FROM jobqueue.job WHERE {LIVE} AND status = 'processing')
    OR EXISTS (SELECT FROM jobqueue.job
        WHERE due_at < 'infinity' AND status = 'retrying' AND {_RUNS_HERE})
    OR EXISTS (SELECT FROM jobqueue.release)"""
ANY_LEFT = """SELECT EXISTS (SELECT FROM jobqueue.job
    WHERE seq = ANY (%s::bigint[]) AND ended_at IS NULL)"""
# Whether anything goes on by itself, beside what this process runs: it waits and is not paused,
# comes back, or runs elsewhere.
GOES_ON = f"""SELECT EXISTS (SELECT FROM jobqueue.job
        WHERE {IN_LANE} AND {_RUNS_HERE} AND {_OF_NO_PAUSE} AND seq <> ALL (%(aside)s::bigint[]))
    OR EXISTS (SELECT FROM jobqueue.job WHERE {BEHIND} AND status = 'queued'
        AND {_RUNS_HERE} AND {_OF_NO_PAUSE} AND seq <> ALL (%(aside)s::bigint[]))
    OR EXISTS (SELECT FROM jobqueue.job
        WHERE {LIVE} AND status = 'processing' AND owner <> %(owner)s)
    OR EXISTS (SELECT FROM jobqueue.job
        WHERE due_at < 'infinity' AND status = 'retrying' AND {_RUNS_HERE} AND {_OF_NO_PAUSE})
    OR EXISTS (SELECT FROM jobqueue.release)"""
# Also those that are gone: purged, or let go of by the history.
ENDED_OF = """SELECT id FROM unnest(%s::text[]) AS o (id) LEFT JOIN jobqueue.job USING (id)
    WHERE seq IS NULL OR ended_at IS NOT NULL"""
# (What has just ended, somebody may wait for who has not heard of it.)
OLDEST = f"""SELECT seq FROM jobqueue.job
        WHERE ended_at < {NOW} - interval '{HEARD_SECONDS} s' AND NOT dead AND seq >= %s
        AND NOT (has_children AND {_NEEDED})
        ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED"""
# Again of those that are locked.
PRUNE = f"""WITH ended AS (SELECT seq, lane, status FROM jobqueue.job
        WHERE seq = ANY (%s::bigint[]) AND NOT (has_children AND {_NEEDED})),
    {_FREE},
    counted AS (INSERT INTO jobqueue.forgotten SELECT lane, status, count(*)
        FROM free GROUP BY lane, status
        ON CONFLICT (lane, status) DO UPDATE SET count = forgotten.count + excluded.count),
    gone AS (DELETE FROM jobqueue.job WHERE seq = ANY (ARRAY(SELECT seq FROM free))
        RETURNING seq, status),
    unsaid AS (DELETE FROM jobqueue.progress USING gone WHERE progress.seq = gone.seq),
    {_LET_GO},
    {_WITHOUT_META}
    SELECT seq FROM gone"""
PRUNER = "SELECT pg_try_advisory_xact_lock(%s, -1)"
# By the history, and by purges.
GONE = """SELECT coalesce(sum(count), 0)::bigint
    FROM (SELECT count FROM jobqueue.forgotten UNION ALL TABLE jobqueue.purged) AS gone"""
# Among so many rows from there on. (Those that are needed are kept beside the history.)
COUNT_ENDED = f"""SELECT count(*), count(*) FILTER (WHERE ended_at IS NOT NULL AND NOT dead
            AND NOT (has_children AND {_NEEDED})), coalesce(max(seq), 0)
    FROM (SELECT seq, id, ended_at, dead, has_children FROM jobqueue.job WHERE seq > %s
        ORDER BY seq LIMIT %s) AS job"""

# ---- look-ups

FIRST_AND_LAST = """SELECT coalesce((SELECT seq FROM jobqueue.job ORDER BY seq LIMIT 1), 1),
    coalesce((SELECT seq FROM jobqueue.job ORDER BY seq DESC LIMIT 1), 0)"""
COUNTS = """SELECT lane, status, sum(count)::bigint FROM (
        SELECT lane, status, count(*) FROM jobqueue.job GROUP BY lane, status
        UNION ALL TABLE jobqueue.forgotten) AS all_jobs GROUP BY lane, status"""
AGES = "SELECT " + ", ".join(
    f"""(SELECT extract(epoch FROM {NOW} - ready_at)::float8 FROM jobqueue.job
        WHERE lane = {n} AND {IN_LANE} ORDER BY place LIMIT 1)"""
    for n in range(LANE_COUNT)
)
# From two indexes: of who stands in a lane or runs, and of who waits behind.
GROUPS = f"""SELECT grp, count(*) FILTER (WHERE status = 'queued') AS queued,
        count(*) FILTER (WHERE status = 'processing'), greatest(0, coalesce(extract(epoch FROM
        {NOW} - min(ready_at) FILTER (WHERE status = 'queued')), 0))::float8
    FROM (SELECT grp, status, ready_at FROM jobqueue.job WHERE {LIVE} AND grp IS NOT NULL
        UNION ALL SELECT grp, status, ready_at FROM jobqueue.job WHERE {BEHIND}) AS job
    GROUP BY grp ORDER BY queued DESC, grp LIMIT %s"""
_DUE = "CASE WHEN status = 'waiting' THEN run_at ELSE due_at END"
_TIMES = ", ".join(
    f"extract(epoch FROM {time})::float8"
    for time in ("enqueued_at", "started_at", "ended_at", _DUE)
)
_AFTER = """(SELECT coalesce(json_agg(parent ORDER BY number), '[]')::text
    FROM jobqueue.dependency WHERE child = job.seq)"""
_PROGRESS = """(SELECT json_build_array(fraction, message, extract(epoch FROM at)::float8)::text
    FROM jobqueue.progress WHERE progress.seq = job.seq)"""
_RECORD = (
    "id, (ARRAY['high', 'medium', 'low'])[lane + 1], kind, status, attempts,"
    f" {_TIMES}, error, timeout, seq, grp, unique_key, {_AFTER}, meta, snoozes, {_PROGRESS}"
)
RECORD = f"SELECT {_RECORD}, result, result_bytes, payload, payload_bytes"
SUMMARY = f"SELECT {_RECORD}, NULL, NULL, 'null', NULL"
ATTEMPTS = """SELECT number, extract(epoch FROM failure.started_at)::float8,
        extract(epoch FROM failure.ended_at)::float8, failure.error, traceback
    FROM jobqueue.failure JOIN jobqueue.job USING (seq)
        WHERE job.id = %s ORDER BY failure.token"""
PARENTS = """SELECT parent, result, result_bytes
    FROM jobqueue.dependency LEFT JOIN jobqueue.job ON job.id = parent
    WHERE child = (SELECT seq FROM jobqueue.job WHERE id = %s) ORDER BY number"""
PAUSED = "SELECT sort, name FROM jobqueue.pause"
OWNERS = f"""SELECT id, name, workers, extract(epoch FROM started_at)::float8,
        extract(epoch FROM expires_at - {NOW})::float8, running
    FROM jobqueue.owner ORDER BY id"""
# Whose view of the rows is the oldest: what has died since then no vacuum can remove. (One that
# has written, and waits at READ COMMITTED, has no snapshot, and holds them by its own number.)
OLDEST_VIEW = f"""SELECT age, seconds, holder FROM (
        SELECT greatest(age(backend_xmin), age(backend_xid)) AS age,
            extract(epoch FROM {NOW} - coalesce(xact_start, {NOW}))::float8 AS seconds,
            concat_ws(' ', nullif(application_name, ''), usename, backend_type, 'pid ' || pid)
            AS holder
        FROM pg_stat_activity
            WHERE coalesce(backend_xmin, backend_xid) IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL SELECT age(transaction), extract(epoch FROM {NOW} - prepared)::float8,
            'prepared transaction ' || gid FROM pg_prepared_xacts
        UNION ALL SELECT age(xmin), 0, 'replication slot ' || slot_name
        FROM pg_replication_slots WHERE xmin IS NOT NULL) AS views
    ORDER BY age DESC LIMIT 1"""
TABLES = """SELECT relname, n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables
    WHERE relid IN ('jobqueue.job'::regclass, 'jobqueue.owner'::regclass,
        'jobqueue.failure'::regclass, 'jobqueue.meter'::regclass)"""
