-- Which rows are held in quarantine, since when and by which run?
-- What to do: SELECT * FROM flowguard.undo(run_id) puts all that a run did back, once what it lacked is there. Rows
-- that are not wanted any more: copy them away, then DELETE FROM flowguard.quarantined_row.

SELECT
  run_id, schema_name, table_name, link_column, action, count(*) AS held, min(quarantined_at) AS since,
  min(reason) AS for_example
FROM flowguard.quarantine
GROUP BY run_id, schema_name, table_name, link_column, action
ORDER BY since, run_id, schema_name, table_name, link_column, action;
