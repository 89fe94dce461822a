-- Deploy pyflowguard:report/clean_up to pg
-- Discovery flows whose link points to no master: translated where the link is another key of a master, linked where
-- a rule knows one, else taken into flowguard.quarantine. One statement: it commits batch by batch.

DO $clean_up$
DECLARE
  v_run flowguard.run;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/clean_up does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;
  CALL flowguard.repair('discovery_flows', note => 'pyflowguard:report/clean_up', run_id => v_run.run_id,
                        linked => v_run.linked, translated => v_run.translated, quarantined => v_run.quarantined,
                        unlinked => v_run.unlinked, remaining => v_run.remaining);
END;
$clean_up$;
