-- Revert pyflowguard:privileges from pg

BEGIN;

DO $revoke$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['flowguard_viewer', 'flowguard_admin'] LOOP
    IF to_regrole(v_role) IS NOT NULL THEN
      EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA flowguard FROM %I', v_role);
      EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA flowguard FROM %I', v_role);
      EXECUTE format('REVOKE ALL ON SCHEMA flowguard FROM %I', v_role);
    END IF;
  END LOOP;
END;
$revoke$;

DROP FUNCTION IF EXISTS flowguard.grant_roles();

COMMIT;
