-- The columns of some tables that can be keys, links, references or tenants, by what the catalog says of them.
--
-- tables: oid[].
-- Types are those that an application's keys are made of; a domain counts as what it is made of. Others (citext, json)
-- are passed over: their equality lies in another schema, or nowhere.

SELECT a.attrelid::bigint AS table_id, a.attname::text AS name, a.attnum AS position, b.oid::regtype::text AS type,
       a.attnotnull OR t.typtype = 'd' AND t.typnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       coalesce(k.is_primary, false) AS is_primary, k.is_primary IS NOT NULL AS is_unique,
       EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = a.attrelid AND f.contype = 'f'
                  AND a.attnum = ANY (f.conkey))
       OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisvalid
                     AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) AS is_keyed
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  LEFT JOIN LATERAL (
    SELECT bool_or(i.indisprimary) AS is_primary
      FROM pg_index i
     WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indnkeyatts = 1
       AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indkey[0] = a.attnum
  ) AS k ON true
 WHERE a.attrelid = ANY (%(tables)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
   AND b.oid IN ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'numeric'::regtype,
                 'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
 ORDER BY a.attrelid, a.attnum;
