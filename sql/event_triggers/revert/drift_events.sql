-- Revert pyflowguard_events:drift_events from pg

BEGIN;

DROP EVENT TRIGGER IF EXISTS flowguard_drop;
DROP EVENT TRIGGER IF EXISTS flowguard_ddl;
DROP TABLE IF EXISTS flowguard.drift_event;
DROP FUNCTION IF EXISTS flowguard_events.judge_ddl();
DROP FUNCTION IF EXISTS flowguard_events.note_ddl();
DROP FUNCTION IF EXISTS flowguard_events.note(text, text, text, oid, text);
DROP FUNCTION IF EXISTS flowguard_events.is_watched(oid);
DROP SCHEMA IF EXISTS flowguard_events;

DO $role$
DECLARE
  v_is_superuser boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
  IF to_regrole('flowguard_witness') IS NOT NULL THEN
    -- Its rights in this database; who is no superuser has to be a member for it.
    IF NOT v_is_superuser THEN
      EXECUTE 'GRANT flowguard_witness TO CURRENT_USER'
              || CASE WHEN current_setting('server_version_num')::integer >= 160000
                   THEN ' WITH INHERIT TRUE' ELSE '' END;
    END IF;
    DROP OWNED BY flowguard_witness;
    IF NOT v_is_superuser THEN
      REVOKE flowguard_witness FROM CURRENT_USER;
    END IF;
    IF shobj_description(to_regrole('flowguard_witness'), 'pg_authid')
       = format('created by pyflowguard in database %s', current_database()) THEN
      DROP ROLE flowguard_witness;
    END IF;
  END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
  RAISE NOTICE 'role flowguard_witness stays: %', SQLERRM
    USING HINT = 'Once nothing needs it, run "DROP ROLE flowguard_witness".';
END;
$role$;

COMMIT;
