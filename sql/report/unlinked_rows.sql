-- Which tables hold rows without a link to a master flow, and how many?
-- Run it as the tables' owner: under row security another role counts its own tenant, or nothing.

SELECT 'data_imports' AS table_name, count(*) FILTER (WHERE master_flow_id IS NULL) AS unlinked, count(*) AS total
FROM migration.data_imports
UNION ALL
SELECT 'raw_import_records', count(*) FILTER (WHERE master_flow_id IS NULL), count(*)
FROM migration.raw_import_records
UNION ALL
SELECT 'import_field_mappings', count(*) FILTER (WHERE master_flow_id IS NULL), count(*)
FROM migration.import_field_mappings
UNION ALL
SELECT 'discovery_flows', count(*) FILTER (WHERE master_flow_id IS NULL), count(*)
FROM migration.discovery_flows
UNION ALL
SELECT 'assets', count(*) FILTER (WHERE master_flow_id IS NULL), count(*)
FROM migration.assets
ORDER BY unlinked DESC, table_name;
