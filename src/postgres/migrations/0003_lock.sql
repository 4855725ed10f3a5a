-- The maintenance lock for others than this service: who asked, what a lost answer was, what was taken away.

ALTER TABLE lock
    ADD COLUMN update_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN waiting       jsonb,       -- a software update that waits: no backup or restore begins before it
    ADD COLUMN waiting_until timestamptz; -- it says so again and again; it is gone when it does not

-- A lease does not outlive an upgrade of this service: its holder is an operation of a process that was stopped.
DELETE FROM lease;
ALTER TABLE lease
    ALTER COLUMN operation TYPE text USING '',
    ALTER COLUMN operation SET NOT NULL,
    ADD COLUMN principal  text NOT NULL,
    ADD COLUMN request_id text NOT NULL,
    ADD COLUMN sealed_id  bytea NOT NULL,  -- the lease_id for whom the answer did not reach; sealed
    ADD COLUMN ttl        interval NOT NULL,
    ADD COLUMN revoked    boolean NOT NULL DEFAULT false, -- taken away; gone as soon as its last transaction has ended
    ADD COLUMN told_end   boolean NOT NULL DEFAULT false; -- that it ended without a release

-- There is one lock, and it has one holder.
CREATE UNIQUE INDEX lease_holder ON lease (lock_name);

-- First statement of every protected transaction. False: the lease is over, stop.
CREATE OR REPLACE FUNCTION fence(name text, token bigint) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
BEGIN ATOMIC
    SELECT count(*) = 1
    FROM (SELECT 1 FROM holdfast.lease WHERE lock_name = name AND fencing_token = token AND NOT revoked FOR KEY SHARE) AS held;
END;

-- Where another service hosts the lock, this database keeps the newest token that it heard of.
CREATE TABLE fence (
    lock_name text PRIMARY KEY,
    max_token bigint NOT NULL DEFAULT 0,
    operation text NOT NULL DEFAULT '',       -- of this service, that was granted it
    in_force  boolean NOT NULL DEFAULT false  -- false: the lock is hosted here, and no lease elsewhere counts
);
INSERT INTO fence (lock_name) VALUES ('platform-maintenance');

-- The newest holder announces itself, before it changes anything. Waits until the protected transactions of holders before it
-- have ended; they cannot begin another. False: there is a newer holder, or an operation of this service has this token.
CREATE FUNCTION advance_fence(token bigint) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
BEGIN ATOMIC
    WITH advanced AS (
        UPDATE holdfast.fence SET max_token = token, operation = ''
        WHERE lock_name = 'platform-maintenance' AND (max_token < token OR (max_token = token AND operation = ''))
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM advanced);
END;
REVOKE ALL ON FUNCTION advance_fence FROM PUBLIC;

-- The first statement of a protected transaction then.
CREATE FUNCTION foreign_fence(name text, token bigint) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
BEGIN ATOMIC
    SELECT count(*) = 1
    FROM (SELECT 1 FROM holdfast.fence WHERE lock_name = name AND max_token = token AND in_force FOR SHARE) AS held;
END;
REVOKE ALL ON FUNCTION foreign_fence FROM PUBLIC;
