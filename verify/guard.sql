-- Verify pyflowguard:guard on pg

BEGIN;

SELECT 'flowguard._all_known(regclass, name[])'::regprocedure;
SELECT 'flowguard._other_name(text, text)'::regprocedure;
SELECT 'flowguard._index_sql(regclass, name[], boolean, text, name)'::regprocedure;
SELECT 'flowguard._wanted_indexes(flowguard.link)'::regprocedure;
SELECT 'flowguard._index_steps(regclass, name[], boolean, text, name, boolean, boolean)'::regprocedure;
SELECT 'flowguard._wanted_statistics(flowguard.link)'::regprocedure;
SELECT 'flowguard._by_tenant(flowguard.link, flowguard.rule)'::regprocedure;
SELECT 'flowguard._delete_action(text)'::regprocedure;
SELECT 'flowguard._own_keys(flowguard.link)'::regprocedure;
SELECT 'flowguard._key_sql(name[], regclass, name[], text)'::regprocedure;
SELECT 'flowguard._wanted_keys(flowguard.link)'::regprocedure;
SELECT 'flowguard._found_key(regclass, text, text)'::regprocedure;
SELECT 'flowguard._key_state(regclass, text, text)'::regprocedure;
SELECT 'flowguard._key_steps(regclass, text, text, regclass, boolean)'::regprocedure;
SELECT 'flowguard._wanted_functions(flowguard.link)'::regprocedure;
SELECT 'flowguard._changed_sql(regclass, name[])'::regprocedure;
SELECT 'flowguard._master_comes_first(flowguard.rule, flowguard.master)'::regprocedure;
SELECT 'flowguard._wanted_triggers(flowguard.link)'::regprocedure;
SELECT 'flowguard._trigger_names(oid)'::regprocedure;
SELECT 'flowguard._trigger_stamp(oid, text)'::regprocedure;
SELECT 'flowguard._stamp_trigger(regclass, name, text)'::regprocedure;
SELECT 'flowguard._trigger_status(regclass, name, text)'::regprocedure;
SELECT 'flowguard._function_status(text, boolean, text)'::regprocedure;
SELECT 'flowguard._is_for(flowguard.link, text)'::regprocedure;
SELECT 'flowguard._obsolete_own(flowguard.link, boolean, boolean)'::regprocedure;
SELECT 'flowguard._obsolete_shared(flowguard.link)'::regprocedure;
SELECT 'flowguard._obsolete(flowguard.link, boolean, boolean)'::regprocedure;
SELECT 'flowguard._locking_both(boolean, regclass, regclass, text)'::regprocedure;
SELECT 'flowguard._lock_both(regclass, regclass, text)'::regprocedure;
SELECT 'flowguard._check_schema()'::regprocedure;
SELECT 'flowguard._check_operators(flowguard.link)'::regprocedure;
SELECT 'flowguard._rights(flowguard.link, oid)'::regprocedure;
SELECT 'flowguard._check_rights(flowguard.link)'::regprocedure;
SELECT 'flowguard._check_unique(flowguard.link)'::regprocedure;
SELECT 'flowguard._replace_key(regclass, name, name)'::regprocedure;
SELECT 'flowguard._add_key_back(regclass, name, text, boolean, text)'::regprocedure;
SELECT 'flowguard._check_columns(flowguard.link)'::regprocedure;
SELECT 'flowguard._plan(flowguard.link, boolean, boolean)'::regprocedure;
SELECT 'flowguard._tell_incomplete(flowguard.link)'::regprocedure;
SELECT 'flowguard.guard_plan(regclass, name)'::regprocedure;
SELECT 'flowguard.guard(regclass, name)'::regprocedure;
SELECT 'flowguard.unguard(regclass, name)'::regprocedure;
SELECT 'flowguard.drop_link(regclass, name)'::regprocedure;
SELECT 'flowguard._replace_functions(flowguard.link)'::regprocedure;
SELECT 'flowguard.set_mode(regclass, text, name, boolean)'::regprocedure;
SELECT 'flowguard._set_paused(regclass, name, boolean)'::regprocedure;
SELECT 'flowguard.pause(regclass, name)'::regprocedure;
SELECT 'flowguard.resume(regclass, name)'::regprocedure;
SELECT 'flowguard._own_functions(flowguard.link, boolean)'::regprocedure;
SELECT 'flowguard._follow_signature(flowguard.link, flowguard.rule, text)'::regprocedure;
SELECT 'flowguard._own_triggers(flowguard.link)'::regprocedure;
SELECT 'flowguard._sources(flowguard.link)'::regprocedure;
SELECT 'flowguard._callers(regclass)'::regprocedure;
SELECT 'flowguard._caller_name(regclass)'::regprocedure;
SELECT 'flowguard._followers(regclass)'::regprocedure;
SELECT 'flowguard._caller(regclass, flowguard.link)'::regprocedure;
SELECT 'flowguard._calls(jsonb, text, text, text)'::regprocedure;
SELECT 'flowguard._caller_triggers(regclass, text, jsonb)'::regprocedure;
SELECT 'flowguard._caller_status(regclass, flowguard.link)'::regprocedure;
SELECT 'flowguard._set_source_triggers(regclass, regclass, name)'::regprocedure;
SELECT 'flowguard._renew_triggers(text[])'::regprocedure;

-- What is new since 1.0.0 and since 1.2.0 is within functions, and something of what is new since 1.1.0.
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._own_functions(flowguard.link, boolean)'::regprocedure
   AND strpos(prosrc, '_kept_finder_body') > 0;
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._wanted_triggers(flowguard.link)'::regprocedure AND strpos(prosrc, '_caller_triggers') > 0;
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._obsolete_shared(flowguard.link)'::regprocedure AND strpos(prosrc, 'FROM kept k') > 0;

ROLLBACK;
