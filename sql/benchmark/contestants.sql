-- What the guard is measured against: the limit (the same tables, keys and indexes, and no trigger of ours), and what
-- people write by hand to fill a link. Load load.sql first, into a database that is guarded.

BEGIN;

CREATE FUNCTION benchmark.drop_guard_triggers() RETURNS void
LANGUAGE plpgsql AS $drop_guard_triggers$
-- Leaves the guard's keys and indexes: what is left is the same insert with the link supplied by the client.
DECLARE
  r_trigger record;
BEGIN
  FOR r_trigger IN
    SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t WHERE t.tgname LIKE '~flowguard%'
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', r_trigger.tgname, r_trigger.relation);
  END LOOP;
END;
$drop_guard_triggers$;
COMMENT ON FUNCTION benchmark.drop_guard_triggers() IS 'Takes the guard''s triggers away and leaves its keys.';

-- One trigger function for every table, told by its arguments: (via column, source table), or (source table).

CREATE FUNCTION benchmark.fill_generic() RETURNS trigger
LANGUAGE plpgsql AS $fill_generic$
DECLARE
  v_link uuid;
BEGIN
  IF TG_NARGS = 2 THEN
    EXECUTE format('SELECT s.master_flow_id FROM %s s WHERE s.id = ($1).%I', TG_ARGV[1], TG_ARGV[0])
      INTO v_link USING NEW;
  ELSE
    EXECUTE format('SELECT s.master_flow_id FROM %s s WHERE s.client_account_id = ($1).client_account_id '
                   'AND s.engagement_id = ($1).engagement_id AND s.master_flow_id IS NOT NULL '
                   'AND s.created_at BETWEEN ($1).created_at - interval ''1 hour'' '
                   'AND ($1).created_at + interval ''1 hour'' '
                   'ORDER BY abs(extract(epoch FROM s.created_at - ($1).created_at)), s.created_at, s.id LIMIT 1',
                   TG_ARGV[0])
      INTO v_link USING NEW;
  END IF;
  NEW.master_flow_id := v_link;
  RETURN NEW;
END;
$fill_generic$;
COMMENT ON FUNCTION benchmark.fill_generic() IS 'A trigger for any table, by EXECUTE.';

CREATE FUNCTION benchmark.use_generic_triggers() RETURNS void
LANGUAGE plpgsql AS $use_generic_triggers$
BEGIN
  PERFORM benchmark.drop_guard_triggers();
  CREATE TRIGGER fill BEFORE INSERT ON migration.raw_import_records FOR EACH ROW WHEN (NEW.master_flow_id IS NULL)
    EXECUTE FUNCTION benchmark.fill_generic('data_import_id', 'migration.data_imports');
  CREATE TRIGGER fill BEFORE INSERT ON migration.import_field_mappings FOR EACH ROW WHEN (NEW.master_flow_id IS NULL)
    EXECUTE FUNCTION benchmark.fill_generic('data_import_id', 'migration.data_imports');
  CREATE TRIGGER fill BEFORE INSERT ON migration.assets FOR EACH ROW WHEN (NEW.master_flow_id IS NULL)
    EXECUTE FUNCTION benchmark.fill_generic('migration.discovery_flows');
END;
$use_generic_triggers$;
COMMENT ON FUNCTION benchmark.use_generic_triggers() IS 'Puts the generic trigger in the place of the guard''s.';

-- An AFTER statement trigger that updates what was just inserted.

CREATE FUNCTION benchmark.fill_children() RETURNS trigger
LANGUAGE plpgsql AS $fill_children$
BEGIN
  EXECUTE format('UPDATE %s c SET master_flow_id = s.master_flow_id FROM written w '
                 'JOIN migration.data_imports s ON s.id = w.data_import_id '
                 'WHERE c.id = w.id AND w.master_flow_id IS NULL', TG_RELID::regclass);
  RETURN NULL;
END;
$fill_children$;
COMMENT ON FUNCTION benchmark.fill_children() IS 'Links the rows of a statement through their import, afterwards.';

CREATE FUNCTION benchmark.fill_assets() RETURNS trigger
LANGUAGE plpgsql AS $fill_assets$
BEGIN
  UPDATE migration.assets AS c SET master_flow_id = n.master_flow_id
    FROM written AS w
   CROSS JOIN LATERAL (
     SELECT s.master_flow_id FROM migration.discovery_flows AS s
      WHERE s.client_account_id = w.client_account_id AND s.engagement_id = w.engagement_id
        AND s.master_flow_id IS NOT NULL
        AND s.created_at BETWEEN w.created_at - interval '1 hour' AND w.created_at + interval '1 hour'
      ORDER BY abs(extract(epoch FROM s.created_at - w.created_at)), s.created_at, s.id LIMIT 1) AS n
   WHERE c.id = w.id AND w.master_flow_id IS NULL;
  RETURN NULL;
END;
$fill_assets$;
COMMENT ON FUNCTION benchmark.fill_assets() IS 'Links the rows of a statement to the flow nearest in time, afterwards.';

CREATE FUNCTION benchmark.use_statement_triggers() RETURNS void
LANGUAGE plpgsql AS $use_statement_triggers$
BEGIN
  PERFORM benchmark.drop_guard_triggers();
  CREATE TRIGGER fill AFTER INSERT ON migration.raw_import_records REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION benchmark.fill_children();
  CREATE TRIGGER fill AFTER INSERT ON migration.import_field_mappings REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION benchmark.fill_children();
  CREATE TRIGGER fill AFTER INSERT ON migration.assets REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION benchmark.fill_assets();
END;
$use_statement_triggers$;
COMMENT ON FUNCTION benchmark.use_statement_triggers() IS 'Puts statement triggers in the place of the guard''s.';

COMMIT;
