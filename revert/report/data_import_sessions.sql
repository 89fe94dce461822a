-- Revert pyflowguard:report/data_import_sessions from pg

BEGIN;

DO $move$
DECLARE
  r_moved record;
  r_key   record;
BEGIN
  IF to_regclass('flowguard_archive.moved_table') IS NULL THEN
    RETURN;  -- the profile did nothing here
  END IF;
  FOR r_moved IN
    DELETE FROM flowguard_archive.moved_table m WHERE m.table_name = 'data_import_sessions' RETURNING m.*
  LOOP
    EXECUTE format('ALTER TABLE flowguard_archive.%I SET SCHEMA %I', r_moved.table_name, r_moved.schema_name);
    FOR r_key IN
      SELECT k.* FROM jsonb_to_recordset(r_moved.foreign_keys) AS k (name name, validated boolean, definition text,
        comment text)
    LOOP
      PERFORM flowguard._add_key_back(format('%I.%I', r_moved.schema_name, r_moved.table_name)::regclass, r_key.name,
                                      r_key.definition, r_key.validated, r_key.comment);
    END LOOP;
  END LOOP;
  IF NOT EXISTS (SELECT FROM flowguard_archive.moved_table) THEN
    DROP TABLE flowguard_archive.moved_table;
    DROP SCHEMA flowguard_archive;
  END IF;
END;
$move$;

COMMIT;
