-- Which tables have a column that looks like a registered link and is none?
-- Reads the catalog only. What to do: register it by the remedy, add rules, and guard it; or let an ignore file of
-- pyflowguard doctor name it.

SELECT relation, description, remedy
FROM flowguard.doctor()
WHERE name = 'unguarded_column'
ORDER BY relation, cache_key;
