-- Verify pyflowguard:ledger on pg

BEGIN;

SELECT 'flowguard.repair_run'::regclass;
SELECT 'flowguard.repair_link'::regclass;
SELECT 'flowguard.repair_change'::regclass;
SELECT 'flowguard.quarantined_row'::regclass;
SELECT 'flowguard.privileged_transaction'::regclass;
SELECT 'flowguard._is_running(flowguard.repair_run)'::regprocedure;
SELECT 'flowguard.run'::regclass;
SELECT 'flowguard.repair_progress'::regclass;
SELECT 'flowguard.run_change'::regclass;
SELECT 'flowguard.quarantine'::regclass;
SELECT 'flowguard._mark_transaction(text, bigint, text)'::regprocedure;
SELECT 'flowguard._unmark_transaction(text)'::regprocedure;
SELECT 'flowguard._is_privileged(text)'::regprocedure;
SELECT 'flowguard._current_run()'::regprocedure;
SELECT 'flowguard._repairs_all(bigint)'::regprocedure;
SELECT 'flowguard.bypass(text)'::regprocedure;

ROLLBACK;
