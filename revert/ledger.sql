-- Revert pyflowguard:ledger from pg

BEGIN;

-- What is held in quarantine exists nowhere else.
DO $keep_quarantine$
DECLARE
  v_held bigint;
BEGIN
  IF to_regclass('flowguard.quarantined_row') IS NOT NULL THEN
    SELECT count(*) INTO v_held FROM flowguard.quarantined_row WHERE restored_at IS NULL;
    IF v_held > 0 THEN
      RAISE EXCEPTION 'flowguard: % rows are still held in quarantine', v_held
        USING ERRCODE = 'FG205',
              DETAIL = 'Removing the ledger would lose them.',
              HINT = 'Run "SELECT flowguard.undo(run_id) FROM flowguard.run WHERE run_id IN (SELECT run_id FROM '
                'flowguard.quarantine) ORDER BY run_id DESC", or copy the rows away and run "DELETE FROM '
                'flowguard.quarantined_row".';
    END IF;
  END IF;
END;
$keep_quarantine$;

DROP FUNCTION IF EXISTS flowguard.bypass(text);
DROP FUNCTION IF EXISTS flowguard._repairs_all(bigint);
DROP FUNCTION IF EXISTS flowguard._current_run();
DROP FUNCTION IF EXISTS flowguard._is_privileged(text);
DROP FUNCTION IF EXISTS flowguard._unmark_transaction(text);
DROP FUNCTION IF EXISTS flowguard._mark_transaction(text, bigint, text);
DROP VIEW IF EXISTS flowguard.quarantine;
DROP VIEW IF EXISTS flowguard.run_change;
DROP VIEW IF EXISTS flowguard.repair_progress;
DROP VIEW IF EXISTS flowguard.run;
DROP FUNCTION IF EXISTS flowguard._is_running(flowguard.repair_run);
DROP TABLE IF EXISTS flowguard.privileged_transaction;
DROP TABLE IF EXISTS flowguard.quarantined_row;
DROP TABLE IF EXISTS flowguard.repair_change;
DROP TABLE IF EXISTS flowguard.repair_link;
DROP TABLE IF EXISTS flowguard.repair_run;

COMMIT;
