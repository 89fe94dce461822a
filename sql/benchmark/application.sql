-- What the application of the roll-out's benchmark knows: rows as it left them, a third or a half without a link that
-- its rules would give, and calls for pgbench, which each write as the platform does. Load load.sql and its rows first.

BEGIN;

CREATE FUNCTION benchmark.load_application(p_rows integer) RETURNS void
LANGUAGE plpgsql AS $load_application$
BEGIN
  INSERT INTO migration.raw_import_records
    (id, data_import_id, client_account_id, engagement_id, master_flow_id, row_number, raw_data)
  SELECT r.id, r.data_import_id, r.client_account_id, r.engagement_id,
         CASE WHEN r.row_number % 3 > 0 THEN r.master_flow_id END, r.row_number, r.raw_data
    FROM benchmark.raw_import_records AS r;
  INSERT INTO migration.import_field_mappings
    (id, data_import_id, client_account_id, engagement_id, master_flow_id, source_field, target_field)
  SELECT m.id, m.data_import_id, m.client_account_id, m.engagement_id,
         CASE WHEN right(m.source_field, 1) > '4' THEN m.master_flow_id END, m.source_field, m.target_field
    FROM benchmark.import_field_mappings AS m;
  INSERT INTO migration.assets
    (id, client_account_id, engagement_id, master_flow_id, name, asset_type, hostname, created_at)
  SELECT a.id, a.client_account_id, a.engagement_id, CASE WHEN right(a.name, 1) > '4' THEN a.master_flow_id END,
         a.name, a.asset_type, a.hostname, a.created_at
    FROM benchmark.assets_of_the_past AS a;
END;
$load_application$;
COMMENT ON FUNCTION benchmark.load_application(integer) IS 'Fills the children of the report''s tables.';

CREATE TABLE benchmark.plain (
  id uuid PRIMARY KEY, master_flow_id uuid REFERENCES migration.crewai_flow_state_extensions (flow_id),
  raw_data jsonb NOT NULL
);
CREATE INDEX ON benchmark.plain (master_flow_id);
COMMENT ON TABLE benchmark.plain IS 'Rows without a link, which nobody else reads or writes: for the limit.';

CREATE FUNCTION benchmark.load_plain() RETURNS void
LANGUAGE plpgsql AS $load_plain$
BEGIN
  INSERT INTO benchmark.plain SELECT r.id, NULL, r.raw_data FROM benchmark.raw_import_records AS r;
  CREATE INDEX ON benchmark.raw_import_records (row_number);
END;
$load_plain$;
COMMENT ON FUNCTION benchmark.load_plain() IS 'Fills the table for the limit.';

CREATE FUNCTION benchmark.new_import(p_tenant integer, p_linked boolean) RETURNS void
LANGUAGE plpgsql AS $new_import$
-- One transaction writes an import, its first records, the master, and links last, as the platform does: that of the
-- import, and of the records as well where they are to be linked.
DECLARE
  v_import     uuid := gen_random_uuid();
  v_master     uuid := gen_random_uuid();
  v_client     uuid := benchmark.key('client', p_tenant);
  v_engagement uuid := benchmark.key('engagement', p_tenant);
  v_records    uuid[] := ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 5));
BEGIN
  INSERT INTO migration.data_imports (id, client_account_id, engagement_id, import_name, import_type)
  VALUES (v_import, v_client, v_engagement, 'new', 'csv');
  INSERT INTO migration.raw_import_records
    (id, data_import_id, client_account_id, engagement_id, row_number, raw_data)
  SELECT r.id, v_import, v_client, v_engagement, r.n, '{"hostname": "new"}'
    FROM unnest(v_records) WITH ORDINALITY AS r (id, n);
  INSERT INTO migration.crewai_flow_state_extensions (flow_id, client_account_id, engagement_id, flow_type)
  VALUES (v_master, v_client, v_engagement, 'discovery');
  INSERT INTO migration.discovery_flows
    (flow_id, client_account_id, engagement_id, master_flow_id, data_import_id, flow_name)
  VALUES (v_master, v_client, v_engagement, v_master, v_import, 'new');
  IF p_linked THEN
    UPDATE migration.raw_import_records SET master_flow_id = v_master WHERE id = ANY (v_records);
  END IF;
  UPDATE migration.data_imports SET master_flow_id = v_master WHERE id = v_import;
END;
$new_import$;
COMMENT ON FUNCTION benchmark.new_import(integer, boolean) IS
  'Writes an import with records, master and flow; the records are linked if `p_linked`.';

COMMIT;
