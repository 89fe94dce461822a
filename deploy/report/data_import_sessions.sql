-- Deploy pyflowguard:report/data_import_sessions to pg
-- The legacy table leaves the application: it moves, rows and all, to schema flowguard_archive. Its foreign keys
-- would let deletes elsewhere reach or be stopped by it, so they are dropped and their definitions kept.

BEGIN;

DO $move$
DECLARE
  v_table regclass := to_regclass('data_import_sessions');
  r_key   record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/data_import_sessions does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;

  CREATE SCHEMA IF NOT EXISTS flowguard_archive;
  COMMENT ON SCHEMA flowguard_archive IS 'Tables that a change set of PyFlowGuard took out of an application.';

  CREATE TABLE IF NOT EXISTS flowguard_archive.moved_table (
    table_name   text        NOT NULL PRIMARY KEY,
    schema_name  text        NOT NULL,
    foreign_keys jsonb       NOT NULL,
    moved_at     timestamptz NOT NULL DEFAULT now()
  );
  COMMENT ON TABLE flowguard_archive.moved_table IS
    'Where each table here came from, and the foreign keys that it had.';
  COMMENT ON COLUMN flowguard_archive.moved_table.table_name IS 'The table, which kept its name.';
  COMMENT ON COLUMN flowguard_archive.moved_table.schema_name IS 'The schema that it was in.';
  COMMENT ON COLUMN flowguard_archive.moved_table.foreign_keys IS
    'Name, definition, comment and validity of each foreign key that it had.';
  COMMENT ON COLUMN flowguard_archive.moved_table.moved_at IS 'When it was moved.';

  IF v_table IS NULL THEN
    RAISE NOTICE 'there is no table data_import_sessions on the search_path; nothing to move'
      USING DETAIL = format('The search_path is %s.', current_setting('search_path')),
            HINT = 'If the application has one, revert this change and deploy it with the schema on the search_path.';
    RETURN;
  END IF;
  -- From here on every name is spelled out, in the definitions that are kept as well.
  PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
  INSERT INTO flowguard_archive.moved_table (table_name, schema_name, foreign_keys)
  SELECT c.relname, n.nspname,
         coalesce((SELECT jsonb_agg(jsonb_build_object(
                            'name', k.conname, 'validated', k.convalidated,
                            'definition', regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', ''),
                            'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname)
                     FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'), '[]')
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.oid = v_table AND n.nspname <> 'flowguard_archive';
  FOR r_key IN
    SELECT k.conname FROM pg_catalog.pg_constraint k WHERE k.conrelid = v_table AND k.contype = 'f'
  LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', v_table, r_key.conname);
  END LOOP;
  EXECUTE format('ALTER TABLE %s SET SCHEMA flowguard_archive', v_table);
END;
$move$;

COMMIT;
