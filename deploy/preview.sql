-- Deploy pyflowguard:preview to pg
-- Since 1.1.0 explain() tells what a trigger kept.
-- What a repair would do, rule by rule, with examples and distances in time; and how one row came by its link, or why
-- it has none.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._finds(
  p_link flowguard.link, p_rule flowguard.rule, p_row_key jsonb, OUT link text, OUT source_key jsonb,
  OUT source_time text, OUT distance interval, OUT candidates bigint, OUT masters bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_finds$
-- The link that a rule yields for a row as all is now, and the source row that it is of; NULL for none. By time also
-- how far that is, how many rows of the source in the window have a link, and how many masters these lead to. It looks
-- at all of them, each with its master: for one row, not for many.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_time   text;
  v_near   text;
BEGIN
  IF p_rule.kind = 'reference' THEN
    EXECUTE format('SELECT m.%I::text, %s FROM %s c JOIN %s s ON s.%I %s c.%I%s JOIN %s m ON m.%I %s s.%I%s WHERE %s '
                   'LIMIT 1',
                   v_master.key_column, flowguard._row_key_sql(p_rule.source, 's.'), p_link.relation, p_rule.source,
                   p_rule.source_key, flowguard._equal(p_rule.source, p_rule.source_key), p_rule.via_column,
                   flowguard._match_tenants(p_rule.source, p_rule.source_tenant_columns, 's.', p_link.relation,
                     p_link.tenant_columns, flowguard._row_refs(p_link, p_link.tenant_columns, 'c'), false),
                   v_master.relation, v_master.key_column,
                   flowguard._equal(v_master.relation, v_master.key_column), p_rule.source_link,
                   flowguard._master_match(p_link, 'c', false),
                   flowguard._key_sql_match(p_link.relation, 'c', '$1'))
      INTO link, source_key USING p_row_key;
  ELSIF p_rule.kind = 'proximity' THEN
    v_time := flowguard._row_time(p_link, p_rule, 'c');
    v_near := format('(SELECT s.* %s AND s.%I BETWEEN (%s - %s) AND (%s + %s)) s JOIN %s m ON m.%I %s s.%I%s',
                     flowguard._candidates(p_link, p_rule, 'c'), p_rule.source_time, v_time,
                     flowguard._window_sql(p_rule), v_time, flowguard._window_sql(p_rule), v_master.relation,
                     v_master.key_column, flowguard._equal(v_master.relation, v_master.key_column),
                     p_rule.source_link, flowguard._master_match(p_link, 'c', true));
    EXECUTE format('SELECT n.link::text, n.source_key, n.at::text, n.distance, (%s), '
                   '(SELECT count(DISTINCT m.%I) FROM %s) FROM %s c LEFT JOIN LATERAL ('
                   'SELECT m.%I AS link, %s AS source_key, s.%I AS at, greatest(%s - s.%I, s.%I - %s) AS distance '
                   'FROM %s ORDER BY 4, 3, %s LIMIT 1) n ON true WHERE %s',
                   flowguard._candidate_count(p_link, p_rule, 'c', NULL), v_master.key_column, v_near,
                   p_link.relation, v_master.key_column, flowguard._row_key_sql(p_rule.source, 's.'),
                   p_rule.source_time, v_time, p_rule.source_time, p_rule.source_time, v_time, v_near,
                   flowguard._columns_sql(flowguard._row_key(p_rule.source), 's.'),
                   flowguard._key_sql_match(p_link.relation, 'c', '$1'))
      INTO link, source_key, source_time, distance, candidates, masters USING p_row_key;
  END IF;
END;
$_finds$;
COMMENT ON FUNCTION flowguard._finds(flowguard.link, flowguard.rule, jsonb) IS
  'The link that a rule yields for a row now, and from which source row.';

CREATE OR REPLACE FUNCTION flowguard._ask(p_query text, p_path text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_ask$
-- Asks under the path under which a condition was written; what else is in the query is qualified. The path ends with
-- this call.
DECLARE
  v_answer jsonb;
BEGIN
  PERFORM set_config('search_path', p_path, true);
  EXECUTE p_query INTO v_answer;
  RETURN v_answer;
END;
$_ask$;
COMMENT ON FUNCTION flowguard._ask(text, text) IS 'The answer to a query that holds a condition of the caller.';

CREATE OR REPLACE FUNCTION flowguard._buckets(p_within interval, p_distances interval[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_buckets$
-- How distances lie in a window: each bucket is twice as wide as the one before it, and holds what is not in that.
  SELECT jsonb_agg(jsonb_build_object('to', b.upper, 'amount', b.amount) ORDER BY b.upper)
    FROM (SELECT p_within / f AS upper,
                 (SELECT count(*) FROM unnest(p_distances) AS d
                   WHERE d <= p_within / f AND (f = 16 OR d > p_within / (2 * f))) AS amount
            FROM unnest('{16,8,4,2,1}'::integer[]) AS f) AS b;
$_buckets$;
COMMENT ON FUNCTION flowguard._buckets(interval, interval[]) IS 'How distances lie in a window, as jsonb.';

CREATE OR REPLACE FUNCTION flowguard._outside(
  p_link flowguard.link, p_rule flowguard.rule, p_row_filter text, p_path text
) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_outside$
-- Rows that are left and come to a rule by time, whose nearest source row lies beyond the window, up to four of them.
-- A row comes to it where no earlier rule makes it wait or leaves it as ambiguous; one that an earlier rule linked is
-- not left.
DECLARE
  v_wide    flowguard.rule := p_rule;
  v_twice   flowguard.rule := p_rule;
  v_reached text := '';
  v_answer  jsonb;
  r_rule    flowguard.rule;
BEGIN
  -- Not so wide that time would end, see _time_is_usable().
  v_wide.within := greatest(p_rule.within, least(p_rule.within * 4, interval '1000000 hours'));
  v_twice.within := least(p_rule.within * 2, v_wide.within);
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r."position" < p_rule."position" LOOP
    IF r_rule.agree THEN
      v_reached := v_reached || format(' AND c.%I IS NULL', r_rule.via_column);
    ELSIF r_rule.on_ambiguous = 'leave' THEN
      v_reached := v_reached || format(' AND (SELECT y.link FROM (%s) y) IS NULL',
                                       flowguard._nearest_in_batch(p_link, r_rule, 'c'));
    END IF;
  END LOOP;
  v_answer := flowguard._ask(format(
    'SELECT pg_catalog.jsonb_build_array('
    'pg_catalog.count(*) FILTER (WHERE d.distance OPERATOR(pg_catalog.<=) %1$s), '
    'pg_catalog.count(*) FILTER (WHERE d.distance OPERATOR(pg_catalog.>) %1$s), pg_catalog.min(d.distance)) '
    'FROM %2$s CROSS JOIN LATERAL (%3$s) d '
    'WHERE (%4$s) OPERATOR(pg_catalog.=) ANY (''{unlinked,dangling}'') AND %5$s%6$s '
    'AND d.distance OPERATOR(pg_catalog.>) %7$s',
    flowguard._window_sql(v_twice), flowguard._judged_rows(p_link, p_row_filter),
    flowguard._nearest_in_batch(p_link, v_wide, 'c'), flowguard._judgement(p_link),
    flowguard._time_is_usable(format('c.%I', p_rule.time_column)), v_reached, flowguard._window_sql(p_rule)), p_path);
  RETURN jsonb_build_object('nearest', v_answer -> 2, 'outside', jsonb_build_array(
    jsonb_build_object('to', v_twice.within, 'amount', v_answer -> 0),
    jsonb_build_object('to', v_wide.within, 'amount', v_answer -> 1)));
END;
$_outside$;
COMMENT ON FUNCTION flowguard._outside(flowguard.link, flowguard.rule, text, text) IS
  'How many rows that are left lie just outside the window of a rule.';

CREATE OR REPLACE FUNCTION flowguard._preview_link(
  p_run bigint, p_link flowguard.link, p_row_filter text, p_samples integer, p_path text
) RETURNS SETOF jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $_preview_link$
-- What a run that is not committed has done with one link, an object for each outcome and rule.
DECLARE
  v_schema    text;
  v_table     text;
  v_this      jsonb := jsonb_build_object('child', p_link.relation, 'link', p_link.link_column);
  v_distances interval[];
  v_row       jsonb;
  v_examples  jsonb;
  v_found     record;
  r_rule      flowguard.rule;
  r_change    flowguard.repair_change;
  r_left      record;
  r_key       jsonb;
BEGIN
  SELECT n.nspname, c.relname INTO v_schema, v_table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_link.relation;
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r.kind <> 'session' LOOP
    SELECT v_this || jsonb_build_object('outcome', 'linked', 'rule', r_rule."position", 'rule_kind', r_rule.kind,
                                        'source', r_rule.source, 'amount', count(*)),
           array_agg(c.distance)
      INTO v_row, v_distances
      FROM flowguard.repair_change c
     WHERE c.run_id = p_run AND c.schema_name = v_schema AND c.table_name = v_table
       AND c.link_column = p_link.link_column AND c.kind = 'linked' AND c.rule = r_rule."position";
    v_examples := '[]';
    FOR r_change IN
      SELECT c.* FROM flowguard.repair_change c
       WHERE c.run_id = p_run AND c.schema_name = v_schema AND c.table_name = v_table
         AND c.link_column = p_link.link_column AND c.kind = 'linked' AND c.rule = r_rule."position"
       ORDER BY c.change_id LIMIT p_samples
    LOOP
      -- The row may have gone later in the run, and the source may say something else by now.
      v_found := flowguard._finds(p_link, r_rule, r_change.row_key);
      v_examples := v_examples || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'row_key', r_change.row_key, 'old_link', r_change.old_link, 'new_link', r_change.new_link,
        'source_key', CASE WHEN v_found.link = r_change.new_link THEN v_found.source_key END,
        'source_time', CASE WHEN v_found.link = r_change.new_link THEN v_found.source_time END,
        'distance', r_change.distance, 'candidates', r_change.candidates)));
    END LOOP;
    v_row := v_row || jsonb_build_object('examples', v_examples);
    IF r_rule.kind = 'proximity' THEN
      v_row := v_row || jsonb_build_object('distances', (
        SELECT jsonb_build_object('within', r_rule.within, 'min', min(d), 'max', max(d),
                                  'median', percentile_disc(0.5) WITHIN GROUP (ORDER BY d),
                                  'p90', percentile_disc(0.9) WITHIN GROUP (ORDER BY d),
                                  'p99', percentile_disc(0.99) WITHIN GROUP (ORDER BY d),
                                  'inside', flowguard._buckets(r_rule.within, v_distances))
               || flowguard._outside(p_link, r_rule, p_row_filter, p_path)
          FROM unnest(v_distances) AS d));
    END IF;
    RETURN NEXT v_row;
  END LOOP;
  RETURN QUERY
    SELECT v_this || jsonb_build_object('outcome', x.kind, 'amount', x.amount, 'examples', (
             SELECT coalesce(jsonb_agg(e.example), '[]')
               FROM (SELECT jsonb_strip_nulls(jsonb_build_object('row_key', c.row_key, 'old_link', c.old_link,
                                                                 'new_link', c.new_link)) AS example
                       FROM flowguard.repair_change c
                      WHERE c.run_id = p_run AND c.schema_name = v_schema AND c.table_name = v_table
                        AND c.link_column = p_link.link_column AND c.kind = x.kind
                      ORDER BY c.change_id LIMIT p_samples) AS e))
      FROM (SELECT c.kind, count(*) AS amount
              FROM flowguard.repair_change c
             WHERE c.run_id = p_run AND c.schema_name = v_schema AND c.table_name = v_table
               AND c.link_column = p_link.link_column AND c.kind IN ('translated', 'unlinked')
             GROUP BY c.kind) AS x;
  RETURN QUERY
    WITH taken AS MATERIALIZED (
      -- What went with an orphan was written down after it.
      SELECT q.*,
             max(q.quarantine_id) FILTER (WHERE q.link_column IS NOT NULL) OVER (ORDER BY q.quarantine_id) AS orphan
        FROM flowguard.quarantined_row q WHERE q.run_id = p_run
    ), of_this AS MATERIALIZED (
      SELECT t.*, row_number() OVER (PARTITION BY t.link_column IS NULL ORDER BY t.quarantine_id) AS n
        FROM taken t
        JOIN taken o ON o.quarantine_id = t.orphan
       WHERE o.schema_name = v_schema AND o.table_name = v_table AND o.link_column = p_link.link_column
    )
    SELECT v_this || jsonb_build_object(
             'outcome', CASE WHEN t.link_column IS NULL THEN 'taken along' ELSE 'quarantined' END, 'amount', count(*),
             'examples', coalesce(jsonb_agg(CASE
                 WHEN t.link_column IS NULL
                 THEN jsonb_build_object('relation', format('%I.%I', t.schema_name, t.table_name), 'row_key', t.row_key,
                                         'reason', t.reason)
                 ELSE jsonb_build_object('row_key', t.row_key, 'reason', t.reason) END ORDER BY t.quarantine_id)
               FILTER (WHERE t.n <= p_samples), '[]'))
      FROM of_this t GROUP BY t.link_column IS NULL ORDER BY t.link_column IS NULL;
  FOR r_left IN
    SELECT k.kind, (flowguard._ask(format('SELECT pg_catalog.jsonb_build_object(''amount'', pg_catalog.count(*)) '
                                          'FROM %s WHERE (%s) OPERATOR(pg_catalog.=) %L',
                                          flowguard._judged_rows(p_link, p_row_filter), flowguard._judgement(p_link),
                                          k.kind), p_path) ->> 'amount')::bigint AS amount
      FROM unnest('{unlinked,dangling}'::text[]) WITH ORDINALITY AS k (kind, n)
     ORDER BY k.n
  LOOP
    CONTINUE WHEN r_left.amount = 0;
    v_examples := '[]';
    FOR r_key IN
      SELECT e.value
        FROM jsonb_array_elements(flowguard._ask(format(
               'SELECT coalesce(pg_catalog.jsonb_agg(j.row_key), ''[]'') FROM (SELECT %s AS row_key FROM %s '
               'WHERE (%s) OPERATOR(pg_catalog.=) %L ORDER BY %s LIMIT %s) j',
               flowguard._row_key_sql(p_link.relation, 'c.'), flowguard._judged_rows(p_link, p_row_filter),
               flowguard._judgement(p_link), r_left.kind,
               flowguard._columns_sql(flowguard._row_key(p_link.relation), 'c.'), p_samples), p_path)) AS e
    LOOP
      v_examples := v_examples || jsonb_build_array(jsonb_build_object('row_key', r_key, 'reason',
        (flowguard._reason(p_link, r_key, r_left.kind)).reason));
    END LOOP;
    RETURN NEXT v_this || jsonb_build_object('outcome', 'left ' || r_left.kind, 'amount', r_left.amount,
                                             'examples', v_examples);
  END LOOP;
END;
$_preview_link$;
COMMENT ON FUNCTION flowguard._preview_link(bigint, flowguard.link, text, integer, text) IS
  'What a run that is not committed has done with one link.';

CREATE OR REPLACE FUNCTION flowguard._preview_followed(p_run bigint, p_samples integer) RETURNS SETOF jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_preview_followed$
-- Links that late linking wrote because of a run, of whatever table.
  SELECT jsonb_build_object('child', to_regclass(format('%I.%I', x.schema_name, x.table_name)), 'link', x.link_column,
                            'outcome', 'followed', 'rule', x.rule, 'rule_kind', r.kind, 'source', r.source,
                            'amount', x.amount, 'examples', (
           SELECT coalesce(jsonb_agg(e.example), '[]')
             FROM (SELECT jsonb_strip_nulls(jsonb_build_object('row_key', c.row_key, 'old_link', c.old_link,
                                                               'new_link', c.new_link)) AS example
                     FROM flowguard.repair_change c
                    WHERE c.run_id = p_run AND c.kind = 'followed' AND c.schema_name = x.schema_name
                      AND c.table_name = x.table_name AND c.link_column = x.link_column AND c.rule = x.rule
                    ORDER BY c.change_id LIMIT p_samples) AS e))
    FROM (SELECT c.schema_name, c.table_name, c.link_column, c.rule, count(*) AS amount
            FROM flowguard.repair_change c WHERE c.run_id = p_run AND c.kind = 'followed'
           GROUP BY 1, 2, 3, 4) AS x
    LEFT JOIN flowguard.rule r ON r.relation = to_regclass(format('%I.%I', x.schema_name, x.table_name))
                              AND r.link_column::text = x.link_column AND r."position" = x.rule
   ORDER BY x.schema_name, x.table_name, x.link_column, x.rule;
$_preview_followed$;
COMMENT ON FUNCTION flowguard._preview_followed(bigint, integer) IS 'Links that late linking wrote because of a run.';

CREATE OR REPLACE FUNCTION flowguard.preview(
  relation regclass DEFAULT NULL, link_column name DEFAULT 'master_flow_id', row_filter text DEFAULT NULL,
  samples integer DEFAULT 3, count_candidates boolean DEFAULT false
) RETURNS TABLE (child regclass, link name, outcome text, rule integer, rule_kind text, source regclass, amount bigint,
                 examples jsonb, distances jsonb)
LANGUAGE plpgsql AS $preview$
-- Repairs in a block that is taken back, and remembers what it did. No SET search_path: it writes application tables,
-- whose own triggers would inherit it. All else is qualified.
#variable_conflict use_column
DECLARE
  p_relation    ALIAS FOR $1;
  p_link_column ALIAS FOR $2;
  p_row_filter  ALIAS FOR $3;
  p_samples     ALIAS FOR $4;
  p_count_candidates ALIAS FOR $5;
  v_links       flowguard.link[];
  v_run         bigint;
  v_found       pg_catalog.jsonb;
BEGIN
  IF p_samples IS NULL OR p_samples OPERATOR(pg_catalog.<) 0 THEN
    PERFORM flowguard._refuse_argument(
      pg_catalog.format('samples %s is negative', coalesce(p_samples::pg_catalog.text, 'NULL')),
      'It is the number of examples for each outcome.', 'Leave it out for 3, or pass samples => 0.');
  END IF;
  IF p_count_candidates IS NULL THEN
    PERFORM flowguard._refuse_argument('count_candidates NULL says neither', 'true counts all candidates of each link.',
                                       'Pass count_candidates => true or false.');
  END IF;
  v_links := flowguard._links_to_repair(p_relation, p_link_column);
  PERFORM flowguard._check_row_filter(p_relation, p_row_filter);
  PERFORM flowguard._tell_missing_indexes(v_links);
  BEGIN
    v_run := flowguard._begin_run(p_relation, p_link_column, NULL, p_row_filter, p_count_candidates);
    PERFORM flowguard._begin_links(v_run, v_links,
      ARRAY(SELECT flowguard._estimate_rows(l.relation, p_row_filter) FROM pg_catalog.unnest(v_links) l),
      p_row_filter, p_count_candidates);
    CALL flowguard._repair_links(v_run, v_links, p_row_filter, 5000, true, NULL, NULL, p_count_candidates);
    SELECT pg_catalog.jsonb_agg(x.found ORDER BY x.n, x.m) INTO v_found
      FROM (SELECT l.n, f.m, f.found
              FROM pg_catalog.unnest(v_links)
                     WITH ORDINALITY AS l (relation, link_column, master, tenant_columns, mode, on_orphan,
                                           on_master_delete, stem, guarded, paused, n)
             CROSS JOIN LATERAL flowguard._preview_link(v_run, v_links[l.n], p_row_filter, p_samples,
                                                        pg_catalog.current_setting('search_path'))
                     WITH ORDINALITY AS f (found, m)
             WHERE flowguard._is_alive(v_links[l.n])
            UNION ALL
            SELECT NULL, f.m, f.found
              FROM flowguard._preview_followed(v_run, p_samples) WITH ORDINALITY AS f (found, m)) AS x;
    RAISE SQLSTATE 'FG999';
  EXCEPTION WHEN SQLSTATE 'FG999' THEN
    NULL;  -- nothing of it stays
  END;
  RETURN QUERY
    SELECT x.child, x.link, x.outcome, x.rule, x.rule_kind, x.source, x.amount, x.examples, x.distances
      FROM ROWS FROM (pg_catalog.jsonb_to_recordset(v_found)
             AS (child pg_catalog.regclass, link pg_catalog.name, outcome pg_catalog.text, rule pg_catalog.int4,
                 rule_kind pg_catalog.text, source pg_catalog.regclass, amount pg_catalog.int8,
                 examples pg_catalog.jsonb, distances pg_catalog.jsonb)) WITH ORDINALITY
             AS x (child, link, outcome, rule, rule_kind, source, amount, examples, distances, n)
     ORDER BY x.n;
END;
$preview$;
COMMENT ON FUNCTION flowguard.preview(regclass, name, text, integer, boolean) IS
'What repair() would do, by link, outcome and rule: it repairs and takes that back, as a dry run does, but may be called
inside a transaction. A rule is shown with 0, too. It needs the rights that repair() needs, and locks what that would
write until it is done.
relation: the child table; NULL for every link.
link_column: the column that holds the link; not asked where relation is NULL.
row_filter: as for repair().
samples: how many examples each outcome is shown with.
count_candidates: as for repair(): candidates of the examples are then counted to the end.
child: the child table.
link: the column that holds the link.
outcome: linked (by a rule), translated (from an alternate key), quarantined, taken along (what the delete of a
  quarantined row touches in other tables), unlinked (set to NULL), left unlinked or left dangling (what remains), or
  followed (by late linking, because of what the run would write).
rule: position of the rule.
rule_kind: reference or proximity.
source: the table that the rule takes the link from.
amount: how many rows.
examples: the first of them, each with its row_key, and old_link and new_link, or reason; for a rule source_key, the row
  that the link would be taken from, and by time source_time, distance, and candidates as in run_change.
distances: of a proximity rule how far in time the source rows of what it links are: min, median, p90, p99, max, and the
  amount by buckets inside the window, each up to and with "to"; and of rows that are left, which no earlier rule holds
  back, how many have their nearest source row outside it, up to 2 and up to 4 windows, and how far the nearest is.
Errors: FG101 a table that a link speaks of is gone; FG104 samples is negative, or row_filter no condition on the table;
  FG107 no such link; 42501 row security would hide rows.';

CREATE OR REPLACE FUNCTION flowguard._read_key(p_relation regclass, p_row_key jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_read_key$
-- A row key as the ledger holds it, each value as its column's type writes it. A value alone is the key of a table that
-- has one key column. Raises FG104 for what can be no key of the table.
DECLARE
  v_columns name[] := flowguard._row_key(p_relation);
  v_key     jsonb := p_row_key;
  v_said    text := '';
BEGIN
  IF jsonb_typeof(v_key) <> 'object' AND jsonb_typeof(v_key) <> 'null' AND cardinality(v_columns) = 1 THEN
    v_key := jsonb_build_object(v_columns[1]::text, v_key);
  END IF;
  IF jsonb_typeof(v_key) = 'object'
     AND (SELECT coalesce(array_agg(k.key ORDER BY k.key), '{}') FROM jsonb_each_text(v_key) k
           WHERE k.value IS NOT NULL)
         = (SELECT array_agg(c.name::text ORDER BY c.name::text) FROM unnest(v_columns) AS c (name)) THEN
    BEGIN
      EXECUTE format('SELECT jsonb_build_object(%s)',
                     (SELECT string_agg(format('%1$L, ($1 ->> %1$L)::%2$s', c.name, (
                               SELECT x.type_sql FROM flowguard._column(p_relation, c.name) x)), ', ' ORDER BY c.n)
                        FROM unnest(v_columns) WITH ORDINALITY AS c (name, n)))
        INTO v_key USING v_key;
      RETURN v_key;
    EXCEPTION
      WHEN data_exception OR integrity_constraint_violation THEN
        v_said := format(' It says: %s.', SQLERRM);
    END;
  END IF;
  PERFORM flowguard._refuse_argument(
    format('%s is no key of a row of table %s', coalesce(p_row_key::text, 'NULL'), p_relation),
    format('The key of its rows is (%s).%s', flowguard._columns_sql(v_columns), v_said),
    format('Pass row_key => %L.', (
      SELECT format('{%s}', string_agg(format('%s: "…"', to_json(c.name)), ', ' ORDER BY c.n))
        FROM unnest(v_columns) WITH ORDINALITY AS c (name, n))));
  RETURN NULL;  -- never: that is an error
END;
$_read_key$;
COMMENT ON FUNCTION flowguard._read_key(regclass, jsonb) IS
  'A row key as the ledger holds it; raises FG104 for what is none of the table.';

CREATE OR REPLACE FUNCTION flowguard._in_ledger(p_relation regclass, p_alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_in_ledger$
-- SQL text: an entry of the ledger, under an alias, is of the row with key $1. It may name the whole of a partitioned
-- table, or a partition. CASE, for the keys of other tables are of other types.
  SELECT format('CASE WHEN (%1$s.schema_name, %1$s.table_name) IN (SELECT n.nspname, c.relname FROM pg_class c '
                'JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%2$L::oid[])) '
                'THEN %3$s ELSE false END',
                p_alias, flowguard._partition_family(p_relation)::oid[],
                string_agg(format('(%1$s.row_key ->> %2$L)::%3$s %4$s ($1 ->> %2$L)::%3$s', p_alias, k.name,
                                  (SELECT c.type_sql FROM flowguard._column(p_relation, k.name) c),
                                  flowguard._equal(p_relation, k.name)), ' AND ' ORDER BY k.n))
    FROM unnest(flowguard._row_key(p_relation)) WITH ORDINALITY AS k (name, n);
$_in_ledger$;
COMMENT ON FUNCTION flowguard._in_ledger(regclass, text) IS 'SQL text: an entry of the ledger is of a row.';

CREATE OR REPLACE FUNCTION flowguard._kept(p_link flowguard.link, p_row_key jsonb)
RETURNS SETOF flowguard.provenance
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET row_security = off SET timezone = 'UTC' AS $_kept$
-- What triggers kept of a row as it is now: an entry for another link, or another time, is not of it. Times are
-- compared as text, for nothing says that the column still is a time.
BEGIN
  RETURN QUERY EXECUTE format(
    'SELECT p.* FROM %s c JOIN flowguard.provenance p ON p.link_column = $2 AND p.new_link = c.%I::text AND %s '
    'AND to_jsonb(c.*) -> p.time_column IN (to_jsonb(p.row_time), to_jsonb(p.row_time AT TIME ZONE ''UTC'')) '
    'WHERE %s ORDER BY p.id',
    p_link.relation, p_link.link_column, flowguard._in_ledger(p_link.relation, 'p'),
    flowguard._key_sql_match(p_link.relation, 'c', '$1'))
    USING p_row_key, p_link.link_column::text;
END;
$_kept$;
COMMENT ON FUNCTION flowguard._kept(flowguard.link, jsonb) IS
  'What triggers kept of how they found the link that a row has.';

CREATE OR REPLACE FUNCTION flowguard._explain_rules(p_link flowguard.link, p_row_key jsonb, p_now text)
RETURNS TABLE ("position" integer, summary text, detail jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_explain_rules$
-- Each rule in order with what it yields for a row as all is now; after one that has the say no other is asked.
#variable_conflict use_column
DECLARE
  v_decided integer;   -- the rule that has the say
  v_outcome text;
  r_rule    flowguard.rule;
  r_found   record;
  r_why     record;
BEGIN
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) LOOP
    r_found := NULL;
    IF r_rule.kind = 'session' THEN
      v_outcome := 'not asked';
      summary := format('the setting %s is asked when a row is written, and not known afterwards',
                        flowguard._setting_name(p_link.link_column));
    ELSIF v_decided IS NOT NULL THEN
      v_outcome := 'not asked';
      summary := format('not asked, for rule %s has the say', v_decided);
    ELSE
      r_why := flowguard._why_rule(p_link, r_rule, p_row_key);
      r_found := flowguard._finds(p_link, r_rule, p_row_key);
      summary := r_why.reason;
      IF r_why.ambiguous THEN
        v_outcome := 'ambiguous';
      ELSIF r_found.link IS NOT NULL THEN
        v_outcome := 'found';
        summary := format('row %s of %s%s has %I = %s%s', r_found.source_key, r_rule.source,
                          CASE WHEN r_rule.kind = 'proximity' THEN format(', %s away,', r_found.distance) ELSE '' END,
                          r_rule.source_link, r_found.link,
                          CASE WHEN r_found.link = p_now THEN ', the link that the row has' ELSE '' END)
          || CASE WHEN r_rule.kind = 'proximity'
                  THEN format('; candidates within %s: %s, masters: %s', r_rule.within, r_found.candidates,
                              r_found.masters) ELSE '' END;
      ELSE
        v_outcome := CASE WHEN r_why.final THEN 'waits' ELSE 'nothing' END;
      END IF;
      IF r_why.final OR v_outcome = 'found' THEN
        v_decided := r_rule."position";
      END IF;
    END IF;
    "position" := r_rule."position";
    detail := jsonb_strip_nulls(jsonb_build_object('kind', r_rule.kind, 'source', r_rule.source, 'outcome', v_outcome,
                'within', r_rule.within))
              || CASE WHEN r_found IS NULL THEN '{}' ELSE jsonb_strip_nulls(to_jsonb(r_found)) END;
    RETURN NEXT;
  END LOOP;
END;
$_explain_rules$;
COMMENT ON FUNCTION flowguard._explain_rules(flowguard.link, jsonb, text) IS
  'What each rule of a link yields for a row now.';

CREATE OR REPLACE FUNCTION flowguard._explain_remedy(
  p_link flowguard.link, p_row_key jsonb, p_kind text, p_is_found boolean
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_explain_remedy$
-- What to do about a row that is not validly linked.
DECLARE
  v_repair text := format('call flowguard.repair(%L, link_column => %L)', p_link.relation, p_link.link_column);
BEGIN
  RETURN CASE
           WHEN p_kind = 'tenantless' THEN format('Set %s.', flowguard._columns_sql(p_link.tenant_columns))
           WHEN p_kind IN ('unlinked', 'dangling') AND p_is_found THEN 'To link it, ' || v_repair || '.'
           WHEN p_kind = 'mismatched' AND p_is_found THEN
             format('Set %I of this row to NULL%s, or mend what it must agree with.', p_link.link_column,
                    CASE WHEN p_link.guarded THEN ': it is filled again' ELSE ', then ' || v_repair END)
           WHEN p_kind = 'dangling' AND p_link.on_orphan <> 'keep' THEN
             format('%s, or %s, which does with it what on_orphan says: %s.', flowguard._remedy(p_link, p_row_key),
                    v_repair, p_link.on_orphan)
           ELSE flowguard._remedy(p_link, p_row_key) || '.'
         END;
END;
$_explain_remedy$;
COMMENT ON FUNCTION flowguard._explain_remedy(flowguard.link, jsonb, text, boolean) IS
  'What to do about a row that is not validly linked.';

CREATE OR REPLACE FUNCTION flowguard.explain(
  relation regclass, row_key jsonb, link_column name DEFAULT 'master_flow_id'
) RETURNS TABLE (part text, "position" bigint, summary text, detail jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $explain$
-- SECURITY DEFINER: for whoever may see the view violation, without rights on the tables, and no more of them is told.
#variable_conflict use_column
DECLARE
  p_relation ALIAS FOR $1;
  v_link     flowguard.link := flowguard._link($1, $3);
  v_key      jsonb;
  v_kind     text;
  v_now      text;
  v_reason   text;
  v_found    boolean := false;
  v_computed bigint;
  v_written  boolean := false;
  v_known    boolean := false;
  v_counted  boolean;
  v_kept     boolean := false;
  r_reason   record;
  r_kept     record;
  r_part     record;
  r_change   flowguard.repair_change;
  r_taken    flowguard.quarantined_row;
BEGIN
  PERFORM flowguard._refuse_gone(NULL, NULL, v_link);
  v_key := flowguard._read_key(p_relation, $2);
  EXECUTE format('SELECT %s, c.%I::text FROM %s WHERE %s', flowguard._judgement(v_link), v_link.link_column,
                 flowguard._judged_rows(v_link), flowguard._key_sql_match(p_relation, 'c', '$1'))
    INTO v_kind, v_now USING v_key;
  IF v_kind IS NOT NULL THEN
    IF v_kind <> 'linked' THEN
      r_reason := flowguard._reason(v_link, v_key, v_kind);
      v_kind := r_reason.kind;
      v_reason := r_reason.reason;
    END IF;
    part := 'row';
    "position" := NULL;
    summary := format('%I %s: %s', v_link.link_column, coalesce('= ' || v_now, 'is NULL'), CASE v_kind
                 WHEN 'linked' THEN format('linked, that is the key of a row of %s of its tenant', v_link.master)
                 WHEN 'mismatched' THEN format('mismatched (%s)', v_reason)
                 ELSE v_kind END);
    detail := jsonb_build_object('row_key', v_key, 'link', v_now, 'kind', v_kind, 'reason', v_reason);
    RETURN NEXT;
    FOR r_part IN SELECT x.* FROM flowguard._explain_rules(v_link, v_key, v_now) x LOOP
      part := 'rule';
      "position" := r_part."position";
      summary := format('rule %s, %s: %s', r_part."position", r_part.detail ->> 'kind', r_part.summary);
      detail := r_part.detail;
      IF detail ->> 'outcome' = 'found' THEN
        v_found := true;
        IF detail ->> 'link' = v_now THEN
          v_computed := "position";
        END IF;
      END IF;
      RETURN NEXT;
    END LOOP;
  END IF;
  FOR r_change IN EXECUTE format(
    'SELECT c.* FROM flowguard.repair_change c WHERE c.link_column = $2 AND %s ORDER BY c.run_id, c.change_id',
    flowguard._in_ledger(p_relation, 'c')) USING v_key, v_link.link_column::text
  LOOP
    v_known := true;
    v_written := r_change.new_link IS NOT DISTINCT FROM v_now AND r_change.undone IS DISTINCT FROM 'restored';
    v_counted := (SELECT r.count_candidates FROM flowguard.repair_run r WHERE r.run_id = r_change.run_id);
    part := 'run';
    "position" := r_change.run_id;
    summary := format('run %s, %s: %s became %s', r_change.run_id, r_change.kind, coalesce(r_change.old_link, 'NULL'),
                      coalesce(r_change.new_link, 'NULL'))
      || CASE WHEN r_change.rule IS NULL THEN ''
              ELSE format(' by rule %s%s', r_change.rule, ', ' || r_change.rule_kind) END
      || CASE WHEN r_change.distance IS NULL THEN ''
              ELSE format(', %s away, candidates: %s%s', r_change.distance, r_change.candidates,
                          CASE WHEN r_change.candidates = 2 AND v_counted IS NOT TRUE THEN ' or more'
                               ELSE '' END) END
      || CASE r_change.undone WHEN 'restored' THEN '; taken back'
              WHEN 'skipped' THEN '; not taken back, for the link was another by then' ELSE '' END;
    detail := jsonb_strip_nulls(to_jsonb(r_change) - '{schema_name,table_name,link_column,row_key}'::text[]
      || jsonb_build_object('count_candidates', CASE WHEN r_change.candidates IS NOT NULL THEN v_counted END));
    RETURN NEXT;
  END LOOP;
  -- Said of the key and the time, not of the row: an INSERT that ON CONFLICT did not carry out leaves an entry, too.
  FOR r_kept IN
    SELECT k.rule, k.distance, k.candidates, k.counted, min(k.linked_at) AS linked_at, count(*) AS amount
      FROM flowguard._kept(v_link, v_key) k
     GROUP BY k.rule, k.distance, k.candidates, k.counted
     ORDER BY min(k.id)
  LOOP
    v_kept := true;
    part := 'kept';
    "position" := r_kept.rule;
    summary := format('a trigger found %s for a row of this key and time: by rule %s, proximity, %s away, candidates: '
                      '%s%s', v_now, r_kept.rule, r_kept.distance, r_kept.candidates,
                      CASE WHEN r_kept.candidates = 2 AND NOT r_kept.counted THEN ' or more' ELSE '' END);
    detail := jsonb_build_object('rule', r_kept.rule, 'rule_kind', 'proximity', 'new_link', v_now,
                                 'distance', r_kept.distance, 'candidates', r_kept.candidates,
                                 'count_candidates', r_kept.counted, 'linked_at', r_kept.linked_at,
                                 'amount', r_kept.amount);
    RETURN NEXT;
  END LOOP;
  IF v_now IS NOT NULL AND NOT v_written AND NOT v_kept THEN
    part := 'written';
    "position" := v_computed;
    summary := 'no run wrote this link: it was given, or filled when the row was written, of which nothing is kept; '
               || CASE WHEN v_computed IS NULL THEN 'as all is now, no rule would fill in the same'
                       ELSE format('as all is now, rule %s would fill in the same', v_computed) END;
    detail := jsonb_strip_nulls(jsonb_build_object('computed', true, 'rule', v_computed));
    RETURN NEXT;
  END IF;
  FOR r_taken IN EXECUTE format(
    'SELECT q.* FROM flowguard.quarantined_row q WHERE %s ORDER BY q.quarantine_id',
    flowguard._in_ledger(p_relation, 'q')) USING v_key
  LOOP
    v_known := true;
    part := 'quarantine';
    "position" := r_taken.run_id;
    summary := format('run %s %s: %s; %s', r_taken.run_id,
                      CASE r_taken.action WHEN 'deleted' THEN 'took it out' ELSE 'set columns of it' END,
                      r_taken.reason,
                      CASE WHEN r_taken.restored_at IS NULL
                        THEN format('SELECT flowguard.undo(%s) takes the whole run back, this with it', r_taken.run_id)
                           ELSE format('put back at %s', r_taken.restored_at) END);
    detail := to_jsonb(r_taken) - '{schema_name,table_name,row_key,column_names,column_values}'::text[];
    RETURN NEXT;
  END LOOP;
  IF v_kind IS NULL AND NOT v_known THEN
    PERFORM flowguard._refuse_argument(format('table %s has no row %s', p_relation, v_key),
      'Nor has a run of repair written or taken out one with this key.',
      'Pass the key of a row that is there, or that flowguard.quarantine shows.');
  ELSIF v_kind <> 'linked' THEN
    part := 'remedy';
    "position" := NULL;
    summary := flowguard._explain_remedy(v_link, v_key, v_kind, v_found AND v_computed IS NULL);
    detail := '{}';
    RETURN NEXT;
  END IF;
END;
$explain$;
COMMENT ON FUNCTION flowguard.explain(regclass, jsonb, name) IS
'How a row came by its link, or why it has none. What rules yield is computed from what is there now; of links that
were given, or filled by a trigger, nothing is kept, but of those by a proximity rule where keep_provenance() asks for
it.
relation: the child table.
row_key: the row''s key by column, as violation and run_change show it; or the value alone where the key is one column.
link_column: the column that holds the link.
part: row (its link and whether that is valid), rule (each in order, what it yields now), run (each link that a run
  wrote), kept (a trigger found the link that it has by a proximity rule, for a row of its key and time; more than one
  where it was filled again, or an INSERT of the same row was turned away by ON CONFLICT), written (no run wrote the
  link that it has, and of no trigger anything is kept), quarantine (a run took it out, or columns of it), remedy.
position: of a rule and of what is kept the rule, of a run or quarantine the run; for written the rule that would fill
  in the same.
summary: what there is to say.
detail: the same by name: of a row link, kind (linked, or as in violation) and reason; of a rule kind, source, outcome
  (found, nothing, ambiguous, waits for a row that it must agree with, or not asked), and if found link, source_key,
  source_time, distance, candidates (rows of the source within the window that have a link) and masters (to which they
  lead); of a run as in run_change, and with candidates count_candidates, as in run; of what is kept as in the table
  provenance, with count_candidates, and the amount of entries that say the same; linked_at is that of the first.
Errors: FG101 a table that the link speaks of is gone; FG104 no key, or no such row; FG105 the table has no key; FG107
  no such link; 42501 row security would hide rows.';

SELECT flowguard._close_to_public();
SELECT flowguard._grant_engine();

COMMIT;
