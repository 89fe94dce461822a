-- Revert pyflowguard:report/enforce from pg

BEGIN;

DO $enforce$
DECLARE
  v_table text;
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here
  END IF;
  FOREACH v_table IN ARRAY ARRAY['assets', 'discovery_flows', 'import_field_mappings', 'raw_import_records',
    'data_imports'] LOOP
    PERFORM flowguard.set_mode(v_table::regclass, 'observe');
  END LOOP;
END;
$enforce$;

COMMIT;
