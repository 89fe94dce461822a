-- Verify pyflowguard:doctor on pg

BEGIN;

SELECT 'flowguard._trigger_findings(flowguard.link)'::regprocedure;
SELECT 'flowguard._key_findings(flowguard.link)'::regprocedure;
SELECT 'flowguard._index_findings(flowguard.link)'::regprocedure;
SELECT 'flowguard._rights_findings(flowguard.link)'::regprocedure;
SELECT 'flowguard._access_findings()'::regprocedure;
SELECT 'flowguard._unguarded_findings()'::regprocedure;
SELECT 'flowguard._setting_findings()'::regprocedure;
SELECT 'flowguard._server_findings(integer)'::regprocedure;
SELECT 'flowguard._diagnose()'::regprocedure;
SELECT 'flowguard._applied_findings()'::regprocedure;
SELECT 'flowguard.doctor()'::regprocedure;

-- What is new since 1.2.0 is within a function, too.
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard.doctor()'::regprocedure AND strpos(prosrc, '_applied_findings') > 0;

ROLLBACK;
