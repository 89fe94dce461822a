-- Revert pyflowguard:guard from pg

BEGIN;

-- A link may have been guarded since the privileges went; this is the last moment to take that away.
DO $keep_guards$
DECLARE
  v_links text;
BEGIN
  IF to_regclass('flowguard.link') IS NOT NULL THEN
    LOCK TABLE flowguard.link IN SHARE MODE;  -- whoever is guarding a link now comes first
    SELECT string_agg(format('%s.%I', l.relation, l.link_column), ', ' ORDER BY l.stem)
      INTO v_links FROM flowguard.link l WHERE l.guarded;
    IF v_links IS NOT NULL THEN
      RAISE EXCEPTION 'flowguard: links are still guarded'
        USING ERRCODE = 'FG112',
              DETAIL = format('They are: %s. Their triggers and keys are on the tables of the application.', v_links),
              HINT = 'Run "SELECT flowguard.unguard(relation, link_column) FROM flowguard.link WHERE guarded" first.';
    END IF;
  END IF;
END;
$keep_guards$;

DROP FUNCTION IF EXISTS flowguard.resume(regclass, name);
DROP FUNCTION IF EXISTS flowguard.pause(regclass, name);
DROP FUNCTION IF EXISTS flowguard._set_paused(regclass, name, boolean);
DROP FUNCTION IF EXISTS flowguard.set_mode(regclass, text, name, boolean);
DROP FUNCTION IF EXISTS flowguard._replace_functions(flowguard.link);
DROP FUNCTION IF EXISTS flowguard.drop_link(regclass, name);
DROP FUNCTION IF EXISTS flowguard.unguard(regclass, name);
DROP FUNCTION IF EXISTS flowguard.guard(regclass, name);
DROP FUNCTION IF EXISTS flowguard.guard_plan(regclass, name);
DROP FUNCTION IF EXISTS flowguard._tell_incomplete(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._plan(flowguard.link, boolean, boolean);
DROP FUNCTION IF EXISTS flowguard._check_columns(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._add_key_back(regclass, name, text, boolean, text);
DROP FUNCTION IF EXISTS flowguard._replace_key(regclass, name, name);
DROP FUNCTION IF EXISTS flowguard._check_unique(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._check_rights(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._rights(flowguard.link, oid);
DROP FUNCTION IF EXISTS flowguard._check_operators(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._check_schema();
DROP FUNCTION IF EXISTS flowguard._obsolete(flowguard.link, boolean, boolean);
DROP FUNCTION IF EXISTS flowguard._obsolete_shared(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._obsolete_own(flowguard.link, boolean, boolean);
DROP FUNCTION IF EXISTS flowguard._locking_both(boolean, regclass, regclass, text);
DROP FUNCTION IF EXISTS flowguard._lock_both(regclass, regclass, text);
DROP FUNCTION IF EXISTS flowguard._is_for(flowguard.link, text);
DROP FUNCTION IF EXISTS flowguard._function_status(text, boolean, text);
DROP FUNCTION IF EXISTS flowguard._trigger_status(regclass, name, text);
DROP FUNCTION IF EXISTS flowguard._stamp_trigger(regclass, name, text);
DROP FUNCTION IF EXISTS flowguard._trigger_stamp(oid, text);
DROP FUNCTION IF EXISTS flowguard._trigger_names(oid);
DROP FUNCTION IF EXISTS flowguard._wanted_triggers(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._master_comes_first(flowguard.rule, flowguard.master);
DROP FUNCTION IF EXISTS flowguard._changed_sql(regclass, name[]);
DROP FUNCTION IF EXISTS flowguard._wanted_functions(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._key_steps(regclass, text, text, regclass, boolean);
DROP FUNCTION IF EXISTS flowguard._key_state(regclass, text, text);
DROP FUNCTION IF EXISTS flowguard._found_key(regclass, text, text);
DROP FUNCTION IF EXISTS flowguard._wanted_keys(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._key_sql(name[], regclass, name[], text);
DROP FUNCTION IF EXISTS flowguard._own_keys(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._delete_action(text);
DROP FUNCTION IF EXISTS flowguard._by_tenant(flowguard.link, flowguard.rule);
DROP FUNCTION IF EXISTS flowguard._wanted_statistics(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._index_steps(regclass, name[], boolean, text, name, boolean, boolean);
DROP FUNCTION IF EXISTS flowguard._wanted_indexes(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._index_sql(regclass, name[], boolean, text, name);
DROP FUNCTION IF EXISTS flowguard._other_name(text, text);
DROP FUNCTION IF EXISTS flowguard._all_known(regclass, name[]);

COMMIT;
