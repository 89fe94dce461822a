-- Deploy pyflowguard:schema to pg
-- The schema that everything of PyFlowGuard lives in, and the two roles that rights are granted to.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Functions here run with the rights of their owner: a schema that somebody else made is no place for them.
DO $owner$
DECLARE
  v_owner name;
BEGIN
  SELECT pg_get_userbyid(nspowner) INTO v_owner FROM pg_namespace WHERE nspname = 'flowguard';
  IF v_owner <> current_user THEN
    RAISE EXCEPTION 'flowguard: schema flowguard belongs to %, not to %', v_owner, current_user
      USING ERRCODE = 'FG110', DETAIL = 'Its owner could replace what runs with your rights.',
            HINT = format('Deploy as %I, or drop or rename the schema if it is none of PyFlowGuard''s.', v_owner);
  END IF;
END;
$owner$;

CREATE SCHEMA IF NOT EXISTS flowguard;
COMMENT ON SCHEMA flowguard IS
  'PyFlowGuard: keeps the links between child tables and their master true. See flowguard.link_status.';
REVOKE ALL ON SCHEMA flowguard FROM PUBLIC;

-- Roles belong to the whole server. The comment says which database made them, so that revert removes only its own.
DO $roles$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['flowguard_admin', 'flowguard_viewer'] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = v_role) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        EXECUTE format('COMMENT ON ROLE %I IS %L', v_role,
                       format('created by pyflowguard in database %s', current_database()));
      EXCEPTION
        WHEN insufficient_privilege THEN
          RAISE NOTICE 'role % was not created: % may not create roles', v_role, current_user
            USING HINT = format('Everything works for the owner without it. To delegate, let a role with CREATEROLE '
                                'run "CREATE ROLE %I NOLOGIN" and call flowguard.grant_roles().', v_role);
        WHEN duplicate_object OR unique_violation THEN
          RAISE DEBUG 'role % was created by another database at this moment', v_role;
      END;
    END IF;
  END LOOP;
END;
$roles$;

COMMIT;
