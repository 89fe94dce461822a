-- Deploy pyflowguard:grants to pg
-- Whoever guards owns the functions that guard() makes (docs/permissions.md), so that rights can be given and taken of
-- what is one's own only. A change of its own, not a rework of privileges: that name is where one goes back to.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._owned_objects() RETURNS TABLE (kind text, name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_owned_objects$
  SELECT 'TABLE', format('flowguard.%I', c.relname)
    FROM pg_class c
   WHERE c.relnamespace = 'flowguard'::regnamespace AND c.relkind IN ('r', 'v') AND pg_has_role(c.relowner, 'USAGE')
  UNION ALL
  SELECT 'ROUTINE', p.oid::regprocedure::text
    FROM pg_proc p
   WHERE p.pronamespace = 'flowguard'::regnamespace AND pg_has_role(p.proowner, 'USAGE');
$_owned_objects$;
COMMENT ON FUNCTION flowguard._owned_objects() IS
  'Tables, views and routines of schema flowguard that the caller may give rights on.';

CREATE OR REPLACE FUNCTION flowguard._close_to_public() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_close_to_public$
DECLARE
  v_statement text;
BEGIN
  FOR v_statement IN SELECT format('REVOKE ALL ON %s %s FROM PUBLIC', t.kind, t.name)
                       FROM flowguard._owned_objects() t LOOP
    EXECUTE v_statement;
  END LOOP;
END;
$_close_to_public$;
COMMENT ON FUNCTION flowguard._close_to_public() IS
  'Takes from PUBLIC all rights on what the caller owns in schema flowguard.';

CREATE OR REPLACE FUNCTION flowguard.grant_roles() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $grant_roles$
-- Grants to the two roles what each is for; returns those that are there. Safe to call again. Only of what the caller
-- owns: an object of somebody else's, a function that guard() made for another owner of tables, say, is an error to
-- PostgreSQL. The roles need none of these.
DECLARE
  v_statement text;
BEGIN
  IF to_regrole('flowguard_viewer') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA flowguard TO flowguard_viewer;
    FOR v_statement IN SELECT format('GRANT SELECT ON TABLE %s TO flowguard_viewer', t.name)
                         FROM flowguard._owned_objects() t WHERE t.kind = 'TABLE' LOOP
      EXECUTE v_statement;
    END LOOP;
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
    FOR v_statement IN SELECT format('GRANT %s ON %s %s TO flowguard_admin', CASE t.kind WHEN 'TABLE'
                                       THEN 'SELECT, INSERT, UPDATE, DELETE' ELSE 'EXECUTE' END, t.kind, t.name)
                         FROM flowguard._owned_objects() t LOOP
      EXECUTE v_statement;
    END LOOP;
    RETURN NEXT 'flowguard_admin';
  END IF;
END;
$grant_roles$;
COMMENT ON FUNCTION flowguard.grant_roles() IS
'Grants to flowguard_viewer and flowguard_admin what each is for, of what the caller owns, where they exist. Deploying
calls it; the owner of the schema, who alone can grant this, calls it again after such a role was created later.
Returns the names of those that exist.';

SELECT flowguard._close_to_public();
SELECT flowguard.grant_roles();

COMMIT;
