-- Revert pyflowguard:repair from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard._revert_runs(text);
DROP FUNCTION IF EXISTS flowguard._unmark_undo();
DROP FUNCTION IF EXISTS flowguard.undo(bigint, bigint);
DROP FUNCTION IF EXISTS flowguard._undo_query(text, text, text);
DROP FUNCTION IF EXISTS flowguard._undo_links(bigint, bigint, bigint);
DROP FUNCTION IF EXISTS flowguard._undo_start(flowguard.repair_run, bigint);
DROP FUNCTION IF EXISTS flowguard._restore_row(flowguard.quarantined_row);
DROP FUNCTION IF EXISTS flowguard._restore_sql(regclass, text[], text[]);
DROP FUNCTION IF EXISTS flowguard._forbidding_keys(bigint, bigint, bigint, bigint);
DROP PROCEDURE IF EXISTS flowguard.repair(regclass, integer, boolean, name, text, integer, interval, boolean, text,
  boolean, bigint, bigint, bigint, bigint, bigint, bigint);
DROP PROCEDURE IF EXISTS flowguard._repair_links(bigint, flowguard.link[], text, integer, boolean, integer, interval,
  boolean);
DROP FUNCTION IF EXISTS flowguard._links_to_repair(regclass, name);
DROP PROCEDURE IF EXISTS flowguard._hold_back(double precision, interval, boolean);
DROP FUNCTION IF EXISTS flowguard._lagging(interval, pg_lsn);
DROP FUNCTION IF EXISTS flowguard._pace_setting(text, regtype);
DROP FUNCTION IF EXISTS flowguard._refuse_gone(bigint, integer, flowguard.link);
DROP FUNCTION IF EXISTS flowguard._tell_missing_indexes(flowguard.link[]);
DROP FUNCTION IF EXISTS flowguard._count_remaining(bigint, flowguard.link[], text);
DROP FUNCTION IF EXISTS flowguard._end_run(bigint);
DROP FUNCTION IF EXISTS flowguard._next_pass(bigint);
DROP FUNCTION IF EXISTS flowguard._count_batch(bigint, integer, jsonb);
DROP FUNCTION IF EXISTS flowguard._link_place(bigint, integer);
DROP FUNCTION IF EXISTS flowguard._begin_links(bigint, flowguard.link[], bigint[], text, boolean);
DROP FUNCTION IF EXISTS flowguard._estimate_rows(regclass, text);
DROP FUNCTION IF EXISTS flowguard._resume_run(regclass, name, text, flowguard.link[], boolean, text, boolean);
DROP FUNCTION IF EXISTS flowguard._repair_call(flowguard.repair_run, text);
DROP FUNCTION IF EXISTS flowguard._check_row_filter(regclass, text);
DROP FUNCTION IF EXISTS flowguard._begin_run(regclass, name, text, text, boolean);
DROP FUNCTION IF EXISTS flowguard._next_key(flowguard.link, jsonb, jsonb, text);
DROP FUNCTION IF EXISTS flowguard._repair_batch(bigint, flowguard.link, text, jsonb, jsonb, integer);
DROP FUNCTION IF EXISTS flowguard._last_key(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._quarantine_row(bigint, flowguard.link, jsonb, text);
DROP FUNCTION IF EXISTS flowguard._is_still_there(bigint, bigint);
DROP FUNCTION IF EXISTS flowguard._keep_row(bigint, regclass, jsonb, name, text, bigint);
DROP FUNCTION IF EXISTS flowguard._row_values(regclass, jsonb, text[]);
DROP FUNCTION IF EXISTS flowguard._repair_query(flowguard.link, text, boolean);
DROP FUNCTION IF EXISTS flowguard._may_write(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._link_order();
DROP FUNCTION IF EXISTS flowguard._key_bound(regclass, text, integer, text);
DROP FUNCTION IF EXISTS flowguard._operator(regclass, name, integer);

COMMIT;
