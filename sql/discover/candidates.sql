-- Columns that may hold the key of another table: a foreign key says so, or their names do and their types agree.
--
-- tables: oid[].
-- A key here is one column that is unique by itself. Names are compared without regard to capitals, for the table's
-- name as it is and in the singular (orders, order; categories, category; boxes, box). `named` is
--   table     orderId, order_id, order_no for table orders (the key's name, or a usual one for a key)
--   suffix    the same with something before it: parent_order_id
--   key       the key's own name, if that says more than id: ticket_key for a table with a key ticket_key
--   key suffix  something before that: master_flow_id for a key flow_id
-- A key that is itself a reference of its table to another one (users.id as profiles.user_id) names that other one: it
-- counts only where a foreign key points to it.

WITH tables AS (
  SELECT c.oid, lower(c.relname) AS name,
         CASE WHEN lower(c.relname) ~ 'ies$' THEN regexp_replace(lower(c.relname), 'ies$', 'y')
              WHEN lower(c.relname) ~ '(s|x|z|ch|sh)es$' THEN regexp_replace(lower(c.relname), 'es$', '')
              WHEN lower(c.relname) ~ '[^su]s$' THEN regexp_replace(lower(c.relname), 's$', '')
              ELSE lower(c.relname) END AS singular
    FROM pg_class c WHERE c.oid = ANY (%(tables)s::oid[])
), columns AS (
  SELECT a.attrelid, a.attnum, a.attname, lower(a.attname) AS name,
         CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END AS type
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
   WHERE a.attrelid = ANY (%(tables)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
), foreign_keys AS (
  SELECT f.conrelid, own.attnum AS own, f.confrelid, own.other, f.conname, f.convalidated, f.confdeltype
    FROM pg_constraint f
   CROSS JOIN LATERAL unnest(f.conkey, f.confkey) AS own (attnum, other)
   WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = ANY (%(tables)s::oid[])
     AND NOT starts_with(f.conname::text, 'flowguard_')  -- ours says what was registered, not what there was
     -- PostgreSQL 18 has keys that are not enforced; they prove nothing
     AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
), keys AS (
  SELECT DISTINCT c.attrelid, c.attnum, c.attname, c.name, c.type,
         EXISTS (SELECT FROM foreign_keys f WHERE f.conrelid = c.attrelid AND f.own = c.attnum) AS is_reference
    FROM columns c
    JOIN pg_index i ON i.indrelid = c.attrelid AND i.indkey[0] = c.attnum AND i.indnkeyatts = 1 AND i.indisunique
                   AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
   WHERE c.type IN ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'numeric'::regtype,
                    'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
)
SELECT c.attrelid::bigint AS child_id, c.attname::text AS column_name, k.attrelid::bigint AS master_id,
       k.attname::text AS key_column, f.conname::text AS foreign_key, coalesce(f.convalidated, false) AS validated,
       f.confdeltype::text AS on_delete, n.named
  FROM columns c
  JOIN keys k ON k.type = c.type AND k.attrelid <> c.attrelid
  JOIN tables t ON t.oid = k.attrelid
  LEFT JOIN LATERAL (
    -- of several the one that says most: validated, and one that deletes or refuses rather than sets NULL
    SELECT y.conname, y.convalidated, y.confdeltype
      FROM foreign_keys y
     WHERE y.conrelid = c.attrelid AND y.own = c.attnum AND y.confrelid = k.attrelid AND y.other = k.attnum
     ORDER BY y.convalidated DESC, y.confdeltype = 'n', y.conname LIMIT 1
  ) AS f ON true
 CROSS JOIN LATERAL (
    SELECT CASE
             WHEN replace(c.name, '_', '') = ANY (s.names) THEN 'table'
             WHEN EXISTS (SELECT FROM unnest(s.spelled) AS x (name)
                           WHERE right(c.name, length(x.name) + 1) = '_' || x.name) THEN 'suffix'
             WHEN k.is_reference OR k.name ~ '^(id|key|uuid|guid|code|no|nr|number|name|slug|email|ref|pk)$' THEN NULL
             WHEN c.name = k.name THEN 'key'
             WHEN right(c.name, length(k.name) + 1) = '_' || k.name THEN 'key suffix'
           END AS named
      FROM (
        SELECT array_agg(replace(e.stem || e.ending, '_', '')) AS names,
               array_agg(e.stem || '_' || e.ending) AS spelled
          FROM (SELECT x.stem, y.ending
                  FROM unnest(ARRAY[t.name, t.singular]) AS x (stem)
                 CROSS JOIN unnest(ARRAY[k.name, 'id', 'key', 'uuid', 'code', 'no', 'number',
                                            'ref']) AS y (ending)) AS e
      ) AS s
  ) AS n
 WHERE (f.conname IS NOT NULL OR n.named IS NOT NULL)
 ORDER BY c.attrelid, c.attnum, k.attrelid, k.attnum;
