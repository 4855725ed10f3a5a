-- Requests that brought a file: the same one again is answered with the same backup. Forgotten after a day.
CREATE TABLE upload (
    caller         text NOT NULL,
    request_id     text NOT NULL,
    request_digest bytea NOT NULL,
    backup         text NOT NULL REFERENCES backup ON DELETE CASCADE,
    create_time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (caller, request_id)
);
CREATE INDEX upload_backup ON upload (backup);
