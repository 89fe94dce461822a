-- The columns of each whole index of some tables, and whether it is unique: what a guard need not build.
--
-- tables: oid[].

SELECT i.indrelid::bigint AS table_id, i.indisunique AND i.indimmediate AS is_unique, m.amname = 'btree' AS is_btree,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, n)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.n) AS columns
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_am m ON m.oid = c.relam
 WHERE i.indrelid = ANY (%(tables)s::oid[]) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL;
