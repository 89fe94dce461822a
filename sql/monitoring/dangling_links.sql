-- Which rows hold a link that is no key of a master?
-- Reads the guarded tables. What to do: pyflowguard repair --dry-run shows what a repair would do with them: link anew,
-- translate an alternate key to the master's key, or what on_orphan of the link says, which undo() puts back.

SELECT relation, link_column, row_key, kind, reason, seen_at
FROM flowguard.violation
WHERE kind = 'dangling'
ORDER BY relation::text, link_column, row_key;
