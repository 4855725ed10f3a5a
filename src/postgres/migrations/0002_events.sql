-- What happened, append-only: the audit log and the outbox in one. Each event is written in the transaction of what it
-- tells, so it is there exactly when that is.
CREATE TABLE event (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(), -- tells receivers what they have seen already
    number     bigint UNIQUE, -- place in the order of publication; null until its transaction was seen committed
    event_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    type       text NOT NULL,
    body       jsonb NOT NULL
);
CREATE INDEX event_unnumbered ON event (event_time) WHERE number IS NULL;

-- Numbers are given out by one transaction at a time, to events that are committed: so they become visible in their order,
-- and whoever has seen a number has seen all below it.
CREATE TABLE event_counter (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last      bigint NOT NULL
);
INSERT INTO event_counter (last) VALUES (0);

-- How far each receiver has been told.
CREATE TABLE delivery (
    receiver    text PRIMARY KEY,
    position    bigint NOT NULL,
    update_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
