-- Revert pyflowguard:alarms from pg

BEGIN;

DROP VIEW IF EXISTS flowguard.finding_estimate;
DROP FUNCTION IF EXISTS flowguard._finding_estimate();
DROP FUNCTION IF EXISTS flowguard._overview(boolean);
DROP FUNCTION IF EXISTS flowguard._told_findings(jsonb);
DROP FUNCTION IF EXISTS flowguard._look(boolean, bigint);

COMMIT;
