-- How far are the repairs that run now, and how long will they take?
-- What to do: nothing. Where time_left is NULL the pace is not known yet; where last_batch_at is old, something holds
-- the run up: a lock (pg_stat_activity), max_rate, or a standby that is behind max_lag.

SELECT
  run_id, relation, link_column, scanned, total, round(100.0 * scanned / nullif(total, 0), 1) AS percent, rate,
  time_left, last_batch_at
FROM flowguard.repair_progress
WHERE status = 'running'
ORDER BY run_id, started_at;
