-- Verify pyflowguard:alarms on pg

BEGIN;

SELECT 'flowguard._look(boolean, bigint)'::regprocedure;
SELECT 'flowguard._told_findings(jsonb)'::regprocedure;
SELECT 'flowguard._overview(boolean)'::regprocedure;
SELECT 'flowguard._finding_estimate()'::regprocedure;
SELECT 'flowguard.finding_estimate'::regclass;

ROLLBACK;
