-- Verify pyflowguard:history on pg

BEGIN;

SELECT 'flowguard.health_snapshot'::regclass;
SELECT 'flowguard.health_snapshot_link'::regclass;
SELECT 'flowguard.health_snapshot_category'::regclass;
SELECT 'flowguard._unlinked_rows(flowguard.link, bigint)'::regprocedure;
SELECT 'flowguard._note_unlinked(flowguard.link, bigint)'::regprocedure;
SELECT 'flowguard._gauge(boolean)'::regprocedure;
SELECT 'flowguard.snapshot(boolean, interval)'::regprocedure;
SELECT 'flowguard.health_history'::regclass;
SELECT 'flowguard.link_history'::regclass;

ROLLBACK;
