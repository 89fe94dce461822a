-- Which rows have no link, and why has none of the rules found one?
-- Reads the guarded tables. What to do: pyflowguard repair --dry-run shows which of them a repair would link. Others
-- wait for what their reason names; set the link by hand where the right master is known.

SELECT relation, link_column, row_key, kind, reason, seen_at
FROM flowguard.violation
WHERE kind IN ('unlinked', 'ambiguous')
ORDER BY relation::text, link_column, row_key;
