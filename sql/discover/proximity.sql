-- What a proximity rule would do for unlinked rows that no reference reaches, `rows` of them at most: how many have a
-- row of the source, of their tenant and with a master, within the window; for how many of these rows of more than one
-- master lie in it; and how far the nearest is, in seconds: half of them, nine in ten, all.
--
-- unreached: no reference rule gives the row a master, and it waits for none.

WITH waiting AS MATERIALIZED (
  SELECT row_number() OVER () AS flowguard_row, c.*
    FROM {child} AS c {sample}
   WHERE c.{link} IS NULL AND isfinite(c.{time}) AND {unreached}
   LIMIT %(rows)s
), near AS (
  SELECT c.flowguard_row, m.{key} AS link, abs(extract(epoch FROM s.{source_time} - c.{time})) AS distance
    FROM waiting AS c
    JOIN {source} AS s ON {source_tenants} AND s.{source_link} IS NOT NULL AND isfinite(s.{source_time})
                      AND s.{source_time} >= c.{time} - %(within)s::interval
                      AND s.{source_time} <= c.{time} + %(within)s::interval
    JOIN {master} AS m ON m.{key} = s.{source_link} AND {tenants}
), nearest AS (
  SELECT n.flowguard_row, min(n.distance) AS distance, count(DISTINCT n.link) AS masters FROM near n GROUP BY 1
)
SELECT (SELECT count(*) FROM waiting) AS waiting, count(*) AS links, count(*) FILTER (WHERE n.masters > 1) AS ambiguous,
       (percentile_disc(0.5) WITHIN GROUP (ORDER BY n.distance))::double precision AS half,
       (percentile_disc(0.9) WITHIN GROUP (ORDER BY n.distance))::double precision AS most,
       max(n.distance)::double precision AS farthest
  FROM nearest n;
