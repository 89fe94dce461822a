-- The other 'before': the 11 wrong links are no orphans but hold the id of a living master of the same tenant, where
-- flow_id belongs. A repair that confused the two columns leaves exactly this behind. Load after before.sql.
--
-- Each of the 11 is one translation away from valid, and nothing else in the row leads to the master (flow_id still
-- names a lost one), so a repair has to translate all 11 and remove none.
-- Flow n gets the id of master n + 7: flows 10 to 15 are Alder's like masters 17 to 22, the others Birch's.

BEGIN;

-- No master has such a flow_id, so the key is put back NOT VALID here as well (see before.sql).
ALTER TABLE migration.discovery_flows DROP CONSTRAINT fk_discovery_flows_master_flow;

UPDATE migration.discovery_flows
SET master_flow_id = md5('master ' || n + 7 || ' id')::uuid
FROM generate_series(10, 20) AS n
WHERE discovery_flows.id = md5('discovery flow ' || n)::uuid;

ALTER TABLE migration.discovery_flows
  ADD CONSTRAINT fk_discovery_flows_master_flow FOREIGN KEY (master_flow_id)
  REFERENCES migration.crewai_flow_state_extensions (flow_id) ON DELETE CASCADE NOT VALID;

-- Once translated, these flows are targets like any other, and for 14 assets one of them is the right answer: by time,
-- or because the asset names it. Field mappings are as they were.
UPDATE report.true_asset_link
SET
  master_flow_id = md5('master ' || truth.master)::uuid,
  found_by = truth.found_by
FROM (
  VALUES
    (3, 17, 'nearest discovery flow'),
    (4, 17, 'nearest discovery flow'),
    (7, 18, 'nearest discovery flow'),
    (8, 17, 'discovery flow'),
    (11, 23, 'nearest discovery flow'),
    (12, 24, 'nearest discovery flow'),
    (14, 23, 'nearest discovery flow'),
    (19, 20, 'nearest discovery flow'),
    (20, 20, 'nearest discovery flow'),
    (21, 20, 'nearest discovery flow'),
    (23, 21, 'nearest discovery flow'),
    (25, 26, 'nearest discovery flow'),
    (26, 26, 'nearest discovery flow'),
    (27, 27, 'nearest discovery flow')
) AS truth (asset, master, found_by)
WHERE true_asset_link.asset_id = md5('asset ' || truth.asset)::uuid;

COMMIT;
