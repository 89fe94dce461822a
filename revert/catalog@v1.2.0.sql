-- Revert pyflowguard:catalog from pg

BEGIN;

DROP FUNCTION IF EXISTS flowguard._serialize();
DROP FUNCTION IF EXISTS flowguard._unique_hint(regclass, name[], name[], text);
DROP FUNCTION IF EXISTS flowguard._can_be_unique(regclass, name[]);
DROP FUNCTION IF EXISTS flowguard._partition_columns(regclass);
DROP FUNCTION IF EXISTS flowguard._loses_actions(regclass, integer);
DROP FUNCTION IF EXISTS flowguard._goes_by_parts(regclass);
DROP FUNCTION IF EXISTS flowguard._partition_family(regclass);
DROP FUNCTION IF EXISTS flowguard._unique_index_sql(regclass, name[]);
DROP FUNCTION IF EXISTS flowguard._is_enforced(pg_constraint);
DROP FUNCTION IF EXISTS flowguard._columns_sql(name[], text);
DROP FUNCTION IF EXISTS flowguard._fit(text, integer);
DROP FUNCTION IF EXISTS flowguard._cut(text, integer);
DROP FUNCTION IF EXISTS flowguard._find_index(regclass, name[], boolean, boolean);
DROP FUNCTION IF EXISTS flowguard._is_ours(name);
DROP FUNCTION IF EXISTS flowguard._row_key(regclass);
DROP FUNCTION IF EXISTS flowguard._key_columns(oid);
DROP FUNCTION IF EXISTS flowguard._check_same_type(regclass, name, regclass, name);
DROP FUNCTION IF EXISTS flowguard._equal(regclass, name);
DROP FUNCTION IF EXISTS flowguard._nullable_type(regclass, name);
DROP FUNCTION IF EXISTS flowguard._is_not_null(regclass, name);
DROP FUNCTION IF EXISTS flowguard._column(regclass, name);
DROP FUNCTION IF EXISTS flowguard._type_sql(oid, integer);
DROP FUNCTION IF EXISTS flowguard._check_table(regclass);

COMMIT;
