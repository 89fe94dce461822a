-- Deploy pyflowguard:report/guard to pg
-- Triggers, indexes and foreign keys for all five links; deleting a master cascades, as the report has it. The tables
-- that others refer to come last, so that a cascade reaches a row before the row that it refers to.

BEGIN;

SELECT flowguard.guard('assets');
SELECT flowguard.guard('import_field_mappings');
SELECT flowguard.guard('discovery_flows');
SELECT flowguard.guard('raw_import_records');
SELECT flowguard.guard('data_imports');

COMMIT;
