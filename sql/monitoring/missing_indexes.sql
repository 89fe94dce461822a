-- Which indexes and statistics of the guard are missing or not valid, so that writes and repairs are slow?
-- Reads the catalog only. What to do: the remedy, or pyflowguard guard, which builds them while applications write.

SELECT relation, name, description, detail, remedy
FROM flowguard.doctor()
WHERE name IN ('index_missing', 'index_invalid', 'statistics_missing')
ORDER BY relation, cache_key;
