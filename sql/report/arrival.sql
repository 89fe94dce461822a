-- One upload as the application writes it: four transactions. Load after before.sql, once.
--
-- The first writes children before their master and links only the import, last. The others come from background jobs
-- after its commit and set no link at all. Unguarded, this leaves the import and the discovery flow linked and
-- everything else not: 3 raw records, 2 field mappings, 3 assets. Guarded, all of them get md5('arrival')::uuid.
--
-- created_at is the application's clock, in its own step of the transaction. No other upload of Alder is near.

BEGIN;

INSERT INTO migration.data_imports (
  id, client_account_id, engagement_id, imported_by, import_name, import_type, filename, status, total_records,
  created_at, updated_at
)
VALUES (
  md5('arrival import')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid, md5('user 1')::uuid,
  'Arrival', 'servers', 'arrival.csv', 'pending', 3, '2025-01-09 10:00:00+00', '2025-01-09 10:00:00+00'
);

INSERT INTO migration.raw_import_records (
  id, data_import_id, client_account_id, engagement_id, row_number, raw_data, created_at, updated_at
)
SELECT
  md5('arrival record ' || n)::uuid, md5('arrival import')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
  n, jsonb_build_object('Name', 'dock ' || n), '2025-01-09 10:00:01+00', '2025-01-09 10:00:01+00'
FROM generate_series(1, 3) AS n;

INSERT INTO migration.crewai_flow_state_extensions (
  id, flow_id, client_account_id, engagement_id, user_id, flow_type, flow_name, flow_status, created_at, updated_at
)
VALUES (
  md5('arrival id')::uuid, md5('arrival')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
  md5('user 1')::uuid, 'discovery', 'Discovery of arrival.csv', 'initialized', '2025-01-09 10:00:03+00',
  '2025-01-09 10:00:03+00'
);

INSERT INTO migration.discovery_flows (
  id, flow_id, master_flow_id, client_account_id, engagement_id, user_id, data_import_id, flow_name, created_at,
  updated_at
)
VALUES (
  md5('arrival discovery flow')::uuid, md5('arrival')::uuid, md5('arrival')::uuid, md5('client 1')::uuid,
  md5('engagement 1')::uuid, md5('user 1')::uuid, md5('arrival import')::uuid, 'Discovery of arrival.csv',
  '2025-01-09 10:00:05+00', '2025-01-09 10:00:05+00'
);

UPDATE migration.data_imports
SET master_flow_id = md5('arrival')::uuid, status = 'processing', updated_at = '2025-01-09 10:00:06+00'
WHERE id = md5('arrival import')::uuid;

COMMIT;

BEGIN;

INSERT INTO migration.import_field_mappings (
  id, data_import_id, client_account_id, engagement_id, source_field, target_field, created_at, updated_at
)
VALUES
  (
    md5('arrival mapping 1')::uuid, md5('arrival import')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
    'Name', 'name', '2025-01-09 10:02:00+00', '2025-01-09 10:02:00+00'
  ),
  (
    md5('arrival mapping 2')::uuid, md5('arrival import')::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
    'CPU', 'cpu_cores', '2025-01-09 10:02:00+00', '2025-01-09 10:02:00+00'
  );

COMMIT;

BEGIN;

UPDATE migration.raw_import_records
SET is_processed = true, is_valid = true, processed_at = '2025-01-09 10:05:00+00', updated_at = '2025-01-09 10:05:00+00'
WHERE data_import_id = md5('arrival import')::uuid;

COMMIT;

BEGIN;

-- The first two have nothing but their time; the third names its raw record.
INSERT INTO migration.assets (
  id, client_account_id, engagement_id, raw_import_records_id, name, asset_type, created_at, updated_at
)
SELECT
  md5('arrival asset ' || n)::uuid, md5('client 1')::uuid, md5('engagement 1')::uuid,
  CASE WHEN n = 3 THEN md5('arrival record 3')::uuid END, 'dock ' || n, 'server', '2025-01-09 10:10:00+00',
  '2025-01-09 10:10:00+00'
FROM generate_series(1, 3) AS n;

COMMIT;
