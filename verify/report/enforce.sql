-- Verify pyflowguard:report/enforce on pg

BEGIN;

DO $verify$
DECLARE
  v_table text;
  v_count record;
BEGIN
  IF NOT EXISTS (SELECT FROM flowguard.master m JOIN pg_catalog.pg_class c ON c.oid = m.relation
                  WHERE c.relname = 'crewai_flow_state_extensions') THEN
    RETURN;  -- the profile did nothing here, and report/links tells if that is wrong by now
  END IF;
  FOREACH v_table IN ARRAY ARRAY['data_imports', 'raw_import_records', 'import_field_mappings', 'discovery_flows',
    'assets'] LOOP
    CONTINUE WHEN (flowguard._link(v_table::regclass, 'master_flow_id')).mode = 'enforce';
    v_count := flowguard._count_links(flowguard._link(v_table::regclass, 'master_flow_id'));
    IF v_count.linked = v_count.total THEN
      RAISE EXCEPTION 'flowguard: every row of % is linked, but the link is not enforced', v_table
        USING ERRCODE = 'FG301', DETAIL = format('All %s rows are.', v_count.total),
              HINT = format('Call flowguard.set_mode(%L, ''enforce'').', v_table);
    END IF;
  END LOOP;
END;
$verify$;

ROLLBACK;
