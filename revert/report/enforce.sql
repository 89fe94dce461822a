-- Revert pyflowguard:report/enforce from pg

BEGIN;

SELECT flowguard.set_mode('assets', 'observe');
SELECT flowguard.set_mode('discovery_flows', 'observe');
SELECT flowguard.set_mode('import_field_mappings', 'observe');
SELECT flowguard.set_mode('raw_import_records', 'observe');
SELECT flowguard.set_mode('data_imports', 'observe');

COMMIT;
