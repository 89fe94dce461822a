-- Verify pyflowguard_events:drift_events on pg

BEGIN;

SELECT 'flowguard.drift_event'::regclass;
SELECT 'flowguard_events.is_watched(oid)'::regprocedure;
SELECT 'flowguard_events.note(text, text, text, oid, text)'::regprocedure;
SELECT 'flowguard_events.note_ddl()'::regprocedure;
SELECT 'flowguard_events.judge_ddl()'::regprocedure;

DO $verify$
BEGIN
  IF (SELECT count(*) FROM pg_event_trigger
       WHERE evtname IN ('flowguard_ddl', 'flowguard_drop') AND evtenabled = 'A') < 2 THEN
    RAISE EXCEPTION 'flowguard: an event trigger of PyFlowGuard is not there or not enabled'
      USING ERRCODE = 'FG301', DETAIL = 'DDL that lets a guard drift is not written down.',
            HINT = 'As a superuser run "ALTER EVENT TRIGGER flowguard_ddl ENABLE ALWAYS" and "ALTER EVENT TRIGGER '
              'flowguard_drop ENABLE ALWAYS", or revert the change and deploy it again.';
  END IF;
END;
$verify$;

ROLLBACK;
