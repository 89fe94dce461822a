-- Deploy pyflowguard:report/guard to pg
-- Triggers, indexes and foreign keys for all five links; deleting a master cascades, as the report has it. The tables
-- that others refer to come last, so that a cascade reaches a row before the row that it refers to.

BEGIN;

SELECT count(*) FROM flowguard.guard('assets');
SELECT count(*) FROM flowguard.guard('import_field_mappings');
SELECT count(*) FROM flowguard.guard('discovery_flows');
SELECT count(*) FROM flowguard.guard('raw_import_records');
SELECT count(*) FROM flowguard.guard('data_imports');

COMMIT;
