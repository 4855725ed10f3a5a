-- The audit log is a chain: `hash` is SHA-256 of the hash of the event before and of what stands in this one. It comes with the
-- number (postgres::state::chain); events that have their number already are chained in the same way, before any other.
ALTER TABLE event ADD hash bytea, ADD CHECK (number > 0);
DROP INDEX event_unnumbered;
CREATE INDEX event_unchained ON event ((number IS NULL), number, event_time, id) WHERE hash IS NULL;

-- The hash of event `last`, which stands for all up to it.
ALTER TABLE event_counter ADD head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex');

-- A guard against accidents. Whoever owns the table can remove it; the chain shows what was done then.
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER no_update BEFORE UPDATE ON event FOR EACH ROW
    WHEN (OLD.hash IS NOT NULL OR OLD.number <> NEW.number
        OR (OLD.id, OLD.event_time, OLD.type, OLD.body) IS DISTINCT FROM (NEW.id, NEW.event_time, NEW.type, NEW.body))
    EXECUTE FUNCTION append_only();
CREATE TRIGGER no_delete BEFORE DELETE ON event FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON event FOR EACH STATEMENT EXECUTE FUNCTION append_only();
