-- Which triggers and functions of the guard are disabled, missing or changed, and which guards are paused, so that rows
-- are not filled or checked?
-- Reads the catalog only. What to do: the remedy; then pyflowguard check, which counts what was written meanwhile.

SELECT relation, name, description, detail, remedy
FROM flowguard.doctor()
WHERE name LIKE 'trigger%' OR name LIKE 'function%' OR name IN ('view_changed', 'setting_bypasses')
UNION ALL
SELECT relation, 'paused', 'the guard is paused', NULL, format('SELECT flowguard.resume(%L, %L)', relation, link_column)
FROM (
  SELECT format('%I.%I', n.nspname, c.relname) AS relation, l.link_column
  FROM flowguard.link AS l
  JOIN pg_class AS c ON c.oid = l.relation
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE l.paused
) AS paused
ORDER BY relation, name, description;
