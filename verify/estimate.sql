-- Verify pyflowguard:estimate on pg

BEGIN;

SELECT 'flowguard._may_be_null(regclass, name[])'::regprocedure;
SELECT 'flowguard._subscribed(regclass, regclass)'::regprocedure;
SELECT 'flowguard._key_gap(pg_constraint, name[])'::regprocedure;
SELECT 'flowguard._proof_gap(regclass, name[], regclass, name[], name[])'::regprocedure;
SELECT 'flowguard._proof(flowguard.link)'::regprocedure;
SELECT 'flowguard._leaves(regclass)'::regprocedure;
SELECT 'flowguard._table_size(regclass)'::regprocedure;
SELECT 'flowguard._has_null_index(regclass, name)'::regprocedure;
SELECT 'flowguard._count_null(regclass, name, bigint)'::regprocedure;
SELECT 'flowguard._estimate_null(regclass, name)'::regprocedure;
SELECT 'flowguard._counted_bytes()'::regprocedure;
SELECT 'flowguard._measure(bigint)'::regprocedure;
SELECT 'flowguard.link_estimate'::regclass;
SELECT 'flowguard.health_estimate'::regclass;
SELECT 'flowguard.category_estimate'::regclass;
SELECT 'flowguard.score_estimate()'::regprocedure;

-- What is new since 1.2.0 is within a function, too.
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._key_gap(pg_constraint, name[])'::regprocedure AND strpos(prosrc, '_subscribed') > 0;

ROLLBACK;
