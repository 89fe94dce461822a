-- Deploy pyflowguard:alarms to pg
-- What watchers ask again and again: which rows are wrong and what else is, as far as that can be told in no time.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

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

CREATE OR REPLACE FUNCTION flowguard._look(p_exact boolean DEFAULT false, p_limit bigint DEFAULT 10000)
RETURNS TABLE (relation text, link_column text, covers text, row_key jsonb, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET jit = off
AS $_look$
-- Of each link a row without a row_key that says which of its wrong rows follow: all; those that are unlinked, where
-- the table is too large to be read in no time and an index leads to them; or none. Without reasons, which take long.
-- SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
#variable_conflict use_column
DECLARE
  r_link flowguard.link;
  v_keys jsonb[];
BEGIN
  FOR r_link IN SELECT * FROM flowguard._link_order() LOOP
    SELECT format('%I.%I', n.nspname, c.relname), r_link.link_column INTO relation, link_column
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = r_link.relation;
    row_key := NULL;
    kind := NULL;
    covers := 'none';
    IF p_exact OR (flowguard._table_size(r_link.relation)).bytes <= flowguard._counted_bytes() THEN
      covers := 'all';
      RETURN NEXT;
      RETURN QUERY SELECT relation, link_column, covers, w.row_key, w.kind FROM flowguard._wrong_rows(r_link) w;
      CONTINUE;
    ELSIF flowguard._has_null_index(r_link.relation, r_link.link_column) THEN
      v_keys := ARRAY(SELECT u FROM flowguard._unlinked_rows(r_link, p_limit + 1) u);
      IF cardinality(v_keys) <= p_limit THEN
        covers := 'unlinked';
        RETURN QUERY SELECT relation, link_column, covers, k.row_key, 'unlinked' FROM unnest(v_keys) AS k (row_key);
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END;
$_look$;
COMMENT ON FUNCTION flowguard._look(boolean, bigint) IS
  'Rows that are not validly linked, as far as they are found in no time, or all; and of each link how far that is.';

CREATE OR REPLACE FUNCTION flowguard._told_findings(p_told jsonb)
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_told_findings$
-- What check_all() finds, with rows as told, and doctor(), without a word to whoever listens. What both find comes
-- twice.
  SELECT f.* FROM flowguard._findings(p_told) f
  UNION ALL
  SELECT d.name, d.level, d.relation, d.description, d.detail, d.remedy, d.cache_key, d.amount
    FROM flowguard._diagnose() d;
$_told_findings$;
COMMENT ON FUNCTION flowguard._told_findings(jsonb) IS 'What check_all() and doctor() find, with rows as told.';

CREATE OR REPLACE FUNCTION flowguard._overview(
  p_exact boolean DEFAULT false, OUT score numeric, OUT categories jsonb, OUT links jsonb, OUT findings jsonb
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET jit = off
AS $_overview$
-- What score_estimate(), category_estimate, link_estimate and finding_estimate tell, or, exact, what counting tells,
-- of each link measured once. SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
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
            FROM measured m),
         (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY array_position('{ERROR,WARN,INFO}', f.level), f.relation,
                                    f.name, f.cache_key), '[]')
            FROM (SELECT DISTINCT ON (t.cache_key) t.*
                    FROM flowguard._told_findings((
                           SELECT coalesce(jsonb_object_agg(m.relation::oid || ':' || m.link_column, to_jsonb(m)), '{}')
                             FROM measured m)) t
                   ORDER BY t.cache_key) AS f);
$_overview$;
COMMENT ON FUNCTION flowguard._overview(boolean) IS
  'Score, categories, figures of links and findings, all at once.';

CREATE OR REPLACE FUNCTION flowguard._finding_estimate()
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET jit = off
AS $_finding_estimate$
-- SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
  SELECT DISTINCT ON (t.cache_key) t.*
    FROM flowguard._told_findings((
           SELECT coalesce(jsonb_object_agg(m.relation::oid || ':' || m.link_column, to_jsonb(m)), '{}')
             FROM flowguard._measure() m)) t
   ORDER BY t.cache_key;
$_finding_estimate$;
COMMENT ON FUNCTION flowguard._finding_estimate() IS 'What the view flowguard.finding_estimate shows.';

CREATE OR REPLACE VIEW flowguard.finding_estimate AS SELECT * FROM flowguard._finding_estimate();
COMMENT ON VIEW flowguard.finding_estimate IS
  'As flowguard.check_all() and doctor(), in no time: rows are counted and estimated as flowguard.link_estimate does, '
  'and rows that it does not know of are not told. Notes nothing, and notifies nobody.';
COMMENT ON COLUMN flowguard.finding_estimate.name IS 'What kind of finding it is.';
COMMENT ON COLUMN flowguard.finding_estimate.level IS 'ERROR, WARN or INFO.';
COMMENT ON COLUMN flowguard.finding_estimate.relation IS 'The table that it is about; NULL where it is about none.';
COMMENT ON COLUMN flowguard.finding_estimate.description IS 'What was found, in words.';
COMMENT ON COLUMN flowguard.finding_estimate.detail IS
  'Rows, objects or runs that it is about; no rows of a table that was not counted.';
COMMENT ON COLUMN flowguard.finding_estimate.remedy IS 'The statement to run or to look with.';
COMMENT ON COLUMN flowguard.finding_estimate.cache_key IS 'Stays the same from call to call, for an ignore list.';
COMMENT ON COLUMN flowguard.finding_estimate.amount IS
  'How many rows, keys, objects or transactions it is about; NULL where it is about one thing.';

COMMIT;
