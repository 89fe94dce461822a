-- Verify pyflowguard:report/data_import_sessions on pg

BEGIN;

DO $verify$
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here, and report/links tells if that is wrong by now
  END IF;
  PERFORM table_name, schema_name, foreign_keys, moved_at FROM flowguard_archive.moved_table WHERE false;
  IF to_regclass('data_import_sessions') IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: table data_import_sessions is still on the search_path'
      USING ERRCODE = 'FG301',
            DETAIL = format('It is %s; tables that were moved are in flowguard_archive.moved_table.',
                            (SELECT format('%I.%I', n.nspname, c.relname)
                               FROM pg_catalog.pg_class c
                               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                              WHERE c.oid = to_regclass('data_import_sessions'))),
            HINT = 'If it was created anew, run "DROP TABLE data_import_sessions"; else revert the change and deploy '
              'it again.';
  END IF;
END;
$verify$;

ROLLBACK;
