-- The report's two repair scripts, to measure a repair against. Load schema.sql and before.sql first; needs a database
-- that is not guarded. Read from the report's description; the originals were programs, these are functions:
--
--   SELECT * FROM report.run_scripts();                   -- clean-up, then links: the report's order
--   SELECT * FROM report.run_scripts(clean_up => false);  -- links only
--
-- On before.sql the first says that it linked 116 assets (there are 29) and gets 17 right; the second says 232, leaves
-- 28 dangling and gets none right.

BEGIN;

-- Removes every discovery flow whose link is no master's key, and returns how many. Whether it was an orphan or held
-- another key of a living master is not asked, and the row is lost.
CREATE FUNCTION report.delete_orphaned_flows()
RETURNS bigint
LANGUAGE plpgsql
AS $delete_orphaned_flows$
DECLARE
  v_deleted bigint;
BEGIN
  DELETE FROM migration.discovery_flows
  WHERE master_flow_id IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM migration.crewai_flow_state_extensions AS master
      WHERE master.flow_id = discovery_flows.master_flow_id
    );
  GET DIAGNOSTICS v_deleted = ROW_COUNT;
  RETURN v_deleted;
END;
$delete_orphaned_flows$;

COMMENT ON FUNCTION report.delete_orphaned_flows() IS 'The report''s clean-up: deletes dangling discovery flows.';

-- Joins every asset to every import and every linked flow of its tenant within the hour, and updates the asset once for
-- each pair, so that the last one stays. Returns the number of updates, which the script reports as assets linked.
--
-- The script names no order; it gets the one in which the rows lie in the table. A row lies where it was last
-- written, so ORDER BY updated_at is that order made explicit, and the result can be repeated.
CREATE FUNCTION report.link_assets()
RETURNS bigint
LANGUAGE plpgsql
AS $link_assets$
DECLARE
  r_pair record;
  v_said bigint := 0;
BEGIN
  FOR r_pair IN
    SELECT
      assets.id AS asset_id,
      coalesce(discovery_flows.master_flow_id, data_imports.master_flow_id) AS master_flow_id
    FROM migration.assets
    JOIN migration.data_imports
      ON data_imports.client_account_id = assets.client_account_id
      AND data_imports.engagement_id = assets.engagement_id
      AND data_imports.master_flow_id IS NOT NULL
      AND data_imports.created_at
        BETWEEN assets.created_at - interval '1 hour' AND assets.created_at + interval '1 hour'
    LEFT JOIN migration.discovery_flows
      ON discovery_flows.client_account_id = assets.client_account_id
      AND discovery_flows.engagement_id = assets.engagement_id
      AND discovery_flows.master_flow_id IS NOT NULL
      AND discovery_flows.created_at
        BETWEEN assets.created_at - interval '1 hour' AND assets.created_at + interval '1 hour'
    WHERE assets.master_flow_id IS NULL
    ORDER BY assets.created_at, assets.id, data_imports.updated_at, discovery_flows.updated_at
  LOOP
    UPDATE migration.assets
    SET master_flow_id = r_pair.master_flow_id
    WHERE id = r_pair.asset_id;
    v_said := v_said + 1;
  END LOOP;
  RETURN v_said;
END;
$link_assets$;

COMMENT ON FUNCTION report.link_assets() IS 'The report''s back-fill of assets: any import and flow within the hour.';

-- Returns the number of mappings linked. Nothing is wrong with the answer, only with the speed.
CREATE FUNCTION report.link_mappings()
RETURNS bigint
LANGUAGE plpgsql
AS $link_mappings$
DECLARE
  r_pair record;
  v_said bigint := 0;
BEGIN
  FOR r_pair IN
    SELECT import_field_mappings.id AS mapping_id, data_imports.master_flow_id
    FROM migration.import_field_mappings
    JOIN migration.data_imports ON data_imports.id = import_field_mappings.data_import_id
    WHERE import_field_mappings.master_flow_id IS NULL
      AND data_imports.master_flow_id IS NOT NULL
    ORDER BY import_field_mappings.created_at, import_field_mappings.id
  LOOP
    UPDATE migration.import_field_mappings
    SET master_flow_id = r_pair.master_flow_id
    WHERE id = r_pair.mapping_id;
    v_said := v_said + 1;
  END LOOP;
  RETURN v_said;
END;
$link_mappings$;

COMMENT ON FUNCTION report.link_mappings() IS 'The report''s back-fill of field mappings, through their import.';

-- How the links stand against the truth; also a measure for any other repair of this database.
CREATE FUNCTION report.score_links(
  OUT assets_linked bigint,
  OUT assets_dangling bigint,
  OUT assets_right bigint,
  OUT mappings_linked bigint,
  OUT mappings_right bigint
)
LANGUAGE sql
STABLE
AS $score_links$
  SELECT asset.linked, asset.dangling, asset.correct, mapping.linked, mapping.correct
  FROM (
    SELECT
      count(assets.master_flow_id) AS linked,
      count(assets.master_flow_id) FILTER (WHERE master.flow_id IS NULL) AS dangling,
      count(*) FILTER (WHERE assets.master_flow_id = truth.master_flow_id) AS correct
    FROM migration.assets
    JOIN report.true_asset_link AS truth ON truth.asset_id = assets.id
    LEFT JOIN migration.crewai_flow_state_extensions AS master ON master.flow_id = assets.master_flow_id
  ) AS asset
  CROSS JOIN (
    SELECT
      count(import_field_mappings.master_flow_id) AS linked,
      count(*) FILTER (WHERE import_field_mappings.master_flow_id = truth.master_flow_id) AS correct
    FROM migration.import_field_mappings
    JOIN report.true_mapping_link AS truth ON truth.mapping_id = import_field_mappings.id
  ) AS mapping;
$score_links$;

COMMENT ON FUNCTION report.score_links() IS 'Links of assets and field mappings against the true ones.';

-- Runs the scripts in the report's order, or the links alone, and returns what they say beside what is so.
CREATE FUNCTION report.run_scripts(
  clean_up boolean DEFAULT true,
  OUT flows_deleted bigint,
  OUT assets_said bigint,
  OUT assets_linked bigint,
  OUT assets_dangling bigint,
  OUT assets_right bigint,
  OUT mappings_said bigint,
  OUT mappings_right bigint
)
LANGUAGE plpgsql
AS $run_scripts$
BEGIN
  flows_deleted := CASE WHEN clean_up THEN report.delete_orphaned_flows() ELSE 0 END;
  assets_said := report.link_assets();
  mappings_said := report.link_mappings();
  SELECT score.assets_linked, score.assets_dangling, score.assets_right, score.mappings_right
  INTO assets_linked, assets_dangling, assets_right, mappings_right
  FROM report.score_links() AS score;
END;
$run_scripts$;

COMMENT ON FUNCTION report.run_scripts(boolean) IS 'The report''s scripts, run; what they say and what is so.';

COMMIT;
