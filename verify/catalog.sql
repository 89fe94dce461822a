-- Verify pyflowguard:catalog on pg

BEGIN;

SELECT 'flowguard._check_table(regclass)'::regprocedure;
SELECT 'flowguard._type_sql(oid, integer)'::regprocedure;
SELECT 'flowguard._column(regclass, name)'::regprocedure;
SELECT 'flowguard._nullable_type(regclass, name)'::regprocedure;
SELECT 'flowguard._is_not_null(regclass, name)'::regprocedure;
SELECT 'flowguard._equal(regclass, name)'::regprocedure;
SELECT 'flowguard._check_same_type(regclass, name, regclass, name)'::regprocedure;
SELECT 'flowguard._key_columns(oid)'::regprocedure;
SELECT 'flowguard._row_key(regclass)'::regprocedure;
SELECT 'flowguard._is_ours(name)'::regprocedure;
SELECT 'flowguard._find_index(regclass, name[], boolean, boolean)'::regprocedure;
SELECT 'flowguard._cut(text, integer)'::regprocedure;
SELECT 'flowguard._fit(text, integer)'::regprocedure;
SELECT 'flowguard._columns_sql(name[], text)'::regprocedure;
SELECT 'flowguard._unique_index_sql(regclass, name[])'::regprocedure;
SELECT 'flowguard._partition_family(regclass)'::regprocedure;
SELECT 'flowguard._goes_by_parts(regclass)'::regprocedure;
SELECT 'flowguard._loses_actions(regclass, integer)'::regprocedure;
SELECT 'flowguard._partition_columns(regclass)'::regprocedure;
SELECT 'flowguard._can_be_unique(regclass, name[])'::regprocedure;
SELECT 'flowguard._unique_hint(regclass, name[], name[], text)'::regprocedure;
SELECT 'flowguard._is_enforced(pg_constraint)'::regprocedure;
SELECT 'flowguard._serialize()'::regprocedure;

-- New since 1.2.0.
SELECT 1 / count(*) FROM pg_class WHERE oid = 'flowguard.last_change'::regclass AND relkind = 'S';
SELECT 1 / count(*) FROM pg_proc
 WHERE oid = 'flowguard._serialize()'::regprocedure AND prosecdef AND strpos(prosrc, '40001') > 0;

ROLLBACK;
