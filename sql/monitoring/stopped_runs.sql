-- Which repairs ended before they were done, or are undone in part?
-- What to do: pyflowguard repair with the same table, condition and note, and with --count-candidates where it counted
-- them, goes on with a stopped one; one that is half undone goes on by pyflowguard undo RUN_ID.

SELECT run_id, status, relation, link_column, row_filter, note, count_candidates, started_by, started_at, linked,
       quarantined
FROM flowguard.run
WHERE status IN ('stopped', 'undoing')
ORDER BY run_id;
