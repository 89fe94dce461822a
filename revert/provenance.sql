-- Revert pyflowguard:provenance from pg

BEGIN;

COMMIT;
