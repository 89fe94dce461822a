-- Revert pyflowguard:report/links from pg

BEGIN;

SELECT flowguard.drop_link('assets');
SELECT flowguard.drop_link('discovery_flows');
SELECT flowguard.drop_link('import_field_mappings');
SELECT flowguard.drop_link('raw_import_records');
SELECT flowguard.drop_link('data_imports');
SELECT flowguard.drop_master('crewai_flow_state_extensions');

COMMIT;
