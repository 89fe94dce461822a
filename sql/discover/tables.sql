-- The tables that may be masters, children or sources, with what discover asks of each: how many rows it has by the
-- planner's own estimate, whether it may be read, whether its rows can be named, and which column says when a row came.
--
-- schemas: text[], or NULL for all that belong to applications.
-- Left out: what the engine refuses (partitions and tables with children by inheritance, foreign and temporary
-- tables), what belongs to an extension, and the schemas of this program and of sqitch.

WITH tables AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
     AND NOT (c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhparent, h.inhrelid)))
     AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
     AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     AND CASE WHEN %(schemas)s::text[] IS NULL
              THEN n.nspname <> ALL ('{flowguard,flowguard_archive,pyflowguard,sqitch}')
              ELSE n.nspname = ANY (%(schemas)s::text[]) END
)
SELECT t.oid::bigint AS id, t.nspname::text AS schema, t.relname::text AS name,
       format('%%I.%%I', t.nspname, t.relname) AS sql_name,
       (SELECT coalesce(sum(pg_relation_size(p.oid) / current_setting('block_size')::bigint
                            * CASE WHEN p.relpages > 0 AND p.reltuples >= 0 THEN p.reltuples / p.relpages
                                   ELSE 100 END), 0)::bigint
          FROM (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)) AS f (oid)
          JOIN pg_class p ON p.oid = f.oid AND p.relkind = 'r') AS estimate,
       has_table_privilege(t.oid, 'SELECT') AND has_schema_privilege(t.nspname, 'USAGE') AS readable,
       EXISTS (SELECT FROM pg_index i
                WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                  AND i.indpred IS NULL AND i.indexprs IS NULL
                  AND NOT EXISTS (SELECT FROM pg_attribute a
                                   WHERE a.attrelid = t.oid AND NOT a.attnotnull
                                     AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))) AS has_key,
       w.attname::text AS time_column, w.atttypid::regtype::text AS time_type
  FROM tables t
  -- The name that most people give it, else the first time that is always there.
  LEFT JOIN LATERAL (
    SELECT a.attname, a.atttypid
      FROM pg_attribute a
     WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
       AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
       AND (a.attnotnull OR lower(a.attname) ~ '^(created|inserted|creation|opened|placed|added|logged)')
     ORDER BY array_position('{created_at,createdat,created,created_on,inserted_at,creation_time}'::text[],
                             lower(a.attname)), NOT a.attnotnull, a.attnum
     LIMIT 1
  ) AS w ON true
 ORDER BY t.nspname, t.relname;
