-- Revert pyflowguard:report/guard from pg

BEGIN;

DO $guard$
DECLARE
  v_table text;
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here
  END IF;
  FOREACH v_table IN ARRAY ARRAY['data_imports', 'raw_import_records', 'discovery_flows', 'import_field_mappings',
    'assets'] LOOP
    PERFORM FROM flowguard.unguard(v_table::regclass);
  END LOOP;
END;
$guard$;

COMMIT;
