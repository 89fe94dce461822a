-- Verify pyflowguard:preview on pg

BEGIN;

SELECT 'flowguard._finds(flowguard.link, flowguard.rule, jsonb)'::regprocedure;
SELECT 'flowguard._ask(text, text)'::regprocedure;
SELECT 'flowguard._buckets(interval, interval[])'::regprocedure;
SELECT 'flowguard._outside(flowguard.link, flowguard.rule, text, text)'::regprocedure;
SELECT 'flowguard._preview_link(bigint, flowguard.link, text, integer, text)'::regprocedure;
SELECT 'flowguard._preview_followed(bigint, integer)'::regprocedure;
SELECT 'flowguard.preview(regclass, name, text, integer, boolean)'::regprocedure;
SELECT 'flowguard._read_key(regclass, jsonb)'::regprocedure;
SELECT 'flowguard._in_ledger(regclass, text)'::regprocedure;
SELECT 'flowguard._explain_rules(flowguard.link, jsonb, text)'::regprocedure;
SELECT 'flowguard._explain_remedy(flowguard.link, jsonb, text, boolean)'::regprocedure;
SELECT 'flowguard.explain(regclass, jsonb, name)'::regprocedure;
SELECT 'flowguard._kept(flowguard.link, jsonb)'::regprocedure;

ROLLBACK;
