-- Verify pyflowguard:report/back_fill on pg

BEGIN;

DO $verify$
BEGIN
  PERFORM FROM flowguard.run r WHERE r.note = 'pyflowguard:report/back_fill' AND r.status = 'finished';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: no run of report/back_fill has finished'
      USING ERRCODE = 'FG301', DETAIL = 'It was stopped, or undone.',
            HINT = 'Run "CALL flowguard.repair(note => ''pyflowguard:report/back_fill'')".';
  END IF;
END;
$verify$;

ROLLBACK;
