-- Deploy pyflowguard:repair to pg
-- Since 1.1.0 batches are planned once. Since 1.3.0 each column of a composite key is compared by its own operators.
-- Links what is already there: batch by batch, each in a transaction of its own, each value written down before and
-- after. Functions here that write application tables set no search_path: the application's own triggers would
-- inherit it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._operator(p_relation regclass, p_column name, p_strategy integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_operator$
-- The column's own comparison, of the operator class whose equality _equal() gives: 1 <, 2 <=, 4 >=, 5 >.
  SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
    FROM flowguard._column(p_relation, p_column) t
    JOIN pg_type y ON y.oid = t.type
    JOIN pg_opclass c ON c.opcdefault AND c.opcintype = CASE WHEN t.type = 'varchar'::regtype THEN 'text'::regtype::oid
                                                             WHEN y.typtype = 'e' THEN 'anyenum'::regtype::oid
                                                             ELSE t.type END
    JOIN pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree'
    JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
                  AND a.amopstrategy = p_strategy
    JOIN pg_operator o ON o.oid = a.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace;
$_operator$;
COMMENT ON FUNCTION flowguard._operator(regclass, name, integer) IS
  'A comparison operator of a column, qualified, by btree strategy number.';

CREATE OR REPLACE FUNCTION flowguard._key_bound(p_relation regclass, p_alias text, p_strategy integer, p_key text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_key_bound$
-- SQL text: the row's key lies beyond the one that a jsonb expression holds, in the order of ORDER BY; a row comparison
-- that the key's index serves.
-- A row comparison has one operator, whose name is looked up for each column. Where the columns' own differ, as those
-- of an extension's type do, the neighbours that have the same are compared as one part, and the parts one after
-- another: a >= x AND (a > x OR b > y). There the index serves the first part of where to begin. Of where to end it
-- does not: a batch ends by its LIMIT, and of a column between two values the planner expects so few rows that it would
-- read and sort them all.
DECLARE
  v_bound text;
  r_part  record;
BEGIN
  FOR r_part IN
    SELECT x.at_least, x.beyond, string_agg(x.name, ', ' ORDER BY x.n) AS names,
           string_agg(x.value, ', ' ORDER BY x.n) AS key_values
      FROM (SELECT k.n, format('%s.%I', p_alias, k.name) AS name, o.at_least, o.beyond,
                   format('(%s OPERATOR(pg_catalog.->>) %L)::%s', p_key, k.name, c.type_sql) AS value,
                   k.n - row_number() OVER (PARTITION BY o.at_least, o.beyond ORDER BY k.n) AS part
              FROM unnest(flowguard._row_key(p_relation)) WITH ORDINALITY AS k (name, n)
             CROSS JOIN LATERAL flowguard._column(p_relation, k.name) c
             CROSS JOIN LATERAL (
               SELECT flowguard._operator(p_relation, k.name, CASE WHEN p_strategy < 3 THEN 2 ELSE 4 END) AS at_least,
                      flowguard._operator(p_relation, k.name, CASE WHEN p_strategy < 3 THEN 1 ELSE 5 END) AS beyond) o
           ) x
     GROUP BY x.at_least, x.beyond, x.part
     ORDER BY min(x.n) DESC
  LOOP
    IF v_bound IS NULL THEN
      v_bound := format('ROW(%s) %s ROW(%s)', r_part.names,
                        CASE WHEN p_strategy IN (1, 5) THEN r_part.beyond ELSE r_part.at_least END, r_part.key_values);
    ELSE
      v_bound := format(
        CASE WHEN p_strategy < 3 THEN '(ROW(%1$s) %3$s ROW(%4$s) OR ROW(%1$s) %2$s ROW(%4$s) AND %5$s)'
             ELSE 'ROW(%1$s) %2$s ROW(%4$s) AND (ROW(%1$s) %3$s ROW(%4$s) OR %5$s)' END,
        r_part.names, r_part.at_least, r_part.beyond, r_part.key_values, v_bound);
    END IF;
  END LOOP;
  RETURN v_bound;
END;
$_key_bound$;
COMMENT ON FUNCTION flowguard._key_bound(regclass, text, integer, text) IS
  'SQL text: a row''s key lies beyond another.';

CREATE OR REPLACE FUNCTION flowguard._link_order() RETURNS SETOF flowguard.link
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_link_order$
-- Links whose tables are there, sources before those that take a link from them.
  WITH RECURSIVE depth (relation, link_column, n) AS (
    SELECT l.relation, l.link_column, 0 FROM flowguard.link l
    UNION
    SELECT r.relation, r.link_column, d.n + 1
      FROM depth d
      JOIN flowguard.rule r ON r.source = d.relation AND r.source_link = d.link_column
     WHERE d.n < (SELECT count(*) FROM flowguard.link)  -- a ring, which add_reference_rule() refuses, has no end
  )
  SELECT l.*
    FROM flowguard.link l
    JOIN depth d ON d.relation = l.relation AND d.link_column = l.link_column
   WHERE flowguard._is_alive(l)
   GROUP BY l.relation, l.link_column
   ORDER BY max(d.n), l.stem;
$_link_order$;
COMMENT ON FUNCTION flowguard._link_order() IS 'All links, sources before what depends on them.';

CREATE OR REPLACE FUNCTION flowguard._may_write(p_link flowguard.link, p_value text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_may_write$
-- ' AND …' for row b of a batch: the deferred checks of an enforced link let the value pass at commit. Agreement as the
-- key that proves it sees it: by the tenant only where both sides always know theirs.
DECLARE
  v_text    text := '';
  v_unknown text := flowguard._unknown_tenant_sql(p_link, 'b.');
  r_rule    flowguard.rule;
BEGIN
  IF p_link.mode <> 'enforce' THEN
    RETURN '';
  END IF;
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r.agree LOOP
    v_text := v_text || format(
      ' AND (b.%1$I IS NULL OR EXISTS (SELECT FROM %2$s x WHERE x.%3$I %4$s b.%1$I AND x.%5$I %6$s %7$s%8$s))',
      r_rule.via_column, r_rule.source, r_rule.source_key, flowguard._equal(r_rule.source, r_rule.source_key),
      r_rule.source_link, flowguard._equal(r_rule.source, r_rule.source_link), p_value,
      CASE WHEN flowguard._by_tenant(p_link, r_rule)
        THEN flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 'x.', p_link.relation,
                                      p_link.tenant_columns, flowguard._row_refs(p_link, p_link.tenant_columns, 'b'),
                                        true)
        ELSE '' END);
  END LOOP;
  RETURN v_text || CASE WHEN v_unknown IS NULL THEN '' ELSE format(' AND NOT (%s)', v_unknown) END;
END;
$_may_write$;
COMMENT ON FUNCTION flowguard._may_write(flowguard.link, text) IS
  'SQL text: the deferred checks of an enforced link let a value pass for a row of a batch.';

DO $older$
BEGIN
  IF to_regprocedure('flowguard._repair_query(flowguard.link, text, boolean)') IS NOT NULL THEN  -- 1.0.0, by hand
    DROP FUNCTION flowguard._repair_query(flowguard.link, text, boolean);
  END IF;
END;
$older$;
CREATE OR REPLACE FUNCTION flowguard._repair_query(
  p_link flowguard.link, p_row_filter text DEFAULT NULL, p_count_candidates boolean DEFAULT false,
  p_size integer DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_repair_query$
-- One batch of a link as one statement. Parameters: $1 run, $2 key after which to begin (NULL: the start), $3 last key,
-- $4 rows to look at, $5 schema, $6 table. Result: last_key, scanned, linked, translated, unlinked, and the orphans'
-- keys and links. With a size it is for the batches after the first, which are planned once: no start, and the rows to
-- look at are there to be seen.
-- The steps: the batch; of it what is unlinked or dangling; what each rule and each alternate key says of that, by
-- joins; what to do; the writing, where the link is still what was judged; the ledger.
-- The text is the same as long as the link is repaired in the same way: a stopped run goes on only then.
DECLARE
  v_master   flowguard.master := flowguard._master(p_link.master);
  v_key      name[] := flowguard._row_key(p_link.relation);
  v_equal    text := flowguard._equal(p_link.relation, p_link.link_column);
  v_joins    text := '';
  v_held     text := '';   -- queries that lock the rows which links must agree with
  v_new      text := '';   -- WHEN … THEN … by rule
  v_rule     text := '';
  v_kinds    text := '';   -- WHEN … THEN … by rule: what the ledger keeps of it
  v_distance text := '';
  v_near     text := '';
  v_waits    text := 'false';
  v_earlier  text := 'true';   -- no earlier rule yields a master or makes the row wait
  v_agreed   text := 'NULL';
  v_row      text;
  v_kind     text;
  v_alternate text;
  r_rule     flowguard.rule;
BEGIN
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) LOOP
    CONTINUE WHEN r_rule.kind = 'session';
    v_row := 'm' || r_rule."position" || '.' || quote_ident(v_master.key_column);
    v_kinds := v_kinds || format(' WHEN w.rule OPERATOR(pg_catalog.=) %s THEN %L', r_rule."position", r_rule.kind);
    IF r_rule.kind = 'reference' THEN
      -- In enforce a key proves agreement. In observe nobody may set the link of such a row before this batch is
      -- committed: a child that is written here is one that whoever sets it would not find.
      IF r_rule.agree AND p_link.mode <> 'enforce' THEN
        v_held := v_held || format(
          E', held_%1$s AS MATERIALIZED (\n    SELECT %2$s FROM %3$s s\n'
          '     WHERE EXISTS (SELECT FROM broken b WHERE b.%4$I %5$s s.%6$I%7$s)\n       FOR KEY SHARE OF s\n  )',
          r_rule."position",
          flowguard._columns_sql(ARRAY(SELECT DISTINCT x FROM unnest(
            array_remove(r_rule.source_tenant_columns, NULL) || r_rule.source_key || r_rule.source_link) x ORDER BY x),
            's.'),
          r_rule.source, r_rule.via_column, flowguard._equal(r_rule.source, r_rule.source_key), r_rule.source_key,
          flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 's.', p_link.relation,
                                   p_link.tenant_columns, flowguard._row_refs(p_link, p_link.tenant_columns, 'b'),
                                   false));
      END IF;
      -- The first reference is that of most rows, so it is joined. A later one is looked up by its key, for the rows
      -- that come to it: a join would read all of its table for each batch.
      v_joins := v_joins || format(CASE WHEN r_rule.agree OR v_earlier = 'true' THEN
        E'\n    LEFT JOIN %1$s s%2$s ON s%2$s.%3$I %4$s b.%5$I%6$s'
          '\n    LEFT JOIN %7$s m%2$s ON m%2$s.%8$I %9$s s%2$s.%10$I%11$s'
        ELSE
        E'\n    LEFT JOIN LATERAL (SELECT m%2$s.%8$I FROM %1$s s%2$s JOIN %7$s m%2$s ON m%2$s.%8$I %9$s s%2$s.%10$I'
          '%11$s\n     WHERE s%2$s.%3$I %4$s b.%5$I%6$s AND b.%5$I IS NOT NULL AND %12$s OFFSET 0) m%2$s ON true'
        END,
        CASE WHEN r_rule.agree AND p_link.mode <> 'enforce' THEN 'held_' || r_rule."position"
             ELSE r_rule.source::text END,
        r_rule."position", r_rule.source_key, flowguard._equal(r_rule.source, r_rule.source_key),
        r_rule.via_column,
        flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 's' || r_rule."position" || '.',
                                 p_link.relation, p_link.tenant_columns,
                                 flowguard._row_refs(p_link, p_link.tenant_columns, 'b'), false),
        v_master.relation, v_master.key_column, flowguard._equal(v_master.relation, v_master.key_column),
        r_rule.source_link,
        flowguard._match_tenants(v_master.relation, v_master.tenant_columns, 'm' || r_rule."position" || '.',
                                 p_link.relation, p_link.tenant_columns,
                                 flowguard._row_refs(p_link, p_link.tenant_columns, 'b'), false), v_earlier);
      v_new := v_new || format(' WHEN %1$s IS NOT NULL THEN %1$s', v_row);
      v_rule := v_rule || format(' WHEN %s IS NOT NULL THEN %s', v_row, r_rule."position");
      IF r_rule.agree THEN
        v_waits := format('%s OR %s AND b.%I IS NOT NULL AND s%s.%I IS NOT NULL AND s%s.%I IS NULL', v_waits, v_earlier,
                          r_rule.via_column, r_rule."position", r_rule.source_key, r_rule."position",
                            r_rule.source_link);
        v_agreed := CASE WHEN v_agreed = 'NULL' THEN v_row ELSE format('coalesce(%s, %s)', v_agreed, v_row) END;
        v_new := v_new || format(' WHEN b.%I IS NOT NULL THEN NULL', r_rule.via_column);
        v_earlier := v_earlier || format(' AND b.%I IS NULL', r_rule.via_column);
      ELSE
        v_earlier := v_earlier || format(' AND %s IS NULL', v_row);
      END IF;
    ELSE
      v_joins := v_joins || format(
        -- OFFSET 0: the source is searched only for rows that come to this rule.
        E'\n    LEFT JOIN LATERAL (SELECT x.link AS %6$I, x.distance, x.is_between%1$s FROM (\n     %2$s) x '
          'WHERE %3$s AND %4$s OFFSET 0) m%5$s ON true',
        CASE WHEN r_rule.on_ambiguous = 'leave'
          THEN format(', EXISTS (%s) AS is_ambiguous', flowguard._other_master_query(p_link, r_rule, 'b', 'x.link'))
            ELSE '' END,
        flowguard._nearest_in_batch(p_link, r_rule, 'b'),
        flowguard._time_is_usable(format('b.%I', r_rule.time_column)), v_earlier, r_rule."position",
          v_master.key_column);
      IF r_rule.on_ambiguous = 'leave' THEN
        v_new := v_new || format(' WHEN m%s.is_ambiguous THEN NULL', r_rule."position");
        v_earlier := v_earlier || format(' AND m%s.is_ambiguous IS NOT TRUE', r_rule."position");
      END IF;
      v_new := v_new || format(' WHEN %1$s IS NOT NULL THEN %1$s', v_row);
      v_rule := v_rule || format(' WHEN %s IS NOT NULL THEN %s', v_row, r_rule."position");
      v_earlier := v_earlier || format(' AND %s IS NULL', v_row);
      v_distance := v_distance || format(' WHEN n.rule OPERATOR(pg_catalog.=) %1$s THEN m%1$s.distance',
                                         r_rule."position");
      -- Whether there was another candidate. As a rule the nearest before and after tell; else it costs a look. To
      -- count them all is to read them all, for each row that is linked.
      v_near := v_near || format(E'\n             WHEN n.rule OPERATOR(pg_catalog.=) %1$s THEN '
                                 || CASE WHEN p_count_candidates THEN '(%2$s)'
                                         ELSE 'CASE WHEN m%1$s.is_between THEN 2 ELSE (%2$s) END' END,
                                 r_rule."position", flowguard._candidate_count(p_link, r_rule, 'b',
                                   CASE WHEN NOT p_count_candidates THEN 2 END));
    END IF;
  END LOOP;
  SELECT string_agg(format('a.%I %s b.%I', k.name, flowguard._equal(v_master.relation, k.name), p_link.link_column),
    ' OR ')
    INTO v_alternate FROM unnest(v_master.alternate_keys) AS k (name);
  IF v_alternate IS NULL THEN
    v_alternate := 'false';
  END IF;
  -- An orphan is a dangling row that nothing can mend and that waits for nothing.
  v_kind := format(
    'CASE WHEN b.%1$I IS NOT NULL AND t.hits OPERATOR(pg_catalog.>) 1 THEN ''kept'' '
    'WHEN b.%1$I IS NOT NULL AND t.hits OPERATOR(pg_catalog.=) 1 AND (%2$s IS NULL OR %2$s %3$s t.key) '
    'THEN CASE WHEN true%8$s THEN ''translated'' ELSE ''kept'' END '
    'WHEN n.new_link IS NOT NULL THEN CASE WHEN true%9$s THEN ''linked'' ELSE ''kept'' END '
    'WHEN b.%1$I IS NULL THEN ''kept'' '
    'WHEN %4$s THEN %5$L %6$s ELSE %7$L END',
    p_link.link_column,
    CASE WHEN v_agreed = 'NULL'
      THEN 'NULL::' || flowguard._nullable_type(p_link.relation, p_link.link_column)
        ELSE v_agreed END,
    v_equal, '(' || v_waits || ')',
    CASE WHEN p_link.mode = 'enforce' OR p_link.on_orphan = 'keep'
              OR flowguard._is_not_null(p_link.relation, p_link.link_column) THEN 'kept' ELSE 'unlinked' END,
    (SELECT coalesce(string_agg(format('WHEN m%s.is_ambiguous THEN ''kept''', r."position"), ' '
      ORDER BY r."position"), '')
       FROM flowguard._rules(p_link) r WHERE r.on_ambiguous = 'leave'),
    CASE WHEN p_link.on_orphan = 'quarantine' THEN 'orphan'
         WHEN p_link.on_orphan = 'keep' OR p_link.mode = 'enforce' THEN 'kept' ELSE 'unlinked' END,
    flowguard._may_write(p_link, 't.key'), flowguard._may_write(p_link, 'n.new_link'));

  RETURN format($query$
  WITH batch AS MATERIALIZED (
    SELECT %1$s FROM %25$s c
     WHERE %3$s AND %4$s
     ORDER BY %5$s LIMIT %31$s
  ), broken AS MATERIALIZED (
    SELECT b.* FROM batch b
     WHERE b.%6$I IS NULL
        OR NOT EXISTS (SELECT FROM %7$s m WHERE m.%8$I %9$s b.%6$I%10$s)
  )%24$s, decided AS MATERIALIZED (
    SELECT %11$s, b.%6$I AS old_link, k.kind, n.rule,%26$s
           CASE WHEN k.kind OPERATOR(pg_catalog.=) 'translated' THEN t.key
                WHEN k.kind OPERATOR(pg_catalog.=) 'linked' THEN n.new_link END AS new_link
      FROM broken b%13$s
      LEFT JOIN LATERAL (SELECT x.* FROM (
        SELECT pg_catalog.count(*) AS hits, (pg_catalog.array_agg(a.%8$I))[1] AS key FROM %7$s a WHERE (%14$s)%15$s) x
         WHERE b.%6$I IS NOT NULL OFFSET 0) t ON true
     CROSS JOIN LATERAL (SELECT CASE %16$s ELSE NULL END AS new_link, CASE %17$s ELSE NULL END AS rule) n
     CROSS JOIN LATERAL (SELECT %12$s AS kind) k
  ), written AS (
    UPDATE %2$s c SET %6$I = d.new_link FROM decided d
     WHERE %18$s AND (d.old_link IS NULL AND c.%6$I IS NULL OR c.%6$I %9$s d.old_link)
       AND d.kind OPERATOR(pg_catalog.=) ANY ('{linked,translated,unlinked}')
    RETURNING %19$s AS row_key, d.kind, CASE WHEN d.kind OPERATOR(pg_catalog.=) 'linked' THEN d.rule END AS rule,
              d.old_link::pg_catalog.text AS old_link, c.%6$I::pg_catalog.text AS new_link%27$s
  ), logged AS (
    INSERT INTO flowguard.repair_change (run_id, schema_name, table_name, link_column, row_key, kind, rule, old_link,
      new_link, rule_kind%28$s)
    SELECT $1, $5, $6, %20$L, w.row_key, w.kind, w.rule, w.old_link, w.new_link,
           CASE %29$s END%30$s FROM written w
  )
  SELECT (SELECT %21$s FROM batch b ORDER BY %22$s LIMIT 1) AS last_key,
         (SELECT pg_catalog.count(*) FROM batch) AS scanned, w.linked, w.translated, w.unlinked,
         d.orphans, d.orphan_links
    FROM (SELECT pg_catalog.count(*) FILTER (WHERE kind OPERATOR(pg_catalog.=) 'linked') AS linked,
                 pg_catalog.count(*) FILTER (WHERE kind OPERATOR(pg_catalog.=) 'translated') AS translated,
                 pg_catalog.count(*) FILTER (WHERE kind OPERATOR(pg_catalog.=) 'unlinked') AS unlinked FROM written) w,
         (SELECT pg_catalog.array_agg(%23$s) FILTER (WHERE kind OPERATOR(pg_catalog.=) 'orphan') AS orphans,
                 pg_catalog.array_agg(old_link::pg_catalog.text)
                   FILTER (WHERE kind OPERATOR(pg_catalog.=) 'orphan') AS orphan_links
            FROM decided d) d
$query$,
    flowguard._columns_sql(ARRAY(SELECT DISTINCT x FROM unnest(v_key || p_link.link_column
      || flowguard._read_columns(p_link)) x ORDER BY x), 'c.'),
    p_link.relation,
    format(CASE WHEN p_size IS NULL THEN '($2 IS NULL OR %s)' ELSE '%s' END,
           flowguard._key_bound(p_link.relation, 'c', 5, '$2')),
    flowguard._key_bound(p_link.relation, 'c', 2, '$3'),
    flowguard._columns_sql(v_key, 'c.'), p_link.link_column, v_master.relation, v_master.key_column, v_equal,
    CASE WHEN flowguard._find_index(v_master.relation, ARRAY[v_master.key_column], true, false) IS NULL
      THEN flowguard._master_match(p_link, 'b', true) ELSE '' END,
    flowguard._columns_sql(v_key, 'b.'), v_kind, v_joins, v_alternate,
    flowguard._match_tenants(v_master.relation, v_master.tenant_columns, 'a.', p_link.relation, p_link.tenant_columns,
                             flowguard._row_refs(p_link, p_link.tenant_columns, 'b'), false),
    CASE WHEN v_new = '' THEN 'WHEN false THEN b.' || quote_ident(p_link.link_column) ELSE v_new END,
    CASE WHEN v_rule = '' THEN 'WHEN false THEN 0' ELSE v_rule END,
    flowguard._same_row_sql(p_link.relation, 'c.', 'd.'), flowguard._row_key_sql(p_link.relation, 'c.'),
      p_link.link_column,
    flowguard._row_key_sql(p_link.relation, 'b.'),
    (SELECT string_agg(format('b.%I DESC', k.name), ', ' ORDER BY k.n) FROM unnest(v_key) WITH ORDINALITY AS k (name,
      n)),
    flowguard._row_key_sql(p_link.relation, 'd.'), v_held, flowguard._rows_sql(p_link.relation, p_row_filter),
    CASE WHEN v_near <> '' THEN format(
      E'\n           CASE WHEN k.kind OPERATOR(pg_catalog.=) ''linked'' THEN CASE%s END END AS distance,'
      '\n           CASE WHEN k.kind OPERATOR(pg_catalog.=) ''linked'' THEN CASE%s END END AS candidates,',
      v_distance, v_near) ELSE '' END,
    CASE WHEN v_near <> '' THEN ', d.distance, d.candidates' ELSE '' END,
    CASE WHEN v_near <> '' THEN ', distance, candidates' ELSE '' END,
    CASE WHEN v_kinds = '' THEN 'WHEN false THEN NULL::pg_catalog.text' ELSE ltrim(v_kinds) END,
    CASE WHEN v_near <> '' THEN ', w.distance, w.candidates' ELSE '' END, coalesce(p_size::text, '$4'));
END;
$_repair_query$;
COMMENT ON FUNCTION flowguard._repair_query(flowguard.link, text, boolean, integer) IS
  'SQL text that repairs one batch of a link, of all rows or of those that meet a condition.';

CREATE OR REPLACE FUNCTION flowguard._row_values(p_relation regclass, p_row_key jsonb, p_columns text[],
  OUT column_names text[],
                                                 OUT column_values text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET row_security = off SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET timezone = 'UTC' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $_row_values$
-- The columns of a row (NULL: all but generated ones) and their values as output text.
BEGIN
  SELECT array_agg(a.attname::text ORDER BY a.attnum)
    INTO column_names
    FROM pg_attribute a
   WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     AND (p_columns IS NULL OR a.attname = ANY (p_columns));
  EXECUTE format('SELECT ARRAY[%s] FROM %s c WHERE %s',
                 (SELECT string_agg(format('CASE WHEN num_nulls(c.%1$I) = 0 THEN format(''%%s'', c.%1$I) END', n.name),
                   ', ' ORDER BY n.n)
                    FROM unnest(column_names) WITH ORDINALITY AS n (name, n)),
                 p_relation, flowguard._key_sql_match(p_relation, 'c', '$1'))
    INTO column_values USING p_row_key;
END;
$_row_values$;
COMMENT ON FUNCTION flowguard._row_values(regclass, jsonb, text[]) IS
  'Columns of a row and their values as output text under pinned settings.';

CREATE OR REPLACE FUNCTION flowguard._keep_row(
  p_run bigint, p_relation regclass, p_row_key jsonb, p_link_column name, p_reason text, p_after bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $_keep_row$
-- Writes a row into the quarantine, and whatever its delete would delete or set in other tables, all the way down. A
-- row that several ways lead to is kept once: after the entry that was the last when its removal began.
DECLARE
  v_schema text;
  v_table  text;
  v_keys   jsonb[];
  v_child  jsonb;
  r_key    record;
BEGIN
  SELECT n.nspname, c.relname INTO STRICT v_schema, v_table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_relation;
  IF EXISTS (SELECT FROM flowguard.quarantined_row q
              WHERE q.run_id = p_run AND q.schema_name = v_schema AND q.table_name = v_table AND q.row_key = p_row_key
                AND q.action = 'deleted' AND q.restored_at IS NULL AND q.quarantine_id > p_after) THEN
    RETURN;
  END IF;
  INSERT INTO flowguard.quarantined_row (run_id, schema_name, table_name, row_key, action, column_names, column_values,
                                         link_column, reason)
  SELECT p_run, v_schema, v_table, p_row_key, 'deleted', v.column_names, v.column_values, p_link_column, p_reason
    FROM flowguard._row_values(p_relation, p_row_key, NULL) v;
  FOR r_key IN
    -- A key may refer to a partition alone, and a row of a partition may be referred to as one of its whole table.
    SELECT c.conrelid::regclass AS child, c.conname, c.confdeltype AS action, c.conkey,
           CASE WHEN EXISTS (SELECT FROM pg_partition_tree(p_relation) t WHERE t.relid = c.confrelid)
                THEN c.confrelid::regclass ELSE p_relation END AS parent,
           string_agg(format('p.%I OPERATOR(%I.%s) k.%I', t.attname, n.nspname, o.oprname, a.attname), ' AND '
             ORDER BY x.n) AS joined
      FROM pg_constraint c
     CROSS JOIN LATERAL unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY AS x (own, other, operator, n)
      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = x.own
      JOIN pg_attribute t ON t.attrelid = c.confrelid AND t.attnum = x.other
      JOIN pg_operator o ON o.oid = x.operator
      JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confdeltype IN ('c', 'n', 'd') AND flowguard._is_enforced(c)
       AND c.confrelid = ANY (flowguard._partition_family(p_relation))
     GROUP BY c.oid
     ORDER BY c.conname
  LOOP
    -- Locked, so that what is kept is what goes: the delete would take what another session writes meanwhile with it.
    EXECUTE format('SELECT array_agg(x.key) FROM (SELECT %s AS key FROM %s k JOIN %s p ON %s WHERE %s '
                   'FOR UPDATE OF k) x',
                   flowguard._row_key_sql(r_key.child, 'k.'), r_key.child, r_key.parent, r_key.joined,
                   flowguard._key_sql_match(p_relation, 'p', '$1'))
      INTO v_keys USING p_row_key;
    FOREACH v_child IN ARRAY coalesce(v_keys, '{}') LOOP
      IF r_key.action = 'c' THEN
        PERFORM flowguard._keep_row(p_run, r_key.child, v_child, NULL, format('went with row %s of %s', p_row_key,
          p_relation), p_after);
      ELSE
        INSERT INTO flowguard.quarantined_row (run_id, schema_name, table_name, row_key, action, column_names,
          column_values, reason)
        SELECT p_run, n.nspname, c.relname, v_child, 'set', v.column_names, v.column_values,
               format('set when row %s of %s went', p_row_key, p_relation)
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL flowguard._row_values(r_key.child, v_child, ARRAY(
                      SELECT a.attname FROM pg_attribute a WHERE a.attrelid = r_key.child
                        AND a.attnum = ANY (r_key.conkey))) v
         WHERE c.oid = r_key.child;
      END IF;
    END LOOP;
  END LOOP;
END;
$_keep_row$;
COMMENT ON FUNCTION flowguard._keep_row(bigint, regclass, jsonb, name, text, bigint) IS
  'Writes a row, and what its delete would touch, into the quarantine.';

CREATE OR REPLACE FUNCTION flowguard._is_still_there(p_run bigint, p_after bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_is_still_there$
-- Whether a row that a run keeps as deleted is in its table all the same: PostgreSQL does not mind a trigger that turns
-- the delete of a cascade away.
DECLARE
  r_row record;
BEGIN
  FOR r_row IN
    SELECT format('%I.%I', q.schema_name, q.table_name)::regclass AS relation, q.row_key
      FROM flowguard.quarantined_row q
     WHERE q.run_id = p_run AND q.restored_at IS NULL AND q.quarantine_id > p_after AND q.action = 'deleted'
  LOOP
    IF (flowguard._row_values(r_row.relation, r_row.row_key, NULL)).column_values IS NOT NULL THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END;
$_is_still_there$;
COMMENT ON FUNCTION flowguard._is_still_there(bigint, bigint) IS
  'Whether a row that a run keeps as deleted is in its table all the same.';

CREATE OR REPLACE FUNCTION flowguard._quarantine_row(
  p_run bigint, p_link flowguard.link, p_row_key jsonb, p_old_link text
) RETURNS boolean
LANGUAGE plpgsql SET row_security = off AS $_quarantine_row$
-- Keeps an orphan and deletes it; false, with everything as it was, where it has changed meanwhile or may not go.
DECLARE
  v_found  boolean;
  v_hint   pg_catalog.text;
  v_gone   bigint;
  v_before bigint := (SELECT coalesce(pg_catalog.max(q.quarantine_id), 0) FROM flowguard.quarantined_row q
                       WHERE q.run_id OPERATOR(pg_catalog.=) p_run AND q.restored_at IS NULL);
BEGIN
  EXECUTE pg_catalog.format('SELECT true FROM %s c WHERE %s AND c.%I::pg_catalog.text OPERATOR(pg_catalog.=) $2 FOR '
    'UPDATE',
                            p_link.relation::pg_catalog.text, flowguard._key_sql_match(p_link.relation, 'c', '$1'),
                            p_link.link_column)
    INTO v_found USING p_row_key, p_old_link;
  IF v_found IS NULL THEN
    RETURN false;
  END IF;
  PERFORM flowguard._keep_row(p_run, p_link.relation, p_row_key, p_link.link_column,
                              pg_catalog.format('%I = %s is no key of a master, and nothing leads to one',
                                p_link.link_column, p_old_link), v_before);
  EXECUTE pg_catalog.format('DELETE FROM %s c WHERE %s', p_link.relation::pg_catalog.text,
                            flowguard._key_sql_match(p_link.relation, 'c', '$1'))
    USING p_row_key;
  GET DIAGNOSTICS v_gone = ROW_COUNT;
  IF v_gone OPERATOR(pg_catalog.=) 0 OR flowguard._is_still_there(p_run, v_before) THEN
    RAISE SQLSTATE 'FG999' USING MESSAGE = 'a trigger or a rule of the application keeps it, or what goes with it';
  END IF;
  -- A key that is checked at commit would take the whole batch with it.
  SET CONSTRAINTS ALL IMMEDIATE;
  SET CONSTRAINTS ALL DEFERRED;
  RETURN true;
EXCEPTION
  WHEN integrity_constraint_violation OR raise_exception OR SQLSTATE 'FG999' THEN
    RAISE NOTICE 'row % of table % stays: %', p_row_key, p_link.relation, SQLERRM
      USING HINT = pg_catalog.format('Take away what refers to it or keeps it, then run "CALL flowguard.repair(%L, '
        'link_column => %L)" again.', p_link.relation, p_link.link_column);
    RETURN false;
  WHEN SQLSTATE 'FG105' THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;
    RAISE NOTICE 'row % of table % stays, for what would go with it could not be put back: %', p_row_key,
      p_link.relation, SQLERRM
      USING HINT = v_hint;
    RETURN false;
END;
$_quarantine_row$;
COMMENT ON FUNCTION flowguard._quarantine_row(bigint, flowguard.link, jsonb, text) IS
  'Moves an orphan into the quarantine; false where it may not go.';

CREATE OR REPLACE FUNCTION flowguard._last_key(p_link flowguard.link) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_last_key$
-- The largest row key, which bounds a run: rows that come later are the guard's.
DECLARE
  v_last jsonb;
BEGIN
  EXECUTE format('SELECT %s FROM %s c ORDER BY %s LIMIT 1', flowguard._row_key_sql(p_link.relation, 'c.'),
    p_link.relation,
                 (SELECT string_agg(format('c.%I DESC', k.name), ', ' ORDER BY k.n)
                    FROM unnest(flowguard._row_key(p_link.relation)) WITH ORDINALITY AS k (name, n)))
    INTO v_last;
  RETURN v_last;
END;
$_last_key$;
COMMENT ON FUNCTION flowguard._last_key(flowguard.link) IS 'The largest row key of a link''s table.';

CREATE OR REPLACE FUNCTION flowguard._repair_batch(
  p_run bigint, p_link flowguard.link, p_query text, p_after jsonb, p_last jsonb, p_size integer
) RETURNS jsonb
LANGUAGE plpgsql SET row_security = off SET jit = off SET plan_cache_mode = force_generic_plan AS $_repair_batch$
-- One batch: links and translates as one statement, then takes out the orphans; returns the key to go on after, NULL at
-- the end, and the counts. To compile a batch costs more than it gains: by time, 50,000 rows took 1.5 times as long.
-- All batches but the first of a link are one prepared statement: to plan one takes as long as to link a hundred rows.
-- The application's triggers inherit what is set here: it changes how their statements are planned, not what they do.
DECLARE
  v_prepare     pg_catalog.text := 'PREPARE flowguard_repair_batch (pg_catalog.int8, pg_catalog.jsonb, '
    'pg_catalog.jsonb, pg_catalog.int4, pg_catalog.text, pg_catalog.text) AS ' OPERATOR(pg_catalog.||) p_query;
  v_prepared    pg_catalog.text;
  v_last_key    pg_catalog.jsonb;
  v_scanned     bigint;
  v_linked      bigint;
  v_translated  bigint;
  v_unlinked    bigint;
  v_orphans     pg_catalog.jsonb[];
  v_links       pg_catalog.text[];
  v_quarantined bigint := 0;
  v_schema      pg_catalog.text;
  v_table       pg_catalog.text;
BEGIN
  SELECT n.nspname, c.relname INTO v_schema, v_table
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
   WHERE c.oid OPERATOR(pg_catalog.=) p_link.relation;
  PERFORM flowguard._mark_transaction('repair', p_run, NULL);
  IF p_after IS NULL THEN
    EXECUTE p_query INTO v_last_key, v_scanned, v_linked, v_translated, v_unlinked, v_orphans, v_links
      USING p_run, p_after, p_last, p_size, v_schema, v_table;
  ELSE
    SELECT s.statement INTO v_prepared FROM pg_catalog.pg_prepared_statements s
     WHERE s.name OPERATOR(pg_catalog.=) 'flowguard_repair_batch';
    IF v_prepared OPERATOR(pg_catalog.<>) v_prepare THEN
      DEALLOCATE flowguard_repair_batch;
    END IF;
    IF v_prepared IS NULL OR v_prepared OPERATOR(pg_catalog.<>) v_prepare THEN
      EXECUTE v_prepare;
    END IF;
    EXECUTE pg_catalog.format('EXECUTE flowguard_repair_batch(%L, %L, %L, %L, %L, %L)', p_run, p_after, p_last, p_size,
                              v_schema, v_table)
      INTO v_last_key, v_scanned, v_linked, v_translated, v_unlinked, v_orphans, v_links;
  END IF;
  FOR v_index IN 1 .. coalesce(pg_catalog.cardinality(v_orphans), 0) LOOP
    IF flowguard._quarantine_row(p_run, p_link, v_orphans[v_index], v_links[v_index]) THEN
      v_quarantined := v_quarantined OPERATOR(pg_catalog.+) 1;
    END IF;
  END LOOP;
  -- What is checked at commit is checked now: late links that come of it are part of the run, and a refusal can be
  -- handled.
  SET CONSTRAINTS ALL IMMEDIATE;
  SET CONSTRAINTS ALL DEFERRED;
  PERFORM flowguard._unmark_transaction('repair');
  RETURN pg_catalog.jsonb_build_object(
    'after', CASE WHEN v_scanned OPERATOR(pg_catalog.>=) p_size THEN v_last_key END, 'scanned', v_scanned,
    'linked', v_linked, 'translated', v_translated, 'unlinked', v_unlinked, 'quarantined', v_quarantined,
    'held', coalesce(pg_catalog.cardinality(v_orphans), 0)::pg_catalog.int8 OPERATOR(pg_catalog.-) v_quarantined);
END;
$_repair_batch$;
COMMENT ON FUNCTION flowguard._repair_batch(bigint, flowguard.link, text, jsonb, jsonb, integer) IS
  'Repairs one batch of a link in the current transaction.';

CREATE OR REPLACE FUNCTION flowguard._next_key(
  p_link flowguard.link, p_after jsonb, p_last jsonb, p_row_filter text
) RETURNS jsonb
LANGUAGE plpgsql STABLE SET row_security = off AS $_next_key$
-- The row key after another one (NULL: the first), not beyond the last, of a row that meets the condition; NULL at the
-- end. No SET search_path: the condition is read as its author wrote it.
DECLARE
  v_next pg_catalog.jsonb;
BEGIN
  EXECUTE pg_catalog.format('SELECT %s FROM %s c WHERE ($1 IS NULL OR %s) AND %s ORDER BY %s LIMIT 1',
                 flowguard._row_key_sql(p_link.relation, 'c.'), flowguard._rows_sql(p_link.relation, p_row_filter),
                 flowguard._key_bound(p_link.relation, 'c', 5, '$1'), flowguard._key_bound(p_link.relation, 'c', 2,
                   '$2'),
                 flowguard._columns_sql(flowguard._row_key(p_link.relation), 'c.'))
    INTO v_next USING p_after, p_last;
  RETURN v_next;
END;
$_next_key$;
COMMENT ON FUNCTION flowguard._next_key(flowguard.link, jsonb, jsonb, text) IS
  'The row key of a link''s table after another one.';

CREATE OR REPLACE FUNCTION flowguard._check_row_filter(p_relation regclass, p_row_filter text) RETURNS void
LANGUAGE plpgsql AS $_check_row_filter$
-- Raises FG104 unless a text is one condition on the rows of a table. It is read twice, and never run. Without brackets
-- around it one that closes what it has not opened is a syntax error; within them, whatever would go on after it. A
-- cursor takes one statement only, and is opened, not read. Parameters are none, so that $1 is an error, too.
-- No SET search_path: it is read as its author wrote it, with the rights of whoever calls.
DECLARE
  v_rows pg_catalog.refcursor;
BEGIN
  IF p_row_filter IS NULL THEN
    RETURN;
  ELSIF p_relation IS NULL THEN
    PERFORM flowguard._refuse_argument('row_filter is given without a table', 'It is a condition on the columns of one '
      'table.', 'Pass the table as relation, or leave row_filter out.');
  END IF;
  OPEN v_rows NO SCROLL FOR EXECUTE pg_catalog.format(E'SELECT 1 FROM %s WHERE %s\n', p_relation, p_row_filter);
  CLOSE v_rows;
  OPEN v_rows NO SCROLL FOR EXECUTE pg_catalog.format(E'SELECT 1 FROM %s WHERE (\n%s\n)', p_relation, p_row_filter);
  CLOSE v_rows;
EXCEPTION
  WHEN OTHERS THEN
    -- Classes of errors in what was written, as for the filter of a source: see _read_filter().
    IF pg_catalog.left(SQLSTATE, 2) OPERATOR(pg_catalog.<>) ALL ('{42,22,0A,3F}') THEN
      RAISE;
    END IF;
    PERFORM flowguard._refuse_argument(
      pg_catalog.format('row_filter %L is no condition on table %s', p_row_filter, p_relation), SQLERRM,
      pg_catalog.format('Write it as in WHERE, with columns of the table: row_filter => %L.',
                        pg_catalog.format('%I >= …', (flowguard._row_key(p_relation))[1])));
END;
$_check_row_filter$;
COMMENT ON FUNCTION flowguard._check_row_filter(regclass, text) IS
  'Raises FG104 unless a text is a condition on the rows of a table.';

CREATE OR REPLACE FUNCTION flowguard._begin_run(
  p_relation regclass, p_link_column name, p_note text, p_row_filter text, p_count_candidates boolean
) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $_begin_run$
  INSERT INTO flowguard.repair_run (relation, link_column, note, row_filter, count_candidates)
  VALUES (p_relation::text, CASE WHEN p_relation IS NOT NULL THEN p_link_column END, p_note, p_row_filter,
          p_count_candidates)
  RETURNING run_id;
$_begin_run$;
COMMENT ON FUNCTION flowguard._begin_run(regclass, name, text, text, boolean) IS 'Writes a new run into the ledger.';

CREATE OR REPLACE FUNCTION flowguard._repair_call(p_run flowguard.repair_run, p_more text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_repair_call$
-- Note, condition and counting are a part of it: a run is gone on with by the arguments that it was called with.
  SELECT format('CALL flowguard.repair(%s)',
                concat_ws(', ', quote_literal(p_run.relation), 'link_column => ' || quote_literal(p_run.link_column),
                          'row_filter => ' || quote_literal(p_run.row_filter),
                          'note => ' || quote_literal(p_run.note),
                          CASE WHEN p_run.count_candidates THEN 'count_candidates => true' END, p_more));
$_repair_call$;
COMMENT ON FUNCTION flowguard._repair_call(flowguard.repair_run, text) IS
  'The statement that goes on with a stopped run, or one with more arguments.';

CREATE OR REPLACE FUNCTION flowguard._resume_run(
  p_relation regclass, p_link_column name, p_note text, p_links flowguard.link[], p_resume boolean, p_row_filter text,
  p_count_candidates boolean
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_resume_run$
-- Marks runs whose call is gone as stopped; takes up the last one with these arguments, if no later run came to all its
-- rows and its links are repaired now as they were then. NULL: there is none. Of two that call at once one gets it.
DECLARE
  v_run  flowguard.repair_run;
  v_done text;
BEGIN
  UPDATE flowguard.repair_run r SET status = 'stopped' WHERE r.status = 'running' AND NOT flowguard._is_running(r);
  IF NOT p_resume THEN
    RETURN NULL;
  END IF;
  UPDATE flowguard.repair_run r
     SET status = 'running', pid = pg_backend_pid(), called_at = statement_timestamp()
   WHERE r.status = 'stopped'
     AND r.run_id = (
       SELECT max(e.run_id) FROM flowguard.repair_run e
        WHERE e.relation IS NULL
           OR (e.relation, e.link_column) = (p_relation::text, p_link_column::text)
              AND (e.row_filter IS NULL OR e.row_filter = p_row_filter))
     AND (r.relation, r.link_column, r.note, r.row_filter, r.count_candidates) IS NOT DISTINCT FROM
         (p_relation::text, CASE WHEN p_relation IS NOT NULL THEN p_link_column::text END, p_note, p_row_filter,
          p_count_candidates)
     AND (SELECT count(*) FROM flowguard.repair_link k WHERE k.run_id = r.run_id) = cardinality(p_links)
     AND NOT EXISTS (
       SELECT FROM unnest(p_links) AS l
         JOIN pg_class c ON c.oid = l.relation
         JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE NOT EXISTS (
          SELECT FROM flowguard.repair_link k
           WHERE (k.run_id, k.schema_name, k.table_name, k.link_column)
                 = (r.run_id, n.nspname::text, c.relname::text, l.link_column::text)
             AND k.query_hash = md5(flowguard._repair_query(l, p_row_filter, p_count_candidates))))
  RETURNING r.* INTO v_run;
  IF v_run.run_id IS NULL THEN
    RETURN NULL;
  END IF;
  SELECT string_agg(format('%s of %s rows of %s', p.scanned, p.total, p.relation), ', ') INTO v_done
    FROM flowguard.repair_progress p WHERE p.run_id = v_run.run_id AND p.last_batch_at IS NOT NULL;
  RAISE NOTICE 'run % of % goes on where it was stopped: %', v_run.run_id,
    to_char(v_run.started_at, 'YYYY-MM-DD HH24:MI'), coalesce(v_done, 'at the start')
    USING HINT = format('To look at all rows again, run "%s" instead.', flowguard._repair_call(v_run,
      'resume => false'));
  RETURN v_run.run_id;
END;
$_resume_run$;
COMMENT ON FUNCTION flowguard._resume_run(regclass, name, text, flowguard.link[], boolean, text, boolean) IS
  'Takes up a stopped run with the same arguments; NULL where there is none.';

CREATE OR REPLACE FUNCTION flowguard._estimate_rows(p_relation regclass, p_row_filter text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SET row_security = off AS $_estimate_rows$
-- As the planner does it: by the size that the table has now, partitions included, analysed or not. No SET search_path:
-- a condition is read as its author wrote it.
DECLARE
  v_plan pg_catalog.json;
BEGIN
  EXECUTE pg_catalog.format('EXPLAIN (FORMAT JSON) SELECT FROM %s c', flowguard._rows_sql(p_relation, p_row_filter))
    INTO v_plan;
  RETURN (v_plan OPERATOR(pg_catalog.#>>) '{0,Plan,Plan Rows}')::pg_catalog.numeric;
END;
$_estimate_rows$;
COMMENT ON FUNCTION flowguard._estimate_rows(regclass, text) IS
  'About how many rows a table has, or of them meet a condition.';

CREATE OR REPLACE FUNCTION flowguard._begin_links(
  p_run bigint, p_links flowguard.link[], p_estimated bigint[], p_row_filter text, p_count_candidates boolean
) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $_begin_links$
-- Fixes the last key of each table: rows that come later are the guard's, or the next call's. A run that goes on keeps
-- its place.
  INSERT INTO flowguard.repair_link AS k (run_id, schema_name, table_name, link_column, "position", query_hash,
                                          last_key, estimated)
  SELECT p_run, n.nspname, c.relname, l.link_column, l."position",
         md5(flowguard._repair_query(l.link, p_row_filter, p_count_candidates)), flowguard._last_key(l.link),
         p_estimated[l."position"]
    FROM (SELECT u AS link, u.relation, u.link_column, row_number() OVER () AS "position"
            FROM unnest(p_links) AS u) AS l
    JOIN pg_class c ON c.oid = l.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
  ON CONFLICT (run_id, schema_name, table_name, link_column) DO UPDATE
     SET "position" = excluded."position", last_key = excluded.last_key, estimated = excluded.estimated,
         scanned_before = k.scanned, started_at = NULL;
$_begin_links$;
COMMENT ON FUNCTION flowguard._begin_links(bigint, flowguard.link[], bigint[], text, boolean) IS
  'Writes down what a run is to look at.';

CREATE OR REPLACE FUNCTION flowguard._link_place(p_run bigint, p_position integer, OUT after_key jsonb,
  OUT last_key jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_link_place$
-- By its position, which a table keeps that is renamed meanwhile.
  SELECT k.after_key, k.last_key FROM flowguard.repair_link k WHERE k.run_id = p_run AND k."position" = p_position;
$_link_place$;
COMMENT ON FUNCTION flowguard._link_place(bigint, integer) IS
  'The keys between which a run has yet to look at a link.';

CREATE OR REPLACE FUNCTION flowguard._count_batch(p_run bigint, p_position integer, p_counts jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_count_batch$
-- In the transaction of the batch: what is done and where to go on are never apart. PL/pgSQL, which keeps the plans.
BEGIN
  UPDATE flowguard.repair_run r
     SET linked = r.linked + coalesce((p_counts ->> 'linked')::bigint, 0),
         translated = r.translated + coalesce((p_counts ->> 'translated')::bigint, 0),
         unlinked = r.unlinked + coalesce((p_counts ->> 'unlinked')::bigint, 0),
         quarantined = r.quarantined + coalesce((p_counts ->> 'quarantined')::bigint, 0)
   WHERE r.run_id = p_run;
  UPDATE flowguard.repair_link k
     SET after_key = coalesce(nullif(p_counts -> 'after', 'null'), k.last_key),
         scanned = k.scanned + (p_counts ->> 'scanned')::bigint,
         held = k.held + coalesce((p_counts ->> 'held')::bigint, 0),
         taken = k.taken + coalesce((p_counts ->> 'quarantined')::bigint, 0),
         started_at = coalesce(k.started_at, now()), last_batch_at = clock_timestamp()
   WHERE k.run_id = p_run AND k."position" = p_position;
END;
$_count_batch$;
COMMENT ON FUNCTION flowguard._count_batch(bigint, integer, jsonb) IS 'Adds a batch to what its run has done.';

CREATE OR REPLACE FUNCTION flowguard._next_pass(p_run bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_next_pass$
-- A row that another one held by a key, an orphan or one that its children had to follow, may be free once that one
-- has gone.
BEGIN
  UPDATE flowguard.repair_link k
     SET after_key = NULL, pass = k.pass + 1, scanned = 0, scanned_before = 0, held = 0, taken = 0, started_at = NULL
   WHERE k.run_id = p_run
     AND (SELECT sum(o.held) > 0 AND sum(o.taken) > 0 FROM flowguard.repair_link o WHERE o.run_id = p_run);
  RETURN FOUND;
END;
$_next_pass$;
COMMENT ON FUNCTION flowguard._next_pass(bigint) IS 'Sends a run through its links again, where that may help.';

CREATE OR REPLACE FUNCTION flowguard._forget_batch() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_forget_batch$
-- Before a run, for one that was stopped may have left its own, in which the names of a condition mean what they meant
-- then; and after it.
BEGIN
  IF EXISTS (SELECT FROM pg_prepared_statements s WHERE s.name = 'flowguard_repair_batch') THEN
    DEALLOCATE flowguard_repair_batch;
  END IF;
END;
$_forget_batch$;
COMMENT ON FUNCTION flowguard._forget_batch() IS 'Forgets the prepared statement of a repair''s batches.';

CREATE OR REPLACE FUNCTION flowguard._end_run(p_run bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $_end_run$
  UPDATE flowguard.repair_run r
     SET followed = (SELECT count(*) FROM flowguard.repair_change c WHERE c.run_id = p_run AND c.kind = 'followed'),
         status = 'finished', finished_at = clock_timestamp()
   WHERE r.run_id = p_run;
$_end_run$;
COMMENT ON FUNCTION flowguard._end_run(bigint) IS 'Writes down that a run has come to its end.';

CREATE OR REPLACE FUNCTION flowguard._count_remaining(p_run bigint, p_links flowguard.link[], p_row_filter text)
RETURNS void
LANGUAGE plpgsql SET row_security = off AS $_count_remaining$
-- What is unlinked or dangling when a run ends, of the rows that meet its condition then. A sum over its batches would
-- count rows that went later in the run. No SET search_path: the condition is read as its author wrote it.
DECLARE
  v_remaining bigint;
BEGIN
  IF p_row_filter IS NULL THEN
    SELECT coalesce(pg_catalog.sum(c.unlinked OPERATOR(pg_catalog.+) c.dangling), 0) INTO v_remaining
      FROM pg_catalog.unnest(p_links) AS l CROSS JOIN LATERAL flowguard._count_links(l) AS c;
  ELSIF pg_catalog.cardinality(p_links) OPERATOR(pg_catalog.>) 0 THEN
    EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FROM %s WHERE (%s) OPERATOR(pg_catalog.=) '
                              'ANY (''{unlinked,dangling}'')',
                              flowguard._judged_rows(p_links[1], p_row_filter), flowguard._judgement(p_links[1]))
      INTO v_remaining;
  END IF;
  UPDATE flowguard.repair_run r SET remaining = coalesce(v_remaining, 0) WHERE r.run_id OPERATOR(pg_catalog.=) p_run;
END;
$_count_remaining$;
COMMENT ON FUNCTION flowguard._count_remaining(bigint, flowguard.link[], text) IS
  'Writes into a run how many rows of its links are unlinked or dangling.';

CREATE OR REPLACE FUNCTION flowguard._pace_setting(p_name text, p_type regtype) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_pace_setting$
-- What the session says of the pace of repairs whose call says nothing: those in change sets, say. NULL: nothing.
-- Raises FG104.
DECLARE
  v_value    text := nullif(current_setting(p_name, true), '');
  v_positive boolean;
BEGIN
  BEGIN
    EXECUTE format('SELECT %L::%2$s > %3$L::%2$s', v_value, p_type, '0') INTO v_positive;
  EXCEPTION
    WHEN data_exception THEN
      v_positive := false;
  END;
  IF NOT v_positive THEN
    PERFORM flowguard._refuse_argument(
      format('setting %s is %L', p_name, v_value), format('It must be of type %s, and more than 0.', p_type),
      format('Set it to such a value, or run "SET %s = ''''" for as fast as can be.', p_name));
  END IF;
  RETURN v_value;
END;
$_pace_setting$;
COMMENT ON FUNCTION flowguard._pace_setting(text, regtype) IS
  'A setting of the session that bounds the pace of repairs; raises FG104 where it has no such value.';

CREATE OR REPLACE FUNCTION flowguard._tell_missing_indexes(p_links flowguard.link[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_tell_missing_indexes$
-- Says, before hours have gone by, that a rule by time has no index to search its source by. What else repair looks up
-- is unique, or was not registered. Of a small source nothing is said: to read it all is soon done.
DECLARE
  v_link    flowguard.link;
  v_columns name[];
  v_index   record;
  v_rows    bigint;
  r_rule    flowguard.rule;
BEGIN
  FOREACH v_link IN ARRAY p_links LOOP
    CONTINUE WHEN NOT flowguard._is_alive(v_link);
    FOR r_rule IN SELECT * FROM flowguard._rules(v_link) r WHERE r.kind = 'proximity' LOOP
      v_columns := array_remove(r_rule.source_tenant_columns, NULL) || r_rule.source_time;
      CONTINUE WHEN EXISTS (SELECT FROM (VALUES (false), (true)) AS o (ours)
                             WHERE flowguard._find_index(r_rule.source, v_columns, false, o.ours) IS NOT NULL
                                OR flowguard._find_index(r_rule.source, ARRAY[r_rule.source_time], false, o.ours)
                                   IS NOT NULL);
      v_rows := flowguard._estimate_rows(r_rule.source);
      CONTINUE WHEN v_rows < 10000;
      SELECT w.verb, w.definition INTO STRICT v_index FROM flowguard._wanted_indexes(v_link) w
       WHERE w.relation = r_rule.source AND w.newest_first = r_rule.source_time;
      RAISE NOTICE 'table % has no index on (%), by which rule % of link %.% searches it: repair will be slow',
        r_rule.source, flowguard._columns_sql(v_columns), r_rule."position", v_link.relation,
        quote_ident(v_link.link_column)
        USING DETAIL = format('All of its about %s rows are read for each row that is looked for.', v_rows),
              HINT = format('It may be stopped: what was committed stays. Call flowguard.guard(%L, %L), which makes '
                'the index, or run "%s%s%s" alone, and then repair.', v_link.relation, v_link.link_column, v_index.verb,
                (SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'CONCURRENTLY ' END FROM pg_class c
                  WHERE c.oid = r_rule.source), v_index.definition);
    END LOOP;
  END LOOP;
END;
$_tell_missing_indexes$;
COMMENT ON FUNCTION flowguard._tell_missing_indexes(flowguard.link[]) IS
  'Says which sources have no index for a rule by time.';

CREATE OR REPLACE FUNCTION flowguard._refuse_gone(p_run bigint, p_position integer, p_link flowguard.link) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_refuse_gone$
-- Raises FG101 where a table that a link speaks of was dropped; the ledger knows what the link's own was called.
DECLARE
  v_gone text := flowguard._missing(p_link);
BEGIN
  IF v_gone LIKE '%table with oid%' THEN
    RAISE EXCEPTION 'flowguard: link % cannot be repaired: % is gone',
      coalesce((SELECT format('%I.%I.%I', k.schema_name, k.table_name, k.link_column) FROM flowguard.repair_link k
                 WHERE k.run_id = p_run AND k."position" = p_position),
               format('%s.%I', p_link.relation, p_link.link_column)), v_gone
      USING ERRCODE = 'FG101', DETAIL = 'It was dropped since the link was registered. What was committed stays.',
            HINT = format('Forget the link: run "SELECT flowguard.unguard(%1$L, %2$L)" and "SELECT '
              'flowguard.drop_link(%1$L, %2$L)". Then "CALL flowguard.repair()" comes to the other links.',
              p_link.relation, p_link.link_column);
  END IF;
END;
$_refuse_gone$;
COMMENT ON FUNCTION flowguard._refuse_gone(bigint, integer, flowguard.link) IS
  'Raises FG101 where a table that a link speaks of was dropped.';

CREATE OR REPLACE FUNCTION flowguard._lagging(p_max_lag interval, p_written pg_lsn) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $_lagging$
-- Standbys and subscribers that are too far behind; NULL: none. One that still catches up tells no lag. One that has
-- taken all that was written when the wait began is not behind, though its last lag is still shown.
  SELECT string_agg(format('%s (%s)', coalesce(nullif(s.application_name, ''), 'process ' || s.pid),
                           coalesce(to_char(s.replay_lag, 'HH24:MI:SS'), s.state)), ', '
                    ORDER BY s.application_name, s.pid)
    FROM pg_stat_replication s
   WHERE (s.replay_lag > p_max_lag OR s.state = 'catchup')
     AND (s.replay_lsn IS NULL OR s.replay_lsn < p_written);
$_lagging$;
COMMENT ON FUNCTION flowguard._lagging(interval, pg_lsn) IS 'Standbys and subscribers that are too far behind.';

CREATE OR REPLACE PROCEDURE flowguard._hold_back(p_seconds double precision, p_max_lag interval, INOUT has_said boolean)
LANGUAGE plpgsql AS $_hold_back$
-- Waits between two batches: so many seconds, one at most, and until replication is near enough. Nothing is locked
-- meanwhile, and no snapshot that VACUUM would have to respect lasts longer than such a second.
-- No SET clause: a procedure that commits may not have one.
DECLARE
  v_written pg_catalog.pg_lsn;
  v_lagging pg_catalog.text;
BEGIN
  IF p_seconds OPERATOR(pg_catalog.>) 0::pg_catalog.float8 THEN
    PERFORM pg_catalog.pg_sleep(p_seconds);
    COMMIT;
  END IF;
  IF p_max_lag IS NULL THEN
    RETURN;
  END IF;
  v_written := pg_catalog.pg_current_wal_insert_lsn();
  LOOP
    v_lagging := flowguard._lagging(p_max_lag, v_written);
    EXIT WHEN v_lagging IS NULL;
    IF NOT has_said THEN
      has_said := true;
      RAISE NOTICE 'repair waits for replication: % behind by more than %', v_lagging, p_max_lag
        USING HINT = 'It goes on by itself when "SELECT application_name, replay_lag FROM pg_stat_replication" shows '
          'less; later waits are not told.';
    END IF;
    PERFORM pg_catalog.pg_sleep(0.5);
    COMMIT;
  END LOOP;
END;
$_hold_back$;
COMMENT ON PROCEDURE flowguard._hold_back(double precision, interval, boolean) IS
  'Waits between two batches of a repair.';

CREATE OR REPLACE FUNCTION flowguard._links_to_repair(p_relation regclass, p_link_column name)
RETURNS flowguard.link[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_links_to_repair$
-- The one link that was asked for, or all, sources first; raises FG107 and FG101.
DECLARE
  v_link flowguard.link;
BEGIN
  IF p_relation IS NULL THEN
    RETURN ARRAY(SELECT l FROM flowguard._link_order() l);
  END IF;
  v_link := flowguard._link(p_relation, p_link_column);
  PERFORM flowguard._refuse_gone(NULL, NULL, v_link);
  RETURN ARRAY[v_link];
END;
$_links_to_repair$;
COMMENT ON FUNCTION flowguard._links_to_repair(regclass, name) IS 'The links that a repair is to come to.';

CREATE OR REPLACE PROCEDURE flowguard._repair_links(
  p_run bigint, p_links flowguard.link[], p_row_filter text, p_batch_size integer, p_dry_run boolean,
  p_max_rate integer, p_max_lag interval, p_count_candidates boolean
)
LANGUAGE plpgsql AS $_repair_links$
-- Repairs the links of a run, batch by batch; dry, all in one transaction. No SET clause: a procedure that commits may
-- not have one. What it calls has them.
DECLARE
  v_link        flowguard.link;
  v_first       pg_catalog.text;   -- the query of the first batch, of those after it, and of one row at a time
  v_next        pg_catalog.text;
  v_single      pg_catalog.text;
  v_after       pg_catalog.jsonb;
  v_last        pg_catalog.jsonb;
  v_counts      pg_catalog.jsonb;
  v_tries       integer;
  v_size        integer;
  v_singly      integer := 0;
  v_batch_start pg_catalog.timestamptz;
  v_pause       pg_catalog.float8 := 0;
  v_has_said    boolean := false;
BEGIN
  PERFORM flowguard._forget_batch();
  LOOP
    FOR v_position IN 1 .. pg_catalog.cardinality(p_links) LOOP
      v_link := p_links[v_position];
      SELECT p.after_key, p.last_key INTO v_after, v_last FROM flowguard._link_place(p_run, v_position) p;
      CONTINUE WHEN v_last IS NULL;
      PERFORM flowguard._refuse_gone(p_run, v_position, v_link);
      v_first := flowguard._repair_query(v_link, p_row_filter, p_count_candidates);
      v_next := flowguard._repair_query(v_link, p_row_filter, p_count_candidates, p_batch_size);
      v_single := NULL;
      v_size := p_batch_size;
      LOOP
        IF NOT p_dry_run THEN
          CALL flowguard._hold_back(v_pause, p_max_lag, v_has_said);
        END IF;
        v_batch_start := pg_catalog.clock_timestamp();
        v_tries := 0;
        LOOP
          BEGIN
            IF v_size OPERATOR(pg_catalog.<>) p_batch_size AND v_single IS NULL THEN
              v_single := flowguard._repair_query(v_link, p_row_filter, p_count_candidates, v_size);
            END IF;
            v_counts := flowguard._repair_batch(p_run, v_link,
              CASE WHEN v_after IS NULL THEN v_first
                   WHEN v_size OPERATOR(pg_catalog.=) p_batch_size THEN v_next ELSE v_single END,
              v_after, v_last, v_size);
            EXIT;
          EXCEPTION
            WHEN deadlock_detected OR serialization_failure OR undefined_table THEN
              -- A table that is not there was dropped, or renamed.
              PERFORM flowguard._refuse_gone(p_run, v_position, p_link => v_link);
              v_first := flowguard._repair_query(v_link, p_row_filter, p_count_candidates);
              v_next := flowguard._repair_query(v_link, p_row_filter, p_count_candidates, p_batch_size);
              v_single := NULL;
              v_tries := v_tries OPERATOR(pg_catalog.+) 1;
              IF v_tries OPERATOR(pg_catalog.>=) 10 THEN
                RAISE;
              END IF;
              PERFORM pg_catalog.pg_sleep(pg_catalog.random() OPERATOR(pg_catalog.*) 0.1::pg_catalog.float8
                                          OPERATOR(pg_catalog.*) v_tries::pg_catalog.float8);
            WHEN integrity_constraint_violation OR raise_exception OR SQLSTATE 'FG001' OR SQLSTATE 'FG002' THEN
              -- One row of the batch may not be written, a constraint or a trigger of the application says: the batch
              -- is done again row by row, without that one.
              IF v_size OPERATOR(pg_catalog.>) 1 THEN
                v_size := 1;
                v_singly := p_batch_size;
              ELSE
                v_counts := pg_catalog.jsonb_build_object('after', flowguard._next_key(v_link, v_after, v_last,
                  p_row_filter),
                  'scanned', 1, 'held', 1);
                RAISE NOTICE 'row % of table % stays as it is: %', v_counts OPERATOR(pg_catalog.->) 'after',
                  v_link.relation, SQLERRM
                  USING HINT = pg_catalog.format('Mend what it says, then run "CALL flowguard.repair(%L, link_column '
                    '=> %L)" again.', v_link.relation, v_link.link_column);
                EXIT;
              END IF;
          END;
        END LOOP;
        v_singly := v_singly OPERATOR(pg_catalog.-) 1;
        IF v_singly OPERATOR(pg_catalog.<=) 0 THEN
          v_size := p_batch_size;
        END IF;
        PERFORM flowguard._count_batch(p_run, v_position, v_counts);
        IF NOT p_dry_run THEN
          COMMIT;
        END IF;
        IF p_max_rate IS NOT NULL THEN
          v_pause := (v_counts OPERATOR(pg_catalog.->>) 'scanned')::pg_catalog.float8
                       OPERATOR(pg_catalog./) p_max_rate::pg_catalog.float8
                     OPERATOR(pg_catalog.-) pg_catalog.date_part('epoch',
                       pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) v_batch_start);
        END IF;
        v_after := v_counts OPERATOR(pg_catalog.->) 'after';
        EXIT WHEN pg_catalog.jsonb_typeof(v_after) OPERATOR(pg_catalog.=) 'null';
      END LOOP;
    END LOOP;
    EXIT WHEN NOT flowguard._next_pass(p_run);
  END LOOP;
  PERFORM flowguard._forget_batch();
END;
$_repair_links$;
COMMENT ON PROCEDURE flowguard._repair_links(
  bigint, flowguard.link[], text, integer, boolean, integer, interval, boolean) IS 'Repairs the links of a run.';

CREATE OR REPLACE PROCEDURE flowguard.repair(
  relation regclass DEFAULT NULL, batch_size integer DEFAULT 5000, dry_run boolean DEFAULT false,
  link_column name DEFAULT 'master_flow_id', note text DEFAULT NULL, max_rate integer DEFAULT NULL,
  max_lag interval DEFAULT NULL, resume boolean DEFAULT true, row_filter text DEFAULT NULL,
  count_candidates boolean DEFAULT false,
  INOUT run_id bigint DEFAULT NULL, INOUT linked bigint DEFAULT NULL, INOUT translated bigint DEFAULT NULL,
  INOUT quarantined bigint DEFAULT NULL, INOUT unlinked bigint DEFAULT NULL, INOUT remaining bigint DEFAULT NULL
)
LANGUAGE plpgsql AS $repair$
-- No SET clause: a procedure that commits may not have one. What it calls has them.
#variable_conflict use_column
DECLARE
  p_relation    ALIAS FOR $1;
  p_batch_size  ALIAS FOR $2;
  p_dry_run     ALIAS FOR $3;
  p_link_column ALIAS FOR $4;
  p_note        ALIAS FOR $5;
  p_max_rate    ALIAS FOR $6;
  p_max_lag     ALIAS FOR $7;
  p_resume      ALIAS FOR $8;
  p_row_filter  ALIAS FOR $9;
  p_count_candidates ALIAS FOR $10;
  v_links       flowguard.link[];
  v_batch_size  integer;
BEGIN
  IF p_batch_size IS NULL OR p_batch_size OPERATOR(pg_catalog.<) 1 THEN
    PERFORM flowguard._refuse_argument(
      pg_catalog.format('batch_size %s is not positive', coalesce(p_batch_size::pg_catalog.text, 'NULL')),
      'It is the number of rows that are looked at in one transaction.', 'Leave it out for 5000.');
  END IF;
  IF p_dry_run IS NULL THEN
    PERFORM flowguard._refuse_argument('dry_run NULL says neither', 'true does it all and takes it back.',
                                       'Pass dry_run => true or false.');
  END IF;
  IF p_resume IS NULL THEN
    PERFORM flowguard._refuse_argument('resume NULL says neither', 'true goes on with a run that was stopped.',
                                       'Pass resume => true or false.');
  END IF;
  IF p_count_candidates IS NULL THEN
    PERFORM flowguard._refuse_argument('count_candidates NULL says neither', 'true counts all candidates of each link.',
                                       'Pass count_candidates => true or false.');
  END IF;
  p_max_rate := coalesce(p_max_rate, flowguard._pace_setting('flowguard.repair_max_rate', 'integer')::pg_catalog.int4);
  p_max_lag := coalesce(p_max_lag,
    flowguard._pace_setting('flowguard.repair_max_lag', 'interval')::pg_catalog.interval);
  IF p_max_rate OPERATOR(pg_catalog.<) 1 THEN
    PERFORM flowguard._refuse_argument(pg_catalog.format('max_rate %s is not positive', p_max_rate),
      'It is the number of rows that are looked at in a second.', 'Leave it out for as many as can be.');
  END IF;
  IF p_max_lag OPERATOR(pg_catalog.<=) '0'::pg_catalog.interval THEN
    PERFORM flowguard._refuse_argument(pg_catalog.format('max_lag %s is not positive', p_max_lag),
      'It is how far standbys and subscribers may be behind.', 'Leave it out to wait for none.');
  END IF;
  IF p_max_lag IS NOT NULL AND NOT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') THEN
    RAISE EXCEPTION 'flowguard: % may not see how far replication is behind', current_user
      USING ERRCODE = 'FG110', DETAIL = 'max_lag reads pg_stat_replication, which hides its figures from this role.',
            HINT = pg_catalog.format('Have a superuser run "GRANT pg_read_all_stats TO %I", or leave max_lag out.',
              current_user);
  END IF;
  v_links := flowguard._links_to_repair(p_relation, p_link_column);
  PERFORM flowguard._check_row_filter(p_relation, p_row_filter);
  PERFORM flowguard._tell_missing_indexes(v_links);
  -- A tenth of a second's rows at most: whoever commits beside it waits until the write-ahead log of the batch is
  -- flushed, too. Smaller ones take more of a processor for the same rows, for which all wait.
  v_batch_size := least(p_batch_size,
    (p_max_rate OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog./) 10 OPERATOR(pg_catalog.+) 1);
  IF NOT p_dry_run THEN
    run_id := flowguard._resume_run(p_relation, p_link_column, p_note, v_links, p_resume, p_row_filter,
      p_count_candidates);
  ELSE
    run_id := NULL;
  END IF;
  IF run_id IS NULL THEN
    run_id := flowguard._begin_run(p_relation, p_link_column, p_note, p_row_filter, p_count_candidates);
  END IF;
  PERFORM flowguard._begin_links(run_id, v_links,
    ARRAY(SELECT flowguard._estimate_rows(l.relation, p_row_filter) FROM pg_catalog.unnest(v_links) l), p_row_filter,
    p_count_candidates);
  IF NOT p_dry_run THEN
    COMMIT;
  END IF;

  CALL flowguard._repair_links(run_id, v_links, p_row_filter, v_batch_size, p_dry_run, p_max_rate, p_max_lag,
    p_count_candidates);
  PERFORM flowguard._end_run(run_id);
  v_links := ARRAY(SELECT l FROM pg_catalog.unnest(v_links) l WHERE flowguard._is_alive(l));
  PERFORM flowguard._count_remaining(run_id, v_links, p_row_filter);
  PERFORM flowguard._note_violations(CASE WHEN p_relation IS NOT NULL THEN v_links END);
  SELECT r.linked, r.translated, r.quarantined, r.unlinked, r.remaining
    INTO linked, translated, quarantined, unlinked, remaining
    FROM flowguard.repair_run r WHERE r.run_id OPERATOR(pg_catalog.=) repair.run_id;
  remaining := coalesce(remaining, 0);
  IF p_dry_run THEN
    run_id := NULL;
    ROLLBACK;
  ELSE
    COMMIT;
  END IF;
END;
$repair$;
COMMENT ON PROCEDURE flowguard.repair(
  regclass, integer, boolean, name, text, integer, interval, boolean, text, boolean, bigint, bigint, bigint, bigint,
  bigint, bigint) IS
'Links rows that are unlinked or dangling: translates alternate keys, asks the rules but the session''s, sources before
what takes a link from them, and treats orphans as on_orphan says. Each batch is a transaction of its own, so it
cannot be called inside one. Rows beyond the last key that is there when it is called are not looked at. Stopped, it
keeps what was committed; called again with the same relation, link_column, row_filter, note and count_candidates, the
same run goes on after the last row that it came to. Every value that it writes is in flowguard.run_change; how far it
is, in flowguard.repair_progress.
relation: the child table; NULL for every link.
batch_size: rows looked at in one transaction.
dry_run: true does it all in one transaction and takes it back; preview() does so, too, and tells more.
link_column: the column that holds the link; not asked where relation is NULL.
note: kept with the run, to tell runs apart.
max_rate: rows looked at in a second at most; a batch is a tenth of them at most. Left out: what the session''s setting
  flowguard.repair_max_rate says, else as many as can be. Not asked in a dry run, nor is max_lag.
max_lag: how far standbys and subscribers may be behind, as pg_stat_replication shows it: while one is further behind,
  no batch begins. Left out: what the session''s setting flowguard.repair_max_lag says, else they are not looked at.
resume: false begins a new run, though one with the same arguments was stopped.
row_filter: a condition on columns of the table, as in WHERE, read under the caller''s search_path, with the caller''s
  rights: no other row is looked at or counted. What goes with a row that meets it may be another: rows that refer to
  an orphan, by their own ON DELETE, and links that follow by late linking. It needs relation. NULL: all rows.
count_candidates: true counts, for each link that a rule by time gives, all rows of the source that it was chosen from;
  without it run_change says only whether there were others. They are all read for each row that is linked, which may
  take a repair past its budget: where each row has ten, it was measured once at 2.76 times the ideal UPDATE, of 2.5
  allowed. The more rows of the source lie in the window, the more it costs.
run_id: number of the run, for undo(); NULL for a dry run. Its argument, as of those below, is not read.
linked: rows that a rule linked.
translated: links that held an alternate key and now hold the key.
quarantined: orphans taken out, without the rows that went with them.
unlinked: dangling links set to NULL.
remaining: rows left unlinked or dangling.
Errors: FG101 a table that a link speaks of is gone; FG104 batch_size or max_rate is less than 1, max_lag not positive,
  a setting no such value, or row_filter no condition on the table; FG107 no such link; FG110 max_lag is given and the
  role may not see replication; 2D000 called inside a transaction; 42501 row security would hide rows.';

CREATE OR REPLACE FUNCTION flowguard._forbidding_keys(
  p_run bigint, p_from bigint DEFAULT 0, p_until bigint DEFAULT 9223372036854775807,
  p_last_row bigint DEFAULT 9223372036854775807
)
RETURNS TABLE (relation regclass, conname name, link_column name, definition text, validated boolean, comment text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_forbidding_keys$
-- Foreign keys, of whoever, that would be violated if a part of what a run wrote and took were put back now: of the
-- changes those from one on until before another one, of the rows those up to one. Rows are compared by run and number
-- together: so only the index of those that are not back can serve. By their number alone a planner that does not know
-- how many are back by now would read all of these in each call.
#variable_conflict use_column
DECLARE
  r_key      record;
  v_query    text;
  v_until    bigint;
  v_violated boolean;
BEGIN
  FOR r_key IN
    WITH touched AS (
      SELECT to_regclass(format('%I.%I', x.schema_name, x.table_name)) AS relation, x.*
        FROM (SELECT DISTINCT q.schema_name, q.table_name, NULL::name AS link_column
                FROM flowguard.quarantined_row q
               WHERE (q.run_id, q.quarantine_id) > (p_run, 0) AND (q.run_id, q.quarantine_id) <= (p_run, p_last_row)
                 AND q.restored_at IS NULL
              UNION ALL
              SELECT DISTINCT c.schema_name, c.table_name, c.link_column::name
                FROM flowguard.repair_change c
               WHERE c.run_id = p_run AND c.change_id >= p_from AND c.change_id < p_until AND c.undone IS NULL
                 AND c.old_link IS NOT NULL) AS x
    )
    SELECT DISTINCT ON (c.oid, t.link_column) c.oid, c.conrelid::regclass AS child, c.conname,
      c.confrelid::regclass AS target,
           t.link_column, t.schema_name, t.table_name, c.convalidated,
           regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') AS definition,
           obj_description(c.oid, 'pg_constraint') AS comment,
           ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (n, i)
                   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (n, i)
                   JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.i) AS target_columns
      FROM touched t
      JOIN pg_constraint c ON c.conrelid = t.relation AND c.contype = 'f' AND c.conparentid = 0
                          AND flowguard._is_enforced(c)
     WHERE t.link_column IS NULL
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                      AND a.attname = t.link_column)
     ORDER BY c.oid, t.link_column
  LOOP
    IF r_key.link_column IS NULL THEN
      -- A parent that is in the same quarantine will be back first; it is looked for among these rows, then among all.
      -- EXCEPT, for a planner that knows nothing of the quarantine would join each row with each.
      v_query := format(
        'SELECT EXISTS (SELECT v.* FROM flowguard.quarantined_row q CROSS JOIN LATERAL (SELECT %1$s) AS v '
        'WHERE (q.run_id, q.quarantine_id) > ($1, 0) AND (q.run_id, q.quarantine_id) <= ($1, $2) '
        'AND q.restored_at IS NULL AND q.action = ''deleted'' '
        'AND q.schema_name = %2$L AND q.table_name = %3$L AND num_nulls(%4$s) = 0 '
        'AND NOT EXISTS (SELECT FROM %5$s t WHERE %6$s) '
        'EXCEPT SELECT %7$s FROM flowguard.quarantined_row p WHERE (p.run_id, p.quarantine_id) > ($1, 0) '
        'AND (p.run_id, p.quarantine_id) <= ($1, $3) AND p.restored_at IS NULL AND p.action = ''deleted'' '
        'AND to_regclass(format(''%%I.%%I'', p.schema_name, p.table_name)) = ANY (%8$L::regclass[]))',
        (SELECT string_agg(format('q.column_values[array_position(q.column_names, %L)] AS v%s', k.name, k.n), ', '
          ORDER BY k.n)
           FROM unnest(r_key.columns) WITH ORDINALITY AS k (name, n)),
        r_key.schema_name, r_key.table_name,
        (SELECT string_agg('v.v' || k.n, ', ' ORDER BY k.n) FROM unnest(r_key.columns) WITH ORDINALITY AS k (name, n)),
        r_key.target,
        (SELECT string_agg(format('t.%I %s v.v%s::%s', k.name, flowguard._equal(r_key.target, k.name), k.n,
                                  (SELECT c.type_sql FROM flowguard._column(r_key.target, k.name) c)), ' AND '
                                    ORDER BY k.n)
           FROM unnest(r_key.target_columns) WITH ORDINALITY AS k (name, n)),
        (SELECT string_agg(format('p.column_values[array_position(p.column_names, %L)]', k.name), ', ' ORDER BY k.n)
           FROM unnest(r_key.target_columns) WITH ORDINALITY AS k (name, n)),
        flowguard._partition_family(r_key.target));
      FOREACH v_until IN ARRAY ARRAY[p_last_row, 9223372036854775807] LOOP
        EXECUTE v_query INTO v_violated USING p_run, p_last_row, v_until;
        EXIT WHEN NOT v_violated;
      END LOOP;
    ELSE
      EXECUTE format(
        'SELECT EXISTS (SELECT FROM flowguard.repair_change x JOIN %1$s c ON %2$s '
        'WHERE x.run_id = $1 AND x.change_id >= $2 AND x.change_id < $3 AND x.undone IS NULL '
        'AND x.old_link IS NOT NULL '
        'AND x.link_column = %3$L AND x.schema_name = %7$L AND x.table_name = %8$L '
        'AND num_nulls(%4$s) = 0 AND NOT EXISTS (SELECT FROM %5$s t WHERE %6$s))',
        r_key.child, flowguard._key_sql_match(r_key.child, 'c', 'x.row_key'), r_key.link_column,
        (SELECT string_agg(CASE WHEN k.name = r_key.link_column THEN 'x.old_link' ELSE format('c.%I', k.name) END, ', '
          ORDER BY k.n)
           FROM unnest(r_key.columns) WITH ORDINALITY AS k (name, n)),
        r_key.target,
        (SELECT string_agg(format('t.%I %s %s', t.name, flowguard._equal(r_key.target, t.name),
                                  CASE WHEN k.name = r_key.link_column
                                    THEN format('x.old_link::%s', (SELECT c.type_sql
                                      FROM flowguard._column(r_key.target, t.name) c))
                                    ELSE format('c.%I', k.name) END), ' AND ' ORDER BY k.n)
           FROM unnest(r_key.columns) WITH ORDINALITY AS k (name, n)
           JOIN unnest(r_key.target_columns) WITH ORDINALITY AS t (name, n) USING (n)),
        r_key.schema_name, r_key.table_name)
        INTO v_violated USING p_run, p_from, p_until;
    END IF;
    IF v_violated THEN
      relation := r_key.child;
      conname := r_key.conname;
      link_column := r_key.link_column;
      definition := r_key.definition;
      validated := r_key.convalidated;
      comment := r_key.comment;
      RETURN NEXT;
    END IF;
  END LOOP;
END;
$_forbidding_keys$;
COMMENT ON FUNCTION flowguard._forbidding_keys(bigint, bigint, bigint, bigint) IS
  'Foreign keys that would be violated if a part of what a run wrote and took were put back now.';

CREATE OR REPLACE FUNCTION flowguard._restore_sql(p_relation regclass, p_columns text[], p_values text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_restore_sql$
-- Values of kept columns for SQL text, each cast to its column's type.
  SELECT string_agg(format('%L::%s', v.value, flowguard._type_sql(a.atttypid, a.atttypmod)), ', ' ORDER BY v.n)
    FROM unnest(p_columns, p_values) WITH ORDINALITY AS v (name, value, n)
    LEFT JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = v.name AND NOT a.attisdropped;
$_restore_sql$;
COMMENT ON FUNCTION flowguard._restore_sql(regclass, text[], text[]) IS
  'Kept values as SQL text, cast to their columns'' types.';

CREATE OR REPLACE FUNCTION flowguard._restore_row(p_row flowguard.quarantined_row) RETURNS void
LANGUAGE plpgsql SET row_security = off SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' AS $_restore_row$
-- Puts a kept row, or the columns that were set, back exactly; raises FG204 where the application's triggers change it.
DECLARE
  v_relation pg_catalog.regclass := pg_catalog.to_regclass(pg_catalog.format('%I.%I', p_row.schema_name,
    p_row.table_name));
  v_values   pg_catalog.text := flowguard._restore_sql(v_relation, p_row.column_names, p_row.column_values);
  v_columns  pg_catalog.text := flowguard._columns_sql(p_row.column_names::pg_catalog.name[]);
  v_given    record;
  v_now      record;
  v_column   pg_catalog.name;
BEGIN
  FOREACH v_column IN ARRAY p_row.column_names LOOP
    PERFORM flowguard._column(v_relation, v_column);
  END LOOP;
  IF p_row.action OPERATOR(pg_catalog.=) 'deleted' THEN
    EXECUTE pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s', v_relation, v_columns, v_values);
  END IF;
  FOR v_try IN 1 .. 2 LOOP
    v_now := flowguard._row_values(v_relation, p_row.row_key, p_row.column_names);
    EXIT WHEN v_now.column_values OPERATOR(pg_catalog.=) (
      SELECT pg_catalog.array_agg(v.value ORDER BY a.attnum)
        FROM ROWS FROM (pg_catalog.unnest(p_row.column_names), pg_catalog.unnest(p_row.column_values)) AS v (name,
          value)
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) v_relation
                                      AND a.attname OPERATOR(pg_catalog.=) v.name::pg_catalog.name);
    IF v_try OPERATOR(pg_catalog.=) 2 OR v_now.column_values IS NULL
      AND p_row.action OPERATOR(pg_catalog.=) 'deleted' THEN
      RAISE EXCEPTION 'flowguard: row % of table % could not be put back as it was', p_row.row_key, v_relation
        USING ERRCODE = 'FG204', DETAIL = 'A trigger or a rule of the application changes what is written.',
              HINT = pg_catalog.format('Change the trigger so that it lets this row pass, or run "ALTER TABLE %s '
                'DISABLE TRIGGER <trigger>" meanwhile; then call flowguard.undo(%s) again.', v_relation, p_row.run_id);
    ELSIF v_now.column_values IS NULL THEN
      EXIT;  -- the row whose columns were set is gone by now; there is nothing to put back
    END IF;
    -- An identity that is always generated was given with the row, and cannot be updated.
    SELECT pg_catalog.array_agg(v.name ORDER BY v.n) AS names, pg_catalog.array_agg(v.value ORDER BY v.n) AS values
      INTO v_given
      FROM ROWS FROM (pg_catalog.unnest(p_row.column_names), pg_catalog.unnest(p_row.column_values))
             WITH ORDINALITY AS v (name, value, n)
      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) v_relation
                                    AND a.attname OPERATOR(pg_catalog.=) v.name::pg_catalog.name
                                    AND a.attidentity OPERATOR(pg_catalog.<>) 'a';
    EXECUTE pg_catalog.format('UPDATE %s c SET (%s) = ROW(%s) WHERE %s', v_relation,
                              flowguard._columns_sql(v_given.names::pg_catalog.name[]),
                              flowguard._restore_sql(v_relation, v_given.names, v_given.values),
                              flowguard._key_sql_match(v_relation, 'c', '$1'))
      USING p_row.row_key;
  END LOOP;
  UPDATE flowguard.quarantined_row q SET restored_at = pg_catalog.clock_timestamp()
   WHERE q.quarantine_id OPERATOR(pg_catalog.=) p_row.quarantine_id;
END;
$_restore_row$;
COMMENT ON FUNCTION flowguard._restore_row(flowguard.quarantined_row) IS
  'Puts a quarantined row back exactly; raises FG204 where the application changes it.';

CREATE OR REPLACE FUNCTION flowguard._undo_start(p_run flowguard.repair_run, p_max_rows bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_undo_start$
-- The first of the last changes, at most so many, that undo() has not been at. It goes from the end of the run to its
-- beginning, so that all before that are still to do.
  SELECT min(b.change_id)
    FROM (SELECT c.change_id FROM flowguard.repair_change c
           WHERE c.run_id = p_run.run_id AND c.change_id < coalesce(p_run.undone_from, 9223372036854775807)
           ORDER BY c.change_id DESC LIMIT p_max_rows) b;
$_undo_start$;
COMMENT ON FUNCTION flowguard._undo_start(flowguard.repair_run, bigint) IS
  'The first of the changes that one call of undo() puts back.';

CREATE OR REPLACE FUNCTION flowguard._undo_links(p_run bigint, p_from bigint, p_until bigint, OUT restored bigint,
  OUT skipped bigint, OUT changes bigint)
LANGUAGE plpgsql SET row_security = off AS $_undo_links$
-- Puts back the links that a run wrote from one change on until before another one. A row that the run wrote more than
-- once goes from its last value to its first. Rows whose link is another by now are skipped.
DECLARE
  v_restored bigint;
  v_skipped  bigint;
  v_changes  bigint;
  v_left     bigint[];
  v_query    pg_catalog.text;
BEGIN
  restored := 0;
  skipped := 0;
  changes := 0;
  FOR v_query IN
    SELECT flowguard._undo_query(t.schema_name, t.table_name, t.link_column)
      FROM (SELECT DISTINCT c.schema_name, c.table_name, c.link_column
              FROM flowguard.repair_change c
             WHERE c.run_id OPERATOR(pg_catalog.=) p_run AND c.undone IS NULL
               AND c.change_id OPERATOR(pg_catalog.>=) p_from AND c.change_id OPERATOR(pg_catalog.<) p_until) t
  LOOP
    EXECUTE v_query INTO v_restored, v_skipped, v_changes, v_left USING p_run, p_from, p_until;
    UPDATE flowguard.repair_change c SET undone = 'skipped'
     WHERE c.run_id OPERATOR(pg_catalog.=) p_run AND c.change_id OPERATOR(pg_catalog.=) ANY (v_left)
       AND c.change_id OPERATOR(pg_catalog.>=) p_from AND c.change_id OPERATOR(pg_catalog.<) p_until;
    restored := restored OPERATOR(pg_catalog.+) v_restored;
    skipped := skipped OPERATOR(pg_catalog.+) v_skipped;
    changes := changes OPERATOR(pg_catalog.+) v_changes;
  END LOOP;
  UPDATE flowguard.repair_change c SET undone = 'restored'
   WHERE c.run_id OPERATOR(pg_catalog.=) p_run AND c.undone IS NULL
     AND c.change_id OPERATOR(pg_catalog.>=) p_from AND c.change_id OPERATOR(pg_catalog.<) p_until;
END;
$_undo_links$;
COMMENT ON FUNCTION flowguard._undo_links(bigint, bigint, bigint) IS 'Puts back links that a run wrote.';

CREATE OR REPLACE FUNCTION flowguard._undo_query(p_schema text, p_table text, p_link_column text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_undo_query$
-- SQL text that puts back the links of one table. Parameters: $1 run, $2 first change, $3 the change before which it
-- ends. Result: rows restored, rows skipped, the number of their changes, the changes of the skipped. No step joins two
-- others: the planner may know nothing of the ledger, and how it would join them is not left to that.
DECLARE
  v_relation regclass := to_regclass(format('%I.%I', p_schema, p_table));
  v_type     text;
BEGIN
  SELECT c.type_sql INTO v_type FROM flowguard._column(v_relation, p_link_column::name) c;
  RETURN format($query$
  WITH changes AS MATERIALIZED (
    SELECT c.change_id, c.row_key, c.old_link, c.new_link FROM flowguard.repair_change c
     WHERE c.run_id OPERATOR(pg_catalog.=) $1 AND c.undone IS NULL
       AND c.change_id OPERATOR(pg_catalog.>=) $2 AND c.change_id OPERATOR(pg_catalog.<) $3
       AND c.schema_name OPERATOR(pg_catalog.=) %1$L AND c.table_name OPERATOR(pg_catalog.=) %2$L
       AND c.link_column OPERATOR(pg_catalog.=) %3$L
  ), rows AS MATERIALIZED (
    SELECT c.row_key, (pg_catalog.array_agg(c.old_link ORDER BY c.change_id))[1] AS old_link,
           (pg_catalog.array_agg(c.new_link ORDER BY c.change_id DESC))[1] AS new_link,
           pg_catalog.array_agg(c.change_id) AS change_ids
      FROM changes c GROUP BY c.row_key
  ), written AS (
    UPDATE %4$s c SET %3$I = r.old_link::%5$s FROM rows r
     WHERE %6$s AND (r.new_link IS NULL AND c.%3$I IS NULL OR c.%3$I %7$s r.new_link::%5$s)
    RETURNING r.change_ids
  )
  SELECT (SELECT pg_catalog.count(*) FROM written),
         (SELECT pg_catalog.count(*) FROM rows) OPERATOR(pg_catalog.-) (SELECT pg_catalog.count(*) FROM written),
         (SELECT pg_catalog.count(*) FROM changes),
         ARRAY(SELECT c.change_id FROM changes c EXCEPT SELECT pg_catalog.unnest(w.change_ids) FROM written w)
$query$, p_schema, p_table, p_link_column, v_relation, v_type, flowguard._key_sql_match(v_relation, 'c', 'r.row_key'),
         flowguard._equal(v_relation, p_link_column::name));
END;
$_undo_query$;
COMMENT ON FUNCTION flowguard._undo_query(text, text, text) IS 'SQL text that puts back the links of one table.';

CREATE OR REPLACE FUNCTION flowguard.undo(
  run_id bigint, max_rows bigint DEFAULT NULL, OUT restored bigint, OUT skipped bigint, OUT remaining bigint
)
LANGUAGE plpgsql AS $undo$
-- No SET search_path: it writes application tables. All else is qualified.
#variable_conflict use_column
DECLARE
  p_run      ALIAS FOR $1;
  p_max_rows ALIAS FOR $2;
  v_run      flowguard.repair_run;
  v_row      flowguard.quarantined_row;
  v_waiting  flowguard.quarantined_row;
  v_before   bigint;
  v_start    bigint;  -- the links that this call puts back: from this change on,
  v_until    bigint;  -- until before this one, for what comes after it is undone
  v_checked  bigint := 0;                    -- what is checked first: the links from this change on
  v_last_row bigint := 9223372036854775807;  -- and the rows up to this one
  v_links    record;
  v_keys     pg_catalog.text;
  v_table    pg_catalog.text;
  v_hint     pg_catalog.text;
BEGIN
  IF p_max_rows OPERATOR(pg_catalog.<) 1 THEN
    PERFORM flowguard._refuse_argument(pg_catalog.format('max_rows %s is not positive', p_max_rows),
      'It is the number of links and rows to put back in this call.', 'Leave it out for all.');
  END IF;
  SELECT r.* INTO v_run FROM flowguard.repair_run r WHERE r.run_id OPERATOR(pg_catalog.=) p_run FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'flowguard: there is no run %', coalesce(p_run::pg_catalog.text, 'NULL')
      USING ERRCODE = 'FG201', DETAIL = 'Runs are numbered by flowguard.repair().',
            HINT = 'Run "SELECT * FROM flowguard.run", and pass one of these.';
  END IF;
  IF flowguard._is_running(v_run) THEN
    RAISE EXCEPTION 'flowguard: run % is still running', p_run
      USING ERRCODE = 'FG206', DETAIL = pg_catalog.format('Server process %s runs it.', v_run.pid),
            HINT = pg_catalog.format('Wait for it, or run "SELECT pg_terminate_backend(%s)"; then call '
              'flowguard.undo(%s) again.', v_run.pid, p_run);
  END IF;
  -- All of the run is checked before anything of it is undone, then what is put back.
  v_start := flowguard._undo_start(v_run, p_max_rows);
  v_until := coalesce(v_run.undone_from, 9223372036854775807);
  IF v_run.status OPERATOR(pg_catalog.=) 'undoing' THEN
    v_checked := coalesce(v_start, v_until);
    v_last_row := (SELECT pg_catalog.max(x.quarantine_id) FROM (
                     SELECT q.quarantine_id FROM flowguard.quarantined_row q
                      WHERE ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.>) ROW(p_run, 0)
                        AND ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.<=) ROW(p_run, 9223372036854775807)
                        AND q.restored_at IS NULL
                      ORDER BY q.run_id, q.quarantine_id LIMIT p_max_rows) x);
  END IF;
  SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', x.schema_name, x.table_name), ', '),
         pg_catalog.string_agg(DISTINCT pg_catalog.format('"ALTER TABLE <its name now> RENAME TO %I"', x.table_name),
           ', ')
    INTO v_table, v_hint
    FROM (SELECT DISTINCT c.schema_name, c.table_name FROM flowguard.repair_change c
           WHERE c.run_id OPERATOR(pg_catalog.=) p_run AND c.change_id OPERATOR(pg_catalog.>=) v_checked
             AND c.change_id OPERATOR(pg_catalog.<) v_until AND c.undone IS NULL
          UNION ALL
          SELECT DISTINCT q.schema_name, q.table_name FROM flowguard.quarantined_row q
           WHERE ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.>) ROW(p_run, 0)
             AND ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.<=) ROW(p_run, v_last_row)
             AND q.restored_at IS NULL) x
   WHERE pg_catalog.to_regclass(pg_catalog.format('%I.%I', x.schema_name, x.table_name)) IS NULL;
  IF v_table IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: table % is not there any more', v_table
      USING ERRCODE = 'FG101', DETAIL = pg_catalog.format('Run %s wrote or took out rows of it.', p_run),
            HINT = pg_catalog.format('Give the table its name back: %s; or restore it, first.', v_hint);
  END IF;
  SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', x.schema_name, x.table_name), ', '),
         pg_catalog.string_agg(DISTINCT pg_catalog.format('flowguard.set_mode(%L, ''observe'', %L)', x.relation,
           x.link_column), ', ')
    INTO v_table, v_hint
    FROM (SELECT c.schema_name, c.table_name, l.relation, l.link_column
            FROM (SELECT DISTINCT w.schema_name, w.table_name, w.link_column FROM flowguard.repair_change w
                   WHERE w.run_id OPERATOR(pg_catalog.=) p_run AND w.change_id OPERATOR(pg_catalog.>=) v_checked
                     AND w.change_id OPERATOR(pg_catalog.<) v_until AND w.undone IS NULL AND w.old_link IS NULL) c
            JOIN flowguard.link l ON l.relation OPERATOR(pg_catalog.=) pg_catalog.to_regclass(
                                       pg_catalog.format('%I.%I', c.schema_name, c.table_name))
                                 AND l.link_column OPERATOR(pg_catalog.=) c.link_column::pg_catalog.name
           WHERE l.mode OPERATOR(pg_catalog.=) 'enforce' AND l.guarded) x;
  IF v_table IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: undoing run % would unlink rows of %', p_run, v_table
      USING ERRCODE = 'FG202', DETAIL = 'The link is enforced: no row may be without it.',
            HINT = pg_catalog.format('Call %s first.', v_hint);
  END IF;
  SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I of table %s', k.conname, k.relation), ', '),
         pg_catalog.concat_ws(' ',
           pg_catalog.string_agg(DISTINCT pg_catalog.format('Call flowguard.unguard(%L, %L).', k.relation,
             l.link_column), ' ')
             FILTER (WHERE l.relation IS NOT NULL),
           pg_catalog.string_agg(DISTINCT pg_catalog.format('Run "ALTER TABLE %s DROP CONSTRAINT %I"%s.', k.relation,
             k.conname, CASE WHEN flowguard._is_ours(k.conname) THEN '' ELSE ', to add it again NOT VALID afterwards'
             END), ' ')
             FILTER (WHERE l.relation IS NULL))
    INTO v_keys, v_hint
    FROM flowguard._forbidding_keys(p_run, v_checked, v_until, v_last_row) k
    LEFT JOIN flowguard.link l ON flowguard._is_ours(k.conname) AND l.relation OPERATOR(pg_catalog.=) k.relation
                              AND flowguard._is_for(l, k.conname::pg_catalog.text);
  IF v_keys IS NOT NULL THEN
    RAISE EXCEPTION 'flowguard: run % cannot be undone while foreign keys forbid what was there', p_run
      USING ERRCODE = 'FG203', DETAIL = pg_catalog.format('They are: %s.', v_keys),
            HINT = pg_catalog.format('%s Then call flowguard.undo(%s) again.', v_hint, p_run);
  END IF;

  PERFORM flowguard._mark_transaction('undo', p_run, NULL);
  -- Counted once, then reckoned: what is left of a large run is not read again by each call.
  v_run.undo_left := CASE WHEN v_run.status OPERATOR(pg_catalog.=) ANY ('{undoing,undone}') THEN v_run.undo_left
                          ELSE (SELECT pg_catalog.count(*) FROM flowguard.repair_change c
                                 WHERE c.run_id OPERATOR(pg_catalog.=) p_run AND c.undone IS NULL)
                               OPERATOR(pg_catalog.+)
                               (SELECT pg_catalog.count(*) FROM flowguard.quarantined_row q
                                 WHERE q.run_id OPERATOR(pg_catalog.=) p_run AND q.restored_at IS NULL) END;
  -- Rows first: one that was taken out after a link of it had been written comes back as it was then.
  restored := 0;
  skipped := 0;
  -- A row whose parent was taken out after it waits for a later round.
  LOOP
    v_before := restored;
    v_waiting := NULL;
    FOR v_row IN
      SELECT q.* FROM flowguard.quarantined_row q
       WHERE ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.>) ROW(p_run, 0)
         AND ROW(q.run_id, q.quarantine_id) OPERATOR(pg_catalog.<=) ROW(p_run, 9223372036854775807)
         AND q.restored_at IS NULL
       ORDER BY q.run_id, q.quarantine_id
    LOOP
      EXIT WHEN restored OPERATOR(pg_catalog.>=) p_max_rows;
      BEGIN
        PERFORM flowguard._restore_row(v_row);
        restored := restored OPERATOR(pg_catalog.+) 1;
      EXCEPTION
        WHEN foreign_key_violation THEN
          v_waiting := v_row;
      END;
    END LOOP;
    EXIT WHEN v_waiting.quarantine_id IS NULL OR restored OPERATOR(pg_catalog.>=) p_max_rows;
    IF restored OPERATOR(pg_catalog.=) v_before THEN
      PERFORM flowguard._restore_row(v_waiting);  -- none could come back: let PostgreSQL say why
    END IF;
  END LOOP;
  v_run.undo_left := v_run.undo_left OPERATOR(pg_catalog.-) restored;
  IF p_max_rows IS NULL OR restored OPERATOR(pg_catalog.<) p_max_rows THEN
    v_start := flowguard._undo_start(v_run, p_max_rows OPERATOR(pg_catalog.-) restored);
    SELECT * INTO v_links FROM flowguard._undo_links(p_run, v_start, v_until);
    restored := restored OPERATOR(pg_catalog.+) v_links.restored;
    skipped := v_links.skipped;
    v_run.undo_left := v_run.undo_left OPERATOR(pg_catalog.-) v_links.changes;
    v_run.undone_from := coalesce(v_start, v_run.undone_from);
  END IF;
  PERFORM flowguard._unmark_undo();
  remaining := v_run.undo_left;
  UPDATE flowguard.repair_run r
     SET status = CASE WHEN undo.remaining OPERATOR(pg_catalog.=) 0 THEN 'undone' ELSE 'undoing' END,
         restored = r.restored OPERATOR(pg_catalog.+) undo.restored,
         skipped = r.skipped OPERATOR(pg_catalog.+) undo.skipped,
         undone_from = v_run.undone_from,
         undo_left = v_run.undo_left
   WHERE r.run_id OPERATOR(pg_catalog.=) p_run
     AND (undo.restored OPERATOR(pg_catalog.>) 0 OR undo.skipped OPERATOR(pg_catalog.>) 0
          OR r.status OPERATOR(pg_catalog.<>) 'undone');
END;
$undo$;
COMMENT ON FUNCTION flowguard.undo(bigint, bigint) IS
'Puts back exactly the links that a run wrote and the rows that it took out, the latest first, in the caller''s
transaction. A link that is not what the run wrote any more is left alone and counted as skipped. With max_rows it puts
back a part; called again, it goes on. Before anything of a run is put back it is checked whether all of it may be.
run_id: the run, as flowguard.run shows it.
max_rows: at most so many links and rows in this call. Left out: all.
restored: links and rows put back.
skipped: links left alone.
remaining: links and rows that another call would come to.
Errors: FG101 a table is gone; FG102 a column is gone; FG104 max_rows is less than 1; FG201 no such run; FG202 it would
  unlink rows of an enforced link; FG203 foreign keys forbid what was there; FG204 a trigger of the application
  changes a row that is put back; FG206 the run is still running; 42501 row security would hide rows.';

CREATE OR REPLACE FUNCTION flowguard._unmark_undo() RETURNS void
LANGUAGE plpgsql AS $_unmark_undo$
-- What is checked at commit is checked now, while the transaction still counts as an undo. No SET: checks may run
-- the application's triggers.
BEGIN
  SET CONSTRAINTS ALL IMMEDIATE;
  SET CONSTRAINTS ALL DEFERRED;
  PERFORM flowguard._unmark_transaction('undo');
END;
$_unmark_undo$;
COMMENT ON FUNCTION flowguard._unmark_undo() IS 'Checks what is deferred and ends the mark of an undo.';

CREATE OR REPLACE FUNCTION flowguard._revert_runs(p_note text) RETURNS bigint
LANGUAGE plpgsql AS $_revert_runs$
-- Undoes every run of a change set, the latest first, on the way to a database without it. Foreign keys of the
-- application that forbid what was there are lifted meanwhile and come back NOT VALID where rows violate them, as
-- they did before. Raises FG203 while keys of ours are still there. No SET search_path: it writes application tables.
DECLARE
  v_run      bigint;
  v_restored bigint := 0;
  v_keys     pg_catalog.jsonb;
  r_undone   record;
  r_key      record;
BEGIN
  FOR v_run IN
    SELECT r.run_id FROM flowguard.repair_run r
     WHERE r.note OPERATOR(pg_catalog.=) p_note AND r.status OPERATOR(pg_catalog.<>) 'undone'
     ORDER BY r.run_id DESC
  LOOP
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(k)), '[]') INTO v_keys
      FROM flowguard._forbidding_keys(v_run) k WHERE NOT flowguard._is_ours(k.conname);
    FOR r_key IN
      SELECT DISTINCT k.relation, k.conname
        FROM pg_catalog.jsonb_to_recordset(v_keys) AS k (relation pg_catalog.regclass, conname pg_catalog.name)
    LOOP
      EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', r_key.relation, r_key.conname);
    END LOOP;
    SELECT * INTO r_undone FROM flowguard.undo(v_run) u;
    v_restored := v_restored OPERATOR(pg_catalog.+) r_undone.restored;
    IF r_undone.skipped OPERATOR(pg_catalog.>) 0 THEN
      RAISE NOTICE 'run %: % links were written by others since and stay as they are', v_run, r_undone.skipped
        USING HINT = pg_catalog.format('Run "SELECT * FROM flowguard.run_change WHERE undone = ''skipped'' AND '
          'run_id = %s" to see them.', v_run);
    END IF;
    FOR r_key IN
      SELECT DISTINCT ON (k.relation, k.conname) k.*
        FROM pg_catalog.jsonb_to_recordset(v_keys)
          AS k (relation pg_catalog.regclass, conname pg_catalog.name, definition pg_catalog.text, validated boolean,
                comment pg_catalog.text)
    LOOP
      PERFORM flowguard._add_key_back(r_key.relation, r_key.conname, r_key.definition, r_key.validated, r_key.comment);
    END LOOP;
  END LOOP;
  RETURN v_restored;
END;
$_revert_runs$;
COMMENT ON FUNCTION flowguard._revert_runs(text) IS
  'Undoes every run with a note, lifting the application''s foreign keys that forbid it meanwhile; returns how many '
  'links and rows came back.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();

COMMIT;
