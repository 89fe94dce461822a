-- Verify pyflowguard:grants on pg

BEGIN;

SELECT 'flowguard._owned_objects()'::regprocedure;
SELECT 'flowguard._close_to_public()'::regprocedure;
SELECT 'flowguard._grant_engine()'::regprocedure;

ROLLBACK;
