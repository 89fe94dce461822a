-- Verify pyflowguard:privileges on pg

BEGIN;

SELECT 'flowguard.grant_roles()'::regprocedure;

DO $verify$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_proc p
              WHERE p.pronamespace = 'flowguard'::regnamespace
                AND has_function_privilege('public', p.oid, 'EXECUTE')) THEN
    RAISE EXCEPTION 'flowguard: PUBLIC may execute functions of schema flowguard'
      USING ERRCODE = 'FG301',
            DETAIL = format('They are: %s.',
                            (SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text)
                               FROM pg_catalog.pg_proc p
                              WHERE p.pronamespace = 'flowguard'::regnamespace
                                AND has_function_privilege('public', p.oid, 'EXECUTE'))),
            HINT = 'Run "REVOKE ALL ON ALL ROUTINES IN SCHEMA flowguard FROM PUBLIC".';
  END IF;
END;
$verify$;

ROLLBACK;
