-- Verify pyflowguard:report/links on pg

BEGIN;

DO $verify$
DECLARE
  v_table text;
BEGIN
  SELECT format('%I.%I', n.nspname, c.relname) INTO v_table
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   ORDER BY n.nspname LIMIT 1;
  IF v_table IS NULL THEN
    RETURN;  -- the profile does nothing here
  END IF;
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RAISE EXCEPTION 'flowguard: table % came after report/links, so nothing of the report is guarded', v_table
      USING ERRCODE = 'FG301', DETAIL = 'When the profile was deployed there was no such table, and it did nothing.',
            HINT = 'Revert to @engine and deploy again, with the schema of the tables on the search_path.';
  END IF;
  PERFORM flowguard._link('data_imports', 'master_flow_id');
  PERFORM flowguard._link('raw_import_records', 'master_flow_id');
  PERFORM flowguard._link('import_field_mappings', 'master_flow_id');
  PERFORM flowguard._link('discovery_flows', 'master_flow_id');
  PERFORM flowguard._link('assets', 'master_flow_id');
END;
$verify$;

ROLLBACK;
