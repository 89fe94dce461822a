-- Which links are not complete, and how many of their rows are linked?
-- Reads the guarded tables. What to do: pyflowguard repair --dry-run shows which of the rows a repair would link, and
-- SELECT * FROM flowguard.violation says of each why it has no link.

SELECT relation, link_column, mode, total, linked, unlinked, dangling, mismatched, tenantless, coverage
FROM flowguard.link_status
WHERE linked < total
ORDER BY coverage, relation::text, link_column;
