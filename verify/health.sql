-- Verify pyflowguard:health on pg

BEGIN;

SELECT 'flowguard.violation_seen'::regclass;
SELECT 'flowguard._keys_proved(flowguard.link)'::regprocedure;
SELECT 'flowguard._indexes_ready(flowguard.link)'::regprocedure;
SELECT 'flowguard._triggers_ready(flowguard.link)'::regprocedure;
SELECT 'flowguard._link_status()'::regprocedure;
SELECT 'flowguard.link_status'::regclass;
SELECT 'flowguard._why_dangling(flowguard.link, jsonb)'::regprocedure;
SELECT 'flowguard._why_mismatched(flowguard.link, jsonb)'::regprocedure;
SELECT 'flowguard._reason(flowguard.link, jsonb, text)'::regprocedure;
SELECT 'flowguard._wrong_rows(flowguard.link, bigint)'::regprocedure;
SELECT 'flowguard._violations()'::regprocedure;
SELECT 'flowguard.violation'::regclass;
SELECT 'flowguard._note_violations(flowguard.link[])'::regprocedure;
SELECT 'flowguard._share(numeric, numeric)'::regprocedure;
SELECT 'flowguard._time_columns(flowguard.link)'::regprocedure;
SELECT 'flowguard._row_health(flowguard.link)'::regprocedure;
SELECT 'flowguard._readiness(flowguard.link)'::regprocedure;
SELECT 'flowguard._link_health(flowguard.link, bigint, bigint, bigint)'::regprocedure;
SELECT 'flowguard._gone_health()'::regprocedure;
SELECT 'flowguard._health()'::regprocedure;
SELECT 'flowguard._round_score(numeric)'::regprocedure;
SELECT 'flowguard.health_category'::regclass;
SELECT 'flowguard.health_score()'::regprocedure;
SELECT 'flowguard._left_tables()'::regprocedure;
SELECT 'flowguard._registry_findings()'::regprocedure;
SELECT 'flowguard._findings(jsonb)'::regprocedure;
SELECT 'flowguard.check_all()'::regprocedure;

ROLLBACK;
