-- Verify pyflowguard:repair on pg

BEGIN;

SELECT 'flowguard._operator(regclass, name, integer)'::regprocedure;
SELECT 'flowguard._key_bound(regclass, text, integer, text)'::regprocedure;
SELECT 'flowguard._link_order()'::regprocedure;
SELECT 'flowguard._may_write(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._repair_query(flowguard.link, text, boolean, integer)'::regprocedure;
SELECT 'flowguard._row_values(regclass, jsonb, text[])'::regprocedure;
SELECT 'flowguard._keep_row(bigint, regclass, jsonb, name, text, bigint)'::regprocedure;
SELECT 'flowguard._is_still_there(bigint, bigint)'::regprocedure;
SELECT 'flowguard._quarantine_row(bigint, flowguard.link, jsonb, text)'::regprocedure;
SELECT 'flowguard._last_key(flowguard.link)'::regprocedure;
SELECT 'flowguard._repair_batch(bigint, flowguard.link, text, jsonb, jsonb, integer)'::regprocedure;
SELECT 'flowguard._next_key(flowguard.link, jsonb, jsonb, text)'::regprocedure;
SELECT 'flowguard._check_row_filter(regclass, text)'::regprocedure;
SELECT 'flowguard._begin_run(regclass, name, text, text, boolean)'::regprocedure;
SELECT 'flowguard._repair_call(flowguard.repair_run, text)'::regprocedure;
SELECT 'flowguard._resume_run(regclass, name, text, flowguard.link[], boolean, text, boolean)'::regprocedure;
SELECT 'flowguard._estimate_rows(regclass, text)'::regprocedure;
SELECT 'flowguard._begin_links(bigint, flowguard.link[], bigint[], text, boolean)'::regprocedure;
SELECT 'flowguard._link_place(bigint, integer)'::regprocedure;
SELECT 'flowguard._count_batch(bigint, integer, jsonb)'::regprocedure;
SELECT 'flowguard._next_pass(bigint)'::regprocedure;
SELECT 'flowguard._forget_batch()'::regprocedure;
SELECT 'flowguard._end_run(bigint)'::regprocedure;
SELECT 'flowguard._count_remaining(bigint, flowguard.link[], text)'::regprocedure;
SELECT 'flowguard._pace_setting(text, regtype)'::regprocedure;
SELECT 'flowguard._tell_missing_indexes(flowguard.link[])'::regprocedure;
SELECT 'flowguard._refuse_gone(bigint, integer, flowguard.link)'::regprocedure;
SELECT 'flowguard._lagging(interval, pg_lsn)'::regprocedure;
SELECT 'flowguard._hold_back(double precision, interval, boolean)'::regprocedure;
SELECT 'flowguard._links_to_repair(regclass, name)'::regprocedure;
SELECT 'flowguard._repair_links(bigint, flowguard.link[], text, integer, boolean, integer, interval, '
  'boolean)'::regprocedure;
SELECT 'flowguard.repair(regclass, integer, boolean, name, text, integer, interval, boolean, text, boolean, bigint, '
  'bigint, bigint, bigint, bigint, bigint)'::regprocedure;
SELECT 'flowguard._forbidding_keys(bigint, bigint, bigint, bigint)'::regprocedure;
SELECT 'flowguard._restore_sql(regclass, text[], text[])'::regprocedure;
SELECT 'flowguard._restore_row(flowguard.quarantined_row)'::regprocedure;
SELECT 'flowguard._undo_start(flowguard.repair_run, bigint)'::regprocedure;
SELECT 'flowguard._undo_links(bigint, bigint, bigint)'::regprocedure;
SELECT 'flowguard._undo_query(text, text, text)'::regprocedure;
SELECT 'flowguard.undo(bigint, bigint)'::regprocedure;
SELECT 'flowguard._unmark_undo()'::regprocedure;
SELECT 'flowguard._revert_runs(text)'::regprocedure;

-- What is new since 1.2.0 is within functions.
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._operator(regclass, name, integer)'::regprocedure AND strpos(prosrc, 'amopstrategy') > 0;
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._key_bound(regclass, text, integer, text)'::regprocedure AND strpos(prosrc, 'at_least') > 0;

ROLLBACK;
