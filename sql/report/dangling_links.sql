-- Which tables hold links to a master flow that does not exist, and how many?
-- A foreign key does not answer this: one may be missing, or NOT VALID.
-- Run it as the tables' owner: under row security another role counts its own tenant, or nothing.

WITH link AS (
  SELECT 'data_imports' AS table_name, master_flow_id FROM migration.data_imports
  UNION ALL
  SELECT 'raw_import_records', master_flow_id FROM migration.raw_import_records
  UNION ALL
  SELECT 'import_field_mappings', master_flow_id FROM migration.import_field_mappings
  UNION ALL
  SELECT 'discovery_flows', master_flow_id FROM migration.discovery_flows
  UNION ALL
  SELECT 'assets', master_flow_id FROM migration.assets
)
SELECT
  link.table_name,
  count(link.master_flow_id) FILTER (WHERE master.flow_id IS NULL) AS dangling,
  count(link.master_flow_id) AS linked_or_dangling
FROM link
LEFT JOIN migration.crewai_flow_state_extensions AS master ON master.flow_id = link.master_flow_id
GROUP BY link.table_name
ORDER BY dangling DESC, link.table_name;
