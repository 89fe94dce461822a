-- Revert pyflowguard:privileges from pg

BEGIN;

-- What is guarded rests on functions of ours, and the call that takes it away goes with them.
DO $keep_guards$
DECLARE
  v_links text;
BEGIN
  IF to_regclass('flowguard.link') IS NOT NULL THEN
    LOCK TABLE flowguard.link IN SHARE MODE;  -- whoever is guarding a link now comes first
    SELECT string_agg(format('%s.%I', l.relation, l.link_column), ', ' ORDER BY l.stem)
      INTO v_links FROM flowguard.link l WHERE l.guarded;
    IF v_links IS NOT NULL THEN
      RAISE EXCEPTION 'flowguard: links are still guarded'
        USING ERRCODE = 'FG112',
              DETAIL = format('They are: %s. Their triggers and keys are on the tables of the application.', v_links),
              HINT = 'Run "SELECT flowguard.unguard(relation, link_column) FROM flowguard.link WHERE guarded" first.';
    END IF;
  END IF;
END;
$keep_guards$;

-- What is held in quarantine exists nowhere else, and the call that puts it back goes with the changes below this one.
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

DO $revoke$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['flowguard_viewer', 'flowguard_admin'] LOOP
    IF to_regrole(v_role) IS NOT NULL THEN
      EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA flowguard FROM %I', v_role);
      EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA flowguard FROM %I', v_role);
      EXECUTE format('REVOKE ALL ON SCHEMA flowguard FROM %I', v_role);
    END IF;
  END LOOP;
END;
$revoke$;

DROP FUNCTION IF EXISTS flowguard.grant_roles();

COMMIT;
