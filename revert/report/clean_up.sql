-- Revert pyflowguard:report/clean_up from pg

BEGIN;

SELECT flowguard._revert_runs('pyflowguard:report/clean_up');

COMMIT;
