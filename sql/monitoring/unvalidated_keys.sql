-- Which foreign keys of the guard do not prove all rows, or none?
-- Reads the catalog only. What to do: the remedy. Where rows violate a key it stays NOT VALID, and binds new rows; a
-- repair comes first then.

SELECT relation, name, description, detail, remedy
FROM flowguard.doctor()
WHERE name IN ('key_not_validated', 'key_missing', 'key_changed', 'key_disabled', 'key_beside_ours')
ORDER BY relation, cache_key;
