-- Deploy pyflowguard:health to pg
-- How true the links are: counts, violations row by row, a score, and findings with their remedy.
-- The functions that read application tables are SECURITY DEFINER, so that flowguard_viewer sees figures without
-- rights on the tables themselves; they run with row_security = off: an error, never a partial count.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS flowguard.violation_seen (
  schema_name text        NOT NULL,
  table_name  text        NOT NULL,
  link_column text        NOT NULL,
  row_key     jsonb       NOT NULL,
  kind        text        NOT NULL,
  seen_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (schema_name, table_name, link_column, row_key, kind)
);
COMMENT ON TABLE flowguard.violation_seen IS
  'When each violation that is still there was first seen by check_all(), repair() or snapshot().';
COMMENT ON COLUMN flowguard.violation_seen.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.violation_seen.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.violation_seen.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.violation_seen.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.violation_seen.kind IS 'What is wrong with it.';
COMMENT ON COLUMN flowguard.violation_seen.seen_at IS 'When it was first seen.';

CREATE OR REPLACE FUNCTION flowguard._keys_proved(p_link flowguard.link, OUT wanted integer, OUT present integer,
  OUT validated integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_keys_proved$
-- The foreign keys that prove a link: how many there should be, are there, and are validated.
  WITH ours AS MATERIALIZED (
    SELECT w.name, w.definition FROM flowguard._wanted_keys(p_link) w
  )
  SELECT count(*)::integer, (count(*) FILTER (WHERE s.present))::integer,
         (count(*) FILTER (WHERE s.validated))::integer
    FROM (SELECT o.name, o.definition FROM ours o
          UNION ALL
          -- Without tenants the application's own key may be all that is needed.
          SELECT k.conname::text, k.definition FROM flowguard._own_keys(p_link) k
           WHERE k.kept AND NOT EXISTS (SELECT FROM ours)) AS w
   CROSS JOIN LATERAL flowguard._key_state(p_link.relation, w.name, w.definition) AS s;
$_keys_proved$;
COMMENT ON FUNCTION flowguard._keys_proved(flowguard.link) IS
  'How many foreign keys of a link are wanted, present, validated.';

CREATE OR REPLACE FUNCTION flowguard._indexes_ready(p_link flowguard.link, OUT wanted integer, OUT present integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_indexes_ready$
-- The indexes that a link needs; one that the application has counts as much as ours.
  SELECT count(*)::integer + 1,
         (count(*) FILTER (WHERE i.indisvalid))::integer
           + (coalesce(flowguard._find_index(p_link.relation, ARRAY[p_link.link_column], false, false),
                       flowguard._find_index(p_link.relation, ARRAY[p_link.link_column], false,
                         true)) IS NOT NULL)::integer
    FROM flowguard._wanted_indexes(p_link) w
    JOIN pg_class t ON t.oid = w.relation
    LEFT JOIN pg_index i ON i.indrelid = w.relation
                        AND i.indexrelid = (SELECT x.oid FROM pg_class x
                                             WHERE x.relnamespace = t.relnamespace AND x.relname = w.name);
$_indexes_ready$;
COMMENT ON FUNCTION flowguard._indexes_ready(flowguard.link) IS 'How many indexes of a link are wanted and present.';

CREATE OR REPLACE FUNCTION flowguard._triggers_ready(p_link flowguard.link, OUT wanted integer, OUT present integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_triggers_ready$
-- Triggers and functions of a link: how many there should be, and how many are enabled and current. Those of a paused
-- link are not: they do nothing.
BEGIN
  p_link.paused := false;
  SELECT count(*), count(*) FILTER (WHERE s.status = 'installed')
    INTO wanted, present
    FROM (SELECT flowguard._trigger_status(w.relation, w.name, w.statement) AS status
            FROM flowguard._wanted_triggers(p_link) w
          UNION ALL
          SELECT flowguard._function_status(f.signature, f.is_definer, f.body)
            FROM flowguard._wanted_functions(p_link) f) AS s;
END;
$_triggers_ready$;
COMMENT ON FUNCTION flowguard._triggers_ready(flowguard.link) IS
  'How many triggers and functions of a link are wanted, and are enabled and current.';

CREATE OR REPLACE FUNCTION flowguard._link_status()
RETURNS TABLE (relation regclass, link_column name, mode text, total bigint, linked bigint, unlinked bigint,
  dangling bigint,
               mismatched bigint, tenantless bigint, coverage numeric, validated boolean, indexed boolean,
                 guarded boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $_link_status$
-- SECURITY DEFINER: figures for whoever may see the view, without rights on the tables.
  SELECT l.relation, l.link_column, l.mode, c.total, c.linked, c.unlinked, c.dangling, c.mismatched, c.tenantless,
         CASE WHEN c.linked = c.total THEN 1 ELSE least(round(c.linked::numeric / c.total, 4), 0.9999) END,
         k.wanted > 0 AND k.validated = k.wanted, i.present = i.wanted, l.guarded
    FROM flowguard._link_order() l
   CROSS JOIN LATERAL flowguard._count_links(l) c
   CROSS JOIN LATERAL flowguard._keys_proved(l) k
   CROSS JOIN LATERAL flowguard._indexes_ready(l) i;
$_link_status$;
COMMENT ON FUNCTION flowguard._link_status() IS 'What the view flowguard.link_status shows.';

CREATE OR REPLACE VIEW flowguard.link_status AS SELECT * FROM flowguard._link_status();
COMMENT ON VIEW flowguard.link_status IS
  'One row for each link: rows in all, validly linked, unlinked (NULL), dangling (no such master), mismatched (a '
  'master of another tenant, or another than the referenced row''s) and tenantless (linked, but the row does not '
  'know its tenant); coverage = linked / total, 1 for an empty table; whether its foreign keys are validated and its '
  'indexes there.';
COMMENT ON COLUMN flowguard.link_status.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.link_status.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.link_status.mode IS 'observe or enforce.';
COMMENT ON COLUMN flowguard.link_status.total IS 'Rows of the table.';
COMMENT ON COLUMN flowguard.link_status.linked IS 'Rows that are validly linked.';
COMMENT ON COLUMN flowguard.link_status.unlinked IS 'Rows whose link is NULL.';
COMMENT ON COLUMN flowguard.link_status.dangling IS 'Rows whose link is no key of a master.';
COMMENT ON COLUMN flowguard.link_status.mismatched IS
  'Rows linked to a master of another tenant, or to another than the row they must agree with.';
COMMENT ON COLUMN flowguard.link_status.tenantless IS 'Rows with a link that do not know their whole tenant.';
COMMENT ON COLUMN flowguard.link_status.coverage IS
  'linked / total, four decimals; 1 only where all are, and for an empty table.';
COMMENT ON COLUMN flowguard.link_status.validated IS
  'Whether all foreign keys that prove the link are there and validated.';
COMMENT ON COLUMN flowguard.link_status.indexed IS 'Whether all indexes that the link needs are there and valid.';
COMMENT ON COLUMN flowguard.link_status.guarded IS 'Whether guard() has been asked for.';

CREATE OR REPLACE FUNCTION flowguard._why_dangling(
  p_link flowguard.link, p_row_key jsonb, OUT reason text, OUT ambiguous boolean
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_why_dangling$
-- Why a link points to no master, and what repair would do with it.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_match  text;
  v_link   text;
  v_hits   bigint := 0;
  v_key    text;
BEGIN
  EXECUTE format('SELECT c.%I::text FROM %s c WHERE %s', p_link.link_column, p_link.relation,
                 flowguard._key_sql_match(p_link.relation, 'c', '$1')) INTO v_link USING p_row_key;
  SELECT string_agg(format('m.%I %s c.%I', k.name, flowguard._equal(v_master.relation, k.name), p_link.link_column),
    ' OR ')
    INTO v_match FROM unnest(v_master.alternate_keys) AS k (name);
  IF v_match IS NOT NULL THEN
    EXECUTE format('SELECT count(*), min(m.%I::text) FROM %s c JOIN %s m ON (%s)%s WHERE %s', v_master.key_column,
                   p_link.relation, v_master.relation, v_match, flowguard._master_match(p_link, 'c', false),
                   flowguard._key_sql_match(p_link.relation, 'c', '$1'))
      INTO v_hits, v_key USING p_row_key;
  END IF;
  ambiguous := v_hits > 1;
  reason := format('%I = %s is no %I of %s', p_link.link_column, v_link, v_master.key_column, v_master.relation)
         || CASE WHEN v_hits = 1 THEN format('; it is another key of the master %s, to which repair translates it',
           v_key)
                 WHEN v_hits > 1 THEN format('; it is another key of %s masters', v_hits)
                 ELSE '; ' || (flowguard._why(p_link, p_row_key)).reason END;
END;
$_why_dangling$;
COMMENT ON FUNCTION flowguard._why_dangling(flowguard.link, jsonb) IS 'Why a link points to no master.';

CREATE OR REPLACE FUNCTION flowguard._why_mismatched(p_link flowguard.link, p_row_key jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_why_mismatched$
-- What a link disagrees with: the tenant of its master, or the link of a referenced row.
DECLARE
  v_master flowguard.master := flowguard._master(p_link.master);
  v_where  text := flowguard._key_sql_match(p_link.relation, 'c', '$1');
  v_same   boolean;
  v_via    text;
  v_other  text;
  v_link   text;
  v_text   text;
  r_rule   flowguard.rule;
BEGIN
  EXECUTE format('SELECT c.%I::text, true%s FROM %s c JOIN %s m ON m.%I %s c.%I WHERE %s', p_link.link_column,
                 flowguard._master_match(p_link, 'c', false), p_link.relation, v_master.relation, v_master.key_column,
                 flowguard._equal(v_master.relation, v_master.key_column), p_link.link_column, v_where)
    INTO v_link, v_same USING p_row_key;
  IF NOT v_same THEN
    v_text := format('master %s is of another tenant', v_link);
  END IF;
  FOR r_rule IN SELECT * FROM flowguard._rules(p_link) r WHERE r.agree LOOP
    EXECUTE format('SELECT c.%I::text, a.%I::text FROM %s c JOIN %s a ON a.%I %s c.%I WHERE %s', r_rule.via_column,
                   r_rule.source_link, p_link.relation, r_rule.source, r_rule.source_key,
                   flowguard._equal(r_rule.source, r_rule.source_key), r_rule.via_column, v_where)
      INTO v_via, v_other USING p_row_key;
    IF v_via IS NOT NULL AND v_other IS DISTINCT FROM v_link THEN
      v_text := concat_ws('; ', v_text, format('%I = %s, but row %s of %s has %s', p_link.link_column, v_link, v_via,
                                               r_rule.source, coalesce(v_other, 'none yet')));
    END IF;
  END LOOP;
  RETURN v_text;
END;
$_why_mismatched$;
COMMENT ON FUNCTION flowguard._why_mismatched(flowguard.link, jsonb) IS 'What a link disagrees with.';

CREATE OR REPLACE FUNCTION flowguard._reason(
  p_link flowguard.link, p_row_key jsonb, p_judgement text, OUT kind text, OUT reason text
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_reason$
-- Why a row is not validly linked; of an unlinked or dangling one also whether more than one master may be meant.
DECLARE
  r_why record;
BEGIN
  kind := p_judgement;
  IF kind IN ('unlinked', 'dangling') THEN
    IF kind = 'unlinked' THEN
      r_why := flowguard._why(p_link, p_row_key);
    ELSE
      r_why := flowguard._why_dangling(p_link, p_row_key);
    END IF;
    reason := r_why.reason;
    kind := CASE WHEN r_why.ambiguous THEN 'ambiguous' ELSE kind END;
  ELSIF kind = 'mismatched' THEN
    reason := flowguard._why_mismatched(p_link, p_row_key);
  ELSE
    reason := format('it has a link, but one of %s is NULL', flowguard._columns_sql(p_link.tenant_columns));
  END IF;
END;
$_reason$;
COMMENT ON FUNCTION flowguard._reason(flowguard.link, jsonb, text) IS 'Why a row is not validly linked.';

CREATE OR REPLACE FUNCTION flowguard._wrong_rows(p_link flowguard.link, p_limit bigint DEFAULT NULL)
RETURNS TABLE (row_key jsonb, kind text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_wrong_rows$
-- Rows of a link that are not validly linked, in the order of their keys.
BEGIN
  RETURN QUERY EXECUTE format('SELECT j.row_key, j.kind FROM (SELECT %s AS row_key, %s AS kind FROM %s) AS j '
                              'WHERE j.kind <> ''linked'' ORDER BY j.kind, j.row_key LIMIT $1',
                              flowguard._row_key_sql(p_link.relation, 'c.'), flowguard._judgement(p_link),
                              flowguard._judged_rows(p_link)) USING p_limit;
END;
$_wrong_rows$;
COMMENT ON FUNCTION flowguard._wrong_rows(flowguard.link, bigint) IS 'Rows of a link that are not validly linked.';

CREATE OR REPLACE FUNCTION flowguard._violations()
RETURNS TABLE (relation regclass, link_column name, row_key jsonb, kind text, reason text, seen_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $_violations$
-- SECURITY DEFINER: for whoever may see the view, without rights on the tables.
#variable_conflict use_column
DECLARE
  v_schema text;
  v_table  text;
  r_link   flowguard.link;
  r_row    record;
BEGIN
  FOR r_link IN SELECT * FROM flowguard._link_order() LOOP
    SELECT n.nspname, c.relname INTO v_schema, v_table
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = r_link.relation;
    FOR r_row IN SELECT w.row_key, w.kind FROM flowguard._wrong_rows(r_link) w LOOP
      relation := r_link.relation;
      link_column := r_link.link_column;
      row_key := r_row.row_key;
      SELECT w.kind, w.reason INTO kind, reason FROM flowguard._reason(r_link, r_row.row_key, r_row.kind) w;
      SELECT s.seen_at INTO seen_at
        FROM flowguard.violation_seen s
       WHERE s.schema_name = v_schema AND s.table_name = v_table AND s.link_column = r_link.link_column::text
         AND s.row_key = r_row.row_key AND s.kind = r_row.kind;
      RETURN NEXT;
    END LOOP;
  END LOOP;
END;
$_violations$;
COMMENT ON FUNCTION flowguard._violations() IS 'What the view flowguard.violation shows.';

CREATE OR REPLACE VIEW flowguard.violation AS SELECT * FROM flowguard._violations();
COMMENT ON VIEW flowguard.violation IS
  'Rows that are not validly linked, computed from the tables: unlinked, ambiguous (more than one master may be '
  'meant), dangling, mismatched or tenantless, each with the reason, and when check_all(), repair() or '
  'snapshot() first saw it.';
COMMENT ON COLUMN flowguard.violation.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.violation.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.violation.row_key IS 'The row''s key, by column.';
COMMENT ON COLUMN flowguard.violation.kind IS 'unlinked, ambiguous, dangling, mismatched or tenantless.';
COMMENT ON COLUMN flowguard.violation.reason IS 'Why, rule by rule where rules were asked.';
COMMENT ON COLUMN flowguard.violation.seen_at IS
  'When check_all(), repair() or snapshot() first saw it; NULL where none has.';

CREATE OR REPLACE FUNCTION flowguard._note_violations(p_links flowguard.link[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $_note_violations$
-- Remembers when a violation of these links (NULL: of all) was first seen and forgets those that are gone. Does nothing
-- where nothing can be written. For check_all() with the rights of its owner; for repair() with those of its caller,
-- who sees every row, which the owner may not where row security is forced.
BEGIN
  IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
    RETURN;
  END IF;
  WITH looked_at AS MATERIALIZED (
    SELECT n.nspname::text AS schema_name, c.relname::text AS table_name, l.link_column::text AS link_column, l AS link
      FROM unnest(coalesce(p_links, ARRAY(SELECT o FROM flowguard._link_order() o))) AS l
      JOIN pg_class c ON c.oid = l.relation
      JOIN pg_namespace n ON n.oid = c.relnamespace
  ), present AS MATERIALIZED (
    SELECT a.schema_name, a.table_name, a.link_column, w.row_key, w.kind
      FROM looked_at a CROSS JOIN LATERAL flowguard._wrong_rows(a.link) w
  ), gone AS (
    -- A difference of sets, which never compares each with each, whatever the planner takes their sizes for.
    DELETE FROM flowguard.violation_seen s
     USING (SELECT o.schema_name, o.table_name, o.link_column, o.row_key, o.kind
              FROM flowguard.violation_seen o
             WHERE p_links IS NULL OR (o.schema_name, o.table_name, o.link_column) IN (
                     SELECT a.schema_name, a.table_name, a.link_column FROM looked_at a)
            EXCEPT
            SELECT p.* FROM present p) AS g
     WHERE (s.schema_name, s.table_name, s.link_column, s.row_key, s.kind)
           = (g.schema_name, g.table_name, g.link_column, g.row_key, g.kind)
  )
  INSERT INTO flowguard.violation_seen (schema_name, table_name, link_column, row_key, kind)
  SELECT p.* FROM present p
  ON CONFLICT DO NOTHING;
END;
$_note_violations$;
COMMENT ON FUNCTION flowguard._note_violations(flowguard.link[]) IS
  'Remembers when each present violation of some links, or of all, was first seen.';

CREATE OR REPLACE FUNCTION flowguard._share(p_part numeric, p_whole numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_share$
  SELECT CASE WHEN p_whole = 0 THEN 100 ELSE 100 * p_part / p_whole END;
$_share$;
COMMENT ON FUNCTION flowguard._share(numeric, numeric) IS 'A part of a whole in percent; 100 of nothing.';

CREATE OR REPLACE FUNCTION flowguard._time_columns(p_link flowguard.link) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_time_columns$
  SELECT coalesce(array_agg(a.attname ORDER BY a.attnum), '{}')
    FROM pg_attribute a
   WHERE a.attrelid = p_link.relation AND a.attnum > 0 AND NOT a.attisdropped
     AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
     AND (a.attname IN ('created_at', 'updated_at')
          OR a.attname IN (SELECT r.time_column FROM flowguard._rules(p_link) r WHERE r.kind = 'proximity'));
$_time_columns$;
COMMENT ON FUNCTION flowguard._time_columns(flowguard.link) IS
  'The columns whose times every row should have: created_at, updated_at, and those of rules by time.';

CREATE OR REPLACE FUNCTION flowguard._row_health(p_link flowguard.link, OUT tenant_true bigint, OUT complete bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_row_health$
-- Rows whose tenant is known, is one that exists (as the table's own foreign keys on the tenant columns say), and is
-- that of the master; and rows with complete tenant and time columns of which none was updated before it was made.
DECLARE
  v_tenant   text;
  v_exists   text;
  v_complete text;
BEGIN
  SELECT coalesce(string_agg(format('c.%I IS NOT NULL', t.name), ' AND ' ORDER BY t.n), 'true')
    INTO v_tenant FROM unnest(p_link.tenant_columns) WITH ORDINALITY AS t (name, n) WHERE t.name IS NOT NULL;
  SELECT coalesce(string_agg(format(' AND EXISTS (SELECT FROM %s t WHERE %s)', k.confrelid::regclass, k.joined), ''),
    '')
    INTO v_exists
    FROM (SELECT f.oid, f.confrelid,
                 string_agg(format('t.%I OPERATOR(%I.%s) c.%I', ta.attname, n.nspname, o.oprname, a.attname), ' AND '
                   ORDER BY x.i) AS joined
            FROM pg_constraint f
           CROSS JOIN LATERAL unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY AS x (own, other, operator, i)
            JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = x.own
            JOIN pg_attribute ta ON ta.attrelid = f.confrelid AND ta.attnum = x.other
            JOIN pg_operator o ON o.oid = x.operator
            JOIN pg_namespace n ON n.oid = o.oprnamespace
           WHERE f.contype = 'f' AND f.conrelid = p_link.relation
           GROUP BY f.oid
          HAVING bool_and(a.attname = ANY (p_link.tenant_columns))) AS k;
  SELECT concat_ws(' AND ', v_tenant, string_agg(format('c.%I IS NOT NULL', t.name), ' AND ' ORDER BY t.n),
                   CASE WHEN count(*) FILTER (WHERE t.name IN ('created_at', 'updated_at')) = 2
                     THEN 'c.created_at <= c.updated_at' END)
    INTO v_complete FROM unnest(flowguard._time_columns(p_link)) WITH ORDINALITY AS t (name, n);
  EXECUTE format('SELECT count(*) FILTER (WHERE %s%s%s), count(*) FILTER (WHERE %s) FROM %s', v_tenant, v_exists,
                 ' AND (m IS NULL OR (true' || flowguard._master_match(p_link, 'c', false) || '))', v_complete,
                 flowguard._judged_rows(p_link))
    INTO tenant_true, complete;
END;
$_row_health$;
COMMENT ON FUNCTION flowguard._row_health(flowguard.link) IS
  'Rows whose tenant is consistent with its own table and with the master, and rows that are complete.';

CREATE OR REPLACE FUNCTION flowguard._readiness(
  p_link flowguard.link, OUT validated boolean, OUT indexed boolean, OUT score numeric, OUT detail text
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_readiness$
-- Whether keys, indexes, triggers and functions of a link are as they should be, told by the catalog alone.
  SELECT k.wanted > 0 AND k.validated = k.wanted, i.present = i.wanted,
         (flowguard._share(i.present, i.wanted)
          + CASE WHEN k.wanted = 0 THEN 0 ELSE flowguard._share(k.validated, k.wanted) END
          + flowguard._share(t.present, t.wanted)) / 3,
         format('%s of %s indexes, %s of %s keys validated, %s of %s triggers and functions current', i.present,
                i.wanted, k.validated, k.wanted, t.present, t.wanted)
    FROM flowguard._keys_proved(p_link) k, flowguard._indexes_ready(p_link) i, flowguard._triggers_ready(p_link) t;
$_readiness$;
COMMENT ON FUNCTION flowguard._readiness(flowguard.link) IS 'How much of the guard of a link is in place, in percent.';

CREATE OR REPLACE FUNCTION flowguard._link_health(
  p_link flowguard.link, p_total bigint, p_linked bigint, p_unlinked bigint
) RETURNS TABLE (category text, score numeric, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off AS $_link_health$
-- The categories of a link whose rows are counted already.
  SELECT s.category, s.score, s.detail
    FROM flowguard._row_health(p_link) h
   CROSS JOIN flowguard._readiness(p_link) r
   CROSS JOIN LATERAL (VALUES
     ('tenant isolation', flowguard._share(h.tenant_true, p_total),
      format('%s of %s rows have a known, existing tenant that is their master''s', h.tenant_true, p_total)),
     ('foreign-key integrity', flowguard._share(p_linked, p_total - p_unlinked),
      format('%s of %s links are valid', p_linked, p_total - p_unlinked)),
     ('master-flow linkage', flowguard._share(p_linked, p_total),
      format('%s of %s rows are validly linked', p_linked, p_total)),
     ('data quality', flowguard._share(h.complete, p_total),
      format('%s of %s rows have complete tenant and time columns in order', h.complete, p_total)),
     ('readiness', r.score, r.detail)
   ) AS s (category, score, detail);
$_link_health$;
COMMENT ON FUNCTION flowguard._link_health(flowguard.link, bigint, bigint, bigint) IS
  'Each category of health of a link, in percent.';

CREATE OR REPLACE FUNCTION flowguard._gone_health()
RETURNS TABLE (category text, relation regclass, link_column name, score numeric, detail text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $_gone_health$
-- A link of which a table or a column is gone is as unwell as a link can be. SECURITY DEFINER: views call it, for
-- whoever may read them.
  SELECT c.category, l.relation, l.link_column, 0::numeric, flowguard._missing(l) || ' is gone'
    FROM flowguard.link l
   CROSS JOIN unnest(ARRAY['tenant isolation', 'foreign-key integrity', 'master-flow linkage', 'data quality',
                           'readiness']) AS c (category)
   WHERE NOT flowguard._is_alive(l);
$_gone_health$;
COMMENT ON FUNCTION flowguard._gone_health() IS 'Each category of health for links that are gone: none.';

CREATE OR REPLACE FUNCTION flowguard._health()
RETURNS TABLE (category text, relation regclass, link_column name, score numeric, detail text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $_health$
-- Each category for each link, in percent. SECURITY DEFINER: figures without rights on the tables.
  WITH counted AS MATERIALIZED (
    SELECT l, c.total, c.linked, c.unlinked
      FROM flowguard._link_order() l CROSS JOIN LATERAL flowguard._count_links(l) c
  )
  SELECT h.category, (c.l).relation, (c.l).link_column, h.score, h.detail
    FROM counted c CROSS JOIN LATERAL flowguard._link_health(c.l, c.total, c.linked, c.unlinked) h
  UNION ALL
  SELECT * FROM flowguard._gone_health();
$_health$;
COMMENT ON FUNCTION flowguard._health() IS 'Each category of health for each link, in percent.';

CREATE OR REPLACE FUNCTION flowguard._round_score(p_score numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_round_score$
-- One decimal; 100.0 is kept for what is whole.
  SELECT CASE WHEN p_score < 100 THEN least(round(p_score, 1), 99.9) ELSE 100.0 END;
$_round_score$;
COMMENT ON FUNCTION flowguard._round_score(numeric) IS 'A score with one decimal, 100.0 only where nothing is missing.';

CREATE OR REPLACE VIEW flowguard.health_category AS
  SELECT c.category, flowguard._round_score(coalesce(avg(h.score), 100)) AS score, 0.2 AS weight,
         coalesce(string_agg(format('%s.%s: %s', h.relation, h.link_column, h.detail), '; ' ORDER BY h.score,
           h.relation::text)
                    FILTER (WHERE h.score < 100), 'nothing to fix') AS detail
    FROM unnest(ARRAY['tenant isolation', 'foreign-key integrity', 'master-flow linkage', 'data quality', 'readiness'])
         WITH ORDINALITY AS c (category, n)
    LEFT JOIN flowguard._health() h ON h.category = c.category
   GROUP BY c.category, c.n
   ORDER BY c.n;
COMMENT ON VIEW flowguard.health_category IS
  'The five categories of health, each the mean over all links in percent (an empty table counts 100), its weight in '
  'the score, and what keeps it below 100.';
COMMENT ON COLUMN flowguard.health_category.category IS
  'What is measured: tenant isolation, foreign-key integrity, master-flow linkage, data quality or readiness.';
COMMENT ON COLUMN flowguard.health_category.score IS
  'Mean over all links in percent, one decimal; 100.0 only where nothing is missing.';
COMMENT ON COLUMN flowguard.health_category.weight IS 'Its share of the score: 0.2, the same for each.';
COMMENT ON COLUMN flowguard.health_category.detail IS 'The links that keep it below 100, worst first.';

CREATE OR REPLACE FUNCTION flowguard.health_score() RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $health_score$
-- The mean over links of each category, then the mean of the five.
  SELECT flowguard._round_score(coalesce(avg(c.score), 100))
    FROM (SELECT avg(h.score) AS score FROM flowguard._health() h GROUP BY h.category) AS c;
$health_score$;
COMMENT ON FUNCTION flowguard.health_score() IS
'The health of all links: the mean of the five categories of flowguard.health_category, each the mean over links.
Returns a number from 0 to 100 with one decimal; 100.0 only where nothing is left to fix.
Errors: 42501 row security would hide rows.';

CREATE OR REPLACE FUNCTION flowguard._left_tables() RETURNS regclass[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_left_tables$
-- A partition that was detached keeps keys and indexes of the guard of the whole.
  WITH known AS MATERIALIZED (
    SELECT DISTINCT unnest(flowguard._partition_family(t.relation)) AS relation
      FROM flowguard.link l
     CROSS JOIN LATERAL (SELECT l.relation UNION SELECT l.master
                          UNION SELECT r.source FROM flowguard._rules(l) r WHERE r.source IS NOT NULL) AS t (relation)
     WHERE l.guarded
  )
  SELECT coalesce(array_agg(x.relation::regclass), '{}')
    FROM (SELECT c.conrelid FROM pg_constraint c WHERE c.contype = 'f' AND flowguard._is_ours(c.conname)
          UNION
          SELECT i.indrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           WHERE flowguard._is_ours(c.relname)) AS x (relation)
   WHERE x.relation NOT IN (SELECT k.relation FROM known k);
$_left_tables$;
COMMENT ON FUNCTION flowguard._left_tables() IS
  'Tables that have keys or indexes of ours and are no part of a guarded link.';

CREATE OR REPLACE FUNCTION flowguard._registry_findings()
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_registry_findings$
-- What the registry speaks of and is gone, and triggers that it does not speak of.
  SELECT 'table_gone', 'ERROR', l.relation::text,
         'a table that the link speaks of is gone; what was generated for it may fail', flowguard._missing(l),
         format('SELECT flowguard.unguard(%1$L, %2$L); SELECT flowguard.drop_link(%1$L, %2$L)', l.relation::text,
                l.link_column),
         'table_gone:' || l.stem, NULL::bigint
    FROM flowguard.link l WHERE flowguard._missing(l) LIKE '%table with oid%'
  UNION ALL
  SELECT 'column_gone', 'ERROR', l.relation::text,
         'a column that the link or a rule of it names is gone; give it its name back, or drop the rule and add it '
           'again',
         flowguard._missing(l),
         format('SELECT * FROM flowguard.rule WHERE relation = %L::regclass', l.relation::text), 'column_gone:'
           || l.stem, NULL::bigint
    FROM flowguard.link l WHERE flowguard._missing(l) NOT LIKE '%table with oid%'
  UNION ALL
  SELECT 'table_gone', 'ERROR', m.relation::text, 'a registered master is gone', NULL::text,
         format('SELECT flowguard.drop_master(%L)', m.relation::text), 'table_gone:' || m.relation::oid,
         NULL::bigint
    FROM flowguard.master m
   WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)
     AND NOT EXISTS (SELECT FROM flowguard.link l WHERE l.master = m.relation)
  UNION ALL
  SELECT 'leftover', 'ERROR', t.tgrelid::regclass::text, format('trigger %I belongs to no link', t.tgname),
    NULL::text,
         format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass),
         format('leftover:%s:%s', t.tgrelid::regclass, t.tgname), NULL::bigint
    FROM pg_trigger t
   WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND flowguard._is_ours(t.tgname)
     AND NOT EXISTS (SELECT FROM flowguard.link l WHERE starts_with(t.tgname::text, '~flowguard_' || l.stem || '_'));
$_registry_findings$;
COMMENT ON FUNCTION flowguard._registry_findings() IS
  'Findings about tables and columns that are gone, and triggers of no link.';

CREATE OR REPLACE FUNCTION flowguard._findings(p_told jsonb DEFAULT NULL)
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $_findings$
-- Everything that is not as it should be. Rows are counted, or as told: by oid of the table and link column what
-- flowguard._measure() gives, of which figures that are NULL are left out. SECURITY DEFINER: for flowguard_viewer,
-- without rights on the tables.
#variable_conflict use_column
DECLARE
  r_link  flowguard.link;
  r_count record;
  r_keys  record;
  v_key   text;
  v_whole regclass;
  v_left  regclass[] := flowguard._left_tables();
  v_about boolean := false;
  v_first boolean := true;
BEGIN
  RETURN QUERY SELECT r.* FROM flowguard._registry_findings() r;
  FOR r_link IN SELECT * FROM flowguard._link_order() LOOP
    v_key := ':' || r_link.relation || ':' || r_link.link_column;
    v_whole := flowguard._whole_link(r_link.relation, r_link.link_column);
    IF v_whole IS NOT NULL THEN
      RETURN QUERY SELECT 'registered_twice', 'ERROR', r_link.relation::text,
                          format('the table is a partition of %s, whose link is registered as well', v_whole),
                          'what guards the whole guards it too',
                          format('SELECT flowguard.unguard(%1$L, %2$L); SELECT flowguard.drop_link(%1$L, %2$L)',
                                 r_link.relation, r_link.link_column), 'registered_twice' || v_key, NULL::bigint;
      CONTINUE;
    END IF;
    IF p_told IS NULL THEN
      r_count := flowguard._count_links(r_link);
    ELSE
      SELECT * INTO r_count
        FROM jsonb_to_record(p_told -> (r_link.relation::oid || ':' || r_link.link_column))
          AS t (total bigint, unlinked bigint, dangling bigint, mismatched bigint, tenantless bigint,
                estimated boolean);
      v_about := r_count.estimated;
    END IF;
    RETURN QUERY
      SELECT x.name, x.level, r_link.relation::text,
             format('%s of %s rows %s', x.rows,
                    CASE WHEN v_about THEN 'about ' || coalesce(r_count.total::text, '?')
                         ELSE r_count.total::text END, x.what),
             (SELECT string_agg(w.row_key::text, ', ') FROM (
                SELECT y.row_key FROM flowguard._wrong_rows(r_link) y
                 WHERE NOT v_about AND y.kind = x.kind LIMIT 5) AS w)
               || CASE WHEN x.rows > 5 THEN ', …' ELSE '' END,
             x.remedy, x.name || v_key, x.rows::bigint
        FROM (VALUES
          ('unlinked_rows', CASE r_link.mode WHEN 'enforce' THEN 'ERROR' ELSE 'WARN' END, 'unlinked', r_count.unlinked,
           'are unlinked', format('CALL flowguard.repair(%L, link_column => %L)', r_link.relation,
                                  r_link.link_column)),
          ('dangling_links', 'ERROR', 'dangling', r_count.dangling, 'point to no master',
           format('CALL flowguard.repair(%L, link_column => %L)', r_link.relation, r_link.link_column)),
          ('mismatched_links', 'ERROR', 'mismatched', r_count.mismatched,
           'point to a master of another tenant, or to another than the row they refer to',
           format('SELECT * FROM flowguard.violation WHERE relation = %L::regclass AND kind = ''mismatched''',
                  r_link.relation)),
          ('tenantless_links', CASE r_link.mode WHEN 'enforce' THEN 'ERROR' ELSE 'WARN' END, 'tenantless',
            r_count.tenantless,
           'have a link but not their whole tenant',
           format('SELECT * FROM flowguard.violation WHERE relation = %L::regclass AND kind = ''tenantless''',
                  r_link.relation))
        ) AS x (name, level, kind, rows, what, remedy)
       WHERE x.rows > 0;
    IF NOT r_link.guarded THEN
      RETURN QUERY SELECT 'not_guarded', 'WARN', r_link.relation::text, 'the link is registered but not guarded',
        NULL::text,
                          format('SELECT flowguard.guard(%L, %L)', r_link.relation, r_link.link_column), 'not_guarded'
                            || v_key, NULL::bigint;
      CONTINUE;
    END IF;
    IF r_link.paused THEN
      RETURN QUERY SELECT 'paused', 'WARN', r_link.relation::text, 'the guard is paused', NULL::text,
                          format('SELECT flowguard.resume(%L, %L)', r_link.relation, r_link.link_column), 'paused'
                            || v_key, NULL::bigint;
    END IF;
    r_keys := flowguard._keys_proved(r_link);
    IF r_keys.present = r_keys.wanted AND r_keys.validated < r_keys.wanted THEN
      RETURN QUERY SELECT 'key_not_validated', 'WARN', r_link.relation::text,
                          format('%s of %s foreign keys are not validated', r_keys.wanted - r_keys.validated,
                            r_keys.wanted),
                          NULL::text, format('CALL flowguard.repair(%L, link_column => %L); SELECT '
                            'flowguard.guard(%L, %L)',
                                             r_link.relation, r_link.link_column, r_link.relation, r_link.link_column),
                          'key_not_validated' || v_key, (r_keys.wanted - r_keys.validated)::bigint;
    END IF;
    RETURN QUERY
      SELECT 'guard_incomplete', 'ERROR', r_link.relation::text,
             format('%s objects of the guard are missing, disabled or out of date', count(*)),
             left(string_agg(split_part(p.statement, E'\n', 1), '; ' ORDER BY p.n), 500),
             format('SELECT flowguard.guard(%L, %L)', r_link.relation, r_link.link_column), 'guard_incomplete' || v_key,
             count(*)
        FROM flowguard._plan(r_link, true, v_first) WITH ORDINALITY AS p (step, statement, lock, in_transaction, n)
       WHERE p.statement NOT LIKE '% VALIDATE CONSTRAINT %'
         -- Of keys that are all there, one can be missing on the whole of a partitioned table only: said above.
         AND NOT (p.statement LIKE '% ADD CONSTRAINT %' AND r_keys.present = r_keys.wanted)
         -- What is left on other tables is no part of this guard: said below.
         AND (v_left = '{}' OR p.statement NOT IN (
               SELECT o.statement FROM flowguard._obsolete(r_link, true) o WHERE o.relation = ANY (v_left)))
      HAVING count(*) > 0;
    v_first := false;
  END LOOP;
  IF v_left <> '{}' THEN
    -- The link that takes most of it away: its keys are its own, indexes go with any.
    RETURN QUERY
      SELECT DISTINCT ON (x.relation) 'leftover', 'WARN', x.relation::text,
             format('%s objects of guards are left on the table, which is no part of a guarded link any more', x.n),
             left(x.statements, 500), x.remedy, format('leftover:%s', x.relation), x.n
        FROM (SELECT o.relation, l.stem, count(*) AS n, string_agg(o.statement, '; ') AS statements,
                     format('SELECT flowguard.guard(%L, %L)', l.relation, l.link_column) AS remedy
                FROM flowguard._link_order() l
               CROSS JOIN LATERAL flowguard._obsolete(l, false) o
               WHERE l.guarded AND o.relation = ANY (v_left)
               GROUP BY o.relation, l.stem, l.relation, l.link_column) AS x
       ORDER BY x.relation, x.n DESC, x.stem;
  END IF;
  RETURN QUERY
    SELECT 'run_stopped', 'WARN', r.relation, format('run %s ended before it was done', r.run_id),
           format('%s linked, %s translated, %s quarantined', r.linked, r.translated, r.quarantined),
           flowguard._repair_call(r), 'run_stopped:' || r.run_id, NULL::bigint
      FROM flowguard.repair_run r
     WHERE (r.status = 'stopped' OR r.status = 'running' AND NOT flowguard._is_running(r))
       AND NOT EXISTS (SELECT FROM flowguard.repair_run f
                        WHERE f.run_id > r.run_id AND f.status = 'finished'
                          AND (f.relation IS NULL OR (f.relation, f.link_column) = (r.relation, r.link_column)
                               AND (f.row_filter IS NULL OR f.row_filter = r.row_filter)));
  RETURN QUERY
    SELECT 'rows_in_quarantine', 'INFO', q.schema_name || '.' || q.table_name, format('%s rows are held in quarantine',
      count(*)),
           format('runs %s', string_agg(DISTINCT q.run_id::text, ', ')),
           format('SELECT * FROM flowguard.undo(%s)', min(q.run_id)),
           format('rows_in_quarantine:%s.%s', q.schema_name, q.table_name), count(*)
      FROM flowguard.quarantined_row q WHERE q.restored_at IS NULL
     GROUP BY q.schema_name, q.table_name;
  RETURN QUERY
    SELECT 'bypassed', 'INFO', NULL::text, format('%s transactions were let past the guard', count(*)),
           format('the last by %s at %s: %s', (array_agg(t.done_by ORDER BY t.id DESC))[1], max(t.started_at),
                  (array_agg(t.reason ORDER BY t.id DESC))[1]),
           'SELECT * FROM flowguard.privileged_transaction', 'bypassed', count(*)
      FROM flowguard.privileged_transaction t WHERE t.kind = 'bypass' HAVING count(*) > 0;
END;
$_findings$;
COMMENT ON FUNCTION flowguard._findings(jsonb) IS
  'Everything that is not as it should be, with rows counted, or as told.';

CREATE OR REPLACE FUNCTION flowguard.check_all()
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $check_all$
-- SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
BEGIN
  PERFORM flowguard._note_violations();
  RETURN QUERY SELECT * FROM flowguard._findings();
END;
$check_all$;
COMMENT ON FUNCTION flowguard.check_all() IS
'Everything that is not as it should be, a row each; no ERROR and no WARN: all is well. Also notes when each violation
was first seen, where it may write. Of a guard that is not whole it gives the number of objects; doctor() names each.
name: what kind of finding it is.
level: ERROR, WARN or INFO.
relation: the table that it is about; NULL where it is about none.
description: what was found, in words.
detail: rows, objects or runs that it is about.
remedy: the statement to run or to look with.
cache_key: stays the same from call to call, for an ignore list.
amount: how many rows, keys, objects or transactions it is about, for a baseline; NULL where it is about one thing.
Errors: 42501 row security would hide rows.';

COMMIT;
