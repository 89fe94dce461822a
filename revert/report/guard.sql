-- Revert pyflowguard:report/guard from pg

BEGIN;

SELECT flowguard.unguard('data_imports');
SELECT flowguard.unguard('raw_import_records');
SELECT flowguard.unguard('discovery_flows');
SELECT flowguard.unguard('import_field_mappings');
SELECT flowguard.unguard('assets');

COMMIT;
