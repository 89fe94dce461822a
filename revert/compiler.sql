-- Revert pyflowguard:compiler from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard._follow_body(flowguard.link, flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._follow_still(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._follow_target(flowguard.link, flowguard.rule, text, boolean);
DROP FUNCTION IF EXISTS flowguard._is_direct(flowguard.link, flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._commit_body(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._find_call(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._has_finder(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._finder_signature(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._finder_body(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._fill_body(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._paused_body(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._generated_remark(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._unknown_tenant_sql(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._same_row_sql(regclass, text, text);
DROP FUNCTION IF EXISTS flowguard._row_key_sql(regclass, text);
DROP FUNCTION IF EXISTS flowguard._refuse_setting(text, text, text, text);
DROP FUNCTION IF EXISTS flowguard._lookup(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._lookup_variables(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._nearest_lookup(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._master_query(flowguard.link, text, text);
DROP FUNCTION IF EXISTS flowguard._window_sql(flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._other_master_query(flowguard.link, flowguard.rule, text, text);
DROP FUNCTION IF EXISTS flowguard._candidates(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._nearest_in_batch(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._nearest_query(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._row_time(flowguard.link, flowguard.rule, text);
DROP FUNCTION IF EXISTS flowguard._time_is_usable(text);
DROP FUNCTION IF EXISTS flowguard._sync_views();
DROP FUNCTION IF EXISTS flowguard._unread_views();
DROP FUNCTION IF EXISTS flowguard._view_sql(flowguard.link, flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._source_view(flowguard.link, flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._source_view_query(flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._setting_name(name);
DROP FUNCTION IF EXISTS flowguard._master_match(flowguard.link, text, boolean);
DROP FUNCTION IF EXISTS flowguard._row_refs(flowguard.link, name[], text);
DROP FUNCTION IF EXISTS flowguard._read_columns(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._is_alive(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._missing(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._named_columns(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._rules(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._prefixed(name[], text);
DROP FUNCTION IF EXISTS flowguard._remark(text);
DROP FUNCTION IF EXISTS flowguard._match_tenants(regclass, name[], text, regclass, name[], text[], boolean);

COMMIT;
