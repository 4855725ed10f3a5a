-- The service's own state. It is in no resource, so that no restore can roll it back.

-- This installation. One row.
CREATE TABLE system (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    system_id uuid NOT NULL,
    volume_id uuid,           -- identity of the backup folder; null until the first start
    install_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO system (system_id) VALUES (gen_random_uuid());

CREATE TABLE setting (
    name        text PRIMARY KEY,
    value       jsonb NOT NULL,
    secret      bytea,        -- sealed; only the row of `encryption` has one
    revision    bigint NOT NULL DEFAULT 1,
    update_time timestamptz,
    updater     text NOT NULL DEFAULT ''
);

CREATE TABLE operation (
    id               uuid PRIMARY KEY,
    caller           text NOT NULL,
    request_id       text,    -- null: none was sent, or it is no longer remembered
    request_digest   bytea NOT NULL,
    create_time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    owner            uuid NOT NULL,
    heartbeat_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    cancellable      boolean NOT NULL DEFAULT true,
    cancel_requested boolean NOT NULL DEFAULT false,
    restore_xid      text,    -- transaction of a restore, from before it changes anything
    done             boolean NOT NULL DEFAULT false,
    revision         bigint NOT NULL DEFAULT 1,
    body             jsonb NOT NULL,
    UNIQUE (caller, request_id)
);
CREATE INDEX operation_active ON operation (id) WHERE NOT done;

CREATE TABLE backup (
    id            text PRIMARY KEY,
    sequence      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    register_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    operation     uuid NOT NULL,
    state         text NOT NULL,
    revision      bigint NOT NULL DEFAULT 1,
    body          jsonb NOT NULL
);

-- The maintenance lock. A lease is one grant; the fence of a protected transaction locks its row, so that nobody can
-- take over before that transaction has ended.
CREATE TABLE lock (
    lock_name       text PRIMARY KEY,
    fencing_counter bigint NOT NULL DEFAULT 0
);
INSERT INTO lock (lock_name) VALUES ('platform-maintenance');

CREATE TABLE lease (
    lock_name     text NOT NULL REFERENCES lock,
    fencing_token bigint NOT NULL,
    lease_id_hash bytea NOT NULL,
    holder_id     text NOT NULL,
    purpose       text NOT NULL,
    reason        text NOT NULL,
    operation     uuid,
    expiry_policy text NOT NULL CHECK (expiry_policy IN ('RELEASE', 'HOLD')),
    acquire_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    renew_time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time   timestamptz NOT NULL,
    PRIMARY KEY (lock_name, fencing_token)
);

-- First statement of every protected transaction. False: the lease is over, stop.
-- As a function it lets the restore role take the fence without any right on the table.
CREATE FUNCTION fence(name text, token bigint) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
BEGIN ATOMIC
    SELECT count(*) = 1
    FROM (SELECT 1 FROM holdfast.lease WHERE lock_name = name AND fencing_token = token FOR KEY SHARE) AS held;
END;
REVOKE ALL ON FUNCTION fence FROM PUBLIC;

-- One row for each restore that was committed, written in its transaction: the truth about its outcome.
CREATE TABLE restore_log (
    operation        uuid PRIMARY KEY,
    commit_time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    result           jsonb NOT NULL,
    sequences        jsonb NOT NULL,
    sequences_raised boolean NOT NULL DEFAULT false
);

-- One row for each planned run of the schedule: whoever inserts it runs it.
CREATE TABLE slot (
    planned_time timestamptz PRIMARY KEY,
    state        text NOT NULL,
    operation    uuid,
    end_time     timestamptz
);
