-- The archive: a second place for the files. One row since there is one.
CREATE TABLE archive (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    url           text NOT NULL,                  -- as configured; has no secret in it
    identified    boolean NOT NULL DEFAULT false, -- its identity file was there once, so that it is missed when it is not
    failing_since timestamptz,                    -- null: it works
    failure       jsonb                           -- why not
);

-- When the file was proven in the archive; null: it is not there.
ALTER TABLE backup ADD COLUMN archive_time timestamptz;
-- When a process last began to copy it there.
ALTER TABLE backup ADD COLUMN archive_try_time timestamptz;
