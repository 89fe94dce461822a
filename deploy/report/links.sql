-- Deploy pyflowguard:report/links to pg
-- The report's tables: which columns must carry the master flow, and where a missing one is found.
-- Table names are resolved by the search_path of whoever deploys; nothing but the registry is written.

BEGIN;

DO $tables$
BEGIN
  IF to_regclass('crewai_flow_state_extensions') IS NULL THEN
    RAISE EXCEPTION 'flowguard: table crewai_flow_state_extensions is not on the search_path, so nothing was registered'
      USING ERRCODE = 'FG101', DETAIL = format('The search_path is %s.', current_setting('search_path')),
            HINT = 'Name the application''s schema: PGOPTIONS="-c search_path=migration,public". The engine alone '
              'needs none: '
                   'deploy --to @engine.';
  END IF;
END;
$tables$;

SELECT flowguard.add_master('crewai_flow_state_extensions', 'flow_id', '{client_account_id,engagement_id}',
                            alternate_keys => '{id}');

-- An import comes before its master: only the application can know.
SELECT flowguard.add_link('data_imports', on_orphan => 'unlink', on_master_delete => 'cascade');
SELECT flowguard.add_session_rule('data_imports');

SELECT flowguard.add_link('raw_import_records', on_orphan => 'unlink', on_master_delete => 'cascade');
SELECT flowguard.add_reference_rule('raw_import_records', 'data_import_id', 'data_imports');

SELECT flowguard.add_link('import_field_mappings', on_orphan => 'unlink', on_master_delete => 'cascade');
SELECT flowguard.add_reference_rule('import_field_mappings', 'data_import_id', 'data_imports');

-- The report deleted discovery flows that no master could be found for; here they are taken out and kept.
SELECT flowguard.add_link('discovery_flows', on_orphan => 'quarantine', on_master_delete => 'cascade');
SELECT flowguard.add_session_rule('discovery_flows');
SELECT flowguard.add_reference_rule('discovery_flows', 'flow_id', 'crewai_flow_state_extensions',
                                    source_key => 'flow_id', source_link => 'flow_id', agree => false);
SELECT flowguard.add_reference_rule('discovery_flows', 'data_import_id', 'data_imports', agree => false);

-- One writer stores the id of a discovery flow in assets.discovery_flow_id, another its flow_id.
SELECT flowguard.add_link('assets', on_orphan => 'unlink', on_master_delete => 'cascade');
SELECT flowguard.add_session_rule('assets');
SELECT flowguard.add_reference_rule('assets', 'raw_import_records_id', 'raw_import_records');
SELECT flowguard.add_reference_rule('assets', 'discovery_flow_id', 'discovery_flows', agree => false);
SELECT flowguard.add_reference_rule('assets', 'discovery_flow_id', 'discovery_flows', source_key => 'flow_id',
                                    agree => false);
SELECT flowguard.add_reference_rule('assets', 'flow_id', 'crewai_flow_state_extensions', source_key => 'flow_id',
                                    source_link => 'flow_id', agree => false);
SELECT flowguard.add_proximity_rule('assets', 'discovery_flows', within => '1 hour',
                                    source_filter => 'status <> ''deleted''');
SELECT flowguard.add_proximity_rule('assets', 'data_imports', within => '1 hour');

COMMIT;
