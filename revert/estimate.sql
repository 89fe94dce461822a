-- Revert pyflowguard:estimate from pg
-- Goes back to what estimate@v1.2.0 deploys.
-- How true the links are, told without reading the tables: what the catalog proves is not counted, rows without a
-- link are counted by an index that leads to them, and rows in all are estimated. What is neither is said.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION flowguard._may_be_null(p_relation regclass, p_columns name[]) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_may_be_null$
-- Those of the columns of which the catalog does not prove that every row has a value. NOT NULL of a domain is no
-- proof, for an outer join brings NULL in; nor is, from PostgreSQL 18 on, one of the table that is not validated.
BEGIN
  RETURN ARRAY(
    SELECT a.attname
      FROM pg_attribute a
     WHERE a.attrelid = p_relation AND a.attname = ANY (p_columns) AND a.attnum > 0
       AND NOT (a.attnotnull
                AND NOT EXISTS (SELECT FROM pg_constraint n
                                 WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]
                                   AND NOT n.convalidated))
     ORDER BY a.attnum);
END;
$_may_be_null$;
COMMENT ON FUNCTION flowguard._may_be_null(regclass, name[]) IS
  'Those of the columns that the catalog does not prove to be known in every row.';

CREATE OR REPLACE FUNCTION flowguard._key_gap(p_key pg_constraint, p_free name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_key_gap$
-- What may let rows past a foreign key in which the free columns are known; NULL where nothing may, so that it proves.
DECLARE
  v_columns name[];
BEGIN
  IF NOT flowguard._is_enforced(p_key) THEN
    RETURN format('foreign key %I is not enforced', p_key.conname);
  ELSIF NOT p_key.convalidated THEN
    RETURN format('foreign key %I is not validated', p_key.conname);
  ELSIF EXISTS (
    -- Partitions of either table have triggers of their own.
    WITH RECURSIVE part (id) AS (
      SELECT p_key.oid
      UNION ALL
      SELECT k.oid FROM part p JOIN pg_constraint k ON k.conparentid = p.id
    )
    SELECT FROM part p JOIN pg_trigger t ON t.tgconstraint = p.id WHERE t.tgenabled NOT IN ('O', 'A')
  ) THEN
    RETURN format('a trigger of foreign key %I is disabled', p_key.conname);
  END IF;
  v_columns := ARRAY(SELECT n.name
                       FROM unnest(flowguard._may_be_null(p_key.conrelid, ARRAY(
                              SELECT a.attname FROM pg_attribute a
                               WHERE a.attrelid = p_key.conrelid AND a.attnum = ANY (p_key.conkey)))) AS n (name)
                      WHERE n.name <> ALL (p_free));
  IF p_key.confmatchtype <> 'f' AND v_columns <> '{}' THEN
    RETURN format('foreign key %I passes over rows in which %s is NULL', p_key.conname,
                  flowguard._columns_sql(v_columns));
  END IF;
  RETURN NULL;
END;
$_key_gap$;
COMMENT ON FUNCTION flowguard._key_gap(pg_constraint, name[]) IS
  'What may let rows past a foreign key; NULL where nothing may.';

CREATE OR REPLACE FUNCTION flowguard._proof_gap(
  p_relation regclass, p_columns name[], p_target regclass, p_target_columns name[], p_free name[]
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_proof_gap$
-- Why no foreign key proves that in each row in which the free columns are known the columns are those of one row of
-- the target; NULL where one does. Whose key it is, and what else is in it, makes no difference.
DECLARE
  v_gap text;
BEGIN
  SELECT x.gap INTO v_gap
    FROM (SELECT flowguard._key_gap(k, p_free) AS gap
            FROM pg_constraint k
           WHERE k.conrelid = p_relation AND k.contype = 'f' AND k.confrelid = p_target
             AND NOT EXISTS (
               SELECT FROM unnest(p_columns, p_target_columns) AS w (own, other)
                WHERE NOT EXISTS (
                  SELECT FROM unnest(k.conkey, k.confkey) AS x (own, other)
                    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.own
                    JOIN pg_attribute t ON t.attrelid = k.confrelid AND t.attnum = x.other
                   WHERE a.attname = w.own AND t.attname = w.other))) AS x
   ORDER BY x.gap NULLS FIRST
   LIMIT 1;
  IF NOT FOUND THEN
    RETURN format('no foreign key on (%s) to %s', flowguard._columns_sql(p_columns), p_target);
  END IF;
  RETURN v_gap;
END;
$_proof_gap$;
COMMENT ON FUNCTION flowguard._proof_gap(regclass, name[], regclass, name[], name[]) IS
  'Why no foreign key proves that columns of a table are those of a row of another; NULL where one does.';

CREATE OR REPLACE FUNCTION flowguard._proof(
  p_link flowguard.link, OUT dangling text, OUT mismatched text, OUT tenantless text, OUT isolation text,
  OUT quality text
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_proof$
-- Of each figure, and of two categories, why the catalog does not prove that nothing is wrong; NULL where it does.
DECLARE
  v_master  flowguard.master := flowguard._master(p_link.master);
  v_tenants name[];
  v_targets name[];
  v_times   name[] := flowguard._time_columns(p_link);
  v_open    name[];
  v_agree   text;
BEGIN
  SELECT coalesce(array_agg(t.child_column ORDER BY t.n), '{}'), coalesce(array_agg(t.master_column ORDER BY t.n), '{}')
    INTO v_tenants, v_targets
    FROM unnest(v_master.tenant_columns, p_link.tenant_columns) WITH ORDINALITY AS t (master_column, child_column, n)
   WHERE t.child_column IS NOT NULL;

  dangling := flowguard._proof_gap(p_link.relation, ARRAY[p_link.link_column], v_master.relation,
                                   ARRAY[v_master.key_column], ARRAY[p_link.link_column]);
  v_open := flowguard._may_be_null(p_link.relation, v_tenants);
  IF v_open <> '{}' THEN
    tenantless := format('%s may be NULL', flowguard._columns_sql(v_open));
  END IF;
  IF v_tenants <> '{}' THEN
    mismatched := flowguard._proof_gap(p_link.relation, v_tenants || p_link.link_column, v_master.relation,
                                       v_targets || v_master.key_column, ARRAY[p_link.link_column]);
  END IF;
  -- That the tenant exists is what the table's own keys on it say.
  SELECT nullif(concat_ws('; ', tenantless, mismatched, string_agg(x.gap, '; ' ORDER BY x.gap)), '') INTO isolation
    FROM (SELECT flowguard._key_gap(k, v_tenants) AS gap
            FROM pg_constraint k
           WHERE k.conrelid = p_link.relation AND k.contype = 'f'
             AND NOT EXISTS (SELECT FROM pg_attribute a
                              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
                                AND a.attname <> ALL (v_tenants))) AS x;
  SELECT string_agg(x.gap, '; ' ORDER BY x.n) INTO v_agree
    FROM (SELECT r."position" AS n,
                 flowguard._proof_gap(p_link.relation, ARRAY[r.via_column, p_link.link_column], r.source,
                                      ARRAY[r.source_key, r.source_link], ARRAY[r.via_column, p_link.link_column])
                   AS gap
            FROM flowguard._rules(p_link) r WHERE r.agree) AS x;
  mismatched := nullif(concat_ws('; ', mismatched, v_agree), '');

  v_open := flowguard._may_be_null(p_link.relation, v_tenants || v_times);
  quality := nullif(concat_ws('; ',
    CASE WHEN v_open <> '{}' THEN format('%s may be NULL', flowguard._columns_sql(v_open)) END,
    CASE WHEN ARRAY['created_at', 'updated_at']::name[] <@ v_times
           AND NOT EXISTS (SELECT FROM pg_constraint k
                            WHERE k.conrelid = p_link.relation AND k.contype = 'c' AND k.convalidated
                              AND flowguard._is_enforced(k)
                              AND pg_get_constraintdef(k.oid) IN ('CHECK ((created_at <= updated_at))',
                                                                  'CHECK ((updated_at >= created_at))'))
         THEN 'no validated CHECK (created_at <= updated_at)' END), '');
END;
$_proof$;
COMMENT ON FUNCTION flowguard._proof(flowguard.link) IS
  'Why the catalog does not prove that nothing is wrong with a link; NULL where it does.';

CREATE OR REPLACE FUNCTION flowguard._leaves(p_relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_leaves$
  SELECT p_relation FROM pg_class WHERE oid = p_relation AND relkind <> 'p'
  UNION
  SELECT relid FROM pg_partition_tree(p_relation) WHERE isleaf;
$_leaves$;
COMMENT ON FUNCTION flowguard._leaves(regclass) IS 'The table itself, or of a partitioned one those that hold rows.';

CREATE OR REPLACE FUNCTION flowguard._table_size(
  p_relation regclass, OUT bytes bigint, OUT total bigint, OUT unanalysed text
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_table_size$
-- How large a table is, and about how many rows it has: as many to a page as when it was analysed or vacuumed last.
-- NULL, and which are meant, where some of it never was.
  SELECT coalesce(sum(s.bytes), 0)::bigint,
         CASE WHEN count(*) FILTER (WHERE s.is_unknown) = 0
           THEN coalesce(sum(CASE WHEN s.bytes > 0 THEN s.reltuples::double precision / nullif(s.relpages, 0)
                                   * (s.bytes / current_setting('block_size')::bigint) END), 0)::bigint END,
         string_agg(s.name, ', ' ORDER BY s.name) FILTER (WHERE s.is_unknown)
    FROM (SELECT t.relation::text AS name, c.reltuples, c.relpages, pg_relation_size(c.oid) AS bytes,
                 pg_relation_size(c.oid) > 0 AND (c.reltuples < 0 OR c.relpages = 0) AS is_unknown
            FROM flowguard._leaves(p_relation) AS t (relation)
            JOIN pg_class c ON c.oid = t.relation) AS s;
$_table_size$;
COMMENT ON FUNCTION flowguard._table_size(regclass) IS
  'Bytes of a table, partitions included, and about how many rows it has.';

CREATE OR REPLACE FUNCTION flowguard._has_null_index(p_relation regclass, p_column name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_has_null_index$
-- Whether an index leads to the rows in which a column is NULL: one that holds no others, or one that begins with it.
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = p_column
     WHERE i.indrelid = p_relation AND i.indisvalid
       AND (i.indpred IS NULL AND i.indkey[0] = a.attnum
            OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NULL)', p_column)));
END;
$_has_null_index$;
COMMENT ON FUNCTION flowguard._has_null_index(regclass, name) IS
  'Whether an index leads to the rows in which a column is NULL.';

CREATE OR REPLACE FUNCTION flowguard._count_null(p_relation regclass, p_column name, p_limit bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off
SET enable_seqscan = off SET enable_bitmapscan = off SET max_parallel_workers_per_gather = 0 AS $_count_null$
-- So many rows at most, counted by the index that leads to them, whatever old statistics promise.
DECLARE
  v_count bigint;
BEGIN
  EXECUTE format('SELECT count(*) FROM (SELECT FROM %s c WHERE c.%I IS NULL LIMIT $1) AS n', p_relation, p_column)
    INTO v_count USING p_limit;
  RETURN v_count;
END;
$_count_null$;
COMMENT ON FUNCTION flowguard._count_null(regclass, name, bigint) IS
  'How many rows have NULL in a column, up to a limit; by an index.';

CREATE OR REPLACE FUNCTION flowguard._estimate_null(p_relation regclass, p_column name) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_estimate_null$
-- About how many rows have NULL in a column, as when the table was analysed; NULL where it never was.
  SELECT sum(z.total * s.null_frac::double precision)::bigint
    FROM flowguard._leaves(p_relation) AS t (relation)
    JOIN pg_class c ON c.oid = t.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
   CROSS JOIN LATERAL flowguard._table_size(t.relation) z
    JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = p_column
                   AND NOT s.inherited;
$_estimate_null$;
COMMENT ON FUNCTION flowguard._estimate_null(regclass, name) IS
  'About how many rows have NULL in a column, by the statistics.';

CREATE OR REPLACE FUNCTION flowguard._counted_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $_counted_bytes$
-- A few thousand rows.
  SELECT 262144::bigint;
$_counted_bytes$;
COMMENT ON FUNCTION flowguard._counted_bytes() IS
  'How large a table may be to be counted where nothing is to take long.';

CREATE OR REPLACE FUNCTION flowguard._measure(p_counted bigint DEFAULT flowguard._counted_bytes())
RETURNS TABLE (relation regclass, link_column name, mode text, total bigint, linked bigint, unlinked bigint,
               dangling bigint, mismatched bigint, tenantless bigint, coverage numeric, validated boolean,
               indexed boolean, guarded boolean, estimated boolean, unproved text[], categories text[],
               scores numeric[], details text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $_measure$
-- Each link with its figures and categories. A table of up to so many bytes is counted, which takes no longer; of a
-- larger one is told what the catalog proves and an index leads to. SECURITY DEFINER: figures without rights on the
-- tables.
#variable_conflict use_column
DECLARE
  c_bound   CONSTANT bigint := 10000;
  r_link    flowguard.link;
  r_size    record;
  r_ready   record;
  r_count   record;
  r_proof   record;
  v_whole   bigint;
  v_reasons text[];
BEGIN
  FOR r_link IN SELECT * FROM flowguard._link_order() LOOP
    relation := r_link.relation;
    link_column := r_link.link_column;
    mode := r_link.mode;
    guarded := r_link.guarded;
    r_size := flowguard._table_size(relation);
    r_ready := flowguard._readiness(r_link);
    validated := r_ready.validated;
    indexed := r_ready.indexed;
    estimated := r_size.bytes > p_counted;

    IF NOT estimated THEN
      r_count := flowguard._count_links(r_link);
      total := r_count.total;
      linked := r_count.linked;
      unlinked := r_count.unlinked;
      dangling := r_count.dangling;
      mismatched := r_count.mismatched;
      tenantless := r_count.tenantless;
      coverage := CASE WHEN linked = total THEN 1 ELSE least(round(linked::numeric / total, 4), 0.9999) END;
      unproved := '{}';
      SELECT array_agg(h.category), array_agg(h.score), array_agg(h.detail) INTO categories, scores, details
        FROM flowguard._link_health(r_link, total, linked, unlinked) h;
      RETURN NEXT;
      CONTINUE;
    END IF;

    r_proof := flowguard._proof(r_link);
    dangling := CASE WHEN r_proof.dangling IS NULL THEN 0 END;
    mismatched := CASE WHEN r_proof.mismatched IS NULL THEN 0 END;
    tenantless := CASE WHEN r_proof.tenantless IS NULL THEN 0 END;
    v_reasons := ARRAY['dangling: ' || r_proof.dangling, 'mismatched: ' || r_proof.mismatched,
                       'tenantless: ' || r_proof.tenantless];
    unlinked := NULL;
    IF flowguard._has_null_index(relation, link_column) THEN
      unlinked := flowguard._count_null(relation, link_column, c_bound + 1);
      IF unlinked > c_bound THEN
        unlinked := greatest(unlinked, flowguard._estimate_null(relation, link_column));
        v_reasons := v_reasons || format('unlinked: estimated, more than %s', c_bound);
      END IF;
    ELSE
      v_reasons := v_reasons || format('unlinked: no index leads to rows in which %I is NULL', link_column);
    END IF;
    total := r_size.total;
    IF total IS NULL THEN
      v_reasons := v_reasons || format('total: %s was never analysed', r_size.unanalysed);
    END IF;
    total := greatest(total, CASE WHEN total IS NOT NULL THEN unlinked END);
    -- NULL as soon as one of them is.
    linked := total - unlinked - dangling - mismatched - tenantless;
    v_whole := coalesce(dangling + mismatched + tenantless, -1);  -- 0: nothing but unlinked rows can be wrong
    coverage := CASE WHEN unlinked = 0 AND v_whole = 0 THEN 1
                     WHEN total = 0 THEN 0.9999
                     ELSE least(round((total - unlinked)::numeric / total, 4), 0.9999) END;
    unproved := array_remove(v_reasons, NULL);

    -- What is not proved counts as right, but never as all right.
    categories := ARRAY['tenant isolation', 'foreign-key integrity', 'master-flow linkage', 'data quality',
                        'readiness'];
    scores := ARRAY[
      CASE WHEN r_proof.isolation IS NULL THEN 100 ELSE 99.9 END,
      CASE WHEN v_whole = 0 THEN 100 ELSE 99.9 END,
      CASE WHEN unlinked = 0 AND v_whole = 0 THEN 100
           ELSE least(coalesce(flowguard._share(total - unlinked, total), 99.9), 99.9) END,
      CASE WHEN r_proof.quality IS NULL THEN 100 ELSE 99.9 END,
      r_ready.score];
    details := ARRAY[
      coalesce('not proved: ' || r_proof.isolation, 'proved by keys'),
      coalesce('not proved: ' || nullif(array_to_string(v_reasons[1:3], '; '), ''), 'proved by keys'),
      concat_ws('; ', format('%s of about %s rows have no link', coalesce(unlinked::text, 'an unknown number'),
                             coalesce(total::text, 'an unknown number of')),
                'not proved: ' || nullif(array_to_string(v_reasons[1:3], '; '), '')),
      coalesce('not proved: ' || r_proof.quality, 'proved by constraints'),
      r_ready.detail];
    RETURN NEXT;
  END LOOP;
END;
$_measure$;
COMMENT ON FUNCTION flowguard._measure(bigint) IS
  'Each link with its figures and categories, counted up to a size of its table, else told by what proves them.';

CREATE OR REPLACE VIEW flowguard.link_estimate AS
  SELECT m.relation, m.link_column, m.mode, m.total, m.linked, m.unlinked, m.dangling, m.mismatched, m.tenantless,
         m.coverage, m.validated, m.indexed, m.guarded, m.estimated, m.unproved
    FROM flowguard._measure() m;
COMMENT ON VIEW flowguard.link_estimate IS
  'As flowguard.link_status, in no time: a table of up to 256 kB is counted; of a larger one rows in all are '
  'estimated, rows without a link are counted by an index (up to 10000), and what validated keys and NOT NULL prove is '
  'not counted. It relies on this proof: rows that were written past it (session_replication_role = replica, disabled '
  'triggers) are found by flowguard.link_status and check_all().';
COMMENT ON COLUMN flowguard.link_estimate.relation IS 'The child table.';
COMMENT ON COLUMN flowguard.link_estimate.link_column IS 'The link.';
COMMENT ON COLUMN flowguard.link_estimate.mode IS 'observe or enforce.';
COMMENT ON COLUMN flowguard.link_estimate.total IS
  'Rows of the table, or about how many; NULL where it was never analysed.';
COMMENT ON COLUMN flowguard.link_estimate.linked IS 'Rows that are validly linked; NULL where one of the others is.';
COMMENT ON COLUMN flowguard.link_estimate.unlinked IS
  'Rows whose link is NULL; of more than 10000 an estimate; NULL where no index leads to them.';
COMMENT ON COLUMN flowguard.link_estimate.dangling IS
  'Rows whose link is no key of a master: 0 where that is proved, else NULL.';
COMMENT ON COLUMN flowguard.link_estimate.mismatched IS
  'Rows linked to a master of another tenant, or to another than the row they must agree with: 0 where it is proved '
  'that there are none, else NULL.';
COMMENT ON COLUMN flowguard.link_estimate.tenantless IS
  'Rows with a link that do not know their whole tenant: 0 where it is proved that there are none, else NULL.';
COMMENT ON COLUMN flowguard.link_estimate.coverage IS
  'linked / total, four decimals, 1 only where all are; where linked is NULL, how much it is at most.';
COMMENT ON COLUMN flowguard.link_estimate.validated IS
  'Whether all foreign keys that prove the link are there and validated.';
COMMENT ON COLUMN flowguard.link_estimate.indexed IS 'Whether all indexes that the link needs are there and valid.';
COMMENT ON COLUMN flowguard.link_estimate.guarded IS 'Whether guard() has been asked for.';
COMMENT ON COLUMN flowguard.link_estimate.estimated IS
  'Whether the table was not counted, so that total is an estimate.';
COMMENT ON COLUMN flowguard.link_estimate.unproved IS
  'Of each figure that is NULL or an estimate, why nothing proves it; empty where all is proved or counted.';

CREATE OR REPLACE VIEW flowguard.health_estimate AS
  WITH measured AS MATERIALIZED (
    SELECT * FROM flowguard._measure()
  ), health AS MATERIALIZED (
    SELECT s.category, m.relation, m.link_column, s.score, s.detail
      FROM measured m CROSS JOIN LATERAL unnest(m.categories, m.scores, m.details) AS s (category, score, detail)
    UNION ALL
    SELECT * FROM flowguard._gone_health()
  ), category AS MATERIALIZED (
    SELECT c.n, c.name, coalesce(avg(h.score), 100) AS score,
           coalesce(string_agg(format('%s.%s: %s', h.relation, h.link_column, h.detail), '; ' ORDER BY h.score,
                               h.relation::text) FILTER (WHERE h.score < 100), 'nothing to fix') AS detail
      FROM unnest(ARRAY['tenant isolation', 'foreign-key integrity', 'master-flow linkage', 'data quality',
                        'readiness']) WITH ORDINALITY AS c (name, n)
      LEFT JOIN health h ON h.category = c.name
     GROUP BY c.n, c.name
  )
  SELECT (SELECT flowguard._round_score(avg(c.score)) FROM category c) AS score,
         (SELECT jsonb_agg(jsonb_build_object('category', c.name, 'score', flowguard._round_score(c.score),
                                              'weight', 0.2, 'detail', c.detail) ORDER BY c.n)
            FROM category c) AS categories,
         (SELECT coalesce(jsonb_agg(to_jsonb(m) - '{categories,scores,details}'::text[]
                                    || jsonb_build_object('relation', m.relation::text)
                                    ORDER BY m.relation::text, m.link_column), '[]')
            FROM measured m) AS links;
COMMENT ON VIEW flowguard.health_estimate IS
  'In one row what flowguard.link_estimate, flowguard.category_estimate and score_estimate() tell, of one moment and '
  'found once: for whoever wants all three.';
COMMENT ON COLUMN flowguard.health_estimate.score IS 'The score, as score_estimate() gives it.';
COMMENT ON COLUMN flowguard.health_estimate.categories IS 'An array of the rows of flowguard.category_estimate.';
COMMENT ON COLUMN flowguard.health_estimate.links IS 'An array of the rows of flowguard.link_estimate.';

CREATE OR REPLACE VIEW flowguard.category_estimate AS
  SELECT c.category, c.score, c.weight, c.detail
    FROM flowguard.health_estimate e
   CROSS JOIN LATERAL jsonb_to_recordset(e.categories) AS c (category text, score numeric, weight numeric, detail text);
COMMENT ON VIEW flowguard.category_estimate IS
  'As flowguard.health_category, by flowguard.link_estimate: a link of which something is not proved counts 99.9 in '
  'that category at most, 100 only where all is proved or counted.';
COMMENT ON COLUMN flowguard.category_estimate.category IS
  'What is measured: tenant isolation, foreign-key integrity, master-flow linkage, data quality or readiness.';
COMMENT ON COLUMN flowguard.category_estimate.score IS
  'Mean over all links in percent, one decimal; 100.0 only where nothing is missing and all is proved.';
COMMENT ON COLUMN flowguard.category_estimate.weight IS 'Its share of the score: 0.2, the same for each.';
COMMENT ON COLUMN flowguard.category_estimate.detail IS
  'The links that keep it below 100, worst first, and what of them is not proved.';

CREATE OR REPLACE FUNCTION flowguard.score_estimate() RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $score_estimate$
  SELECT e.score FROM flowguard.health_estimate e;
$score_estimate$;
COMMENT ON FUNCTION flowguard.score_estimate() IS
'The health of all links as flowguard.category_estimate tells it: what is known to be wrong is deducted, what is not
proved is not. So it is about what health_score() gives, or more; 100.0 only where nothing is left to fix or to prove.
Returns a number from 0 to 100 with one decimal.
Errors: 42501 row security would hide rows.';

DROP FUNCTION IF EXISTS flowguard._subscribed(regclass, regclass);

COMMIT;
