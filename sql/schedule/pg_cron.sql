-- Takes a snapshot of health 17 minutes past each hour, by pg_cron, as the role that runs this: the owner of schema
-- flowguard, or one with flowguard_admin. Run it in the database in which pg_cron is installed; a second run changes
-- nothing. Another database is guarded? Name it: cron.schedule_in_database(…, database => 'app').
-- What came of it is in cron.job_run_details; SELECT cron.unschedule('flowguard snapshot') ends it.

SELECT cron.schedule('flowguard snapshot', '17 * * * *', 'SELECT flowguard.snapshot()');
