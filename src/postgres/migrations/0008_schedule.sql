-- Every run of the schedule that was planned up to this time has its result.
ALTER TABLE system ADD COLUMN schedule_time timestamptz NOT NULL DEFAULT clock_timestamp();
UPDATE system SET schedule_time = greatest(install_time, (SELECT max(planned_time) FROM slot WHERE state <> 'running'));

CREATE INDEX slot_running ON slot (planned_time) WHERE state = 'running';
