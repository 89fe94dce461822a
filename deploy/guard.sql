-- Deploy pyflowguard:guard to pg
-- Since 1.1.0 a link may have a second finder, which tells how it found the link. Since 1.2.0 a source has the same
-- triggers for all that follows it. Since 1.3.0 what serves a link whose column was renamed stays.
-- What must exist for a link to be guarded, what of it is missing, and the calls that make it so or take it away.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Which links are guarded as the engine of before does it: these get their triggers anew in the end. Whatever guard()
-- was not called for since is left to it.
DO $current$
DECLARE
  v_link  flowguard.link;
  v_stems text[] := '{}';
BEGIN
  PERFORM flowguard._serialize();
  FOR v_link IN SELECT l.* FROM flowguard.link l WHERE l.guarded LOOP
    BEGIN
      IF flowguard._is_alive(v_link)
         AND NOT EXISTS (SELECT FROM flowguard._wanted_functions(v_link) f
                          WHERE flowguard._function_status(f.signature, f.is_definer, f.body) <> 'installed')
         AND NOT EXISTS (SELECT FROM flowguard._wanted_triggers(v_link) t
                          WHERE flowguard._trigger_status(t.relation, t.name, t.statement) <> 'installed') THEN
        v_stems := v_stems || v_link.stem::text;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      CONTINUE;  -- told in the end, as it stays out of the list
    END;
  END LOOP;
  PERFORM set_config('flowguard.renew', v_stems::text, true);
END;
$current$;

CREATE OR REPLACE FUNCTION flowguard._all_known(p_relation regclass, p_columns name[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_all_known$
BEGIN
  RETURN (SELECT coalesce(bool_and(c.name IS NOT NULL AND flowguard._is_not_null(p_relation, c.name)), true)
            FROM unnest(p_columns) AS c (name));
END;
$_all_known$;
COMMENT ON FUNCTION flowguard._all_known(regclass, name[]) IS
  'Whether the table has all these columns, declared NOT NULL.';

CREATE OR REPLACE FUNCTION flowguard._other_name(p_table text, p_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_other_name$
-- Table a_b with column c and table a with column b_c would give one name.
  SELECT flowguard._fit(left(p_name, 100) || '_' || left(md5(p_table || ' ' || p_name), 8));
$_other_name$;
COMMENT ON FUNCTION flowguard._other_name(text, text) IS
  'A name for an object of ours on a table, where its own is taken.';

CREATE OR REPLACE FUNCTION flowguard._index_sql(
  p_relation regclass, p_columns name[], p_unique boolean, p_where text DEFAULT NULL, p_newest_first name DEFAULT NULL,
  OUT name text, OUT verb text, OUT definition text
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_index_sql$
-- Name and definition of an index of ours; CONCURRENTLY, where it applies, comes after the verb.
DECLARE
  v_table  text;
BEGIN
  SELECT relname INTO STRICT v_table FROM pg_class WHERE oid = p_relation;
  -- One of ours that is just this keeps its name, also after the table was renamed: foreign keys rest on it.
  SELECT c.relname INTO name
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
   WHERE i.indrelid = p_relation AND i.indisunique = p_unique AND i.indnkeyatts = cardinality(p_columns)
     AND flowguard._is_ours(c.relname) AND flowguard._key_columns(i.indexrelid) = p_columns
     AND pg_get_expr(i.indpred, i.indrelid) IS NOT DISTINCT FROM '(' || p_where || ')'
     AND (p_newest_first IS NOT NULL) = EXISTS (SELECT FROM unnest(i.indoption::int2[]) AS o (flags)
       WHERE o.flags & 1 = 1)
   ORDER BY c.relname LIMIT 1;
  IF name IS NULL THEN
    name := flowguard._fit('flowguard_' || v_table || '_' || array_to_string(p_columns, '_')
                           || CASE WHEN p_where IS NOT NULL THEN '_unlinked_idx'
                                   WHEN p_newest_first IS NOT NULL THEN '_newest_idx'
                                   WHEN p_unique THEN '_key' ELSE '_idx' END);
    IF EXISTS (SELECT FROM pg_class t JOIN pg_class c ON c.relnamespace = t.relnamespace
                WHERE t.oid = p_relation AND c.relname = _index_sql.name) THEN
      name := flowguard._other_name(v_table, name);
    END IF;
  END IF;
  verb := CASE WHEN p_unique THEN 'CREATE UNIQUE INDEX ' ELSE 'CREATE INDEX ' END;
  definition := format('%I ON %s (%s)%s', name, p_relation,
                       (SELECT string_agg(quote_ident(c.name) || CASE WHEN c.name = p_newest_first THEN ' DESC'
                         ELSE '' END, ', '
                                          ORDER BY c.n) FROM unnest(p_columns) WITH ORDINALITY AS c (name, n)),
                       coalesce(' WHERE ' || p_where, ''));
END;
$_index_sql$;
COMMENT ON FUNCTION flowguard._index_sql(regclass, name[], boolean, text, name) IS
  'Name and definition of an index that we make.';

CREATE OR REPLACE FUNCTION flowguard._wanted_indexes(p_link flowguard.link)
RETURNS TABLE (relation regclass, name text, verb text, definition text, columns name[], is_unique boolean,
               predicate text, newest_first name)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_wanted_indexes$
-- Indexes that the link's keys and look-ups need and that the application does not have.
#variable_conflict use_column
DECLARE
  v_master  flowguard.master := flowguard._master(p_link.master);
  v_targets name[];
  r_index   record;
BEGIN
  -- The master's key together with the tenant columns that the child has: target of the composite foreign key.
  SELECT array_agg(t.master_column ORDER BY t.n) INTO v_targets
    FROM unnest(v_master.tenant_columns, p_link.tenant_columns) WITH ORDINALITY AS t (master_column, child_column, n)
   WHERE t.child_column IS NOT NULL;
  FOR r_index IN
    WITH wanted (n, relation, columns, is_unique, predicate, newest_first) AS (
      SELECT 1, v_master.relation, v_targets || v_master.key_column, true, NULL::text, NULL::name
      UNION ALL
      SELECT 2, p_link.relation, ARRAY[p_link.link_column], false, NULL, NULL
      UNION ALL
      -- What a re-link of the referenced row must lock, and target of the key that proves agreement.
      SELECT 3, r.source, CASE WHEN flowguard._by_tenant(p_link, r)
                            THEN r.source_tenant_columns ELSE '{}' END || r.source_key || r.source_link, true, NULL,
                              NULL
        FROM flowguard._rules(p_link) r
       WHERE r.kind = 'reference' AND NOT (r.source = v_master.relation AND r.source_link = v_master.key_column)
      UNION ALL
      SELECT 4, p_link.relation, ARRAY[r.via_column], false, NULL, NULL
        FROM flowguard._rules(p_link) r WHERE r.kind = 'reference'
      UNION ALL
      -- Newest first, then the smaller key: one step finds the latest row that is not after, the right one of a tie.
      -- A table that is partitioned by time has the time in its key.
      SELECT 5, r.source, array_remove(r.source_tenant_columns, NULL) || r.source_time
                          || array_remove(flowguard._row_key(r.source), r.source_time), false, NULL, r.source_time
        FROM flowguard._rules(p_link) r WHERE r.kind = 'proximity'
      UNION ALL
      -- Serves late linking and whoever looks for unlinked rows; linked rows never enter it.
      SELECT 6, p_link.relation, array_remove(p_link.tenant_columns, NULL) || r.time_column, false,
             quote_ident(p_link.link_column) || ' IS NULL', NULL
        FROM flowguard._rules(p_link) r WHERE r.kind = 'proximity'
    )
    SELECT DISTINCT w.n, w.relation, w.columns, w.is_unique, w.predicate, w.newest_first, i.name, i.verb,
           i.definition
      FROM wanted w
     CROSS JOIN LATERAL flowguard._index_sql(w.relation, w.columns, w.is_unique, w.predicate, w.newest_first) i
     WHERE w.predicate IS NOT NULL OR w.newest_first IS NOT NULL
        OR flowguard._find_index(w.relation, w.columns, w.is_unique, false) IS NULL
        -- Both there: a foreign key may rest on ours, so ours stays.
        OR flowguard._find_index(w.relation, w.columns, w.is_unique, true) IS NOT NULL
     ORDER BY w.n, i.name
  LOOP
    relation := r_index.relation;
    name := r_index.name;
    verb := r_index.verb;
    definition := r_index.definition;
    columns := r_index.columns;
    is_unique := r_index.is_unique;
    predicate := r_index.predicate;
    newest_first := r_index.newest_first;
    RETURN NEXT;
  END LOOP;
END;
$_wanted_indexes$;
COMMENT ON FUNCTION flowguard._wanted_indexes(flowguard.link) IS
  'Indexes that a link needs and that the application does not have.';

CREATE OR REPLACE FUNCTION flowguard._index_steps(
  p_relation regclass, p_columns name[], p_unique boolean, p_where text, p_newest_first name, p_online boolean,
  p_anew boolean DEFAULT false
) RETURNS TABLE (statement text, lock text, in_transaction boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_index_steps$
-- What is missing of an index; online it is built CONCURRENTLY. An invalid one is what a broken build left.
-- PostgreSQL cannot build one of a partitioned table concurrently: it is made empty, then filled partition by partition
-- (and is invalid until all are attached). An index that the application has on a partition is not taken for it: it
-- would go when ours goes.
-- p_anew: nothing that is there counts, for a step before drops it.
DECLARE
  v_index       record;
  v_schema      text;
  v_partitioned boolean;
  v_id          oid;
  v_is_valid    boolean;
  v_anew        boolean := p_anew;
  r_part        record;
BEGIN
  v_index := flowguard._index_sql(p_relation, p_columns, p_unique, p_where, p_newest_first);
  SELECT quote_ident(n.nspname), c.relkind = 'p' INTO v_schema, v_partitioned
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_relation;
  SELECT i.indexrelid, i.indisvalid INTO v_id, v_is_valid
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
   WHERE i.indrelid = p_relation AND x.relname = v_index.name AND NOT v_anew;
  IF v_is_valid THEN
    RETURN;
  END IF;
  IF NOT v_partitioned THEN
    IF v_id IS NOT NULL THEN
      RETURN QUERY
        SELECT format(CASE WHEN p_online THEN 'DROP INDEX CONCURRENTLY %s.%I' ELSE 'DROP INDEX %s.%I' END, v_schema,
                      v_index.name),
               format(CASE WHEN p_online THEN 'SHARE UPDATE EXCLUSIVE on %s' ELSE 'ACCESS EXCLUSIVE on %s' END,
                      p_relation), NOT p_online;
    END IF;
    RETURN QUERY
      SELECT v_index.verb || CASE WHEN p_online THEN 'CONCURRENTLY ' ELSE '' END || v_index.definition,
             format(CASE WHEN p_online THEN 'SHARE UPDATE EXCLUSIVE on %s' ELSE 'SHARE on %s' END, p_relation),
             NOT p_online;
    RETURN;
  END IF;

  IF v_id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = v_id) AND NOT EXISTS (
       SELECT FROM pg_partition_tree(p_relation) t
        WHERE NOT EXISTS (SELECT FROM pg_partition_tree(v_id::regclass) x
                            JOIN pg_index i ON i.indexrelid = x.relid
                           WHERE i.indrelid = t.relid AND (i.indisvalid OR NOT t.isleaf))) THEN
    -- All are attached, and it is invalid all the same: the one that was missing was detached before its turn came.
    RETURN QUERY SELECT format('DROP INDEX %s.%I', v_schema, v_index.name),
                        format('ACCESS EXCLUSIVE on %s and its partitions', p_relation), true;
    v_id := NULL;
    v_anew := true;
  END IF;
  IF v_id IS NULL THEN
    RETURN QUERY SELECT format('%s%I ON ONLY %s', v_index.verb, v_index.name,
                               substr(v_index.definition, length(quote_ident(v_index.name) || ' ON ') + 1)),
                        format('SHARE on %s', p_relation), true;
  END IF;
  FOR r_part IN
    SELECT h.inhrelid::regclass AS relation, a.is_valid
      FROM pg_inherits h
      LEFT JOIN LATERAL (SELECT i.indisvalid AS is_valid FROM pg_inherits x
                           JOIN pg_index i ON i.indexrelid = x.inhrelid AND i.indrelid = h.inhrelid
                          WHERE x.inhparent = v_id) AS a ON true
     WHERE h.inhparent = p_relation AND NOT h.inhdetachpending AND a.is_valid IS NOT TRUE
     ORDER BY h.inhrelid::regclass::text
  LOOP
    RETURN QUERY SELECT s.* FROM flowguard._index_steps(r_part.relation, p_columns, p_unique, p_where, p_newest_first,
                                                        p_online, v_anew) s;
    IF r_part.is_valid IS NULL THEN
      RETURN QUERY
        SELECT format('ALTER INDEX %s.%I ATTACH PARTITION %I.%I', v_schema, v_index.name, n.nspname, o.name),
               format('ACCESS EXCLUSIVE on index %I', o.name), true
          FROM flowguard._index_sql(r_part.relation, p_columns, p_unique, p_where, p_newest_first) o
          JOIN pg_class c ON c.oid = r_part.relation
          JOIN pg_namespace n ON n.oid = c.relnamespace;
    END IF;
  END LOOP;
END;
$_index_steps$;
COMMENT ON FUNCTION flowguard._index_steps(regclass, name[], boolean, text, name, boolean, boolean) IS
  'What is missing of an index, on a partitioned table partition by partition.';

CREATE OR REPLACE FUNCTION flowguard._wanted_statistics(p_link flowguard.link)
RETURNS TABLE (relation regclass, name text, definition text, is_made boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_wanted_statistics$
-- A tenant of two columns and more, taken for independent of each other, seems to have hardly a row where tenants are
-- many: the planner then reads and sorts all of a tenant's sources rather than take one step in the index by time.
-- What lies on partitions counts for the plans, so that the statistic of a partitioned table would serve none.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    WITH wanted AS (
      SELECT DISTINCT r.source, t.columns,
             (SELECT array_agg(a.attnum) FROM pg_attribute a
               WHERE a.attrelid = r.source AND a.attname = ANY (t.columns)) AS numbers
        FROM flowguard._rules(p_link) r
        JOIN pg_class c ON c.oid = r.source AND c.relkind = 'r'
       -- PostgreSQL takes eight columns at most (STATS_MAX_DIMENSIONS).
       CROSS JOIN LATERAL (SELECT (array_remove(r.source_tenant_columns, NULL))[1:8]) AS t (columns)
       WHERE r.kind = 'proximity' AND cardinality(t.columns) > 1
    ), present AS (
      SELECT x.stxrelid, x.stxnamespace, x.stxname, flowguard._is_ours(x.stxname) AS is_ours, x.stxkind,
             x.stxkeys::int2[] AS numbers
        FROM pg_statistic_ext x WHERE 'f' = ANY (x.stxkind) AND x.stxexprs IS NULL
    )
    SELECT w.source, n.name, format('%s.%I (dependencies) ON %s FROM %s', n.namespace, n.name,
                                    flowguard._columns_sql(w.columns), w.source), o.stxname IS NOT NULL
      FROM wanted w
      JOIN pg_class c ON c.oid = w.source
      LEFT JOIN LATERAL (SELECT p.stxname, p.stxnamespace::regnamespace::text FROM present p
                          WHERE p.stxrelid = w.source AND p.is_ours AND p.numbers @> w.numbers
                            AND p.numbers <@ w.numbers
                          ORDER BY p.stxname LIMIT 1) AS o (stxname, namespace) ON true
     CROSS JOIN LATERAL (SELECT flowguard._fit('flowguard_' || c.relname || '_' || array_to_string(w.columns, '_')
                                               || '_stat')) AS f (name)
     CROSS JOIN LATERAL (
       SELECT coalesce(o.namespace, c.relnamespace::regnamespace::text),
              CASE WHEN o.stxname IS NOT NULL THEN o.stxname
                   WHEN EXISTS (SELECT FROM pg_statistic_ext x
                                 WHERE x.stxnamespace = c.relnamespace AND x.stxname = f.name)
                   THEN flowguard._other_name(c.relname, f.name)
                   ELSE f.name END) AS n (namespace, name)
     WHERE NOT EXISTS (SELECT FROM present p
                        WHERE p.stxrelid = w.source AND NOT p.is_ours AND p.numbers @> w.numbers);
END;
$_wanted_statistics$;
COMMENT ON FUNCTION flowguard._wanted_statistics(flowguard.link) IS
  'Statistics of the tenant columns of sources in time, where the application has none.';

CREATE OR REPLACE FUNCTION flowguard._by_tenant(p_link flowguard.link, p_rule flowguard.rule) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_by_tenant$
-- Whether the key that proves agreement can name the tenant: MATCH SIMPLE would pass over a NULL.
BEGIN
  RETURN cardinality(p_link.tenant_columns) > 0
     AND flowguard._all_known(p_link.relation, p_link.tenant_columns)
     AND flowguard._all_known(p_rule.source, p_rule.source_tenant_columns);
END;
$_by_tenant$;
COMMENT ON FUNCTION flowguard._by_tenant(flowguard.link, flowguard.rule) IS
  'Whether child and source of a rule both know their whole tenant.';

CREATE OR REPLACE FUNCTION flowguard._delete_action(p_action text) RETURNS "char"
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_delete_action$
  SELECT CASE p_action WHEN 'cascade' THEN 'c' WHEN 'set null' THEN 'n' ELSE 'a' END::"char";
$_delete_action$;
COMMENT ON FUNCTION flowguard._delete_action(text) IS 'on_master_delete as pg_constraint.confdeltype says it.';

CREATE OR REPLACE FUNCTION flowguard._own_keys(p_link flowguard.link)
RETURNS TABLE (conname name, definition text, validated boolean, comment text, columns name[], target_columns name[],
  kept boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_own_keys$
-- The application's own foreign keys from the link to its master, and whether they say what on_master_delete asks for.
-- Raises FG109 where one points to another column of the master.
#variable_conflict use_column
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  r_key    record;
BEGIN
  FOR r_key IN
    SELECT * FROM flowguard._foreign_keys(p_link.relation, p_link.link_column) k
     WHERE k.target = v_master.relation AND NOT flowguard._is_ours(k.conname)
  LOOP
    IF r_key.target_column <> v_master.key_column THEN
      RAISE EXCEPTION 'flowguard: foreign key % of table % lets %.% point to column %, not to the key %',
                      quote_ident(r_key.conname), p_link.relation, p_link.relation, quote_ident(p_link.link_column),
                      quote_ident(r_key.target_column), quote_ident(v_master.key_column)
        USING ERRCODE = 'FG109',
              DETAIL = format('It is %s.', r_key.definition),
              HINT = format('Run "ALTER TABLE %s DROP CONSTRAINT %I" if the key is meant, or register the master with '
                            'key_column => %L.', p_link.relation, r_key.conname, r_key.target_column);
    END IF;
    conname := r_key.conname;
    definition := r_key.definition;
    validated := r_key.validated;
    comment := r_key.comment;
    columns := r_key.columns;
    target_columns := r_key.target_columns;
    kept := p_link.on_master_delete = 'keep' OR r_key.action = flowguard._delete_action(p_link.on_master_delete)
            OR (p_link.on_master_delete = 'refuse' AND r_key.action = 'r');
    RETURN NEXT;
  END LOOP;
END;
$_own_keys$;
COMMENT ON FUNCTION flowguard._own_keys(flowguard.link) IS
  'The application''s foreign keys from a link to its master; raises FG109 where one points to another column.';

CREATE OR REPLACE FUNCTION flowguard._key_sql(
  p_columns name[], p_target regclass, p_target_columns name[], p_action text DEFAULT ''
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_key_sql$
-- A foreign key as pg_get_constraintdef() writes it, so that the two can be compared.
  SELECT format('FOREIGN KEY (%s) REFERENCES %s(%s)%s DEFERRABLE INITIALLY DEFERRED',
                flowguard._columns_sql(p_columns), p_target, flowguard._columns_sql(p_target_columns), p_action);
$_key_sql$;
COMMENT ON FUNCTION flowguard._key_sql(name[], regclass, name[], text) IS 'The definition of a foreign key of ours.';

CREATE OR REPLACE FUNCTION flowguard._wanted_keys(p_link flowguard.link)
RETURNS TABLE (name text, definition text, target regclass)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_wanted_keys$
-- The foreign keys that prove the link, beside those that the application has.
#variable_conflict use_column
DECLARE
  v_master   flowguard.master := flowguard._master(p_link.master);
  v_tenants  name[];
  v_targets  name[];
  v_action   text := CASE p_link.on_master_delete WHEN 'cascade' THEN ' ON DELETE CASCADE'
                                                  WHEN 'set null' THEN ' ON DELETE SET NULL' ELSE '' END;
  v_acts     boolean;
  v_single   boolean;
  v_is_whole boolean;
  v_update   text := '';
  v_names    text[] := ARRAY[]::text[];
  r_rule     flowguard.rule;
BEGIN
  SELECT coalesce(array_agg(t.child_column ORDER BY t.n), '{}'), coalesce(array_agg(t.master_column ORDER BY t.n), '{}')
    INTO v_tenants, v_targets
    FROM unnest(v_master.tenant_columns, p_link.tenant_columns) WITH ORDINALITY AS t (master_column, child_column, n)
   WHERE t.child_column IS NOT NULL;
  -- An application key that says the same does what is to happen when a master is deleted; ours then only proves.
  v_acts := EXISTS (SELECT FROM flowguard._own_keys(p_link) k WHERE k.kept);
  v_single := EXISTS (SELECT FROM flowguard._own_keys(p_link) k
                       WHERE k.kept AND k.validated AND k.columns = ARRAY[p_link.link_column]);
  v_is_whole := flowguard._find_index(v_master.relation, ARRAY[v_master.key_column], true, false) IS NOT NULL;
  -- What a key that ours replaces does when the master's key changes, ours does in its place: on the link alone where
  -- it can, for the tenant is none of it.
  IF EXISTS (SELECT FROM flowguard._own_keys(p_link) k WHERE NOT k.kept AND k.definition LIKE '% ON UPDATE CASCADE%')
     OR EXISTS (SELECT FROM flowguard.replaced_constraint c
                 WHERE c.relation = p_link.relation AND c.link_column = p_link.link_column
                   AND c.definition LIKE '% ON UPDATE CASCADE%') THEN
    v_update := ' ON UPDATE CASCADE';
  END IF;

  IF v_tenants <> '{}' THEN
    name := 'flowguard_' || p_link.stem || '_tenant_fkey';
    target := v_master.relation;
    definition := flowguard._key_sql(
      v_tenants || p_link.link_column, target, v_targets || v_master.key_column,
      CASE WHEN v_is_whole THEN '' ELSE v_update END || CASE
        WHEN v_acts OR p_link.on_master_delete <> 'set null' THEN CASE WHEN v_acts THEN '' ELSE v_action END
        WHEN v_is_whole THEN ''  -- the key on the link alone does it: here the tenant would be lost as well
        ELSE format(' ON DELETE SET NULL (%I)', p_link.link_column)
      END);
    v_names := v_names || name;
    RETURN NEXT;
  END IF;
  IF v_is_whole AND NOT v_single
     AND (v_tenants = '{}' OR flowguard._unknown_tenant_sql(p_link, '') IS NOT NULL OR v_update <> ''
          OR (p_link.on_master_delete = 'set null' AND NOT v_acts)) THEN
    name := 'flowguard_' || p_link.stem || '_fkey';
    target := v_master.relation;
    definition := flowguard._key_sql(ARRAY[p_link.link_column], target, ARRAY[v_master.key_column],
                                     v_update || CASE WHEN v_acts THEN '' ELSE v_action END);
    v_names := v_names || name;
    RETURN NEXT;
  END IF;
  IF p_link.mode = 'enforce' THEN
    FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r.kind = 'reference' AND r.agree
      ORDER BY r."position" LOOP
      name := flowguard._fit(format('flowguard_%s_%s_fkey', p_link.stem, r_rule.via_column));
      -- One column may refer to two tables, and one called tenant gives the name of the key to the master.
      IF name = ANY (v_names) THEN
        name := flowguard._fit(format('flowguard_%s_%s_%s_fkey', p_link.stem, r_rule.via_column, r_rule."position"));
      END IF;
      v_names := v_names || name;
      target := r_rule.source;
      definition := flowguard._key_sql(
        CASE WHEN flowguard._by_tenant(p_link, r_rule) THEN p_link.tenant_columns ELSE '{}' END
          || r_rule.via_column || p_link.link_column, target,
        CASE WHEN flowguard._by_tenant(p_link, r_rule) THEN r_rule.source_tenant_columns ELSE '{}' END
          || r_rule.source_key || r_rule.source_link);
      RETURN NEXT;
    END LOOP;
  END IF;
END;
$_wanted_keys$;
COMMENT ON FUNCTION flowguard._wanted_keys(flowguard.link) IS
  'The foreign keys that prove a link: tenant and link to the master, the link alone where a tenant may be NULL, and '
  'in enforce reference and link to the referenced row.';

CREATE OR REPLACE FUNCTION flowguard._found_key(
  p_relation regclass, p_name text, p_definition text, OUT is_same boolean, OUT validated boolean
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_found_key$
-- A foreign key by name; one of ours not where a partition has it from its table, with which it comes and goes.
  SELECT regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') = p_definition, c.convalidated
    FROM pg_constraint c
   WHERE c.conrelid = p_relation AND c.conname = p_name AND (c.conparentid = 0 OR NOT flowguard._is_ours(p_name));
$_found_key$;
COMMENT ON FUNCTION flowguard._found_key(regclass, text, text) IS
  'A table''s foreign key by name, whether it is as wanted, and whether it is validated.';

CREATE OR REPLACE FUNCTION flowguard._key_state(
  p_relation regclass, p_name text, p_definition text, OUT present boolean, OUT validated boolean
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_key_state$
-- Whether a wanted foreign key binds what is written, and whether it is proved for all rows. One that is on every
-- partition, and not yet on the whole, binds.
  SELECT k.is_same IS TRUE
           OR flowguard._goes_by_parts(p_relation)
          AND (SELECT bool_and(p.is_same IS TRUE) FROM pg_partition_tree(p_relation) t
                CROSS JOIN LATERAL flowguard._found_key(t.relid, p_name, p_definition) p WHERE t.isleaf) IS TRUE,
         coalesce(k.is_same AND k.validated, false)
    FROM flowguard._found_key(p_relation, p_name, p_definition) k;
$_key_state$;
COMMENT ON FUNCTION flowguard._key_state(regclass, text, text) IS
  'Whether a wanted foreign key binds what is written, and whether it is validated.';

CREATE OR REPLACE FUNCTION flowguard._key_steps(
  p_relation regclass, p_name text, p_definition text, p_target regclass, p_online boolean
) RETURNS TABLE (statement text, lock text, in_transaction boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_key_steps$
-- What is missing of a foreign key: it is added without a look at present rows, then validated without a lock that
-- writers would wait for.
DECLARE
  v_found    record;
  v_by_parts boolean := flowguard._goes_by_parts(p_relation);
BEGIN
  SELECT k.* INTO v_found FROM flowguard._found_key(p_relation, p_name, p_definition) k;
  IF NOT v_found.is_same THEN
    RETURN QUERY SELECT flowguard._locking_both(p_online, p_relation, p_target, 'ACCESS EXCLUSIVE')
                          || format('ALTER TABLE %s DROP CONSTRAINT %I', p_relation, p_name),
                        format('ACCESS EXCLUSIVE on %s and %s', p_relation, p_target), true;
  END IF;
  IF v_found.is_same IS DISTINCT FROM true THEN
    IF v_by_parts AND NOT flowguard._loses_actions(p_target) THEN
      RETURN QUERY SELECT s.* FROM pg_partition_tree(p_relation) t
                    CROSS JOIN LATERAL flowguard._key_steps(t.relid, p_name, p_definition, p_target, p_online) s
                    WHERE t.isleaf AND t.relid <> p_relation;
    END IF;
    RETURN QUERY SELECT flowguard._locking_both(p_online, p_relation, p_target, 'SHARE ROW EXCLUSIVE')
                          || format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', p_relation, p_name, p_definition,
                               CASE WHEN v_by_parts THEN '' ELSE ' NOT VALID' END),
                        format('SHARE ROW EXCLUSIVE on %s%s and %s', p_relation,
                               CASE WHEN v_by_parts THEN ', its partitions' ELSE '' END, p_target), true;
  END IF;
  IF (v_found.is_same AND v_found.validated) IS DISTINCT FROM true AND NOT v_by_parts THEN
    RETURN QUERY SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', p_relation, p_name),
                        format('SHARE UPDATE EXCLUSIVE on %s, ROW SHARE on %s', p_relation, p_target), true;
  END IF;
END;
$_key_steps$;
COMMENT ON FUNCTION flowguard._key_steps(regclass, text, text, regclass, boolean) IS
  'What is missing of a foreign key, on a partitioned table before 18 partition by partition.';

CREATE OR REPLACE FUNCTION flowguard._own_functions(p_link flowguard.link, p_bodies boolean DEFAULT true)
RETURNS TABLE (signature text, returns text, is_definer boolean, body text, description text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_own_functions$
-- p_bodies: their text as well, which takes as long as all else that a plan needs.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT flowguard._finder_signature(p_link), flowguard._nullable_type(p_link.relation, p_link.link_column),
           false, CASE WHEN p_bodies THEN flowguard._finder_body(p_link) END,
           'what the rules of the link yield for a row'
     WHERE flowguard._has_finder(p_link)
    UNION ALL
    -- Beside the other, not in its place: a session may be in the midst of a function that still calls that.
    SELECT flowguard._kept_finder_signature(p_link), 'record', false,
           CASE WHEN p_bodies THEN flowguard._kept_finder_body(p_link) END,
           'what the rules of the link yield for a row, and how a rule by time found it'
     WHERE flowguard._keeps_provenance(p_link)
    UNION ALL
    SELECT format('flowguard.%I()', p_link.stem || '_fill'), 'trigger', true,
           CASE WHEN p_bodies THEN flowguard._fill_body(p_link) END, 'fills the link'
     WHERE EXISTS (SELECT FROM flowguard._rules(p_link))
    UNION ALL
    SELECT format('flowguard.%I()', p_link.stem || '_commit'), 'trigger', true,
           CASE WHEN p_bodies THEN flowguard._commit_body(p_link) END, 'looks again at commit at a row without a link'
     WHERE p_link.mode = 'enforce' OR flowguard._has_finder(p_link)
    UNION ALL
    SELECT flowguard._follow_signature(p_link, r, ''), 'pg_catalog.bool', true,
           CASE WHEN p_bodies THEN flowguard._follow_body(p_link, r) END, 'lets the link follow its source'
      FROM flowguard._rules(p_link) r WHERE r.kind <> 'session';
END;
$_own_functions$;
COMMENT ON FUNCTION flowguard._own_functions(flowguard.link, boolean) IS
  'The functions generated for a link alone, with their text or without.';

CREATE OR REPLACE FUNCTION flowguard._follow_signature(p_link flowguard.link, p_rule flowguard.rule, p_style text)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_follow_signature$
-- p_style trigger: that of before 1.2.0, which a trigger of the rule called.
  SELECT format(CASE p_style WHEN 'trigger' THEN 'flowguard.%I()' ELSE 'flowguard.%I(record,record,integer)' END,
                p_link.stem || '_follow_' || p_rule."position");
$_follow_signature$;
COMMENT ON FUNCTION flowguard._follow_signature(flowguard.link, flowguard.rule, text) IS
  'The signature of the function that lets a link follow a rule''s source.';

CREATE OR REPLACE FUNCTION flowguard._wanted_functions(p_link flowguard.link)
RETURNS TABLE (signature text, returns text, is_definer boolean, body text, description text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_wanted_functions$
BEGIN
  RETURN QUERY
    SELECT f.* FROM flowguard._own_functions(p_link) f
    UNION ALL
    SELECT format('flowguard.%I()', c.name), 'trigger', true, c.body, 'calls what follows ' || s.source
      FROM flowguard._sources(p_link) AS s (source)
     CROSS JOIN LATERAL flowguard._caller(s.source, p_link) c;
END;
$_wanted_functions$;
COMMENT ON FUNCTION flowguard._wanted_functions(flowguard.link) IS
  'The functions generated for a link, and those of its sources that call them.';

CREATE OR REPLACE FUNCTION flowguard._changed_sql(p_relation regclass, p_columns name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_changed_sql$
-- SQL text for WHEN: one of the columns changes. A type without equality is compared as text.
BEGIN
  RETURN (SELECT string_agg(format('OLD.%1$I%2$s IS DISTINCT FROM NEW.%1$I%2$s', a.attname,
                                   CASE WHEN EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
                                                      WHERE m.amname = 'btree' AND o.opcdefault
                                                        AND o.opcintype = a.atttypid)
                                          OR t.typtype IN ('d', 'e', 'c') OR t.typcategory = 'A'
                                            OR a.atttypid = 'varchar'::regtype
                                     THEN '' ELSE '::text' END), ' OR ' ORDER BY a.attnum)
            FROM pg_attribute a
            JOIN pg_type t ON t.oid = a.atttypid
           WHERE a.attrelid = p_relation AND a.attname = ANY (p_columns));
END;
$_changed_sql$;
COMMENT ON FUNCTION flowguard._changed_sql(regclass, name[]) IS
  'SQL text for a trigger''s WHEN: one of the columns changes.';

CREATE OR REPLACE FUNCTION flowguard._master_comes_first(p_rule flowguard.rule, p_master flowguard.master)
RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_master_comes_first$
-- A key of the application that is checked at once lets no source have a link whose master is not there. One that
-- guard() replaces by ours, which is deferred, does not count.
  SELECT EXISTS (SELECT FROM flowguard._foreign_keys(p_rule.source, p_rule.source_link) k
                  WHERE k.target = p_master.relation AND k.target_column = p_master.key_column
                    AND NOT k.is_deferrable AND NOT flowguard._is_ours(k.conname)
                    AND flowguard._all_known(p_rule.source, array_remove(k.columns, p_rule.source_link)))
     AND NOT EXISTS (SELECT FROM flowguard.link l CROSS JOIN LATERAL flowguard._own_keys(l) k
                      WHERE l.relation = p_rule.source AND l.link_column = p_rule.source_link AND NOT k.kept);
$_master_comes_first$;
COMMENT ON FUNCTION flowguard._master_comes_first(flowguard.rule, flowguard.master) IS
  'Whether a key of the application makes a master exist before a source of the rule points to it.';

CREATE OR REPLACE FUNCTION flowguard._own_triggers(p_link flowguard.link)
RETURNS TABLE (relation regclass, name text, statement text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_own_triggers$
-- Triggers are called only where there is something to do. Names begin with ~ to come after the application's.
#variable_conflict use_column
DECLARE
  v_fill    text := format('EXECUTE FUNCTION flowguard.%I()', p_link.stem || '_fill');
  v_changed text;
  v_moved   text;
  v_unknown text := flowguard._unknown_tenant_sql(p_link, 'NEW.');
BEGIN
  relation := p_link.relation;
  IF EXISTS (SELECT FROM flowguard._rules(p_link)) THEN
    v_changed := flowguard._changed_sql(relation, flowguard._read_columns(p_link));
    SELECT string_agg(format('(NEW.%1$I IS NOT NULL AND %2$s)', r.via_column,
                             flowguard._changed_sql(p_link.relation, ARRAY[r.via_column])), ' OR '
                               ORDER BY r."position")
      INTO v_moved FROM flowguard._rules(p_link) r WHERE r.agree;
    name := '~flowguard_' || p_link.stem || '_insert';
    statement := format('CREATE OR REPLACE TRIGGER %I BEFORE INSERT ON %s FOR EACH ROW WHEN (NEW.%I IS NULL) %s',
                        name, relation, p_link.link_column, v_fill);
    RETURN NEXT;
    name := '~flowguard_' || p_link.stem || '_update';
    statement := format('CREATE OR REPLACE TRIGGER %1$I BEFORE UPDATE ON %2$s FOR EACH ROW '
                        'WHEN (NEW.%3$I IS NULL AND (OLD.%3$I IS NOT NULL%4$s)%5$s) %6$s',
                        name, relation, p_link.link_column, coalesce(' OR ' || v_changed, ''),
                        CASE WHEN v_moved IS NULL THEN ''
                             ELSE format(' OR NEW.%1$I IS NOT DISTINCT FROM OLD.%1$I AND (%2$s)', p_link.link_column,
                               v_moved) END,
                        v_fill);
    RETURN NEXT;
  END IF;
  IF p_link.mode = 'enforce' OR flowguard._has_finder(p_link) THEN
    name := '~flowguard_' || p_link.stem || '_commit';
    statement := format('CREATE CONSTRAINT TRIGGER %1$I AFTER INSERT OR UPDATE ON %2$s DEFERRABLE '
                        'INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.%3$I IS NULL%4$s) '
                        'EXECUTE FUNCTION flowguard.%5$I()',
                        name, relation, p_link.link_column,
                        CASE WHEN p_link.mode = 'enforce' THEN coalesce(' OR ' || v_unknown, '') ELSE '' END,
                        p_link.stem || '_commit');
    RETURN NEXT;
  END IF;
END;
$_own_triggers$;
COMMENT ON FUNCTION flowguard._own_triggers(flowguard.link) IS
  'The triggers on the table of a link that call the functions generated for it.';

CREATE OR REPLACE FUNCTION flowguard._sources(p_link flowguard.link) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_sources$
  SELECT DISTINCT r.source FROM flowguard._rules(p_link) r WHERE r.kind <> 'session' ORDER BY r.source;
$_sources$;
COMMENT ON FUNCTION flowguard._sources(flowguard.link) IS 'The tables that a link follows.';

CREATE OR REPLACE FUNCTION flowguard._callers(p_source regclass DEFAULT NULL)
RETURNS TABLE (relation regclass, id oid, trigger_id oid, name name)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_callers$
-- The triggers of one source or of all, told by their names, and the function that those of one table call.
#variable_conflict use_column
BEGIN
  IF p_source IS NOT NULL THEN
    RETURN QUERY
      SELECT t.tgrelid::regclass, t.tgfoid, t.oid, t.tgname
        FROM pg_trigger t
        JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = 'flowguard'::regnamespace
       WHERE t.tgrelid = p_source
         AND starts_with(t.tgname::text, '~flowguard~') AND NOT t.tgisinternal AND t.tgparentid = 0;
    RETURN;
  END IF;
  RETURN QUERY
    SELECT c.*
      FROM (SELECT DISTINCT t.tgrelid::regclass AS relation
              FROM pg_trigger t WHERE starts_with(t.tgname::text, '~flowguard~')) AS s
     CROSS JOIN LATERAL flowguard._callers(s.relation) c;
END;
$_callers$;
COMMENT ON FUNCTION flowguard._callers(regclass) IS
  'The triggers of a source, or of all, that call what follows them.';

CREATE OR REPLACE FUNCTION flowguard._followers(p_source regclass)
RETURNS TABLE (stem text, called text, link name, columns name[], on_insert boolean, at_commit boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_followers$
-- What follows a source as it is, link by link, whatever the registry has been told since: the function that its
-- triggers call says so itself, in remarks. A column that was renamed since has its new name here.
#variable_conflict use_column
DECLARE
  v_caller oid := (SELECT c.id FROM flowguard._callers(p_source) c LIMIT 1);
  v_names  jsonb := (
    SELECT jsonb_object_agg(x.noted, x.now)
      FROM flowguard._callers(p_source) c
     CROSS JOIN LATERAL (
       SELECT substring(obj_description(c.trigger_id, 'pg_trigger')
                        FROM '^Generated by PyFlowGuard [^ ]+ [^ ]+ ([{].*[}])$')::jsonb -> 'columns',
              flowguard._trigger_names(c.trigger_id) -> 'columns') AS n (noted, now)
     CROSS JOIN LATERAL ROWS FROM (jsonb_array_elements_text(n.noted), jsonb_array_elements_text(n.now))
       AS x (noted, now)
     WHERE x.noted IS NOT NULL);
BEGIN
  RETURN QUERY
    SELECT x.f ->> 'stem', x.f ->> 'called', coalesce(v_names ->> (x.f ->> 'link'), x.f ->> 'link')::name,
           ARRAY(SELECT coalesce(v_names ->> c.name, c.name)::name
                   FROM jsonb_array_elements_text(x.f -> 'columns') WITH ORDINALITY AS c (name, n) ORDER BY c.n),
           (x.f ->> 'on_insert')::boolean, (x.f ->> 'at_commit')::boolean
      FROM pg_proc p
     CROSS JOIN LATERAL regexp_matches(p.prosrc, '^-- follows: ([{].*[}])$', 'gn') AS m (found)
     CROSS JOIN LATERAL (SELECT m.found[1]::jsonb) AS x (f)
     WHERE p.oid = v_caller;
END;
$_followers$;
COMMENT ON FUNCTION flowguard._followers(regclass) IS
  'What follows a source, as the function says that its triggers call.';

CREATE OR REPLACE FUNCTION flowguard._caller_name(p_source regclass, OUT id oid, OUT name text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_caller_name$
-- id is NULL where there is none yet: then name is that which it is to have.
BEGIN
  SELECT c.id, p.proname INTO id, name FROM flowguard._callers(p_source) c JOIN pg_proc p ON p.oid = c.id LIMIT 1;
  IF id IS NULL THEN
    name := flowguard._fit((SELECT c.relname FROM pg_class c WHERE c.oid = p_source) || '_followers', 38);
    IF EXISTS (SELECT FROM flowguard._callers() c JOIN pg_proc p ON p.oid = c.id
                WHERE p.proname = _caller_name.name) THEN
      name := flowguard._fit(flowguard._other_name(p_source::text, name), 38);
    END IF;
  END IF;
END;
$_caller_name$;
COMMENT ON FUNCTION flowguard._caller_name(regclass) IS
  'The function that the triggers of a source call, or the name of the one that they are to call.';

CREATE OR REPLACE FUNCTION flowguard._caller(
  p_source regclass, p_link flowguard.link, OUT id oid, OUT name text, OUT body text, OUT followers jsonb
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_caller$
-- The function that the triggers of a source should call: what other guarded links have of it, and what the rules of
-- this one need. body is NULL where nothing follows the source. id is that of the function as it is.
BEGIN
  SELECT n.id, n.name INTO id, name FROM flowguard._caller_name(p_source) n;
  SELECT jsonb_agg(to_jsonb(f) ORDER BY f.called COLLATE "C")
    INTO followers
    FROM (SELECT o.*
            FROM flowguard._followers(p_source) o
           WHERE o.stem IS DISTINCT FROM p_link.stem AND to_regprocedure(o.called) IS NOT NULL
             AND EXISTS (SELECT FROM flowguard.link l WHERE l.stem = o.stem AND l.guarded)
          UNION ALL
          SELECT p_link.stem, flowguard._follow_signature(p_link, r, ''), r.source_link,
                 flowguard._watched_columns(p_link, r), NOT flowguard._is_backed(p_link, r),
                 flowguard._is_asked_again(p_link, r)
            FROM flowguard._rules(p_link) r
           WHERE r.kind <> 'session' AND r.source = p_source) AS f;
  IF followers IS NULL THEN
    RETURN;
  END IF;
  body := format($body$
%1$s
%2$s
DECLARE
  v_done pg_catalog.bool;
BEGIN
  IF TG_NARGS OPERATOR(pg_catalog.=) 0 THEN
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
%3$s    ELSE
%4$s    END IF;
  ELSIF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
%5$s  ELSE
%6$s  END IF;
  RETURN NULL;
END;
$body$, flowguard._remark(format('Generated by flowguard.guard() for all that follows %s.', p_source)),
        (SELECT string_agg('-- follows: ' || f.value::text, E'\n' ORDER BY f.ordinality)
           FROM jsonb_array_elements(followers) WITH ORDINALITY f),
        flowguard._calls(followers, 'on_insert', 'NEW, NEW, -1', '      '),
        flowguard._calls(followers, NULL, 'OLD, NEW, 0', '      '),
        flowguard._calls(followers, 'at_commit', 'NEW, NEW, -1', '    '),
        flowguard._calls(followers, 'at_commit', 'OLD, NEW, 1', '    '));
END;
$_caller$;
COMMENT ON FUNCTION flowguard._caller(regclass, flowguard.link) IS
  'The function that the triggers of a source should call, with what a link needs of it.';

CREATE OR REPLACE FUNCTION flowguard._calls(p_followers jsonb, p_kind text, p_arguments text, p_indent text)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_calls$
  SELECT coalesce(string_agg(format(E'%sv_done := %s(%s);\n', p_indent,
                                    left(f.value ->> 'called', -length('(record,record,integer)')), p_arguments), ''
                             ORDER BY f.ordinality),
                  p_indent || E'NULL;\n')
    FROM jsonb_array_elements(p_followers) WITH ORDINALITY f
   WHERE p_kind IS NULL OR (f.value ->> p_kind)::boolean;
$_calls$;
COMMENT ON FUNCTION flowguard._calls(jsonb, text, text, text) IS
  'PL/pgSQL text: calls of what follows a source, all of it or that for which a flag is set.';

CREATE OR REPLACE FUNCTION flowguard._caller_triggers(p_source regclass, p_name text, p_followers jsonb)
RETURNS TABLE (relation regclass, name text, statement text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_caller_triggers$
-- PostgreSQL reads and compiles each WHEN of a table anew for each statement, column by column. So a source has one
-- trigger for all that follows it, which names a column once.
#variable_conflict use_column
DECLARE
  v_call     text := format('EXECUTE FUNCTION flowguard.%I', p_name);
  v_inserted text;
  v_changed  text;
  v_asked    text;
  v_linked   text;
BEGIN
  IF p_followers IS NULL THEN
    RETURN;
  END IF;
  relation := p_source;
  WITH follower AS (
    SELECT f.* FROM jsonb_to_recordset(p_followers)
      AS f (link name, columns name[], on_insert boolean, at_commit boolean)
  ), source_link AS (
    SELECT f.link, bool_or(f.on_insert) AS on_insert, bool_or(f.at_commit) AS at_commit,
           flowguard._changed_sql(p_source, ARRAY[f.link]) AS moved,
           flowguard._changed_sql(p_source, ARRAY(SELECT c.name FROM follower o CROSS JOIN unnest(o.columns) AS c (name)
                                                   WHERE o.link = f.link)) AS changed,
           flowguard._changed_sql(p_source, ARRAY(SELECT c.name FROM follower o CROSS JOIN unnest(o.columns) AS c (name)
                                                   WHERE o.link = f.link AND o.at_commit)) AS asked
      FROM follower f GROUP BY f.link
  )
  SELECT string_agg(format('NEW.%I IS NOT NULL', s.link), ' OR ' ORDER BY s.link) FILTER (WHERE s.on_insert),
         string_agg(s.moved || coalesce(format(' OR NEW.%I IS NOT NULL AND (', s.link) || s.changed || ')', ''), ' OR '
                    ORDER BY s.link),
         string_agg(format('NEW.%I IS NOT NULL', s.link), ' OR ' ORDER BY s.link) FILTER (WHERE s.at_commit),
         string_agg(format('NEW.%I IS NOT NULL AND (', s.link) || concat_ws(' OR ', s.moved, s.asked) || ')', ' OR '
                    ORDER BY s.link) FILTER (WHERE s.at_commit)
    INTO v_inserted, v_changed, v_asked, v_linked
    FROM source_link s;
  name := format('~flowguard~%s_update', p_name);
  statement := format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) %s()',
                      name, relation, v_changed, v_call);
  RETURN NEXT;
  IF v_inserted IS NOT NULL THEN
    name := format('~flowguard~%s_insert', p_name);
    statement := format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW WHEN (%s) %s()',
                        name, relation, v_inserted, v_call);
    RETURN NEXT;
  END IF;
  IF v_asked IS NOT NULL THEN
    name := format('~flowguard~%s_insert_commit', p_name);
    statement := format('CREATE CONSTRAINT TRIGGER %I AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
                        'WHEN (%s) %s(''commit'')', name, relation, v_asked, v_call);
    RETURN NEXT;
    name := format('~flowguard~%s_update_commit', p_name);
    statement := format('CREATE CONSTRAINT TRIGGER %I AFTER UPDATE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
                        'WHEN (%s) %s(''commit'')', name, relation, v_linked, v_call);
    RETURN NEXT;
  END IF;
END;
$_caller_triggers$;
COMMENT ON FUNCTION flowguard._caller_triggers(regclass, text, jsonb) IS
  'The triggers of a source that call what follows it.';

CREATE OR REPLACE FUNCTION flowguard._wanted_triggers(p_link flowguard.link)
RETURNS TABLE (relation regclass, name text, statement text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_wanted_triggers$
  SELECT t.* FROM flowguard._own_triggers(p_link) t
  UNION ALL
  SELECT t.*
    FROM flowguard._sources(p_link) AS s (source)
   CROSS JOIN LATERAL flowguard._caller(s.source, p_link) c
   CROSS JOIN LATERAL flowguard._caller_triggers(s.source, c.name, c.followers) t;
$_wanted_triggers$;
COMMENT ON FUNCTION flowguard._wanted_triggers(flowguard.link) IS
  'The triggers on the table of a link, and on its sources, that call the functions generated for it.';

CREATE OR REPLACE FUNCTION flowguard._trigger_names(p_trigger oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_trigger_names$
-- How the table that a trigger is on, and the columns that its WHEN reads, are called now.
BEGIN
  RETURN (SELECT jsonb_build_object('table', t.tgrelid::regclass::text,
                                    'columns', coalesce(jsonb_agg(a.attname ORDER BY a.attnum)
                                                        FILTER (WHERE a.attname IS NOT NULL), '[]'))
            FROM pg_trigger t
            LEFT JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.tgrelid
            LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
           WHERE t.oid = p_trigger
           GROUP BY t.oid, t.tgrelid);
END;
$_trigger_names$;
COMMENT ON FUNCTION flowguard._trigger_names(oid) IS
  'How a trigger''s table and the columns that it reads are called.';

CREATE OR REPLACE FUNCTION flowguard._trigger_stamp(p_trigger oid, p_hash text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $_trigger_stamp$
BEGIN
  RETURN format('Generated by PyFlowGuard %s %s %s', p_hash, md5(pg_get_triggerdef(p_trigger)),
                flowguard._trigger_names(p_trigger));
END;
$_trigger_stamp$;
COMMENT ON FUNCTION flowguard._trigger_stamp(oid, text) IS
  'The comment of a trigger: what it was made from, what PostgreSQL made of it, and what its table and columns were '
  'called.';

CREATE OR REPLACE FUNCTION flowguard._stamp_trigger(p_relation regclass, p_name name, p_hash text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_stamp_trigger$
-- Notes in the trigger's comment what it was made from and what PostgreSQL made of it: a later change of either shows.
BEGIN
  EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', p_name, p_relation,
                 (SELECT flowguard._trigger_stamp(t.oid, p_hash) FROM pg_trigger t
                   WHERE t.tgrelid = p_relation AND t.tgname = p_name));
END;
$_stamp_trigger$;
COMMENT ON FUNCTION flowguard._stamp_trigger(regclass, name, text) IS
  'Notes in a trigger''s comment what it was made from.';

CREATE OR REPLACE FUNCTION flowguard._trigger_status(p_relation regclass, p_name name, p_statement text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_trigger_status$
BEGIN
  RETURN (WITH RECURSIVE clone (id, enabled) AS (
            SELECT t.oid, t.tgenabled FROM pg_trigger t WHERE t.tgrelid = p_relation AND t.tgname = p_name
            UNION ALL
            SELECT t.oid, t.tgenabled FROM clone c JOIN pg_trigger t ON t.tgparentid = c.id
          )
          SELECT coalesce(
            (SELECT CASE
                      -- A partition has its own copy, which can be disabled alone.
                      WHEN EXISTS (SELECT FROM clone c WHERE c.enabled = 'D') THEN 'disabled'
                      WHEN EXISTS (SELECT FROM clone c WHERE c.enabled <> 'O')
                           OR obj_description(t.oid, 'pg_trigger')
                              IS DISTINCT FROM flowguard._trigger_stamp(t.oid, md5(p_statement))
                      THEN 'outdated'
                      ELSE 'installed'
                    END
               FROM pg_trigger t WHERE t.tgrelid = p_relation AND t.tgname = p_name), 'missing'));
END;
$_trigger_status$;
COMMENT ON FUNCTION flowguard._trigger_status(regclass, name, text) IS 'installed, outdated, disabled or missing.';

CREATE OR REPLACE FUNCTION flowguard._function_status(p_signature text, p_is_definer boolean, p_body text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_function_status$
BEGIN
  RETURN coalesce((SELECT CASE WHEN p.prosrc = p_body AND p.prosecdef = p_is_definer AND p.proconfig IS NULL
                            THEN 'installed' ELSE 'outdated' END
                     FROM pg_proc p WHERE p.oid = to_regprocedure(p_signature)), 'missing');
END;
$_function_status$;
COMMENT ON FUNCTION flowguard._function_status(text, boolean, text) IS 'installed, outdated or missing.';

CREATE OR REPLACE FUNCTION flowguard._is_for(p_link flowguard.link, p_name text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_for$
-- Whether an object, by its name, was made for this link, or for none that is registered.
BEGIN
  RETURN coalesce((SELECT l.stem FROM flowguard.link l
                    WHERE starts_with(p_name, l.stem || '_')
                       OR starts_with(p_name, 'flowguard_' || l.stem || '_')
                       OR starts_with(p_name, '~flowguard_' || l.stem || '_')
                    ORDER BY length(l.stem) DESC LIMIT 1), p_link.stem) = p_link.stem;
END;
$_is_for$;
COMMENT ON FUNCTION flowguard._is_for(flowguard.link, text) IS
  'Whether an object was made for this link, or for none that is registered.';

CREATE OR REPLACE FUNCTION flowguard._lock_both(p_first regclass, p_second regclass, p_mode text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_lock_both$
-- Locks two tables for a statement of an online plan, so that no writer who holds one and wants the other is ever the
-- victim of a deadlock: who waits behind us began to wait later, so we are gone before its deadlock_timeout is over.
-- Raises 55P03.
DECLARE
  v_begin    timestamptz := clock_timestamp();
  v_may_wait text := current_setting('lock_timeout');
  v_limit    numeric := (SELECT s.setting FROM pg_settings s WHERE s.name = 'lock_timeout')::numeric;
  v_left     numeric;
BEGIN
  EXECUTE format('LOCK TABLE %s IN %s MODE', p_first, p_mode);
  -- Who may only refer to a table may not lock it; the statement itself still does.
  IF NOT has_table_privilege(p_second, 'UPDATE, DELETE, TRUNCATE') THEN
    RETURN;
  END IF;
  v_left := floor(0.8 * (SELECT s.setting FROM pg_settings s WHERE s.name = 'deadlock_timeout')::numeric
                  - 1000 * extract(epoch FROM clock_timestamp() - v_begin));
  IF v_left < 1 THEN
    EXECUTE format('LOCK TABLE %s IN %s MODE NOWAIT', p_second, p_mode);
  ELSE
    PERFORM set_config('lock_timeout', CASE WHEN v_limit > 0 THEN least(v_left, v_limit) ELSE v_left END || 'ms', true);
    EXECUTE format('LOCK TABLE %s IN %s MODE', p_second, p_mode);
    PERFORM set_config('lock_timeout', v_may_wait, true);
  END IF;
END;
$_lock_both$;
COMMENT ON FUNCTION flowguard._lock_both(regclass, regclass, text) IS
  'Locks two tables and gives up before a writer in its way could be the victim of a deadlock.';

CREATE OR REPLACE FUNCTION flowguard._locking_both(p_online boolean, p_first regclass, p_second regclass, p_mode text)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_locking_both$
-- In one transaction with others a statement needs no such beginning: what they locked stays locked anyway.
  SELECT CASE WHEN p_online THEN format('SELECT flowguard._lock_both(%L, %L, %L); ', p_first, p_second, p_mode)
              ELSE '' END;
$_locking_both$;
COMMENT ON FUNCTION flowguard._locking_both(boolean, regclass, regclass, text) IS
  'The beginning of a statement of an online plan that locks two tables; otherwise empty.';

CREATE OR REPLACE FUNCTION flowguard._caller_status(p_source regclass, p_link flowguard.link)
RETURNS TABLE (is_current boolean, lock text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_caller_status$
-- Whether what a source calls is as a link needs it; the lock that making it so takes. A constraint trigger cannot be
-- replaced: it is dropped first.
#variable_conflict use_column
DECLARE
  v_caller record := flowguard._caller(p_source, p_link);
BEGIN
  RETURN QUERY
    SELECT coalesce(bool_and(w.status = 'installed'), true) AND NOT x.is_left
             AND (v_caller.body IS NULL
                  OR flowguard._function_status(format('flowguard.%I()', v_caller.name), true, v_caller.body)
                     = 'installed'),
           format(CASE WHEN x.is_left OR coalesce(bool_or(w.is_replaced), false) THEN 'ACCESS EXCLUSIVE on %s'
                       ELSE 'SHARE ROW EXCLUSIVE on %s' END, p_source)
      FROM (SELECT EXISTS (SELECT FROM flowguard._callers(p_source) c
                            WHERE c.name NOT IN (
                              SELECT t.name
                                FROM flowguard._caller_triggers(p_source, v_caller.name, v_caller.followers) t))
           ) AS x (is_left)
      LEFT JOIN LATERAL (
        SELECT s.status, t.statement LIKE 'CREATE CONSTRAINT TRIGGER %' AND s.status NOT IN ('installed', 'missing')
                 AS is_replaced
          FROM flowguard._caller_triggers(p_source, v_caller.name, v_caller.followers) t
         CROSS JOIN LATERAL flowguard._trigger_status(t.relation, t.name, t.statement) AS s (status)) AS w ON true
     GROUP BY x.is_left;
END;
$_caller_status$;
COMMENT ON FUNCTION flowguard._caller_status(regclass, flowguard.link) IS
  'Whether the triggers of a source call what a link needs, and the lock that making them takes.';

CREATE OR REPLACE FUNCTION flowguard._set_source_triggers(p_source regclass, p_relation regclass, p_link_column name)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $_set_source_triggers$
-- Makes the triggers of a source, and the function that they call, as the link needs them that is guarded or is not any
-- more, and as other links have them. One at a time, for what each writes is made from what is there.
DECLARE
  v_link   flowguard.link;
  v_caller record;
  r_object record;
BEGIN
  PERFORM flowguard._serialize();
  SELECT l.* INTO v_link FROM flowguard.link l WHERE l.relation = p_relation AND l.link_column = p_link_column;
  IF NOT v_link.guarded THEN
    v_link.relation := NULL;
    v_link.link_column := NULL;
  END IF;
  v_caller := flowguard._caller(p_source, v_link);
  IF v_caller.body IS NOT NULL THEN
    EXECUTE format('CREATE OR REPLACE FUNCTION flowguard.%1$I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'AS %2$L', v_caller.name, v_caller.body);
    EXECUTE format('REVOKE ALL ON FUNCTION flowguard.%I() FROM PUBLIC', v_caller.name);
    EXECUTE format('COMMENT ON FUNCTION flowguard.%I() IS %L', v_caller.name,
                   format('Generated by PyFlowGuard for %s: calls what follows it.', p_source));
    FOR r_object IN
      SELECT f.called, h.rolname
        FROM jsonb_to_recordset(v_caller.followers) AS f (called text)
        JOIN pg_proc p ON p.oid = to_regprocedure(f.called)
        JOIN pg_proc c ON c.oid = to_regprocedure(format('flowguard.%I()', v_caller.name)) AND c.proowner <> p.proowner
        JOIN pg_roles h ON h.oid = c.proowner
       WHERE NOT has_function_privilege(h.oid, p.oid, 'EXECUTE') AND pg_has_role(current_user, p.proowner, 'USAGE')
    LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', r_object.called, r_object.rolname);
    END LOOP;
  END IF;
  FOR r_object IN
    SELECT c.name FROM flowguard._callers(p_source) c
     WHERE c.name NOT IN (
       SELECT t.name FROM flowguard._caller_triggers(p_source, v_caller.name, v_caller.followers) t)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', r_object.name, p_source);
  END LOOP;
  IF v_caller.body IS NULL THEN
    EXECUTE format('DROP FUNCTION IF EXISTS flowguard.%I()', v_caller.name);
    RETURN;
  END IF;
  FOR r_object IN
    SELECT t.name, t.statement, s.status
      FROM flowguard._caller_triggers(p_source, v_caller.name, v_caller.followers) t
     CROSS JOIN LATERAL flowguard._trigger_status(t.relation, t.name, t.statement) AS s (status)
     WHERE s.status <> 'installed'
  LOOP
    IF r_object.statement LIKE 'CREATE CONSTRAINT TRIGGER %' AND r_object.status <> 'missing' THEN
      EXECUTE format('DROP TRIGGER %I ON %s', r_object.name, p_source);
    END IF;
    EXECUTE r_object.statement;
    PERFORM flowguard._stamp_trigger(p_source, r_object.name, md5(r_object.statement));
  END LOOP;
END;
$_set_source_triggers$;
COMMENT ON FUNCTION flowguard._set_source_triggers(regclass, regclass, name) IS
  'Makes the triggers of a source call what a link needs, and what others have.';

CREATE OR REPLACE FUNCTION flowguard._obsolete_own(p_link flowguard.link, p_online boolean, p_strays boolean)
RETURNS TABLE (n integer, relation oid, statement text, lock text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_obsolete_own$
-- Triggers, functions, keys and views are of one link each, as their names tell: those that this link does not need;
-- p_strays: and those of no link that is registered. What only is to be told has a name that is quickly told apart.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    WITH mine AS MATERIALIZED (
      SELECT l AS link FROM flowguard.link l
       WHERE (l.relation, l.link_column) = (p_link.relation, p_link.link_column) AND flowguard._is_alive(l)
         AND (l.guarded OR p_link.guarded)
    )
    SELECT 1, t.tgrelid, format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass),
           format('ACCESS EXCLUSIVE on %s', t.tgrelid::regclass)
      FROM pg_trigger t
     WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND flowguard._is_ours(t.tgname)
       AND (p_strays OR starts_with(t.tgname::text, '~flowguard_' || p_link.stem || '_'))
       AND flowguard._is_for(p_link, t.tgname)
       AND (t.tgrelid, t.tgname::text) NOT IN (
             SELECT w.relation, w.name FROM mine n CROSS JOIN LATERAL flowguard._own_triggers(n.link) w)
    UNION ALL
    -- What a source still calls for this link, which does not follow it any more; p_strays: or for nobody.
    SELECT 1, s.relation, format('SELECT flowguard._set_source_triggers(%L, %L, %L)', s.relation, p_link.relation,
                                 p_link.link_column),
           format('ACCESS EXCLUSIVE on %s', s.relation)
      FROM (SELECT DISTINCT c.relation, p.prosrc FROM flowguard._callers() c JOIN pg_proc p ON p.oid = c.id) AS s
     WHERE s.relation NOT IN (SELECT x.source FROM mine n CROSS JOIN LATERAL flowguard._sources(n.link) AS x (source))
       AND (p_strays OR strpos(s.prosrc, format('"stem": %s', to_jsonb(p_link.stem::text))) > 0)
       AND EXISTS (SELECT FROM flowguard._followers(s.relation) f
                    WHERE f.stem = p_link.stem
                       OR p_strays AND NOT EXISTS (SELECT FROM flowguard.link l WHERE l.stem = f.stem AND l.guarded))
    UNION ALL
    SELECT 2, NULL, format('DROP FUNCTION %s', p.oid::regprocedure), 'none'
      FROM (SELECT f.oid, f.proname
              FROM pg_proc f
              JOIN pg_description d ON d.classoid = 'pg_proc'::regclass AND d.objoid = f.oid
                                   AND starts_with(d.description, 'Generated by PyFlowGuard')
             WHERE f.pronamespace = 'flowguard'::regnamespace
               AND (p_strays OR starts_with(f.proname::text, p_link.stem || '_'))
               AND d.description NOT LIKE '%: calls what follows it.'
            OFFSET 0) AS p
     WHERE flowguard._is_for(p_link, p.proname)
       AND p.oid NOT IN (SELECT w.oid FROM mine n CROSS JOIN LATERAL (
             SELECT to_regprocedure(f.signature)::oid AS oid FROM flowguard._own_functions(n.link, false) f) w
               WHERE w.oid IS NOT NULL)
    UNION ALL
    -- That of a source that was dropped.
    SELECT 2, NULL, format('DROP FUNCTION %s', p.oid::regprocedure), 'none'
      FROM pg_proc p
      JOIN pg_description d ON d.classoid = 'pg_proc'::regclass AND d.objoid = p.oid
                           AND d.description LIKE 'Generated by PyFlowGuard %: calls what follows it.'
     WHERE p_strays AND p.pronamespace = 'flowguard'::regnamespace
       AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)
       AND p.proname NOT IN (SELECT c.name FROM mine n CROSS JOIN LATERAL flowguard._sources(n.link) AS x (source)
                              CROSS JOIN LATERAL flowguard._caller_name(x.source) c)
    UNION ALL
    SELECT 3, c.conrelid, flowguard._locking_both(p_online, c.conrelid, c.confrelid, 'ACCESS EXCLUSIVE')
              || format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname),
           format('ACCESS EXCLUSIVE on %s and %s', c.conrelid::regclass, c.confrelid::regclass)
      FROM pg_constraint c
     WHERE c.contype = 'f' AND c.conparentid = 0 AND flowguard._is_ours(c.conname)
       AND (p_strays OR starts_with(c.conname::text, 'flowguard_' || p_link.stem || '_'))
       AND flowguard._is_for(p_link, c.conname)
       AND (c.conrelid, c.conname::text) NOT IN (
             SELECT (n.link).relation, w.name FROM mine n CROSS JOIN LATERAL flowguard._wanted_keys(n.link) w)
       -- nor one of a partition that is to be part of such a key
       AND NOT EXISTS (SELECT FROM mine n
                        CROSS JOIN LATERAL flowguard._wanted_keys(n.link) w
                         JOIN pg_partition_ancestors(c.conrelid) a ON a.relid = (n.link).relation
                        WHERE w.name = c.conname)
    UNION ALL
    SELECT 4, NULL, format('DROP VIEW %s', c.oid::regclass), 'none'
      FROM pg_class c
     WHERE c.relnamespace = 'flowguard'::regnamespace AND c.relkind = 'v'
       AND (p_strays OR starts_with(c.relname::text, p_link.stem || '_')) AND flowguard._is_for(p_link, c.relname)
       AND c.oid IN (SELECT v.id FROM flowguard._unread_views() AS v (id));
END;
$_obsolete_own$;
COMMENT ON FUNCTION flowguard._obsolete_own(flowguard.link, boolean, boolean) IS
  'Statements that remove what was made for a link and that it does not need any more.';

CREATE OR REPLACE FUNCTION flowguard._obsolete_shared(p_link flowguard.link)
RETURNS TABLE (n integer, relation oid, statement text, lock text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_obsolete_shared$
-- Indexes and statistics serve several links: those that neither this one nor any guarded one needs. What a link with
-- something gone needs cannot be told: on tables that it concerns all stays, until it is mended or unguarded.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    WITH guarded AS MATERIALIZED (
      SELECT l AS link, flowguard._is_alive(l) AS is_alive
        FROM flowguard.link l
       WHERE (l.guarded OR (l.relation, l.link_column) = (p_link.relation, p_link.link_column))
         AND (l.guarded OR p_link.guarded)
    ), needing AS MATERIALIZED (
      SELECT g.link FROM guarded g WHERE g.is_alive
    ), kept AS MATERIALIZED (
      -- Its table, its master, its sources, and the tables whose links follow it.
      SELECT t.relation::oid AS relation
        FROM guarded g
        LEFT JOIN flowguard.rule r ON (r.relation, r.link_column) = ((g.link).relation, (g.link).link_column)
        LEFT JOIN flowguard.rule f ON (f.source, f.source_link) = ((g.link).relation, (g.link).link_column)
       CROSS JOIN unnest(ARRAY[(g.link).relation, (g.link).master, r.source, f.relation]) AS t (relation)
       WHERE NOT g.is_alive AND t.relation IS NOT NULL
    )
    SELECT 5, i.indrelid, format('DROP INDEX %s', i.indexrelid::regclass),
           format('ACCESS EXCLUSIVE on %s', i.indrelid::regclass)
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
     WHERE flowguard._is_ours(c.relname)
       AND i.indrelid NOT IN (SELECT k.relation FROM kept k)
       AND NOT EXISTS (SELECT FROM kept k JOIN pg_partition_ancestors(i.indrelid) a ON a.relid = k.relation)
       AND (i.indrelid, c.relname::text) NOT IN (
             SELECT w.relation, w.name FROM needing n CROSS JOIN LATERAL flowguard._wanted_indexes(n.link) w)
       AND NOT EXISTS (SELECT FROM needing n
                        CROSS JOIN LATERAL flowguard._wanted_indexes(n.link) w
                         JOIN pg_partition_ancestors(i.indrelid) a ON a.relid = w.relation
                        CROSS JOIN LATERAL flowguard._index_sql(i.indrelid, w.columns, w.is_unique, w.predicate,
                                                                w.newest_first) x
                        WHERE x.name = c.relname)
       -- A key of another link that rests on it goes, or moves to another index, when that link is guarded.
       AND NOT EXISTS (SELECT FROM pg_constraint k
                        WHERE k.conindid = i.indexrelid AND k.contype = 'f'
                          AND NOT (flowguard._is_ours(k.conname) AND flowguard._is_for(p_link, k.conname)))
    UNION ALL
    SELECT 6, x.stxrelid, format('DROP STATISTICS %s.%I', x.stxnamespace::regnamespace, x.stxname),
           format('SHARE UPDATE EXCLUSIVE on %s', x.stxrelid::regclass)
      FROM pg_statistic_ext x
     WHERE flowguard._is_ours(x.stxname)
       AND x.stxrelid NOT IN (SELECT k.relation FROM kept k)
       AND NOT EXISTS (SELECT FROM kept k JOIN pg_partition_ancestors(x.stxrelid) a ON a.relid = k.relation)
       AND (x.stxrelid, x.stxname::text) NOT IN (
             SELECT w.relation, w.name FROM needing n CROSS JOIN LATERAL flowguard._wanted_statistics(n.link) w);
END;
$_obsolete_shared$;
COMMENT ON FUNCTION flowguard._obsolete_shared(flowguard.link) IS
  'Statements that remove indexes and statistics that no guarded link needs, or may need again.';

CREATE OR REPLACE FUNCTION flowguard._obsolete(
  p_link flowguard.link, p_online boolean, p_whole boolean DEFAULT true
) RETURNS TABLE (relation regclass, statement text, lock text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_obsolete$
-- Objects of ours that neither this link nor any guarded one needs, in the order in which they can go; and the table
-- that each is on, NULL for one of our schema. p_whole: and what any guard takes away, which whoever asks of one link
-- after the other need not hear each time.
  SELECT g.relation::regclass, g.statement, g.lock
    FROM (SELECT * FROM flowguard._obsolete_own(p_link, p_online, p_whole)
          UNION ALL SELECT * FROM flowguard._obsolete_shared(p_link) WHERE p_whole) AS g
   ORDER BY g.n, g.statement;
$_obsolete$;
COMMENT ON FUNCTION flowguard._obsolete(flowguard.link, boolean, boolean) IS
  'Statements that remove what no guarded link needs any more.';

CREATE OR REPLACE FUNCTION flowguard._check_schema() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_schema$
-- Raises FG110 unless the caller may put the generated functions, which it will own, into our schema.
BEGIN
  IF NOT has_schema_privilege(current_user, 'flowguard', 'CREATE') THEN
    RAISE EXCEPTION 'flowguard: % may not create functions in schema flowguard', current_user
      USING ERRCODE = 'FG110', DETAIL = 'What is generated lies there and belongs to whoever calls guard().',
            HINT = format('Let %I run "GRANT CREATE ON SCHEMA flowguard TO %I".',
                          (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'flowguard'),
                          current_user);
  END IF;
END;
$_check_schema$;
COMMENT ON FUNCTION flowguard._check_schema() IS
  'Raises FG110 where the caller may not create functions in schema flowguard.';

CREATE OR REPLACE FUNCTION flowguard._check_operators(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_operators$
-- Raises FG110 where generated code would take an operator that somebody else may make: of the operators in a schema
-- PostgreSQL takes the one for exactly the types of both sides, and those of a type are not those of its domains.
DECLARE
  r_column record;
BEGIN
  FOR r_column IN
    SELECT c.relation, c.name, n.nspname,
           string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                      ', ') AS grantees
      FROM (SELECT x.relation, x.name
              FROM (SELECT n.relation, n.name FROM flowguard._named_columns(p_link) n
                    UNION
                    SELECT t.relation, unnest(flowguard._row_key(t.relation))
                      FROM (SELECT p_link.relation UNION SELECT r.source FROM flowguard._rules(p_link) r
                             WHERE r.kind = 'proximity') AS t (relation)) AS x
              JOIN pg_attribute f ON f.attrelid = x.relation AND f.attname = x.name AND NOT f.attisdropped
              JOIN pg_type d ON d.oid = f.atttypid AND d.typtype = 'd'
            OFFSET 0) AS c
      JOIN pg_type b ON b.oid = (flowguard._column(c.relation, c.name)).type
      JOIN pg_opclass o ON o.opcintype = b.oid AND o.opcdefault
      JOIN pg_amop p ON p.amopfamily = o.opcfamily AND p.amoplefttype = b.oid AND p.amoprighttype = b.oid
      JOIN pg_operator q ON q.oid = p.amopopr
      JOIN pg_namespace n ON n.oid = q.oprnamespace AND n.nspname <> 'pg_catalog'
     CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
     WHERE a.privilege_type = 'CREATE' AND NOT flowguard._is_trusted(a.grantee)
     GROUP BY c.relation, c.name, n.nspname
     ORDER BY c.relation::text, c.name
  LOOP
    RAISE EXCEPTION 'flowguard: others may create operators in schema %, where those for column % of table % are',
                    quote_ident(r_column.nspname), quote_ident(r_column.name), r_column.relation
      USING ERRCODE = 'FG110',
            DETAIL = 'Its type is a domain: an operator for the domain itself would be taken instead, and run with the '
                     'rights of whoever calls guard().',
            HINT = format('Run "REVOKE CREATE ON SCHEMA %I FROM %s".', r_column.nspname, r_column.grantees);
  END LOOP;
END;
$_check_operators$;
COMMENT ON FUNCTION flowguard._check_operators(flowguard.link) IS
  'Raises FG110 where others could make an operator that generated code would take.';

CREATE OR REPLACE FUNCTION flowguard._rights(p_link flowguard.link, p_role oid)
RETURNS TABLE (relation regclass, owner name, is_owner boolean, is_made boolean, is_locked boolean, is_allowed boolean,
  is_hidden boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_rights$
-- The tables of a link, and what a role may do with them if it is to own the generated functions: whether it owns the
-- table, which it has to where something is made on it, may read it and, where that is needed, lock it and refer to it,
-- and whether row security hides rows from it.
  SELECT c.oid::regclass, pg_get_userbyid(c.relowner), o.is_owner, t.is_made, t.is_locked,
         has_table_privilege(p_role, c.oid, 'SELECT')
           AND (NOT t.is_locked OR has_table_privilege(p_role, c.oid, 'UPDATE'))
           AND (t.id <> p_link.master OR has_table_privilege(p_role, c.oid, 'REFERENCES')),
         c.relrowsecurity AND (c.relforcerowsecurity OR NOT o.is_owner)
           AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.oid = p_role)
    FROM (SELECT p_link.relation AS id, true AS is_locked, true AS is_made
          UNION SELECT p_link.master, false, false
          UNION SELECT r.source, r.kind = 'reference' AND r.source <> p_link.master, true
                  FROM flowguard._rules(p_link) r WHERE r.source IS NOT NULL) AS t
    JOIN pg_class c ON c.oid = t.id
   CROSS JOIN LATERAL (SELECT pg_has_role(p_role, c.relowner, 'USAGE')) AS o (is_owner)
   ORDER BY c.relname;
$_rights$;
COMMENT ON FUNCTION flowguard._rights(flowguard.link, oid) IS
  'What the owner of a link''s generated functions may do with each table.';

CREATE OR REPLACE FUNCTION flowguard._check_rights(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_rights$
-- Raises FG110 unless the caller, who will own the generated functions, may read and lock what they look up and is not
-- subject to row security on it: a look-up that silently finds nothing would leave rows unlinked.
DECLARE
  r_table record;
  r_index record;
BEGIN
  FOR r_table IN
    SELECT t.* FROM pg_roles u CROSS JOIN LATERAL flowguard._rights(p_link, u.oid) t WHERE u.rolname = current_user
  LOOP
    IF r_table.is_made AND NOT r_table.is_owner THEN
      RAISE EXCEPTION 'flowguard: % does not own table %', current_user, r_table.relation
        USING ERRCODE = 'FG110', DETAIL = 'Only the owner of a table can give it triggers, keys and indexes.',
              HINT = format('Run guard() as the owner, or "GRANT %I TO %I".', r_table.owner, current_user);
    ELSIF NOT r_table.is_allowed THEN
      RAISE EXCEPTION 'flowguard: % may not % table %', current_user,
                      concat_ws(' and ', 'read', CASE WHEN r_table.is_locked THEN 'lock' END,
                                CASE WHEN r_table.relation = p_link.master THEN 'refer to' END), r_table.relation
        USING ERRCODE = 'FG110', DETAIL = 'The generated functions run with the rights of whoever calls guard().',
              HINT = format('Run "GRANT %s ON %s TO %I".',
                            concat_ws(', ', 'SELECT', CASE WHEN r_table.is_locked THEN 'UPDATE' END,
                                      CASE WHEN r_table.relation = p_link.master THEN 'REFERENCES' END),
                            r_table.relation, current_user);
    ELSIF r_table.is_hidden THEN
      RAISE EXCEPTION 'flowguard: row security hides rows of table % from %', r_table.relation, current_user
        USING ERRCODE = 'FG110',
              DETAIL = 'The generated functions run with the rights of whoever calls guard() and must see every row.',
              HINT = CASE WHEN r_table.is_owner
                       THEN format('Run "ALTER TABLE %s NO FORCE ROW LEVEL SECURITY", or have guard() called by a role '
                         'with BYPASSRLS.',
                                   r_table.relation)
                       ELSE format('Have guard() called by the owner of %s or by a role with BYPASSRLS.',
                         r_table.relation) END;
    ELSIF NOT r_table.is_owner THEN
      -- The master, of which all that is needed is what a foreign key can rest on.
      FOR r_index IN
        SELECT w.verb || substr(w.definition, length(quote_ident(w.name)) + 2) AS statement
          FROM flowguard._wanted_indexes(p_link) w
         WHERE w.relation = r_table.relation
           AND NOT EXISTS (SELECT FROM pg_class x JOIN pg_class t USING (relnamespace)
                            WHERE t.oid = w.relation AND x.relname = w.name)
      LOOP
        RAISE EXCEPTION 'flowguard: table % lacks an index, and % does not own it', r_table.relation, current_user
          USING ERRCODE = 'FG110', DETAIL = 'The foreign key that proves the tenant rests on it.',
                HINT = format('Let %I run "%s".', r_table.owner, r_index.statement);
      END LOOP;
    END IF;
  END LOOP;
  FOR r_table IN
    SELECT s.source, p.oid::regprocedure AS caller, pg_get_userbyid(p.proowner) AS owner
      FROM flowguard._sources(p_link) AS s (source)
     CROSS JOIN LATERAL flowguard._callers(s.source) c
      JOIN pg_proc p ON p.oid = c.id
     WHERE NOT pg_has_role(current_user, p.proowner, 'USAGE')
  LOOP
    RAISE EXCEPTION 'flowguard: function % of % calls what follows table %', r_table.caller, quote_ident(r_table.owner),
                    r_table.source
      USING ERRCODE = 'FG110', DETAIL = 'It has to call this link as well, and only its owner can change it.',
            HINT = format('Run guard() as %I, or "GRANT %1$I TO %I".', r_table.owner, current_user);
  END LOOP;
  PERFORM flowguard._check_schema();
  PERFORM flowguard._check_columns(p_link);
  PERFORM flowguard._check_operators(p_link);
END;
$_check_rights$;
COMMENT ON FUNCTION flowguard._check_rights(flowguard.link) IS
  'Raises FG110 where the caller may not read, lock or change what a guard needs, or row security hides rows from it.';

CREATE OR REPLACE FUNCTION flowguard._check_unique(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_unique$
-- Raises FG105 where a key of the link would rest on a unique index that a partitioned table cannot have.
DECLARE
  r_index record;
BEGIN
  FOR r_index IN
    SELECT w.relation, w.columns, flowguard._partition_columns(w.relation) AS split_by
      FROM flowguard._wanted_indexes(p_link) w
     WHERE w.is_unique AND NOT flowguard._can_be_unique(w.relation, w.columns)
  LOOP
    RAISE EXCEPTION 'flowguard: table % cannot have a unique index on (%), for it is partitioned by %',
                    r_index.relation, flowguard._columns_sql(r_index.columns), flowguard._columns_sql(r_index.split_by)
      USING ERRCODE = 'FG105',
            DETAIL = format('A unique index of a partitioned table holds every column that it is partitioned by, and '
                            'foreign keys of table %s rest on this one.', p_link.relation),
            HINT = format('Let the link have %s among its tenant columns, NOT NULL in all its tables.',
                          flowguard._columns_sql(ARRAY(SELECT unnest(r_index.split_by)
                                                       EXCEPT SELECT unnest(r_index.columns))));
  END LOOP;
END;
$_check_unique$;
COMMENT ON FUNCTION flowguard._check_unique(flowguard.link) IS
  'Raises FG105 where a link needs a unique index that a partitioned table cannot have.';

CREATE OR REPLACE FUNCTION flowguard._replace_key(p_relation regclass, p_constraint name, p_link_column name)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_replace_key$
-- Drops a foreign key of the application in favour of ours, and keeps what it takes to put it back.
BEGIN
  INSERT INTO flowguard.replaced_constraint (relation, constraint_name, link_column, definition, validated, comment)
  SELECT p_relation, k.conname, p_link_column, k.definition, k.validated, k.comment
    FROM flowguard._foreign_keys(p_relation, p_link_column) k WHERE k.conname = p_constraint
  ON CONFLICT (relation, constraint_name) DO NOTHING;
  EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', p_relation, p_constraint);
END;
$_replace_key$;
COMMENT ON FUNCTION flowguard._replace_key(regclass, name, name) IS
  'Drops a foreign key of the application and keeps its definition for unguard().';

CREATE OR REPLACE FUNCTION flowguard._add_key_back(
  p_relation regclass, p_constraint name, p_definition text, p_validated boolean, p_comment text
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_add_key_back$
-- Adds a foreign key of the application again, validated if it was and present rows allow it.
DECLARE
  v_by_parts boolean := flowguard._goes_by_parts(p_relation);
BEGIN
  EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', p_relation, p_constraint, p_definition,
                 CASE WHEN v_by_parts THEN '' ELSE ' NOT VALID' END);
  IF p_comment IS NOT NULL THEN
    EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', p_constraint, p_relation, p_comment);
  END IF;
  IF p_validated AND NOT v_by_parts THEN
    BEGIN
      EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', p_relation, p_constraint);
    EXCEPTION WHEN foreign_key_violation THEN
      RAISE NOTICE 'foreign key % of table % is back, but NOT VALID: %', p_constraint, p_relation, SQLERRM
        USING HINT = format('Mend the rows, then run "ALTER TABLE %s VALIDATE CONSTRAINT %I".', p_relation,
                            p_constraint);
    END;
  END IF;
END;
$_add_key_back$;
COMMENT ON FUNCTION flowguard._add_key_back(regclass, name, text, boolean, text) IS
  'Adds a foreign key of the application again, NOT VALID where present rows violate it.';

CREATE OR REPLACE FUNCTION flowguard._check_columns(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_columns$
-- Raises FG102 where a column that the link or one of its rules names is not there any more, as after a rename.
BEGIN
  PERFORM flowguard._is_not_null(n.relation, n.name) FROM flowguard._named_columns(p_link) n;
END;
$_check_columns$;
COMMENT ON FUNCTION flowguard._check_columns(flowguard.link) IS
  'Raises FG102 where a column that a link or one of its rules names is gone.';

CREATE OR REPLACE FUNCTION flowguard._plan(p_link flowguard.link, p_online boolean, p_whole boolean DEFAULT true)
RETURNS TABLE (step integer, statement text, lock text, in_transaction boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET jit = off SET plan_cache_mode = force_generic_plan SET quote_all_identifiers = off AS $_plan$
-- What is missing, in order: indexes and statistics, keys, views and functions, triggers; then what has become
-- superfluous; p_whole as for _obsolete().
-- Online: indexes are built CONCURRENTLY, so that their statements cannot run in a transaction.
-- The catalog is asked by keys, in very many functions: a plan that is made once serves every key, and PostgreSQL would
-- make five before it thinks of that. So it is wherever a link is looked at as a whole.
#variable_conflict use_column
BEGIN
  PERFORM flowguard._check_columns(p_link);
  -- 0. the registry says that all this is meant to be there: nobody takes it away while it is being built
  IF NOT p_link.guarded THEN
    RETURN QUERY SELECT 0, format('UPDATE flowguard.link SET guarded = true WHERE relation = %L::regclass '
                                  'AND link_column = %L', p_link.relation, p_link.link_column), 'none', true;
    p_link.guarded := true;
  END IF;
  -- 1. indexes
  RETURN QUERY
    SELECT 0, x.statement, x.lock, x.in_transaction
      FROM flowguard._wanted_indexes(p_link) WITH ORDINALITY
        AS w (relation, name, verb, definition, columns, is_unique, predicate, newest_first, n)
     CROSS JOIN LATERAL flowguard._index_steps(w.relation, w.columns, w.is_unique, w.predicate, w.newest_first,
                                               p_online) WITH ORDINALITY AS x (statement, lock, in_transaction, k)
     ORDER BY w.n, x.k;

  -- and what the planner must know to use them, read off a sample at once
  RETURN QUERY
    SELECT 0, format('CREATE STATISTICS %s; ANALYZE %s', w.definition, w.relation),
           format('SHARE UPDATE EXCLUSIVE on %s', w.relation), true
      FROM flowguard._wanted_statistics(p_link) w WHERE NOT w.is_made;

  -- 2. keys
  RETURN QUERY
    SELECT 0, x.statement, x.lock, x.in_transaction
      FROM flowguard._wanted_keys(p_link) WITH ORDINALITY AS w (name, definition, target, n)
     CROSS JOIN LATERAL flowguard._key_steps(p_link.relation, w.name, w.definition, w.target, p_online)
                          WITH ORDINALITY AS x (statement, lock, in_transaction, k)
     ORDER BY w.n, x.k;
  RETURN QUERY
    SELECT 0, flowguard._locking_both(p_online, p_link.relation, p_link.master, 'ACCESS EXCLUSIVE')
              || format('SELECT flowguard._replace_key(%L, %L, %L)', p_link.relation, k.conname, p_link.link_column),
           format('ACCESS EXCLUSIVE on %s and %s', p_link.relation, p_link.master), true
      FROM flowguard._own_keys(p_link) k WHERE NOT k.kept;

  -- 3. views and functions
  RETURN QUERY
    SELECT 0, v.statement, 'none', true
      FROM flowguard._rules(p_link) r
     CROSS JOIN LATERAL flowguard._view_sql(p_link, r) AS v (statement)
     WHERE v.statement IS NOT NULL;
  RETURN QUERY
    SELECT 0, format('CREATE OR REPLACE FUNCTION %1$s RETURNS %2$s LANGUAGE plpgsql%3$s AS %4$L; '
                     'REVOKE ALL ON FUNCTION %1$s FROM PUBLIC; COMMENT ON FUNCTION %1$s IS %5$L',
                     replace(f.signature, '(record,record,integer)', '(old record, new record, tg_nargs integer)'),
                     f.returns, CASE WHEN f.is_definer THEN ' SECURITY DEFINER' ELSE '' END, f.body,
                     format('Generated by PyFlowGuard for link %I of %s: %s.', p_link.link_column, p_link.relation,
                       f.description)),
           'none', true
      FROM flowguard._own_functions(p_link) f
     WHERE flowguard._function_status(f.signature, f.is_definer, f.body) <> 'installed';

  -- 4. triggers
  RETURN QUERY
    SELECT 0, format('%s%s; SELECT flowguard._stamp_trigger(%L, %L, %L)',
                     -- A constraint trigger cannot be replaced. Any other that is comes back enabled, on each partition
                     -- too; before 15 only a superuser may call ENABLE TRIGGER for a table that has some.
                     CASE WHEN x.is_replaced THEN format('DROP TRIGGER %I ON %s; ', w.name, w.relation) ELSE '' END,
                     w.statement, w.relation, w.name, md5(w.statement)),
           format(CASE WHEN x.is_replaced THEN 'ACCESS EXCLUSIVE on %s' ELSE 'SHARE ROW EXCLUSIVE on %s' END,
             w.relation), true
      FROM flowguard._own_triggers(p_link) w
     CROSS JOIN LATERAL flowguard._trigger_status(w.relation, w.name, w.statement) AS s (status)
     CROSS JOIN LATERAL (SELECT w.statement LIKE 'CREATE CONSTRAINT TRIGGER %'
       AND s.status <> 'missing') AS x (is_replaced)
     WHERE s.status <> 'installed';
  RETURN QUERY
    SELECT 0, format('SELECT flowguard._set_source_triggers(%L, %L, %L)', s.source, p_link.relation,
                     p_link.link_column),
           x.lock, true
      FROM flowguard._sources(p_link) AS s (source)
     CROSS JOIN LATERAL flowguard._caller_status(s.source, p_link) x
     WHERE NOT x.is_current;

  -- 5. what is not meant to be there any more
  RETURN QUERY SELECT 0, o.statement, o.lock, true FROM flowguard._obsolete(p_link, p_online, p_whole) o;
END;
$_plan$;
COMMENT ON FUNCTION flowguard._plan(flowguard.link, boolean, boolean) IS
  'What is missing for a link to be guarded, with indexes built concurrently or not.';

CREATE OR REPLACE FUNCTION flowguard._tell_incomplete(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_tell_incomplete$
-- A NOTICE where a link that is enforced and not guarded yet has rows that its guard would refuse. Online it is the
-- plan that says so, once: the first of its statements makes the link guarded.
DECLARE
  v_count record;
BEGIN
  IF p_link.mode = 'enforce' AND NOT p_link.guarded THEN
    v_count := flowguard._count_links(p_link);
    IF v_count.linked < v_count.total THEN
      RAISE NOTICE 'table %: % of % rows are not validly linked, and the link is enforced: writing them is refused',
                   p_link.relation, v_count.total - v_count.linked, v_count.total
        USING HINT = format('Run "CALL flowguard.repair(%1$L, link_column => %2$L)", or flowguard.set_mode(%1$L, '
                            '''observe'', %2$L).', p_link.relation, p_link.link_column);
    END IF;
  END IF;
END;
$_tell_incomplete$;
COMMENT ON FUNCTION flowguard._tell_incomplete(flowguard.link) IS
  'A NOTICE where the guard of an enforced link would refuse rows that are there.';

CREATE OR REPLACE FUNCTION flowguard.guard_plan(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS TABLE (step integer, statement text, lock text, in_transaction boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $guard_plan$
#variable_conflict use_column
DECLARE
  v_link flowguard.link := flowguard._link($1, $2);
BEGIN
  PERFORM flowguard._check_alone(v_link.relation, v_link.link_column);
  PERFORM flowguard._check_unique(v_link);
  PERFORM flowguard._check_rights(v_link);
  PERFORM flowguard._tell_incomplete(v_link);
  RETURN QUERY
    SELECT (row_number() OVER ())::integer, p.statement, p.lock, p.in_transaction FROM flowguard._plan(v_link, true) p;
END;
$guard_plan$;
COMMENT ON FUNCTION flowguard.guard_plan(regclass, name) IS
'What is missing for a link to be guarded as its rules say, as statements to be run one by one: indexes are built
concurrently, keys added NOT VALID and then validated, so that writers wait for moments only. No rows: nothing is
missing. A VALIDATE that fails says which rows have to be repaired first. Where a link is enforced and not guarded yet
its rows are counted, and a NOTICE says how many are not linked. Changes nothing.
relation: the child table.
link_column: the column that holds the link.
step: the order, from 1.
statement: the statement.
lock: the strongest lock that it takes, and on what.
in_transaction: whether it may run inside a transaction.
Errors: FG102 a column is gone; FG105 a partitioned table cannot have a unique index that is needed; FG107 no such link;
  FG108 a partition of the table, or the table that it is a partition of, is registered as well; FG109 a foreign key of
  the application points to another column; FG110 rights are missing.';

CREATE OR REPLACE FUNCTION flowguard.guard(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS TABLE (step integer, statement text, lock text, in_transaction boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
#variable_conflict use_column
DECLARE
  v_link  flowguard.link;
  v_kept  text[] := '{}'::text[];  -- keys that stay NOT VALID
  r_step  record;
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link($1, $2);
  PERFORM flowguard._check_alone(v_link.relation, v_link.link_column);
  PERFORM flowguard._check_unique(v_link);
  PERFORM flowguard._check_rights(v_link);
  PERFORM flowguard._tell_incomplete(v_link);
  step := 0;
  FOR r_step IN SELECT p.* FROM flowguard._plan(v_link, false) p LOOP
    -- The key of the whole can only come when those of all partitions are validated.
    CONTINUE WHEN r_step.statement NOT LIKE '% NOT VALID'
              AND EXISTS (SELECT FROM unnest(v_kept) AS k (name)
                           WHERE strpos(r_step.statement, format(' ADD CONSTRAINT %s ', k.name)) > 0);
    step := step + 1;
    statement := r_step.statement;
    lock := r_step.lock;
    in_transaction := true;
    RAISE DEBUG 'flowguard: %', statement;
    IF statement LIKE '% VALIDATE CONSTRAINT %' THEN
      BEGIN
        EXECUTE statement;
      EXCEPTION WHEN foreign_key_violation THEN
        RAISE NOTICE 'table %: a key stays NOT VALID, for present rows violate it: %', v_link.relation, SQLERRM
          USING HINT = format('See flowguard.violation, run "CALL flowguard.repair(%1$L, link_column => %2$L)", then '
                              'flowguard.guard(%1$L, %2$L) again.', v_link.relation, v_link.link_column);
        v_kept := v_kept || regexp_replace(statement, '^.* VALIDATE CONSTRAINT ', '');
        CONTINUE;
      END;
    ELSE
      EXECUTE statement;
    END IF;
    RETURN NEXT;
  END LOOP;
END;
$guard$;
COMMENT ON FUNCTION flowguard.guard(regclass, name) IS
'Makes a link guarded as its rules say: runs what is missing (indexes, statistics, foreign keys, functions, triggers),
drops what is superfluous, all in one transaction. Takes SHARE ROW EXCLUSIVE on the tables until commit, so writers
wait, and ACCESS EXCLUSIVE where a key or a trigger is replaced or dropped; for large tables run the statements of
guard_plan() one by one. A key that present rows violate stays NOT VALID, with a NOTICE, and binds new rows; after
repair(), guard() again validates it. The caller must own the tables and have CREATE on schema flowguard.
relation: the child table.
link_column: the column that holds the link.
step: the order, from 1.
statement: what was run; no rows where nothing was missing.
lock: the strongest lock that it took, and on what.
in_transaction: true.
Errors: FG102 a column is gone; FG105 a partitioned table cannot have a unique index that is needed; FG107 no such link;
  FG108 a partition of the table, or the table that it is a partition of, is registered as well; FG109 a foreign key of
  the application points to another column; FG110 rights are missing.';

CREATE OR REPLACE FUNCTION flowguard.unguard(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $unguard$
-- Takes away what guard() made, and puts back the application's keys that it replaced.
#variable_conflict use_column
DECLARE
  v_link      flowguard.link;
  v_statement text;
  r_key       flowguard.replaced_constraint;
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link($1, $2);
  UPDATE flowguard.link l SET guarded = false, paused = false
   WHERE l.relation = v_link.relation AND l.link_column = v_link.link_column AND l.guarded;
  v_link.guarded := false;
  FOR v_statement IN SELECT o.statement FROM flowguard._obsolete(v_link, false) o LOOP
    RAISE DEBUG 'flowguard: %', v_statement;
    EXECUTE v_statement;
    RETURN NEXT v_statement;
  END LOOP;
  FOR r_key IN
    DELETE FROM flowguard.replaced_constraint c
     WHERE c.relation = v_link.relation AND c.link_column = v_link.link_column RETURNING c.*
  LOOP
    IF NOT flowguard._is_alive(v_link) THEN
      RAISE NOTICE 'foreign key % of table % is not put back: % gone', r_key.constraint_name, r_key.relation,
                   flowguard._missing(v_link)
        USING DETAIL = r_key.definition,
              HINT = format('Run "ALTER TABLE %s ADD CONSTRAINT %I <its definition, with the names of now>".',
                            r_key.relation, r_key.constraint_name);
      CONTINUE;
    END IF;
    PERFORM flowguard._add_key_back(r_key.relation, r_key.constraint_name, r_key.definition, r_key.validated,
      r_key.comment);
    RETURN NEXT format('ALTER TABLE %s ADD CONSTRAINT %I %s', r_key.relation, r_key.constraint_name, r_key.definition);
  END LOOP;
END;
$unguard$;
COMMENT ON FUNCTION flowguard.unguard(regclass, name) IS
'Takes away the triggers, functions, foreign keys, indexes and statistics that guard() made for a link and no other
link needs, and puts back the foreign keys that it replaced. Takes ACCESS EXCLUSIVE on the tables for a moment. The
link stays registered. Called again it does nothing.
relation: the child table.
link_column: the column that holds the link.
Returns the statements that it ran.
Errors: FG107 no such link.';

CREATE OR REPLACE FUNCTION flowguard.drop_link(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS flowguard.link
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_link$
-- Forgets a link that is not guarded.
#variable_conflict use_column
DECLARE
  v_link flowguard.link;
BEGIN
  PERFORM flowguard._serialize();
  SELECT l.* INTO v_link FROM flowguard.link l WHERE l.relation = $1 AND l.link_column = $2;
  IF v_link.guarded THEN
    RAISE EXCEPTION 'flowguard: link %.% is guarded', $1, quote_ident($2)
      USING ERRCODE = 'FG112', DETAIL = 'Its triggers, keys and indexes are in place.',
            HINT = format('Call flowguard.unguard(%L, %L) first.', $1, $2);
  END IF;
  DELETE FROM flowguard.link l WHERE l.relation = $1 AND l.link_column = $2;
  PERFORM flowguard._sync_views();
  RETURN v_link;
END;
$drop_link$;
COMMENT ON FUNCTION flowguard.drop_link(regclass, name) IS
'Forgets a link that is not guarded, and its rules. No table is touched; the ledger stays.
relation: the child table.
link_column: the column that holds the link.
Returns the link; NULL where there was none.
Errors: FG112 it is still guarded.';

CREATE OR REPLACE FUNCTION flowguard._replace_functions(p_link flowguard.link) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_replace_functions$
-- Brings the bodies of the generated functions up to date. Functions only: no table is locked.
DECLARE
  v_statement text;
BEGIN
  FOR v_statement IN
    SELECT p.statement FROM flowguard._plan(p_link, false) p WHERE p.statement LIKE 'CREATE OR REPLACE FUNCTION %'
  LOOP
    EXECUTE v_statement;
  END LOOP;
  -- Those that triggers of 1.1.0 call, as long as guard() has not put those of the sources in their place.
  FOR v_statement IN
    SELECT format('CREATE OR REPLACE FUNCTION %s RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L', s.signature,
                  flowguard._follow_body(p_link, r))
      FROM flowguard._rules(p_link) r
     CROSS JOIN LATERAL flowguard._follow_signature(p_link, r, 'trigger') AS s (signature)
     WHERE r.kind <> 'session' AND to_regprocedure(s.signature) IS NOT NULL
  LOOP
    EXECUTE v_statement;
  END LOOP;
END;
$_replace_functions$;
COMMENT ON FUNCTION flowguard._replace_functions(flowguard.link) IS
  'Brings the bodies of a link''s generated functions up to date without locking a table.';

CREATE OR REPLACE FUNCTION flowguard.set_mode(
  relation regclass, mode text, link_column name DEFAULT 'master_flow_id', online boolean DEFAULT false
) RETURNS flowguard.link
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $set_mode$
-- Changes the mode and, where the link is guarded and not online, what depends on it. Writers wait while rows are
-- counted for enforce, but online.
#variable_conflict use_column
DECLARE
  p_mode   ALIAS FOR $2;
  p_online ALIAS FOR $4;
  v_link   flowguard.link;
  v_count  record;
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link($1, $3);
  IF p_mode IS NULL OR p_mode NOT IN ('observe', 'enforce') THEN
    PERFORM flowguard._refuse_argument(format('mode %s is unknown', coalesce(quote_literal(p_mode), 'NULL')),
      'observe accepts and lists unlinked rows, enforce refuses them at commit.',
      'Pass mode => ''observe'' or ''enforce''.');
  END IF;
  IF p_mode = 'enforce' THEN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
      PERFORM flowguard._refuse_argument(
        format('a link cannot be enforced at isolation level %s', current_setting('transaction_isolation')),
        'Rows that others committed since the transaction began would not be counted.',
        'Call it after "BEGIN ISOLATION LEVEL READ COMMITTED".');
    END IF;
    IF v_link.mode <> p_mode AND p_online IS NOT TRUE THEN
      EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', v_link.relation);
    END IF;
    v_count := flowguard._count_links(v_link);
    IF v_count.linked < v_count.total THEN
      RAISE EXCEPTION 'flowguard: link %.% cannot be enforced yet', v_link.relation, quote_ident(v_link.link_column)
        USING ERRCODE = 'FG113',
              DETAIL = format('Of %s rows %s are unlinked, %s dangling, %s mismatched and %s without a tenant.',
                v_count.total,
                              v_count.unlinked, v_count.dangling, v_count.mismatched, v_count.tenantless),
              HINT = format('See flowguard.violation, run "CALL flowguard.repair(%L, link_column => %L)", then set the '
                'mode '
                            'again.', v_link.relation, v_link.link_column);
    END IF;
  END IF;
  IF v_link.mode = p_mode THEN
    RETURN v_link;
  END IF;
  UPDATE flowguard.link l SET mode = p_mode WHERE l.relation = v_link.relation AND l.link_column = v_link.link_column;
  v_link.mode := p_mode;
  IF v_link.guarded AND p_online IS NOT TRUE THEN
    PERFORM flowguard.guard(v_link.relation, v_link.link_column);
  END IF;
  RETURN v_link;
END;
$set_mode$;
COMMENT ON FUNCTION flowguard.set_mode(regclass, text, name, boolean) IS
'Sets the mode of a link and brings a guarded link up to date. For enforce it counts the rows first, and writers of
the child table wait until commit. With online nobody waits: the rows are counted, the mode is written down, and what
depends on it is missing until the statements of guard_plan() have been run. Then let those who write meanwhile end
("BEGIN; LOCK TABLE … IN SHARE MODE; COMMIT") and call set_mode() again: for a link that is enforced already it locks
nothing and counts once more. pyflowguard set-mode does all this.
relation: the child table.
mode: observe, unlinked rows are accepted and listed; enforce, they are refused at commit.
link_column: the column that holds the link.
online: only write the mode down.
Returns the link.
Errors: FG104 no such mode, or enforce asked for at another isolation level than READ COMMITTED; FG107 no such link;
  FG113 rows are unlinked, dangling, mismatched or without a tenant; those of guard().';

CREATE OR REPLACE FUNCTION flowguard._set_paused(p_relation regclass, p_link_column name, p_paused boolean)
RETURNS flowguard.link
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_set_paused$
DECLARE
  v_link flowguard.link;
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link(p_relation, p_link_column);
  IF NOT v_link.guarded THEN
    RAISE EXCEPTION 'flowguard: link %.% is not guarded', p_relation, quote_ident(p_link_column)
      USING ERRCODE = 'FG107', DETAIL = 'There is nothing to pause or to resume.',
            HINT = format('Call flowguard.guard(%L, %L) first.', p_relation, p_link_column);
  END IF;
  PERFORM flowguard._check_schema();
  v_link.paused := p_paused;
  UPDATE flowguard.link l SET paused = p_paused
   WHERE l.relation = p_relation AND l.link_column = p_link_column AND l.paused <> p_paused;
  PERFORM flowguard._replace_functions(v_link);
  RETURN v_link;
END;
$_set_paused$;
COMMENT ON FUNCTION flowguard._set_paused(regclass, name, boolean) IS 'What pause() and resume() share; raises FG107.';

CREATE OR REPLACE FUNCTION flowguard.pause(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS flowguard.link
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $pause$
  SELECT flowguard._set_paused($1, $2, true);
$pause$;
COMMENT ON FUNCTION flowguard.pause(regclass, name) IS
'Makes the triggers of a link do nothing until resume(): nothing is filled, followed or refused by them. Function bodies
are replaced, so no table is locked. Foreign keys go on to hold.
relation: the child table.
link_column: the column that holds the link.
Returns the link.
Errors: FG102 a column is gone; FG107 no such link, or it is not guarded; FG110 rights are missing.';

CREATE OR REPLACE FUNCTION flowguard.resume(relation regclass, link_column name DEFAULT 'master_flow_id')
RETURNS flowguard.link
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $resume$
  SELECT flowguard._set_paused($1, $2, false);
$resume$;
COMMENT ON FUNCTION flowguard.resume(regclass, name) IS
'Ends pause(). Rows written meanwhile are listed in flowguard.violation, and repair() links them.
relation: the child table.
link_column: the column that holds the link.
Returns the link.
Errors: FG102 a column is gone; FG107 no such link, or it is not guarded; FG110 rights are missing.';

CREATE OR REPLACE FUNCTION flowguard._renew_triggers(p_stems text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_renew_triggers$
-- First it is worked out what to do, then it is done, in a moment: tables stay locked until the upgrade commits. A
-- table that is not free at once is not waited for, so that nobody who waits for us is ever the victim of a deadlock.
-- Such a link, and one that is somebody else's, or for which guard() was not called since it was changed, stays as it
-- is, and works.
DECLARE
  v_may_wait  text := current_setting('lock_timeout');
  v_links     flowguard.link[] := '{}'::flowguard.link[];
  v_plans     jsonb := jsonb '[]';
  v_plan      jsonb;
  v_link      flowguard.link;
  v_statement text;
BEGIN
  FOR v_link IN SELECT l.* FROM flowguard.link l WHERE l.guarded ORDER BY l.stem LOOP
    CONTINUE WHEN NOT flowguard._is_alive(v_link);  -- which is a finding already
    BEGIN
      v_plan := (SELECT coalesce(jsonb_agg(p.statement ORDER BY p.ordinality), '[]')
                   FROM flowguard._plan(v_link, false, false) WITH ORDINALITY p
                  WHERE p.statement ~ '^(CREATE OR REPLACE (FUNCTION|TRIGGER) |CREATE CONSTRAINT TRIGGER '
                                      '|DROP (TRIGGER|FUNCTION) |SELECT flowguard[.]_set_source_triggers)');
      IF v_link.stem = ANY (p_stems) THEN
        PERFORM flowguard._check_rights(v_link);
      ELSIF v_plan <> '[]' THEN
        v_plan := to_jsonb(text 'they were not as its rules and its mode say before');
      END IF;
    EXCEPTION WHEN OTHERS THEN
      v_plan := to_jsonb(SQLERRM);
    END;
    v_links := v_links || v_link;
    v_plans := v_plans || jsonb_build_array(v_plan);
  END LOOP;
  PERFORM set_config('lock_timeout', '100ms', true);
  FOR i IN 1 .. cardinality(v_links) LOOP
    v_link := v_links[i];
    v_plan := v_plans -> (i - 1);
    IF jsonb_typeof(v_plan) = 'array' THEN
      BEGIN
        FOR v_statement IN SELECT p.statement FROM jsonb_array_elements_text(v_plan) AS p (statement) LOOP
          EXECUTE v_statement;
        END LOOP;
        CONTINUE;
      EXCEPTION WHEN OTHERS THEN
        v_plan := to_jsonb(SQLERRM);
      END;
    END IF;
    RAISE WARNING 'flowguard: link %.% stays guarded by the triggers that it has: %', v_link.relation,
      quote_ident(v_link.link_column), v_plan #>> '{}'
      USING DETAIL = 'This release has others. They work on as they did.',
            HINT = format('Call flowguard.guard(%L, %L) as the role that owns the tables.',
                          v_link.relation, v_link.link_column);
  END LOOP;
  PERFORM set_config('lock_timeout', v_may_wait, true);
END;
$_renew_triggers$;
COMMENT ON FUNCTION flowguard._renew_triggers(text[]) IS
  'Gives guarded links, told by their stems, the triggers of this release, where their tables are free; warns of a '
  'link whose triggers stay otherwise.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();
SELECT flowguard._renew_triggers(current_setting('flowguard.renew')::text[]);

COMMIT;
