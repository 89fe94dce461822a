-- Revert pyflowguard:version from pg
-- Goes back to what version@v1.0.0 deploys.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard.version() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $version$
  SELECT '1.0.0';
$version$;
COMMENT ON FUNCTION flowguard.version() IS
'The version of the engine.
Returns major.minor.patch.';

COMMIT;
