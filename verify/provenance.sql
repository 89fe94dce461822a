-- Verify pyflowguard:provenance on pg

BEGIN;

SELECT relation, link_column, count_candidates FROM flowguard.provenance_link WHERE false;
SELECT id, schema_name, table_name, link_column, row_key, time_column, row_time, rule, new_link, distance, candidates,
       counted, linked_at
  FROM flowguard.provenance WHERE false;
SELECT 'flowguard.keep_provenance(regclass, name, boolean, boolean)'::regprocedure;
SELECT 'flowguard.forget_provenance(timestamptz)'::regprocedure;

ROLLBACK;
