-- Verify pyflowguard:report/data_import_sessions on pg

BEGIN;

SELECT table_name, schema_name, foreign_keys, moved_at FROM flowguard_archive.moved_table WHERE false;

DO $verify$
BEGIN
  IF to_regclass('data_import_sessions') IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: table data_import_sessions is still on the search_path'
      USING HINT = 'See flowguard_archive.moved_table.';
  END IF;
END;
$verify$;

ROLLBACK;
