-- Keys that files are signed with. The one in use has its secret part; those before it are trusted for as long as their files are there.
CREATE TABLE signing_key (
    fingerprint text PRIMARY KEY,
    sequence    bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    create_time timestamptz NOT NULL,
    creator     text NOT NULL,
    certificate bytea NOT NULL,   -- OpenPGP, armored
    secret      bytea             -- sealed
);
CREATE UNIQUE INDEX signing_key_in_use ON signing_key ((true)) WHERE secret IS NOT NULL;
