-- Revert pyflowguard:schema from pg

BEGIN;

DROP SCHEMA IF EXISTS flowguard;

DO $roles$
DECLARE
  r_role record;
BEGIN
  FOR r_role IN
    SELECT rolname
      FROM pg_catalog.pg_roles
     WHERE rolname IN ('flowguard_admin', 'flowguard_viewer')
       AND pg_catalog.shobj_description(oid, 'pg_authid')
           = format('created by pyflowguard in database %s', current_database())
  LOOP
    BEGIN
      EXECUTE format('DROP ROLE %I', r_role.rolname);
    EXCEPTION
      WHEN dependent_objects_still_exist OR insufficient_privilege THEN
        RAISE NOTICE 'role % stays: %', r_role.rolname, SQLERRM
          USING HINT = format('Once nothing needs it, run "DROP ROLE %I".', r_role.rolname);
    END;
  END LOOP;
END;
$roles$;

COMMIT;
