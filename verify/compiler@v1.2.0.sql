-- Verify pyflowguard:compiler on pg

BEGIN;

SELECT 'flowguard._match_tenants(regclass, name[], text, regclass, name[], text[], boolean)'::regprocedure;
SELECT 'flowguard._remark(text)'::regprocedure;
SELECT 'flowguard._prefixed(name[], text)'::regprocedure;
SELECT 'flowguard._rules(flowguard.link)'::regprocedure;
SELECT 'flowguard._named_columns(flowguard.link)'::regprocedure;
SELECT 'flowguard._missing(flowguard.link)'::regprocedure;
SELECT 'flowguard._is_alive(flowguard.link)'::regprocedure;
SELECT 'flowguard._read_columns(flowguard.link)'::regprocedure;
SELECT 'flowguard._row_refs(flowguard.link, name[], text)'::regprocedure;
SELECT 'flowguard._master_match(flowguard.link, text, boolean)'::regprocedure;
SELECT 'flowguard._setting_name(name)'::regprocedure;
SELECT 'flowguard._source_view_query(flowguard.rule)'::regprocedure;
SELECT 'flowguard._source_view(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._view_stamp(regclass)'::regprocedure;
SELECT 'flowguard._stamp_view(regclass, text)'::regprocedure;
SELECT 'flowguard._view_sql(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._unread_views()'::regprocedure;
SELECT 'flowguard._sync_views()'::regprocedure;
SELECT 'flowguard._time_is_usable(text)'::regprocedure;
SELECT 'flowguard._row_time(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._candidates(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._nearest_in_batch(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._candidate_count(flowguard.link, flowguard.rule, text, integer)'::regprocedure;
SELECT 'flowguard._nearest_query(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._other_master_query(flowguard.link, flowguard.rule, text, text)'::regprocedure;
SELECT 'flowguard._window_sql(flowguard.rule)'::regprocedure;
SELECT 'flowguard._master_query(flowguard.link, text, text)'::regprocedure;
SELECT 'flowguard._nearest_lookup(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._lookup_variables(flowguard.link)'::regprocedure;
SELECT 'flowguard._lookup(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._refuse_setting(text, text, text, text)'::regprocedure;
SELECT 'flowguard._row_key_sql(regclass, text)'::regprocedure;
SELECT 'flowguard._same_row_sql(regclass, text, text)'::regprocedure;
SELECT 'flowguard._unknown_tenant_sql(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._generated_remark(flowguard.link)'::regprocedure;
SELECT 'flowguard._paused_body(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._names_check(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._fill_body(flowguard.link)'::regprocedure;
SELECT 'flowguard._finder_body(flowguard.link)'::regprocedure;
SELECT 'flowguard._finder_signature(flowguard.link)'::regprocedure;
SELECT 'flowguard._has_finder(flowguard.link)'::regprocedure;
SELECT 'flowguard._find_call(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._is_trusted(oid)'::regprocedure;
SELECT 'flowguard._safe_path(name[])'::regprocedure;
SELECT 'flowguard._enter_safe_path(text, name[])'::regprocedure;
SELECT 'flowguard._leave_safe_path(text)'::regprocedure;
SELECT 'flowguard._commit_body(flowguard.link)'::regprocedure;
SELECT 'flowguard._is_direct(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._follow_target(flowguard.link, flowguard.rule, text, boolean)'::regprocedure;
SELECT 'flowguard._follow_still(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._follow_body(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._keeps_provenance(flowguard.link)'::regprocedure;
SELECT 'flowguard._counts_candidates(flowguard.link)'::regprocedure;
SELECT 'flowguard._found_variables()'::regprocedure;
SELECT 'flowguard._note_found(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._keep_into()'::regprocedure;
SELECT 'flowguard._keep_values(flowguard.link, text, text, text, text)'::regprocedure;
SELECT 'flowguard._kept_finder_body(flowguard.link)'::regprocedure;
SELECT 'flowguard._kept_finder_signature(flowguard.link)'::regprocedure;
SELECT 'flowguard._finder_types(flowguard.link)'::regprocedure;
SELECT 'flowguard._find_kept_call(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._enter_path(text)'::regprocedure;
SELECT 'flowguard._leave_path(text)'::regprocedure;
SELECT 'flowguard._renew_functions(text[])'::regprocedure;
SELECT 'flowguard._moved_sql(regclass, name[])'::regprocedure;
SELECT 'flowguard._is_backed(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._is_asked_again(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._watched_columns(flowguard.link, flowguard.rule)'::regprocedure;

-- What else is new since 1.1.0 is within functions.
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._follow_still(flowguard.link, flowguard.rule, text)'::regprocedure
   AND strpos(prosrc, 'IS TRUE') > 0;
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._follow_body(flowguard.link, flowguard.rule)'::regprocedure AND strpos(prosrc, 'v_look') > 0;

ROLLBACK;
