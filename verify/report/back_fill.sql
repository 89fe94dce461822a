-- Verify pyflowguard:report/back_fill on pg

BEGIN;

DO $verify$
BEGIN
  PERFORM FROM flowguard.run r WHERE r.note = 'pyflowguard:report/back_fill' AND r.status = 'finished';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: no run of report/back_fill has finished'
      USING HINT = 'See flowguard.run; deploy the change again.';
  END IF;
END;
$verify$;

ROLLBACK;
