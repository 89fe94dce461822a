-- Revert pyflowguard:report/guard from pg

BEGIN;

SELECT count(*) FROM flowguard.unguard('data_imports');
SELECT count(*) FROM flowguard.unguard('raw_import_records');
SELECT count(*) FROM flowguard.unguard('discovery_flows');
SELECT count(*) FROM flowguard.unguard('import_field_mappings');
SELECT count(*) FROM flowguard.unguard('assets');

COMMIT;
