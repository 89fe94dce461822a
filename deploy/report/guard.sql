-- Deploy pyflowguard:report/guard to pg
-- Triggers, indexes and foreign keys for all five links; deleting a master cascades, as the report has it. The tables
-- that others refer to come last, so that a cascade reaches a row before the row that it refers to. The command builds
-- all that first, a statement at a time, while applications write; other runners can do the same by guard_plan().
-- pyflowguard guard assets import_field_mappings discovery_flows raw_import_records data_imports

BEGIN;

SELECT count(*) FROM flowguard.guard('assets');
SELECT count(*) FROM flowguard.guard('import_field_mappings');
SELECT count(*) FROM flowguard.guard('discovery_flows');
SELECT count(*) FROM flowguard.guard('raw_import_records');
SELECT count(*) FROM flowguard.guard('data_imports');

COMMIT;
