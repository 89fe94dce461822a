-- Revert pyflowguard:history from pg
-- The snapshots go with it.

BEGIN;

DROP VIEW IF EXISTS flowguard.link_history;
DROP VIEW IF EXISTS flowguard.health_history;
DROP FUNCTION IF EXISTS flowguard.snapshot(boolean, interval);
DROP FUNCTION IF EXISTS flowguard._gauge(boolean);
DROP FUNCTION IF EXISTS flowguard._note_unlinked(flowguard.link, bigint);
DROP FUNCTION IF EXISTS flowguard._unlinked_rows(flowguard.link, bigint);
DROP TABLE IF EXISTS flowguard.health_snapshot_category;
DROP TABLE IF EXISTS flowguard.health_snapshot_link;
DROP TABLE IF EXISTS flowguard.health_snapshot;

COMMIT;
