-- Deploy pyflowguard:alarms to pg
-- What watchers ask again and again: which rows are wrong and what else is, as far as that can be told in no time.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._look(p_exact boolean DEFAULT false, p_limit bigint DEFAULT 10000)
RETURNS TABLE (relation text, link_column text, covers text, row_key jsonb, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $_look$
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

CREATE OR REPLACE FUNCTION flowguard._told_findings(p_links jsonb)
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_told_findings$
-- What check_all() finds, with rows as told by the links that _measure() gave, and doctor(), without a word to whoever
-- listens; what both find once.
  SELECT DISTINCT ON (t.cache_key) t.*
    FROM (SELECT f.*
            FROM flowguard._findings((
                   SELECT coalesce(jsonb_object_agg((l ->> 'relation')::regclass::oid || ':' || (l ->> 'link_column'),
                                                    l), '{}')
                     FROM jsonb_array_elements(p_links) l)) f
          UNION ALL
          SELECT d.name, d.level, d.relation, d.description, d.detail, d.remedy, d.cache_key, d.amount
            FROM flowguard._diagnose() d) AS t
   ORDER BY t.cache_key;
$_told_findings$;
COMMENT ON FUNCTION flowguard._told_findings(jsonb) IS 'What check_all() and doctor() find, with rows as told.';

CREATE OR REPLACE FUNCTION flowguard._overview(
  p_exact boolean DEFAULT false, OUT score numeric, OUT categories jsonb, OUT links jsonb, OUT findings jsonb
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $_overview$
-- What score_estimate(), category_estimate, link_estimate and finding_estimate tell, or, exact, what counting tells,
-- of each link measured once. SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
  SELECT g.score, g.categories, g.links,
         (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY array_position('{ERROR,WARN,INFO}', f.level), f.relation,
                                    f.name, f.cache_key), '[]')
            FROM flowguard._told_findings(g.links) f)
    FROM flowguard._gauge(p_exact) g;
$_overview$;
COMMENT ON FUNCTION flowguard._overview(boolean) IS
  'Score, categories, figures of links and findings, all at once.';

CREATE OR REPLACE FUNCTION flowguard._finding_estimate()
RETURNS TABLE (name text, level text, relation text, description text, detail text, remedy text, cache_key text,
               amount bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $_finding_estimate$
-- SECURITY DEFINER: for flowguard_viewer, without rights on the tables.
  SELECT f.*
    FROM flowguard._told_findings((SELECT coalesce(jsonb_agg(to_jsonb(m)), '[]') FROM flowguard._measure() m)) f;
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
