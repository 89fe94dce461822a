-- Deploy pyflowguard:report/back_fill to pg
-- Links that were never filled: imports first, then what takes its link from them, assets last; a run each. One
-- statement: it commits batch by batch. Links that are none of the report's are not looked at.

DO $back_fill$
DECLARE
  v_table text;
  v_run   flowguard.run;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/back_fill does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;
  FOREACH v_table IN ARRAY ARRAY['data_imports', 'discovery_flows', 'import_field_mappings', 'raw_import_records',
    'assets'] LOOP
    CALL flowguard.repair(v_table::regclass, note => 'pyflowguard:report/back_fill', run_id => v_run.run_id,
                          linked => v_run.linked, translated => v_run.translated, quarantined => v_run.quarantined,
                          unlinked => v_run.unlinked, remaining => v_run.remaining);
  END LOOP;
END;
$back_fill$;
