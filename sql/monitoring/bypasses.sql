-- Who let transactions past the guard in the last seven days, and why?
-- What to do: ask for the reason if the one given is none. What the transactions wrote and is wrong is in
-- flowguard.violation; a repair links it.

SELECT started_at, done_by, reason
FROM flowguard.privileged_transaction
WHERE kind = 'bypass' AND started_at > now() - INTERVAL '7 days'
ORDER BY started_at DESC;
