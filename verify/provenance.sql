-- Verify pyflowguard:provenance on pg

BEGIN;

ROLLBACK;
