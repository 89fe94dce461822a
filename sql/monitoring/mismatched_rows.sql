-- Which rows are linked to a master of another tenant, disagree with the row that they refer to, or do not know their
-- tenant?
-- Reads the guarded tables. What to do: a repair leaves these alone, for the link may be right and the tenant or the
-- reference wrong. Correct whichever it is; SELECT * FROM flowguard.explain(relation, row_key, link_column) says more.

SELECT relation, link_column, row_key, kind, reason, seen_at
FROM flowguard.violation
WHERE kind IN ('mismatched', 'tenantless')
ORDER BY relation::text, link_column, row_key;
