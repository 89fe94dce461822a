-- Deploy pyflowguard:compiler to pg
-- Since 1.1.0 a trigger keeps how it found a link by time, where it is to. Since 1.2.0 a source in time first looks
-- whether a row waits for it, and rows that follow a reference are found by the reference. Since 1.3.0 a name that is
-- gone is told with the call that mends it.
-- Turns a link and its rules into static PL/pgSQL: the function that fills and checks the link at write time, the one
-- that finds a link for a row that is there already, and those that let links follow when a source gets its own.
-- Generated text qualifies everything, operators too, since it runs under whatever search_path the application has.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Which links are guarded by what the engine of before writes for them: these are renewed in the end. Whatever guard()
-- was not called for since is left to it.
DO $current$
DECLARE
  v_link  flowguard.link;
  v_stems text[] := '{}';
BEGIN
  PERFORM flowguard._serialize();
  FOR v_link IN SELECT l.* FROM flowguard.link l WHERE l.guarded LOOP
    BEGIN
      IF flowguard._is_alive(v_link) AND NOT EXISTS (
           SELECT FROM flowguard._wanted_functions(v_link) f
            WHERE flowguard._function_status(f.signature, f.is_definer, f.body) <> 'installed') THEN
        v_stems := v_stems || v_link.stem::text;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      CONTINUE;  -- told in the end, as it stays out of the list
    END;
  END LOOP;
  PERFORM set_config('flowguard.renew', v_stems::text, true);
END;
$current$;

CREATE OR REPLACE FUNCTION flowguard._match_tenants(
  p_left regclass, p_left_columns name[], p_left_prefix text,
  p_right regclass, p_right_columns name[], p_right_refs text[], p_strict boolean
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_match_tenants$
-- ' AND …' for each tenant column that both sides have. Strict: they are equal. Else: they are equal as far as known,
-- which is the same thing where both are NOT NULL.
DECLARE
  v_text  text := '';
  v_left  text;
  v_equal text;
  v_nulls text;
BEGIN
  FOR v_index IN 1 .. cardinality(p_left_columns) LOOP
    CONTINUE WHEN p_left_columns[v_index] IS NULL OR p_right_columns[v_index] IS NULL;
    v_left := p_left_prefix || quote_ident(p_left_columns[v_index]);
    v_equal := format('%s %s %s', v_left, flowguard._equal(p_left, p_left_columns[v_index]), p_right_refs[v_index]);
    v_nulls := '';
    IF NOT p_strict AND NOT flowguard._is_not_null(p_left, p_left_columns[v_index]) THEN
      v_nulls := v_nulls || format(' OR %s IS NULL', v_left);
    END IF;
    IF NOT p_strict AND NOT flowguard._is_not_null(p_right, p_right_columns[v_index]) THEN
      v_nulls := v_nulls || format(' OR %s IS NULL', p_right_refs[v_index]);
    END IF;
    v_text := v_text || ' AND ' || CASE WHEN v_nulls = '' THEN v_equal ELSE format('(%s%s)', v_equal, v_nulls) END;
  END LOOP;
  RETURN v_text;
END;
$_match_tenants$;
COMMENT ON FUNCTION flowguard._match_tenants(regclass, name[], text, regclass, name[], text[], boolean) IS
  'SQL text that matches the tenant columns of two tables, strictly or as far as they are known.';

CREATE OR REPLACE FUNCTION flowguard._remark(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_remark$
-- A name may hold a line break, which would end a remark and begin code.
  SELECT '-- ' || translate(p_text, E'\r\n', '  ');
$_remark$;
COMMENT ON FUNCTION flowguard._remark(text) IS 'A remark in generated code, on one line whatever names it holds.';

CREATE OR REPLACE FUNCTION flowguard._prefixed(p_columns name[], p_prefix text) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_prefixed$
  SELECT coalesce(array_agg(p_prefix || quote_ident(c.name) ORDER BY c.ordinality), '{}')
    FROM unnest(p_columns) WITH ORDINALITY AS c (name, ordinality);
$_prefixed$;
COMMENT ON FUNCTION flowguard._prefixed(name[], text) IS 'References to columns for SQL text; NULL stays NULL.';

CREATE OR REPLACE FUNCTION flowguard._rules(p_link flowguard.link) RETURNS SETOF flowguard.rule
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_rules$
BEGIN
  RETURN QUERY
    SELECT r.* FROM flowguard.rule r
     WHERE r.relation = p_link.relation AND r.link_column = p_link.link_column
     ORDER BY r."position";
END;
$_rules$;
COMMENT ON FUNCTION flowguard._rules(flowguard.link) IS 'The rules of a link in order.';

CREATE OR REPLACE FUNCTION flowguard._keeps_provenance(p_link flowguard.link) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_keeps_provenance$
BEGIN
  RETURN EXISTS (SELECT FROM flowguard.provenance_link k
                  WHERE k.relation = p_link.relation AND k.link_column = p_link.link_column)
     AND EXISTS (SELECT FROM flowguard._rules(p_link) r WHERE r.kind = 'proximity');
END;
$_keeps_provenance$;
COMMENT ON FUNCTION flowguard._keeps_provenance(flowguard.link) IS
  'Whether the triggers of a link keep how its rules by time found links.';

CREATE OR REPLACE FUNCTION flowguard._counts_candidates(p_link flowguard.link) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_counts_candidates$
BEGIN
  RETURN coalesce((SELECT k.count_candidates FROM flowguard.provenance_link k
                    WHERE k.relation = p_link.relation AND k.link_column = p_link.link_column), false);
END;
$_counts_candidates$;
COMMENT ON FUNCTION flowguard._counts_candidates(flowguard.link) IS
  'Whether the triggers of a link count all candidates of what they keep.';

CREATE OR REPLACE FUNCTION flowguard._named_columns(p_link flowguard.link) RETURNS TABLE (relation regclass, name name)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_named_columns$
-- The columns, by table, that a link and its rules name.
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT n.relation, n.name
      FROM (SELECT p_link.relation AS relation, unnest(p_link.tenant_columns || p_link.link_column) AS name
            UNION
            SELECT m.relation, unnest(m.tenant_columns || m.alternate_keys || m.key_column)
              FROM flowguard.master m WHERE m.relation = p_link.master
            UNION
            SELECT r.relation, coalesce(r.via_column, r.time_column) FROM flowguard._rules(p_link) r
            UNION
            SELECT r.source, unnest(r.source_tenant_columns || r.filter_columns
                                    || ARRAY[r.source_key, r.source_link, r.source_time])
              FROM flowguard._rules(p_link) r) AS n
     WHERE n.name IS NOT NULL;
END;
$_named_columns$;
COMMENT ON FUNCTION flowguard._named_columns(flowguard.link) IS 'The columns that a link and its rules name.';

CREATE OR REPLACE FUNCTION flowguard._missing(p_link flowguard.link) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_missing$
-- What a link speaks of and is not there any more; NULL where all is. Scalar subqueries look each name up by an index;
-- NOT EXISTS would read the whole catalog.
BEGIN
  RETURN (SELECT string_agg(x.what, ', ' ORDER BY x.what)
            FROM (SELECT format('table with oid %s', t.id::oid) AS what
                    FROM (SELECT p_link.relation AS id UNION SELECT p_link.master
                          UNION SELECT r.source FROM flowguard._rules(p_link) r WHERE r.source IS NOT NULL) AS t
                   WHERE (SELECT c.oid FROM pg_class c WHERE c.oid = t.id) IS NULL
                  UNION ALL
                  SELECT format('column %I of %s', n.name, n.relation)
                    FROM flowguard._named_columns(p_link) n
                   WHERE (SELECT a.attnum FROM pg_attribute a
                           WHERE a.attrelid = n.relation AND a.attname = n.name AND a.attnum > 0
                             AND NOT a.attisdropped) IS NULL
                     AND (SELECT c.oid FROM pg_class c WHERE c.oid = n.relation) IS NOT NULL
                 ) AS x);
END;
$_missing$;
COMMENT ON FUNCTION flowguard._missing(flowguard.link) IS 'Tables and columns that a link speaks of and that are gone.';

CREATE OR REPLACE FUNCTION flowguard._is_alive(p_link flowguard.link) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_is_alive$
  SELECT flowguard._missing(p_link) IS NULL;
$_is_alive$;
COMMENT ON FUNCTION flowguard._is_alive(flowguard.link) IS
  'Whether all tables and columns that a link speaks of are there.';

CREATE OR REPLACE FUNCTION flowguard._read_columns(p_link flowguard.link) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_read_columns$
-- The columns of the child that its rules read, each once: tenants first.
BEGIN
  RETURN (SELECT coalesce(array_agg(x.name ORDER BY x.first), '{}')
            FROM (SELECT c.name, min(c.place) AS first
                    FROM (SELECT t.name, t.ordinality AS place
                            FROM unnest(p_link.tenant_columns) WITH ORDINALITY AS t (name, ordinality)
                          UNION ALL
                          SELECT coalesce(r.via_column, r.time_column), 1000 + r."position"
                            FROM flowguard._rules(p_link) r) AS c
                   WHERE c.name IS NOT NULL
                   GROUP BY c.name) AS x);
END;
$_read_columns$;
COMMENT ON FUNCTION flowguard._read_columns(flowguard.link) IS
  'The columns of the child that the rules of a link read.';

CREATE OR REPLACE FUNCTION flowguard._row_refs(p_link flowguard.link, p_columns name[], p_style text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_row_refs$
-- How generated code names columns of the row that it works for: a trigger by NEW, the finders by parameters.
BEGIN
  RETURN (SELECT coalesce(array_agg(CASE
                                      WHEN c.name IS NULL THEN NULL
                                      WHEN p_style IN ('finder', 'kept finder')
                                      THEN '$' || array_position(flowguard._read_columns(p_link), c.name)
                                      ELSE p_style || '.' || quote_ident(c.name)
                                    END ORDER BY c.ordinality), '{}')
            FROM unnest(p_columns) WITH ORDINALITY AS c (name, ordinality));
END;
$_row_refs$;
COMMENT ON FUNCTION flowguard._row_refs(flowguard.link, name[], text) IS
  'How generated code names columns of its row: by parameter in the style of a finder, else by the given record.';

CREATE OR REPLACE FUNCTION flowguard._master_match(p_link flowguard.link, p_style text, p_strict boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_master_match$
-- ' AND …': master m is of the row's tenant.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
BEGIN
  RETURN flowguard._match_tenants(v_master.relation, v_master.tenant_columns, 'm.', p_link.relation,
    p_link.tenant_columns,
                                  flowguard._row_refs(p_link, p_link.tenant_columns, p_style), p_strict);
END;
$_master_match$;
COMMENT ON FUNCTION flowguard._master_match(flowguard.link, text, boolean) IS
  'SQL text: master m has the tenant of the row.';

CREATE OR REPLACE FUNCTION flowguard._setting_name(p_link_column name) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_setting_name$
-- A setting's name must be an identifier that needs no quotes.
  SELECT 'flowguard.' || CASE WHEN p_link_column ~ '^[a-z_][a-z0-9_]*$' THEN p_link_column ELSE 'master_flow_id' END;
$_setting_name$;
COMMENT ON FUNCTION flowguard._setting_name(name) IS
  'The setting that a session rule reads: flowguard.<link column>, or flowguard.master_flow_id where that is no '
  'plain name.';

CREATE OR REPLACE FUNCTION flowguard._source_view_query(p_rule flowguard.rule) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $_source_view_query$
BEGIN
  RETURN format('SELECT %s FROM %s s WHERE %s',
                flowguard._columns_sql((SELECT array_agg(DISTINCT c ORDER BY c) FROM unnest(
                  array_remove(p_rule.source_tenant_columns, NULL) || flowguard._row_key(p_rule.source)
                  || p_rule.source_time || p_rule.source_link) AS c)),
                p_rule.source, p_rule.source_filter);
END;
$_source_view_query$;
COMMENT ON FUNCTION flowguard._source_view_query(flowguard.rule) IS
  'The query of the view that holds a rule''s filter.';

CREATE OR REPLACE FUNCTION flowguard._source_view(p_link flowguard.link, p_rule flowguard.rule) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_source_view$
-- Where a proximity rule reads: the table, or a view that holds the filter as PostgreSQL parsed it. The name of the
-- view says what is in it, so that another filter is another view.
BEGIN
  IF p_rule.source_filter IS NULL THEN
    RETURN p_rule.source::text;
  END IF;
  RETURN format('flowguard.%I', p_link.stem || '_source_' || left(md5(flowguard._source_view_query(p_rule)), 8));
END;
$_source_view$;
COMMENT ON FUNCTION flowguard._source_view(flowguard.link, flowguard.rule) IS
  'What a proximity rule reads: a table or a view.';

CREATE OR REPLACE FUNCTION flowguard._view_stamp(p_view regclass) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = ON SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET quote_all_identifiers = off AS $_view_stamp$
-- What PostgreSQL understood of a view, and its options, hashed. It writes tables and columns by what they are called
-- now, and constants by settings. Before 16 it writes "s." before each column, since then before none, and a dump may
-- be restored by another release.
BEGIN
  RETURN (SELECT md5(concat_ws(' ', regexp_replace(pg_get_viewdef(c.oid), '[[:<:]]s[.]', '', 'g'), c.reloptions))
            FROM pg_class c WHERE c.oid = p_view);
END;
$_view_stamp$;
COMMENT ON FUNCTION flowguard._view_stamp(regclass) IS
  'A hash of what PostgreSQL made of a view, by the names of now.';

CREATE OR REPLACE FUNCTION flowguard._stamp_view(p_view regclass, p_note text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_stamp_view$
-- Notes in the view's comment what PostgreSQL made of it: a later change shows.
BEGIN
  EXECUTE format('COMMENT ON VIEW %s IS %L', p_view, p_note || ' ' || flowguard._view_stamp(p_view));
END;
$_stamp_view$;
COMMENT ON FUNCTION flowguard._stamp_view(regclass, text) IS
  'Notes in a view''s comment what it was made as.';

CREATE OR REPLACE FUNCTION flowguard._view_sql(p_link flowguard.link, p_rule flowguard.rule) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_view_sql$
-- The statement that makes the view of a rule's filter; NULL where it has no filter, or the view is there and as it was
-- made: of the same text, so of the tables and columns that have these names.
BEGIN
  RETURN (SELECT format('%4$sCREATE VIEW %1$s AS %2$s; REVOKE ALL ON %1$s FROM PUBLIC; '
                        'SELECT flowguard._stamp_view(%1$L, %3$L)',
                        v.name,
                        flowguard._source_view_query(p_rule),
                        format('Generated by PyFlowGuard for link %I of %s: the rows of %s that may give it a link.',
                               p_link.link_column, p_link.relation, p_rule.source),
                        CASE WHEN to_regclass(v.name) IS NULL THEN '' ELSE format('DROP VIEW %s; ', v.name) END)
            FROM flowguard._source_view(p_link, p_rule) AS v (name)
           WHERE p_rule.source_filter IS NOT NULL
             AND right(obj_description(to_regclass(v.name), 'pg_class'), 32)
                 IS DISTINCT FROM coalesce(flowguard._view_stamp(to_regclass(v.name)), 'none'));
END;
$_view_sql$;
COMMENT ON FUNCTION flowguard._view_sql(flowguard.link, flowguard.rule) IS
  'The statement that makes the view of a rule''s filter; NULL where there is nothing to do.';

CREATE OR REPLACE FUNCTION flowguard._unread_views() RETURNS SETOF regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_unread_views$
DECLARE
  v_read regclass[] := ARRAY(SELECT to_regclass(flowguard._source_view(l, r))
                               FROM flowguard.link l JOIN flowguard.rule r USING (relation, link_column)
                              -- In this order, for what is gone is asked of each.
                              WHERE CASE WHEN r.source_filter IS NOT NULL THEN flowguard._is_alive(l) END);
BEGIN
  RETURN QUERY
    SELECT v.oid::regclass
      FROM pg_class v
     WHERE v.relnamespace = 'flowguard'::regnamespace AND v.relkind = 'v'
       AND obj_description(v.oid, 'pg_class') LIKE 'Generated by PyFlowGuard%'
       AND v.oid <> ALL (array_remove(v_read, NULL));
END;
$_unread_views$;
COMMENT ON FUNCTION flowguard._unread_views() IS 'Views of filters that no rule has any more.';

CREATE OR REPLACE FUNCTION flowguard._sync_views() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_sync_views$
-- Makes the views of the filters of all rules: repair needs them before guard(). Drops those of rules that are gone,
-- but for what a guard still reads: that goes with the next guard() or unguard().
DECLARE
  v_statement text;
BEGIN
  FOR v_statement IN
    SELECT flowguard._view_sql(l, r)
      FROM flowguard.link l CROSS JOIN LATERAL flowguard._rules(l) r
     WHERE r.source_filter IS NOT NULL AND flowguard._is_alive(l)
    UNION ALL
    SELECT format('DROP VIEW %s', v.id)
      FROM flowguard._unread_views() AS v (id)
     WHERE NOT EXISTS (SELECT FROM pg_proc p
                        WHERE p.pronamespace = 'flowguard'::regnamespace AND strpos(p.prosrc, v.id::text) > 0)
  LOOP
    CONTINUE WHEN v_statement IS NULL;
    EXECUTE v_statement;
  END LOOP;
END;
$_sync_views$;
COMMENT ON FUNCTION flowguard._sync_views() IS 'Makes and drops the views that hold the filters of rules.';

CREATE OR REPLACE FUNCTION flowguard._time_is_usable(p_time text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_time_is_usable$
-- Neither NULL nor infinite, nor so near the end of the type's range that adding a window would fail.
  SELECT format('%1$s OPERATOR(pg_catalog.>) ''4000-01-01 00:00:00+00 BC'' AND %1$s OPERATOR(pg_catalog.<) '
                '''290000-01-01 00:00:00+00''', p_time);
$_time_is_usable$;
COMMENT ON FUNCTION flowguard._time_is_usable(text) IS
  'SQL text: a time is known, finite and leaves room for a window.';

CREATE OR REPLACE FUNCTION flowguard._row_time(p_link flowguard.link, p_rule flowguard.rule, p_style text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_row_time$
-- SQL text: the time of the row. A trigger and the finders look before they ask; a query over many rows cannot.
  SELECT CASE WHEN p_style IN ('NEW', 'finder', 'kept finder') THEN t.ref
              ELSE format('CASE WHEN %s THEN %s END', flowguard._time_is_usable(t.ref), t.ref) END
    FROM (SELECT (flowguard._row_refs(p_link, ARRAY[p_rule.time_column], p_style))[1]) AS t (ref);
$_row_time$;
COMMENT ON FUNCTION flowguard._row_time(flowguard.link, flowguard.rule, text) IS
  'SQL text: the time of the row, NULL where no window can be laid around it.';

CREATE OR REPLACE FUNCTION flowguard._nearest_query(
  p_link flowguard.link, p_rule flowguard.rule, p_style text
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_nearest_query$
-- The nearest row of the source with a link to a master of the row's tenant: one step back in the index, one forward,
-- and the nearer of the two; on a tie the earlier, then the smaller key. Columns: link, and at for the time.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_key    name[] := flowguard._row_key(p_rule.source);
  v_time   text := flowguard._row_time(p_link, p_rule, p_style);
  v_from   text;
  v_names  text;
BEGIN
  v_names := (SELECT string_agg(format('s.%I AS key_%s', k.name, k.n), ', ' ORDER BY k.n)
                FROM unnest(v_key) WITH ORDINALITY AS k (name, n));
  v_from := format(
    -- OFFSET 0: the master of each row is looked up by its key. Else the planner may read all masters of the tenant.
    'SELECT m.link, s.%I AS at, %s FROM %s s CROSS JOIN LATERAL (SELECT m.%I AS link FROM %s m WHERE m.%I %s s.%I%s '
    'OFFSET 0) m WHERE s.%I IS NOT NULL%s',
    p_rule.source_time, v_names, flowguard._source_view(p_link, p_rule), v_master.key_column, v_master.relation,
    v_master.key_column, flowguard._equal(v_master.relation, v_master.key_column), p_rule.source_link,
    flowguard._master_match(p_link, p_style, true), p_rule.source_link,
    flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', p_link.relation, p_link.tenant_columns,
                             flowguard._row_refs(p_link, p_link.tenant_columns, p_style), true));
  RETURN format(
    E'SELECT n.link, n.at FROM (\n'
    '       (%1$s AND s.%2$I OPERATOR(pg_catalog.<=) %3$s AND s.%2$I OPERATOR(pg_catalog.>=) (%3$s '
      'OPERATOR(pg_catalog.-) %4$s)\n'
    '         ORDER BY s.%2$I DESC, %5$s LIMIT 1)\n'
    '       UNION ALL\n'
    '       (%1$s AND s.%2$I OPERATOR(pg_catalog.>) %3$s AND s.%2$I OPERATOR(pg_catalog.<=) (%3$s '
      'OPERATOR(pg_catalog.+) %4$s)\n'
    '         ORDER BY s.%2$I, %5$s LIMIT 1)) n\n'
    '     ORDER BY CASE WHEN n.at OPERATOR(pg_catalog.<=) %3$s THEN %3$s OPERATOR(pg_catalog.-) n.at\n'
    '                   ELSE n.at OPERATOR(pg_catalog.-) %3$s END, n.at\n'
    '     LIMIT 1',
    v_from, p_rule.source_time, v_time, flowguard._window_sql(p_rule), flowguard._columns_sql(v_key, 's.'));
END;
$_nearest_query$;
COMMENT ON FUNCTION flowguard._nearest_query(flowguard.link, flowguard.rule, text) IS
  'SQL text of a query for the nearest source row''s link and time.';

CREATE OR REPLACE FUNCTION flowguard._candidates(p_link flowguard.link, p_rule flowguard.rule, p_style text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_candidates$
-- SQL text: FROM and WHERE for the rows s of the source that have a link and the row's tenant.
  SELECT format('FROM %s s WHERE s.%I IS NOT NULL%s', flowguard._source_view(p_link, p_rule), p_rule.source_link,
                flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', p_link.relation,
                                         p_link.tenant_columns,
                                         flowguard._row_refs(p_link, p_link.tenant_columns, p_style), true));
$_candidates$;
COMMENT ON FUNCTION flowguard._candidates(flowguard.link, flowguard.rule, text) IS
  'SQL text: the source rows of the row''s tenant that have a link.';

CREATE OR REPLACE FUNCTION flowguard._nearest_in_batch(p_link flowguard.link, p_rule flowguard.rule, p_style text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_nearest_in_batch$
-- What _nearest_query() yields, for many rows: the nearest row first, then its master alone. Only where that is missing
-- is the whole question asked, which passes over such rows. Columns: link, NULL for none; distance, how far in time its
-- row is; and is_between, whether rows of the source lie in the window before and after.
DECLARE
  v_time text := flowguard._row_time(p_link, p_rule, p_style);
  v_from text := flowguard._candidates(p_link, p_rule, p_style);
BEGIN
  RETURN format($text$SELECT COALESCE(k.link, CASE WHEN n.link IS NOT NULL THEN (SELECT w.link FROM (
     %1$s) w) END) AS link,
           CASE WHEN k.link IS NOT NULL THEN n.distance
                WHEN n.link IS NOT NULL THEN (SELECT GREATEST(%2$s OPERATOR(pg_catalog.-) w.at,
                                                              w.at OPERATOR(pg_catalog.-) %2$s) FROM (
     %1$s) w) END AS distance, n.is_between
      FROM (SELECT CASE WHEN y.at IS NULL OR (%2$s OPERATOR(pg_catalog.-) x.at)
                                             OPERATOR(pg_catalog.<=) (y.at OPERATOR(pg_catalog.-) %2$s) THEN x.link
                        ELSE (SELECT s.%3$I %4$s AND s.%5$I OPERATOR(pg_catalog.=) y.at ORDER BY %6$s LIMIT 1)
                   END AS link,
                   CASE WHEN y.at IS NULL OR (%2$s OPERATOR(pg_catalog.-) x.at)
                                             OPERATOR(pg_catalog.<=) (y.at OPERATOR(pg_catalog.-) %2$s)
                        THEN %2$s OPERATOR(pg_catalog.-) x.at
                        ELSE y.at OPERATOR(pg_catalog.-) %2$s END AS distance,
                   x.at IS NOT NULL AND y.at IS NOT NULL AS is_between
              FROM (SELECT) o
              LEFT JOIN LATERAL (
                SELECT s.%3$I AS link, s.%5$I AS at %4$s
                   AND s.%5$I OPERATOR(pg_catalog.<=) %2$s
                   AND s.%5$I OPERATOR(pg_catalog.>=) (%2$s OPERATOR(pg_catalog.-) %7$s)
                 ORDER BY s.%5$I DESC, %6$s LIMIT 1) x ON true
              LEFT JOIN LATERAL (
                SELECT s.%5$I AS at %4$s
                   AND s.%5$I OPERATOR(pg_catalog.>) %2$s
                   AND s.%5$I OPERATOR(pg_catalog.<=) (%2$s OPERATOR(pg_catalog.+) %7$s)
                 ORDER BY s.%5$I LIMIT 1) y ON true
            OFFSET 0) n
      LEFT JOIN LATERAL (SELECT (%8$s) AS link OFFSET 0) k ON true$text$,
    flowguard._nearest_query(p_link, p_rule, p_style), v_time, p_rule.source_link, v_from, p_rule.source_time,
    flowguard._columns_sql(flowguard._row_key(p_rule.source), 's.'), flowguard._window_sql(p_rule),
    flowguard._master_query(p_link, p_style, 'n.link'));
END;
$_nearest_in_batch$;
COMMENT ON FUNCTION flowguard._nearest_in_batch(flowguard.link, flowguard.rule, text) IS
  'SQL text of a query, for many rows, for the link of the nearest source row, and how far in time that is.';

CREATE OR REPLACE FUNCTION flowguard._other_master_query(
  p_link flowguard.link, p_rule flowguard.rule, p_style text, p_found text
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_other_master_query$
-- A row for each source row in the window that leads to another master than the one found.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_time   text := flowguard._row_time(p_link, p_rule, p_style);
BEGIN
  RETURN format(
    'SELECT FROM %1$s s JOIN %2$s m ON m.%3$I %4$s s.%5$I%6$s WHERE NOT s.%5$I %4$s %7$s%8$s'
    ' AND s.%9$I OPERATOR(pg_catalog.>=) (%10$s OPERATOR(pg_catalog.-) %11$s)'
    ' AND s.%9$I OPERATOR(pg_catalog.<=) (%10$s OPERATOR(pg_catalog.+) %11$s)',
    flowguard._source_view(p_link, p_rule), v_master.relation, v_master.key_column,
    flowguard._equal(v_master.relation, v_master.key_column), p_rule.source_link,
    flowguard._master_match(p_link, p_style, true), p_found,
    flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', p_link.relation, p_link.tenant_columns,
                             flowguard._row_refs(p_link, p_link.tenant_columns, p_style), true),
    p_rule.source_time, v_time, flowguard._window_sql(p_rule));
END;
$_other_master_query$;
COMMENT ON FUNCTION flowguard._other_master_query(flowguard.link, flowguard.rule, text, text) IS
  'SQL text of a query for source rows in the window that lead to another master.';

CREATE OR REPLACE FUNCTION flowguard._window_sql(p_rule flowguard.rule) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_window_sql$
-- In seconds; beyond 68 years, which PostgreSQL 14 does not read in seconds, with hours before them.
  SELECT format('INTERVAL %L', CASE WHEN w.seconds >= 2 ^ 31
                                 THEN div(w.seconds, 3600) || ' hours ' ELSE '' END
                               || trim_scale(CASE WHEN w.seconds >= 2 ^ 31
                                               THEN mod(w.seconds, 3600) ELSE w.seconds END) || ' seconds')
    FROM (SELECT extract(epoch FROM p_rule.within)) AS w (seconds);
$_window_sql$;
COMMENT ON FUNCTION flowguard._window_sql(flowguard.rule) IS 'The window of a proximity rule for SQL text.';

CREATE OR REPLACE FUNCTION flowguard._candidate_count(
  p_link flowguard.link, p_rule flowguard.rule, p_style text, p_most integer
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_candidate_count$
-- SQL text of a scalar query: how many source rows of the row's tenant that have a link lie within the window, at most
-- so many. Their masters are not looked up, which would cost as much again for each.
  SELECT format('SELECT pg_catalog.count(*) FROM (SELECT %1$s AND s.%2$I OPERATOR(pg_catalog.>=) (%3$s '
                'OPERATOR(pg_catalog.-) %4$s) AND s.%2$I OPERATOR(pg_catalog.<=) (%3$s OPERATOR(pg_catalog.+) %4$s)'
                ' LIMIT %5$s) x',
                flowguard._candidates(p_link, p_rule, p_style), p_rule.source_time,
                flowguard._row_time(p_link, p_rule, p_style), flowguard._window_sql(p_rule),
                coalesce(p_most::text, 'ALL'));
$_candidate_count$;
COMMENT ON FUNCTION flowguard._candidate_count(flowguard.link, flowguard.rule, text, integer) IS
  'SQL text of a scalar query for how many source rows in the window have a link, at most so many.';

CREATE OR REPLACE FUNCTION flowguard._master_query(p_link flowguard.link, p_style text, p_key text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_master_query$
-- SQL text of a scalar query: the key of the master of the row's tenant that has a given key, NULL where there is none.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
BEGIN
  RETURN format('SELECT m.%1$I FROM %2$s m WHERE m.%1$I %3$s %4$s%5$s', v_master.key_column, v_master.relation,
                flowguard._equal(v_master.relation, v_master.key_column), p_key,
                flowguard._master_match(p_link, p_style, false));
END;
$_master_query$;
COMMENT ON FUNCTION flowguard._master_query(flowguard.link, text, text) IS
  'SQL text of a scalar query for the master of the row''s tenant that has a given key.';

CREATE OR REPLACE FUNCTION flowguard._nearest_lookup(p_link flowguard.link, p_rule flowguard.rule, p_style text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_nearest_lookup$
-- PL/pgSQL text: the nearest row of the source, in short steps, each one descent of an index: the latest row that is
-- not after, the earliest after, the smaller key among equal times, the master. A row of the present has, as a rule,
-- nothing after it: there the latest row of the whole window is asked for, and one step is enough where it is not
-- after. Only where the master is missing is the whole question asked again as one query, which passes over such rows.
-- Where provenance is kept, v_distance is left as well: how far in time the row is that gave the link.
DECLARE
  v_time  text := (flowguard._row_refs(p_link, ARRAY[p_rule.time_column], p_style))[1];
  v_from  text := flowguard._candidates(p_link, p_rule, p_style);
  v_keeps boolean := p_style <> 'finder' AND flowguard._keeps_provenance(p_link);
BEGIN
  RETURN format($text$    %2$s
    IF %3$s THEN
      v_until_%1$s := %7$s;
      IF %7$s OPERATOR(pg_catalog.>=) (pg_catalog.now() OPERATOR(pg_catalog.-) INTERVAL '1 minute') THEN
        v_until_%1$s := %7$s OPERATOR(pg_catalog.+) %8$s;
      END IF;
      LOOP
        SELECT s.%4$I, s.%5$I INTO v_reference, v_before_%1$s %6$s
           AND s.%5$I OPERATOR(pg_catalog.<=) v_until_%1$s
           AND s.%5$I OPERATOR(pg_catalog.>=) (%7$s OPERATOR(pg_catalog.-) %8$s)
         ORDER BY s.%5$I DESC, %9$s LIMIT 1;
        EXIT WHEN v_before_%1$s IS NULL OR v_before_%1$s OPERATOR(pg_catalog.<=) %7$s;
        v_until_%1$s := %7$s;
      END LOOP;
      IF v_until_%1$s OPERATOR(pg_catalog.=) %7$s
         AND (v_before_%1$s IS NULL OR v_before_%1$s OPERATOR(pg_catalog.<) %7$s) THEN
        SELECT s.%5$I INTO v_after_%1$s %6$s
           AND s.%5$I OPERATOR(pg_catalog.>) %7$s AND s.%5$I OPERATOR(pg_catalog.<=) (%7$s OPERATOR(pg_catalog.+) %8$s)
         ORDER BY s.%5$I LIMIT 1;
        IF v_after_%1$s IS NOT NULL
           AND (v_before_%1$s IS NULL OR (v_after_%1$s OPERATOR(pg_catalog.-) %7$s)
                                         OPERATOR(pg_catalog.<) (%7$s OPERATOR(pg_catalog.-) v_before_%1$s)) THEN
          SELECT s.%4$I INTO v_reference %6$s
             AND s.%5$I OPERATOR(pg_catalog.=) v_after_%1$s
           ORDER BY %9$s LIMIT 1;
        END IF;
      END IF;
      IF v_reference IS NOT NULL THEN
        v_link := (%11$s);
%12$s        IF v_link IS NULL THEN
          SELECT x.link%13$s INTO v_link%14$s FROM (
     %10$s) x;
        END IF;
      END IF;
$text$, p_rule."position", flowguard._remark(format('rule %s: the row of %s nearest in time', p_rule."position",
                                                     p_rule.source)),
        flowguard._time_is_usable(v_time), p_rule.source_link, p_rule.source_time, v_from, v_time,
        flowguard._window_sql(p_rule), flowguard._columns_sql(flowguard._row_key(p_rule.source), 's.'),
        flowguard._nearest_query(p_link, p_rule, p_style),
        flowguard._master_query(p_link, p_style, 'v_reference'),
        CASE WHEN v_keeps
             THEN format(E'        v_distance := LEAST(%2$s OPERATOR(pg_catalog.-) v_before_%1$s,'
                         ' v_after_%1$s OPERATOR(pg_catalog.-) %2$s);\n', p_rule."position", v_time) ELSE '' END,
        CASE WHEN v_keeps
             THEN format(', GREATEST(%1$s OPERATOR(pg_catalog.-) x.at, x.at OPERATOR(pg_catalog.-) %1$s)', v_time)
             ELSE '' END,
        CASE WHEN v_keeps THEN ', v_distance' ELSE '' END);
END;
$_nearest_lookup$;
COMMENT ON FUNCTION flowguard._nearest_lookup(flowguard.link, flowguard.rule, text) IS
  'PL/pgSQL text that finds the nearest source row''s master in short steps.';

CREATE OR REPLACE FUNCTION flowguard._lookup_variables(p_link flowguard.link) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_lookup_variables$
-- Declarations that the text of _lookup() needs for its proximity rules.
  SELECT coalesce(string_agg(format(E'  v_until_%1$s %2$s;\n  v_before_%1$s %2$s;\n  v_after_%1$s %2$s;\n',
                                    r."position", c.type_name), ''
                             ORDER BY r."position"), '')
    FROM flowguard._rules(p_link) r
   CROSS JOIN LATERAL (SELECT flowguard._type_sql(x.type, NULL) AS type_name FROM flowguard._column(r.source,
     r.source_time) x) AS c
   WHERE r.kind = 'proximity';
$_lookup_variables$;
COMMENT ON FUNCTION flowguard._lookup_variables(flowguard.link) IS 'Declarations for the text of a link''s look-up.';

CREATE OR REPLACE FUNCTION flowguard._found_variables() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_found_variables$
  SELECT E'  v_rule integer;\n  v_distance interval;\n  v_candidates integer;\n';
$_found_variables$;
COMMENT ON FUNCTION flowguard._found_variables() IS
  'Declarations of what the text of a look-up leaves of a rule by time, where that is kept.';

CREATE OR REPLACE FUNCTION flowguard._note_found(p_link flowguard.link, p_rule flowguard.rule, p_style text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_note_found$
-- PL/pgSQL text, empty where that is not kept: which rule by time gave v_link, and from how many candidates. Not
-- counted to the end there are two where one lies before and one after, and else a look for a second one.
DECLARE
  v_count text;
BEGIN
  IF p_style = 'finder' OR NOT flowguard._keeps_provenance(p_link) THEN
    RETURN '';
  END IF;
  v_count := CASE
               WHEN flowguard._counts_candidates(p_link)
               THEN format('(%s)', flowguard._candidate_count(p_link, p_rule, p_style, NULL))
               ELSE format('CASE WHEN v_before_%1$s IS NOT NULL AND v_after_%1$s IS NOT NULL THEN 2 ELSE (%2$s) END',
                           p_rule."position", flowguard._candidate_count(p_link, p_rule, p_style, 2))
             END;
  RETURN format(E'      IF v_link IS NOT NULL THEN\n        v_rule := %s;\n        v_candidates := %s;\n'
                '      END IF;\n', p_rule."position", v_count);
END;
$_note_found$;
COMMENT ON FUNCTION flowguard._note_found(flowguard.link, flowguard.rule, text) IS
  'PL/pgSQL text that notes which rule by time gave a link, where that is kept.';

CREATE OR REPLACE FUNCTION flowguard._lookup(p_link flowguard.link, p_style text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_lookup$
-- PL/pgSQL text that sets v_link to what the first rule yields, NULL for none. Where provenance is kept, and that is a
-- rule by time, also v_rule, v_distance and v_candidates, but in the style of the finder that is not asked how.
-- A reference is read together with its master. Where that had to wait for whoever was re-linking the referenced row,
-- the master that came with the new link is seen by a later snapshot only: it is asked for once more.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_find   text;
  v_text   text := '';
  v_via    text;
  r_rule   flowguard.rule;
BEGIN
  v_find := format('v_link := (%s)', flowguard._master_query(p_link, p_style, 'v_reference'));
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) LOOP
    IF r_rule.kind = 'session' THEN
      CONTINUE WHEN p_style IN ('finder', 'kept finder');
      v_text := v_text || format(
        E'    %s\n'
        '    IF v_ask_session THEN\n'
        '      v_setting := pg_catalog.current_setting(%L, true);\n'
        '      IF v_setting OPERATOR(pg_catalog.<>) '''' THEN\n'
        '        -- A block that catches an error is a sub-transaction, so it is entered once for a value.\n'
        '        IF (%L OPERATOR(pg_catalog.||) v_setting) OPERATOR(pg_catalog.<>)\n'
        '           COALESCE(pg_catalog.current_setting(''flowguard.read_setting'', true), '''') THEN\n'
        '          BEGIN\n'
        '            v_reference := v_setting;\n'
        '          EXCEPTION WHEN data_exception THEN\n'
        '            PERFORM flowguard._refuse_setting(%L, v_setting, %L, %L);\n'
        '          END;\n'
        '          PERFORM pg_catalog.set_config(''flowguard.read_setting'', %L OPERATOR(pg_catalog.||) v_setting, '
          'true);\n'
        '        END IF;\n'
        '        v_reference := v_setting;\n'
        '        %s;\n'
        '        EXIT lookup WHEN v_link IS NOT NULL;\n'
        '      END IF;\n'
        '    END IF;\n',
        flowguard._remark(format('rule %s: the setting %s', r_rule."position",
                                 flowguard._setting_name(p_link.link_column))),
        flowguard._setting_name(p_link.link_column), p_link.stem || ' ', flowguard._setting_name(p_link.link_column),
        p_link.relation, p_link.link_column, p_link.stem || ' ', v_find);
    ELSIF r_rule.kind = 'reference' THEN
      v_via := (flowguard._row_refs(p_link, ARRAY[r_rule.via_column], p_style))[1];
      IF r_rule.source = v_master.relation AND r_rule.source_link = v_master.key_column THEN
        v_text := v_text || format(
          E'    %s\n'
          '    IF %s IS NOT NULL THEN\n'
          '      SELECT m.%I INTO v_link FROM %s m WHERE m.%I %s %s%s;\n',
          flowguard._remark(format('rule %s: %s names a master', r_rule."position", r_rule.via_column)), v_via,
          v_master.key_column, v_master.relation, r_rule.source_key,
          flowguard._equal(r_rule.source, r_rule.source_key), v_via, flowguard._master_match(p_link, p_style, false));
      ELSE
        v_text := v_text || format(
          E'    %s\n'
          '    IF %s IS NOT NULL THEN\n'
          '      SELECT s.%I, (%s) INTO v_reference, v_link\n'
          '        FROM %s s WHERE s.%I %s %s%s FOR KEY SHARE;\n'
          '      IF v_link IS NULL AND v_reference IS NOT NULL THEN\n'
          '        %s;\n'
          '      END IF;\n',
          flowguard._remark(format('rule %s: the link of the row of %s that %s refers to', r_rule."position",
                                   r_rule.source, r_rule.via_column)), v_via, r_rule.source_link,
          flowguard._master_query(p_link, p_style, 's.' || quote_ident(r_rule.source_link)), r_rule.source,
          r_rule.source_key, flowguard._equal(r_rule.source, r_rule.source_key), v_via,
          flowguard._match_tenants(r_rule.source, r_rule.source_tenant_columns, 's.', p_link.relation,
                                   p_link.tenant_columns,
                                   flowguard._row_refs(p_link, p_link.tenant_columns, p_style), false),
          v_find);
      END IF;
      v_text := v_text || CASE WHEN r_rule.agree
                            THEN E'      EXIT lookup;  -- agreed: linked as it, or waiting for it\n'
                            ELSE E'      EXIT lookup WHEN v_link IS NOT NULL;\n' END
                       || E'    END IF;\n';
    ELSE
      v_text := v_text || flowguard._nearest_lookup(p_link, r_rule, p_style);
      IF r_rule.on_ambiguous = 'leave' THEN
        v_text := v_text || format(
          E'      IF v_link IS NOT NULL AND EXISTS (\n        %s) THEN\n'
          '        v_link := NULL;\n'
          '        EXIT lookup;  -- two masters lie within the window: left alone\n'
          '      END IF;\n',
          flowguard._other_master_query(p_link, r_rule, p_style, 'v_link'));
      END IF;
      v_text := v_text || flowguard._note_found(p_link, r_rule, p_style)
                       || E'      EXIT lookup WHEN v_link IS NOT NULL;\n    END IF;\n';
    END IF;
  END LOOP;
  RETURN E'  <<lookup>>\n  BEGIN\n' || CASE WHEN v_text = '' THEN E'    NULL;  -- no rule\n' ELSE v_text END
         || E'  END lookup;\n';
END;
$_lookup$;
COMMENT ON FUNCTION flowguard._lookup(flowguard.link, text) IS
  'PL/pgSQL text that tries the rules of a link in order and leaves the master''s key in v_link.';

CREATE OR REPLACE FUNCTION flowguard._refuse_setting(p_setting text, p_value text, p_relation text, p_link_column text)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_refuse_setting$
-- Raises FG003: the session rule's setting holds no value of the link's type.
BEGIN
  RAISE EXCEPTION 'flowguard: setting % holds %, which is no value for column % of table %',
                  p_setting, quote_literal(p_value), quote_ident(p_link_column), p_relation
    USING ERRCODE = 'FG003',
          DETAIL = 'The row has no link, and the first thing to ask is the setting of the transaction.',
          HINT = format('Run "SET LOCAL %1$s = ''<key of a master>''", or "RESET %1$s".', p_setting);
END;
$_refuse_setting$;
COMMENT ON FUNCTION flowguard._refuse_setting(text, text, text, text) IS
  'Raises FG003 where the setting of a session rule holds no value of the link''s type.';

CREATE OR REPLACE FUNCTION flowguard._row_key_sql(p_relation regclass, p_prefix text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_row_key_sql$
-- SQL text for the row's key as jsonb.
BEGIN
  RETURN (SELECT format('pg_catalog.jsonb_build_object(%s)',
                        string_agg(format('%L, %s%I', k.name, p_prefix, k.name), ', ' ORDER BY k.n))
            FROM unnest(flowguard._row_key(p_relation)) WITH ORDINALITY AS k (name, n));
END;
$_row_key_sql$;
COMMENT ON FUNCTION flowguard._row_key_sql(regclass, text) IS 'SQL text for a row''s key as jsonb.';

CREATE OR REPLACE FUNCTION flowguard._same_row_sql(p_relation regclass, p_left text, p_right text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_same_row_sql$
-- SQL text: two records have one row key.
BEGIN
  RETURN (SELECT string_agg(format('%s%I %s %s%I', p_left, k.name, flowguard._equal(p_relation, k.name), p_right,
                                   k.name), ' AND ' ORDER BY k.n)
            FROM unnest(flowguard._row_key(p_relation)) WITH ORDINALITY AS k (name, n));
END;
$_same_row_sql$;
COMMENT ON FUNCTION flowguard._same_row_sql(regclass, text, text) IS 'SQL text: two records are the same row.';

CREATE OR REPLACE FUNCTION flowguard._unknown_tenant_sql(p_link flowguard.link, p_prefix text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_unknown_tenant_sql$
-- SQL text: the row does not know its tenant; NULL where the table makes that impossible.
BEGIN
  RETURN (SELECT string_agg(format('%s%I IS NULL', p_prefix, t.name), ' OR ' ORDER BY t.n)
            FROM unnest(p_link.tenant_columns) WITH ORDINALITY AS t (name, n)
           WHERE t.name IS NOT NULL AND NOT flowguard._is_not_null(p_link.relation, t.name));
END;
$_unknown_tenant_sql$;
COMMENT ON FUNCTION flowguard._unknown_tenant_sql(flowguard.link, text) IS
  'SQL text: a tenant column of the row is NULL; NULL where none can be.';

CREATE OR REPLACE FUNCTION flowguard._generated_remark(p_link flowguard.link) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_generated_remark$
  SELECT flowguard._remark(format('Generated by flowguard.guard() for link %s of %s.', p_link.link_column,
                                  p_link.relation))
         || E'\n-- To change it, change the rules or the mode and call guard() again.';
$_generated_remark$;
COMMENT ON FUNCTION flowguard._generated_remark(flowguard.link) IS 'The remark that generated functions begin with.';

CREATE OR REPLACE FUNCTION flowguard._paused_body(p_link flowguard.link, p_result text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_paused_body$
  SELECT format(E'\n%s\nBEGIN\n  RETURN %s;\nEND;\n',
                flowguard._remark(format('Link %I of %s is paused; flowguard.resume(%L, %L) brings the guard back.',
                                         p_link.link_column, p_link.relation, p_link.relation, p_link.link_column)),
                p_result);
$_paused_body$;
COMMENT ON FUNCTION flowguard._paused_body(flowguard.link, text) IS
  'The body of a trigger function of a link that is paused.';

CREATE OR REPLACE FUNCTION flowguard._names_check(p_link flowguard.link, p_result text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_names_check$
-- PL/pgSQL text: no name in the function means another table or column by now. Looked at when the function is planned,
-- in each session, and again when one of the tables is changed; run, it is a constant. A name that means nothing is
-- PostgreSQL's own error, which quotes this text: so the text says what to call, in words that no name can end.
BEGIN
  RETURN (SELECT format(E'  IF NOT flowguard._names_hold(  /* Is a table gone, or its name? %s */\n'
                        '       %L, ARRAY[%s],\n       %L, %L, ARRAY[%s], %L) THEN\n'
                        '    RETURN %s;  -- never: it is true or an error\n  END IF;\n',
                        replace(replace(format('SELECT flowguard.guard(%L, %L);', p_link.relation, p_link.link_column),
                                        '*/', '* /'), '/*', '/ *'),
                        p_link.stem,
                        (SELECT string_agg(format('%L::pg_catalog.regclass', t.id), ', ' ORDER BY t.n, t.id::text)
                           FROM (SELECT 0 AS n, p_link.relation AS id
                                 UNION SELECT 1, r.source FROM flowguard._rules(p_link) r
                                        WHERE r.source IS NOT NULL) AS t),
                        flowguard._row_key(p_link.relation), w.own, w.targets, w.columns, p_result)
            FROM (SELECT array_agg(x.own ORDER BY x.n, x.own) AS own, array_agg(x.other ORDER BY x.n, x.own) AS columns,
                         string_agg(format('%L::pg_catalog.regclass', x.target), ', ' ORDER BY x.n, x.own) AS targets
                    FROM (SELECT 0 AS n, p_link.link_column AS own, m.relation AS target, m.key_column AS other
                            FROM flowguard._master(p_link.master) m
                          UNION ALL
                          SELECT 1, t.own, m.relation, t.other
                            FROM flowguard._master(p_link.master) m
                           CROSS JOIN LATERAL unnest(p_link.tenant_columns, m.tenant_columns) AS t (own, other)
                           WHERE t.own IS NOT NULL
                          UNION ALL
                          SELECT 2 + r."position", r.via_column, r.source, r.source_key
                            FROM flowguard._rules(p_link) r WHERE r.agree) AS x) AS w);
END;
$_names_check$;
COMMENT ON FUNCTION flowguard._names_check(flowguard.link, text) IS
  'PL/pgSQL text that fails where a name has passed on to another table or column.';

CREATE OR REPLACE FUNCTION flowguard._keep_into() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_keep_into$
  SELECT E'INSERT INTO flowguard.provenance (schema_name, table_name, link_column, row_key, time_column, row_time,\n'
         '      rule, new_link, distance, candidates, counted)';
$_keep_into$;
COMMENT ON FUNCTION flowguard._keep_into() IS
  'SQL text: the INSERT that keeps how a link was found; _keep_values() are its values.';

CREATE OR REPLACE FUNCTION flowguard._keep_values(
  p_link flowguard.link, p_row text, p_new_link text, p_rule text, p_found text
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_keep_values$
-- SQL text: the values of an entry, of a row under a prefix, with its link, the rule, and distance and candidates under
-- another prefix. The time is that of the row that the rule read; one without a zone is kept as if it were of UTC.
DECLARE
  v_times   text;
  v_columns text;
BEGIN
  SELECT format(CASE WHEN count(DISTINCT r.time_column) = 1 THEN '%2$s' ELSE 'CASE%1$s END' END,
                string_agg(format(' WHEN %s OPERATOR(pg_catalog.=) %s THEN %s', p_rule, r."position", t.time), ''
                           ORDER BY r."position"), min(t.time)),
         format(CASE WHEN count(DISTINCT r.time_column) = 1 THEN '%2$s' ELSE 'CASE%1$s END' END,
                string_agg(format(' WHEN %s OPERATOR(pg_catalog.=) %s THEN %L', p_rule, r."position", r.time_column), ''
                           ORDER BY r."position"), quote_literal(min(r.time_column)))
    INTO v_times, v_columns
    FROM flowguard._rules(p_link) r
   CROSS JOIN LATERAL (
     SELECT format(CASE WHEN (flowguard._column(p_link.relation, r.time_column)).type = 'timestamp'::regtype
                     THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, %s%I)' ELSE '%s%I' END,
                   p_row, r.time_column)) AS t (time)
   WHERE r.kind = 'proximity';
  RETURN (SELECT format(E'%L AS schema_name, %L AS table_name, %L AS link_column,\n'
                        '           %s AS row_key,\n           %s AS time_column, %s AS row_time,\n'
                        '           %s AS rule, %s::pg_catalog.text AS new_link, %sdistance AS distance,'
                        ' %scandidates AS candidates, %s AS counted',
                        n.nspname, c.relname, p_link.link_column, flowguard._row_key_sql(p_link.relation, p_row),
                        v_columns, v_times, p_rule, p_new_link, p_found, p_found,
                        flowguard._counts_candidates(p_link)::text)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_link.relation);
END;
$_keep_values$;
COMMENT ON FUNCTION flowguard._keep_values(flowguard.link, text, text, text, text) IS
  'SQL text: what is kept of how a link was found.';

CREATE OR REPLACE FUNCTION flowguard._fill_body(p_link flowguard.link) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_fill_body$
-- The body of the function of the BEFORE triggers of a link: what the rules yield is the link of the row.
DECLARE
  v_session text := '';
  v_found   text := '';
  v_keep    text := '';
BEGIN
  IF p_link.paused THEN
    RETURN flowguard._paused_body(p_link, 'NEW');
  END IF;
  IF EXISTS (SELECT FROM flowguard._rules(p_link) r WHERE r.kind = 'session') THEN
    -- A link that is there is one whose row moved to another reference, which it follows.
    v_session := format(E'  v_setting pg_catalog.text;\n  v_ask_session boolean := NEW.%I IS NULL;\n',
                        p_link.link_column);
  END IF;
  IF flowguard._keeps_provenance(p_link) THEN
    v_found := flowguard._found_variables();
    v_keep := format(E'  IF v_rule IS NOT NULL THEN\n    %s\n    SELECT %s;\n  END IF;\n',
                     flowguard._keep_into(), flowguard._keep_values(p_link, 'NEW.', 'v_link', 'v_rule', 'v_'));
  END IF;
  RETURN format($body$
%5$s
#variable_conflict use_variable
DECLARE
  v_link %6$s;
  v_reference %6$s;
%3$sBEGIN
%7$s  IF pg_catalog.current_setting('flowguard.privileged', true) OPERATOR(pg_catalog.<>) '' THEN
    IF flowguard._is_privileged('undo') THEN
      RETURN NEW;
    END IF;
  END IF;
%4$s  NEW.%1$I := v_link;
%8$s  RETURN NEW;
END;
$body$, p_link.link_column, p_link.relation, v_session || flowguard._lookup_variables(p_link) || v_found,
         flowguard._lookup(p_link, 'NEW'), flowguard._generated_remark(p_link),
         flowguard._nullable_type(p_link.relation, p_link.link_column), flowguard._names_check(p_link, 'NEW'), v_keep);
END;
$_fill_body$;
COMMENT ON FUNCTION flowguard._fill_body(flowguard.link) IS
  'The body of the trigger function that fills a link before its row is written.';

CREATE OR REPLACE FUNCTION flowguard._finder_body(p_link flowguard.link) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_finder_body$
  SELECT format(E'\n%4$s\n'
                '#variable_conflict use_variable\n'
                'DECLARE\n  v_link      %1$s;\n  v_reference %1$s;\n%3$sBEGIN\n%2$s  RETURN v_link;\nEND;\n',
                flowguard._nullable_type(p_link.relation, p_link.link_column), flowguard._lookup(p_link, 'finder'),
                flowguard._lookup_variables(p_link), flowguard._generated_remark(p_link));
$_finder_body$;
COMMENT ON FUNCTION flowguard._finder_body(flowguard.link) IS
  'The body of the function that finds a link for given columns.';

CREATE OR REPLACE FUNCTION flowguard._kept_finder_body(p_link flowguard.link) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_kept_finder_body$
  SELECT format(E'\n%4$s\n'
                '#variable_conflict use_variable\n'
                'DECLARE\n  v_link      %1$s;\n  v_reference %1$s;\n%3$sBEGIN\n%2$s'
                '  RETURN ROW(v_link, v_rule, v_distance, v_candidates);\nEND;\n',
                flowguard._nullable_type(p_link.relation, p_link.link_column),
                flowguard._lookup(p_link, 'kept finder'),
                flowguard._lookup_variables(p_link) || flowguard._found_variables(),
                flowguard._generated_remark(p_link));
$_kept_finder_body$;
COMMENT ON FUNCTION flowguard._kept_finder_body(flowguard.link) IS
  'The body of the function that finds a link for given columns, and tells how.';

CREATE OR REPLACE FUNCTION flowguard._finder_types(p_link flowguard.link) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_finder_types$
BEGIN
  RETURN (SELECT string_agg(t.type_name, ', ' ORDER BY c.n)
            FROM unnest(flowguard._read_columns(p_link)) WITH ORDINALITY AS c (name, n)
           CROSS JOIN LATERAL (SELECT format_type(a.atttypid, NULL) AS type_name FROM pg_attribute a
                                WHERE a.attrelid = p_link.relation AND a.attname = c.name) AS t);
END;
$_finder_types$;
COMMENT ON FUNCTION flowguard._finder_types(flowguard.link) IS 'The parameter types of a link''s finders.';

CREATE OR REPLACE FUNCTION flowguard._finder_signature(p_link flowguard.link) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_finder_signature$
  SELECT format('flowguard.%I(%s)', p_link.stem || '_find', flowguard._finder_types(p_link));
$_finder_signature$;
COMMENT ON FUNCTION flowguard._finder_signature(flowguard.link) IS 'Name and parameter types of a link''s finder.';

CREATE OR REPLACE FUNCTION flowguard._kept_finder_signature(p_link flowguard.link) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_kept_finder_signature$
  SELECT format('flowguard.%I(%s)', p_link.stem || '_find_kept', flowguard._finder_types(p_link));
$_kept_finder_signature$;
COMMENT ON FUNCTION flowguard._kept_finder_signature(flowguard.link) IS
  'Name and parameter types of the finder that tells how it found a link.';

CREATE OR REPLACE FUNCTION flowguard._has_finder(p_link flowguard.link) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_has_finder$
  SELECT EXISTS (SELECT FROM flowguard._rules(p_link) r WHERE r.kind <> 'session');
$_has_finder$;
COMMENT ON FUNCTION flowguard._has_finder(flowguard.link) IS
  'Whether a rule of the link can be asked again: any but those of the session.';

CREATE OR REPLACE FUNCTION flowguard._find_call(p_link flowguard.link, p_prefix text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_find_call$
  SELECT format('flowguard.%I(%s)', p_link.stem || '_find',
                flowguard._columns_sql(flowguard._read_columns(p_link), p_prefix));
$_find_call$;
COMMENT ON FUNCTION flowguard._find_call(flowguard.link, text) IS 'SQL text: what the rules yield for a row.';

CREATE OR REPLACE FUNCTION flowguard._find_kept_call(p_link flowguard.link, p_prefix text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_find_kept_call$
  SELECT format('flowguard.%I(%s)' || E'\n                   AS k (link %s, rule integer, distance interval, '
                'candidates integer)',
                p_link.stem || '_find_kept', flowguard._columns_sql(flowguard._read_columns(p_link), p_prefix),
                flowguard._nullable_type(p_link.relation, p_link.link_column));
$_find_kept_call$;
COMMENT ON FUNCTION flowguard._find_kept_call(flowguard.link, text) IS
  'SQL text for FROM: what the rules yield for a row, and how a rule by time found it.';

CREATE OR REPLACE FUNCTION flowguard._is_trusted(p_role oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_trusted$
-- Whoever may act as the current role anyway, or owns the database. 0 is PUBLIC; pg_database_owner is its owner.
BEGIN
  IF p_role = 0 THEN
    RETURN false;
  END IF;
  IF pg_has_role(p_role, current_user, 'MEMBER') OR p_role = 'pg_database_owner'::regrole THEN
    RETURN true;
  END IF;
  RETURN p_role = (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database());
END;
$_is_trusted$;
COMMENT ON FUNCTION flowguard._is_trusted(oid) IS
  'Whether what a role makes may be run with the rights of the current one.';

CREATE OR REPLACE FUNCTION flowguard._safe_path(p_schemas name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $_safe_path$
-- Of the schemas of a path those in which nobody else can create anything; temporary tables last. Called at each write
-- of a source by another role: PL/pgSQL plans it once for a session.
BEGIN
  RETURN (SELECT concat_ws(', ', string_agg(quote_ident(n.nspname), ', '
                                            ORDER BY array_position(p_schemas, n.nspname)), 'pg_temp')
            FROM pg_namespace n
           WHERE n.nspname = ANY (p_schemas) AND n.oid <> pg_my_temp_schema()
             AND flowguard._is_trusted(n.nspowner)
             AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) a
                              WHERE a.privilege_type = 'CREATE' AND NOT flowguard._is_trusted(a.grantee)));
END;
$_safe_path$;
COMMENT ON FUNCTION flowguard._safe_path(name[]) IS
  'A search_path without the schemas in which others could put what the current role would then run.';

CREATE OR REPLACE FUNCTION flowguard._enter_path(p_indent text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_enter_path$
-- SQL text of generated code that is about to write an application table with the rights of its owner for whoever else
-- writes now: the application's triggers must not find there what a writer put in their way. It stands in the code
-- itself, since PostgreSQL plans anew what is called under now this path, now that one.
  SELECT replace(E'~IF NOT pg_catalog.pg_has_role(session_user, current_user, ''MEMBER'') THEN\n'
                 '~  v_path := pg_catalog.current_setting(''search_path'');\n'
                 '~  PERFORM pg_catalog.set_config(''search_path'','
                 ' flowguard._safe_path(pg_catalog.current_schemas(false)), true);\n'
                 '~END IF;\n', '~', p_indent);
$_enter_path$;
COMMENT ON FUNCTION flowguard._enter_path(text) IS
  'SQL text that keeps what a writer put into the search_path from being run as the owner.';

CREATE OR REPLACE FUNCTION flowguard._leave_path(p_indent text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_leave_path$
  SELECT replace(E'~IF v_path IS NOT NULL THEN\n'
                 '~  v_path := pg_catalog.set_config(''search_path'', v_path, true);\n'
                 '~END IF;\n', '~', p_indent);
$_leave_path$;
COMMENT ON FUNCTION flowguard._leave_path(text) IS
  'SQL text that goes back to the search_path of before _enter_path().';

CREATE OR REPLACE FUNCTION flowguard._enter_safe_path(p_path text, p_schemas name[]) RETURNS text
LANGUAGE plpgsql AS $_enter_safe_path$
-- Called by code that releases before 1.2.0 have generated; see _enter_path(). Returns the path to go back to, NULL
-- where the session's own user may act as the owner anyway. No SET: the path is to stay.
BEGIN
  IF pg_catalog.pg_has_role(session_user, current_user, 'MEMBER') THEN
    RETURN NULL;
  END IF;
  PERFORM pg_catalog.set_config('search_path', flowguard._safe_path(p_schemas), true);
  RETURN p_path;
END;
$_enter_safe_path$;
COMMENT ON FUNCTION flowguard._enter_safe_path(text, name[]) IS
  'Keeps what a writer put into the search_path from being run as the owner; returns the path to go back to.';

CREATE OR REPLACE FUNCTION flowguard._leave_safe_path(p_path text) RETURNS void
LANGUAGE plpgsql AS $_leave_safe_path$
BEGIN
  IF p_path IS NOT NULL THEN
    PERFORM pg_catalog.set_config('search_path', p_path, true);
  END IF;
END;
$_leave_safe_path$;
COMMENT ON FUNCTION flowguard._leave_safe_path(text) IS 'Goes back to the search_path that _enter_safe_path() left.';

CREATE OR REPLACE FUNCTION flowguard._commit_body(p_link flowguard.link) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_commit_body$
-- The body of the function of the deferred trigger of a link: tries the rules (but for the session's) once more on the
-- row as it is by now, and in enforce refuses what is still unlinked.
DECLARE
  v_unknown    text := flowguard._unknown_tenant_sql(p_link, 'NEW.');
  v_tenantless text := '';
  v_declared   text := '';
  v_again      text := '';
  v_missing    text := '';
  v_keeps      boolean := flowguard._keeps_provenance(p_link);
  v_type       text := flowguard._nullable_type(p_link.relation, p_link.link_column);
BEGIN
  IF p_link.paused THEN
    RETURN flowguard._paused_body(p_link, 'NULL');
  END IF;
  IF p_link.mode = 'enforce' THEN
    v_declared := format(E'  v_key pg_catalog.jsonb := %s;\n', flowguard._row_key_sql(p_link.relation, 'NEW.'));
    v_missing := format(E'  PERFORM flowguard._refuse_unlinked(%L, %L, v_key);\n', p_link.relation, p_link.link_column);
    IF v_unknown IS NOT NULL THEN
      v_tenantless := format(E'    IF %s THEN\n      PERFORM flowguard._refuse_tenantless(%L, %L, v_key);\n'
                             '    END IF;\n', v_unknown, p_link.relation, p_link.link_column);
    END IF;
  END IF;
  IF flowguard._has_finder(p_link) THEN
    v_declared := format(E'  v_link %s;\n  v_path pg_catalog.text;\n', v_type) || v_declared;
    IF v_keeps THEN
      v_declared := v_declared || format(E'  v_found %s;\n', v_type) || flowguard._found_variables();
    END IF;
    -- A trigger of the application may turn the row away or take the link off again. Its write is then taken back: it
    -- would be looked at at commit in turn, without end.
    v_again := format(E'  %s;\n  IF v_link IS NOT NULL THEN\n    BEGIN\n'
                      '%s      UPDATE %s c SET %I = v_link WHERE %s AND c.%I IS NULL RETURNING c.%I INTO v_link;\n'
                      '      IF v_link IS NOT NULL THEN\n%s%s'
                      '        RETURN NULL;\n      END IF;\n'
                      '      RAISE SQLSTATE ''FG999'';\n    EXCEPTION WHEN SQLSTATE ''FG999'' THEN\n      NULL;\n'
                      '    END;\n  END IF;\n',
                      CASE WHEN v_keeps
                           THEN 'SELECT k.link, k.link, k.rule, k.distance, k.candidates'
                                ' INTO v_link, v_found, v_rule, v_distance, v_candidates'
                                || E'\n    FROM ' || flowguard._find_kept_call(p_link, 'NEW.')
                           ELSE 'v_link := ' || flowguard._find_call(p_link, 'NEW.') END,
                      flowguard._enter_path('      '), p_link.relation, p_link.link_column,
                      flowguard._same_row_sql(p_link.relation, 'c.', 'NEW.'), p_link.link_column, p_link.link_column,
                      CASE WHEN v_keeps
                           THEN format(E'        IF v_rule IS NOT NULL AND v_link %s v_found THEN\n'
                                       '          %s\n    SELECT %s;\n        END IF;\n',
                                       flowguard._equal(p_link.relation, p_link.link_column), flowguard._keep_into(),
                                       flowguard._keep_values(p_link, 'NEW.', 'v_link', 'v_rule', 'v_')) ELSE '' END,
                      flowguard._leave_path('        '));
  END IF;
  RETURN format($body$
%3$s
#variable_conflict use_variable
DECLARE
%4$sBEGIN
%6$s  IF pg_catalog.current_setting('flowguard.privileged', true) OPERATOR(pg_catalog.<>) '' THEN
    -- repair looks at every row itself, and at a row of an enforced link only to link it
    IF flowguard._is_privileged('undo') OR flowguard._is_privileged('bypass') OR flowguard._is_privileged('repair') THEN
      RETURN NULL;
    END IF;
  END IF;
  SELECT c.* INTO NEW FROM %2$s c WHERE %5$s;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF NEW.%1$I IS NOT NULL THEN
%7$s    RETURN NULL;
  END IF;
%8$s%9$s  RETURN NULL;
END;
$body$, p_link.link_column, p_link.relation, flowguard._generated_remark(p_link), v_declared,
         flowguard._same_row_sql(p_link.relation, 'c.', 'NEW.'), flowguard._names_check(p_link, 'NULL'), v_tenantless,
         v_again, v_missing);
END;
$_commit_body$;
COMMENT ON FUNCTION flowguard._commit_body(flowguard.link) IS
  'The body of the trigger function that looks at a row without a link again at commit.';

CREATE OR REPLACE FUNCTION flowguard._moved_sql(p_relation regclass, p_columns name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_moved_sql$
-- SQL text for a trigger function: one of the columns changes. IS DISTINCT FROM would look for its operator in the path
-- of whoever writes. A type of which no operator is known is compared as text.
BEGIN
  RETURN (SELECT string_agg(
                   format('(OLD.%1$I IS NULL) OPERATOR(pg_catalog.<>) (NEW.%1$I IS NULL)'
                          ' OR NOT OLD.%1$I%2$s %3$s NEW.%1$I%2$s', a.attname,
                          CASE WHEN c.is_plain THEN '' ELSE '::pg_catalog.text' END,
                          CASE WHEN c.is_plain THEN flowguard._equal(p_relation, a.attname)
                               ELSE 'OPERATOR(pg_catalog.=)' END), ' OR ' ORDER BY a.attnum)
            FROM pg_attribute a
           CROSS JOIN LATERAL (
             SELECT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
                             WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = a.atttypid) AS is_plain) c
           WHERE a.attrelid = p_relation AND a.attname = ANY (p_columns));
END;
$_moved_sql$;
COMMENT ON FUNCTION flowguard._moved_sql(regclass, name[]) IS
  'SQL text for a trigger function: one of the columns changes.';

CREATE OR REPLACE FUNCTION flowguard._is_direct(p_link flowguard.link, p_rule flowguard.rule) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_direct$
-- Whether no other rule has a say before this reference to a registered link: then a late link may simply be written,
-- for the foreign keys prove it at commit. Any other rule has to ask the finder.
BEGIN
  RETURN (SELECT p_rule.kind = 'reference'
             AND NOT EXISTS (SELECT FROM flowguard._rules(p_link) r WHERE r."position" < p_rule."position"
               AND r.kind <> 'session')
             AND (p_rule.source = p_link.master
                  OR EXISTS (SELECT FROM flowguard.link l WHERE l.relation = p_rule.source
                    AND l.link_column = p_rule.source_link
                                AND l.master = p_link.master)));
END;
$_is_direct$;
COMMENT ON FUNCTION flowguard._is_direct(flowguard.link, flowguard.rule) IS
  'Whether a late link by this rule may be written without asking the other rules.';

CREATE OR REPLACE FUNCTION flowguard._is_backed(p_link flowguard.link, p_rule flowguard.rule) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_backed$
-- A key that is checked at once lets no child come before the row that it refers to.
BEGIN
  RETURN p_rule.kind = 'reference' AND EXISTS (
    SELECT FROM flowguard._foreign_keys(p_link.relation, p_rule.via_column) k
     WHERE k.target = p_rule.source AND k.target_column = p_rule.source_key AND NOT k.is_deferrable
       AND flowguard._all_known(p_link.relation, array_remove(k.columns, p_rule.via_column)));
END;
$_is_backed$;
COMMENT ON FUNCTION flowguard._is_backed(flowguard.link, flowguard.rule) IS
  'Whether a key of the application makes the row come first that a rule by reference leads to.';

CREATE OR REPLACE FUNCTION flowguard._is_asked_again(p_link flowguard.link, p_rule flowguard.rule) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_is_asked_again$
-- The finder yields only a master that is there; the source may have got its link before that. Asked again at commit,
-- unless a key makes the master come first.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
BEGIN
  RETURN NOT flowguard._is_direct(p_link, p_rule) AND p_rule.source <> v_master.relation
         AND NOT flowguard._master_comes_first(p_rule, v_master);
END;
$_is_asked_again$;
COMMENT ON FUNCTION flowguard._is_asked_again(flowguard.link, flowguard.rule) IS
  'Whether what follows a source has to be looked for once more at commit.';

CREATE OR REPLACE FUNCTION flowguard._watched_columns(p_link flowguard.link, p_rule flowguard.rule) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_watched_columns$
BEGIN
  RETURN array_remove(p_rule.source_tenant_columns || CASE
    WHEN p_rule.kind = 'proximity' THEN p_rule.source_time || p_rule.filter_columns
    WHEN NOT flowguard._is_backed(p_link, p_rule) THEN ARRAY[p_rule.source_key]
    ELSE '{}'::name[] END, NULL);
END;
$_watched_columns$;
COMMENT ON FUNCTION flowguard._watched_columns(flowguard.link, flowguard.rule) IS
  'Columns of a rule''s source, beside its link, on which what follows it depends.';

CREATE OR REPLACE FUNCTION flowguard._follow_target(
  p_link flowguard.link, p_rule flowguard.rule, p_alias text, p_direct boolean
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_follow_target$
-- SQL text: the child rows, under an alias, that a change of source row NEW concerns.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_text   text;
BEGIN
  v_text := CASE p_rule.kind
    WHEN 'reference' THEN
      format('%s.%I %s NEW.%I', p_alias, p_rule.via_column, flowguard._equal(p_link.relation, p_rule.via_column),
             p_rule.source_key)
    ELSE
      format('%1$s.%2$I OPERATOR(pg_catalog.>=) (NEW.%3$I OPERATOR(pg_catalog.-) %4$s)'
             ' AND %1$s.%2$I OPERATOR(pg_catalog.<=) (NEW.%3$I OPERATOR(pg_catalog.+) %4$s)',
             p_alias, p_rule.time_column, p_rule.source_time, flowguard._window_sql(p_rule))
  END || flowguard._match_tenants(p_link.relation, p_link.tenant_columns, p_alias || '.', p_rule.source,
                                  p_rule.source_tenant_columns,
                                  flowguard._prefixed(p_rule.source_tenant_columns, 'NEW.'), p_rule.kind = 'proximity');
  -- A source that may not know its tenant says nothing of the child's: ask the master.
  IF p_direct AND p_rule.source <> v_master.relation AND EXISTS (
       SELECT FROM unnest(p_link.tenant_columns, p_rule.source_tenant_columns) AS t (child, source)
        WHERE t.child IS NOT NULL AND (t.source IS NULL OR NOT flowguard._is_not_null(p_rule.source, t.source))) THEN
    v_text := v_text || format(' AND (NEW.%1$I IS NULL OR EXISTS (SELECT FROM %2$s m WHERE m.%3$I %4$s NEW.%1$I%5$s))',
                               p_rule.source_link, v_master.relation, v_master.key_column,
                               flowguard._equal(v_master.relation, v_master.key_column),
                               flowguard._master_match(p_link, p_alias, false));
  END IF;
  -- With a link but without its tenant the row would be refused at commit, and the client's change with it.
  IF p_link.mode = 'enforce' AND flowguard._unknown_tenant_sql(p_link, p_alias || '.') IS NOT NULL THEN
    v_text := v_text || format(' AND NOT (%s)', flowguard._unknown_tenant_sql(p_link, p_alias || '.'));
  END IF;
  RETURN v_text || ' AND ' || flowguard._follow_still(p_link, p_rule, p_alias);
END;
$_follow_target$;
COMMENT ON FUNCTION flowguard._follow_target(flowguard.link, flowguard.rule, text, boolean) IS
  'SQL text: the child rows that a change of a rule''s source concerns.';

CREATE OR REPLACE FUNCTION flowguard._follow_still(p_link flowguard.link, p_rule flowguard.rule, p_alias text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_follow_still$
-- SQL text: the child row is unlinked or, for a reference, carries the link that the source had. The second look at
-- commit, told by the trigger's argument, is for unlinked rows only: another link may have been set on purpose since.
-- Where the link of the source is written as it is, a row that has it already is left alone. In observe a repair of all
-- links comes to a row that has a link by itself, and judges that: it may be an alternate key of the row's own master.
-- IS TRUE says the same to PostgreSQL but for one thing: it does not take the index on the link. Once all rows are
-- linked it would expect nothing at that end of it, where there are all that were written and linked since a vacuum;
-- and it would plan anew at each call.
  SELECT format(CASE
                  WHEN p_rule.kind <> 'reference' THEN '%1$s.%2$I IS NULL'
                  WHEN flowguard._is_direct(p_link, p_rule)
                  THEN '((%1$s.%2$I IS NULL) IS TRUE AND NEW.%4$I IS NOT NULL'
                       ' OR %5$s%1$s.%2$I %3$s OLD.%4$I AND (NEW.%4$I IS NULL OR NOT NEW.%4$I %3$s OLD.%4$I))'
                  ELSE '((%1$s.%2$I IS NULL) IS TRUE'
                       ' OR TG_NARGS OPERATOR(pg_catalog.=) 0 AND %1$s.%2$I %3$s OLD.%4$I)'
                END, p_alias, p_link.link_column, flowguard._equal(p_link.relation, p_link.link_column),
                p_rule.source_link, CASE WHEN p_link.mode = 'enforce' THEN '' ELSE 'NOT v_repairs_all AND ' END);
$_follow_still$;
COMMENT ON FUNCTION flowguard._follow_still(flowguard.link, flowguard.rule, text) IS
  'SQL text: a child row is unlinked or carries the link that its source had.';

CREATE OR REPLACE FUNCTION flowguard._follow_body(p_link flowguard.link, p_rule flowguard.rule) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_follow_body$
-- The body of the function that is called for a rule's source: rows that wait for it, or carry the link that it had,
-- follow. It is called with the row OLD, the row NEW and TG_NARGS: 0 for an update, 1 for one at commit; -1 for an
-- insert, of which OLD is NEW. And it is that of a trigger as 1.1.0 made them, where TG_NARGS is 0 or 1.
DECLARE
  v_direct boolean := flowguard._is_direct(p_link, p_rule);
  v_equal  text := flowguard._equal(p_link.relation, p_link.link_column);
  v_new    text;
  v_limit  text := '';
  v_skip   text := '';
  v_look   text := '';
  v_target text;
  v_order  name;
  v_one    text;
  v_update text;
  v_logged text;
  -- A link that is written as it is does not come by a rule by time.
  v_keeps  boolean := NOT v_direct AND flowguard._keeps_provenance(p_link);
  v_moved  text;
  v_kept   text := '';
  v_change text;
BEGIN
  IF p_link.paused THEN
    RETURN flowguard._paused_body(p_link, 'NULL');
  END IF;
  -- The trigger is one for all that follows its table.
  v_change := flowguard._moved_sql(p_rule.source, flowguard._watched_columns(p_link, p_rule));
  v_change := format(CASE p_rule.kind
                       WHEN 'reference' THEN '%1$s%3$s'
                       ELSE 'NEW.%2$I IS NOT NULL AND (%1$s%4$s)' END,
                     flowguard._moved_sql(p_rule.source, ARRAY[p_rule.source_link]), p_rule.source_link,
                     format(' OR NEW.%I IS NOT NULL AND (', p_rule.source_link) || v_change || ')', ' OR ' || v_change);
  IF p_rule.late_limit IS NOT NULL AND p_link.mode = 'observe' THEN
    v_limit := format(' LIMIT %s', p_rule.late_limit);
  END IF;
  IF p_rule.kind = 'proximity' THEN
    v_skip := format(E'  IF NEW.%I IS NULL OR NOT (%s) THEN\n    RETURN NULL;\n  END IF;\n', p_rule.source_time,
                     flowguard._time_is_usable('NEW.' || quote_ident(p_rule.source_time)));
  END IF;
  -- Mostly no row waits. A look for the first one is planned once and takes a step in an index, while the UPDATE is set
  -- up for each call and, by time, planned anew: how few rows a window holds PostgreSQL can tell only of that window.
  -- The look asks for the order that the index gives, or it would read a large table for rows of which statistics
  -- promise many; = ANY, since rows with one value have no order.
  v_target := flowguard._follow_target(p_link, p_rule, 'o', v_direct);
  v_order := p_rule.time_column;
  IF p_rule.kind = 'reference' AND (flowguard._column(p_link.relation, p_rule.via_column)).type
                                   = ANY ('{uuid,bigint,integer,text}'::regtype[]) THEN
    v_order := p_rule.via_column;
    v_one := format('o.%I %s NEW.%I', p_rule.via_column, flowguard._equal(p_link.relation, p_rule.via_column),
                    p_rule.source_key);
    v_target := format('o.%I OPERATOR(pg_catalog.=) ANY (ARRAY[NEW.%I])%s', p_rule.via_column, p_rule.source_key,
                       substr(v_target, length(v_one) + 1));
  END IF;
  IF v_order IS NOT NULL THEN
    v_look := format(E'  PERFORM FROM %s o WHERE %s ORDER BY o.%I LIMIT 1;\n  IF NOT FOUND THEN\n    RETURN NULL;\n'
                     '  END IF;\n', p_link.relation, v_target, v_order);
  END IF;
  v_new := CASE
             WHEN v_direct THEN format('NEW.%I', p_rule.source_link)
             WHEN v_keeps THEN 'k.link'
             ELSE flowguard._find_call(p_link, 'o.')
           END;
  -- OFFSET 0 keeps the finder from being asked once for each place where its answer is used.
  v_logged := format(
    E'UPDATE %1$s c SET %2$I = f.new_link\n'
    '      FROM (SELECT %3$s, o.%2$I AS old_link, %4$s AS new_link%10$s\n'
    '              FROM %1$s o%11$s\n'
    '             WHERE %5$s%6$s OFFSET 0) f\n'
    '     WHERE %7$s AND %8$s\n'
    '       AND (f.new_link IS NOT NULL OR f.old_link IS NOT NULL)\n'
    '       AND (f.new_link IS NULL OR f.old_link IS NULL OR NOT f.new_link %9$s f.old_link)',
    p_link.relation, p_link.link_column, flowguard._columns_sql(flowguard._row_key(p_link.relation), 'o.'), v_new,
    flowguard._follow_target(p_link, p_rule, 'o', v_direct), v_limit,
    flowguard._same_row_sql(p_link.relation, 'c.', 'f.'), flowguard._follow_still(p_link, p_rule, 'c'), v_equal,
    CASE WHEN v_keeps THEN ', k.rule AS found_rule, k.distance AS found_distance, k.candidates AS found_candidates'
         ELSE '' END,
    CASE WHEN v_keeps THEN E'\n             CROSS JOIN LATERAL ' || flowguard._find_kept_call(p_link, 'o.')
         ELSE '' END);
  v_update := CASE
                WHEN v_direct AND v_limit = ''
                THEN format('UPDATE %s c SET %I = %s WHERE %s', p_link.relation, p_link.link_column, v_new,
                            flowguard._follow_target(p_link, p_rule, 'c', v_direct))
                ELSE v_logged
              END;
  v_moved := format('%s AS row_key, f.old_link, c.%I AS new_link', flowguard._row_key_sql(p_link.relation, 'c.'),
                    p_link.link_column);
  IF v_keeps THEN
    -- Of a row of which a trigger of the application made something else, nothing is kept.
    v_moved := format('%s, f.old_link, c.%I %s f.new_link AS is_found',
                      flowguard._keep_values(p_link, 'c.', 'c.' || quote_ident(p_link.link_column), 'f.found_rule',
                                             'f.found_'), p_link.link_column, v_equal);
    v_kept := flowguard._keep_into()
              || E'\n    SELECT m.schema_name, m.table_name, m.link_column, m.row_key, m.time_column, m.row_time,\n'
                 '           m.rule, m.new_link, m.distance, m.candidates, m.counted\n'
                 '      FROM moved m WHERE m.rule IS NOT NULL AND m.is_found';
    v_update := format(E'WITH moved AS (\n    %s\n      RETURNING %s\n    )\n    %s', v_logged, v_moved, v_kept);
    v_kept := format(E', kept AS (\n    %s\n    )', v_kept);
  END IF;
  RETURN format($body$
%2$s
#variable_conflict use_variable
DECLARE
  v_setting pg_catalog.text := pg_catalog.current_setting('flowguard.privileged', true);
  v_run     bigint;
  v_path    pg_catalog.text;
%13$sBEGIN
%14$s  IF TG_NARGS OPERATOR(pg_catalog.>=) 0 AND (%19$s) IS NOT TRUE
     OR TG_NARGS OPERATOR(pg_catalog.<>) 0 AND NEW.%20$I IS NULL THEN
    RETURN NULL;
  END IF;
%5$s  IF v_setting OPERATOR(pg_catalog.<>) '' THEN
    IF flowguard._is_privileged('undo') THEN
      RETURN NULL;
    END IF;
    v_run := flowguard._current_run();
%12$s  END IF;
%16$s%17$s  IF v_run IS NULL THEN
    %6$s;
  ELSE
    WITH moved AS (
    %7$s
      RETURNING %8$s
    )%15$s
    INSERT INTO flowguard.repair_change (run_id, schema_name, table_name, link_column, row_key, kind, rule, old_link,
      new_link)
    SELECT v_run, %9$L, %10$L, %11$L, m.row_key, 'followed', %3$s,
           m.old_link::pg_catalog.text, m.new_link::pg_catalog.text
      FROM moved m;
  END IF;
%18$s  RETURN NULL;
END;
$body$, p_link.link_column, flowguard._generated_remark(p_link), p_rule."position", p_rule.source, v_skip, v_update,
        v_logged, v_moved,
        (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_link.relation),
        (SELECT c.relname FROM pg_class c WHERE c.oid = p_link.relation), p_link.link_column,
        -- A repair of all links comes to these rows itself, when all their sources are in place.
        CASE WHEN NOT v_direct
             THEN E'    IF v_run IS NOT NULL AND flowguard._repairs_all(v_run) THEN\n      RETURN NULL;\n    END IF;\n'
             WHEN p_link.mode = 'enforce' THEN ''
             ELSE E'    v_repairs_all := v_run IS NOT NULL AND flowguard._repairs_all(v_run);\n' END,
        CASE WHEN v_direct AND p_link.mode <> 'enforce' THEN E'  v_repairs_all boolean := false;\n' ELSE '' END,
        flowguard._names_check(p_link, 'NULL'), v_kept, v_look,
        flowguard._enter_path('  '), flowguard._leave_path('  '), v_change, p_rule.source_link);
END;
$_follow_body$;
COMMENT ON FUNCTION flowguard._follow_body(flowguard.link, flowguard.rule) IS
  'The body of the function that lets links follow a rule''s source.';

CREATE OR REPLACE FUNCTION flowguard._renew_functions(p_stems text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $_renew_functions$
-- Functions only: no table is locked. A link that cannot be renewed, as its functions are another role's or guard() was
-- not called since it was changed, keeps no other from it, nor the engine from its upgrade.
DECLARE
  v_link   flowguard.link;
  v_reason text;
BEGIN
  FOR v_link IN SELECT l.* FROM flowguard.link l WHERE l.guarded ORDER BY l.stem LOOP
    CONTINUE WHEN NOT flowguard._is_alive(v_link);  -- which is a finding already
    v_reason := NULL;
    BEGIN
      IF v_link.stem = ANY (p_stems) THEN
        PERFORM flowguard._replace_functions(v_link);
      ELSIF EXISTS (SELECT FROM flowguard._wanted_functions(v_link) f
                     WHERE flowguard._function_status(f.signature, f.is_definer, f.body) <> 'installed') THEN
        v_reason := 'they were not as its rules and its mode say before';
      END IF;
    EXCEPTION WHEN OTHERS THEN
      v_reason := SQLERRM;
    END;
    IF v_reason IS NOT NULL THEN
      RAISE WARNING 'flowguard: link %.% stays guarded by the functions that it has: %', v_link.relation,
        quote_ident(v_link.link_column), v_reason
        USING DETAIL = 'This release writes them otherwise. They work on as they did.',
              HINT = format('Call flowguard.guard(%L, %L) as the role that owns them and the table.',
                            v_link.relation, v_link.link_column);
    END IF;
  END LOOP;
END;
$_renew_functions$;
COMMENT ON FUNCTION flowguard._renew_functions(text[]) IS
  'Writes the functions of guarded links, told by their stems, as this release writes them; warns of a link whose '
  'functions stay otherwise.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();
SELECT flowguard._renew_functions(current_setting('flowguard.renew')::text[]);

COMMIT;
