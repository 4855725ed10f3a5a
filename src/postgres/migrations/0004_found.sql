-- Files that were found in the folder: no operation of this system made them.
ALTER TABLE backup ALTER COLUMN operation DROP NOT NULL;

-- When a process last began to read a file again.
ALTER TABLE backup ADD COLUMN scrub_time timestamptz;
