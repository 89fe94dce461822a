-- The report's database before its clean-up: the rows. Load schema.sql first.
--
--   2 clients, 2 engagements, 4 users, 32 masters, 6 legacy sessions
--   16 imports and 265 raw records, all linked
--   20 discovery flows: 7 linked, 11 dangling, 2 without a link
--   29 assets and 178 field mappings, none linked
--
-- Everything is fixed, so that a test or the demo can name a row and expect an exact figure: ids are md5 of a label
-- ('asset 1', 'discovery flow 4', …), times are literals. Client 1 is Alder, client 2 is Birch.
-- Master n has id md5('master n id') and flow_id md5('master n'); imports 1 to 16 belong to masters 1 to 16.
-- Rows are inserted in the order of their updated_at, as a table that is never vacuumed keeps them: the report's own
-- script depends on that order (report_scripts.sql).
-- The right answers are kept apart, in schema report.

BEGIN;

CREATE SCHEMA report;

COMMENT ON SCHEMA report IS 'What is true of the report''s database; no part of the application.';

CREATE TABLE report.true_asset_link (
  asset_id uuid PRIMARY KEY,
  master_flow_id uuid NOT NULL,
  found_by text NOT NULL
);

COMMENT ON TABLE report.true_asset_link IS
  'The right master of each asset and the rule that finds it. No key to assets: the truth outlives the row.';

CREATE TABLE report.true_mapping_link (
  mapping_id uuid PRIMARY KEY,
  master_flow_id uuid NOT NULL
);

COMMENT ON TABLE report.true_mapping_link IS 'The right master of each field mapping.';

-- Tenants

INSERT INTO migration.client_accounts (id, name, slug, industry, created_at, updated_at)
VALUES
  (md5('client 1')::uuid, 'Alder Logistics', 'alder', 'transport', '2024-11-04 08:00+00', '2024-11-04 08:00+00'),
  (md5('client 2')::uuid, 'Birch Insurance', 'birch', 'insurance', '2024-11-05 08:00+00', '2024-11-05 08:00+00');

INSERT INTO migration.engagements (
  id, client_account_id, name, slug, start_date, budget, created_at, updated_at
)
VALUES
  (
    md5('engagement 1')::uuid, md5('client 1')::uuid, 'Depot systems to the cloud', 'depots', '2024-12-02', 480000.00,
    '2024-11-11 08:00+00', '2024-11-11 08:00+00'
  ),
  (
    md5('engagement 2')::uuid, md5('client 2')::uuid, 'Claims platform move', 'claims', '2024-12-02', 1250000.50,
    '2024-11-12 08:00+00', '2024-11-12 08:00+00'
  );

INSERT INTO migration.users (id, email, first_name, last_name, default_client_id, created_at, updated_at)
SELECT
  md5('user ' || person.n)::uuid, person.email, person.first_name, person.last_name,
  md5('client ' || person.client)::uuid, '2024-11-15 08:00+00', '2024-11-15 08:00+00'
FROM (
  VALUES
    (1, 1, 'ines@alder.example', 'Ines', 'Aldana'),
    (2, 1, 'tom@alder.example', 'Tom', 'Okoro'),
    (3, 2, 'mei@birch.example', 'Mei', 'Lindqvist'),
    (4, 2, 'raj@birch.example', 'Raj', 'Whitfield')
) AS person (n, client, email, first_name, last_name)
ORDER BY person.n;

-- Imports. Only some imports still have a discovery flow; where they do, import and flow have one master.
-- The hours that matter: 10 December, Alder (3, 4, 6) and Birch (5, 7) at work at the same time; 17 December, Alder
-- (9, 10, 11); 2 January, Birch (14, 15).
-- data_imports' key to the master is deferred: imports come before masters here, as they do in the application.

INSERT INTO migration.data_imports (
  id, client_account_id, engagement_id, master_flow_id, imported_by, import_name, import_type, filename, file_size,
  source_system, status, progress_percentage, total_records, import_config, completed_at, created_at, updated_at
)
SELECT
  md5('import ' || load.n)::uuid, md5('client ' || load.client)::uuid, md5('engagement ' || load.client)::uuid,
  md5('master ' || load.n)::uuid, md5('user ' || (2 * load.client - load.n % 2))::uuid,
  'Import ' || load.n, load.import_type, load.filename, 2048 + 310 * load.records,
  load.source_system, 'completed', 100, load.records, jsonb_build_object('delimiter', ',', 'has_header', true),
  load.created_at + interval '6 seconds', load.created_at, load.created_at + interval '6 seconds'
FROM (
  VALUES
    (1, 1, 'servers', 'depot-servers.csv', 'cmdb', 20, timestamptz '2024-12-03 10:00:00+00'),
    (2, 2, 'servers', 'claims-servers.csv', 'cmdb', 25, '2024-12-04 13:30:00+00'),
    (3, 1, 'applications', 'depot-applications.csv', 'spreadsheet', 12, '2024-12-10 08:10:00+00'),
    (4, 1, 'servers', 'yard-servers.csv', 'cmdb', 18, '2024-12-10 08:59:55+00'),
    (5, 2, 'servers', 'policy-servers.csv', 'cmdb', 15, '2024-12-10 09:04:55+00'),
    (6, 1, 'databases', 'yard-databases.csv', 'scanner', 22, '2024-12-10 09:39:55+00'),
    (7, 2, 'databases', 'policy-databases.csv', 'scanner', 10, '2024-12-10 09:44:55+00'),
    (8, 2, 'applications', 'claims-applications.csv', 'spreadsheet', 16, '2024-12-12 11:00:00+00'),
    (9, 1, 'servers', 'fleet-servers.csv', 'cmdb', 14, '2024-12-17 13:59:55+00'),
    (10, 1, 'servers', 'fleet-servers-again.csv', 'cmdb', 19, '2024-12-17 14:29:55+00'),
    (11, 1, 'databases', 'fleet-databases.csv', 'scanner', 13, '2024-12-17 15:15:00+00'),
    (12, 2, 'servers', 'archive-servers.csv', 'cmdb', 17, '2024-12-19 09:20:00+00'),
    (13, 1, 'applications', 'fleet-applications.csv', 'spreadsheet', 21, '2024-12-20 16:00:00+00'),
    (14, 2, 'applications', 'portal-applications.csv', 'spreadsheet', 11, '2025-01-02 10:20:00+00'),
    (15, 2, 'servers', 'portal-servers.csv', 'cmdb', 20, '2025-01-02 10:59:55+00'),
    (16, 1, 'servers', 'customs-servers.csv', 'cmdb', 12, '2025-01-03 12:00:00+00')
) AS load (n, client, import_type, filename, source_system, records, created_at)
ORDER BY load.n;

-- Masters: 1 to 16 of the imports; 17 to 27 of assessments, six at Alder and five at Birch, whose ids the other variant
-- writes into the wrong links (variant_translatable.sql); 28 to 32 below a parent that has no discovery flow.
-- Master 10 is deleted, softly, like its discovery flow.

INSERT INTO migration.crewai_flow_state_extensions (
  id, flow_id, client_account_id, engagement_id, user_id, flow_type, flow_name, flow_status, flow_configuration,
  created_at, updated_at
)
SELECT
  md5('master ' || load.n || ' id')::uuid, load.master_flow_id, load.client_account_id, load.engagement_id,
  load.imported_by, 'discovery', 'Discovery of ' || load.filename,
  CASE WHEN load.n = 10 THEN 'deleted' ELSE 'completed' END,
  jsonb_build_object('agents', 3), load.created_at + interval '3 seconds', load.created_at + interval '10 minutes'
FROM (
  SELECT n, data_imports.*
  FROM generate_series(1, 16) AS n
  JOIN migration.data_imports ON data_imports.id = md5('import ' || n)::uuid
) AS load
ORDER BY load.n;

INSERT INTO migration.crewai_flow_state_extensions (
  id, flow_id, parent_flow_id, client_account_id, engagement_id, flow_type, flow_name, flow_status, created_at,
  updated_at
)
SELECT
  md5('master ' || flow.n || ' id')::uuid, md5('master ' || flow.n)::uuid, md5('master ' || flow.parent)::uuid,
  md5('client ' || flow.client)::uuid, md5('engagement ' || flow.client)::uuid,
  flow.flow_type, initcap(flow.flow_type) || ' ' || flow.n, 'running',
  timestamptz '2024-12-21 08:00+00' + flow.n * interval '1 hour',
  timestamptz '2024-12-21 08:30+00' + flow.n * interval '1 hour'
FROM (
  SELECT n, CASE WHEN n <= 22 THEN 1 ELSE 2 END, NULL, 'assessment'
  FROM generate_series(17, 27) AS n
  UNION ALL
  VALUES
    (28, 1, 1, 'planning'),
    (29, 1, 1, 'collection'),
    (30, 1, 13, 'planning'),
    (31, 2, 2, 'planning'),
    (32, 2, 12, 'collection')
) AS flow (n, client, parent, flow_type)
ORDER BY flow.n;

-- Raw records: as many as their import says, linked like it.

INSERT INTO migration.raw_import_records (
  id, data_import_id, client_account_id, engagement_id, master_flow_id, row_number, raw_data, cleansed_data,
  is_processed, is_valid, processed_at, created_at, updated_at
)
SELECT
  md5('import ' || load.n || ' record ' || record)::uuid, load.id, load.client_account_id, load.engagement_id,
  load.master_flow_id, record,
  jsonb_build_object(
    'Name', format('%s %s', split_part(load.filename, '.', 1), record),
    'CPU', (2 + 2 * (record % 4))::text, 'RAM (GB)', format('%s,5', 4 * (1 + record % 8))
  ),
  jsonb_build_object('cpu_cores', 2 + 2 * (record % 4), 'memory_gb', 4 * (1 + record % 8) + 0.5),
  true, true, load.created_at + interval '5 minutes', load.created_at + interval '1 second',
  load.created_at + interval '5 minutes'
FROM (
  SELECT n, data_imports.*
  FROM generate_series(1, 16) AS n
  JOIN migration.data_imports ON data_imports.id = md5('import ' || n)::uuid
) AS load
CROSS JOIN generate_series(1, load.total_records) AS record
ORDER BY load.n, record;

-- Discovery flows, in the order in which they were last written.
-- Flow 5 is deleted, softly, and was so before flow 6, the older one, was finished.
-- Flows 8 and 9 never had a link, and nothing else in them leads to a master.
-- Flows 10 to 20 hold keys of masters deleted since, in flow_id too, as the application writes it. Their
-- data_import_id is NULL or names an import that is gone: real orphans. Each stands where it misleads a look-up that
-- forgets to ask whether the master exists.
--
-- Rows like 10 to 20 cannot be written under the key. They are older than it: on the platform the key was added NOT
-- VALID, which looks at no row already there. The same is done here. (Switching triggers off instead would need
-- a superuser.)

ALTER TABLE migration.discovery_flows DROP CONSTRAINT fk_discovery_flows_master_flow;

INSERT INTO migration.discovery_flows (
  id, flow_id, master_flow_id, client_account_id, engagement_id, user_id, data_import_id, flow_name, status,
  current_phase, progress_percentage, phase_state, created_at, updated_at
)
SELECT
  md5('discovery flow ' || flow.n)::uuid, md5(coalesce(flow.master, 'flow without master ' || flow.n))::uuid,
  md5(flow.master)::uuid, md5('client ' || flow.client)::uuid, md5('engagement ' || flow.client)::uuid,
  md5('user ' || (2 * flow.client))::uuid, md5(flow.import)::uuid, 'Discovery flow ' || flow.n, flow.status,
  'inventory', 60, '{"data_import": true, "field_mapping": true, "data_cleansing": true, "inventory": false}',
  flow.created_at, flow.updated_at
FROM (
  VALUES
    (1, 1, 'master 4', 'import 4', 'active', timestamptz '2024-12-10 09:00:00+00', timestamptz '2024-12-10 10:10+00'),
    (2, 2, 'master 5', 'import 5', 'active', '2024-12-10 09:05:00+00', '2024-12-10 10:20+00'),
    (3, 1, 'master 6', 'import 6', 'active', '2024-12-10 09:40:00+00', '2024-12-10 10:30+00'),
    (4, 2, 'master 7', 'import 7', 'active', '2024-12-10 09:45:00+00', '2024-12-10 10:40+00'),
    (5, 1, 'master 10', 'import 10', 'deleted', '2024-12-17 14:30:00+00', '2024-12-18 09:00+00'),
    (6, 1, 'master 9', 'import 9', 'completed', '2024-12-17 14:00:00+00', '2024-12-18 17:00+00'),
    (7, 2, 'master 15', 'import 15', 'active', '2025-01-02 11:00:00+00', '2025-01-02 12:00+00'),
    (8, 1, NULL, NULL, 'active', '2024-12-10 09:38:30+00', '2025-01-03 08:00+00'),
    (9, 2, NULL, NULL, 'active', '2025-01-02 10:24:00+00', '2025-01-03 08:10+00'),
    -- Dangling, Alder
    (10, 1, 'lost master 1', NULL, 'active', '2024-12-10 09:24:00+00', '2025-01-06 08:01+00'),
    (11, 1, 'lost master 2', 'lost import 2', 'active', '2024-12-10 09:30:00+00', '2025-01-06 08:02+00'),
    (12, 1, 'lost master 3', NULL, 'active', '2024-12-17 13:25:00+00', '2025-01-06 08:03+00'),
    (13, 1, 'lost master 4', 'lost import 4', 'active', '2024-12-17 14:27:00+00', '2025-01-06 08:04+00'),
    (14, 1, 'lost master 5', NULL, 'failed', '2024-12-17 15:40:00+00', '2025-01-06 08:05+00'),
    (15, 1, 'lost master 6', 'lost import 6', 'active', '2025-01-03 12:00:05+00', '2025-01-06 08:06+00'),
    -- Dangling, Birch
    (16, 2, 'lost master 7', NULL, 'active', '2024-12-10 09:22:00+00', '2025-01-06 08:07+00'),
    (17, 2, 'lost master 8', NULL, 'active', '2024-12-10 09:40:00+00', '2025-01-06 08:08+00'),
    (18, 2, 'lost master 9', 'lost import 9', 'deleted', '2024-12-19 09:20:05+00', '2025-01-06 08:09+00'),
    (19, 2, 'lost master 10', NULL, 'active', '2025-01-02 09:58:00+00', '2025-01-06 08:10+00'),
    (20, 2, 'lost master 11', NULL, 'active', '2025-01-02 10:10:00+00', '2025-01-06 08:11+00')
) AS flow (n, client, master, import, status, created_at, updated_at)
ORDER BY flow.n;

ALTER TABLE migration.discovery_flows
  ADD CONSTRAINT fk_discovery_flows_master_flow FOREIGN KEY (master_flow_id)
  REFERENCES migration.crewai_flow_state_extensions (flow_id) ON DELETE CASCADE NOT VALID;

-- Field mappings: so many for each import, and none with a link.

WITH mapping AS (
  SELECT
    load.import, field, md5('import ' || load.import || ' mapping ' || field)::uuid AS id
  FROM (
    VALUES
      (1, 8), (2, 12), (3, 10), (4, 14), (5, 9), (6, 13), (7, 11), (8, 12),
      (9, 10), (10, 14), (11, 8), (12, 12), (13, 11), (14, 13), (15, 9), (16, 12)
  ) AS load (import, fields)
  CROSS JOIN generate_series(1, load.fields) AS field
),
truth AS (
  INSERT INTO report.true_mapping_link (mapping_id, master_flow_id)
  SELECT mapping.id, md5('master ' || mapping.import)::uuid
  FROM mapping
)
INSERT INTO migration.import_field_mappings (
  id, data_import_id, client_account_id, engagement_id, source_field, target_field, match_type, confidence_score,
  status, transformation_rules, created_at, updated_at
)
SELECT
  mapping.id, data_imports.id, data_imports.client_account_id, data_imports.engagement_id,
  (
    ARRAY[
      'Name', 'CPU', 'RAM (GB)', 'OS', 'IP', 'Env', 'Type', 'Owner', 'Site', 'Disk', 'Cost', 'Tier', 'Vendor', 'Note'
    ]
  )[mapping.field],
  (
    ARRAY[
      'name', 'cpu_cores', 'memory_gb', 'operating_system', 'ip_address', 'environment', 'asset_type', 'owner',
      'location', 'storage_gb', 'monthly_cost', 'criticality', 'vendor', 'description'
    ]
  )[mapping.field],
  CASE WHEN mapping.field <= 3 THEN 'direct' ELSE 'semantic' END, 1 - 0.025 * mapping.field,
  'approved', CASE WHEN mapping.field = 3 THEN '{"decimal_separator": ","}'::jsonb END,
  data_imports.created_at + interval '2 minutes', data_imports.created_at + interval '3 minutes'
FROM mapping
JOIN migration.data_imports ON data_imports.id = md5('import ' || mapping.import)::uuid
ORDER BY mapping.import, mapping.field;

-- Assets, none with a link. The last two columns are the truth: the master, and the rule that finds it. The rules in
-- their order: raw record; discovery flow, named by either key; flow; nearest discovery flow that is not deleted;
-- nearest import. 'in time' means within one hour, one hour included.
-- The remark beside an asset says which mistake it would show.

WITH asset AS (
  SELECT md5('asset ' || found.n)::uuid AS id, found.*
  FROM (
    VALUES
      -- Alder, 10 December: flows 1 (09:00) and 3 (09:40); dangling 10 (09:24) and 11 (09:30); no link 8 (09:38:30);
      -- Birch's flows 2 (09:05) and 4 (09:45) at the same time
      (
        1, 1, 'yard-gate-01', 'server', timestamptz '2024-12-10 09:02:00+00', NULL::text, NULL::text, NULL::text,
        4, 'nearest discovery flow'
      ),
      -- Birch's flow 2 is 30 seconds away, the right one 4.5 minutes
      (2, 1, 'yard-gate-02', 'server', '2024-12-10 09:04:30+00', NULL, NULL, NULL, 4, 'nearest discovery flow'),
      -- A tie, 20 minutes to flow 1 and to flow 3: the earlier is right
      (3, 1, 'yard-crane-01', 'server', '2024-12-10 09:20:00+00', NULL, NULL, NULL, 4, 'nearest discovery flow'),
      -- Dangling flow 10 is 1 minute away, the right one 15
      (4, 1, 'yard-crane-02', 'server', '2024-12-10 09:25:00+00', NULL, NULL, NULL, 6, 'nearest discovery flow'),
      -- Flow 8, without a link, is 30 seconds away
      (5, 1, 'yard-stock-db', 'database', '2024-12-10 09:38:00+00', NULL, NULL, NULL, 6, 'nearest discovery flow'),
      -- Birch's flow 4 is 1 minute away, the right one 4
      (6, 1, 'yard-tower-db', 'database', '2024-12-10 09:44:00+00', NULL, NULL, NULL, 6, 'nearest discovery flow'),
      -- Dangling flow 11 is 1 minute away
      (7, 1, 'yard-scale-db', 'database', '2024-12-10 09:31:00+00', NULL, NULL, NULL, 6, 'nearest discovery flow'),
      -- Names a discovery flow by id, but that flow dangles: the reference leads nowhere and time decides
      (
        8, 1, 'yard-route-db', 'database', '2024-12-10 09:50:00+00', NULL, 'discovery flow 10', NULL,
        6, 'nearest discovery flow'
      ),
      (9, 1, 'yard-audit-db', 'database', '2024-12-10 09:55:00+00', NULL, NULL, NULL, 6, 'nearest discovery flow'),
      -- Birch, 10 December: flows 2 (09:05) and 4 (09:45); dangling 16 (09:22) and 17 (09:40);
      -- Alder's flows 1 (09:00) and 3 (09:40) at the same time
      (10, 2, 'policy-web-01', 'server', '2024-12-10 09:07:00+00', NULL, NULL, NULL, 5, 'nearest discovery flow'),
      -- Dangling flow 16 is 2 minutes away, the right one 19, the wrong one 21
      (11, 2, 'policy-web-02', 'server', '2024-12-10 09:24:00+00', NULL, NULL, NULL, 5, 'nearest discovery flow'),
      -- Alder's flow 3 and dangling flow 17 are 1 minute away, the right one 6
      (12, 2, 'policy-core-db', 'database', '2024-12-10 09:39:00+00', NULL, NULL, NULL, 7, 'nearest discovery flow'),
      (13, 2, 'policy-rate-db', 'database', '2024-12-10 09:46:00+00', NULL, NULL, NULL, 7, 'nearest discovery flow'),
      (14, 2, 'policy-mail-db', 'database', '2024-12-10 09:30:00+00', NULL, NULL, NULL, 7, 'nearest discovery flow'),
      -- Names a flow that is gone: the reference leads nowhere and time decides
      (
        15, 2, 'policy-risk-db', 'database', '2024-12-10 09:50:00+00', NULL, NULL, 'lost master 8',
        7, 'nearest discovery flow'
      ),
      -- Over an hour after Alder's flow 1 (61 minutes), under an hour after Birch's flow 2 (56)
      (16, 2, 'policy-copy-db', 'database', '2024-12-10 10:01:00+00', NULL, NULL, NULL, 7, 'nearest discovery flow'),
      -- Names a discovery flow by flow_id: a reference beats time, which says flow 4, 2 minutes away
      (17, 2, 'policy-web-03', 'server', '2024-12-10 09:47:00+00', NULL, 'master 5', NULL, 5, 'discovery flow'),
      -- Alder, 17 December: flow 6 (14:00) and flow 5 (14:30, deleted); dangling 12 (13:25), 13 (14:27), 14 (15:40)
      (18, 1, 'fleet-app-01', 'server', '2024-12-17 14:05:00+00', NULL, NULL, NULL, 9, 'nearest discovery flow'),
      -- The deleted flow 5 is 10 minutes away, dangling flow 13 is 7, the right one 20
      (19, 1, 'fleet-app-02', 'server', '2024-12-17 14:20:00+00', NULL, NULL, NULL, 9, 'nearest discovery flow'),
      -- The deleted flow 5 is 1 minute away, the right one 29
      (20, 1, 'fleet-app-03', 'server', '2024-12-17 14:29:00+00', NULL, NULL, NULL, 9, 'nearest discovery flow'),
      -- The deleted flow 5 is 15 minutes away, import 10 no further, the right one 45
      (21, 1, 'fleet-app-04', 'server', '2024-12-17 14:45:00+00', NULL, NULL, NULL, 9, 'nearest discovery flow'),
      -- Made of a raw record: a deleted flow is no target for a guess, but this is none
      (22, 1, 'fleet-app-05', 'server', '2024-12-17 14:32:00+00', 'import 10 record 3', NULL, NULL, 10, 'raw record'),
      -- Only flows that are deleted or dangling in time: the nearest import (11, 5 minutes) is right
      (23, 1, 'fleet-map-db', 'database', '2024-12-17 15:20:00+00', NULL, NULL, NULL, 11, 'nearest import'),
      -- Names a master that has no discovery flow: a reference beats time, which says flow 6, 10 minutes away
      (24, 1, 'fleet-log-db', 'database', '2024-12-17 14:10:00+00', NULL, NULL, 'master 11', 11, 'flow'),
      -- Birch, 2 January: flow 7 (11:00); dangling 19 (09:58) and 20 (10:10); no link 9 (10:24)
      -- One hour before flow 7, to the microsecond: still in time. Import 14 is 20 minutes away, dangling flow 19 is 2
      (25, 2, 'portal-web-01', 'server', '2025-01-02 10:00:00+00', NULL, NULL, NULL, 15, 'nearest discovery flow'),
      -- A microsecond more than one hour: flow 7 is out, imports 14 and 15 are in
      (26, 2, 'portal-web-02', 'server', '2025-01-02 09:59:59.999999+00', NULL, NULL, NULL, 14, 'nearest import'),
      -- Import 14 is 5 minutes away, flow 7 is 35: any flow in time goes before any import
      (27, 2, 'portal-web-03', 'server', '2025-01-02 10:25:00+00', NULL, NULL, NULL, 15, 'nearest discovery flow'),
      -- Names a discovery flow by id, one of weeks ago: a reference knows no window
      (28, 2, 'portal-web-04', 'server', '2025-01-02 11:15:00+00', NULL, 'discovery flow 4', NULL, 7, 'discovery flow'),
      -- Made of a raw record of import 14, which has no discovery flow
      (29, 2, 'portal-form-01', 'server', '2025-01-02 10:30:00+00', 'import 14 record 2', NULL, NULL, 14, 'raw record')
  ) AS found (
    n, client, name, asset_type, created_at, raw_record, discovery_flow, flow, true_master, found_by
  )
),
truth AS (
  INSERT INTO report.true_asset_link (asset_id, master_flow_id, found_by)
  SELECT asset.id, md5('master ' || asset.true_master)::uuid, asset.found_by
  FROM asset
)
INSERT INTO migration.assets (
  id, client_account_id, engagement_id, flow_id, discovery_flow_id, raw_import_records_id, name, asset_type, hostname,
  ip_address, operating_system, environment, cpu_cores, memory_gb, monthly_cost, technical_details, deleted_at,
  deleted_by, created_at, updated_at
)
SELECT
  asset.id, md5('client ' || asset.client)::uuid, md5('engagement ' || asset.client)::uuid,
  md5(asset.flow)::uuid, md5(asset.discovery_flow)::uuid, md5(asset.raw_record)::uuid, asset.name, asset.asset_type,
  asset.name || '.example', ('10.' || asset.client || '.0.' || asset.n)::inet, 'Debian 12', 'production',
  2 + 2 * (asset.n % 4), 8 * (1 + asset.n % 4) + 0.5, 40.25 * (1 + asset.n % 5),
  jsonb_build_object('rack', 'R' || asset.n % 7, 'virtual', asset.n % 2 = 0),
  -- Deleted softly, and to be linked all the same
  CASE WHEN asset.n IN (9, 21) THEN timestamptz '2025-01-04 08:00+00' END,
  CASE WHEN asset.n IN (9, 21) THEN md5('user 1')::uuid END,
  asset.created_at, greatest(asset.created_at, CASE WHEN asset.n IN (9, 21) THEN timestamptz '2025-01-04 08:00+00' END)
FROM asset
ORDER BY asset.n;

UPDATE migration.raw_import_records
SET asset_id = assets.id
FROM migration.assets
WHERE assets.raw_import_records_id = raw_import_records.id;

-- The legacy table. session_number is the identity's: 1 to 6 in this order.

INSERT INTO migration.data_import_sessions (
  id, client_account_id, engagement_id, session_name, session_type, status, is_default, statistics, quality_score,
  created_by, completed_at, created_at, updated_at
)
SELECT
  md5('session ' || session.n)::uuid, md5('client ' || session.client)::uuid,
  md5('engagement ' || session.client)::uuid, session.name, session.session_type, session.status, session.is_default,
  jsonb_build_object('imports', session.n % 3, 'records', 20 * session.n), session.quality_score,
  md5('user ' || session.author)::uuid, session.created_at + interval '2 hours', session.created_at,
  session.created_at + interval '2 hours'
FROM (
  VALUES
    (1, 1, 'depots-default', 'data_import', 'active', true, 0.1::float8, 1, timestamptz '2024-11-18 09:00+00'),
    (2, 2, 'claims-default', 'data_import', 'active', true, 0.30000000000000004, 3, '2024-11-18 10:00+00'),
    (3, 1, 'depots-check', 'validation_run', 'completed', false, 97.5, 2, '2024-11-20 09:00+00'),
    (4, 2, 'claims-check', 'validation_run', 'completed', false, NULL, NULL, '2024-11-21 09:00+00'),
    (5, 1, 'depots-delta', 'incremental_update', 'failed', false, 1e-7, 1, '2024-11-25 09:00+00'),
    (6, 2, 'claims-delta', 'incremental_update', 'completed', false, 100, 4, '2024-11-26 09:00+00')
) AS session (n, client, name, session_type, status, is_default, quality_score, author, created_at)
ORDER BY session.n;

COMMIT;
