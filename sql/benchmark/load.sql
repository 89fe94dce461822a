-- What the benchmark writes to and what it writes: the report's tables filled at any size, rows to insert with the
-- links that are right, and a table with nothing but keys, on which a trigger costs most. Load report/schema.sql first.
-- Times are told by position: source n of a tenant lies n minutes back, so the right link of a row follows from its
-- time alone, and no look-up of ours says what is right.

BEGIN;

CREATE SCHEMA benchmark;
COMMENT ON SCHEMA benchmark IS 'Loads of the benchmark; no part of the application.';

CREATE FUNCTION benchmark.key(p_kind text, p_tenant integer, p_number integer DEFAULT 0) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $key$
  SELECT md5(format('%s %s %s', p_kind, p_tenant, p_number))::uuid;
$key$;
COMMENT ON FUNCTION benchmark.key(text, integer, integer) IS 'The key of a row, by its kind, tenant and number.';

CREATE FUNCTION benchmark.load_sources(p_tenants integer, p_sources integer) RETURNS void
LANGUAGE plpgsql AS $load_sources$
-- So many tenants, each with so many masters, and with an import and a discovery flow for each master, a minute apart,
-- the newest a minute old.
BEGIN
  INSERT INTO migration.client_accounts (id, name, slug)
  SELECT benchmark.key('client', t), 'client ' || t, 'client-' || t FROM generate_series(1, p_tenants) AS t;
  INSERT INTO migration.engagements (id, client_account_id, name, slug)
  SELECT benchmark.key('engagement', t), benchmark.key('client', t), 'engagement ' || t, 'engagement-' || t
    FROM generate_series(1, p_tenants) AS t;
  INSERT INTO migration.crewai_flow_state_extensions
    (id, flow_id, client_account_id, engagement_id, flow_type, created_at)
  SELECT benchmark.key('master id', t, n), benchmark.key('master', t, n), benchmark.key('client', t),
         benchmark.key('engagement', t), 'discovery', now() - n * interval '1 minute'
    FROM generate_series(1, p_tenants) AS t, generate_series(1, p_sources) AS n;
  INSERT INTO migration.data_imports
    (id, client_account_id, engagement_id, master_flow_id, import_name, import_type, created_at)
  SELECT benchmark.key('import', t, n), benchmark.key('client', t), benchmark.key('engagement', t),
         benchmark.key('master', t, n), 'import ' || n, 'csv', now() - n * interval '1 minute'
    FROM generate_series(1, p_tenants) AS t, generate_series(1, p_sources) AS n;
  INSERT INTO migration.discovery_flows
    (id, flow_id, client_account_id, engagement_id, master_flow_id, data_import_id, flow_name, created_at)
  SELECT benchmark.key('flow', t, n), benchmark.key('master', t, n), benchmark.key('client', t),
         benchmark.key('engagement', t), benchmark.key('master', t, n), benchmark.key('import', t, n), 'flow ' || n,
         now() - n * interval '1 minute'
    FROM generate_series(1, p_tenants) AS t, generate_series(1, p_sources) AS n;
END;
$load_sources$;
COMMENT ON FUNCTION benchmark.load_sources(integer, integer) IS
  'Fills tenants, masters, imports and discovery flows of the report''s tables.';

CREATE FUNCTION benchmark.load_rows(p_tenants integer, p_sources integer, p_rows integer) RETURNS void
LANGUAGE plpgsql AS $load_rows$
-- Rows to write, each with its right link, spread over tenants and sources. An asset of the past lies between two
-- flows, 20 seconds from the nearer one, which comes before it and after it in turns. An asset of the present is of the
-- moment when it is written, so the newest flow is its own.
BEGIN
  CREATE TABLE benchmark.work AS
  SELECT r AS row_number, 1 + r % p_tenants AS tenant, 2 + (r / p_tenants) % (p_sources - 2) AS source
    FROM generate_series(1, p_rows) AS r;

  CREATE TABLE benchmark.raw_import_records AS
  SELECT md5('record ' || w.row_number)::uuid AS id, benchmark.key('import', w.tenant, w.source) AS data_import_id,
         benchmark.key('client', w.tenant) AS client_account_id, benchmark.key('engagement', w.tenant) AS engagement_id,
         benchmark.key('master', w.tenant, w.source) AS master_flow_id, w.row_number,
         jsonb_build_object('hostname', 'host' || w.row_number, 'cpu', w.row_number % 64) AS raw_data
    FROM benchmark.work AS w;

  CREATE TABLE benchmark.import_field_mappings AS
  SELECT md5('mapping ' || w.row_number)::uuid AS id, benchmark.key('import', w.tenant, w.source) AS data_import_id,
         benchmark.key('client', w.tenant) AS client_account_id, benchmark.key('engagement', w.tenant) AS engagement_id,
         benchmark.key('master', w.tenant, w.source) AS master_flow_id, 'source ' || w.row_number AS source_field,
         'target ' || w.row_number AS target_field
    FROM benchmark.work AS w;

  CREATE TABLE benchmark.assets_of_the_past AS
  SELECT md5('asset ' || w.row_number)::uuid AS id, benchmark.key('client', w.tenant) AS client_account_id,
         benchmark.key('engagement', w.tenant) AS engagement_id,
         benchmark.key('master', w.tenant, w.source) AS master_flow_id, 'asset ' || w.row_number AS name,
         'server' AS asset_type, 'host' || w.row_number AS hostname,
         f.created_at + CASE WHEN (w.row_number / 7) % 2 = 0 THEN interval '20 seconds' ELSE interval '-20 seconds' END
           AS created_at
    FROM benchmark.work AS w
    JOIN migration.discovery_flows AS f ON f.id = benchmark.key('flow', w.tenant, w.source);

  CREATE TABLE benchmark.assets_of_the_present AS
  SELECT a.id, a.client_account_id, a.engagement_id, benchmark.key('master', w.tenant, 1) AS master_flow_id, a.name,
         a.asset_type, a.hostname
    FROM benchmark.work AS w
    JOIN benchmark.assets_of_the_past AS a ON a.id = md5('asset ' || w.row_number)::uuid;

  -- One transaction has one flow, so all rows of the session are of one tenant.
  CREATE TABLE benchmark.assets_of_a_session AS
  SELECT a.id, benchmark.key('client', 1) AS client_account_id, benchmark.key('engagement', 1) AS engagement_id,
         benchmark.key('master', 1, 1) AS master_flow_id, a.name, a.asset_type, a.hostname, a.created_at
    FROM benchmark.assets_of_the_past AS a;

  CREATE TABLE benchmark.data_imports AS
  SELECT md5('new import ' || w.row_number)::uuid AS id, benchmark.key('client', w.tenant) AS client_account_id,
         benchmark.key('engagement', w.tenant) AS engagement_id,
         benchmark.key('master', w.tenant, w.source) AS master_flow_id, 'import ' || w.row_number AS import_name,
         'csv' AS import_type
    FROM benchmark.work AS w;
END;
$load_rows$;
COMMENT ON FUNCTION benchmark.load_rows(integer, integer, integer) IS
  'Makes the rows that the benchmark inserts, each with its right link.';

-- The worst case for a ratio: tables of four columns, with no key, index or default beside those that a link needs.

CREATE TABLE benchmark.master (id uuid PRIMARY KEY, tenant uuid NOT NULL);
CREATE TABLE benchmark.source (
  id uuid PRIMARY KEY, tenant uuid NOT NULL, master_flow_id uuid, created_at timestamptz NOT NULL
);
CREATE TABLE benchmark.by_reference (
  id uuid PRIMARY KEY, tenant uuid NOT NULL, master_flow_id uuid, source_id uuid REFERENCES benchmark.source
);
CREATE TABLE benchmark.by_time (
  id uuid PRIMARY KEY, tenant uuid NOT NULL, master_flow_id uuid, created_at timestamptz NOT NULL
);
COMMENT ON TABLE benchmark.master IS 'Masters of the narrow tables.';
COMMENT ON TABLE benchmark.source IS 'What rows of the narrow tables take their link from.';
COMMENT ON TABLE benchmark.by_reference IS 'A narrow table with a reference.';
COMMENT ON TABLE benchmark.by_time IS 'A narrow table with a time.';

CREATE FUNCTION benchmark.load_narrow() RETURNS void
LANGUAGE plpgsql AS $load_narrow$
BEGIN
  INSERT INTO benchmark.master
  SELECT m.flow_id, m.client_account_id FROM migration.crewai_flow_state_extensions AS m;
  INSERT INTO benchmark.source
  SELECT f.id, f.client_account_id, f.master_flow_id, f.created_at FROM migration.discovery_flows AS f;
  CREATE TABLE benchmark.rows_by_reference AS
  SELECT r.id, r.client_account_id AS tenant, r.master_flow_id, benchmark.key('flow', w.tenant, w.source) AS source_id
    FROM benchmark.raw_import_records AS r JOIN benchmark.work AS w ON w.row_number = r.row_number;
  CREATE TABLE benchmark.rows_by_time AS
  SELECT a.id, a.client_account_id AS tenant, a.master_flow_id, a.created_at FROM benchmark.assets_of_the_past AS a;
END;
$load_narrow$;
COMMENT ON FUNCTION benchmark.load_narrow() IS 'Fills the narrow tables'' sources and makes rows for them.';

COMMIT;
