-- Verify pyflowguard:schema on pg

BEGIN;

SELECT 'flowguard'::regnamespace;

ROLLBACK;
