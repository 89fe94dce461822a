-- Deploy pyflowguard:version to pg
-- Which release the engine is of. Each release reworks this change; the command refuses engines that it does not know.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard.version() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $version$
  SELECT '1.2.0';
$version$;
COMMENT ON FUNCTION flowguard.version() IS
'The version of the engine.
Returns major.minor.patch.';

COMMIT;
