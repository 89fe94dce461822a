-- Revert pyflowguard:report/back_fill from pg

BEGIN;

SELECT flowguard._revert_runs('pyflowguard:report/back_fill');

COMMIT;
