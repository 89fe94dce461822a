-- Deploy pyflowguard:catalog to pg
-- What the other functions ask PostgreSQL's catalog, and the names they give to what they make. Since 1.3.0 a change
-- that another one overtook is refused.
-- What is called often is PL/pgSQL: before 18 PostgreSQL plans an SQL function anew in each query that calls it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._check_table(p_relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_table$
-- Raises FG101 unless the relation is an ordinary or a partitioned table.
DECLARE
  v_kind "char";
BEGIN
  SELECT relkind INTO v_kind FROM pg_class WHERE oid = p_relation;
  IF p_relation IS NULL OR v_kind IS NULL OR v_kind NOT IN ('r', 'p') THEN
    RAISE EXCEPTION 'flowguard: % is not a table', coalesce(p_relation::text, 'NULL')
      USING ERRCODE = 'FG101',
            DETAIL = CASE v_kind
                       WHEN 'v' THEN 'It is a view.'
                       WHEN 'm' THEN 'It is a materialized view.'
                       WHEN 'f' THEN 'It is a foreign table.'
                       ELSE 'Links, masters and sources are ordinary or partitioned tables.'
                     END,
            HINT = 'Name the table that holds the rows.';
  ELSIF v_kind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = p_relation) THEN
    RAISE EXCEPTION 'flowguard: table % has children by inheritance', p_relation
      USING ERRCODE = 'FG101', DETAIL = 'Neither foreign keys nor triggers of a table hold for rows of its children.',
            HINT = 'Name the children, which can be guarded each, or make it a partitioned table.';
  ELSIF EXISTS (SELECT FROM pg_partition_tree(p_relation) t
                  JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'f') THEN
    RAISE EXCEPTION 'flowguard: table % has a partition that is a foreign table', p_relation
      USING ERRCODE = 'FG101', DETAIL = 'Neither foreign keys nor unique indexes hold for its rows.',
            HINT = 'Detach it, or name a table whose partitions are all of this database.';
  ELSIF (SELECT relpersistence FROM pg_class WHERE oid = p_relation) = 't' THEN
    RAISE EXCEPTION 'flowguard: table % is temporary', p_relation
      USING ERRCODE = 'FG101', DETAIL = 'It is gone at the end of the session.', HINT = 'Name a table that stays.';
  END IF;
END;
$_check_table$;
COMMENT ON FUNCTION flowguard._check_table(regclass) IS 'Raises FG101 unless the relation is a table.';

CREATE OR REPLACE FUNCTION flowguard._type_sql(p_type oid, p_modifier integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_type_sql$
-- A type's name that no search_path can give another meaning. Those that the grammar itself knows need no schema.
BEGIN
  RETURN (SELECT CASE
                   WHEN t.typnamespace <> 'pg_catalog'::regnamespace
                        OR f.name ~ ('^(bit|boolean|character|numeric|double precision|integer|bigint|smallint|real'
                                     '|interval|time|timestamp)($|[^a-z])')
                   THEN f.name
                   ELSE 'pg_catalog.' || f.name
                 END
            FROM pg_type t
           CROSS JOIN LATERAL format_type(p_type, p_modifier) AS f (name)
           WHERE t.oid = p_type);
END;
$_type_sql$;
COMMENT ON FUNCTION flowguard._type_sql(oid, integer) IS 'The name of a type for SQL text, safe under any search_path.';

CREATE OR REPLACE FUNCTION flowguard._is_not_null(p_relation regclass, p_column name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_not_null$
-- Declared, by a domain perhaps, and, from PostgreSQL 18 on, validated. Raises FG102 where there is no such column.
DECLARE
  v_not_null boolean;
BEGIN
  SELECT a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n
                                       WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]
                                         AND NOT n.convalidated)
         OR (t.typtype = 'd' AND t.typnotnull)
    INTO v_not_null
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
   WHERE a.attrelid = p_relation AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: table % has no column %', p_relation, coalesce(quote_ident(p_column), 'NULL')
      USING ERRCODE = 'FG102',
            DETAIL = format('Its columns are: %s.',
                            (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
                               FROM pg_attribute
                              WHERE attrelid = p_relation AND attnum > 0 AND NOT attisdropped)),
            HINT = 'Pass the name of a column that the table has; nothing was changed.';
  END IF;
  RETURN v_not_null;
END;
$_is_not_null$;
COMMENT ON FUNCTION flowguard._is_not_null(regclass, name) IS 'Whether a column is declared NOT NULL; raises FG102.';

CREATE OR REPLACE FUNCTION flowguard._column(
  p_relation regclass, p_column name,
  OUT type oid, OUT type_name text, OUT type_sql text, OUT not_null boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_column$
-- Type (a domain's base type), its name, and whether it is NOT NULL. Raises FG102 where there is no such column.
DECLARE
  v_kind "char";
BEGIN
  not_null := flowguard._is_not_null(p_relation, p_column);
  SELECT a.atttypid, t.typtype, format_type(a.atttypid, a.atttypmod), flowguard._type_sql(a.atttypid, a.atttypmod)
    INTO type, v_kind, type_name, type_sql
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
   WHERE a.attrelid = p_relation AND a.attname = p_column;
  WHILE v_kind = 'd' LOOP
    SELECT b.oid, b.typtype INTO type, v_kind
      FROM pg_type d
      JOIN pg_type b ON b.oid = d.typbasetype
     WHERE d.oid = type;
  END LOOP;
END;
$_column$;
COMMENT ON FUNCTION flowguard._column(regclass, name) IS
  'Base type, type name and NOT NULL of a column; raises FG102 where there is none.';

CREATE OR REPLACE FUNCTION flowguard._nullable_type(p_relation regclass, p_column name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_nullable_type$
-- A domain may forbid NULL: there it is the base type, without a length, for that of char(n) is 1 where none is given.
BEGIN
  RETURN (SELECT CASE WHEN t.typtype = 'd' THEN (SELECT format('%I.%I', n.nspname, b.typname)
                                                   FROM pg_type b JOIN pg_namespace n ON n.oid = b.typnamespace
                                                  WHERE b.oid = c.type)
                      ELSE c.type_sql END
            FROM flowguard._column(p_relation, p_column) c
            JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = p_column
            JOIN pg_type t ON t.oid = a.atttypid);
END;
$_nullable_type$;
COMMENT ON FUNCTION flowguard._nullable_type(regclass, name) IS
  'The type, for SQL text, of what holds a column''s value or NULL: a domain''s base type.';

CREATE OR REPLACE FUNCTION flowguard._equal(p_relation regclass, p_column name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_equal$
-- The column's own equality operator, qualified: that of its type's default btree operator class.
-- Raises FG103 for a type without one (json, point).
DECLARE
  v_type     oid := (SELECT a.atttypid FROM pg_attribute a
                      WHERE a.attrelid = p_relation AND a.attname = p_column AND a.attnum > 0);
  v_operator text;
BEGIN
  -- Told at once of the types that keys and times have, as a rule.
  IF v_type = ANY ('{uuid,bigint,integer,text,timestamptz}'::regtype[]) THEN
    RETURN 'OPERATOR(pg_catalog.=)';
  END IF;
  v_type := (flowguard._column(p_relation, p_column)).type;
  SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
    INTO v_operator
    FROM pg_opclass c
    JOIN pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree'
    JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
                  AND a.amopstrategy = 3
    JOIN pg_operator o ON o.oid = a.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace
   WHERE c.opcdefault
     AND c.opcintype = CASE
                         WHEN v_type = 'varchar'::regtype THEN 'text'::regtype::oid
                         WHEN EXISTS (SELECT FROM pg_type WHERE oid = v_type AND typtype = 'e')
                           THEN 'anyenum'::regtype::oid
                         ELSE v_type
                       END;
  IF v_operator IS NULL THEN
    RAISE EXCEPTION 'flowguard: column % of table % cannot be compared', quote_ident(p_column), p_relation
      USING ERRCODE = 'FG103',
            DETAIL = format('Type %s has no default btree operator class.', format_type(v_type, NULL)),
            HINT = 'Use a column of a type that can be a key, such as uuid, bigint or text.';
  END IF;
  RETURN v_operator;
END;
$_equal$;
COMMENT ON FUNCTION flowguard._equal(regclass, name) IS
  'The qualified equality operator of a column; raises FG103 where its type has none.';

CREATE OR REPLACE FUNCTION flowguard._check_same_type(
  p_left regclass, p_left_column name, p_right regclass, p_right_column name
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_same_type$
-- Raises FG103 unless the two columns have one type (domains count as their base type) and can be compared: of two
-- collations that were both chosen, PostgreSQL does not know which to take.
DECLARE
  r_left      record;
  r_right     record;
  v_collation regcollation[];
BEGIN
  r_left := flowguard._column(p_left, p_left_column);
  r_right := flowguard._column(p_right, p_right_column);
  IF r_left.type <> r_right.type THEN
    RAISE EXCEPTION 'flowguard: %.% is of type %, but %.% is of type %',
                    p_left, quote_ident(p_left_column), r_left.type_name,
                    p_right, quote_ident(p_right_column), r_right.type_name
      USING ERRCODE = 'FG103',
            DETAIL = 'A column and what it is compared with must have the same type.',
            HINT = format('Name the right column, or run "ALTER TABLE %s ALTER COLUMN %I TYPE %s USING …".',
                          p_left, p_left_column, r_right.type_name);
  END IF;
  v_collation := ARRAY(
    SELECT a.attcollation FROM unnest(ARRAY[p_left, p_right], ARRAY[p_left_column, p_right_column])
             WITH ORDINALITY AS c (relation, name, n)
      JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = c.name ORDER BY c.n);
  IF v_collation[1] <> v_collation[2] AND 'pg_catalog."default"'::regcollation <> ALL (v_collation) THEN
    RAISE EXCEPTION 'flowguard: %.% has collation %, but %.% has collation %',
                    p_left, quote_ident(p_left_column), v_collation[1],
                    p_right, quote_ident(p_right_column), v_collation[2]
      USING ERRCODE = 'FG103',
            DETAIL = 'A column and what it is compared with must have the same collation, or one of them the default.',
            HINT = format('Run "ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE %s".',
                          p_left, p_left_column, r_left.type_name, v_collation[2]);
  END IF;
END;
$_check_same_type$;
COMMENT ON FUNCTION flowguard._check_same_type(regclass, name, regclass, name) IS
  'Raises FG103 unless two columns have one type and collations that can be compared.';

CREATE OR REPLACE FUNCTION flowguard._key_columns(p_index oid) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_key_columns$
BEGIN
  RETURN (SELECT array_agg(a.attname ORDER BY k.ordinality)
            FROM pg_index i
           CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, ordinality)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
           WHERE i.indexrelid = p_index);
END;
$_key_columns$;
COMMENT ON FUNCTION flowguard._key_columns(oid) IS 'The key columns of an index, in its order.';

CREATE OR REPLACE FUNCTION flowguard._row_key(p_relation regclass) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_row_key$
-- The columns that name a row: the primary key, else the narrowest unique key of NOT NULL columns. Raises FG105
-- without one.
DECLARE
  v_columns name[];
BEGIN
  SELECT flowguard._key_columns(x.indexrelid)
    INTO v_columns
    FROM (SELECT i.indexrelid
            FROM pg_index i
           WHERE i.indrelid = p_relation AND i.indisunique AND i.indisvalid AND i.indimmediate
             AND i.indpred IS NULL AND i.indexprs IS NULL
             AND NOT EXISTS (SELECT FROM pg_attribute a
                              WHERE a.attrelid = i.indrelid AND NOT a.attnotnull
                                AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
           ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
           LIMIT 1) AS x;
  IF v_columns IS NULL THEN
    RAISE EXCEPTION 'flowguard: table % has neither a primary key nor a unique key of NOT NULL columns', p_relation
      USING ERRCODE = 'FG105',
            DETAIL = 'Without one a row cannot be named, repaired or put back.',
            HINT = format('Run "ALTER TABLE %s ADD PRIMARY KEY (…)" first.', p_relation);
  END IF;
  RETURN v_columns;
END;
$_row_key$;
COMMENT ON FUNCTION flowguard._row_key(regclass) IS
  'Columns of the primary key, else of a unique NOT NULL key; raises FG105 where there is none.';

CREATE OR REPLACE FUNCTION flowguard._is_ours(p_name name) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_is_ours$
BEGIN
  RETURN starts_with(p_name::text, 'flowguard_') OR starts_with(p_name::text, '~flowguard_');
END;
$_is_ours$;
COMMENT ON FUNCTION flowguard._is_ours(name) IS
  'Whether a constraint, index or trigger of an application table was made by PyFlowGuard, told by its name.';

CREATE OR REPLACE FUNCTION flowguard._find_index(
  p_relation regclass, p_columns name[], p_unique boolean, p_ours boolean
) RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_find_index$
-- A valid, whole index that serves: unique on exactly these columns in any order, or led by them in any order.
BEGIN
  RETURN (SELECT i.indexrelid::regclass
            FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_am am ON am.oid = c.relam
           CROSS JOIN LATERAL flowguard._key_columns(i.indexrelid) AS k (columns)
           WHERE i.indrelid = p_relation AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
             AND CASE
                   WHEN p_unique THEN i.indisunique AND i.indimmediate AND i.indnkeyatts = cardinality(p_columns)
                                      AND k.columns @> p_columns
                   ELSE am.amname = 'btree' AND k.columns[1:cardinality(p_columns)] @> p_columns
                 END
             AND flowguard._is_ours(c.relname) = p_ours
           ORDER BY i.indnkeyatts, i.indexrelid
           LIMIT 1);
END;
$_find_index$;
COMMENT ON FUNCTION flowguard._find_index(regclass, name[], boolean, boolean) IS
  'An index on the columns, unique or not, made by us or by the application; NULL where there is none.';

CREATE OR REPLACE FUNCTION flowguard._cut(p_text text, p_bytes integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_cut$
-- The longest beginning of the text that fits into so many bytes, whole characters only.
  SELECT coalesce(max(left(p_text, n)), '')
    FROM generate_series(0, least(length(p_text), p_bytes)) AS n
   WHERE octet_length(left(p_text, n)) <= p_bytes
     AND n = (SELECT max(m) FROM generate_series(0, least(length(p_text), p_bytes)) AS m
               WHERE octet_length(left(p_text, m)) <= p_bytes);
$_cut$;
COMMENT ON FUNCTION flowguard._cut(text, integer) IS 'The longest beginning of a text that fits into so many bytes.';

CREATE OR REPLACE FUNCTION flowguard._fit(p_name text, p_bytes integer DEFAULT 63) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_fit$
-- A name that fits; a longer one is cut and told apart by a hash of the whole.
  SELECT CASE
           WHEN octet_length(p_name) <= p_bytes THEN p_name
           ELSE flowguard._cut(p_name, p_bytes - 9) || '_' || left(md5(p_name), 8)
         END;
$_fit$;
COMMENT ON FUNCTION flowguard._fit(text, integer) IS
  'The name itself where it fits into so many bytes, else its beginning and a hash of the whole.';

CREATE OR REPLACE FUNCTION flowguard._columns_sql(p_columns name[], p_prefix text DEFAULT '') RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_columns_sql$
BEGIN
  RETURN (SELECT string_agg(p_prefix || quote_ident(c.name), ', ' ORDER BY c.ordinality)
            FROM unnest(p_columns) WITH ORDINALITY AS c (name, ordinality)
           WHERE c.name IS NOT NULL);
END;
$_columns_sql$;
COMMENT ON FUNCTION flowguard._columns_sql(name[], text) IS
  'A list of quoted columns for SQL text; NULL elements are left out.';

CREATE OR REPLACE FUNCTION flowguard._unique_index_sql(p_relation regclass, p_columns name[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_unique_index_sql$
-- For a HINT. A partitioned table cannot have an index built concurrently.
  SELECT format('CREATE UNIQUE INDEX %sON %s (%s)', CASE WHEN c.relkind = 'p' THEN '' ELSE 'CONCURRENTLY ' END,
                p_relation, flowguard._columns_sql(p_columns))
    FROM pg_class c WHERE c.oid = p_relation;
$_unique_index_sql$;
COMMENT ON FUNCTION flowguard._unique_index_sql(regclass, name[]) IS
  'The statement that makes columns unique, for a HINT.';

CREATE OR REPLACE FUNCTION flowguard._partition_family(p_relation regclass) RETURNS regclass[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_partition_family$
-- Where a row of the table may be said to be, in foreign keys and in the ledger.
  SELECT array_agg(f.relation)
    FROM (SELECT p_relation AS relation
          UNION SELECT t.relid FROM pg_partition_tree(p_relation) t
          UNION SELECT a.relid FROM pg_partition_ancestors(p_relation) a) AS f;
$_partition_family$;
COMMENT ON FUNCTION flowguard._partition_family(regclass) IS
  'A table, its partitions, and the tables that it is a partition of.';

CREATE OR REPLACE FUNCTION flowguard._goes_by_parts(p_relation regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_goes_by_parts$
-- Before 18 a partitioned table takes no foreign key that is NOT VALID. Each partition does; the key of the whole then
-- takes over those that are the same and validated, and reads no row.
  SELECT relkind = 'p' AND current_setting('server_version_num')::integer < 180000 FROM pg_class WHERE oid = p_relation;
$_goes_by_parts$;
COMMENT ON FUNCTION flowguard._goes_by_parts(regclass) IS
  'Whether keys of a table are added and validated partition by partition.';

CREATE OR REPLACE FUNCTION flowguard._loses_actions(
  p_target regclass, p_release integer DEFAULT current_setting('server_version_num')::integer
) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_loses_actions$
-- Releases before 14.14, 15.9, 16.5 and 17.1 then drop the triggers that act when a row is deleted from p_target.
  SELECT relkind = 'p' AND p_release % 10000 < CASE p_release / 10000 WHEN 14 THEN 14 WHEN 15 THEN 9 WHEN 16 THEN 5
                                                                     WHEN 17 THEN 1 ELSE 0 END
    FROM pg_class WHERE oid = p_target;
$_loses_actions$;
COMMENT ON FUNCTION flowguard._loses_actions(regclass, integer) IS
  'Whether a release loses the ON DELETE of keys to a table when keys of partitions become one of the whole.';

CREATE OR REPLACE FUNCTION flowguard._partition_columns(p_relation regclass) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_partition_columns$
-- NULL among them stands for an expression.
  SELECT coalesce(array_agg(DISTINCT a.attname ORDER BY a.attname), '{}')
    FROM pg_partition_tree(p_relation) t
    JOIN pg_partitioned_table p ON p.partrelid = t.relid
   CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k (attnum)
    LEFT JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum = k.attnum;
$_partition_columns$;
COMMENT ON FUNCTION flowguard._partition_columns(regclass) IS
  'The columns that a table and its partitions are partitioned by; none for any other table.';

CREATE OR REPLACE FUNCTION flowguard._can_be_unique(p_relation regclass, p_columns name[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_can_be_unique$
  SELECT flowguard._partition_columns(p_relation) <@ p_columns;
$_can_be_unique$;
COMMENT ON FUNCTION flowguard._can_be_unique(regclass, name[]) IS
  'Whether a table can have a unique index on columns: on a partitioned one it holds all that it is partitioned by.';

CREATE OR REPLACE FUNCTION flowguard._unique_hint(p_relation regclass, p_columns name[], p_or name[], p_more text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_unique_hint$
-- What makes columns unique, those of the first list that a table can have so, or why none can be.
  SELECT coalesce(
    (SELECT format('Run "%s" first%s', flowguard._unique_index_sql(p_relation, c.columns), p_more)
       FROM (VALUES (1, p_columns), (2, p_or)) AS c (n, columns)
      WHERE flowguard._can_be_unique(p_relation, c.columns)
      ORDER BY c.n LIMIT 1),
    format('No unique index can make it so while %s is partitioned by %s: partition it by columns of (%s), or not at '
           'all.', p_relation, coalesce(flowguard._columns_sql(flowguard._partition_columns(p_relation)),
                                        'an expression'), flowguard._columns_sql(p_or)));
$_unique_hint$;
COMMENT ON FUNCTION flowguard._unique_hint(regclass, name[], name[], text) IS
  'How to make columns unique, for a HINT.';

CREATE OR REPLACE FUNCTION flowguard._is_enforced(p_constraint pg_constraint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_enforced$
-- PostgreSQL 18 knows constraints that are written down and not checked; before, there is no such column.
BEGIN
  RETURN coalesce((to_jsonb(p_constraint) ->> 'conenforced')::boolean, true);
END;
$_is_enforced$;
COMMENT ON FUNCTION flowguard._is_enforced(pg_constraint) IS 'Whether a constraint is checked at all.';

-- A sequence, not a table: what is written there is seen at once, by whatever snapshot, and is not taken back.
-- A transaction that was refused is written down as well, with is_called false.
CREATE SEQUENCE IF NOT EXISTS flowguard.last_change;
COMMENT ON SEQUENCE flowguard.last_change IS
  'The transaction that last changed the registry or generated objects, or was refused to. Written by _serialize().';
REVOKE ALL ON SEQUENCE flowguard.last_change FROM PUBLIC;

-- _serialize() runs as who made it first, and another one may upgrade.
DO $owner$
DECLARE
  v_owner oid := (SELECT p.proowner FROM pg_proc p WHERE p.oid = to_regprocedure('flowguard._serialize()'));
BEGIN
  IF v_owner <> (SELECT c.relowner FROM pg_class c WHERE c.oid = 'flowguard.last_change'::regclass) THEN
    EXECUTE format('ALTER SEQUENCE flowguard.last_change OWNER TO %I', pg_get_userbyid(v_owner));
  END IF;
END;
$owner$;

CREATE OR REPLACE FUNCTION flowguard._serialize() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $_serialize$
-- At one snapshot for the whole transaction, that of whoever waited for another, or began before it, shows the registry
-- as it was before. One look at the last one is enough: who comes after it was behind all that came before it.
-- Whoever was refused is refused again in the same transaction, also where it went back to a savepoint. Its number is
-- written before, so that a new transaction goes through even where a dump brought a number of another server.
-- SECURITY DEFINER: whoever may call what calls this has no rights on the sequence.
DECLARE
  v_own          bigint;
  v_last         bigint;
  v_had_it       boolean;
  v_is_overtaken boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('flowguard registry', 0));
  IF current_setting('transaction_read_only')::boolean THEN
    RETURN;  -- it changes nothing
  END IF;
  v_own := pg_current_xact_id()::text::bigint;
  SELECT s.last_value, s.is_called INTO v_last, v_had_it FROM flowguard.last_change s;
  v_is_overtaken := current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
                    AND NOT CASE v_last WHEN v_own THEN v_had_it
                              ELSE pg_visible_in_snapshot(v_last::text::xid8, pg_current_snapshot()) END;
  PERFORM setval('flowguard.last_change', v_own, NOT v_is_overtaken);
  IF v_is_overtaken THEN
    RAISE EXCEPTION 'flowguard: another transaction has changed what is registered or guarded since this one began'
      USING ERRCODE = '40001',
            DETAIL = format('This one is %s and does not see that change.',
                            upper(current_setting('transaction_isolation'))),
            HINT = 'Try the transaction again, or at READ COMMITTED.';
  END IF;
END;
$_serialize$;
COMMENT ON FUNCTION flowguard._serialize() IS
  'One change of the registry or of generated objects at a time, until commit; raises 40001 where the transaction does '
  'not see the one before.';

-- Where this is deployed by hand as the engine's first scripts are, others that come later do it.
DO $close$
BEGIN
  IF to_regprocedure('flowguard._grant_engine()') IS NOT NULL THEN
    PERFORM flowguard._close_to_public();
    PERFORM flowguard._grant_engine();
  END IF;
END;
$close$;

-- Whoever began before this, and saw less than what functions of before let others change, is refused as well.
DO $serialize$
BEGIN
  PERFORM flowguard._serialize();
END;
$serialize$;

COMMIT;
