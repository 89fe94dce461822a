-- Revert pyflowguard:report/links from pg

BEGIN;

DO $links$
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here
  END IF;
  PERFORM flowguard.drop_link('assets');
  PERFORM flowguard.drop_link('discovery_flows');
  PERFORM flowguard.drop_link('import_field_mappings');
  PERFORM flowguard.drop_link('raw_import_records');
  PERFORM flowguard.drop_link('data_imports');
  PERFORM flowguard.drop_master('crewai_flow_state_extensions');
END;
$links$;

COMMIT;
