-- Revert pyflowguard:version from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.version();

COMMIT;
