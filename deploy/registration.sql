-- Deploy pyflowguard:registration to pg
-- The calls that say what is to be guarded. They write the registry and touch no application table; guard() does the
-- rest. A second call with the same words changes nothing and returns what is there.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._link(p_relation regclass, p_link_column name) RETURNS flowguard.link
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_link$
-- The registered link; raises FG107 where there is none.
DECLARE
  v_link flowguard.link;
BEGIN
  SELECT * INTO v_link FROM flowguard.link l WHERE l.relation = p_relation AND l.link_column = p_link_column;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: column % of table % is not registered as a link',
                    coalesce(quote_ident(p_link_column), 'NULL'), coalesce(p_relation::text, 'NULL')
      USING ERRCODE = 'FG107',
            DETAIL = coalesce('Registered links: '
                              || (SELECT string_agg(format('%s.%I', l.relation, l.link_column), ', ' ORDER BY l.stem)
                                    FROM flowguard.link l) || '.',
                              'No link is registered.'),
            HINT = format('Call flowguard.add_link(%L, link_column => %L) first.',
                          coalesce(p_relation::text, '<table>'), coalesce(p_link_column, '<column>'));
  END IF;
  RETURN v_link;
END;
$_link$;
COMMENT ON FUNCTION flowguard._link(regclass, name) IS 'The registered link; raises FG107 where there is none.';

CREATE OR REPLACE FUNCTION flowguard._master(p_relation regclass) RETURNS flowguard.master
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_master$
-- The registered master, or the only one there is for NULL; raises FG107 otherwise.
DECLARE
  v_master flowguard.master;
BEGIN
  IF p_relation IS NULL AND (SELECT count(*) FROM flowguard.master) = 1 THEN
    SELECT * INTO v_master FROM flowguard.master;
  ELSE
    SELECT * INTO v_master FROM flowguard.master m WHERE m.relation = p_relation;
  END IF;
  IF v_master.relation IS NULL THEN
    RAISE EXCEPTION 'flowguard: %', CASE WHEN p_relation IS NULL THEN 'which master a link points to must be said'
                                         ELSE format('table %s is not registered as a master', p_relation) END
      USING ERRCODE = 'FG107',
            DETAIL = coalesce('Registered masters: '
                              || (SELECT string_agg(m.relation::text, ', ' ORDER BY m.relation::text)
                                    FROM flowguard.master m) || '.',
                              'No master is registered.'),
            HINT = 'Call flowguard.add_master(relation, key_column, tenant_columns) first, or pass one as master => ….';
  END IF;
  RETURN v_master;
END;
$_master$;
COMMENT ON FUNCTION flowguard._master(regclass) IS 'The registered master, or the only one for NULL; raises FG107.';

CREATE OR REPLACE FUNCTION flowguard._refuse_argument(p_message text, p_detail text, p_hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_argument$
-- Raises FG104: the value of an argument is none that the function takes.
BEGIN
  RAISE EXCEPTION 'flowguard: %', p_message USING ERRCODE = 'FG104', DETAIL = p_detail, HINT = p_hint;
END;
$_refuse_argument$;
COMMENT ON FUNCTION flowguard._refuse_argument(text, text, text) IS
  'Raises FG104 for an argument with an impossible value.';

CREATE OR REPLACE FUNCTION flowguard._refuse_other(p_what text, p_there jsonb, p_asked jsonb, p_hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_other$
-- Raises FG108, naming what differs, unless what is registered is what is asked for.
DECLARE
  v_differs text;
BEGIN
  SELECT string_agg(format('%s is %s, asked for is %s', a.key, p_there ->> a.key, coalesce(a.value #>> '{}', 'NULL')),
                    '; ' ORDER BY a.key)
    INTO v_differs
    FROM jsonb_each(p_asked) AS a
   WHERE a.value IS DISTINCT FROM p_there -> a.key;
  IF v_differs IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: % is already registered, otherwise', p_what
      USING ERRCODE = 'FG108', DETAIL = v_differs || '.', HINT = p_hint;
  END IF;
END;
$_refuse_other$;
COMMENT ON FUNCTION flowguard._refuse_other(text, jsonb, jsonb, text) IS
  'Raises FG108 where something is registered already with other values.';

CREATE OR REPLACE FUNCTION flowguard.add_master(
  relation regclass, key_column name, tenant_columns name[], alternate_keys name[] DEFAULT '{}',
  created_at_column name DEFAULT 'created_at'
) RETURNS flowguard.master
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $add_master$
-- Registers a table that links point to. The key must be unique, alone or together with the tenant columns.
#variable_conflict use_column
DECLARE
  p_relation   ALIAS FOR $1;
  p_key        ALIAS FOR $2;
  p_tenants    ALIAS FOR $3;
  p_alternates ALIAS FOR $4;
  p_created_at ALIAS FOR $5;
  v_master     flowguard.master;
  v_columns    name[];
  v_column     name;
BEGIN
  PERFORM flowguard._serialize();
  PERFORM flowguard._check_table(p_relation);
  v_master := (p_relation, p_key, coalesce(p_tenants, '{}'), coalesce(p_alternates, '{}'), p_created_at);
  v_columns := p_key || v_master.tenant_columns || v_master.alternate_keys;
  IF array_ndims(v_columns) <> 1
     OR cardinality(array_remove(v_columns, NULL)) <> (SELECT count(DISTINCT c) FROM unnest(v_columns) AS c) THEN
    PERFORM flowguard._refuse_argument(
      format('the columns of master %s must each be named once', p_relation),
      format('Key %s, tenant columns %s, alternate keys %s.', p_key, v_master.tenant_columns,
             v_master.alternate_keys),
      'Pass lists of column names in which none occurs twice.');
  END IF;
  FOREACH v_column IN ARRAY v_columns LOOP
    PERFORM flowguard._equal(p_relation, v_column);
  END LOOP;
  IF p_created_at IS NOT NULL
     AND (flowguard._column(p_relation, p_created_at)).type NOT IN ('timestamptz'::regtype, 'timestamp'::regtype) THEN
    RAISE EXCEPTION 'flowguard: column % of table % is no time', quote_ident(p_created_at), p_relation
      USING ERRCODE = 'FG103',
            DETAIL = format('It is of type %s.', (flowguard._column(p_relation, p_created_at)).type_name),
            HINT = 'Name a column of type timestamp with time zone or timestamp, or pass created_at_column => NULL.';
  END IF;
  FOREACH v_column IN ARRAY v_master.alternate_keys LOOP
    PERFORM flowguard._check_same_type(p_relation, v_column, p_relation, p_key);
  END LOOP;
  IF coalesce(flowguard._find_index(p_relation, ARRAY[p_key], true, false),
              flowguard._find_index(p_relation, v_master.tenant_columns || p_key, true, false)) IS NULL THEN
    RAISE EXCEPTION 'flowguard: column % of table % is not unique', quote_ident(p_key), p_relation
      USING ERRCODE = 'FG105',
            DETAIL = 'A key that two rows may share cannot say which of them is the master.',
            HINT = flowguard._unique_hint(p_relation, v_master.tenant_columns || p_key,
                                          v_master.tenant_columns || p_key, '.');
  END IF;

  INSERT INTO flowguard.master SELECT v_master.* ON CONFLICT (relation) DO NOTHING;
  PERFORM flowguard._refuse_other(format('master %s', p_relation), to_jsonb(m), to_jsonb(v_master),
                                  format('Call flowguard.drop_master(%L) first.', p_relation::text))
     FROM flowguard.master m WHERE m.relation = p_relation;
  RETURN v_master;
END;
$add_master$;
COMMENT ON FUNCTION flowguard.add_master(regclass, name, name[], name[], name) IS
'Registers a table that links point to. Nothing but the registry is written; a second call with the same words
changes nothing.
relation: the master table.
key_column: the column whose value a link holds; unique, alone or together with the tenant columns.
tenant_columns: columns that say whose row it is; ''{}'' where there are no tenants.
alternate_keys: other unique columns, of the key''s type, that are found in links by mistake; repair() translates them
  to the key.
created_at_column: when the master was made, a timestamp; NULL where the table does not say.
Returns the registered master.
Errors: FG101 no table; FG102 no such column; FG103 types differ, or cannot be compared; FG104 a column is named
  twice; FG105 the key is not unique; FG108 it is registered otherwise.';

CREATE OR REPLACE FUNCTION flowguard.drop_master(relation regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_master$
-- Forgets a master that no link points to; false where none was registered.
#variable_conflict use_column
DECLARE
  p_relation ALIAS FOR $1;
  v_links    text;
  v_calls    text;
BEGIN
  PERFORM flowguard._serialize();
  SELECT string_agg(format('%s.%I', l.relation, l.link_column), ', ' ORDER BY l.stem),
         string_agg(format('flowguard.drop_link(%L, %L)', l.relation, l.link_column), ', ' ORDER BY l.stem)
    INTO v_links, v_calls FROM flowguard.link l WHERE l.master = p_relation;
  IF v_links IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: master % still has links', p_relation
      USING ERRCODE = 'FG112',
            DETAIL = format('They are: %s.', v_links),
            HINT = format('Call %s first.', v_calls);
  END IF;
  DELETE FROM flowguard.master m WHERE m.relation = p_relation;
  RETURN FOUND;
END;
$drop_master$;
COMMENT ON FUNCTION flowguard.drop_master(regclass) IS
'Forgets a master. No table is touched.
relation: the master table.
Returns whether it was registered.
Errors: FG112 links still point to it.';

CREATE OR REPLACE FUNCTION flowguard._align_tenants(p_relation regclass, p_columns name[], p_master flowguard.master)
RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_align_tenants$
-- The tenant columns of a table in the order of those of the master, NULL where it has none for one.
-- p_columns NULL: those that the table has by name. By name where all are names of the master's, else by position.
DECLARE
  v_aligned name[] := '{}'::name[];
  v_column  name;
BEGIN
  IF p_columns IS NULL THEN
    SELECT coalesce(array_agg(a.attname ORDER BY t.ordinality), '{}')
      INTO v_aligned
      FROM unnest(p_master.tenant_columns) WITH ORDINALITY AS t (name, ordinality)
      LEFT JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = t.name AND a.attnum > 0
        AND NOT a.attisdropped;
  ELSIF p_columns <@ p_master.tenant_columns THEN
    SELECT coalesce(array_agg(CASE WHEN t.name = ANY (p_columns) THEN t.name END ORDER BY t.ordinality), '{}')
      INTO v_aligned
      FROM unnest(p_master.tenant_columns) WITH ORDINALITY AS t (name, ordinality);
  ELSIF cardinality(p_columns) = cardinality(p_master.tenant_columns) THEN
    v_aligned := p_columns;
  ELSE
    PERFORM flowguard._refuse_argument(
      format('tenant columns %s of table %s do not match those of master %s',
             p_columns, p_relation, p_master.relation),
      format('The master has %s.', p_master.tenant_columns),
      'Pass as many as the master has, in its order (NULL for one that the table lacks), or names that both share.');
  END IF;
  FOR v_index IN 1 .. cardinality(v_aligned) LOOP
    v_column := v_aligned[v_index];
    IF v_column IS NOT NULL THEN
      PERFORM flowguard._check_same_type(p_relation, v_column, p_master.relation, p_master.tenant_columns[v_index]);
    END IF;
  END LOOP;
  RETURN v_aligned;
END;
$_align_tenants$;
COMMENT ON FUNCTION flowguard._align_tenants(regclass, name[], flowguard.master) IS
  'The tenant columns of a table in the order of the master''s; raises FG102, FG103 or FG104.';

CREATE OR REPLACE FUNCTION flowguard._choose_stem(p_relation regclass, p_link_column name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_choose_stem$
-- What the generated objects' names begin with: table and column, kept apart from other links by a number. No such
-- beginning is that of another one, for an object's name must tell whose it is; so the number comes first.
DECLARE
  v_base   text;
  v_stem   text;
  v_number integer := 1;
BEGIN
  SELECT relname || '_' || p_link_column INTO STRICT v_base FROM pg_class WHERE oid = p_relation;
  v_stem := flowguard._fit(v_base, 36);
  WHILE EXISTS (SELECT FROM flowguard.link l
                 WHERE starts_with(l.stem || '_', v_stem || '_') OR starts_with(v_stem || '_', l.stem || '_')) LOOP
    v_number := v_number + 1;
    v_stem := flowguard._fit(v_number || '_' || v_base, 36);
  END LOOP;
  RETURN v_stem;
END;
$_choose_stem$;
COMMENT ON FUNCTION flowguard._choose_stem(regclass, name) IS
  'A free beginning for the names of a link''s generated objects.';

CREATE OR REPLACE FUNCTION flowguard._whole_link(p_relation regclass, p_link_column name) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_whole_link$
  SELECT l.relation
    FROM pg_partition_ancestors(p_relation) a
    JOIN flowguard.link l ON l.relation = a.relid AND l.relation <> p_relation AND l.link_column = p_link_column
   ORDER BY (SELECT count(*) FROM pg_partition_ancestors(l.relation)) LIMIT 1;
$_whole_link$;
COMMENT ON FUNCTION flowguard._whole_link(regclass, name) IS
  'The table that a table is a partition of and whose same column is registered as a link; NULL where there is none.';

CREATE OR REPLACE FUNCTION flowguard._check_alone(p_relation regclass, p_link_column name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_alone$
-- Raises FG108 where the column is a link of a table and of a partition of it as well: a partition takes over keys and
-- triggers of the whole, and a guard of its own would be in their way. ATTACH PARTITION can make it so at any time.
DECLARE
  v_whole regclass := flowguard._whole_link(p_relation, p_link_column);
  v_parts regclass[] := ARRAY[p_relation];
  v_asked boolean := false;  -- for a partition that is not registered, when the whole is
  v_calls text;
BEGIN
  IF v_whole IS NULL THEN
    v_parts := ARRAY(SELECT l.relation FROM pg_partition_tree(p_relation) t
                       JOIN flowguard.link l ON l.relation = t.relid
                      WHERE l.relation <> p_relation AND l.link_column = p_link_column ORDER BY l.stem);
    IF v_parts = '{}' THEN
      RETURN;
    END IF;
  ELSE
    v_asked := NOT EXISTS (SELECT FROM flowguard.link l
                            WHERE l.relation = p_relation AND l.link_column = p_link_column);
  END IF;
  SELECT string_agg(format('flowguard.unguard(%1$L, %2$L), flowguard.drop_link(%1$L, %2$L)', d.relation, p_link_column),
                    ', ' ORDER BY d.n)
    INTO v_calls
    FROM unnest(CASE WHEN v_asked THEN ARRAY[v_whole] ELSE v_parts END) WITH ORDINALITY AS d (relation, n);
  RAISE EXCEPTION 'flowguard: column % of table % and of a partition of it cannot both be links',
                  quote_ident(p_link_column), coalesce(v_whole, p_relation)
    USING ERRCODE = 'FG108',
          DETAIL = format('What guards a table guards its partitions, here %s.', array_to_string(v_parts, ', ')),
          HINT = CASE WHEN v_asked THEN 'It is guarded with the whole. For a guard of its own, call '
                      ELSE 'Call ' END || v_calls || ' first.';
END;
$_check_alone$;
COMMENT ON FUNCTION flowguard._check_alone(regclass, name) IS
  'Raises FG108 where a column is a link of a table and of a partition of it as well.';

CREATE OR REPLACE FUNCTION flowguard._check_read(p_relation regclass, p_columns name[], p_before boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_check_read$
-- Raises FG104 for a generated column that a trigger cannot read: before its row is written, any of them; after, one
-- that is virtual.
DECLARE
  v_column name;
BEGIN
  SELECT a.attname INTO v_column
    FROM pg_attribute a
   WHERE a.attrelid = p_relation AND a.attname = ANY (p_columns) AND NOT a.attisdropped
     AND (a.attgenerated = 'v' OR p_before AND a.attgenerated <> '')
   ORDER BY a.attnum LIMIT 1;
  IF FOUND THEN
    PERFORM flowguard._refuse_argument(format('column %I of table %s is generated', v_column, p_relation),
      'Triggers read it, and it has no value there yet.', 'Name a column that is written.');
  END IF;
END;
$_check_read$;
COMMENT ON FUNCTION flowguard._check_read(regclass, name[], boolean) IS
  'Raises FG104 for a generated column that triggers could not read.';

CREATE OR REPLACE FUNCTION flowguard.add_link(
  relation regclass, link_column name DEFAULT 'master_flow_id', master regclass DEFAULT NULL,
  tenant_columns name[] DEFAULT NULL, mode text DEFAULT 'observe', on_orphan text DEFAULT 'quarantine',
  on_master_delete text DEFAULT 'keep'
) RETURNS flowguard.link
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $add_link$
-- Registers a column that must point to a master.
#variable_conflict use_column
DECLARE
  p_relation         ALIAS FOR $1;
  p_link_column      ALIAS FOR $2;
  p_master           ALIAS FOR $3;
  p_tenant_columns   ALIAS FOR $4;
  p_mode             ALIAS FOR $5;
  p_on_orphan        ALIAS FOR $6;
  p_on_master_delete ALIAS FOR $7;
  v_master           flowguard.master;
  v_link             flowguard.link;
  v_column           name;
BEGIN
  PERFORM flowguard._serialize();
  PERFORM flowguard._check_table(p_relation);
  v_master := flowguard._master(p_master);
  PERFORM flowguard._check_same_type(p_relation, p_link_column, v_master.relation, v_master.key_column);
  PERFORM flowguard._equal(p_relation, k.name) FROM unnest(flowguard._row_key(p_relation)) AS k (name);
  IF p_relation = v_master.relation AND p_link_column = v_master.key_column THEN
    PERFORM flowguard._refuse_argument(
      format('column %I of master %s is its key, not a link', p_link_column, p_relation),
      'A link points from a row to another one.', 'Name the column that holds the key of another row.');
  END IF;
  IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p_relation AND a.attname = p_link_column
    AND a.attgenerated <> '')
  THEN
    PERFORM flowguard._refuse_argument(format('column %I of table %s is generated', p_link_column, p_relation),
      'Its value follows from other columns and cannot be filled.', 'Name a column that can be written.');
  ELSIF flowguard._is_not_null(p_relation, p_link_column) AND (p_on_orphan = 'unlink'
    OR p_on_master_delete = 'set null') THEN
    PERFORM flowguard._refuse_argument(format('column %I of table %s is NOT NULL', p_link_column, p_relation),
      format('on_orphan is %s, on_master_delete %s; one of them would have to set it to NULL.', p_on_orphan,
             p_on_master_delete),
      format('Pass another policy, or run "ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL".', p_relation,
             p_link_column));
  END IF;
  IF p_mode IS NULL OR p_mode NOT IN ('observe', 'enforce') THEN
    PERFORM flowguard._refuse_argument(format('mode %s is unknown', coalesce(quote_literal(p_mode), 'NULL')),
      'observe accepts and lists unlinked rows, enforce refuses them at commit.',
        'Pass mode => ''observe'' or ''enforce''.');
  ELSIF p_on_orphan IS NULL OR p_on_orphan NOT IN ('quarantine', 'unlink', 'keep') THEN
    PERFORM flowguard._refuse_argument(format('on_orphan %s is unknown', coalesce(quote_literal(p_on_orphan), 'NULL')),
      'It says what repair does with a row whose dangling link nothing can mend.',
      'Pass on_orphan => ''quarantine'', ''unlink'' or ''keep''.');
  ELSIF p_on_master_delete IS NULL OR p_on_master_delete NOT IN ('keep', 'refuse', 'cascade', 'set null') THEN
    PERFORM flowguard._refuse_argument(
      format('on_master_delete %s is unknown', coalesce(quote_literal(p_on_master_delete), 'NULL')),
      'It says what deleting a master does to the rows linked to it.',
      'Pass on_master_delete => ''keep'', ''refuse'', ''cascade'' or ''set null''.');
  END IF;

  SELECT * INTO v_link FROM flowguard.link l WHERE l.relation = p_relation AND l.link_column = p_link_column;
  IF FOUND THEN
    PERFORM flowguard._refuse_other(
      format('link %s.%I', p_relation, p_link_column), to_jsonb(v_link),
      jsonb_build_object('master', v_master.relation,
                         'tenant_columns', flowguard._align_tenants(p_relation, p_tenant_columns, v_master),
                         'on_orphan', p_on_orphan, 'on_master_delete', p_on_master_delete),
      format('Call flowguard.drop_link(%L, %L) first; flowguard.set_mode() changes the mode.',
             p_relation::text, p_link_column));
    IF v_link.mode <> p_mode THEN
      RAISE NOTICE 'link %.% stays in mode %', p_relation, quote_ident(p_link_column), v_link.mode
        USING HINT = format('Call flowguard.set_mode(%L, %L, %L) to change it.', p_relation, p_mode, p_link_column);
    END IF;
    RETURN v_link;
  END IF;

  PERFORM flowguard._check_alone(p_relation, p_link_column);
  v_link := (p_relation, p_link_column, v_master.relation,
             flowguard._align_tenants(p_relation, p_tenant_columns, v_master),
             p_mode, p_on_orphan, p_on_master_delete, flowguard._choose_stem(p_relation, p_link_column), false, false);
  PERFORM flowguard._check_read(p_relation, v_link.tenant_columns, true);
  IF flowguard._find_index(v_master.relation, ARRAY[v_master.key_column], true, false) IS NULL THEN
    IF p_on_master_delete = 'set null' AND current_setting('server_version_num')::integer < 150000 THEN
      PERFORM flowguard._refuse_argument(
        format('on_master_delete ''set null'' needs PostgreSQL 15 where key %I of master %s is unique only within a '
               'tenant', v_master.key_column, v_master.relation),
        'A foreign key of PostgreSQL 14 would set the tenant NULL as well.',
        format('Pass on_master_delete => ''refuse'' or ''cascade'', or run "%s".',
               flowguard._unique_index_sql(v_master.relation, ARRAY[v_master.key_column])));
    END IF;
    -- The key is unique per tenant only: a row that does not know its tenant could not be kept from dangling.
    FOREACH v_column IN ARRAY v_link.tenant_columns LOOP
      IF v_column IS NULL OR NOT flowguard._is_not_null(p_relation, v_column) THEN
        PERFORM flowguard._refuse_argument(
          format('table %s may hold rows without a tenant, and key %I of master %s is unique only within one',
                 p_relation, v_master.key_column, v_master.relation),
          format('Tenant columns of the link: %s.', v_link.tenant_columns),
          CASE WHEN flowguard._can_be_unique(v_master.relation, ARRAY[v_master.key_column])
               THEN format('Declare them NOT NULL, or run "%s".',
                           flowguard._unique_index_sql(v_master.relation, ARRAY[v_master.key_column]))
               ELSE 'Declare them NOT NULL.' END);
      END IF;
    END LOOP;
  END IF;
  INSERT INTO flowguard.link SELECT v_link.*;
  IF p_tenant_columns IS NULL AND array_position(v_link.tenant_columns, NULL) IS NOT NULL THEN
    RAISE NOTICE 'table % has not all tenant columns of master % by name: those that it lacks are not checked',
      p_relation,
                 v_master.relation
      USING DETAIL = format('The master has %s, the link %s.', v_master.tenant_columns, v_link.tenant_columns),
            HINT = format('If they have other names, call flowguard.drop_link(%L, %L) and add it again with '
                          'tenant_columns => …', p_relation, p_link_column);
  END IF;
  RETURN v_link;
END;
$add_link$;
COMMENT ON FUNCTION flowguard.add_link(regclass, name, regclass, name[], text, text, text) IS
'Registers a column that must point to a master. Nothing but the registry is written: guard() makes it so. A second
call with the same words changes nothing.
relation: the child table; it needs a primary key or a unique key of NOT NULL columns.
link_column: the column that holds the key of the master, of the same type.
master: the master table; NULL for the only one there is.
tenant_columns: the tenant columns of the child, in the order of those of its master, NULL for one that it lacks; left
  out, those that it has under the same names.
mode: observe, unlinked rows are accepted and listed; enforce, they are refused at commit.
on_orphan: what repair() does with a row whose dangling link nothing can mend: quarantine (taken out and kept), unlink
  (the link is set to NULL) or keep.
on_master_delete: what deleting a master does to its rows: keep (what the key that the table has says, else refuse),
  refuse, cascade or set null.
Returns the registered link.
Errors: FG101 no table; FG102 no such column; FG103 types differ; FG104 a value is none of those; FG105 the table has
  no such key; FG107 no such master; FG108 it is registered otherwise, or the same column of a partition of the table,
  or of the table that it is a partition of, is registered.';

CREATE OR REPLACE FUNCTION flowguard._add_rule(p_rule flowguard.rule) RETURNS flowguard.rule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_add_rule$
-- Puts a rule at its position (NULL: the end), moving later ones on. The same rule twice is one.
-- Raises FG106 where links would wait for each other in a ring.
DECLARE
  v_rule flowguard.rule;
  v_ring text;
BEGIN
  SELECT r.* INTO v_rule FROM flowguard.rule r
   WHERE r.relation = p_rule.relation AND r.link_column = p_rule.link_column
     AND to_jsonb(r) - 'position' = to_jsonb(p_rule) - 'position'
     AND (p_rule."position" IS NULL OR r."position" = p_rule."position");
  IF FOUND THEN
    RETURN v_rule;
  END IF;
  IF p_rule."position" IS NULL THEN
    SELECT coalesce(max(r."position"), 0) + 1 INTO p_rule."position" FROM flowguard.rule r
     WHERE r.relation = p_rule.relation AND r.link_column = p_rule.link_column;
  ELSIF p_rule."position" < 1 THEN
    PERFORM flowguard._refuse_argument(format('position %s is none', p_rule."position"), 'Positions begin with 1.',
                                       'Leave position out to add the rule at the end.');
  ELSE
    -- From the last one down, since positions are unique.
    FOR v_rule IN
      SELECT r.* FROM flowguard.rule r
       WHERE r.relation = p_rule.relation AND r.link_column = p_rule.link_column AND r."position" >= p_rule."position"
         AND EXISTS (SELECT FROM flowguard.rule o WHERE o.relation = p_rule.relation
                        AND o.link_column = p_rule.link_column AND o."position" = p_rule."position")
       ORDER BY r."position" DESC
    LOOP
      UPDATE flowguard.rule r SET "position" = r."position" + 1
       WHERE r.relation = v_rule.relation AND r.link_column = v_rule.link_column AND r."position" = v_rule."position";
    END LOOP;
  END IF;
  IF p_rule.link_column = ANY (flowguard._partition_columns(p_rule.relation)) THEN
    PERFORM flowguard._refuse_argument(
      format('column %I of table %s says in which partition a row lies', p_rule.link_column, p_rule.relation),
      'No trigger may fill it: a row cannot go to another partition while it is being inserted.',
      'Partition the table by another column, or guard the link without rules: then it is proved, and never filled.');
  END IF;
  IF p_rule.source IS NOT NULL THEN
    PERFORM flowguard._check_same_type(p_rule.relation, p_rule.link_column, p_rule.source, p_rule.source_link);
  END IF;
  PERFORM flowguard._check_read(p_rule.relation, ARRAY[p_rule.via_column, p_rule.time_column], true);
  PERFORM flowguard._check_read(p_rule.source, p_rule.source_tenant_columns || p_rule.filter_columns
    || ARRAY[p_rule.source_key, p_rule.source_link, p_rule.source_time], false);
  INSERT INTO flowguard.rule SELECT p_rule.*;

  WITH RECURSIVE step (relation, link_column, path) AS (
    SELECT p_rule.source, p_rule.source_link,
           format('%s.%I -> %s.%I', p_rule.relation, p_rule.link_column, p_rule.source, p_rule.source_link)
     WHERE p_rule.source IS NOT NULL
    UNION
    SELECT r.source, r.source_link, s.path || format(' -> %s.%I', r.source, r.source_link)
      FROM step s
      JOIN flowguard.rule r ON r.relation = s.relation AND r.link_column = s.link_column
     WHERE r.source IS NOT NULL AND (s.relation, s.link_column) <> (p_rule.relation, p_rule.link_column)
  )
  SELECT s.path INTO v_ring FROM step s
   WHERE s.relation = p_rule.relation AND s.link_column = p_rule.link_column LIMIT 1;
  IF v_ring IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: the rule would close a ring of links to %.%', p_rule.relation,
                    quote_ident(p_rule.link_column)
      USING ERRCODE = 'FG106',
            DETAIL = format('Each would wait for the other: %s.', v_ring),
            HINT = 'Take the link from a table that is nearer to the master.';
  END IF;
  RETURN p_rule;
END;
$_add_rule$;
COMMENT ON FUNCTION flowguard._add_rule(flowguard.rule) IS
  'Puts a rule at its position; raises FG104 for a wrong one and FG106 where links would wait for each other in a '
  'ring.';

CREATE OR REPLACE FUNCTION flowguard._source_tenants(p_link flowguard.link, p_source regclass, p_source_link name)
RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_source_tenants$
-- The tenant columns of a source in the order of the master's: as registered where the source is a link or the master
-- itself, else those that it shares by name with the master or, there being none, with the child.
DECLARE
  v_master  flowguard.master;
  v_aligned name[];
BEGIN
  v_master := flowguard._master(p_link.master);
  IF p_source = v_master.relation THEN
    RETURN v_master.tenant_columns;
  END IF;
  SELECT l.tenant_columns INTO v_aligned FROM flowguard.link l
   WHERE l.relation = p_source AND l.link_column = p_source_link AND l.master = p_link.master;
  IF v_aligned IS NULL THEN
    v_aligned := flowguard._align_tenants(p_source, NULL, v_master);
    SELECT coalesce(array_agg(coalesce(a.own, c.attname) ORDER BY a.ordinality), '{}')
      INTO v_aligned
      FROM unnest(v_aligned, p_link.tenant_columns) WITH ORDINALITY AS a (own, child, ordinality)
      LEFT JOIN pg_attribute c ON c.attrelid = p_source AND c.attname = a.child AND c.attnum > 0 AND NOT c.attisdropped;
  END IF;
  RETURN v_aligned;
END;
$_source_tenants$;
COMMENT ON FUNCTION flowguard._source_tenants(flowguard.link, regclass, name) IS
  'The tenant columns of a rule''s source, in the order of the master''s.';

CREATE OR REPLACE FUNCTION flowguard.add_session_rule(
  relation regclass, link_column name DEFAULT 'master_flow_id', "position" integer DEFAULT NULL
) RETURNS flowguard.rule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $add_session_rule$
-- The link is what the transaction's setting says.
#variable_conflict use_column
DECLARE
  v_link flowguard.link;
  v_rule flowguard.rule;
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link($1, $2);
  v_rule.relation := v_link.relation;
  v_rule.link_column := v_link.link_column;
  v_rule."position" := $3;
  v_rule.kind := 'session';
  RETURN flowguard._add_rule(v_rule);
END;
$add_session_rule$;
COMMENT ON FUNCTION flowguard.add_session_rule(regclass, name, integer) IS
'A missing link is what the application says for its transaction: SET LOCAL flowguard.<link column> = ''<key>'', or
flowguard.master_flow_id where the column''s name would need quotes. Empty counts as none, and so does the key of no
master of the row''s tenant. The same rule twice is one. On a guarded link call guard() afterwards.
relation: the child table.
link_column: the column that holds the link.
position: where in the order of the link''s rules, from 1; later ones move on. Left out: at the end.
Returns the rule.
Errors: FG104 position is less than 1; FG107 no such link.';

CREATE OR REPLACE FUNCTION flowguard.add_reference_rule(
  relation regclass, via_column name, source regclass, source_key name DEFAULT 'id',
  source_link name DEFAULT 'master_flow_id', agree boolean DEFAULT true,
  link_column name DEFAULT 'master_flow_id', "position" integer DEFAULT NULL, late_limit integer DEFAULT NULL
) RETURNS flowguard.rule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $add_reference_rule$
-- The link is that of the row which via_column refers to.
#variable_conflict use_column
DECLARE
  p_relation   ALIAS FOR $1;
  p_via        ALIAS FOR $2;
  p_source     ALIAS FOR $3;
  p_key        ALIAS FOR $4;
  p_link       ALIAS FOR $5;
  p_agree      ALIAS FOR $6;
  p_late_limit ALIAS FOR $9;
  v_link       flowguard.link;
  v_master     flowguard.master;
  v_rule       flowguard.rule;
  v_tenants    name[] := '{}'::name[];  -- what the key of the source needs besides
  v_source_tenants name[] := '{}'::name[];
BEGIN
  PERFORM flowguard._serialize();
  v_link := flowguard._link(p_relation, $7);
  v_master := flowguard._master(v_link.master);
  PERFORM flowguard._check_table(p_source);
  PERFORM flowguard._check_same_type(p_relation, p_via, p_source, p_key);
  PERFORM flowguard._check_same_type(p_source, p_link, v_master.relation, v_master.key_column);
  PERFORM flowguard._equal(p_source, p_key);
  v_rule.relation := p_relation;
  v_rule.link_column := v_link.link_column;
  v_rule."position" := $8;
  v_rule.kind := 'reference';
  v_rule.via_column := p_via;
  v_rule.source := p_source;
  v_rule.source_tenant_columns := flowguard._source_tenants(v_link, p_source, p_link);
  v_rule.source_key := p_key;
  v_rule.source_link := p_link;
  v_rule.agree := coalesce(p_agree, true);
  v_rule.late_limit := p_late_limit;
  IF p_late_limit <= 0 THEN
    PERFORM flowguard._refuse_argument(format('late_limit %s is not positive', p_late_limit),
      'It is the number of rows that a late link moves at most.', 'Leave it out for no limit.');
  END IF;
  IF coalesce(flowguard._find_index(p_source, ARRAY[p_key], true, false),
              flowguard._find_index(p_source, array_remove(v_rule.source_tenant_columns, NULL) || p_key, true, false))
     IS NULL THEN
    RAISE EXCEPTION 'flowguard: column % of table % is not unique', quote_ident(p_key), p_source
      USING ERRCODE = 'FG105',
            DETAIL = 'A reference that several rows answer does not say which link is meant.',
            HINT = flowguard._unique_hint(p_source, ARRAY[p_key],
                                          array_remove(v_rule.source_tenant_columns, NULL) || p_key,
                                          ', or name another source_key.');
  END IF;
  IF flowguard._find_index(p_source, ARRAY[p_key], true, false) IS NULL
     AND flowguard._unknown_tenant_sql(v_link, '') IS NOT NULL THEN
    PERFORM flowguard._refuse_argument(
      format('table %s may hold rows without a tenant, and column %I of table %s is unique only within one',
             p_relation, p_key, p_source),
      format('Tenant columns of the link: %s.', v_link.tenant_columns),
      CASE WHEN flowguard._can_be_unique(p_source, ARRAY[p_key])
           THEN format('Declare them NOT NULL, or run "%s".', flowguard._unique_index_sql(p_source, ARRAY[p_key]))
           ELSE 'Declare them NOT NULL.' END);
  END IF;
  IF v_rule.agree AND p_key = p_link THEN
    PERFORM flowguard._refuse_argument(
      format('a link cannot be made to agree with the key that %I of table %s holds', p_via, p_relation),
      format('source_key and source_link are both %I of table %s: a CHECK constraint can prove that two columns of a '
             'row are equal, a foreign key cannot.', p_key, p_source),
      'Pass agree => false.');
  END IF;
  IF v_rule.agree AND NOT EXISTS (
       SELECT FROM flowguard._foreign_keys(p_relation, p_via) k WHERE k.target = p_source
         AND k.target_column = p_key) THEN
    IF flowguard._find_index(p_source, ARRAY[p_key], true, false) IS NULL THEN
      SELECT array_agg(t.child ORDER BY t.n), array_agg(t.source ORDER BY t.n) INTO v_tenants, v_source_tenants
        FROM unnest(v_link.tenant_columns, v_rule.source_tenant_columns) WITH ORDINALITY AS t (child, source, n)
       WHERE t.source IS NOT NULL;
    END IF;
    RAISE EXCEPTION 'flowguard: column % of table % has no foreign key to %.%',
                    quote_ident(p_via), p_relation, p_source, quote_ident(p_key)
      USING ERRCODE = 'FG111',
            DETAIL = 'A link can agree with a reference only where the row referred to is known to exist.',
            HINT = format('Run "ALTER TABLE %s ADD FOREIGN KEY (%s) REFERENCES %s (%s)%s", or pass agree => false.',
                          p_relation, flowguard._columns_sql(v_tenants || p_via), p_source,
                          flowguard._columns_sql(v_source_tenants || p_key),
                          CASE WHEN flowguard._goes_by_parts(p_relation) THEN '' ELSE ' NOT VALID' END);
  END IF;
  RETURN flowguard._add_rule(v_rule);
END;
$add_reference_rule$;
COMMENT ON FUNCTION flowguard.add_reference_rule(regclass, name, regclass, name, name, boolean, name, integer,
  integer) IS
'A missing link is that of the row that a column refers to. The same rule twice is one. On a guarded link call guard()
afterwards.
relation: the child table.
via_column: its column that refers to the source.
source: the table that the link is taken from; the master itself, with source_link its key and agree => false, says
  that via_column names a master.
source_key: the column of the source that via_column holds; unique, alone or within a tenant.
source_link: the column of the source that holds its link.
agree: whether the two links must stay equal; a row whose referenced row has no link then waits for it, and later
  rules are asked only where via_column is NULL. Needs a foreign key on via_column. false: a look-up that may lead
  nowhere.
link_column: the column that holds the link.
position: where in the order of the link''s rules, from 1; later ones move on. Left out: at the end.
late_limit: at most so many rows are moved by the statement that sets the link of one row of the source; the rest is
  left to repair(). In observe only. Left out: no limit.
Returns the rule.
Errors: FG101 no table; FG102 no such column; FG103 types differ; FG104 position or late_limit is less than 1, rows
  without a tenant could not be told apart, or agree is asked for with source_key as source_link; FG105 source_key is
  not unique; FG106 links would wait for each other in a ring; FG107 no such link; FG111 agree without a foreign key.';

CREATE OR REPLACE FUNCTION flowguard._foreign_keys(p_relation regclass, p_column name)
RETURNS TABLE (conname name, definition text, target regclass, target_column name, action "char", is_deferrable boolean,
               validated boolean, comment text, columns name[], target_columns name[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_foreign_keys$
-- The foreign keys that hold the column, and the column that it refers to in each. One that is NOT ENFORCED proves
-- nothing.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT c.conname, regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''), c.confrelid::regclass, t.attname,
           c.confdeltype, c.condeferrable, c.convalidated, obj_description(c.oid, 'pg_constraint'),
           (SELECT array_agg(x.attname ORDER BY y.n) FROM unnest(c.conkey) WITH ORDINALITY AS y (attnum, n)
              JOIN pg_attribute x ON x.attrelid = c.conrelid AND x.attnum = y.attnum),
           (SELECT array_agg(x.attname ORDER BY y.n) FROM unnest(c.confkey) WITH ORDINALITY AS y (attnum, n)
              JOIN pg_attribute x ON x.attrelid = c.confrelid AND x.attnum = y.attnum)
      FROM pg_constraint c
     CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (own, other)
      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
      JOIN pg_attribute t ON t.attrelid = c.confrelid AND t.attnum = k.other
     WHERE c.contype = 'f' AND c.conrelid = p_relation AND a.attname = p_column AND flowguard._is_enforced(c)
     ORDER BY c.conname;
END;
$_foreign_keys$;
COMMENT ON FUNCTION flowguard._foreign_keys(regclass, name) IS 'The foreign keys of a table that hold a column.';

CREATE OR REPLACE FUNCTION flowguard.add_proximity_rule(
  relation regclass, source regclass, within interval DEFAULT '1 hour', time_column name DEFAULT 'created_at',
  source_time name DEFAULT 'created_at', source_link name DEFAULT 'master_flow_id', source_filter text DEFAULT NULL,
  on_ambiguous text DEFAULT 'nearest',
  link_column name DEFAULT 'master_flow_id', "position" integer DEFAULT NULL, late_limit integer DEFAULT NULL
) RETURNS flowguard.rule
LANGUAGE plpgsql AS $add_proximity_rule$
-- The link is that of the row nearest in time. No SET search_path: the filter is read as its author wrote it, then kept
-- as a view, which no later search_path can change the meaning of. All else is qualified.
#variable_conflict use_column
DECLARE
  p_relation     ALIAS FOR $1;
  p_source       ALIAS FOR $2;
  p_within       ALIAS FOR $3;
  p_time         ALIAS FOR $4;
  p_source_time  ALIAS FOR $5;
  p_source_link  ALIAS FOR $6;
  p_filter       ALIAS FOR $7;
  p_on_ambiguous ALIAS FOR $8;
  p_late_limit   ALIAS FOR $11;
  v_path         pg_catalog.text := pg_catalog.current_setting('search_path');
  v_link         flowguard.link;
  v_master       flowguard.master;
  v_rule         flowguard.rule;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  PERFORM flowguard._serialize();
  v_link := flowguard._link(p_relation, $9);
  v_master := flowguard._master(v_link.master);
  PERFORM flowguard._check_table(p_source);
  PERFORM flowguard._row_key(p_source);
  PERFORM flowguard._check_same_type(p_relation, p_time, p_source, p_source_time);
  PERFORM flowguard._check_same_type(p_source, p_source_link, v_master.relation, v_master.key_column);
  IF (flowguard._column(p_relation, p_time)).type NOT IN ('timestamptz'::pg_catalog.regtype,
    'timestamp'::pg_catalog.regtype) THEN
    RAISE EXCEPTION 'flowguard: column % of table % is no time', quote_ident(p_time), p_relation
      USING ERRCODE = 'FG103',
            DETAIL = format('It is of type %s.', (flowguard._column(p_relation, p_time)).type_name),
            HINT = 'Name a column of type timestamp with time zone or timestamp.';
  ELSIF p_within IS NULL OR p_within <= interval '0' OR extract(year FROM p_within) <> 0
        OR extract(month FROM p_within) <> 0 OR NOT isfinite(p_within) THEN
    PERFORM flowguard._refuse_argument(
      format('the window %s is none', coalesce(p_within::pg_catalog.text, 'NULL')),
      'A window is positive and of days, hours and less; a day is 24 hours, a month has no fixed length.',
      'Pass, for example, within => ''1 hour''.');
  ELSIF p_on_ambiguous IS NULL OR p_on_ambiguous NOT IN ('nearest', 'leave') THEN
    PERFORM flowguard._refuse_argument(format('on_ambiguous %s is unknown', coalesce(quote_literal(p_on_ambiguous),
      'NULL')),
      'It says what happens when two masters lie within the window.', 'Pass on_ambiguous => ''nearest'' or ''leave''.');
  ELSIF p_late_limit <= 0 THEN
    PERFORM flowguard._refuse_argument(format('late_limit %s is not positive', p_late_limit),
      'It is the number of rows that a late link moves at most.', 'Leave it out for no limit.');
  END IF;
  v_rule.relation := p_relation;
  v_rule.link_column := v_link.link_column;
  v_rule."position" := $10;
  v_rule.kind := 'proximity';
  v_rule.source := p_source;
  v_rule.source_tenant_columns := flowguard._source_tenants(v_link, p_source, p_source_link);
  v_rule.source_link := p_source_link;
  v_rule.time_column := p_time;
  v_rule.source_time := p_source_time;
  v_rule.within := make_interval(secs => extract(epoch FROM p_within)::double precision);
  v_rule.source_filter := p_filter;
  v_rule.on_ambiguous := p_on_ambiguous;
  v_rule.late_limit := p_late_limit;
  IF p_filter IS NOT NULL THEN
    PERFORM flowguard._check_schema();
    SELECT f.condition, f.columns INTO v_rule.source_filter, v_rule.filter_columns
      FROM flowguard._read_filter(p_source, p_filter, v_path) f;
  END IF;
  v_rule := flowguard._add_rule(v_rule);
  PERFORM flowguard._sync_views();
  PERFORM set_config('search_path', v_path, true);
  RETURN v_rule;
END;
$add_proximity_rule$;
COMMENT ON FUNCTION flowguard.add_proximity_rule(
  regclass, regclass, interval, name, name, name, text, text, name, integer, integer) IS
'A missing link is that of the row of a source table, of the same tenant, that is nearest in time. On a tie the earlier
row wins, then the smaller key. Rows without a link to a master of the tenant do not count. The same rule twice is
one. On a guarded link call guard() afterwards.
relation: the child table.
source: the table that the link is taken from.
within: the largest time difference, inclusive: positive, of days (24 hours each), hours and less.
time_column: the time of the child, a timestamp.
source_time: the time of the source, of the same type.
source_link: the column of the source that holds its link.
source_filter: a condition on columns of the source, as in WHERE, read under the caller''s search_path; only rows that
  meet it count. NULL: all do.
on_ambiguous: nearest, the nearest row wins; leave, the row stays unlinked where rows in the window lead to two
  masters.
link_column: the column that holds the link.
position: where in the order of the link''s rules, from 1; later ones move on. Left out: at the end.
late_limit: at most so many rows are linked by the statement that makes or links one row of the source; the rest is
  left to repair(). In observe only. Left out: no limit.
Returns the rule.
Errors: FG101 no table; FG102 no such column; FG103 types differ, or a column is no timestamp; FG104 a window, filter,
  position or limit is impossible; FG105 the source has no key; FG106 links would wait for each other in a ring; FG107
  no such link; FG110 a filter becomes a view in schema flowguard, and the caller may create none there.';

CREATE OR REPLACE FUNCTION flowguard._read_filter(
  p_source regclass, p_filter text, p_path text, OUT condition text, OUT columns name[]
) LANGUAGE plpgsql AS $_read_filter$
-- The condition as PostgreSQL understands it: parsed once under the caller's path, then every name in it qualified;
-- and the columns that it reads. Raises FG104 where it is no condition on the source.
-- No SET search_path, since it changes it on purpose; all else is qualified.
DECLARE
  v_view   pg_catalog.regclass;
  v_others pg_catalog.text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', p_path, true);
  -- Among arguments, brackets that only balance together with ours do not pass.
  EXECUTE pg_catalog.format(E'SELECT 1 FROM %s s WHERE coalesce(%s\n, false) LIMIT 0', p_source, p_filter);
  -- It has to give the same answer whenever it is asked, of the row alone: what an index may rest on. The table is
  -- called as the source is in what PostgreSQL makes of a condition, so that such a one can be passed again.
  EXECUTE pg_catalog.format('CREATE TABLE flowguard.s (LIKE %s)', p_source);
  EXECUTE pg_catalog.format(E'CREATE INDEX ON flowguard.s ((1)) WHERE (%s\n)', p_filter);
  EXECUTE 'DROP TABLE flowguard.s';
  EXECUTE pg_catalog.format(E'CREATE VIEW flowguard._filter AS SELECT 1 AS one FROM %s s WHERE (%s\n)', p_source,
    p_filter);
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  v_view := to_regclass('flowguard._filter');
  condition := pg_get_viewdef(v_view, true);
  condition := btrim(regexp_replace(regexp_replace(condition, '^.*?[[:space:]]WHERE[[:space:]]+', ''),
    ';[[:space:]]*$', ''));
  SELECT array_agg(DISTINCT a.attname ORDER BY a.attname)
    INTO columns
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
                    AND d.refclassid = 'pg_class'::pg_catalog.regclass AND d.refobjid = p_source AND d.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE w.ev_class = v_view;
  SELECT string_agg(DISTINCT d.refobjid::regclass::text, ', ')
    INTO v_others
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
   WHERE w.ev_class = v_view AND d.refobjid NOT IN (p_source, v_view);
  EXECUTE 'DROP VIEW flowguard._filter';
  IF v_others IS NOT NULL THEN
    RAISE syntax_error USING MESSAGE = format('it reads %s as well, whose changes would not be noticed', v_others);
  END IF;
EXCEPTION
  WHEN OTHERS THEN
    -- Classes of errors in what was written: syntax and names, values, what is not supported, schemas.
    IF pg_catalog.left(SQLSTATE, 2) OPERATOR(pg_catalog.<>) ALL ('{42,22,0A,3F}') THEN
      RAISE;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM flowguard._refuse_argument(
      pg_catalog.format('source_filter %L is no condition on table %s', p_filter, p_source),
      SQLERRM, 'Write it as in WHERE, with columns of the source only: source_filter => ''status '
        '<> ''''deleted''''''.');
END;
$_read_filter$;
COMMENT ON FUNCTION flowguard._read_filter(regclass, text, text) IS
  'A filter as PostgreSQL reads it, all names qualified; raises FG104 where it is no condition on the source.';

CREATE OR REPLACE FUNCTION flowguard.drop_rule(
  relation regclass, "position" integer, link_column name DEFAULT 'master_flow_id'
) RETURNS flowguard.rule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_rule$
-- Forgets a rule; NULL where there was none. guard() then takes away what was made for it.
#variable_conflict use_column
DECLARE
  v_rule flowguard.rule;
BEGIN
  PERFORM flowguard._serialize();
  PERFORM flowguard._link($1, $3);
  DELETE FROM flowguard.rule r
   WHERE r.relation = $1 AND r.link_column = $3 AND r."position" = $2
   RETURNING r.* INTO v_rule;
  PERFORM flowguard._sync_views();
  RETURN v_rule;
END;
$drop_rule$;
COMMENT ON FUNCTION flowguard.drop_rule(regclass, integer, name) IS
'Forgets a rule; the others keep their positions. On a guarded link call guard() afterwards.
relation: the child table.
position: the position of the rule, as flowguard.rule shows it.
link_column: the column that holds the link.
Returns the rule; NULL where there was none.
Errors: FG107 no such link.';

COMMIT;
