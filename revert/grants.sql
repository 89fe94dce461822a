-- Revert pyflowguard:grants from pg
-- Goes back to the function that privileges deploys.

BEGIN;

CREATE OR REPLACE FUNCTION flowguard.grant_roles() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $grant_roles$
-- Grants to the two roles what each is for; returns those that are there. Safe to call again.
BEGIN
  IF to_regrole('flowguard_viewer') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA flowguard TO flowguard_viewer;
    GRANT SELECT ON ALL TABLES IN SCHEMA flowguard TO flowguard_viewer;
    -- A view's functions are called with the rights of whoever reads it.
    GRANT EXECUTE ON FUNCTION flowguard.health_score(), flowguard.check_all(), flowguard.version(),
      flowguard.doctor(),
      flowguard.explain(regclass, jsonb, name), flowguard._row_key(regclass), flowguard._key_columns(oid),
      flowguard.score_estimate(), flowguard._link_status(),
                              flowguard._violations(), flowguard._health(), flowguard._round_score(numeric),
                              flowguard._counted_bytes(), flowguard._measure(bigint), flowguard._gone_health(),
                              flowguard._look(boolean, bigint), flowguard._overview(boolean),
                              flowguard._finding_estimate(),
                              flowguard._is_running(flowguard.repair_run)
       TO flowguard_viewer;
    RETURN NEXT 'flowguard_viewer';
  END IF;
  IF to_regrole('flowguard_admin') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA flowguard TO flowguard_admin;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA flowguard TO flowguard_admin;
    GRANT EXECUTE ON ALL ROUTINES IN SCHEMA flowguard TO flowguard_admin;
    RETURN NEXT 'flowguard_admin';
  END IF;
END;
$grant_roles$;
COMMENT ON FUNCTION flowguard.grant_roles() IS
'Grants to flowguard_viewer and flowguard_admin what each is for, where they exist. Deploying calls it; the owner of the
schema, who alone can grant this, calls it again after such a role was created later.
Returns the names of those that exist.';

DROP FUNCTION IF EXISTS flowguard._grant_engine();
DROP FUNCTION IF EXISTS flowguard._close_to_public();
DROP FUNCTION IF EXISTS flowguard._owned_objects();

COMMIT;
