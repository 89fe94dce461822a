-- Verify pyflowguard:report/links on pg

BEGIN;

SELECT flowguard._link('data_imports', 'master_flow_id');
SELECT flowguard._link('raw_import_records', 'master_flow_id');
SELECT flowguard._link('import_field_mappings', 'master_flow_id');
SELECT flowguard._link('discovery_flows', 'master_flow_id');
SELECT flowguard._link('assets', 'master_flow_id');

ROLLBACK;
