-- Deploy pyflowguard:report/enforce to pg
-- Links of which every row is validly linked are enforced from now on; the others stay in observe and are listed. The
-- command has the complete ones enforced before, while applications write.
-- pyflowguard set-mode enforce --if-table crewai_flow_state_extensions data_imports raw_import_records
-- pyflowguard set-mode enforce --if-table crewai_flow_state_extensions import_field_mappings discovery_flows assets

BEGIN;

DO $enforce$
DECLARE
  v_table text;
  v_count record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/enforce does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;
  FOREACH v_table IN ARRAY ARRAY['data_imports', 'raw_import_records', 'import_field_mappings', 'discovery_flows',
    'assets'] LOOP
    BEGIN
      PERFORM flowguard.set_mode(v_table::regclass, 'enforce');
    EXCEPTION WHEN SQLSTATE 'FG113' THEN
      v_count := flowguard._count_links(flowguard._link(v_table::regclass, 'master_flow_id'));
      RAISE NOTICE 'link %.master_flow_id stays in observe: of % rows % are unlinked, % dangling, % mismatched, % '
        'without a tenant',
                   v_table, v_count.total, v_count.unlinked, v_count.dangling, v_count.mismatched, v_count.tenantless
        USING HINT = format('See flowguard.violation; then call flowguard.set_mode(%L, ''enforce'').', v_table);
    END;
  END LOOP;
END;
$enforce$;

COMMIT;
