-- Revert pyflowguard:estimate from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard.score_estimate();
DROP VIEW IF EXISTS flowguard.category_estimate;
DROP VIEW IF EXISTS flowguard.health_estimate;
DROP VIEW IF EXISTS flowguard.link_estimate;
DROP FUNCTION IF EXISTS flowguard._measure(bigint);
DROP FUNCTION IF EXISTS flowguard._counted_bytes();
DROP FUNCTION IF EXISTS flowguard._estimate_null(regclass, name);
DROP FUNCTION IF EXISTS flowguard._count_null(regclass, name, bigint);
DROP FUNCTION IF EXISTS flowguard._has_null_index(regclass, name);
DROP FUNCTION IF EXISTS flowguard._table_size(regclass);
DROP FUNCTION IF EXISTS flowguard._leaves(regclass);
DROP FUNCTION IF EXISTS flowguard._proof(flowguard.link);
DROP FUNCTION IF EXISTS flowguard._proof_gap(regclass, name[], regclass, name[], name[]);
DROP FUNCTION IF EXISTS flowguard._key_gap(pg_constraint, name[]);
DROP FUNCTION IF EXISTS flowguard._may_be_null(regclass, name[]);

COMMIT;
