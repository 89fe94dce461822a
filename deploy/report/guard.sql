-- Deploy pyflowguard:report/guard to pg
-- Triggers, indexes and foreign keys for all five links; deleting a master cascades, as the report has it. The tables
-- that others refer to come last, so that a cascade reaches a row before the row that it refers to. The command builds
-- all that first, a statement at a time, while applications write; other runners can do the same by guard_plan().
-- pyflowguard guard --if-table crewai_flow_state_extensions assets import_field_mappings discovery_flows
-- pyflowguard guard --if-table crewai_flow_state_extensions raw_import_records data_imports

BEGIN;

DO $guard$
DECLARE
  v_table text;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/guard does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;
  FOREACH v_table IN ARRAY ARRAY['assets', 'import_field_mappings', 'discovery_flows', 'raw_import_records',
    'data_imports'] LOOP
    PERFORM FROM flowguard.guard(v_table::regclass);
  END LOOP;
END;
$guard$;

COMMIT;
