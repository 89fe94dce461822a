-- Is all as it should be? The daily check: everything that is wrong with rows and with the guard, the worst first.
-- Reads the guarded tables, as pyflowguard check --doctor does, which lists the same and, beside it, what is not well
-- with the command itself. No row: all is well. What to do: the remedy.

SELECT level, name, relation, description, detail, remedy, cache_key
FROM (
  SELECT level, name, relation, description, detail, remedy, cache_key
  FROM flowguard.doctor()
  UNION ALL
  SELECT level, name, relation, description, detail, remedy, cache_key
  FROM flowguard.check_all()
  -- What doctor() tells object by object.
  WHERE name NOT IN ('guard_incomplete', 'key_not_validated', 'leftover', 'table_gone', 'column_gone')
) AS found
ORDER BY array_position('{ERROR,WARN,INFO}', level), relation, name, cache_key;
