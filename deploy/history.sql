-- Deploy pyflowguard:history to pg
-- How health was: a snapshot for each time it was asked for, with the figures of each link and category. Names are
-- text: what a table was like can be read after it is renamed or gone.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS flowguard.health_snapshot (
  snapshot_id bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  taken_at    timestamptz NOT NULL DEFAULT now(),
  taken_by    name        NOT NULL DEFAULT session_user,
  exact       boolean     NOT NULL,
  score       numeric     NOT NULL
);
CREATE INDEX IF NOT EXISTS health_snapshot_taken_at ON flowguard.health_snapshot (taken_at);
COMMENT ON TABLE flowguard.health_snapshot IS
  'Snapshots of health, written by snapshot(); read it through the view flowguard.health_history.';
COMMENT ON COLUMN flowguard.health_snapshot.snapshot_id IS 'Number of the snapshot.';
COMMENT ON COLUMN flowguard.health_snapshot.taken_at IS 'When it was taken.';
COMMENT ON COLUMN flowguard.health_snapshot.taken_by IS 'Who took it.';
COMMENT ON COLUMN flowguard.health_snapshot.exact IS
  'Whether all was counted, as health_score() does; else it is what score_estimate() tells.';
COMMENT ON COLUMN flowguard.health_snapshot.score IS 'The health score, from 0 to 100.';

CREATE TABLE IF NOT EXISTS flowguard.health_snapshot_link (
  snapshot_id bigint  NOT NULL REFERENCES flowguard.health_snapshot ON DELETE CASCADE,
  schema_name text    NOT NULL,
  table_name  text    NOT NULL,
  link_column text    NOT NULL,
  mode        text    NOT NULL,
  total       bigint,
  estimated   boolean NOT NULL,
  linked      bigint,
  unlinked    bigint,
  dangling    bigint,
  mismatched  bigint,
  tenantless  bigint,
  coverage    numeric,
  validated   boolean NOT NULL,
  indexed     boolean NOT NULL,
  PRIMARY KEY (snapshot_id, schema_name, table_name, link_column)
);
COMMENT ON TABLE flowguard.health_snapshot_link IS
  'The figures of each link in a snapshot, as flowguard.link_estimate tells them, or, of an exact one, '
  'flowguard.link_status; read it through the view flowguard.link_history.';
COMMENT ON COLUMN flowguard.health_snapshot_link.snapshot_id IS 'The snapshot.';
COMMENT ON COLUMN flowguard.health_snapshot_link.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.health_snapshot_link.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.health_snapshot_link.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.health_snapshot_link.mode IS 'observe or enforce.';
COMMENT ON COLUMN flowguard.health_snapshot_link.total IS 'Rows of the table; NULL where nothing told how many.';
COMMENT ON COLUMN flowguard.health_snapshot_link.estimated IS
  'Whether the table was not counted, so that total is an estimate.';
COMMENT ON COLUMN flowguard.health_snapshot_link.linked IS
  'Rows that were validly linked; NULL where one of the others is.';
COMMENT ON COLUMN flowguard.health_snapshot_link.unlinked IS 'Rows whose link was NULL; NULL where nothing told.';
COMMENT ON COLUMN flowguard.health_snapshot_link.dangling IS
  'Rows whose link was no key of a master; NULL where neither proved nor counted, as with the next two.';
COMMENT ON COLUMN flowguard.health_snapshot_link.mismatched IS
  'Rows linked to a master of another tenant, or to another than the row they must agree with.';
COMMENT ON COLUMN flowguard.health_snapshot_link.tenantless IS 'Rows with a link that did not know their whole tenant.';
COMMENT ON COLUMN flowguard.health_snapshot_link.coverage IS
  'linked / total; where linked is NULL, how much it was at most.';
COMMENT ON COLUMN flowguard.health_snapshot_link.validated IS
  'Whether all foreign keys that prove the link were there and validated.';
COMMENT ON COLUMN flowguard.health_snapshot_link.indexed IS
  'Whether all indexes that the link needs were there and valid.';

CREATE TABLE IF NOT EXISTS flowguard.health_snapshot_category (
  snapshot_id bigint  NOT NULL REFERENCES flowguard.health_snapshot ON DELETE CASCADE,
  category    text    NOT NULL,
  score       numeric NOT NULL,
  PRIMARY KEY (snapshot_id, category)
);
COMMENT ON TABLE flowguard.health_snapshot_category IS 'The five categories of health in a snapshot.';
COMMENT ON COLUMN flowguard.health_snapshot_category.snapshot_id IS 'The snapshot.';
COMMENT ON COLUMN flowguard.health_snapshot_category.category IS
  'tenant isolation, foreign-key integrity, master-flow linkage, data quality or readiness.';
COMMENT ON COLUMN flowguard.health_snapshot_category.score IS 'Mean over all links in percent, one decimal.';

CREATE OR REPLACE FUNCTION flowguard._unlinked_rows(p_link flowguard.link, p_limit bigint) RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off
SET enable_seqscan = off SET enable_bitmapscan = off SET max_parallel_workers_per_gather = 0 AS $_unlinked_rows$
-- The keys of so many rows at most, found by the index that leads to them, whatever old statistics promise.
BEGIN
  RETURN QUERY EXECUTE format('SELECT %s FROM %s c WHERE c.%I IS NULL LIMIT $1',
                              flowguard._row_key_sql(p_link.relation, 'c.'), p_link.relation, p_link.link_column)
    USING p_limit;
END;
$_unlinked_rows$;
COMMENT ON FUNCTION flowguard._unlinked_rows(flowguard.link, bigint) IS
  'The keys of rows without a link, up to a limit; by an index.';

CREATE OR REPLACE FUNCTION flowguard._note_unlinked(p_link flowguard.link, p_limit bigint DEFAULT 10000) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off AS $_note_unlinked$
-- As _note_violations(), of the rows without a link alone, to which an index leads. Of more than so many some are
-- noted, and none is forgotten.
DECLARE
  v_schema text;
  v_table  text;
  v_keys   jsonb[];
BEGIN
  IF NOT flowguard._has_null_index(p_link.relation, p_link.link_column) THEN
    RETURN;
  END IF;
  SELECT n.nspname, c.relname INTO v_schema, v_table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_link.relation;
  v_keys := ARRAY(SELECT u FROM flowguard._unlinked_rows(p_link, p_limit + 1) u);
  IF cardinality(v_keys) <= p_limit THEN
    DELETE FROM flowguard.violation_seen s
     WHERE s.schema_name = v_schema AND s.table_name = v_table AND s.link_column = p_link.link_column::text
       AND s.kind = 'unlinked' AND s.row_key NOT IN (SELECT k.row_key FROM unnest(v_keys) AS k (row_key));
  END IF;
  INSERT INTO flowguard.violation_seen (schema_name, table_name, link_column, row_key, kind)
  SELECT v_schema, v_table, p_link.link_column, k.row_key, 'unlinked' FROM unnest(v_keys) AS k (row_key)
  ON CONFLICT DO NOTHING;
END;
$_note_unlinked$;
COMMENT ON FUNCTION flowguard._note_unlinked(flowguard.link, bigint) IS
  'Remembers when each present row without a link was first seen.';

CREATE OR REPLACE FUNCTION flowguard._gauge(
  p_exact boolean, OUT score numeric, OUT categories jsonb, OUT links jsonb
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_gauge$
-- Score, categories by name, and what _measure() gives of each link, of one moment and found once; exact: all counted.
  WITH measured AS MATERIALIZED (
    SELECT n.nspname AS schema_name, c.relname AS table_name, m.*
      FROM flowguard._measure(CASE WHEN p_exact THEN 9223372036854775807 ELSE flowguard._counted_bytes() END) m
      JOIN pg_class c ON c.oid = m.relation
      JOIN pg_namespace n ON n.oid = c.relnamespace
  ), category AS MATERIALIZED (
    SELECT c.name, coalesce(avg(h.score), 100) AS score
      FROM unnest(ARRAY['tenant isolation', 'foreign-key integrity', 'master-flow linkage', 'data quality',
                        'readiness']) AS c (name)
      LEFT JOIN (SELECT s.category, s.score
                   FROM measured m CROSS JOIN LATERAL unnest(m.categories, m.scores) AS s (category, score)
                 UNION ALL
                 SELECT g.category, g.score FROM flowguard._gone_health() g) AS h ON h.category = c.name
     GROUP BY c.name
  )
  SELECT (SELECT flowguard._round_score(avg(c.score)) FROM category c),
         (SELECT jsonb_object_agg(c.name, flowguard._round_score(c.score)) FROM category c),
         (SELECT coalesce(jsonb_agg(to_jsonb(m) ORDER BY m.schema_name, m.table_name, m.link_column), '[]')
            FROM measured m);
$_gauge$;
COMMENT ON FUNCTION flowguard._gauge(boolean) IS 'Score, categories and figures of links, all at once.';

CREATE OR REPLACE FUNCTION flowguard.snapshot(exact boolean DEFAULT false, retention interval DEFAULT '400 days')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $snapshot$
-- Writes down how health is. SECURITY DEFINER: whoever may call it needs no rights on the tables that are measured.
#variable_conflict use_column
DECLARE
  v_id  bigint;
  r_now record;
BEGIN
  IF $1 IS NULL THEN
    PERFORM flowguard._refuse_argument('exact NULL says neither', 'true counts every row, false tells what is proved.',
                                       'Pass exact => true or false.');
  ELSIF $2 <= interval '0' THEN
    PERFORM flowguard._refuse_argument(format('retention %s is not positive', $2), 'Older snapshots would be removed.',
                                       'Leave it out for 400 days, or pass retention => NULL to keep all.');
  END IF;
  SELECT g.* INTO r_now FROM flowguard._gauge($1) g;
  INSERT INTO flowguard.health_snapshot (exact, score) VALUES ($1, r_now.score) RETURNING snapshot_id INTO v_id;
  INSERT INTO flowguard.health_snapshot_link (snapshot_id, schema_name, table_name, link_column, mode, total, estimated,
                                              linked, unlinked, dangling, mismatched, tenantless, coverage, validated,
                                              indexed)
  SELECT v_id, m.*
    FROM jsonb_to_recordset(r_now.links)
      AS m (schema_name text, table_name text, link_column text, mode text, total bigint, estimated boolean,
            linked bigint, unlinked bigint, dangling bigint, mismatched bigint, tenantless bigint, coverage numeric,
            validated boolean, indexed boolean);
  INSERT INTO flowguard.health_snapshot_category (snapshot_id, category, score)
  SELECT v_id, c.key, c.value::numeric FROM jsonb_each_text(r_now.categories) c;

  PERFORM flowguard._note_violations(ARRAY(
    SELECT l
      FROM flowguard._link_order() l
      JOIN jsonb_to_recordset(r_now.links) AS m (relation regclass, link_column name, estimated boolean)
     USING (relation, link_column)
     WHERE NOT m.estimated));
  PERFORM flowguard._note_unlinked(l)
     FROM flowguard._link_order() l
     JOIN jsonb_to_recordset(r_now.links) AS m (relation regclass, link_column name, estimated boolean)
    USING (relation, link_column)
    WHERE m.estimated;
  DELETE FROM flowguard.health_snapshot s WHERE s.taken_at < now() - $2;
  PERFORM pg_notify('flowguard', jsonb_build_object('source', 'snapshot', 'at', now(), 'snapshot_id', v_id,
                                                    'score', r_now.score)::text);
  RETURN v_id;
END;
$snapshot$;
COMMENT ON FUNCTION flowguard.snapshot(boolean, interval) IS
'Writes down how health is now, for flowguard.health_history and flowguard.link_history, notes when each violation was
first seen, and removes snapshots that are older than retention. Needs EXECUTE, which flowguard_admin has. Sends a
notification on channel flowguard, snapshot_id and score in JSON; a transaction that called it then cannot be prepared.
exact: whether to count every row, as flowguard.link_status and health_score() do; false tells what
  flowguard.link_estimate and score_estimate() tell, and notes of tables that are not counted the rows without a link.
retention: how long snapshots are kept; NULL for ever.
Returns the number of the snapshot.
Errors: FG104 retention is not positive, or exact is NULL; 42501 row security would hide rows.';

CREATE OR REPLACE VIEW flowguard.health_history AS
  SELECT s.snapshot_id, s.taken_at, s.exact, s.score,
         s.score - lag(s.score) OVER (PARTITION BY s.exact ORDER BY s.taken_at, s.snapshot_id) AS score_change,
         round(regr_slope(s.score, extract(epoch FROM s.taken_at) / 86400) OVER (
                 PARTITION BY s.exact ORDER BY s.taken_at RANGE BETWEEN interval '30 days' PRECEDING AND CURRENT ROW
               )::numeric, 2) AS score_trend
    FROM flowguard.health_snapshot s;
COMMENT ON VIEW flowguard.health_history IS
  'The health score of each snapshot, how it changed since the one before, and where it is going. An exact snapshot is '
  'compared with exact ones, an estimate with estimates.';
COMMENT ON COLUMN flowguard.health_history.snapshot_id IS 'Number of the snapshot.';
COMMENT ON COLUMN flowguard.health_history.taken_at IS 'When it was taken.';
COMMENT ON COLUMN flowguard.health_history.exact IS 'Whether all was counted.';
COMMENT ON COLUMN flowguard.health_history.score IS 'The health score, from 0 to 100.';
COMMENT ON COLUMN flowguard.health_history.score_change IS
  'How much it rose since the snapshot before; NULL for the first.';
COMMENT ON COLUMN flowguard.health_history.score_trend IS
  'How much it rose in a day: the slope of the straight line through the snapshots of the 30 days before.';

CREATE OR REPLACE VIEW flowguard.link_history AS
  SELECT l.snapshot_id, s.taken_at, s.exact, l.schema_name, l.table_name, l.link_column, l.mode, l.total, l.estimated,
         l.linked, l.unlinked, l.dangling, l.mismatched, l.tenantless, l.coverage, l.validated, l.indexed,
         l.linked - lag(l.linked) OVER before AS linked_change,
         l.unlinked - lag(l.unlinked) OVER before AS unlinked_change,
         l.coverage - lag(l.coverage) OVER before AS coverage_change
    FROM flowguard.health_snapshot_link l
    JOIN flowguard.health_snapshot s ON s.snapshot_id = l.snapshot_id
  WINDOW before AS (PARTITION BY s.exact, l.schema_name, l.table_name, l.link_column
                    ORDER BY s.taken_at, s.snapshot_id);
COMMENT ON VIEW flowguard.link_history IS
  'The figures of each link in each snapshot, and how they changed since the one before. An exact snapshot is compared '
  'with exact ones, an estimate with estimates. Tables that are gone stay in it.';
COMMENT ON COLUMN flowguard.link_history.snapshot_id IS 'Number of the snapshot.';
COMMENT ON COLUMN flowguard.link_history.taken_at IS 'When it was taken.';
COMMENT ON COLUMN flowguard.link_history.exact IS 'Whether all was counted.';
COMMENT ON COLUMN flowguard.link_history.schema_name IS 'Schema of the table at that time.';
COMMENT ON COLUMN flowguard.link_history.table_name IS 'Name of the table at that time.';
COMMENT ON COLUMN flowguard.link_history.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.link_history.mode IS 'observe or enforce.';
COMMENT ON COLUMN flowguard.link_history.total IS 'Rows of the table; NULL where nothing told how many.';
COMMENT ON COLUMN flowguard.link_history.estimated IS
  'Whether the table was not counted, so that total is an estimate.';
COMMENT ON COLUMN flowguard.link_history.linked IS 'Rows that were validly linked; NULL where one of the others is.';
COMMENT ON COLUMN flowguard.link_history.unlinked IS 'Rows whose link was NULL; NULL where nothing told.';
COMMENT ON COLUMN flowguard.link_history.dangling IS
  'Rows whose link was no key of a master; NULL where neither proved nor counted, as with the next two.';
COMMENT ON COLUMN flowguard.link_history.mismatched IS
  'Rows linked to a master of another tenant, or to another than the row they must agree with.';
COMMENT ON COLUMN flowguard.link_history.tenantless IS 'Rows with a link that did not know their whole tenant.';
COMMENT ON COLUMN flowguard.link_history.coverage IS 'linked / total; where linked is NULL, how much it was at most.';
COMMENT ON COLUMN flowguard.link_history.validated IS
  'Whether all foreign keys that prove the link were there and validated.';
COMMENT ON COLUMN flowguard.link_history.indexed IS 'Whether all indexes that the link needs were there and valid.';
COMMENT ON COLUMN flowguard.link_history.linked_change IS
  'How many more rows were validly linked than in the snapshot before; NULL for the first.';
COMMENT ON COLUMN flowguard.link_history.unlinked_change IS
  'How many more rows had no link than in the snapshot before; NULL for the first.';
COMMENT ON COLUMN flowguard.link_history.coverage_change IS
  'How much coverage rose since the snapshot before; NULL for the first.';

COMMIT;
