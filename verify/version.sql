-- Verify pyflowguard:version on pg

BEGIN;

DO $verify$
BEGIN
  IF flowguard.version() <> '1.3.0' THEN
    RAISE EXCEPTION 'flowguard: the engine says that it is of version %, not 1.3.0', flowguard.version()
      USING ERRCODE = 'FG301', DETAIL = 'flowguard.version() was replaced since the change was deployed.',
            HINT = 'Run deploy/version.sql once more, by psql.';
  END IF;
END;
$verify$;

ROLLBACK;
