-- Deploy pyflowguard:report/links to pg
-- The report's tables: which columns must carry the master flow, and where a missing one is found.
-- Table names are resolved by the search_path of whoever deploys; nothing but the registry is written.

BEGIN;

DO $links$
BEGIN
  -- A database that has other tables takes the whole plan all the same: engine changes of later releases come last.
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                  WHERE c.relname = 'crewai_flow_state_extensions' AND c.relkind IN ('r', 'p')
                    AND c.relpersistence <> 't') THEN
    RAISE NOTICE 'report/links does nothing: this database has no table crewai_flow_state_extensions'
      USING HINT = 'Once it has the report''s tables, revert to @engine and deploy again.';
    RETURN;
  END IF;
  IF to_regclass('crewai_flow_state_extensions') IS NULL THEN
    RAISE EXCEPTION 'flowguard: table crewai_flow_state_extensions is not on the search_path, so nothing was registered'
      USING ERRCODE = 'FG101', DETAIL = format('The search_path is %s.', current_setting('search_path')),
            HINT = 'Name the application''s schema: PGOPTIONS="-c search_path=migration,public". The engine alone '
              'needs none: '
                   'deploy --to @engine.';
  END IF;

  PERFORM flowguard.add_master('crewai_flow_state_extensions', 'flow_id', '{client_account_id,engagement_id}',
                               alternate_keys => '{id}');

  -- An import comes before its master: only the application can know.
  PERFORM flowguard.add_link('data_imports', on_orphan => 'unlink', on_master_delete => 'cascade');
  PERFORM flowguard.add_session_rule('data_imports');

  PERFORM flowguard.add_link('raw_import_records', on_orphan => 'unlink', on_master_delete => 'cascade');
  PERFORM flowguard.add_reference_rule('raw_import_records', 'data_import_id', 'data_imports');

  PERFORM flowguard.add_link('import_field_mappings', on_orphan => 'unlink', on_master_delete => 'cascade');
  PERFORM flowguard.add_reference_rule('import_field_mappings', 'data_import_id', 'data_imports');

  -- The report deleted discovery flows that no master could be found for; here they are taken out and kept.
  PERFORM flowguard.add_link('discovery_flows', on_orphan => 'quarantine', on_master_delete => 'cascade');
  PERFORM flowguard.add_session_rule('discovery_flows');
  PERFORM flowguard.add_reference_rule('discovery_flows', 'flow_id', 'crewai_flow_state_extensions',
                                       source_key => 'flow_id', source_link => 'flow_id', agree => false);
  PERFORM flowguard.add_reference_rule('discovery_flows', 'data_import_id', 'data_imports', agree => false);

  -- One writer stores the id of a discovery flow in assets.discovery_flow_id, another its flow_id.
  PERFORM flowguard.add_link('assets', on_orphan => 'unlink', on_master_delete => 'cascade');
  PERFORM flowguard.add_session_rule('assets');
  PERFORM flowguard.add_reference_rule('assets', 'raw_import_records_id', 'raw_import_records');
  PERFORM flowguard.add_reference_rule('assets', 'discovery_flow_id', 'discovery_flows', agree => false);
  PERFORM flowguard.add_reference_rule('assets', 'discovery_flow_id', 'discovery_flows', source_key => 'flow_id',
                                       agree => false);
  PERFORM flowguard.add_reference_rule('assets', 'flow_id', 'crewai_flow_state_extensions', source_key => 'flow_id',
                                       source_link => 'flow_id', agree => false);
  PERFORM flowguard.add_proximity_rule('assets', 'discovery_flows', within => '1 hour',
                                       source_filter => 'status <> ''deleted''');
  PERFORM flowguard.add_proximity_rule('assets', 'data_imports', within => '1 hour');
END;
$links$;

COMMIT;
